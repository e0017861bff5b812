//! Compaction: whatever is merged, retired and removed, and whenever the power goes, a store answers as before.

use mailstrata_engine::catalog::SegmentPart;
use mailstrata_engine::disk::{Clock, Disk};
use mailstrata_engine::{LogEntry, Options, Reader, Store};
use mailstrata_format::{FileKind, FileName, Lsn};
use mailstrata_tests::drive::{Fate, Losses, Place, Strictness, compare, file_list, is_sound, small, step};
use mailstrata_tests::model::Model;
use mailstrata_tests::rng::{Rng, Tally, seeds};
use mailstrata_tests::sim::{Effect, Fault, Noise, SimDisk, Survival, Which};
use mailstrata_tests::workload::{Bounds, Workload};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const HOUR: Duration = Duration::from_secs(3600);
/// Longer than a workload moves the clock.
const LONG: Duration = Duration::from_secs(1 << 32);

fn small_items() -> Bounds {
    Bounds { accounts: 3, items: 20, blob_max: 2000, attribute_max: 3000, incarnations: true }
}

/// A store whose retired files stay for so long.
fn open(place: &Place, delay: Duration) -> Result<Store, String> {
    let options = Options { retire_delay: delay, ..place.options() };
    Store::open(&place.dir, &options).map_err(|e| format!("open: {e}\n{}", file_list(&place.disk)))
}

fn reader(place: &Place) -> Result<Reader, String> {
    place.open_read().map_err(|e| format!("open_read: {e}\n{}", file_list(&place.disk)))
}

/// Tiers of the files of the log, in their order.
fn tiers(store: &Store) -> Vec<u32> {
    let view = store.view();
    let tier = |part: &SegmentPart| if let SegmentPart::Run(r) = part { r.trailer.tier } else { 0 };
    view.catalog().segments.iter().map(|s| tier(&s.part)).collect()
}

/// A store with some transactions, and its model.
struct Built {
    place: Place,
    model: Model,
    work: Workload,
}

impl Built {
    fn new(seed: u64, bounds: Bounds) -> Result<Self, String> {
        let place = Place::new(SimDisk::new(seed));
        place.create(&small(64 << 10, 1 << 20)).map_err(|e| e.to_string())?;
        let work = Workload::new(seed, bounds, place.clock.now());
        Ok(Self { place, model: Model::default(), work })
    }

    /// Records until the log has so many more segments.
    fn fill(&mut self, store: &Store, segments: usize) -> Result<(), String> {
        let from = store.view().catalog().segments.len();
        while store.view().catalog().segments.len() < from + segments {
            match step(store, &mut self.model, &self.place, &self.work.next_step())? {
                Fate::Done(_) => {}
                other => return Err(format!("{other:?}")),
            }
        }
        Ok(())
    }
}

/// Everything a store says, before and after.
fn exact(store: &Store, model: &Model, seed: u64) -> Result<(), String> {
    compare(&store.view(), model, Strictness::Exact, seed)?;
    let mut rng = Rng::new(seed);
    let earlier = Lsn(rng.below(model.lsn().0 + 1));
    let then = model.until(earlier);
    compare(&store.view().at_lsn(earlier), &then, Strictness::Exact, seed)
        .map(drop)
        .map_err(|e| format!("as of LSN {earlier}: {e}"))
}

