//! What a view can reach: the segments and packs of a store at one moment, each with its index.
//!
//! Replaced whole when a file is sealed, so a view that holds an older catalog goes on undisturbed (P8).

use crate::error::Result;
use crate::files::Files;
use crate::index::run::{IndexRun, RunCursor};
use crate::index::table::{PackTable, SegmentTable, Span};
use crate::index::{Key, row_key};
use mailstrata_format::index::{self, ROW, Row};
use std::sync::Arc;

/// The index of a segment.
#[derive(Clone)]
pub enum SegmentPart {
    /// In memory: being written, or rebuilt because its footer was lost.
    Table(Arc<SegmentTable>),
    /// Sealed.
    Run(Arc<IndexRun>),
}

/// A segment that a view can reach.
#[derive(Clone)]
pub struct Segment {
    pub number: u64,
    pub part: SegmentPart,
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
    /// LSN of the last row.
    #[must_use]
    pub fn last_lsn(&self) -> u64 {
        match &self.part {
            SegmentPart::Table(t) => t.span().last_lsn,
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
        let run = match &self.part {
            SegmentPart::Table(t) => return Ok(t.newest(key, lsn, moment)),
            SegmentPart::Run(r) if r.may_hold(hash) => r,
            SegmentPart::Run(_) => return Ok(None),
        };
        let mut newest = None;
        let place = run.lower_bound(files, key, |r| r[..32] < key[..])?;
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
        let run = match &self.part {
            SegmentPart::Table(t) => {
                let mut rows = t.rows_from(key, 0, last_lsn, usize::MAX.min(1 << 24));
                rows.retain(|r| row_key(r) == *key);
                return Ok(rows);
            }
            SegmentPart::Run(r) if r.may_hold(index::key_hash(key)) => r,
            SegmentPart::Run(_) => return Ok(Vec::new()),
        };
        let mut rows = Vec::new();
        let place = run.lower_bound(files, key, |r| r[..32] < key[..])?;
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
            SegmentPart::Table(t) => {
                let item = |lsn| t.rows_from(key, lsn, lsn, 1).into_iter().find(|r| r.lsn == lsn && row_key(r) == *key);
                Ok(t.with_source(hash).into_iter().filter_map(item).collect())
            }
            SegmentPart::Run(r) if r.may_hold(hash) => {
                let low = crate::index::table::low_half(hash);
                Ok(self.rows_of(files, key, u64::MAX)?.into_iter().filter(|r| r.source == low).collect())
            }
            SegmentPart::Run(_) => Ok(Vec::new()),
        }
    }
}

/// How many rows of a table are copied out at a time.
const TABLE_BATCH: usize = 256;

/// Walks a segment's rows in key order.
pub enum SegmentCursor<'a> {
    Table { table: &'a SegmentTable, batch: std::collections::VecDeque<Row>, next: Option<(Key, u64)>, last_lsn: u64 },
    Run(RunCursor<'a>),
}

impl<'a> SegmentCursor<'a> {
    /// A cursor at the first row whose key is not below `key`.
    pub fn seek(segment: &'a Segment, files: &'a Files, key: &Key, last_lsn: u64) -> Result<Self> {
        Ok(match &segment.part {
            SegmentPart::Table(t) => {
                Self::Table { table: t, batch: Default::default(), next: Some((*key, 0)), last_lsn }
            }
            SegmentPart::Run(r) => {
                Self::Run(RunCursor::new(r, files, r.lower_bound(files, key, |row| row[..32] < key[..])?))
            }
        })
    }

    /// The row here.
    pub fn row(&mut self) -> Result<Option<Row>> {
        match self {
            Self::Run(c) => Ok(c.row()?.and_then(|r: &[u8; ROW]| Row::decode(r))),
            Self::Table { table, batch, next, last_lsn } => {
                if batch.is_empty()
                    && let Some((key, lsn)) = next.take()
                {
                    batch.extend(table.rows_from(&key, lsn, *last_lsn, TABLE_BATCH));
                    if batch.len() == TABLE_BATCH {
                        *next = batch.back().map(|r| (row_key(r), r.lsn + 1));
                    }
                }
                Ok(batch.front().copied())
            }
        }
    }

    /// Goes on to the next row.
    pub fn step(&mut self) {
        match self {
            Self::Run(c) => c.step(),
            Self::Table { batch, .. } => {
                batch.pop_front();
            }
        }
    }
}
