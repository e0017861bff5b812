//! Packs: blobs under their digests, in entries of checksummed chunks.
//!
//! ```text
//! pack  = | file header 4096 | entry | entry | zeros to 4096 | entry | … | footer when sealed |
//! entry = | EntryHeader 64 | chunk | chunk | … | TrailerHeader 64 | BlobRow 48 × n |
//! chunk = | ChunkHeader 48 | stored bytes | zeros to a multiple of 8 |
//! ```
//!
//! An entry's raw bytes are those of its chunks one after the other; a blob is a range of them. Small blobs share an
//! entry of one chunk and are compressed together; a larger blob is an entry of its own with several chunks; an oversize
//! one is streamed into a pack of its own, whose entry header says so and leaves the lengths to the trailer.

use crate::checksum::{self, Binding};
use crate::{ALIGN, BLOCK, Digest, round_up};

/// First bytes of an entry.
pub const ENTRY_MAGIC: [u8; 4] = *b"ENT1";
/// First bytes of a chunk.
pub const CHUNK_MAGIC: [u8; 4] = *b"CHK1";
/// First bytes of a trailer.
pub const TRAILER_MAGIC: [u8; 4] = *b"TRL1";

/// Most uncompressed bytes in a chunk.
pub const CHUNK_RAW_MAX: usize = 256 << 10;
/// Most blobs in an entry.
pub const ENTRY_BLOBS_MAX: usize = 4096;
/// Longest blob, in bytes (16 TiB): more is refused, not truncated.
pub const BLOB_LEN_MAX: u64 = 1 << 44;

layout! {
    /// Precedes the chunks of an entry.
    pub struct EntryHeader[64] {
        /// ASCII `ENT1`.
        magic: [u8; 4],
        /// Bit 0: streamed; counts and lengths below are 0 and the trailer has them.
        flags: u16,
        /// Zero.
        reserved: u16,
        /// Blobs in the entry.
        blob_count: u32,
        /// Chunks in the entry.
        chunk_count: u32,
        /// Uncompressed length of all chunks, in bytes.
        raw_len: u64,
        /// Of the whole entry, header and trailer included, in bytes.
        length: u64,
        /// Of the trailer with its rows, in bytes.
        trailer_len: u32,
        /// Zero.
        reserved2: [u8; 8],
        /// Check of header bytes 0–43, bound to the header's place.
        check: [u8; 16],
        /// CRC-32 of binding and header bytes 0–59.
        crc: u32,
    }
}

/// [`EntryHeader::flags`]: streamed.
pub const ENTRY_STREAMED: u16 = 1;

layout! {
    /// Precedes the stored bytes of a chunk.
    pub struct ChunkHeader[48] {
        /// ASCII `CHK1`.
        magic: [u8; 4],
        /// 0 plain, 1 zstd.
        codec: u8,
        /// Zero.
        reserved: [u8; 3],
        /// Number of the chunk in its entry, from 0.
        index: u32,
        /// Uncompressed length in bytes, 1 to 262144; 0 only in an entry that holds nothing but empty blobs.
        raw_len: u32,
        /// Stored length in bytes, without padding.
        stored_len: u32,
        /// Offset of the chunk's first byte in the entry's raw bytes.
        raw_offset: u64,
        /// Check of header bytes 0–27 and the stored bytes with their padding, bound to the header's place.
        check: [u8; 16],
        /// CRC-32 of binding and header bytes 0–43.
        crc: u32,
    }
}

layout! {
    /// Ends an entry; its rows follow.
    pub struct TrailerHeader[64] {
        /// ASCII `TRL1`.
        magic: [u8; 4],
        /// Rows that follow.
        blob_count: u32,
        /// Chunks in the entry.
        chunk_count: u32,
        /// Zero.
        reserved: u32,
        /// Uncompressed length of all chunks, in bytes.
        raw_len: u64,
        /// Of the whole entry, header and trailer included, in bytes.
        entry_len: u64,
        /// Zero.
        reserved2: [u8; 12],
        /// Check of header bytes 0–43 and the rows, bound to the header's place.
        check: [u8; 16],
        /// CRC-32 of binding and header bytes 0–59.
        crc: u32,
    }
}

layout! {
    /// One blob of an entry.
    pub struct BlobRow[48] {
        /// SHA-256 of the blob's bytes.
        digest: [u8; 32],
        /// Where the blob starts in the entry's raw bytes.
        raw_offset: u64,
        /// In bytes.
        length: u64,
    }
}

