//! SmartScan against real Maildirs.

mod scan_tree;

use mailstrata_backup::scan::{Options, SmartScan};
use mailstrata_format::ItemKind;
use scan_tree::{World, assert_same, folders, let_markers_settle, rename, stored};
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const U: &str = "alice@example.org";

fn world() -> World {
    let w = World::new();
    w.folder(U, "INBOX");
    w.folder(U, "Work");
    w.deliver(U, "INBOX", "1.a", "one");
    w.deliver(U, "INBOX", "2.b", "two");
    w.deliver(U, "Work", "3.c", "three");
    w
}

#[test]
fn the_first_scan_backs_up_what_is_there() {
    let w = world();
    let report = w.scan();
    assert_eq!((report.messages.added, report.folders.added, report.accounts.changed), (3, 2, 1));
    w.agree(U);
    assert_eq!(w.native_ids(U), ["INBOX/1.a", "INBOX/2.b", "Work/3.c"]);
    assert_eq!(folders(&w.store().view(), w.id(U), None), ["INBOX", "Work"]);
    let view = w.store().view();
    let account = view.items(w.id(U), None).unwrap().map(Result::unwrap).find(|h| h.kind() == Some(ItemKind::Account));
    assert_eq!(view.read(&account.unwrap()).unwrap().item, U.as_bytes());
}

#[test]
fn an_unchanged_account_is_not_written() {
    let w = world();
    w.scan();
    let lsn = w.lsn();
    w.scan();
    assert_eq!(w.lsn(), lsn, "fresh markers vouch for nothing and are no reason to write");
    let_markers_settle();
    let report = w.scan();
    assert_eq!(report.folders.listed, 2);
    let lsn = w.lsn();
    let report = w.scan();
    assert_eq!((report.folders.listed, report.accounts.unchanged, w.lsn()), (0, 1, lsn));
}

#[test]
fn flags_keywords_and_a_rename_to_cur_keep_the_item() {
    let w = world();
    w.scan();
    let inbox = w.root(U);
    rename(&inbox.join("new/1.a"), &inbox.join("cur/1.a:2,"));
    let report = w.scan();
    assert_eq!(report.messages.changed + report.messages.added + report.messages.deleted, 0);
    fs::write(inbox.join("dovecot-keywords"), "0 work\n1 $Junk\n").unwrap();
    rename(&inbox.join("cur/1.a:2,"), &inbox.join("cur/1.a:2,FSab"));
    let report = w.scan();
    assert_eq!((report.messages.changed, report.bytes_read), (1, 0));
    w.agree(U);
    // Another meaning of a letter is another keyword, though no file was renamed.
    fs::write(inbox.join("dovecot-keywords"), "0 home\n1 $Junk\n").unwrap();
    assert_eq!(w.scan().messages.changed, 1);
    w.agree(U);
    assert_eq!(w.native_ids(U), ["INBOX/1.a", "INBOX/2.b", "Work/3.c"]);
}

#[test]
fn a_move_keeps_the_item_and_reads_nothing() {
    let w = world();
    w.scan();
    let (inbox, work) = (w.root(U), w.folder_dir(U, "Work"));
    rename(&inbox.join("new/1.a"), &work.join("cur/1.a:2,S"));
    let report = w.scan();
    assert_eq!(
        (report.messages.moved, report.messages.added, report.messages.deleted, report.bytes_read),
        (1, 0, 0, 0)
    );
    w.agree(U);
    assert_eq!(w.native_ids(U), ["INBOX/1.a", "INBOX/2.b", "Work/3.c"]);
    // The place it left is taken by another message of the same name: that is another item.
    w.deliver(U, "INBOX", "1.a", "another");
    assert_eq!(w.scan().messages.added, 1);
    w.agree(U);
    assert_eq!(w.native_ids(U), ["INBOX/1.a", "INBOX/1.a#2", "INBOX/2.b", "Work/3.c"]);
    // And back, past each other.
    rename(&work.join("cur/1.a:2,S"), &w.dir.path().join("aside"));
    rename(&inbox.join("new/1.a"), &work.join("cur/1.a:2,"));
    rename(&w.dir.path().join("aside"), &inbox.join("cur/1.a:2,S"));
    w.scan();
    w.agree(U);
}

