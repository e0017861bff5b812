//! Searching over history, and comparing two moments.

mod restore_support;

use mailstrata_backup::diff::{Field, Summary, What, diff};
use mailstrata_backup::find::{Entry, Query, all_accounts, find};
use mailstrata_engine::{Change, Patch, State, View};
use mailstrata_format::{AccountId, ItemKind};
use restore_support::*;
use std::collections::HashSet;

fn found(lab: &Lab, query: &Query) -> Vec<(String, i64, bool)> {
    let view = lab.store().view();
    let mut all = Vec::new();
    let count = find(&view, &all_accounts(&view).unwrap(), query, &mut |entry| {
        let Entry::Found(f) = entry else { panic!("{entry:?}") };
        all.push((String::from_utf8(f.state.item.clone()).unwrap(), f.state.moment - T0, f.deleted.is_some()));
        true
    });
    assert_eq!(count.unwrap(), all.len() as u64);
    all.sort();
    all
}

#[test]
fn a_search_looks_at_every_state_and_tells_the_newest_that_fits() {
    let lab = Lab::new();
    lab.put("m1", T0, "INBOX", b"1");
    lab.patch("m1", T0 + 10, Patch { name: Some(Some("Neue Pläne".into())), ..Patch::default() });
    lab.put("m2", T0 + 1, "Archive", b"2");
    lab.delete("m2", T0 + 20);
    lab.folder("Archive", T0, true);
    let hit = |item: &str, at, deleted| (item.to_owned(), at, deleted);
    let text = |t: &str| Query { text: Some(t.into()), kind: Some(ItemKind::Message), ..Query::default() };
    // The old subject is found although there is a new one.
    assert_eq!(found(&lab, &text("SUBJECT OF M1")), [hit("m1", 0, false)]);
    assert_eq!(found(&lab, &text("PLÄNE")), [hit("m1", 10, false)]);
    assert_eq!(found(&lab, &text("archive")), [hit("m2", 20, true)]);
    assert_eq!(found(&lab, &text("m2")), [hit("m2", 20, true)]);
    assert_eq!(found(&lab, &Query { deleted: Some(false), ..text("subject") }), [hit("m1", 0, false)]);
    assert_eq!(found(&lab, &Query { deleted: Some(true), ..text("subject") }), [hit("m2", 20, true)]);
    assert_eq!(found(&lab, &Query { before: Some(T0 + 5), ..text("m") }), [hit("m1", 0, false), hit("m2", 1, true)]);
    assert_eq!(found(&lab, &Query { after: Some(T0 + 11), ..text("m") }), [hit("m2", 20, true)]);
    let sender = Query { sender: Some(b"BOB@".to_vec()), folder: Some(b"inb".to_vec()), ..Query::default() };
    assert_eq!(found(&lab, &sender), [hit("m1", 10, false)]);
    assert_eq!(found(&lab, &Query { kind: Some(ItemKind::Folder), ..Query::default() }), [hit("Archive", 0, false)]);
    assert_eq!(found(&lab, &Query::default()).len(), 3);
    let view = lab.store().view();
    let one = find(&view, &all_accounts(&view).unwrap(), &Query::default(), &mut |_| false).unwrap();
    assert_eq!(one, 1, "the caller's word to stop counts");
}

