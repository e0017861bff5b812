//! What was deleted in a window, and what is not deletion.

mod restore_support;

use mailstrata_backup::restore::undelete::Window;
use mailstrata_backup::restore::{self, Options, Report, RestoreError};
use mailstrata_engine::{Change, Patch, State};
use mailstrata_format::ItemKind;
use restore_support::*;

fn window(from: Option<i64>, until: Option<i64>) -> Window {
    Window { from, until, today: jiff::civil::date(2026, 11, 3), folder: None }
}

fn undelete(lab: &Lab, window: &Window, place: &str) -> Report {
    let view = lab.store().view();
    restore::undelete(&view, &lab.alice(), window, &mut lab.maildir(place), options(), &mut |_| {}).unwrap()
}

/// Folder and content.
fn got(lab: &Lab, place: &str) -> Vec<(String, String)> {
    messages(&lab.path(place)).into_iter().map(|m| (m.0, String::from_utf8(m.4).unwrap())).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(f, c)| ((*f).to_owned(), (*c).to_owned())).collect()
}

#[test]
fn removal_counts_and_trash_does_not() {
    let lab = Lab::new();
    for item in ["trashed", "removed", "early", "late"] {
        lab.put(item, T0, "INBOX", item.as_bytes());
    }
    lab.move_to("trashed", T0 + 10, "Trash");
    lab.move_to("removed", T0 + 10, "Trash");
    lab.delete("early", T0 + 19);
    lab.delete("removed", T0 + 20);
    lab.delete("late", T0 + 31);
    let report = undelete(&lab, &window(Some(T0 + 20), Some(T0 + 30)), "m");
    assert_eq!((report.counts.wanted, report.counts.restored), (1, 1));
    // Its last folder was Trash (S-08).
    assert_eq!(got(&lab, "m"), pairs(&[("Trash", "removed")]));
    // Both ends belong to the window; `first` and `last` are open.
    assert_eq!(undelete(&lab, &window(Some(T0 + 19), Some(T0 + 19)), "a").counts.restored, 1);
    assert_eq!(undelete(&lab, &window(None, None), "b").counts.restored, 3);
    assert_eq!(undelete(&lab, &window(None, Some(T0 + 19)), "c").counts.restored, 1);
    assert_eq!(undelete(&lab, &window(Some(T0 + 32), None), "d").counts.wanted, 0);
    assert!(!lab.path("d").exists());
    let view = lab.store().view();
    let backwards = window(Some(2), Some(1));
    let r = restore::undelete(&view, &lab.alice(), &backwards, &mut lab.maildir("e"), options(), &mut |_| {});
    assert!(matches!(r, Err(RestoreError::Window)));
}

#[test]
fn the_flag_goes_and_the_tag_comes() {
    let lab = Lab::new();
    lab.put("1", T0, "INBOX", b"x");
    let flags = Some(Some(vec![b"\\Deleted".to_vec(), b"\\Seen".to_vec()]));
    lab.patch("1", T0 + 1, Patch { flags, tags: Some(Some(vec![b"work".to_vec()])), ..Patch::default() });
    lab.delete("1", T0 + 2);
    let report = undelete(&lab, &window(None, None), "m");
    assert_eq!(report.tag.as_deref(), Some("undelete_03_11_26"));
    let m = &messages(&lab.path("m"))[0];
    assert_eq!((m.1.join(" "), m.2.join(" ")), ("\\Seen".into(), "undelete_03_11_26 work".into()));
    let again = undelete(&lab, &window(None, None), "m");
    assert_eq!((again.counts.restored, again.counts.skipped), (0, 1));
    // Another day's tag does not make another message of it.
    let other = Window { today: jiff::civil::date(2026, 12, 1), ..window(None, None) };
    assert_eq!(undelete(&lab, &other, "m").counts.skipped, 1);
    assert_eq!(messages(&lab.path("m")).len(), 1);
}

