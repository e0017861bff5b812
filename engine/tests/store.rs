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
