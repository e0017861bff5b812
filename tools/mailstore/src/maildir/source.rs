//! Maildir as a source: accounts, folders and messages as they are on disk.
//!
//! In come directories, out go the neutral types of [`crate::source`]. Rules:
//!
//! - Listing opens no message and stats none: a name tells base, flags, keywords and size. `new/` is read before `cur/`, so that
//!   a message a client takes over meanwhile is seen twice rather than never.
//! - Nothing below an account's root is reached through a symlink. Every step is an open relative to a held directory with
//!   `O_NOFOLLOW`, because users may own these directories and we may be root.
//! - A message that is not under its listed name is looked for by its base name; only then it is gone. Being out of file
//!   descriptors is an error, never absence.
//! - What is not mail is passed over: the server's files beside `cur/`, names with a leading dot in it. Directories, links and
//!   the like among the messages are passed over with a notice.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir};
use rustix::io::Errno;

use super::accounts::{Tree, exhausted};
use super::flags::{Keywords, flags_and_keywords, name_parts, size_hint};
use super::folder;
use super::marker::Marker;
use super::subscriptions::Subscriptions;
use super::uidlist::{self, UidList};
use crate::source::{
    Account, Accounts, FolderEntry, Folders, Listing, MessageEntry, Notice, Notices, OpenError, OpenFolder,
    OpenMessage, Source, SourceError,
};
use crate::url::MaildirUrl;

/// A `getdents` call's worth: some 700 names.
const DIR_BUFFER_BYTES: usize = 64 << 10;

/// Dovecot renames a folder to this before it deletes it.
const DOVECOT_TRASH: &[u8] = b".DOVECOT-TRASHED";

/// How often a message that keeps being renamed is looked for.
const LOOKS_MAX: usize = 4;

/// The Maildirs that a URL stands for.
#[derive(Debug, Clone)]
pub struct MaildirSource {
    tree: Tree,
}

impl MaildirSource {
    pub fn new(url: &MaildirUrl) -> Self {
        Self { tree: Tree::new(url) }
    }
}

impl Source for MaildirSource {
    type Folder = MaildirFolder;

    fn accounts(&self, notices: &mut Notices<'_>) -> Result<Accounts, SourceError> {
        Ok(self.tree.find(notices)?.accounts)
    }

    fn folders(&self, account: &Account, notices: &mut Notices<'_>) -> Result<Folders, SourceError> {
        let root = open_root(&account.root)?;
        let subscriptions = Subscriptions::read(&root).or_else(|error| {
            if exhausted(&error) {
                return Err(SourceError::io("reading the subscriptions of", &account.root, error));
            }
            notices(Notice::new(&account.root, format!("subscriptions cannot be read: {error}")));
            Ok(Subscriptions::default())
        })?;
        let mut folders = Folders::default();
        for name in folder_names(&root, &account.root, notices)? {
            let path = folder::path(&name);
            let dir = folder_dir(&account.root, &name);
            let marker = match Marker::take(&root, &name) {
                Ok(marker) => marker,
                Err(error) if error.kind() == io::ErrorKind::NotFound && !name.is_empty() => {
                    notices(Notice::new(dir, "not a folder: it has no cur/"));
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(SourceError::NotMaildir { path: dir, why: "it has no cur/" });
                }
                Err(error) if exhausted(&error) => return Err(SourceError::io("looking at", &dir, error)),
                Err(error) => {
                    notices(Notice::new(dir, format!("cannot be read: {error}")));
                    folders.unread.push(path);
                    continue;
                }
            };
            let identity = uidlist::read_identity(&root, &name).or_else(|error| {
                if exhausted(&error) {
                    return Err(SourceError::io("reading the UID list of", &dir, error));
                }
                notices(Notice::new(&dir, format!("its UID list cannot be read: {error}")));
                Ok(None)
            })?;
            let subscribed = subscriptions.contains(&path);
            folders.found.push(FolderEntry { path, dir, marker, subscribed, identity });
        }
        folders.found.sort_by(|a, b| a.path.cmp(&b.path));
        for pair in folders.found.windows(2) {
            if let [a, b] = pair
                && a.path == b.path
            {
                notices(Notice::new(&b.dir, format!("has the same folder name as {}", a.dir.display())));
            }
        }
        Ok(folders)
    }

    fn open_folder(&self, account: &Account, folder: &FolderEntry) -> Result<MaildirFolder, SourceError> {
        MaildirFolder::open(&account.root, &folder.dir)
    }
}

