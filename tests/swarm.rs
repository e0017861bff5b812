//! Random lives of a store on the simulated disk. Each seed draws which operations, faults and ends there are and how often
//! (swarm testing), then runs a few lives one after the other, restarts within restarts included.
//!
//! In come seeds; out comes `Ok`, or the first broken guarantee. What is asserted after every life:
//!
//! - what a ticket, a view or a tail had shown as durable is there (1); what is there beyond is a prefix of what was submitted (2);
//! - every answer is right (3), a read under faults is right or an error (7);
//! - nothing is acknowledged behind a ticket that failed (6); an undamaged store reports no damage (5).

use mailstrata_engine::disk::Clock;
use mailstrata_engine::{Error, Event, LogEntry, Store, Transaction, View};
use mailstrata_format::Lsn;
use mailstrata_tests::drive::{Place, Strictness, compare, file_list, small};
use mailstrata_tests::model::{Model, Outcome};
use mailstrata_tests::rng::{Rng, Tally, seeds};
use mailstrata_tests::sim::{Effect, Fault, Noise, OpKind, SimDisk, Survival, Which};
use mailstrata_tests::workload::{Bounds, Step, Workload};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const KINDS: &[OpKind] = &[
    OpKind::Open,
    OpKind::Create,
    OpKind::Read,
    OpKind::Write,
    OpKind::WriteDurable,
    OpKind::Sync,
    OpKind::Len,
    OpKind::SetLen,
    OpKind::Allocate,
    OpKind::Lock,
    OpKind::List,
    OpKind::Rename,
    OpKind::Remove,
    OpKind::SyncDir,
    OpKind::FreeSpace,
    OpKind::Queue,
    OpKind::Submit,
    OpKind::Wait,
];

const ERRNOS: &[i32] = &[
    libc::EIO,
    libc::EIO,
    libc::ENOSPC,
    libc::EDQUOT,
    libc::EINTR,
    libc::EAGAIN,
    libc::ECANCELED,
    libc::EMFILE,
    libc::EROFS,
    libc::ENOMEM,
];

/// What a seed draws once, for all lives of its store.
struct Swarm {
    /// Threads that record at once.
    producers: u64,
    steps: usize,
    bounds: Bounds,
    lives: u64,
    /// Chance that a life meets planned faults, in percent.
    faults: u32,
    kinds: Vec<OpKind>,
    errnos: Vec<i32>,
    noise: Noise,
    /// Chance of a life on a disk that becomes full, in percent.
    full: u32,
    /// Chances of a view, a look at a tail, a wait for all tickets, in percent of the steps.
    view: u32,
    tail: u32,
    wait: u32,
    /// Weights of the ends: close, drop, processes die, power cut.
    ends: [u32; 4],
    /// Chance that a recovery is disturbed, in percent.
    disturbed: u32,
    /// The device lies: damage may be met.
    lying: bool,
}

/// A number from 1 on, below two to the power of `orders`: small ones are likelier, each order of magnitude comes up.
fn near(rng: &mut Rng, orders: u64) -> u64 {
    let order = rng.below(orders);
    1 + rng.below(1 << order)
}

impl Swarm {
    fn new(rng: &mut Rng) -> Self {
        let some = |rng: &mut Rng, of: &[OpKind]| {
            let keep = *rng.pick(&[20, 50, 100]);
            of.iter().copied().filter(|_| rng.percent(keep)).collect::<Vec<_>>()
        };
        let noise =
            if rng.percent(50) { Noise { short_read: 60, short_write: 30, interrupted: 60 } } else { Noise::default() };
        let errno = *rng.pick(ERRNOS);
        Self {
            producers: 1,
            steps: *rng.pick(&[4, 12, 12, 30]),
            bounds: Bounds {
                accounts: 1 + rng.index(3),
                items: 1 + rng.index(6),
                // Beyond the last one a blob streams into a file of its own.
                blob_max: *rng.pick(&[200, 2000, 2000, 20_000, 20_000, 70_000, 300_000]),
                attribute_max: *rng.pick(&[50, 500, 8000]),
                incarnations: rng.percent(50),
            },
            lives: 2 + rng.below(4),
            faults: *rng.pick(&[0, 50, 90]),
            kinds: some(rng, KINDS),
            errnos: if rng.percent(50) { ERRNOS.to_vec() } else { vec![errno] },
            noise,
            full: *rng.pick(&[0, 0, 0, 40]),
            view: *rng.pick(&[0, 10, 30]),
            tail: *rng.pick(&[0, 10, 40]),
            wait: *rng.pick(&[5, 30, 100]),
            ends: [*rng.pick(&[0, 1, 3]), 1, *rng.pick(&[0, 2]), *rng.pick(&[1, 4])],
            disturbed: *rng.pick(&[0, 30, 70]),
            lying: false,
        }
    }

