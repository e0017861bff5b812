//! Power cuts everywhere: a workload runs once on a disk that remembers its state after every change; then the power goes
//! after each of them, in many ways, and what is left must open, hold everything acknowledged, and go on.

use mailstrata_engine::disk::Clock;
use mailstrata_engine::{Error, Store};
use mailstrata_format::Lsn;
use mailstrata_tests::drive::{
    Fate, Place, Strictness, compare, file_list, is_sound, put_blobs, send_again, settle, small, step,
};
use mailstrata_tests::model::{Model, Outcome};
use mailstrata_tests::rng::{Rng, Tally, seeds};
use mailstrata_tests::sim::{Effect, Fault, SimDisk, Survival, Which};
use mailstrata_tests::workload::{Bounds, Step, Workload};
use std::time::Instant;

/// What had been promised when a snapshot was the newest.
struct Promise {
    snapshot: usize,
    lsn: Lsn,
}

/// A run that is over: the disk with its snapshots, what was promised when, and everything that was submitted.
struct Recorded {
    place: Place,
    /// From this snapshot on there is a store.
    created: usize,
    promises: Vec<Promise>,
    submitted: Model,
    /// A workload that can go on.
    seed: u64,
}

/// Runs a workload on a disk that keeps snapshots.
fn record(seed: u64, steps: usize, bounds: Bounds) -> Result<Recorded, String> {
    let mut rng = Rng::new(seed ^ 0x6372_6173);
    let place = Place::new(SimDisk::new(seed));
    place.disk.keep_snapshots();
    place.create(&small(64 << 10, *rng.pick(&[64 << 10, 1 << 20]))).map_err(|e| format!("create: {e}"))?;
    let created = place.disk.newest_snapshot();
    let mut model = Model::default();
    let mut work = Workload::new(seed, bounds, place.clock.now());
    let mut promises = Vec::new();
    let mut store = place.open().map_err(|e| format!("open: {e}"))?;
    let mut promise = |lsn: Lsn, place: &Place| {
        promises.push(Promise { snapshot: place.disk.newest_snapshot(), lsn });
    };
    for _ in 0..steps {
        match rng.below(100) {
            0..3 => {
                if rng.percent(70) {
                    store.close().map_err(|e| format!("close: {e}"))?;
                } else {
                    drop(store);
                }
                store = place.open().map_err(|e| format!("reopen: {e}"))?;
            }
            3..15 => {
                let mut last = None;
                for _ in 0..1 + rng.below(12) {
                    let Step::Record { event, blobs } = work.next_step() else { continue };
                    put_blobs(&store, &mut model, &blobs)?.map_err(|e| e.to_string())?;
                    let ticket = store.submit(&event);
                    let said = match &ticket {
                        Ok(t) => Ok((t.lsn(), model.lsn() >= t.lsn())),
                        Err(e) => Err(e.clone()),
                    };
                    settle(&mut model, &event, place.clock.now(), said)?;
                    if let Ok(t) = ticket {
                        last = Some(t);
                    }
                }
                if let Some(t) = last {
                    let lsn = t.wait().map_err(|e| format!("ticket: {e}"))?.lsn;
                    promise(lsn, &place);
                }
            }
            _ => match step(&store, &mut model, &place, &work.next_step())? {
                Fate::Done(Outcome::Recorded(lsn)) => promise(lsn, &place),
                Fate::Done(_) => {}
                other => return Err(format!("{other:?}")),
            },
        }
    }
    store.close().map_err(|e| format!("close: {e}"))?;
    Ok(Recorded { place, created, promises, submitted: model, seed })
}

/// Opens what a power cut left, and holds it against what was promised. Returns the model of what is there.
fn verify(run: &Recorded, place: &Place, promised: Lsn, seed: u64) -> Result<(Store, Model), String> {
    let store = place.open().map_err(|e| format!("open: {e}"))?;
    let view = store.view();
    if view.lsn() < promised {
        return Err(format!("LSN {promised} was acknowledged, the store ends with {}", view.lsn()));
    }
    if view.lsn() > run.submitted.lsn() {
        return Err(format!("LSN {} was never submitted", view.lsn()));
    }
    let model = run.submitted.until(view.lsn());
    compare(&view, &model, Strictness::Exact, seed)?;
    if let Some(damage) = store.findings().first() {
        return Err(format!("takes what was never acknowledged for damage: {damage}"));
    }
    Ok((store, model))
}

