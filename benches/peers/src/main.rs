//! The benchmarks' workloads on other stores, and on the engine, in turn: a round of each, then the next round.
//!
//! Every measurement is a child of its own, so that memory and caches are its own. Out comes a table: rows are figures,
//! columns stores, values medians of the rounds.

mod keyed;

mod subject;

mod ours;

#[cfg(feature = "rocksdb")]
mod rocks;

#[cfg(feature = "fjall")]
mod trees;

#[cfg(feature = "heed")]
mod lmdb;

#[cfg(feature = "redb")]
mod redb_store;

#[cfg(feature = "rusqlite")]
mod sqlite;

#[cfg(feature = "okaywal")]
mod wal;

mod work;

use mailstrata_benches::report::median;
use mailstrata_benches::{Outcome, process};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;
use work::Size;

/// Bytes of cache that each peer gets where it can be set (the engine has 24 MiB).
pub const CACHE: usize = 256 << 20;

const HELP: &str = "\
mailstrata-peers WORKLOAD… [--quick] [--peers A,B] [--dir DIR] [--rounds N] [--patience S] [--json]

Workloads: commit, newitem, ingest, metadata, lookup, kill, all
  --quick    shorter and smaller: under five minutes for all of it
  --peers    mailstrata, rocksdb, fjall, lmdb, redb, sqlite, okaywal, loose-files; NAME+group is that store under a group
             commit of the harness (default: all)
  --dir      a directory on the disk under test (default: target/bench); a directory of its own is made in it
  --patience seconds that each measurement may wait for an idle machine (default 0)";

/// A workload: its steps (what a child is told), and who does not take part.
struct Workload {
    name: &'static str,
    steps: &'static [&'static str],
    without: &'static [&'static str],
}

const GROUPED: [&str; 4] = ["fjall+group", "lmdb+group", "redb+group", "sqlite+group"];

const WORKLOADS: [Workload; 6] = [
    Workload {
        name: "commit",
        steps: &["commit 1 1", "commit 8 1", "commit 64 1", "commit 1 64", "commit 1 256"],
        without: &[subject::LOOSE],
    },
    Workload { name: "newitem", steps: &["newitem 64 1"], without: &["okaywal"] },
    Workload { name: "ingest", steps: &["ingest 4 64"], without: &["okaywal", subject::LOOSE] },
    Workload { name: "metadata", steps: &["metadata 4 64"], without: &["okaywal", subject::LOOSE] },
    Workload {
        name: "lookup",
        steps: &["lookup hot", "lookup cold 1", "lookup cold 8"],
        without: &["okaywal", subject::LOOSE],
    },
    Workload { name: "kill", steps: &["kill"], without: &["okaywal", subject::LOOSE] },
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match args.first().map(String::as_str) {
        Some("child") => work::child(args.get(1..).unwrap_or_default()),
        _ => run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("mailstrata-peers: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Figures of each store: workload and figure → store → values of the rounds.
type Figures = BTreeMap<(usize, String), BTreeMap<String, Vec<f64>>>;

fn run(args: &[String]) -> Outcome {
    let (mut size, mut rounds, mut patience, mut as_json) = (Size::full(), 5, Duration::ZERO, false);
    let mut dir = PathBuf::from("target/bench");
    let mut peers: Vec<String> = subject::NAMES.iter().map(|s| (*s).to_owned()).collect();
    peers.push(subject::LOOSE.to_owned());
    let mut chosen = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--help" | "-h" => {
                println!("{HELP}");
                return Ok(());
            }
            "--quick" => (size, rounds) = (Size::quick(), 3),
            "--json" => as_json = true,
            "--dir" => dir = value()?.into(),
            "--rounds" => rounds = value()?.parse()?,
            "--patience" => patience = Duration::from_secs(value()?.parse()?),
            "--peers" => peers = value()?.split(',').map(str::to_owned).collect(),
            "all" => chosen.extend(0..WORKLOADS.len()),
            name => {
                let found = WORKLOADS.iter().position(|w| w.name == name);
                chosen.push(found.ok_or_else(|| format!("there is no workload {name}\n{HELP}"))?);
            }
        }
    }
    if chosen.is_empty() {
        return Err(format!("which workload?\n{HELP}").into());
    }
    let dir = dir.join(format!("peers-{}", std::process::id()));
    let mut figures = Figures::new();
    let outcome = chosen.iter().try_for_each(|w| workload(*w, &dir, size, rounds, patience, &peers, &mut figures));
    if dir.exists() {
        std::fs::remove_dir_all(&dir)?;
    }
    if as_json {
        println!("{:#}", in_json(&figures));
    } else {
        print!("{}", table(&figures, &peers));
    }
    outcome
}

