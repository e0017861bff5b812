//! Rot: bits flipped one by one all over a closed store, then larger damage. No read ever returns a wrong byte; what was not
//! touched stays readable; what can be derived again is.

use mailstrata_engine::disk::Clock;
use mailstrata_format::BLOCK;
use mailstrata_format::index::{self, Trailer};
use mailstrata_tests::drive::{Losses, Place, Strictness, compare, small, step};
use mailstrata_tests::model::Model;
use mailstrata_tests::rng::{Rng, Tally, seeds};
use mailstrata_tests::sim::SimDisk;
use mailstrata_tests::workload::{Bounds, Workload};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A store that is written and closed.
struct Built {
    place: Place,
    model: Model,
    work: Workload,
}

impl Built {
    fn new(seed: u64, bounds: Bounds) -> Result<Self, String> {
        let place = Place::new(SimDisk::new(seed));
        place.create(&small(64 << 10, 64 << 10)).map_err(|e| e.to_string())?;
        let work = Workload::new(seed, bounds, place.clock.now());
        Ok(Self { place, model: Model::default(), work })
    }

    /// Some steps, reopening now and then, and a clean close.
    fn work(&mut self, steps: usize, reopen: u32) -> Result<(), String> {
        let mut store = self.place.open().map_err(|e| e.to_string())?;
        for _ in 0..steps {
            step(&store, &mut self.model, &self.place, &self.work.next_step())?;
            if self.work.rng().one_in(reopen) {
                store.close().map_err(|e| e.to_string())?;
                store = self.place.open().map_err(|e| e.to_string())?;
            }
        }
        store.close().map_err(|e| e.to_string())
    }
}

fn build(seed: u64, steps: usize, bounds: Bounds, reopen: u32) -> Result<(Place, Model), String> {
    let mut built = Built::new(seed, bounds)?;
    built.work(steps, reopen)?;
    Ok((built.place, built.model))
}

/// What a reader says about a damaged copy: the damage it reports, and what it could not answer.
fn read(place: &Place, model: &Model, how: Strictness, seed: u64) -> Result<(usize, Losses), String> {
    let reader = place.open_read().map_err(|e| format!("open_read: {e}"))?;
    let losses = compare(&reader.view(), model, how, seed)?;
    Ok((reader.findings().len(), losses))
}

/// What a flipped bit may cost, by the file it is in.
fn bearable(path: &Path, part: Part, losses: &Losses) -> Result<(), String> {
    let inside = path.components().rev().nth(1).map(|c| c.as_os_str().to_string_lossy().into_owned());
    let fits = match inside.as_deref() {
        _ if part == Part::Footer => *losses == Losses::default(),
        // The record it hit.
        Some("log") => losses.transactions <= 1 && losses.blobs == 0,
        // The blobs of the chunk it hit.
        Some("pack") => losses.transactions == 0,
        // Derived, or there twice.
        _ => *losses == Losses::default(),
    };
    if fits { Ok(()) } else { Err(format!("a bit in {} cost {losses:?}", path.display())) }
}

fn below_store(place: &Place, path: &Path) -> PathBuf {
    path.strip_prefix(&place.dir).unwrap_or(path).to_path_buf()
}

/// Parts of a store, as far as what damage to them may cost.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// The index behind a sealed segment's content: derived, so it may cost nothing.
    Footer,
    /// A segment that is not sealed: nothing but the manifest's mark vouches for it.
    Unsealed,
    Rest,
}

fn part_of(path: &Path, bytes: &[u8], at: u64) -> Part {
    if path.extension().is_none_or(|e| e != "seg") {
        return Part::Rest;
    }
    let last = bytes.len().checked_sub(BLOCK).and_then(|n| bytes.get(n..)).and_then(Trailer::decode);
    match last.filter(|t| t.magic == index::MAGIC) {
        None => Part::Unsealed,
        Some(t) if at >= t.rows_offset => Part::Footer,
        Some(_) => Part::Rest,
    }
}

