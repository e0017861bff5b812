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
    /// An item's moments fall, or frames of a run are not in the order of their keys.
    Order = "D23", "order is broken";
    /// A file goes on behind where what vouches for it says that it ends.
    FileLong = "D24", "file is longer than it must be";
    /// The manifest verifies and says something else than the file it names.
    ManifestDiffers = "D25", "manifest disagrees with a file";
    /// The device gave an error instead of bytes.
    Unreadable = "D26", "bytes cannot be read";
    /// The recipe of a composed blob cannot be, or its form is not known.
    Recipe = "D27", "recipe of a composed blob is not possible";
}

/// What a check tells that is no damage. Codes are stable and listed in `SPEC.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NoteKind {
    /// Bytes behind all that anything vouches for.
    TornTail,
    /// Blobs that no transaction names.
    Orphan,
    /// A temporary file, a checkpoint of a sealed file, a file that another one replaced.
    Leftover,
    /// Bytes that mean nothing between content and index.
    Slack,
    /// A name that is not one of a store.
    Stranger,
    /// Files that a repair set aside.
    Quarantine,
    /// A sealed file that the manifest does not name yet.
    Unnamed,
    /// Superblock copies that verify and differ: `adopt` was interrupted.
    CopiesDiffer,
    /// LSNs that are missing without damage at their place.
    Gap,
    /// There is no manifest, and there need not be one yet.
    NoManifest,
}

impl NoteKind {
    /// All kinds, in the order of their codes.
    pub const ALL: &'static [NoteKind] = &[
        Self::TornTail,
        Self::Orphan,
        Self::Leftover,
        Self::Slack,
        Self::Stranger,
        Self::Quarantine,
        Self::Unnamed,
        Self::CopiesDiffer,
        Self::Gap,
        Self::NoManifest,
    ];

    /// The stable code.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::TornTail => "N01",
            Self::Orphan => "N02",
            Self::Leftover => "N03",
            Self::Slack => "N04",
            Self::Stranger => "N05",
            Self::Quarantine => "N06",
            Self::Unnamed => "N07",
            Self::CopiesDiffer => "N08",
            Self::Gap => "N09",
            Self::NoManifest => "N10",
        }
    }

    /// A sentence for people.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::TornTail => "torn tail: nobody was promised what follows",
            Self::Orphan => "blobs that no transaction names",
            Self::Leftover => "left over from work that ended early",
            Self::Slack => "bytes between content and index that mean nothing",
            Self::Stranger => "not a file of the store",
            Self::Quarantine => "set aside by a repair",
            Self::Unnamed => "sealed, and not named by the manifest yet",
            Self::CopiesDiffer => "superblock copies differ",
            Self::Gap => "LSNs are missing, and nothing is damaged here",
            Self::NoManifest => "no manifest yet",
        }
    }
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
        let notes = NoteKind::ALL.iter().map(|k| k.code());
        let codes: Vec<_> = DamageKind::ALL.iter().map(|k| k.code()).chain(notes).collect();
        let mut sorted = codes.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(codes, sorted);
    }
}
