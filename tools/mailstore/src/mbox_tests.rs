//! The mbox target on real files.

use std::os::unix::fs::symlink;

use proptest::prelude::*;

use super::*;
use crate::target::tests::{HOSTILE, Torn, tree};

fn item<'a>(key: u8, folder: &'a [u8], content: &[u8]) -> RestoreItem<'a> {
    let digest = Some(Sha256::digest(content).into());
    RestoreItem { key: [key; 16], digest, folder, internal_date: Some(1_795_306_511_123_456), ..RestoreItem::default() }
}

fn is_skipped(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Skipped { .. })
}

/// Puts these; says which were skipped.
fn put_all(path: &Path, contents: &[&[u8]]) -> Vec<bool> {
    let mut target = MboxTarget::open(path).unwrap();
    let skipped: Vec<bool> = contents
        .iter()
        .enumerate()
        .map(|(i, content)| is_skipped(&target.put(&item(i as u8, b"INBOX", content), &mut &content[..]).unwrap()))
        .collect();
    let restored = skipped.iter().filter(|s| !**s).count() as u64;
    assert_eq!(target.finish().unwrap().durable, restored);
    skipped
}

#[test]
fn messages_are_quoted_and_set_apart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.mbox");
    let mut target = MboxTarget::open(&path).unwrap();
    let first = RestoreItem { sender: Some(b"bob@example.org"), ..item(1, b"INBOX", b"") };
    let first = RestoreItem { digest: None, ..first };
    target.put(&first, &mut &b"Subject: x\n\nFrom here\n>From there\n >From\nnot From \n"[..]).unwrap();
    target
        .put(&RestoreItem { digest: None, sender: Some(b"a b"), ..item(2, b"A/B", b"") }, &mut &b"no newline"[..])
        .unwrap();
    assert_eq!(target.finish().unwrap().durable, 2);
    assert_eq!(
        std::fs::read(&path).unwrap(),
        b"From bob@example.org Sun Nov 22 00:15:11 2026\nSubject: x\n\n>From here\n>>From there\n >From\nnot From \n\n\
          From MAILER-DAEMON Sun Nov 22 00:15:11 2026\nno newline\n\n"
    );
}

#[test]
fn twice_adds_nothing_and_equal_messages_are_two() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.mbox");
    let big = vec![b'x'; 3 << 20];
    let contents: [&[u8]; 8] =
        [b"a\n", b"a\n", b"no newline", b"", b"From me\n\n\n", b">From\r\n", &big, b"\nFrom \n>>>From x"];
    assert_eq!(put_all(&path, &contents), [false; 8]);
    let before = std::fs::read(&path).unwrap();
    assert_eq!(put_all(&path, &contents), [true; 8]);
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(tree(dir.path()), ["out.mbox"]);
    let mut target = MboxTarget::open(&path).unwrap();
    assert!(is_skipped(&target.would_put(&item(9, b"INBOX", b"a\n")).unwrap()));
    assert!(is_skipped(&target.would_put(&item(10, b"INBOX", b"a\n")).unwrap()));
    assert!(!is_skipped(&target.would_put(&item(11, b"INBOX", b"a\n")).unwrap()));
}

#[test]
fn a_message_cut_off_stays_and_harms_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    put_all(&whole, &[b"first\n", b"second line\nand more\n"]);
    let bytes = std::fs::read(&whole).unwrap();
    for cut in 0..bytes.len() {
        let path = dir.path().join("torn");
        std::fs::write(&path, &bytes[..cut]).unwrap();
        put_all(&path, &[b"first\n", b"second line\nand more\n", b"third\n"]);
        assert!(std::fs::read(&path).unwrap().starts_with(&bytes[..cut]));
        let mut mbox = Mbox::default();
        mbox.scan(&File::open(&path).unwrap()).unwrap();
        assert_eq!(mbox.torn, 0);
        for content in ["first\n", "second line\nand more\n", "third\n"] {
            // What was cut off just before its last newline reads like the whole once it is set apart.
            let count = mbox.free.get::<[u8; 32]>(&Sha256::digest(content).into());
            assert!(matches!(count, Some(1 | 2)), "{cut} {content}");
        }
        assert_eq!(put_all(&path, &[b"first\n", b"second line\nand more\n", b"third\n"]), [true; 3], "{cut}");
    }
}

