//! Third pass: every pack, its entries spread over all threads, then its index.
//!
//! Threads take the next stretch of the current pack under a lock, which reads it, and hash it outside. Whoever ends the last
//! stretch of a pack compares its index with what all of them met.

use super::blobs::{Found, PackVouched, PackWalk, Verifier, inner};
use super::composed::{Composed, Part};
use super::files::{Inventory, Present, open};
use super::finding::{Bytes, Draft, Kind, Repair, Severity};
use super::index::{Content, RowCheck, hand_out_blobs};
use super::log_pass::{behind, checkpoint_bytes, excuse, lost_index, open_checkpoint, rows_are_sound};
use super::references::{BlobHash, blob_hash};
use super::window::Window;
use super::{Gathered, PackDone, Pass, refused};
use crate::disk::File;
use crate::error::{Error, Result};
use mailstrata_format::file::FLAG_OVERSIZE;
use mailstrata_format::index::{BLOCK_DATA, PackRow, ROW, Trailer};
use mailstrata_format::pack::{ENTRY_STREAMED, RAW_OFFSET};
use mailstrata_format::{BLOCK, DamageKind, FileKind, NoteKind};
use std::sync::{Arc, Mutex, PoisonError};

/// A pack under way.
struct Job<'a> {
    present: &'a Present,
    file: Arc<dyn File>,
    len: u64,
    /// Where its bytes end, by the manifest.
    end: u64,
    trailer: Option<Trailer>,
    vouched: u64,
    deep: bool,
    walk: Mutex<PackWalk>,
    gathered: Mutex<Rows>,
}

#[derive(Default)]
struct Rows {
    /// Stretches that are being verified, and whether there are no more.
    pending: usize,
    ended: bool,
    rows: Vec<PackRow>,
    /// Parts inside messages: whoever stored the message stored them.
    inner: Vec<BlobHash>,
    composed: Vec<Composed>,
    parts: Vec<BlobHash>,
    drafts: Vec<Draft>,
    entries: u64,
    blobs: u64,
    hashed: u64,
    content: u64,
    hurt: bool,
}

fn locked<T>(lock: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the threads share.
struct Queue<'a> {
    packs: std::collections::btree_map::Values<'a, u64, Present>,
    current: Option<Arc<Job<'a>>>,
    failed: Option<Error>,
}

/// Walks all packs; findings count in the first round only, and only then data is read.
pub fn run(pass: &Pass<'_>, inventory: &Inventory, all: &mut Gathered, first: bool) -> Result<()> {
    let vouched = std::mem::take(&mut all.packs);
    let queue = Mutex::new(Queue { packs: inventory.packs.values(), current: None, failed: None });
    let shared = Mutex::new(&mut *all);
    std::thread::scope(|scope| {
        let work = || {
            if let Err(e) = worker(pass, inventory, &vouched, &queue, &shared, first) {
                locked(&queue).failed.get_or_insert(e);
            }
        };
        // One more than cores: somebody reads while the others hash.
        for _ in 0..pass.options.threads {
            scope.spawn(work);
        }
        work();
    });
    let failed = locked(&queue).failed.take();
    if first {
        missing(inventory, &vouched, all);
    }
    all.packs = vouched;
    failed.map_or(Ok(()), Err)
}

type Vouches = std::collections::BTreeMap<u64, u64>;

/// The next stretch of the current pack, or of the next one; `None`: there are no more.
#[expect(clippy::too_many_arguments, reason = "one call; a struct of its own would name nothing")]
fn next<'a>(
    pass: &Pass<'_>,
    inventory: &'a Inventory,
    vouched: &Vouches,
    queue: &Mutex<Queue<'a>>,
    shared: &Mutex<&mut Gathered>,
    first: bool,
    window: &mut Option<Window>,
    found: &mut Vec<Found>,
) -> Result<Option<Arc<Job<'a>>>> {
    let mut q = locked(queue);
    loop {
        if pass.stopped() || q.failed.is_some() {
            return Ok(None);
        }
        let job = match &q.current {
            Some(job) => job.clone(),
            None => {
                let Some(p) = q.packs.next() else { return Ok(None) };
                match begin(pass, inventory, vouched, p, first)? {
                    Some(job) => q.current.insert(Arc::new(job)).clone(),
                    None => continue,
                }
            }
        };
        let limit = locked(&job.walk).limit;
        let w = window.get_or_insert_with(|| Window::new(job.file.clone(), limit));
        w.turn_to(&job.file, limit, job.deep);
        let more = locked(&job.walk).next(w, found);
        let mut g = locked(&job.gathered);
        if more {
            g.pending += 1;
            drop(g);
            return Ok(Some(job));
        }
        refused(w, &job.present.path, &mut g.drafts);
        g.ended = true;
        let last = g.pending == 0;
        drop(g);
        q.current = None;
        if last {
            drop(q);
            end(pass, inventory, &job, shared, first)?;
            q = locked(queue);
        }
    }
}

