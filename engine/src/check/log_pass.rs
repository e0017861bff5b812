//! Second pass: every segment and run, several at a time, and how they follow each other.
//!
//! In comes the inventory, out go findings, the digests that frames name, the items' moments. Each file is walked by one
//! thread, which compares its footer or checkpoint with what it met; then the results are taken in in the order of the log.

use super::files::{Inventory, Present, block, open};
use super::finding::{Bytes, Draft, Kind, Repair, Severity};
use super::frames::{Judge, LogFile, Next, Vouched, Walked, key_of, row_of};
use super::index::{Content, RowCheck, hand_out};
use super::references::{BlobHash, ref_hash};
use super::window::Window;
use super::{Gathered, Pass, refused};
use crate::error::Result;
use mailstrata_format::checksum::block_is_sound;
use mailstrata_format::file::FileHeader;
use mailstrata_format::frame::{FLAG_SOURCE, Frame};
use mailstrata_format::index::{ROW, Row, Trailer, key_hash};
use mailstrata_format::manifest::SEALED;
use mailstrata_format::segment;
use mailstrata_format::{AccountId, BLOCK, Binding, DamageKind, FileKind, FileName, NoteKind};
use std::collections::{BTreeMap, BTreeSet};

/// What a file gave.
#[derive(Default)]
struct Outcome {
    walked: Walked,
    drafts: Vec<Draft>,
    bytes: Bytes,
    len: u64,
    /// The checkpoint beside it, if it was looked at.
    checkpoint: Option<(String, u64, Bytes)>,
    named: Vec<BlobHash>,
    /// Item (hash), first and last moment.
    items: Vec<(u64, i64, i64)>,
    accounts: BTreeSet<AccountId>,
    trailer: Option<Trailer>,
    vanished: bool,
}

/// Walks all log files; findings count in the first round only.
pub fn run(pass: &Pass<'_>, inventory: &Inventory, all: &mut Gathered, first: bool) -> Result<()> {
    let nexts = continued(pass, inventory)?;
    let mut before: Option<Before> = None;
    let threads = pass.options.threads.max(1);
    let indexed: Vec<(usize, &Present)> = inventory.logs.iter().enumerate().collect();
    for wave in indexed.chunks(threads) {
        if pass.stopped() {
            return Ok(());
        }
        let outcomes: Vec<Result<Outcome>> = std::thread::scope(|scope| {
            let work = |(i, p): (usize, &Present)| one(pass, inventory, p, nexts.get(&i).copied(), first);
            let running: Vec<_> = wave.iter().skip(1).map(|w| scope.spawn(move || work(*w))).collect();
            let own = wave.first().map(|w| work(*w));
            own.into_iter().chain(running.into_iter().filter_map(|r| r.join().ok())).collect()
        });
        for ((_, p), outcome) in wave.iter().zip(outcomes) {
            let mut o = outcome?;
            if o.vanished {
                continue;
            }
            let w = &mut o.walked;
            if p.live {
                all.sets.name(&o.named);
                let mut falls = 0u64;
                for (item, from, to) in &o.items {
                    falls += u64::from(all.sets.moment_falls(*item, *from, *to));
                }
                if falls > 0 {
                    let d = Draft::new(DamageKind::Order, &p.path, 0, 0, Repair::Nothing);
                    o.drafts.push(d.because(format!("{falls} items go on with a moment before their last one")));
                }
                for (pack, end) in &w.packs {
                    let known = all.packs.entry(*pack).or_default();
                    *known = (*known).max(*end);
                }
                follow(p, &o, &mut before, &mut all.drafts, first);
            }
            if !first {
                continue;
            }
            let w = o.walked;
            all.log_hurt |= w.hurt && p.live;
            all.accounts.append(&mut o.accounts);
            all.report.groups += w.groups;
            all.report.frames += w.frames;
            all.report.last_lsn = all.report.last_lsn.max(w.lsns.map_or(0, |l| l.1));
            let mut drafts = o.drafts;
            let cut = |d: &Draft| d.finding.kind == Kind::Damage(DamageKind::FileTruncated);
            if w.drafts.iter().any(cut) {
                // The walk knows better what is lost than the file's length does.
                all.drafts.retain(|d| !(cut(d) && d.finding.path == p.path));
            }
            drafts.extend(w.drafts);
            // A run without header and trailer is none that a reader could use; what is wrong with it is damage.
            let unreadable = p.covers() == (0, 0) && p.entry.is_some_and(|e| e.state == SEALED);
            if !p.live && !unreadable {
                // A second copy: what is wrong with it costs nothing.
                drafts.iter_mut().for_each(|d| {
                    d.finding.severity = Severity::Note;
                    d.finding.repair = Repair::Nothing;
                    d.rows.clear();
                });
            }
            all.drafts.append(&mut drafts);
            all.files.push((p.path.clone(), o.len, o.bytes));
            all.files.extend(o.checkpoint);
            pass.advance(o.len);
        }
    }
    if first {
        retired_serve(inventory, &mut all.drafts);
    }
    let missing = |d: &Draft| d.finding.kind == Kind::Damage(DamageKind::FileMissing);
    all.log_hurt |= all.drafts.iter().any(|d| missing(d) && d.finding.path != "MANIFEST");
    if first {
        stray_checkpoints(pass, inventory, all)?;
        end_of_log(inventory, before.as_ref().map_or(0, |b| b.lsn), all);
    }
    Ok(())
}

