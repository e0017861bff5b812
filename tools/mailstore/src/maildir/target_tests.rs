//! The Maildir target on real directories.

use std::os::unix::fs::symlink;

use proptest::prelude::*;

use super::*;
use crate::target::tests::{HOSTILE, Torn, tree};

fn words(words: &[&str]) -> Vec<Vec<u8>> {
    words.iter().map(|w| w.as_bytes().to_vec()).collect()
}

fn item<'a>(key: u8, folder: &'a [u8], content: &[u8]) -> RestoreItem<'a> {
    let digest = Some(Sha256::digest(content).into());
    let internal_date = Some(1_795_306_511_123_456);
    RestoreItem {
        key: [key; 16],
        digest,
        length: Some(content.len() as u64),
        folder,
        internal_date,
        ..RestoreItem::default()
    }
}

fn open(dir: &Path) -> MaildirTarget {
    MaildirTarget::open(dir, MaildirOptions::default()).unwrap()
}

fn is_skipped(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Skipped { .. })
}

fn files(dir: &Path) -> Vec<String> {
    tree(dir).into_iter().filter(|f| f.contains("mailstrata")).collect()
}

#[test]
fn a_maildir_has_an_inbox_though_nothing_goes_there() {
    let dir = tempfile::tempdir().unwrap();
    let mut target = open(dir.path());
    target.put(&item(1, b"Projects", b"one"), &mut &b"one"[..]).unwrap();
    target.finish().unwrap();
    for sub in ["cur", "new", "tmp", ".Projects/cur"] {
        assert!(dir.path().join(sub).is_dir(), "{sub}");
    }
}

#[test]
fn an_account_becomes_a_maildir() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("a/Maildir");
    let mut target = open(&root);
    let (flags, keywords) = (words(&["\\Seen", "\\Recent", "\\Flagged", "$Junk"]), words(&["work"]));
    let inbox = RestoreItem { flags: &flags, keywords: &keywords, ..item(1, b"INBOX", b"one") };
    target.create_folder("Entwürfe/2023".as_bytes(), true, &[]).unwrap();
    target.create_folder(b"INBOX", true, &[]).unwrap();
    let Outcome::Restored { place } = target.put(&inbox, &mut &b"one"[..]).unwrap() else { panic!() };
    assert!(!root.join("cur").read_dir().unwrap().any(|_| true), "no name before the bytes are durable");
    target.put(&item(2, "Entwürfe/2023".as_bytes(), b"two"), &mut &b"two"[..]).unwrap();
    let finished = target.finish().unwrap();
    assert_eq!((finished.durable, finished.late.len(), finished.notices), (2, 0, vec![]));

    let name = format!("{}:2,FSab", place.display());
    let digest = hex(&Sha256::digest(b"one")[..8]);
    assert_eq!(name, format!("cur/1795306511.Mms{}.{digest}.mailstrata,S=3:2,FSab", "01".repeat(16)));
    assert_eq!(std::fs::read(root.join(&name)).unwrap(), b"one");
    let modified = std::fs::metadata(root.join(&name)).unwrap().modified().unwrap();
    assert_eq!(modified, SystemTime::UNIX_EPOCH + Duration::from_micros(1_795_306_511_123_456));
    assert_eq!(std::fs::read(root.join("dovecot-keywords")).unwrap(), b"0 work\n1 $Junk\n");
    assert_eq!(std::fs::read(root.join("subscriptions")).unwrap(), b"Entw&APw-rfe.2023\nINBOX\n");
    assert!(root.join(".Entw&APw-rfe.2023/maildirfolder").is_file());
    assert!(!root.join("maildirfolder").exists());
    assert_eq!(files(&root).len(), 2);
    assert!(tree(&root).iter().all(|f| !f.contains("lock")));
}

