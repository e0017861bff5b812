//! Compaction: what a merge costs, and what it does to look-ups, listings, opening and memory.
//!
//! A store of small transactions without bodies is written with compaction put off, asked, compacted, and asked again. The
//! figures that follow the size (files, resident memory, device reads of a look-up) are taken before and after.

use crate::report::{Goal, Report};
use crate::{Bench, Outcome, mail, process};
use mailstrata_engine::{Change, Create, Event, Options, Source, State, Store, View};
use mailstrata_format::{AccountId, ItemKey, ItemKind, Lsn};
use std::path::Path;
use std::time::{Duration, Instant};

/// Items of an account.
const ACCOUNT: u64 = 10_000;
/// Transactions of an item.
const VERSIONS: u64 = 3;

fn account(n: u64) -> Vec<u8> {
    format!("user{}@example.org", n / ACCOUNT).into_bytes()
}

fn event(n: u64, version: u64) -> Event {
    let state = State {
        folder: Some(b"INBOX".to_vec()),
        flags: Some(if version == 0 { vec![] } else { vec![b"\\Seen".to_vec()] }),
        name: Some(format!("Subject of message {n}, as it is").into_bytes()),
        sender: Some(b"bob@example.org".to_vec()),
        uid: Some(n),
        ..State::default()
    };
    Event {
        account: account(n),
        account_id: None,
        item: n.to_string().into_bytes(),
        kind: ItemKind::Message,
        change: Change::Put { state, blobs: Vec::new(), content_unseen: false },
        at: None,
        not_before: None,
        source: Some(Source { name: b"bench".to_vec(), position: format!("{n}.{version}").into_bytes() }),
        derived: false,
    }
}

fn fill(store: &Store, items: u64) -> Outcome {
    let mut last = None;
    // Accounts fill side by side, and every item changes again later: nothing lies together.
    for version in 0..VERSIONS {
        for i in 0..items {
            let n = i % (items / ACCOUNT).max(1) * ACCOUNT.min(items) + i / (items / ACCOUNT).max(1);
            last = Some(store.submit(&event(n, version))?);
        }
    }
    if let Some(t) = last {
        t.wait()?;
    }
    Ok(())
}

fn ask(view: &View, items: u64, rng: &mut mail::Rng) -> Outcome {
    let n = rng.below(items);
    let item = ItemKey::of(ItemKind::Message.code(), n.to_string().as_bytes());
    let hit = view.locate(AccountId::of_address(&account(n), 1), item, None)?.ok_or("an item is not found")?;
    if view.with_record(&hit, |_, r| r.uid == n)? { Ok(()) } else { Err("a look-up found another item".into()) }
}

fn figures(report: &mut Report, when: &str, dir: &Path, items: u64) -> Outcome {
    let put = |report: &mut Report, name: &str, unit, v: f64| {
        report.add_value("compact", format!("{name}, {when}"), unit, v, Goal::None);
    };
    let (files, bytes) = process::size(dir)?;
    put(report, "files", "", files as f64);
    put(report, "bytes on disk a transaction", "B", bytes as f64 / (items * VERSIONS) as f64);
    let begin = Instant::now();
    let reader = Store::open_read(dir, &Options::new()?)?;
    put(report, "open for reading", "ms", begin.elapsed().as_secs_f64() * 1e3);
    let view = reader.view();
    put(report, "files of the log", "", view.catalog().segments.len() as f64);
    let mut rng = mail::Rng::new(5);
    process::forget(dir)?;
    let look = process::Reads::look()?;
    let (mut reads, mut worst, begin) = (0, 0, Instant::now());
    let cold = 300.min(items);
    for n in 0..cold {
        if n % 100 == 0 {
            process::forget(dir)?;
        }
        let before = process::Reads::now()?;
        ask(&view, items, &mut rng)?;
        let calls = process::Reads::now()?.since(before, look).calls;
        (reads, worst) = (reads + calls, worst.max(calls));
    }
    put(report, "read calls of a cold look-up", "", reads as f64 / cold as f64);
    put(report, "most read calls of a cold look-up", "", worst as f64);
    put(report, "cold look-up", "us", begin.elapsed().as_secs_f64() * 1e6 / cold as f64);
    let begin = Instant::now();
    let hot = 20_000.min(items * 4);
    (0..hot).try_for_each(|_| ask(&view, items, &mut rng))?;
    put(report, "look-up in passing", "us", begin.elapsed().as_secs_f64() * 1e6 / hot as f64);
    process::forget(dir)?;
    let begin = Instant::now();
    let mut listed = 0;
    for hit in view.items(AccountId::of_address(&account(0), 1), None)? {
        view.with_record(&hit?, |_, _| ())?;
        listed += 1;
    }
    let took = begin.elapsed().as_secs_f64() * 1e3;
    put(report, &format!("one account of {listed} items, cold, with records"), "ms", took);
    process::forget(dir)?;
    let begin = Instant::now();
    let entries = view.log(Lsn(1)).take(500_000).filter(Result::is_ok).count();
    put(report, "log in LSN order, cold, first half million", "/s", entries as f64 / begin.elapsed().as_secs_f64());
    Ok(())
}

/// All of it.
pub fn run(bench: &Bench, report: &mut Report) -> Outcome {
    let dir = bench.dir.join("compact");
    let items = bench.scale.items;
    let options = Options { compaction: false, retire_delay: Duration::ZERO, ..Options::new()? };
    let size = if items < 10_000 { 64 << 10 } else { Create::default().segment_size };
    Store::create(&dir, &Create { segment_size: size, ..Create::default() }, &options)?;
    let store = Store::open(&dir, &options)?;
    let begin = Instant::now();
    fill(&store, items)?;
    let rate = (items * VERSIONS) as f64 / begin.elapsed().as_secs_f64();
    report.add_value("compact", "ingest without compaction", "/s", rate, Goal::None);
    let memory = |report: &mut Report, when: &str| -> Outcome {
        report.add_value(
            "compact",
            format!("peak memory, {when}"),
            "MB",
            process::resident_peak()? as f64 / 1e6,
            Goal::None,
        );
        Ok(())
    };
    memory(report, "written")?;
    // Closed, so that no file comes or goes while they are counted.
    store.close()?;
    figures(report, "before", &dir, items)?;
    memory(report, "asked")?;
    let store = Store::open(&dir, &options)?;
    let begin = Instant::now();
    let done = store.compact_now()?;
    let took = begin.elapsed().as_secs_f64();
    report.add_value("compact", "runs made", "", done.runs as f64, Goal::None);
    report.add_value("compact", "bytes written by compaction", "MB", done.bytes as f64 / 1e6, Goal::None);
    report.add_value("compact", "speed of compaction", "MB/s", done.bytes as f64 / 1e6 / took, Goal::None);
    memory(report, "compacted")?;
    store.compact_now()?;
    store.close()?;
    figures(report, "after", &dir, items)
}
