//! Which changes were committed.
//!
//! In come records in the order of the log, across files; out goes, for each, what it means. A change counts at its commit, in
//! the order of commits. Rules:
//!
//! - A change may stand twice under one transaction: what is open at a rollover is written again into the next file.
//! - A transaction may be committed several times: recovery runs recent changes again. Only the first commit gives the change.
//! - A commit without a change is an orphan: the change stands in a log that was not read.

use crate::redolog::operation::{ABORT, CHECKPOINT, COMMIT, ROLLOVER};
use crate::redolog::record::{Record, TransactionId};
use std::collections::{HashMap, HashSet, VecDeque};

/// Ended transactions that are remembered, to tell a repeated commit from an orphan. Recovery repeats 10 s of them.
const ENDED_MAX: usize = 1 << 16;

/// What a record means for the changes. `P`: where a change came from, whatever the caller needs to find its content again.
#[derive(Debug, PartialEq, Eq)]
pub enum Fate<P> {
    /// A change that waits for its end.
    Open,
    /// The same change again; the later one stays: a rollover may remove the file of the first.
    Again,
    /// Counts from now on.
    Committed(Box<(Record, P)>),
    /// Was committed before.
    CommittedAgain,
    Aborted,
    /// The end of a change that was not seen.
    Orphan,
    /// Checkpoints and rollovers change nothing.
    Nothing,
}

/// Changes under way.
#[derive(Debug)]
pub struct Transactions<P> {
    open: HashMap<TransactionId, (Record, P)>,
    ended: HashSet<TransactionId>,
    ended_order: VecDeque<TransactionId>,
}

impl<P> Default for Transactions<P> {
    fn default() -> Self {
        Self { open: HashMap::new(), ended: HashSet::new(), ended_order: VecDeque::new() }
    }
}

impl<P> Transactions<P> {
    pub fn take(&mut self, record: Record, place: P) -> Fate<P> {
        let id = record.head.transaction;
        match record.head.code {
            CHECKPOINT | ROLLOVER => Fate::Nothing,
            COMMIT | ABORT => match self.open.remove(&id) {
                None if self.ended.contains(&id) => Fate::CommittedAgain,
                None => Fate::Orphan,
                Some(_) if record.head.code == ABORT => Fate::Aborted,
                Some(change) => {
                    // A change that recovery wrote again has counted already.
                    if !self.remember(id) { Fate::CommittedAgain } else { Fate::Committed(Box::new(change)) }
                }
            },
            _ => match self.open.entry(id) {
                std::collections::hash_map::Entry::Occupied(mut first) => {
                    first.insert((record, place));
                    Fate::Again
                }
                std::collections::hash_map::Entry::Vacant(free) => {
                    free.insert((record, place));
                    Fate::Open
                }
            },
        }
    }

    /// Whether it is new.
    fn remember(&mut self, id: TransactionId) -> bool {
        if !self.ended.insert(id) {
            return false;
        }
        self.ended_order.push_back(id);
        if self.ended_order.len() > ENDED_MAX
            && let Some(oldest) = self.ended_order.pop_front()
        {
            self.ended.remove(&oldest);
        }
        true
    }

    /// Changes without an end so far.
    pub fn open(&self) -> impl Iterator<Item = &(Record, P)> {
        self.open.values()
    }

    pub fn open_len(&self) -> usize {
        self.open.len()
    }
}