/// What is damaged in a run is not lost while the files that it replaced are there and sound.
fn retired_serve(inventory: &Inventory, drafts: &mut [Draft]) {
    for run in inventory.logs.iter().filter(|p| p.live && p.name.kind == FileKind::Run) {
        let damaged = |d: &Draft| d.finding.path == run.path && d.finding.severity == Severity::Damage;
        if !drafts.iter().any(damaged) {
            continue;
        }
        let (first, last) = run.covers();
        let mut copies: Vec<&Present> = inventory
            .logs
            .iter()
            .filter(|p| !p.live && p.trailer.is_some() && first <= p.covers().0 && p.covers().1 <= last)
            .filter(|p| !drafts.iter().any(|d| d.finding.path == p.path))
            .collect();
        copies.sort_by_key(|p| p.covers());
        let mut next = first;
        for p in copies {
            if p.covers().0 <= next {
                next = next.max(p.covers().1 + 1);
            }
        }
        if next <= last {
            continue;
        }
        for d in drafts.iter_mut().filter(|d| damaged(d)) {
            d.rows.clear();
            d.names = None;
            d.finding.lsns = None;
            let detail = &mut d.finding.detail;
            detail.push_str(if detail.is_empty() { "" } else { "; " });
            detail.push_str("the retired files that the run replaced have the same frames");
        }
    }
}

/// What the file behind each live one says of the group before it, by index.
fn continued(pass: &Pass<'_>, inventory: &Inventory) -> Result<BTreeMap<usize, Next>> {
    let mut out = BTreeMap::new();
    for (i, p) in inventory.logs.iter().enumerate().skip(1) {
        let Some(before) = inventory.logs.get(i - 1).filter(|b| b.live && p.live) else { continue };
        if before.covers().1 + 1 != p.covers().0 {
            continue;
        }
        let next = match p.header {
            Some(h) => Some(Next { previous: h.previous, first_group: h.first_group }),
            None if p.name.kind == FileKind::Segment => {
                // Its first group says it as well.
                let Some((file, _)) = open(pass.disk, pass.dir, &p.path)? else { continue };
                let place = Binding::new(inventory.store, p.name, BLOCK as u64);
                let h = segment::header_at(&block(&file, BLOCK as u64), &place);
                h.map(|h| Next { previous: h.previous, first_group: h.sequence })
            }
            None => None,
        };
        out.extend(next.map(|n| (i - 1, n)));
    }
    Ok(out)
}

/// How the live file before ended.
struct Before {
    chain: [u8; 16],
    group: u64,
    lsn: u64,
    /// The last segment it covers.
    segment: u64,
    /// Its end, or what it was, is not known for sure.
    hurt: bool,
}

