//! Small stores with a known history, and what a target holds afterwards.

#![allow(dead_code, reason = "each test file uses a part")]

use mailstrata_backup::resolve::{self, Incarnation};
use mailstrata_backup::restore::{ItemLine, Options};
use mailstrata_engine::{Blob, Change, Create, Event, Patch, Reader, State, Store, Value};
use mailstrata_format::{ItemKey, ItemKind};
use mailstrata_mailstore::maildir::source::MaildirSource;
use mailstrata_mailstore::maildir::target::{MaildirOptions, MaildirTarget};
use mailstrata_mailstore::source::{Account, OpenFolder as _, Source as _};
use mailstrata_mailstore::url::MaildirUrl;
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

pub const ALICE: &str = "alice@example.org";

/// The moment that tests count from.
pub const T0: i64 = 1_700_000_000_000_000;
pub const SECOND: i64 = 1_000_000;

pub struct Lab {
    pub dir: tempfile::TempDir,
    pub store: Option<Store>,
    pub options: mailstrata_engine::Options,
}

impl Lab {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Tests damage the files they find: none is merged behind their back.
        let options = mailstrata_engine::Options {
            reserve_bytes: 0,
            compaction: false,
            ..mailstrata_engine::Options::new().unwrap()
        };
        let path = dir.path().join("store");
        let create = Create { segment_size: 64 << 10, pack_size: 64 << 10, server: [0; 16] };
        Store::create(&path, &create, &options).unwrap();
        let store = Some(Store::open(&path, &options).unwrap());
        Self { dir, store, options }
    }

    pub fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    /// So much that the segments written so far are sealed.
    pub fn seal(&self) {
        for i in 0..500 {
            let state = State { name: Some(vec![b'x'; 300]), ..State::default() };
            let change = Change::Put { state, blobs: vec![], content_unseen: false };
            self.event("filler", ItemKind::Message, &i.to_string(), T0, change);
        }
    }

    pub fn close(&mut self) -> Reader {
        self.store.take().unwrap().close().unwrap();
        self.reader()
    }

    pub fn reader(&self) -> Reader {
        Store::open_read(&self.dir.path().join("store"), &self.options).unwrap()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn blob(&self, content: &[u8]) -> Blob {
        self.store().put_blob(&mut &content[..]).unwrap()
    }

    pub fn event(&self, account: &str, kind: ItemKind, item: &str, at: i64, change: Change) -> u64 {
        let event = Event {
            account: account.into(),
            account_id: None,
            item: item.into(),
            kind,
            change,
            at: Some(at),
            not_before: None,
            source: None,
            derived: false,
        };
        self.store().record(&event).unwrap().lsn.0
    }

    pub fn put(&self, item: &str, at: i64, folder: &str, content: &[u8]) {
        let state = State {
            folder: Some(folder.into()),
            flags: Some(vec![b"\\Seen".to_vec()]),
            name: Some(format!("subject of {item}").into_bytes()),
            sender: Some(b"Bob <bob@example.org>".to_vec()),
            date: Some(T0),
            ..State::default()
        };
        self.put_state(item, at, state, content);
    }

    pub fn put_state(&self, item: &str, at: i64, state: State, content: &[u8]) {
        let blobs = vec![self.blob(content)];
        self.event(ALICE, ItemKind::Message, item, at, Change::Put { state, blobs, content_unseen: false });
    }

    pub fn patch(&self, item: &str, at: i64, patch: Patch) {
        self.event(ALICE, ItemKind::Message, item, at, Change::Patch { patch, blobs: None });
    }

    pub fn move_to(&self, item: &str, at: i64, folder: &str) {
        self.patch(item, at, Patch { folder: Some(Some(folder.into())), ..Patch::default() });
    }

    pub fn delete(&self, item: &str, at: i64) {
        self.event(ALICE, ItemKind::Message, item, at, Change::Delete);
    }

    pub fn folder(&self, path: &str, at: i64, subscribed: bool) {
        let state = State {
            folder: Some(path.into()),
            attributes: vec![(b"subscribed".to_vec(), Value::Json(subscribed.to_string().into_bytes()))],
            ..State::default()
        };
        self.event(ALICE, ItemKind::Folder, path, at, Change::Put { state, blobs: vec![], content_unseen: false });
    }

    pub fn account(&self, address: &str, at: i64) {
        let change = Change::Put { state: State::default(), blobs: vec![], content_unseen: false };
        self.event(address, ItemKind::Account, address, at, change);
    }

    pub fn alice(&self) -> Incarnation {
        let view = self.store.as_ref().map_or_else(|| self.reader().view(), Store::view);
        resolve::account(&view, ALICE.as_bytes(), None).unwrap().is
    }

    pub fn maildir(&self, name: &str) -> MaildirTarget {
        MaildirTarget::open(&self.path(name), MaildirOptions::default()).unwrap()
    }
}

