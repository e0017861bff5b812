//! Derived from segments and packs: losing it costs time, never data (W3).
//!
//! [`table`] is the index of a file that is being written, in memory; [`run`] the sorted one at the end of a sealed file,
//! read block by block through a bounded cache. Both answer the same questions by key.

pub mod table;

pub mod run;

pub mod checkpoint;

use mailstrata_format::index::Row;
use mailstrata_format::{AccountId, ItemKey};

/// Account and item: what a segment's rows are sorted by.
pub type Key = [u8; 32];

/// The key of an item.
#[must_use]
pub fn key_of(account: AccountId, item: ItemKey) -> Key {
    let mut key = [0; 32];
    key[..16].copy_from_slice(&account.0);
    key[16..].copy_from_slice(&item.0);
    key
}

/// The key of a row.
#[must_use]
#[inline]
pub fn row_key(row: &Row) -> Key {
    key_of(AccountId(row.account), ItemKey(row.item))
}