/// Whether a file continues the one before it.
fn follow(p: &Present, o: &Outcome, before: &mut Option<Before>, drafts: &mut Vec<Draft>, first: bool) {
    let w = &o.walked;
    let (from, to) = p.covers();
    if let Some(h) = w.header
        && first
    {
        let expected = match &before {
            Some(b) if b.segment + 1 == from => Some((b.chain, b.group, b.lsn, b.hurt)),
            None if from == 1 => Some(([0; 16], 0, 0, false)),
            _ => None,
        };
        if let Some((chain, group, lsn, hurt)) = expected {
            // A file that was damaged at its end has told its damage; the header knows better how it ended.
            if !hurt && (h.previous != chain || h.first_group != group + 1) {
                let what = "its header continues another group than the last one before it";
                drafts.push(Draft::new(DamageKind::Chain, &p.path, 0, BLOCK as u64, Repair::Nothing).because(what));
            }
            if h.first_lsn <= lsn && h.first_lsn != 0 && !hurt {
                let what = format!("its header starts with LSN {}, LSN {lsn} was before", h.first_lsn);
                drafts.push(Draft::new(DamageKind::Chain, &p.path, 0, BLOCK as u64, Repair::Nothing).because(what));
            }
        }
    }
    let of_run = o.trailer.filter(|_| p.name.kind == FileKind::Run);
    let (chain, group) = of_run.map_or((w.chain, w.group), |t| (t.chain, t.last_group));
    let lsn = of_run.map_or(w.lsns.map_or(0, |l| l.1), |t| t.last_lsn);
    let lsn = lsn.max(before.as_ref().map_or(0, |b| b.lsn));
    // Which group a run ends with only its trailer says.
    let unknown = p.name.kind == FileKind::Run && of_run.is_none();
    *before = Some(Before { chain, group, lsn, segment: to, hurt: w.hurt || w.header.is_none() || unknown });
}

/// The manifest's mark must not lie behind the log's end.
fn end_of_log(inventory: &Inventory, last_lsn: u64, all: &mut Gathered) {
    let Some(m) = &inventory.manifest else { return };
    if m.head.durable_lsn > last_lsn && !all.log_hurt {
        let d = Draft::new(DamageKind::ManifestDiffers, "MANIFEST", BLOCK as u64, 0, Repair::RebuildManifest);
        let what = format!("it says that LSN {} was durable, the log ends with {last_lsn}", m.head.durable_lsn);
        all.drafts.push(d.because(what));
    }
}

/// Walks one file, again when a writer is at work and it looks damaged.
fn one(pass: &Pass<'_>, inventory: &Inventory, p: &Present, next: Option<Next>, first: bool) -> Result<Outcome> {
    let mut tries = 0;
    loop {
        let o = walk(pass, inventory, p, next, first)?;
        tries += 1;
        let unsealed = p.entry.is_none() && inventory.writer.is_some();
        let damage = o.walked.drafts.iter().chain(&o.drafts).any(|d| d.finding.severity == Severity::Damage);
        if !(unsealed && damage && tries < 4) {
            return Ok(o);
        }
    }
}

