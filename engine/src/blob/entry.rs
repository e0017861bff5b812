//! Pack entries: blobs cut into chunks, compressed and hashed before anybody knows where they will lie.

use mailstrata_format::checksum::body_hash;
use mailstrata_format::frame::{CODEC_PLAIN, CODEC_ZSTD};
use mailstrata_format::pack::{
    self, BlobRow, CHUNK_MAGIC, CHUNK_RAW_MAX, ChunkHeader, ENTRY_MAGIC, EntryHeader, TrailerHeader,
};
use mailstrata_format::{ALIGN, Binding};
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use zstd::bulk::Compressor;

/// Compression level while there is time. 334 MB of mail in chunks of 256 KiB, one core: level 1 gives 139.6 MB at 578 MB/s,
/// 2 137.3 at 450, 3 136.1 at 335, 4 133.5 at 163, 6 132.7 at 129, 9 131.5 at 87. Behind 3 little is won for much; storing
/// parts once ([`super::compose`]) gives twice what the step from 3 to 6 does.
pub const LEVEL: i32 = 3;

/// Level while others wait to compress. Below 1 zstd leaves base64 as it is: −1 gives 31 % more than 3, 1 gives 3 %.
pub const LEVEL_PRESSED: i32 = 1;

/// Whether many wait for the processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    Calm,
    Pressed,
}

/// Compressors of this process, one for each core: what they share is the cores, whichever store they work for. A thread
/// waits for one; more of them would take turns in the caches, at a megabyte each.
struct Compressors {
    state: Mutex<Idle>,
    back: Condvar,
}

struct Idle {
    /// Each with the level it is set to.
    idle: Vec<(Compressor<'static>, i32)>,
    /// May still be made.
    unmade: usize,
    waiting: usize,
}

static COMPRESSORS: LazyLock<Compressors> = LazyLock::new(|| {
    let unmade = std::thread::available_parallelism().map_or(1, usize::from);
    Compressors { state: Mutex::new(Idle { idle: Vec::new(), unmade, waiting: 0 }), back: Condvar::new() }
});

/// A compressor for a while.
struct Lent {
    compressor: Option<(Compressor<'static>, i32)>,
}

impl Lent {
    /// Waits for a compressor. It is set to [`LEVEL`] when there is time and nobody else waits, else to [`LEVEL_PRESSED`].
    fn take(pace: Pace) -> Self {
        let mut s = locked(&COMPRESSORS.state);
        s.waiting += 1;
        while s.idle.is_empty() && s.unmade == 0 {
            s = COMPRESSORS.back.wait(s).unwrap_or_else(PoisonError::into_inner);
        }
        s.waiting -= 1;
        let level = if s.waiting > 0 || pace == Pace::Pressed { LEVEL_PRESSED } else { LEVEL };
        let idle = s.idle.pop();
        if idle.is_none() {
            s.unmade -= 1;
        }
        drop(s);
        // What cannot be made or set is not lent: then the chunk stays plain.
        let compressor = match idle {
            Some((c, at)) if at == level => Some((c, at)),
            Some((mut c, _)) => c.set_compression_level(level).ok().map(|()| (c, level)),
            None => Compressor::new(level).ok().map(|c| (c, level)),
        };
        Self { compressor }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut s = locked(&COMPRESSORS.state);
        match self.compressor.take() {
            Some(c) => s.idle.push(c),
            None => s.unmade += 1,
        }
        let waiting = s.waiting > 0;
        drop(s);
        if waiting {
            COMPRESSORS.back.notify_one();
        }
    }
}

fn locked(state: &Mutex<Idle>) -> MutexGuard<'_, Idle> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Compresses when it saves at least a sixteenth. `None`: keep it plain.
fn compress(raw: &[u8], pace: Pace) -> Option<Vec<u8>> {
    // Below this a zstd frame saves less than its own header costs.
    if raw.len() < 64 {
        return None;
    }
    let packed = Lent::take(pace).compressor.as_mut()?.0.compress(raw).ok()?;
    (packed.len() <= raw.len() - raw.len() / 16).then_some(packed)
}

/// A chunk ready to be given a place.
pub struct Chunk {
    codec: u8,
    raw_len: u32,
    raw_offset: u64,
    stored_len: u32,
    /// Padded to 8 bytes.
    stored: Vec<u8>,
    hash: u128,
}

impl Chunk {
    /// Compresses (when it helps) and hashes; `raw` is at most [`CHUNK_RAW_MAX`] bytes.
    #[must_use]
    pub fn new(raw: &[u8], raw_offset: u64, pace: Pace) -> Self {
        debug_assert!(raw.len() <= CHUNK_RAW_MAX);
        let (codec, mut stored) = match compress(raw, pace) {
            Some(packed) => (CODEC_ZSTD, packed),
            None => (CODEC_PLAIN, raw.to_vec()),
        };
        let stored_len = u32::try_from(stored.len()).unwrap_or(u32::MAX);
        stored.resize(stored.len().next_multiple_of(ALIGN), 0);
        Self {
            codec,
            raw_len: u32::try_from(raw.len()).unwrap_or(u32::MAX),
            raw_offset,
            stored_len,
            hash: body_hash(&stored),
            stored,
        }
    }

