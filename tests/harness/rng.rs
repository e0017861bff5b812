//! Random numbers that a seed decides.
//!
//! In comes a seed, out go numbers: the same on every machine and for ever, so that a printed seed replays a run.

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// A generator for a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n` (0 for 0).
    pub fn below(&mut self, n: u64) -> u64 {
        u64::try_from((u128::from(self.bits()) * u128::from(n)) >> 64).unwrap_or(0)
    }

    /// An index below `n` (0 for 0).
    pub fn index(&mut self, n: usize) -> usize {
        usize::try_from(self.below(n as u64)).unwrap_or(0)
    }

    /// True in `percent` of a hundred cases.
    pub fn percent(&mut self, percent: u32) -> bool {
        self.below(100) < u64::from(percent)
    }

    /// True once in `n` cases; never for 0.
    pub fn one_in(&mut self, n: u32) -> bool {
        n > 0 && self.below(u64::from(n)) == 0
    }

    /// One of several.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        let i = self.index(of.len());
        &of[i]
    }

    /// Bytes of one length.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(len + 8);
        while out.len() < len {
            out.extend_from_slice(&self.bits().to_le_bytes());
        }
        out.truncate(len);
        out
    }

    /// Puts a slice into random order.
    pub fn shuffle<T>(&mut self, all: &mut [T]) {
        for i in (1..all.len()).rev() {
            all.swap(i, self.index(i + 1));
        }
    }

    /// A seed for another generator.
    pub fn fork(&mut self) -> Self {
        Self::new(self.bits())
    }

    /// An index drawn by weights; 0 when all are 0.
    pub fn weighted(&mut self, weights: &[u32]) -> usize {
        let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
        let mut at = self.below(total);
        for (i, w) in weights.iter().enumerate() {
            if at < u64::from(*w) {
                return i;
            }
            at -= u64::from(*w);
        }
        0
    }
}

/// A number from the environment, or the default: `MAILSTRATA_SEED`, `MAILSTRATA_CASES`.
#[must_use]
pub fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// How many cases to run: `default`, scaled by `MAILSTRATA_CASES` (in percent, 100 by default).
#[must_use]
pub fn cases(default: u64) -> u64 {
    (default * from_env("MAILSTRATA_CASES", 100) / 100).max(1)
}

/// The seeds of a run: one when `MAILSTRATA_SEED` is set, else `count` from `first` on.
#[must_use]
pub fn seeds(first: u64, count: u64) -> Vec<u64> {
    match std::env::var("MAILSTRATA_SEED").ok().and_then(|v| v.parse().ok()) {
        Some(seed) => vec![seed],
        None => (first..first + cases(count)).collect(),
    }
}

/// Counts cases and keeps the first failures of each sort, so that one run shows all that is wrong.
#[derive(Default)]
pub struct Tally {
    cases: u64,
    /// What the cases covered besides, by name.
    counts: std::collections::BTreeMap<&'static str, u64>,
    failures: Vec<(String, String, u64)>,
}

/// A message without its numbers: what is alike fails for the same reason.
fn sort_of(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    line.chars().filter(|c| !c.is_ascii_digit()).take(70).collect()
}

impl Tally {
    /// A case ended.
    pub fn case(&mut self, seed: u64, result: Result<(), String>) {
        self.cases += 1;
        let Err(message) = result else { return };
        let sort = sort_of(&message);
        match self.failures.iter_mut().find(|(s, ..)| *s == sort) {
            Some((_, _, count)) => *count += 1,
            None => self.failures.push((sort, format!("MAILSTRATA_SEED={seed}: {message}"), 1)),
        }
    }

    /// Adds to a count of what the cases covered.
    pub fn count(&mut self, what: &'static str, more: u64) {
        *self.counts.entry(what).or_default() += more;
    }

    /// Appends what was covered to the file that `MAILSTRATA_SUMMARY` names, for whoever sums up a run of all suites.
    fn summarize(&self, name: &str) -> std::io::Result<()> {
        use std::io::Write as _;
        let Some(path) = std::env::var_os("MAILSTRATA_SUMMARY") else { return Ok(()) };
        let mut text = format!("{name}\tcases\t{}\n", self.cases);
        for (what, n) in &self.counts {
            text.push_str(&format!("{name}\t{what}\t{n}\n"));
        }
        std::fs::OpenOptions::new().create(true).append(true).open(path)?.write_all(text.as_bytes())
    }

    /// Prints what was covered; panics when a case failed.
    pub fn finish(self, name: &str, more: impl std::fmt::Display) {
        let counts: String = self.counts.iter().map(|(what, n)| format!("{n} {what}, ")).collect();
        println!("{name}: {} cases, {counts}{more}", self.cases);
        if let Err(e) = self.summarize(name) {
            println!("{name}: the summary is not written: {e}");
        }
        if self.failures.is_empty() {
            return;
        }
        let mut text = String::new();
        for (_, message, count) in self.failures.iter().take(12) {
            text.push_str(&format!("\n{count} × {message}"));
        }
        panic!("{name}: {} sorts of failure{text}", self.failures.len());
    }
}
