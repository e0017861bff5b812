//! `redolog dump`: what it shows, and how it ends.

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

fn text(to: &mut Vec<u8>, text: &str) {
    to.extend((text.len() as i32).to_be_bytes());
    to.extend(text.as_bytes());
}

fn head(to: &mut Vec<u8>, code: i32, counter: i32, mailbox: i64) {
    to.extend(b"ZMREDO");
    to.extend([0, 1, 0, 42]);
    to.extend(code.to_be_bytes());
    to.extend(1_795_309_849_316i64.to_be_bytes());
    to.extend([0, 0, 0, 5, 0, 0, 0, 0]);
    to.extend(1_795_309_848i32.to_be_bytes());
    to.extend(counter.to_be_bytes());
    to.extend(mailbox.to_be_bytes());
}

/// A delivery to mailboxes 1 and 2, a tag in mailbox 2, and their commits.
fn log(sequence: i64) -> Vec<u8> {
    let mut log = b"ZM_REDO\0".to_vec();
    log.extend([0; 8]);
    log.extend(sequence.to_be_bytes());
    log.resize(168, 0);
    log.extend([0, 1, 0, 42]);
    log.resize(512, 0);
    head(&mut log, 26, 1, -1);
    log.extend([0, 0, 0, 2]);
    log.extend([0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2]);
    text(&mut log, "digest");
    text(&mut log, "incoming/1");
    log.extend([255, 255, 0, 0, 0, 9]);
    text(&mut log, "Subject:x");
    head(&mut log, 3, 1, -1);
    log.extend(26i32.to_be_bytes());
    head(&mut log, 14, 2, 2);
    log.extend(257i32.to_be_bytes());
    text(&mut log, "red\u{1b}[31m");
    log.extend(3i64.to_be_bytes());
    head(&mut log, 3, 2, 2);
    log.extend(14i32.to_be_bytes());
    let len = log.len() as i64;
    log[8..16].copy_from_slice(&len.to_be_bytes());
    log
}

fn dump(args: &[&str], files: &[&Path]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_mailstrata"))
        .args(["redolog", "dump"])
        .args(args)
        .args(files)
        .output()
        .expect("the binary runs");
    let string = |b: Vec<u8>| String::from_utf8(b).expect("output is UTF-8");
    (status.code().expect("it was not killed"), string(stdout), string(stderr))
}

fn ops(text: &str) -> Vec<String> {
    text.lines()
        .map(|line| serde_json::from_str::<Value>(line).expect(line)["op"].as_str().expect(line).to_owned())
        .collect()
}

#[test]
fn records_are_shown_as_json_and_as_lines() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("redo.log");
    std::fs::write(&path, log(4)).expect("the log is written");
    let (code, out, err) = dump(&["--json"], &[&path]);
    assert_eq!(
        (code, ops(&out)),
        (0, ["StoreIncomingBlob", "CommitTxn", "CreateTag", "CommitTxn"].map(String::from).to_vec())
    );
    assert!(err.contains("4 records: 2 changes committed"), "{err}");
    let first: Value = serde_json::from_str(out.lines().next().expect("a line")).expect("JSON");
    assert_eq!(first["offset"], 512);
    assert_eq!(first["sequence"], 4);
    assert_eq!(first["at"], "2026-11-22T01:10:49.316000Z");
    assert_eq!(first["fields"]["mailbox_ids"], serde_json::json!([1, 2]));

    let (_, out, _) = dump(&["--json", "--mailbox", "1", "--no-offset", "--show-blob"], &[dir.path()]);
    assert_eq!(ops(&out), ["StoreIncomingBlob"]);
    let only: Value = serde_json::from_str(out.trim_end()).expect("JSON");
    assert_eq!(only["fields"]["data"]["base64"], "U3ViamVjdDp4");
    assert!(only.get("offset").is_none() && only.get("file").is_none());

    let (code, out, _) = dump(&["--show-blob"], &[&path]);
    assert_eq!(code, 0);
    assert!(out.contains("<START OF BLOB>\nSubject:x\n<END OF BLOB>\n"), "{out}");
    assert!(out.contains("name=\"red\\u{1b}[31m\"") && !out.contains('\u{1b}'), "{out}");
    assert!(out.contains("[       512] "), "{out}");
    assert_eq!(dump(&["--quiet"], &[&path]).1, "");
}

#[test]
fn damage_is_placed_and_ends_with_13() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("redo.log");
    let whole = log(0);
    let mut damaged = whole.clone();
    let at = 512 + damaged[513..].windows(6).position(|w| w == b"ZMREDO").expect("a second record") + 1;
    damaged[at] = b'X';
    std::fs::write(&path, &damaged).expect("the log is written");
    let (code, out, _) = dump(&["--json"], &[&path]);
    assert_eq!(
        (code, ops(&out)),
        (13, ["StoreIncomingBlob", "damaged", "CreateTag", "CommitTxn"].map(String::from).to_vec())
    );
    let line: Value = serde_json::from_str(out.lines().nth(1).expect("a line")).expect("JSON");
    assert_eq!((line["offset"].as_u64(), line["to"].as_u64()), (Some(at as u64), Some(at as u64 + 50)));
    assert_eq!(line["last_good"], 512);
    assert!(line["bytes"].as_str().is_some_and(|b| b.starts_with("584d5245444f")), "{line}");

    // Cut between records: only the size in the header tells.
    std::fs::write(&path, &whole[..whole.len() - 50]).expect("the log is written");
    assert_eq!(dump(&["--quiet"], &[&path]).0, 13);
    // Half a record in a log that is in use is how it looks while it is written.
    let mut live = whole[..whole.len() - 10].to_vec();
    live[7] = 1;
    std::fs::write(&path, &live).expect("the log is written");
    let (code, out, err) = dump(&["--json"], &[&path]);
    assert_eq!((code, ops(&out).pop().as_deref()), (0, Some("torn")));
    assert!(err.contains("1 torn tails"), "{err}");
}

#[test]
fn unreadable_files_are_named_and_the_rest_is_shown() {
    let dir = tempfile::tempdir().expect("a directory");
    let (good, none, other) = (dir.path().join("a"), dir.path().join("b"), dir.path().join("c"));
    std::fs::write(&good, log(0)).expect("the log is written");
    std::fs::write(&other, "something else").expect("the file is written");
    let (code, out, err) = dump(&["--json"], &[&none, &good]);
    assert_eq!((code, ops(&out).len()), (14, 4));
    assert!(err.contains(&none.display().to_string()), "{err}");
    let (code, out, err) = dump(&["--json"], &[&other, &good]);
    assert_eq!((code, ops(&out).len()), (1, 4));
    assert!(err.contains("not a redo log"), "{err}");
    std::fs::remove_file(&good).expect("the log goes");
    let empty = tempfile::tempdir().expect("a directory");
    assert_eq!(dump(&[], &[empty.path()]).0, 17);
}
