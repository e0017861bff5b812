//! Superblock and file header: one block each, covered to the last byte by its check.

use crate::checksum::{self, BLOCK_CHECK, Binding};
use crate::{BLOCK, Damage, DamageKind, FORMAT_VERSION, FileKind, FileName, StoreId};

/// First bytes of every file: the name, then a control byte, CR LF and end-of-file, which text transfers damage.
pub const MAGIC: [u8; 8] = *b"mstrat\x1a\n";

layout! {
    /// Identity of a store. Two copies, each in a block of its own; the rest of a block is zero, its last 16 bytes are
    /// the check.
    pub struct Superblock[128] {
        /// `6D 73 74 72 61 74 1A 0A`.
        magic: [u8; 8],
        /// File kind: 1.
        kind: u32,
        /// Format version: 1.
        version: u32,
        /// Drawn at creation.
        store: [u8; 16],
        /// The server that writes here; zero when none was given.
        server: [u8; 16],
        /// Creation, µs since 1970-01-01 UTC.
        created: i64,
        /// Largest size of a segment in bytes.
        segment_size: u64,
        /// Largest size of a pack in bytes.
        pack_size: u64,
        /// Which copy this is: 0 or 1.
        copy: u32,
        /// Version of the program that made the store: major, minor, patch, 0.
        program: [u8; 4],
        /// Zero.
        reserved: [u8; 48],
    }
}

layout! {
    /// First block of every file but the superblock; the rest of the block is zero, its last 16 bytes are the check,
    /// bound to offset 0 of the file.
    pub struct FileHeader[128] {
        /// `6D 73 74 72 61 74 1A 0A`.
        magic: [u8; 8],
        /// File kind: 2 manifest, 3 segment, 4 pack, 5 run, 6 segment checkpoint, 7 pack checkpoint.
        kind: u32,
        /// Format version: 1.
        version: u32,
        /// The store's id.
        store: [u8; 16],
        /// The file's number (a manifest: its generation).
        number: u64,
        /// Creation, µs since 1970-01-01 UTC.
        created: i64,
        /// Segment: LSN of its first transaction. Run: as the first segment it covers. Else 0.
        first_lsn: u64,
        /// Segment: sequence of its first group. Run: as the first segment it covers. Else 0.
        first_group: u64,
        /// Segment: check of the last group before it, which its first group continues. Run: as the first segment it
        /// covers. Else zero.
        previous: [u8; 16],
        /// Size for which space was made ready, in bytes; 0 when not known.
        capacity: u64,
        /// 1: an oversize pack that holds a single streamed entry.
        flags: u32,
        /// Number of files this one replaces: a `Replaced` for each follows the header in its block. 0: none.
        replaces: u32,
        /// Version of the program that wrote the file: major, minor, patch, 0.
        program: [u8; 4],
        /// Run: number of the first segment it covers. Else 0.
        first_segment: u64,
        /// Run: number of the last segment it covers. Else 0.
        last_segment: u64,
        /// Run: how often its content was merged, 1 at least. Else 0.
        tier: u32,
        /// Zero.
        reserved: [u8; 8],
    }
}

layout! {
    /// A file whose content another one holds; follows the file header in its block.
    pub struct Replaced[32] {
        /// File kind.
        kind: u32,
        /// Zero.
        reserved: u32,
        /// File number.
        number: u64,
        /// Root, as in the footer's trailer.
        root: [u8; 16],
    }
}

/// Most files that a header can list as replaced.
pub const REPLACES_MAX: usize = (BLOCK_BODY - FileHeader::SIZE) / Replaced::SIZE;

/// [`FileHeader::flags`]: an oversize pack.
pub const FLAG_OVERSIZE: u32 = 1;

/// The version of this program as headers carry it.
#[must_use]
pub fn program_version() -> [u8; 4] {
    let part = |s: &str| s.parse::<u8>().unwrap_or(0);
    [
        part(env!("CARGO_PKG_VERSION_MAJOR")),
        part(env!("CARGO_PKG_VERSION_MINOR")),
        part(env!("CARGO_PKG_VERSION_PATCH")),
        0,
    ]
}

/// Why a superblock could not be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SuperblockFault {
    /// Neither copy verifies.
    Damaged,
    /// It verifies and is of another format version.
    Version(u32),
}

impl Superblock {
    /// The two blocks of the file `SUPERBLOCK`.
    #[must_use]
    pub fn file_bytes(&self) -> Vec<u8> {
        let mut out = vec![0; 2 * BLOCK];
        for (copy, block) in (0u32..).zip(out.chunks_exact_mut(BLOCK)) {
            let bytes = Self { copy, ..*self }.encode();
            if let Some(head) = block.get_mut(..bytes.len()) {
                head.copy_from_slice(&bytes);
            }
            checksum::seal_block(&checksum::superblock_binding(u64::from(copy)), block);
        }
        out
    }

    /// One copy, verified; `bytes` is the whole file.
    #[must_use]
    pub fn copy_from(bytes: &[u8], copy: u32) -> Option<Self> {
        let start = usize::try_from(copy).ok()?.checked_mul(BLOCK)?;
        let block = bytes.get(start..start.checked_add(BLOCK)?)?;
        if !checksum::block_is_sound(&checksum::superblock_binding(u64::from(copy)), block) {
            return None;
        }
        let s = Self::decode(block)?;
        (s.magic == MAGIC && s.kind == FileKind::Superblock.code() && s.copy == copy).then_some(s)
    }