    fn fault(&self, rng: &mut Rng) -> Fault {
        let kind = if self.kinds.is_empty() || rng.percent(10) { None } else { Some(*rng.pick(&self.kinds)) };
        let which = kind.map_or(Which::Any, Which::Kind);
        let nth = near(rng, 9);
        let error = Effect::Error(*rng.pick(&self.errnos));
        let effect = match kind {
            None if rng.percent(60) => Effect::PowerCut,
            Some(OpKind::Sync) if rng.percent(50) => Effect::FsyncGate,
            Some(OpKind::Read | OpKind::Write | OpKind::WriteDurable) if rng.percent(20) => Effect::Short,
            _ => error,
        };
        let times = *rng.pick(&[1, 1, 1, 3, u64::MAX]);
        Fault { which, nth, times: if effect == Effect::FsyncGate { 1 } else { times }, effect }
    }
}

/// What the store was given in one life, and what it said.
#[derive(Default)]
struct Told {
    submitted: Vec<(Event, Lsn)>,
    blobs: Vec<Arc<[u8]>>,
    acknowledged: Vec<Lsn>,
    /// Tickets that failed.
    failed: Vec<Lsn>,
    /// The greatest LSN that a view or a tail showed.
    shown: Lsn,
    tailed: Vec<Transaction>,
    views: Vec<View>,
}

fn lock(m: &Mutex<Told>) -> MutexGuard<'_, Told> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Swarm {
    /// Whether an error may come from a planned fault or a full disk.
    const fn excuses(&self, e: &Error) -> bool {
        match e {
            Error::Io { .. } | Error::NearlyFull { .. } | Error::Poisoned(_) => true,
            Error::Damage(_) => self.lying,
            _ => false,
        }
    }
}

/// One producer's life.
fn produce(store: &Store, swarm: &Swarm, seed: u64, now: i64, told: &Mutex<Told>) -> Result<(), String> {
    let mut work = Workload::new(seed, swarm.bounds, now);
    let mut rng = Rng::new(seed ^ 0x7377);
    let mut tickets = Vec::new();
    let mut tail = rng.percent(swarm.tail).then(|| store.tail(Lsn(store.view().lsn().0 + 1)));
    for at in 0..=swarm.steps {
        if rng.percent(swarm.wait) || at == swarm.steps {
            for t in tickets.drain(..) {
                let t: mailstrata_engine::Ticket = t;
                match t.wait() {
                    Ok(receipt) => lock(told).acknowledged.push(receipt.lsn),
                    Err(e) if swarm.excuses(&e) => lock(told).failed.push(t.lsn()),
                    Err(e) => return Err(format!("ticket: {e}")),
                }
            }
        }
        if rng.percent(swarm.view) {
            let view = store.view();
            let mut told = lock(told);
            told.shown = told.shown.max(view.lsn());
            if told.views.len() < 3 {
                told.views.push(view);
            }
        }
        if let Some(tail) = tail.as_mut().filter(|_| rng.percent(swarm.tail)) {
            match tail.next(Duration::ZERO) {
                Ok(Some(LogEntry::Transaction(t))) => {
                    let mut told = lock(told);
                    told.shown = told.shown.max(t.lsn);
                    told.tailed.push(*t);
                }
                Ok(Some(LogEntry::Damaged(_, e) | LogEntry::Missing { error: e, .. })) | Err(e)
                    if swarm.excuses(&e) => {}
                Ok(None) => {}
                Ok(Some(LogEntry::Damaged(_, e) | LogEntry::Missing { error: e, .. })) | Err(e) => {
                    return Err(format!("tail: {e}"));
                }
            }
        }
        if at == swarm.steps {
            break;
        }
        let Step::Record { mut event, blobs } = work.next_step() else { continue };
        if let Some(s) = &mut event.source {
            // Positions are a producer's own.
            s.name = format!("source {seed}").into_bytes();
        }
        let mut refused = false;
        for b in &blobs {
            match store.put_blob(&mut &b[..]) {
                Ok(_) => lock(told).blobs.push(b.clone()),
                Err(e) if swarm.excuses(&e) => refused = true,
                Err(e) => return Err(format!("put_blob: {e}")),
            }
        }
        if refused {
            continue;
        }
        match store.submit(&event) {
            Ok(t) => {
                lock(told).submitted.push((*event, t.lsn()));
                tickets.push(t);
            }
            Err(Error::NoItem | Error::SourceConflict(_) | Error::NoBlob(_)) => {}
            Err(e) if swarm.excuses(&e) => {}
            Err(e) => return Err(format!("submit: {e}")),
        }
    }
    Ok(())
}

