//! The store through its front door, on a real disk.

use mailstrata_engine::disk::posix::Backend;
use mailstrata_engine::{Change, Create, Error, Event, LogEntry, Options, Patch, Source, State, Store};
use mailstrata_format::{AccountId, ItemKey, ItemKind, Lsn, Operation};
use std::path::Path;
use std::sync::Arc;

const SMALL: Create = Create { segment_size: 64 << 10, pack_size: 64 << 10, server: [0; 16] };

fn options(backend: Backend) -> Options {
    Options { reserve_bytes: 0, ..Options::with_backend(backend).unwrap() }
}

fn event(account: &str, item: &str, change: Change) -> Event {
    Event {
        account: account.into(),
        account_id: None,
        item: item.into(),
        kind: ItemKind::Message,
        change,
        at: None,
        not_before: None,
        source: None,
        derived: false,
    }
}

fn put(name: &str, blobs: Vec<mailstrata_engine::Blob>) -> Change {
    let state = State { name: Some(name.into()), folder: Some(b"INBOX".to_vec()), ..State::default() };
    Change::Put { state, blobs, content_unseen: false }
}

fn key(item: &str) -> ItemKey {
    ItemKey::of(ItemKind::Message.code(), item.as_bytes())
}

fn alice() -> AccountId {
    AccountId::of_address(b"alice@example.org", 1)
}

fn blob(store: &mailstrata_engine::View, digest: &mailstrata_format::Digest) -> Vec<u8> {
    let mut out = Vec::new();
    store
        .read_blob(digest, &mut |b| {
            out.extend_from_slice(b);
            Ok(())
        })
        .unwrap();
    out
}

fn content(seed: u64, len: usize) -> Vec<u8> {
    // Half repeats, half does not, so that chunks of both codecs come to be.
    let mut x = seed | 1;
    (0..len)
        .map(|i| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if (i / 1000) % 2 == 0 { (x >> 56) as u8 } else { b'a' }
        })
        .collect()
}

fn fresh(dir: &Path, create: &Create, options: &Options) -> Store {
    Store::create(dir, create, options).unwrap();
    Store::open(dir, options).unwrap()
}

#[test]
fn what_was_recorded_is_there_after_close_and_after_a_kill() {
    for backend in [Backend::Auto, Backend::Posix] {
        for clean in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let o = options(backend);
            let dir = dir.path().join("store");
            let mut store = fresh(&dir, &SMALL, &o);
            let mut last = Lsn(0);
            for round in 0..4 {
                for i in 0..150 {
                    let body = content(i + round * 1000, (i as usize * 331) % 9000);
                    let b = store.put_blob(&mut &body[..]).unwrap();
                    let r = store
                        .record(&event("alice@example.org", &format!("m{i}"), put(&format!("{round}"), vec![b])))
                        .unwrap();
                    assert!(r.lsn > last && !r.duplicate);
                    last = r.lsn;
                }
                if clean {
                    store.close().unwrap();
                } else {
                    drop(store);
                }
                store = Store::open(&dir, &o).unwrap();
                assert_eq!(store.findings(), &[]);
                assert_eq!(store.view().lsn(), last);
                let reader = Store::open_read(&dir, &o).unwrap();
                for view in [store.view(), reader.view()] {
                    for i in 0..150u64 {
                        let t = view.state(alice(), key(&format!("m{i}")), None).unwrap().unwrap();
                        assert_eq!(t.state.name.as_deref(), Some(round.to_string().as_bytes()));
                        assert_eq!(
                            blob(&view, &t.blobs[0].digest),
                            content(i + round * 1000, (i as usize * 331) % 9000)
                        );
                        assert_eq!(view.history(alice(), key(&format!("m{i}"))).unwrap().len() as u64, round + 1);
                    }
                    assert_eq!(view.items(alice(), None).unwrap().count(), 150);
                    assert_eq!(view.accounts().unwrap().len(), 1);
                    let lsns: Vec<_> = view
                        .log(Lsn(1))
                        .map(|e| match e.unwrap() {
                            LogEntry::Transaction(t) => t.lsn.0,
                            other => panic!("{other:?}"),
                        })
                        .collect();
                    assert_eq!(lsns, (1..=last.0).collect::<Vec<_>>());
                }
            }
            assert!(std::fs::read_dir(dir.join("log")).unwrap().count() > 4, "segments rolled over");
        }
    }
}

