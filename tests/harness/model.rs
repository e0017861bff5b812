//! What a store has to answer, kept in memory: every state of every item, and nothing clever.
//!
//! In come the events a store is given; out come the answers it must give (`design.md` §4 and §11). A test gives both the
//! same and compares.

use mailstrata_engine::ingest::event::{Blob, Change, Event, Transaction};
use mailstrata_format::{AccountId, Digest, ItemKey, ItemKind, Lsn, Operation};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What recording an event must lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Recorded(Lsn),
    /// The same source position with the same content: the LSN it got then.
    Duplicate(Lsn),
    NoItem,
    /// The same source position with other content.
    Conflict(Lsn),
    /// A blob was never stored.
    NoBlob(Digest),
}

type Key = (AccountId, ItemKey);

type SourceKey = (Key, Vec<u8>, Vec<u8>);

/// What of an event tells a repetition from a contradiction.
type Content = (Change, Option<i64>, Option<i64>);

/// See the module's text.
#[derive(Clone, Default)]
pub struct Model {
    items: BTreeMap<Key, Vec<Transaction>>,
    /// By item, source name and position.
    sources: BTreeMap<SourceKey, (Lsn, Arc<Content>)>,
    blobs: BTreeMap<Digest, Arc<[u8]>>,
    last: Lsn,
}

impl Model {
    /// A blob was stored.
    pub fn put_blob(&mut self, bytes: &Arc<[u8]>) -> Blob {
        let digest = Digest::of(bytes);
        self.blobs.entry(digest).or_insert_with(|| bytes.clone());
        Blob { digest, length: bytes.len() as u64, role: None }
    }

    /// The blobs stored so far.
    #[must_use]
    pub const fn blobs(&self) -> &BTreeMap<Digest, Arc<[u8]>> {
        &self.blobs
    }

    /// The account an address means now.
    #[must_use]
    pub fn account_of(&self, event: &Event) -> AccountId {
        if let Some(id) = event.account_id {
            return id;
        }
        let own = ItemKey::of(ItemKind::Account.code(), &event.account);
        let deleted = |id| self.items.get(&(id, own)).and_then(|h| h.last()).is_some_and(|t| t.deleted);
        let ids = (1..).map(|n| AccountId::of_address(&event.account, n));
        ids.into_iter().find(|id| !deleted(*id)).unwrap_or_default()
    }

    /// The key of an event's item.
    #[must_use]
    pub fn key_of(&self, event: &Event) -> Key {
        (self.account_of(event), ItemKey::of(event.kind.code(), &event.item))
    }

    /// Records an event at a moment of the store's clock.
    pub fn record(&mut self, event: &Event, recorded: i64) -> Outcome {
        let key = self.key_of(event);
        let content = (event.change.clone(), event.at, event.not_before);
        if let Some(s) = &event.source
            && let Some((lsn, before)) = self.sources.get(&(key, s.name.clone(), s.position.clone()))
        {
            return if **before == content { Outcome::Duplicate(*lsn) } else { Outcome::Conflict(*lsn) };
        }
        let previous = self.items.get(&key).and_then(|h| h.last());
        let alive = previous.filter(|t| !t.deleted);
        let (operation, state, blobs, content_unseen) = match &event.change {
            Change::Put { state, blobs, content_unseen } => {
                (Operation::Put, state.clone(), blobs.clone(), *content_unseen)
            }
            Change::Patch { patch, blobs } => {
                let Some(before) = alive else { return Outcome::NoItem };
                let mut state = before.state.clone();
                state.apply(patch);
                let unseen = before.content_unseen && blobs.is_none();
                (Operation::Patch, state, blobs.clone().unwrap_or_else(|| before.blobs.clone()), unseen)
            }
            Change::Delete => {
                let Some(before) = alive else { return Outcome::NoItem };
                (Operation::Delete, before.state.clone(), before.blobs.clone(), before.content_unseen)
            }
        };
        if let Some(b) = blobs.iter().find(|b| !self.blobs.contains_key(&b.digest)) {
            return Outcome::NoBlob(b.digest);
        }
        let happened = event.at.unwrap_or(recorded).min(recorded);
        let moment = previous.map_or(happened, |p| p.moment.max(happened));
        let lsn = Lsn(self.last.0 + 1);
        self.last = lsn;
        let t = Transaction {
            lsn,
            account_id: key.0,
            item_key: key.1,
            account: event.account.clone(),
            item: event.item.clone(),
            kind: event.kind,
            operation,
            deleted: operation == Operation::Delete,
            content_unseen,
            derived: event.derived,
            happened,
            not_before: event.not_before.map(|n| n.min(happened)),
            moment,
            recorded,
            state,
            blobs,
            source: event.source.clone(),
        };
        if let Some(s) = &event.source {
            self.sources.insert((key, s.name.clone(), s.position.clone()), (lsn, Arc::new(content)));
        }
        self.items.entry(key).or_default().push(t);
        Outcome::Recorded(lsn)
    }

    /// The last LSN given out.
    #[must_use]
    pub const fn lsn(&self) -> Lsn {
        self.last
    }

    /// Items that ever were.
    pub fn keys(&self) -> impl Iterator<Item = Key> + '_ {
        self.items.keys().copied()
    }

    /// All states of an item.
    #[must_use]
    pub fn history(&self, key: &Key) -> &[Transaction] {
        self.items.get(key).map_or(&[], Vec::as_slice)
    }

    /// An item's state at a moment, `None` for now.
    #[must_use]
    pub fn state(&self, key: &Key, at: Option<i64>) -> Option<&Transaction> {
        self.history(key).iter().rfind(|t| at.is_none_or(|at| t.moment <= at))
    }

    /// The states of all items of an account at a moment, by item key.
    #[must_use]
    pub fn items(&self, account: AccountId, at: Option<i64>) -> Vec<&Transaction> {
        self.items.keys().filter(|k| k.0 == account).filter_map(|k| self.state(k, at)).collect()
    }

    /// Accounts that have an item.
    #[must_use]
    pub fn accounts(&self) -> Vec<AccountId> {
        let mut out: Vec<_> = self.items.keys().map(|k| k.0).collect();
        out.dedup();
        out
    }

    /// All transactions in LSN order.
    #[must_use]
    pub fn log(&self) -> Vec<&Transaction> {
        let mut all: Vec<&Transaction> = self.items.values().flatten().collect();
        all.sort_by_key(|t| t.lsn);
        all
    }

    /// The model as it was after an LSN: what a store that kept only a prefix must hold. Blobs stay, as orphans may.
    #[must_use]
    pub fn until(&self, lsn: Lsn) -> Self {
        let mut out = self.clone();
        out.last = lsn.min(self.last);
        for history in out.items.values_mut() {
            history.retain(|t| t.lsn <= lsn);
        }
        out.items.retain(|_, h| !h.is_empty());
        out.sources.retain(|_, (l, _)| *l <= lsn);
        out
    }
}
