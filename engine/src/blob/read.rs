//! Giving a blob back: chunk by chunk, each verified before its bytes leave, the digest at the end.

use crate::disk::read_full;
use crate::error::{Error, Result};
use crate::files::{Files, Raw};
use mailstrata_format::digest::Hasher;
use mailstrata_format::frame::{CODEC_PLAIN, CODEC_ZSTD};
use mailstrata_format::pack::{CHUNK_RAW_MAX, ChunkHeader, EntryHeader, Extent, chunk_len};
use mailstrata_format::{Binding, Damage, DamageKind, FileKind, FileName};
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::sync::Arc;

thread_local! {
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
    /// What entries are read into; away while somebody reads.
    static WINDOW: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Decompresses what claims to be `raw_len` bytes, and is not believed beyond that.
pub fn decompress(stored: &[u8], raw_len: usize) -> Option<Vec<u8>> {
    DECOMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = zstd::bulk::Decompressor::new().ok();
        }
        let raw = slot.as_mut()?.decompress(stored, raw_len).ok()?;
        (raw.len() == raw_len).then_some(raw)
    })
}

/// Bytes read in one go around the start of an entry: small entries come whole.
const ENTRY_READ: usize = 320 << 10;

struct Source<'a> {
    files: &'a Files,
    name: FileName,
    file: Arc<dyn crate::disk::File>,
    /// Bytes read ahead are its first `filled`; it is not cleared between reads.
    window: Vec<u8>,
    filled: usize,
    /// Where the window starts in the file.
    start: u64,
    end: u64,
}

impl<'a> Source<'a> {
    fn open(files: &'a Files, name: FileName, end: u64) -> Result<Self> {
        let file = files.get(name)?;
        Ok(Self { files, name, file, window: WINDOW.take(), filled: 0, start: 0, end })
    }

    /// `len` bytes at an offset within the entry. What is not at hand is read with up to `ahead` bytes.
    fn get(&mut self, offset: u64, len: usize, ahead: usize) -> Result<&[u8]> {
        let inside = offset >= self.start && offset + len as u64 <= self.start + self.filled as u64;
        if !inside {
            let left = usize::try_from(self.end.saturating_sub(offset)).unwrap_or(usize::MAX);
            let want = left.clamp(len, ahead.max(len));
            if self.window.len() < want {
                self.window.resize(want.max(ENTRY_READ), 0);
            }
            self.filled = 0;
            let to = self.window.get_mut(..want).unwrap_or_default();
            self.filled =
                read_full(self.file.as_ref(), to, offset).map_err(Error::io("reading", self.files.path(self.name)))?;
            self.start = offset;
        }
        let from = usize::try_from(offset - self.start).unwrap_or(usize::MAX);
        let filled = self.window.get(..self.filled).unwrap_or_default();
        let found = filled.get(from..from.saturating_add(len));
        found.ok_or_else(|| Damage::new(self.name, offset, DamageKind::FileTruncated).into())
    }
}

impl Drop for Source<'_> {
    fn drop(&mut self) {
        WINDOW.set(std::mem::take(&mut self.window));
    }
}

/// Streams a plain blob to `sink` and verifies its digest. Bytes that reached `sink` were each under a verified checksum; when
/// the digest is wrong all the same, the error comes after them.
pub fn stream(files: &Files, extent: &Extent, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let name = FileName::new(FileKind::Pack, extent.pack);
    let wrong = || Error::Damage(Damage::new(name, extent.entry_offset, DamageKind::BlobDigest));
    let mut hasher = Hasher::default();
    let end = extent.start().checked_add(extent.length).ok_or_else(wrong)?;
    range(files, extent, extent.start()..end, &mut |bytes| {
        hasher.update(bytes);
        sink(bytes)
    })?;
    if hasher.finish() == extent.digest { Ok(()) } else { Err(wrong()) }
}

