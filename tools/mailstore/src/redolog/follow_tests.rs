//! A server that writes in small pieces, commits, aborts, rolls over and starts anew, and a follower that misses nothing.

use super::content;
use super::follow::{Follower, Found, Position};
use super::generator::{Log, incoming, message};
use super::header::HEADER_LEN;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

struct Server<'a> {
    dir: &'a Path,
    file: File,
    sequence: i64,
    /// Changes without an end, by transaction: they are written again at a rollover.
    open: BTreeMap<i32, Vec<u8>>,
}

fn fresh(path: &Path, sequence: i64, open: &BTreeMap<i32, Vec<u8>>) -> File {
    let mut bytes = Log::new(1, sequence).bytes;
    open.values().for_each(|record| bytes.extend(record));
    fs::write(path, bytes).unwrap();
    OpenOptions::new().append(true).open(path).unwrap()
}

/// The bytes of one record, all changes of one number.
fn record(code: i32, counter: i32, mailbox: i64, fields: &[u8]) -> Vec<u8> {
    numbered(code, counter, 77, mailbox, fields)
}

fn numbered(code: i32, counter: i32, change: i32, mailbox: i64, fields: &[u8]) -> Vec<u8> {
    let mut log = Log::new(1, 0);
    let (from, to) = log.with_fields(code, counter, change, mailbox, fields);
    log.bytes[from..to].to_vec()
}

impl<'a> Server<'a> {
    fn start(dir: &'a Path, sequence: i64) -> Self {
        fs::create_dir_all(dir.join("archive")).unwrap();
        let open = BTreeMap::new();
        Self { dir, file: fresh(&dir.join("redo.log"), sequence, &open), sequence, open }
    }

    fn write(&mut self, bytes: &[u8]) {
        self.file.write_all(bytes).unwrap();
    }

    fn change(&mut self, code: i32, counter: i32, mailbox: i64, fields: &[u8]) -> Vec<u8> {
        let bytes = record(code, counter, mailbox, fields);
        self.open.insert(counter, bytes.clone());
        bytes
    }

    fn end(&mut self, code: i32, counter: i32) -> Vec<u8> {
        self.open.remove(&counter);
        record(code, counter, 1, &27i32.to_be_bytes())
    }

    fn rollover(&mut self, keep: bool) {
        let live = self.dir.join("redo.log");
        let file = OpenOptions::new().write(true).open(&live).unwrap();
        file.write_all_at(&[0], 7).unwrap();
        file.write_all_at(&file.metadata().unwrap().len().to_be_bytes(), 8).unwrap();
        let next = self.dir.join("~tmp-redo");
        self.file = fresh(&next, self.sequence + 1, &self.open);
        if keep {
            let name = format!("archive/redo-20261122.011128.263-seq{}.log", self.sequence);
            fs::rename(&live, self.dir.join(name)).unwrap();
        } else {
            fs::remove_file(&live).unwrap();
        }
        fs::rename(next, live).unwrap();
        self.sequence += 1;
    }
}

/// The message ids that are told, with their content checked, and what else was said.
fn all(follower: &mut Follower, ids: &mut Vec<i32>) -> Vec<Found> {
    let mut other = Vec::new();
    while let Some(found) = follower.next().unwrap() {
        match found {
            Found::Change(change) => {
                assert_eq!(change.jump_from, None);
                let id = i32::try_from(change.record.int("id").unwrap()).unwrap();
                let blob = change.content.expect("a message has content");
                let mut text = String::new();
                content::open(&blob.file, blob.extent, blob.size).unwrap().read_to_string(&mut text).unwrap();
                assert!(text.starts_with(&format!("message {id} ")) || text == "delivered", "{id}: {text}");
                ids.push(id);
            }
            found => other.push(found),
        }
    }
    other
}

fn body(id: i32) -> String {
    format!("message {id} {}ZMREDO", "x".repeat(usize::try_from(id % 7).unwrap() * 300))
}