#[test]
fn large_blobs_stream_and_are_stored_once() {
    let dir = tempfile::tempdir().unwrap();
    let o = options(Backend::Auto);
    let store = fresh(&dir.path().join("s"), &Create::default(), &o);
    let sizes = [0, 1, (256 << 10) - 1, 256 << 10, (256 << 10) + 1, 3 << 20, 9 << 20];
    for pass in 0..2 {
        for (i, size) in sizes.into_iter().enumerate() {
            let body = content(i as u64, size);
            let b = store.put_blob(&mut &body[..]).unwrap();
            assert_eq!((b.length, b.digest), (size as u64, mailstrata_format::Digest::of(&body)));
            store.record(&event("alice@example.org", &format!("{i}"), put(&pass.to_string(), vec![b]))).unwrap();
        }
    }
    store.close().unwrap();
    let reader = Store::open_read(&dir.path().join("s"), &o).unwrap();
    for (i, size) in sizes.into_iter().enumerate() {
        let t = reader.view().state(alice(), key(&i.to_string()), None).unwrap().unwrap();
        assert!(blob(&reader.view(), &t.blobs[0].digest) == content(i as u64, size), "size {size}");
    }
    let stored: u64 =
        std::fs::read_dir(dir.path().join("s/pack")).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
    assert!(stored < 9 << 20, "{stored} bytes: stored twice or not compressed");
}

#[test]
fn patches_merge_deletes_keep_and_puts_revive() {
    let dir = tempfile::tempdir().unwrap();
    let o = options(Backend::Auto);
    let store = fresh(&dir.path().join("s"), &SMALL, &o);
    let rec = |c| store.record(&event("alice@example.org", "m", c));
    let patch = |p| Change::Patch { patch: p, blobs: None };
    assert!(matches!(rec(Change::Delete), Err(Error::NoItem)));
    assert!(matches!(rec(patch(Patch::default())), Err(Error::NoItem)));
    let b = store.put_blob(&mut &b"body"[..]).unwrap();
    rec(put("one", vec![b.clone()])).unwrap();
    let seen = Some(Some(vec![b"\\Seen".to_vec()]));
    let first =
        store.submit(&event("alice@example.org", "m", patch(Patch { flags: seen, ..Patch::default() }))).unwrap();
    let second = store
        .submit(&event("alice@example.org", "m", patch(Patch { folder: Some(None), ..Patch::default() })))
        .unwrap();
    first.wait().unwrap();
    second.wait().unwrap();
    let t = store.view().state(alice(), key("m"), None).unwrap().unwrap();
    assert_eq!((t.state.folder, t.state.name, t.operation), (None, Some(b"one".to_vec()), Operation::Patch));
    assert_eq!(t.state.flags, Some(vec![b"\\Seen".to_vec()]));
    assert_eq!(t.blobs, vec![b]);
    rec(Change::Delete).unwrap();
    let t = store.view().state(alice(), key("m"), None).unwrap().unwrap();
    assert!(t.deleted && t.blobs.len() == 1 && t.state.name.is_some());
    assert!(matches!(rec(Change::Delete), Err(Error::NoItem)));
    rec(put("two", vec![])).unwrap();
    assert!(!store.view().state(alice(), key("m"), None).unwrap().unwrap().deleted);
    let nowhere = mailstrata_engine::Blob { digest: mailstrata_format::Digest([9; 32]), length: 0, role: None };
    assert!(matches!(rec(put("x", vec![nowhere])), Err(Error::NoBlob(_))));
}

#[test]
fn a_source_position_is_recorded_once() {
    let dir = tempfile::tempdir().unwrap();
    let o = options(Backend::Auto);
    let path = dir.path().join("s");
    let mut store = fresh(&path, &SMALL, &o);
    let from = |position: &str, name: &str| Event {
        source: Some(Source { name: b"src".to_vec(), position: position.into() }),
        ..event("alice@example.org", "m", put(name, vec![]))
    };
    let one = store.record(&from("1", "a")).unwrap();
    let two = store.record(&from("2", "b")).unwrap();
    for _ in 0..2 {
        let again = store.record(&from("1", "a")).unwrap();
        assert_eq!((again.lsn, again.duplicate), (one.lsn, true));
        assert!(matches!(store.record(&from("2", "other")), Err(Error::SourceConflict(l)) if l == two.lsn));
        store.close().unwrap();
        store = Store::open(&path, &o).unwrap();
    }
    // Also from a sealed segment.
    for i in 0..400 {
        store.record(&event("bob", &i.to_string(), put("filler filler filler filler", vec![]))).unwrap();
    }
    assert!(store.record(&from("1", "a")).unwrap().duplicate);
}

