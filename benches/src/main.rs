//! Runs workloads and prints their figures beside the ceilings of the same run.

use mailstrata_benches::report::Report;
use mailstrata_benches::{
    Bench, Outcome, Scale, commit, compact, ingest, lookup, maildir, memory, metadata, new_item, open_after_kill,
    restore_read, scale, scan, slow_flush,
};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

const HELP: &str = "\
mailstrata-benches WORKLOAD… [--quick] [--dir DIR] [--items N] [--patience S] [--keep] [--json]

Workloads: commit, newitem, metadata, flush5ms, memory, ingest, lookup, scan, restore, maildir, compact, open, all
Apart from these: mailstrata-benches scale --help
  --quick    shorter rounds and a smaller store
  --dir      a directory on the disk under test (default: target/bench); a directory of its own is made in it
  --items    messages of the store that is read (default 100000)
  --patience seconds that each round may wait for an idle machine (default 0)
  --keep     leave the store there (in DIR/kept), and take up the one that was left
  --json     figures for programs";

type Run = fn(&Bench, &mut Report) -> Outcome;

/// In the order in which `all` runs them: `open` changes the store that the others read, so it is last.
const WORKLOADS: [(&str, Run); 12] = [
    ("commit", commit::run),
    ("newitem", new_item::run),
    ("metadata", metadata::run),
    ("flush5ms", slow_flush::run),
    ("memory", memory::run),
    ("ingest", ingest::run),
    ("lookup", lookup::run),
    ("scan", scan::run),
    ("restore", restore_read::run),
    ("maildir", maildir::run),
    ("compact", compact::run),
    ("open", open_after_kill::run),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("mailstrata-benches: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Outcome {
    // Children of the workloads.
    match args {
        [child, dir, n] if child == "child-writer" => return open_after_kill::writer_child(Path::new(dir), n.parse()?),
        [child, how, dir, mails, window] if child == "child-ingest" => {
            let window = Duration::from_millis(window.parse()?);
            return memory::ingest_child(how, Path::new(dir), mails.parse()?, window);
        }
        [child, stage, rest @ ..] if child == "child-scale" => return scale::child(stage, rest),
        [word, rest @ ..] if word == "scale" => return scale::run(rest, &std::env::current_exe()?),
        [child, dir, n] if child == "child-memory" => return lookup::memory_child(Path::new(dir), n.parse()?),
        _ => {}
    }
    let (mut scale, mut items, mut json, mut keep, mut patience) = (Scale::full(), None, false, false, Duration::ZERO);
    let mut dir = PathBuf::from("target/bench");
    let mut chosen = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--help" | "-h" => {
                println!("{HELP}");
                return Ok(());
            }
            "--quick" => scale = Scale::quick(),
            "--json" => json = true,
            "--keep" => keep = true,
            "--dir" => dir = value()?.into(),
            "--items" => items = Some(value()?.parse()?),
            "--patience" => patience = Duration::from_secs(value()?.parse()?),
            "all" => chosen.extend(WORKLOADS),
            name => {
                let found = WORKLOADS.iter().find(|(n, _)| *n == name);
                chosen.push(*found.ok_or_else(|| format!("there is no workload {name}\n{HELP}"))?);
            }
        }
    }
    if chosen.is_empty() {
        return Err(format!("which workload?\n{HELP}").into());
    }
    scale.items = items.unwrap_or(scale.items);
    let dir = dir.join(if keep { "kept".to_owned() } else { format!("run-{}", std::process::id()) });
    std::fs::create_dir_all(&dir)?;
    let bench = Bench { dir: dir.clone(), scale, patience, program: std::env::current_exe()? };
    let mut report = Report::default();
    let outcome = chosen.iter().try_for_each(|(name, run)| {
        eprintln!("{name} …");
        run(&bench, &mut report)
    });
    if !keep {
        std::fs::remove_dir_all(&dir)?;
    }
    if json {
        println!("{:#}", report.json());
    } else {
        print!("{}", report.table());
    }
    outcome
}
