//! Every workload runs, tiny: so that none rots. Nothing is said of their figures.

use mailstrata_benches::report::Report;
use mailstrata_benches::{
    Bench, Outcome, Scale, check, commit, compact, ingest, lookup, maildir, memory, metadata, new_item,
    open_after_kill, restore_read, scan, slow_flush,
};
use std::time::Duration;

fn figures(run: fn(&Bench, &mut Report) -> Outcome) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let program = env!("CARGO_BIN_EXE_mailstrata-benches").into();
    let bench = Bench { dir: dir.path().to_owned(), scale: Scale::tiny(), patience: Duration::ZERO, program };
    let mut report = Report::default();
    run(&bench, &mut report).unwrap();
    for f in report.figures() {
        assert!(f.engine.is_finite() && f.engine >= 0.0, "{f:?}");
        assert!(f.ratio.is_none_or(|r| r.is_finite() && r > 0.0), "{f:?}");
    }
    assert!(report.table().lines().count() == report.figures().len() + 1);
    report.figures().len()
}

#[test]
fn commit_runs() {
    assert!(figures(commit::run) >= 10);
}

#[test]
fn ingest_runs() {
    assert!(figures(ingest::run) >= 3);
}

#[test]
fn lookup_runs() {
    assert!(figures(lookup::run) >= 7);
}

#[test]
fn scan_runs() {
    assert!(figures(scan::run) == 3);
}

#[test]
fn compact_runs() {
    assert!(figures(compact::run) >= 20);
}

#[test]
fn maildir_runs() {
    assert!(figures(maildir::run) >= 6);
}

#[test]
fn restore_runs() {
    assert!(figures(restore_read::run) >= 3);
}

#[test]
fn open_after_kill_runs() {
    assert!(figures(open_after_kill::run) == 2);
}

#[test]
fn new_item_runs() {
    assert!(figures(new_item::run) >= 5);
}

#[test]
fn metadata_runs() {
    assert!(figures(metadata::run) == 1);
}

#[test]
fn slow_flush_runs() {
    assert!(figures(slow_flush::run) == 5);
}

#[test]
fn memory_runs() {
    assert!(figures(memory::run) == 4);
}

#[test]
fn scale_runs_and_cleans_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut scale = std::process::Command::new(env!("CARGO_BIN_EXE_mailstrata-benches"));
    let out = scale.args(["scale", "--items", "2000", "--lookups", "64", "--dir"]).arg(dir.path()).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let lines: Vec<serde_json::Value> =
        String::from_utf8_lossy(&out.stdout).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let stages = ["growth", "write", "open-clean", "crash", "open-killed", "lookup", "list", "versions-log"];
    for stage in stages {
        assert!(lines.iter().any(|l| l["stage"] == stage), "{stage} is missing");
    }
    let write = lines.iter().find(|l| l["stage"] == "write").unwrap();
    assert_eq!(write["transactions"], 6000);
    let log = lines.iter().find(|l| l["stage"] == "versions-log").unwrap();
    assert_eq!(log["versions"], 200);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn an_unknown_workload_is_refused() {
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_mailstrata-benches")).arg("nonsense").output().unwrap();
    assert!(!out.status.success());
    assert!(String::from_utf8_lossy(&out.stderr).contains("no workload nonsense"));
}

#[test]
fn check_runs() {
    assert!(figures(check::run) >= 3);
}
