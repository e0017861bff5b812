//! Sorted indexes: at the end of a sealed file (its footer), or in a checkpoint beside one that is not sealed.
//!
//! Rows, fences and filter are cut into blocks of 4096 bytes: 4032 of data, 48 zeros, 16 of check.
//!
//! ```text
//! | rows, 63 a block | fences: first key of each row block, 126 a block | filter, 63 lines a block | trailer block |
//! ```
//!
//! Derived (W3): losing an index costs time, never data.

use crate::BLOCK;
use crate::checksum::{self, Binding};
use xxhash_rust::xxh3::xxh3_64;

/// Data bytes in an index block.
pub const BLOCK_DATA: usize = 4032;
/// Rows in a block.
pub const ROWS_PER_BLOCK: usize = BLOCK_DATA / ROW;
/// Fences in a block.
pub const FENCES_PER_BLOCK: usize = BLOCK_DATA / KEY;
/// Filter lines (64 bytes each) in a block.
pub const LINES_PER_BLOCK: usize = BLOCK_DATA / LINE;
/// Size of a row.
pub const ROW: usize = 64;
/// Size of a key: the first bytes of a row.
pub const KEY: usize = 32;
/// Size of a filter line in bytes.
pub const LINE: usize = 64;
/// Bits set in a filter line for each key.
pub const FILTER_HASHES: u32 = 6;
/// Filter bits for each key.
pub const FILTER_BITS_PER_KEY: u64 = 12;

/// First bytes of a trailer.
pub const MAGIC: [u8; 4] = *b"FTR1";

layout! {
    /// A row of a segment's index; rows are sorted by account, item, LSN.
    pub struct Row[64] {
        /// Account id.
        account: [u8; 16],
        /// Item key.
        item: [u8; 16],
        /// LSN.
        lsn: u64,
        /// From when on the state counts, µs UTC.
        moment: i64,
        /// Of the frame, from the start of the file.
        offset: u32,
        /// Of the frame.
        length: u32,
        /// Item kind.
        item_kind: u8,
        /// Operation.
        operation: u8,
        /// Flags of the envelope.
        flags: u16,
        /// Low half of the envelope's source hash.
        source: u32,
    }
}

layout! {
    /// A row of a pack's index; rows are sorted by digest.
    pub struct PackRow[64] {
        /// SHA-256 of the blob.
        digest: [u8; 32],
        /// Of the entry, from the start of the file.
        entry_offset: u64,
        /// Of the entry.
        entry_len: u64,
        /// Of the blob in the entry's raw bytes.
        raw_offset: u64,
        /// Of the blob.
        length: u64,
    }
}

layout! {
    /// Last block of a sealed file and of a checkpoint; the rest of the block is zero, its last 16 bytes are the check.
    pub struct Trailer[256] {
        /// ASCII `FTR1`.
        magic: [u8; 4],
        /// Kind of the file whose content is indexed.
        kind: u32,
        /// Its number.
        number: u64,
        /// Where that file's content ends (before zeros and footer).
        data_end: u64,
        /// Of the row blocks, from the start of the file that holds this trailer.
        rows_offset: u64,
        /// Number of rows.
        row_count: u64,
        /// Of the fence blocks.
        fences_offset: u64,
        /// Number of fences, one a row block.
        fence_count: u64,
        /// Of the filter blocks.
        filter_offset: u64,
        /// Number of filter lines.
        filter_lines: u64,
        /// Of the file that holds this trailer, which ends with it.
        file_len: u64,
        /// Segment: first LSN; 0 when it has none. Run: that of the first segment it covers that has one.
        first_lsn: u64,
        /// Segment: last LSN. Run: that of the last segment it covers.
        last_lsn: u64,
        /// Segment and run: least moment, µs UTC.
        first_moment: i64,
        /// Segment and run: greatest moment, µs UTC.
        last_moment: i64,
        /// Frames or entries.
        records: u64,
        /// Segment: sequence of the last group. Run: that of the last segment it covers.
        last_group: u64,
        /// Segment and run: check of the file's last group. Pack: XXH3-128 of the digests in file order.
        root: [u8; 16],
        /// Bytes of padding within the content.
        padding: u64,
        /// Uncompressed bytes of all blobs. Segment and run: 0.
        raw_bytes: u64,
        /// Damaged places that were met while the index was made.
        damaged: u64,
        /// Run: check of the last group of the last segment it covers, which the next segment continues. Else zero.
        chain: [u8; 16],
        /// Run: number of its own groups. Else 0.
        groups: u64,
        /// Run: number of the first segment it covers. Else 0.
        first_segment: u64,
        /// Run: number of the last segment it covers. Else 0.
        last_segment: u64,
        /// Run: how often its content was merged, 1 at least. Else 0.
        tier: u32,
        /// Zero.
        reserved: [u8; 44],
    }
}

