//! Gives a store and the model the same to do, and compares all they say.
//!
//! In come steps of a workload; out comes `Ok`, or a sentence that names the first difference.

use crate::model::{Model, Outcome};
use crate::rng::Rng;
use crate::sim::{SimClock, SimDisk};
use crate::workload::Step;
use mailstrata_engine::disk::{Clock, Disk};
use mailstrata_engine::{
    Change, Create, Error, Event, LogEntry, Options, Reader, Result, Scanned, State, Store, Transaction, View,
};
use mailstrata_format::{AccountId, Digest, ItemKey, ItemKind, Lsn};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a comparison failed.
pub type Difference = String;

/// The offline check finds no damage: what a kill or a power cut leaves is none, by a judge that shares no code with the engine.
pub fn is_sound(place: &Place) -> std::result::Result<(), Difference> {
    use mailstrata_engine::check::{Options, Watch, check};
    let options = Options { read_data: true, threads: 1, ..Options::new(Arc::new(place.disk.clone())) };
    let report = check(&place.dir, &options, &Watch::default()).map_err(|e| format!("fsck: {e}"))?;
    match report {
        Some(report) if report.sound() => Ok(()),
        Some(report) => Err(format!("fsck: {:#?}\n{}", report.findings, file_list(&place.disk))),
        None => Err("fsck: it stopped".into()),
    }
}

/// Small files, so that a few transactions make a store roll over.
#[must_use]
pub fn small(segment_size: u64, pack_size: u64) -> Create {
    Create { segment_size, pack_size, ..Create::default() }
}

/// A store on a simulated disk.
#[derive(Clone)]
pub struct Place {
    pub disk: SimDisk,
    pub clock: Arc<SimClock>,
    pub dir: PathBuf,
}

impl Place {
    /// A place on a disk.
    #[must_use]
    pub fn new(disk: SimDisk) -> Self {
        // The place above the store is not the store's business: it is there and stays.
        let above = Path::new("/srv");
        let _ = disk.create_dir(above).and_then(|()| disk.sync_dir(Path::new("/")));
        Self { disk, clock: Arc::default(), dir: above.join("store") }
    }

    /// The same place on another disk.
    #[must_use]
    pub fn on(&self, disk: SimDisk) -> Self {
        Self { disk, ..self.clone() }
    }

    /// Options of a store here.
    #[must_use]
    pub fn options(&self) -> Options {
        let on = Options::on(Arc::new(self.disk.clone()), self.clock.clone());
        // Runs are made when a test says so: a seed decides everything.
        Options { cache_bytes: 1 << 20, reserve_bytes: 0, compaction: false, ..on }
    }

    /// Creates the store.
    pub fn create(&self, create: &Create) -> Result<()> {
        Store::create(&self.dir, create, &self.options()).map(drop)
    }

    /// Opens the store for writing.
    pub fn open(&self) -> Result<Store> {
        Store::open(&self.dir, &self.options())
    }

    /// Opens the store for reading.
    pub fn open_read(&self) -> Result<Reader> {
        Store::open_read(&self.dir, &self.options())
    }
}

/// What happened to an event.
#[derive(Debug)]
pub enum Fate {
    /// The store and the model agree.
    Done(Outcome),
    /// The store refused with an error that says nothing about the event; the model did not take it.
    Refused(Error),
    /// The store takes no more writes; whether this one happened is for the next open to say. The model took it.
    Unknown(Error),
}

/// Stores a step's blobs.
pub fn put_blobs(store: &Store, model: &mut Model, blobs: &[Arc<[u8]>]) -> std::result::Result<Result<()>, Difference> {
    for bytes in blobs {
        match store.put_blob(&mut &bytes[..]) {
            Ok(blob) => {
                let expected = model.put_blob(bytes);
                if blob != expected {
                    return Err(format!("put_blob of {} bytes gave {blob:?}, not {expected:?}", bytes.len()));
                }
            }
            Err(e) => return Ok(Err(e)),
        }
    }
    Ok(Ok(()))
}