/// What a life added to the model. Checks what can be said without the disk.
fn explain(before: &Model, told: &Told, now: i64) -> Result<Model, String> {
    let mut model = before.clone();
    for b in &told.blobs {
        model.put_blob(b);
    }
    let mut order: Vec<&(Event, Lsn)> = told.submitted.iter().collect();
    order.sort_by_key(|(_, lsn)| *lsn);
    order.dedup_by(|a, b| a.1 == b.1 && a.0 == b.0);
    for (event, lsn) in order {
        match model.record(event, now) {
            Outcome::Recorded(l) | Outcome::Duplicate(l) if l == *lsn => {}
            other => return Err(format!("LSN {lsn} cannot be explained: {other:?} for {event:?}")),
        }
    }
    let fresh = |l: &&Lsn| **l > before.lsn();
    let acknowledged = told.acknowledged.iter().filter(fresh).max();
    if let (Some(failed), Some(acknowledged)) = (told.failed.iter().filter(fresh).min(), acknowledged)
        && acknowledged > failed
    {
        return Err(format!("LSN {acknowledged} was acknowledged, {failed} before it failed"));
    }
    Ok(model)
}

/// Counts for the summary.
#[derive(Default)]
struct Counts {
    lives: u64,
    recoveries: u64,
    hits: u64,
    acknowledged: u64,
}

/// The world of one seed.
struct Run {
    place: Place,
    swarm: Swarm,
    model: Model,
    rng: Rng,
    counts: Counts,
}

impl Run {
    fn new(seed: u64) -> Result<Self, String> {
        let mut rng = Rng::new(seed);
        let swarm = Swarm::new(&mut rng);
        let place = Place::new(SimDisk::new(rng.bits()));
        let sizes = [64 << 10, 64 << 10, 256 << 10, 1 << 20];
        place.create(&small(*rng.pick(&sizes), *rng.pick(&sizes))).map_err(|e| format!("create: {e}"))?;
        Ok(Self { place, swarm, model: Model::default(), rng, counts: Counts::default() })
    }

