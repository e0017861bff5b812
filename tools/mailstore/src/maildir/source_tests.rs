//! The source on real directories.

use super::*;
use crate::maildir::test_tree::TestTree;
use crate::url::Url;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::symlink;

fn source(path: &Path) -> (MaildirSource, Account) {
    let Ok(Url::Maildir(url)) = format!("maildir:{}?account=alice", path.display()).parse() else { panic!() };
    let source = MaildirSource::new(&url);
    let account = source.accounts(&mut |_| {}).unwrap().found.remove(0);
    (source, account)
}

fn listed(folder: &mut MaildirFolder) -> (Vec<MessageEntry>, Listing) {
    let mut all = Vec::new();
    let listing = folder.messages(&mut |m| all.push(m), &mut |_| {}).unwrap();
    all.sort_by(|a, b| a.file_name.cmp(&b.file_name));
    (all, listing)
}

fn bytes(words: &[&str]) -> Vec<Vec<u8>> {
    words.iter().map(|w| w.as_bytes().to_vec()).collect()
}

#[test]
fn folders_are_found_with_names_subscriptions_and_identity() {
    let tree = TestTree::new("folders");
    let root = tree.maildir("m");
    for name in [".Archive.2023", ".Entw&APw-rfe", ".DOVECOT-TRASHED"] {
        tree.maildir(&format!("m/{name}"));
    }
    let raw = root.join(OsStr::from_bytes(b".caf\xe9"));
    fs::create_dir_all(raw.join("cur")).unwrap();
    fs::create_dir_all(root.join(".not-a-folder")).unwrap();
    fs::create_dir_all(root.join("plain")).unwrap();
    symlink(&root, root.join(".loop")).unwrap();
    symlink("..", root.join(".up")).unwrap();
    fs::write(root.join("subscriptions"), "V\t2\n\nArchive\t2023\n").unwrap();
    fs::write(root.join("dovecot-uidlist"), "3 V77 N5 Gabcdef\n1 :x\n").unwrap();
    fs::write(root.join("dovecot.index.log"), "x").unwrap();
    let (source, account) = source(&root);
    let mut notices = Vec::new();
    let folders = source.folders(&account, &mut |n| notices.push(n)).unwrap().found;
    let paths: Vec<&[u8]> = folders.iter().map(|f| f.path.as_slice()).collect();
    assert_eq!(paths, [b"Archive/2023", &b"Entw\xc3\xbcrfe"[..], b"INBOX", b"caf\xe9"]);
    assert_eq!(folders.iter().map(|f| f.subscribed).collect::<Vec<_>>(), [true, false, false, false]);
    assert_eq!(folders[2].identity.as_ref().unwrap().guid.as_deref(), Some(&b"abcdef"[..]));
    assert_eq!(folders[3].dir, raw);
    let mut noticed: Vec<_> = notices.iter().map(|n| n.path.file_name().unwrap().to_str().unwrap()).collect();
    noticed.sort_unstable();
    assert_eq!(noticed, [".loop", ".not-a-folder", ".up"]);
    for folder in &folders {
        source.open_folder(&account, folder).unwrap();
    }
}

#[test]
fn messages_tell_flags_keywords_uid_and_size_without_being_opened() {
    let tree = TestTree::new("messages");
    let root = tree.maildir("m");
    tree.deliver(&root, "3.new");
    fs::write(root.join("cur/1.a,S=554,W=580:2,FSab"), "x").unwrap();
    fs::write(root.join(OsStr::from_bytes(b"cur/2.\xff:2,")), "x").unwrap();
    fs::write(root.join("cur/.hidden"), "x").unwrap();
    fs::create_dir(root.join("cur/dir")).unwrap();
    symlink("1.a", root.join("cur/link")).unwrap();
    fs::write(root.join("dovecot-keywords"), "0 work\n").unwrap();
    fs::write(root.join("dovecot-uidlist"), "3 V77 N5 Gabcdef\n4 G9 :1.a,S=554,W=580\n").unwrap();
    let mut folder = MaildirFolder::open(&root, &root).unwrap();
    let mut notices = Vec::new();
    let mut all = Vec::new();
    let listing = folder.messages(&mut |m| all.push(m), &mut |n| notices.push(n)).unwrap();
    all.sort_by(|a, b| a.file_name.cmp(&b.file_name));
    assert_eq!((listing.messages, all.len(), notices.len()), (3, 3, 2));
    assert_eq!(listing.identity.unwrap().uid_validity, 77);
    assert_eq!(
        all[0],
        MessageEntry {
            file_name: b"1.a,S=554,W=580:2,FSab".to_vec(),
            in_new: false,
            base: b"1.a,S=554,W=580".to_vec(),
            flags: bytes(&["\\Flagged", "\\Seen"]),
            keywords: bytes(&["unknown-1", "work"]),
            uid: Some(4),
            guid: Some(b"9".to_vec()),
            size_hint: Some(554),
        }
    );
    assert_eq!((all[1].base.as_slice(), all[1].uid), (&b"2.\xff"[..], None));
    assert!(all[2].in_new && all[2].flags.is_empty());
    let mut text = String::new();
    let mut open = folder.open(&all[2]).unwrap();
    open.file.read_to_string(&mut text).unwrap();
    assert_eq!((open.size, open.links), (text.len() as u64, 1));
    folder.open(&all[1]).unwrap();
    fs::write(root.join("dovecot-keywords"), "0 work\n1 later\n").unwrap();
    assert_eq!(folder.entry(b"9.z:2,b", false).keywords, bytes(&["later"]));
}

