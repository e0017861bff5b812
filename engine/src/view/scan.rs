//! All of history once, in the order in which it lies on disk: for whoever looks at everything.
//!
//! In comes a view, out go its transactions in place, each verified (its frame's check, then validated access), none made
//! owned. Rules:
//!
//! - Sealed segments are read from end to end in large pieces, without their indexes and without any blob. Their groups must
//!   follow each other and hold as many frames as they say.
//! - Where one does not verify, and in segments that are being written, the index says what is there: each row's frame is
//!   looked at by itself, and damage is told of the item that it hit.
//! - Scanners' marks are not part of history. A file that is gone altogether is among the findings of the open.

use super::as_of::{Hit, View};
use super::read as frames;
use crate::catalog::{Segment, SegmentCursor, SegmentPart};
use crate::disk::{File, read_full};
use crate::error::{Error, Result};
use crate::index::run::IndexRun;
use crate::log::walk::row_of;
use mailstrata_format::frame::{self, Frame};
use mailstrata_format::record::v1::ArchivedTransactionV1;
use mailstrata_format::segment::{self, GroupHeader};
use mailstrata_format::{BLOCK, Binding, Damage, DamageKind, FileName, ItemKind};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

/// One step of [`View::scan`].
pub enum Scanned<'a> {
    Record(Hit, &'a Frame<'a>, &'a ArchivedTransactionV1),
    /// A transaction of this item is damaged.
    Damaged(Hit, Error),
}

/// Bytes read at once.
const WINDOW: usize = 1 << 20;

/// A piece of a file, read ahead.
struct Window {
    file: Arc<dyn File>,
    path: PathBuf,
    bytes: Vec<u8>,
    start: u64,
    /// Where what may be read ends.
    limit: u64,
}

impl Window {
    /// `len` bytes from `offset` on; fewer at the limit.
    fn get(&mut self, offset: u64, len: usize) -> Result<&[u8]> {
        let have = self.start + self.bytes.len() as u64;
        let end = offset.saturating_add(len as u64).min(self.limit);
        if offset < self.start || end > have {
            let room = usize::try_from(self.limit.saturating_sub(offset)).unwrap_or(usize::MAX);
            let size = room.min(len.max(WINDOW));
            self.bytes.resize(size, 0);
            // The device fetches the next piece while this one is looked at.
            let next = offset + size as u64;
            self.file.will_read(next, self.limit.saturating_sub(next).min(WINDOW as u64));
            let n = read_full(self.file.as_ref(), &mut self.bytes, offset).map_err(Error::io("reading", &self.path))?;
            self.bytes.truncate(n);
            self.start = offset;
        }
        let from = usize::try_from(offset - self.start).unwrap_or(usize::MAX).min(self.bytes.len());
        let to = from.saturating_add(len).min(self.bytes.len());
        Ok(self.bytes.get(from..to).unwrap_or_default())
    }
}

/// How far a sealed segment was read.
enum Reached {
    End,
    /// What follows from this offset on does not verify as a whole.
    Doubt(u64),
    /// The caller wants no more.
    Stopped,
}