    /// One life: open, work, end. Returns what must be there afterwards.
    fn live(&mut self) -> Result<Lsn, String> {
        self.counts.lives += 1;
        let rng = &mut self.rng;
        let faulty = rng.percent(self.swarm.faults);
        self.place.disk.set_noise(self.swarm.noise);
        let hits = self.place.disk.hits();
        let full = rng.percent(self.swarm.full);
        if full {
            self.place.disk.set_capacity(Some(self.place.disk.used() + rng.below(300_000)));
        }
        let store = match self.place.open() {
            Ok(store) => store,
            Err(e) if full && self.swarm.excuses(&e) => {
                self.place.disk.set_capacity(None);
                return Ok(self.model.lsn());
            }
            Err(e) => return Err(format!("open: {e}")),
        };
        if faulty {
            for _ in 0..1 + rng.below(3) {
                self.place.disk.plan(self.swarm.fault(rng));
            }
        }
        let now = self.place.clock.now();
        let told = Mutex::new(Told::default());
        let base = rng.bits();
        if self.swarm.producers == 1 {
            produce(&store, &self.swarm, base, now, &told)?;
        } else {
            std::thread::scope(|scope| {
                let (store, swarm, told) = (&store, &self.swarm, &told);
                let all: Vec<_> = (0..swarm.producers)
                    .map(|p| scope.spawn(move || produce(store, swarm, base.wrapping_add(p), now, told)))
                    .collect();
                all.into_iter().try_for_each(|t| t.join().map_err(|_| "a producer panicked".to_string())?)
            })?;
        }
        let mut told = told.into_inner().unwrap_or_else(PoisonError::into_inner);
        let model = explain(&self.model, &told, now)?;
        let view = store.view();
        told.shown = told.shown.max(view.lsn());
        // Faults are about: what is read is right or an error.
        let how = if faulty || self.place.disk.hits() > hits { Strictness::NoLie } else { Strictness::Exact };
        let seed = rng.bits();
        for view in told.views.iter().chain([&view]).filter(|_| rng.percent(50)) {
            compare(view, &model.until(view.lsn()), how, seed).map_err(|e| format!("a view of {}: {e}", view.lsn()))?;
        }
        let mut promised = told.acknowledged.iter().copied().max().unwrap_or_default().max(told.shown);
        let mut disk = None;
        match rng.weighted(&self.swarm.ends) {
            0 => {
                let everything = model.lsn();
                match store.close() {
                    Ok(()) => promised = everything,
                    Err(e) if self.swarm.excuses(&e) => {}
                    Err(e) => return Err(format!("close: {e}")),
                }
            }
            1 => drop(store),
            2 => disk = Some(self.place.disk.processes_died(rng.bits())),
            _ => {
                let how = *rng.pick(&[Survival::Random, Survival::Random, Survival::Nothing, Survival::Everything]);
                disk = Some(self.place.disk.power_cut(rng.bits(), how));
            }
        }
        let log = model.log();
        for t in &told.tailed {
            if log.iter().find(|e| e.lsn == t.lsn) != Some(&t) {
                return Err(format!("a tail showed LSN {} as it was not recorded", t.lsn));
            }
        }
        self.counts.acknowledged += told.acknowledged.len() as u64;
        self.counts.hits += self.place.disk.hits() - hits;
        // A planned power cut leaves a disk that must be switched on again.
        let off = self.place.disk.is_off();
        let disk = disk.unwrap_or_else(|| {
            if off || rng.percent(20) {
                self.place.disk.power_cut(rng.bits(), Survival::Random)
            } else {
                self.place.disk.clone()
            }
        });
        disk.clear_faults();
        disk.set_capacity(None);
        self.place = self.place.on(disk);
        self.model = model;
        Ok(promised)
    }

    /// Opens what is left, disturbed a few times first; then everything is compared.
    fn recover(&mut self, promised: Lsn) -> Result<(), String> {
        let rng = &mut self.rng;
        for _ in 0..3 {
            if !rng.percent(self.swarm.disturbed) {
                break;
            }
            self.counts.recoveries += 1;
            let before = self.place.disk.hits();
            self.place.disk.plan(self.swarm.fault(rng));
            match self.place.open() {
                Ok(store) if rng.percent(50) => drop(store.close()),
                Ok(store) => drop(store),
                Err(e) if self.swarm.excuses(&e) => {}
                Err(e) => return Err(format!("an error of the disk during recovery taken for {e}")),
            }
            self.counts.hits += self.place.disk.hits() - before;
            let disk = match rng.below(3) {
                0 if !self.place.disk.is_off() => self.place.disk.processes_died(rng.bits()),
                1 => self.place.disk.power_cut(rng.bits(), Survival::Nothing),
                _ => self.place.disk.power_cut(rng.bits(), Survival::Random),
            };
            disk.clear_faults();
            self.place = self.place.on(disk);
        }
        self.counts.recoveries += 1;
        let (lsn, findings) = if rng.percent(50) {
            let store = self.place.open().map_err(|e| format!("open: {e}"))?;
            let view = store.view();
            compare(&view, &self.model.until(view.lsn()), Strictness::Exact, rng.bits())?;
            (view.lsn(), store.findings().to_vec())
        } else {
            let reader = self.place.open_read().map_err(|e| format!("open_read: {e}"))?;
            let view = reader.view();
            compare(&view, &self.model.until(view.lsn()), Strictness::Exact, rng.bits())?;
            (view.lsn(), reader.findings().to_vec())
        };
        if lsn < promised {
            return Err(format!("ends with LSN {lsn}, {promised} was acknowledged"));
        }
        if let Some(damage) = findings.first() {
            return Err(format!("finds damage: {damage}"));
        }
        self.model = self.model.until(lsn);
        const YEAR: i64 = 365 * 86_400_000_000;
        self.place.clock.advance(match rng.below(30) {
            0 => -50 * YEAR,
            1 => 30 * YEAR,
            _ => rng.below(5_000_000).cast_signed() - 1_000_000,
        });
        Ok(())
    }

