//! Every operation fails once, and for ever, with each errno; a sync that fails takes the dirty data with it; the disk is
//! full. The store answers, poisons or recovers; after a restart everything acknowledged is there.

use mailstrata_engine::disk::Clock;
use mailstrata_engine::{Error, Store};
use mailstrata_format::Lsn;
use mailstrata_tests::drive::{Fate, Place, Strictness, compare, file_list, send_again, small, step};
use mailstrata_tests::model::{Model, Outcome};
use mailstrata_tests::rng::{Rng, Tally, seeds};
use mailstrata_tests::sim::{Effect, Fault, OpKind, SimDisk, Survival, Which};
use mailstrata_tests::workload::{Bounds, Step, Workload};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

const BOUNDS: Bounds = Bounds { accounts: 2, items: 5, blob_max: 300_000, attribute_max: 2000, incarnations: true };
const STEPS: usize = 40;

/// A store with some content, ready to be opened.
struct Prepared {
    place: Place,
    model: Model,
    work_seed: u64,
}

fn prepare(seed: u64) -> Result<Prepared, String> {
    let mut rng = Rng::new(seed);
    let place = Place::new(SimDisk::new(seed));
    place.create(&small(64 << 10, 64 << 10)).map_err(|e| format!("create: {e}"))?;
    let store = place.open().map_err(|e| format!("open: {e}"))?;
    let mut model = Model::default();
    let mut work = Workload::new(rng.bits(), BOUNDS, place.clock.now());
    for _ in 0..30 {
        step(&store, &mut model, &place, &work.next_step())?;
    }
    if rng.percent(50) {
        store.close().map_err(|e| format!("close: {e}"))?;
    }
    Ok(Prepared { place, model, work_seed: rng.bits() })
}

impl Prepared {
    /// The same store on a disk of its own.
    fn copy(&self, seed: u64) -> Place {
        let place = Place::new(self.place.disk.copy(seed));
        place.clock.set(self.place.clock.now());
        place
    }

    /// Opens, works and closes while a fault strikes, then restarts without it. Says how it went.
    fn run(&self, seed: u64, fault: Option<Fault>) -> Result<(&'static str, Place), String> {
        let mut rng = Rng::new(seed);
        let mut place = self.copy(seed);
        if let Some(fault) = fault {
            place.disk.plan(fault);
        }
        let mut model = self.model.clone();
        let mut promised = model.lsn();
        let mut sent: Vec<Arc<[u8]>> = Vec::new();
        let mut how = "went on";
        match place.open() {
            Err(e @ (Error::Damage(_) | Error::NoStore { .. })) => return Err(format!("an I/O error taken for {e}")),
            Err(_) => how = "did not open",
            Ok(store) => {
                let mut work = Workload::new(self.work_seed, BOUNDS, place.clock.now());
                for _ in 0..STEPS {
                    let next = work.next_step();
                    if let Step::Record { blobs, .. } = &next {
                        sent.extend(blobs.iter().cloned());
                    }
                    if how == "poisoned" {
                        refuses(&store, &next, promised)?;
                        continue;
                    }
                    match step(&store, &mut model, &place, &next)? {
                        Fate::Done(Outcome::Recorded(lsn)) => promised = lsn,
                        Fate::Done(_) => {}
                        Fate::Refused(Error::Poisoned(_)) | Fate::Unknown(_) => how = "poisoned",
                        Fate::Refused(Error::Io { .. } | Error::NearlyFull { .. }) => {}
                        Fate::Refused(e) => return Err(format!("refused with {e:?}")),
                    }
                }
                // What is read meanwhile is right, or an error.
                let view = store.view();
                if view.lsn() < promised {
                    return Err(format!("the view ends with {}, {promised} was acknowledged", view.lsn()));
                }
                compare(&view, &model.until(view.lsn()), Strictness::NoLie, seed)
                    .map_err(|e| format!("meanwhile: {e}"))?;
                if rng.percent(70) {
                    let closed = store.close();
                    if closed.is_ok() && how == "poisoned" {
                        return Err("a poisoned store closed cleanly".into());
                    }
                }
            }
        }
        place.disk.clear_faults();
        let next = match rng.below(4) {
            0 => place.disk.processes_died(rng.bits()),
            1 => place.disk.power_cut(rng.bits(), Survival::Nothing),
            _ => place.disk.power_cut(rng.bits(), Survival::Random),
        };
        place = place.on(next);
        self.restart(&place, &model, promised, &sent, seed)?;
        Ok((how, place))
    }