pub fn options<'a>() -> Options<'a> {
    Options { threads: 3, ..Options::default() }
}

pub fn key(item: &str) -> ItemKey {
    ItemKey::of(ItemKind::Message.code(), item.as_bytes())
}

/// A message in a Maildir: folder, flags, keywords, date, content.
pub type Message = (String, Vec<String>, Vec<String>, i64, Vec<u8>);

fn text(words: &[Vec<u8>]) -> Vec<String> {
    let mut words: Vec<String> = words.iter().map(|w| String::from_utf8_lossy(w).into_owned()).collect();
    words.sort();
    words
}

/// Everything in a Maildir, as its source tells it, sorted.
pub fn messages(dir: &Path) -> Vec<Message> {
    // A target that got nothing into INBOX leaves it to the server.
    std::fs::create_dir_all(dir.join("cur")).unwrap();
    let account = Account { address: ALICE.into(), root: dir.to_owned() };
    let source = MaildirSource::new(&MaildirUrl::One { path: dir.to_owned(), account: ALICE.into() });
    let mut all = Vec::new();
    for folder in source.folders(&account, &mut |n| panic!("{n:?}")).unwrap().found {
        let mut open = source.open_folder(&account, &folder).unwrap();
        let mut entries = Vec::new();
        open.messages(&mut |entry| entries.push(entry), &mut |n| panic!("{n:?}")).unwrap();
        for entry in entries {
            let mut message = open.open(&entry).unwrap();
            let mut content = Vec::new();
            message.file.read_to_end(&mut content).unwrap();
            let folder = String::from_utf8_lossy(&folder.path).into_owned();
            all.push((folder, text(&entry.flags), text(&entry.keywords), message.received_us, content));
        }
    }
    all.sort();
    all
}

/// Folder paths and whether they are subscribed.
pub fn folders(dir: &Path) -> BTreeMap<String, bool> {
    std::fs::create_dir_all(dir.join("cur")).unwrap();
    let account = Account { address: ALICE.into(), root: dir.to_owned() };
    let source = MaildirSource::new(&MaildirUrl::One { path: dir.to_owned(), account: ALICE.into() });
    let found = source.folders(&account, &mut |n| panic!("{n:?}")).unwrap().found;
    found.into_iter().map(|f| (String::from_utf8_lossy(&f.path).into_owned(), f.subscribed)).collect()
}

/// Paths of all files and directories below `dir`, sorted.
pub fn tree(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(next) = todo.pop() {
        for entry in std::fs::read_dir(next).into_iter().flatten() {
            let entry = entry.unwrap();
            found.push(entry.path().strip_prefix(dir).unwrap().to_string_lossy().into_owned());
            if entry.file_type().unwrap().is_dir() {
                todo.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

/// Collects lines.
pub fn collect(lines: &mut Vec<ItemLine>) -> impl FnMut(&ItemLine) + '_ {
    |line| lines.push(line.clone())
}

/// Random numbers from a seed (SplitMix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// A message with some text and some noise.
    pub fn message(&mut self, len: usize) -> Vec<u8> {
        let mut m = format!("Subject: {}\n\n", self.next()).into_bytes();
        while m.len() < len {
            if self.below(2) == 0 {
                m.extend_from_slice(&self.next().to_le_bytes());
            } else {
                m.extend_from_slice(b"From here on the text goes on as it always did.\n");
            }
        }
        m
    }
}