#[test]
fn restoring_again_adds_nothing_even_where_messages_moved_and_flags_changed() {
    let dir = tempfile::tempdir().unwrap();
    let put_all = || {
        let mut target = open(dir.path());
        let outcomes: Vec<bool> = (0..40u8)
            .map(|i| {
                let content = [i; 100];
                let mut item = item(i, if i % 2 == 0 { b"INBOX" } else { b"A/B" }, &content);
                item.digest = item.digest.filter(|_| i % 3 != 0);
                is_skipped(&target.put(&item, &mut &content[..]).unwrap())
            })
            .collect();
        let again = target.put(&item(0, b"INBOX", &[0; 100]), &mut &[0; 100][..]).unwrap();
        assert!(is_skipped(&again));
        assert_eq!(target.finish().unwrap().late.len(), 0);
        outcomes
    };
    assert_eq!(put_all(), [false; 40]);
    let first = files(dir.path());
    let base = name_parts(first[0].as_bytes()).base;
    let base = std::str::from_utf8(base).unwrap();
    std::fs::rename(dir.path().join(&first[0]), dir.path().join(format!("{base}:2,ST"))).unwrap();
    let moved = dir.path().join("new").join(Path::new(&first[39]).file_name().unwrap());
    std::fs::rename(dir.path().join(&first[39]), moved).unwrap();
    let before = tree(dir.path());
    assert_eq!(put_all(), [true; 40]);
    assert_eq!(tree(dir.path()), before);
}

#[test]
fn another_version_of_an_item_is_another_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut target = open(dir.path());
    target.put(&item(1, b"Drafts", b"one"), &mut &b"one"[..]).unwrap();
    assert!(!is_skipped(&target.put(&item(1, b"Drafts", b"two"), &mut &b"two"[..]).unwrap()));
    assert_eq!(target.finish().unwrap().durable, 2);
    assert_eq!(files(dir.path()).len(), 2);
}

#[test]
fn an_item_that_never_went_away_is_there_and_answers_once() {
    let dir = tempfile::tempdir().unwrap();
    for sub in ["cur", "new", "tmp", ".A/cur"] {
        std::fs::create_dir_all(dir.path().join(sub)).unwrap();
    }
    std::fs::write(dir.path().join("cur/1.M2P3.vm,S=3,W=4:2,S"), b"one").unwrap();
    std::fs::write(dir.path().join(".A/cur/5.M2P3.vm:2,"), b"five!").unwrap();
    let mut target = open(dir.path());
    let with_base =
        |key, folder, content: &[u8], base| RestoreItem { native_base: Some(base), ..item(key, folder, content) };
    let original = with_base(1, b"INBOX", b"one", b"1.M2P3.vm,S=3,W=4");
    assert!(is_skipped(&target.would_put(&original).unwrap()));
    assert!(is_skipped(&target.put(&original, &mut &b"one"[..]).unwrap()));
    assert!(is_skipped(&target.put(&with_base(3, b"INBOX", b"five!", b"5.M2P3.vm"), &mut &b"five!"[..]).unwrap()));
    // A copy has the base of its original, and is gone.
    assert!(!is_skipped(&target.put(&with_base(2, b"A", b"one", b"1.M2P3.vm,S=3,W=4"), &mut &b"one"[..]).unwrap()));
    // Same base, other size: another message.
    assert!(!is_skipped(&target.put(&with_base(4, b"A", b"four", b"5.M2P3.vm"), &mut &b"four"[..]).unwrap()));
    target.finish().unwrap();
    assert_eq!(files(dir.path()).len(), 2);
}

#[test]
fn a_stream_that_fails_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut target = open(dir.path());
    let torn = target.put(&item(1, b"INBOX", b"one"), &mut Torn(b"one"));
    assert!(matches!(torn, Err(TargetError::Content { .. })));
    let short = target.put(&item(1, b"INBOX", b"longer"), &mut &b"short"[..]);
    assert!(matches!(short, Err(TargetError::Content { .. })));
    assert!(files(dir.path()).is_empty());
    target.put(&item(2, b"INBOX", b"two"), &mut &b"two"[..]).unwrap();
    assert_eq!(files(dir.path()).len(), 1);
    drop(target); // never finished
    assert!(files(dir.path()).is_empty());
}

