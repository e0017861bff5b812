//! Real Maildirs in a temporary directory, and what a store says of them.

#![allow(dead_code, reason = "each test binary uses its part")]

use mailstrata_backup::scan::{Options, Report, SmartScan};
use mailstrata_engine::{Create, Options as StoreOptions, Store, View};
use mailstrata_format::{AccountId, ItemKind};
use mailstrata_mailstore::url::{MaildirUrl, Url};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

pub struct World {
    pub dir: tempfile::TempDir,
    pub store: Option<Store>,
}

/// A message as a mailbox shows it: where it is, its flags and keywords, its bytes.
pub type Mailbox = BTreeMap<(String, String), (Vec<String>, Vec<u8>)>;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl World {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("mail")).unwrap();
        let create = Create { segment_size: 1 << 20, pack_size: 8 << 20, ..Create::default() };
        Store::create(&dir.path().join("store"), &create, &options()).unwrap();
        let mut world = Self { dir, store: None };
        world.reopen();
        world
    }

    pub fn reopen(&mut self) {
        if let Some(store) = self.store.take() {
            store.close().unwrap();
        }
        self.store = Some(Store::open(&self.dir.path().join("store"), &options()).unwrap());
    }

    pub fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    pub fn root(&self, user: &str) -> PathBuf {
        self.dir.path().join("mail").join(user)
    }

    pub fn url(&self) -> MaildirUrl {
        let url = format!("maildir:{}/{{user}}", self.dir.path().join("mail").display());
        let Ok(Url::Maildir(url)) = url.parse() else { panic!() };
        url
    }

    /// Makes an account, or one of its folders.
    pub fn folder(&self, user: &str, folder: &str) -> PathBuf {
        let dir = self.folder_dir(user, folder);
        for part in ["tmp", "new", "cur"] {
            fs::create_dir_all(dir.join(part)).unwrap();
        }
        dir
    }

    pub fn folder_dir(&self, user: &str, folder: &str) -> PathBuf {
        if folder == "INBOX" { self.root(user) } else { self.root(user).join(format!(".{}", folder.replace('/', "."))) }
    }

    /// Delivers a message as a server does.
    pub fn deliver(&self, user: &str, folder: &str, base: &str, body: &str) -> PathBuf {
        let dir = self.folder_dir(user, folder);
        let (from, to) = (dir.join("tmp").join(base), dir.join("new").join(base));
        fs::write(&from, message(base, body)).unwrap();
        fs::rename(from, &to).unwrap();
        to
    }

    pub fn scan(&self) -> Report {
        self.scan_with(Options { threads: 2, ..Options::default() })
    }

    pub fn scan_with(&self, options: Options) -> Report {
        let report = self.scan_with_errors(options);
        assert_eq!(report.errors.total, 0, "{report:?}");
        report
    }

    pub fn scan_with_errors(&self, options: Options) -> Report {
        let stop = AtomicBool::new(false);
        SmartScan::new(self.store(), &self.url(), options).run(&|_| {}, &stop).unwrap()
    }

    pub fn id(&self, user: &str) -> AccountId {
        self.store().account_of(user.as_bytes()).unwrap()
    }

    /// The mailbox as the store has it.
    pub fn stored(&self, user: &str, at: Option<i64>) -> Mailbox {
        stored(&self.store().view(), self.id(user), at)
    }

    /// The mailbox as it is on disk.
    pub fn disk(&self, user: &str) -> Mailbox {
        let mut all = Mailbox::new();
        let root = self.root(user);
        for dir in std::iter::once(root.clone())
            .chain(fs::read_dir(&root).unwrap().map(|e| e.unwrap().path()).filter(|p| p.join("cur").is_dir()))
        {
            let name = if dir == root { String::new() } else { text(dir.file_name().unwrap().as_bytes()) };
            let folder = if name.is_empty() { "INBOX".to_owned() } else { name[1..].replace('.', "/") };
            if folder == "cur" {
                continue;
            }
            let keywords = fs::read_to_string(dir.join("dovecot-keywords")).unwrap_or_default();
            for part in ["new", "cur"] {
                for entry in fs::read_dir(dir.join(part)).unwrap() {
                    let path = entry.unwrap().path();
                    if !fs::symlink_metadata(&path).unwrap().is_file() {
                        continue;
                    }
                    let name = text(path.file_name().unwrap().as_bytes());
                    let (base, letters) = name.split_once(":2,").unwrap_or((&name, ""));
                    let mut flags: Vec<String> = letters.chars().map(|c| flag(c, &keywords)).collect();
                    flags.sort();
                    all.insert((folder.clone(), base.to_owned()), (flags, fs::read(&path).unwrap()));
                }
            }
        }
        all
    }

    /// Asserts that the store has what is on disk.
    pub fn agree(&self, user: &str) {
        let (stored, disk) = (self.stored(user, None), self.disk(user));
        assert_same(&stored, &disk, user);
    }

    pub fn native_ids(&self, user: &str) -> Vec<String> {
        let view = self.store().view();
        let mut ids: Vec<String> = view
            .items(self.id(user), None)
            .unwrap()
            .map(|h| h.unwrap())
            .filter(|h| !h.deleted() && h.kind() == Some(ItemKind::Message))
            .map(|h| text(&view.read(&h).unwrap().item))
            .collect();
        ids.sort();
        ids
    }

    pub fn lsn(&self) -> u64 {
        self.store().view().lsn().0
    }
}

