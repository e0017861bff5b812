//! From files to a store and back: what an open trusts, where writing goes on, what a clean close leaves.
//!
//! ```text
//! MANIFEST ─► which files are sealed, how far the log was durable
//! run/  ─► complete from the first: the footer's index; hides the segments that it covers
//! log/  ─► sealed: the footer's index · else: walked group by group (log::walk)
//! pack/ ─► sealed: the footer's index · else: checkpoint, then walked entry by entry
//! ```
//!
//! A reader takes the checkpoints of a clean close for the indexes of what was left unsealed, and walks nothing.
//!
//! After a clean close writing goes on where it ended. After anything else it goes on in a new segment and a new pack, so
//! that old frames never line up with new ones; the old ones are sealed in the background. Nothing is cut away that
//! anything vouches for.

use crate::catalog::{Catalog, Pack, PackPart, Segment, SegmentPart};
use crate::commit::group::{self, PACK_BUFFER, PackTail, State, Target};
use crate::commit::upkeep::{self, Job, Sealed, SpareSlot};
use crate::commit::writer::{ActiveSegment, Device, Shared, locked};
use crate::disk::{Buffer, File, OpenMode, read_full, write_full};
use crate::error::{Error, Result};
use crate::files::Files;
use crate::index::checkpoint::{self, Content};
use crate::index::run::{IndexRun, RunCursor};
use crate::index::table::{PackTable, SegmentTable};
use crate::log::pack_walk::{PackWalk, PackWalked};
use crate::log::walk::{Tail, Vouched, Walk, row_of};
use crate::runs::{LiveRun, RunPart, Runs};
use crate::store::{FIRST_SEGMENT, Options};
use mailstrata_format::file::{FileHeader, Superblock};
use mailstrata_format::index::{PackRow, ROW, Row, Trailer};
use mailstrata_format::manifest::{Manifest, RETIRED, SEALED};
use mailstrata_format::pack::Extent;
use mailstrata_format::segment;
use mailstrata_format::{BLOCK, Binding, Damage, DamageKind, Digest, FileKind, FileName};
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Arc, Condvar, Mutex, RwLock};

/// A segment without a footer.
pub struct OpenSegment {
    pub table: Arc<SegmentTable>,
    pub header: Option<FileHeader>,
    pub content: Content,
    pub tail: Tail,
}

/// A pack without a footer.
pub struct OpenPack {
    pub table: Arc<PackTable>,
    pub walked: PackWalked,
}

/// What an open found.
pub struct Opened {
    pub catalog: Catalog,
    pub manifest: Manifest,
    pub last_lsn: u64,
    /// Check and sequence of the last group of all.
    pub chain: [u8; 16],
    pub group: u64,
    pub segments: Vec<OpenSegment>,
    pub packs: Vec<OpenPack>,
    pub findings: Vec<Damage>,
    /// Greatest number of a pack seen.
    pub last_pack: u64,
    pub last_segment: u64,
    /// Greatest number of a run seen.
    pub last_run: u64,
    /// Capacity of the newest segment.
    pub capacity: u64,
}

fn numbers(files: &Files, sub: &str, ext: &str) -> Result<(BTreeSet<u64>, Vec<String>)> {
    let dir = files.dir.join(sub);
    let names = match files.disk.list(&dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        other => other.map_err(Error::io("listing", &dir))?,
    };
    let found = names.iter().filter_map(|n| FileName::number_of(n, ext)).collect();
    Ok((found, names.into_iter().filter(|n| n.ends_with(".tmp")).map(|n| format!("{sub}/{n}")).collect()))
}

fn read_manifest(files: &Files) -> Result<Option<std::result::Result<Manifest, Damage>>> {
    let path = files.dir.join("MANIFEST");
    let file = match files.disk.open(&path, OpenMode::Read) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(Error::io("opening", &path))?,
    };
    let len = file.len().map_err(Error::io("reading the size of", &path))?;
    // A manifest has about a hundred bytes a file: one beyond this is none.
    let len = usize::try_from(len).unwrap_or(usize::MAX).min(256 << 20);
    let mut bytes = vec![0; len];
    let n = read_full(file.as_ref(), &mut bytes, 0).map_err(Error::io("reading", &path))?;
    bytes.truncate(n);
    Ok(Some(Manifest::read(&bytes, files.store)))
}

