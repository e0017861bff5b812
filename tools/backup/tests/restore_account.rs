//! An account, or one item of it, as it was: against a model, into every kind of target, and in the cases with rules of their
//! own.

mod restore_support;

use mailstrata_backup::resolve::{self, ResolveError};
use mailstrata_backup::restore::report::{Became, Cause, Verdict};
use mailstrata_backup::restore::{self, Gap, Options, RestoreError, item::Which};
use mailstrata_engine::{Change, Event, Patch, State};
use mailstrata_format::{AccountId, ItemKind};
use mailstrata_mailstore::eml::EmlTarget;
use mailstrata_mailstore::mbox::MboxTarget;
use mailstrata_mailstore::target::Target;
use restore_support::*;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

fn whole(lab: &Lab, at: Option<i64>, target: &mut dyn Target) -> restore::Report {
    restore::account(&lab.reader().view(), &lab.alice(), at, target, options(), &mut |_| {}).unwrap()
}

#[test]
fn an_account_comes_back_byte_for_byte_as_it_was_at_any_moment() {
    for seed in 0..4 {
        let mut random = Random(seed);
        let mut lab = Lab::new();
        let mut model: BTreeMap<String, Message> = BTreeMap::new();
        let mut past = Vec::new();
        let mut sizes = [0, 1, 700, 9000, 70_000, (1 << 20) + 5, 3 << 20].into_iter().cycle();
        for step in 0..160 {
            let at = T0 + step * SECOND;
            let known: Vec<String> = model.keys().cloned().collect();
            let folder = ["INBOX", "Archive/2023", "Entwürfe", "INBOX/Sub"][random.below(4)];
            let words = |random: &mut Random| {
                let flags = ["\\Answered", "\\Draft", "\\Flagged", "\\Seen"].iter().filter(|_| random.below(2) == 0);
                flags.map(|s| (*s).to_owned()).collect::<Vec<_>>()
            };
            let bytes = |w: &[String]| Some(w.iter().map(|s| s.clone().into_bytes()).collect::<Vec<_>>());
            match (random.below(5), known.is_empty()) {
                (0 | 1, _) | (_, true) => {
                    let name = format!("INBOX/{}", random.below(60));
                    let len = if step % 20 == 0 { sizes.next().unwrap() } else { random.below(5000) };
                    let content = random.message(len);
                    let (flags, keywords) = (words(&mut random), vec![format!("k{}", random.below(3))]);
                    let date = T0 - random.below(1_000_000) as i64 * SECOND;
                    let state = State {
                        folder: Some(folder.into()),
                        flags: bytes(&flags),
                        tags: bytes(&keywords),
                        date: Some(date),
                        ..State::default()
                    };
                    lab.put_state(&name, at, state, &content);
                    model.insert(name, (folder.into(), flags, keywords, date, content));
                }
                (2, _) => {
                    let name = &known[random.below(known.len())];
                    lab.move_to(name, at, folder);
                    model.get_mut(name).unwrap().0 = folder.into();
                }
                (3, _) => {
                    let name = &known[random.below(known.len())];
                    let flags = words(&mut random);
                    lab.patch(name, at, Patch { flags: Some(bytes(&flags)), ..Patch::default() });
                    model.get_mut(name).unwrap().1 = flags;
                }
                _ => {
                    let name = &known[random.below(known.len())];
                    lab.delete(name, at);
                    model.remove(name);
                }
            }
            past.push((at, model.clone()));
        }
        lab.close();
        for round in 0..6 {
            let (at, then) = &past[if round == 0 { past.len() - 1 } else { random.below(past.len()) }];
            // Up to just before the next change.
            let asked = (round > 0).then(|| at + random.below(SECOND as usize) as i64);
            let mut expected: Vec<Message> = then.values().cloned().collect();
            expected.sort();
            let place = format!("m{round}");
            let dry = Options { dry_run: true, ..options() };
            let (view, alice) = (lab.reader().view(), lab.alice());
            let planned = restore::account(&view, &alice, asked, &mut lab.maildir(&place), dry, &mut |_| {}).unwrap();
            assert!(!lab.path(&place).exists(), "a dry run wrote");
            let mut lines = Vec::new();
            let report =
                restore::account(&view, &alice, asked, &mut lab.maildir(&place), options(), &mut collect(&mut lines))
                    .unwrap();
            assert_eq!(report.verdict(), Verdict::Done, "{report:?}");
            assert_eq!(report.counts.restored, expected.len() as u64);
            assert_eq!(planned.counts, report.counts);
            assert!(lines.iter().all(|l| l.outcome == Became::Restored && l.item.is_some()), "{lines:?}");
            assert!(messages(&lab.path(&place)) == expected, "seed {seed}, at {at}");
            let before = tree(&lab.path(&place));
            let again = whole(&lab, asked, &mut lab.maildir(&place));
            assert_eq!((again.counts.restored, again.counts.skipped), (0, expected.len() as u64));
            assert_eq!(tree(&lab.path(&place)), before, "a second restore added something");

            let eml = lab.path(&format!("eml{round}"));
            for pass in 0..2 {
                let report = whole(&lab, asked, &mut EmlTarget::open(&eml).unwrap());
                let n = expected.len() as u64;
                assert_eq!((report.counts.restored, report.counts.skipped), if pass == 0 { (n, 0) } else { (0, n) });
            }
            let mut contents: Vec<_> = tree(&eml)
                .iter()
                .filter(|name| name.ends_with(".eml"))
                .map(|name| std::fs::read(eml.join(name)).unwrap())
                .collect();
            contents.sort();
            let mut wanted: Vec<_> = expected.iter().map(|m| m.4.clone()).collect();
            wanted.sort();
            assert!(contents == wanted);

            let mbox = lab.path(&format!("mbox{round}"));
            let n = expected.len() as u64;
            let first = whole(&lab, asked, &mut MboxTarget::open(&mbox).unwrap());
            assert_eq!(first.counts.restored, n);
            let again = whole(&lab, asked, &mut MboxTarget::open(&mbox).unwrap());
            assert_eq!((again.counts.restored, again.counts.skipped), (0, n));
        }
    }
}

