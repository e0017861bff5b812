//! Reads a segment's or run's content: groups, frames, and the end.
//!
//! In comes a file that nobody has vouched for; out go its frames with their places, the damage met, and where and how the
//! content ends. Nothing is written. Damage hides nothing that follows it: single frames of a broken group are found by
//! their headers, and the walk goes on at the next group that verifies.

use super::decide::{Decision, Here, decide};
use crate::disk::{File, read_full};
use crate::error::{Error, Result};
use mailstrata_format::file::FileHeader;
use mailstrata_format::frame::{self, FLAG_SOURCE, Frame, FrameFault};
use mailstrata_format::index::Row;
use mailstrata_format::segment::{self, GroupHeader};
use mailstrata_format::{ALIGN, BLOCK, Binding, Damage, DamageKind, FileKind, FileName, StoreId};
use std::path::Path;
use std::sync::Arc;

/// Acknowledged content that something outside the segment vouches for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Vouched {
    /// Content up to here is acknowledged (0: nobody says so).
    pub end: u64,
    /// There is a later segment, and its header names this check as that of the last group before it.
    pub successor: Option<[u8; 16]>,
}

/// How the content ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    /// Zeros follow, or the file ends: the segment may be continued.
    Clean,
    /// An unfinished group follows.
    Torn,
    /// Acknowledged content is damaged or missing.
    Damaged,
}

/// What a walk found.
#[derive(Debug, Clone)]
pub struct Walked {
    pub header: Option<FileHeader>,
    /// End of the last group, a multiple of 4096.
    pub end: u64,
    /// Sequence of the last group; what the header says when there is none.
    pub last_group: u64,
    /// Check of the last group; what the header says when there is none.
    pub chain: [u8; 16],
    pub last_lsn: u64,
    pub frames: u64,
    pub padding: u64,
    pub tail: Tail,
    pub damage: Vec<Damage>,
    /// End of what is not zero (the footer of a sealed file excepted).
    pub used: u64,
    /// Where the last group starts: all before it was durable when it was written.
    pub last_start: u64,
    /// The pack that the last group names, and how far that was durable.
    pub pack: u64,
    pub pack_end: u64,
}

impl Walked {
    const fn nothing() -> Self {
        Self {
            header: None,
            end: BLOCK as u64,
            last_group: 0,
            chain: [0; 16],
            last_lsn: 0,
            frames: 0,
            padding: 0,
            tail: Tail::Clean,
            damage: Vec::new(),
            used: 0,
            last_start: BLOCK as u64,
            pack: 0,
            pack_end: 0,
        }
    }
}

/// A frame's index row, and its source hash (0: none).
#[must_use]
pub fn row_of(frame: &Frame<'_>, offset: u64) -> (Row, u64) {
    let e = &frame.envelope;
    let row = Row {
        account: e.account,
        item: e.item,
        lsn: frame.header.lsn,
        moment: e.moment,
        offset: u32::try_from(offset).unwrap_or(u32::MAX),
        length: u32::try_from(frame.len).unwrap_or(u32::MAX),
        item_kind: e.item_kind,
        operation: e.operation,
        flags: e.flags,
        source: 0,
    };
    (row, if e.flags & FLAG_SOURCE == 0 { 0 } else { e.source_hash })
}

/// Reads around a place; keeps a megabyte.
struct Window<'a> {
    file: &'a Arc<dyn File>,
    path: &'a Path,
    bytes: Vec<u8>,
    start: u64,
    /// Content is read up to here.
    end: u64,
}

const WINDOW: usize = 1 << 20;

impl Window<'_> {
    /// Up to `len` bytes from `offset` on: fewer at the end.
    fn get(&mut self, offset: u64, len: usize) -> Result<&[u8]> {
        let have = self.start + self.bytes.len() as u64;
        let wanted_end = offset.saturating_add(len as u64).min(self.end);
        if offset < self.start || wanted_end > have {
            let room = usize::try_from(self.end.saturating_sub(offset)).unwrap_or(usize::MAX);
            self.bytes.resize(room.min(len.max(WINDOW)), 0);
            let n = read_full(self.file.as_ref(), &mut self.bytes, offset).map_err(Error::io("reading", self.path))?;
            self.bytes.truncate(n);
            self.start = offset;
        }
        let from = usize::try_from(offset - self.start).unwrap_or(usize::MAX).min(self.bytes.len());
        let to = from.saturating_add(len).min(self.bytes.len());
        Ok(&self.bytes[from..to])
    }
}

