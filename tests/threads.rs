//! Several producers and readers at once: the order of the LSNs explains every state, views stand still while writing goes on,
//! and a power cut in the middle keeps what each producer was promised.

use mailstrata_engine::disk::Clock;
use mailstrata_engine::disk::posix::Backend;
use mailstrata_engine::{Error, Event, Options, Store};
use mailstrata_format::Lsn;
use mailstrata_tests::drive::{Place, Strictness, compare, file_list, small};
use mailstrata_tests::model::{Model, Outcome};
use mailstrata_tests::rng::{Rng, Tally, seeds};
use mailstrata_tests::sim::{Noise, SimDisk, Survival};
use mailstrata_tests::workload::{Bounds, Step, Workload};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

const PRODUCERS: u64 = 4;

/// What producers did, as far as they were told.
#[derive(Default)]
struct Told {
    /// Event and LSN of what was recorded; not yet in order.
    recorded: Vec<(Event, Lsn)>,
    blobs: Vec<Arc<[u8]>>,
    /// Newest snapshot and greatest LSN when an acknowledgement arrived.
    promises: Vec<(usize, Lsn)>,
}

/// One producer: the accounts and items are those of all the others too.
fn produce(store: &Store, seed: u64, steps: usize, told: &Mutex<Told>, disk: Option<&SimDisk>) -> Result<(), String> {
    let bounds = Bounds { accounts: 2, items: 6, blob_max: 60_000, attribute_max: 2000, incarnations: true };
    let mut work = Workload::new(seed, bounds, mailstrata_tests::sim::clock::START);
    let mut tickets = Vec::new();
    for _ in 0..steps {
        let Step::Record { mut event, blobs } = work.next_step() else { continue };
        if let Some(s) = &mut event.source {
            // Positions are a producer's own.
            s.name = format!("source {seed}").into_bytes();
        }
        for b in &blobs {
            store.put_blob(&mut &b[..]).map_err(|e| format!("put_blob: {e}"))?;
        }
        lock(told).blobs.extend(blobs);
        let ticket = match store.submit(&event) {
            Ok(t) => t,
            Err(Error::NoItem | Error::SourceConflict(_) | Error::NoBlob(_)) => continue,
            Err(e) => return Err(format!("submit: {e}")),
        };
        lock(told).recorded.push((*event, ticket.lsn()));
        tickets.push(ticket);
        if work.rng().percent(40) || tickets.len() > 20 {
            for t in tickets.drain(..) {
                let receipt = t.wait().map_err(|e| format!("ticket: {e}"))?;
                if let Some(disk) = disk {
                    lock(told).promises.push((disk.newest_snapshot(), receipt.lsn));
                }
            }
        }
    }
    tickets.drain(..).try_for_each(|t| t.wait().map(drop)).map_err(|e| format!("ticket: {e}"))
}

fn lock<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The model that recorded everything in the order of the LSNs.
fn explain(told: &Told, now: i64) -> Result<Model, String> {
    let mut model = Model::default();
    for b in &told.blobs {
        model.put_blob(b);
    }
    let mut order: Vec<&(Event, Lsn)> = told.recorded.iter().collect();
    order.sort_by_key(|(_, lsn)| *lsn);
    order.dedup_by(|a, b| a.1 == b.1 && a.0 == b.0);
    for (event, lsn) in order {
        match model.record(event, now) {
            Outcome::Recorded(l) | Outcome::Duplicate(l) if l == *lsn => {}
            other => return Err(format!("LSN {lsn} cannot be explained: {other:?} for {event:?}")),
        }
    }
    Ok(model)
}

/// Producers and readers at once; then everything is compared, views that were taken meanwhile included.
fn run(store: &Store, seed: u64, steps: usize, disk: Option<&SimDisk>) -> Result<Told, String> {
    let told = Mutex::new(Told::default());
    let stop = AtomicBool::new(false);
    let views = std::thread::scope(|scope| {
        let producers: Vec<_> = (0..PRODUCERS)
            .map(|p| {
                scope.spawn({
                    let told = &told;
                    move || produce(store, seed * PRODUCERS + p, steps, told, disk)
                })
            })
            .collect();
        let reader = scope.spawn(|| {
            let mut kept = Vec::new();
            let mut last = Lsn(0);
            while !stop.load(Ordering::Acquire) {
                let view = store.view();
                if view.lsn() < last {
                    return Err(format!("a view ends with LSN {} after one with {last}", view.lsn()));
                }
                last = view.lsn();
                let from = Lsn(last.0.saturating_sub(20) + 1);
                let count = |v: &mailstrata_engine::View| v.log(from).filter(Result::is_ok).count();
                let (first, second) = (count(&view), count(&view));
                if first != second || first as u64 != last.0 + 1 - from.0 {
                    return Err(format!("a view of LSN {last} has {first}, then {second} transactions from {from} on"));
                }
                if kept.len() < 6 {
                    kept.push(view);
                }
                std::thread::sleep(std::time::Duration::from_millis(3));
            }
            Ok(kept)
        });
        let results: Vec<_> = producers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        stop.store(true, Ordering::Release);
        for r in results {
            r.map_err(|_| "a producer panicked".to_string())??;
        }
        reader.join().map_err(|_| "the reader panicked".to_string())?
    })?;
    let told = told.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let model = explain(&told, mailstrata_tests::sim::clock::START)?;
    compare(&store.view(), &model, Strictness::Exact, seed)?;
    for view in views {
        let lsn = view.lsn();
        compare(&view, &model.until(lsn), Strictness::Exact, seed)
            .map_err(|e| format!("a view of LSN {lsn}, kept: {e}"))?;
    }
    Ok(told)
}