const ENTRY_CHECKED: usize = 44;
const ENTRY_CRC: usize = 60;
const CHUNK_CHECKED: usize = 28;
const CHUNK_CRC: usize = 44;

/// Length of a chunk in the file: header, stored bytes, padding.
#[must_use]
pub fn chunk_len(stored_len: u32) -> u64 {
    round_up(u64::from(stored_len), ALIGN as u64).unwrap_or(u64::MAX / 2) + ChunkHeader::SIZE as u64
}

impl EntryHeader {
    /// The header of an entry at its place.
    #[must_use]
    pub fn sealed(mut self, place: &Binding) -> [u8; 64] {
        let plain = self.encode();
        self.check = checksum::check(place, &plain[..ENTRY_CHECKED], 0);
        let checked = self.encode();
        self.crc = checksum::header_crc(place, &checked[..ENTRY_CRC]);
        self.encode()
    }

    /// The header at the start of `bytes`, verified at `place`.
    #[must_use]
    pub fn read(bytes: &[u8], place: &Binding) -> Option<Self> {
        let head = bytes.get(..Self::SIZE)?;
        let h = Self::decode(head)?;
        let fits = h.magic == ENTRY_MAGIC
            && checksum::header_crc(place, head.get(..ENTRY_CRC)?) == h.crc
            && checksum::check(place, head.get(..ENTRY_CHECKED)?, 0) == h.check;
        if !fits {
            return None;
        }
        if h.flags == ENTRY_STREAMED {
            let empty = (h.blob_count, h.chunk_count, h.raw_len, h.length, h.trailer_len) == (0, 0, 0, 0, 0);
            return empty.then_some(h);
        }
        let trailer = (TrailerHeader::SIZE as u64) + u64::from(h.blob_count) * BlobRow::SIZE as u64;
        let possible = h.flags == 0
            && u64::from(h.trailer_len) == trailer
            && h.raw_len <= u64::from(h.chunk_count).saturating_mul(CHUNK_RAW_MAX as u64)
            && h.blob_count as usize <= ENTRY_BLOBS_MAX
            && h.length % ALIGN as u64 == 0
            && h.length >= trailer + Self::SIZE as u64;
        possible.then_some(h)
    }
}

impl ChunkHeader {
    /// The header of a chunk at its place; `body` is the hash of the stored bytes with their padding.
    #[must_use]
    pub fn sealed(mut self, place: &Binding, body: u128) -> [u8; 48] {
        let plain = self.encode();
        self.check = checksum::check(place, &plain[..CHUNK_CHECKED], body);
        let checked = self.encode();
        self.crc = checksum::header_crc(place, &checked[..CHUNK_CRC]);
        self.encode()
    }

    /// The header at the start of `bytes`, when its CRC verifies at `place` and its lengths are possible.
    #[must_use]
    pub fn read(bytes: &[u8], place: &Binding) -> Option<Self> {
        let head = bytes.get(..Self::SIZE)?;
        let h = Self::decode(head)?;
        let fits = h.magic == CHUNK_MAGIC
            && checksum::header_crc(place, head.get(..CHUNK_CRC)?) == h.crc
            && h.codec <= crate::frame::CODEC_ZSTD
            && h.raw_len as usize <= CHUNK_RAW_MAX
            && h.stored_len as usize <= CHUNK_RAW_MAX + BLOCK;
        fits.then_some(h)
    }

    /// Whether stored bytes with their padding are what this header vouches for.
    #[must_use]
    pub fn vouches_for(&self, stored_padded: &[u8], place: &Binding) -> bool {
        let head = self.encode();
        let pad = stored_padded.get(self.stored_len as usize..);
        checksum::check(place, &head[..CHUNK_CHECKED], checksum::body_hash(stored_padded)) == self.check
            && pad.is_some_and(|p| p.iter().all(|b| *b == 0))
    }
}