fn run(seed: u64, steps: usize) -> Result<(u64, u32), String> {
    let mut rng = Rng::new(seed ^ 0x636f_6d70);
    let mut b = Built::new(seed, small_items())?;
    if rng.percent(50) {
        b.place.disk.set_noise(Noise { short_read: 20, short_write: 10, interrupted: 20 });
    }
    let delay = if rng.percent(50) { Duration::ZERO } else { HOUR };
    let mut store = open(&b.place, delay)?;
    let (mut runs, mut highest) = (0, 0);
    for n in 0..steps {
        match rng.below(1000) {
            0..12 => {
                let done = store.compact_now().map_err(|e| format!("step {n}: compact: {e}"))?;
                if done.left_out > 0 {
                    return Err(format!("step {n}: a file was left out"));
                }
                runs += done.runs;
                highest = tiers(&store).into_iter().fold(highest, u32::max);
                exact(&store, &b.model, rng.bits()).map_err(|e| format!("step {n}: compacted: {e}"))?;
            }
            12..15 => {
                match rng.below(4) {
                    0 => store.close().map_err(|e| format!("close: {e}"))?,
                    1 => drop(store),
                    2 => {
                        b.place = b.place.on(b.place.disk.processes_died(rng.bits()));
                        drop(store);
                    }
                    _ => {
                        b.place = b.place.on(b.place.disk.power_cut(rng.bits(), Survival::Random));
                        drop(store);
                    }
                }
                store = open(&b.place, delay)?;
                if !store.findings().is_empty() {
                    return Err(format!("step {n}: findings {:?}\n{}", store.findings(), file_list(&b.place.disk)));
                }
                exact(&store, &b.model, rng.bits()).map_err(|e| format!("step {n}: reopened: {e}"))?;
            }
            15..18 => drop(b.place.clock.advance(7_200_000_000)),
            _ => match step(&store, &mut b.model, &b.place, &b.work.next_step())? {
                Fate::Done(_) => {}
                other => return Err(format!("step {n}: {other:?}")),
            },
        }
    }
    compare(&reader(&b.place)?.view(), &b.model, Strictness::Exact, rng.bits()).map_err(|e| format!("reader: {e}"))?;
    store.close().map_err(|e| format!("close: {e}"))?;
    let r = reader(&b.place)?;
    compare(&r.view(), &b.model, Strictness::Exact, rng.bits()).map_err(|e| format!("closed: {e}"))?;
    if r.findings().is_empty() { Ok((runs, highest)) } else { Err(format!("closed: findings {:?}", r.findings())) }
}

#[test]
fn a_store_that_is_compacted_answers_as_the_model_does() {
    let start = Instant::now();
    let (mut runs, mut highest) = (0, 0);
    let mut tally = Tally::default();
    for seed in seeds(1, 8) {
        let result = run(seed, 2500);
        if let Ok((n, tier)) = &result {
            runs += n;
            highest = highest.max(*tier);
        }
        tally.case(seed, result.map(drop));
    }
    tally.finish("compaction", format_args!("{runs} runs, tier {highest}, {:?}", start.elapsed()));
    assert!(runs > 8 && highest >= 2, "{runs} runs, tier {highest}: the test does not reach what it is about");
}

/// A store with a run, segments behind it, and a clean close.
fn compacted(seed: u64, delay: Duration) -> Result<Built, String> {
    let mut b = Built::new(seed, small_items())?;
    let store = open(&b.place, delay)?;
    b.fill(&store, 9)?;
    let done = store.compact_now().map_err(|e| e.to_string())?;
    b.fill(&store, 2)?;
    // What this process read is let go with the views.
    store.compact_now().map_err(|e| e.to_string())?;
    if done.runs == 0 || !tiers(&store).contains(&1) {
        return Err("no run was made".into());
    }
    store.close().map_err(|e| e.to_string())?;
    Ok(b)
}

fn in_run(place: &Place) -> PathBuf {
    let all = place.disk.files().into_iter().map(|f| f.0);
    all.filter(|p| p.extension().is_some_and(|e| e == "run")).max().unwrap_or_default()
}

fn replaced(place: &Place) -> Vec<PathBuf> {
    // Eight segments went into the first run.
    let names = (1..=8).map(|n| place.dir.join(FileName::new(FileKind::Segment, n).path()));
    names.filter(|p| place.disk.bytes(p).is_some()).collect()
}

#[test]
fn a_power_cut_anywhere_in_a_compaction_loses_nothing() {
    let start = Instant::now();
    let mut tally = Tally::default();
    for seed in seeds(20, 2) {
        let result = Built::new(seed, small_items()).and_then(|mut b| {
            let store = open(&b.place, Duration::ZERO)?;
            b.fill(&store, 9)?;
            drop(store);
            Ok(b)
        });
        let b = result.unwrap_or_else(|e| panic!("MAILSTRATA_SEED={seed}: {e}"));
        let place = b.place.on(b.place.disk.copy(seed));
        let store = open(&place, Duration::ZERO).unwrap_or_else(|e| panic!("MAILSTRATA_SEED={seed}: {e}"));
        place.disk.keep_snapshots();
        let done = store.compact_now().unwrap_or_else(|e| panic!("MAILSTRATA_SEED={seed}: {e}"));
        assert!(done.runs == 1 && done.removed == 8, "{done:?}");
        drop(store);
        let mut rng = Rng::new(seed);
        for snapshot in 0..=place.disk.newest_snapshot() {
            for how in [Survival::Nothing, Survival::Everything, Survival::Random, Survival::Random, Survival::Random] {
                let cut_seed = rng.bits();
                let Some(disk) = place.disk.power_cut_at(snapshot, cut_seed, how) else { continue };
                let cut = place.on(disk);
                let result = after_cut(&cut, &b.model, cut_seed);
                tally.case(seed, result.map_err(|e| format!("{e}\n  snapshot {snapshot}, {how:?}, seed {cut_seed}")));
            }
        }
    }
    tally.finish("power cuts in compaction", format_args!("{:?}", start.elapsed()));
}