#[test]
fn a_move_under_a_new_name_is_found_by_content() {
    let w = world();
    w.scan();
    let (inbox, work) = (w.root(U), w.folder_dir(U, "Work"));
    fs::hard_link(inbox.join("new/1.a"), work.join("cur/9.z:2,F")).unwrap();
    fs::remove_file(inbox.join("new/1.a")).unwrap();
    let report = w.scan();
    assert_eq!((report.messages.moved, report.messages.added, report.messages.deleted), (1, 0, 0));
    w.agree(U);
    assert_eq!(w.native_ids(U), ["INBOX/1.a", "INBOX/2.b", "Work/3.c"]);
    // Back again: the name is told by the native id once more.
    rename(&work.join("cur/9.z:2,F"), &inbox.join("cur/1.a:2,F"));
    assert_eq!(w.scan().messages.moved, 1);
    w.agree(U);
    let view = w.store().view();
    let key = mailstrata_format::ItemKey::of(ItemKind::Message.code(), b"INBOX/1.a");
    assert!(view.state(w.id(U), key, None).unwrap().unwrap().state.attribute(b"maildir.base").is_none());
}

#[test]
fn a_copy_is_a_new_item_with_the_same_blob() {
    let w = world();
    w.scan();
    let (inbox, work) = (w.root(U), w.folder_dir(U, "Work"));
    fs::hard_link(inbox.join("new/1.a"), work.join("cur/1.a:2,")).unwrap();
    fs::copy(inbox.join("new/1.a"), work.join("cur/8.y:2,")).unwrap();
    let report = w.scan();
    assert_eq!((report.messages.added, report.messages.moved, report.bytes_new), (2, 0, 0));
    w.agree(U);
    // Both copies go, the original stays.
    fs::remove_file(work.join("cur/1.a:2,")).unwrap();
    fs::remove_file(work.join("cur/8.y:2,")).unwrap();
    assert_eq!(w.scan().messages.deleted, 2);
    w.agree(U);
}

#[test]
fn a_deletion_is_recorded_with_its_bounds_and_undone_by_a_return() {
    let w = world();
    w.scan();
    let before = w.disk(U);
    let path = w.root(U).join("new/1.a");
    let bytes = fs::read(&path).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    let t = now();
    std::thread::sleep(std::time::Duration::from_millis(20));
    fs::remove_file(&path).unwrap();
    w.scan();
    w.agree(U);
    assert_same(&w.stored(U, Some(t)), &before, "before the deletion");
    let view = w.store().view();
    let key = mailstrata_format::ItemKey::of(ItemKind::Message.code(), b"INBOX/1.a");
    let gone = view.state(w.id(U), key, None).unwrap().unwrap();
    assert!(gone.deleted && gone.happened >= t && gone.not_before.is_some_and(|n| n < t));
    fs::write(&path, bytes).unwrap();
    assert_eq!(w.scan().messages.added, 1);
    assert_eq!(w.native_ids(U), ["INBOX/1.a", "INBOX/2.b", "Work/3.c"]);
}

#[test]
fn a_folder_rename_is_one_transaction_and_derived_ones() {
    let w = world();
    fs::write(w.folder_dir(U, "Work").join("dovecot-uidlist"), "3 V77 N5 Gcafe01\n1 :3.c\n").unwrap();
    w.folder(U, "Plain");
    w.deliver(U, "Plain", "5.p", "plain");
    w.deliver(U, "Plain", "6.p", "plain too");
    w.scan();
    let (lsn, before) = (w.lsn(), w.disk(U));
    rename(&w.folder_dir(U, "Work"), &w.folder_dir(U, "Job"));
    rename(&w.folder_dir(U, "Plain"), &w.folder_dir(U, "Simple"));
    w.deliver(U, "Job", "7.j", "new");
    let report = w.scan();
    assert_eq!((report.folders.changed, report.folders.added, report.folders.deleted), (2, 0, 0));
    assert_eq!((report.messages.added, report.messages.moved, report.messages.deleted), (1, 0, 0));
    w.agree(U);
    assert_eq!(folders(&w.store().view(), w.id(U), None), ["INBOX", "Job", "Simple"]);
    assert_same(&stored(&w.store().view().at_lsn(mailstrata_format::Lsn(lsn)), w.id(U), None), &before, "before");
    let view = w.store().view();
    let derived = view
        .log(mailstrata_format::Lsn(lsn + 1))
        .filter(|e| matches!(e, Ok(mailstrata_engine::view::as_of::LogEntry::Transaction(t)) if t.derived));
    assert_eq!(derived.count(), 3);
    // The old name is free for another folder.
    w.folder(U, "Plain");
    w.deliver(U, "Plain", "5.p", "reused");
    w.scan();
    w.agree(U);
}