fn walk(pass: &Pass<'_>, inventory: &Inventory, p: &Present, next: Option<Next>, first: bool) -> Result<Outcome> {
    let mut o = Outcome::default();
    let Some((file, len)) = open(pass.disk, pass.dir, &p.path)? else {
        o.vanished = true;
        return Ok(o);
    };
    let store = inventory.store;
    // Sealed since the inventory was taken?
    let end = p.entry.map_or(len, |e| e.length.min(len));
    let place = Binding::new(store, p.name, 0);
    let mut trailer = p.trailer;
    if trailer.is_none()
        && let Some(at) = end.checked_sub(BLOCK as u64)
    {
        trailer = Trailer::read(&block(&file, at), &place.at(at)).filter(|t| t.file_len == end);
    }
    let sealed = p.entry.is_some();
    // A footer that nothing vouches for may be torn.
    if let Some(t) = trailer
        && !sealed
        && !rows_are_sound(&mut Window::new(file.clone(), len), &t, &place)
        && inventory.manifest.is_some()
    {
        trailer = None;
    }
    let (account, accounts) = (pass.options.account.clone(), &mut o.accounts);
    let (named, items) = (&mut o.named, &mut o.items);
    let head = inventory.manifest.as_ref().map(|m| m.head);
    let mark = head.filter(|h| p.name == FileName::new(FileKind::Segment, h.durable_segment));
    let entry = p.entry.filter(|e| e.state == SEALED || p.live);
    let vouched = Vouched {
        mark_end: mark.map_or(0, |h| h.durable_end),
        mark_chain: mark.map_or([0; 16], |h| h.durable_chain),
        next: next.filter(|_| p.name.kind == FileKind::Segment),
        entry,
        trailer,
    };
    let log = LogFile { path: &p.path, name: p.name, store, vouched };
    let limit = trailer.map_or(end, |t| t.data_end.min(end));
    let mut window = Window::new(file.clone(), limit);
    let mut second = Window::new(file.clone(), len);
    let run = p.name.kind == FileKind::Run;
    let mut judge = Judge::default();
    let mut rows: Vec<([u8; ROW], u64)> = Vec::new();
    let index_place = place;
    let mut check = match (&trailer, first && run) {
        (Some(t), true) => Some(RowCheck::new(&mut second, &p.path, index_place, *t)),
        _ => None,
    };
    let mut item_before: Option<([u8; 32], i64)> = None;
    let mut falls = Vec::new();
    let mut take_item = |key: [u8; 32], moment: i64, lsn: u64, items: &mut Vec<(u64, i64, i64)>| {
        match item_before {
            Some((k, m)) if k == key => {
                if moment < m {
                    falls.push(lsn);
                }
                if let Some(last) = items.last_mut() {
                    last.2 = last.2.max(moment);
                }
            }
            _ => items.push((key_hash(&key), moment, moment)),
        }
        item_before = Some((key, moment));
    };
    let mut walked = log.walk(&mut window, &mut |f: &Frame<'_>, at| {
        named.extend(f.blobs().map(|b| ref_hash(&b)));
        let row = row_of(&f.envelope, f.header.lsn, at, f.len as u64).encode();
        let source = if f.envelope.flags & FLAG_SOURCE == 0 { 0 } else { f.envelope.source_hash };
        if run {
            take_item(key_of(&f.envelope), f.envelope.moment, f.header.lsn, items);
            if let Some(c) = &mut check {
                c.feed(&[row], source);
            }
        } else {
            rows.push((row, source));
        }
        if !first {
            return None;
        }
        judge.judge(f, &mut |e, address, _| {
            if account.as_deref().is_some_and(|a| a == address) {
                accounts.insert(AccountId(e.account));
            }
        })
    });
    refused(&window, &p.path, &mut o.drafts);
    if !run {
        rows.sort_unstable_by_key(|(r, _)| Row::decode(r).map(|r| (r.account, r.item, r.lsn)));
        for r in rows.iter().filter_map(|(r, _)| Row::decode(r)) {
            let mut key = [0; 32];
            let (account, item) = key.split_at_mut(16);
            account.copy_from_slice(&r.account);
            item.copy_from_slice(&r.item);
            take_item(key, r.moment, r.lsn, items);
        }
    }
    for lsn in falls.iter().take(100) {
        let mut d = Draft::new(DamageKind::Order, &p.path, 0, 0, Repair::Nothing)
            .because(format!("the moment of LSN {lsn} lies before that of the item's state before it"));
        d.finding.lsns = Some((*lsn, *lsn));
        d.rows.extend(rows.iter().filter_map(|(r, _)| Row::decode(r)).filter(|r| r.lsn == *lsn).map(|r| (r, true)));
        o.drafts.push(d);
    }
    named.sort_unstable();
    named.dedup();
    o.trailer = trailer;
    o.len = len;
    if !first {
        o.walked = walked;
        return Ok(o);
    }
    let content = Content {
        end: walked.end,
        records: walked.frames,
        last_group: walked.group,
        root: walked.chain,
        padding: walked.bytes.padding,
        lsns: walked.lsns.filter(|_| !run),
        moments: walked.moments,
    };
    let whole = !walked.hurt;
    if let Some(t) = trailer {
        let (extra, mut drafts) = match check.take() {
            Some(check) => {
                let content = Content { last_group: t.last_group, ..content };
                check.finish(&content, whole)
            }
            None => {
                let mut check = RowCheck::new(&mut second, &p.path, index_place, t);
                rows.iter().for_each(|(row, source)| check.feed(&[*row], *source));
                check.finish(&content, whole)
            }
        };
        hand_out(&extra, &p.path, t.rows_offset, &mut walked.drafts, &mut drafts);
        if t.reserved != [0; 44] {
            let at = t.file_len - BLOCK as u64;
            drafts.push(Draft::new(DamageKind::Padding, &p.path, at, BLOCK as u64, Repair::RebuildIndex));
        }
        let slack = behind(&mut second, &p.path, walked.counted, t.rows_offset, &mut walked.bytes, &mut drafts);
        walked.bytes.index += end.saturating_sub(slack);
        o.drafts.append(&mut drafts);
    } else {
        lost_index(&mut second, &p.path, &place, walked.counted, end, sealed, &mut walked.bytes, &mut o.drafts);
        o.checkpoint = checkpoint(pass, inventory, p, &rows, &mut walked, &mut o.drafts)?;
    }
    // "All that follows" was meant for the index's rows only.
    walked.drafts.iter_mut().filter(|d| d.finding.length > u64::MAX / 2).for_each(|d| d.finding.length = 0);
    walked.bytes.unknown += len - end;
    refused(&second, &p.path, &mut o.drafts);
    o.bytes = walked.bytes;
    o.walked = walked;
    Ok(o)
}