#[test]
fn folders_come_back_empty_ones_and_subscriptions_too() {
    let lab = Lab::new();
    lab.folder("INBOX", T0, true);
    lab.folder("Empty/Deep", T0, true);
    lab.folder("Plain", T0 + 1, false);
    lab.folder("Gone", T0 + 1, false);
    lab.event(ALICE, ItemKind::Folder, "Gone", T0 + 5, Change::Delete);
    lab.put("1", T0 + 1, "Plain", b"x");
    let report = whole(&lab, None, &mut lab.maildir("m"));
    assert_eq!((report.counts.folders, report.counts.restored, report.counts.wanted), (3, 1, 1));
    let expected = [("Empty/Deep", true), ("INBOX", true), ("Plain", false)];
    assert_eq!(folders(&lab.path("m")), expected.map(|(p, s)| (p.to_owned(), s)).into());
    whole(&lab, Some(T0 + 3), &mut lab.maildir("m3"));
    assert!(folders(&lab.path("m3")).contains_key("Gone"));
}

#[test]
fn a_moment_before_the_first_record_is_an_error_that_names_it() {
    let lab = Lab::new();
    lab.put("1", T0, "INBOX", b"x");
    let (view, alice) = (lab.store().view(), lab.alice());
    let before = restore::account(&view, &alice, Some(T0 - 1), &mut lab.maildir("m"), options(), &mut |_| {});
    assert!(matches!(before, Err(RestoreError::BeforeFirst { first: T0 })), "{before:?}");
    let named = resolve::account(&view, ALICE.as_bytes(), Some(T0 - 1));
    assert!(matches!(named, Err(ResolveError::BeforeFirst { first: T0, .. })), "{named:?}");
    let which = Which { key: key("1"), at: Some(T0 - 1), folder: None };
    let item = restore::item(&view, &alice, which, &mut lab.maildir("m"), options(), &mut |_| {});
    assert!(matches!(item, Err(RestoreError::BeforeFirst { first: T0 })), "{item:?}");
    assert!(!lab.path("m").exists());
    assert!(matches!(resolve::account(&view, b"nobody", None), Err(ResolveError::NoAccount { .. })));
}