#[test]
fn a_deleted_folder_goes_with_its_messages_and_raises_an_alarm() {
    let w = world();
    for n in 0..30 {
        w.deliver(U, "Work", &format!("m{n}"), "many");
    }
    w.scan();
    fs::remove_dir_all(w.folder_dir(U, "Work")).unwrap();
    let report = w.scan();
    assert_eq!((report.messages.deleted, report.folders.deleted, report.alarms.total), (31, 1, 1));
    w.agree(U);
    assert_eq!(folders(&w.store().view(), w.id(U), None), ["INBOX"]);
}

#[test]
fn one_name_in_two_folders_is_two_items() {
    let w = world();
    w.deliver(U, "Work", "1.a", "not the same");
    assert_eq!(w.scan().messages.added, 4);
    w.agree(U);
}

#[test]
fn a_message_in_new_and_in_cur_is_the_one_in_cur_at_every_scan() {
    let w = world();
    let inbox = w.root(U);
    w.scan();
    fs::write(inbox.join("cur/1.a:2,S"), "another text").unwrap();
    w.scan();
    let mut disk = w.disk(U);
    assert_same(&w.stored(U, None), &disk, "both");
    let lsn = w.lsn();
    w.scan();
    assert_eq!(w.lsn(), lsn);
    fs::remove_file(inbox.join("new/1.a")).unwrap();
    w.scan();
    disk = w.disk(U);
    assert_same(&w.stored(U, None), &disk, "one");
}