/// The folder path of a directory that an event named.
pub fn folder_path(root: &Path, dir: &Path) -> Vec<u8> {
    folder::path(dir.strip_prefix(root).map_or(b"", |name| name.as_os_str().as_bytes()))
}

/// The directory of a folder, given the root and the directory's own name (empty for the root).
pub(super) fn folder_dir(root: &Path, name: &[u8]) -> PathBuf {
    if name.is_empty() { root.to_owned() } else { root.join(OsStr::from_bytes(name)) }
}

/// Opens an account's root. A link is followed here: whether it may be was decided when the account was found.
pub(super) fn open_root(root: &Path) -> Result<OwnedFd, SourceError> {
    rustix::fs::open(root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(|error| {
        match error {
            Errno::NOENT => SourceError::Gone { path: root.to_owned() },
            Errno::NOTDIR => SourceError::NotMaildir { path: root.to_owned(), why: "it is not a directory" },
            error => SourceError::io("opening", root, error),
        }
    })
}

/// The names of the directories that can be folders: the empty one for the root, and those with a leading dot.
pub(super) fn folder_names(
    root: impl AsFd,
    path: &Path,
    notices: &mut Notices<'_>,
) -> Result<Vec<Vec<u8>>, SourceError> {
    let mut names = vec![Vec::new()];
    let mut buffer = dir_buffer();
    let root = root.as_fd();
    each_name(root, &mut buffer, |name, kind| {
        if !name.starts_with(b".") || name == DOVECOT_TRASH {
            return;
        }
        match known_type(root, name, kind) {
            FileType::Directory => names.push(name.to_vec()),
            FileType::Symlink => {
                notices(Notice::new(folder_dir(path, name), "a symlink is not followed, it could lead in a circle"));
            }
            _ => {}
        }
    })
    .map_err(|error| SourceError::io("reading the folders of", path, error))?;
    Ok(names)
}

fn dir_buffer() -> Vec<MaybeUninit<u8>> {
    vec![MaybeUninit::uninit(); DIR_BUFFER_BYTES]
}

/// Calls `each` for every name in a directory, from its start, but for `.` and `..`.
pub(super) fn each_name(
    dir: BorrowedFd<'_>,
    buffer: &mut [MaybeUninit<u8>],
    mut each: impl FnMut(&[u8], FileType),
) -> io::Result<()> {
    rustix::fs::seek(dir, rustix::fs::SeekFrom::Start(0))?;
    let mut entries = RawDir::new(dir, buffer);
    while let Some(entry) = entries.next() {
        match entry {
            Ok(entry) => {
                let name = entry.file_name().to_bytes();
                if name != b"." && name != b".." {
                    each(name, entry.file_type());
                }
            }
            // A directory that is being deleted has no names any more.
            Err(Errno::NOENT) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Some file systems give no type with the name.
fn known_type(dir: BorrowedFd<'_>, name: &[u8], kind: FileType) -> FileType {
    if kind != FileType::Unknown {
        return kind;
    }
    rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
        .map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode))
}

/// A message's file name, and whether it is in `new/`.
type Name = (Vec<u8>, bool);

/// One folder, held open: its directory, `cur/` and `new/`.
#[derive(Debug)]
pub struct MaildirFolder {
    dir: PathBuf,
    dir_fd: OwnedFd,
    cur: OwnedFd,
    /// A folder may lack `new/`: then nothing is delivered to it.
    new: Option<OwnedFd>,
    keywords: Keywords,
    uids: UidList,
    buffer: Vec<MaybeUninit<u8>>,
    /// Base names as they were when a message was last missing under its name.
    now: Option<HashMap<Box<[u8]>, Name>>,
}

impl MaildirFolder {
    /// Opens the folder `dir` of the account at `root`; `dir` is the root or directly inside it.
    pub fn open(root: &Path, dir: &Path) -> Result<Self, SourceError> {
        let root_fd = open_root(root)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let open = |at: BorrowedFd<'_>, name: &[u8], path: &Path| {
            rustix::fs::openat(at, name, flags, Mode::empty()).map_err(|error| match error {
                Errno::NOENT => SourceError::Gone { path: path.to_owned() },
                Errno::NOTDIR | Errno::LOOP => {
                    SourceError::NotMaildir { path: path.to_owned(), why: "a link or a file stands for a directory" }
                }
                error => SourceError::io("opening", path, error),
            })
        };
        let dir_fd = if dir == root {
            root_fd
        } else {
            match (dir.parent(), dir.file_name()) {
                (Some(parent), Some(name)) if parent == root => open(root_fd.as_fd(), name.as_bytes(), dir)?,
                _ => return Err(SourceError::NotMaildir { path: dir.to_owned(), why: "it is not inside the account" }),
            }
        };
        let cur = open(dir_fd.as_fd(), b"cur", &dir.join("cur"))?;
        let new = match open(dir_fd.as_fd(), b"new", &dir.join("new")) {
            Ok(new) => Some(new),
            Err(SourceError::Gone { .. }) => None,
            Err(error) => return Err(error),
        };
        let keywords = match Keywords::read_at(&dir_fd) {
            Ok(keywords) => keywords,
            Err(error) if exhausted(&error) => return Err(SourceError::io("reading the keywords of", dir, error)),
            // Names of keywords are not worth losing the messages; the listing gives a notice.
            Err(_) => Keywords::default(),
        };
        Ok(Self {
            dir: dir.to_owned(),
            dir_fd,
            cur,
            new,
            keywords,
            uids: UidList::default(),
            buffer: dir_buffer(),
            now: None,
        })
    }

    fn part(&self, in_new: bool) -> Option<&OwnedFd> {
        if in_new { self.new.as_ref() } else { Some(&self.cur) }
    }

    fn path(&self, file_name: &[u8], in_new: bool) -> PathBuf {
        self.dir.join(if in_new { "new" } else { "cur" }).join(OsStr::from_bytes(file_name))
    }

    fn told(&self, file_name: &[u8], in_new: bool) -> MessageEntry {
        let parts = name_parts(file_name);
        let (flags, keywords) = flags_and_keywords(parts.letters, &self.keywords);
        let uid = self.uids.get(parts.base);
        MessageEntry {
            file_name: file_name.to_vec(),
            in_new,
            base: parts.base.to_vec(),
            flags,
            keywords,
            uid: uid.map(|line| line.uid),
            guid: uid.and_then(|line| line.guid.clone()),
            size_hint: size_hint(parts.base),
        }
    }

    /// Calls `each` for every message's name, `new/` first.
    fn names(
        &mut self,
        notices: &mut Notices<'_>,
        mut each: impl FnMut(&Self, &[u8], bool),
    ) -> Result<(), SourceError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut read = Ok(());
        for in_new in [true, false] {
            let Some(part) = self.part(in_new) else { continue };
            read = each_name(part.as_fd(), &mut buffer, |name, kind| {
                if name.starts_with(b".") {
                    return;
                }
                match kind {
                    // Without a type it is taken for a message; opening it will tell.
                    FileType::RegularFile | FileType::Unknown => each(self, name, in_new),
                    _ => notices(Notice::new(self.path(name, in_new), "not a message: it is not a regular file")),
                }
            });
            if read.is_err() {
                break;
            }
        }
        self.buffer = buffer;
        read.map_err(|error| SourceError::io("reading the folder", &self.dir, error))
    }

    /// Where the message with this base name is now.
    fn find(&mut self, base: &[u8], again: bool) -> Result<Option<Name>, SourceError> {
        if again || self.now.is_none() {
            // One look at the folder serves all messages that are missing, else emptying a folder of 100,000 while it is read would
            // mean reading it 100,000 times. A rename during the look may hide a name, hence until it was quiet.
            let mut now = HashMap::new();
            for _ in 0..LOOKS_MAX {
                let before = Marker::take(&self.dir_fd, b"");
                self.names(&mut |_| {}, |_, name, in_new| {
                    now.insert(name_parts(name).base.into(), (name.to_vec(), in_new));
                })?;
                let after = Marker::take(&self.dir_fd, b"");
                if matches!((before, after), (Ok(before), Ok(after)) if before.held_until(&after)) {
                    break;
                }
            }
            self.now = Some(now);
        }
        Ok(self.now.as_ref().and_then(|now| now.get(base)).cloned())
    }

    fn open_named(&self, file_name: &[u8], in_new: bool) -> Result<Option<OpenMessage>, OpenError> {
        let path = || self.path(file_name, in_new);
        let Some(part) = self.part(in_new) else { return Ok(None) };
        if file_name.is_empty() || file_name == b"." || file_name == b".." || file_name.contains(&b'/') {
            return Err(OpenError::NotRegularFile { path: path() });
        }
        // Without O_NONBLOCK opening a named pipe would wait for its writer for ever.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(part, file_name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP | Errno::NXIO) => return Err(OpenError::NotRegularFile { path: path() }),
            Err(Errno::ACCESS | Errno::PERM) => return Err(OpenError::PermissionDenied { path: path() }),
            Err(error) => return Err(OpenError::Io { path: path(), source: error.into() }),
        };
        let stat = rustix::fs::fstat(&fd).map_err(|error| OpenError::Io { path: path(), source: error.into() })?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(OpenError::NotRegularFile { path: path() });
        }
        #[allow(clippy::useless_conversion, reason = "a link count has 32 bits on some machines")]
        let links = u64::from(stat.st_nlink);
        let micros = i64::try_from(stat.st_mtime_nsec).unwrap_or(0) / 1000;
        Ok(Some(OpenMessage {
            file: File::from(fd),
            size: u64::try_from(stat.st_size).unwrap_or(0),
            received_us: stat.st_mtime.saturating_mul(1_000_000).saturating_add(micros),
            inode: stat.st_ino,
            links,
            file_name: file_name.to_vec(),
            in_new,
        }))
    }
}

