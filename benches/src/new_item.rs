//! New items with their bodies, each durable before its producer makes the next: 64 blocking producers.
//!
//! Bodies are those of [`Bodies`]. The ceiling does what cannot be left out, in as many threads: SHA-256 and zstd of each
//! body that is not a copy, then the packed body and a record of the engine's length into the batch that is written next,
//! one durable write a batch, to a file of written zeros. The loose layout ([`Loose`]) is what the store replaces; the
//! better of one and of 64 producers counts.

use crate::bodies::Bodies;
use crate::ceiling::{Run, Zeroed};
use crate::loose::{self, Loose};
use crate::report::{Goal, Report, Rounds};
use crate::{Bench, Outcome, crowd, mail, process};
use mailstrata_engine::disk::Buffer;
use mailstrata_engine::{Create, Options, Store};
use mailstrata_format::{BLOCK, Digest};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

const PRODUCERS: usize = 64;
/// Length of a record of the bare loop, about that of the engine's frame with one blob.
const RECORD: usize = 448;
/// Most bytes of a batch of the bare loop.
const BATCH: usize = 8 << 20;

/// All of it.
pub fn run(bench: &Bench, report: &mut Report) -> Outcome {
    let bodies = Bodies::default();
    let (dir, window) = (bench.dir.join("new-item"), bench.scale.window);
    let options = Options::new()?;
    Store::create(&dir, &Create::default(), &options)?;
    let store = Store::open(&dir, &options)?;
    let next = AtomicU64::new(0);
    let (mut rate, mut tail, mut against, mut loose_rate) =
        (Rounds::default(), Rounds::default(), Rounds::default(), Rounds::default());
    for round in 0..bench.scale.rounds {
        bench.settle()?;
        // The same bodies for all: each starts at the round's first number.
        let from = next.load(Ordering::Relaxed);
        let bare = bare(bench, &bodies, from, window)?;
        let e = engine(&store, &bodies, &next, PRODUCERS, window)?;
        let tree = bench.dir.join(format!("loose-{round}"));
        let one = files(&tree.join("1"), &bodies, from, 1, window)?;
        let many = files(&tree.join("64"), &bodies, from, PRODUCERS, window)?;
        // They stay till the run's end: for some seconds ext4 searches long for inodes that were not just freed.
        rate.add(e.rate, bare.rate);
        tail.add(e.p99, bare.p99);
        against.add(e.rate, one.rate.max(many.rate));
        loose_rate.add_bare(one.rate.max(many.rate));
    }
    store.close()?;
    let (_, stored) = process::size(&dir)?;
    let items = next.into_inner();
    let mut body = Vec::new();
    let mut raw = 0;
    (0..items).for_each(|n| {
        bodies.body(n, &mut body);
        raw += body.len() as u64;
    });
    let what = "SHA-256, zstd, one durable write a batch, as many threads";
    report.add("newitem", "64 producers, item and body", "1/s", &rate, what, Goal::None);
    report.add("newitem", "64 producers, p99", "µs", &tail, what, Goal::None);
    let what = "loose files, 2 and 2 directories synced";
    report.add("newitem", "64 producers, against loose files", "1/s", &against, what, Goal::RatioAtLeast(15.0));
    report.add("newitem", "loose files", "1/s", &loose_rate, "", Goal::None);
    report.add_value("newitem", "mean length of a body", "B", raw as f64 / items.max(1) as f64, Goal::None);
    report.add_value("newitem", "bytes of the store / bytes of the bodies", "", stored as f64 / raw as f64, Goal::None);
    Ok(())
}

/// `producers` threads that store a body, then record its item, and wait.
pub fn engine(store: &Store, bodies: &Bodies, next: &AtomicU64, producers: usize, window: Duration) -> Outcome<Run> {
    crowd::run(producers, window, |_| {
        let mut body = Vec::new();
        Ok(move || {
            let n = next.fetch_add(1, Ordering::Relaxed);
            bodies.body(n, &mut body);
            let blob = store.put_blob(&mut &body[..])?;
            store.record(&mail::arrival(n, vec![blob]))?;
            Ok(())
        })
    })
}

fn files(dir: &std::path::Path, bodies: &Bodies, from: u64, producers: usize, window: Duration) -> Outcome<Run> {
    let loose = Loose::create(dir)?;
    let next = AtomicU64::new(from);
    crowd::run(producers, window, |_| {
        let mut body = Vec::new();
        let (loose, next) = (&loose, &next);
        Ok(move || {
            let n = next.fetch_add(1, Ordering::Relaxed);
            bodies.body(n, &mut body);
            loose.put(n, &body)
        })
    })
}

/// The batch that gathers while another is written.
struct Gathering {
    buffer: Buffer,
    used: usize,
    number: u64,
    /// The last batch that is durable.
    durable: u64,
    writing: bool,
}

/// The bare loop: whoever finds nobody writing writes what has gathered.
fn bare(bench: &Bench, bodies: &Bodies, from: u64, window: Duration) -> Outcome<Run> {
    let next = AtomicU64::new(from);
    let gathering =
        Mutex::new(Gathering { buffer: Buffer::new(BATCH), used: 0, number: 1, durable: 0, writing: false });
    let spare = Mutex::new((Buffer::new(BATCH), Zeroed::open(&bench.dir)?));
    let changed = Condvar::new();
    let record = [7u8; RECORD];
    crowd::run(PRODUCERS, window, |_| {
        let mut body = Vec::new();
        let (next, gathering, spare, changed) = (&next, &gathering, &spare, &changed);
        Ok(move || {
            let n = next.fetch_add(1, Ordering::Relaxed);
            bodies.body(n, &mut body);
            std::hint::black_box(Digest::of(&body));
            let packed = if Bodies::same_as(n) == n { loose::pack(&body)? } else { Vec::new() };
            let need = packed.len() + RECORD;
            if need > BATCH {
                return Err("a body is longer than a batch".into());
            }
            let mut g = gathering.lock().unwrap_or_else(PoisonError::into_inner);
            while g.used + need > BATCH {
                g = changed.wait(g).unwrap_or_else(PoisonError::into_inner);
            }
            let at = g.used;
            g.buffer[at..at + packed.len()].copy_from_slice(&packed);
            g.buffer[at + packed.len()..at + need].copy_from_slice(&record);
            g.used += need;
            let mine = g.number;
            while g.durable < mine {
                if g.writing {
                    g = changed.wait(g).unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
                g.writing = true;
                let mut s = spare.lock().unwrap_or_else(PoisonError::into_inner);
                std::mem::swap(&mut g.buffer, &mut s.0);
                let (used, number) = (std::mem::take(&mut g.used), g.number);
                g.number += 1;
                drop(g);
                let len = used.next_multiple_of(BLOCK);
                s.0[used..len].fill(0);
                let (buffer, file) = &mut *s;
                let outcome = file.put(&buffer[..len]);
                drop(s);
                g = gathering.lock().unwrap_or_else(PoisonError::into_inner);
                g.writing = false;
                g.durable = number;
                changed.notify_all();
                outcome?;
            }
            Ok(())
        })
    })
}
