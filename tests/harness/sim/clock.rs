//! A clock that a test sets: it stands still, jumps and goes backwards.

use mailstrata_engine::disk::Clock;
use std::sync::atomic::{AtomicI64, Ordering};

/// See the module's text.
#[derive(Debug)]
pub struct SimClock(AtomicI64);

/// 2026-11-22 00:00:00 UTC, where simulated clocks start, in µs.
pub const START: i64 = 1_795_305_600_000_000;

impl Default for SimClock {
    fn default() -> Self {
        Self(AtomicI64::new(START))
    }
}

impl SimClock {
    /// Sets it, in µs since 1970.
    pub fn set(&self, now: i64) {
        self.0.store(now, Ordering::SeqCst);
    }

    /// Moves it, backwards too; returns the new moment.
    pub fn advance(&self, by: i64) -> i64 {
        self.0.fetch_add(by, Ordering::SeqCst) + by
    }
}

impl Clock for SimClock {
    fn now(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}
