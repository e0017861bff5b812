//! A device whose flush takes 5 ms ([`Slow`]): how many producers share one.
//!
//! Nothing that is fast hides here: the rate is 64 ÷ flush time when every group takes all producers along, half of it when
//! those who were woken first start a group without the others. The flush time is measured in the same run, as the median
//! durable write of one block. With bodies a group takes the pack's flush and the log's.

use crate::bodies::Bodies;
use crate::report::{self, Goal, Report, Rounds};
use crate::slow::Slow;
use crate::{Bench, Outcome, crowd, mail, new_item};
use mailstrata_engine::disk::{Buffer, Disk as _, OpenMode, SystemClock};
use mailstrata_engine::{Create, Options, Store};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const FLUSH: Duration = Duration::from_millis(5);
const PRODUCERS: usize = 64;

/// All of it.
pub fn run(bench: &Bench, report: &mut Report) -> Outcome {
    let (dir, window) = (bench.dir.join("slow-flush"), bench.scale.window);
    let disk = Arc::new(Slow::new(FLUSH)?);
    let options = Options::on(disk.clone(), Arc::new(SystemClock));
    Store::create(&dir, &Create::default(), &options)?;
    let store = Store::open(&dir, &options)?;
    let (next, bodies) = (AtomicU64::new(0), Bodies::default());
    let (mut one, mut rate, mut with_body) = (Rounds::default(), Rounds::default(), Rounds::default());
    let (mut shared, mut body_shared) = (Rounds::default(), Rounds::default());
    for _ in 0..bench.scale.rounds {
        bench.settle()?;
        let flush = flush_time(&disk, &bench.dir)?.as_secs_f64();
        one.add(records(&store, &next, 1, window)?.p50, flush * 1e6);
        let (before, first) = (disk.flushes(), next.load(Ordering::Relaxed));
        rate.add(records(&store, &next, PRODUCERS, window)?.rate, PRODUCERS as f64 / flush);
        let done = next.load(Ordering::Relaxed) - first;
        shared.add(done as f64 / (disk.flushes() - before).max(1) as f64, PRODUCERS as f64);
        let (before, first) = (disk.flushes(), next.load(Ordering::Relaxed));
        let e = new_item::engine(&store, &bodies, &next, PRODUCERS, window)?;
        with_body.add(e.rate, PRODUCERS as f64 / flush);
        let done = next.load(Ordering::Relaxed) - first;
        body_shared.add(done as f64 / (disk.flushes() - before).max(1) as f64, PRODUCERS as f64 / 2.0);
    }
    store.close()?;
    report.add("flush5ms", "1 producer, p50", "µs", &one, "a durable block", Goal::None);
    report.add("flush5ms", "64 producers", "1/s", &rate, "64 ÷ flush time", Goal::RatioAtLeast(0.8));
    report.add("flush5ms", "64 producers, transactions a flush", "", &shared, "producers", Goal::None);
    report.add("flush5ms", "64 producers with bodies", "1/s", &with_body, "64 ÷ flush time", Goal::None);
    let name = "64 producers with bodies, transactions a flush";
    report.add("flush5ms", name, "", &body_shared, "half of the producers: two flushes a group", Goal::None);
    Ok(())
}

fn records(store: &Store, next: &AtomicU64, producers: usize, window: Duration) -> Outcome<crate::ceiling::Run> {
    crowd::run(producers, window, |_| {
        let mut event = mail::arrival(0, Vec::new());
        Ok(move || {
            mail::renumber(&mut event, next.fetch_add(1, Ordering::Relaxed));
            store.record(&event)?;
            Ok(())
        })
    })
}

fn flush_time(disk: &Slow, dir: &Path) -> Outcome<Duration> {
    let path = dir.join("flush-time");
    let file = disk.open(&path, OpenMode::CreateNew)?;
    let block = Buffer::new(4096);
    let mut times = Vec::new();
    for _ in 0..11 {
        let begin = Instant::now();
        file.write_at(&block, 0, true)?;
        times.push(begin.elapsed().as_secs_f64());
    }
    disk.remove(&path)?;
    Ok(Duration::from_secs_f64(report::median(&times)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counts::Groups;

    /// Transactions a group, of four producers that need a while for each.
    fn shared() -> f64 {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("store");
        let disk = Arc::new(Slow::new(Duration::from_millis(18)).unwrap());
        let options = Options { compaction: false, ..Options::on(disk, Arc::new(SystemClock)) };
        Store::create(&dir, &Create::default(), &options).unwrap();
        let store = Store::open(&dir, &options).unwrap();
        let id = store.info().store;
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let store = &store;
                scope.spawn(move || {
                    for n in 0..16 {
                        std::thread::sleep(Duration::from_millis(4));
                        store.record(&mail::arrival(thread * 100 + n, Vec::new())).unwrap();
                    }
                });
            }
        });
        store.close().unwrap();
        let groups = Groups::of(&dir, id).unwrap();
        assert_eq!(groups.frames, 64);
        groups.frames as f64 / groups.groups as f64
    }

    #[test]
    fn who_comes_back_within_the_time_of_a_flush_joins_the_next() {
        // Taking turns, each group would have two of them. A machine that is busy elsewhere gets some tries.
        assert!((0..5).any(|_| shared() >= 3.0));
    }
}
