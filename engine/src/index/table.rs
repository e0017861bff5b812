//! Index of the files being written: rows of a segment, extents of a pack, in memory.
//!
//! Rows come in when a transaction gets its LSN, before it is durable; readers pass over what lies behind their LSN. An
//! append is what costs: it is one probe and one push under the commit lock. The order by key is made when a reader or the
//! footer asks for it, and only for what was appended since it was last asked for.

use super::Key;
use crate::disk::File;
use mailstrata_format::index::Row;
use mailstrata_format::pack::Extent;
use mailstrata_format::{Digest, FileKind, FileName};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Takes a lock that a panicking thread may have left: its data are only ever replaced whole.
pub(crate) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// See [`read`].
pub(crate) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Rows in the order in which they were appended, which is that of their LSNs.
#[derive(Default)]
struct Rows {
    rows: Vec<Slim>,
    /// The newest row of each item.
    heads: Slots,
    /// Rows by source hash, of items that have several rows.
    sources: Slots,
    first_lsn: u64,
    last_lsn: u64,
    first_moment: i64,
    last_moment: i64,
}

/// A row; those of an item are chained from the newest to the oldest.
#[derive(Clone, Copy)]
struct Slim {
    key: Key,
    lsn: u64,
    moment: i64,
    source: u64,
    offset: u32,
    length: u32,
    /// Index of the item's row before, or [`NONE`].
    before: u32,
    flags: u16,
    item_kind: u8,
    operation: u8,
}

/// A frame of a message takes so many bytes or more, most often.
const FRAME_USUAL: u64 = 384;

/// No row.
const NONE: u32 = u32::MAX;

