//! The real-time scanner: records what changes, as it changes, and scans what may have been missed.
//!
//! In come the follower's hints, out go transactions, each made durable before it counts as acknowledged. Three threads work:
//!
//! ```text
//! follower ──► settle: look at the file, record ──► acknowledge: wait for the disk, measure
//!     └─ doubt ──► scan: the accounts that may have lost something, until they have not
//! ```
//!
//! - The follower starts first, the scans second: what changes during a scan is reported. Until it was scanned an account is in
//!   doubt, and that is recorded ([`super::gaps()`]).
//! - A stop drains what was read, waits until it is durable, and records that from then on nobody follows.

use super::marks::Marks;
use super::pass::Outcome;
use super::registry::Registry;
use super::settle::Follow;
use super::smart::SmartScan;
use super::status::{Status, Tally};
use super::{Error, Options, Report, Result, locked, now_us, shown};
use crossbeam_channel::Receiver;
use mailstrata_engine::{Store, Ticket};
use mailstrata_mailstore::maildir::watch::Follower;
use mailstrata_mailstore::source::Source as _;
use mailstrata_mailstore::url::MaildirUrl;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long the follower is waited for before the stop flag is looked at.
const POLL: Duration = Duration::from_millis(50);

/// Changes that wait for their acknowledgement; beyond that the next one waits for the disk.
const ACKS_MAX: usize = 8192;

/// How long after a scan that left an account in doubt it is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(2);

/// Batches read after the stop flag was set, at most: a server that never pauses must not hold the stop up.
const DRAIN_MAX: usize = 100;

/// What a real-time scanner tells while it runs.
#[derive(Debug)]
pub enum Told {
    Following { backend: &'static str, watches: usize },
    InDoubt { account: Option<String>, why: String },
    Cleared { account: String },
    Scanned(Box<Report>),
    Trouble(String),
}

/// A change that was appended, and when it happened.
pub(super) struct Ack {
    pub ticket: Arc<Ticket>,
    pub happened: i64,
}

/// Accounts that want to be scanned, and when.
#[derive(Default)]
struct Wanted {
    accounts: BTreeMap<Vec<u8>, Instant>,
    all: bool,
}

/// What the scanning thread is asked for.
#[derive(Default)]
pub(super) struct Requests {
    wanted: Mutex<Wanted>,
    changed: Condvar,
}

impl Requests {
    /// Asks for a scan of an account, some time from now.
    pub fn ask(&self, address: &[u8], after: Duration) {
        let due = Instant::now() + after;
        let mut wanted = locked(&self.wanted);
        let at = wanted.accounts.entry(address.to_owned()).or_insert(due);
        *at = due.min(*at);
        self.changed.notify_one();
    }

    fn ask_all(&self) {
        locked(&self.wanted).all = true;
        self.changed.notify_one();
    }

    fn asked(&self, address: &[u8]) -> bool {
        let wanted = locked(&self.wanted);
        wanted.all || wanted.accounts.contains_key(address)
    }

    /// The accounts whose time has come; `None` inside: all. Waits a moment for there to be any.
    fn take(&self) -> Option<Option<BTreeSet<Vec<u8>>>> {
        let mut wanted = locked(&self.wanted);
        let now = Instant::now();
        let due: BTreeSet<Vec<u8>> =
            wanted.accounts.iter().filter(|(_, at)| **at <= now).map(|(a, _)| a.clone()).collect();
        if wanted.all {
            *wanted = Wanted::default();
            return Some(None);
        }
        if !due.is_empty() {
            wanted.accounts.retain(|a, _| !due.contains(a));
            return Some(Some(due));
        }
        drop(self.changed.wait_timeout(wanted, POLL).unwrap_or_else(PoisonError::into_inner));
        None
    }
}

/// A real-time scanner of a source.
pub struct Watch<'a> {
    store: &'a Store,
    url: MaildirUrl,
    options: Options,
    tally: Tally,
}

