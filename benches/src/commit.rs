//! Durable transactions a second, and how long one takes: the log alone, no bodies.
//!
//! Two kinds of producers. *Blocking* ones are threads in `Store::record`. *In flight*: one thread that keeps N tickets of
//! `Store::submit` open, as an event loop does. The bare loops write records of the very length that the engine's frames
//! have in this run.

use crate::ceiling::{self, Clock, Run, latencies, nanos};
use crate::report::{Goal, Report, Rounds};
use crate::{Bench, Outcome, mail};
use mailstrata_engine::{Create, Options, Store, Ticket};
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Numbers of items that no run has used yet.
#[derive(Default)]
struct Numbers(AtomicU64);

impl Numbers {
    fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// All of it.
pub fn run(bench: &Bench, report: &mut Report) -> Outcome {
    let dir = bench.dir.join("commit");
    let options = Options::new()?;
    Store::create(&dir, &Create::default(), &options)?;
    let store = Store::open(&dir, &options)?;
    let numbers = Numbers::default();
    let record = frame_len(&store, &numbers)?;
    let (rounds, window) = (bench.scale.rounds, bench.scale.window);
    let bare = &bench.dir;
    report.add_value("commit", "length of a transaction in the log", "B", record as f64, Goal::None);

    let (mut median, mut tail, mut rate) = (Rounds::default(), Rounds::default(), Rounds::default());
    for _ in 0..rounds {
        bench.settle()?;
        let c = ceiling::single(bare, record, window)?;
        let e = blocking(&store, &numbers, 1, window)?;
        median.add(e.p50, c.p50);
        tail.add(e.p99, c.p99);
        rate.add(e.rate, c.rate);
    }
    let what = "pwritev2 O_DIRECT RWF_DSYNC, same size";
    report.add("commit", "1 producer, p50", "µs", &median, what, Goal::RatioAtMost(1.25));
    report.add("commit", "1 producer, p99", "µs", &tail, what, Goal::None);
    report.add("commit", "1 producer", "1/s", &rate, what, Goal::None);

    for (producers, goal) in [(8, Goal::None), (64, Goal::AtLeast(90_000.0))] {
        let (mut rate, mut tail) = (Rounds::default(), Rounds::default());
        for _ in 0..rounds {
            bench.settle()?;
            let c = ceiling::threads(bare, record, producers, window)?;
            let e = blocking(&store, &numbers, producers, window)?;
            rate.add(e.rate, c.rate);
            tail.add(e.p99, c.p99);
        }
        let what = "as many threads, one writer, one futex a batch";
        report.add("commit", format!("{producers} blocking producers"), "1/s", &rate, what, goal);
        report.add("commit", format!("{producers} blocking producers, p99"), "µs", &tail, what, Goal::None);
    }

    for (flying, goal) in [(64, Goal::RatioAtLeast(0.6)), (256, Goal::None)] {
        let (mut handoff, mut ring) = (Rounds::default(), Rounds::default());
        for _ in 0..rounds {
            bench.settle()?;
            let c = ceiling::handoff(bare, record, flying, window)?;
            let e = in_flight(&store, &numbers, flying, window)?;
            let inside = ceiling::ring(bare, record, flying, window)?;
            handoff.add(e.rate, c.rate);
            ring.add(e.rate, inside.rate);
        }
        let name = format!("{flying} in flight from one thread");
        report.add("commit", name.clone(), "1/s", &handoff, "io_uring, one hand-off each way a batch", goal);
        let name = name + ", against no hand-off";
        report.add("commit", name, "1/s", &ring, "io_uring, producers in the writing thread", Goal::None);
    }
    store.close()?;
    Ok(())
}

/// The length of the frame that an event of this workload becomes.
fn frame_len(store: &Store, numbers: &Numbers) -> Outcome<usize> {
    let n = numbers.next();
    store.record(&mail::arrival(n, Vec::new()))?;
    let (account, item) = mail::key(n);
    let hit = store.view().locate(account, item, None)?.ok_or("what was recorded is not there")?;
    Ok(hit.row.length as usize)
}

/// `producers` threads that each wait for every transaction.
fn blocking(store: &Store, numbers: &Numbers, producers: usize, window: Duration) -> Outcome<Run> {
    let merged = Mutex::new(latencies()?);
    let stop = AtomicBool::new(false);
    let mut clock = Clock::start()?;
    let work = || -> Outcome {
        let mut own = latencies()?;
        let mut event = mail::arrival(numbers.next(), Vec::new());
        while !stop.load(Ordering::Relaxed) {
            mail::renumber(&mut event, numbers.next());
            let begin = Instant::now();
            store.record(&event)?;
            own.saturating_record(nanos(begin.elapsed()));
        }
        merged.lock().map_err(|_| "a producer panicked")?.add(own)?;
        Ok(())
    };
    if producers == 1 {
        // In this thread, as the bare loop.
        let mut event = mail::arrival(numbers.next(), Vec::new());
        while !clock.over(window) {
            mail::renumber(&mut event, numbers.next());
            let begin = Instant::now();
            store.record(&event)?;
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
fn in_flight(store: &Store, numbers: &Numbers, flying: usize, window: Duration) -> Outcome<Run> {
    let mut tickets: VecDeque<(Instant, Ticket)> = VecDeque::with_capacity(flying);
    let mut event = mail::arrival(numbers.next(), Vec::new());
    let mut clock = Clock::start()?;
    while !clock.over(window) {
        let begin = Instant::now();
        while tickets.len() < flying {
            mail::renumber(&mut event, numbers.next());
            tickets.push_back((begin, store.submit(&event)?));
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