impl Slim {
    fn row(&self) -> Row {
        let mut account = [0; 16];
        account.copy_from_slice(&self.key[..16]);
        let mut item = [0; 16];
        item.copy_from_slice(&self.key[16..]);
        Row {
            account,
            item,
            lsn: self.lsn,
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

/// Indexes of rows by a hash of theirs: open addressing by lines, at most half full. A slot holds 32 bits of the hash too: rows
/// are looked at only when they are most likely meant, and not at all when the slots grow.
#[derive(Default)]
struct Slots {
    lines: Vec<Line>,
    used: usize,
}

/// Slots of one cache line: part of the hash and index of the row, or [`NONE`]; those taken come first. Looked at as a whole: of
/// an item that is not there, nearly always no slot matches and one is free, which is no guess for the processor to get wrong
/// while it waits for the line.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([(u32, u32); LINE]);

const LINE: usize = 8;

impl Line {
    const FREE: Self = Self([(0, NONE); LINE]);

    /// One bit for each taken slot with this part of the hash.
    fn matches(&self, tag: u32) -> u32 {
        let bit = |(i, (t, row)): (u32, &(u32, u32))| u32::from((*t == tag) & (*row != NONE)) << i;
        (0..).zip(&self.0).map(bit).fold(0, |a, b| a | b)
    }

    fn is_full(&self) -> bool {
        self.0[LINE - 1].1 != NONE
    }
}

/// The part of a hash that slots keep: the upper half of a product, in which every bit counts.
fn spread(hash: u64) -> u32 {
    low_half(hash.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32)
}

impl Slots {
    /// The rows that may have a hash, and their slots.
    fn probe(&self, hash: u64) -> impl Iterator<Item = (usize, u32)> + '_ {
        let tag = spread(hash);
        let mut next = self.lines.get(self.line_of(tag)).map(|line| (self.line_of(tag), line, line.matches(tag)));
        std::iter::from_fn(move || {
            loop {
                let (at, line, matches) = next?;
                if matches != 0 {
                    next = Some((at, line, matches & (matches - 1)));
                    let i = matches.trailing_zeros() as usize % LINE;
                    return Some((at * LINE + i, line.0[i].1));
                }
                // At most half of all slots are taken, so a line that is not full ends it.
                let behind = (at + 1) & self.mask();
                next = line.is_full().then(|| self.lines.get(behind)).flatten().map(|l| (behind, l, l.matches(tag)));
            }
        })
    }

    /// The number of lines is zero or a power of two.
    fn mask(&self) -> usize {
        self.lines.len().wrapping_sub(1)
    }

    /// The line where the slots of a hash begin.
    fn line_of(&self, tag: u32) -> usize {
        tag as usize & self.mask()
    }

    /// Gives a slot another row.
    fn set(&mut self, slot: usize, row: u32) {
        if let Some((_, r)) = self.lines.get_mut(slot / LINE).map(|line| &mut line.0[slot % LINE]) {
            *r = row;
        }
    }

    /// Adds a row.
    fn insert(&mut self, hash: u64, row: u32) {
        if (self.used + 1) * 2 > self.lines.len() * LINE {
            let larger = vec![Line::FREE; (self.lines.len() * 2).max(8)];
            for line in std::mem::replace(&mut self.lines, larger) {
                line.0.iter().filter(|(_, row)| *row != NONE).for_each(|(tag, row)| self.place(*tag, *row));
            }
        }
        self.place(spread(hash), row);
        self.used += 1;
    }

    fn place(&mut self, tag: u32, row: u32) {
        let mut at = self.line_of(tag);
        while self.lines[at].is_full() {
            at = (at + 1) & self.mask();
        }
        if let Some(free) = self.lines[at].0.iter_mut().find(|(_, row)| *row == NONE) {
            *free = (tag, row);
        }
    }
}

/// Item keys are parts of digests, so some of their bytes are a hash.
fn key_hash(key: &Key) -> u64 {
    let word = |at: usize| key[at..].first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
    word(0) ^ word(16).rotate_left(32)
}

impl Rows {
    fn get(&self, index: u32) -> Option<&Slim> {
        self.rows.get(index as usize)
    }

    /// An item's newest row, and its slot.
    fn head(&self, key: &Key) -> Option<(usize, u32)> {
        self.heads.probe(key_hash(key)).find(|(_, row)| self.get(*row).is_some_and(|s| s.key == *key))
    }

    /// An item's rows, newest first.
    fn of_item(&self, key: &Key) -> impl Iterator<Item = &Slim> {
        let head = self.head(key).map_or(NONE, |(_, row)| row);
        std::iter::successors(self.get(head), |s| self.get(s.before))
    }

    /// An item's rows with a source hash. Only rows of items that have several are in `sources`.
    fn with_source(&self, key: &Key, hash: u64) -> Vec<Row> {
        let is = |s: &&Slim| s.source == hash && s.key == *key;
        match self.of_item(key).next() {
            None => Vec::new(),
            Some(only) if only.before == NONE => Some(only).filter(is).map(Slim::row).into_iter().collect(),
            Some(_) => {
                let rows = self.sources.probe(hash).filter_map(|(_, row)| self.get(row));
                rows.filter(is).map(Slim::row).collect()
            }
        }
    }

    fn add_source(&mut self, row: u32, source: u64) {
        if source != 0 {
            self.sources.insert(source, row);
        }
    }

    fn insert(&mut self, mut slim: Slim) {
        let Ok(index) = u32::try_from(self.rows.len()) else { return };
        match self.head(&slim.key) {
            None => self.heads.insert(key_hash(&slim.key), index),
            Some((slot, newest)) => {
                let head = self.rows[newest as usize];
                if head.before == NONE {
                    // So far it was found by its item alone.
                    self.add_source(newest, head.source);
                }
                self.add_source(index, slim.source);
                if head.lsn < slim.lsn {
                    slim.before = newest;
                    self.heads.set(slot, index);
                } else {
                    // Out of order, as only a damaged segment has it: to its place in the chain.
                    let mut at = newest as usize;
                    while let Some(next) = self.get(self.rows[at].before).filter(|s| s.lsn > slim.lsn) {
                        debug_assert!(next.key == slim.key);
                        at = self.rows[at].before as usize;
                    }
                    slim.before = std::mem::replace(&mut self.rows[at].before, index);
                }
            }
        }
        self.rows.push(slim);
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
    /// The order of the first rows; made when somebody asks for it.
    order: Mutex<Order>,
}

/// Indexes of rows in the order of (key, LSN).
type Order = Arc<[u32]>;

impl SegmentTable {
    /// An empty table.
    #[must_use]
    pub fn new(number: u64) -> Self {
        Self { number, file: OnceLock::new(), rows: RwLock::default(), order: Mutex::new(Arc::new([])) }
    }

    /// The segment's name.
    #[must_use]
    pub const fn name(&self) -> FileName {
        FileName::new(FileKind::Segment, self.number)
    }

    /// An empty table for a segment of this size: memory is set aside, and used only as rows come.
    #[must_use]
    pub fn for_bytes(number: u64, capacity: u64) -> Self {
        let table = Self::new(number);
        write(&table.rows).rows.reserve(usize::try_from(capacity / FRAME_USUAL).unwrap_or(0));
        table
    }

    /// Adds a row; `source` is the envelope's source hash.
    pub fn insert(&self, row: &Row, source: u64) {
        let mut r = write(&self.rows);
        if r.rows.is_empty() {
            (r.first_lsn, r.first_moment, r.last_moment) = (row.lsn, row.moment, row.moment);
        }
        r.first_lsn = r.first_lsn.min(row.lsn);
        r.last_lsn = r.last_lsn.max(row.lsn);
        r.first_moment = r.first_moment.min(row.moment);
        r.last_moment = r.last_moment.max(row.moment);
        r.insert(Slim {
            key: super::row_key(row),
            lsn: row.lsn,
            moment: row.moment,
            source,
            offset: row.offset,
            length: row.length,
            before: NONE,
            flags: row.flags,
            item_kind: row.item_kind,
            operation: row.operation,
        });
    }

    /// The newest row of an item among those for which LSN ≤ `lsn` and moment ≤ `moment`.
    #[must_use]
    pub fn newest(&self, key: &Key, lsn: u64, moment: i64) -> Option<Row> {
        read(&self.rows).of_item(key).find(|s| s.lsn <= lsn && s.moment <= moment).map(Slim::row)
    }

    /// An item's rows with LSN ≤ `last_lsn`, in LSN order.
    #[must_use]
    pub fn rows_of(&self, key: &Key, last_lsn: u64) -> Vec<Row> {
        let mut rows: Vec<_> = read(&self.rows).of_item(key).filter(|s| s.lsn <= last_lsn).map(Slim::row).collect();
        rows.reverse();
        rows
    }

    /// An item's rows whose source hash is this.
    #[must_use]
    pub fn with_source(&self, key: &Key, hash: u64) -> Vec<Row> {
        read(&self.rows).with_source(key, hash)
    }

    /// The order of the rows, of all with LSN ≤ `last_lsn` at least. Rows come in LSN order, so an order that was made
    /// later than a view serves it whatever is appended meanwhile.
    fn ordered(&self, last_lsn: u64) -> Order {
        let r = read(&self.rows);
        let mut order = self.order.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let covered = order.len();
        if r.rows.get(covered).is_none_or(|s| s.lsn > last_lsn) {
            return order.clone();
        }
        let place = |i: u32| r.get(i).map(|s| (&s.key, s.lsn));
        // Beginnings of both halves of the key stand beside the index: most comparisons need no more, and touch no row.
        let word = |key: &Key, at: usize| key[at..].first_chunk().map_or(0, |b| u64::from_be_bytes(*b));
        let begins = |s: &Slim| (word(&s.key, 0), word(&s.key, 8), word(&s.key, 16));
        let mut fresh: Vec<_> = (0u32..).zip(&r.rows).skip(covered).map(|(i, s)| (begins(s), i)).collect();
        fresh.sort_unstable_by(|(a, i), (b, j)| a.cmp(b).then_with(|| place(*i).cmp(&place(*j))));
        let mut merged = Vec::with_capacity(r.rows.len());
        let mut old = order.iter().copied().peekable();
        for (_, i) in fresh {
            while let Some(o) = old.next_if(|o| place(*o) <= place(i)) {
                merged.push(o);
            }
            merged.push(i);
        }
        merged.extend(old);
        *order = merged.into();
        order.clone()
    }

    /// Every row with its source hash, in order.
    #[must_use]
    pub fn all(&self) -> Vec<(Row, u64)> {
        let order = self.ordered(u64::MAX);
        let r = read(&self.rows);
        order.iter().filter_map(|i| r.get(*i)).map(|s| (s.row(), s.source)).collect()
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
            rows: r.rows.len() as u64,
        }
    }

    /// LSN of the last row.
    #[must_use]
    pub fn last_lsn(&self) -> u64 {
        read(&self.rows).last_lsn
    }
}

/// Walks a table's rows in the order of (key, LSN).
pub struct TableCursor<'a> {
    table: &'a SegmentTable,
    order: Order,
    next: usize,
    last_lsn: u64,
    /// Rows copied out, the next one last.
    batch: Vec<Row>,
}

/// How many rows are copied out at a time.
const BATCH: usize = 64;

impl<'a> TableCursor<'a> {
    /// A cursor at the first row that is not before (key, LSN); rows behind `last_lsn` are passed over.
    #[must_use]
    pub fn seek(table: &'a SegmentTable, from: &(Key, u64), last_lsn: u64) -> Self {
        let order = table.ordered(last_lsn);
        let r = read(&table.rows);
        let next = order.partition_point(|i| r.get(*i).is_some_and(|s| (s.key, s.lsn) < *from));
        Self { table, order, next, last_lsn, batch: Vec::new() }
    }

