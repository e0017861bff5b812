//! A directory of Maildirs for this crate's tests, gone when dropped.

use std::fs;
use std::path::{Path, PathBuf};

pub(crate) struct TestTree {
    pub path: PathBuf,
    _dir: tempfile::TempDir,
}

impl TestTree {
    pub fn new(name: &str) -> Self {
        let dir = tempfile::Builder::new().prefix(&format!("mailstrata-{name}-")).tempdir().unwrap();
        Self { path: dir.path().canonicalize().unwrap(), _dir: dir }
    }

    /// Makes a Maildir, or a folder of one.
    pub fn maildir(&self, at: &str) -> PathBuf {
        let dir = self.path.join(at);
        for part in ["tmp", "new", "cur"] {
            fs::create_dir_all(dir.join(part)).unwrap();
        }
        dir
    }

    /// Delivers a message the way a server does: written in `tmp/`, renamed to `new/`.
    pub fn deliver(&self, folder: &Path, name: &str) -> PathBuf {
        let (from, to) = (folder.join("tmp").join(name), folder.join("new").join(name));
        fs::write(&from, format!("Subject: {name}\n\nbody\n")).unwrap();
        fs::rename(from, &to).unwrap();
        to
    }
}