/// One power cut at one snapshot. `false`: there was no store yet.
fn cut(run: &Recorded, snapshot: usize, seed: u64, how: Survival) -> Result<bool, String> {
    let Some(disk) = run.place.disk.power_cut_at(snapshot, seed, how) else { return Err("no snapshot".into()) };
    let place = run.place.on(disk);
    place.clock.set(run.place.clock.now());
    let mut rng = Rng::new(seed);
    let promised = run.promises.iter().filter(|p| p.snapshot <= snapshot).map(|p| p.lsn).max().unwrap_or_default();
    let in_context = |what: &str, place: &Place, e: String| {
        format!("{what}: {e}\n  snapshot {snapshot}, {how:?}, seed {seed}\n{}", file_list(&place.disk))
    };
    if snapshot < run.created {
        // Either there is a whole store already, or creation can be run again.
        return match place.open() {
            Ok(_) => Ok(true),
            Err(Error::NoStore { .. }) => {
                place
                    .create(&small(64 << 10, 64 << 10))
                    .map_err(|e| in_context("create again", &place, e.to_string()))?;
                place.open().map_err(|e| in_context("open after create", &place, e.to_string()))?;
                Ok(false)
            }
            Err(e) => Err(in_context("open during create", &place, e.to_string())),
        };
    }
    let mut place = place;
    if rng.percent(30) {
        // A second power cut, during recovery.
        let recovery = place.on(place.disk.copy(seed));
        drop(recovery.open().map_err(|e| in_context("open", &recovery, e.to_string()))?);
        let changes = recovery.disk.count(Which::Changes);
        if changes > 0 {
            place.disk.plan(Fault::once(Which::Changes, 1 + rng.below(changes), Effect::PowerCut));
            drop(place.open());
            place = place.on(place.disk.power_cut(rng.bits(), Survival::Random));
        }
    }
    if seed.is_multiple_of(16) {
        is_sound(&place).map_err(|e| in_context("before it is opened", &place, e))?;
    }
    let (store, model) = verify(run, &place, promised, seed).map_err(|e| in_context("first", &place, e))?;
    if rng.percent(50) {
        drop(store);
    } else {
        store.close().map_err(|e| in_context("close", &place, e.to_string()))?;
    }
    let there = model.lsn();
    let (store, mut model) = verify(run, &place, there, seed).map_err(|e| in_context("second", &place, e))?;
    if model.lsn() != there {
        return Err(in_context("second", &place, format!("ends with {}, first with {there}", model.lsn())));
    }
    // What was on its way comes again, as a client would send it: the same blobs above all.
    let blobs: Vec<_> = run.submitted.blobs().values().cloned().collect();
    send_again(&store, &mut model, &place, &blobs).map_err(|e| in_context("again", &place, e))?;
    let mut work = Workload::new(
        run.seed ^ 1,
        Bounds { blob_max: 3000, attribute_max: 100, ..Bounds::default() },
        place.clock.now(),
    );
    for _ in 0..3 {
        match step(&store, &mut model, &place, &work.next_step()).map_err(|e| in_context("go on", &place, e))? {
            Fate::Done(_) => {}
            other => return Err(in_context("go on", &place, format!("{other:?}"))),
        }
    }
    drop(store);
    // What was recorded after the crash survives the next one.
    let place = place.on(place.disk.power_cut(rng.bits(), Survival::Nothing));
    let reader = place.open_read().map_err(|e| in_context("third", &place, e.to_string()))?;
    compare(&reader.view(), &model, Strictness::Exact, seed).map_err(|e| in_context("third", &place, e))?;
    Ok(true)
}

#[test]
fn power_cuts_lose_nothing_that_was_acknowledged() {
    let start = Instant::now();
    let mut tally = Tally::default();
    let seeds = seeds(1, 3);
    for seed in &seeds {
        let bounds = Bounds {
            accounts: 2,
            items: 6,
            blob_max: if seed % 2 == 0 { 400_000 } else { 90_000 },
            attribute_max: 3000,
            incarnations: true,
        };
        let run = record(*seed, 60, bounds).unwrap_or_else(|e| panic!("MAILSTRATA_SEED={seed}: {e}"));
        let snapshots = run.place.disk.newest_snapshot() + 1;
        let mut rng = Rng::new(*seed);
        for snapshot in 0..snapshots {
            for how in [Survival::Nothing, Survival::Everything, Survival::Random, Survival::Random] {
                // The extremes are the same at most places: a part is enough.
                if how != Survival::Random && !rng.percent(25) {
                    continue;
                }
                let cut_seed = rng.bits();
                tally.case(*seed, cut(&run, snapshot, cut_seed, how).map(drop));
            }
        }
    }
    tally.finish("power cuts", format_args!("{} runs, {:?}", seeds.len(), start.elapsed()));
}

#[test]
fn a_created_store_is_there_after_a_power_cut() {
    let mut tally = Tally::default();
    for seed in seeds(1, 20) {
        let mut place = Place::new(SimDisk::new(seed));
        // Directories above it are made as well.
        place.dir = place.dir.join("made/too/store");
        let result = place.create(&small(64 << 10, 64 << 10)).and_then(|()| {
            let after = place.on(place.disk.power_cut(seed, Survival::Nothing));
            after.open()?.close()
        });
        tally.case(seed, result.map_err(|e| e.to_string()));
    }
    tally.finish("power cuts after creation", "all unsynced changes lost");
}

