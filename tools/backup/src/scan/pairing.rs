//! Moves: which message that vanished is which that appeared.
//!
//! In come the messages of an account that are gone from their places, out goes, for one that appeared, the one that it was. In
//! order: the same object id or base name; the same content and INTERNALDATE; the same content. Each is given out once.

use super::known::{ByHash, Known, empty_content};
use std::collections::HashSet;

/// See the module.
#[derive(Debug, Default)]
pub struct Vanished {
    /// Places not given out.
    left: HashSet<u64>,
    by_object: ByHash<Vec<u64>>,
    /// Places with their INTERNALDATE, in the order of these.
    by_digest: ByHash<Vec<(i64, u64)>>,
}

impl Vanished {
    pub fn new(gone: &[Known]) -> Self {
        let mut all = Self::default();
        for known in gone {
            all.left.insert(known.place());
            all.by_object.entry(known.object).or_default().push(known.place());
            if !known.unread() && known.digest != empty_content() {
                all.by_digest.entry(known.digest).or_default().push((known.internal_date, known.place()));
            }
        }
        all.by_digest.values_mut().for_each(|places| places.sort_unstable());
        all
    }

    pub fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    /// The one with this object id (or base name).
    pub fn claim_object(&mut self, object: u64) -> Option<u64> {
        let place = self.by_object.get(&object)?.iter().copied().find(|p| self.left.contains(p))?;
        self.left.remove(&place);
        Some(place)
    }

    /// Whether one with this content is left.
    pub fn has_digest(&self, digest: u64) -> bool {
        self.by_digest.get(&digest).is_some_and(|places| places.iter().any(|(_, p)| self.left.contains(p)))
    }

    /// One with this content, and this date when it is given.
    pub fn claim_digest(&mut self, digest: u64, date: Option<i64>) -> Option<u64> {
        let fits = |(d, p): &&(i64, u64)| date.is_none_or(|date| date == *d) && self.left.contains(p);
        let (_, place) = *self.by_digest.get(&digest)?.iter().find(fits)?;
        self.left.remove(&place);
        Some(place)
    }

    /// A claim that turned out to be wrong.
    pub fn give_back(&mut self, place: u64) {
        self.left.insert(place);
    }

    /// What nobody claimed.
    pub fn into_left(self) -> HashSet<u64> {
        self.left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(slot: u32, base: &str, digest: u64, date: i64) -> Known {
        let mut k = Known::new(slot, base.as_bytes());
        (k.digest, k.internal_date) = (digest, date);
        k
    }

    #[test]
    fn each_is_given_out_once_and_dates_decide_first() {
        let (a, b) = (known(0, "a", 7, 10), known(0, "b", 7, 20));
        let mut v = Vanished::new(&[b, a]);
        assert!(v.has_digest(7) && !v.has_digest(8));
        assert_eq!(v.claim_digest(7, Some(20)), Some(b.place()));
        assert_eq!(v.claim_digest(7, Some(20)), None);
        assert_eq!(v.claim_object(a.object), Some(a.place()));
        assert_eq!(v.claim_digest(7, None), None);
        v.give_back(a.place());
        assert_eq!(v.claim_digest(7, None), Some(a.place()));
        assert!(v.into_left().is_empty());
    }

    #[test]
    fn one_base_name_in_two_folders_is_two_messages() {
        let (a, b) = (known(0, "a", 7, 10), known(1, "a", 7, 10));
        let mut v = Vanished::new(&[a, b]);
        assert_eq!(v.claim_object(a.object), Some(a.place()));
        assert_eq!(v.claim_object(a.object), Some(b.place()));
        assert!(v.is_empty());
    }
}