#[test]
fn empty_large_and_odd_messages_come_through() {
    let w = world();
    let inbox = w.root(U);
    fs::write(inbox.join("cur/empty:2,S"), "").unwrap();
    fs::write(inbox.join("cur/large:2,"), "x\n".repeat(200_000)).unwrap();
    fs::write(inbox.join("cur/edge:2,"), vec![7u8; 256 << 10]).unwrap();
    fs::write(inbox.join("cur/edge2:2,"), vec![8u8; (256 << 10) - 1]).unwrap();
    fs::create_dir(inbox.join("cur/a directory")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", inbox.join("cur/a link")).unwrap();
    let report = w.scan();
    assert_eq!(report.messages.added, 7);
    assert!(report.notices.total >= 2);
    w.agree(U);
}

#[test]
fn an_account_that_is_gone_is_deleted_and_comes_back_as_another() {
    let w = world();
    w.folder("bob", "INBOX");
    w.deliver("bob", "INBOX", "1.x", "bob's");
    w.scan();
    let old = w.id("bob");
    fs::remove_dir_all(w.root("bob")).unwrap();
    let report = w.scan();
    assert_eq!((report.accounts.deleted, report.alarms.total), (1, 1));
    assert_ne!(w.id("bob"), old);
    let lsn = w.lsn();
    assert_eq!(w.scan().accounts.deleted, 0);
    assert_eq!(w.lsn(), lsn);
    // What it held at its end stays.
    assert_eq!(stored(&w.store().view(), old, None).len(), 1);
    w.folder("bob", "INBOX");
    w.deliver("bob", "INBOX", "1.x", "bob's again");
    w.scan();
    w.agree("bob");
    assert_ne!(w.id("bob"), old);
}

#[test]
fn a_tree_that_is_not_mounted_deletes_nobody() {
    let w = world();
    w.folder("bob", "INBOX");
    w.scan();
    let (mail, aside) = (w.dir.path().join("mail"), w.dir.path().join("unmounted"));
    rename(&mail, &aside);
    fs::create_dir(&mail).unwrap();
    let lsn = w.lsn();
    let report = w.scan_with_errors(Options { threads: 2, ..Options::default() });
    assert_eq!((report.accounts.deleted, report.alarms.total, report.errors.total, w.lsn()), (0, 1, 1, lsn));
    fs::remove_dir(&mail).unwrap();
    rename(&aside, &mail);
    w.scan();
    w.agree(U);
}

#[test]
fn an_interrupted_scan_is_finished_by_the_next_without_repeating_itself() {
    let mut w = World::new();
    w.folder(U, "INBOX");
    for n in 0..600 {
        w.deliver(U, "INBOX", &format!("m{n}"), &"body ".repeat(n));
    }
    let stop = AtomicBool::new(false);
    let seen = AtomicU64::new(0);
    let options = Options { threads: 1, ..Options::default() };
    let progress = |p: &mailstrata_backup::scan::Progress| {
        seen.store(p.bytes, Ordering::Relaxed);
        if p.bytes > 0 {
            stop.store(true, Ordering::Relaxed);
        }
    };
    // The callback comes at most every 100 ms, so the first scan may be through before it is stopped.
    let report = SmartScan::new(w.store(), &w.url(), options).run(&progress, &stop).unwrap();
    let first = report.messages.added;
    w.reopen();
    let report = w.scan();
    assert_eq!(first + report.messages.added, 600);
    w.agree(U);
    assert_eq!(w.native_ids(U).len(), 600);
}

/// A copy of a store that is being written is the store after a crash at that moment.
#[test]
fn a_cursor_that_survived_proves_that_its_account_did() {
    let w = World::new();
    let users: Vec<String> = (0..40).map(|n| format!("user{n:02}")).collect();
    for (n, u) in users.iter().enumerate() {
        w.folder(u, "INBOX");
        w.folder(u, "Work");
        for m in 0..40 {
            let text = format!("{n} {m} ").repeat(100 + m * n);
            w.deliver(u, ["INBOX", "Work"][m % 2], &format!("{m}.m"), &text);
        }
    }
    let store = w.dir.path().join("store");
    let over = AtomicBool::new(false);
    let copies = std::thread::scope(|scope| {
        let scanning = scope.spawn(|| {
            w.scan();
            over.store(true, Ordering::Relaxed);
        });
        let mut copies = Vec::new();
        while !over.load(Ordering::Relaxed) && copies.len() < 40 {
            let copy = w.dir.path().join(format!("copy{}", copies.len()));
            fs::create_dir(&copy).unwrap();
            // The log first: then the packs hold at least what it names.
            for part in ["SUPERBLOCK", "log", "run", "pack", "index"] {
                let out = std::process::Command::new("cp").arg("-r").arg(store.join(part)).arg(&copy).output().unwrap();
                let _ = out;
            }
            copies.push(copy);
        }
        scanning.join().unwrap();
        copies
    });
    let key = mailstrata_format::ItemKey::of(ItemKind::Cursor.code(), b"maildir-scan");
    let mut proven = 0;
    for copy in &copies {
        let Ok(reader) = mailstrata_engine::Store::open_read(copy, &scan_tree::options()) else { continue };
        let view = reader.view();
        for u in &users {
            if view.locate(w.id(u), key, None).unwrap().is_some() {
                assert_same(&stored(&view, w.id(u), None), &w.disk(u), u);
                proven += 1;
            }
        }
    }
    println!("{} copies, {proven} cursors", copies.len());
}

#[test]
fn a_stop_before_the_start_changes_nothing() {
    let w = world();
    let report = SmartScan::new(w.store(), &w.url(), Options::default()).run(&|_| {}, &AtomicBool::new(true)).unwrap();
    assert!(report.stopped.is_some());
    assert_eq!(w.lsn(), 0);
}

#[test]
fn a_deep_scan_finds_what_markers_and_names_do_not_show() {
    let w = world();
    w.scan();
    let_markers_settle();
    w.scan();
    let path = w.root(U).join("new/1.a");
    let date = fs::metadata(&path).unwrap().modified().unwrap();
    let text = fs::read_to_string(&path).unwrap().replace("one", "ONE");
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::io::Write::write_all(&mut &file, text.as_bytes()).unwrap();
    file.set_modified(date).unwrap();
    drop(file);
    assert_eq!(w.scan().messages.changed, 0);
    let report = w.scan_with(Options { deep: true, ..Options::default() });
    assert_eq!((report.messages.changed, report.messages.added), (1, 0));
    w.agree(U);
}

#[test]
fn a_deep_scan_stores_damaged_content_again() {
    let mut w = world();
    w.scan();
    let pack = w.dir.path().join("store/pack/00000001.pack");
    w.store.take().unwrap().close().unwrap();
    let mut bytes = fs::read(&pack).unwrap();
    // Behind the headers of the file, of the entry and of its first chunk.
    bytes[4096 + 64 + 64 + 20] ^= 1;
    fs::write(&pack, bytes).unwrap();
    w.reopen();
    let deep = || Options { deep: true, ..Options::default() };
    let report = w.scan_with(deep());
    assert!(report.alarms.total > 0, "{report:?}");
    assert_eq!((report.errors.total, report.messages.changed), (0, 0), "{report:?}");
    let report = w.scan_with(deep());
    assert_eq!((report.errors.total, report.alarms.total), (0, 0), "{report:?}");
}

/// Runs a test again as nobody, in a directory of nobody's: root may read everything. Says whether it was done that way.
fn done_as_nobody(test: &str) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    use std::os::unix::process::CommandExt as _;
    const NOBODY: u32 = 65534;
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return false;
    }
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let mut again = std::process::Command::new(std::env::current_exe().unwrap());
    again.args([test, "--exact", "--nocapture"]).env("TMPDIR", dir.path()).current_dir("/").uid(NOBODY).gid(NOBODY);
    // Where nobody may not run what root built, there is nothing to be shown.
    if let Ok(status) = again.status() {
        assert!(status.success());
    }
    true
}

