//! What a restore reads: every message of an account, then their bodies in the order in which they lie, each verified.
//!
//! The accounts of this store were written at the same time, so an account's bodies share their chunks with those of nine
//! others: the worst case of a chunk cache. The ceiling is the CPU's part of the same mails, from memory: zstd and SHA-256.
//! *Cold* starts with the store's files in no cache. *One message* is a random one, by its name: the chunk of up to 256 KiB
//! that it shares with others is decompressed for it.

use crate::mail::{self, Corpus};
use crate::report::{Goal, Report, Rounds};
use crate::{Bench, Outcome, ceiling, fixture, process};
use mailstrata_engine::{Options, Store, View};
use mailstrata_format::{AccountId, ItemKey};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// All of it.
pub fn run(bench: &Bench, report: &mut Report) -> Outcome {
    let dir = fixture::store(bench)?;
    let options = Options::new()?;
    let account = 3;
    let numbers = (account..bench.scale.items).step_by(usize::try_from(mail::ACCOUNTS)?);
    let packed = ceiling::Packed::new(&Corpus::default(), numbers)?;
    let id = AccountId::of_address(mail::address(account).as_bytes(), 1);
    let (mut cold, mut hot, mut mails) = (Rounds::default(), Rounds::default(), Rounds::default());
    for _ in 0..bench.scale.rounds {
        bench.settle()?;
        let bare = packed.unpack()?;
        process::forget(&dir)?;
        // The first reading warms the page cache for the second.
        for rounds in [&mut cold, &mut hot] {
            let reader = Store::open_read(&dir, &options)?;
            let begin = Instant::now();
            let (count, bytes) = read(&reader.view(), id)?;
            let seconds = begin.elapsed().as_secs_f64();
            rounds.add(bytes as f64 / seconds / 1e6, bare / 1e6);
            mails.add_bare(count as f64 / seconds);
        }
    }
    let what = "zstd and SHA-256 of the same mails, from memory";
    report.add("restore", "an account, cold", "MB/s", &cold, what, Goal::None);
    report.add("restore", "an account, hot", "MB/s", &hot, what, Goal::None);
    report.add("restore", "messages of an account", "1/s", &mails, "", Goal::None);
    listing(bench, report, &dir, id)?;
    one_by_one(bench, report, &dir)
}

/// Every item of an account at a moment with its record, from a log in which the accounts lie mixed; nothing in the cache.
fn listing(bench: &Bench, report: &mut Report, dir: &Path, account: AccountId) -> Outcome {
    let options = Options::new()?;
    let mut took = Rounds::default();
    for _ in 0..bench.scale.rounds {
        bench.settle()?;
        process::forget(dir)?;
        let begin = Instant::now();
        let reader = Store::open_read(dir, &options)?;
        let view = reader.view();
        let mut count = 0u64;
        for hit in view.ahead(view.items(account, None)?) {
            view.with_record(&hit?, |_, r| std::hint::black_box(r.uid.to_native()))?;
            count += 1;
        }
        took.add_bare(begin.elapsed().as_secs_f64() * 1e3 / count as f64 * 10_000.0);
    }
    report.add("restore", "10,000 items listed, cold, open included", "ms", &took, "", Goal::AtMost(200.0));
    Ok(())
}