/// What the threads of a real-time scanner share.
pub(super) struct Shared<'a> {
    pub store: &'a Store,
    pub scan: SmartScan<'a>,
    pub tally: &'a Tally,
    pub marks: Marks<'a>,
    pub requests: Requests,
    pub report: Mutex<Report>,
    pub on_event: &'a (dyn Fn(Told) + Sync),
    pub error: Mutex<Option<Error>>,
    over: AtomicBool,
}

impl Shared<'_> {
    /// From `from` on the account (or, with `None`, every account) may have lost something: scans it.
    pub fn doubt(&self, address: Option<&[u8]>, all: &[Vec<u8>], why: &str, from: i64) -> Result<()> {
        (self.on_event)(Told::InDoubt { account: address.map(shown), why: why.to_owned() });
        self.tally.count(|c| c.doubts += 1);
        let one = address.map(<[u8]>::to_vec);
        for address in one.iter().chain(if one.is_none() { all } else { &[] }) {
            self.tally.doubt(address, why);
            self.marks.open(address, from)?;
        }
        match address {
            Some(address) => self.requests.ask(address, Duration::ZERO),
            None => self.requests.ask_all(),
        }
        Ok(())
    }

    pub fn fail(&self, error: Error) {
        locked(&self.error).get_or_insert(error);
        self.over.store(true, Ordering::Release);
    }

    fn acknowledge(&self, acks: &Receiver<Ack>) {
        for ack in acks {
            match ack.ticket.wait() {
                Ok(_) => self.tally.acknowledged(ack.happened),
                Err(e) => return self.fail(e.into()),
            }
        }
    }

    /// Scans what is asked for, until it is over.
    fn scan(&self) {
        while !self.over.load(Ordering::Acquire) {
            let Some(only) = self.requests.take() else { continue };
            self.tally.count(|c| c.scans += 1);
            let done = |address: &[u8], outcome: Outcome| {
                if let Err(e) = self.scanned(address, outcome) {
                    self.fail(e);
                }
            };
            match self.scan.run_some(only.as_ref(), &|_| {}, &self.over, &done) {
                Ok(report) => {
                    let full = Report { notices: Default::default(), ..report.clone() };
                    if only.is_none() && report.stopped.is_none() {
                        self.forget_vanished();
                    }
                    locked(&self.report).merge(full);
                    (self.on_event)(Told::Scanned(Box::new(report)));
                }
                // The place where the accounts are cannot be read now; it may come back.
                Err(Error::Source(e)) => {
                    (self.on_event)(Told::Trouble(e.to_string()));
                    locked(&self.report).errors.add(e.to_string());
                    for address in only.into_iter().flatten() {
                        self.requests.ask(&address, AGAIN_AFTER);
                    }
                }
                // Short of space: what is in doubt stays so and is tried again.
                Err(Error::Store(e @ mailstrata_engine::Error::NearlyFull { .. })) => {
                    (self.on_event)(Told::Trouble(e.to_string()));
                    locked(&self.report).errors.add(e.to_string());
                    for address in self.tally.doubted() {
                        self.requests.ask(&address, AGAIN_AFTER);
                    }
                }
                Err(e) => self.fail(e),
            }
        }
    }

    /// Accounts in doubt that a scan of all did not meet are not there to be scanned.
    fn forget_vanished(&self) {
        let doubted = self.tally.doubted();
        if doubted.is_empty() {
            return;
        }
        let Ok(accounts) = self.scan.source.accounts(&mut |_| {}) else { return };
        for address in doubted {
            let there = accounts.found.iter().any(|a| a.address == address);
            if !there && !self.requests.asked(&address) {
                self.tally.clear(&address);
            }
        }
    }

    fn scanned(&self, address: &[u8], outcome: Outcome) -> Result<()> {
        match outcome {
            Outcome::Unchanged | Outcome::Changed if self.requests.asked(address) => {}
            Outcome::Unchanged | Outcome::Changed => {
                self.marks.close(address, now_us())?;
                self.tally.clear(address);
                (self.on_event)(Told::Cleared { account: shown(address) });
            }
            Outcome::InDoubt | Outcome::Skipped => self.requests.ask(address, AGAIN_AFTER),
            Outcome::Gone => {
                self.tally.clear(address);
                self.marks.forget(address);
            }
        }
        Ok(())
    }
}