#[test]
fn an_unreadable_message_is_recorded_unseen_and_read_when_it_can_be() {
    use std::os::unix::fs::PermissionsExt as _;
    if done_as_nobody("an_unreadable_message_is_recorded_unseen_and_read_when_it_can_be") {
        return;
    }
    let w = world();
    let path = w.root(U).join("new/1.a");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o0)).unwrap();
    let stop = AtomicBool::new(false);
    let options = Options { read_errors_max: Some(0), threads: 1, ..Options::default() };
    let report = SmartScan::new(w.store(), &w.url(), options).run(&|_| {}, &stop).unwrap();
    assert!(report.stopped.is_some());
    let cursor = mailstrata_format::ItemKey::of(ItemKind::Cursor.code(), b"maildir-scan");
    assert!(w.store().view().locate(w.id(U), cursor, None).unwrap().is_none(), "aborted, and its cursor was saved");
    let again = || SmartScan::new(w.store(), &w.url(), Options::default()).run(&|_| {}, &stop).unwrap();
    assert_eq!(again().errors.total, 1);
    let view = w.store().view();
    let key = mailstrata_format::ItemKey::of(ItemKind::Message.code(), b"INBOX/1.a");
    let unseen = view.state(w.id(U), key, None).unwrap().unwrap();
    assert!(unseen.content_unseen && unseen.blobs.is_empty() && !unseen.deleted);
    assert_eq!(w.stored(U, None).len(), 3);
    // Still unreadable: nothing new to say, and it is tried every time.
    let_markers_settle();
    again();
    let lsn = w.lsn();
    assert_eq!((again().errors.total, w.lsn()), (1, lsn));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(again().messages.changed, 1);
    w.agree(U);
    // A folder that cannot be read loses nothing.
    let work = w.folder_dir(U, "Work");
    fs::set_permissions(&work, fs::Permissions::from_mode(0o0)).unwrap();
    let report = again();
    assert_eq!((report.messages.deleted, report.folders.deleted), (0, 0), "{report:?}");
    assert_eq!(w.stored(U, None).len(), 3);
    fs::set_permissions(&work, fs::Permissions::from_mode(0o700)).unwrap();
    again();
    w.agree(U);
    // What is known of a message that cannot be read any more stays; its flags are in its name.
    fs::set_permissions(work.join("new/3.c"), fs::Permissions::from_mode(0o0)).unwrap();
    rename(&work.join("new/3.c"), &work.join("cur/3.c:2,S"));
    let report = again();
    assert_eq!((report.messages.changed, report.messages.unseen, report.errors.total), (1, 0, 1));
    let_markers_settle();
    again();
    // Left out of the cursor, the folder is missed all the same when it goes.
    fs::remove_dir_all(&work).unwrap();
    let report = again();
    assert_eq!((report.messages.deleted, report.folders.deleted), (1, 1));
    w.agree(U);
}

#[test]
fn only_the_account_asked_for_is_scanned() {
    let w = world();
    w.folder("bob", "INBOX");
    w.deliver("bob", "INBOX", "1.x", "bob's");
    let report = w.scan_with(Options { account: Some(b"bob".to_vec()), ..Options::default() });
    assert_eq!((report.accounts.seen, report.messages.added), (1, 1));
    let missing = Options { account: Some(b"carol".to_vec()), ..Options::default() };
    assert!(SmartScan::new(w.store(), &w.url(), missing).run(&|_| {}, &AtomicBool::new(false)).is_err());
}

#[test]
fn subscriptions_are_followed() {
    let w = world();
    w.scan();
    let_markers_settle();
    w.scan();
    fs::write(w.root(U).join("subscriptions"), "V\t2\n\nWork\n").unwrap();
    assert_eq!(w.scan().folders.changed, 1);
    let lsn = w.lsn();
    w.scan();
    assert_eq!(w.lsn(), lsn);
}

fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_micros()).unwrap()
}