fn worker<'a>(
    pass: &Pass<'_>,
    inventory: &'a Inventory,
    vouched: &Vouches,
    queue: &Mutex<Queue<'a>>,
    shared: &Mutex<&mut Gathered>,
    first: bool,
) -> Result<()> {
    let mut verifier = Verifier::default();
    let mut window: Option<Window> = None;
    let mut found = Vec::new();
    while let Some(job) = next(pass, inventory, vouched, queue, shared, first, &mut window, &mut found)? {
        let Some(window) = window.as_mut() else { return Ok(()) };
        let (path, place) = {
            let w = locked(&job.walk);
            (w.path.clone(), w.place)
        };
        let mut sum = Rows::default();
        for f in &found {
            let entry = verifier.verify(window, f, &path, &place, job.deep);
            if f.header.flags & ENTRY_STREAMED != 0 {
                locked(&job.walk).streamed_to(f.at + entry.length, window);
            }
            sum.hurt |= entry.drafts.iter().any(|d| d.finding.severity == Severity::Damage);
            sum.drafts.extend(entry.drafts);
            sum.hashed += entry.hashed;
            if entry.stored {
                sum.entries += 1;
                sum.blobs += entry.rows.len() as u64;
                sum.inner.extend(inner(&entry.rows).iter().map(|r| blob_hash(&r.digest, r.length)));
                let pack = job.present.name.number;
                sum.composed.extend(entry.composed.iter().map(|row| Composed {
                    pack,
                    entry: f.at,
                    entry_len: entry.length,
                    row: *row,
                }));
                sum.parts.extend(entry.parts.iter().map(|(digest, len)| blob_hash(digest, *len)));
                sum.rows.extend(entry.rows);
            }
            sum.content += entry.length;
            if pass.stopped() {
                break;
            }
        }
        refused(window, &path, &mut sum.drafts);
        if first {
            pass.advance(sum.content);
        }
        let mut g = locked(&job.gathered);
        g.pending -= 1;
        g.rows.append(&mut sum.rows);
        g.inner.append(&mut sum.inner);
        g.composed.append(&mut sum.composed);
        g.parts.append(&mut sum.parts);
        g.drafts.append(&mut sum.drafts);
        g.entries += sum.entries;
        g.blobs += sum.blobs;
        g.hashed += sum.hashed;
        g.content += sum.content;
        g.hurt |= sum.hurt;
        let last = g.ended && g.pending == 0;
        drop(g);
        if last && !pass.stopped() {
            end(pass, inventory, &job, shared, first)?;
        }
    }
    Ok(())
}

fn begin<'a>(
    pass: &Pass<'_>,
    inventory: &'a Inventory,
    vouched: &Vouches,
    p: &'a Present,
    first: bool,
) -> Result<Option<Job<'a>>> {
    let Some((file, len)) = open(pass.disk, pass.dir, &p.path)? else { return Ok(None) };
    let place = mailstrata_format::Binding::new(inventory.store, p.name, 0);
    let end = p.entry.map_or(len, |e| e.length.min(len));
    let sealed = p.entry.is_some();
    let mut trailer = p.trailer;
    if let Some(t) = trailer
        && !sealed
        && inventory.manifest.is_some()
        && !rows_are_sound(&mut Window::new(file.clone(), len), &t, &place)
    {
        // A footer that nothing vouches for may be torn.
        trailer = None;
    }
    let head = inventory.manifest.as_ref().map(|m| m.head).filter(|h| h.pack == p.name.number);
    let marked = head.map_or(0, |h| h.pack_end).max(vouched.get(&p.name.number).copied().unwrap_or(0));
    let vouched = if let Some(t) = trailer {
        t.data_end
    } else if sealed {
        u64::MAX
    } else {
        marked
    };
    let done = trailer
        .is_some_and(|t| pass.options.done.contains(&PackDone { number: p.name.number, length: len, root: t.root }));
    let deep = pass.options.read_data && first && !done;
    let mut window = Window::small(file.clone(), trailer.map_or(end, |t| t.data_end.min(end)));
    let walk =
        PackWalk::new(&mut window, &p.path, inventory.store, p.name, PackVouched { end: vouched, trailer }, deep);
    let walk = walk.knowing(trailer.and_then(|t| entry_places(&mut Window::new(file.clone(), len), &t, &place)));
    Ok(Some(Job {
        present: p,
        file,
        len,
        end,
        trailer,
        vouched,
        deep,
        walk: Mutex::new(walk),
        gathered: Mutex::new(Rows::default()),
    }))
}

