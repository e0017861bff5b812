//! Checksums that know where their bytes belong.
//!
//! Two in use: CRC-32 (IEEE, reflected) over a header, quick to test while scanning, and XXH3-128 as the *check* of what
//! the header describes. Both start with the 40 bytes of a [`Binding`] (store, kind and number of the file, offset), so
//! that a block which landed elsewhere, was swapped with another or is left from an earlier life does not verify.
//!
//! A check is made in two steps, so that the heavy part runs before the place is known:
//! `body = XXH3-128(body bytes)`, then `check = XXH3-128(binding ‖ header without check and CRC ‖ body)`.

use crate::{BLOCK, FileKind, FileName, StoreId};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

/// Where bytes belong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding {
    pub store: StoreId,
    pub file: FileName,
    /// Of the first byte covered, from the start of the file.
    pub offset: u64,
}

impl Binding {
    /// A place in a file of a store.
    #[must_use]
    pub const fn new(store: StoreId, file: FileName, offset: u64) -> Self {
        Self { store, file, offset }
    }

    /// The 40 bytes that start every bound checksum: store id, kind and zero (u32 each), number, offset.
    #[must_use]
    #[inline]
    pub fn bytes(&self) -> [u8; 40] {
        let mut out = [0; 40];
        out[..16].copy_from_slice(&self.store.0);
        out[16..20].copy_from_slice(&self.file.kind.code().to_le_bytes());
        out[24..32].copy_from_slice(&self.file.number.to_le_bytes());
        out[32..].copy_from_slice(&self.offset.to_le_bytes());
        out
    }

    /// The binding of another offset in the same file.
    #[must_use]
    pub const fn at(&self, offset: u64) -> Self {
        Self { offset, ..*self }
    }
}

/// First step of a check: XXH3-128 of the body alone.
#[must_use]
#[inline]
pub fn body_hash(body: &[u8]) -> u128 {
    xxh3_128(body)
}

/// Second step: binds a body's hash to its header and its place.
#[must_use]
#[inline]
pub fn check(binding: &Binding, header: &[u8], body: u128) -> [u8; 16] {
    let mut buffer = [0u8; 40 + 112 + 16];
    let len = 40 + header.len() + 16;
    if let Some(all) = buffer.get_mut(..len) {
        let (head, rest) = all.split_at_mut(40);
        head.copy_from_slice(&binding.bytes());
        let (mid, tail) = rest.split_at_mut(header.len());
        mid.copy_from_slice(header);
        tail.copy_from_slice(&body.to_le_bytes());
        return xxh3_128(all).to_le_bytes();
    }
    let mut h = Xxh3::new();
    h.update(&binding.bytes());
    h.update(header);
    h.update(&body.to_le_bytes());
    h.digest128().to_le_bytes()
}

/// CRC-32 of a header at its place: over the binding's bytes, then the header's.
#[must_use]
#[inline]
pub fn header_crc(binding: &Binding, header: &[u8]) -> u32 {
    let mut buffer = [0u8; 40 + 112];
    if let Some(all) = buffer.get_mut(..40 + header.len()) {
        let (head, rest) = all.split_at_mut(40);
        head.copy_from_slice(&binding.bytes());
        rest.copy_from_slice(header);
        return crc32fast::hash(all);
    }
    let mut h = crc32fast::Hasher::new();
    h.update(&binding.bytes());
    h.update(header);
    h.finalize()
}

/// Bytes at the end of a checked block that hold its check.
pub const BLOCK_CHECK: usize = 16;

/// Writes the check of a whole block (any length) into its last 16 bytes.
pub fn seal_block(binding: &Binding, block: &mut [u8]) {
    let Some(split) = block.len().checked_sub(BLOCK_CHECK) else { return };
    let (body, tail) = block.split_at_mut(split);
    tail.copy_from_slice(&check(binding, &[], body_hash(body)));
}

/// Whether the last 16 bytes of a block are the check of those before, at this place.
#[must_use]
#[inline]
pub fn block_is_sound(binding: &Binding, block: &[u8]) -> bool {
    let Some((body, tail)) = block.len().checked_sub(BLOCK_CHECK).and_then(|n| block.split_at_checked(n)) else {
        return false;
    };
    check(binding, &[], body_hash(body)) == tail
}

/// The binding of a superblock's copy: the store's id is not known before it is read, so it is zero here.
#[must_use]
pub fn superblock_binding(copy: u64) -> Binding {
    Binding::new(StoreId([0; 16]), FileName::new(FileKind::Superblock, copy), copy * BLOCK as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(offset: u64) -> Binding {
        Binding::new(StoreId([7; 16]), FileName::new(FileKind::Segment, 3), offset)
    }

    #[test]
    fn checksum_constants_are_stored_text() {
        assert_eq!(format!("{:032x}", body_hash(b"mailstrata")), "5d10a9f71378a7443eaef9ead039e601");
        assert_eq!(header_crc(&place(4096), b"header"), 0xcb65_ea66);
        assert_eq!(u128::from_le_bytes(check(&place(4096), b"header", 1)), 0xce64_818d_223c_0244_4a44_c2b0_bef8_850c);
    }

    #[test]
    fn a_block_elsewhere_does_not_verify() {
        let mut block = [9u8; 128];
        seal_block(&place(0), &mut block);
        assert!(block_is_sound(&place(0), &block));
        assert!(!block_is_sound(&place(4096), &block));
        let other = Binding { store: StoreId([8; 16]), ..place(0) };
        assert!(!block_is_sound(&other, &block));
        for bit in 0..128 * 8 {
            block[bit / 8] ^= 1 << (bit % 8);
            assert!(!block_is_sound(&place(0), &block), "bit {bit}");
            block[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