#[test]
fn a_dry_run_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("new/Maildir");
    let mut target = open(&root);
    let Outcome::Restored { place } = target.would_put(&item(1, b"A/B", b"x")).unwrap() else { panic!() };
    assert!(place.starts_with(".A.B/cur"));
    assert!(matches!(target.would_put(&item(1, b"../x", b"x")), Err(TargetError::Refused { .. })));
    drop(target);
    assert!(tree(dir.path()).is_empty());
}

#[test]
fn hostile_folders_and_symlinks_stay_inside() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("Maildir");
    std::fs::create_dir_all(root.join(".sub")).unwrap();
    std::fs::create_dir_all(dir.path().join("outside/cur")).unwrap();
    symlink("../outside", root.join(".link")).unwrap();
    symlink("../../outside", root.join(".sub/cur")).unwrap();
    symlink("../outside/keywords", root.join("dovecot-keywords")).unwrap();
    let mut target = open(&root);
    for folder in HOSTILE.into_iter().chain([&b"link"[..], b"sub"]) {
        let refused = target.put(&item(1, folder, b"x"), &mut &b"x"[..]);
        assert!(matches!(refused, Err(TargetError::Refused { .. })), "{folder:?} {refused:?}");
        assert!(!target.create_folder(folder, true, &[]).is_ok_and(|o| matches!(o, Outcome::Restored { .. })));
    }
    let keywords = words(&["work"]);
    target.put(&RestoreItem { keywords: &keywords, ..item(2, b"INBOX", b"y") }, &mut &b"y"[..]).unwrap();
    let finished = target.finish().unwrap();
    assert!(
        matches!(finished.late.as_slice(), [(key, TargetError::Refused { .. })] if *key == [2; 16]),
        "{finished:?}"
    );
    assert_eq!(tree(&dir.path().join("outside")), ["cur"]);
    assert!(files(&root).is_empty());
    // A dot within a level cannot stay; the nearest name is inside too.
    target.put(&item(3, b"v1.2/..x", b"z"), &mut &b"z"[..]).unwrap();
    let finished = target.finish().unwrap();
    assert_eq!((finished.durable, finished.notices.len()), (1, 1));
    assert!(root.join(".v1_2.__x/cur").is_dir());
}

#[test]
fn keywords_merge_and_the_27th_is_a_notice() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("cur")).unwrap();
    std::fs::write(dir.path().join("dovecot-keywords"), "3 old\n").unwrap();
    let mut target = open(dir.path());
    let many: Vec<Vec<u8>> = (0..26).map(|i| format!("k{i}").into_bytes()).collect();
    let flags = words(&["\\Deleted", "\\Strange"]);
    target.put(&RestoreItem { keywords: &many, flags: &flags, ..item(1, b"INBOX", b"x") }, &mut &b"x"[..]).unwrap();
    let finished = target.finish().unwrap();
    assert_eq!((finished.durable, finished.notices.len()), (1, 2), "{finished:?}");
    let keywords = Keywords::parse(&std::fs::read(dir.path().join("dovecot-keywords")).unwrap());
    assert_eq!(
        (keywords.letter(b"old"), keywords.letter(b"k0"), keywords.letter(b"k25")),
        (Some(b'd'), Some(b'a'), None)
    );
    assert!(files(dir.path())[0].ends_with(":2,Tabcefghijklmnopqrstuvwxyz"));

    let options = MaildirOptions { strip_deleted: true, durability: Durability::PerFile };
    let mut target = MaildirTarget::open(dir.path(), options).unwrap();
    target.put(&RestoreItem { flags: &flags, ..item(2, b"B", b"y") }, &mut &b"y"[..]).unwrap();
    target.finish().unwrap();
    assert!(files(dir.path())[0].ends_with(":2,"));
}