/// Flips bits in one part of some stores and reads everything.
fn flip_bits(name: &str, part: Part, budget: u64) {
    let start = Instant::now();
    let mut tally = Tally::default();
    let mut errors = 0;
    for seed in seeds(1, 3) {
        let bounds = Bounds { accounts: 2, items: 5, blob_max: 70_000, attribute_max: 3000, incarnations: true };
        let (place, model) = build(seed, 60, bounds, 30).unwrap_or_else(|e| panic!("MAILSTRATA_SEED={seed}: {e}"));
        let mut rng = Rng::new(seed);
        let total: u64 = place.disk.files().iter().map(|f| f.1).sum();
        for (path, len) in place.disk.files() {
            let bytes = place.disk.bytes(&path).unwrap_or_default();
            // Each file gets its share, small ones and the first bytes of each structure more.
            let share = (budget * len / total.max(1)).max(40);
            for n in 0..share {
                let at = match n % 4 {
                    0 => rng.below(len.div_ceil(4096)) * 4096 + rng.below(256),
                    1 => len.saturating_sub(1 + rng.below(4096)),
                    _ => rng.below(len),
                }
                .min(len.saturating_sub(1));
                let bit = at * 8 + rng.below(8);
                if part_of(&path, &bytes, at) != part {
                    continue;
                }
                let hit = place.on(place.disk.copy(rng.bits()));
                hit.disk.flip(&path, bit);
                let result = read(&hit, &model, Strictness::NoLie, seed).and_then(|(found, losses)| {
                    errors += u64::from(found > 0 || losses != Losses::default());
                    bearable(&below_store(&place, &path), part, &losses)
                });
                let place = below_store(&place, &path);
                tally.case(seed, result.map_err(|e| format!("{e}\n  bit {bit} of {}", place.display())));
            }
        }
    }
    tally.finish(name, format_args!("{errors} with errors, {:?}", start.elapsed()));
}

#[test]
fn a_flipped_bit_is_an_error_or_nothing() {
    flip_bits("bit flips", Part::Rest, 2000);
}

#[test]
fn a_flipped_bit_in_an_index_costs_nothing() {
    flip_bits("bit flips in footers", Part::Footer, 600);
}

#[test]
fn a_flipped_bit_in_an_unsealed_segment_is_told_where_it_is_asked_for() {
    flip_bits("bit flips in unsealed segments", Part::Unsealed, 900);
}

#[test]
fn a_damaged_store_goes_on() {
    let start = Instant::now();
    let mut tally = Tally::default();
    for seed in seeds(50, 2) {
        let (place, model) = build(seed, 80, Bounds { blob_max: 20_000, ..Bounds::default() }, 40)
            .unwrap_or_else(|e| panic!("MAILSTRATA_SEED={seed}: {e}"));
        let mut rng = Rng::new(seed);
        for _ in 0..250 {
            let files = place.disk.files();
            let (path, len) = rng.pick(&files).clone();
            let bit = rng.below(len * 8);
            if part_of(&path, &place.disk.bytes(&path).unwrap_or_default(), bit / 8) == Part::Unsealed {
                continue;
            }
            let hit = place.on(place.disk.copy(rng.bits()));
            hit.disk.flip(&path, bit);
            let result = go_on(&hit, &model, rng.bits());
            let place = below_store(&place, &path);
            tally.case(seed, result.map_err(|e| format!("{e}\n  bit {bit} of {}", place.display())));
        }
    }
    tally.finish("writing on a damaged store", format_args!("{:?}", start.elapsed()));
}

/// Opens for writing, records, closes; what was there before and what is new are right or an error.
fn go_on(place: &Place, model: &Model, seed: u64) -> Result<(), String> {
    let mut model = model.clone();
    let store = place.open().map_err(|e| format!("open: {e}"))?;
    compare(&store.view(), &model, Strictness::NoLie, seed)?;
    // Accounts of their own, so that no event builds on a state that is damaged.
    let mut recorded = 0;
    for i in 0..5 {
        let bytes: std::sync::Arc<[u8]> = format!("content {i} {seed}").into_bytes().into();
        mailstrata_tests::drive::send_again(&store, &mut model, place, &[bytes])?;
        recorded += 1;
    }
    compare(&store.view(), &model, Strictness::NoLie, seed).map_err(|e| format!("after {recorded} more: {e}"))?;
    store.close().map_err(|e| format!("close: {e}"))?;
    let reader = place.open_read().map_err(|e| format!("open_read: {e}"))?;
    compare(&reader.view(), &model, Strictness::NoLie, seed).map_err(|e| format!("closed: {e}")).map(drop)
}

