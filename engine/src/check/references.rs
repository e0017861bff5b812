//! Every blob that a frame names exists under that digest and length; what no frame names is told; an item's moments do not
//! fall. And the names of what findings hit.
//!
//! In come digests and items as they are met, out go what is missing and what is left over. Memory is bounded: both kinds are
//! kept as 16 bytes of hash, and when the bound is reached only those in a lower part of the hashes are; the rest is done in
//! another round over the log and the packs' trailers ([`Sets::next_round`]).

use mailstrata_format::frame::BlobRef;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A digest and its length in 16 bytes.
pub type BlobHash = u128;

/// See [`BlobHash`]. SHA-256 is uniform, so half of it is as good; the length is mixed in, so that another length is another
/// blob.
#[must_use]
pub fn blob_hash(digest: &[u8; 32], length: u64) -> BlobHash {
    let half = digest.first_chunk::<16>().map_or(0, |b| u128::from_be_bytes(*b));
    // Only the low half changes: rounds go by the high bits.
    half ^ u128::from(length.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// As [`blob_hash`].
#[must_use]
pub fn ref_hash(b: &BlobRef) -> BlobHash {
    blob_hash(&b.digest, b.length)
}

/// Keys are hashes already.
#[derive(Default)]
pub struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*b);
        }
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }
}

/// Sorted, without duplicates, from time to time.
#[derive(Default)]
struct Bag {
    all: Vec<BlobHash>,
    sorted: usize,
}

impl Bag {
    fn add(&mut self, more: &[BlobHash], sets: (BlobHash, BlobHash)) {
        self.all.extend(more.iter().filter(|h| **h >= sets.0 && **h <= sets.1));
    }

    fn settle(&mut self) {
        if self.sorted < self.all.len() {
            self.all.sort_unstable();
            self.all.dedup();
            self.sorted = self.all.len();
        }
    }
}

/// See the module's text.
pub struct Sets {
    /// Hashes of this round, inclusive.
    low: BlobHash,
    high: BlobHash,
    named: Bag,
    known: Bag,
    /// Account and item (hash) → greatest moment so far.
    moments: HashMap<u64, i64, BuildHasherDefault<AsIs>>,
    /// Entries of a bag, and of `moments`, at most.
    bag_max: usize,
    moments_max: usize,
    /// Hashes named and not known, of all rounds.
    pub missing: Vec<BlobHash>,
    pub orphans: u64,
}

/// Bytes that an entry of the moments takes in the worst case: key, value and control byte at half load.
const MOMENT_COST: u64 = 34;

impl Sets {
    /// For so many bytes of memory.
    #[must_use]
    pub fn new(memory: u64) -> Self {
        let entries = |bytes: u64, cost: u64| usize::try_from(bytes / cost).unwrap_or(usize::MAX).max(1024);
        Self {
            low: 0,
            high: BlobHash::MAX,
            named: Bag::default(),
            known: Bag::default(),
            moments: HashMap::default(),
            // A vector that grows holds both sizes for a moment, hence 3.
            bag_max: entries(memory / 3, 16 * 3),
            moments_max: entries(memory / 3, MOMENT_COST),
            missing: Vec::new(),
            orphans: 0,
        }
    }

    /// Blobs that frames name.
    pub fn name(&mut self, hashes: &[BlobHash]) {
        self.named.add(hashes, (self.low, self.high));
        self.bound();
    }

    /// Blobs that packs have.
    pub fn know(&mut self, hashes: &[BlobHash]) {
        self.known.add(hashes, (self.low, self.high));
        self.bound();
    }

    fn bound(&mut self) {
        while self.named.all.len().max(self.known.all.len()) > self.bag_max {
            let (before_named, before_known) = (self.named.all.len(), self.known.all.len());
            self.named.settle();
            self.known.settle();
            if self.named.all.len().max(self.known.all.len()) > self.bag_max / 2 {
                // Duplicates are not what fills it: fewer hashes this time.
                self.cut();
            }
            if (before_named, before_known) == (self.named.all.len(), self.known.all.len()) {
                break;
            }
        }
        while self.moments.len() > self.moments_max && self.cut() {}
    }

    /// Halves what this round looks at.
    fn cut(&mut self) -> bool {
        let middle = self.low + (self.high - self.low) / 2;
        if middle == self.high {
            return false;
        }
        self.high = middle;
        self.named.all.retain(|h| *h <= middle);
        self.known.all.retain(|h| *h <= middle);
        (self.named.sorted, self.known.sorted) = (0, 0);
        let last = (middle >> 64) as u64;
        self.moments.retain(|k, _| *k <= last);
        true
    }

    /// The next state of an item, in the order of LSNs: whether its moment falls.
    pub fn moment_falls(&mut self, item: u64, first: i64, last: i64) -> bool {
        let wide = u128::from(item) << 64;
        if wide < self.low & !u128::from(u64::MAX) || item > (self.high >> 64) as u64 {
            return false;
        }
        let before = self.moments.insert(item, last);
        before.is_some_and(|m| m > first)
    }

    /// Compares what was named and what is known in this round; whether there is another one to do.
    pub fn next_round(&mut self) -> bool {
        self.named.settle();
        self.known.settle();
        let mut known = self.known.all.iter().peekable();
        let mut matched = 0u64;
        for n in &self.named.all {
            while known.next_if(|k| *k < n).is_some() {}
            if known.peek() == Some(&n) {
                matched += 1;
            } else {
                self.missing.push(*n);
            }
        }
        self.orphans += self.known.all.len() as u64 - matched;
        if self.high == BlobHash::MAX {
            return false;
        }
        self.low = self.high + 1;
        self.high = BlobHash::MAX;
        self.named = Bag::default();
        self.known = Bag::default();
        self.moments = HashMap::default();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Spreads small numbers over all hashes.
    fn spread(n: u64) -> BlobHash {
        u128::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
    }

    #[test]
    fn rounds_find_the_same_as_one_would() {
        for memory in [0, 1 << 20, 1 << 30] {
            let mut sets = Sets::new(memory);
            let mut rounds = 0;
            loop {
                rounds += 1;
                for chunk in (0..20_000u64).collect::<Vec<_>>().chunks(700) {
                    let named: Vec<_> = chunk.iter().filter(|n| *n % 7 != 0).map(|n| spread(*n)).collect();
                    let known: Vec<_> = chunk.iter().filter(|n| *n % 5 != 0).map(|n| spread(*n)).collect();
                    sets.name(&named);
                    sets.name(&named);
                    sets.know(&known);
                }
                if !sets.next_round() {
                    break;
                }
                assert!(rounds < 1000);
            }
            assert_eq!(sets.missing.len(), (0..20_000).filter(|n| n % 7 != 0 && n % 5 == 0).count(), "memory {memory}");
            assert_eq!(sets.orphans, (0..20_000).filter(|n| n % 7 == 0 && n % 5 != 0).count() as u64);
            assert_eq!(rounds > 1, memory < 1 << 30, "memory {memory}: {rounds} rounds");
        }
    }

    #[test]
    fn moments_that_fall_are_found_in_whatever_round() {
        let mut sets = Sets::new(0);
        let mut falls = 0;
        loop {
            for round in 0..2 {
                for n in 0..5000u64 {
                    let item = (spread(n) >> 64) as u64;
                    falls += u64::from(sets.moment_falls(item, if n == 77 { 5 - round } else { 5 }, 5));
                }
                sets.bound();
            }
            if !sets.next_round() {
                break;
            }
        }
        assert_eq!(falls, 1);
    }
}