#[test]
fn subscriptions_keep_their_version() {
    let dirs = words(&["", ".A.B", ".A"]);
    assert_eq!(add_lines(b"", &dirs).unwrap(), b"INBOX\nA.B\nA\n");
    assert_eq!(add_lines(b"V\t2\n\nA\tB\nINBOX", &dirs).unwrap(), b"V\t2\n\nA\tB\nINBOX\nA\n");
    assert_eq!(add_lines(b"A\nA.B\nINBOX\n", &dirs), None);
}

#[test]
fn a_directory_that_is_something_else_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("passwd"), "").unwrap();
    let refused = MaildirTarget::open(dir.path(), MaildirOptions::default());
    assert!(matches!(refused, Err(TargetError::Refused { .. })));
}

#[test]
fn more_folders_than_descriptors_are_no_trouble() {
    let dir = tempfile::tempdir().unwrap();
    let mut target = open(dir.path());
    let folders: Vec<Vec<u8>> = (0..100).map(|i| format!("F{i}").into_bytes()).collect();
    for round in 0..2u8 {
        for (i, folder) in folders.iter().enumerate() {
            target.put(&item(i as u8 + round * 100, folder, b"x"), &mut &b"x"[..]).unwrap();
        }
    }
    assert!(target.open.len() <= OPEN_FOLDERS_MAX);
    assert_eq!(target.finish().unwrap().durable, 200);
    assert_eq!(files(dir.path()).len(), 200);
}

/// `MAILSTRATA_MEASURE=DIR cargo test --release -- --ignored --nocapture restores_a_second`
#[test]
#[ignore = "a measurement"]
fn restores_a_second() {
    let base = std::env::var_os("MAILSTRATA_MEASURE").map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::tempdir_in(base).unwrap();
    let content = vec![b'x'; 35 << 10];
    let flags = words(&["\\Seen"]);
    let folders = ["INBOX", "Archive/2023", "Sent", "Work"];
    let count = 20_000u32;
    let digest = item(0, b"INBOX", &content).digest;
    let item = |i: u32| {
        let mut key = [0; 16];
        key[..4].copy_from_slice(&i.to_be_bytes());
        let folder = folders[i as usize % folders.len()].as_bytes();
        RestoreItem { key, flags: &flags, digest, length: Some(content.len() as u64), ..self::item(0, folder, b"") }
    };
    let start = std::time::Instant::now();
    let mut target = open(dir.path());
    for i in 0..count {
        target.put(&item(i), &mut &content[..]).unwrap();
    }
    let put = start.elapsed();
    assert_eq!(target.finish().unwrap().durable, u64::from(count));
    let took = start.elapsed();
    let again = std::time::Instant::now();
    let mut target = open(dir.path());
    assert!((0..count).all(|i| is_skipped(&target.put(&item(i), &mut &content[..]).unwrap())));
    eprintln!(
        "{count} messages of 35 KiB: put {put:?}, durable {took:?} ({:.0}/s); again {:?}",
        f64::from(count) / took.as_secs_f64(),
        again.elapsed()
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_folder_name_leads_out(folder in "[./\\x00&a-cü~\\-]{0,12}", content: Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("m");
        let mut target = open(&root);
        let _ = target.create_folder(folder.as_bytes(), true, &[]);
        let put = target.put(&item(1, folder.as_bytes(), &content), &mut &content[..]);
        prop_assert_eq!(target.finish().unwrap().durable, u64::from(put.is_ok()));
        prop_assert!(tree(dir.path()).iter().all(|f| f.starts_with('m')));
        let mut target = open(&root);
        if put.is_ok() {
            prop_assert!(is_skipped(&target.put(&item(1, folder.as_bytes(), &content), &mut &content[..]).unwrap()));
        }
    }
}