#[test]
fn there_is_one_writer_and_it_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let o = options(Backend::Auto);
    let path = dir.path().join("s");
    let store = fresh(&path, &SMALL, &o);
    match Store::open(&path, &o) {
        Err(Error::InUse { by, .. }) => assert!(by.contains(&std::process::id().to_string()), "{by}"),
        other => panic!("{:?}", other.err()),
    }
    assert!(Store::open_read(&path, &o).is_ok());
    drop(store);
    assert!(Store::open(&path, &o).is_ok());
    assert!(matches!(Store::create(&path, &SMALL, &o), Err(Error::NotEmpty { .. })));
}

#[test]
fn many_producers_share_groups_and_views_stay_put() {
    let dir = tempfile::tempdir().unwrap();
    let o = options(Backend::Auto);
    let store = Arc::new(fresh(&dir.path().join("s"), &SMALL, &o));
    let threads: Vec<_> = (0..8)
        .map(|t| {
            let store = store.clone();
            std::thread::spawn(move || {
                for i in 0..200 {
                    let b = store.put_blob(&mut format!("{t} {i}").as_bytes()).unwrap();
                    let r = store.record(&event(&format!("user{t}"), &format!("{i}"), put("x", vec![b]))).unwrap();
                    let view = store.view();
                    assert!(view.lsn() >= r.lsn);
                    let id = AccountId::of_address(format!("user{t}").as_bytes(), 1);
                    assert_eq!(view.items(id, None).unwrap().count(), i + 1);
                }
            })
        })
        .collect();
    let mut tail = store.tail(Lsn(1));
    let mut seen = 0;
    while seen < 1600 {
        match tail.next(std::time::Duration::from_secs(20)).unwrap() {
            Some(LogEntry::Transaction(t)) => {
                seen += 1;
                assert_eq!(t.lsn.0, seen);
            }
            other => panic!("{other:?}"),
        }
    }
    threads.into_iter().for_each(|t| t.join().unwrap());
    Arc::into_inner(store).unwrap().close().unwrap();
}

/// A message with these attachments.
fn message(subject: &str, parts: &[&[u8]]) -> Vec<u8> {
    let mut out =
        format!("Subject: {subject}\r\nContent-Type: multipart/mixed; boundary=b{subject}\r\n\r\n").into_bytes();
    for part in parts {
        out.extend_from_slice(format!("--b{subject}\r\nContent-Type: x/y; name={subject}\r\n\r\n").as_bytes());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(format!("--b{subject}--\r\n").as_bytes());
    out
}

/// Bytes that nothing compresses and no line ends.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed | 1;
    let next = || {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((x >> 56) as u8).max(b'.')
    };
    std::iter::repeat_with(next).take(len).collect()
}

fn pack_bytes(dir: &Path) -> u64 {
    std::fs::read_dir(dir.join("pack")).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum()
}