/// Everything is there, nothing is taken for damage, and compaction goes on where it was.
fn after_cut(place: &Place, model: &Model, seed: u64) -> Result<(), String> {
    is_sound(place).map_err(|e| format!("cut: {e}"))?;
    let r = reader(place)?;
    compare(&r.view(), model, Strictness::Exact, seed)
        .map_err(|e| format!("reader: {e}\n{}", file_list(&place.disk)))?;
    if !r.findings().is_empty() {
        return Err(format!("reader: findings {:?}\n{}", r.findings(), file_list(&place.disk)));
    }
    drop(r);
    let store = open(place, Duration::ZERO)?;
    exact(&store, model, seed).map_err(|e| format!("first: {e}\n{}", file_list(&place.disk)))?;
    is_sound(place).map_err(|e| format!("opened: {e}"))?;
    store.compact_now().map_err(|e| format!("again: {e}"))?;
    exact(&store, model, seed).map_err(|e| format!("again: {e}"))?;
    if store.view().catalog().segments.len() > 6 {
        return Err(format!("not compacted: {:?}", tiers(&store)));
    }
    drop(store);
    // Neither leftovers nor what was replaced stay for good.
    let temp = place
        .disk
        .files()
        .into_iter()
        .find(|f| f.0.extension().is_some_and(|e| e == "tmp") && !f.0.ends_with("spare.tmp"));
    if let Some((path, _)) = temp {
        return Err(format!("{} is left", path.display()));
    }
    if !replaced(place).is_empty() {
        return Err(format!("what was replaced is left\n{}", file_list(&place.disk)));
    }
    let cut = place.on(place.disk.power_cut(seed, Survival::Nothing));
    compare(&reader(&cut)?.view(), model, Strictness::Exact, seed).map(drop).map_err(|e| format!("third: {e}"))
}

#[test]
fn an_error_in_a_compaction_costs_nothing_but_the_run() {
    let start = Instant::now();
    let mut tally = Tally::default();
    for seed in seeds(40, 1) {
        let mut b = Built::new(seed, small_items()).unwrap_or_else(|e| panic!("{e}"));
        let store = open(&b.place, Duration::ZERO).unwrap_or_else(|e| panic!("{e}"));
        b.fill(&store, 9).unwrap_or_else(|e| panic!("{e}"));
        store.close().unwrap_or_else(|e| panic!("{e}"));
        for (which, code, stride) in
            [(Which::Changes, libc::EIO, 1), (Which::Changes, libc::ENOSPC, 2), (Which::Any, libc::EIO, 23)]
        {
            let mut nth = 1;
            loop {
                let place = b.place.on(b.place.disk.copy(seed + nth));
                let store = open(&place, Duration::ZERO).unwrap_or_else(|e| panic!("{e}"));
                place.disk.plan(Fault::once(which, nth, Effect::Error(code)));
                drop(store.compact_now());
                let hit = place.disk.hits() > 0;
                place.disk.clear_faults();
                let result = after_error(store, &place, &b.model, nth);
                tally.case(seed, result.map_err(|e| format!("{e}\n  error {code} at {nth} of {which:?}")));
                nth += stride;
                if !hit || nth > 2000 {
                    break;
                }
            }
        }
    }
    tally.finish("errors in compaction", format_args!("{:?}", start.elapsed()));
}

