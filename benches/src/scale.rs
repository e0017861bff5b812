//! How cost grows with the store: 10 M items, 30 M transactions, 5 M bodies, and what each costs at that size.
//!
//! Out goes one JSON object a line; `plots/draw.py` makes the plots of them. Every stage is a process of its own, so that its
//! memory is its own, and so that one can be killed:
//!
//! 1. *write*: producers with tickets fill the store; rate, memory, files and bytes at thirty points.
//! 2. *open* after a clean close; *open* after a child that wrote on has sent itself SIGKILL.
//! 3. *lookup*: items chosen at random as of a moment at which they were there, cold.
//! 4. *list*: one account as of the middle, cold.
//! 5. *versions*: a million versions of one item, then the first, the middle and the last of them, and its log.
//!
//! The traffic: mail arrives in turn for all accounts, half of it with a body of some hundred bytes; for each arrival two
//! items get other flags, whose ages are log-uniform (as many changes within the last ten arrivals as between the last ten
//! and hundred). A change is a whole state, or a patch with `--updates patch`, which reads the state before it.
//!
//! *Cold* means: in no cache of this machine. The device is asked `syscr + majflt` times at most: on a file in no cache each
//! read call and each page fault is one request, unless two meet in a page.

use crate::mail::Rng;
use crate::{Outcome, process};
use mailstrata_engine::{Blob, Change, Create, Event, Options, Patch, State, Store, Ticket, View};
use mailstrata_format::{AccountId, ItemKey, ItemKind};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub const HELP: &str = "\
mailstrata-benches scale [--items N] [--dir DIR] [--accounts A] [--producers P] [--versions V] [--updates put|patch]
                         [--lookups L] [--keep]

  --items      items; three times as many transactions, half as many bodies (default 10000000: about 15 GB of disk)
  --dir        where the store goes; it is removed in the end (default: target/bench)
  --accounts   default: one for 10000 items, at least 10
  --producers  threads that write (default: one a core)
  --versions   of one item (default: a tenth of the items, at most 1000000)
  --lookups    cold look-ups (default 4000)
  --keep       leaves the store there";

/// Changes of items for each arrival.
const CHANGES: u64 = 2;
/// Transactions that a producer hands over at once.
const GROUP: usize = 192;
/// Points at which the growing store is looked at.
const POINTS: u64 = 30;
/// The moment of the first arrival, µs UTC, and the time from one to the next.
const EPOCH: i64 = 1_600_000_000_000_000;
const STEP: i64 = 3000;
/// Who has the item with a million versions.
const MANY: u64 = u64::MAX;

/// What a run is made of; handed to each child as it is.
#[derive(Debug, Clone)]
struct Plan {
    dir: PathBuf,
    items: u64,
    accounts: u64,
    producers: u64,
    versions: u64,
    lookups: u64,
    patch: bool,
    keep: bool,
}

impl Plan {
    fn parse(args: &[String]) -> Outcome<Self> {
        let mut plan = Self {
            dir: "target/bench".into(),
            items: 10_000_000,
            accounts: 0,
            producers: crate::ingest::threads() as u64,
            versions: 0,
            lookups: 4000,
            patch: false,
            keep: false,
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value\n{HELP}"));
            match arg.as_str() {
                "--dir" => plan.dir = value()?.into(),
                "--items" => plan.items = value()?.parse()?,
                "--accounts" => plan.accounts = value()?.parse()?,
                "--producers" => plan.producers = value()?.parse()?,
                "--versions" => plan.versions = value()?.parse()?,
                "--lookups" => plan.lookups = value()?.parse()?,
                "--updates" => plan.patch = value()? == "patch",
                "--keep" => plan.keep = true,
                _ => return Err(format!("scale has no option {arg}\n{HELP}").into()),
            }
        }
        if plan.accounts == 0 {
            plan.accounts = (plan.items / 10_000).max(10);
        }
        if plan.versions == 0 {
            plan.versions = (plan.items / 10).clamp(1, 1_000_000);
        }
        if plan.items < 100 || plan.producers == 0 || plan.producers > plan.items / 10 || plan.accounts > plan.items {
            return Err("too few items for that many producers or accounts".into());
        }
        Ok(plan)
    }

