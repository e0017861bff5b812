//! Every byte that mailstrata writes to disk, declared once.
//!
//! In comes nothing but bytes, out go typed headers and records: this crate does no IO. The prose is `SPEC.md`; the
//! tables in it are generated from the declarations here and a test keeps the two equal.
//!
//! | structure | where | covered by |
//! | --- | --- | --- |
//! | [`file::Superblock`] | `SUPERBLOCK`, twice | block check |
//! | [`file::FileHeader`] | first block of every other file | block check |
//! | [`segment::GroupHeader`] | segment, at each group | group check, CRC-32 |
//! | [`frame::FrameHeader`] | segment, in a group | frame check, CRC-32 |
//! | [`pack::EntryHeader`], [`pack::ChunkHeader`], [`pack::TrailerHeader`] | pack | own check, CRC-32 |
//! | [`pack::RecipeHeader`], [`pack::Piece`] | raw bytes of a composed blob | check of their chunk, the blob's digest |
//! | [`index::Row`], [`index::Trailer`] | end of a sealed file, checkpoint | block check |
//! | [`manifest::ManifestHead`], [`manifest::ManifestEntry`] | `MANIFEST` | one check over the body |

#[macro_use]
pub mod layout;

pub mod ids;

pub mod digest;

pub mod checksum;

pub mod damage;

pub mod file;

pub mod frame;

pub mod segment;

pub mod pack;

pub mod index;

pub mod manifest;

pub mod record;

pub use checksum::Binding;
pub use damage::{Damage, DamageKind, NoteKind};
pub use digest::Digest;
pub use ids::{AccountId, FileKind, FileName, ItemKey, Lsn, StoreId};
pub use record::{ItemKind, Operation};

/// The version every file header names. A reader refuses any other.
pub const FORMAT_VERSION: u32 = 1;

/// Unit in which groups and pack flushes are padded, and size of header, index and trailer blocks, in bytes.
pub const BLOCK: usize = 4096;

/// Alignment of frames in a group and of structures in a pack, in bytes.
pub const ALIGN: usize = 8;

/// `n` rounded up to a multiple of `unit` (a power of two); `None` when it does not fit.
#[must_use]
pub const fn round_up(n: u64, unit: u64) -> Option<u64> {
    match n.checked_add(unit - 1) {
        Some(n) => Some(n & !(unit - 1)),
        None => None,
    }
}

/// All tables of SPEC.md, in its order.
#[must_use]
pub fn tables() -> Vec<layout::Table> {
    vec![
        file::Superblock::table(),
        file::FileHeader::table(),
        file::Replaced::table(),
        segment::GroupHeader::table(),
        frame::FrameHeader::table(),
        frame::Envelope::table(),
        frame::BlobRef::table(),
        pack::EntryHeader::table(),
        pack::ChunkHeader::table(),
        pack::TrailerHeader::table(),
        pack::BlobRow::table(),
        pack::RecipeHeader::table(),
        pack::Piece::table(),
        index::Row::table(),
        index::PackRow::table(),
        index::Trailer::table(),
        manifest::ManifestHead::table(),
        manifest::ManifestEntry::table(),
    ]
}