#[test]
fn parts_that_several_messages_hold_are_stored_once() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(Backend::Auto);
    Store::create(dir.path(), &Create::default(), &options).unwrap();
    let (small, large) = (noise(1, 9000), noise(2, 3 << 20));
    // Without, with one, with both, with one twice; larger than a chunk and smaller; and one part that is half of another.
    let messages = [
        message("a", &[&small]),
        message("b", &[&small, &large]),
        message("c", &[&large]),
        message("d", &[&small, &small]),
        message("e", &[&large, &small, &noise(3, 5000)]),
        message("f", &[&noise(3, 5000)]),
        message("g", &[&small[..4500]]),
        message("h", &[&small[..4500], &large]),
        [&small, &b"\r\n"[..]].concat(),
        [&large, &b"\r\n"[..]].concat(),
    ];
    let once = (small.len() + 4500 + large.len() + 5000) as u64;
    let read_all = |view: &mailstrata_engine::View| {
        for (i, m) in messages.iter().enumerate() {
            let digest = mailstrata_format::Digest::of(m);
            assert_eq!(view.blob_len(&digest).unwrap(), Some(m.len() as u64), "message {i}");
            assert!(blob(view, &digest) == *m, "message {i}");
        }
    };
    let store = Store::open(dir.path(), &options).unwrap();
    for (i, m) in messages.iter().enumerate() {
        // Now and then through a batch, where the parts of one entry are at hand.
        let blob = if i % 2 == 0 {
            store.put_blob(&mut &m[..]).unwrap()
        } else {
            let mut batch = store.batch();
            let blob = batch.put_bytes(m).unwrap();
            batch.put_bytes(&message("in the batch", &[&small])).unwrap();
            batch.submit().unwrap();
            blob
        };
        store.record(&event("alice", &format!("{i}"), put("x", vec![blob]))).unwrap();
    }
    read_all(&store.view());
    store.close().unwrap();
    let used = pack_bytes(dir.path());
    assert!(used < once + (128 << 10), "{used} bytes for {once}");
    assert!(used > once * 3 / 4, "{used} bytes for {once}");
    read_all(&Store::open_read(dir.path(), &options).unwrap().view());
    // Again, with the packs' indexes gone: they are made from the entries.
    std::fs::remove_file(dir.path().join("MANIFEST")).unwrap();
    read_all(&Store::open_read(dir.path(), &options).unwrap().view());
}

#[test]
fn parts_in_one_batch_are_stored_once() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(Backend::Auto);
    Store::create(dir.path(), &Create::default(), &options).unwrap();
    let store = Store::open(dir.path(), &options).unwrap();
    let part = noise(7, 60_000);
    let mut batch = store.batch();
    let mut blobs = Vec::new();
    for i in 0..40 {
        // Every fifth has a part of its own, so that entries fill.
        let own = noise(100 + i, 20_000);
        let m = if i % 5 == 0 { message(&format!("{i}"), &[&own, &part]) } else { message(&format!("{i}"), &[&part]) };
        let blob = batch.put_bytes(&m).unwrap();
        batch.record(event("alice", &format!("{i}"), put("x", vec![blob.clone()])));
        blobs.push((blob, m));
    }
    for ticket in batch.submit().unwrap() {
        ticket.unwrap().wait().unwrap();
    }
    for (b, m) in &blobs {
        assert!(blob(&store.view(), &b.digest) == *m);
    }
    store.close().unwrap();
    let once = 8 * 20_000 + 60_000;
    let used = pack_bytes(dir.path());
    assert!(used < once + (48 << 10), "{used} bytes for {once}");
}

#[test]
fn many_tiny_blobs_do_not_overflow_an_entry() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(Backend::Auto);
    Store::create(dir.path(), &Create::default(), &options).unwrap();
    let store = Store::open(dir.path(), &options).unwrap();
    let mut batch = store.batch();
    let blobs: Vec<_> = (0..5000u32).map(|i| batch.put_bytes(&i.to_le_bytes()).unwrap()).collect();
    batch.record(event("alice", "1", put("x", vec![blobs[4999].clone()])));
    for ticket in batch.submit().unwrap() {
        ticket.unwrap().wait().unwrap();
    }
    // Killed: the next open walks the entries.
    drop(store);
    let view = Store::open_read(dir.path(), &options).unwrap().view();
    for (i, b) in (0u32..).zip(&blobs) {
        assert_eq!(blob(&view, &b.digest), i.to_le_bytes());
    }
}

#[test]
fn a_part_that_is_damaged_is_an_error_of_each_message_that_holds_it() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(Backend::Auto);
    Store::create(dir.path(), &Create::default(), &options).unwrap();
    let store = Store::open(dir.path(), &options).unwrap();
    let part = noise(9, 400_000);
    let (first, second) = (message("first", &[&part]), message("second", &[&part]));
    let (first, second) = (store.put_blob(&mut &first[..]).unwrap(), {
        let first = store.put_blob(&mut &first[..]).unwrap();
        store.record(&event("alice", "1", put("x", vec![first]))).unwrap();
        store.put_blob(&mut &second[..]).unwrap()
    });
    store.record(&event("alice", "2", put("x", vec![second.clone()]))).unwrap();
    let other = store.put_blob(&mut &message("third", &[&noise(10, 9000)])[..]).unwrap();
    store.record(&event("alice", "3", put("x", vec![other.clone()]))).unwrap();
    store.close().unwrap();
    let path = dir.path().join("pack/00000001.pack");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[4096 + 300_000] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let view = Store::open_read(dir.path(), &options).unwrap().view();
    for b in [first, second] {
        let e = view.read_blob(&b.digest, &mut |_| Ok(())).unwrap_err();
        assert!(matches!(&e, Error::Damage(d) if d.kind == mailstrata_format::DamageKind::Chunk), "{e}");
    }
    blob(&view, &other.digest);
}