/// The trailer with its rows, for an entry whose trailer starts at `place`.
#[must_use]
pub fn trailer_bytes(rows: &[BlobRow], chunk_count: u32, raw_len: u64, entry_len: u64, place: &Binding) -> Vec<u8> {
    let mut body = Vec::with_capacity(rows.len() * BlobRow::SIZE);
    for r in rows {
        body.extend_from_slice(&r.encode());
    }
    let mut h = TrailerHeader {
        magic: TRAILER_MAGIC,
        blob_count: u32::try_from(rows.len()).unwrap_or(u32::MAX),
        chunk_count,
        reserved: 0,
        raw_len,
        entry_len,
        reserved2: [0; 12],
        check: [0; 16],
        crc: 0,
    };
    let plain = h.encode();
    h.check = checksum::check(place, &plain[..ENTRY_CHECKED], checksum::body_hash(&body));
    let checked = h.encode();
    h.crc = checksum::header_crc(place, &checked[..ENTRY_CRC]);
    let mut out = h.encode().to_vec();
    out.extend_from_slice(&body);
    out
}

/// Length of a trailer with its rows, from the trailer header at the start of `bytes` when its CRC verifies.
#[must_use]
pub fn trailer_len(bytes: &[u8], place: &Binding) -> Option<usize> {
    let head = bytes.get(..TrailerHeader::SIZE)?;
    let h = TrailerHeader::decode(head)?;
    let fits = h.magic == TRAILER_MAGIC
        && checksum::header_crc(place, head.get(..ENTRY_CRC)?) == h.crc
        && h.blob_count as usize <= ENTRY_BLOBS_MAX;
    fits.then(|| TrailerHeader::SIZE + h.blob_count as usize * BlobRow::SIZE)
}

/// The trailer at the start of `bytes` and its rows, verified at `place`; every row lies within the entry's raw bytes.
#[must_use]
pub fn read_trailer(bytes: &[u8], place: &Binding) -> Option<(TrailerHeader, Vec<BlobRow>)> {
    let len = trailer_len(bytes, place)?;
    let (head, body) = bytes.get(..len)?.split_at_checked(TrailerHeader::SIZE)?;
    let h = TrailerHeader::decode(head)?;
    if checksum::check(place, head.get(..ENTRY_CHECKED)?, checksum::body_hash(body)) != h.check {
        return None;
    }
    let rows: Vec<BlobRow> = body.chunks_exact(BlobRow::SIZE).filter_map(BlobRow::decode).collect();
    let inside = rows.iter().all(|r| r.raw_offset.checked_add(r.length).is_some_and(|end| end <= h.raw_len));
    inside.then_some((h, rows))
}

/// Where a blob lies: what an index keeps of a [`BlobRow`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub pack: u64,
    /// Of the entry's header, from the start of the file.
    pub entry_offset: u64,
    /// Length of the entry.
    pub entry_len: u64,
    /// Where the blob starts in the entry's raw bytes.
    pub raw_offset: u64,
    /// The blob's length in bytes.
    pub length: u64,
    pub digest: Digest,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FileKind, FileName, StoreId};

    #[test]
    fn headers_and_trailer_verify_at_their_place_only() {
        let place = Binding::new(StoreId([1; 16]), FileName::new(FileKind::Pack, 1), 4096);
        let chunk = ChunkHeader {
            magic: CHUNK_MAGIC,
            codec: 0,
            reserved: [0; 3],
            index: 0,
            raw_len: 5,
            stored_len: 5,
            raw_offset: 0,
            check: [0; 16],
            crc: 0,
        };
        let stored = *b"hello\0\0\0";
        let bytes = chunk.sealed(&place, checksum::body_hash(&stored));
        let read = ChunkHeader::read(&bytes, &place).unwrap();
        assert!(read.vouches_for(&stored, &place));
        assert!(!read.vouches_for(b"hellO\0\0\0", &place));
        assert!(!read.vouches_for(b"hello\0\0\x01", &place));
        assert!(ChunkHeader::read(&bytes, &place.at(0)).is_none());

        let rows = [BlobRow { digest: [1; 32], raw_offset: 0, length: 5 }];
        let mut trailer = trailer_bytes(&rows, 1, 5, 256, &place);
        assert_eq!(read_trailer(&trailer, &place).unwrap().1, rows);
        for bit in 0..trailer.len() * 8 {
            trailer[bit / 8] ^= 1 << (bit % 8);
            assert!(read_trailer(&trailer, &place).is_none(), "bit {bit}");
            trailer[bit / 8] ^= 1 << (bit % 8);
        }
        let outside = [BlobRow { digest: [1; 32], raw_offset: 1, length: 5 }];
        assert!(read_trailer(&trailer_bytes(&outside, 1, 5, 256, &place), &place).is_none());
    }
}
