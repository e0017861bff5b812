//! Reads a pack that has no footer: its entries, and the end.
//!
//! Entries follow each other; a flush pads to 4096. What does not verify is damage where something vouches for it (a footer,
//! the manifest's mark); else it is the torn end of flushes, several of which may have been on their way at once, and the
//! frames say whether anything is missing. Nothing is cut away: the pack is sealed behind it and a new one begun.

use crate::disk::{File, read_full};
use crate::error::{Error, Result};
use mailstrata_format::file::FileHeader;
use mailstrata_format::pack::{self, BlobRow, ChunkHeader, ENTRY_STREAMED, EntryHeader, Extent, TrailerHeader};
use mailstrata_format::{ALIGN, BLOCK, Binding, Damage, DamageKind, Digest, FileKind, FileName, StoreId};
use std::path::Path;
use std::sync::Arc;

/// What a walk found.
#[derive(Debug, Clone, Default)]
pub struct PackWalked {
    pub header: Option<FileHeader>,
    /// End of the last entry, rounded up to 4096.
    pub end: u64,
    pub entries: u64,
    pub padding: u64,
    /// Something that is no entry lies between or behind the entries; `end` is behind it.
    pub garbage: bool,
    pub damage: Vec<Damage>,
}

impl PackWalked {
    /// Nothing that verifies follows: `used` is the end of what is not zero.
    fn rest(&mut self, name: FileName, at: u64, used: u64, vouched_end: u64, kind: DamageKind) {
        if at < vouched_end {
            self.damage.push(Damage::new(name, at, kind));
        }
        self.garbage |= used > at || at < vouched_end;
        self.end = self.end.max(used).max(if at < vouched_end { vouched_end } else { 0 });
    }
}

/// How far behind a bad place another entry is looked for in one read.
const STEP: usize = 1 << 20;

/// A walk through pack `number` from `from` (at least 4096) to `limit`. Everything before `vouched_end` was acknowledged.
#[derive(Clone, Copy)]
pub struct PackWalk<'a> {
    pub file: &'a Arc<dyn File>,
    pub path: &'a Path,
    pub store: StoreId,
    pub number: u64,
    pub from: u64,
    pub limit: u64,
    pub vouched_end: u64,
}

impl PackWalk<'_> {
    /// Does it; extents go to `visit`.
    pub fn run(&self, visit: &mut dyn FnMut(Extent)) -> Result<PackWalked> {
        let Self { file, path, store, number, from, limit, vouched_end } = *self;
        let name = FileName::new(FileKind::Pack, number);
        let place = Binding::new(store, name, 0);
        let read = |at: u64, len: usize| -> Result<Vec<u8>> {
            let mut buf = vec![0; usize::try_from(limit.saturating_sub(at)).unwrap_or(usize::MAX).min(len)];
            let n = read_full(file.as_ref(), &mut buf, at).map_err(Error::io("reading", path))?;
            buf.truncate(n);
            Ok(buf)
        };
        let mut out = PackWalked { end: from, ..PackWalked::default() };
        out.header = FileHeader::read(&read(0, BLOCK)?, store, name).ok();
        let mut at = from;
        // The header of an entry comes with the trailer of the one before it, in one read.
        let mut head = read(at, EntryHeader::SIZE)?;
        if let Some(h) = EntryHeader::read(&head, &place.at(at)).filter(|h| h.flags & ENTRY_STREAMED != 0) {
            debug_assert_eq!(h.length, 0);
            streamed(&read, at, limit, &place, &mut out, visit)?;
            return Ok(out);
        }
        while at < limit {
            let Some(h) = EntryHeader::read(&head, &place.at(at)).filter(|h| h.flags & ENTRY_STREAMED == 0) else {
                let boundary = mailstrata_format::round_up(at, BLOCK as u64).unwrap_or(limit).min(limit);
                let gap = read(at, usize::try_from(boundary - at).unwrap_or(0))?;
                if boundary > at && gap.iter().all(|b| *b == 0) {
                    out.padding += boundary - at;
                    at = boundary;
                    head = read(at, EntryHeader::SIZE)?;
                    continue;
                }
                // Something else: look for a later entry.
                match next_entry(&read, at, limit, &place)? {
                    (Some(next), _) => {
                        if at < vouched_end {
                            out.damage.push(Damage::new(name, at, DamageKind::EntryHeader));
                        }
                        out.garbage = true;
                        at = next;
                        head = read(at, EntryHeader::SIZE)?;
                        continue;
                    }
                    (None, used) => {
                        out.rest(name, at, used, vouched_end, DamageKind::EntryHeader);
                        break;
                    }
                }
            };
            let end = at.saturating_add(h.length);
            let trailer_at = end.saturating_sub(u64::from(h.trailer_len));
            let tail = read(trailer_at, h.trailer_len as usize + EntryHeader::SIZE)?;
            // Header and trailer of a flush that was never synced may be there without what lies between them (W1): a blob of
            // it must not count as known. What was acknowledged is verified when it is read.
            let trailer = pack::read_trailer(&tail, &place.at(trailer_at)).filter(|_| end <= limit);
            let whole = match &trailer {
                Some((t, _)) => at < vouched_end || chunks_are_sound(&read, at, trailer_at, t.chunk_count, &place)?,
                None => false,
            };
            match trailer {
                Some((_, rows)) if whole => {
                    for r in rows {
                        visit(Extent {
                            pack: number,
                            entry_offset: at,
                            entry_len: h.length,
                            raw_offset: r.raw_offset,
                            length: r.length,
                            digest: Digest(r.digest),
                        });
                    }
                    out.entries += 1;
                    at = end;
                    out.end = at;
                    head = tail.get(h.trailer_len as usize..).unwrap_or_default().to_vec();
                }
                _ => {
                    let (next, used) = next_entry(&read, at, limit, &place)?;
                    let Some(next) = next else {
                        out.rest(name, at, used, vouched_end, DamageKind::EntryTrailer);
                        break;
                    };
                    if at < vouched_end {
                        out.damage.push(Damage::new(name, at, DamageKind::EntryTrailer));
                    }
                    out.garbage = true;
                    at = next;
                    head = read(at, EntryHeader::SIZE)?;
                }
            }
        }
        out.end = mailstrata_format::round_up(out.end, BLOCK as u64).unwrap_or(out.end);
        if out.header.is_none() && (out.entries > 0 || vouched_end > 0) {
            // Without either the file was being made when the power went, and nobody was promised anything.
            out.damage.push(Damage::new(name, 0, DamageKind::FileHeader));
        }
        Ok(out)
    }
}