/// Random messages, one at a time: from a name to its verified bytes. The ceiling is one `pread` of as many bytes at a random
/// place of the packs.
fn one_by_one(bench: &Bench, report: &mut Report, dir: &Path) -> Outcome {
    let options = Options::new()?;
    let reader = Store::open_read(dir, &options)?;
    let view = reader.view();
    let mut rng = mail::Rng::new(5);
    let mut packs = Vec::new();
    process::files(&dir.join("pack"), &mut |path| {
        let file = File::open(path)?;
        packs.push((file.metadata()?.len(), file));
        Ok(())
    })?;
    let asked: Vec<_> = (0..bench.scale.cold).map(|_| mail::key(rng.below(bench.scale.items))).collect();
    let (mut hot, mut worst, mut cold, mut many) =
        (Rounds::default(), Rounds::default(), Rounds::default(), Rounds::default());
    for _ in 0..bench.scale.rounds {
        bench.settle()?;
        let (bare, _) = random_reads(&packs, &mut rng, asked.len())?;
        let mut took = Vec::with_capacity(asked.len());
        for key in &asked {
            let begin = Instant::now();
            fetch(&view, *key)?;
            took.push(begin.elapsed().as_secs_f64() * 1e6);
        }
        hot.add(took.iter().sum::<f64>() / took.len() as f64, bare);
        took.sort_unstable_by(f64::total_cmp);
        worst.add_bare(took.get(took.len() * 99 / 100).copied().unwrap_or(f64::NAN));

        process::forget(dir)?;
        let (bare, _) = random_reads(&packs, &mut rng, asked.len())?;
        process::forget(dir)?;
        let begin = Instant::now();
        for key in &asked {
            fetch(&view, *key)?;
        }
        cold.add(begin.elapsed().as_secs_f64() * 1e6 / asked.len() as f64, bare);

        process::forget(dir)?;
        let next = AtomicUsize::new(0);
        let begin = Instant::now();
        std::thread::scope(|scope| {
            let work = || -> Outcome {
                while let Some(key) = asked.get(next.fetch_add(1, Ordering::Relaxed)) {
                    fetch(&view, *key)?;
                }
                Ok(())
            };
            let threads: Vec<_> = (0..DEPTH).map(|_| scope.spawn(work)).collect();
            threads.into_iter().try_for_each(|t| t.join().unwrap_or_else(|_| Err("a reader panicked".into())))
        })?;
        many.add_bare(asked.len() as f64 / begin.elapsed().as_secs_f64());
    }
    let what = "pread of 8 KiB at a random place";
    report.add("restore", "one message, hot, mean", "µs", &hot, what, Goal::AtMost(1000.0));
    report.add("restore", "one message, hot, p99", "µs", &worst, "", Goal::AtMost(1000.0));
    report.add("restore", "one message, cold, mean", "µs", &cold, what, Goal::None);
    report.add("restore", "one message, cold, 32 threads", "1/s", &many, "", Goal::None);
    Ok(())
}

/// Threads that read at once.
const DEPTH: usize = 32;

/// One message, from the name to the last byte.
fn fetch(view: &View, (account, item): (AccountId, ItemKey)) -> Outcome {
    let transaction = view.state(account, item, None)?.ok_or("a message is not found")?;
    let body = transaction.content().ok_or("a message has no body")?;
    view.read_blob(&body.digest, &mut |part| {
        std::hint::black_box(part);
        Ok(())
    })?;
    Ok(())
}

/// Mean µs of a read of 8 KiB at a random place of some files, and the bytes read.
fn random_reads(files: &[(u64, File)], rng: &mut mail::Rng, count: usize) -> Outcome<(f64, u64)> {
    let mut buffer = [0; 8 << 10];
    let mut bytes = 0;
    let begin = Instant::now();
    for _ in 0..count {
        let (len, file) = files.get(usize::try_from(rng.below(files.len() as u64))?).ok_or("no pack")?;
        bytes += file.read_at(&mut buffer, rng.below(len.saturating_sub(8 << 10).max(1)))? as u64;
    }
    Ok((begin.elapsed().as_secs_f64() * 1e6 / count as f64, bytes))
}

/// Messages and bytes of an account.
fn read(view: &View, account: AccountId) -> Outcome<(u64, u64)> {
    let mut bodies = Vec::new();
    for hit in view.items(account, None)? {
        let transaction = view.read(&hit?)?;
        let body = transaction.content().ok_or("a message has no body")?;
        let extent = view.extent(&body.digest)?.ok_or("a body is in no pack")?;
        bodies.push((extent.pack, extent.entry_offset, extent.raw_offset, body.digest));
    }
    bodies.sort_unstable();
    let mut bytes = 0;
    for (.., digest) in &bodies {
        bytes += view.read_blob(digest, &mut |part| {
            std::hint::black_box(part);
            Ok(())
        })?;
    }
    Ok((bodies.len() as u64, bytes))
}
