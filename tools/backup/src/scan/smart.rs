//! SmartScan: makes the store agree with what is on the server, in time that follows what changed.
//!
//! In comes a Maildir URL, out go transactions and a [`Report`]. An account whose folders' markers all vouch for it costs a few
//! `stat` calls and no write. Rules:
//!
//! - Threads take accounts; the messages of a large account are read by all of them, in chunks.
//! - What waits is bounded: a few chunks, and what the store lets be appended ahead of the disk.
//! - Stopped or aborted, an account keeps its old cursor: the next scan goes through it again and finds most of it known.

use super::content::Reader;
use super::cursor::{Cursor, SCAN, mark_event};
use super::listing::Appeared;
use super::pass::{Chunk, Outcome};
use super::registry::Registry;
use super::report::{Counters, Report};
use super::{Error, Options, Progress, Result, locked, shown, source_id};
use mailstrata_engine::{Batch, Change, Event, Store, Ticket};
use mailstrata_format::{AccountId, ItemKey, ItemKind};
use mailstrata_mailstore::maildir::source::MaildirSource;
use mailstrata_mailstore::source::{Account, Accounts, Presence, Source as _};
use mailstrata_mailstore::url::MaildirUrl;
use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often the progress callback is called, at most.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// A scan of a source.
pub struct SmartScan<'a> {
    pub(super) store: &'a Store,
    pub(super) source: MaildirSource,
    pub(super) source_id: Vec<u8>,
    pub(super) options: Options,
    pub(super) registry: Arc<Registry>,
    /// A follower shares the registry: the state of a file is looked at again at the moment it is recorded.
    pub(super) followed: bool,
}

/// What the threads of a scan share.
pub(super) struct Pool<'a> {
    pub scan: &'a SmartScan<'a>,
    pub counters: Counters,
    pub stop: &'a AtomicBool,
    aborted: AtomicBool,
    queue: Mutex<VecDeque<Chunk>>,
    ready: Condvar,
    accounts: Mutex<std::vec::IntoIter<Account>>,
    /// Accounts being scanned: they may still queue chunks.
    owners: AtomicUsize,
    report: Mutex<Report>,
    error: Mutex<Option<Error>>,
    last: Mutex<Option<Arc<Ticket>>>,
    progress: &'a (dyn Fn(&Progress) + Sync),
    started: Instant,
    told_ms: AtomicU64,
    threads: usize,
    done: &'a (dyn Fn(&[u8], Outcome) + Sync),
}

/// What one thread has for itself.
pub(super) struct Worker<'a> {
    pub pool: &'a Pool<'a>,
    pub reader: Reader,
    pub batch: Batch<'a>,
    /// Of the account this thread is listing.
    pub appeared: Appeared,
}

impl<'a> SmartScan<'a> {
    /// A scan of what a URL stands for.
    #[must_use]
    pub fn new(store: &'a Store, url: &MaildirUrl, options: Options) -> Self {
        Self::sharing(store, url, options, Arc::new(Registry::new(0)), false)
    }

    pub(super) fn sharing(
        store: &'a Store,
        url: &MaildirUrl,
        options: Options,
        registry: Arc<Registry>,
        followed: bool,
    ) -> Self {
        Self { store, source: MaildirSource::new(url), source_id: source_id(url), options, registry, followed }
    }

    /// Scans. When it returns, everything in the report is durable.
    pub fn run(&self, progress: &(dyn Fn(&Progress) + Sync), stop: &AtomicBool) -> Result<Report> {
        let only = self.options.account.clone().map(|a| BTreeSet::from([a]));
        if let Some(address) = &self.options.account
            && !self.exists(address)?
        {
            return Err(Error::NoAccount(shown(address)));
        }
        self.run_some(only.as_ref(), progress, stop, &|_, _| {})
    }

    /// Whether an account is there or was.
    fn exists(&self, address: &[u8]) -> Result<bool> {
        let there = self.source.accounts(&mut |_| {})?.found.iter().any(|a| a.address == address);
        Ok(there || Cursor::read(&self.store.view(), self.store.account_of(address)?)?.is_some())
    }