/// Many small runs, each change of the disk a place for several power cuts; one or two recoveries each, and nothing more.
#[test]
fn any_change_of_a_small_store_may_be_the_last() {
    let start = Instant::now();
    let mut tally = Tally::default();
    let mut recoveries = 0;
    for seed in seeds(1000, 150) {
        let mut rng = Rng::new(seed);
        let bounds = Bounds {
            accounts: 1 + rng.index(2),
            items: 1 + rng.index(4),
            // Now and then one that has a file of its own.
            blob_max: *rng.pick(&[100, 2000, 2000, 8000, 8000, 70_000]),
            attribute_max: *rng.pick(&[20, 2000]),
            incarnations: rng.percent(50),
        };
        let steps = *rng.pick(&[6, 12, 24]);
        let run = record(seed, steps, bounds).unwrap_or_else(|e| panic!("MAILSTRATA_SEED={seed}: {e}"));
        for snapshot in run.created..=run.place.disk.newest_snapshot() {
            let promised =
                run.promises.iter().filter(|p| p.snapshot <= snapshot).map(|p| p.lsn).max().unwrap_or_default();
            for _ in 0..3 {
                let cut_seed = rng.bits();
                let Some(disk) = run.place.disk.power_cut_at(snapshot, cut_seed, Survival::Random) else { continue };
                let mut place = run.place.on(disk);
                let mut verified = verify(&run, &place, promised, cut_seed).map(|(store, _)| drop(store));
                recoveries += 1;
                if verified.is_ok() && rng.percent(20) {
                    place = place.on(place.disk.power_cut(cut_seed, Survival::Random));
                    verified = verify(&run, &place, promised, cut_seed).map(drop).map_err(|e| format!("again: {e}"));
                    recoveries += 1;
                }
                let in_context = |e| format!("{e}\n  snapshot {snapshot}, seed {cut_seed}\n{}", file_list(&place.disk));
                tally.case(seed, verified.map_err(in_context));
            }
        }
    }
    tally.count("recoveries", recoveries);
    tally.finish("power cuts of small stores", format_args!("{:?}", start.elapsed()));
}

/// A message with these parts.
fn message(name: u64, parts: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("Subject: {name}\r\n\r\n").into_bytes();
    for part in parts {
        out.extend_from_slice(b"--b\r\nContent-Type: x/y\r\n\r\n");
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"--b--\r\n");
    out
}

/// Messages with parts of one another go into several packs while nothing is synced; power goes. What is found afterwards
/// counts as known, so it must be whole: its parts are there as well.
#[test]
fn a_message_that_a_power_cut_left_has_all_its_parts() {
    let mut tally = Tally::default();
    for seed in seeds(1, 8) {
        let mut rng = Rng::new(seed);
        let place = Place::new(SimDisk::new(seed));
        place.create(&small(64 << 10, 64 << 10)).unwrap();
        place.disk.keep_snapshots();
        let store = place.open().unwrap();
        let opened = place.disk.newest_snapshot();
        let shared: Vec<Vec<u8>> = (0..3).map(|_| rng.bytes(12_000)).collect();
        let mut messages = Vec::new();
        for n in 0..24 {
            let own = rng.bytes(9000);
            let m = message(n, &[rng.pick(&shared).as_slice(), &own]);
            if rng.percent(50) {
                store.put_blob(&mut &m[..]).unwrap();
            } else {
                let mut batch = store.batch();
                batch.put_bytes(&m).unwrap();
                batch.put_bytes(&message(100 + n, &[rng.pick(&shared).as_slice()])).unwrap();
                batch.submit().unwrap();
            }
            messages.push(m);
        }
        store.close().unwrap();
        for snapshot in opened..=place.disk.newest_snapshot() {
            for _ in 0..4 {
                let cut = rng.bits();
                let Some(disk) = place.disk.power_cut_at(snapshot, cut, Survival::Random) else { continue };
                let after = place.on(disk);
                let result = (|| {
                    let store = after.open().map_err(|e| format!("open: {e}"))?;
                    let view = store.view();
                    for (n, m) in messages.iter().enumerate() {
                        let digest = mailstrata_format::Digest::of(m);
                        if store.blob_known(&digest).map_err(|e| e.to_string())?.is_none() {
                            continue;
                        }
                        let read = mailstrata_tests::drive::read_blob(&view, &digest)
                            .map_err(|e| format!("message {n} at snapshot {snapshot}, cut {cut}: {e}"))?;
                        if read != *m {
                            return Err(format!("message {n} at snapshot {snapshot}, cut {cut}: other bytes"));
                        }
                    }
                    Ok(())
                })();
                tally.case(seed, result);
            }
        }
    }
    tally.finish("power cuts between messages and their parts", "all that is found is whole");
}
