//! Answers about the store as of one LSN, and of any moment before.
//!
//! State at T is an item's last transaction whose moment is ≤ T. Damage met on the way is an error for the item it hit and
//! for nothing else.

use super::log::LogCursor;
use super::read as frames;
use crate::blob::{compose, known};
use crate::catalog::{Catalog, Segment, SegmentCursor, SegmentPart};
use crate::error::{Error, Result};
use crate::files::Files;
use crate::index::{Key, key_of, row_key};
use crate::ingest::event::Transaction;
use mailstrata_format::frame::{FLAG_DELETED, Frame};
use mailstrata_format::index::Row;
use mailstrata_format::pack::Extent;
use mailstrata_format::record::v1::ArchivedTransactionV1;
use mailstrata_format::{AccountId, Damage, DamageKind, Digest, FileKind, FileName, ItemKey, ItemKind, Lsn};
use std::sync::Arc;

/// A row and the segment or run its frame is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hit {
    pub file: FileName,
    pub row: Row,
}

impl Hit {
    /// The item's key.
    #[must_use]
    pub const fn item(&self) -> ItemKey {
        ItemKey(self.row.item)
    }

    /// The item's account.
    #[must_use]
    pub const fn account(&self) -> AccountId {
        AccountId(self.row.account)
    }

    /// What the item is.
    #[must_use]
    pub fn kind(&self) -> Option<ItemKind> {
        ItemKind::from_code(self.row.item_kind)
    }

    /// Whether this state is a deletion.
    #[must_use]
    pub const fn deleted(&self) -> bool {
        self.row.flags & FLAG_DELETED != 0
    }
}

/// The store as of one LSN. Cheap to clone.
#[derive(Clone)]
pub struct View {
    pub(crate) files: Arc<Files>,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) lsn: Lsn,
}

impl View {
    /// The LSN this view ends with.
    #[must_use]
    pub const fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// The same store as of an earlier LSN.
    #[must_use]
    pub fn at_lsn(&self, lsn: Lsn) -> Self {
        Self { lsn: lsn.min(self.lsn), ..self.clone() }
    }

    /// An item's last row whose moment is not after `at`.
    pub fn locate(&self, account: AccountId, item: ItemKey, at: Option<i64>) -> Result<Option<Hit>> {
        let key = key_of(account, item);
        let found = self.catalog.newest(&self.files, &key, self.lsn.0, at.unwrap_or(i64::MAX))?;
        Ok(found.map(|(file, row)| Hit { file, row }))
    }

    /// The state of an item, deleted or not; `None` when there was none.
    pub fn state(&self, account: AccountId, item: ItemKey, at: Option<i64>) -> Result<Option<Transaction>> {
        self.locate(account, item, at)?.map(|hit| self.read(&hit)).transpose()
    }

    /// The transaction of a row.
    pub fn read(&self, hit: &Hit) -> Result<Transaction> {
        frames::transaction(&self.files, hit.file, &hit.row)
    }

    /// Hands on a row's record in place, validated, without copying it.
    pub fn with_record<R>(&self, hit: &Hit, use_it: impl FnOnce(&Frame<'_>, &ArchivedTransactionV1) -> R) -> Result<R> {
        frames::with_frame(&self.files, hit.file, &hit.row, use_it)
    }

    /// All rows of an item, in LSN order.
    pub fn rows(&self, account: AccountId, item: ItemKey) -> Result<Vec<Hit>> {
        let key = key_of(account, item);
        let mut all = Vec::new();
        for s in &self.catalog.segments {
            all.extend(s.rows_of(&self.files, &key, self.lsn.0)?.into_iter().map(|row| Hit { file: s.name, row }));
        }
        all.sort_unstable_by_key(|h| h.row.lsn);
        Ok(all)
    }

    /// All transactions of an item, in LSN order; stops at damage.
    pub fn history(&self, account: AccountId, item: ItemKey) -> Result<Vec<Transaction>> {
        self.rows(account, item)?.iter().map(|h| self.read(h)).collect()
    }

    /// The last row of every item of an account whose moment is not after `at`, deleted items included, cursors not, in the
    /// order of the keys.
    pub fn items(&self, account: AccountId, at: Option<i64>) -> Result<Items<'_>> {
        let from = key_of(account, ItemKey([0; 16]));
        Ok(Items {
            merge: Merge::new(self, &from)?,
            ahead: None,
            account,
            at: at.unwrap_or(i64::MAX),
            with_cursors: false,
        })
    }

