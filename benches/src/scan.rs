//! History from end to end: `View::scan` over every segment, each frame verified and its record accessed in place; no blob is
//! read.
//!
//! *Hot*: everything in the page cache; the ceiling is `pread` of the same files in pieces of 1 MiB and one XXH3 over them.
//! *Cold*: the store's files are in no cache; the ceiling is the same reading of the same files, after they were forgotten
//! again.

use crate::report::{Goal, Report, Rounds};
use crate::{Bench, Outcome, fixture, process};
use mailstrata_engine::{Options, Scanned, Store, View};
use std::fs::File;
use std::io::Read as _;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

/// All of it.
pub fn run(bench: &Bench, report: &mut Report) -> Outcome {
    let dir = fixture::store(bench)?;
    let options = Options::new()?;
    // The store has no marks of scanners, so every LSN is a transaction.
    let all = Store::open_read(&dir, &options)?.view().lsn().0;
    let log = dir.join("log");
    let mut hot = Rounds::default();
    let (mut cold, mut bytes) = (Rounds::default(), Rounds::default());
    for _ in 0..bench.scale.rounds {
        bench.settle()?;
        process::forget(&dir)?;
        let (size, bare) = read_files(&log)?;
        process::forget(&dir)?;
        let reader = Store::open_read(&dir, &options)?;
        let view = reader.view();
        let before = process::Reads::now()?;
        let seconds = walk(&view, all)?;
        let read = process::Reads::now()?.since(before, 0);
        cold.add(size as f64 / seconds / 1e6, size as f64 / bare / 1e6);
        bytes.add_bare(read.bytes as f64 / size as f64);

        let begin = Instant::now();
        let (mut count, mut bare, mut bares) = (0u64, 0.0, 0u64);
        let mut took = 0.0;
        while begin.elapsed() < bench.scale.window * 2 {
            took += walk(&view, all)?;
            count += all;
            bare += read_files(&log)?.1;
            bares += all;
        }
        hot.add(count as f64 / took, bares as f64 / bare);
    }
    report.add("scan", "hot, one core", "1/s", &hot, "pread and XXH3 of the log's files", Goal::AtLeast(4_500_000.0));
    report.add("scan", "cold, of the log's bytes", "MB/s", &cold, "the same", Goal::RatioAtLeast(0.8));
    report.add("scan", "cold, bytes read a byte of log", "", &bytes, "", Goal::AtMost(1.1));
    Ok(())
}

/// Seconds for a whole scan.
fn walk(view: &View, all: u64) -> Outcome<f64> {
    let begin = Instant::now();
    let (mut count, mut sum) = (0u64, 0u64);
    view.scan(|step| {
        if let Scanned::Record(_, _, record) = step {
            count += 1;
            sum = sum.wrapping_add(record.uid.to_native());
        }
        ControlFlow::Continue(())
    })?;
    std::hint::black_box(sum);
    if count == all { Ok(begin.elapsed().as_secs_f64()) } else { Err(format!("{count} of {all} scanned").into()) }
}

/// Bytes of the files in a directory, and the seconds that it took to read and hash them.
fn read_files(dir: &Path) -> Outcome<(u64, f64)> {
    let mut buffer = vec![0; 1 << 20];
    let begin = Instant::now();
    let mut size = 0;
    process::files(dir, &mut |path| {
        let mut file = File::open(path)?;
        loop {
            let n = file.read(&mut buffer)?;
            if n == 0 {
                return Ok(());
            }
            size += n as u64;
            std::hint::black_box(mailstrata_format::checksum::body_hash(buffer.get(..n).unwrap_or_default()));
        }
    })?;
    Ok((size, begin.elapsed().as_secs_f64()))
}