#[test]
fn a_stream_that_fails_and_a_dry_run_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sub/out.mbox");
    let mut target = MboxTarget::open(&path).unwrap();
    assert!(!is_skipped(&target.would_put(&item(1, b"INBOX", b"x")).unwrap()));
    assert!(tree(dir.path()).is_empty());
    assert!(matches!(target.put(&item(1, b"INBOX", b"x"), &mut Torn(b"x")), Err(TargetError::Content { .. })));
    let promised = RestoreItem { length: Some(7), ..item(1, b"INBOX", b"x") };
    assert!(matches!(target.put(&promised, &mut &b"x"[..]), Err(TargetError::Content { .. })));
    target.finish().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"");
}

#[test]
fn a_directory_has_a_file_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("boxes/");
    std::fs::create_dir(&root).unwrap();
    std::fs::create_dir(dir.path().join("outside")).unwrap();
    symlink("../outside", root.join("link")).unwrap();
    symlink("../outside/file", root.join("file.mbox")).unwrap();
    let mut target = MboxTarget::open(&root).unwrap();
    for folder in HOSTILE.into_iter().chain([&b"link/x"[..], b"file"]) {
        let refused = target.put(&item(1, folder, b"x"), &mut &b"x"[..]);
        assert!(matches!(refused, Err(TargetError::Refused { .. })), "{folder:?} {refused:?}");
    }
    let flags = [b"\\Seen".to_vec()];
    for (key, folder) in [(1, &b"A"[..]), (2, b"A/B"), (3, b"A.mbox/B"), (4, b".hidden")] {
        target.put(&RestoreItem { flags: &flags, ..item(key, folder, b"x\n") }, &mut &b"x\n"[..]).unwrap();
    }
    let finished = target.finish().unwrap();
    assert_eq!((finished.durable, finished.notices.len()), (4, 4));
    let found = tree(&root);
    let boxes: Vec<&String> = found.iter().filter(|f| f.ends_with(".mbox") && *f != "file.mbox").collect();
    assert_eq!(boxes, ["%2Ehidden.mbox", "A%2Embox/B.mbox", "A.mbox", "A/B.mbox"]);
    assert!(tree(&dir.path().join("outside")).is_empty());
}

#[test]
fn what_others_append_is_seen_and_their_lock_respected() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.mbox");
    put_all(&path, &[b"a\n"]);
    let mut target = MboxTarget::open(&path).unwrap();
    assert!(!is_skipped(&target.would_put(&item(1, b"INBOX", b"b\n")).unwrap()));
    let mut other = File::options().append(true).open(&path).unwrap();
    other.write_all(b"From x Sun Nov 22 00:15:11 2026\nb\n\n").unwrap();
    assert!(is_skipped(&target.put(&item(1, b"INBOX", b"b\n"), &mut &b"b\n"[..]).unwrap()));
    // Only flock tells two locks of one process apart.
    assert_eq!(rustix::fs::flock(&other, FlockOperation::NonBlockingLockExclusive), Err(Errno::WOULDBLOCK));
    target.finish().unwrap();
    rustix::fs::flock(&other, FlockOperation::NonBlockingLockExclusive).unwrap();
}

/// Content of the only message in an mbox, after the rules of mboxrd.
fn unquoted(mbox: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    for line in mbox.split_inclusive(|&b| b == b'\n').skip(1) {
        content.extend_from_slice(if is_quoted(line) { &line[1..] } else { line });
    }
    content.pop();
    content
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn quotes_come_off_again(pieces in proptest::collection::vec(prop_oneof![
        Just(b"From ".to_vec()), Just(b">".to_vec()), Just(b"\n".to_vec()), Just(b"\r\n".to_vec()), proptest::collection::vec(any::<u8>(), 0..4)
    ], 0..12)) {
        let content = pieces.concat();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        prop_assert_eq!(put_all(&path, &[&content]), [false]);
        let mut wanted = content.clone();
        if !content.is_empty() && !content.ends_with(b"\n") {
            wanted.push(b'\n');
        }
        prop_assert_eq!(unquoted(&std::fs::read(&path).unwrap()), wanted);
        prop_assert_eq!(put_all(&path, &[&content]), [true]);
    }
}
