//! Giving a blob back: chunk by chunk, each verified before its bytes leave, the digest at the end.

use crate::disk::read_full;
use crate::error::{Error, Result};
use crate::files::Files;
use mailstrata_format::digest::Hasher;
use mailstrata_format::frame::{CODEC_PLAIN, CODEC_ZSTD};
use mailstrata_format::pack::{ChunkHeader, EntryHeader, Extent, chunk_len};
use mailstrata_format::{Binding, Damage, DamageKind, FileKind, FileName};
use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

thread_local! {
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
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
    /// Bytes read ahead, and where they start.
    window: Vec<u8>,
    start: u64,
    end: u64,
}

impl Source<'_> {
    /// `len` bytes at an offset within the entry.
    fn get(&mut self, offset: u64, len: usize) -> Result<&[u8]> {
        let inside = offset >= self.start && offset + len as u64 <= self.start + self.window.len() as u64;
        if !inside {
            let want =
                usize::try_from(self.end.saturating_sub(offset)).unwrap_or(usize::MAX).clamp(len, ENTRY_READ.max(len));
            self.window.resize(want, 0);
            let n = read_full(self.file.as_ref(), &mut self.window, offset)
                .map_err(Error::io("reading", self.files.path(self.name)))?;
            self.window.truncate(n);
            self.start = offset;
            if n < len {
                return Err(Damage::new(self.name, offset, DamageKind::FileTruncated).into());
            }
        }
        let from = usize::try_from(offset - self.start).unwrap_or(0);
        Ok(&self.window[from..from + len])
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
    let limit = extent.entry_offset + extent.entry_len;
    while done < end {
        if let Some(raw) = files.chunks.get(&(extent.pack, at)) {
            // A cached chunk begins with where it starts in the entry's raw bytes and its length in the file.
            let (head, raw) = raw.split_at(16);
            let word =
                |i: usize| head.get(i..i + 8).and_then(|b| b.first_chunk()).map_or(0, |b| u64::from_le_bytes(*b));
            give(raw, word(0), &mut done, end, sink)?;
            at += word(8);
            continue;
        }
        if source.is_none() {
            source = Some(Source { files, name, file: files.get(name)?, window: Vec::new(), start: 0, end: limit });
        }
        let Some(from) = source.as_mut() else { continue };
        if at + ChunkHeader::SIZE as u64 > limit {
            return Err(damage(at, DamageKind::Chunk));
        }
        let header = ChunkHeader::read(from.get(at, ChunkHeader::SIZE)?, &place.at(at))
            .ok_or_else(|| damage(at, DamageKind::Chunk))?;
        let length = chunk_len(header.stored_len);
        let chunk_end = header.raw_offset.saturating_add(u64::from(header.raw_len));
        if chunk_end <= done {
            at += length;
            continue;
        }
        let stored_at = at + ChunkHeader::SIZE as u64;
        let padded = usize::try_from(length).unwrap_or(usize::MAX) - ChunkHeader::SIZE;
        let stored = from.get(stored_at, padded)?;
        if !header.vouches_for(stored, &place.at(at)) {
            return Err(damage(at, DamageKind::Chunk));
        }
        let stored = &stored[..header.stored_len as usize];
        let raw_len = header.raw_len as usize;
        let raw = match header.codec {
            CODEC_PLAIN if stored.len() == raw_len => stored.to_vec(),
            CODEC_ZSTD => decompress(stored, raw_len).ok_or_else(|| damage(at, DamageKind::Chunk))?,
            _ => return Err(damage(at, DamageKind::Chunk)),
        };
        if header.raw_offset > done || raw.is_empty() {
            return Err(damage(at, DamageKind::Chunk));
        }
        give(&raw, header.raw_offset, &mut done, end, sink)?;
        // A chunk that many blobs share is worth keeping.
        if range.end - range.start < raw.len() as u64 {
            let mut kept = Vec::with_capacity(raw.len() + 16);
            kept.extend_from_slice(&header.raw_offset.to_le_bytes());
            kept.extend_from_slice(&length.to_le_bytes());
            kept.extend_from_slice(&raw);
            files.chunks.insert((extent.pack, at), kept.into());
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
