//! What is known of an account's messages, 64 bytes each: enough to see what changed, and to find the record.
//!
//! In come items as they were recorded, out goes the one at a place (folder and base name). Names are kept as hashes: of a
//! million messages two share a 64-bit hash with a probability of 3 in 10⁸, and only then would one be taken for the other.
//! A sorted array holds what was loaded, a small table what came since; they are merged now and then.

use mailstrata_format::Digest;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_64_with_seed};

/// Bit of [`Known::slot`]: listed by the scan under way, or newer than its listing.
const SEEN: u32 = 1 << 31;
/// Bit of [`Known::slot`]: its content was never read.
const UNREAD: u32 = 1 << 30;
/// Bits of [`Known::slot`] for flags.
const BITS: u32 = SEEN | UNREAD;
/// [`Known::slot`] of an entry that was removed.
const DEAD: u32 = u32::MAX;

/// What came since the last merge may grow to this before it is merged, at least.
const ADDED_MIN: usize = 4096;

/// A message that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    place: u64,
    pub item: [u8; 16],
    /// Of the server's object id, or the base name.
    pub object: u64,
    /// First bytes of the content's digest.
    pub digest: u64,
    /// µs UTC.
    pub internal_date: i64,
    /// Low half of the content's length.
    pub size: u32,
    /// See [`state_of`].
    pub state: u32,
    slot: u32,
}

const _: () = assert!(size_of::<Known>() == 64);

/// Where a message is: its folder's slot and its base name.
pub fn place_of(slot: u32, base: &[u8]) -> u64 {
    // Of short inputs, small seeds only change a few bits that the input could change as well: the slot is spread out first.
    xxh3_64_with_seed(base, (u64::from(slot) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// The hash of an object id or base name.
pub fn object_of(id: &[u8]) -> u64 {
    xxh3_64(id)
}

/// The first bytes of a digest.
pub fn digest_of(digest: &Digest) -> u64 {
    digest.0.first_chunk().map_or(0, |first| u64::from_le_bytes(*first))
}

/// What [`digest_of`] says of no content at all: it tells nothing about who is who.
pub fn empty_content() -> u64 {
    digest_of(&Digest::of(b""))
}

/// Flags and keywords in 32 bits: one each for the five flags that a Maildir has, so that these are never confused, and a
/// hash of all else. Both lists are in any order.
pub fn state_of<'a>(flags: impl Iterator<Item = &'a [u8]>, words: impl Iterator<Item = &'a [u8]>) -> u32 {
    const SYSTEM: [&[u8]; 5] = [b"\\Answered", b"\\Deleted", b"\\Draft", b"\\Flagged", b"\\Seen"];
    let mut bits = 0;
    let mut rest = 0u64;
    for flag in flags.chain(words) {
        match SYSTEM.iter().position(|f| *f == flag) {
            Some(n) => bits |= 1 << n,
            // A sum, so that the order does not count.
            None => rest = rest.wrapping_add(xxh3_64(flag) | 1),
        }
    }
    let mut hasher = Xxh3::new();
    hasher.update(&rest.to_le_bytes());
    // The lossy half of the hash is wanted.
    #[allow(clippy::cast_possible_truncation, reason = "27 bits of a hash")]
    let hash = if rest == 0 { 0 } else { (hasher.digest() >> 37) as u32 };
    bits | hash << 5
}

impl Known {
    /// A message at a place; it counts as seen.
    pub fn new(slot: u32, base: &[u8]) -> Self {
        Self {
            place: place_of(slot, base),
            item: [0; 16],
            object: object_of(base),
            digest: 0,
            internal_date: 0,
            size: 0,
            state: 0,
            slot: slot | SEEN,
        }
    }

    pub fn place(&self) -> u64 {
        self.place
    }

    pub fn slot(&self) -> u32 {
        self.slot & !BITS
    }

    pub fn seen(&self) -> bool {
        self.slot & SEEN != 0
    }

    /// Marks it as seen; says whether it was before.
    pub fn see(&mut self) -> bool {
        let before = self.seen();
        self.slot |= SEEN;
        before
    }

    pub fn forget_seen(&mut self) {
        self.slot &= !SEEN;
    }

    pub fn unread(&self) -> bool {
        self.slot & UNREAD != 0
    }

    pub fn set_unread(&mut self, unread: bool) {
        self.slot = if unread { self.slot | UNREAD } else { self.slot & !UNREAD };
    }

    /// Whether a file of this length and date is, in all likelihood, this message.
    pub fn looks_like(&self, size: u64, internal_date: i64) -> bool {
        !self.unread() && self.size == low(size) && self.internal_date == internal_date
    }
}

/// The low half of a length.
pub fn low(size: u64) -> u32 {
    u32::try_from(size & 0xffff_ffff).unwrap_or(u32::MAX)
}

/// Keys are hashes already.
#[derive(Default)]
pub struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64(bytes);
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }
}