#[test]
fn a_deleted_account_comes_back_as_it_was_at_its_deletion() {
    for together in [false, true] {
        let lab = Lab::new();
        lab.account(ALICE, T0);
        lab.put("1", T0 + 1, "INBOX", b"one");
        lab.put("2", T0 + 2, "INBOX", b"two");
        lab.delete("2", T0 + 3);
        lab.put("3", T0 + 9, "INBOX", b"three");
        if together {
            // A scan that finds the account gone reports everything at one moment.
            lab.delete("1", T0 + 9);
            lab.delete("3", T0 + 9);
        }
        lab.event(ALICE, ItemKind::Account, ALICE, T0 + 9, Change::Delete);
        let alice = lab.alice();
        assert_eq!(alice.deleted, Some(T0 + 9));
        let report = whole(&lab, None, &mut lab.maildir("m"));
        assert!(report.account.deleted.is_some());
        let contents: Vec<_> = messages(&lab.path("m")).into_iter().map(|m| m.4).collect();
        // What was put at the very moment of the deletion is there unless it was deleted with it.
        assert_eq!(contents, [b"one".to_vec(), b"three".to_vec()], "{together}");
    }
}

#[test]
fn several_accounts_of_one_name_are_told_apart() {
    let lab = Lab::new();
    lab.account(ALICE, T0);
    lab.put("1", T0 + 1, "INBOX", b"old");
    lab.event(ALICE, ItemKind::Account, ALICE, T0 + 5, Change::Delete);
    lab.account(ALICE, T0 + 10);
    lab.put("1", T0 + 11, "INBOX", b"new");
    let view = lab.store().view();
    let (old, new) = (AccountId::of_address(ALICE.as_bytes(), 1), AccountId::of_address(ALICE.as_bytes(), 2));
    let named = |name: &str, at: Option<i64>| resolve::account(&view, name.as_bytes(), at).unwrap();
    assert_eq!((named(ALICE, None).is.id, named(ALICE, None).others[0].id), (new, old));
    assert_eq!(named(ALICE, Some(T0 + 2)).is.id, old);
    assert_eq!(named(ALICE, Some(T0 + 7)).is.id, old);
    assert_eq!(named(&old.to_string(), None).is.id, old);
    for (id, content) in [(old, b"old"), (new, b"new")] {
        let who = named(&id.to_string(), None).is;
        let place = id.to_string();
        restore::account(&view, &who, None, &mut lab.maildir(&place), options(), &mut |_| {}).unwrap();
        assert_eq!(messages(&lab.path(&place))[0].4, content);
    }
    lab.event(ALICE, ItemKind::Account, ALICE, T0 + 20, Change::Delete);
    let view = lab.store().view();
    assert_eq!(resolve::account(&view, ALICE.as_bytes(), None).unwrap().is.id, new);

    for id in [[7; 16], [8; 16]] {
        let change = Change::Put { state: State::default(), blobs: vec![], content_unseen: false };
        let event = Event {
            account: b"twin".to_vec(),
            account_id: Some(AccountId(id)),
            item: b"twin".to_vec(),
            kind: ItemKind::Account,
            change,
            at: None,
            not_before: None,
            source: None,
            derived: false,
        };
        lab.store().record(&event).unwrap();
    }
    match resolve::account(&lab.store().view(), b"twin", None) {
        Err(error @ ResolveError::AmbiguousAccount { .. }) => {
            assert!(error.to_string().contains(&AccountId([8; 16]).to_string()), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_emptied_account_is_warned_of_with_a_better_moment() {
    let lab = Lab::new();
    for i in 0..5 {
        lab.put(&i.to_string(), T0 + i, "INBOX", b"x");
    }
    lab.delete("0", T0 + 1000 * SECOND);
    for i in 1..5 {
        lab.delete(&i.to_string(), T0 + 2000 * SECOND + i * SECOND);
    }
    let report = whole(&lab, None, &mut lab.maildir("m"));
    let emptied = report.emptied.unwrap();
    assert_eq!((emptied.messages, emptied.last_non_empty.messages, emptied.before_emptying.messages), (5, 1, 4));
    let at = mailstrata_mailstore::time::parse_rfc3339(&emptied.before_emptying.at).unwrap();
    let report = whole(&lab, Some(at), &mut lab.maildir("m"));
    assert_eq!(report.counts.restored, 4);
    assert!(report.emptied.is_none());
}

#[test]
fn hostile_folder_names_never_leave_the_target_and_nothing_is_lost() {
    let lab = Lab::new();
    let hostile = ["../x", "/etc", "..", "a/../../x", "", "a\0b", "a//b"];
    for (i, folder) in hostile.iter().enumerate() {
        lab.put(&i.to_string(), T0, folder, format!("hostile {i}").as_bytes());
    }
    lab.folder("../f", T0, true);
    lab.put("good", T0, "INBOX", b"good");
    std::fs::create_dir(lab.path("in")).unwrap();
    let before: Vec<_> = tree(lab.dir.path()).into_iter().filter(|p| !p.starts_with("in")).collect();
    let mut side = EmlTarget::open(&lab.path("in/side")).unwrap();
    let mut lines = Vec::new();
    let with_side = Options { side: Some(&mut side), ..options() };
    let view = lab.store().view();
    let target = &mut lab.maildir("in/m");
    let report = restore::account(&view, &lab.alice(), None, target, with_side, &mut collect(&mut lines)).unwrap();
    assert_eq!((report.counts.restored, report.counts.unrestored), (1, hostile.len() as u64 + 1));
    assert!(report.incomplete() && report.verdict() == Verdict::Incomplete);
    let refused: Vec<_> = lines.iter().filter(|l| l.outcome == Became::Unrestored).collect();
    assert!(refused.iter().all(|l| l.cause == Some(Cause::InvalidName)), "{refused:?}");
    assert_eq!(refused.iter().filter(|l| l.side.is_some()).count(), hostile.len());
    let after: Vec<_> = tree(lab.dir.path()).into_iter().filter(|p| !p.starts_with("in")).collect();
    assert_eq!(before, after);
    assert_eq!(messages(&lab.path("in/m")).len(), 1);
    assert_eq!(tree(&lab.path("in/side")).iter().filter(|n| n.ends_with(".eml")).count(), hostile.len());
}

#[test]
fn a_moment_in_a_gap_or_in_an_interval_makes_it_approximate() {
    let lab = Lab::new();
    lab.put("1", T0, "INBOX", b"x");
    let event = Event {
        account: ALICE.into(),
        account_id: None,
        item: b"1".to_vec(),
        kind: ItemKind::Message,
        change: Change::Delete,
        at: Some(T0 + 100),
        not_before: Some(T0 + 50),
        source: None,
        derived: false,
    };
    lab.store().record(&event).unwrap();
    for (at, items) in [(T0 + 49, 0), (T0 + 50, 1), (T0 + 99, 1)] {
        let report = whole(&lab, Some(at), &mut lab.maildir("m"));
        assert_eq!(report.approximate.map_or(0, |a| a.items), items, "{at}");
    }
    let gaps = vec![Gap { from: T0 + 10, until: Some(T0 + 20) }];
    let view = lab.store().view();
    for (at, inside) in [(T0 + 9, false), (T0 + 15, true), (T0 + 21, false)] {
        let o = Options { gaps: gaps.clone(), dry_run: true, ..options() };
        let r = restore::account(&view, &lab.alice(), Some(at), &mut lab.maildir("m"), o, &mut |_| {}).unwrap();
        assert_eq!(r.approximate.is_some(), inside);
    }
}

#[test]
fn one_item_comes_back_at_any_moment_and_into_any_folder() {
    let lab = Lab::new();
    lab.put("a/1", T0, "INBOX", b"first");
    lab.put("a/1", T0 + 10, "Drafts", b"second");
    lab.patch("a/1", T0 + 20, Patch { flags: Some(Some(vec![b"\\Deleted".to_vec()])), ..Patch::default() });
    lab.delete("a/1", T0 + 30);
    let view = lab.store().view();
    let id = lab.alice().id;
    let found = resolve::item(&view, id, b"a/1").unwrap();
    assert_eq!(resolve::item(&view, id, b"a%2F1").unwrap(), found);
    assert_eq!(resolve::item(&view, id, found.key.to_string().as_bytes()).unwrap(), found);
    assert!(matches!(resolve::item(&view, id, b"b"), Err(ResolveError::NoItem { .. })));
    let restore = |at, folder, place: &str| {
        let which = Which { key: found.key, at, folder };
        restore::item(&view, &lab.alice(), which, &mut lab.maildir(place), options(), &mut |_| {})
    };
    restore(Some(T0 + 5), None, "m1").unwrap();
    assert_eq!(messages(&lab.path("m1"))[0].4, b"first");
    let report = restore(None, Some(&b"Saved"[..]), "m2").unwrap();
    assert_eq!((report.counts.restored, report.warnings.len()), (1, 1));
    let got = &messages(&lab.path("m2"))[0];
    assert_eq!((got.0.as_str(), got.1.len(), got.4.as_slice()), ("Saved", 0, &b"second"[..]));
    assert!(matches!(restore(None, Some(&b"../x"[..]), "m3"), Err(RestoreError::Folder { .. })));
    lab.folder("a/1", T0, false);
    let ambiguous = resolve::item(&lab.store().view(), id, b"a/1");
    assert!(matches!(&ambiguous, Err(ResolveError::AmbiguousItem { found, .. }) if found.len() == 2), "{ambiguous:?}");
}

#[test]
fn what_cannot_be_restored_is_named_and_the_rest_is() {
    let lab = Lab::new();
    lab.put("good", T0, "INBOX", b"good");
    let state = || State { folder: Some(b"INBOX".to_vec()), ..State::default() };
    let put = |unseen| Change::Put { state: state(), blobs: vec![], content_unseen: unseen };
    lab.event(ALICE, ItemKind::Message, "unseen", T0, put(true));
    lab.event(ALICE, ItemKind::Message, "nothing", T0, put(false));
    lab.event(ALICE, ItemKind::Contact, "contact", T0, put(false));
    lab.event(ALICE, ItemKind::Tag, "tag", T0, put(false));
    let report = whole(&lab, None, &mut lab.maildir("m"));
    let mut causes: Vec<_> =
        report.unrestored.iter().map(|l| (l.item.clone().unwrap(), l.cause.unwrap(), l.retry)).collect();
    causes.sort_by(|a, b| a.0.cmp(&b.0));
    let expected = [("contact", Cause::Kind), ("nothing", Cause::NoContent), ("unseen", Cause::ContentUnseen)];
    assert_eq!(causes, expected.map(|(i, c)| (i.to_owned(), c, false)));
    assert_eq!((report.counts.restored, report.counts.wanted, report.counts.settings), (1, 4, 1));
    assert_eq!(report.verdict(), Verdict::Incomplete);
    serde_json::to_string(&report).unwrap();
}

#[test]
fn a_restore_that_is_stopped_names_what_is_left() {
    let lab = Lab::new();
    for i in 0..300 {
        lab.put(&i.to_string(), T0, "INBOX", format!("{i}").as_bytes());
    }
    let stop = AtomicBool::new(true);
    let o = Options { stop: Some(&stop), ..options() };
    let view = lab.store().view();
    let report = restore::account(&view, &lab.alice(), None, &mut lab.maildir("m"), o, &mut |_| {}).unwrap();
    assert_eq!((report.verdict(), report.counts.unrestored), (Verdict::Interrupted, 300));
    assert_eq!(report.retry().count(), 300);
    let report = whole(&lab, None, &mut lab.maildir("m"));
    assert_eq!(report.counts.restored, 300);
}