/// Walks a segment or run up to `limit` (the file's length, or where its footer starts). `from` continues a walk behind
/// content that a checkpoint covers. Frames go to `visit` with their offsets.
pub struct Walk<'a> {
    pub file: &'a Arc<dyn File>,
    pub path: &'a Path,
    pub store: StoreId,
    pub name: FileName,
    pub limit: u64,
    pub vouched: Vouched,
    /// Where to start, with the group sequence, chain and LSN before it; `None`: at the first group.
    pub from: Option<(u64, u64, [u8; 16], u64)>,
}

impl Walk<'_> {
    /// Does it.
    pub fn run(&self, visit: &mut dyn FnMut(&Frame<'_>, u64)) -> Result<Walked> {
        let name = self.name;
        let mut window = Window { file: self.file, path: self.path, bytes: Vec::new(), start: 0, end: self.limit };
        let place = Binding::new(self.store, name, 0);
        let mut out = Walked::nothing();
        let run = name.kind == FileKind::Run;
        let mut chain_known = true;
        match FileHeader::read(window.get(0, BLOCK)?, self.store, name) {
            // A run has a chain of its own, and its frames do not come in LSN order.
            Ok(h) if run => out.header = Some(h),
            Ok(h) => {
                out.last_group = h.first_group.saturating_sub(1);
                out.chain = h.previous;
                out.last_lsn = h.first_lsn.saturating_sub(1);
                out.header = Some(h);
            }
            Err(d) => {
                out.damage.push(d);
                chain_known = run;
            }
        }
        if let Some((offset, group, chain, lsn)) = self.from {
            (out.end, out.last_group, out.chain, out.last_lsn) = (offset, group, chain, lsn);
            chain_known = true;
        }
        out.used = out.end;
        loop {
            let at = out.end;
            let complete = self.vouched.successor == Some(out.chain);
            if at >= self.limit {
                if self.vouched.end > at || (self.vouched.successor.is_some() && !complete) {
                    out.damage.push(Damage::new(name, at, DamageKind::FileTruncated));
                    out.tail = Tail::Damaged;
                }
                return Ok(out);
            }
            if let Some(h) = self.group_at(&mut window, at, &place)? {
                let continues =
                    h.sequence == out.last_group + 1 && h.previous == out.chain && (run || h.first_lsn > out.last_lsn);
                if !continues && chain_known {
                    out.damage.push(Damage::new(name, at, DamageKind::Chain));
                }
                chain_known = true;
                self.take(&mut window, at, &h, &place, &mut out, visit)?;
                continue;
            }
            // Not a group: what lies behind decides.
            let (zeros, next, used) = self.look_ahead(&mut window, at, &place)?;
            if complete {
                // The next segment says that this is all: what follows is the beginning of a footer.
                out.tail = if zeros { Tail::Clean } else { Tail::Torn };
                return Ok(out);
            }
            let vouched = next.is_some() || self.vouched.end > at || self.vouched.successor.is_some();
            match decide(if zeros { Here::Zeros } else { Here::Other }, vouched) {
                Decision::CleanEnd | Decision::Take => return Ok(out),
                Decision::TornTail => {
                    out.tail = Tail::Torn;
                    out.used = used;
                    return Ok(out);
                }
                Decision::Damage => {
                    out.tail = Tail::Damaged;
                    out.used = used.max(at);
                    let header_ok = segment::header_at(window.get(at, GroupHeader::SIZE)?, &place.at(at)).is_some();
                    let kind = if header_ok { DamageKind::GroupBody } else { DamageKind::GroupHeader };
                    out.damage.push(Damage::new(name, at, kind));
                    let stop = next.unwrap_or_else(|| mailstrata_format::round_up(used, BLOCK as u64).unwrap_or(used));
                    self.salvage(&mut window, at, stop, &place, &mut out, visit)?;
                    // Nothing is written over what was acknowledged, damaged or not.
                    let kept = if next.is_some() { stop } else { stop.max(self.vouched.end) };
                    out.end = kept.max(at).min(self.limit);
                    chain_known = false;
                    if next.is_none() {
                        return Ok(out);
                    }
                }
            }
        }
    }

    fn group_at(&self, window: &mut Window<'_>, at: u64, place: &Binding) -> Result<Option<GroupHeader>> {
        let Some(h) = segment::header_at(window.get(at, GroupHeader::SIZE)?, &place.at(at)) else { return Ok(None) };
        let group = window.get(at, h.length as usize)?;
        Ok(segment::is_sound(&h, group, &place.at(at)).then_some(h))
    }

    fn take(
        &self,
        window: &mut Window<'_>,
        at: u64,
        h: &GroupHeader,
        place: &Binding,
        out: &mut Walked,
        visit: &mut dyn FnMut(&Frame<'_>, u64),
    ) -> Result<()> {
        let group = window.get(at, h.length as usize)?;
        let mut pos = GroupHeader::SIZE;
        let mut count = 0;
        while pos < h.used as usize {
            match frame::parse(&group[pos..h.used as usize], &place.at(at + pos as u64)) {
                Ok(f) => {
                    visit(&f, at + pos as u64);
                    out.last_lsn = out.last_lsn.max(f.header.lsn);
                    count += 1;
                    pos += f.len;
                }
                // The group verifies, so a writer made this: reported, and the rest is kept.
                Err(FrameFault::Body { len } | FrameFault::Malformed { len }) => {
                    out.damage.push(Damage::new(self.name, at + pos as u64, DamageKind::FrameBody));
                    pos += len;
                }
                Err(FrameFault::Header | FrameFault::Cut { .. }) => {
                    out.damage.push(Damage::new(self.name, at + pos as u64, DamageKind::FrameHeader));
                    break;
                }
            }
        }
        out.frames += count;
        out.padding += u64::from(h.length - h.used);
        out.end = at + u64::from(h.length);
        out.used = out.end;
        out.last_group = h.sequence;
        out.chain = h.check;
        out.last_start = at;
        (out.pack, out.pack_end) = (h.pack, h.pack_end);
        Ok(())
    }

    /// Whether only zeros follow; the next valid group behind `at`; the end of what is not zero.
    fn look_ahead(&self, window: &mut Window<'_>, at: u64, place: &Binding) -> Result<(bool, Option<u64>, u64)> {
        let mut used = at;
        let mut pos = at;
        while pos < self.limit {
            let block = window.get(pos, BLOCK)?;
            if block.is_empty() {
                break;
            }
            if let Some(last) = block.iter().rposition(|b| *b != 0) {
                used = pos + last as u64 + 1;
                if pos > at && self.group_at(window, pos, place)?.is_some() {
                    return Ok((false, Some(pos), used));
                }
            }
            pos += BLOCK as u64;
        }
        Ok((used == at, None, used))
    }

    /// Hands on the frames between two places that verify, found by their headers.
    pub fn frames_between(&self, from: u64, to: u64, visit: &mut dyn FnMut(&Frame<'_>, u64)) -> Result<()> {
        let mut window = Window { file: self.file, path: self.path, bytes: Vec::new(), start: 0, end: self.limit };
        let place = Binding::new(self.store, self.name, 0);
        self.salvage(&mut window, from, to, &place, &mut Walked::nothing(), visit)
    }

    /// Finds single frames between two places by their headers.
    fn salvage(
        &self,
        window: &mut Window<'_>,
        from: u64,
        to: u64,
        place: &Binding,
        out: &mut Walked,
        visit: &mut dyn FnMut(&Frame<'_>, u64),
    ) -> Result<()> {
        let mut pos = from;
        while pos < to {
            let Some((_, len)) = frame::header_at(window.get(pos, frame::FrameHeader::SIZE)?, &place.at(pos)) else {
                pos += ALIGN as u64;
                continue;
            };
            match frame::parse(window.get(pos, len)?, &place.at(pos)) {
                Ok(f) => {
                    visit(&f, pos);
                    out.frames += 1;
                    out.last_lsn = out.last_lsn.max(f.header.lsn);
                    pos += f.len as u64;
                }
                Err(_) => {
                    out.damage.push(Damage::new(self.name, pos, DamageKind::FrameBody));
                    pos += ALIGN as u64;
                }
            }
        }
        Ok(())
    }
}