/// Reads everything a view needs. `read_only` removes nothing and tolerates a writer at work.
pub fn load(files: &Files, read_only: bool) -> Result<Opened> {
    let mut findings = Vec::new();
    // Files before the manifest: a file that is sealed or added meanwhile is found in its newer state.
    let (segments, mut leftovers) = numbers(files, "log", "seg")?;
    let (packs, more) = numbers(files, "pack", "pack")?;
    leftovers.extend(more);
    let (runs, more) = numbers(files, "run", "run")?;
    leftovers.extend(more);
    let (manifest, told) = match read_manifest(files)? {
        Some(Ok(m)) => (m, true),
        Some(Err(damage)) => {
            findings.push(damage);
            (Manifest::empty(), false)
        }
        None => (Manifest::empty(), false),
    };
    let runs = Runs { files, manifest: &manifest, told, segments: &segments, numbers: runs };
    let (found, last_run) = (runs.decide(&mut findings)?, runs.numbers.last().copied().unwrap_or(0));
    if !read_only {
        leftovers.extend(found.leftovers.iter().map(|n| FileName::new(FileKind::Run, *n).path()));
        leftovers.extend(["MANIFEST.tmp".to_owned(), "SUPERBLOCK.tmp".to_owned()]);
        for name in leftovers {
            upkeep::remove_if_there(files, &files.dir.join(name))?;
        }
    }
    for e in manifest.entries.iter().filter(|e| e.state == SEALED) {
        let Some(kind) = FileKind::from_code(e.kind) else { continue };
        let there = match kind {
            FileKind::Segment => segments.contains(&e.number) || found.covers(e.number),
            FileKind::Pack => packs.contains(&e.number),
            _ => true,
        };
        if !there {
            findings.push(Damage::new(FileName::new(kind, e.number), 0, DamageKind::FileMissing));
        }
    }
    let head = &manifest.head;
    for (there, name) in [
        (
            segments.contains(&head.durable_segment) || found.covers(head.durable_segment),
            FileName::new(FileKind::Segment, head.durable_segment),
        ),
        (packs.contains(&head.pack), FileName::new(FileKind::Pack, head.pack)),
    ] {
        // A file that is being written has no entry; the head names it. 0: there was none.
        if !there && name.number != 0 && manifest.entry(name).is_none() {
            findings.push(Damage::new(name, 0, DamageKind::FileMissing));
        }
    }
    let mut out = Opened {
        catalog: Catalog::default(),
        last_lsn: manifest.head.durable_lsn,
        chain: [0; 16],
        group: 0,
        segments: Vec::new(),
        packs: Vec::new(),
        findings,
        last_pack: packs.last().copied().unwrap_or(0).max(manifest.head.pack),
        last_segment: segments
            .last()
            .copied()
            .unwrap_or(0)
            .max(manifest.head.durable_segment)
            .max(found.last_segment()),
        last_run: manifest
            .entries
            .iter()
            .filter(|e| e.kind == FileKind::Run.code())
            .fold(last_run, |n, e| n.max(e.number)),
        capacity: 0,
        manifest: found.true_to(manifest, &segments),
    };
    // Segments before packs: their groups say how far each pack was durable.
    let mut durable_packs = BTreeMap::from([(out.manifest.head.pack, out.manifest.head.pack_end)]);
    // What is live, in the order of the LSNs.
    let mut list: Vec<(u64, FileName, Option<LiveRun>)> = Vec::new();
    let live = segments.into_iter().filter(|n| !found.covers(*n));
    list.extend(live.map(|n| (n, FileName::new(FileKind::Segment, n), None)));
    list.extend(found.live.into_iter().map(|r| (r.covers.0, r.name, Some(r))));
    list.sort_unstable_by_key(|(at, name, _)| (*at, *name));
    let names: Vec<FileName> = list.iter().map(|(_, name, _)| *name).collect();
    for (i, (number, _, run)) in list.into_iter().enumerate() {
        will_load(files, &out.manifest, i, &names);
        match run {
            Some(run) => take_run(run, &mut out),
            None => {
                load_segment(files, number, names.get(i + 1).copied(), read_only, &mut out, &mut durable_packs)?;
            }
        }
    }
    if out.catalog.segments.iter().any(|s| s.covers == (0, 0)) {
        // Nothing says any more what this run covers, but its transactions.
        out.catalog.segments.sort_by_key(|s| if s.span().rows == 0 { u64::MAX } else { s.span().first_lsn });
    }
    let list: Vec<u64> = packs.into_iter().collect();
    let names: Vec<FileName> = list.iter().map(|n| FileName::new(FileKind::Pack, *n)).collect();
    for (i, number) in list.iter().copied().enumerate() {
        will_load(files, &out.manifest, i, &names);
        let vouched_end = durable_packs.get(&number).copied().unwrap_or(0);
        load_pack(files, number, vouched_end, read_only, &mut out)?;
    }
    // When the end of the log is lost, the manifest's mark still says how far it went: what follows is chained to that, so
    // that the gap stays visible.
    let head = &out.manifest.head;
    if head.durable_group > out.group {
        (out.group, out.chain) = (head.durable_group, head.durable_chain);
    }
    if !read_only {
        for sub in ["log", "pack", "run"] {
            let dir = files.dir.join(sub);
            files.disk.sync_dir(&dir).map_err(Error::io("syncing", dir))?;
        }
    }
    Ok(out)
}