/// Whether every block of an index verifies.
pub fn rows_are_sound(window: &mut Window, t: &Trailer, place: &Binding) -> bool {
    let mut at = t.rows_offset;
    while at < t.file_len {
        let block = window.get(at, BLOCK);
        if block.len() < BLOCK || !block_is_sound(&place.at(at), block) {
            return false;
        }
        at += BLOCK as u64;
    }
    true
}

/// What lies between content and index: zeros, or bytes that mean nothing. Returns where the index starts.
pub fn behind(window: &mut Window, path: &str, from: u64, to: u64, bytes: &mut Bytes, drafts: &mut Vec<Draft>) -> u64 {
    let mut at = from;
    let mut zeros = true;
    while at < to {
        let part = window.get(at, usize::try_from(to - at).unwrap_or(BLOCK).min(BLOCK));
        if part.is_empty() {
            break;
        }
        zeros &= part.iter().all(|b| *b == 0);
        at += part.len() as u64;
    }
    if zeros {
        bytes.zeros += at.saturating_sub(from);
    } else {
        bytes.unknown += at.saturating_sub(from);
        drafts.push(Draft::new(NoteKind::Slack, path, from, at - from, Repair::Nothing));
    }
    at.max(from)
}

/// What lies behind content that has no trailer: blocks of an index, or junk.
#[expect(clippy::too_many_arguments, reason = "one call; a struct of its own would name nothing")]
pub fn lost_index(
    window: &mut Window,
    path: &str,
    place: &Binding,
    from: u64,
    to: u64,
    sealed: bool,
    bytes: &mut Bytes,
    drafts: &mut Vec<Draft>,
) {
    let mut at = from;
    let mut bad = 0;
    while at < to {
        let len = usize::try_from(to - at).unwrap_or(BLOCK).min(BLOCK);
        let block = window.get(at, len);
        if block.is_empty() {
            break;
        }
        let n = block.len() as u64;
        if block.len() == BLOCK && block_is_sound(&place.at(at), block) {
            bytes.index += n;
        } else {
            bytes.unknown += n;
            bad += 1;
            if sealed && at + n < to && bad <= 100 {
                drafts.push(Draft::new(DamageKind::IndexBlock, path, at, n, Repair::RebuildIndex));
            }
        }
        at += n;
    }
    bytes.unknown += to - at.min(to);
    if !sealed && at > from {
        drafts.push(Draft::new(NoteKind::TornTail, path, from, at - from, Repair::Nothing).because("half a footer"));
    }
}

/// Reads a checkpoint: its trailer, when header and trailer verify.
pub fn open_checkpoint(
    pass: &Pass<'_>,
    inventory: &Inventory,
    name: FileName,
    drafts: &mut Vec<Draft>,
) -> Result<Option<(Window, u64, Option<Trailer>)>> {
    let path = name.path();
    let Some((file, len)) = open(pass.disk, pass.dir, &path)? else { return Ok(None) };
    let mut window = Window::new(file, len);
    let head = window.get(0, BLOCK);
    match FileHeader::read(head, inventory.store, name) {
        Ok(h) => {
            let rest = head.get(FileHeader::SIZE..BLOCK - 16).unwrap_or_default();
            if h.reserved != [0; 8] || rest.iter().any(|b| *b != 0) {
                drafts.push(Draft::new(DamageKind::Padding, &path, 0, BLOCK as u64, Repair::RebuildIndex));
            }
        }
        Err(_) => {
            let n = head.len() as u64;
            drafts.push(Draft::new(DamageKind::FileHeader, &path, 0, n, Repair::RebuildIndex));
        }
    }
    let at = len.saturating_sub(BLOCK as u64);
    let place = Binding::new(inventory.store, name, at);
    let trailer = Trailer::read(window.get(at, BLOCK), &place).filter(|t| t.file_len == len && at > 0);
    let trailer = trailer.filter(|t| t.rows_offset == BLOCK as u64);
    if trailer.is_none() {
        drafts.push(Draft::new(DamageKind::Footer, &path, at, BLOCK as u64, Repair::RebuildIndex));
    }
    Ok(Some((window, len, trailer)))
}