#[test]
fn pieces_rollovers_and_restarts_lose_and_repeat_nothing() {
    for seed in 0..30 {
        let dir = tempfile::tempdir().unwrap();
        let mut rng = Log::new(seed, 0);
        let mut server = Server::start(dir.path(), 4);
        let mut follower = Follower::new(dir.path(), None);
        let (mut ids, mut want) = (Vec::new(), Vec::new());
        for id in 1..120 {
            let mut bytes = server.change(27, id, 1, &message(id, "p", Some(body(id).as_bytes())));
            // Ends of this and of earlier changes; some wait, across rollovers too.
            let ending: Vec<i32> = server.open.keys().copied().filter(|_| rng.below(3) > 0).collect();
            for counter in ending {
                let commit = rng.below(5) > 0;
                bytes.extend(server.end(if commit { 3 } else { 4 }, counter));
                if commit {
                    want.push(counter);
                }
            }
            assert!(all(&mut follower, &mut ids).is_empty(), "seed {seed}");
            if rng.below(8) == 0 {
                // A follower that ended, and begins where it was.
                let from = follower.position();
                follower = Follower::new(dir.path(), from);
            }
            assert!(all(&mut follower, &mut ids).is_empty(), "seed {seed}");
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let (piece, more) = rest.split_at(rest.len().min(1 + rng.below(400) as usize));
                server.write(piece);
                rest = more;
                // The server may roll over before the last piece was looked at.
                if !rest.is_empty() || rng.below(2) == 0 {
                    let other = all(&mut follower, &mut ids);
                    assert!(other.is_empty(), "seed {seed}: {other:?}");
                }
            }
            if rng.below(6) == 0 {
                server.rollover(rng.below(2) == 0);
            }
        }
        assert!(all(&mut follower, &mut ids).is_empty(), "seed {seed}");
        assert_eq!(ids, want, "seed {seed}");
        assert!(server.sequence > 6);
    }
}

#[test]
fn a_delivery_to_several_is_found_again_in_the_file_before_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path(), 0);
    let mut follower = Follower::new(dir.path(), None);
    let mut ids = Vec::new();
    let shared = server.change(26, 1, -1, &incoming("incoming/1", &[1, 2, 3], b"delivered"));
    server.write(&shared);
    let commit = server.end(3, 1);
    server.write(&commit);
    let deliver = |server: &mut Server<'_>, counter: i32| {
        let bytes =
            [server.change(27, counter, 1, &message(counter, "incoming/1", None)), server.end(3, counter)].concat();
        server.write(&bytes);
    };
    deliver(&mut server, 2);
    assert!(all(&mut follower, &mut ids).is_empty());
    let mut follower = Follower::new(dir.path(), follower.position());
    deliver(&mut server, 3);
    assert!(all(&mut follower, &mut ids).is_empty());
    server.rollover(true);
    assert!(all(&mut follower, &mut ids).is_empty());
    let mut follower = Follower::new(dir.path(), follower.position());
    deliver(&mut server, 4);
    assert!(all(&mut follower, &mut ids).is_empty());
    assert_eq!(ids, [2, 3, 4]);
}

