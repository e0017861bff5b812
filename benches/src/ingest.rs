//! Mails into a store, as a scan puts them: through batches, from as many threads as there are cores.
//!
//! The ceiling is the CPU's part of the same mails: SHA-256 of each and zstd of chunks of them, nothing written.

use crate::mail::{self, Corpus};
use crate::report::{Goal, Report, Rounds};
use crate::{Bench, Outcome, ceiling, process};
use mailstrata_engine::{Create, Options, Store, Ticket};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// All of it.
pub fn run(bench: &Bench, report: &mut Report) -> Outcome {
    let dir = bench.dir.join("ingest");
    let options = Options::new()?;
    Store::create(&dir, &Create::default(), &options)?;
    let store = Store::open(&dir, &options)?;
    let corpus = Corpus::default();
    let (mut bytes, mut mails) = (Rounds::default(), Rounds::default());
    let mut next = 0;
    let mut raw = 0.0;
    for _ in 0..bench.scale.rounds {
        bench.settle()?;
        let range = next..next + bench.scale.mails;
        next = range.end;
        let c = ceiling::pack(&corpus, range.clone(), threads())?;
        let begin = Instant::now();
        let filled = fill(&store, &corpus, range)? as f64;
        let seconds = begin.elapsed().as_secs_f64();
        bytes.add(filled / seconds / 1e6, c / 1e6);
        mails.add_bare(bench.scale.mails as f64 / seconds);
        raw += filled;
    }
    store.close()?;
    let (_, stored) = process::size(&dir)?;
    let what = "SHA-256 and zstd of the same mails, same threads, no disk";
    report.add("ingest", "bodies and transactions, durable", "MB/s", &bytes, what, Goal::RatioAtLeast(0.7));
    report.add("ingest", "mails, durable", "1/s", &mails, "", Goal::None);
    report.add_value("ingest", "bytes of the store / bytes of the mails", "", stored as f64 / raw, Goal::None);
    Ok(())
}

/// Threads that ingest.
#[must_use]
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

/// Records mails as new items and returns when all of it is durable; the bytes of their bodies.
pub fn fill(store: &Store, corpus: &Corpus, mails: Range<u64>) -> Outcome<u64> {
    let next = AtomicU64::new(mails.start);
    let bytes = AtomicU64::new(0);
    let work = || -> Outcome {
        let mut body = Vec::new();
        let mut batch = store.batch();
        // The batch before is waited for while this one is prepared.
        let mut before: Option<Ticket> = None;
        loop {
            let from = next.fetch_add(16, Ordering::Relaxed);
            for n in from..(from + 16).min(mails.end) {
                corpus.mail(n, &mut body);
                bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
                let blob = batch.put_bytes(&body)?;
                batch.record(mail::arrival(n, vec![blob]));
            }
            if batch.len() < 256 && from < mails.end {
                continue;
            }
            let mut last = None;
            for ticket in batch.submit()? {
                last = Some(ticket?);
            }
            if let Some(t) = before {
                t.wait()?;
            }
            before = last;
            if from >= mails.end {
                return before.map_or(Ok(()), |t| Ok(t.wait().map(|_| ())?));
            }
        }
    };
    std::thread::scope(|scope| -> Outcome {
        let all: Vec<_> = (0..threads()).map(|_| scope.spawn(work)).collect();
        all.into_iter().try_for_each(|t| t.join().map_err(|_| "an ingesting thread panicked")?)
    })?;
    Ok(bytes.load(Ordering::Relaxed))
}
