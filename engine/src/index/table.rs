//! Index of the files being written: rows of a segment, extents of a pack, in memory.
//!
//! Rows come in when a transaction gets its LSN, before it is durable; readers pass over what lies behind their LSN.

use super::Key;
use crate::disk::File;
use mailstrata_format::index::Row;
use mailstrata_format::pack::Extent;
use mailstrata_format::{AccountId, Digest, ItemKey};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Takes a lock that a panicking thread may have left: its data are only ever replaced whole.
pub(crate) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// See [`read`].
pub(crate) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[derive(Default)]
struct Rows {
    by_key: BTreeMap<(Key, u64), Slim>,
    /// Source hash to the LSNs that carried it (nearly always one).
    sources: HashMap<u64, Vec<u64>>,
    first_lsn: u64,
    last_lsn: u64,
    first_moment: i64,
    last_moment: i64,
}

/// A row without its key.
#[derive(Clone, Copy)]
struct Slim {
    moment: i64,
    source: u64,
    offset: u32,
    length: u32,
    flags: u16,
    item_kind: u8,
    operation: u8,
}

impl Slim {
    fn row(self, key: &Key, lsn: u64) -> Row {
        let mut account = [0; 16];
        account.copy_from_slice(&key[..16]);
        let mut item = [0; 16];
        item.copy_from_slice(&key[16..]);
        Row {
            account,
            item,
            lsn,
            moment: self.moment,
            offset: self.offset,
            length: self.length,
            item_kind: self.item_kind,
            operation: self.operation,
            flags: self.flags,
            source: low_half(self.source),
        }
    }
}

/// The part of a source hash that rows carry.
#[must_use]
pub fn low_half(hash: u64) -> u32 {
    u32::try_from(hash & u64::from(u32::MAX)).unwrap_or(0)
}

/// What is known of a segment's rows as a whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Span {
    pub first_lsn: u64,
    pub last_lsn: u64,
    pub first_moment: i64,
    pub last_moment: i64,
    pub rows: u64,
}

/// The rows of a segment that has no footer yet.
pub struct SegmentTable {
    pub number: u64,
    /// Set once the file exists under its name.
    pub file: OnceLock<Arc<dyn File>>,
    rows: RwLock<Rows>,
}

impl SegmentTable {
    /// An empty table.
    #[must_use]
    pub fn new(number: u64) -> Self {
        Self { number, file: OnceLock::new(), rows: RwLock::default() }
    }

    /// Adds a row; `source` is the envelope's source hash.
    pub fn insert(&self, row: &Row, source: u64) {
        let mut r = write(&self.rows);
        if r.by_key.is_empty() {
            (r.first_lsn, r.first_moment, r.last_moment) = (row.lsn, row.moment, row.moment);
        }
        r.first_lsn = r.first_lsn.min(row.lsn);
        r.last_lsn = r.last_lsn.max(row.lsn);
        r.first_moment = r.first_moment.min(row.moment);
        r.last_moment = r.last_moment.max(row.moment);
        if source != 0 {
            r.sources.entry(source).or_default().push(row.lsn);
        }
        let slim = Slim {
            moment: row.moment,
            source,
            offset: row.offset,
            length: row.length,
            flags: row.flags,
            item_kind: row.item_kind,
            operation: row.operation,
        };
        r.by_key.insert((super::row_key(row), row.lsn), slim);
    }

    /// The newest row of an item among those for which LSN ≤ `lsn` and moment ≤ `moment`.
    #[must_use]
    pub fn newest(&self, key: &Key, lsn: u64, moment: i64) -> Option<Row> {
        let r = read(&self.rows);
        let found = r.by_key.range((*key, 0)..=(*key, lsn)).rev().find(|(_, s)| s.moment <= moment)?;
        Some(found.1.row(key, found.0.1))
    }

    /// The rows from `(key, lsn)` on, at most `limit`, in order; rows behind `last_lsn` are passed over.
    #[must_use]
    pub fn rows_from(&self, key: &Key, lsn: u64, last_lsn: u64, limit: usize) -> Vec<Row> {
        let r = read(&self.rows);
        let all = r.by_key.range((*key, lsn)..);
        all.filter(|((_, l), _)| *l <= last_lsn).take(limit).map(|((k, l), s)| s.row(k, *l)).collect()
    }

    /// The rows of one item, in LSN order, up to `last_lsn`.
    #[must_use]
    pub fn rows_of(&self, key: &Key, last_lsn: u64) -> Vec<Row> {
        let r = read(&self.rows);
        r.by_key.range((*key, 0)..=(*key, last_lsn)).map(|((k, l), s)| s.row(k, *l)).collect()
    }

    /// LSNs whose source hash is this.
    #[must_use]
    pub fn with_source(&self, hash: u64) -> Vec<u64> {
        read(&self.rows).sources.get(&hash).cloned().unwrap_or_default()
    }

    /// Every row with its source hash, in order.
    #[must_use]
    pub fn all(&self) -> Vec<(Row, u64)> {
        read(&self.rows).by_key.iter().map(|((k, l), s)| (s.row(k, *l), s.source)).collect()
    }

    /// What is known of the rows as a whole.
    #[must_use]
    pub fn span(&self) -> Span {
        let r = read(&self.rows);
        Span {
            first_lsn: r.first_lsn,
            last_lsn: r.last_lsn,
            first_moment: r.first_moment,
            last_moment: r.last_moment,
            rows: r.by_key.len() as u64,
        }
    }

    /// The row of an LSN, when the caller knows the key.
    #[must_use]
    pub fn row(&self, account: AccountId, item: ItemKey, lsn: u64) -> Option<Row> {
        let key = super::key_of(account, item);
        read(&self.rows).by_key.get(&(key, lsn)).map(|s| s.row(&key, lsn))
    }
}

/// The extents of a pack that has no footer yet.
pub struct PackTable {
    pub number: u64,
    /// Set once the file exists.
    pub file: OnceLock<Arc<dyn File>>,
    extents: RwLock<HashMap<Digest, Extent>>,
}

impl PackTable {
    /// An empty table.
    #[must_use]
    pub fn new(number: u64) -> Self {
        Self { number, file: OnceLock::new(), extents: RwLock::default() }
    }

    /// Adds an extent; the first of a digest stays.
    pub fn insert(&self, extent: Extent) {
        write(&self.extents).entry(extent.digest).or_insert(extent);
    }

    /// Where a blob lies.
    #[must_use]
    pub fn get(&self, digest: &Digest) -> Option<Extent> {
        read(&self.extents).get(digest).copied()
    }

    /// Number of blobs.
    #[must_use]
    pub fn len(&self) -> usize {
        read(&self.extents).len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All extents, sorted by digest.
    #[must_use]
    pub fn all(&self) -> Vec<Extent> {
        let mut all: Vec<_> = read(&self.extents).values().copied().collect();
        all.sort_unstable_by_key(|e| e.digest);
        all
    }
}