    /// The row here.
    pub fn row(&mut self) -> Option<Row> {
        while self.batch.is_empty() {
            let part = self.order.get(self.next..)?;
            let part = part.get(..BATCH).unwrap_or(part);
            if part.is_empty() {
                return None;
            }
            self.next += part.len();
            let r = read(&self.table.rows);
            let rows = part.iter().rev().filter_map(|i| r.get(*i));
            self.batch.extend(rows.filter(|s| s.lsn <= self.last_lsn).map(Slim::row));
        }
        self.batch.last().copied()
    }

    /// Goes on to the next row.
    pub fn step(&mut self) {
        self.batch.pop();
    }
}

/// The extents of a pack that has no footer yet.
pub struct PackTable {
    pub number: u64,
    /// Set once the file exists.
    pub file: OnceLock<Arc<dyn File>>,
    extents: RwLock<HashMap<Digest, Extent>>,
    written: AtomicU64,
    durable: AtomicU64,
}

impl PackTable {
    /// An empty table.
    #[must_use]
    pub fn new(number: u64) -> Self {
        Self {
            number,
            file: OnceLock::new(),
            extents: RwLock::default(),
            written: AtomicU64::new(0),
            durable: AtomicU64::new(0),
        }
    }

    /// Notes that the file is written up to `end`.
    pub fn note_written(&self, end: u64) {
        self.written.fetch_max(end, Ordering::AcqRel);
    }

