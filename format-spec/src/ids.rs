//! Identities: what could be swapped by mistake has a type of its own.

use std::fmt;
use uuid::Uuid;

/// Log sequence number: the total order of transactions. The first is 1; 0 is "before everything".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

macro_rules! id16 {
    ($(#[$m:meta])* $name:ident) => {
        $(#[$m])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&Uuid::from_bytes(self.0), f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
        impl $name {
            /// From its text, with or without hyphens.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                Uuid::try_parse(text).ok().map(|u| Self(u.into_bytes()))
            }
        }
    };
}

id16! {
    /// Identity of a store, drawn at its creation.
    StoreId
}
id16! {
    /// Identity of an account: the server's own UUID, else UUIDv5 of its address.
    AccountId
}

/// Namespace of account ids derived from addresses (UUIDv5, RFC 9562 §5.5): UUIDv5(URL namespace, `urn:mailstrata:account`).
#[must_use]
pub fn account_namespace() -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_URL, b"urn:mailstrata:account")
}

impl AccountId {
    /// The id of the `incarnation`th account (from 1) that had this address: UUIDv5 of `address`, later ones of
    /// `address#n`, so that an address which comes back after its account was deleted is another account.
    #[must_use]
    pub fn of_address(address: &[u8], incarnation: u32) -> Self {
        let ns = account_namespace();
        if incarnation <= 1 {
            return Self(Uuid::new_v5(&ns, address).into_bytes());
        }
        let mut name = address.to_vec();
        name.extend_from_slice(format!("#{incarnation}").as_bytes());
        Self(Uuid::new_v5(&ns, &name).into_bytes())
    }
}

/// Key of an item within its account: the first 16 bytes of SHA-256(kind as one byte, native id).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ItemKey(pub [u8; 16]);

impl ItemKey {
    /// The key of the item that its server calls `native` and that is of `kind` (code as in `SPEC.md`).
    #[must_use]
    pub fn of(kind: u8, native: &[u8]) -> Self {
        use sha2::Digest as _;
        let mut h = sha2::Sha256::new();
        h.update([kind]);
        h.update(native);
        let full: [u8; 32] = h.finalize().into();
        let mut key = [0; 16];
        key.copy_from_slice(&full[..16]);
        Self(key)
    }

    /// From 32 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        crate::digest::unhex::<16>(text).map(Self)
    }
}

impl fmt::Display for ItemKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}
impl fmt::Debug for ItemKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ItemKey({self})")
    }
}

/// What a file is; the number is in its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum FileKind {
    Superblock = 1,
    Manifest = 2,
    Segment = 3,
    Pack = 4,
    Run = 5,
    /// Derived index of a segment that is not sealed.
    SegmentCheckpoint = 6,
    /// Derived index of a pack that is not sealed.
    PackCheckpoint = 7,
}

impl FileKind {
    /// The kind with this code.
    #[must_use]
    pub fn from_code(code: u32) -> Option<Self> {
        Some(match code {
            1 => Self::Superblock,
            2 => Self::Manifest,
            3 => Self::Segment,
            4 => Self::Pack,
            5 => Self::Run,
            6 => Self::SegmentCheckpoint,
            7 => Self::PackCheckpoint,
            _ => return None,
        })
    }

    /// The number on disk.
    #[must_use]
    pub const fn code(self) -> u32 {
        self as u32
    }
}

/// A file of a store: kind and number. Displays as the path below the store's directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName {
    pub kind: FileKind,
    pub number: u64,
}

impl FileName {
    /// A file's name from kind and number.
    #[must_use]
    pub const fn new(kind: FileKind, number: u64) -> Self {
        Self { kind, number }
    }

    /// The path below the store's directory.
    #[must_use]
    pub fn path(&self) -> String {
        let n = self.number;
        match self.kind {
            FileKind::Superblock => "SUPERBLOCK".into(),
            FileKind::Manifest => "MANIFEST".into(),
            FileKind::Segment => format!("log/{n:08}.seg"),
            FileKind::Pack => format!("pack/{n:08}.pack"),
            FileKind::Run => format!("run/{n:08}.run"),
            FileKind::SegmentCheckpoint => format!("index/{n:08}.seg.idx"),
            FileKind::PackCheckpoint => format!("index/{n:08}.pack.idx"),
        }
    }

    /// The number in a directory entry such as `00000012.seg`, when its extension is `ext`.
    #[must_use]
    pub fn number_of(entry: &str, ext: &str) -> Option<u64> {
        let stem = entry.strip_suffix(ext)?.strip_suffix('.')?;
        if stem.len() < 8 || !stem.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let n: u64 = stem.parse().ok()?;
        (format!("{n:08}") == stem).then_some(n)
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_comes_back_is_another_account() {
        let a = AccountId::of_address(b"alice@example.org", 1);
        assert_ne!(a, AccountId::of_address(b"alice@example.org", 2));
        assert_eq!(AccountId::parse(&a.to_string()), Some(a));
    }

    #[test]
    fn constants_of_the_format_are_stored_text() {
        assert_eq!(account_namespace().to_string(), "5a4b35dd-69de-505b-8d30-8be86c4327fa");
        assert_eq!(ItemKey::of(1, b"a1f0").to_string(), "bb136e646d94154018ecbcfb8b683c9a");
    }

    #[test]
    fn file_numbers_are_read_strictly() {
        assert_eq!(FileName::number_of("00000012.seg", "seg"), Some(12));
        assert_eq!(FileName::number_of("123456789.seg", "seg"), Some(123_456_789));
        for bad in ["12.seg", "0000000012.seg", "0000001x.seg", "00000012.pack", "00000012seg"] {
            assert_eq!(FileName::number_of(bad, "seg"), None, "{bad}");
        }
    }
}