    fn args(&self) -> Vec<String> {
        let pairs = [
            ("--dir", self.dir.display().to_string()),
            ("--items", self.items.to_string()),
            ("--accounts", self.accounts.to_string()),
            ("--producers", self.producers.to_string()),
            ("--versions", self.versions.to_string()),
            ("--lookups", self.lookups.to_string()),
            ("--updates", if self.patch { "patch" } else { "put" }.to_owned()),
        ];
        pairs.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect()
    }

    /// Items that one producer writes: those whose number has its remainder.
    const fn share(&self, items: u64) -> u64 {
        items / self.producers
    }

    fn address(&self, n: u64) -> String {
        if n == MANY { "many@example.org".to_owned() } else { format!("user{}@example.org", n % self.accounts) }
    }

    fn key(&self, n: u64) -> (AccountId, ItemKey) {
        let account = AccountId::of_address(self.address(n).as_bytes(), 1);
        (account, ItemKey::of(ItemKind::Message.code(), &native(n)))
    }
}

fn native(n: u64) -> Vec<u8> {
    format!("1600000000/{n}").into_bytes()
}

const fn moment(n: u64) -> i64 {
    EPOCH + n.cast_signed() * STEP
}

/// The store's options; what compaction needs to run beside the writer goes here.
fn options() -> Outcome<Options> {
    // No copy of the store is under way: what a run replaced may go at once.
    Ok(Options { retire_delay: Duration::ZERO, ..Options::new()? })
}

/// Runs all stages, each as a child of `program`, and removes the store.
pub fn run(args: &[String], program: &Path) -> Outcome {
    if args.iter().any(|a| a == "--help" || a == "-h") {
        println!("{HELP}");
        return Ok(());
    }
    let mut plan = Plan::parse(args)?;
    plan.dir = plan.dir.join(format!("scale-{}", std::process::id()));
    std::fs::create_dir_all(&plan.dir)?;
    let outcome = stages(&plan, program);
    if !plan.keep {
        std::fs::remove_dir_all(&plan.dir)?;
    }
    outcome
}

fn stages(plan: &Plan, program: &Path) -> Outcome {
    let stage = |name: &str| -> Outcome<std::process::ExitStatus> {
        eprintln!("scale: {name} …");
        Ok(Command::new(program).arg("child-scale").arg(name).args(plan.args()).stdin(Stdio::null()).status()?)
    };
    let must = |name: &str| -> Outcome {
        let status = stage(name)?;
        if status.success() { Ok(()) } else { Err(format!("the stage {name} failed: {status}").into()) }
    };
    must("write")?;
    must("open-clean")?;
    let killed = stage("crash")?;
    if std::os::unix::process::ExitStatusExt::signal(&killed) != Some(libc::SIGKILL) {
        return Err(format!("the stage crash was to be killed: {killed}").into());
    }
    must("open-killed")?;
    must("lookup")?;
    must("list")?;
    must("versions")
}

/// One stage, in a process of its own.
pub fn child(stage: &str, args: &[String]) -> Outcome {
    let plan = Plan::parse(args)?;
    match stage {
        "write" => write_stage(&plan),
        "open-clean" | "open-killed" => open_stage(&plan, stage),
        "crash" => crash_stage(&plan),
        "lookup" => lookup_stage(&plan),
        "list" => list_stage(&plan),
        "versions" => versions_stage(&plan),
        _ => Err(format!("there is no stage {stage}").into()),
    }
}

/// A line of the result.
fn say(value: &Value) {
    println!("{value}");
}

fn event(plan: &Plan, n: u64, at: i64, change: Change) -> Event {
    Event {
        account: plan.address(n).into_bytes(),
        account_id: None,
        item: native(n),
        kind: ItemKind::Message,
        change,
        at: Some(at),
        not_before: None,
        source: None,
        derived: false,
    }
}

fn state(n: u64, flags: Vec<Vec<u8>>) -> State {
    State {
        folder: Some(b"INBOX".to_vec()),
        flags: Some(flags),
        name: Some(format!("message {n} about the meeting on Thursday").into_bytes()),
        sender: Some(format!("sender{}@example.net", n % 997).into_bytes()),
        date: Some(moment(n)),
        uid: Some(n),
        attributes: Vec::new(),
        tags: None,
    }
}