/// Files whose footers the device fetches while those before them are read.
const FOOTERS_AHEAD: usize = 16;

/// At every sixteenth file: has the device fetch the footers of the next ones.
fn will_load(files: &Files, manifest: &Manifest, here: usize, names: &[FileName]) {
    if here.is_multiple_of(FOOTERS_AHEAD) {
        for name in names.iter().skip(here).take(FOOTERS_AHEAD) {
            let sealed = manifest.entry(*name).filter(|e| e.state == SEALED);
            // What is wrong with it is told when it is read.
            if let (Some(entry), Ok(file)) = (sealed, files.get(*name)) {
                IndexRun::will_open(file.as_ref(), entry.length);
            }
        }
    }
}

/// The index of a file that the last writer left unsealed, for a reader: the checkpoint of a clean close, when it is about
/// the very content that the manifest vouches for. As with a sealed file, what is damaged shows when it is read.
fn closed_index(files: &Files, manifest: &Manifest, name: FileName, read_only: bool) -> Option<IndexRun> {
    let head = &manifest.head;
    let (checkpoint, number, end) = match name.kind {
        FileKind::Segment => (FileKind::SegmentCheckpoint, head.durable_segment, head.durable_end),
        FileKind::Pack => (FileKind::PackCheckpoint, head.pack, head.pack_end),
        _ => return None,
    };
    if !read_only || head.clean != 1 || number != name.number || manifest.entry(name).is_some() {
        return None;
    }
    let run = checkpoint::open_checkpoint(files, FileName::new(checkpoint, number))?;
    let chained = name.kind != FileKind::Segment
        || (run.trailer.root, run.trailer.last_group) == (head.durable_chain, head.durable_group);
    // A writer that goes on in the file makes it longer first.
    let len = files.get(name).ok()?.len().ok()?;
    (chained && run.trailer.damaged == 0 && run.trailer.data_end == end && len == end).then_some(run)
}

fn open_unsealed(files: &Files, name: FileName, read_only: bool) -> Result<(Arc<dyn File>, u64)> {
    let path = files.path(name);
    let file = if read_only {
        files.get(name)?
    } else {
        files.disk.open(&path, OpenMode::WriteDirect).map_err(Error::io("opening", &path))?
    };
    let len = file.len().map_err(Error::io("reading the size of", &path))?;
    Ok((file, len))
}

/// Writes what will be believed once more, and syncs it. A sync that failed before a restart leaves a cache that shows what
/// the disk does not have and calls it clean: only bytes that are written again are known to be there.
fn make_durable(file: &Arc<dyn File>, path: &Path, mut from: u64, end: u64) -> Result<()> {
    let len = file.len().map_err(Error::io("reading the size of", path))?;
    let end = end.min(len / BLOCK as u64 * BLOCK as u64);
    let mut buffer = Buffer::new(usize::try_from(end.saturating_sub(from)).unwrap_or(1 << 20).min(1 << 20));
    while from < end {
        let want = usize::try_from(end - from).unwrap_or(buffer.len()).min(buffer.len()).next_multiple_of(BLOCK);
        let n = read_full(file.as_ref(), &mut buffer[..want], from).map_err(Error::io("reading", path))?;
        let whole = n / BLOCK * BLOCK;
        if whole == 0 {
            break;
        }
        write_full(file.as_ref(), &buffer[..whole], from, false).map_err(Error::io("writing", path))?;
        from += whole as u64;
    }
    file.sync().map_err(Error::io("syncing", path))
}

