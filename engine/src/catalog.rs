//! What a view can reach: the segments, runs and packs of a store at one moment, each with its index.
//!
//! Replaced whole when a file is sealed, so a view that holds an older catalog goes on undisturbed (P8).

use crate::error::{Error, Result};
use crate::files::Files;
use crate::index::run::{IndexRun, RunCursor};
use crate::index::table::{PackTable, SegmentTable, Span, TableCursor, low_half};
use crate::index::{Key, row_key};
use crate::log::pack_walk::PackWalk;
use crate::log::walk::{Vouched, Walk, row_of};
use mailstrata_format::index::{self, PackRow, ROW, ROWS_PER_BLOCK, Row};
use mailstrata_format::pack::Extent;
use mailstrata_format::{DamageKind, Digest, FileKind, FileName};
use std::sync::{Arc, OnceLock, Weak};

/// The index of a segment.
#[derive(Clone)]
pub enum SegmentPart {
    /// In memory: being written, or rebuilt because its footer was lost.
    Table(Arc<SegmentTable>),
    /// Sealed.
    Run(Arc<IndexRun>),
}

/// An index made from the data it is about.
struct Rebuilt<T> {
    table: Arc<T>,
    /// The data are sound to the last byte: what is not in the table is not there.
    complete: bool,
}

/// A segment or run that a view can reach.
#[derive(Clone)]
pub struct Segment {
    pub name: FileName,
    /// Numbers of the first and the last segment whose transactions it holds.
    pub covers: (u64, u64),
    pub part: SegmentPart,
    /// Made from the frames when a block of the index turned out to be damaged (W3).
    rebuilt: Arc<OnceLock<Rebuilt<SegmentTable>>>,
}

/// The index of a pack.
#[derive(Clone)]
pub enum PackPart {
    Table(Arc<PackTable>),
    Run(Arc<IndexRun>),
}

/// A pack that a view can reach.
#[derive(Clone)]
pub struct Pack {
    pub number: u64,
    pub part: PackPart,
    /// Made from the entries when a block of the index turned out to be damaged (W3).
    rebuilt: Arc<OnceLock<Rebuilt<PackTable>>>,
}

impl Pack {
    /// A pack and its index.
    #[must_use]
    pub fn new(number: u64, part: PackPart) -> Self {
        Self { number, part, rebuilt: Arc::default() }
    }

    /// Whether an extent of this pack would survive a power cut now.
    #[must_use]
    pub fn is_durable(&self, extent: &Extent) -> bool {
        match &self.part {
            PackPart::Table(t) => extent.entry_offset.saturating_add(extent.entry_len) <= t.durable(),
            PackPart::Run(_) => true,
        }
    }

    /// Where a blob lies; `hash` is [`index::key_hash`] of the digest.
    pub fn find(&self, files: &Files, digest: &Digest, hash: u64) -> Result<Option<Extent>> {
        match &self.part {
            PackPart::Table(t) => Ok(t.get(digest)),
            PackPart::Run(run) if run.may_hold(hash) => match self.find_in(run, files, digest) {
                Err(e) if is_index_damage(&e) => {
                    let rebuilt = self.rebuild(run, files, &e)?;
                    match rebuilt.table.get(digest) {
                        None if !rebuilt.complete => Err(e),
                        found => Ok(found),
                    }
                }
                other => other,
            },
            PackPart::Run(_) => Ok(None),
        }
    }

    fn find_in(&self, run: &IndexRun, files: &Files, digest: &Digest) -> Result<Option<Extent>> {
        let place = run.lower_bound(files, &digest.0)?;
        let row =
            RunCursor::new(run, files, place).row()?.and_then(|r| PackRow::decode(r)).filter(|r| r.digest == digest.0);
        Ok(row.map(|row| Extent {
            pack: self.number,
            entry_offset: row.entry_offset,
            entry_len: row.entry_len,
            raw_offset: row.raw_offset,
            length: row.length,
            digest: *digest,
        }))
    }

    fn rebuild(&self, run: &IndexRun, files: &Files, why: &Error) -> Result<&Rebuilt<PackTable>> {
        if let Some(rebuilt) = self.rebuilt.get() {
            return Ok(rebuilt);
        }
        tracing::error!(error = %why, "the index is rebuilt from the pack");
        let name = FileName::new(FileKind::Pack, self.number);
        let table = Arc::new(PackTable::new(self.number));
        let (file, end) = (files.get(name)?, run.trailer.data_end);
        let from = mailstrata_format::BLOCK as u64;
        let path = files.path(name);
        let (store, number) = (files.store, self.number);
        let walk = PackWalk { file: &file, path: &path, store, number, from, limit: end, vouched_end: end };
        let walked = walk.run(&mut |e| table.insert(e))?;
        Ok(self.rebuilt.get_or_init(|| Rebuilt { table, complete: walked.damage.is_empty() }))
    }
}