    /// Scans some accounts, or all; tells what became of each.
    pub(super) fn run_some(
        &self,
        only: Option<&BTreeSet<Vec<u8>>>,
        progress: &(dyn Fn(&Progress) + Sync),
        stop: &AtomicBool,
        done: &(dyn Fn(&[u8], Outcome) + Sync),
    ) -> Result<Report> {
        let started = Instant::now();
        let mut report = Report::default();
        let accounts = self.source.accounts(&mut |n| report.notice(&n))?;
        for dir in &accounts.unread {
            report.errors.add(format!("{} cannot be read; accounts below it are left as they are", dir.display()));
        }
        let wanted: Vec<Account> =
            accounts.found.iter().filter(|a| only.is_none_or(|only| only.contains(&a.address))).cloned().collect();
        let threads = self.options.threads().max(1);
        let pool = Pool {
            scan: self,
            counters: Counters::default(),
            stop,
            aborted: AtomicBool::new(false),
            queue: Mutex::default(),
            ready: Condvar::new(),
            owners: AtomicUsize::new(0),
            report: Mutex::new(report),
            error: Mutex::new(None),
            last: Mutex::new(None),
            progress,
            started,
            told_ms: AtomicU64::new(0),
            threads,
            done,
            accounts: Mutex::new(Vec::new().into_iter()),
        };
        pool.counters.accounts_total.store(wanted.len() as u64, Ordering::Relaxed);
        *locked(&pool.accounts) = wanted.into_iter();
        std::thread::scope(|scope| -> Result<()> {
            let mut others = Vec::new();
            for n in 1..threads {
                let thread = std::thread::Builder::new().name(format!("ms-scan-{n}"));
                others.push(thread.spawn_scoped(scope, || Worker::new(&pool).work()).map_err(Error::Thread)?);
            }
            Worker::new(&pool).work();
            Ok(())
        })?;
        if let Some(error) = locked(&pool.error).take() {
            return Err(error);
        }
        if !pool.ends() {
            pool.record_gone(&accounts, only)?;
        }
        if let Some(last) = locked(&pool.last).take() {
            last.wait()?;
        }
        (pool.progress)(&pool.counters.progress());
        let mut report = std::mem::take(&mut *locked(&pool.report));
        if report.stopped.is_none() && stop.load(Ordering::Relaxed) {
            report.stopped = Some("stopped by request".into());
        }
        report.seconds = started.elapsed().as_secs_f64();
        Ok(report)
    }
}

impl Pool<'_> {
    /// Whether the scan is to end before everything was seen.
    pub fn ends(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.aborted.load(Ordering::Relaxed)
    }

    /// Ends the scan with an error.
    pub fn fail(&self, error: Error) {
        locked(&self.error).get_or_insert(error);
        self.abort_now();
    }

    /// Ends the scan with what is done so far.
    pub fn abort(&self, why: String) {
        locked(&self.report).stopped.get_or_insert(why);
        self.abort_now();
    }

    fn abort_now(&self) {
        self.aborted.store(true, Ordering::Relaxed);
        self.ready.notify_all();
    }

    /// Keeps the newest ticket: when it is durable, all are.
    pub fn await_later(&self, ticket: Option<Arc<Ticket>>) {
        let Some(ticket) = ticket else { return };
        let mut last = locked(&self.last);
        if last.as_ref().is_none_or(|l| l.lsn() < ticket.lsn()) {
            *last = Some(ticket);
        }
    }

    pub fn merge(&self, report: Report) {
        locked(&self.report).merge(report);
    }

    /// Calls the progress callback, not too often.
    pub fn tell(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let told = self.told_ms.load(Ordering::Relaxed);
        let every = u64::try_from(PROGRESS_EVERY.as_millis()).unwrap_or(u64::MAX);
        if now >= told + every && self.told_ms.compare_exchange(told, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            (self.progress)(&self.counters.progress());
        }
    }

    /// Records the accounts that this source knew and that are gone.
    fn record_gone(&self, accounts: &Accounts, only: Option<&BTreeSet<Vec<u8>>>) -> Result<()> {
        let store = self.scan.store;
        let mut there: HashSet<AccountId> = HashSet::new();
        for account in &accounts.found {
            there.insert(store.account_of(&account.address)?);
        }
        let view = store.view();
        let mut known = 0;
        let mut gone = Vec::new();
        for hit in view.accounts()? {
            let id = hit.account();
            if there.contains(&id) {
                known += 1;
                continue;
            }
            let Some(cursor) = Cursor::read(&view, id)?.filter(|c| c.source == self.scan.source_id) else { continue };
            let address = match view.with_record(&hit, |_, r| r.account.as_slice().to_vec()) {
                Ok(address) => address,
                Err(mailstrata_engine::Error::Damage(_)) => continue,
                Err(e) => return Err(e.into()),
            };
            let item = view.locate(id, ItemKey::of(ItemKind::Account.code(), &address), None)?;
            let alive = item.is_some_and(|item| !item.deleted());
            let account = Account { address, root: cursor.root };
            if alive && only.is_none_or(|only| only.contains(&account.address)) {
                known += 1;
                if accounts.presence(&account) == Presence::Gone {
                    gone.push((id, account));
                }
            }
        }
        if gone.is_empty() {
            return Ok(());
        }
        // A directory that was renamed while it was read can be missed once.
        let again = self.scan.source.accounts(&mut |_| {})?;
        gone.retain(|(_, account)| again.presence(account) == Presence::Gone);
        let mut report = Report::default();
        if known > 1 && gone.len() * 2 > known {
            // Suspended, not deleted: a disk that is not mounted looks just like this.
            let why = format!(
                "{} of {known} accounts are not there any more; that looks like a file system that is not mounted, so none was \
                 recorded as deleted",
                gone.len()
            );
            report.errors.add(why.clone());
            report.alarms.add(why);
            gone.clear();
        }
        for (id, account) in gone {
            delete_account(store, id, &account.address, |t| self.await_later(Some(Arc::new(t))))?;
            self.scan.registry.forget(&account.address)?;
            report.accounts.deleted += 1;
            report.alarms.add(format!("account {} is gone; recorded as deleted", shown(&account.address)));
            (self.done)(&account.address, Outcome::Gone);
        }
        self.merge(report);
        Ok(())
    }
}

