//! Periods in which an account was not followed: what a view or restore into one must say.
//!
//! Kept as a state of kind cursor, `maildir-doubt`, the newest periods in one mark. Recorded by the real-time scanner: a gap opens
//! when following stops or something may have been lost, and a scan of the account closes it.

use super::Result;
use super::cursor::mark_event;
use super::live::number;
use mailstrata_engine::{Error as StoreError, Event, Value, View};
use mailstrata_format::{AccountId, ItemKey, ItemKind};
use serde::Serialize;

/// Native id of the mark.
const DOUBT: &[u8] = b"maildir-doubt";
/// Attribute with the periods, oldest first.
const GAPS: &[u8] = b"gaps";
/// Attribute with the moment since which changes are followed.
const FOLLOWED: &[u8] = b"followed";

/// Periods kept; older ones are joined, which makes one of them longer.
const GAPS_MAX: usize = 64;

/// In this period changes of the account may have been missed, or have times that are bounds only. µs UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Gap {
    pub from: i64,
    /// `None`: it has not ended.
    pub until: Option<i64>,
}

impl Gap {
    /// Whether the state at a moment is in doubt.
    #[must_use]
    pub fn covers(&self, at: i64) -> bool {
        self.from <= at && self.until.is_none_or(|until| at <= until)
    }
}

/// The periods of an account, oldest first. Accounts that were never followed have none.
pub fn gaps(view: &View, account: AccountId) -> Result<Vec<Gap>> {
    Ok(Doubt::read(view, account)?.map_or_else(Vec::new, |d| d.gaps))
}

/// The mark of an account.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Doubt {
    pub gaps: Vec<Gap>,
    /// It is followed since; `None`: a gap is open.
    pub followed: Option<i64>,
}

impl Doubt {
    /// The account's mark; `None` when it was never followed.
    pub fn read(view: &View, account: AccountId) -> Result<Option<Self>> {
        let key = ItemKey::of(ItemKind::Cursor.code(), DOUBT);
        let state = match view.state(account, key, None) {
            Ok(Some(t)) if !t.deleted => t.state,
            Ok(_) => return Ok(None),
            Err(StoreError::Damage(_)) => {
                return Ok(Some(Self { gaps: vec![Gap { from: i64::MIN, until: None }], followed: None }));
            }
            Err(e) => return Err(e.into()),
        };
        let numbers: Vec<(i64, Option<i64>)> =
            state.attribute(GAPS).and_then(|text| serde_json::from_slice(text).ok()).unwrap_or_default();
        Ok(Some(Self {
            gaps: numbers.into_iter().map(|(from, until)| Gap { from, until }).collect(),
            followed: state.attribute(FOLLOWED).and_then(|t| std::str::from_utf8(t).ok()?.parse().ok()),
        }))
    }

    /// Opens a gap, unless one is open: that one goes on.
    pub fn open(&mut self, from: i64) {
        self.followed = None;
        if self.gaps.last().is_some_and(|g| g.until.is_none()) {
            return;
        }
        match self.gaps.last_mut() {
            // Overlapping periods are one.
            Some(last) if last.until.is_some_and(|until| until >= from) => last.until = None,
            _ => self.gaps.push(Gap { from, until: None }),
        }
        if self.gaps.len() > GAPS_MAX {
            let first = self.gaps.remove(0);
            if let Some(next) = self.gaps.first_mut() {
                next.from = first.from;
            }
        }
    }

    /// Closes the open gap.
    pub fn close(&mut self, until: i64) {
        if let Some(last) = self.gaps.last_mut().filter(|g| g.until.is_none()) {
            last.until = Some(until.max(last.from));
        }
        self.followed = Some(until);
    }

    /// The event that records it.
    pub fn event(&self, address: &[u8], account: AccountId) -> Event {
        let numbers: Vec<(i64, Option<i64>)> = self.gaps.iter().map(|g| (g.from, g.until)).collect();
        let json = serde_json::to_vec(&numbers).unwrap_or_default();
        let mut attributes = vec![(GAPS.to_vec(), Value::Json(json))];
        if let Some(followed) = self.followed {
            attributes.push((FOLLOWED.to_vec(), number(followed)));
        }
        mark_event(address, account, DOUBT, attributes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_open_once_and_close() {
        let mut doubt = Doubt::default();
        doubt.open(10);
        doubt.open(20);
        assert_eq!(doubt.gaps, [Gap { from: 10, until: None }]);
        doubt.close(30);
        assert_eq!((doubt.gaps.clone(), doubt.followed), (vec![Gap { from: 10, until: Some(30) }], Some(30)));
        doubt.open(25);
        assert_eq!(doubt.gaps, [Gap { from: 10, until: None }]);
        doubt.close(40);
        doubt.open(50);
        assert!(doubt.gaps[1].covers(1000) && !doubt.gaps[0].covers(45) && doubt.gaps[0].covers(40));
        for n in 0..100 {
            doubt.close(60 + n * 10);
            doubt.open(65 + n * 10);
        }
        assert_eq!(doubt.gaps.len(), GAPS_MAX);
        assert_eq!(doubt.gaps[0].from, 10);
    }
}