impl View {
    /// Hands every transaction of the view to `each`, segment by segment in the order in which they lie there, until it
    /// breaks off. Damage is a step of its own; an error is one of the device.
    pub fn scan<F: FnMut(Scanned<'_>) -> ControlFlow<()>>(&self, mut each: F) -> Result<()> {
        for s in &self.catalog.segments {
            let from = match &s.part {
                SegmentPart::Run(run) => match self.scan_sealed(s, run, &mut each)? {
                    Reached::End => continue,
                    Reached::Stopped => return Ok(()),
                    Reached::Doubt(from) => from,
                },
                SegmentPart::Table(_) => 0,
            };
            if self.scan_rows(s, from, &mut each)?.is_break() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn window(&self, name: FileName, limit: u64) -> Result<Window> {
        let (file, path) = (self.files.get(name)?, self.files.path(name));
        Ok(Window { file, path, bytes: Vec::new(), start: 0, limit })
    }

    fn scan_sealed<F: FnMut(Scanned<'_>) -> ControlFlow<()>>(
        &self,
        s: &Segment,
        run: &IndexRun,
        each: &mut F,
    ) -> Result<Reached> {
        let name = s.name;
        let place = Binding::new(self.files.store, name, 0);
        let mut window = self.window(name, run.trailer.data_end)?;
        let mut at = BLOCK as u64;
        let mut sequence = None;
        while at < run.trailer.data_end {
            let head = segment::header_at(window.get(at, GroupHeader::SIZE)?, &place.at(at));
            let Some(h) = head.filter(|h| sequence.is_none_or(|s| h.sequence == s)) else {
                return Ok(Reached::Doubt(at));
            };
            let group = window.get(at, h.used as usize)?;
            let mut pos = GroupHeader::SIZE;
            let mut left = h.frame_count;
            while left > 0 {
                let here = at + pos as u64;
                let Some(Ok(frame)) = group.get(pos..).map(|rest| frame::parse(rest, &place.at(here))) else {
                    return Ok(Reached::Doubt(here));
                };
                let lsn = frame.header.lsn;
                if lsn <= self.lsn.0 && frame.envelope.item_kind != ItemKind::Cursor.code() {
                    let hit = Hit { file: s.name, row: row_of(&frame, here).0 };
                    let step =
                        frames::with_record(&frame, name, here, |record| each(Scanned::Record(hit, &frame, record)));
                    match step {
                        Ok(ControlFlow::Continue(())) => {}
                        Ok(ControlFlow::Break(())) => return Ok(Reached::Stopped),
                        Err(e @ Error::Damage(_)) => {
                            if each(Scanned::Damaged(hit, e)).is_break() {
                                return Ok(Reached::Stopped);
                            }
                        }
                        Err(e) => return Err(e),
                    }
                }
                pos += frame.len;
                left -= 1;
            }
            if pos != h.used as usize {
                return Ok(Reached::Doubt(at + pos as u64));
            }
            at += u64::from(h.length);
            sequence = Some(h.sequence + 1);
        }
        Ok(Reached::End)
    }

    /// The frames from an offset on that the index knows.
    fn scan_rows<F: FnMut(Scanned<'_>) -> ControlFlow<()>>(
        &self,
        s: &Segment,
        from: u64,
        each: &mut F,
    ) -> Result<ControlFlow<()>> {
        let name = s.name;
        let place = Binding::new(self.files.store, name, 0);
        let mut rows = Vec::new();
        let mut cursor = SegmentCursor::seek(s, &self.files, &[0; 32], self.lsn.0)?;
        while let Some(row) = cursor.row()? {
            if row.lsn <= self.lsn.0 && u64::from(row.offset) >= from && row.item_kind != ItemKind::Cursor.code() {
                rows.push(row);
            }
            cursor.step();
        }
        if rows.is_empty() {
            return Ok(ControlFlow::Continue(()));
        }
        rows.sort_unstable_by_key(|r| r.offset);
        let limit = rows.iter().map(|r| u64::from(r.offset) + u64::from(r.length)).max().unwrap_or(0);
        let mut window = self.window(name, limit)?;
        for row in rows {
            let (at, hit) = (u64::from(row.offset), Hit { file: s.name, row });
            let bytes = window.get(at, row.length as usize)?;
            let damage = |kind| Error::Damage(Damage::new(name, at, kind));
            let step = if bytes.len() < row.length as usize {
                Err(damage(DamageKind::FileTruncated))
            } else {
                frames::parse(bytes, &place.at(at)).and_then(|frame| {
                    if frame.header.lsn != row.lsn || frame.envelope.item != row.item {
                        return Err(damage(DamageKind::IndexRow));
                    }
                    frames::with_record(&frame, name, at, |record| each(Scanned::Record(hit, &frame, record)))
                })
            };
            let step = match step {
                Err(e @ Error::Damage(_)) => each(Scanned::Damaged(hit, e)),
                other => other?,
            };
            if step.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}
