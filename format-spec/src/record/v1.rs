//! Payload of a transaction, version 1: an rkyv 0.8 archive (little-endian, unaligned, 32-bit pointers), root last.
//!
//! Everything a state holds that the envelope does not. Text is bytes: mail servers have names that are not UTF-8.

use rkyv::rancor::{Error, Failure};
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize};

/// Which optional fields are present. A field that is not is empty or zero.
pub mod present {
    pub const FOLDER: u32 = 1;
    pub const FLAGS: u32 = 2;
    pub const TAGS: u32 = 4;
    pub const NAME: u32 = 8;
    pub const SENDER: u32 = 16;
    pub const DATE: u32 = 32;
    pub const UID: u32 = 64;
    pub const SOURCE: u32 = 128;
}

/// [`AttributeV1::kind`]: text.
pub const ATTRIBUTE_TEXT: u8 = 0;
/// [`AttributeV1::kind`]: a JSON value (RFC 8259), as it was written.
pub const ATTRIBUTE_JSON: u8 = 1;

/// A named value.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct AttributeV1 {
    pub name: Vec<u8>,
    pub kind: u8,
    pub value: Vec<u8>,
}

/// One item's state.
#[derive(Debug, Clone, PartialEq, Eq, Default, Archive, Serialize, Deserialize)]
pub struct TransactionV1 {
    /// Address of the account, as it was given.
    pub account: Vec<u8>,
    /// Native id of the item, as it was given.
    pub item: Vec<u8>,
    /// Bits of [`present`].
    pub present: u32,
    pub folder: Vec<u8>,
    pub flags: Vec<Vec<u8>>,
    pub tags: Vec<Vec<u8>>,
    pub name: Vec<u8>,
    pub sender: Vec<u8>,
    /// µs UTC.
    pub date: i64,
    pub uid: u64,
    pub attributes: Vec<AttributeV1>,
    /// Roles of blobs that are not the content.
    pub roles: Vec<Vec<u8>>,
    pub source_name: Vec<u8>,
    pub source_position: Vec<u8>,
    /// XXH3-64 of what the source reported, so that the same position with other content is noticed; 0 without source.
    pub source_content: u64,
}

/// The archive of a transaction.
pub fn encode(record: &TransactionV1) -> Result<AlignedVec, Error> {
    rkyv::to_bytes::<Error>(record)
}

/// The archive in place, validated. `bytes` is exactly the payload.
#[inline]
pub fn access(bytes: &[u8]) -> Result<&ArchivedTransactionV1, Failure> {
    // An error that says no more than that there is one: what would trace it costs as much as the validation.
    rkyv::access::<ArchivedTransactionV1, Failure>(bytes)
}

/// A transaction of its own, from a validated archive.
pub fn decode(bytes: &[u8]) -> Result<TransactionV1, Error> {
    rkyv::from_bytes::<TransactionV1, Error>(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn archived_bytes_are_stored_text() {
        let t = TransactionV1 {
            account: b"a@b".to_vec(),
            item: b"1".to_vec(),
            present: present::FLAGS,
            flags: vec![b"\\Seen".to_vec()],
            ..TransactionV1::default()
        };
        let hex: String = encode(&t).unwrap().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, include_str!("../../fixtures/v1/transaction.hex").trim());
    }

    proptest! {
        #[test]
        fn a_transaction_survives_its_archive(account: Vec<u8>, flags: Vec<Vec<u8>>, uid: u64, date: i64, value: Vec<u8>) {
            let t = TransactionV1 {
                account,
                flags,
                uid,
                date,
                attributes: vec![AttributeV1 { name: b"x".to_vec(), kind: 1, value }],
                ..TransactionV1::default()
            };
            let bytes = encode(&t).unwrap();
            prop_assert_eq!(decode(&bytes).unwrap(), t);
        }

        #[test]
        fn random_bytes_never_panic(bytes: Vec<u8>) {
            let _ = access(&bytes);
        }
    }
}
