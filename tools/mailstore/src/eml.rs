//! A directory of `.eml` files.
//!
//! In come items, out go one directory a folder (nested as the folders are) with one file an item, `KEY.eml`: the
//! item's key in hexadecimal, content byte for byte, the date as mtime. Rules:
//!
//! - `KEY.eml` with the same digest is there already; its bytes are read to know. With other bytes (another version of
//!   the item, or a file cut off) it stays, and the item becomes `KEY-DIGEST.eml`.
//! - What a file cannot hold (flags, keywords, the folder's real name) stands in `index.ndjson` at the root, a JSON
//!   object a file. Bytes in it are spelled as in event lines. It is written after the files it names, so it may lack
//!   some after a crash.
//! - A level of a folder is its directory's name, with `%XX` for a leading dot, `%`, control characters and what the
//!   index is called.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use crate::json::{hex, write::put_bytes};
use crate::target::{
    BATCH_BYTES_MAX, BATCH_FILES_MAX, Finished, Outcome, RestoreItem, Root, SYNC_SINGLY_MAX, Target, TargetError,
    TemporaryNames, enter, enter_or_make, folder_levels, level_name, open_append, path_of, publish, sync_file,
    with_cause, write_new,
};
use crate::time::{Fraction, write_rfc3339};

/// The file beside the folders that says what `.eml` files cannot.
pub const INDEX_FILE: &str = "index.ndjson";

/// Folders held open at a time.
const OPEN_FOLDERS_MAX: usize = 32;

/// A directory that takes items as `.eml` files.
#[derive(Debug)]
pub struct EmlTarget {
    root: Root,
    open: HashMap<PathBuf, OwnedFd>,
    staged: Vec<Staged>,
    /// Digests of what is staged, by item and folder.
    staged_digests: HashMap<([u8; 16], PathBuf), Vec<[u8; 32]>>,
    staged_bytes: u64,
    dirs_made: bool,
    names: TemporaryNames,
    buffer: Vec<u8>,
    finished: Finished,
}

/// A file under a temporary name that waits for its batch.
#[derive(Debug)]
struct Staged {
    key: [u8; 16],
    folder: PathBuf,
    temporary: Vec<u8>,
    name: String,
    index_line: Vec<u8>,
}

impl EmlTarget {
    /// Opens `dir`, or what will be it. Writes nothing.
    pub fn open(dir: &Path) -> Result<Self, TargetError> {
        Ok(Self {
            root: Root::open(dir)?,
            open: HashMap::new(),
            staged: Vec::new(),
            staged_digests: HashMap::new(),
            staged_bytes: 0,
            dirs_made: false,
            names: TemporaryNames::new(),
            buffer: vec![0; 256 << 10],
            finished: Finished::default(),
        })
    }

    fn folder_path(folder: &[u8]) -> Result<PathBuf, TargetError> {
        let mut path = PathBuf::new();
        for (i, level) in folder_levels(folder)?.into_iter().enumerate() {
            let suffix = if i == 0 && level == INDEX_FILE.as_bytes() { ".ndjson" } else { ".eml" };
            path.push(path_of(&level_name(level, suffix)));
        }
        Ok(path)
    }

    /// The folder's directory, when it is there.
    fn find(&self, path: &Path) -> Result<Option<OwnedFd>, TargetError> {
        let Some(root) = self.root.fd() else { return Ok(None) };
        let mut dir: Option<OwnedFd> = None;
        for level in path.iter() {
            let parent = dir.as_ref().map_or(root, OwnedFd::as_fd);
            match enter(parent, level.as_encoded_bytes()) {
                Ok(Some(next)) => dir = Some(next),
                Ok(None) => return Ok(None),
                Err(error) => return Err(TargetError::io("opening", self.root.path.join(path), error)),
            }
        }
        Ok(dir)
    }

