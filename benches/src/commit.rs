//! Durable transactions a second, and how long one takes: the log alone, no bodies.
//!
//! Two kinds of producers. *Blocking* ones are threads in `Store::record`. *In flight*: one thread that keeps N tickets of
//! `Store::submit` open, as an event loop does. The bare loops write records of the very length that the engine's frames
//! have in this run. Each case has a store of its own, so that none pays for the items of those before; rounds of the bare
//! loop and of the engine take turns.
//!
//! Rates depend on the machine's neighbours; the counts (flushes and requests of a group, bytes of the log, processor time
//! of a commit) hardly do.

use crate::ceiling::{self, Clock, Run, latencies, nanos};
use crate::counts::{Device, Diskstats, Groups, cpu_micros};
use crate::report::{Goal, Report, Rounds};
use crate::{Bench, Outcome, mail};
use mailstrata_engine::{Create, Options, Store, Ticket};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// All of it.
pub fn run(bench: &Bench, report: &mut Report) -> Outcome {
    single(bench, report)?;
    for producers in [8, 64] {
        blocking(bench, report, producers)?;
    }
    for flying in [64, 256] {
        in_flight(bench, report, flying)?;
    }
    Ok(())
}

fn single(bench: &Bench, report: &mut Report) -> Outcome {
    let store = Subject::create(&bench.dir.join("commit-1"))?;
    let record = store.record_len()?;
    report.add_value("commit", "length of a transaction in the log", "B", record as f64, Goal::None);
    let (mut median, mut tail, mut rate) = (Rounds::default(), Rounds::default(), Rounds::default());
    let mut costs = Costs::of(&bench.dir);
    for _ in 0..bench.scale.rounds {
        bench.settle()?;
        let c = ceiling::single(&bench.dir, record, bench.scale.window)?;
        let e = costs.of_engine(|| store.blocking(1, bench.scale.window))?;
        median.add(e.p50, c.p50);
        tail.add(e.p99, c.p99);
        rate.add(e.rate, c.rate);
    }
    let what = "pwritev2 O_DIRECT RWF_DSYNC, same size";
    report.add("commit", "1 producer, p50", "µs", &median, what, Goal::RatioAtMost(1.25));
    report.add("commit", "1 producer, p99", "µs", &tail, what, Goal::RatioAtMost(1.5));
    report.add("commit", "1 producer", "1/s", &rate, what, Goal::None);
    let groups = store.remove()?;
    costs.report(report, "1 producer", &groups, true);
    Ok(())
}

fn blocking(bench: &Bench, report: &mut Report, producers: usize) -> Outcome {
    let store = Subject::create(&bench.dir.join(format!("commit-{producers}")))?;
    let record = store.record_len()?;
    let (mut rate, mut tail) = (Rounds::default(), Rounds::default());
    let mut costs = Costs::of(&bench.dir);
    for _ in 0..bench.scale.rounds {
        bench.settle()?;
        let c = costs.of_bare(|| ceiling::threads(&bench.dir, record, producers, bench.scale.window))?;
        let e = costs.of_engine(|| store.blocking(producers, bench.scale.window))?;
        rate.add(e.rate, c.rate);
        tail.add(e.p99, c.p99);
    }
    let what = "as many threads, one writer, one futex a batch";
    let name = format!("{producers} blocking producers");
    report.add("commit", name.clone(), "1/s", &rate, what, Goal::RatioAtLeast(0.85));
    report.add("commit", format!("{name}, p99"), "µs", &tail, what, Goal::None);
    let groups = store.remove()?;
    costs.report(report, &name, &groups, false);
    Ok(())
}

