//! The files of a log, in the order in which they were written.
//!
//! In come paths of files and directories, out go opened files by the sequence number in their headers. Rules:
//!
//! - A directory means its live `redo.log` and the archived `redo-TIME-seqN.log` in it and in its `archive/`.
//! - The header's number counts, not the name's, and a file given twice is read once.
//! - A file that cannot be read is an entry of its own, never left out.

use crate::redolog::header::{FileHeader, HeaderError};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// A log file, opened: it stays readable when the server moves it into the archive or deletes it.
#[derive(Debug)]
pub struct LogFile {
    pub path: PathBuf,
    pub header: FileHeader,
    pub file: File,
    /// Device and inode.
    pub identity: (u64, u64),
}

/// Why a file or directory was not read.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", .path.display())]
pub struct Unread {
    pub path: PathBuf,
    pub source: HeaderError,
}

/// What was found.
#[derive(Debug, Default)]
pub struct LogFiles {
    /// By sequence.
    pub found: Vec<LogFile>,
    pub unread: Vec<Unread>,
}

/// Sequences that are missing between two files that follow one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    pub after: i64,
    pub before: i64,
}

impl LogFile {
    pub fn open(path: &Path) -> Result<Self, Unread> {
        let fail = |source: HeaderError| Unread { path: path.to_owned(), source };
        let file = File::open(path).map_err(|e| fail(e.into()))?;
        let meta = file.metadata().map_err(|e| fail(e.into()))?;
        if !meta.is_file() {
            return Err(fail(HeaderError::NotRedoLog("it is not a regular file")));
        }
        let header = FileHeader::read(&file).map_err(fail)?;
        Ok(Self { path: path.to_owned(), header, file, identity: (meta.dev(), meta.ino()) })
    }
}

/// The number that an archived file's name gives.
pub fn sequence_of(name: &str) -> Option<i64> {
    let (_, number) = name.strip_prefix("redo-")?.strip_suffix(".log")?.rsplit_once("-seq")?;
    if number.bytes().all(|b| b.is_ascii_digit()) { number.parse().ok() } else { None }
}

fn logs_in(dir: &Path, into: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let named = name.to_str().is_some_and(|name| name == "redo.log" || sequence_of(name).is_some());
        if named {
            into.push(entry.path());
        }
    }
    Ok(())
}

impl LogFiles {
    /// Opens what the paths name.
    pub fn open(paths: &[PathBuf]) -> Self {
        let mut files = Vec::new();
        let mut all = Self::default();
        let mut unread =
            |path: &Path, e: io::Error| all.unread.push(Unread { path: path.to_owned(), source: e.into() });
        for path in paths {
            if !path.is_dir() {
                files.push(path.clone());
                continue;
            }
            if let Err(e) = logs_in(path, &mut files) {
                unread(path, e);
            }
            let archive = path.join("archive");
            match logs_in(&archive, &mut files) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => unread(&archive, e),
                _ => {}
            }
        }
        for path in files {
            match LogFile::open(&path) {
                Ok(file) if all.found.iter().any(|f| f.identity == file.identity) => {}
                Ok(file) => all.found.push(file),
                Err(e) => all.unread.push(e),
            }
        }
        all.found.sort_by(|a, b| {
            (a.header.sequence, a.header.created_ms, &a.path).cmp(&(b.header.sequence, b.header.created_ms, &b.path))
        });
        all
    }

    /// Where sequences do not follow one another. Servers do not share numbers: a change of server is a gap too.
    pub fn gaps(&self) -> Vec<Gap> {
        self.found
            .windows(2)
            .filter_map(|pair| {
                let [a, b] = pair else { return None };
                let (after, before) = (a.header.sequence, b.header.sequence);
                let follows = after.checked_add(1) == Some(before) && a.header.server_id == b.header.server_id;
                (!follows).then_some(Gap { after, before })
            })
            .collect()
    }
}