    /// As [`View::items`], with the scanners' marks.
    pub fn items_and_cursors(&self, account: AccountId) -> Result<Items<'_>> {
        Ok(Items { with_cursors: true, ..self.items(account, None)? })
    }

    /// Every row of an account but the scanners' marks, in the order of (item key, LSN).
    pub fn account_rows(&self, account: AccountId) -> Result<impl Iterator<Item = Result<Hit>> + '_> {
        let mut merge = Merge::new(self, &key_of(account, ItemKey([0; 16])))?;
        let rows = std::iter::from_fn(move || merge.next_hit().transpose());
        let ours = rows.take_while(move |hit| hit.as_ref().map_or(true, |h| h.account() == account));
        Ok(ours.filter(|hit| hit.as_ref().map_or(true, |h| h.row.item_kind != ItemKind::Cursor.code())))
    }

    /// All accounts that have a transaction in this view, with one row of each (any item), in the order of their ids.
    pub fn accounts(&self) -> Result<Vec<Hit>> {
        for s in &self.catalog.segments {
            if let SegmentPart::Run(run) = &s.part {
                run.will_walk_accounts(&self.files);
            }
        }
        let mut found = Vec::new();
        let mut from = Some([0u8; 32]);
        while let Some(key) = from {
            let mut merge = Merge::new(self, &key)?;
            let Some(hit) = merge.next_hit()? else { break };
            found.push(hit);
            from = after_account(hit.account());
        }
        Ok(found)
    }

    /// The account ids whose items carry this address, oldest incarnation first.
    pub fn accounts_of(&self, address: &[u8]) -> Result<Vec<AccountId>> {
        let mut found = Vec::new();
        let accounts = self.accounts()?;
        self.will_read(&accounts);
        for hit in accounts {
            let same = self.with_record(&hit, |_, r| r.account.as_slice() == address);
            match same {
                Ok(true) => found.push((hit.row.lsn, hit.account())),
                Ok(false) | Err(Error::Damage(_)) => {}
                Err(e) => return Err(e),
            }
        }
        found.sort_unstable();
        Ok(found.into_iter().map(|(_, id)| id).collect())
    }

    /// Everything from an LSN on, in LSN order. Damage is an item of its own; what follows it comes all the same.
    #[must_use]
    pub fn log(&self, from: Lsn) -> Log<'_> {
        Log { view: self, cursor: LogCursor::new(from) }
    }

    /// The least and the greatest moment of the view; `None` for an empty store.
    #[must_use]
    pub fn span(&self) -> Option<(i64, i64)> {
        let spans = self.catalog.segments.iter().map(Segment::span).filter(|s| s.rows > 0 && s.first_lsn <= self.lsn.0);
        spans.map(|s| (s.first_moment, s.last_moment)).reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
    }

    /// Whether a blob is stored, and its length.
    pub fn blob_len(&self, digest: &Digest) -> Result<Option<u64>> {
        Ok(known::find(&self.catalog, &self.files, digest)?.map(|e| e.length))
    }

    /// Where the copy of a blob lies that [`View::read_blob`] reads first: who reads many reads them in this order.
    pub fn extent(&self, digest: &Digest) -> Result<Option<Extent>> {
        known::find(&self.catalog, &self.files, digest)
    }

    /// Streams a blob, verified. When its first copy is damaged at its beginning another is tried; bytes that have gone out
    /// were each verified, and an error after them means the blob is not whole.
    pub fn read_blob(&self, digest: &Digest, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<u64> {
        let copies = known::find_all(&self.catalog, &self.files, digest, 4)?;
        let mut last = Error::Damage(Damage::new(FileName::new(FileKind::Pack, 0), 0, DamageKind::BlobMissing));
        for extent in copies {
            let mut sent = false;
            let outcome = compose::stream(&self.catalog, &self.files, &extent, &mut |bytes| {
                sent |= !bytes.is_empty();
                sink(bytes)
            });
            match outcome {
                Ok(()) => return Ok(extent.length),
                Err(e @ Error::Damage(_)) if !sent => last = e,
                Err(e) => return Err(e),
            }
        }
        Err(last)
    }

    /// The segments of the view: number, rows, whether sealed.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }
}