#[test]
fn a_search_through_all_accounts_finds_what_one_by_one_would() {
    let mut lab = Lab::new();
    let mut random = Random(7);
    let mut alive = HashSet::new();
    for n in 0..400i64 {
        let (account, item) = (format!("user{}@x", random.below(4)), format!("m{}", random.below(60)));
        let name = if n % 3 == 0 { format!("subject {n}") } else { format!("plan {}", n % 7) };
        let state = State { name: Some(name.into()), folder: Some("INBOX".into()), ..State::default() };
        let put = Change::Put { state, blobs: vec![], content_unseen: true };
        let gone = random.below(4) == 0 && alive.remove(&(account.clone(), item.clone()));
        lab.event(&account, ItemKind::Message, &item, T0 + n, if gone { Change::Delete } else { put });
        if !gone {
            alive.insert((account, item));
        }
        if n == 200 {
            lab.seal();
        }
    }
    let queries = [
        Query::default(),
        Query { text: Some(b"plan 3".to_vec()), ..Query::default() },
        Query { subject: Some(b"subject".to_vec()), deleted: Some(true), ..Query::default() },
        Query { folder: Some(b"inbox".to_vec()), deleted: Some(false), after: Some(T0 + 100), ..Query::default() },
        Query { before: Some(T0 + 50), ..Query::default() },
    ];
    let list = |view: &View, accounts: &[AccountId], query: &Query| {
        let mut all = Vec::new();
        find(view, accounts, query, &mut |entry| {
            let Entry::Found(f) = entry else { panic!("{entry:?}") };
            all.push((f.account, f.state.lsn, f.states, f.deleted));
            true
        })
        .unwrap();
        all
    };
    for closed in [false, true] {
        let view = if closed { lab.close().view() } else { lab.store().view() };
        let accounts = all_accounts(&view).unwrap();
        assert_eq!(accounts.len(), 5, "four and the filler");
        for query in &queries {
            let one_by_one: Vec<_> = accounts.iter().flat_map(|a| list(&view, &[*a], query)).collect();
            assert!(!one_by_one.is_empty());
            assert_eq!(list(&view, &accounts, query), one_by_one, "{query:?}");
        }
    }
}

#[test]
fn a_diff_tells_what_is_not_the_same_at_both_moments() {
    let lab = Lab::new();
    for item in ["same", "flagged", "moved", "removed", "there_and_back", "again"] {
        lab.put(item, T0, "INBOX", item.as_bytes());
    }
    let flags = |flag: &str| Patch { flags: Some(Some(vec![flag.into()])), ..Patch::default() };
    let at = T0 + 10;
    lab.patch("flagged", at, flags("\\Flagged"));
    lab.move_to("moved", at, "Other");
    lab.patch("moved", at, flags("\\Flagged"));
    lab.delete("removed", at);
    lab.move_to("there_and_back", at, "Other");
    lab.move_to("there_and_back", at, "INBOX");
    lab.put("again", at, "INBOX", b"again");
    lab.put("added", at, "INBOX", b"added");
    lab.put("passed", at, "INBOX", b"passed");
    lab.delete("passed", at + 1);
    lab.put("later", at + 100, "INBOX", b"later");
    let view = lab.store().view();
    let mut all = Vec::new();
    let summary = diff(&view, lab.alice().id, Some(T0 + 5), Some(T0 + 20), &mut |d| {
        let name = |t: &mailstrata_engine::Transaction| String::from_utf8(t.item.clone()).unwrap();
        all.push(match d.what {
            What::Added { after } => (name(&after), "added".to_owned()),
            What::Removed { before, deleted } => (name(&before), format!("removed {}", deleted - T0)),
            What::Moved { after, fields, .. } => (name(&after), format!("moved {fields:?}")),
            What::Changed { after, fields, .. } => (name(&after), format!("changed {fields:?}")),
            What::Damaged(error) => panic!("{error}"),
        });
        true
    });
    all.sort();
    let expected = [
        ("added", "added"),
        ("flagged", "changed [Flags]"),
        ("moved", "moved [Folder, Flags]"),
        ("removed", "removed 10"),
    ];
    assert_eq!(all, expected.map(|(i, w)| (i.to_owned(), w.to_owned())));
    let counts = Summary { added: 1, removed: 1, moved: 1, changed: 1, same: 3, came_and_went: 1, damaged: 0 };
    assert_eq!(summary.unwrap(), counts);
    assert_eq!(Field::Attribute(b"x%".to_vec()).name(), "x%25");
    assert!(diff(&view, lab.alice().id, Some(2), Some(1), &mut |_| true).is_err());
}
