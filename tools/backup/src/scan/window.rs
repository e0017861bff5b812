//! Halves of moves: a message that appeared or vanished waits a moment for the other half.
//!
//! A server moves a message by linking it into the new folder and removing it from the old one; that it was one move shows only
//! when both were seen. In come halves, out go pairs, and after the window (some 25 ms) what stayed alone: arrivals and deletions.
//! Only what may be half of a move waits; an arrival whose content nobody has is recorded at once.

use super::content::Content;
use super::known::empty_content;
use super::live::SlotId;
use mailstrata_mailstore::source::{Account, MessageEntry};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What waits.
#[derive(Debug)]
pub enum Half {
    /// It is here now, and another message of the account has its name or content.
    Arrival { slot: SlotId, entry: MessageEntry, content: Box<Content> },
    /// It was there and is not.
    Gone { base: Vec<u8> },
    /// It was here, as an event says, and was gone before it could be opened.
    Unopened { slot: SlotId, entry: MessageEntry },
}

/// A half of a move, perhaps.
#[derive(Debug)]
pub struct Held {
    pub account: Arc<Account>,
    pub half: Half,
    pub place: u64,
    pub object: u64,
    pub digest: Option<u64>,
    /// When it happened, µs UTC.
    pub at: i64,
}

type Key = (usize, u64);

/// See the module.
pub struct Window {
    length: Duration,
    held: VecDeque<(Instant, Option<Held>)>,
    /// How many left the front of `held`; what the maps hold counts from the beginning.
    passed: usize,
    by_place: HashMap<(Vec<u8>, u64), usize>,
    gone: HashMap<Key, Vec<usize>>,
    arrived: HashMap<Key, Vec<usize>>,
    accounts: HashMap<Vec<u8>, usize>,
}

impl Window {
    pub fn new(length: Duration) -> Self {
        Self {
            length,
            held: VecDeque::new(),
            passed: 0,
            by_place: HashMap::new(),
            gone: HashMap::new(),
            arrived: HashMap::new(),
            accounts: HashMap::new(),
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// When the first has waited long enough.
    pub fn next_due(&self) -> Option<Instant> {
        self.held.front().map(|(due, _)| *due)
    }

    /// Has it wait. What waits about the same place is replaced.
    pub fn hold(&mut self, held: Held) {
        let index = self.passed + self.held.len();
        let next = self.accounts.len();
        let account = *self.accounts.entry(held.account.address.clone()).or_insert(next);
        let map = match &held.half {
            Half::Arrival { .. } => Some(&mut self.arrived),
            Half::Gone { .. } => Some(&mut self.gone),
            Half::Unopened { .. } => None,
        };
        if let Some(map) = map {
            map.entry((account, held.object)).or_default().push(index);
            if let Some(digest) = held.digest.filter(|d| *d != held.object && *d != empty_content()) {
                map.entry((account, digest)).or_default().push(index);
            }
        }
        self.by_place.insert((held.account.address.clone(), held.place), index);
        self.held.push_back((Instant::now() + self.length, Some(held)));
    }

    fn take(&mut self, index: usize) -> Option<Held> {
        let held = self.held.get_mut(index.checked_sub(self.passed)?)?.1.take()?;
        self.forget_place(&held, index);
        self.tidy();
        Some(held)
    }

    fn forget_place(&mut self, held: &Held, index: usize) {
        let key = (held.account.address.clone(), held.place);
        if self.by_place.get(&key) == Some(&index) {
            self.by_place.remove(&key);
        }
    }

    /// Drops what is empty at the front; and the maps, when nothing waits.
    fn tidy(&mut self) {
        while self.held.front().is_some_and(|(_, held)| held.is_none()) {
            self.held.pop_front();
            self.passed += 1;
        }
        if self.held.is_empty() {
            self.by_place.clear();
            self.gone.clear();
            self.arrived.clear();
            self.accounts.clear();
        }
    }

    /// Whatever waits about a place.
    pub fn take_place(&mut self, account: &Account, place: u64) -> Option<Held> {
        let index = *self.by_place.get(&(account.address.clone(), place))?;
        self.take(index)
    }

    fn take_half(&mut self, account: &Account, gone: bool, keys: [Option<u64>; 2]) -> Option<Held> {
        let number = *self.accounts.get(&account.address)?;
        let map = if gone { &self.gone } else { &self.arrived };
        let there = |i: &usize| {
            i.checked_sub(self.passed).and_then(|i| self.held.get(i)).is_some_and(|(_, held)| held.is_some())
        };
        let index = keys
            .into_iter()
            .flatten()
            .find_map(|key| map.get(&(number, key)).and_then(|all| all.iter().copied().find(there)))?;
        self.take(index)
    }

    /// One that went, with this object id (or base name), or else this content.
    pub fn take_gone(&mut self, account: &Account, object: u64, digest: u64) -> Option<Held> {
        self.take_half(account, true, [Some(object), Some(digest)])
    }

    /// One that came, likewise.
    pub fn take_arrival(&mut self, account: &Account, object: u64, digest: Option<u64>) -> Option<Held> {
        self.take_half(account, false, [Some(object), digest])
    }

    /// The next that has waited long enough; any, with `all`.
    pub fn take_due(&mut self, now: Instant, all: bool) -> Option<Held> {
        self.tidy();
        let (due, _) = self.held.front()?;
        if !all && *due > now {
            return None;
        }
        let index = self.passed;
        self.take(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gone(account: &Arc<Account>, place: u64, object: u64, digest: u64) -> Held {
        let half = Half::Gone { base: b"x".to_vec() };
        Held { account: account.clone(), half, place, object, digest: Some(digest), at: 0 }
    }

    fn account(address: &str) -> Arc<Account> {
        Arc::new(Account { address: address.into(), root: "/".into() })
    }

    #[test]
    fn halves_are_found_by_name_then_by_content_and_once() {
        let (a, b) = (account("a"), account("b"));
        let mut w = Window::new(Duration::from_secs(9));
        w.hold(gone(&a, 1, 10, 100));
        w.hold(gone(&a, 2, 20, 100));
        assert!(w.take_gone(&b, 10, 100).is_none());
        assert!(w.take_arrival(&a, 10, Some(100)).is_none());
        assert_eq!(w.take_gone(&a, 20, 0).unwrap().place, 2);
        assert_eq!(w.take_gone(&a, 99, 100).unwrap().place, 1);
        assert!(w.take_gone(&a, 10, 100).is_none());
        assert_eq!(w.len(), 0);
    }

    #[test]
    fn what_stays_alone_comes_out_in_order_when_due() {
        let a = account("a");
        let mut w = Window::new(Duration::from_millis(5));
        let now = Instant::now();
        for place in 1..4 {
            w.hold(gone(&a, place, place, place));
        }
        assert!(w.take_due(now, false).is_none());
        assert_eq!(w.take_place(&a, 2).unwrap().place, 2);
        let later = now + Duration::from_secs(1);
        let places: Vec<u64> = std::iter::from_fn(|| w.take_due(later, false)).map(|h| h.place).collect();
        assert_eq!(places, [1, 3]);
        assert!(w.next_due().is_none());
    }
}
