//! One item as of a moment, out of a large store: `View::locate`, then `View::with_record` in place.
//!
//! *Hot*: everything in the page cache, one thread. *Cold*: the store's files are taken out of the page cache before every
//! 250 look-ups, and the reads of this thread are counted (`syscr` of `/proc/thread-self/io`: on a file that is in no cache
//! every read call is one request to the device). Memory is that of a child that writes, reads and does nothing else.

use crate::report::{Goal, Report, Rounds};
use crate::{Bench, Outcome, fixture, ingest, mail, process};
use mailstrata_engine::{Options, Store, View};
use mailstrata_format::record::v1::ArchivedTransactionV1;
use mailstrata_format::{AccountId, FileName, ItemKey};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Look-ups between two emptyings of the page cache.
const STEP: usize = 250;

/// A question and its answer.
#[derive(Clone, Copy)]
struct Question {
    n: u64,
    at: i64,
    seen: bool,
}

/// Random items, each as of a moment at which it was there.
fn questions(rng: &mut mail::Rng, items: u64, count: usize) -> Vec<Question> {
    let one = |_| {
        let n = rng.below(items);
        let late = rng.below(2) == 1;
        Question { n, at: mail::moment(n, i64::from(late)) + 1, seen: late && n.is_multiple_of(4) }
    };
    (0..count).map(one).collect()
}

fn ask(view: &View, q: &Question, (account, item): (AccountId, ItemKey)) -> Outcome {
    let hit = view.locate(account, item, Some(q.at))?.ok_or("an item is not found")?;
    let right = |r: &ArchivedTransactionV1| {
        let flags = r.flags.first().map_or(&b""[..], |f| f.as_slice());
        r.uid == q.n && (flags == b"\\Seen") == q.seen
    };
    if view.with_record(&hit, |_, r| right(r))? { Ok(()) } else { Err("a look-up found another state".into()) }
}

/// All of it.
pub fn run(bench: &Bench, report: &mut Report) -> Outcome {
    let dir = fixture::store(bench)?;
    let (files, _) = process::size(&dir)?;
    let items = bench.scale.items;
    report.add_value("lookup", format!("files of the store of {items} messages"), "", files as f64, Goal::AtMost(99.0));

    let options = Options::new()?;
    let reader = Store::open_read(&dir, &options)?;
    let view = reader.view();
    let mut rng = mail::Rng::new(3);

    let asked = questions(&mut rng, items, 50_000.min(items as usize));
    let keys: Vec<_> = asked.iter().map(|q| mail::key(q.n)).collect();
    let mut frames = Frames::default();
    for (q, k) in asked.iter().zip(&keys) {
        frames.add(&dir, &view, q, *k)?;
    }
    let mut hot = Rounds::default();
    for _ in 0..bench.scale.rounds {
        bench.settle()?;
        let bare = frames.read(bench.scale.window)?;
        let begin = Instant::now();
        let mut count = 0u64;
        'window: loop {
            for (q, k) in asked.iter().zip(&keys) {
                ask(&view, q, *k)?;
                count += 1;
                if count.is_multiple_of(64) && begin.elapsed() >= bench.scale.window {
                    break 'window;
                }
            }
        }
        hot.add(count as f64 / begin.elapsed().as_secs_f64(), bare);
    }
    let what = "pread and XXH3 of the same frames, known places";
    report.add("lookup", "hot, one core", "1/s", &hot, what, Goal::AtLeast(300_000.0));

    let (mut first, mut calls, mut pages, mut micros) =
        (Rounds::default(), Rounds::default(), Rounds::default(), Rounds::default());
    for _ in 0..bench.scale.rounds {
        bench.settle()?;
        let reader = Store::open_read(&dir, &options)?;
        let view = reader.view();
        let asked = questions(&mut rng, items, bench.scale.cold);
        let mut sum = process::Reads::default();
        let mut took = 0.0;
        for (i, step) in asked.chunks(STEP).enumerate() {
            process::forget(&dir)?;
            let look = process::Reads::look()?;
            let before = process::Reads::now()?;
            let begin = Instant::now();
            for q in step {
                ask(&view, q, mail::key(q.n))?;
            }
            took += begin.elapsed().as_secs_f64();
            let reads = process::Reads::now()?.since(before, look);
            sum.calls += reads.calls;
            sum.bytes += reads.bytes;
            if i == 0 {
                first.add_bare(reads.calls as f64 / step.len() as f64);
            }
        }
        let asked = asked.len() as f64;
        calls.add_bare(sum.calls as f64 / asked);
        pages.add_bare(sum.bytes as f64 / 4096.0 / asked);
        micros.add_bare(took * 1e6 / asked);
    }
    cold_threads(bench, report, &dir, &mut rng)?;
    let count = bench.scale.cold;
    report.add("lookup", format!("cold, {count} after an open"), "reads", &calls, "", Goal::AtMost(1.2));
    report.add("lookup", format!("cold, the first {STEP} of them"), "reads", &first, "", Goal::None);
    report.add("lookup", format!("cold, {count} after an open, pages"), "4 KiB", &pages, "", Goal::None);
    report.add("lookup", "cold, mean", "µs", &micros, "", Goal::None);

    let child =
        std::process::Command::new(&bench.program).arg("child-memory").arg(&dir).arg(items.to_string()).output()?;
    let text = String::from_utf8_lossy(&child.stdout);
    let peak: u64 =
        text.trim().parse().map_err(|_| format!("child-memory failed: {}", String::from_utf8_lossy(&child.stderr)))?;
    report.add_value(
        "lookup",
        format!("memory, writer and reader, {items} messages"),
        "MiB",
        peak as f64 / 1048576.0,
        Goal::AtMost(96.0),
    );
    Ok(())
}