/// Larger damage to a copy; says what it did.
fn wreck(place: &Place, older: &Place, rng: &mut Rng) -> String {
    let files: Vec<_> = place.disk.files().into_iter().filter(|f| f.1 > 0).collect();
    let (path, len) = rng.pick(&files).clone();
    let (other, _) = rng.pick(&files).clone();
    let name = below_store(place, &path).display().to_string();
    let size = usize::try_from(len).unwrap_or(0);
    match rng.below(9) {
        0 => {
            let (at, n) = (rng.index(size), 1 + rng.index(9000));
            place.disk.damage(&path, |b| b[at..(at + n).min(size)].fill(0));
            format!("{n} zeros at {at} of {name}")
        }
        1 => {
            let at = rng.index(size);
            let n = 1 + rng.index(5000);
            let noise = rng.bytes(n);
            place.disk.damage(&path, |b| b[at..(at + n).min(size)].copy_from_slice(&noise[..(at + n).min(size) - at]));
            format!("{n} random bytes at {at} of {name}")
        }
        2 => {
            let blocks = size / 4096;
            let (a, b) = (rng.index(blocks) * 4096, rng.index(blocks) * 4096);
            if a != b && blocks > 1 {
                place.disk.damage(&path, |bytes| {
                    let (low, high) = bytes.split_at_mut(a.max(b));
                    low[a.min(b)..a.min(b) + 4096].swap_with_slice(&mut high[..4096]);
                });
            }
            format!("blocks {a} and {b} of {name} swapped")
        }
        3 => {
            let to = rng.index(size);
            place.disk.damage(&path, |b| b.truncate(to));
            format!("{name} cut to {to}")
        }
        4 => {
            let n = 1 + rng.index(9000);
            let junk = rng.bytes(n);
            place.disk.damage(&path, |b| b.extend(junk));
            format!("junk behind {name}")
        }
        5 => {
            let (a, b) = (place.disk.bytes(&path), place.disk.bytes(&other));
            place.disk.damage(&path, |x| *x = b.unwrap_or_default());
            place.disk.damage(&other, |x| *x = a.unwrap_or_default());
            format!("{name} and {} swapped", below_store(place, &other).display())
        }
        6 => {
            use mailstrata_engine::disk::Disk;
            // The file is gone.
            drop(place.disk.remove(&path));
            format!("{name} removed")
        }
        7 => {
            let old = older.disk.bytes(&path);
            if let Some(old) = old {
                place.disk.damage(&path, |b| *b = old);
            }
            format!("{name} as it was before")
        }
        _ => {
            for _ in 0..40 {
                let (path, len) = rng.pick(&files).clone();
                place.disk.flip(&path, rng.below(len * 8));
            }
            "40 bits".into()
        }
    }
}

#[test]
fn large_damage_is_an_error_or_a_loss_that_is_told() {
    let start = Instant::now();
    let mut tally = Tally::default();
    for seed in seeds(100, 3) {
        let bounds = Bounds { accounts: 3, items: 10, blob_max: 400_000, attribute_max: 4000, incarnations: true };
        let fail = |e: String| -> ! { panic!("MAILSTRATA_SEED={seed}: {e}") };
        let mut built = Built::new(seed, bounds).unwrap_or_else(|e| fail(e));
        built.work(60, 40).unwrap_or_else(|e| fail(e));
        let older = built.place.on(built.place.disk.copy(seed));
        built.work(60, 40).unwrap_or_else(|e| fail(e));
        let Built { place, model, .. } = built;
        let mut rng = Rng::new(seed);
        for _ in 0..400 {
            let hit = place.on(place.disk.copy(rng.bits()));
            let what = wreck(&hit, &older, &mut rng);
            let result = match hit.open_read() {
                // A store that says it cannot be opened tells no lie.
                Err(e) if what.contains("SUPERBLOCK") || what.contains("40 bits") => {
                    drop(e);
                    Ok(())
                }
                Err(e) => Err(format!("open_read: {e}")),
                Ok(reader) => {
                    let told = !reader.findings().is_empty();
                    let how = if told { Strictness::Recorded } else { Strictness::NoLie };
                    compare(&reader.view(), &model, how, seed).map(drop)
                }
            };
            tally.case(seed, result.map_err(|e| format!("{e}\n  {what}")));
        }
    }
    tally.finish("large damage", format_args!("{:?}", start.elapsed()));
}

