//! Bodies of new items: half of them below 8 KB, 35 KB in the mean, every fourth there already.
//!
//! A number comes in, the same bytes go out every time. Lengths are lognormal; text and base64 come from the pool of
//! [`Corpus`], so they pack as its mails do, and no two bodies but the copies are alike.

use crate::mail::{Corpus, Rng};
use std::io::Write as _;

/// Half of the bodies are shorter, bytes.
pub const MEDIAN: f64 = 8192.0;
/// Of the logarithm of the length: a mean of 35 KB follows.
const SIGMA: f64 = 1.72;
const LONGEST: f64 = 4_194_304.0;
const POOL: usize = 8 << 20;

/// The bodies.
pub struct Bodies {
    pool: Vec<u8>,
}

impl Default for Bodies {
    fn default() -> Self {
        let corpus = Corpus::default();
        let (mut pool, mut mail) = (Vec::with_capacity(POOL + (1 << 20)), Vec::new());
        let mut n = 0;
        while pool.len() < POOL {
            corpus.mail(n, &mut mail);
            pool.extend_from_slice(&mail);
            n += 1;
        }
        Self { pool }
    }
}

impl Bodies {
    /// The body whose bytes body `n` has: itself, or for every fourth an earlier one.
    #[must_use]
    pub const fn same_as(n: u64) -> u64 {
        if n % 4 == 3 {
            let earlier = Rng::new(n).below(n);
            if earlier % 4 == 3 { earlier - 1 } else { earlier }
        } else {
            n
        }
    }

    /// Body `n` replaces what is in `out`.
    pub fn body(&self, n: u64, out: &mut Vec<u8>) {
        let n = Self::same_as(n);
        let mut rng = Rng::new(n.wrapping_mul(0x9E6C_63D0_876A_68E5));
        let len = (MEDIAN * (SIGMA * rng.normal()).exp()).clamp(300.0, LONGEST) as usize;
        out.clear();
        // A caller that had a long one does not hold its memory for ever.
        out.shrink_to(256 << 10);
        // A Vec takes whatever is written to it.
        let _ = write!(out, "Message-ID: <{:016x}.{n}@example.net>\r\nSubject: message {n}\r\n\r\n", rng.next_u64());
        while out.len() < len {
            let take = (len - out.len()).min(1024 + rng.below(3072) as usize);
            let from = rng.below((self.pool.len() - take) as u64) as usize;
            out.extend_from_slice(&self.pool[from..from + take]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_copies_are_as_said() {
        let bodies = Bodies::default();
        let mut body = Vec::new();
        let mut lengths: Vec<usize> = (0..8000)
            .map(|n| {
                bodies.body(n, &mut body);
                body.len()
            })
            .collect();
        let mean = lengths.iter().sum::<usize>() / lengths.len();
        lengths.sort_unstable();
        assert!((7_000..9_500).contains(&lengths[4000]), "{}", lengths[4000]);
        assert!((25_000..45_000).contains(&mean), "{mean}");
        let copies = (0..8000).filter(|n| Bodies::same_as(*n) != *n).count();
        assert_eq!(copies, 2000);
        assert!((0..8000).all(|n| Bodies::same_as(Bodies::same_as(n)) == Bodies::same_as(n)));
        let (mut a, mut b) = (Vec::new(), Vec::new());
        bodies.body(7, &mut a);
        bodies.body(Bodies::same_as(7), &mut b);
        assert_eq!(a, b);
        bodies.body(8, &mut b);
        assert_ne!(a, b);
    }
}