/// Compares what a store said to an event with what the model says; the model takes the event when the store may have.
pub fn settle(
    model: &mut Model,
    event: &Event,
    now: i64,
    said: Result<(Lsn, bool)>,
) -> std::result::Result<Fate, Difference> {
    let outcome = match said {
        Ok((lsn, true)) => Outcome::Duplicate(lsn),
        Ok((lsn, false)) => Outcome::Recorded(lsn),
        Err(Error::NoItem) => Outcome::NoItem,
        Err(Error::SourceConflict(lsn)) => Outcome::Conflict(lsn),
        Err(Error::NoBlob(digest)) => Outcome::NoBlob(digest),
        Err(e @ Error::Poisoned(_)) => {
            model.record(event, now);
            return Ok(Fate::Unknown(e));
        }
        Err(e) => return Ok(Fate::Refused(e)),
    };
    let expected = model.record(event, now);
    if outcome == expected {
        Ok(Fate::Done(outcome))
    } else {
        Err(format!("the store said {outcome:?}, the model {expected:?}, to {event:?}"))
    }
}

/// Runs a step on both.
pub fn step(store: &Store, model: &mut Model, place: &Place, step: &Step) -> std::result::Result<Fate, Difference> {
    let Step::Record { event, blobs } = step else {
        if let Step::Clock(by) = step {
            place.clock.advance(*by);
        }
        return Ok(Fate::Done(Outcome::NoItem));
    };
    if let Err(e) = put_blobs(store, model, blobs)? {
        return Ok(Fate::Refused(e));
    }
    let now = place.clock.now();
    settle(model, event, now, store.record(event).map(|r| (r.lsn, r.duplicate)))
}

/// Stores blobs again, as a client does that got no answer, and records an item for each that names it.
pub fn send_again(
    store: &Store,
    model: &mut Model,
    place: &Place,
    blobs: &[Arc<[u8]>],
) -> std::result::Result<(), Difference> {
    put_blobs(store, model, blobs)?.map_err(|e| e.to_string())?;
    let mut last = None;
    for (i, bytes) in blobs.iter().enumerate() {
        let blob = model.put_blob(bytes);
        let event = Event {
            account: b"again@example.org".to_vec(),
            account_id: None,
            item: format!("{i}").into_bytes(),
            kind: ItemKind::Message,
            change: Change::Put { state: State::default(), blobs: vec![blob], content_unseen: false },
            at: None,
            not_before: None,
            source: None,
            derived: false,
        };
        let ticket = store.submit(&event);
        let said = ticket.as_ref().map(|t| (t.lsn(), false)).map_err(Clone::clone);
        match settle(model, &event, place.clock.now(), said)? {
            Fate::Done(_) => last = ticket.ok(),
            other => return Err(format!("{other:?}")),
        }
    }
    last.map_or(Ok(()), |t| t.wait().map(drop)).map_err(|e| e.to_string())
}

fn show(t: &Transaction) -> String {
    let mut text = format!("{t:?}");
    if text.len() > 1500 {
        let mut end = 1500;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}

fn same(
    what: &str,
    found: Option<&Transaction>,
    expected: Option<&Transaction>,
) -> std::result::Result<(), Difference> {
    if found == expected {
        return Ok(());
    }
    let text = |t: Option<&Transaction>| t.map_or("nothing".into(), show);
    Err(format!("{what}:\n  store {}\n  model {}", text(found), text(expected)))
}

/// How damage and errors count when answers are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    /// Every answer is there and right.
    Exact,
    /// Every answer is right or an error.
    NoLie,
    /// Every answer is right, an error, or something that was right before: for a store that says it lost whole files.
    Recorded,
}

/// Errors met where they were allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Losses {
    /// Transactions that could not be read.
    pub transactions: usize,
    pub blobs: usize,
    /// Other answers that were an error.
    pub answers: usize,
}

/// The bytes of a blob.
pub fn read_blob(view: &View, digest: &Digest) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let len = view.read_blob(digest, &mut |bytes| {
        out.extend_from_slice(bytes);
        Ok(())
    })?;
    if len == out.len() as u64 { Ok(out) } else { Err(Error::TooLarge("length that read_blob returned")) }
}

struct Compare<'a> {
    view: &'a View,
    model: &'a Model,
    how: Strictness,
    losses: Losses,
}