    fn run(&mut self) -> Result<(), String> {
        for life in 0..self.swarm.lives {
            let in_context = |e: String, run: &Self| format!("life {life}: {e}\n{}", file_list(&run.place.disk));
            let promised = self.live().map_err(|e| in_context(e, self))?;
            self.recover(promised).map_err(|e| in_context(format!("afterwards: {e}"), self))?;
        }
        Ok(())
    }
}

fn lives(name: &str, first: u64, count: u64, producers: &[u64]) {
    let start = Instant::now();
    let mut tally = Tally::default();
    let mut all = Counts::default();
    for seed in seeds(first, count) {
        let result = Run::new(seed).and_then(|mut run| {
            run.swarm.producers = *run.rng.pick(producers);
            let result = run.run();
            all.lives += run.counts.lives;
            all.recoveries += run.counts.recoveries;
            all.hits += run.counts.hits;
            all.acknowledged += run.counts.acknowledged;
            result
        });
        tally.case(seed, result);
    }
    let Counts { lives, recoveries, hits, acknowledged } = all;
    tally.count("lives", lives);
    tally.count("recoveries", recoveries);
    tally.count("operations that failed", hits);
    tally.finish(name, format_args!("{acknowledged} acknowledgements, {:?}", start.elapsed()));
}

#[test]
fn lives_of_a_store() {
    lives("lives", 1, 6000, &[1]);
}

#[test]
fn lives_of_a_store_with_many_producers() {
    lives("lives with many producers", 500_000, 3500, &[2, 3, 5]);
}

/// A device that lies cannot be beaten, but what is read is what was recorded, or an error.
#[test]
fn a_device_that_lies_leads_to_no_wrong_byte() {
    let start = Instant::now();
    let mut tally = Tally::default();
    let (mut hits, mut silent) = (0, 0);
    for seed in seeds(1_000_000, 1500) {
        let result = Run::new(seed).and_then(|mut run| {
            run.swarm.faults = 0;
            run.swarm.full = 0;
            run.swarm.producers = 1;
            run.swarm.lying = true;
            for _ in 0..run.rng.below(2) {
                let promised = run.live()?;
                run.recover(promised)?;
            }
            let kinds = [OpKind::Write, OpKind::WriteDurable, OpKind::WriteDurable, OpKind::Sync];
            let kind = *run.rng.pick(&kinds);
            let effect = if kind == OpKind::Sync || run.rng.percent(50) {
                Effect::Lose
            } else {
                Effect::Misdirect(*run.rng.pick(&[512, 4096, 8192, 65_536]))
            };
            let nth = near(&mut run.rng, 6);
            let disk = run.place.disk.clone();
            disk.plan(Fault { which: Which::Kind(kind), nth, times: *run.rng.pick(&[1, 1, 4]), effect });
            let promised = run.live()?;
            hits += disk.hits();
            let reader = run.place.open_read().map_err(|e| format!("open_read: {e}"))?;
            let seed = run.rng.bits();
            let view = reader.view();
            compare(&view, &run.model, Strictness::Recorded, seed)
                .map_err(|e| format!("{e}\n  {kind:?} {effect:?}"))?;
            silent += u64::from(view.lsn() < promised && reader.findings().is_empty());
            Ok(())
        });
        tally.case(seed, result);
    }
    tally.count("faults", hits);
    tally.finish("lies", format_args!("{hits} struck, {silent} losses not told, {:?}", start.elapsed()));
}