/// Puts a run in the catalog; the log goes on behind what it covers.
fn take_run(run: LiveRun, out: &mut Opened) {
    let part = match run.part {
        RunPart::Index(index) => {
            out.last_lsn = out.last_lsn.max(index.trailer.last_lsn);
            out.chain = index.trailer.chain;
            out.group = index.trailer.last_group;
            SegmentPart::Run(index)
        }
        RunPart::Walked(table) => {
            out.last_lsn = out.last_lsn.max(table.last_lsn());
            SegmentPart::Table(table)
        }
    };
    // Its segments were full once: the next need not start small.
    out.capacity = u64::MAX;
    out.catalog.segments.push(Segment::covering(run.name, run.covers, part));
}

fn load_segment(
    files: &Files,
    number: u64,
    next: Option<FileName>,
    read_only: bool,
    out: &mut Opened,
    durable_packs: &mut BTreeMap<u64, u64>,
) -> Result<()> {
    let name = FileName::new(FileKind::Segment, number);
    let path = files.path(name);
    let promised = out.manifest.entry(name).filter(|e| e.state == SEALED).copied();
    // With a segment behind it a writer went on: a file of just the old length has lost what came then.
    let closed = if next.is_none() { closed_index(files, &out.manifest, name, read_only) } else { None };
    if let Some(run) = closed {
        out.last_lsn = out.last_lsn.max(run.trailer.last_lsn);
        (out.chain, out.group) = (run.trailer.root, run.trailer.last_group);
        out.catalog.segments.push(Segment::new(name, SegmentPart::Run(Arc::new(run))));
        return Ok(());
    }
    // A footer that the manifest does not name may be torn: its rows are believed when all of them verify.
    let run =
        IndexRun::open(files, name).and_then(|run| if promised.is_some() { Ok(run) } else { run.verified(files) });
    match run {
        Ok(run) if run.trailer.kind == FileKind::Segment.code() && run.trailer.number == number => {
            if promised.is_some_and(|e| e.length != run.trailer.file_len || e.root != run.trailer.root) {
                out.findings.push(Damage::new(name, 0, DamageKind::Manifest));
            }
            out.last_lsn = out.last_lsn.max(run.trailer.last_lsn);
            out.chain = run.trailer.root;
            out.group = run.trailer.last_group;
            out.capacity = run.trailer.file_len.next_power_of_two();
            out.catalog.segments.push(Segment::new(name, SegmentPart::Run(Arc::new(run))));
            return Ok(());
        }
        Ok(_) => out.findings.push(Damage::new(name, 0, DamageKind::FileForeign)),
        Err(Error::Damage(d)) => {
            if promised.is_some() {
                out.findings.push(d);
            }
        }
        Err(e) => return Err(e),
    }
    let read_only = read_only || promised.is_some();
    let (file, len) = open_unsealed(files, name, read_only)?;
    // The next segment's header and the manifest know the check of the last group.
    let successor = match next {
        Some(n) => chained_to(files, n)?,
        None => None,
    };
    let head = &out.manifest.head;
    let vouched = Vouched {
        end: if head.durable_segment == number { head.durable_end } else { 0 },
        successor: promised.map(|e| e.root).or(successor),
    };
    let reader = files.get(name)?;
    let table = Arc::new(SegmentTable::new(number));
    let walk = Walk { file: &reader, path: &path, store: files.store, name, limit: len, vouched, from: None };
    let mut seen = HashSet::new();
    let checkpoint = checkpoint_rows(files, number);
    let walked = walk.run(&mut |frame, offset| {
        if !checkpoint.is_empty() {
            seen.insert(frame.header.lsn);
        }
        let (row, source) = row_of(frame, offset);
        table.insert(&row, source);
    })?;
    // What the last clean close knew and is not found any more is damaged, not absent: its rows stay, so that whoever asks for
    // it is told.
    for row in checkpoint.iter().filter(|r| !seen.contains(&r.lsn)) {
        table.insert(row, 0);
    }
    if walked.pack != 0 {
        let end = durable_packs.entry(walked.pack).or_default();
        *end = walked.pack_end.max(*end);
    }
    out.last_lsn = out.last_lsn.max(walked.last_lsn);
    out.chain = walked.chain;
    out.group = walked.last_group;
    out.capacity = walked.header.map_or(len, |h| h.capacity);
    out.findings.extend_from_slice(&walked.damage);
    out.catalog.segments.push(Segment::new(name, SegmentPart::Table(table.clone())));
    if !read_only {
        let known = if out.manifest.head.durable_segment == number { out.manifest.head.durable_end } else { 0 };
        make_durable(&file, &path, known.max(walked.last_start) / BLOCK as u64 * BLOCK as u64, walked.end)?;
        table.file.get_or_init(|| file);
        let content = Content {
            pack: walked.pack,
            pack_end: walked.pack_end,
            end: walked.end,
            records: walked.frames,
            last_group: walked.last_group,
            root: walked.chain,
            padding: walked.padding,
            damaged: walked.damage.len() as u64,
        };
        out.segments.push(OpenSegment { table, header: walked.header, content, tail: walked.tail });
    }
    Ok(())
}