/// Damage to one block of a segment.
#[derive(Debug, Clone, Copy)]
enum Blow {
    Bit(u64),
    Zeros,
    Noise,
    /// Exchanged with the next block.
    Swap,
    /// The file ends before it.
    Cut,
}

/// Frames of a store: segment, offset, end, LSN.
fn frames(place: &Place, model: &Model) -> Result<Vec<(u64, u64, u64, u64)>, String> {
    let reader = place.open_read().map_err(|e| format!("open_read: {e}"))?;
    let view = reader.view();
    let mut out = Vec::new();
    for (account, item) in model.keys() {
        for h in view.rows(account, item).map_err(|e| e.to_string())? {
            let at = u64::from(h.row.offset);
            out.push((h.file.number, at, at + u64::from(h.row.length), h.row.lsn));
        }
    }
    Ok(out)
}

/// One blow: what it did not touch stays, what it touched is told, and an open for writing takes nothing away.
fn blow(
    place: &Place,
    model: &Model,
    frames: &[(u64, u64, u64, u64)],
    (path, segment, block): (&Path, u64, u64),
    (how, clean): (Blow, bool),
    seed: u64,
) -> Result<(), String> {
    let hit = place.on(place.disk.copy(seed));
    let size = BLOCK as u64;
    let (from, to) = (block * size, (block + 1) * size);
    let at = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    let before = hit.disk.bytes(path).unwrap_or_default();
    let mut rng = Rng::new(seed);
    hit.disk.damage(path, |b| match how {
        Blow::Bit(bit) => b[at(from + bit / 8 % size)] ^= 1 << (bit % 8),
        Blow::Zeros => b[at(from)..at(to)].fill(0),
        Blow::Noise => {
            let n = 1 + rng.index(BLOCK);
            b[at(from)..at(from) + n].copy_from_slice(&rng.bytes(n));
        }
        Blow::Swap => {
            let (a, rest) = b[at(from)..at(to + size)].split_at_mut(BLOCK);
            a.swap_with_slice(rest);
        }
        Blow::Cut => b.truncate(at(from)),
    });
    let damaged = hit.disk.bytes(path).unwrap_or_default();
    if damaged == before {
        return Ok(());
    }
    let touched = |f: &&(u64, u64, u64, u64)| {
        let end = if matches!(how, Blow::Cut) {
            u64::MAX
        } else if matches!(how, Blow::Swap) {
            to + size
        } else {
            to
        };
        f.0 == segment && f.1 < end && f.2 > from
    };
    let may = frames.iter().filter(touched).count();
    // A file that ends early takes its index along, one of a writer that died has none: then the loss is told for the store
    // as a whole, and not item by item.
    let indexed = clean && !matches!(how, Blow::Cut);
    let how_strict = if indexed { Strictness::NoLie } else { Strictness::Recorded };
    let (found, losses) = read(&hit, model, how_strict, seed)?;
    if !indexed && found == 0 {
        read(&hit, model, Strictness::NoLie, seed).map_err(|e| format!("nothing is reported at open, and {e}"))?;
    }
    if losses.transactions > may {
        return Err(format!("{} transactions are lost, the damage touches {may}", losses.transactions));
    }
    if losses.transactions > 0 && found == 0 && losses.answers == 0 {
        return Err(format!("{} transactions are lost and nothing says so", losses.transactions));
    }
    // A writer goes on, and leaves every byte that was there.
    let store = hit.open().map_err(|e| format!("open: {e}"))?;
    let mut more = model.clone();
    mailstrata_tests::drive::send_again(&store, &mut more, &hit, &[b"more".to_vec().into()])?;
    store.close().map_err(|e| format!("close: {e}"))?;
    let after = hit.disk.bytes(path).unwrap_or_default();
    let content = frames.iter().filter(|f| f.0 == segment).map(|f| at(f.2)).max().unwrap_or(0).min(damaged.len());
    // Where a last group was zeroed that only the next segment knows of, nothing says any more how far it went.
    let free = if matches!(how, Blow::Zeros) { at(from)..at(to) } else { 0..0 };
    if (0..content).any(|i| after.get(i) != damaged.get(i) && !free.contains(&i)) {
        return Err("a writer changed what was there".into());
    }
    let (_, again) = read(&hit, &more, how_strict, seed).map_err(|e| format!("after more was written: {e}"))?;
    if again.transactions > may {
        return Err(format!("after more was written {} are lost, the damage touches {may}", again.transactions));
    }
    Ok(())
}

