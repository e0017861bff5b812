//! Random events against the model: histories, states at moments, accounts, blobs; with reopening in between and files so
//! small that they roll over.

use mailstrata_engine::disk::Clock;
use mailstrata_format::Lsn;
use mailstrata_tests::drive::{Fate, Place, Strictness, compare, file_list, is_sound, settle, small, step};
use mailstrata_tests::model::Model;
use mailstrata_tests::rng::{Rng, Tally, seeds};
use mailstrata_tests::sim::{Noise, SimDisk, Survival};
use mailstrata_tests::workload::{Bounds, Step, Workload};
use std::time::Instant;

/// One run: steps, checks and reopenings until `steps` are done. Returns the transactions recorded.
fn run(seed: u64, steps: usize) -> Result<u64, String> {
    let mut rng = Rng::new(seed ^ 0x6d6f_6465);
    let disk = SimDisk::new(seed);
    if rng.percent(50) {
        disk.set_noise(Noise { short_read: 20, short_write: 10, interrupted: 20 });
    }
    let mut place = Place::new(disk);
    let sizes = [64 << 10, 128 << 10, 1 << 20];
    place.create(&small(*rng.pick(&sizes), *rng.pick(&sizes))).map_err(|e| format!("create: {e}"))?;
    let bounds = Bounds { accounts: *rng.pick(&[1, 3, 6]), items: *rng.pick(&[1, 8, 40]), ..Bounds::default() };
    let mut work = Workload::new(seed, bounds, place.clock.now());
    let mut model = Model::default();
    let mut store = place.open().map_err(|e| format!("open: {e}"))?;
    for n in 0..steps {
        match rng.below(1000) {
            0..4 => {
                compare(&store.view(), &model, Strictness::Exact, rng.bits())?;
                let earlier = Lsn(rng.below(model.lsn().0 + 1));
                let then = model.until(earlier);
                compare(&store.view().at_lsn(earlier), &then, Strictness::Exact, rng.bits())
                    .map_err(|e| format!("as of LSN {earlier}: {e}"))?;
            }
            4..8 => {
                match rng.below(4) {
                    0 => store.close().map_err(|e| format!("close: {e}"))?,
                    1 => drop(store),
                    2 => {
                        place = place.on(place.disk.processes_died(rng.bits()));
                        drop(store);
                    }
                    _ => {
                        place = place.on(place.disk.power_cut(rng.bits(), Survival::Random));
                        drop(store);
                    }
                }
                if n.is_multiple_of(4) {
                    is_sound(&place).map_err(|e| format!("step {n}: {e}"))?;
                }
                store = place.open().map_err(|e| format!("step {n}: reopen: {e}\n{}", file_list(&place.disk)))?;
                if !store.findings().is_empty() {
                    return Err(format!("step {n}: findings {:?}", store.findings()));
                }
                compare(&store.view(), &model, Strictness::Exact, rng.bits())
                    .map_err(|e| format!("step {n}: reopened: {e}\n{}", file_list(&place.disk)))?;
            }
            8..28 => burst(&store, &mut model, &place, &mut work, &mut rng)?,
            _ => {
                let next = work.next_step();
                match step(&store, &mut model, &place, &next)? {
                    Fate::Done(_) => {}
                    other => return Err(format!("step {n}: {other:?}")),
                }
            }
        }
    }
    let reader = place.open_read().map_err(|e| format!("open_read: {e}"))?;
    compare(&reader.view(), &model, Strictness::Exact, rng.bits()).map_err(|e| format!("reader: {e}"))?;
    drop(reader);
    store.close().map_err(|e| format!("close: {e}"))?;
    let reader = place.open_read().map_err(|e| format!("open_read: {e}"))?;
    compare(&reader.view(), &model, Strictness::Exact, rng.bits()).map_err(|e| format!("closed: {e}"))?;
    Ok(model.lsn().0)
}

/// Several events are submitted before the first is waited for.
fn burst(
    store: &mailstrata_engine::Store,
    model: &mut Model,
    place: &Place,
    work: &mut Workload,
    rng: &mut Rng,
) -> Result<(), String> {
    let mut tickets = Vec::new();
    for _ in 0..1 + rng.below(30) {
        let Step::Record { event, blobs } = work.next_step() else { continue };
        mailstrata_tests::drive::put_blobs(store, model, &blobs)?.map_err(|e| format!("burst: {e}"))?;
        let now = place.clock.now();
        let ticket = store.submit(&event);
        let said = match &ticket {
            Ok(t) => Ok((t.lsn(), model.lsn() >= t.lsn())),
            Err(e) => Err(e.clone()),
        };
        match settle(model, &event, now, said)? {
            Fate::Done(_) => {}
            other => return Err(format!("burst: {other:?}")),
        }
        tickets.extend(ticket);
    }
    for t in tickets {
        t.wait().map_err(|e| format!("ticket: {e}"))?;
    }
    Ok(())
}

#[test]
fn a_store_answers_as_the_model_does() {
    let start = Instant::now();
    let mut transactions = 0;
    let mut tally = Tally::default();
    for seed in seeds(1, 20) {
        tally.case(seed, run(seed, 1500).map(|n| transactions += n));
    }
    tally.finish("model", format_args!("{transactions} transactions, {:?}", start.elapsed()));
}