/// The check of the last group before a segment or run, from its header or, when that of a segment is damaged, from its
/// first group.
fn chained_to(files: &Files, name: FileName) -> Result<Option<[u8; 16]>> {
    let file = files.get(name)?;
    let mut blocks = vec![0; 2 * BLOCK];
    read_full(file.as_ref(), &mut blocks, 0).map_err(Error::io("reading", files.path(name)))?;
    if let Ok(h) = FileHeader::read(&blocks, files.store, name) {
        return Ok(Some(h.previous));
    }
    if name.kind == FileKind::Run {
        return Ok(None);
    }
    let place = Binding::new(files.store, name, BLOCK as u64);
    Ok(segment::header_at(&blocks[BLOCK..], &place).map(|h| h.previous))
}

/// The rows of a checkpoint and its trailer, when all of it verifies.
fn checkpoint_of(files: &Files, name: FileName) -> Option<(Vec<[u8; ROW]>, Trailer)> {
    let run = checkpoint::open_checkpoint(files, name)?;
    let mut cursor = RunCursor::new(&run, files, (0, 0));
    let mut rows = Vec::new();
    while let Some(row) = cursor.row().ok()? {
        rows.push(*row);
        cursor.step();
    }
    Some((rows, run.trailer))
}

/// The rows that the checkpoint of a segment has; none without one.
fn checkpoint_rows(files: &Files, number: u64) -> Vec<Row> {
    let found = checkpoint_of(files, FileName::new(FileKind::SegmentCheckpoint, number));
    found.map_or(Vec::new(), |(rows, _)| rows.iter().filter_map(|r| Row::decode(r)).collect())
}

fn load_pack(files: &Files, number: u64, vouched_end: u64, read_only: bool, out: &mut Opened) -> Result<()> {
    let name = FileName::new(FileKind::Pack, number);
    let path = files.path(name);
    let promised = out.manifest.entry(name).is_some_and(|e| e.state == SEALED);
    // A group that vouches for more was written after the close.
    let closed = if vouched_end <= out.manifest.head.pack_end {
        closed_index(files, &out.manifest, name, read_only)
    } else {
        None
    };
    if let Some(run) = closed {
        out.catalog.packs.push(Pack::new(number, PackPart::Run(Arc::new(run))));
        return Ok(());
    }
    // A footer that the manifest does not name may be torn: its rows are believed when all of them verify.
    let run = IndexRun::open(files, name).and_then(|run| if promised { Ok(run) } else { run.verified(files) });
    match run {
        Ok(run) if run.trailer.kind == FileKind::Pack.code() && run.trailer.number == number => {
            out.catalog.packs.push(Pack::new(number, PackPart::Run(Arc::new(run))));
            return Ok(());
        }
        Ok(_) => out.findings.push(Damage::new(name, 0, DamageKind::FileForeign)),
        Err(Error::Damage(d)) => {
            if promised {
                out.findings.push(d);
            }
        }
        Err(e) => return Err(e),
    }
    let read_only = read_only || promised;
    let (file, len) = open_unsealed(files, name, read_only)?;
    let table = Arc::new(PackTable::new(number));
    let mut from = BLOCK as u64;
    let mut before = (0, 0);
    if let Some((rows, trailer)) = checkpoint_of(files, FileName::new(FileKind::PackCheckpoint, number))
        && trailer.data_end <= len
    {
        for row in rows.iter().filter_map(|r| PackRow::decode(r)) {
            table.insert(Extent {
                pack: number,
                entry_offset: row.entry_offset,
                entry_len: row.entry_len,
                raw_offset: row.raw_offset,
                length: row.length,
                digest: Digest(row.digest),
            });
        }
        from = trailer.data_end;
        before = (trailer.records, trailer.padding);
    }
    let reader = files.get(name)?;
    let walk = PackWalk { file: &reader, path: &path, store: files.store, number, from, limit: len, vouched_end };
    let mut walked = walk.run(&mut |e| table.insert(e))?;
    if walked.header.is_none() && walked.entries == 0 && before.0 == 0 && vouched_end == 0 && !promised {
        // It was being made when the power went: nobody refers to it, and its number is not given out again.
        return Ok(());
    }
    walked.entries += before.0;
    walked.padding += before.1;
    out.findings.extend_from_slice(&walked.damage);
    out.catalog.packs.push(Pack::new(number, PackPart::Table(table.clone())));
    if !read_only {
        make_durable(&file, &path, vouched_end / BLOCK as u64 * BLOCK as u64, walked.end)?;
        table.note_written(walked.end);
        table.note_durable();
        table.file.get_or_init(|| file);
        out.packs.push(OpenPack { table, walked });
    }
    Ok(())
}

