//! What a real-time scanner says of itself while it runs: what is followed, what is in doubt, and the measured recovery point.

use super::{locked, now_us, shown};
use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Mutex;

/// Accounts in doubt that are named.
const NAMED_MAX: usize = 100;

/// A moment of a real-time scanner.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Status {
    /// µs UTC.
    pub since: i64,
    /// µs UTC.
    pub taken: i64,
    /// `inotify` or `fanotify`; empty before it runs.
    pub backend: &'static str,
    pub watches: u64,
    pub accounts: u64,
    pub in_doubt: u64,
    /// The first of them, with the reason.
    pub doubted: Vec<Doubted>,
    pub counts: Counts,
    /// Changes that wait for their other half.
    pub held: u64,
    /// Changes that were appended and are not durable yet.
    pub waiting: u64,
    pub latency: Latency,
    /// µs UTC of the last change that was acknowledged.
    pub last_change: Option<i64>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Doubted {
    pub account: String,
    pub why: String,
}

/// What came and what was recorded.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Counts {
    pub events: u64,
    pub added: u64,
    pub changed: u64,
    pub moved: u64,
    pub deleted: u64,
    /// Gone before they could be read.
    pub unseen: u64,
    pub folders: u64,
    pub scans: u64,
    pub doubts: u64,
    pub errors: u64,
}

/// From the server's change to the acknowledgement: the recovery point, in µs.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Latency {
    pub count: u64,
    pub mean: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
}

/// The counters behind a status.
pub(super) struct Tally {
    inner: Mutex<Inner>,
}

struct Inner {
    status: Status,
    latency: Option<Histogram<u64>>,
    doubted: BTreeMap<Vec<u8>, String>,
}

impl Tally {
    pub fn new() -> Self {
        // 1 µs to an hour with two digits: some 30 kB.
        let latency = Histogram::new_with_bounds(1, 3_600_000_000, 2).ok();
        Self { inner: Mutex::new(Inner { status: Status::default(), latency, doubted: BTreeMap::new() }) }
    }

    pub fn status(&self) -> Status {
        let inner = locked(&self.inner);
        let mut status = inner.status.clone();
        status.taken = now_us();
        status.in_doubt = inner.doubted.len() as u64;
        let named = inner.doubted.iter().take(NAMED_MAX);
        status.doubted = named.map(|(a, why)| Doubted { account: shown(a), why: why.clone() }).collect();
        if let Some(h) = &inner.latency {
            let at = |q| h.value_at_quantile(q);
            status.latency = Latency {
                count: h.len(),
                #[allow(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a mean of µs within an hour"
                )]
                mean: h.mean() as u64,
                p50: at(0.5),
                p90: at(0.9),
                p99: at(0.99),
                p999: at(0.999),
                max: h.max(),
            };
        }
        status
    }

    pub fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut locked(&self.inner).status.counts);
    }

    pub fn update(&self, change: impl FnOnce(&mut Status)) {
        change(&mut locked(&self.inner).status);
    }

    /// A change that happened then is durable now.
    pub fn acknowledged(&self, happened: i64) {
        let now = now_us();
        let mut inner = locked(&self.inner);
        let took = u64::try_from(now.saturating_sub(happened)).unwrap_or(0).max(1);
        if let Some(h) = &mut inner.latency {
            h.saturating_record(took);
        }
        inner.status.waiting = inner.status.waiting.saturating_sub(1);
        inner.status.last_change = inner.status.last_change.max(Some(happened));
    }

    pub fn doubt(&self, address: &[u8], why: &str) {
        locked(&self.inner).doubted.insert(address.to_owned(), why.to_owned());
    }

    pub fn clear(&self, address: &[u8]) {
        locked(&self.inner).doubted.remove(address);
    }

    pub fn doubted(&self) -> Vec<Vec<u8>> {
        locked(&self.inner).doubted.keys().cloned().collect()
    }
}