/// Tells whether somebody may still read a file that is in no catalog any more: see [`Segment::pin`].
#[derive(Clone)]
pub struct Pin(Weak<OnceLock<Rebuilt<SegmentTable>>>);

impl Pin {
    /// Whether a catalog that is in use has the file.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.0.strong_count() > 0
    }
}

/// Most blocks of rows that are made from frames at once: some 64 000 rows.
const MEND_MAX: usize = 1024;

/// A block, or `None` when it does not verify.
fn sound(block: Result<Arc<[u8]>>) -> Result<Option<Arc<[u8]>>> {
    match block {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if is_index_damage(&e) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Whether an error is a damaged block of an index, which the data can make good.
fn is_index_damage(e: &Error) -> bool {
    matches!(e, Error::Damage(d) if d.kind == DamageKind::IndexBlock)
}

/// Whether an item that is asked for most likely has rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Likely {
    There,
    New,
}

/// Segments and runs in the order of what they cover, which is that of their LSNs; packs in the order of their numbers.
#[derive(Clone, Default)]
pub struct Catalog {
    pub segments: Vec<Segment>,
    pub packs: Vec<Pack>,
}

impl Catalog {
    /// The newest row of an item with LSN ≤ `lsn` and moment ≤ `moment`, and its segment.
    pub fn newest(&self, files: &Files, key: &Key, lsn: u64, moment: i64) -> Result<Option<(FileName, Row)>> {
        self.newest_if(files, key, lsn, moment, Likely::There)
    }

    /// As [`Catalog::newest`]; `likely` is only about what it costs.
    pub fn newest_if(
        &self,
        files: &Files,
        key: &Key,
        lsn: u64,
        moment: i64,
        likely: Likely,
    ) -> Result<Option<(FileName, Row)>> {
        let hash = index::key_hash(key);
        let mut best: Option<(FileName, Row)> = None;
        for segment in self.segments.iter().rev() {
            // What was recorded later counts later, so an older segment cannot do better.
            if best.is_some_and(|(_, b)| b.lsn >= segment.last_lsn()) {
                continue;
            }
            if let Some(row) = segment.newest(files, key, hash, (lsn, moment), likely)?
                && best.is_none_or(|(_, b)| b.lsn < row.lsn)
            {
                best = Some((segment.name, row));
            }
        }
        Ok(best)
    }
}

impl Segment {
    /// A segment and its index.
    #[must_use]
    pub fn new(name: FileName, part: SegmentPart) -> Self {
        let covers = match &part {
            SegmentPart::Run(r) if name.kind == FileKind::Run => (r.trailer.first_segment, r.trailer.last_segment),
            _ => (name.number, name.number),
        };
        Self::covering(name, covers, part)
    }

    /// As [`Segment::new`], where something else says which segments it covers.
    #[must_use]
    pub fn covering(name: FileName, covers: (u64, u64), part: SegmentPart) -> Self {
        Self { name, covers, part, rebuilt: Arc::default() }
    }

    /// Lives as long as a catalog has this segment, and so as long as anybody here may still read its file.
    #[must_use]
    pub fn pin(&self) -> Pin {
        Pin(Arc::downgrade(&self.rebuilt))
    }

    /// Does `ask`, and again when a block of a run's index was damaged and could be made from the frames. Those are in the
    /// order of the rows, so that takes the stretch between the neighbours' frames and no more memory than a few blocks.
    fn mending<R>(&self, files: &Files, mut ask: impl FnMut() -> Result<R>) -> Result<R> {
        loop {
            match ask() {
                Err(e) if is_index_damage(&e) && self.name.kind == FileKind::Run => self.mend(files, e)?,
                other => return other,
            }
        }
    }

    fn mend(&self, files: &Files, why: Error) -> Result<()> {
        let SegmentPart::Run(run) = &self.part else { return Err(why) };
        let Error::Damage(damage) = &why else { return Err(why) };
        let Some(broken) = run.block_at(damage.offset).filter(|_| damage.file == self.name) else { return Err(why) };
        // The stretch of blocks that do not verify, and where the frames before and behind it are.
        let (mut first, mut last) = (broken, broken);
        let mut from = mailstrata_format::BLOCK as u64;
        while let Some(before) = first.checked_sub(1) {
            if let Some(bytes) = sound(run.block(files, before))? {
                let row = bytes.get((run.rows_in(before) - 1) * ROW..).and_then(Row::decode);
                from = row.map_or(from, |r| u64::from(r.offset) + u64::from(r.length));
                break;
            }
            first = before;
        }
        let mut to = run.trailer.data_end;
        while last + 1 < run.block_count() {
            if let Some(bytes) = sound(run.block(files, last + 1))? {
                to = Row::decode(&bytes).map_or(to, |r| u64::from(r.offset));
                break;
            }
            last += 1;
        }
        if last - first >= MEND_MAX {
            return Err(why);
        }
        tracing::error!(error = %why, blocks = last - first + 1, "rows of the index are made from the frames");
        let expected: usize = (first..=last).map(|b| run.rows_in(b)).sum();
        let file = files.get(self.name)?;
        let walk = Walk {
            file: &file,
            path: &files.path(self.name),
            store: files.store,
            name: self.name,
            limit: run.trailer.data_end,
            vouched: Vouched::default(),
            from: None,
        };
        let mut rows: Vec<u8> = Vec::with_capacity(expected * ROW);
        walk.frames_between(from, to, &mut |frame, offset| {
            let (row, source) = row_of(frame, offset);
            rows.extend_from_slice(&Row { source: low_half(source), ..row }.encode());
        })?;
        // Fewer than there were: nobody knows which are missing.
        if rows.len() != expected * ROW {
            return Err(why);
        }
        for (block, rows) in (first..=last).zip(rows.chunks(ROWS_PER_BLOCK * ROW)) {
            run.mend(block, rows);
        }
        Ok(())
    }

    /// The rows from the frames themselves, when the index is damaged; an error when they are damaged as well, since nobody knows
    /// then what is missing.
    fn rebuild(&self, files: &Files, why: &Error) -> Result<&SegmentTable> {
        let rebuilt = self.rebuilt(files, why)?;
        if rebuilt.complete { Ok(&rebuilt.table) } else { Err(why.clone()) }
    }

    fn rebuilt(&self, files: &Files, why: &Error) -> Result<&Rebuilt<SegmentTable>> {
        let SegmentPart::Run(run) = &self.part else { return Err(why.clone()) };
        if self.name.kind == FileKind::Run {
            // What `mend` could not make is not there.
            return Err(why.clone());
        }
        if let Some(rebuilt) = self.rebuilt.get() {
            return Ok(rebuilt);
        }
        tracing::error!(error = %why, "the index is rebuilt from the segment");
        let table = Arc::new(SegmentTable::new(self.name.number));
        let vouched = Vouched { end: run.trailer.data_end, successor: Some(run.trailer.root) };
        let walk = Walk {
            file: &files.get(self.name)?,
            path: &files.path(self.name),
            store: files.store,
            name: self.name,
            limit: run.trailer.data_end,
            vouched,
            from: None,
        };
        let walked = walk.run(&mut |frame, offset| {
            let (row, source) = row_of(frame, offset);
            table.insert(&row, source);
        })?;
        Ok(self.rebuilt.get_or_init(|| Rebuilt { table, complete: walked.damage.is_empty() }))
    }

    /// LSN of the last row.
    #[must_use]
    pub fn last_lsn(&self) -> u64 {
        match &self.part {
            SegmentPart::Table(t) => t.last_lsn(),
            SegmentPart::Run(r) => r.trailer.last_lsn,
        }
    }

    /// What is known of the rows as a whole.
    #[must_use]
    pub fn span(&self) -> Span {
        match &self.part {
            SegmentPart::Table(t) => t.span(),
            SegmentPart::Run(r) => Span {
                first_lsn: r.trailer.first_lsn,
                last_lsn: r.trailer.last_lsn,
                first_moment: r.trailer.first_moment,
                last_moment: r.trailer.last_moment,
                rows: r.trailer.row_count,
            },
        }
    }

    /// The newest row of an item with LSN and moment of `until` at most. `hash` is [`index::key_hash`] of the key.
    fn newest(&self, files: &Files, key: &Key, hash: u64, until: (u64, i64), likely: Likely) -> Result<Option<Row>> {
        match self.mending(files, || self.newest_in(files, key, hash, until, likely)) {
            Err(e) if is_index_damage(&e) => Ok(self.rebuild(files, &e)?.newest(key, until.0, until.1)),
            other => other,
        }
    }

    fn newest_in(
        &self,
        files: &Files,
        key: &Key,
        hash: u64,
        (lsn, moment): (u64, i64),
        likely: Likely,
    ) -> Result<Option<Row>> {
        let run = match &self.part {
            SegmentPart::Table(t) => return Ok(t.newest(key, lsn, moment)),
            SegmentPart::Run(r) if r.may_hold(hash) => r,
            SegmentPart::Run(_) => return Ok(None),
        };
        let mut newest = None;
        let place = match likely {
            Likely::There => run.lower_bound(files, key)?,
            Likely::New => run.lower_bound_alone(files, key)?,
        };
        let mut cursor = RunCursor::new(run, files, place);
        // Moments of an item never fall as LSNs rise, so the last row that passes is the newest.
        while let Some(row) = cursor.row()?.filter(|r| r[..32] == *key).and_then(|r| Row::decode(r)) {
            if row.lsn > lsn || row.moment > moment {
                break;
            }
            newest = Some(row);
            cursor.step();
        }
        Ok(newest)
    }

    /// The rows of one item, in LSN order.
    pub fn rows_of(&self, files: &Files, key: &Key, last_lsn: u64) -> Result<Vec<Row>> {
        match self.mending(files, || self.rows_in(files, key, last_lsn)) {
            Err(e) if is_index_damage(&e) => Ok(self.rebuild(files, &e)?.rows_of(key, last_lsn)),
            other => other,
        }
    }

    fn rows_in(&self, files: &Files, key: &Key, last_lsn: u64) -> Result<Vec<Row>> {
        let run = match &self.part {
            SegmentPart::Table(t) => return Ok(t.rows_of(key, last_lsn)),
            SegmentPart::Run(r) if r.may_hold(index::key_hash(key)) => r,
            SegmentPart::Run(_) => return Ok(Vec::new()),
        };
        let mut rows = Vec::new();
        let place = run.lower_bound(files, key)?;
        let mut cursor = RunCursor::new(run, files, place);
        while let Some(row) = cursor.row()?.filter(|r| r[..32] == *key).and_then(|r| Row::decode(r)) {
            if row.lsn <= last_lsn {
                rows.push(row);
            }
            cursor.step();
        }
        Ok(rows)
    }

    /// LSNs of an item's rows in this segment that carry a source hash.
    pub fn with_source(&self, files: &Files, key: &Key, hash: u64) -> Result<Vec<Row>> {
        match &self.part {
            SegmentPart::Table(t) => Ok(t.with_source(key, hash)),
            SegmentPart::Run(r) if r.may_hold(hash) => {
                let low = low_half(hash);
                Ok(self.rows_of(files, key, u64::MAX)?.into_iter().filter(|r| r.source == low).collect())
            }
            SegmentPart::Run(_) => Ok(Vec::new()),
        }
    }
}

/// Walks a segment's rows in key order.
pub enum SegmentCursor<'a> {
    Table(TableCursor<'a>),
    Run { cursor: RunCursor<'a>, segment: &'a Segment, files: &'a Files, next: (Key, u64), last_lsn: u64 },
}

impl<'a> SegmentCursor<'a> {
    /// A cursor at the first row whose key is not below `key`.
    pub fn seek(segment: &'a Segment, files: &'a Files, key: &Key, last_lsn: u64) -> Result<Self> {
        Ok(match &segment.part {
            SegmentPart::Table(t) => Self::Table(TableCursor::seek(t, &(*key, 0), last_lsn)),
            SegmentPart::Run(r) => match segment.mending(files, || r.lower_bound(files, key)) {
                Ok(place) => {
                    let cursor = RunCursor::new(r, files, place);
                    Self::Run { cursor, segment, files, next: (*key, 0), last_lsn }
                }
                Err(e) if is_index_damage(&e) => Self::rebuilt(segment, files, (*key, 0), last_lsn, &e)?,
                Err(e) => return Err(e),
            },
        })
    }

    fn rebuilt(segment: &'a Segment, files: &'a Files, next: (Key, u64), last_lsn: u64, why: &Error) -> Result<Self> {
        let table = segment.rebuild(files, why)?;
        Ok(Self::Table(TableCursor::seek(table, &next, last_lsn)))
    }

    /// The row here.
    pub fn row(&mut self) -> Result<Option<Row>> {
        match self {
            Self::Run { cursor, segment, files, next, last_lsn } => {
                let found = cursor.row().map(|r| r.and_then(|r: &[u8; ROW]| Row::decode(r)));
                match found {
                    Ok(Some(row)) => {
                        *next = (row_key(&row), row.lsn);
                        Ok(Some(row))
                    }
                    Err(e) if is_index_damage(&e) && segment.mend(files, e.clone()).is_ok() => self.row(),
                    Err(e) if is_index_damage(&e) => {
                        // Go on behind the last row given out, which `next` names until it is stepped over.
                        *self = Self::rebuilt(segment, files, *next, *last_lsn, &e)?;
                        self.row()
                    }
                    other => other,
                }
            }
            Self::Table(c) => Ok(c.row()),
        }
    }

    /// Goes on to the next row.
    pub fn step(&mut self) {
        match self {
            Self::Run { cursor, next, .. } => {
                cursor.step();
                next.1 += 1;
            }
            Self::Table(c) => c.step(),
        }
    }
}