    /// Opens the folder's directory, making what is missing. Says whether it was made.
    fn ready(&mut self, path: &Path) -> Result<bool, TargetError> {
        if self.open.contains_key(path) {
            return Ok(false);
        }
        if self.open.len() >= OPEN_FOLDERS_MAX {
            self.open.clear();
        }
        let access = self.root.access;
        let shown = self.root.path.join(path);
        let root = self.root.ready()?;
        let mut dir = root.try_clone_to_owned().map_err(|e| TargetError::io("opening", &shown, e))?;
        let mut made = false;
        for level in path.iter() {
            let next = enter_or_make(dir.as_fd(), level.as_encoded_bytes(), access);
            let (next, next_made) = next.map_err(|e| TargetError::io("opening", &shown, e))?;
            (dir, made) = (next, next_made);
            self.dirs_made |= made;
        }
        self.open.insert(path.to_owned(), dir);
        Ok(made)
    }

    fn opened(&mut self, path: &Path) -> Result<&OwnedFd, TargetError> {
        self.ready(path)?;
        let shown = self.root.path.join(path);
        self.open.get(path).ok_or_else(|| TargetError::io("opening", shown, Errno::NOENT))
    }

    /// The file that holds the item already (`true`), else the name it gets.
    fn place(
        &self,
        folder: &Path,
        dir: Option<&OwnedFd>,
        item: &RestoreItem<'_>,
        digest: &[u8; 32],
    ) -> Result<(bool, String), Errno> {
        let plain = format!("{}.eml", hex(&item.key));
        let own = format!("{}-{}.eml", hex(&item.key), hex(digest.get(..8).unwrap_or_default()));
        let staged = self.staged_digests.get(&(item.key, folder.to_owned())).map_or(&[][..], Vec::as_slice);
        if staged.contains(digest) {
            return Ok((true, if staged.first() == Some(digest) { plain } else { own }));
        }
        let found = dir.map_or(Ok(None), |dir| digest_of(dir, &plain))?;
        if found == Some(*digest) {
            return Ok((true, plain));
        }
        if found.is_none() && staged.is_empty() {
            return Ok((false, plain));
        }
        // A cut-off file under this name cannot be: it got it when its bytes were durable.
        let there = dir.map_or(Ok(None), |dir| digest_of(dir, &own))? == Some(*digest);
        Ok((there, own))
    }

    fn flush(&mut self) {
        self.staged_bytes = 0;
        self.staged_digests.clear();
        let staged = std::mem::take(&mut self.staged);
        let singly = staged.len() <= SYNC_SINGLY_MAX && !self.dirs_made;
        if !singly {
            let synced = self.root.fd().map_or(Err(Errno::NOENT), rustix::fs::syncfs);
            if let Err(error) = synced {
                for file in staged {
                    let why = TargetError::io("syncing", self.root.path.clone(), error);
                    self.fail(&file, why);
                }
                return;
            }
            self.dirs_made = false;
        }
        let mut published: Vec<Staged> = Vec::new();
        for file in staged {
            let shown = self.root.path.join(&file.folder).join(&file.name);
            let result = self.opened(&file.folder).and_then(|dir| {
                let failed = |e: Errno| TargetError::io("naming", &shown, e);
                if singly {
                    sync_file(dir.as_fd(), &file.temporary).map_err(failed)?;
                }
                publish(dir.as_fd(), &file.temporary, dir.as_fd(), file.name.as_bytes()).map_err(failed)
            });
            match result {
                Ok(_) => published.push(file),
                Err(error) => self.fail(&file, error),
            }
        }
        let mut folders: Vec<&Path> = published.iter().map(|s| s.folder.as_path()).collect();
        folders.sort_unstable();
        folders.dedup();
        let mut synced = Ok(());
        for folder in folders {
            let shown = self.root.path.join(folder);
            synced = synced.and(
                self.opened(folder)
                    .and_then(|dir| rustix::fs::fsync(dir).map_err(|e| TargetError::io("syncing", shown, e))),
            );
        }
        match synced.and_then(|()| self.write_index(&published)) {
            Ok(()) => self.finished.durable += published.len() as u64,
            Err(error) => {
                let why = with_cause(&error);
                for file in published {
                    let source = io::Error::other(why.clone());
                    let error = TargetError::Io { doing: "syncing", path: self.root.path.clone(), source };
                    self.finished.late.push((file.key, error));
                }
            }
        }
    }