    /// Length in the file.
    #[must_use]
    pub fn file_len(&self) -> u64 {
        (ChunkHeader::SIZE + self.stored.len()) as u64
    }

    /// Header and stored bytes at their place.
    pub fn layout(&self, index: u32, place: &Binding, sink: &mut dyn FnMut(&[u8])) {
        let header = ChunkHeader {
            magic: CHUNK_MAGIC,
            codec: self.codec,
            reserved: [0; 3],
            index,
            raw_len: self.raw_len,
            stored_len: self.stored_len,
            raw_offset: self.raw_offset,
            check: [0; 16],
            crc: 0,
        };
        sink(&header.sealed(place, self.hash));
        sink(&self.stored);
    }
}

/// An entry ready to be given a place.
pub struct Entry {
    chunks: Vec<Chunk>,
    rows: Vec<BlobRow>,
    raw_len: u64,
}

impl Entry {
    /// An entry of these raw bytes, with at most [`pack::ENTRY_BLOBS_MAX`] rows.
    #[must_use]
    pub fn new(raw: &[u8], rows: Vec<BlobRow>, pace: Pace) -> Self {
        debug_assert!(rows.len() <= pack::ENTRY_BLOBS_MAX);
        // An entry of nothing but the empty blob has a chunk as well.
        let pieces = raw.chunks(CHUNK_RAW_MAX).chain(raw.is_empty().then_some(raw));
        let chunks =
            (0u64..).step_by(CHUNK_RAW_MAX).zip(pieces).map(|(at, piece)| Chunk::new(piece, at, pace)).collect();
        Self { chunks, rows, raw_len: raw.len() as u64 }
    }

    fn stored(&self) -> u64 {
        self.chunks.iter().map(Chunk::file_len).sum()
    }

    /// The blobs of the entry.
    #[must_use]
    pub fn rows(&self) -> &[BlobRow] {
        &self.rows
    }

    fn trailer_len(&self) -> usize {
        TrailerHeader::SIZE + self.rows.len() * BlobRow::SIZE
    }

    /// Length in the file.
    #[must_use]
    pub fn file_len(&self) -> u64 {
        EntryHeader::SIZE as u64 + self.stored() + self.trailer_len() as u64
    }

    /// The whole entry at its place.
    pub fn layout(&self, place: &Binding, sink: &mut dyn FnMut(&[u8])) {
        let length = self.file_len();
        let chunk_count = u32::try_from(self.chunks.len()).unwrap_or(u32::MAX);
        let header = EntryHeader {
            magic: ENTRY_MAGIC,
            flags: 0,
            reserved: 0,
            blob_count: u32::try_from(self.rows.len()).unwrap_or(u32::MAX),
            chunk_count,
            raw_len: self.raw_len,
            length,
            trailer_len: u32::try_from(self.trailer_len()).unwrap_or(u32::MAX),
            reserved2: [0; 8],
            check: [0; 16],
            crc: 0,
        };
        sink(&header.sealed(place));
        let mut at = place.offset + EntryHeader::SIZE as u64;
        for (index, chunk) in (0u32..).zip(&self.chunks) {
            chunk.layout(index, &place.at(at), sink);
            at += chunk.file_len();
        }
        sink(&pack::trailer_bytes(&self.rows, chunk_count, self.raw_len, length, &place.at(at)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_behind_others_gets_the_fast_level_and_the_same_comes_back() {
        let raw = "Lorem ipsum dolor sit amet, consetetur sadipscing elitr. ".repeat(2000);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut lent: Vec<_> = (0..cores).map(|_| Lent::take(Pace::Calm)).collect();
        let level = || Lent::take(Pace::Calm).compressor.as_ref().map_or(0, |c| c.1);
        let levels: Vec<i32> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..2).map(|_| scope.spawn(level)).collect();
            // Other tests of this process may wait as well.
            while locked(&COMPRESSORS.state).waiting < 2 {
                std::thread::yield_now();
            }
            drop(lent.pop());
            all.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert!(levels.contains(&LEVEL_PRESSED), "{levels:?}");
        drop(lent);
        assert_eq!(Lent::take(Pace::Pressed).compressor.as_ref().map(|c| c.1), Some(LEVEL_PRESSED));
        // A compressor that changes its level goes on as a new one would.
        for pace in [Pace::Calm, Pace::Pressed, Pace::Calm] {
            let packed = compress(raw.as_bytes(), pace).unwrap();
            assert!(super::super::read::decompress(&packed, raw.len()).unwrap() == raw.as_bytes());
        }
    }
}