/// A map whose keys are hashes.
pub type ByHash<V> = HashMap<u64, V, BuildHasherDefault<Hashed>>;

/// All messages of an account.
#[derive(Debug, Default)]
pub struct KnownMap {
    /// By place.
    sorted: Vec<Known>,
    added: ByHash<Known>,
    dead: usize,
}

impl KnownMap {
    /// From what was loaded, in any order.
    pub fn new(mut all: Vec<Known>) -> Self {
        all.sort_unstable_by_key(|k| k.place);
        all.dedup_by_key(|k| k.place);
        Self { sorted: all, added: ByHash::default(), dead: 0 }
    }

    fn index(&self, place: u64) -> Option<usize> {
        let at = self.sorted.binary_search_by_key(&place, |k| k.place).ok()?;
        self.sorted.get(at).filter(|k| k.slot != DEAD).map(|_| at)
    }

    pub fn get(&self, place: u64) -> Option<&Known> {
        self.added.get(&place).or_else(|| self.index(place).and_then(|i| self.sorted.get(i)))
    }

    pub fn get_mut(&mut self, place: u64) -> Option<&mut Known> {
        match self.index(place) {
            Some(i) => self.sorted.get_mut(i),
            None => self.added.get_mut(&place),
        }
    }

    /// Puts a message at its place.
    pub fn insert(&mut self, known: Known) {
        if let Some(there) = self.index(known.place).and_then(|i| self.sorted.get_mut(i)) {
            *there = known;
            return;
        }
        self.added.insert(known.place, known);
        if self.added.len() > ADDED_MIN.max(self.sorted.len() / 2) {
            self.merge();
        }
    }

    /// Takes a message away from its place.
    pub fn remove(&mut self, place: u64) -> Option<Known> {
        if let Some(known) = self.added.remove(&place) {
            return Some(known);
        }
        let there = self.index(place).and_then(|i| self.sorted.get_mut(i))?;
        let known = *there;
        there.slot = DEAD;
        self.dead += 1;
        Some(known)
    }

    fn merge(&mut self) {
        self.sorted.retain(|k| k.slot != DEAD);
        self.dead = 0;
        self.sorted.reserve_exact(self.added.len());
        self.sorted.extend(self.added.drain().map(|(_, k)| k));
        self.sorted.sort_unstable_by_key(|k| k.place);
    }

    pub fn iter(&self) -> impl Iterator<Item = &Known> {
        self.sorted.iter().filter(|k| k.slot != DEAD).chain(self.added.values())
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Known> {
        self.sorted.iter_mut().filter(|k| k.slot != DEAD).chain(self.added.values_mut())
    }

    pub fn len(&self) -> usize {
        self.sorted.len() - self.dead + self.added.len()
    }

    /// Memory taken.
    pub fn bytes(&self) -> usize {
        (self.sorted.capacity() + self.added.capacity() * 5 / 4) * size_of::<Known>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(slot: u32, base: &str) -> Known {
        Known { digest: object_of(base.as_bytes()), ..Known::new(slot, base.as_bytes()) }
    }

    #[test]
    fn what_is_put_is_found_until_it_is_removed() {
        let mut map = KnownMap::new((0..100).map(|n| at(n % 3, &n.to_string())).collect());
        for n in 100..20_000u32 {
            map.insert(at(n % 3, &n.to_string()));
        }
        for n in (0..20_000u32).step_by(7) {
            assert!(map.remove(place_of(n % 3, n.to_string().as_bytes())).is_some());
        }
        for n in 0..20_000u32 {
            let found = map.get(place_of(n % 3, n.to_string().as_bytes()));
            assert_eq!(found.is_some(), n % 7 != 0, "{n}");
            assert!(found.is_none_or(|k| k.slot() == n % 3));
        }
        assert_eq!(map.iter().count(), map.len());
        // A place that was left may be taken again.
        map.insert(at(0, "0"));
        assert!(map.get(place_of(0, b"0")).is_some());
    }

    #[test]
    fn flags_are_told_apart_and_their_order_does_not_count() {
        let state = |flags: &[&str], words: &[&str]| {
            state_of(flags.iter().map(|f| f.as_bytes()), words.iter().map(|w| w.as_bytes()))
        };
        assert_eq!(state(&["\\Seen", "\\Flagged"], &["a", "b"]), state(&["\\Flagged", "\\Seen"], &["b", "a"]));
        let all = [
            state(&[], &[]),
            state(&["\\Seen"], &[]),
            state(&["\\Draft"], &[]),
            state(&[], &["a"]),
            state(&[], &["b"]),
        ];
        for (i, a) in all.iter().enumerate() {
            assert!(all.iter().skip(i + 1).all(|b| a != b));
        }
    }
}