    /// Appends to the index, after a line that an earlier crash may have cut off.
    fn write_index(&mut self, published: &[Staged]) -> Result<(), TargetError> {
        if published.is_empty() {
            return Ok(());
        }
        let shown = self.root.path.join(INDEX_FILE);
        let failed = |e: io::Error| TargetError::io("writing", &shown, e);
        let access = self.root.access;
        let root = self.root.ready()?;
        let file = open_append(root, INDEX_FILE.as_bytes(), access).map_err(|e| failed(e.into()))?;
        let mut last = [b'\n'];
        let length = file.metadata().map_err(failed)?.len();
        if length > 0 {
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut last, length - 1).map_err(failed)?;
        }
        let mut text = if last == *b"\n" { Vec::new() } else { b"\n".to_vec() };
        for line in published {
            text.extend_from_slice(&line.index_line);
        }
        (&file).write_all(&text).map_err(failed)?;
        file.sync_data().map_err(failed)?;
        let root = self.root.ready()?;
        rustix::fs::fsync(root).map_err(|e| failed(e.into()))
    }

    fn fail(&mut self, file: &Staged, error: TargetError) {
        if let Ok(dir) = self.opened(&file.folder) {
            let _ = rustix::fs::unlinkat(dir, file.temporary.as_slice(), AtFlags::empty());
        }
        self.finished.late.push((file.key, error));
    }
}

/// SHA-256 of a file's bytes; `None` when it is not there.
fn digest_of(dir: &OwnedFd, name: &str) -> Result<Option<[u8; 32]>, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error),
    };
    let (mut file, mut hasher, mut buffer) = (File::from(fd), Sha256::new(), vec![0; 64 << 10]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(Some(hasher.finalize().into())),
            Ok(n) => hasher.update(buffer.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Errno::from_io_error(&e).unwrap_or(Errno::IO)),
        }
    }
}

fn index_line(item: &RestoreItem<'_>, digest: &[u8; 32], place: &Path) -> Vec<u8> {
    let mut line = b"{\"file\":".to_vec();
    put_bytes(place.as_os_str().as_encoded_bytes(), &mut line);
    line.extend_from_slice(b",\"folder\":");
    put_bytes(item.folder, &mut line);
    line.extend_from_slice(format!(",\"key\":\"{}\",\"digest\":\"sha256:{}\"", hex(&item.key), hex(digest)).as_bytes());
    for (name, words) in [("flags", item.flags), ("keywords", item.keywords)] {
        line.extend_from_slice(format!(",\"{name}\":[").as_bytes());
        for (i, word) in words.iter().enumerate() {
            if i > 0 {
                line.push(b',');
            }
            put_bytes(word, &mut line);
        }
        line.push(b']');
    }
    if let Some(micros) = item.internal_date {
        line.extend_from_slice(b",\"date\":\"");
        write_rfc3339(micros, Fraction::Needed, &mut line);
        line.push(b'"');
    }
    line.extend_from_slice(b"}\n");
    line
}

impl Target for EmlTarget {
    fn create_folder(
        &mut self,
        folder: &[u8],
        _subscribed: bool,
        attributes: &[(Vec<u8>, Vec<u8>)],
    ) -> Result<Outcome, TargetError> {
        let place = Self::folder_path(folder)?;
        let made = self.ready(&place)?;
        if !attributes.is_empty() {
            let text = format!("a directory has no place for the attributes of folder {}", path_of(folder).display());
            self.finished.notice(None, text);
        }
        Ok(if made { Outcome::Restored { place } } else { Outcome::there(place) })
    }