/// The store answers, takes more, and compacts once the fault is gone.
fn after_error(store: Store, place: &Place, model: &Model, seed: u64) -> Result<(), String> {
    exact(&store, model, seed).map_err(|e| format!("after the error: {e}"))?;
    let mut model = model.clone();
    let bytes: std::sync::Arc<[u8]> = format!("content {seed}").into_bytes().into();
    mailstrata_tests::drive::send_again(&store, &mut model, place, &[bytes]).map_err(|e| format!("record: {e}"))?;
    store.compact_now().map_err(|e| format!("compact again: {e}"))?;
    exact(&store, &model, seed).map_err(|e| format!("compacted again: {e}"))?;
    if !tiers(&store).contains(&1) {
        return Err(format!("not compacted: {:?}", tiers(&store)));
    }
    drop(store);
    let store = open(place, Duration::ZERO)?;
    exact(&store, &model, seed).map_err(|e| format!("reopened: {e}"))?;
    if store.findings().is_empty() { Ok(()) } else { Err(format!("findings {:?}", store.findings())) }
}

/// What a reader says of a damaged copy.
fn read_damaged(place: &Place, model: &Model, how: Strictness, seed: u64) -> Result<(usize, Losses), String> {
    let r = reader(place)?;
    let losses = compare(&r.view(), model, how, seed)?;
    Ok((r.findings().len(), losses))
}

#[test]
fn a_flipped_bit_in_a_run_costs_the_transaction_it_hit_at_most() {
    let start = Instant::now();
    let mut tally = Tally::default();
    for seed in seeds(60, 2) {
        // What it replaced is there still, or gone.
        for delay in [LONG, Duration::ZERO] {
            let b = compacted(seed, delay).unwrap_or_else(|e| panic!("MAILSTRATA_SEED={seed}: {e}"));
            assert_eq!(replaced(&b.place).is_empty(), delay.is_zero(), "{}", file_list(&b.place.disk));
            let path = in_run(&b.place);
            let bytes = b.place.disk.bytes(&path).unwrap_or_default();
            let trailer =
                bytes.len().checked_sub(4096).and_then(|at| mailstrata_format::index::Trailer::decode(&bytes[at..]));
            let index = trailer.map_or(0, |t| t.rows_offset);
            let mut rng = Rng::new(seed);
            let blocks = bytes.len() as u64 / 4096;
            let (mut told, mut lost) = (0, 0);
            for n in 0..320 {
                // Every block of the index, the first and the last of the file, and anything.
                let at = match n % 4 {
                    0 => rng.below(4096),
                    1 => index + rng.below(bytes.len() as u64 - index),
                    2 => (blocks - 1 - n % blocks) * 4096 + rng.below(300),
                    _ => rng.below(bytes.len() as u64),
                };
                let hit = b.place.on(b.place.disk.copy(rng.bits()));
                hit.disk.flip(&path, at * 8 + rng.below(8));
                let result = read_damaged(&hit, &b.model, Strictness::NoLie, seed).and_then(|(findings, losses)| {
                    told += u64::from(findings > 0);
                    lost += losses.transactions;
                    let may = if at >= index || at < 4096 { 0 } else { 1 };
                    if losses.transactions > may || losses.blobs > 0 {
                        return Err(format!("it cost {losses:?}"));
                    }
                    Ok(())
                });
                tally.case(
                    seed,
                    result.map_err(|e| format!("{e}\n  byte {at} of {}, index at {index}, {delay:?}", path.display())),
                );
            }
            assert!(told > 0 && lost > 0, "{told} told, {lost} lost: nothing was hit");
        }
    }
    tally.finish("bit flips in runs", format_args!("{:?}", start.elapsed()));
}

