//! How long a store takes to open after its writer was killed in the middle of writing.
//!
//! A child takes in mails at full speed and gets SIGKILL; then this process opens the store for reading, and for writing.
//! What the child wrote went past the page cache, so it comes from the device.

use crate::mail::Corpus;
use crate::report::{Goal, Report, Rounds};
use crate::{Bench, Outcome, fixture, ingest};
use mailstrata_engine::{Options, Store};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// All of it.
pub fn run(bench: &Bench, report: &mut Report) -> Outcome {
    let dir = fixture::store(bench)?;
    let options = Options::new()?;
    let (mut write, mut read) = (Rounds::default(), Rounds::default());
    // From here on the store is not the fixture any more.
    std::fs::remove_file(dir.with_extension("whole"))?;
    let mut next = bench.scale.items;
    for round in 0..bench.scale.rounds {
        bench.settle()?;
        let mut child = Command::new(&bench.program)
            .arg("child-writer")
            .arg(&dir)
            .arg(next.to_string())
            .stdout(Stdio::piped())
            .spawn()?;
        next += 1_000_000;
        let mut line = String::new();
        let out = child.stdout.take().ok_or("the child has no output")?;
        BufReader::new(out).read_line(&mut line)?;
        // From the first segment and pack to some way into them, other places each time.
        std::thread::sleep(bench.scale.window + Duration::from_millis(37 * round as u64));
        child.kill()?;
        child.wait()?;
        if line.trim() != "writing" {
            return Err("child-writer did not come to write".into());
        }
        let begin = Instant::now();
        let reader = Store::open_read(&dir, &options)?;
        read.add_bare(begin.elapsed().as_secs_f64() * 1e3);
        let lsn = reader.view().lsn();
        drop(reader);
        let begin = Instant::now();
        let store = Store::open(&dir, &options)?;
        write.add_bare(begin.elapsed().as_secs_f64() * 1e3);
        if store.view().lsn() != lsn || !store.findings().is_empty() {
            return Err(format!("two opens differ: {lsn:?}, {:?}, {:?}", store.view().lsn(), store.findings()).into());
        }
        store.close()?;
    }
    report.add("open", "for writing, after kill -9", "ms", &write, "", Goal::AtMost(100.0));
    report.add("open", "for reading, after kill -9", "ms", &read, "", Goal::AtMost(100.0));
    Ok(())
}

/// The child that is killed: takes in mails from number `from` on until it is.
pub fn writer_child(dir: &Path, from: u64) -> Outcome {
    let store = Store::open(dir, &Options::new()?)?;
    println!("writing");
    std::io::stdout().flush()?;
    let corpus = Corpus::default();
    let mut next = from;
    loop {
        ingest::fill(&store, &corpus, next..next + 2000)?;
        next += 2000;
    }
}