/// Makes a writer of what was found. Unfinished files are handed to the upkeep once it runs.
pub fn start(files: Arc<Files>, mut opened: Opened, s: &Superblock, options: &Options) -> Result<Shared> {
    let clean = opened.manifest.head.clean == 1;
    for e in opened.manifest.entries.iter_mut().filter(|e| e.state == RETIRED && e.retired == 0) {
        e.retired = options.clock.now();
    }
    let mut device = Device {
        segment: None,
        chain: opened.chain,
        group: opened.group,
        dirty: Vec::new(),
        allocated: Default::default(),
        since_look: 0,
    };
    // Where the log goes on.
    let go_on = opened.segments.pop_if(|o| {
        let head = &opened.manifest.head;
        let room = o.header.is_some_and(|h| h.capacity >= o.content.end + BLOCK as u64);
        clean
            && room
            && o.tail == Tail::Clean
            && o.table.number == opened.last_segment
            && (head.durable_segment, head.durable_end) == (o.table.number, o.content.end)
    });
    let (target, start) = match go_on {
        Some(o) => {
            let capacity = o.header.map_or(0, |h| h.capacity);
            let name = FileName::new(FileKind::Segment, o.table.number);
            let Some(file) = o.table.file.get().cloned() else {
                return Err(Error::io("opening", files.path(name))(io::Error::from(io::ErrorKind::NotFound)));
            };
            // A clean close cut the zeros off.
            upkeep::zero_fill(&file, o.content.end, capacity).map_err(Error::io("writing", files.path(name)))?;
            file.sync().map_err(Error::io("syncing", files.path(name)))?;
            let (table, end) = (o.table.clone(), o.content.end);
            device.segment = Some(ActiveSegment { table: o.table, file, capacity, content: o.content });
            (Target { table, capacity, fresh: false }, end)
        }
        None => {
            let table = Arc::new(SegmentTable::new(opened.last_segment + 1));
            opened.catalog.segments.push(Segment::new(table.name(), SegmentPart::Table(table.clone())));
            let capacity = match opened.capacity {
                0 => FIRST_SEGMENT.min(s.segment_size),
                c if opened.segments.is_empty() => group::next_capacity(c, s.segment_size),
                c => c.clamp(16 * BLOCK as u64, s.segment_size),
            };
            (Target { table, capacity, fresh: true }, BLOCK as u64)
        }
    };
    // Where the packs go on.
    let pack = opened.packs.pop_if(|p| {
        clean
            && !p.walked.garbage
            && p.walked.damage.is_empty()
            && p.walked.end < s.pack_size
            && p.table.number == opened.last_pack
    });
    let tail = |table, start, walked: &PackWalked| PackTail {
        table,
        buffer: Buffer::new(PACK_BUFFER),
        filled: 0,
        start,
        entries: walked.entries,
        padding: walked.padding,
        damaged: walked.damage.len() as u64,
    };
    let pack = match pack {
        Some(p) => tail(p.table, p.walked.end, &p.walked),
        None => {
            opened.last_pack += 1;
            let table = Arc::new(PackTable::new(opened.last_pack));
            opened.catalog.packs.push(Pack::new(table.number, PackPart::Table(table.clone())));
            tail(table, BLOCK as u64, &PackWalked::default())
        }
    };
    let bytes = group::GROUP_BYTES.min(usize::try_from(s.segment_size / 4).unwrap_or(usize::MAX)).max(BLOCK);
    let state = State {
        next_lsn: opened.last_lsn + 1,
        batch: State::batch_at(None, target, start, bytes),
        batch_number: 0,
        waiting: [0; 2],
        room_waiters: 0,
        pack,
        pack_writes: VecDeque::new(),
        queued_bytes: 0,
        rolled: Vec::new(),
        next_pack: opened.last_pack + 1,
        writing: false,
        kicked: false,
        company: crate::commit::group::NOBODY,
        closing: false,
        failed: None,
        spare_batches: Vec::new(),
        spare_packs: Vec::new(),
    };
    let shared = Shared {
        files,
        clock: options.clock.clone(),
        segment_size: s.segment_size,
        pack_size: s.pack_size,
        reserve: options.reserve_bytes,
        nearly_full: AtomicBool::new(false),
        state: Mutex::new(state),
        work: Condvar::new(),
        room: Condvar::new(),
        durable: AtomicU64::new(opened.last_lsn),
        appended: AtomicU64::new(opened.last_lsn + 1),
        ends: Default::default(),
        epoch: AtomicU32::new(0),
        tails: AtomicU32::new(0),
        catalog: RwLock::new(Arc::new(opened.catalog)),
        device: Mutex::new(device),
        jobs: Mutex::new(None),
        spare: SpareSlot::default(),
        manifest: Mutex::new(opened.manifest),
        sealed: Sealed::default(),
        unfinished: Mutex::new(unfinished(opened.segments, opened.packs)),
    };
    Ok(shared)
}