#[test]
fn damage_to_any_block_of_the_log_costs_what_it_touches_and_is_told() {
    let start = Instant::now();
    let mut tally = Tally::default();
    for seed in seeds(500, 6) {
        let bounds = Bounds { accounts: 2, items: 6, blob_max: 3000, attribute_max: 2500, incarnations: true };
        let fail = |e: String| -> ! { panic!("MAILSTRATA_SEED={seed}: {e}") };
        let mut built = Built::new(seed, bounds).unwrap_or_else(|e| fail(e));
        built.work(50, 30).unwrap_or_else(|e| fail(e));
        let clean = seed % 2 == 0;
        if !clean {
            // The writer dies: its last group has no witness, all others have the groups behind them.
            let store = built.place.open().unwrap_or_else(|e| fail(e.to_string()));
            for _ in 0..12 {
                step(&store, &mut built.model, &built.place, &built.work.next_step()).unwrap_or_else(|e| fail(e));
            }
            let died = built.place.disk.processes_died(seed);
            drop(store);
            built.place = built.place.on(died);
        }
        let Built { place, model, .. } = built;
        let frames = frames(&place, &model).unwrap_or_else(|e| fail(e));
        let (last_segment, last_frame) = frames.iter().map(|f| (f.0, f.1)).max().unwrap_or_default();
        let mut rng = Rng::new(seed);
        for (path, _) in place.disk.files() {
            let Some(segment) = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_suffix(".seg")) else {
                continue;
            };
            let segment: u64 = segment.parse().unwrap_or_else(|e: std::num::ParseIntError| fail(e.to_string()));
            let size = BLOCK as u64;
            let content = frames.iter().filter(|f| f.0 == segment).map(|f| f.2).max().unwrap_or(0);
            for block in 1..content.div_ceil(size) {
                let witnessed = clean || segment < last_segment || (block + 2) * size <= last_frame / size * size;
                if !witnessed {
                    continue;
                }
                let mut blows =
                    vec![Blow::Bit(rng.below(size * 8)), Blow::Bit(rng.below(64 * 8)), Blow::Zeros, Blow::Noise];
                // With the index behind it two things are hit at once.
                if (block + 2) * size <= content {
                    blows.push(Blow::Swap);
                }
                // After a kill a file that is shorter looks like one that was never filled.
                if clean || segment < last_segment {
                    blows.push(Blow::Cut);
                }
                for how in blows {
                    let result = blow(&place, &model, &frames, (&path, segment, block), (how, clean), rng.bits());
                    let place = below_store(&place, &path);
                    tally.case(
                        seed,
                        result.map_err(|e| {
                            format!("{how:?}, clean {clean}: {e}\n  block {block} of {}", place.display())
                        }),
                    );
                }
            }
        }
    }
    tally.finish("damage to any block of the log", format_args!("{:?}", start.elapsed()));
}

#[test]
fn a_segment_that_ends_where_it_did_at_a_clean_close_is_not_whole_when_a_writer_went_on() {
    let bounds = Bounds { accounts: 2, items: 6, blob_max: 3000, attribute_max: 2500, incarnations: false };
    let mut built = Built::new(7, bounds).unwrap();
    built.work(5, 0).unwrap();
    let segments = |place: &Place| -> Vec<_> {
        let files = place.disk.files().into_iter();
        files.filter(|(path, _)| path.extension().is_some_and(|e| e == "seg")).collect()
    };
    let (path, closed) = segments(&built.place).pop().unwrap();
    let store = built.place.open().unwrap();
    for _ in 0..1000 {
        if segments(&built.place).last().is_some_and(|(last, _)| *last != path) {
            break;
        }
        step(&store, &mut built.model, &built.place, &built.work.next_step()).unwrap();
    }
    assert!(segments(&built.place).last().is_some_and(|(last, _)| *last != path));
    let died = built.place.disk.processes_died(7);
    drop(store);
    let place = built.place.on(died);
    place.disk.damage(&path, |b| b.truncate(usize::try_from(closed).unwrap()));
    let reader = place.open_read().unwrap();
    assert!(!reader.findings().is_empty(), "what was recorded after the close is gone, and nothing says so");
}