    /// The first copy that verifies.
    pub fn read(bytes: &[u8]) -> Result<Self, SuperblockFault> {
        let found = Self::copy_from(bytes, 0).or_else(|| Self::copy_from(bytes, 1)).ok_or(SuperblockFault::Damaged)?;
        if found.version != FORMAT_VERSION {
            return Err(SuperblockFault::Version(found.version));
        }
        Ok(found)
    }
}

impl FileHeader {
    /// The header of a new file.
    #[must_use]
    pub fn new(store: StoreId, name: FileName, created: i64) -> Self {
        Self {
            magic: MAGIC,
            kind: name.kind.code(),
            version: FORMAT_VERSION,
            store: store.0,
            number: name.number,
            created,
            first_lsn: 0,
            first_group: 0,
            previous: [0; 16],
            capacity: 0,
            flags: 0,
            replaces: 0,
            program: program_version(),
            first_segment: 0,
            last_segment: 0,
            tier: 0,
            reserved: [0; 8],
        }
    }

    /// The block on disk.
    #[must_use]
    pub fn block(&self) -> Vec<u8> {
        Self { replaces: 0, ..*self }.block_with(&[])
    }

    /// The block on disk of a file that replaces others; those beyond [`REPLACES_MAX`] are left out.
    #[must_use]
    pub fn block_with(&self, replaced: &[Replaced]) -> Vec<u8> {
        let mut out = vec![0; BLOCK];
        let replaced = replaced.get(..REPLACES_MAX).unwrap_or(replaced);
        let count = u32::try_from(replaced.len()).unwrap_or(0);
        let mut bytes = Self { replaces: count, ..*self }.encode().to_vec();
        replaced.iter().for_each(|r| bytes.extend_from_slice(&r.encode()));
        if let Some(head) = out.get_mut(..bytes.len()) {
            head.copy_from_slice(&bytes);
        }
        let kind = FileKind::from_code(self.kind).unwrap_or(FileKind::Manifest);
        checksum::seal_block(&Binding::new(StoreId(self.store), FileName::new(kind, self.number), 0), &mut out);
        out
    }

    /// Reads and verifies the header of file `name` of `store` from the file's first block.
    pub fn read(block: &[u8], store: StoreId, name: FileName) -> Result<Self, Damage> {
        let damage = Damage::new(name, 0, DamageKind::FileHeader);
        let block = block.get(..BLOCK).ok_or(damage)?;
        if !checksum::block_is_sound(&Binding::new(store, name, 0), block) {
            return Err(damage);
        }
        let h = Self::decode(block).ok_or(damage)?;
        let fits = h.magic == MAGIC
            && h.kind == name.kind.code()
            && h.number == name.number
            && h.store == store.0
            && h.version == FORMAT_VERSION;
        if fits { Ok(h) } else { Err(damage) }
    }

    /// The files that the header in this block, which [`FileHeader::read`] verified, lists as replaced.
    pub fn replaced(&self, block: &[u8]) -> Vec<Replaced> {
        let list = block.get(Self::SIZE..BLOCK_BODY).unwrap_or_default();
        let count = usize::try_from(self.replaces).unwrap_or(usize::MAX);
        list.chunks_exact(Replaced::SIZE).take(count).filter_map(Replaced::decode).collect()
    }
}

/// Bytes of a block that carry data: all but the check.
pub const BLOCK_BODY: usize = BLOCK - BLOCK_CHECK;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_superblock_copy_is_enough() {
        let s = Superblock {
            magic: MAGIC,
            kind: 1,
            version: 1,
            store: [5; 16],
            server: [0; 16],
            created: 1,
            segment_size: 2,
            pack_size: 3,
            copy: 0,
            program: [0; 4],
            reserved: [0; 48],
        };
        let mut bytes = s.file_bytes();
        assert_eq!(Superblock::read(&bytes), Ok(s));
        bytes[100] ^= 1;
        assert_eq!(Superblock::read(&bytes).unwrap().copy, 1);
        bytes[5000] ^= 1;
        assert_eq!(Superblock::read(&bytes), Err(SuperblockFault::Damaged));
        let newer = Superblock { version: 9, ..s }.file_bytes();
        assert_eq!(Superblock::read(&newer), Err(SuperblockFault::Version(9)));
    }

    #[test]
    fn a_file_of_another_number_or_store_is_refused() {
        let store = StoreId([1; 16]);
        let name = FileName::new(FileKind::Pack, 4);
        let block = FileHeader::new(store, name, 9).block();
        assert!(FileHeader::read(&block, store, name).is_ok());
        assert!(FileHeader::read(&block, store, FileName::new(FileKind::Pack, 5)).is_err());
        assert!(FileHeader::read(&block, store, FileName::new(FileKind::Segment, 4)).is_err());
        assert!(FileHeader::read(&block, StoreId([2; 16]), name).is_err());
        assert!(FileHeader::read(&block[..4000], store, name).is_err());
    }
}