fn unfinished(segments: Vec<OpenSegment>, packs: Vec<OpenPack>) -> Vec<Job> {
    let mut jobs: Vec<Job> =
        segments.into_iter().map(|o| Job::SealSegment { table: o.table, content: o.content }).collect();
    for p in packs {
        let content = Content {
            end: p.walked.end,
            records: p.walked.entries,
            padding: p.walked.padding,
            damaged: p.walked.damage.len() as u64,
            ..Content::default()
        };
        jobs.push(Job::SealPack { table: p.table, content });
    }
    jobs
}

/// Has the first spare segment readied, and what the last writer left unsealed sealed.
pub fn order_first_spare(shared: &Shared) {
    let capacity = shared.lock().batch.target.capacity;
    let fresh = shared.lock().batch.target.fresh;
    let next = if fresh { capacity } else { group::next_capacity(capacity, shared.segment_size) };
    shared.order_spare(next);
    for job in std::mem::take(&mut *locked(&shared.unfinished)) {
        shared.job(job);
    }
}

/// The end of a clean close: the threads are gone, nobody else writes.
pub fn close(shared: &Shared, dir: &Path) -> Result<()> {
    let mut s = shared.lock();
    if let Some(e) = &s.failed {
        return Err(Error::Poisoned(e.clone()));
    }
    s.flush_pack();
    let work = s.take(shared);
    drop(s);
    let outcome = shared.perform(work, None, &mut None);
    let mut s = shared.lock();
    let failed = outcome.as_ref().err().cloned();
    // Everybody is woken below.
    let _ = shared.finish(&mut s, outcome);
    s.failed.get_or_insert_with(|| Arc::new(Error::Closed));
    let (pack, pack_end, entries, padding) = (s.pack.table.clone(), s.pack.start, s.pack.entries, s.pack.padding);
    drop(s);
    shared.wake_everybody();
    if let Some(e) = failed {
        return Err(e);
    }
    let device = locked(&shared.device);
    for t in &device.dirty {
        let path = shared.files.path(FileName::new(FileKind::Pack, t.number));
        if let Some(f) = t.file.get() {
            f.sync().map_err(Error::io("syncing", path))?;
        }
    }
    if let Some(active) = &device.segment {
        let path = shared.files.path(FileName::new(FileKind::Segment, active.table.number));
        active.file.set_len(active.content.end).map_err(Error::io("trimming", &path))?;
        active.file.sync().map_err(Error::io("syncing", &path))?;
        let name = FileName::new(FileKind::SegmentCheckpoint, active.table.number);
        let index = checkpoint::segment_index(&active.table, &active.content, &shared.files, name, BLOCK as u64);
        checkpoint::write_checkpoint(&shared.files, name, shared.clock.now(), &index)?;
    }
    if let Some(file) = pack.file.get() {
        let path = shared.files.path(FileName::new(FileKind::Pack, pack.number));
        file.set_len(pack_end).map_err(Error::io("trimming", &path))?;
        file.sync().map_err(Error::io("syncing", &path))?;
        let name = FileName::new(FileKind::PackCheckpoint, pack.number);
        let content = Content { end: pack_end, records: entries, padding, ..Content::default() };
        let index = checkpoint::pack_index(&pack, &content, &shared.files, name, BLOCK as u64);
        checkpoint::write_checkpoint(&shared.files, name, shared.clock.now(), &index)?;
    }
    upkeep::remove_if_there(&shared.files, &dir.join("log/spare.tmp"))?;
    shared.update_manifest(|m| {
        m.head.clean = 1;
        m.head.durable_lsn = shared.durable_lsn().0;
        m.head.durable_group = device.group;
        m.head.durable_chain = device.chain;
        if let Some(active) = &device.segment {
            m.head.durable_segment = active.table.number;
            m.head.durable_end = active.content.end;
        }
        if pack.file.get().is_some() {
            m.head.pack = pack.number;
            m.head.pack_end = pack_end;
        }
    })?;
    upkeep::remove_if_there(&shared.files, &dir.join("LOCK"))
}