/// Where the entries of a pack start, as its index says; `None` when a part of that does not verify.
fn entry_places(window: &mut Window, t: &Trailer, place: &mailstrata_format::Binding) -> Option<Vec<u64>> {
    if !rows_are_sound(window, t, place) {
        return None;
    }
    let mut out = Vec::new();
    let mut at = t.rows_offset;
    while at < t.fences_offset {
        let block = window.get(at, BLOCK);
        let left = usize::try_from(t.row_count.saturating_sub(out.len() as u64)).unwrap_or(usize::MAX);
        let rows = block.get(..BLOCK_DATA)?.chunks_exact(PackRow::SIZE).take(left);
        out.extend(rows.filter_map(PackRow::decode).map(|r| r.entry_offset));
        at += BLOCK as u64;
    }
    out.sort_unstable();
    out.dedup();
    Some(out)
}

/// All of a pack was met: its header, its index, its bytes.
fn end(
    pass: &Pass<'_>,
    inventory: &Inventory,
    job: &Job<'_>,
    shared: &Mutex<&mut Gathered>,
    first: bool,
) -> Result<()> {
    let mut g = std::mem::take(&mut *locked(&job.gathered));
    let mut hashes: Vec<_> = g.rows.iter().map(|r| blob_hash(&r.digest, r.length)).collect();
    hashes.sort_unstable();
    hashes.dedup();
    {
        let mut all = locked(shared);
        let composed = &mut all.composed;
        if let Some(found) = &mut composed.found {
            let wanted = &composed.wanted;
            for r in g.rows.iter().filter(|r| r.raw_offset <= RAW_OFFSET) {
                let hash = blob_hash(&r.digest, r.length);
                if wanted.binary_search(&hash).is_ok() {
                    found.entry(hash).or_insert(Part {
                        pack: job.present.name.number,
                        entry: r.entry_offset,
                        start: r.raw_offset,
                    });
                }
            }
            return Ok(());
        }
        all.sets.know(&hashes);
        all.sets.name(&g.inner);
        let made = g.rows.iter().any(|r| r.raw_offset > RAW_OFFSET);
        all.composed.unread |= made && !job.deep && first;
        all.composed.all.append(&mut g.composed);
        all.composed.wanted.append(&mut g.parts);
    }
    if !first {
        return Ok(());
    }
    let path = job.present.path.as_str();
    let walk = locked(&job.walk);
    let mut drafts = std::mem::take(&mut g.drafts);
    drafts.extend(walk.drafts.iter().cloned());
    let mut bytes = walk.bytes;
    bytes.content = g.content;
    let hurt = g.hurt || walk.hurt || walk.header.is_none();
    if walk.header.is_none() {
        // Before its first flush was synced a pack may have no header, and nobody was promised anything.
        let nobody = g.entries == 0 && job.vouched == 0;
        let head = Draft::new(DamageKind::FileHeader, path, 0, (BLOCK as u64).min(job.len), Repair::Rewrite);
        let torn = Draft::new(NoteKind::TornTail, path, 0, job.len, Repair::Nothing).because("a pack without content");
        drafts.push(if nobody { torn } else { head });
    }
    g.rows.sort_unstable_by_key(|r| (r.digest, r.entry_offset, r.raw_offset));
    let encoded: Vec<[u8; ROW]> = g.rows.iter().map(PackRow::encode).collect();
    let mut window = Window::new(job.file.clone(), job.len);
    let content = Content {
        end: mailstrata_format::round_up(walk.end, BLOCK as u64).unwrap_or(walk.end),
        records: g.entries,
        padding: bytes.padding,
        ..Content::default()
    };
    let feed = |check: &mut RowCheck<'_>, limit: u64| {
        for same in encoded.chunk_by(|a, b| a.first_chunk::<32>() == b.first_chunk::<32>()) {
            let inside = |r: &[u8; ROW]| PackRow::decode(r).is_some_and(|r| r.entry_offset < limit);
            if same.iter().all(inside) {
                check.feed(same, 0);
            } else {
                let same: Vec<_> = same.iter().filter(|r| inside(r)).copied().collect();
                check.feed(&same, 0);
            }
        }
    };
    let mut own = Vec::new();
    let mut checkpoint = None;
    if let Some(t) = job.trailer {
        let mut check = RowCheck::new(&mut window, path, walk.place, t);
        feed(&mut check, u64::MAX);
        let (extra, mut more) = check.finish(&content, !hurt);
        // Stretches from the outside in: an entry's own damage comes after what it lies in.
        drafts.sort_by_key(|d| std::cmp::Reverse(d.finding.length));
        hand_out_blobs(&extra, path, t.rows_offset, &mut drafts, &mut more);
        own.append(&mut more);
        if t.reserved != [0; 44] {
            let at = t.file_len - BLOCK as u64;
            own.push(Draft::new(DamageKind::Padding, path, at, BLOCK as u64, Repair::RebuildIndex));
        }
        let slack = behind(&mut window, path, walk.counted, t.rows_offset, &mut bytes, &mut own);
        bytes.index += job.end.saturating_sub(slack);
    } else {
        let sealed = job.present.entry.is_some();
        lost_index(&mut window, path, &walk.place, walk.counted, job.end, sealed, &mut bytes, &mut own);
        if let Some(name) = inventory.checkpoints.get(&job.present.name).copied() {
            let mut more = Vec::new();
            if let Some((mut window, len, trailer)) = open_checkpoint(pass, inventory, name, &mut more)? {
                let place = mailstrata_format::Binding::new(inventory.store, name, 0);
                let path = name.path();
                match trailer {
                    Some(t) => {
                        let mut check = RowCheck::new(&mut window, &path, place, t);
                        feed(&mut check, t.data_end);
                        let whole = !hurt && t.data_end == content.end;
                        let (extra, lies) = check.finish(&content, whole);
                        more.extend(lies);
                        drafts.sort_by_key(|d| std::cmp::Reverse(d.finding.length));
                        hand_out_blobs(&extra, &path, t.rows_offset, &mut drafts, &mut more);
                    }
                    None => {
                        let mut bytes = Bytes::default();
                        lost_index(
                            &mut window,
                            &path,
                            &place,
                            (BLOCK as u64).min(len),
                            len,
                            true,
                            &mut bytes,
                            &mut more,
                        );
                    }
                }
                refused(&window, &path, &mut more);
                checkpoint = Some(checkpoint_bytes(&path, len, &more));
                excuse(&mut more);
                own.append(&mut more);
            }
        }
    }
    refused(&window, path, &mut own);
    bytes.unknown += job.len - job.end;
    if walk.header.is_some_and(|h| h.flags & !FLAG_OVERSIZE != 0) {
        own.push(Draft::new(DamageKind::Padding, path, 0, BLOCK as u64, Repair::Rewrite).because("unknown flags"));
    }
    let sound = !hurt && own.iter().chain(&drafts).all(|d| d.finding.severity == Severity::Note);
    if let (true, Some(t), Some(tell)) = (sound && pass.options.read_data, job.trailer, pass.watch.pack_done) {
        let done = PackDone { number: job.present.name.number, length: job.len, root: t.root };
        // Composed blobs are not read yet.
        if g.rows.iter().any(|r| r.raw_offset > RAW_OFFSET) {
            locked(shared).composed.done.push(done);
        } else {
            tell(done);
        }
    }
    pass.advance(job.len.saturating_sub(g.content));
    drop(walk);
    let mut all = locked(shared);
    all.report.entries += g.entries;
    all.report.blobs += g.blobs;
    all.report.hashed += g.hashed;
    all.report.resumed += u64::from(pass.options.read_data && !job.deep);
    all.files.push((path.to_owned(), job.len, bytes));
    all.files.extend(checkpoint);
    all.drafts.append(&mut drafts);
    all.drafts.append(&mut own);
    Ok(())
}

/// Packs that the log's last groups name, that are newer than all the manifest knows, and are not there.
fn missing(inventory: &Inventory, vouched: &Vouches, all: &mut Gathered) {
    let Some(m) = &inventory.manifest else { return };
    let pack = |e: &&mailstrata_format::manifest::ManifestEntry| e.kind == FileKind::Pack.code();
    let known = m.entries.iter().filter(pack).map(|e| e.number).max().unwrap_or(0).max(m.head.pack);
    for (number, end) in vouched {
        let name = mailstrata_format::FileName::new(FileKind::Pack, *number);
        let told = all
            .drafts
            .iter()
            .any(|d| d.finding.kind == Kind::Damage(DamageKind::FileMissing) && d.finding.path == name.path());
        if *number > known && *end > BLOCK as u64 && !inventory.packs.contains_key(number) && !told {
            all.drafts.push(Draft::new(DamageKind::FileMissing, &name.path(), 0, *end, Repair::Lost));
        }
    }
}
