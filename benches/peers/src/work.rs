//! The workloads, each a child's whole life: opens the store, works, prints its figures as one JSON object.

use crate::subject::{self, Put, Subject};
use mailstrata_benches::bodies::Bodies;
use mailstrata_benches::{Outcome, crowd, mail, process};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Length of a measurement, ms.
    window: u64,
    /// Items that are updated and looked up; of the latter each has four versions.
    items: u64,
    /// Mails of the ingest that is killed.
    mails: u64,
    /// Cold look-ups.
    cold: u64,
}

impl Size {
    /// For figures: a million versions.
    pub const fn full() -> Self {
        Self { window: 2000, items: 250_000, mails: 20_000, cold: 2000 }
    }

    /// To see that it works.
    pub const fn quick() -> Self {
        Self { window: 400, items: 20_000, mails: 3000, cold: 500 }
    }

    /// For a child.
    pub fn args(self) -> [String; 4] {
        [self.window, self.items, self.mails, self.cold].map(|n| n.to_string())
    }
}

/// A child: sizes, store, directory, round, step.
pub fn child(args: &[String]) -> Outcome {
    let [window, items, mails, cold, peer, home, round, step @ ..] = args else {
        return Err("a child is started by its parent only".into());
    };
    let size = Size { window: window.parse()?, items: items.parse()?, mails: mails.parse()?, cold: cold.parse()? };
    let (home, round) = (PathBuf::from(home), round.parse::<u64>()?);
    let step: Vec<&str> = step.iter().map(String::as_str).collect();
    let figures = match step[..] {
        ["commit", producers, group] => commit(size, peer, &home, producers.parse()?, group.parse()?)?,
        ["newitem", producers, _] => bodies(size, peer, &home, producers.parse()?, 1)?,
        ["ingest", threads, group] => bodies(size, peer, &home, threads.parse()?, group.parse()?)?,
        ["metadata", threads, group] => metadata(size, peer, &home, threads.parse()?, group.parse()?)?,
        ["lookup", ref how @ ..] => lookup(size, peer, &home, round, how)?,
        ["writer"] => return writer(size, peer, &home),
        ["reopen", ref acknowledged @ ..] => reopen(peer, &home, acknowledged)?,
        _ => return Err(format!("there is no step {step:?}").into()),
    };
    println!("{figures}");
    // A store may take long to close, or have been told to stay: nothing of it is measured.
    std::io::stdout().flush()?;
    std::process::exit(0);
}

fn window(size: Size) -> Duration {
    Duration::from_millis(size.window)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}

/// Transactions without bodies.
fn commit(size: Size, peer: &str, home: &Path, producers: usize, group: u64) -> Outcome<Value> {
    let dir = home.join(format!("commit-{producers}-{group}"));
    let store = subject::open(peer, &dir)?;
    let next = AtomicU64::new(0);
    let run = crowd::run(producers, window(size), |_| {
        let (store, next) = (&store, &next);
        Ok(move || {
            let from = next.fetch_add(group, Ordering::Relaxed);
            let puts: Vec<Put<'_>> =
                (from..from + group).map(|n| Put { n, at: mail::moment(n, 0), body: None }).collect();
            store.put(&puts)
        })
    })?;
    let name = |what: &str| match group {
        1 => format!("{producers:2} producers, {what}"),
        g => format!("{g:3} a commit, {what}"),
    };
    let rate = run.rate * group as f64;
    if producers == 1 && group == 1 {
        return Ok(json!({ name("1/s"): rate, name("p50 µs"): run.p50, name("p99 µs"): run.p99 }));
    }
    Ok(json!({ name("1/s"): rate }))
}

/// New items with bodies.
fn bodies(size: Size, peer: &str, home: &Path, producers: usize, group: u64) -> Outcome<Value> {
    let store = subject::open(peer, home)?;
    let (bodies, next, bytes) = (Bodies::default(), AtomicU64::new(0), AtomicU64::new(0));
    let run = crowd::run(producers, window(size), |_| {
        let (store, bodies, next, bytes) = (&store, &bodies, &next, &bytes);
        Ok(move || put_bodies(store.as_ref(), bodies, next, bytes, group).map(|_| ()))
    })?;
    let items = run.rate * group as f64;
    let mean = bytes.load(Ordering::Relaxed) as f64 / next.load(Ordering::Relaxed) as f64;
    let rss = mib(process::resident_peak()?);
    if group == 1 {
        return Ok(json!({ "items/s": items, "p99 µs": run.p99, "peak RSS MiB": rss }));
    }
    Ok(json!({ "MB/s": items * mean / 1e6, "items/s": items, "peak RSS MiB": rss }))
}