fn in_flight(bench: &Bench, report: &mut Report, flying: usize) -> Outcome {
    let store = Subject::create(&bench.dir.join(format!("commit-in-flight-{flying}")))?;
    let record = store.record_len()?;
    let (mut handoff, mut ring) = (Rounds::default(), Rounds::default());
    let mut costs = Costs::of(&bench.dir);
    for _ in 0..bench.scale.rounds {
        bench.settle()?;
        let c = costs.of_bare(|| ceiling::handoff(&bench.dir, record, flying, bench.scale.window))?;
        let e = costs.of_engine(|| store.in_flight(flying, bench.scale.window))?;
        let inside = ceiling::ring(&bench.dir, record, flying, bench.scale.window)?;
        handoff.add(e.rate, c.rate);
        ring.add(e.rate, inside.rate);
    }
    let name = format!("{flying} in flight from one thread");
    let what = "io_uring, one hand-off each way a batch";
    report.add("commit", name.clone(), "1/s", &handoff, what, Goal::RatioAtLeast(0.8));
    let against = format!("{name}, against no hand-off");
    report.add("commit", against, "1/s", &ring, "io_uring, producers in the writing thread", Goal::None);
    let groups = store.remove()?;
    costs.report(report, &name, &groups, false);
    Ok(())
}

/// What the rounds of a case cost.
struct Costs {
    disk: Option<Diskstats>,
    device: Device,
    engine: Spent,
    bare: Spent,
    cpu: Rounds,
}

/// Processor time of the last run, and its commits.
#[derive(Default)]
struct Spent {
    micros: f64,
    commits: f64,
}

impl Spent {
    fn per_commit(&self) -> f64 {
        self.micros / self.commits.max(1.0)
    }
}

fn spent(run: impl FnOnce() -> Outcome<Run>) -> Outcome<(Run, Spent)> {
    let before = cpu_micros()?;
    let begin = Instant::now();
    let r = run()?;
    Ok((r, Spent { micros: cpu_micros()? - before, commits: r.rate * begin.elapsed().as_secs_f64() }))
}

impl Costs {
    fn of(dir: &Path) -> Self {
        Self {
            disk: Diskstats::of(dir),
            device: Device::default(),
            engine: Spent::default(),
            bare: Spent::default(),
            cpu: Rounds::default(),
        }
    }

    fn of_bare(&mut self, run: impl FnOnce() -> Outcome<Run>) -> Outcome<Run> {
        let (r, spent) = spent(run)?;
        self.bare = spent;
        Ok(r)
    }

    fn of_engine(&mut self, run: impl FnOnce() -> Outcome<Run>) -> Outcome<Run> {
        let before = self.disk.as_ref().map(Diskstats::now).transpose()?;
        let (r, spent) = spent(run)?;
        if let (Some(disk), Some(before)) = (&self.disk, before) {
            self.device += disk.now()?.since(before);
        }
        self.engine = spent;
        // Ticks are too coarse for a short round.
        if self.bare.micros > 0.0 && self.engine.micros > 0.0 {
            self.cpu.add(self.engine.per_commit(), self.bare.per_commit());
        }
        Ok(r)
    }

    /// `lone`: groups are so many and small that zeros and footers hardly count beside them.
    fn report(&self, report: &mut Report, case: &str, groups: &Groups, lone: bool) {
        let a_group = |n: u64| n as f64 / groups.groups.max(1) as f64;
        let a_byte = |n: u64| n as f64 / groups.frame_bytes.max(1) as f64;
        let goal = |g: Goal| if lone { g } else { Goal::None };
        let mut add = |name: &str, unit, v, goal| report.add_value("commit", format!("{case}, {name}"), unit, v, goal);
        add("commits a group", "", a_group(groups.frames), Goal::None);
        if self.disk.is_some() {
            add("device flushes a group", "", a_group(self.device.flushes), Goal::AtMost(1.1));
            add("device requests a group, upkeep's too", "", a_group(self.device.writes), goal(Goal::AtMost(2.2)));
            add("device bytes a frame byte, upkeep's too", "", a_byte(self.device.written_bytes), Goal::None);
        }
        let padded = if case.starts_with("64 ") { Goal::AtMost(1.15) } else { Goal::None };
        add("log bytes a frame byte", "", a_byte(groups.bytes), padded);
        let goal = if case.starts_with("64 ") { Goal::RatioAtMost(3.0) } else { Goal::None };
        if !lone && !self.cpu.is_empty() {
            let what = "the bare loop's process";
            report.add("commit", format!("{case}, processor time a commit"), "µs", &self.cpu, what, goal);
        }
    }
}