#[test]
fn what_may_be_missing_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path(), 3);
    let mut follower = Follower::new(dir.path(), None);
    let mut ids = Vec::new();
    let orphan = record(3, 99, 1, &27i32.to_be_bytes());
    server.write(&orphan);
    let other = all(&mut follower, &mut ids);
    assert!(
        matches!(other[..], [Found::Orphan { mailbox: 1, at: Position { sequence: 3, offset: HEADER_LEN }, .. }]),
        "{other:?}"
    );

    // Half a record, cut off by the server when it starts again.
    let half = server.change(27, 1, 1, &message(1, "p", Some(b"message 1 ")));
    server.write(&half[..60]);
    assert!(all(&mut follower, &mut ids).is_empty());
    let reached = follower.position().unwrap();
    server.file.set_len(reached.offset - 50).unwrap();
    let other = all(&mut follower, &mut ids);
    assert!(matches!(other[..], [Found::Shortened { sequence: 3, to: HEADER_LEN }]), "{other:?}");
    let again = [half, server.end(3, 1)].concat();
    server.write(&again);
    assert!(all(&mut follower, &mut ids).is_empty());
    assert_eq!(ids, [1]);

    // Two rollovers while nobody looked, the first file deleted.
    let position = follower.position();
    drop(follower);
    server.rollover(false);
    server.rollover(true);
    let mut follower = Follower::new(dir.path(), position);
    let other = all(&mut follower, &mut ids);
    assert!(matches!(other[..], [Found::Gap { after: 3, before: 4 }]), "{other:?}");

    // Half a record in a file that was closed, and bytes that are none before a good one.
    let good = [server.change(27, 2, 1, &message(2, "p", Some(b"message 2 "))), server.end(3, 2)].concat();
    server.write(b"garbage");
    server.write(&good);
    server.write(&good[..30]);
    server.rollover(true);
    let other = all(&mut follower, &mut ids);
    assert_eq!(ids, [1, 2]);
    let [Found::Damaged { sequence: 5, skipped: first }, Found::Damaged { sequence: 5, skipped: last }] = &other[..]
    else {
        panic!("{other:?}")
    };
    assert_eq!((first.from, first.to), (HEADER_LEN, HEADER_LEN + 7));
    assert_eq!(last.to - last.from, 30);

    // Installed anew: the numbers begin again.
    fs::remove_dir_all(dir.path().join("archive")).unwrap();
    fs::remove_file(dir.path().join("redo.log")).unwrap();
    let mut server = Server::start(dir.path(), 0);
    let first = [server.change(27, 1, 1, &message(7, "p", Some(b"message 7 "))), server.end(3, 1)].concat();
    server.write(&first);
    let other = all(&mut follower, &mut ids);
    assert!(matches!(other[..], [Found::Gap { after: 6, before: 0 }]), "{other:?}");
    // The same transaction number as before, of another server's life.
    assert_eq!(ids, [1, 2, 7]);
}

#[test]
fn a_jump_in_a_mailboxs_change_numbers_is_told_with_the_change() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path(), 0);
    let mut counter = 0;
    let mut write = |server: &mut Server<'_>, mailbox: i64, change: i32, end: i32| {
        counter += 1;
        let bytes = [
            numbered(27, counter, change, mailbox, &message(counter, "p", Some(b"message"))),
            record(end, counter, mailbox, &27i32.to_be_bytes()),
        ];
        server.write(&bytes.concat());
    };
    for (mailbox, change, end) in
        [(1, 5, 3), (2, 40, 3), (1, 6, 3), (1, 6, 3), (1, 7, 4), (1, 7, 3), (2, 42, 3), (1, 8, 3), (1, 3, 3)]
    {
        write(&mut server, mailbox, change, end);
    }
    let mut follower = Follower::new(dir.path(), None);
    let mut jumps = Vec::new();
    while let Some(found) = follower.next().unwrap() {
        let Found::Change(change) = found else { panic!("{found:?}") };
        jumps.push((change.record.head.mailbox, change.record.head.change, change.jump_from));
    }
    let want = [
        (1, 5, None),
        (2, 40, None),
        (1, 6, None),
        (1, 6, None),
        (1, 7, None),
        (2, 42, Some(40)),
        (1, 8, None),
        (1, 3, Some(8)),
    ];
    assert_eq!(jumps, want);
    // What was seen before a restart counts after it.
    let mut follower = Follower::new(dir.path(), follower.position());
    write(&mut server, 2, 44, 3);
    let Some(Found::Change(change)) = follower.next().unwrap() else { panic!("no change") };
    assert_eq!(change.jump_from, Some(42));
}