pub fn assert_same(stored: &Mailbox, disk: &Mailbox, what: &str) {
    let only = |a: &Mailbox, b: &Mailbox| {
        a.iter()
            .filter(|(k, v)| b.get(*k) != Some(v))
            .map(|(k, v)| (k.clone(), v.0.clone(), v.1.len()))
            .collect::<Vec<_>>()
    };
    assert!(stored == disk, "{what}: stored {:?}, disk {:?}", only(stored, disk), only(disk, stored));
}

fn flag(letter: char, keywords: &str) -> String {
    match letter {
        'R' => "\\Answered".into(),
        'T' => "\\Deleted".into(),
        'D' => "\\Draft".into(),
        'F' => "\\Flagged".into(),
        'S' => "\\Seen".into(),
        'P' => "$Forwarded".into(),
        c => {
            let n = c as u8 - b'a';
            let line = keywords.lines().find_map(|l| l.strip_prefix(&format!("{n} ")));
            line.map_or(format!("unknown-{n}"), str::to_owned)
        }
    }
}

pub fn message(base: &str, body: &str) -> String {
    format!("From: a@example.org\nSubject: {base}\nMessage-ID: <{base}@x>\n\n{body}\n")
}

pub fn options() -> StoreOptions {
    StoreOptions { reserve_bytes: 0, ..StoreOptions::new().unwrap() }
}

/// A mailbox in a view.
pub fn stored(view: &View, id: AccountId, at: Option<i64>) -> Mailbox {
    let mut all = Mailbox::new();
    for hit in view.items(id, at).unwrap() {
        let hit = hit.unwrap();
        if hit.deleted() || hit.kind() != Some(ItemKind::Message) {
            continue;
        }
        let t = view.read(&hit).unwrap();
        let native = text(&t.item);
        let base = t.state.attribute(b"maildir.base").map_or(native.rsplit('/').next().unwrap().to_owned(), text);
        let list = |l: &Option<Vec<Vec<u8>>>| l.clone().unwrap_or_default().iter().map(|f| text(f)).collect::<Vec<_>>();
        let mut flags = list(&t.state.flags);
        flags.extend(list(&t.state.tags));
        flags.sort();
        let mut bytes = Vec::new();
        if let Some(blob) = t.content() {
            view.read_blob(&blob.digest, &mut |b| {
                bytes.extend_from_slice(b);
                Ok(())
            })
            .unwrap();
        }
        let twice = all.insert((text(t.state.folder.as_deref().unwrap_or(b"")), base), (flags, bytes));
        assert!(twice.is_none(), "two items at one place: {native}");
    }
    all
}

/// Alive folder paths in a view.
pub fn folders(view: &View, id: AccountId, at: Option<i64>) -> Vec<String> {
    let mut all: Vec<String> = view
        .items(id, at)
        .unwrap()
        .map(|h| h.unwrap())
        .filter(|h| !h.deleted() && h.kind() == Some(ItemKind::Folder))
        .map(|h| text(&view.read(&h).unwrap().state.folder.unwrap()))
        .collect();
    all.sort();
    all
}

/// Makes markers old enough to be believed.
pub fn let_markers_settle() {
    std::thread::sleep(std::time::Duration::from_millis(2100));
}

pub fn rename(from: &Path, to: &Path) {
    fs::rename(from, to).unwrap_or_else(|e| panic!("{} to {}: {e}", from.display(), to.display()));
}
