//! Everything in LSN order, over files that are not all in that order.
//!
//! A segment has its frames in LSN order and is read through a window. A run has them by account and item: its rows are taken
//! in slices of so many LSNs, with a pass over its index for each, and the frames of a slice are read a batch at a time, in
//! the order in which they lie there. So memory stays the same however large a run is; a history in LSN order costs more
//! there than in segments, and one by account ([`super::as_of::View::account_rows`]) less.

use super::as_of::{Hit, LogEntry, View};
use super::read as frames;
use crate::catalog::{Segment, SegmentCursor};
use crate::disk::{File, read_full};
use crate::error::{Error, Result};
use crate::files::Files;
use crate::ingest::event::Transaction;
use mailstrata_format::index::Row;
use mailstrata_format::{Binding, Damage, DamageKind, FileKind, FileName, ItemKind, Lsn};

/// Bytes of a segment read at once.
const WINDOW: usize = 1 << 20;
/// LSNs in a slice: rows of 64 bytes that are in memory at once.
const SLICE: u64 = 512 << 10;
/// Frames and bytes of a batch.
const BATCH: usize = 8192;
const BATCH_BYTES: usize = 8 << 20;
/// Bytes that are read and not wanted, when that spares a read.
const GAP: u64 = 16 << 10;
/// Longest read of a batch, unless a frame is longer.
const SPAN: u64 = 512 << 10;

/// Where a walk in LSN order is. The view is handed in anew for each step, and must be the same.
pub struct LogCursor {
    /// The LSN that comes next: they follow each other without gaps.
    next: u64,
    /// Index into the catalog's segments of the one to read next.
    segment: usize,
    /// The file that `rows` are of.
    file: FileName,
    /// A slice of its rows, in LSN order, and how many of them are done.
    rows: Vec<Row>,
    done: usize,
    /// Bytes of the segment from `start` on.
    window: Vec<u8>,
    start: u64,
    batch: Batch,
}

/// Frames of a run that were read together.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    /// Of the first row in the slice, and where the frame of each is in `bytes`; `None` when it could not be read with the
    /// others.
    first: usize,
    places: Vec<Option<usize>>,
}

impl LogCursor {
    /// A walk from an LSN on.
    #[must_use]
    pub fn new(from: Lsn) -> Self {
        Self {
            next: from.0.max(1),
            segment: 0,
            file: FileName::new(FileKind::Segment, 0),
            rows: Vec::new(),
            done: 0,
            window: Vec::new(),
            start: 0,
            batch: Batch::default(),
        }
    }

    /// The LSN of what comes next.
    #[must_use]
    pub const fn position(&self) -> Lsn {
        Lsn(self.next)
    }

    /// What comes next; `None` behind the view's last LSN.
    pub fn step(&mut self, view: &View) -> Option<Result<LogEntry>> {
        loop {
            let Some(row) = self.rows.get(self.done).copied() else {
                match self.next_slice(view) {
                    Ok(true) => continue,
                    Ok(false) => return self.gap(view, view.lsn.0 + 1, None).map(Ok),
                    Err(e) => return Some(Err(e)),
                }
            };
            if let Some(gap) = self.gap(view, row.lsn, Some(&row)) {
                return Some(Ok(gap));
            }
            if row.item_kind != ItemKind::Cursor.code() {
                match self.read(view, &row) {
                    Ok(t) => {
                        self.go_on(&row);
                        return Some(Ok(LogEntry::Transaction(Box::new(t))));
                    }
                    Err(e @ Error::Damage(_)) => {
                        self.go_on(&row);
                        return Some(Ok(LogEntry::Damaged(Hit { file: self.file, row }, e)));
                    }
                    Err(e) => {
                        self.go_on(&row);
                        return Some(Err(e));
                    }
                }
            }
            self.go_on(&row);
        }
    }

    fn go_on(&mut self, row: &Row) {
        self.next = row.lsn + 1;
        self.done += 1;
    }