fn put_bodies(
    store: &dyn Subject,
    bodies: &Bodies,
    next: &AtomicU64,
    bytes: &AtomicU64,
    group: u64,
) -> Outcome<(u64, u64)> {
    let from = next.fetch_add(group, Ordering::Relaxed);
    let mut all: Vec<Vec<u8>> = vec![Vec::new(); usize::try_from(group)?];
    (from..).zip(&mut all).for_each(|(n, body)| bodies.body(n, body));
    bytes.fetch_add(all.iter().map(|b| b.len() as u64).sum(), Ordering::Relaxed);
    let puts: Vec<Put<'_>> =
        (from..).zip(&all).map(|(n, body)| Put { n, at: mail::moment(n, 0), body: Some(body) }).collect();
    store.put(&puts)?;
    Ok((from, from + group))
}

/// Items without bodies, in groups.
fn plant(store: &dyn Subject, items: u64) -> Outcome {
    for from in (0..items).step_by(1000) {
        let group = from..(from + 1000).min(items);
        let puts: Vec<Put<'_>> = group.map(|n| Put { n, at: mail::moment(n, 0), body: None }).collect();
        store.put(&puts)?;
    }
    Ok(())
}

fn metadata(size: Size, peer: &str, home: &Path, threads: usize, group: u64) -> Outcome<Value> {
    let store = subject::open(peer, home)?;
    plant(store.as_ref(), size.items)?;
    let next = AtomicU64::new(0);
    let run = crowd::run(threads, window(size), |thread| {
        let (store, next, mut rng) = (&store, &next, mail::Rng::new(thread as u64));
        Ok(move || {
            let from = next.fetch_add(group, Ordering::Relaxed).cast_signed() + mail::moment(size.items, 1);
            let updates: Vec<(u64, i64)> =
                (0..group.cast_signed()).map(|i| (rng.below(size.items), from + i)).collect();
            store.update(&updates)
        })
    })?;
    Ok(json!({ "updates/s": run.rate * group as f64 }))
}

/// When version `v` of an item of the look-ups happened.
fn version(n: u64, v: u64) -> i64 {
    mail::moment(n, 0) + v.cast_signed() * 1_000_000_000
}

const VERSIONS: u64 = 4;

fn plant_versions(peer: &str, home: &Path, items: u64) -> Outcome {
    let store = subject::open(peer, home)?;
    plant(store.as_ref(), items)?;
    for v in 1..VERSIONS {
        for from in (0..items).step_by(1000) {
            let group: Vec<(u64, i64)> = (from..(from + 1000).min(items)).map(|n| (n, version(n, v))).collect();
            store.update(&group)?;
        }
    }
    Ok(())
}

/// A random item between two of its versions, and which of them is the answer.
fn ask(store: &dyn Subject, rng: &mut mail::Rng, items: u64) -> Outcome {
    let (n, v) = (rng.below(items), rng.below(VERSIONS));
    let found = store.as_of(n, version(n, v) + 500)?;
    if found == version(n, v) { Ok(()) } else { Err(format!("item {n}: {found} is not version {v}").into()) }
}