/// Compares every answer of a view with the model's; `seed` draws the moments asked about.
pub fn compare(view: &View, model: &Model, how: Strictness, seed: u64) -> std::result::Result<Losses, Difference> {
    let mut c = Compare { view, model, how, losses: Losses::default() };
    if view.lsn() != model.lsn() && (how != Strictness::Recorded || view.lsn() > model.lsn()) {
        return Err(format!("the view ends with LSN {}, the model with {}", view.lsn(), model.lsn()));
    }
    c.log()?;
    c.scan()?;
    let mut rng = Rng::new(seed);
    let keys: Vec<_> = model.keys().collect();
    for key in &keys {
        c.history(key)?;
        c.states(key, &mut rng)?;
    }
    c.accounts()?;
    let moments: Vec<i64> = model.log().iter().map(|t| t.moment).collect();
    for account in model.accounts() {
        c.items(account, None)?;
        if !moments.is_empty() {
            c.items(account, Some(rng.pick(&moments).saturating_add(rng.below(3).cast_signed() - 1)))?;
        }
    }
    c.blobs()?;
    Ok(c.losses)
}

impl Compare<'_> {
    /// An error is fine when damage may be met.
    fn allow<T>(&self, what: &str, answer: Result<T>) -> std::result::Result<Option<T>, Difference> {
        match answer {
            Ok(t) => Ok(Some(t)),
            Err(Error::Damage(_) | Error::Io { .. }) if self.how != Strictness::Exact => Ok(None),
            Err(e) => Err(format!("{what}: {e}")),
        }
    }

    fn log(&mut self) -> std::result::Result<(), Difference> {
        let expected = self.model.log();
        let mut next = 0;
        for found in self.view.log(Lsn(1)) {
            let entry = match self.allow("log", found)? {
                Some(LogEntry::Transaction(t)) => Some(*t),
                Some(LogEntry::Damaged(_, e) | LogEntry::Missing { error: e, .. }) => self.allow("log", Err(e))?,
                None => None,
            };
            match entry {
                Some(t) => {
                    // Damage takes transactions out; what comes is in order and as it was.
                    let at = expected[next..].iter().position(|e| e.lsn >= t.lsn);
                    let Some(at) = at else { return Err(format!("log: LSN {} was never recorded", t.lsn)) };
                    if at > 0 && self.how == Strictness::Exact {
                        return Err(format!("log: LSN {} is missing", expected[next].lsn));
                    }
                    self.losses.transactions += at;
                    same("log", Some(&t), Some(expected[next + at]))?;
                    next += at + 1;
                }
                None => self.losses.answers += 1,
            }
        }
        if self.how == Strictness::Recorded {
            return Ok(());
        }
        if next < expected.len() && (self.how == Strictness::Exact || self.losses.answers == 0) {
            return Err(format!("log: ends before LSN {} without an error", expected[next].lsn));
        }
        self.losses.transactions += expected.len() - next;
        if self.losses.transactions > 0 && self.losses.answers == 0 {
            return Err("log: leaves out what is damaged without an error".into());
        }
        Ok(())
    }

    /// A scan gives every transaction once, or says which it cannot give.
    fn scan(&self) -> std::result::Result<(), Difference> {
        let expected: BTreeMap<_, _> = self.model.log().iter().map(|t| (t.lsn, *t)).collect();
        let mut seen = BTreeSet::new();
        let mut damaged = 0;
        let mut wrong = None;
        let outcome = self.view.scan(|step| {
            match step {
                Scanned::Record(hit, frame, record) => {
                    let there = expected.get(&Lsn(hit.row.lsn)).is_some_and(|t| {
                        (t.account_id, t.item_key, t.moment) == (hit.account(), hit.item(), hit.row.moment)
                            && t.deleted == hit.deleted()
                            && record.item.as_slice() == t.item
                            && record.name.as_slice() == t.state.name.as_deref().unwrap_or_default()
                            && frame.blobs().map(|b| b.digest).eq(t.blobs.iter().map(|b| b.digest.0))
                    });
                    if !there || !seen.insert(hit.row.lsn) {
                        wrong.get_or_insert(hit.row.lsn);
                    }
                }
                Scanned::Damaged(..) => damaged += 1,
            }
            ControlFlow::Continue(())
        });
        if let Some(lsn) = wrong {
            return Err(format!("scan: LSN {lsn} is not as it was recorded, or comes twice"));
        }
        let whole = self.allow("scan", outcome)?.is_some();
        let missing = expected.len() - seen.len();
        if self.how == Strictness::Exact && (missing > 0 || damaged > 0) {
            return Err(format!("scan: {missing} missing, {damaged} damaged"));
        }
        if self.how == Strictness::NoLie && whole && missing > damaged + self.losses.transactions {
            return Err(format!("scan: leaves {missing} out and tells {damaged}"));
        }
        Ok(())
    }

    fn history(&mut self, key: &(AccountId, ItemKey)) -> std::result::Result<(), Difference> {
        let expected = self.model.history(key);
        match self.allow("history", self.view.history(key.0, key.1))? {
            Some(found) if self.how == Strictness::Recorded => {
                let known = |t: &Transaction| expected.iter().any(|e| e == t);
                if let Some(t) = found.iter().find(|t| !known(t)) {
                    return Err(format!("history: never recorded: {}", show(t)));
                }
            }
            Some(found) => {
                for i in 0..found.len().max(expected.len()) {
                    same("history", found.get(i), expected.get(i))?;
                }
            }
            None => self.losses.answers += 1,
        }
        Ok(())
    }

    fn states(&mut self, key: &(AccountId, ItemKey), rng: &mut Rng) -> std::result::Result<(), Difference> {
        let history = self.model.history(key);
        let mut moments = vec![None, Some(i64::MIN), Some(i64::MAX)];
        for _ in 0..3 {
            let near = rng.pick(history).moment;
            moments.push(Some(near.saturating_add(rng.below(3).cast_signed() - 1)));
        }
        for at in moments {
            let expected = self.model.state(key, at);
            match self.allow("state", self.view.state(key.0, key.1, at))? {
                Some(found) if self.how == Strictness::Recorded => {
                    if let Some(t) = found.filter(|t| !history.contains(t)) {
                        return Err(format!("state: never recorded: {}", show(&t)));
                    }
                }
                Some(found) => same(&format!("state at {at:?}"), found.as_ref(), expected)?,
                None => self.losses.answers += 1,
            }
        }
        Ok(())
    }

    fn accounts(&mut self) -> std::result::Result<(), Difference> {
        let expected = self.model.accounts();
        match self.allow("accounts", self.view.accounts())? {
            Some(found) => {
                let found: Vec<_> = found.iter().map(|h| h.account()).collect();
                let all = if self.how == Strictness::Recorded {
                    found.iter().all(|a| expected.contains(a))
                } else {
                    found == expected
                };
                if !all {
                    return Err(format!("accounts: store {found:?}, model {expected:?}"));
                }
            }
            None => self.losses.answers += 1,
        }
        Ok(())
    }

    fn items(&mut self, account: AccountId, at: Option<i64>) -> std::result::Result<(), Difference> {
        if self.how == Strictness::Recorded {
            return Ok(());
        }
        let expected: Vec<_> =
            self.model.items(account, at).into_iter().filter(|t| t.kind != ItemKind::Cursor).collect();
        let what = format!("items at {at:?}");
        let Some(found) = self.allow(&what, self.view.items(account, at))? else {
            self.losses.answers += 1;
            return Ok(());
        };
        let mut count = 0;
        for hit in found {
            let Some(hit) = self.allow(&what, hit)? else {
                self.losses.answers += 1;
                return Ok(());
            };
            match expected.get(count) {
                Some(e) if e.item_key == hit.item() && e.lsn.0 == hit.row.lsn => {}
                e => {
                    let text = e.map(|e| (e.item_key, e.lsn));
                    return Err(format!("{what}: store ({}, {}), model {text:?}", hit.item(), hit.row.lsn));
                }
            }
            match self.allow(&what, self.view.read(&hit))? {
                Some(t) => same(&what, Some(&t), Some(expected[count]))?,
                None => self.losses.answers += 1,
            }
            count += 1;
        }
        if count < expected.len() {
            return Err(format!("{what}: {count} of {} items", expected.len()));
        }
        Ok(())
    }

    fn blobs(&mut self) -> std::result::Result<(), Difference> {
        let mut named: Vec<Digest> = self.model.log().iter().flat_map(|t| t.blobs.iter().map(|b| b.digest)).collect();
        named.sort_unstable();
        named.dedup();
        for digest in named {
            match self.allow("blob", read_blob(self.view, &digest))? {
                Some(bytes) => {
                    if self.model.blobs().get(&digest).is_none_or(|b| **b != *bytes) {
                        return Err(format!("blob {digest}: {} wrong bytes", bytes.len()));
                    }
                }
                None => self.losses.blobs += 1,
            }
        }
        Ok(())
    }
}

/// All files below a directory of the real disk, for messages.
#[must_use]
pub fn file_list(disk: &SimDisk) -> String {
    let line =
        |(p, n): &(PathBuf, u64)| format!("  {n:>9} {}", p.strip_prefix(Path::new("/srv")).unwrap_or(p).display());
    disk.files().iter().map(line).collect::<Vec<_>>().join("\n")
}
