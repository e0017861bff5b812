//! How fast 20,000 messages of 35 KB come back: `cargo test --release -p mailstrata-backup --test restore_speed -- --ignored --nocapture`.

mod restore_support;

use mailstrata_backup::restore::{self, Options};
use mailstrata_engine::{Change, Create, Event, State, Store};
use mailstrata_format::ItemKind;
use restore_support::*;
use std::time::Instant;

#[test]
#[ignore = "measures"]
fn twenty_thousand_messages() {
    let count: usize = std::env::var("MESSAGES").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000);
    let size: usize = std::env::var("SIZE").ok().and_then(|n| n.parse().ok()).unwrap_or(34_800);
    let mut lab = Lab::new();
    lab.store = None;
    let path = lab.path("big");
    Store::create(&path, &Create::default(), &lab.options).unwrap();
    let store = Store::open(&path, &lab.options).unwrap();
    let mut random = Random(1);
    let mut batch = store.batch();
    for i in 0..count {
        let content = random.message(size);
        let blobs = vec![batch.put_bytes(&content).unwrap()];
        let folder = format!("F{}", i % 10).into_bytes();
        let state = State { folder: Some(folder), flags: Some(vec![b"\\Seen".to_vec()]), ..State::default() };
        batch.record(Event {
            account: ALICE.into(),
            account_id: None,
            item: format!("INBOX/{i}").into_bytes(),
            kind: ItemKind::Message,
            change: Change::Put { state, blobs, content_unseen: false },
            at: Some(T0),
            not_before: None,
            source: None,
            derived: false,
        });
        if batch.bytes() > 200 << 10 {
            batch.submit().unwrap();
        }
    }
    for ticket in batch.submit().unwrap() {
        ticket.unwrap().wait().unwrap();
    }
    drop(batch);
    store.close().unwrap();
    let reader = Store::open_read(&path, &lab.options).unwrap();
    let view = reader.view();
    let alice = mailstrata_backup::resolve::account(&view, ALICE.as_bytes(), None).unwrap().is;
    let out = std::env::var("OUT").ok().map(|dir| tempfile::tempdir_in(dir).unwrap());
    let out = out.as_ref().map_or(lab.dir.path(), tempfile::TempDir::path);
    for (what, dry_run) in [("dry run", true), ("restore", false), ("again", false)] {
        let o = Options { threads: 2, dry_run, ..Options::default() };
        let target = &mut mailstrata_mailstore::maildir::target::MaildirTarget::open(
            &out.join("m"),
            mailstrata_mailstore::maildir::target::MaildirOptions::default(),
        )
        .unwrap();
        let started = Instant::now();
        let report = restore::account(&view, &alice, None, target, o, &mut |_| {}).unwrap();
        println!("{what}: {:.2} s, {:?}", started.elapsed().as_secs_f64(), report.counts);
    }
}