fn after_account(account: AccountId) -> Option<Key> {
    let next = u128::from_be_bytes(account.0).checked_add(1)?;
    Some(key_of(AccountId(next.to_be_bytes()), ItemKey([0; 16])))
}

/// The rows of all segments in the order of (key, LSN): one cursor a segment.
struct Merge<'a> {
    cursors: Vec<(FileName, SegmentCursor<'a>)>,
    lsn: u64,
}

impl<'a> Merge<'a> {
    fn new(view: &'a View, from: &Key) -> Result<Self> {
        let mut cursors = Vec::with_capacity(view.catalog.segments.len());
        for s in &view.catalog.segments {
            cursors.push((s.name, SegmentCursor::seek(s, &view.files, from, view.lsn.0)?));
        }
        Ok(Self { cursors, lsn: view.lsn.0 })
    }

    fn next_hit(&mut self) -> Result<Option<Hit>> {
        loop {
            let mut least: Option<(usize, Hit)> = None;
            for (i, (file, cursor)) in self.cursors.iter_mut().enumerate() {
                if let Some(row) = cursor.row()? {
                    let earlier = |h: &Hit| (row_key(&row), row.lsn) < (row_key(&h.row), h.row.lsn);
                    if least.as_ref().is_none_or(|(_, h)| earlier(h)) {
                        least = Some((i, Hit { file: *file, row }));
                    }
                }
            }
            let Some((i, hit)) = least else { return Ok(None) };
            self.cursors[i].1.step();
            if hit.row.lsn <= self.lsn {
                return Ok(Some(hit));
            }
        }
    }
}

/// See [`View::items`].
pub struct Items<'a> {
    merge: Merge<'a>,
    /// The first row of the next item.
    ahead: Option<Hit>,
    account: AccountId,
    at: i64,
    with_cursors: bool,
}

impl Items<'_> {
    fn advance(&mut self) -> Result<Option<Hit>> {
        let mut best: Option<Hit> = None;
        loop {
            let hit = match self.ahead.take() {
                Some(hit) => hit,
                None => match self.merge.next_hit()? {
                    Some(hit) => hit,
                    None => return Ok(best),
                },
            };
            if hit.account() != self.account || best.is_some_and(|b| b.row.item != hit.row.item) {
                self.ahead = Some(hit);
                return Ok(best);
            }
            let shown = self.with_cursors || hit.row.item_kind != ItemKind::Cursor.code();
            if shown && hit.row.moment <= self.at {
                best = Some(hit);
            }
        }
    }
}

impl Iterator for Items<'_> {
    type Item = Result<Hit>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}

/// One step of [`View::log`].
#[derive(Debug)]
pub enum LogEntry {
    Transaction(Box<Transaction>),
    /// A transaction of this item is damaged.
    Damaged(Hit, Error),
    /// Transactions with these LSNs (inclusive) are in no file any more: nobody knows whose they were.
    Missing {
        from: Lsn,
        to: Lsn,
        error: Error,
    },
}

/// See [`View::log`].
pub struct Log<'a> {
    view: &'a View,
    cursor: LogCursor,
}

impl Iterator for Log<'_> {
    type Item = Result<LogEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        self.cursor.step(self.view)
    }
}