/// Look-ups from several threads, the index warm and the frames in no cache.
fn cold_threads(bench: &Bench, report: &mut Report, dir: &Path, rng: &mut mail::Rng) -> Outcome {
    let options = Options::new()?;
    for threads in [1, 8, 32] {
        let (mut rate, mut p99) = (Rounds::default(), Rounds::default());
        for _ in 0..bench.scale.rounds {
            bench.settle()?;
            let reader = Store::open_read(dir, &options)?;
            let view = reader.view();
            let asked = questions(rng, bench.scale.items, bench.scale.cold);
            for q in &asked {
                let (account, item) = mail::key(q.n);
                view.locate(account, item, Some(q.at))?;
            }
            process::forget(dir)?;
            let next = AtomicUsize::new(0);
            let begin = Instant::now();
            let mut took: Vec<f64> = std::thread::scope(|scope| {
                let work = || {
                    let mut took = Vec::new();
                    while let Some(q) = asked.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let begin = Instant::now();
                        ask(&view, q, mail::key(q.n))?;
                        took.push(begin.elapsed().as_secs_f64() * 1e6);
                    }
                    Ok(took)
                };
                let all: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
                let joined = all.into_iter().map(|t| t.join().unwrap_or_else(|_| Err("a reader panicked".into())));
                joined.collect::<Outcome<Vec<Vec<f64>>>>().map(|all| all.concat())
            })?;
            rate.add_bare(took.len() as f64 / begin.elapsed().as_secs_f64());
            took.sort_unstable_by(f64::total_cmp);
            p99.add_bare(took.get(took.len() * 99 / 100).copied().unwrap_or(f64::NAN));
        }
        let goal = if threads == 1 { (Goal::AtLeast(12_000.0), Goal::AtMost(400.0)) } else { (Goal::None, Goal::None) };
        report.add("lookup", format!("cold, {threads} threads"), "1/s", &rate, "", goal.0);
        report.add("lookup", format!("cold, {threads} threads, p99"), "µs", &p99, "", goal.1);
    }
    Ok(())
}

/// The child whose memory is looked at: opens the store for writing, takes in mails, looks items up, prints the most memory
/// it ever had.
pub fn memory_child(dir: &Path, items: u64) -> Outcome {
    let store = Store::open(dir, &Options::new()?)?;
    let more = (items / 20).clamp(50, 20_000);
    ingest::fill(&store, &mail::Corpus::default(), items..items + more)?;
    let view = store.view();
    for q in questions(&mut mail::Rng::new(4), items, 20_000) {
        ask(&view, &q, mail::key(q.n))?;
    }
    println!("{}", process::resident_peak()?);
    store.close()?;
    Ok(())
}

/// Where frames lie, to be read without an index.
#[derive(Default)]
struct Frames {
    files: HashMap<FileName, File>,
    places: Vec<(FileName, u64, usize)>,
}

impl Frames {
    fn add(&mut self, dir: &Path, view: &View, q: &Question, (account, item): (AccountId, ItemKey)) -> Outcome {
        let hit = view.locate(account, item, Some(q.at))?.ok_or("an item is not found")?;
        if let Entry::Vacant(slot) = self.files.entry(hit.file) {
            slot.insert(File::open(dir.join(hit.file.path()))?);
        }
        self.places.push((hit.file, u64::from(hit.row.offset), hit.row.length as usize));
        Ok(())
    }

    /// Reads and hashes them in turn; how many a second.
    fn read(&self, window: std::time::Duration) -> Outcome<f64> {
        let mut buffer = vec![0; 1 << 16];
        let begin = Instant::now();
        let mut count = 0u64;
        loop {
            for (segment, at, len) in &self.places {
                let bytes = buffer.get_mut(..*len).ok_or("a frame of this corpus is short")?;
                self.files.get(segment).ok_or("no such segment")?.read_exact_at(bytes, *at)?;
                std::hint::black_box(mailstrata_format::checksum::body_hash(bytes));
                count += 1;
                if count.is_multiple_of(64) && begin.elapsed() >= window {
                    return Ok(count as f64 / begin.elapsed().as_secs_f64());
                }
            }
        }
    }
}
