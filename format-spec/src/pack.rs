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
//!
//! A blob may hold parts that have rows of their own, so rows may overlap. A later blob with such a part is *composed*: its
//! raw bytes are a recipe ([`recipe`]) that names the part, and the bytes that are its own.

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
        /// Bits 0–55: where the blob starts in the entry's raw bytes. Bits 56–63, its form: 0 plain, 1 composed.
        raw_offset: u64,
        /// Of the blob, in bytes, whatever its form.
        length: u64,
    }
}

/// [`BlobRow::raw_offset`]: the bits that are the offset.
pub const RAW_OFFSET: u64 = (1 << 56) - 1;
/// [`BlobRow::raw_offset`]: the blob's bytes are not here but what its recipe makes.
pub const COMPOSED: u64 = 1 << 56;

layout! {
    /// Starts the raw bytes of a composed blob; its pieces follow, then its own bytes.
    pub struct RecipeHeader[16] {
        /// ASCII `RCP1`.
        magic: [u8; 4],
        /// Pieces that follow, 1 to 1024.
        piece_count: u32,
        /// Length of the bytes behind the pieces: the sum of those of kind 0.
        own_len: u64,
    }
}

layout! {
    /// A piece of a composed blob.
    pub struct Piece[48] {
        /// 0: the next own bytes. 1: a part, stored plainly under its digest.
        kind: u8,
        /// Zero.
        reserved: [u8; 7],
        /// In bytes, at least 1.
        length: u64,
        /// SHA-256 of the part; zeros for own bytes.
        digest: [u8; 32],
    }
}

/// [`Piece::kind`]: own bytes.
pub const PIECE_OWN: u8 = 0;
/// [`Piece::kind`]: a part.
pub const PIECE_PART: u8 = 1;
/// First bytes of a recipe.
pub const RECIPE_MAGIC: [u8; 4] = *b"RCP1";
/// Most pieces in a recipe.
pub const PIECES_MAX: usize = 1024;

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
    let inside = rows.iter().all(|r| {
        let least = if r.raw_offset > RAW_OFFSET { RecipeHeader::SIZE as u64 } else { r.length };
        (r.raw_offset & RAW_OFFSET).checked_add(least).is_some_and(|end| end <= h.raw_len)
    });
    inside.then_some((h, rows))
}

/// What a composed blob is made of. Decoding believes no length: pieces are counted before they are read, and must add up.
pub mod recipe {
    use super::{PIECE_OWN, PIECE_PART, PIECES_MAX, Piece, RECIPE_MAGIC, RecipeHeader};

    /// Length of a recipe, its own bytes not counted, from its first 16 bytes; `None`: it is none.
    #[must_use]
    pub fn length(head: &[u8]) -> Option<usize> {
        let h = RecipeHeader::decode(head.get(..RecipeHeader::SIZE)?)?;
        let count = h.piece_count as usize;
        let fits = h.magic == RECIPE_MAGIC && (1..=PIECES_MAX).contains(&count);
        fits.then_some(RecipeHeader::SIZE + count * Piece::SIZE)
    }

    /// The pieces of the recipe at the start of `bytes`, for a blob of `length` bytes; `None`: it is none, or makes another
    /// length.
    #[must_use]
    pub fn decode(bytes: &[u8], length: u64) -> Option<Vec<Piece>> {
        let (head, body) = bytes.get(..self::length(bytes)?)?.split_at_checked(RecipeHeader::SIZE)?;
        let h = RecipeHeader::decode(head)?;
        let pieces: Vec<Piece> = body.chunks_exact(Piece::SIZE).filter_map(Piece::decode).collect();
        let (mut own, mut all) = (0u64, 0u64);
        for p in &pieces {
            let possible = match p.kind {
                PIECE_OWN => p.digest == [0; 32],
                kind => kind == PIECE_PART,
            };
            if !possible || p.reserved != [0; 7] || p.length == 0 {
                return None;
            }
            all = all.checked_add(p.length)?;
            own = own.checked_add(if p.kind == PIECE_OWN { p.length } else { 0 })?;
        }
        (all == length && own == h.own_len).then_some(pieces)
    }

    /// A recipe; the own bytes of its pieces follow it.
    #[must_use]
    pub fn encode(pieces: &[Piece]) -> Vec<u8> {
        let own_len = pieces.iter().filter(|p| p.kind == PIECE_OWN).map(|p| p.length).sum();
        let piece_count = u32::try_from(pieces.len()).unwrap_or(u32::MAX);
        let mut out = RecipeHeader { magic: RECIPE_MAGIC, piece_count, own_len }.encode().to_vec();
        for p in pieces {
            out.extend_from_slice(&p.encode());
        }
        out
    }
}

/// Where a blob lies: what an index keeps of a [`BlobRow`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub pack: u64,
    /// Of the entry's header, from the start of the file.
    pub entry_offset: u64,
    /// Length of the entry.
    pub entry_len: u64,
    /// As in [`BlobRow`]: place in the entry's raw bytes, and form.
    pub raw_offset: u64,
    /// The blob's length in bytes.
    pub length: u64,
    pub digest: Digest,
}

impl Extent {
    /// Where the blob, or its recipe, starts in the entry's raw bytes.
    #[must_use]
    pub const fn start(&self) -> u64 {
        self.raw_offset & RAW_OFFSET
    }

    /// Whether the blob's bytes lie here, one after the other.
    #[must_use]
    pub const fn is_plain(&self) -> bool {
        self.raw_offset <= RAW_OFFSET
    }

    /// Whether the blob is made by a recipe. A blob that is neither plain nor composed has a form of a later version.
    #[must_use]
    pub const fn is_composed(&self) -> bool {
        self.raw_offset & !RAW_OFFSET == COMPOSED
    }
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
        // A composed blob is longer than its recipe; but its recipe starts within.
        let composed = |at| [BlobRow { digest: [1; 32], raw_offset: COMPOSED | at, length: 1 << 40 }];
        assert!(read_trailer(&trailer_bytes(&composed(4), 1, 20, 256, &place), &place).is_some());
        assert!(read_trailer(&trailer_bytes(&composed(5), 1, 20, 256, &place), &place).is_none());
    }

    #[test]
    fn a_recipe_must_add_up() {
        let own = |length| Piece { kind: PIECE_OWN, reserved: [0; 7], length, digest: [0; 32] };
        let part = |length| Piece { kind: PIECE_PART, reserved: [0; 7], length, digest: [7; 32] };
        let pieces = [own(10), part(5000), own(3)];
        let bytes = recipe::encode(&pieces);
        assert_eq!(recipe::length(&bytes), Some(bytes.len()));
        assert_eq!(recipe::decode(&bytes, 5013).as_deref(), Some(&pieces[..]));
        assert!(recipe::decode(&bytes, 5014).is_none());
        assert!(recipe::decode(&bytes[..bytes.len() - 1], 5013).is_none());
        for (at, value) in [(0, b'X'), (4, 4), (4, 0), (8, 14), (16, 2), (17, 1), (24, 11), (32, 1)] {
            let mut bad = bytes.clone();
            bad[at] = value;
            bad.resize(bad.len() + Piece::SIZE, 0);
            assert!(recipe::decode(&bad, 5013).is_none(), "byte {at}");
        }
        assert!(recipe::decode(&recipe::encode(&[own(u64::MAX), part(2)]), 1).is_none());
        assert!(recipe::length(&recipe::encode(&vec![own(1); PIECES_MAX + 1])).is_none());
        assert!(recipe::decode(&recipe::encode(&[]), 0).is_none());
    }
}