    fn restart(
        &self,
        place: &Place,
        model: &Model,
        promised: Lsn,
        sent: &[Arc<[u8]>],
        seed: u64,
    ) -> Result<(), String> {
        let in_context = |e: String| format!("after the restart: {e}\n{}", file_list(&place.disk));
        let store = place.open().map_err(|e| in_context(format!("open: {e}")))?;
        let lsn = store.view().lsn();
        if lsn < promised || lsn > model.lsn() {
            return Err(in_context(format!(
                "ends with LSN {lsn}; {promised} was acknowledged, {} submitted",
                model.lsn()
            )));
        }
        let mut model = model.until(lsn);
        compare(&store.view(), &model, Strictness::Exact, seed).map_err(in_context)?;
        if let Some(damage) = store.findings().first() {
            return Err(in_context(format!("finds damage: {damage}")));
        }
        let mut work = Workload::new(self.work_seed ^ 1, BOUNDS, place.clock.now());
        for _ in 0..3 {
            match step(&store, &mut model, place, &work.next_step()).map_err(in_context)? {
                Fate::Done(_) => {}
                other => return Err(in_context(format!("{other:?}"))),
            }
        }
        send_again(&store, &mut model, place, sent).map_err(in_context)?;
        // All that an open shows is durable, whatever the one before it met.
        let cut = place.on(place.disk.copy_unsynced(seed).power_cut(seed, Survival::Nothing));
        let reader = cut.open_read().map_err(|e| in_context(format!("open_read after a power cut: {e}")))?;
        compare(&reader.view(), &model, Strictness::Exact, seed)
            .map_err(|e| in_context(format!("after a power cut: {e}")))?;
        store.close().map_err(|e| in_context(format!("close: {e}")))?;
        let reader = place.open_read().map_err(|e| in_context(format!("open_read: {e}")))?;
        compare(&reader.view(), &model, Strictness::Exact, seed).map_err(in_context).map(drop)
    }
}

/// A poisoned store acknowledges nothing but what it had acknowledged before.
fn refuses(store: &Store, step: &Step, promised: Lsn) -> Result<(), String> {
    let Step::Record { event, blobs } = step else { return Ok(()) };
    for bytes in blobs {
        // Known ones are fine, new ones lead nowhere.
        drop(store.put_blob(&mut &bytes[..]));
    }
    match store.record(event) {
        Ok(r) if !r.duplicate || r.lsn > promised => Err(format!("{r:?} after the store was poisoned")),
        _ => Ok(()),
    }
}

fn sweep(name: &str, first: u64, count: u64, faults: &dyn Fn(&Place, &mut Rng) -> Vec<Fault>) {
    let start = Instant::now();
    let mut fates: BTreeMap<&str, u64> = BTreeMap::new();
    let mut tally = Tally::default();
    for seed in seeds(first, count) {
        let prepared = prepare(seed).unwrap_or_else(|e| panic!("{e}"));
        let (_, place) = prepared.run(seed, None).unwrap_or_else(|e| panic!("without a fault: {e}"));
        drop(place);
        let counted = {
            // Counts of a run that nothing disturbs.
            let place = prepared.copy(seed);
            let store = place.open().unwrap_or_else(|e| panic!("{e}"));
            let mut model = prepared.model.clone();
            let mut work = Workload::new(prepared.work_seed, BOUNDS, place.clock.now());
            for _ in 0..STEPS {
                step(&store, &mut model, &place, &work.next_step()).unwrap_or_else(|e| panic!("{e}"));
            }
            store.close().unwrap_or_else(|e| panic!("{e}"));
            place
        };
        let mut rng = Rng::new(seed);
        for (i, fault) in faults(&counted, &mut rng).into_iter().enumerate() {
            let result = prepared.run(rng.bits(), Some(fault));
            let result = result.map(|(how, _)| *fates.entry(how).or_default() += 1);
            tally.case(seed, result.map_err(|e| format!("{e}\n  case {i}, {fault:?}")));
        }
    }
    tally.finish(name, format_args!("{fates:?}, {:?}", start.elapsed()));
}

const ERRNOS: [i32; 4] = [libc::EIO, libc::ENOSPC, libc::EINTR, libc::EAGAIN];

#[test]
fn every_operation_may_fail() {
    sweep("every_operation_may_fail", 1, 3, &|place, rng| {
        let mut faults = Vec::new();
        for nth in 1..=place.disk.ops() {
            let effect = Effect::Error(ERRNOS[rng.index(4)]);
            faults.push(Fault::once(Which::Any, nth, effect));
            if rng.percent(30) {
                faults.push(Fault::from_then_on(Which::Any, nth, Effect::Error(ERRNOS[rng.index(4)])));
            }
        }
        faults
    });
}

#[test]
fn every_change_may_fail_with_every_errno() {
    sweep("every_change_may_fail_with_every_errno", 100, 3, &|place, rng| {
        let mut faults = Vec::new();
        for (kind, count) in place.disk.counts().into_iter().filter(|(k, _)| k.changes()) {
            for nth in 1..=count {
                // The rare kinds with everything, the common ones with a part.
                for errno in ERRNOS {
                    if count >= 20 && rng.percent(70) {
                        continue;
                    }
                    faults.push(Fault::once(Which::Kind(kind), nth, Effect::Error(errno)));
                    if rng.percent(50) {
                        faults.push(Fault::from_then_on(Which::Kind(kind), nth, Effect::Error(errno)));
                    }
                }
                if matches!(kind, OpKind::Write | OpKind::WriteDurable) {
                    faults.push(Fault::once(Which::Kind(kind), nth, Effect::Short));
                }
            }
        }
        faults
    });
}