/// Streams a range of an entry's raw bytes to `sink`, each byte under a verified checksum.
pub fn range(
    files: &Files,
    extent: &Extent,
    range: Range<u64>,
    sink: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let name = FileName::new(FileKind::Pack, extent.pack);
    let damage = |offset, kind| Error::Damage(Damage::new(name, offset, kind));
    let end = range.end;
    let place = Binding::new(files.store, name, 0);
    let mut source = None;
    let mut at = extent.entry_offset + EntryHeader::SIZE as u64;
    let mut done = range.start;
    // The chunk at `at` begins here in the entry's raw bytes, or nothing is known of that yet.
    let mut begins = 0;
    let limit = extent.entry_offset + extent.entry_len;
    while done < end {
        if let Some(raw) = files.chunks.get(&(extent.pack, at)) {
            begins = raw.offset.saturating_add(raw.bytes.len() as u64);
            if begins > done {
                give(&raw.bytes, raw.offset, &mut done, end, sink)?;
            }
            at += raw.file_len;
            continue;
        }
        let from = match &mut source {
            Some(source) => source,
            none => none.insert(Source::open(files, name, limit)?),
        };
        if at + ChunkHeader::SIZE as u64 > limit {
            return Err(damage(at, DamageKind::Chunk));
        }
        // Of chunks that are passed over only the headers are read.
        let passes = begins.saturating_add(CHUNK_RAW_MAX as u64) <= done;
        let ahead = if passes { ChunkHeader::SIZE } else { ENTRY_READ };
        let header = ChunkHeader::read(from.get(at, ChunkHeader::SIZE, ahead)?, &place.at(at))
            .ok_or_else(|| damage(at, DamageKind::Chunk))?;
        let length = chunk_len(header.stored_len);
        begins = header.raw_offset.saturating_add(u64::from(header.raw_len));
        if begins <= done {
            at += length;
            continue;
        }
        let stored_at = at + ChunkHeader::SIZE as u64;
        let padded = usize::try_from(length).unwrap_or(usize::MAX) - ChunkHeader::SIZE;
        let stored = from.get(stored_at, padded, ENTRY_READ)?;
        if !header.vouches_for(stored, &place.at(at)) {
            return Err(damage(at, DamageKind::Chunk));
        }
        let stored = stored.get(..header.stored_len as usize).unwrap_or_default();
        let raw_len = header.raw_len as usize;
        // A chunk that many blobs share is worth keeping.
        let keep = range.end - range.start < raw_len as u64;
        let raw = match header.codec {
            CODEC_PLAIN if stored.len() == raw_len && keep => Cow::Owned(stored.to_vec()),
            CODEC_PLAIN if stored.len() == raw_len => Cow::Borrowed(stored),
            CODEC_ZSTD => Cow::Owned(decompress(stored, raw_len).ok_or_else(|| damage(at, DamageKind::Chunk))?),
            _ => return Err(damage(at, DamageKind::Chunk)),
        };
        if header.raw_offset > done || raw.is_empty() {
            return Err(damage(at, DamageKind::Chunk));
        }
        give(&raw, header.raw_offset, &mut done, end, sink)?;
        if let (true, Cow::Owned(bytes)) = (keep, raw) {
            let raw = Raw { offset: header.raw_offset, file_len: length, bytes };
            files.chunks.insert((extent.pack, at), Arc::new(raw));
        }
        at += length;
    }
    Ok(())
}

/// Passes on the part of a chunk that belongs to the blob.
fn give(
    raw: &[u8],
    raw_offset: u64,
    done: &mut u64,
    end: u64,
    sink: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let from = usize::try_from(done.saturating_sub(raw_offset)).unwrap_or(usize::MAX).min(raw.len());
    let to = usize::try_from(end - raw_offset).unwrap_or(usize::MAX).min(raw.len());
    let part = raw.get(from..to).unwrap_or_default();
    sink(part)?;
    *done += part.len() as u64;
    Ok(())
}