#[test]
fn a_message_renamed_after_it_was_listed_is_found_and_a_deleted_one_is_gone() {
    let tree = TestTree::new("renamed");
    let root = tree.maildir("m");
    for name in ["1.a", "2.b", "3.c"] {
        tree.deliver(&root, name);
    }
    let mut folder = MaildirFolder::open(&root, &root).unwrap();
    let (all, _) = listed(&mut folder);
    fs::rename(root.join("new/1.a"), root.join("cur/1.a:2,S")).unwrap();
    fs::remove_file(root.join("new/2.b")).unwrap();
    let open = folder.open(&all[0]).unwrap();
    assert_eq!((open.file_name.as_slice(), open.in_new), (&b"1.a:2,S"[..], false));
    assert!(matches!(folder.open(&all[1]), Err(OpenError::Gone { .. })));
    // Renamed after the look that the folder keeps.
    fs::rename(root.join("cur/1.a:2,S"), root.join("cur/1.a:2,FS")).unwrap();
    assert_eq!(folder.open(&all[0]).unwrap().file_name, b"1.a:2,FS");
    // The folder itself renamed: what is open stays the same directory.
    fs::rename(&root, tree.path.join("moved")).unwrap();
    folder.open(&all[2]).unwrap();
    assert!(matches!(MaildirFolder::open(&root, &root), Err(SourceError::Gone { .. })));
}

