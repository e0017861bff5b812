//! The most memory that a process ever has while it takes mails in, each figure from a child that does nothing else.
//!
//! *Batches* is what a scan does; *each durable* is 64 threads with bodies of up to 4 MB, each waited for. What stands beside
//! is the same child without a store: the mails alone, and the threads.

use crate::bodies::Bodies;
use crate::mail::Corpus;
use crate::report::{Goal, Report, Rounds};
use crate::{Bench, Outcome, crowd, ingest, new_item, process};
use mailstrata_engine::{Create, Options, Store};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// All of it.
pub fn run(bench: &Bench, report: &mut Report) -> Outcome {
    for (how, name) in [("batches", "mails in batches"), ("each", "64 producers, each durable")] {
        let (mut peak, mut own) = (Rounds::default(), Rounds::default());
        for round in 0..bench.scale.rounds {
            let dir = bench.dir.join(format!("memory-{how}-{round}"));
            Store::create(&dir, &Create::default(), &Options::new()?)?;
            let with = child(bench, how, &dir)?;
            let without = child(bench, how, Path::new("-"))?;
            peak.add(with, without);
            own.add_bare((with - without).max(0.0));
            std::fs::remove_dir_all(&dir)?;
        }
        // The bodies in 64 producers' hands are theirs; of a scan the goal is about the whole process.
        let whole = if how == "each" { Goal::None } else { Goal::AtMost(64.0) };
        report.add("memory", name, "MiB", &peak, "the same without a store", whole);
        report.add("memory", format!("{name}: the store's part"), "MiB", &own, "", Goal::AtMost(64.0));
    }
    Ok(())
}

fn child(bench: &Bench, how: &str, dir: &Path) -> Outcome<f64> {
    let mut child = Command::new(&bench.program);
    child.arg("child-ingest").arg(how).arg(dir).arg((bench.scale.mails * 2).to_string());
    let out = child.arg(bench.scale.window.as_millis().to_string()).output()?;
    let text = String::from_utf8_lossy(&out.stdout);
    let peak = text.trim().parse::<u64>();
    let peak = peak.map_err(|_| format!("child-ingest failed: {}", String::from_utf8_lossy(&out.stderr)))?;
    Ok(peak as f64 / 1_048_576.0)
}

/// The child: takes in mails, into no store when the directory is `-`, and prints the most memory it ever had.
pub fn ingest_child(how: &str, dir: &Path, mails: u64, window: Duration) -> Outcome {
    let store = if dir == Path::new("-") { None } else { Some(Store::open(dir, &Options::new()?)?) };
    let window = window * 4;
    if how == "batches" {
        let corpus = Corpus::default();
        match &store {
            Some(store) => drop(ingest::fill(store, &corpus, 0..mails)?),
            None => {
                let mut body = Vec::new();
                (0..mails).for_each(|n| corpus.mail(n, std::hint::black_box(&mut body)));
            }
        }
    } else {
        let (bodies, next) = (Bodies::default(), AtomicU64::new(0));
        match &store {
            Some(store) => drop(new_item::engine(store, &bodies, &next, 64, window)?),
            None => drop(crowd::run(64, window, |_| {
                let mut body = Vec::new();
                let (bodies, next) = (&bodies, &next);
                Ok(move || {
                    bodies.body(next.fetch_add(1, Ordering::Relaxed), std::hint::black_box(&mut body));
                    Ok(())
                })
            })?),
        }
    }
    println!("{}", process::resident_peak()?);
    Ok(store.map_or(Ok(()), Store::close)?)
}