/// The body of an item with an even number: no two are alike, and a third of the bytes is noise.
fn body(n: u64) -> Vec<u8> {
    let mut rng = Rng::new(n);
    let mut out = format!("Message-ID: <{n}@example.net>\r\nSubject: message {n}\r\n\r\n").into_bytes();
    for _ in 0..4 + rng.below(6) {
        let noise = rng.next_u64();
        out.extend_from_slice(format!("We meet on Thursday as planned. {noise:016x}\r\n").as_bytes());
    }
    out
}

fn has_body(n: u64) -> bool {
    n.is_multiple_of(2)
}

/// A flag change of an item that is there.
fn change(plan: &Plan, n: u64, at: i64, turn: u64) -> Event {
    let flags = vec![if turn.is_multiple_of(2) { b"\\Seen".to_vec() } else { b"\\Flagged".to_vec() }];
    if plan.patch {
        let patch = Patch { flags: Some(Some(flags)), ..Patch::default() };
        return event(plan, n, at, Change::Patch { patch, blobs: None });
    }
    let blobs = if has_body(n) {
        let bytes = body(n);
        vec![Blob { digest: mailstrata_format::Digest::of(&bytes), length: bytes.len() as u64, role: None }]
    } else {
        Vec::new()
    };
    event(plan, n, at, Change::Put { state: state(n, flags), blobs, content_unseen: false })
}

/// Writes arrivals `from..to` of one producer's share, and their changes; `done` counts transactions.
fn produce(plan: &Plan, store: &Store, producer: u64, from: u64, to: u64, done: &AtomicU64) -> Outcome {
    let mut rng = Rng::new(producer << 40 ^ from);
    let mut batch = store.batch();
    let mut before: Option<Ticket> = None;
    for i in from..to {
        let n = i * plan.producers + producer;
        let blobs = if has_body(n) { vec![batch.put_bytes(&body(n))?] } else { Vec::new() };
        let arrives = Change::Put { state: state(n, vec![b"\\Recent".to_vec()]), blobs, content_unseen: false };
        batch.record(event(plan, n, moment(n), arrives));
        for turn in 0..CHANGES {
            let age = ((i + 1) as f64).powf(rng.unit()) as u64;
            let changed = (i + 1 - age.clamp(1, i + 1)) * plan.producers + producer;
            batch.record(change(plan, changed, moment(n) + 1 + turn.cast_signed(), turn));
        }
        if batch.len() >= GROUP || i + 1 == to {
            let count = batch.len() as u64;
            let mut last = None;
            for ticket in batch.submit()? {
                last = Some(ticket?);
            }
            if let Some(ticket) = std::mem::replace(&mut before, last) {
                ticket.wait()?;
            }
            done.fetch_add(count, Ordering::Relaxed);
        }
    }
    Ok(before.map_or(Ok(()), |t| t.wait().map(|_| ()))?)
}

fn write_stage(plan: &Plan) -> Outcome {
    let options = options()?;
    Store::create(&plan.dir.join("store"), &Create::default(), &options)?;
    let store = Store::open(&plan.dir.join("store"), &options)?;
    let done = AtomicU64::new(0);
    let all = plan.share(plan.items) * plan.producers * (1 + CHANGES);
    let step = all.div_ceil(POINTS);
    let begin = Instant::now();
    std::thread::scope(|scope| -> Outcome {
        let (store, done) = (&store, &done);
        let share = plan.share(plan.items);
        let threads: Vec<_> =
            (0..plan.producers).map(|p| scope.spawn(move || produce(plan, store, p, 0, share, done))).collect();
        let (mut point, mut last, mut since) = (step, 0, 0.0);
        while !threads.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            std::thread::sleep(Duration::from_millis(2));
            let now = done.load(Ordering::Relaxed);
            if now >= point || now == all && last < all {
                let seconds = begin.elapsed().as_secs_f64();
                grown(plan, now, now - last, seconds, seconds - since)?;
                (last, since) = (now, seconds);
                point = now - now % step + step;
            }
        }
        threads.into_iter().try_for_each(|t| t.join().map_err(|_| "a producer panicked")?)
    })?;
    let wrote = begin.elapsed().as_secs_f64();
    compact(&store)?;
    let compacted = begin.elapsed().as_secs_f64() - wrote;
    store.close()?;
    let (files, bytes) = process::size(&plan.dir)?;
    say(&json!({
        "stage": "write", "items": plan.items, "accounts": plan.accounts, "producers": plan.producers,
        "updates": if plan.patch { "patch" } else { "put" }, "transactions": all, "seconds": wrote,
        "rate": all as f64 / wrote, "compact_s": compacted, "rss_peak": process::resident_peak()?, "files": files,
        "bytes": bytes,
    }));
    Ok(())
}