#[test]
fn what_is_damaged_is_not_merged_and_stays_damaged() {
    let mut tally = Tally::default();
    for seed in seeds(80, 6) {
        let result = Built::new(seed, small_items()).and_then(|mut b| {
            let store = open(&b.place, Duration::ZERO)?;
            b.fill(&store, 10)?;
            store.close().map_err(|e| e.to_string())?;
            // In the middle of a frame of the third segment.
            let r = reader(&b.place)?;
            let third = FileName::new(FileKind::Segment, 3);
            let row = b.model.keys().collect::<Vec<_>>().into_iter().find_map(|(account, item)| {
                let rows = r.view().rows(account, item).ok()?;
                rows.into_iter().find(|h| h.file == third).map(|h| h.row)
            });
            let row = row.ok_or("the third segment has no row")?;
            drop(r);
            b.place.disk.flip(&b.place.dir.join(third.path()), (u64::from(row.offset) + 60) * 8);
            let before = read_damaged(&b.place, &b.model, Strictness::NoLie, seed)?.1;
            if before.transactions != 1 {
                return Err(format!("before: {before:?}"));
            }
            let store = open(&b.place, Duration::ZERO)?;
            let done = store.compact_now().map_err(|e| e.to_string())?;
            if done.left_out != 1 || done.runs != 0 {
                return Err(format!("{done:?}"));
            }
            // Behind it there is enough to merge soon.
            b.model = filled(&store, &b, 3)?;
            let done = store.compact_now().map_err(|e| e.to_string())?;
            let after = compare(&store.view(), &b.model, Strictness::NoLie, seed)?;
            if done.runs != 1 || after.transactions != 1 || tiers(&store)[..4] != [0, 0, 0, 1] {
                return Err(format!("{done:?}, {after:?}, {:?}", tiers(&store)));
            }
            store.close().map_err(|e| e.to_string())?;
            let (_, last) = read_damaged(&b.place, &b.model, Strictness::NoLie, seed)?;
            if last.transactions == 1 { Ok(()) } else { Err(format!("closed: {last:?}")) }
        });
        tally.case(seed, result);
    }
    tally.finish("damaged inputs", "");
}

/// So many more segments, with items that build on nothing that is there.
fn filled(store: &Store, b: &Built, segments: usize) -> Result<Model, String> {
    let mut model = b.model.clone();
    let wanted = store.view().catalog().segments.len() + segments;
    while store.view().catalog().segments.len() < wanted {
        let bytes: std::sync::Arc<[u8]> = format!("content {}", model.lsn()).into_bytes().into();
        mailstrata_tests::drive::send_again(store, &mut model, &b.place, &[bytes])?;
    }
    Ok(model)
}

#[test]
fn lost_files_are_made_good_where_something_else_has_what_they_held() {
    let mut tally = Tally::default();
    for seed in seeds(90, 4) {
        let result = (|| {
            for delay in [LONG, Duration::ZERO] {
                let b = compacted(seed, delay)?;
                let without = |path: &Path| {
                    let place = b.place.on(b.place.disk.copy(seed));
                    drop(place.disk.remove(path));
                    place
                };
                let manifest = without(&b.place.dir.join("MANIFEST"));
                let no_run = without(&in_run(&b.place));
                for (what, place) in [("manifest", &manifest), ("run", &no_run)] {
                    let lossless = what == "manifest" || delay == LONG;
                    let how = if lossless { Strictness::NoLie } else { Strictness::Recorded };
                    let (findings, losses) =
                        read_damaged(place, &b.model, how, seed).map_err(|e| format!("no {what}: {e}"))?;
                    if lossless != (losses == Losses::default()) || (findings == 0) != lossless {
                        return Err(format!("no {what}, {delay:?}: {losses:?}, {findings} findings"));
                    }
                    // And a writer goes on, twice.
                    for n in 0..2 {
                        let store = open(place, delay)?;
                        let losses = compare(&store.view(), &b.model, how, seed)?;
                        if lossless && losses != Losses::default() {
                            return Err(format!(
                                "no {what}, writer {n}, {delay:?}: {losses:?}\n{}",
                                file_list(&place.disk)
                            ));
                        }
                        store.compact_now().map_err(|e| e.to_string())?;
                        let losses = compare(&store.view(), &b.model, how, seed)?;
                        if lossless && losses != Losses::default() {
                            return Err(format!("no {what}, compacted {n}, {delay:?}: {losses:?}"));
                        }
                        store.close().map_err(|e| e.to_string())?;
                    }
                }
                // A copy that was begun before and ended after: the old manifest, and the run.
                let lost = b.model.lsn();
                if reader(&b.place)?.view().lsn() != lost {
                    return Err("the place itself changed".into());
                }
            }
            Ok(())
        })();
        tally.case(seed, result);
    }
    tally.finish("lost files", "");
}