/// A checkpoint is written without a sync, and read only when it verifies: one that does not is what a power cut may leave.
pub fn excuse(drafts: &mut [Draft]) {
    use DamageKind::{FileHeader, Footer, IndexBlock};
    let torn = |d: &&mut Draft| matches!(d.finding.kind, Kind::Damage(FileHeader | Footer | IndexBlock));
    drafts.iter_mut().filter(torn).for_each(|d| d.finding.severity = Severity::Note);
}

/// Bytes of a checkpoint; what does not verify has its findings.
pub fn checkpoint_bytes(path: &str, len: u64, drafts: &[Draft]) -> (String, u64, Bytes) {
    let bad = |d: &&Draft| {
        use DamageKind::{FileHeader, Footer, IndexBlock};
        matches!(d.finding.kind, Kind::Damage(IndexBlock | Footer | FileHeader)) && d.finding.path == path
    };
    let unknown = drafts.iter().filter(bad).map(|d| d.finding.length).sum::<u64>().min(len);
    (path.to_owned(), len, Bytes { index: len - unknown, unknown, ..Bytes::default() })
}

/// The checkpoint of a segment that has no footer: what it knows and the walk did not find was lost.
fn checkpoint(
    pass: &Pass<'_>,
    inventory: &Inventory,
    p: &Present,
    rows: &[([u8; ROW], u64)],
    walked: &mut Walked,
    drafts: &mut Vec<Draft>,
) -> Result<Option<(String, u64, Bytes)>> {
    let Some(name) = inventory.checkpoints.get(&p.name).copied() else { return Ok(None) };
    let path = name.path();
    let mut own = Vec::new();
    let Some((mut window, len, trailer)) = open_checkpoint(pass, inventory, name, &mut own)? else { return Ok(None) };
    match trailer {
        Some(t) => {
            let place = Binding::new(inventory.store, name, 0);
            let inside = |r: &[u8; ROW]| Row::decode(r).is_some_and(|r| u64::from(r.offset) < t.data_end);
            let mut check = RowCheck::new(&mut window, &path, place, t);
            rows.iter().filter(|(r, _)| inside(r)).for_each(|(r, source)| check.feed(&[*r], *source));
            let content = Content {
                end: walked.end,
                records: walked.frames,
                last_group: walked.group,
                root: walked.chain,
                padding: walked.bytes.padding,
                lsns: walked.lsns,
                moments: walked.moments,
            };
            // A writer may have gone on since it was written.
            let whole = !walked.hurt && t.data_end == walked.end;
            let (extra, more) = check.finish(&content, whole);
            own.extend(more);
            hand_out(&extra, &path, t.rows_offset, &mut walked.drafts, &mut own);
        }
        None => {
            let place = Binding::new(inventory.store, name, 0);
            let mut bytes = Bytes::default();
            lost_index(&mut window, &path, &place, (BLOCK as u64).min(len), len, true, &mut bytes, &mut own);
        }
    }
    refused(&window, &path, &mut own);
    let counted = checkpoint_bytes(&path, len, &own);
    excuse(&mut own);
    drafts.append(&mut own);
    Ok(Some(counted))
}

/// Checkpoints of files that need none or are not there: leftovers, and every block of them is looked at.
fn stray_checkpoints(pass: &Pass<'_>, inventory: &Inventory, all: &mut Gathered) -> Result<()> {
    for name in inventory.checkpoints.values() {
        let path = name.path();
        let of_pack = name.kind == FileKind::PackCheckpoint;
        let used = if of_pack {
            inventory.packs.get(&name.number).is_some_and(|p| p.trailer.is_none())
        } else {
            inventory
                .logs
                .iter()
                .any(|p| p.name == FileName::new(FileKind::Segment, name.number) && p.trailer.is_none())
        };
        if used || all.files.iter().any(|f| f.0 == path) {
            continue;
        }
        let mut own = Vec::new();
        let Some((mut window, len, _)) = open_checkpoint(pass, inventory, *name, &mut own)? else { continue };
        let place = Binding::new(inventory.store, *name, 0);
        let mut bytes = Bytes::default();
        lost_index(&mut window, &path, &place, (BLOCK as u64).min(len), len, true, &mut bytes, &mut own);
        all.files.push(checkpoint_bytes(&path, len, &own));
        // Nobody reads it.
        own.iter_mut().for_each(|d| d.finding.severity = Severity::Note);
        own.push(Draft::new(NoteKind::Leftover, &path, 0, len, Repair::Nothing));
        all.drafts.append(&mut own);
    }
    Ok(())
}