/// Whether the chunks of the entry at `entry` are what their headers say, all of them, up to its trailer.
fn chunks_are_sound(
    read: &dyn Fn(u64, usize) -> Result<Vec<u8>>,
    entry: u64,
    trailer: u64,
    count: u32,
    place: &Binding,
) -> Result<bool> {
    let mut at = entry + EntryHeader::SIZE as u64;
    for index in 0..count {
        let Some(c) = ChunkHeader::read(&read(at, ChunkHeader::SIZE)?, &place.at(at)) else { return Ok(false) };
        let len = pack::chunk_len(c.stored_len);
        let body =
            read(at + ChunkHeader::SIZE as u64, usize::try_from(len).unwrap_or(0).saturating_sub(ChunkHeader::SIZE))?;
        if c.index != index || !c.vouches_for(&body, &place.at(at)) {
            return Ok(false);
        }
        at = at.saturating_add(len);
    }
    Ok(at == trailer)
}

/// A streamed entry: its chunks are walked up to the trailer that has its lengths.
fn streamed(
    read: &dyn Fn(u64, usize) -> Result<Vec<u8>>,
    entry: u64,
    limit: u64,
    place: &Binding,
    out: &mut PackWalked,
    visit: &mut dyn FnMut(Extent),
) -> Result<()> {
    let name = place.file;
    let mut at = entry + EntryHeader::SIZE as u64;
    while at < limit {
        let head = read(at, TrailerHeader::SIZE + BlobRow::SIZE)?;
        if let Some(c) = ChunkHeader::read(&head, &place.at(at)) {
            at = at.saturating_add(pack::chunk_len(c.stored_len));
        } else if let Some((t, rows)) = pack::read_trailer(&head, &place.at(at)) {
            for r in rows {
                visit(Extent {
                    pack: name.number,
                    entry_offset: entry,
                    entry_len: t.entry_len,
                    raw_offset: r.raw_offset,
                    length: r.length,
                    digest: Digest(r.digest),
                });
            }
            out.entries += 1;
            out.end = mailstrata_format::round_up(entry + t.entry_len, BLOCK as u64).unwrap_or(limit);
            return Ok(());
        } else {
            out.damage.push(Damage::new(name, at, DamageKind::Chunk));
            break;
        }
    }
    out.garbage = true;
    Ok(())
}

/// The next entry header behind `at`, else the end of what is not zero.
fn next_entry(
    read: &dyn Fn(u64, usize) -> Result<Vec<u8>>,
    at: u64,
    limit: u64,
    place: &Binding,
) -> Result<(Option<u64>, u64)> {
    let mut used = at;
    let mut base = at;
    while base < limit {
        let bytes = read(base, STEP + EntryHeader::SIZE)?;
        if bytes.is_empty() {
            break;
        }
        if let Some(last) = bytes.iter().rposition(|b| *b != 0) {
            used = base + last as u64 + 1;
        }
        let mut pos = 0;
        while pos < STEP && pos < bytes.len() {
            let here = base + pos as u64;
            if here > at
                && bytes[pos..].starts_with(&pack::ENTRY_MAGIC)
                && EntryHeader::read(&bytes[pos..], &place.at(here)).is_some()
            {
                return Ok((Some(here), used));
            }
            pos += ALIGN;
        }
        base += STEP as u64;
    }
    Ok((None, used))
}
