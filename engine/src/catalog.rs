//! What a view can reach: the segments and packs of a store at one moment, each with its index.
//!
//! Replaced whole when a file is sealed, so a view that holds an older catalog goes on undisturbed (P8).

use crate::error::{Error, Result};
use crate::files::Files;
use crate::index::run::{IndexRun, RunCursor};
use crate::index::table::{PackTable, SegmentTable, Span, TableCursor};
use crate::index::{Key, row_key};
use crate::log::pack_walk::PackWalk;
use crate::log::walk::{Vouched, Walk, row_of};
use mailstrata_format::index::{self, PackRow, ROW, Row};
use mailstrata_format::pack::Extent;
use mailstrata_format::{DamageKind, Digest, FileKind, FileName};
use std::sync::{Arc, OnceLock};

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

/// A segment that a view can reach.
#[derive(Clone)]
pub struct Segment {
    pub number: u64,
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

/// Whether an error is a damaged block of an index, which the data can make good.
fn is_index_damage(e: &Error) -> bool {
    matches!(e, Error::Damage(d) if d.kind == DamageKind::IndexBlock)
}

/// Segments and packs, each in the order of their numbers.
#[derive(Clone, Default)]
pub struct Catalog {
    pub segments: Vec<Segment>,
    pub packs: Vec<Pack>,
}

impl Catalog {
    /// The newest row of an item with LSN ≤ `lsn` and moment ≤ `moment`, and its segment.
    pub fn newest(&self, files: &Files, key: &Key, lsn: u64, moment: i64) -> Result<Option<(u64, Row)>> {
        let hash = index::key_hash(key);
        let mut best: Option<(u64, Row)> = None;
        for segment in self.segments.iter().rev() {
            // What was recorded later counts later, so an older segment cannot do better.
            if best.is_some_and(|(_, b)| b.lsn >= segment.last_lsn()) {
                continue;
            }
            if let Some(row) = segment.newest(files, key, hash, lsn, moment)?
                && best.is_none_or(|(_, b)| b.lsn < row.lsn)
            {
                best = Some((segment.number, row));
            }
        }
        Ok(best)
    }
}

impl Segment {
    /// A segment and its index.
    #[must_use]
    pub fn new(number: u64, part: SegmentPart) -> Self {
        Self { number, part, rebuilt: Arc::default() }
    }

    /// The rows from the frames themselves, when the index is damaged; an error when they are damaged as well, since nobody knows
    /// then what is missing.
    fn rebuild(&self, files: &Files, why: &Error) -> Result<&SegmentTable> {
        let rebuilt = self.rebuilt(files, why)?;
        if rebuilt.complete { Ok(&rebuilt.table) } else { Err(why.clone()) }
    }

    fn rebuilt(&self, files: &Files, why: &Error) -> Result<&Rebuilt<SegmentTable>> {
        let SegmentPart::Run(run) = &self.part else { return Err(why.clone()) };
        if let Some(rebuilt) = self.rebuilt.get() {
            return Ok(rebuilt);
        }
        tracing::error!(error = %why, "the index is rebuilt from the segment");
        let name = FileName::new(FileKind::Segment, self.number);
        let table = Arc::new(SegmentTable::new(self.number));
        let vouched = Vouched { end: run.trailer.data_end, successor: Some(run.trailer.root) };
        let walk = Walk {
            file: &files.get(name)?,
            path: &files.path(name),
            store: files.store,
            number: self.number,
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

    /// The newest row of an item with LSN ≤ `lsn` and moment ≤ `moment`. `hash` is [`index::key_hash`] of the key.
    pub fn newest(&self, files: &Files, key: &Key, hash: u64, lsn: u64, moment: i64) -> Result<Option<Row>> {
        match self.newest_in(files, key, hash, lsn, moment) {
            Err(e) if is_index_damage(&e) => Ok(self.rebuild(files, &e)?.newest(key, lsn, moment)),
            other => other,
        }
    }

    fn newest_in(&self, files: &Files, key: &Key, hash: u64, lsn: u64, moment: i64) -> Result<Option<Row>> {
        let run = match &self.part {
            SegmentPart::Table(t) => return Ok(t.newest(key, lsn, moment)),
            SegmentPart::Run(r) if r.may_hold(hash) => r,
            SegmentPart::Run(_) => return Ok(None),
        };
        let mut newest = None;
        let place = run.lower_bound(files, key)?;
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
        match self.rows_in(files, key, last_lsn) {
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
                let low = crate::index::table::low_half(hash);
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
            SegmentPart::Run(r) => match r.lower_bound(files, key) {
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
