//! Updates of metadata, durable every 64: flags of items chosen at random, by as many threads as there are cores.
//!
//! Each update is a patch, so its item's whole state is read and written again. Two of a thread's batches are on their way at
//! most: one is prepared while the one before is made durable. The ceiling is the bare loop with as many threads and 64
//! records a write: no state is read.

use crate::mail::{self, Rng};
use crate::report::{Goal, Report, Rounds};
use crate::{Bench, Outcome, ceiling, crowd, ingest};
use mailstrata_engine::{Change, Create, Event, Options, Patch, Store, Ticket};
use std::sync::atomic::{AtomicI64, Ordering};

/// Updates that become durable together.
pub const GROUP: usize = 64;

/// All of it.
pub fn run(bench: &Bench, report: &mut Report) -> Outcome {
    let (dir, items) = (bench.dir.join("metadata"), bench.scale.items);
    let options = Options::new()?;
    Store::create(&dir, &Create::default(), &options)?;
    let store = Store::open(&dir, &options)?;
    plant(&store, items)?;
    let (account, item) = mail::key(items / 2);
    let record = store.view().locate(account, item, None)?.ok_or("what was recorded is not there")?.row.length;
    let moment = AtomicI64::new(mail::moment(items, 1));
    let mut rate = Rounds::default();
    for round in 0..bench.scale.rounds {
        bench.settle()?;
        let threads = ingest::threads();
        let bare = ceiling::threads(&bench.dir, record as usize * GROUP, threads, bench.scale.window)?;
        let e = crowd::run(threads, bench.scale.window, |thread| {
            let mut rng = Rng::new((round * 64 + thread) as u64);
            let mut before: Option<Ticket> = None;
            let (store, moment) = (&store, &moment);
            Ok(move || {
                let mut batch = store.batch();
                for _ in 0..GROUP {
                    let at = moment.fetch_add(1, Ordering::Relaxed);
                    batch.record(update(rng.below(items), at));
                }
                let mut last = None;
                for ticket in batch.submit()? {
                    last = Some(ticket?);
                }
                if let Some(ticket) = std::mem::replace(&mut before, last) {
                    ticket.wait()?;
                }
                Ok(())
            })
        })?;
        rate.add(e.rate * GROUP as f64, bare.rate * GROUP as f64);
    }
    store.close()?;
    let what = "as many threads, 64 records a write, nothing read";
    report.add("metadata", "updates, durable every 64", "1/s", &rate, what, Goal::AtLeast(250_000.0));
    Ok(())
}

/// Items without bodies.
pub fn plant(store: &Store, items: u64) -> Outcome {
    let mut last = None;
    for from in (0..items).step_by(256) {
        let mut batch = store.batch();
        (from..(from + 256).min(items)).for_each(|n| batch.record(mail::arrival(n, Vec::new())));
        for ticket in batch.submit()? {
            last = Some(ticket?);
        }
    }
    Ok(last.map_or(Ok(()), |t| t.wait().map(|_| ()))?)
}

/// Item `n` gets other flags.
#[must_use]
pub fn update(n: u64, at: i64) -> Event {
    let flag = if at % 2 == 0 { b"\\Seen".to_vec() } else { b"\\Flagged".to_vec() };
    let patch = Patch { flags: Some(Some(vec![flag])), ..Patch::default() };
    Event { change: Change::Patch { patch, blobs: None }, at: Some(at), source: None, ..mail::seen(n) }
}