/// Records that an account is gone. Its items stay as they are: until its retention ends they are what it held at its end (S-05).
pub(super) fn delete_account(
    store: &Store,
    id: AccountId,
    address: &[u8],
    mut ticket: impl FnMut(Ticket),
) -> Result<()> {
    let event = Event {
        account: address.to_owned(),
        account_id: Some(id),
        item: address.to_owned(),
        kind: ItemKind::Account,
        change: Change::Delete,
        at: None,
        not_before: None,
        source: None,
        derived: false,
    };
    match store.submit(&event) {
        Ok(t) => ticket(t),
        Err(mailstrata_engine::Error::NoItem) => {}
        Err(e) => return Err(e.into()),
    }
    let cursor = Event { change: Change::Delete, ..mark_event(address, id, SCAN, Vec::new()) };
    match store.submit(&cursor) {
        Ok(t) => ticket(t),
        Err(mailstrata_engine::Error::NoItem) => {}
        Err(e) => return Err(e.into()),
    }
    Ok(())
}

impl<'a> Worker<'a> {
    fn new(pool: &'a Pool<'a>) -> Self {
        Self { pool, reader: Reader::default(), batch: pool.scan.store.batch(), appeared: Appeared::default() }
    }

    /// Takes chunks, then accounts, until there are none.
    fn work(mut self) {
        loop {
            if let Some(chunk) = self.pop() {
                self.process(chunk);
                continue;
            }
            let account = {
                let mut accounts = locked(&self.pool.accounts);
                let next = if self.pool.ends() { None } else { accounts.next() };
                if next.is_some() {
                    self.pool.owners.fetch_add(1, Ordering::AcqRel);
                }
                next
            };
            if let Some(account) = account {
                let outcome = self.scan_account(&account);
                match outcome {
                    Ok(outcome) => (self.pool.done)(&account.address, outcome),
                    Err(e) => self.pool.fail(e),
                }
                self.pool.counters.accounts_done.fetch_add(1, Ordering::Relaxed);
                self.pool.owners.fetch_sub(1, Ordering::AcqRel);
                self.pool.ready.notify_all();
                self.pool.tell();
                continue;
            }
            if self.pool.owners.load(Ordering::Acquire) == 0 {
                self.pool.ready.notify_all();
                return;
            }
            self.wait();
        }
    }

    fn pop(&self) -> Option<Chunk> {
        locked(&self.pool.queue).pop_front()
    }

    /// Sleeps until something may have changed. The time limit makes up for a notice sent before this waits.
    fn wait(&self) {
        let queue = locked(&self.pool.queue);
        if queue.is_empty() {
            let limit = Duration::from_millis(2);
            drop(self.pool.ready.wait_timeout(queue, limit).unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Has a chunk processed: by whoever comes first, or here when enough waits already.
    pub(super) fn dispatch(&mut self, chunk: Chunk) {
        chunk.job.pending.fetch_add(1, Ordering::AcqRel);
        if self.pool.threads > 1 {
            let mut queue = locked(&self.pool.queue);
            if queue.len() < 2 * self.pool.threads {
                queue.push_back(chunk);
                drop(queue);
                self.pool.ready.notify_one();
                return;
            }
        }
        self.process(chunk);
    }

    /// Works until no chunk of this account is under way.
    pub(super) fn finish_chunks(&mut self, pending: &AtomicUsize) {
        while pending.load(Ordering::Acquire) > 0 {
            match self.pop() {
                Some(chunk) => self.process(chunk),
                None => self.wait(),
            }
        }
    }

    fn process(&mut self, chunk: Chunk) {
        let job = chunk.job.clone();
        if self.pool.ends() {
            job.incomplete.store(true, Ordering::Release);
        } else if let Err(e) = self.read_chunk(&chunk) {
            job.incomplete.store(true, Ordering::Release);
            self.pool.fail(e);
        }
        job.pending.fetch_sub(1, Ordering::AcqRel);
        self.pool.ready.notify_all();
        self.pool.tell();
    }
}