    fn would_put(&mut self, item: &RestoreItem<'_>) -> Result<Outcome, TargetError> {
        let folder = Self::folder_path(item.folder)?;
        let dir = self.find(&folder)?;
        let digest = item.digest.unwrap_or_default();
        let place = self.place(&folder, dir.as_ref(), item, &digest);
        let (there, name) = place.map_err(|e| TargetError::io("reading", self.root.path.join(&folder), e))?;
        let place = folder.join(name);
        Ok(if there { Outcome::there(place) } else { Outcome::Restored { place } })
    }

    fn put(&mut self, item: &RestoreItem<'_>, content: &mut dyn Read) -> Result<Outcome, TargetError> {
        if item.digest.is_some()
            && let there @ Outcome::Skipped { .. } = self.would_put(item)?
        {
            return Ok(there);
        }
        let folder = Self::folder_path(item.folder)?;
        self.ready(&folder)?;
        let access = self.root.access;
        let temporary = [&b"."[..], &self.names.next()].concat();
        let shown = self.root.path.join(&folder).join(path_of(&temporary));
        let mut buffer = std::mem::take(&mut self.buffer);
        let written = self
            .opened(&folder)
            .and_then(|dir| write_new(dir.as_fd(), &temporary, &shown, access, item, content, &mut buffer));
        self.buffer = buffer;
        let written = written?;
        let dir = self.opened(&folder)?.try_clone().map_err(|e| TargetError::io("opening", &shown, e))?;
        let remove = |error: Errno| {
            let _ = rustix::fs::unlinkat(&dir, temporary.as_slice(), AtFlags::empty());
            TargetError::io("reading", self.root.path.join(&folder), error)
        };
        let (there, name) = self.place(&folder, Some(&dir), item, &written.digest).map_err(remove)?;
        let place = folder.join(&name);
        if there {
            rustix::fs::unlinkat(&dir, temporary.as_slice(), AtFlags::empty())
                .map_err(|e| TargetError::io("removing", shown, e))?;
            return Ok(Outcome::there(place));
        }
        let index_line = index_line(item, &written.digest, &place);
        self.staged_digests.entry((item.key, folder.clone())).or_default().push(written.digest);
        self.staged.push(Staged { key: item.key, folder, temporary, name, index_line });
        self.staged_bytes += written.length;
        if self.staged.len() >= BATCH_FILES_MAX || self.staged_bytes >= BATCH_BYTES_MAX {
            self.flush();
        }
        Ok(Outcome::Restored { place })
    }

    fn finish(&mut self) -> Result<Finished, TargetError> {
        if !self.staged.is_empty() || self.dirs_made {
            self.flush();
        }
        Ok(std::mem::take(&mut self.finished))
    }
}