fn lookup(size: Size, peer: &str, home: &Path, round: u64, how: &[&str]) -> Outcome<Value> {
    if round == 0 && how == ["hot"] {
        plant_versions(peer, home, size.items)?;
    }
    process::forget(home)?;
    let begin = Instant::now();
    let store = subject::open(peer, home)?;
    let opened = begin.elapsed().as_secs_f64() * 1e3;
    let mut rng = mail::Rng::new(round + 1);
    match how {
        ["hot"] => {
            // Every page once, as far as random items do it.
            (0..size.items).try_for_each(|_| ask(store.as_ref(), &mut rng, size.items))?;
            let run = crowd::run(1, window(size), |_| {
                let (store, mut rng) = (&store, mail::Rng::new(round + 7));
                Ok(move || (0..32).try_for_each(|_| ask(store.as_ref(), &mut rng, size.items)))
            })?;
            Ok(json!({ "hot, one core, 1/s": run.rate * 32.0 }))
        }
        ["cold", depth] => {
            let left = AtomicU64::new(size.cold);
            let all = Mutex::new(Vec::new());
            let threads: u64 = depth.parse()?;
            let begin = Instant::now();
            std::thread::scope(|scope| -> Outcome {
                let (store, left, all) = (&store, &left, &all);
                let work = move |thread: u64| -> Outcome {
                    let mut rng = mail::Rng::new(1000 * round + thread);
                    let mut own = Vec::new();
                    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok() {
                        let begin = Instant::now();
                        ask(store.as_ref(), &mut rng, size.items)?;
                        own.push(begin.elapsed().as_secs_f64() * 1e6);
                    }
                    all.lock().map_err(|_| "a reader panicked")?.append(&mut own);
                    Ok(())
                };
                let readers: Vec<_> = (0..threads).map(|t| scope.spawn(move || work(t))).collect();
                readers.into_iter().try_for_each(|t| t.join().map_err(|_| "a reader panicked")?)
            })?;
            let rate = size.cold as f64 / begin.elapsed().as_secs_f64();
            let mut micros = all.into_inner().map_err(|_| "a reader panicked")?;
            micros.sort_unstable_by(f64::total_cmp);
            let quantile = |q: f64| micros[((micros.len() as f64 * q) as usize).min(micros.len() - 1)];
            let name = |what: &str| format!("cold, depth {depth}, {what}");
            let mut figures = json!({ name("1/s"): rate, name("p99 µs"): quantile(0.99) });
            if threads == 1 {
                figures["open, cold, ms"] = json!(opened);
            }
            Ok(figures)
        }
        _ => Err("a look-up is hot or cold".into()),
    }
}

/// The child that is killed: says which items are acknowledged.
fn writer(size: Size, peer: &str, home: &Path) -> Outcome {
    let store = subject::open(peer, home)?;
    let (bodies, next, bytes) = (Bodies::default(), AtomicU64::new(0), AtomicU64::new(0));
    let out = Mutex::new(std::io::stdout());
    // It is killed long before.
    let ever = Duration::from_secs(300);
    crowd::run(4, ever, |_| {
        let (store, bodies, next, bytes, out) = (&store, &bodies, &next, &bytes, &out);
        Ok(move || {
            if next.load(Ordering::Relaxed) > size.mails {
                std::thread::sleep(ever);
            }
            let (_, end) = put_bodies(store.as_ref(), bodies, next, bytes, 64)?;
            let mut out = out.lock().map_err(|_| "a writer panicked")?;
            writeln!(out, "{}", end - 1)?;
            Ok(out.flush()?)
        })
    })?;
    Ok(())
}

/// Starts a writer, kills it at 70 % of its work, and has another child open what is left.
pub fn killed(child: &Command, size: Size) -> Outcome<Vec<(String, f64)>> {
    let again = |step: &[String]| {
        let mut c = Command::new(child.get_program());
        let args: Vec<_> = child.get_args().collect();
        c.args(&args[..args.len() - 1]).args(step).stdin(Stdio::null());
        c
    };
    let mut writer = again(&["writer".to_owned()]).stdout(Stdio::piped()).spawn()?;
    let out = writer.stdout.take().ok_or("the child has no output")?;
    let mut last: VecDeque<String> = VecDeque::new();
    for (count, line) in (1u64..).zip(BufReader::new(out).lines()) {
        last.push_back(line?);
        if last.len() > 32 {
            last.pop_front();
        }
        if count * 64 >= size.mails * 7 / 10 {
            break;
        }
    }
    writer.kill()?;
    writer.wait()?;
    let step: Vec<String> = std::iter::once("reopen".to_owned()).chain(last).collect();
    let out = again(&step).stderr(Stdio::inherit()).output()?;
    let figures: Value = serde_json::from_slice(&out.stdout).map_err(|_| format!("reopen: {}", out.status))?;
    let figures = figures.as_object().ok_or("reopen says nothing")?.iter();
    Ok(figures.filter_map(|(name, v)| Some((name.clone(), v.as_f64()?))).collect())
}

fn reopen(peer: &str, home: &Path, acknowledged: &[&str]) -> Outcome<Value> {
    process::forget(home)?;
    let begin = Instant::now();
    let store = subject::open(peer, home)?;
    let opened = begin.elapsed().as_secs_f64();
    for n in acknowledged {
        store.as_of(n.parse()?, i64::MAX).map_err(|e| format!("acknowledged and lost: {e}"))?;
    }
    if acknowledged.is_empty() {
        return Err("nothing was acknowledged".into());
    }
    Ok(json!({ "reopen after kill -9, cold, ms": opened * 1e3, "peak RSS MiB": mib(process::resident_peak()?) }))
}