#[test]
fn what_was_replaced_stays_for_the_delay_and_for_views() {
    let mut b = Built::new(7, small_items()).unwrap();
    let store = open(&b.place, HOUR).unwrap();
    b.fill(&store, 9).unwrap();
    let view = store.view();
    let model = b.model.clone();
    assert_eq!(store.compact_now().unwrap().runs, 1);
    assert_eq!(replaced(&b.place).len(), 8);
    b.place.clock.advance(3_599_000_000);
    assert_eq!(store.compact_now().unwrap().removed, 0, "before the delay is over");
    b.place.clock.advance(2_000_000);
    assert_eq!(store.compact_now().unwrap().removed, 0, "a view still has them");
    compare(&view, &model, Strictness::Exact, 1).unwrap();
    drop(view);
    // A clock that was set back is no reason to remove anything.
    b.place.clock.advance(-7_200_000_000);
    assert_eq!(store.compact_now().unwrap().removed, 0);
    b.place.clock.advance(7_200_000_000);
    assert_eq!(store.compact_now().unwrap().removed, 8);
    assert!(replaced(&b.place).is_empty());
    compare(&store.view(), &model, Strictness::Exact, 1).unwrap();
}

#[test]
fn the_log_comes_in_its_order_over_runs_and_to_subscribers() {
    let mut b = Built::new(8, small_items()).unwrap();
    let store = open(&b.place, Duration::ZERO).unwrap();
    b.fill(&store, 9).unwrap();
    let lsns = |store: &Store, from: u64| -> Vec<u64> {
        let view = store.view();
        let log = view.log(Lsn(from));
        log.map(|e| if let Ok(LogEntry::Transaction(t)) = e { t.lsn.0 } else { panic!("{e:?}") }).collect()
    };
    let last = b.model.lsn().0;
    let (all, some) = (lsns(&store, 1), lsns(&store, last / 2));
    let mut tail = store.tail(Lsn(1));
    let mut told = Vec::new();
    let mut next = |told: &mut Vec<u64>| match tail.next(Duration::from_millis(1)).unwrap() {
        Some(LogEntry::Transaction(t)) => told.push(t.lsn.0),
        Some(other) => panic!("{other:?}"),
        None => {}
    };
    (0..10).for_each(|_| next(&mut told));
    assert_eq!(store.compact_now().unwrap().runs, 1);
    assert_eq!((lsns(&store, 1), lsns(&store, last / 2)), (all.clone(), some));
    while told.len() < all.len() {
        next(&mut told);
    }
    assert_eq!(told, all);
    assert!(all.is_sorted() && all.len() > 100);
}

// The real disk.

fn real(name: &str) -> (tempfile::TempDir, PathBuf, Options) {
    let tmp = tempfile::Builder::new().prefix(name).tempdir().unwrap();
    let dir = tmp.path().join("store");
    let options = Options { compaction: false, retire_delay: Duration::ZERO, ..Options::new().unwrap() };
    Store::create(&dir, &small(64 << 10, 1 << 20), &options).unwrap();
    (tmp, dir, options)
}

fn fill_real(store: &Store, segments: usize) {
    for i in 0.. {
        if store.view().catalog().segments.len() >= segments {
            return;
        }
        let event = mailstrata_engine::Event {
            account: b"alice@example.org".to_vec(),
            account_id: None,
            item: format!("{}", i % 50).into_bytes(),
            kind: mailstrata_format::ItemKind::Message,
            change: mailstrata_engine::Change::Put {
                state: mailstrata_engine::State { name: Some(vec![b'x'; 900]), ..Default::default() },
                blobs: Vec::new(),
                content_unseen: false,
            },
            at: None,
            not_before: None,
            source: None,
            derived: false,
        };
        store.record(&event).unwrap();
    }
}

/// Transactions that a view reads without an error.
fn readable(reader: &Reader) -> usize {
    reader.view().log(Lsn(1)).filter(|e| matches!(e, Ok(LogEntry::Transaction(_)))).count()
}

