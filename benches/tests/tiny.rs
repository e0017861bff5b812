//! Every workload runs, tiny: so that none rots. Nothing is said of their figures.

use mailstrata_benches::report::Report;
use mailstrata_benches::{Bench, Outcome, Scale, check, commit, ingest, lookup, maildir, open_after_kill, restore_read};
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
fn an_unknown_workload_is_refused() {
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_mailstrata-benches")).arg("nonsense").output().unwrap();
    assert!(!out.status.success());
    assert!(String::from_utf8_lossy(&out.stderr).contains("no workload nonsense"));
}

#[test]
fn check_runs() {
    assert!(figures(check::run) >= 3);
}