#[test]
fn a_failed_sync_is_never_believed_later() {
    sweep("a_failed_sync_is_never_believed_later", 200, 6, &|place, _| {
        let syncs = place.disk.count(Which::Kind(OpKind::Sync));
        (1..=syncs).map(|nth| Fault::once(Which::Kind(OpKind::Sync), nth, Effect::FsyncGate)).collect()
    });
}

#[test]
fn the_power_goes_in_the_middle_of_an_operation() {
    sweep("the_power_goes_in_the_middle_of_an_operation", 300, 2, &|place, rng| {
        let ops = place.disk.ops();
        (1..=ops).filter(|_| rng.percent(50)).map(|nth| Fault::once(Which::Any, nth, Effect::PowerCut)).collect()
    });
}

#[test]
fn a_full_disk_refuses_and_goes_on_when_there_is_room() {
    let start = Instant::now();
    let mut refused = 0;
    let mut deleted = 0;
    let mut tally = Tally::default();
    for seed in seeds(400, 60) {
        tally.case(seed, fill_up(seed).map(|n| refused += n));
        tally.case(seed, deletions_are_taken(seed).map(|there| deleted += u64::from(there)));
    }
    tally.finish("full disk", format_args!("{refused} refusals, {deleted} nearly full disks, {:?}", start.elapsed()));
}

/// Works until long after the disk is full, then with room again. Returns how often the store refused.
fn fill_up(seed: u64) -> Result<u64, String> {
    let mut rng = Rng::new(seed);
    let prepared = prepare(seed)?;
    let place = prepared.copy(seed);
    let mut model = prepared.model.clone();
    let mut promised = model.lsn();
    let mut refused = 0;
    place.disk.set_capacity(Some(place.disk.used() + rng.below(600_000)));
    if let Ok(store) = place.open() {
        let mut work = Workload::new(prepared.work_seed, BOUNDS, place.clock.now());
        for _ in 0..120 {
            match step(&store, &mut model, &place, &work.next_step())? {
                Fate::Done(Outcome::Recorded(lsn)) => promised = lsn,
                Fate::Done(_) => {}
                Fate::Refused(e @ Error::Poisoned(_)) | Fate::Unknown(e) if e.is_full() => {
                    refused += 1;
                    break;
                }
                Fate::Refused(e) if e.is_full() => refused += 1,
                other => return Err(format!("{other:?}")),
            }
        }
    }
    place.disk.set_capacity(None);
    let place = place.on(place.disk.power_cut(seed, Survival::Random));
    prepared.restart(&place, &model, promised, &[], seed)?;
    Ok(refused)
}

/// Free space is looked at once a MiB: less in reserve would be used up unseen.
const RESERVE: u64 = 4 << 20;

/// With the reserve reached, only deletions are taken, and they are durable. `false`: the reserve was not reached.
fn deletions_are_taken(seed: u64) -> Result<bool, String> {
    let place = Place::new(SimDisk::new(seed));
    place.create(&small(64 << 10, 64 << 10)).map_err(|e| e.to_string())?;
    let options = mailstrata_engine::Options { reserve_bytes: RESERVE, ..place.options() };
    let store = Store::open(&place.dir, &options).map_err(|e| e.to_string())?;
    let mut work = Workload::new(seed, Bounds { items: 50, ..BOUNDS }, place.clock.now());
    let mut model = Model::default();
    for _ in 0..60 {
        step(&store, &mut model, &place, &work.next_step())?;
    }
    place.disk.set_capacity(Some(place.disk.used() + RESERVE + 100_000));
    let mut full = false;
    for _ in 0..800 {
        match step(&store, &mut model, &place, &work.next_step())? {
            Fate::Refused(Error::NearlyFull { .. }) => {
                full = true;
                break;
            }
            Fate::Done(_) => {}
            other => return Err(format!("before the reserve was reached: {other:?}")),
        }
    }
    if !full {
        return Ok(false);
    }
    let now = |key| model.state(&key, None).filter(|t| !t.deleted).cloned();
    let alive: Vec<_> = model.keys().filter_map(now).take(20).collect();
    for t in alive {
        let event = mailstrata_engine::Event {
            account: t.account.clone(),
            account_id: Some(t.account_id),
            item: t.item.clone(),
            kind: t.kind,
            change: mailstrata_engine::Change::Delete,
            at: None,
            not_before: None,
            source: None,
            derived: false,
        };
        match step(&store, &mut model, &place, &Step::Record { event: Box::new(event), blobs: Vec::new() })? {
            Fate::Done(_) => {}
            other => return Err(format!("a deletion with {RESERVE} bytes free: {other:?}")),
        }
    }
    store.close().map_err(|e| format!("closing a nearly full store: {e}"))?;
    let reader = place.open_read().map_err(|e| e.to_string())?;
    compare(&reader.view(), &model, Strictness::Exact, seed)?;
    Ok(true)
}