/// Clusters what was written by account, as far as the engine does not do it while it writes.
fn compact(store: &Store) -> Outcome {
    let merged = store.compact_now()?;
    say(&json!({
        "stage": "compact", "runs": merged.runs, "replaced": merged.replaced, "written": merged.bytes,
        "removed": merged.removed, "left_out": merged.left_out,
    }));
    Ok(())
}

fn grown(plan: &Plan, transactions: u64, count: u64, at: f64, seconds: f64) -> Outcome {
    let (files, bytes) = process::size(&plan.dir)?;
    say(&json!({
        "stage": "growth", "transactions": transactions, "at_s": at, "rate": count as f64 / seconds,
        "rss": process::resident()?, "files": files, "bytes": bytes, "open_files": process::open_files()?,
    }));
    Ok(())
}

/// Takes the store's files out of the page cache.
fn forget(plan: &Plan) -> Outcome {
    Ok(process::forget(&plan.dir)?)
}

fn open_stage(plan: &Plan, stage: &str) -> Outcome {
    let dir = plan.dir.join("store");
    forget(plan)?;
    let options = options()?;
    let begin = Instant::now();
    let reader = Store::open_read(&dir, &options)?;
    let read = begin.elapsed().as_secs_f64();
    let lsn = reader.view().lsn();
    drop(reader);
    let rss = process::resident()?;
    forget(plan)?;
    let begin = Instant::now();
    let store = Store::open(&dir, &options)?;
    let write = begin.elapsed().as_secs_f64();
    if store.view().lsn() != lsn || !store.findings().is_empty() {
        return Err(format!("two opens differ: {lsn:?}, {:?}, {:?}", store.view().lsn(), store.findings()).into());
    }
    store.close()?;
    say(&json!({
        "stage": stage, "lsn": lsn.0, "open_read_ms": read * 1e3, "open_write_ms": write * 1e3, "rss": rss,
        "segments_and_packs": process::size(&dir)?.0,
    }));
    Ok(())
}