#[test]
fn producers_and_readers_at_once() {
    let start = Instant::now();
    let mut tally = Tally::default();
    let mut count = 0;
    for seed in seeds(1, 12) {
        let result = (|| {
            let place = Place::new(SimDisk::new(seed));
            place.disk.set_noise(Noise { short_read: 50, short_write: 20, interrupted: 50 });
            place.create(&small(64 << 10, 128 << 10)).map_err(|e| e.to_string())?;
            let store = place.open().map_err(|e| e.to_string())?;
            let told = run(&store, seed, 250, None)?;
            store.close().map_err(|e| e.to_string())?;
            let model = explain(&told, place.clock.now())?;
            count += model.lsn().0;
            let reader = place.open_read().map_err(|e| e.to_string())?;
            compare(&reader.view(), &model, Strictness::Exact, seed).map(drop)
        })();
        tally.case(seed, result);
    }
    tally.finish("threads", format_args!("{count} transactions, {:?}", start.elapsed()));
}

#[test]
fn producers_and_readers_on_a_real_disk() {
    let start = Instant::now();
    let mut tally = Tally::default();
    let mut count = 0;
    for seed in seeds(100, 4) {
        let backend = if seed % 2 == 0 { Backend::Auto } else { Backend::Posix };
        let result = (|| {
            let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
            let clock = Place::new(SimDisk::new(seed)).clock;
            let real = Options::with_backend(backend).map_err(|e| e.to_string())?;
            let options = Options { clock: clock.clone(), reserve_bytes: 0, ..real };
            let path = dir.path().join("store");
            Store::create(&path, &small(64 << 10, 128 << 10), &options).map_err(|e| e.to_string())?;
            let store = Store::open(&path, &options).map_err(|e| e.to_string())?;
            let told = run(&store, seed, 150, None)?;
            // Beside the writer, as another process would.
            let model = explain(&told, clock.now())?;
            count += model.lsn().0;
            let reader = Store::open_read(&path, &options).map_err(|e| e.to_string())?;
            compare(&reader.view(), &model, Strictness::Exact, seed).map_err(|e| format!("beside the writer: {e}"))?;
            match Store::open(&path, &options) {
                Err(Error::InUse { .. }) => {}
                other => return Err(format!("a second writer: {:?}", other.map(drop))),
            }
            drop(store);
            let store = Store::open(&path, &options).map_err(|e| e.to_string())?;
            compare(&store.view(), &model, Strictness::Exact, seed).map_err(|e| format!("reopened: {e}"))?;
            store.close().map_err(|e| e.to_string())?;
            let reader = Store::open_read(&path, &options).map_err(|e| e.to_string())?;
            compare(&reader.view(), &model, Strictness::Exact, seed).map_err(|e| format!("closed: {e}")).map(drop)
        })();
        tally.case(seed, result);
    }
    tally.finish("threads on a real disk", format_args!("{count} transactions, {:?}", start.elapsed()));
}

#[test]
fn power_cuts_among_producers() {
    let start = Instant::now();
    let mut tally = Tally::default();
    for seed in seeds(200, 2) {
        let place = Place::new(SimDisk::new(seed));
        let made = place.create(&small(64 << 10, 128 << 10));
        made.unwrap_or_else(|e| panic!("MAILSTRATA_SEED={seed}: {e}"));
        place.disk.keep_snapshots();
        let store = place.open().unwrap_or_else(|e| panic!("MAILSTRATA_SEED={seed}: {e}"));
        let told = run(&store, seed, 60, Some(&place.disk)).unwrap_or_else(|e| panic!("MAILSTRATA_SEED={seed}: {e}"));
        drop(store);
        let model = explain(&told, place.clock.now()).unwrap_or_else(|e| panic!("MAILSTRATA_SEED={seed}: {e}"));
        let mut rng = Rng::new(seed);
        for _ in 0..200 {
            let snapshot = rng.index(place.disk.newest_snapshot() + 1);
            let cut_seed = rng.bits();
            let Some(disk) = place.disk.power_cut_at(snapshot, cut_seed, Survival::Random) else { continue };
            let cut = place.on(disk);
            let promised = told.promises.iter().filter(|p| p.0 <= snapshot).map(|p| p.1).max().unwrap_or_default();
            let result = (|| {
                let store = cut.open().map_err(|e| format!("open: {e}"))?;
                let lsn = store.view().lsn();
                if lsn < promised {
                    return Err(format!("ends with LSN {lsn}, {promised} was acknowledged"));
                }
                // A prefix of the log is a prefix of what each producer sent.
                compare(&store.view(), &model.until(lsn), Strictness::Exact, seed).map(drop)
            })();
            let in_context = |e| format!("{e}\n  snapshot {snapshot}, seed {cut_seed}\n{}", file_list(&cut.disk));
            tally.case(seed, result.map_err(in_context));
        }
    }
    tally.finish("power cuts among producers", format_args!("{:?}", start.elapsed()));
}