    /// Notes that what is written is durable. Only who writes may call it, after the sync.
    pub fn note_durable(&self) {
        self.durable.fetch_max(self.written.load(Ordering::Acquire), Ordering::AcqRel);
    }

    /// Up to where the file is durable at least.
    #[must_use]
    pub fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn row(item: u8, lsn: u64, moment: i64) -> Row {
        let (account, item) = ([item % 3; 16], [item; 16]);
        Row { account, item, lsn, moment, offset: 0, length: 0, item_kind: 1, operation: 1, flags: 0, source: 0 }
    }

    proptest! {
        #[test]
        fn a_table_answers_as_a_sorted_map_does(
            appended in proptest::collection::vec((0u8..40, 0i64..100, 0u64..20), 0..300),
            asked in proptest::collection::vec((0u8..40, 0u64..320, 0i64..110), 20),
            order_at in 0usize..300,
        ) {
            let table = SegmentTable::new(1);
            let mut model = BTreeMap::new();
            for (lsn, (item, moment, source)) in (1u64..).zip(&appended) {
                let r = row(*item, lsn, *moment);
                table.insert(&r, *source);
                model.insert((super::super::row_key(&r), lsn), (*moment, *source));
                if lsn as usize == order_at {
                    let _ = table.all();
                }
            }
            for (item, lsn, moment) in asked {
                let key = super::super::row_key(&row(item, 0, 0));
                let of_item = || model.range((key, 0)..=(key, lsn));
                let newest = of_item().rev().find(|(_, (m, _))| *m <= moment).map(|((_, l), _)| *l);
                prop_assert_eq!(table.newest(&key, lsn, moment).map(|r| r.lsn), newest);
                let rows: Vec<_> = table.rows_of(&key, lsn).iter().map(|r| r.lsn).collect();
                prop_assert_eq!(rows, of_item().map(|((_, l), _)| *l).collect::<Vec<_>>());
                let source = lsn % 20 + 1;
                let mut found: Vec<_> = table.with_source(&key, source).iter().map(|r| r.lsn).collect();
                found.sort_unstable();
                let there = model.range((key, 0)..=(key, u64::MAX)).filter(|(_, (_, s))| *s == source);
                prop_assert_eq!(found, there.map(|((_, l), _)| *l).collect::<Vec<_>>());
                let mut cursor = TableCursor::seek(&table, &(key, 0), lsn);
                let mut walked = Vec::new();
                while let Some(r) = cursor.row() {
                    walked.push((super::super::row_key(&r), r.lsn));
                    cursor.step();
                }
                let all = model.range((key, 0)..).map(|(at, _)| *at).filter(|(_, l)| *l <= lsn);
                prop_assert_eq!(walked, all.collect::<Vec<_>>());
            }
            let all: Vec<_> = table.all().iter().map(|(r, s)| (super::super::row_key(r), r.lsn, *s)).collect();
            prop_assert_eq!(all, model.iter().map(|((k, l), (_, s))| (*k, *l, *s)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn rows_out_of_order_find_their_place_in_the_chain() {
        let table = SegmentTable::new(1);
        for lsn in [5, 9, 2, 7] {
            table.insert(&row(1, lsn, 0), 0);
        }
        let key = super::super::row_key(&row(1, 0, 0));
        assert_eq!(table.rows_of(&key, 8).iter().map(|r| r.lsn).collect::<Vec<_>>(), [2, 5, 7]);
        assert_eq!(table.newest(&key, 6, 0).map(|r| r.lsn), Some(5));
        assert_eq!(table.all().len(), 4);
    }
}