/// Writes on for a twentieth of the items and ends as a power cut would.
fn crash_stage(plan: &Plan) -> Outcome {
    let store = Store::open(&plan.dir.join("store"), &options()?)?;
    let done = AtomicU64::new(0);
    let (from, more) = (plan.share(plan.items), (plan.share(plan.items) / 20).max(10));
    std::thread::scope(|scope| -> Outcome {
        let (store, done) = (&store, &done);
        let work = move |p| produce(plan, store, p, from, from + more, done);
        let threads: Vec<_> = (0..plan.producers).map(|p| scope.spawn(move || work(p))).collect();
        let enough = plan.producers * more * (1 + CHANGES) * 7 / 10;
        while done.load(Ordering::Relaxed) < enough {
            if threads.iter().all(std::thread::ScopedJoinHandle::is_finished) {
                return threads.into_iter().try_for_each(|t| t.join().map_err(|_| "a producer panicked")?);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        say(&json!({ "stage": "crash", "transactions": done.load(Ordering::Relaxed) }));
        // SAFETY: kill takes two numbers; this process is the one that ends.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        Err("SIGKILL did not end the process".into())
    })
}

/// One look-up: an item, and a moment after it arrived.
fn question(plan: &Plan, rng: &mut Rng) -> (u64, i64) {
    let n = rng.below(plan.share(plan.items) * plan.producers);
    (n, moment(n + rng.below(plan.items - n + 1)))
}

fn answer(plan: &Plan, view: &View, n: u64, at: i64) -> Outcome {
    let (account, item) = plan.key(n);
    let hit = view.locate(account, item, Some(at))?.ok_or("an item is not found")?;
    let right = view.with_record(&hit, |_, r| r.uid == n)?;
    if right && hit.row.moment <= at { Ok(()) } else { Err("a look-up found another state".into()) }
}

/// Requests of this thread so far: read calls and faults that went to the device.
fn requests() -> Outcome<(u64, u64)> {
    Ok((process::Reads::now()?.calls, process::faults()?))
}

fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = ((sorted.len() as f64 * q) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

fn lookup_stage(plan: &Plan) -> Outcome {
    let reader = Store::open_read(&plan.dir.join("store"), &options()?)?;
    let view = reader.view();
    let mut rng = Rng::new(5);
    sample_of_histories(plan, &view, &mut rng)?;
    let look = process::Reads::look()?;
    let (mut micros, mut reads) = (Vec::new(), Vec::new());
    for i in 0..plan.lookups {
        if i % 250 == 0 {
            forget(plan)?;
        }
        let (n, at) = question(plan, &mut rng);
        let before = requests()?;
        let begin = Instant::now();
        answer(plan, &view, n, at)?;
        micros.push(begin.elapsed().as_secs_f64() * 1e6);
        let after = requests()?;
        reads.push(((after.0 - before.0).saturating_sub(look) + after.1 - before.1) as f64);
    }
    let mean = reads.iter().sum::<f64>() / reads.len() as f64;
    micros.sort_unstable_by(f64::total_cmp);
    reads.sort_unstable_by(f64::total_cmp);
    let total: f64 = micros.iter().sum();
    say(&json!({
        "stage": "lookup", "depth": 1, "count": plan.lookups, "rate": plan.lookups as f64 / total * 1e6,
        "us_p50": quantile(&micros, 0.5), "us_p99": quantile(&micros, 0.99), "reads_mean": mean,
        "reads_p50": quantile(&reads, 0.5), "reads_p99": quantile(&reads, 0.99), "rss": process::resident()?,
    }));
    forget(plan)?;
    let all = Mutex::new(Vec::new());
    let begin = Instant::now();
    std::thread::scope(|scope| -> Outcome {
        let (view, all) = (&view, &all);
        let work = move |thread: u64| -> Outcome {
            let mut rng = Rng::new(100 + thread);
            let mut own = Vec::new();
            for _ in 0..plan.lookups.div_ceil(8) {
                let (n, at) = question(plan, &mut rng);
                let begin = Instant::now();
                answer(plan, view, n, at)?;
                own.push(begin.elapsed().as_secs_f64() * 1e6);
            }
            all.lock().map_err(|_| "a reader panicked")?.append(&mut own);
            Ok(())
        };
        let threads: Vec<_> = (0..8).map(|t| scope.spawn(move || work(t))).collect();
        threads.into_iter().try_for_each(|t| t.join().map_err(|_| "a reader panicked")?)
    })?;
    let seconds = begin.elapsed().as_secs_f64();
    let mut micros = all.into_inner().map_err(|_| "a reader panicked")?;
    micros.sort_unstable_by(f64::total_cmp);
    say(&json!({
        "stage": "lookup", "depth": 8, "count": micros.len(), "rate": micros.len() as f64 / seconds,
        "us_p50": quantile(&micros, 0.5), "us_p99": quantile(&micros, 0.99), "rss": process::resident()?,
    }));
    Ok(())
}

/// Of some items, every version: a look-up must find the last one whose moment has come.
fn sample_of_histories(plan: &Plan, view: &View, rng: &mut Rng) -> Outcome {
    for _ in 0..20 {
        let (n, at) = question(plan, rng);
        let (account, item) = plan.key(n);
        let rows = view.rows(account, item)?;
        let last = rows.iter().rfind(|h| h.row.moment <= at).map(|h| h.row.lsn);
        if last.is_none() || view.locate(account, item, Some(at))?.map(|h| h.row.lsn) != last {
            return Err(format!("item {n} at {at}: {last:?} of {} versions is not what is found", rows.len()).into());
        }
    }
    Ok(())
}

fn list_stage(plan: &Plan) -> Outcome {
    let account = plan.key(plan.accounts / 2).0;
    let middle = moment(plan.items / 2);
    let end = moment(plan.items);
    for (at, name) in [(middle, "middle"), (end, "end")] {
        for whole in [false, true] {
            let reader = Store::open_read(&plan.dir.join("store"), &options()?)?;
            let view = reader.view();
            forget(plan)?;
            let (look, before) = (process::Reads::look()?, requests()?);
            let begin = Instant::now();
            let (mut items, mut alive) = (0u64, 0u64);
            for hit in view.items(account, Some(at))? {
                let hit = hit?;
                items += 1;
                if whole {
                    alive += u64::from(view.with_record(&hit, |_, r| r.flags.len())? > 0);
                }
            }
            let seconds = begin.elapsed().as_secs_f64();
            let after = requests()?;
            if whole && alive != items {
                return Err("a listed item has no flags".into());
            }
            say(&json!({
                "stage": "list", "at": name, "states_read": whole, "items": items, "ms": seconds * 1e3,
                "reads": (after.0 - before.0).saturating_sub(look) + after.1 - before.1, "rss": process::resident()?,
            }));
        }
    }
    Ok(())
}

fn versions_stage(plan: &Plan) -> Outcome {
    let dir = plan.dir.join("store");
    let store = Store::open(&dir, &options()?)?;
    let begin = Instant::now();
    let mut batch = store.batch();
    let mut before: Option<Ticket> = None;
    for v in 0..plan.versions {
        let flags = vec![format!("v{v}").into_bytes()];
        let put = Change::Put { state: state(v, flags), blobs: Vec::new(), content_unseen: false };
        batch.record(event(plan, MANY, EPOCH + v.cast_signed() * STEP, put));
        if batch.len() >= GROUP || v + 1 == plan.versions {
            let mut last = None;
            for ticket in batch.submit()? {
                last = Some(ticket?);
            }
            if let Some(ticket) = std::mem::replace(&mut before, last) {
                ticket.wait()?;
            }
        }
    }
    drop(batch);
    before.map_or(Ok(()), |t| t.wait().map(|_| ()))?;
    let wrote = begin.elapsed().as_secs_f64();
    compact(&store)?;
    store.close()?;
    say(&json!({
        "stage": "versions-write", "versions": plan.versions, "rate": plan.versions as f64 / wrote,
        "rss_peak": process::resident_peak()?,
    }));
    let (account, item) = plan.key(MANY);
    for (name, v) in [("first", 0), ("middle", plan.versions / 2), ("last", plan.versions - 1)] {
        let reader = Store::open_read(&dir, &options()?)?;
        let view = reader.view();
        forget(plan)?;
        let (look, before) = (process::Reads::look()?, requests()?);
        let begin = Instant::now();
        let at = EPOCH + v.cast_signed() * STEP;
        let hit = view.locate(account, item, Some(at))?.ok_or("a version is not found")?;
        let right = view.with_record(&hit, |_, r| r.uid == v)?;
        let micros = begin.elapsed().as_secs_f64() * 1e6;
        let after = requests()?;
        if !right {
            return Err("another version is found".into());
        }
        say(&json!({
            "stage": "versions-lookup", "which": name, "us": micros,
            "reads": (after.0 - before.0).saturating_sub(look) + after.1 - before.1,
        }));
    }
    let reader = Store::open_read(&dir, &options()?)?;
    let view = reader.view();
    forget(plan)?;
    let begin = Instant::now();
    let rows = view.rows(account, item)?;
    let listed = begin.elapsed().as_secs_f64();
    for (v, hit) in (0u64..).zip(&rows) {
        if !view.with_record(hit, |_, r| r.uid == v)? {
            return Err("the log of the item is out of order".into());
        }
    }
    let read = begin.elapsed().as_secs_f64();
    if rows.len() as u64 != plan.versions {
        return Err(format!("{} versions are in the log, not {}", rows.len(), plan.versions).into());
    }
    say(&json!({
        "stage": "versions-log", "versions": rows.len(), "rows_ms": listed * 1e3, "states_ms": read * 1e3,
        "rss_peak": process::resident_peak()?,
    }));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_survives_its_way_to_a_child() {
        let args: Vec<String> =
            "--dir /x --items 5000 --updates patch --producers 3".split(' ').map(str::to_owned).collect();
        let plan = Plan::parse(&args).unwrap();
        let again = Plan::parse(&plan.args()).unwrap();
        assert_eq!(plan.args(), again.args());
        assert_eq!((again.items, again.accounts, again.versions, again.patch), (5000, 10, 500, true));
        assert!(Plan::parse(&["--items".to_owned(), "5".to_owned()]).is_err());
        assert!(Plan::parse(&["--speed".to_owned()]).is_err());
    }

    #[test]
    fn bodies_differ_and_are_short() {
        assert_ne!(body(2), body(4));
        assert_eq!(body(2), body(2));
        assert!((0..1000).all(|n| (200..700).contains(&body(n).len())));
    }
}