/// A store that is measured, and the numbers of items that no run has used yet.
pub struct Subject {
    dir: PathBuf,
    store: Store,
    next: AtomicU64,
}

impl Subject {
    /// A new store.
    pub fn create(dir: &Path) -> Outcome<Self> {
        Self::create_with(dir, &Options::new()?)
    }

    fn create_with(dir: &Path, options: &Options) -> Outcome<Self> {
        Store::create(dir, &Create::default(), options)?;
        Ok(Self { dir: dir.to_owned(), store: Store::open(dir, options)?, next: AtomicU64::new(0) })
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Closes the store and removes it; its groups.
    pub fn remove(self) -> Outcome<Groups> {
        let id = self.store.info().store;
        self.store.close()?;
        let groups = Groups::of(&self.dir, id)?;
        std::fs::remove_dir_all(&self.dir)?;
        Ok(groups)
    }

    /// The length of the frame that an event of this workload becomes.
    pub fn record_len(&self) -> Outcome<usize> {
        let n = self.number();
        self.store.record(&mail::arrival(n, Vec::new()))?;
        let (account, item) = mail::key(n);
        let hit = self.store.view().locate(account, item, None)?.ok_or("what was recorded is not there")?;
        Ok(hit.row.length as usize)
    }

    /// `producers` threads that each wait for every transaction.
    pub fn blocking(&self, producers: usize, window: Duration) -> Outcome<Run> {
        let merged = Mutex::new(latencies()?);
        let stop = AtomicBool::new(false);
        let mut clock = Clock::start()?;
        let work = || -> Outcome {
            let mut own = latencies()?;
            let mut event = mail::arrival(self.number(), Vec::new());
            while !stop.load(Ordering::Relaxed) {
                mail::renumber(&mut event, self.number());
                let begin = Instant::now();
                self.store.record(&event)?;
                own.saturating_record(nanos(begin.elapsed()));
            }
            merged.lock().map_err(|_| "a producer panicked")?.add(own)?;
            Ok(())
        };
        if producers == 1 {
            // In this thread, as the bare loop.
            let mut event = mail::arrival(self.number(), Vec::new());
            while !clock.over(window) {
                mail::renumber(&mut event, self.number());
                let begin = Instant::now();
                self.store.record(&event)?;
                clock.add(begin.elapsed(), 1);
            }
            return Ok(clock.run());
        }
        std::thread::scope(|scope| -> Outcome {
            let mut all = Vec::with_capacity(producers);
            for _ in 0..producers {
                all.push(std::thread::Builder::new().stack_size(256 << 10).spawn_scoped(scope, work)?);
            }
            std::thread::sleep(window);
            stop.store(true, Ordering::Relaxed);
            all.into_iter().try_for_each(|t| t.join().map_err(|_| "a producer panicked")?)
        })?;
        clock.merge(&*merged.lock().map_err(|_| "a producer panicked")?)?;
        Ok(clock.run())
    }

    /// One thread that keeps `flying` transactions on their way.
    pub fn in_flight(&self, flying: usize, window: Duration) -> Outcome<Run> {
        let mut tickets: VecDeque<(Instant, Ticket)> = VecDeque::with_capacity(flying);
        let mut event = mail::arrival(self.number(), Vec::new());
        let mut clock = Clock::start()?;
        while !clock.over(window) {
            let begin = Instant::now();
            while tickets.len() < flying {
                mail::renumber(&mut event, self.number());
                tickets.push_back((begin, self.store.submit(&event)?));
            }
            if let Some((_, oldest)) = tickets.front() {
                oldest.wait()?;
            }
            let end = Instant::now();
            while let Some((begin, _)) = tickets.pop_front_if(|(_, t)| t.is_durable()) {
                clock.add(end - begin, 1);
            }
        }
        let run = clock.run();
        tickets.iter().try_for_each(|(_, t)| t.wait().map(|_| ()))?;
        Ok(run)
    }
}