impl Trailer {
    /// The block on disk.
    #[must_use]
    pub fn block(&self, place: &Binding) -> Vec<u8> {
        let mut out = vec![0; BLOCK];
        let bytes = self.encode();
        if let Some(head) = out.get_mut(..bytes.len()) {
            head.copy_from_slice(&bytes);
        }
        checksum::seal_block(place, &mut out);
        out
    }

    /// Reads and verifies a trailer block at its place.
    #[must_use]
    pub fn read(block: &[u8], place: &Binding) -> Option<Self> {
        let block = block.get(..BLOCK)?;
        if !checksum::block_is_sound(place, block) {
            return None;
        }
        let t = Self::decode(block)?;
        let blocks = |count: u64, per: usize| count.div_ceil(per as u64).checked_mul(BLOCK as u64);
        let fences = t.rows_offset.checked_add(blocks(t.row_count, ROWS_PER_BLOCK)?)?;
        let filter = fences.checked_add(blocks(t.fence_count, FENCES_PER_BLOCK)?)?;
        let end = filter.checked_add(blocks(t.filter_lines, LINES_PER_BLOCK)?)?;
        let own = t.kind == place.file.kind.code() && t.number == place.file.number && t.data_end <= t.rows_offset;
        let checkpoint = matches!(
            (place.file.kind, crate::FileKind::from_code(t.kind)),
            (crate::FileKind::SegmentCheckpoint, Some(crate::FileKind::Segment))
                | (crate::FileKind::PackCheckpoint, Some(crate::FileKind::Pack))
        ) && t.number == place.file.number;
        let possible = t.magic == MAGIC
            && (own || checkpoint)
            && t.rows_offset % BLOCK as u64 == 0
            && t.fences_offset == fences
            && t.filter_offset == filter
            && t.fence_count == t.row_count.div_ceil(ROWS_PER_BLOCK as u64)
            && place.offset == end
            && end.checked_add(BLOCK as u64) == Some(t.file_len);
        possible.then_some(t)
    }
}

/// The hash by which a key is looked up in a filter.
#[must_use]
#[inline]
pub fn key_hash(key: &[u8]) -> u64 {
    xxh3_64(key)
}

/// Lines a filter for `keys` keys has; at least one.
#[must_use]
pub fn filter_lines(keys: u64) -> u64 {
    keys.saturating_mul(FILTER_BITS_PER_KEY).div_ceil(LINE as u64 * 8).max(1)
}

/// The line of a hash: the high half of hash × lines.
#[inline]
#[must_use]
pub fn filter_line(hash: u64, lines: u64) -> u64 {
    u64::try_from((u128::from(hash) * u128::from(lines)) >> 64).unwrap_or(0)
}

/// The bits (0–511) that a hash sets in its line: `a + i·b mod 512`, where `a` is bits 0–8 of the hash and `b` bits
/// 9–17, made odd.
#[inline]
pub fn filter_bits(hash: u64) -> impl Iterator<Item = usize> {
    let a = (hash & 511) as u32;
    let b = ((hash >> 9) & 511) as u32 | 1;
    (0..FILTER_HASHES).map(move |i| (a.wrapping_add(i.wrapping_mul(b)) & 511) as usize)
}

/// Whether a line may hold the hash.
#[inline]
#[must_use]
pub fn line_may_hold(line: &[u8], hash: u64) -> bool {
    let Some(line) = line.first_chunk::<LINE>() else { return false };
    // All bits without a branch: where the first missing one is cannot be foretold, and a wrong guess waits for the line, while
    // what they come to together is nearly always `false`, so that the lines of many indexes are fetched at once.
    filter_bits(hash).fold(1, |all, bit| all & (line[bit / 8 % LINE] >> (bit % 8))) & 1 == 1
}

/// Sets a hash's bits in its line.
pub fn line_set(line: &mut [u8], hash: u64) {
    for bit in filter_bits(hash) {
        if let Some(b) = line.get_mut(bit / 8) {
            *b |= 1 << (bit % 8);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_holds_what_was_put_in_and_little_else() {
        let n = 20_000u64;
        let lines = filter_lines(n);
        let mut filter = vec![0u8; usize::try_from(lines).unwrap() * LINE];
        let hash = |i: u64| key_hash(&i.to_le_bytes());
        let range = |h: u64| {
            let at = usize::try_from(filter_line(h, lines)).unwrap() * LINE;
            at..at + LINE
        };
        for i in 0..n {
            line_set(&mut filter[range(hash(i))], hash(i));
        }
        assert!((0..n).all(|i| line_may_hold(&filter[range(hash(i))], hash(i))));
        let wrong = (n..2 * n).filter(|i| line_may_hold(&filter[range(hash(*i))], hash(*i))).count();
        assert!(wrong < 600, "{wrong} of {n} false positives");
    }
}
