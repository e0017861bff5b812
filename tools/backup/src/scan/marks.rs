//! The durable marks of following: which account is in doubt since when, and that the scanner is alive.
//!
//! A gap is recorded as open before the scan that ends it begins, and all gaps are opened by a clean stop. After an unclean stop
//! the last sign of life says since when nobody followed. That sign, `maildir-alive`, is kept in one account, the first.

use super::cursor::mark_event;
use super::gaps::Doubt;
use super::live::number;
use super::{Result, locked};
use mailstrata_engine::{Error as StoreError, Store, Ticket};
use mailstrata_format::{AccountId, ItemKey, ItemKind};
use std::collections::HashMap;
use std::sync::Mutex;

const ALIVE: &[u8] = b"maildir-alive";
const TIME: &[u8] = b"time";

struct Mark {
    id: AccountId,
    doubt: Doubt,
}

/// The marks of all accounts that are followed.
pub struct Marks<'a> {
    store: &'a Store,
    all: Mutex<HashMap<Vec<u8>, Mark>>,
    /// The last sign of life of the scanner before.
    alive: i64,
}

impl<'a> Marks<'a> {
    /// Reads the marks, and opens the gaps that an unclean stop left.
    pub fn load<'b>(store: &'a Store, addresses: impl Iterator<Item = &'b [u8]>) -> Result<Self> {
        let view = store.view();
        let key = ItemKey::of(ItemKind::Cursor.code(), ALIVE);
        let mut marks = Self { store, all: Mutex::default(), alive: 0 };
        let mut all = HashMap::new();
        for address in addresses {
            let id = store.account_of(address)?;
            match view.state(id, key, None) {
                Ok(Some(t)) => {
                    let time = t.state.attribute(TIME).and_then(|t| std::str::from_utf8(t).ok()?.parse().ok());
                    marks.alive = marks.alive.max(time.unwrap_or(0));
                }
                Ok(None) | Err(StoreError::Damage(_)) => {}
                Err(e) => return Err(e.into()),
            }
            if let Some(doubt) = Doubt::read(&view, id)? {
                all.insert(address.to_owned(), Mark { id, doubt });
            }
        }
        let unclean: Vec<(Vec<u8>, i64)> = all
            .iter()
            .filter_map(|(address, mark)| Some((address.clone(), mark.doubt.followed?.max(marks.alive))))
            .collect();
        marks.all = Mutex::new(all);
        for (address, from) in unclean {
            marks.open(&address, from)?;
        }
        Ok(marks)
    }

    /// From `from` on something may be missed. An account that was never followed has no gap.
    pub fn open(&self, address: &[u8], from: i64) -> Result<Option<Ticket>> {
        let mut all = locked(&self.all);
        let Some(mark) = all.get_mut(address) else { return Ok(None) };
        let before = mark.doubt.clone();
        mark.doubt.open(from);
        if mark.doubt == before { Ok(None) } else { self.write(address, mark) }
    }

    /// A scan has seen everything up to `until`, and what came since is followed.
    pub fn close(&self, address: &[u8], until: i64) -> Result<Option<Ticket>> {
        let id = self.store.account_of(address)?;
        let mut all = locked(&self.all);
        let mark = all.entry(address.to_owned()).or_insert_with(|| Mark { id, doubt: Doubt::default() });
        if mark.id != id {
            // The address came back as another account.
            *mark = Mark { id, doubt: Doubt::default() };
        }
        if mark.doubt.followed.is_some() {
            return Ok(None);
        }
        mark.doubt.close(until);
        self.write(address, mark)
    }

    fn write(&self, address: &[u8], mark: &Mark) -> Result<Option<Ticket>> {
        match self.store.submit(&mark.doubt.event(address, mark.id)) {
            Ok(ticket) => Ok(Some(ticket)),
            // Nothing is recorded by then, and that shows: the mark follows when there is room.
            Err(StoreError::NearlyFull { .. }) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Opens the gap of every account: from now on nobody follows. Returns when that is durable.
    pub fn open_all(&self, from: i64) -> Result<()> {
        let addresses: Vec<Vec<u8>> = locked(&self.all).keys().cloned().collect();
        let mut last = None;
        for address in addresses {
            last = self.open(&address, from)?.or(last);
        }
        if let Some(last) = last {
            last.wait()?;
        }
        Ok(())
    }

    /// An account is gone.
    pub fn forget(&self, address: &[u8]) {
        locked(&self.all).remove(address);
    }

    /// Says that the scanner is alive.
    pub fn beat(&self, now: i64) -> Result<()> {
        let first = locked(&self.all).iter().map(|(a, m)| (a.clone(), m.id)).min();
        let Some((address, id)) = first else { return Ok(()) };
        let event = mark_event(&address, id, ALIVE, vec![(TIME.to_vec(), number(now))]);
        match self.store.submit(&event) {
            Ok(_) | Err(StoreError::NearlyFull { .. }) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}