#[test]
fn what_is_not_a_regular_file_is_never_opened() {
    let tree = TestTree::new("irregular");
    let root = tree.maildir("m");
    fs::write(tree.path.join("secret"), "x").unwrap();
    symlink(tree.path.join("secret"), root.join("cur/link")).unwrap();
    fs::create_dir(root.join("cur/dir")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, root.join("cur/fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("cur/socket")).unwrap();
    let mut folder = MaildirFolder::open(&root, &root).unwrap();
    for name in ["link", "dir", "fifo", "socket", "../../secret", "..", ""] {
        let entry = folder.entry(name.as_bytes(), false);
        assert!(matches!(folder.open(&entry), Err(OpenError::NotRegularFile { .. })), "{name}");
    }
    let nul = folder.entry(b"a\0b", false);
    assert!(matches!(folder.open(&nul), Err(OpenError::Io { .. })));
    // A folder, its cur, or a path outside reached through a link.
    tree.maildir("other");
    symlink(tree.path.join("other"), root.join(".link")).unwrap();
    assert!(matches!(MaildirFolder::open(&root, &root.join(".link")), Err(SourceError::NotMaildir { .. })));
    assert!(matches!(MaildirFolder::open(&root, &tree.path.join("other")), Err(SourceError::NotMaildir { .. })));
    fs::create_dir(root.join(".half")).unwrap();
    symlink(tree.path.join("other/cur"), root.join(".half/cur")).unwrap();
    assert!(matches!(MaildirFolder::open(&root, &root.join(".half")), Err(SourceError::NotMaildir { .. })));
}

#[test]
fn a_listing_of_a_quiet_folder_is_stable_and_of_a_changing_one_is_not() {
    let tree = TestTree::new("stable");
    let root = tree.maildir("m");
    tree.deliver(&root, "1.a");
    tree.deliver(&root, "2.b");
    std::thread::sleep(std::time::Duration::from_millis(50));
    let mut folder = MaildirFolder::open(&root, &root).unwrap();
    assert!(listed(&mut folder).1.stable);
    let listing = folder
        .messages(
            &mut |m| {
                if m.file_name == b"1.a" {
                    fs::rename(root.join("new/1.a"), root.join("cur/1.a:2,")).unwrap();
                }
            },
            &mut |_| {},
        )
        .unwrap();
    assert!(!listing.stable);
    fs::remove_dir_all(&root).unwrap();
    assert!(matches!(folder.messages(&mut |_| {}, &mut |_| {}), Err(SourceError::Gone { .. })));
}

#[test]
fn a_hundred_thousand_messages_are_listed_quickly() {
    let tree = TestTree::new("many");
    let root = tree.maildir("m");
    let first = root.join("cur/seed");
    fs::write(&first, "").unwrap();
    for i in 0..100_000 {
        // Links of few files: no inodes to write; a file takes some 65,000 of them.
        let seed = if i % 10_000 == 0 {
            let seed = root.join(format!("tmp/{i}"));
            fs::write(&seed, "").unwrap();
            seed
        } else {
            root.join(format!("tmp/{}", i - i % 10_000))
        };
        fs::hard_link(seed, root.join(format!("cur/{i}.M1P2.host,S=100,W=102:2,S"))).unwrap();
    }
    let start = std::time::Instant::now();
    let mut folder = MaildirFolder::open(&root, &root).unwrap();
    let (mut count, mut seen) = (0, 0);
    folder
        .messages(
            &mut |m| {
                count += 1;
                seen += usize::from(m.flags == [b"\\Seen"]);
            },
            &mut |_| {},
        )
        .unwrap();
    assert_eq!((count, seen), (100_001, 100_000));
    // Some 60 ms here; a stat each would take seconds.
    assert!(start.elapsed().as_millis() < 3_000, "{:?}", start.elapsed());
    eprintln!("100,000 messages in {:?}", start.elapsed());
}

/// Runs one test of this file again, in a process of its own, for what would disturb the others.
fn in_child(test: &str, dir: &Path, prepare: impl Fn(&mut std::process::Command)) {
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args([&format!("maildir::source::tests::{test}"), "--exact", "--nocapture"]).env("MAILSTRATA_TEST_DIR", dir);
    prepare(&mut child);
    match child.output() {
        Ok(output) => {
            let ran = String::from_utf8_lossy(&output.stdout).contains("1 passed");
            assert!(output.status.success() && ran, "{output:?}");
        }
        // Another user may not be able to run a test from here.
        Err(error) => eprintln!("not tested here: {error}"),
    }
}

#[test]
fn out_of_descriptors_is_an_error_and_never_absence() {
    let Some(root) = std::env::var_os("MAILSTRATA_TEST_DIR").map(PathBuf::from) else {
        let tree = TestTree::new("emfile");
        let root = tree.maildir("m");
        tree.maildir("m/.Sub");
        tree.deliver(&root, "1.a");
        tree.deliver(&root, "2.b");
        return in_child("out_of_descriptors_is_an_error_and_never_absence", &root, |_| {});
    };
    let (source, account) = source(&root);
    let mut folder = MaildirFolder::open(&root, &root).unwrap();
    let (all, _) = listed(&mut folder);
    fs::rename(root.join("new/1.a"), root.join("cur/1.a:2,S")).unwrap();
    fs::remove_file(root.join("new/2.b")).unwrap();
    assert_eq!(source.folders(&account, &mut |_| {}).unwrap().found.len(), 2);
    let limit = rustix::process::Rlimit { current: Some(32), maximum: Some(32) };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    let mut held = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        held.push(file);
    }
    let emfile = |error: &io::Error| error.raw_os_error() == Some(libc::EMFILE);
    // Under another name: found, but not opened. Listed but deleted: that needs no descriptor, gone is gone.
    assert!(matches!(folder.open(&all[0]), Err(OpenError::Io { source, .. }) if emfile(&source)));
    assert!(matches!(source.folders(&account, &mut |_| {}), Err(SourceError::Io { source, .. }) if emfile(&source)));
    assert!(matches!(MaildirFolder::open(&root, &root), Err(SourceError::Io { source, .. }) if emfile(&source)));
    let Ok(Url::Maildir(url)) = format!("maildir:{}/{{user}}", root.parent().unwrap().display()).parse() else {
        panic!()
    };
    assert!(MaildirSource::new(&url).accounts(&mut |_| {}).is_err());
    // One left: the root opens, the rest does not.
    held.pop();
    assert!(source.folders(&account, &mut |_| {}).is_err());
    assert!(matches!(folder.open(&all[0]), Ok(open) if open.file_name == b"1.a:2,S"));
    assert!(MaildirFolder::open(&root, &root).is_err());
}

#[test]
fn what_is_not_permitted_is_unread_and_never_gone() {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let Some(base) = std::env::var_os("MAILSTRATA_TEST_DIR").map(PathBuf::from) else {
        let tree = TestTree::new("eacces");
        let alice = tree.maildir("alice");
        for closed in [tree.maildir("bob"), tree.maildir("alice/.Secret"), tree.deliver(&alice, "1.a")] {
            mode(&closed, 0);
        }
        mode(&tree.path, 0o755);
        let name = "what_is_not_permitted_is_unread_and_never_gone";
        return in_child(name, &tree.path, |child| {
            // Root may read everything.
            if rustix::process::geteuid().is_root() {
                child.uid(65534).gid(65534);
            }
        });
    };
    let Ok(Url::Maildir(url)) = format!("maildir:{}/{{user}}", base.display()).parse() else { panic!() };
    let source = MaildirSource::new(&url);
    let mut notices = Vec::new();
    let accounts = source.accounts(&mut |n| notices.push(n)).unwrap();
    assert_eq!((accounts.found.len(), accounts.unread), (1, vec![base.join("bob")]));
    let folders = source.folders(&accounts.found[0], &mut |n| notices.push(n)).unwrap();
    assert_eq!((folders.found.len(), folders.unread), (1, vec![b"Secret".to_vec()]));
    assert_eq!(notices.len(), 2);
    let mut folder = source.open_folder(&accounts.found[0], &folders.found[0]).unwrap();
    let (all, _) = listed(&mut folder);
    assert!(matches!(folder.open(&all[0]), Err(OpenError::PermissionDenied { .. })));
}