    /// The next rows of a file that has any.
    fn next_slice(&mut self, view: &View) -> Result<bool> {
        (self.rows, self.done) = (Vec::new(), 0);
        (self.window, self.batch) = (Vec::new(), Batch::default());
        while let Some(s) = view.catalog.segments.get(self.segment) {
            // After an error the next step is about what follows.
            self.segment += 1;
            let (rows, more) = slice(s, &view.files, self.next, view.lsn.0)?;
            if more {
                self.segment -= 1;
            }
            if !rows.is_empty() {
                (self.rows, self.file) = (rows, s.name);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What is missing before an LSN.
    fn gap(&mut self, view: &View, lsn: u64, before: Option<&Row>) -> Option<LogEntry> {
        let (from, to) = (self.next, lsn.checked_sub(1)?);
        if from > to {
            return None;
        }
        self.next = lsn;
        let last = || view.catalog.segments.last().map_or(FileName::new(FileKind::Segment, 0), |s| s.name);
        let (file, offset) = before.map_or_else(|| (last(), 0), |row| (self.file, u64::from(row.offset)));
        let damage = Damage::new(file, offset, DamageKind::Chain);
        Some(LogEntry::Missing { from: Lsn(from), to: Lsn(to), error: damage.into() })
    }

    fn read(&mut self, view: &View, row: &Row) -> Result<Transaction> {
        let (name, files) = (self.file, &*view.files);
        let at = u64::from(row.offset);
        let damage = |kind| Error::Damage(Damage::new(name, at, kind));
        if name.kind == FileKind::Run
            && !(self.batch.first..self.batch.first + self.batch.places.len()).contains(&self.done)
        {
            self.batch.fill(files, name, &self.rows, self.done)?;
        }
        let batched = self.done.checked_sub(self.batch.first).and_then(|i| *self.batch.places.get(i)?);
        let bytes = match batched {
            Some(from) => self.batch.bytes.get(from..from.saturating_add(row.length as usize)),
            None => self.in_window(files, row)?,
        };
        let bytes = bytes.ok_or_else(|| damage(DamageKind::FileTruncated))?;
        let frame = frames::parse(bytes, &Binding::new(files.store, name, at))?;
        if frame.header.lsn != row.lsn {
            return Err(damage(DamageKind::IndexRow));
        }
        frames::with_record(&frame, name, at, |record| frames::to_transaction(&frame, record))?
            .ok_or_else(|| damage(DamageKind::Record))
    }

    /// A frame's bytes through the window; fewer at the end of the file are none.
    fn in_window(&mut self, files: &Files, row: &Row) -> Result<Option<&[u8]>> {
        let (at, len) = (u64::from(row.offset), row.length as usize);
        let inside = at >= self.start && at + len as u64 <= self.start + self.window.len() as u64;
        if !inside {
            self.window.resize(len.max(if self.file.kind == FileKind::Run { 0 } else { WINDOW }), 0);
            let file = files.get(self.file)?;
            let n = read_full(file.as_ref(), &mut self.window, at);
            let n = n.map_err(Error::io("reading", files.path(self.file)))?;
            self.window.truncate(n);
            self.start = at;
        }
        let from = usize::try_from(at - self.start).unwrap_or(usize::MAX);
        Ok(self.window.get(from..from.saturating_add(len)))
    }
}

/// The rows of a file with LSNs from `from` on, as far as a slice goes, in their order; and whether there are more up to `to`.
fn slice(s: &Segment, files: &Files, mut from: u64, to: u64) -> Result<(Vec<Row>, bool)> {
    loop {
        if s.last_lsn() < from || from > to {
            return Ok((Vec::new(), false));
        }
        let upto = to.min(from.saturating_add(SLICE - 1));
        let mut rows = Vec::new();
        let mut beyond: Option<u64> = None;
        let mut cursor = SegmentCursor::seek(s, files, &[0; 32], to)?;
        while let Some(row) = cursor.row()? {
            if (from..=upto).contains(&row.lsn) {
                rows.push(row);
            } else if row.lsn > upto && row.lsn <= to {
                beyond = Some(beyond.map_or(row.lsn, |b| b.min(row.lsn)));
            }
            cursor.step();
        }
        match beyond {
            Some(next) if rows.is_empty() => from = next,
            _ => {
                rows.sort_unstable_by_key(|r| r.lsn);
                return Ok((rows, beyond.is_some()));
            }
        }
    }
}

impl Batch {
    /// Reads the frames of the rows from `first` on, as many as a batch takes, in the order of their places.
    fn fill(&mut self, files: &Files, name: FileName, rows: &[Row], first: usize) -> Result<()> {
        let file = files.get(name)?;
        let mut bytes = 0;
        let fits = rows.iter().skip(first).take(BATCH).take_while(|r| {
            bytes += r.length as usize;
            bytes <= BATCH_BYTES
        });
        let mut order: Vec<(Row, usize)> = fits.zip(0..).map(|(r, i)| (*r, i)).collect();
        // A frame that is larger than a batch comes alone.
        if order.is_empty() {
            order.extend(rows.get(first).map(|r| (*r, 0)));
        }
        self.first = first;
        self.places = vec![None; order.len()];
        self.bytes.clear();
        order.sort_unstable_by_key(|(r, _)| r.offset);
        let mut rest = &order[..];
        let mut span = Vec::new();
        while let Some(((head, _), _)) = rest.split_first() {
            let start = u64::from(head.offset);
            let mut end = start;
            let together = rest.iter().take_while(|(r, _)| {
                let to = u64::from(r.offset) + u64::from(r.length);
                let joins = end == start || (u64::from(r.offset) <= end + GAP && to <= start + SPAN);
                if joins {
                    end = end.max(to);
                }
                joins
            });
            let count = together.count().max(1);
            let (these, others) = rest.split_at(count);
            rest = others;
            self.take_span(file.as_ref(), &mut span, these, (start, end));
        }
        Ok(())
    }

    /// Reads from `start` to `end` at once. What does not come is read again when its turn comes, and reported then.
    fn take_span(&mut self, file: &dyn File, span: &mut Vec<u8>, these: &[(Row, usize)], (start, end): (u64, u64)) {
        span.clear();
        span.resize(usize::try_from(end - start).unwrap_or(0), 0);
        let Ok(n) = read_full(file, span, start) else { return };
        for (row, i) in these {
            let from = usize::try_from(u64::from(row.offset) - start).unwrap_or(usize::MAX);
            let Some(frame) = span[..n].get(from..from.saturating_add(row.length as usize)) else { continue };
            if let Some(place) = self.places.get_mut(*i) {
                *place = Some(self.bytes.len());
                self.bytes.extend_from_slice(frame);
            }
        }
    }
}