impl<'a> Watch<'a> {
    /// A real-time scanner of what a URL stands for.
    #[must_use]
    pub fn new(store: &'a Store, url: &MaildirUrl, options: Options) -> Self {
        Self { store, url: url.clone(), options, tally: Tally::new() }
    }

    /// What it does now. May be called while it runs, from another thread.
    #[must_use]
    pub fn status(&self) -> Status {
        self.tally.status()
    }

    /// Follows until the flag is set. When it returns, everything that was read is durable, and so is the mark that nobody
    /// follows any more.
    pub fn run(&self, stop: &AtomicBool, on_event: &(dyn Fn(Told) + Sync)) -> Result<Report> {
        let started = Instant::now();
        let mut first = Report::default();
        let mut follower = Follower::start(&self.url, self.options.choice, &mut |n| first.notice(&n))?;
        on_event(Told::Following { backend: follower.backend(), watches: follower.watches() });
        let registry = Arc::new(Registry::new(self.options.known_bytes_max));
        let options = Options { account: None, deep: false, ..self.options.clone() };
        let scan = SmartScan::sharing(self.store, &self.url, options, registry, true);
        let accounts = scan.source.accounts(&mut |_| {})?;
        let shared = Shared {
            store: self.store,
            marks: Marks::load(self.store, accounts.found.iter().map(|a| a.address.as_slice()))?,
            scan,
            tally: &self.tally,
            requests: Requests::default(),
            report: Mutex::new(first),
            on_event,
            error: Mutex::new(None),
            over: AtomicBool::new(false),
        };
        for account in &accounts.found {
            self.tally.doubt(&account.address, "not scanned since the start");
        }
        // Last, so that a status with a beginning never calls an account settled that was not looked at.
        self.tally.update(|s| {
            (s.since, s.backend) = (now_us(), follower.backend());
            (s.watches, s.accounts) = (follower.watches() as u64, accounts.found.len() as u64);
        });
        shared.requests.ask_all();
        let (acks, waiting) = crossbeam_channel::bounded(ACKS_MAX);
        std::thread::scope(|scope| -> Result<()> {
            let named = |name: &str| std::thread::Builder::new().name(name.into());
            let s = &shared;
            named("ms-ack").spawn_scoped(scope, move || s.acknowledge(&waiting)).map_err(Error::Thread)?;
            let scanning = named("ms-scan").spawn_scoped(scope, || shared.scan()).map_err(Error::Thread);
            let outcome = match scanning {
                Ok(_) => {
                    let follow = Follow::new(&shared, acks, accounts, self.options.window);
                    self.follow(&shared, &mut follower, follow, stop)
                }
                Err(e) => Err(e),
            };
            shared.over.store(true, Ordering::Release);
            outcome
        })?;
        if let Some(error) = locked(&shared.error).take() {
            return Err(error);
        }
        shared.marks.open_all(now_us())?;
        let mut report = std::mem::take(&mut *locked(&shared.report));
        report.stopped = None;
        report.seconds = started.elapsed().as_secs_f64();
        Ok(report)
    }

    fn follow(
        &self,
        shared: &Shared<'_>,
        follower: &mut Follower,
        mut follow: Follow<'_>,
        stop: &AtomicBool,
    ) -> Result<()> {
        let mut beat = Instant::now() + self.options.heartbeat;
        let stopped = || stop.load(Ordering::Relaxed) || shared.over.load(Ordering::Acquire);
        while !stopped() {
            let due = follow.next_due().map_or(POLL, |due| due.saturating_duration_since(Instant::now()));
            let changes = follower.next(due.min(POLL)).map_err(Error::Follow)?;
            follow.take(changes)?;
            follow.settle(false)?;
            if Instant::now() >= beat {
                beat = Instant::now() + self.options.heartbeat;
                shared.marks.beat(now_us())?;
                self.tally.update(|s| s.watches = follower.watches() as u64);
            }
        }
        for _ in 0..DRAIN_MAX {
            let changes = follower.next(Duration::ZERO).map_err(Error::Follow)?;
            if changes.is_empty() {
                break;
            }
            follow.take(changes)?;
        }
        follow.settle(true)
    }
}
