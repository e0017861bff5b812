//! The manifest: which segments and packs are live, and how far the log was durable when it was written.
//!
//! ```text
//! | file header 4096 | ManifestHead 128 | ManifestEntry 96 × n | check 16 |
//! ```
//!
//! Replaced atomically (write beside, sync, rename, sync directory). It can be rebuilt from the files.

use crate::checksum::{self, BLOCK_CHECK, Binding};
use crate::file::FileHeader;
use crate::{BLOCK, Damage, DamageKind, FileKind, FileName, StoreId};

layout! {
    /// First part of the manifest's body.
    pub struct ManifestHead[128] {
        /// Generation, as in the file header.
        generation: u64,
        /// Entries that follow.
        entry_count: u64,
        /// The log was durable up to this LSN,
        durable_lsn: u64,
        /// which lies in this segment (0: the log is empty),
        durable_segment: u64,
        /// whose groups up to this offset are all acknowledged;
        durable_end: u64,
        /// the last of them has this check
        durable_chain: [u8; 16],
        /// and this sequence.
        durable_group: u64,
        /// 1: the store was closed cleanly when this was written.
        clean: u32,
        /// Zero.
        reserved: u32,
        /// Number of the pack being written (0: none),
        pack: u64,
        /// whose content up to this offset is acknowledged.
        pack_end: u64,
        /// Zero.
        reserved2: [u8; 40],
    }
}

layout! {
    /// One live file.
    pub struct ManifestEntry[96] {
        /// File kind.
        kind: u32,
        /// 0 active, 1 sealed, 2 retired: a run holds its content, it will be removed.
        state: u32,
        /// File number.
        number: u64,
        /// Sealed or retired: length in bytes. Active: 0.
        length: u64,
        /// Segment and run: first LSN.
        first_lsn: u64,
        /// Segment and run: last LSN.
        last_lsn: u64,
        /// Segment and run: least moment, µs UTC.
        first_moment: i64,
        /// Segment and run: greatest moment, µs UTC.
        last_moment: i64,
        /// Frames or entries.
        records: u64,
        /// Root, as in the footer's trailer.
        root: [u8; 16],
        /// Bytes known to be dead.
        dead: u64,
        /// Retired: since when, µs UTC. Else 0.
        retired: i64,
    }
}

/// [`ManifestEntry::state`]: being written.
pub const ACTIVE: u32 = 0;
/// [`ManifestEntry::state`]: immutable, with a footer.
pub const SEALED: u32 = 1;
/// [`ManifestEntry::state`]: its content is in a run; it stays for a while for views and copies that began before.
pub const RETIRED: u32 = 2;

/// A whole manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    pub head: ManifestHead,
    pub entries: Vec<ManifestEntry>,
}

impl Manifest {
    /// A manifest of a store that holds nothing.
    #[must_use]
    pub const fn empty() -> Self {
        Self {
            head: ManifestHead {
                generation: 0,
                entry_count: 0,
                durable_lsn: 0,
                durable_segment: 0,
                durable_end: 0,
                durable_chain: [0; 16],
                durable_group: 0,
                clean: 0,
                reserved: 0,
                pack: 0,
                pack_end: 0,
                reserved2: [0; 40],
            },
            entries: Vec::new(),
        }
    }

    fn name(&self) -> FileName {
        FileName::new(FileKind::Manifest, self.head.generation)
    }

    /// The file's bytes.
    #[must_use]
    pub fn file_bytes(&self, store: StoreId, created: i64) -> Vec<u8> {
        let mut out = FileHeader::new(store, self.name(), created).block();
        let head = ManifestHead { entry_count: self.entries.len() as u64, ..self.head };
        out.extend_from_slice(&head.encode());
        for e in &self.entries {
            out.extend_from_slice(&e.encode());
        }
        out.extend_from_slice(&[0; BLOCK_CHECK]);
        if let Some(body) = out.get_mut(BLOCK..) {
            checksum::seal_block(&Binding::new(store, self.name(), BLOCK as u64), body);
        }
        out
    }

    /// Reads and verifies a manifest.
    pub fn read(bytes: &[u8], store: StoreId) -> Result<Self, Damage> {
        let raw = FileHeader::decode(bytes);
        let name = FileName::new(FileKind::Manifest, raw.map_or(0, |h| h.number));
        let damage = |offset| Damage::new(name, offset, DamageKind::Manifest);
        FileHeader::read(bytes, store, name).map_err(|_| damage(0))?;
        let at = BLOCK as u64;
        let body = bytes.get(BLOCK..).ok_or(damage(at))?;
        if !checksum::block_is_sound(&Binding::new(store, name, at), body) {
            return Err(damage(at));
        }
        let head = ManifestHead::decode(body).ok_or(damage(at))?;
        let entries = body.get(ManifestHead::SIZE..body.len() - BLOCK_CHECK).ok_or(damage(at))?;
        let entries: Vec<ManifestEntry> =
            entries.chunks_exact(ManifestEntry::SIZE).filter_map(ManifestEntry::decode).collect();
        let exact = ManifestHead::SIZE + entries.len() * ManifestEntry::SIZE + BLOCK_CHECK == body.len();
        if !exact || head.entry_count != entries.len() as u64 || head.generation != name.number {
            return Err(damage(at));
        }
        Ok(Self { head, entries })
    }

    /// The entry of a file.
    #[must_use]
    pub fn entry(&self, name: FileName) -> Option<&ManifestEntry> {
        self.entries.iter().find(|e| e.kind == name.kind.code() && e.number == name.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_of_a_manifest_is_found() {
        let mut m = Manifest::empty();
        m.head.generation = 3;
        m.head.entry_count = 1;
        m.entries.push(ManifestEntry {
            kind: 3,
            state: SEALED,
            number: 1,
            length: 10,
            first_lsn: 1,
            last_lsn: 2,
            first_moment: 0,
            last_moment: 0,
            records: 2,
            root: [9; 16],
            dead: 0,
            retired: 0,
        });
        let store = StoreId([1; 16]);
        let mut bytes = m.file_bytes(store, 5);
        assert_eq!(Manifest::read(&bytes, store), Ok(m));
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Manifest::read(&bytes, store).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(Manifest::read(&bytes[..bytes.len() - 96], store).is_err());
        assert!(Manifest::read(&bytes, StoreId([2; 16])).is_err());
    }
}