fn workload(
    number: usize,
    dir: &Path,
    size: Size,
    rounds: usize,
    patience: Duration,
    peers: &[String],
    figures: &mut Figures,
) -> Outcome {
    let w = &WORKLOADS[number];
    // Group commit on top changes nothing for who reads, and little for groups of 64.
    let small = matches!(w.name, "commit" | "newitem");
    let peers: Vec<&String> = peers
        .iter()
        .filter(|p| !w.without.contains(&p.as_str()) && (small || !GROUPED.contains(&p.as_str())))
        .filter(|p| p.as_str() != subject::LOOSE || w.name == "newitem")
        .collect();
    for round in 0..rounds {
        for peer in &peers {
            eprintln!("{} {}: {peer} …", w.name, round + 1);
            let home = dir.join(format!("{}-{peer}", w.name));
            for step in w.steps {
                process::settle(patience)?;
                for (figure, value) in measure(step, peer, &home, round, size).map_err(|e| format!("{peer}: {e}"))? {
                    let values = figures.entry((number, figure)).or_default().entry((*peer).clone()).or_default();
                    values.push(value);
                }
            }
            // The stores that are read stay for the next round.
            if w.name != "lookup" || round + 1 == rounds {
                std::fs::remove_dir_all(&home)?;
            }
        }
    }
    Ok(())
}

/// One step of one store in a child: figures by name.
fn measure(step: &str, peer: &str, home: &Path, round: usize, size: Size) -> Outcome<Vec<(String, f64)>> {
    let mut child = Command::new(std::env::current_exe()?);
    child.arg("child").args(size.args()).arg(peer).arg(home).arg(round.to_string()).args(step.split(' '));
    if step == "kill" {
        return work::killed(&child, size);
    }
    let out = child.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    let line = String::from_utf8_lossy(&out.stdout).lines().last().unwrap_or_default().to_owned();
    let found: Map<String, Value> =
        serde_json::from_str(&line).map_err(|_| format!("{peer}, {step}: {}, {line:?}", out.status))?;
    Ok(found.into_iter().filter_map(|(name, v)| Some((name, v.as_f64()?))).collect())
}

fn in_json(figures: &Figures) -> Value {
    let rows = figures.iter().map(|((w, figure), stores)| {
        let medians: Map<String, Value> = stores.iter().map(|(p, v)| (p.clone(), json!(median(v)))).collect();
        json!({ "workload": WORKLOADS[*w].name, "figure": figure, "stores": medians })
    });
    json!({ "version": 1, "figures": rows.collect::<Vec<_>>() })
}

/// A Markdown table.
fn table(figures: &Figures, peers: &[String]) -> String {
    let there: Vec<&String> = peers.iter().filter(|p| figures.values().any(|s| s.contains_key(*p))).collect();
    let mut out = String::from("| workload | figure |");
    there.iter().for_each(|p| out += &format!(" {p} |"));
    out += "\n| --- | --- |";
    there.iter().for_each(|_| out += " ---: |");
    for ((w, figure), stores) in figures {
        out += &format!("\n| {} | {figure} |", WORKLOADS[*w].name);
        for p in &there {
            let cell = stores.get(*p).map_or(String::new(), |v| number(median(v)));
            out += &format!(" {cell} |");
        }
    }
    out + "\n"
}

fn number(v: f64) -> String {
    match v {
        v if v >= 100_000.0 => format!("{:.0}k", v / 1e3),
        v if v >= 10_000.0 => format!("{:.1}k", v / 1e3),
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}