impl OpenFolder for MaildirFolder {
    fn messages(
        &mut self,
        each: &mut dyn FnMut(MessageEntry),
        notices: &mut Notices<'_>,
    ) -> Result<Listing, SourceError> {
        self.now = None;
        let io = |doing, dir: &Path, error| match error {
            error if io::Error::kind(&error) == io::ErrorKind::NotFound => SourceError::Gone { path: dir.to_owned() },
            error => SourceError::io(doing, dir, error),
        };
        let marker = Marker::take(&self.dir_fd, b"").map_err(|e| io("looking at", &self.dir, e))?;
        match Keywords::read_at(&self.dir_fd) {
            Ok(keywords) => self.keywords = keywords,
            Err(error) if exhausted(&error) => return Err(io("reading the keywords of", &self.dir, error)),
            Err(error) => notices(Notice::new(&self.dir, format!("its keywords cannot be read: {error}"))),
        }
        self.uids = match UidList::read(&self.dir_fd, b"") {
            Ok(uids) => uids,
            Err(error) if exhausted(&error) => return Err(io("reading the UID list of", &self.dir, error)),
            Err(error) => {
                notices(Notice::new(&self.dir, format!("its UID list cannot be read: {error}")));
                UidList::default()
            }
        };
        let mut messages = 0;
        self.names(notices, |folder, name, in_new| {
            messages += 1;
            each(folder.told(name, in_new));
        })?;
        let after = Marker::take(&self.dir_fd, b"").map_err(|e| io("looking at", &self.dir, e))?;
        let stable = marker.held_until(&after);
        Ok(Listing { marker, messages, stable, identity: self.uids.identity.clone() })
    }

