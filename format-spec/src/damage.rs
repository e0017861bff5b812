//! Bytes that are not what the format promises: the stable codes, and the place.

use crate::FileName;

macro_rules! damage_kinds {
    ($( $(#[doc = $doc:literal])* $name:ident = $code:literal, $text:literal; )*) => {
        /// What is wrong. Codes are stable and listed in `SPEC.md`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum DamageKind { $( $(#[doc = $doc])* $name ),* }

        impl DamageKind {
            /// All kinds, in the order of their codes.
            pub const ALL: &'static [DamageKind] = &[$(DamageKind::$name),*];

            /// The stable code.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(DamageKind::$name => $code),* }
            }

            /// A sentence for people.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(DamageKind::$name => $text),* }
            }
        }
    };
}

damage_kinds! {
    /// A superblock copy does not verify.
    Superblock = "D01", "superblock copy does not verify";
    /// A file header does not verify, or belongs to another file or store.
    FileHeader = "D02", "file header does not verify or belongs to another file";
    /// A group header does not verify although acknowledged data lies here or behind.
    GroupHeader = "D03", "commit group header does not verify";
    /// A group's content does not have the hash its header names.
    GroupBody = "D04", "commit group content does not verify";
    /// A group does not follow the one before it.
    Chain = "D05", "commit group does not continue the chain";
    /// A frame header does not verify.
    FrameHeader = "D06", "frame header does not verify";
    /// A frame's content does not verify.
    FrameBody = "D07", "frame content does not verify";
    /// A frame verifies, but is not a record this version understands or is malformed.
    Record = "D08", "record is malformed";
    /// A record of a kind that must be understood and is not.
    RequiredKind = "D09", "record of an unknown required kind";
    /// A pack entry's header does not verify.
    EntryHeader = "D10", "pack entry header does not verify";
    /// A chunk of a blob does not verify or does not decompress to what its header says.
    Chunk = "D11", "blob chunk does not verify";
    /// A pack entry's trailer does not verify.
    EntryTrailer = "D12", "pack entry trailer does not verify";
    /// A blob's bytes do not have its digest.
    BlobDigest = "D13", "blob does not have its digest";
    /// A transaction names a blob that no pack has.
    BlobMissing = "D14", "blob is in no pack";
    /// A footer or index block does not verify.
    IndexBlock = "D15", "index block does not verify";
    /// An index row says something else than the data.
    IndexRow = "D16", "index disagrees with the data";
    /// A footer's trailer does not verify.
    Footer = "D17", "footer does not verify";
    /// The manifest does not verify.
    Manifest = "D18", "manifest does not verify";
    /// The manifest names a file that is not there.
    FileMissing = "D19", "file is missing";
    /// A file is shorter than what vouches for it says.
    FileTruncated = "D20", "file is shorter than it must be";
    /// Bytes that must be zero are not.
    Padding = "D21", "padding is not zero";
    /// A file that no other vouches for.
    FileForeign = "D22", "file does not belong to this store";
    /// The recipe of a composed blob cannot be, or its form is not known.
    Recipe = "D27", "recipe of a composed blob is not possible";
}

/// Damage, with its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{} {file} at {offset}: {}", .kind.code(), .kind.text())]
pub struct Damage {
    pub file: FileName,
    /// From the start of the file, in bytes.
    pub offset: u64,
    pub kind: DamageKind,
}

impl Damage {
    /// Damage of a kind at a place.
    #[must_use]
    pub const fn new(file: FileName, offset: u64, kind: DamageKind) -> Self {
        Self { file, offset, kind }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_in_order() {
        let codes: Vec<_> = DamageKind::ALL.iter().map(|k| k.code()).collect();
        let mut sorted = codes.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(codes, sorted);
    }
}