fn segments_on_disk(dir: &Path) -> BTreeSet<String> {
    let names = std::fs::read_dir(dir.join("log")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    names.filter(|n| n.ends_with(".seg")).collect()
}

const HELD: &str = "MAILSTRATA_TEST_HOLDS";

#[test]
fn a_reader_in_another_process_keeps_what_it_may_still_read() {
    use std::io::{BufRead, BufReader, Read, Write};
    if let Some(dir) = std::env::var_os(HELD) {
        // The other process: opens, waits, reads.
        let reader = Store::open_read(Path::new(&dir), &Options::new().unwrap()).unwrap();
        println!("\nopen");
        std::io::stdin().read_exact(&mut [0]).unwrap();
        println!("\nread {}", readable(&reader));
        return;
    }
    let (_tmp, dir, options) = real("readers");
    let store = Store::open(&dir, &options).unwrap();
    fill_real(&store, 10);
    let written = store.view().lsn().0 as usize;
    let child = |then_kill: bool| {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_reader_in_another_process_keeps_what_it_may_still_read", "--nocapture"])
            .env(HELD, &dir)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|l| l.unwrap() == "open"));
        (child, lines, then_kill)
    };
    let (mut first, mut lines, _) = child(false);
    let done = store.compact_now().unwrap();
    assert!(done.runs == 1 && done.removed == 0, "{done:?}");
    let there = segments_on_disk(&dir);
    assert!(there.contains("00000001.seg"), "{there:?}");
    // A reader that opens now has the run: it holds nothing back.
    let late = Store::open_read(&dir, &options).unwrap();
    first.stdin.take().unwrap().write_all(b"x").unwrap();
    let read = lines.find_map(|l| l.unwrap().strip_prefix("read ").map(|n| n.parse::<usize>().unwrap()));
    assert_eq!(read, Some(written));
    assert!(first.wait().unwrap().success());
    let done = store.compact_now().unwrap();
    assert_eq!(done.removed, 8);
    assert!(!segments_on_disk(&dir).contains("00000001.seg"));
    assert_eq!(readable(&late), written);
    // A lock dies with its process.
    fill_real(&store, 11);
    let (mut second, _lines, _) = child(true);
    fill_real(&store, store.view().catalog().segments.len() + 8);
    let done = store.compact_now().unwrap();
    assert!(done.runs >= 1 && done.removed == 0, "{done:?}");
    second.kill().unwrap();
    second.wait().unwrap();
    drop(late);
    let done = store.compact_now().unwrap();
    assert!(done.removed >= 8, "{done:?}");
}

#[test]
fn it_runs_by_itself_beside_the_writer() {
    let (_tmp, dir, options) = real("background");
    let options = Options { compaction: true, ..options };
    let store = Store::open(&dir, &options).unwrap();
    fill_real(&store, 8);
    let start = Instant::now();
    while !tiers(&store).contains(&1) {
        assert!(start.elapsed() < Duration::from_secs(60), "no run after a minute: {:?}", tiers(&store));
        fill_real(&store, store.view().catalog().segments.len() + 1);
    }
    let written = store.view().lsn().0 as usize;
    store.close().unwrap();
    assert_eq!(readable(&Store::open_read(&dir, &options).unwrap()), written);
}

#[test]
fn the_reader_written_from_the_specification_reads_a_compacted_store() {
    let python = std::env::var("MAILSTRATA_PYTHON").unwrap_or_else(|_| "python3".into());
    let command = |args: &[&std::ffi::OsStr]| std::process::Command::new(&python).arg("-B").args(args).output();
    if !command(&["-c".as_ref(), "import xxhash, zstandard".as_ref()]).is_ok_and(|o| o.status.success()) {
        eprintln!("skipped: {python} is not there or lacks the modules of requirements.txt");
        return;
    }
    let (_tmp, dir, options) = real("specification");
    let store = Store::open(&dir, &Options { retire_delay: HOUR, ..options }).unwrap();
    fill_real(&store, 10);
    assert_eq!(store.compact_now().unwrap().runs, 1);
    let written = store.view().lsn().0 as usize;
    store.close().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../format-spec/reader.py");
    let said = command(&[script.as_ref(), dir.as_ref(), "--check".as_ref()]).unwrap();
    assert!(said.status.success() && said.stderr.is_empty(), "{}", String::from_utf8_lossy(&said.stderr));
    let said = command(&[script.as_ref(), dir.as_ref()]).unwrap();
    let lines = String::from_utf8(said.stdout).unwrap();
    let lsn = |l: &str| l.split("\"lsn\":").nth(1)?.split(',').next()?.parse::<usize>().ok();
    assert_eq!(lines.lines().filter_map(lsn).collect::<Vec<_>>(), (1..=written).collect::<Vec<_>>());
}