#[test]
fn the_folder_is_the_one_of_the_last_live_state() {
    let lab = Lab::new();
    lab.folder("Conference 2021", T0, true);
    lab.put("1", T0, "INBOX", b"one");
    lab.move_to("1", T0 + 5, "Conference 2021");
    lab.delete("1", T0 + 10);
    // The folder is renamed after the deletion (S-09).
    lab.event(ALICE, ItemKind::Folder, "Conference 2021", T0 + 20, Change::Delete);
    lab.folder("Conference 2022", T0 + 20, true);
    // No folder known (S-10), with and without an id of one.
    let put = |item: &str, attributes| {
        let state = State { attributes, ..State::default() };
        lab.put_state(item, T0, state, item.as_bytes());
        lab.delete(item, T0 + 10);
    };
    put("lost", vec![]);
    put("found", vec![(b"folder-id".to_vec(), mailstrata_engine::Value::Text(b"../17".to_vec()))]);
    let report = undelete(&lab, &window(Some(T0 + 10), Some(T0 + 10)), "m");
    assert_eq!(report.counts.restored, 3);
    assert_eq!(got(&lab, "m"), pairs(&[("Conference 2021", "one"), ("unknown_00", "lost"), ("unknown_17", "found")]));
    let dedicated = Window { folder: Some(b"Back".to_vec()), ..window(None, None) };
    let report = undelete(&lab, &dedicated, "d");
    assert_eq!((report.counts.restored, got(&lab, "d").iter().filter(|m| m.0 == "Back").count()), (3, 3));
    let hostile = Window { folder: Some(b"../Back".to_vec()), ..window(None, None) };
    let view = lab.store().view();
    let r = restore::undelete(&view, &lab.alice(), &hostile, &mut lab.maildir("x"), options(), &mut |_| {});
    assert!(matches!(r, Err(RestoreError::Folder { .. })));
}

#[test]
fn deleted_folders_come_back_also_when_they_are_empty() {
    let lab = Lab::new();
    for (path, subscribed) in [("A", true), ("A/B", false), ("Stays", true)] {
        lab.folder(path, T0, subscribed);
    }
    lab.event(ALICE, ItemKind::Folder, "A", T0 + 5, Change::Delete);
    lab.event(ALICE, ItemKind::Folder, "A/B", T0 + 5, Change::Delete);
    let report = undelete(&lab, &window(None, None), "m");
    assert_eq!(report.counts.folders_made, 2);
    let found = folders(&lab.path("m"));
    assert_eq!((found.get("A"), found.get("A/B"), found.get("Stays")), (Some(&true), Some(&false), None));
}

#[test]
fn what_is_alive_again_is_there_already() {
    let lab = Lab::new();
    lab.put("back", T0, "INBOX", b"1");
    lab.delete("back", T0 + 10);
    lab.put("back", T0 + 20, "INBOX", b"1");
    // Deleted in the window, put back, and deleted again after it.
    lab.put("twice", T0, "INBOX", b"2");
    lab.delete("twice", T0 + 10);
    lab.put("twice", T0 + 12, "Other", b"3");
    lab.delete("twice", T0 + 30);
    let mut lines = Vec::new();
    let view = lab.store().view();
    let w = window(Some(T0 + 10), Some(T0 + 20));
    let report =
        restore::undelete(&view, &lab.alice(), &w, &mut lab.maildir("m"), options(), &mut collect(&mut lines)).unwrap();
    assert_eq!((report.counts.restored, report.counts.skipped), (1, 1), "{lines:?}");
    assert_eq!(got(&lab, "m"), pairs(&[("INBOX", "2")]));
    let dry = Options { dry_run: true, ..options() };
    let planned = restore::undelete(&view, &lab.alice(), &w, &mut lab.maildir("n"), dry, &mut |_| {}).unwrap();
    assert_eq!(
        (planned.counts, lab.path("n").exists()),
        (restore::report::Counts { folders: 0, ..report.counts }, false)
    );
}