#[test]
fn a_damaged_blob_that_is_stored_again_is_whole_and_so_is_what_shares_its_parts() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(Backend::Auto);
    // In its second turn the damaged copy lies in the pack that is being written.
    for turn in 0..2 {
        let dir = dir.path().join(turn.to_string());
        let create = Create { pack_size: if turn == 0 { 512 << 10 } else { 8 << 20 }, ..Create::default() };
        let store = fresh(&dir, &create, &options);
        let part = noise(9, 300_000);
        let (one, two) = (message("one", &[&part]), message("two", &[&part, &noise(10, 5000)]));
        let mut digests = Vec::new();
        for (i, m) in [&one, &two].into_iter().enumerate() {
            let (b, new) = store.put_blob_if_new(&mut &m[..]).unwrap();
            assert!(new);
            assert_eq!(store.put_blob_if_new(&mut &m[..]).unwrap(), (b.clone(), false));
            digests.push(b.digest);
            store.record(&event("alice", &format!("{i}"), put("x", vec![b]))).unwrap();
        }
        // Others push the first pack out, in the first turn.
        for i in 0..3 {
            let b = store.put_blob(&mut &noise(20 + i, 200_000)[..]).unwrap();
            store.record(&event("alice", &format!("other {i}"), put("x", vec![b]))).unwrap();
        }
        store.close().unwrap();
        let path = dir.join("pack/00000001.pack");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[4096 + 250_000] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let store = Store::open(&dir, &options).unwrap();
        for digest in &digests {
            assert!(matches!(store.view().read_blob(digest, &mut |_| Ok(())), Err(Error::Damage(_))));
        }
        let b = store.put_blob_again(&mut &one[..]).unwrap();
        assert_eq!((b.digest, b.length), (digests[0], one.len() as u64));
        store.record(&event("alice", "0", put("y", vec![b]))).unwrap();
        assert!(blob(&store.view(), &digests[0]) == one, "turn {turn}");
        if turn == 1 {
            store.put_blob_again(&mut &two[..]).unwrap();
        }
        assert!(blob(&store.view(), &digests[1]) == two, "turn {turn}");
        // A large one as well, twice.
        let large = noise(30, 9 << 20);
        let (b, new) = store.put_blob_if_new(&mut &large[..]).unwrap();
        assert!(new && !store.put_blob_if_new(&mut &large[..]).unwrap().1);
        store.put_blob_again(&mut &large[..]).unwrap();
        store.record(&event("alice", "large", put("y", vec![b.clone()]))).unwrap();
        drop(store);
        let view = Store::open_read(&dir, &options).unwrap().view();
        assert!(blob(&view, &digests[0]) == one && blob(&view, &digests[1]) == two, "turn {turn}");
        assert!(blob(&view, &b.digest) == large);
    }
}

#[test]
fn a_part_deep_in_a_long_entry_is_found_and_read() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(Backend::Auto);
    let store = fresh(dir.path(), &Create::default(), &options);
    let (before, deep) = (content(1, 6 << 20), noise(2, 20_000));
    let long = message("long", &[&before, &deep]);
    let short = message("short", &[&deep]);
    let mut read = Vec::new();
    for (i, m) in [&long, &short].into_iter().enumerate() {
        let b = store.put_blob(&mut &m[..]).unwrap();
        read.push((b.digest, m.clone()));
        store.record(&event("alice", &format!("{i}"), put("x", vec![b]))).unwrap();
    }
    store.close().unwrap();
    let view = Store::open_read(dir.path(), &options).unwrap().view();
    // From the files, then from the cache, then all of what lies before.
    for i in [1, 1, 0, 1] {
        assert!(blob(&view, &read[i].0) == read[i].1);
    }
}