impl Drop for EmlTarget {
    fn drop(&mut self) {
        for file in std::mem::take(&mut self.staged) {
            if let Ok(dir) = self.opened(&file.folder) {
                let _ = rustix::fs::unlinkat(dir, file.temporary.as_slice(), AtFlags::empty());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::tests::{HOSTILE, Torn, tree};

    fn item<'a>(key: u8, folder: &'a [u8], content: &[u8], flags: &'a [Vec<u8>]) -> RestoreItem<'a> {
        let digest = Some(Sha256::digest(content).into());
        RestoreItem { key: [key; 16], digest, folder, flags, internal_date: Some(1_500_000), ..RestoreItem::default() }
    }

    fn skipped(outcome: &Outcome) -> bool {
        matches!(outcome, Outcome::Skipped { .. })
    }

    #[test]
    fn twice_adds_nothing_and_versions_stay_apart() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("out/put");
        let flags = [b"\\Seen".to_vec(), b"100%\xff".to_vec()];
        let put = |target: &mut EmlTarget| {
            let mut skips = 0;
            for (key, folder, content) in [
                (1, &b"INBOX"[..], &b"one"[..]),
                (1, b"INBOX", b"other version"),
                (2, b"A/.b", b"two"),
                (3, b"index.ndjson", b""),
            ] {
                let mut item = item(key, folder, content, &flags);
                let would = target.would_put(&item).unwrap();
                item.digest = item.digest.filter(|_| key != 2);
                let did = target.put(&item, &mut &content[..]).unwrap();
                assert_eq!(would, did);
                skips += usize::from(skipped(&did));
                assert!(skipped(&target.put(&item, &mut &content[..]).unwrap()));
            }
            let finished = target.finish().unwrap();
            assert!(finished.late.is_empty());
            (skips, finished.durable)
        };
        assert_eq!(put(&mut EmlTarget::open(&root).unwrap()), (0, 4));
        let before = tree(&root);
        assert_eq!(before.iter().filter(|f| f.ends_with(".eml")).count(), 4, "{before:?}");
        assert!(before.iter().any(|f| f.starts_with("A/%2Eb/")), "{before:?}");
        let index = std::fs::read(root.join(INDEX_FILE)).unwrap();
        assert_eq!(put(&mut EmlTarget::open(&root).unwrap()), (4, 0));
        assert_eq!(tree(&root), before);
        assert_eq!(std::fs::read(root.join(INDEX_FILE)).unwrap(), index);
        let lines: Vec<serde_json::Value> = index
            .split(|&b| b == b'\n')
            .filter(|l| !l.is_empty())
            .map(|l| serde_json::from_slice(l).unwrap())
            .collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[2]["flags"][1], "100%25%FF");
        assert_eq!(lines[2]["folder"], "A/.b");
        let file = root.join(lines[0]["file"].as_str().unwrap());
        assert_eq!(std::fs::read(&file).unwrap(), b"one");
        let modified = std::fs::metadata(&file).unwrap().modified().unwrap();
        assert_eq!(modified, std::time::UNIX_EPOCH + std::time::Duration::from_millis(1500));
    }

    #[test]
    fn a_stream_that_fails_and_a_dry_run_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("put");
        let mut target = EmlTarget::open(&root).unwrap();
        assert!(!skipped(&target.would_put(&item(1, b"INBOX", b"x", &[])).unwrap()));
        assert!(tree(dir.path()).is_empty());
        let torn = target.put(&item(1, b"INBOX", b"x", &[]), &mut Torn(b"x"));
        assert!(matches!(torn, Err(TargetError::Content { .. })));
        let short = RestoreItem { length: Some(5), ..item(1, b"INBOX", b"x", &[]) };
        assert!(matches!(target.put(&short, &mut &b"x"[..]), Err(TargetError::Content { .. })));
        assert_eq!(target.finish().unwrap().durable, 0);
        target.put(&item(2, b"INBOX", b"y", &[]), &mut &b"y"[..]).unwrap();
        drop(target); // never finished
        assert_eq!(tree(&root), ["INBOX"]);
    }

    #[test]
    fn hostile_folders_and_symlinks_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("put");
        std::fs::create_dir_all(dir.path().join("outside")).unwrap();
        std::fs::create_dir(&root).unwrap();
        std::os::unix::fs::symlink("../outside", root.join("link")).unwrap();
        let mut target = EmlTarget::open(&root).unwrap();
        for folder in HOSTILE.into_iter().chain([&b"link"[..], b"link/sub"]) {
            let refused = target.put(&item(1, folder, b"x", &[]), &mut &b"x"[..]);
            assert!(matches!(refused, Err(TargetError::Refused { .. })), "{folder:?} {refused:?}");
        }
        target.finish().unwrap();
        assert_eq!(tree(dir.path()), ["outside", "put", "put/link"]);
    }
}