/// The file that readers of other processes hold locks on (SPEC.md §11).
fn readers(files: &Files) -> PathBuf {
    files.dir.join("READERS")
}

/// Makes `READERS` when it is not there. Without it readers go without locks, and the delay alone protects them.
pub fn make_readers(files: &Files) {
    let path = readers(files);
    match files.disk.open(&path, OpenMode::CreateNew) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            tracing::warn!(error = %e, path = %path.display(), "readers cannot say that they read");
        }
        _ => {}
    }
}

/// Says that somebody opens the store, so that nothing is removed meanwhile; `None` where that is not possible.
#[must_use]
pub fn announce_reader(files: &Files) -> Option<Arc<dyn File>> {
    let file = files.disk.open(&readers(files), OpenMode::Read).ok()?;
    file.hold_byte(0).ok().map(|()| file)
}

/// Says which files a reader knows, for as long as one of its views is there.
pub fn hold_generation(files: &Files, reading: Arc<dyn File>, generation: u64) {
    // Generation 0 is no manifest: byte 0 stays.
    let held = generation > 0 && reading.hold_byte(generation).is_ok() && reading.release_byte(0).is_ok();
    if !held {
        tracing::debug!("a reader holds back all that is retired");
    }
    files.reading.get_or_init(|| reading);
}

/// Says who writes. The lock itself is the kernel's: a failure here is told and changes nothing.
pub fn write_lock(dir: &Path, options: &Options) -> Result<()> {
    let path = dir.join("LOCK");
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let plain = |s: &str| s.replace(['"', '\\', '\n'], "_");
    let text = format!(
        "{{\"host\":\"{}\",\"pid\":{},\"operation\":\"{}\"}}\n",
        plain(&host),
        std::process::id(),
        plain(&options.operation)
    );
    let write = || -> io::Result<()> {
        match options.disk.remove(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let file = options.disk.open(&path, OpenMode::CreateNew)?;
        write_full(file.as_ref(), text.as_bytes(), 0, false)
    };
    if let Err(e) = write() {
        tracing::warn!(error = %e, path = %path.display(), "LOCK does not name this writer");
    }
    Ok(())
}

/// Who writes, from `LOCK`.
pub fn lock_holder(dir: &Path, options: &Options) -> String {
    let path = dir.join("LOCK");
    let mut bytes = vec![0; 512];
    let read = options.disk.open(&path, OpenMode::Read).and_then(|f| read_full(f.as_ref(), &mut bytes, 0));
    match read {
        Ok(n) if n > 0 => String::from_utf8_lossy(&bytes[..n]).trim().to_owned(),
        _ => "(LOCK does not say who)".into(),
    }
}