    fn open(&mut self, message: &MessageEntry) -> Result<OpenMessage, OpenError> {
        if let Some(open) = self.open_named(&message.file_name, message.in_new)? {
            return Ok(open);
        }
        let gone = OpenError::Gone { path: self.path(&message.file_name, message.in_new) };
        for look in 0..LOOKS_MAX {
            let found = self.find(&message.base, look > 0).map_err(|error| match error {
                SourceError::Io { path, source, .. } => OpenError::Io { path, source },
                other => OpenError::Io { path: self.dir.clone(), source: io::Error::other(other) },
            })?;
            let Some((name, in_new)) = found else { return Err(gone) };
            if let Some(open) = self.open_named(&name, in_new)? {
                return Ok(open);
            }
        }
        // Always there, never under the name just read: somebody renames it faster than we look.
        let source = io::Error::new(io::ErrorKind::ResourceBusy, "it is renamed faster than it can be opened");
        Err(OpenError::Io { path: self.path(&message.file_name, message.in_new), source })
    }

    fn entry(&mut self, file_name: &[u8], in_new: bool) -> MessageEntry {
        let letters = name_parts(file_name).letters;
        if letters.iter().any(|letter| letter.is_ascii_lowercase() && !self.keywords.has(*letter)) {
            // The server names a letter just before or just after it uses it. What cannot be read now stays as it was.
            if let Ok(keywords) = Keywords::read_at(&self.dir_fd) {
                self.keywords = keywords;
            }
        }
        self.told(file_name, in_new)
    }
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
