//! A directory that becomes an account's Maildir, or is one already.
//!
//! In come items, out go files in `cur/`: INBOX at the root, Maildir++ folders beside (`.Archive.2023`). Rules:
//!
//! - A restored file's base name is `SECONDS.MmsKEY.DIGEST.mailstrata,S=SIZE`: 32 hexadecimal digits of the item's key
//!   and 16 of its content's digest. An item whose key and digest stand in any base name, in any folder, is there
//!   already.
//! - So is an item whose own base name is still there with its size: it never went away, or only moved. A copy has the
//!   base name of its original; each file therefore answers for one item only, the folder's own file first.
//! - Files are written to `tmp/` and get their final names a batch at a time, once the batch is durable: a name that is
//!   seen is whole, after a crash too, and that is what the rules above rest on.
//! - Keywords get letters in `dovecot-keywords`, merged under Dovecot's own lock. Those beyond 26 give a notice.
//! - The date is the file's mtime. `\Recent` is not kept. A restored message lies in `cur/`, also when it is unseen.
//! - A folder name that Maildir++ cannot hold (a dot, too long) is restored under the nearest name, with a notice.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::flags::{KEYWORDS_FILE, Keywords, letters, name_parts, size_hint};
use super::folder::{INBOX, dir_name, nearest_dir_name};
use crate::json::{hex, unhex};
use crate::target::{
    BATCH_BYTES_MAX, BATCH_FILES_MAX, Durability, Finished, Outcome, RestoreItem, Root, SYNC_SINGLY_MAX, Target,
    TargetError, TemporaryNames, create_new, enter, enter_or_make, folder_levels, path_of, publish, read_small,
    sync_file, with_cause, write_new,
};

/// Folders held open at a time, three descriptors each.
const OPEN_FOLDERS_MAX: usize = 16;

/// How long another's lock is waited for, and how old it may get before its owner is taken for dead (as Dovecot has it).
const LOCK_WAIT: Duration = Duration::from_secs(5);
const LOCK_STALE: Duration = Duration::from_secs(120);

/// How a Maildir is written.
#[derive(Debug, Clone, Copy, Default)]
pub struct MaildirOptions {
    /// Leave `\Deleted` out, so that the next expunge does not take what was restored.
    pub strip_deleted: bool,
    pub durability: Durability,
}

/// A Maildir that takes items back.
#[derive(Debug)]
pub struct MaildirTarget {
    root: Root,
    options: MaildirOptions,
    /// Directory names below the root; the root itself is the empty one.
    folders: Vec<Vec<u8>>,
    folder_ids: HashMap<Vec<u8>, u32>,
    open: HashMap<u32, OpenFolder>,
    known: Known,
    staged: Vec<Staged>,
    staged_bytes: u64,
    /// Directories were made, or a device other than the root's is in use.
    dirs_made: bool,
    other_device: bool,
    subscribe: Vec<Vec<u8>>,
    names: TemporaryNames,
    buffer: Vec<u8>,
    finished: Finished,
    noticed_folders: BTreeSet<Vec<u8>>,
}

#[derive(Debug)]
struct OpenFolder {
    dir: OwnedFd,
    cur: OwnedFd,
    tmp: OwnedFd,
}

/// A file in `tmp/` that waits for its batch.
#[derive(Debug)]
struct Staged {
    key: [u8; 16],
    digest: [u8; 8],
    folder: u32,
    temporary: Vec<u8>,
    base: Vec<u8>,
    flags: Vec<Vec<u8>>,
    keywords: Vec<Vec<u8>>,
}

/// What the Maildir held when it was opened, and what was put since. Some 40 bytes a message.
#[derive(Debug, Default)]
struct Known {
    /// Digest of a base name, folder, size; sorted.
    bases: Vec<([u8; 16], u32, u64)>,
    ours: HashMap<([u8; 16], [u8; 8]), u32>,
    /// Which item an entry of `bases` answers for.
    claims: HashMap<usize, [u8; 16]>,
}

impl Known {
    fn add(&mut self, base: &[u8], folder: u32, size: u64) {
        match key_and_digest(base) {
            Some(ours) => {
                self.ours.insert(ours, folder);
            }
            None => self.bases.push((name_digest(base), folder, size)),
        }
    }

    /// The folder in which the item is there already.
    fn find(&mut self, item: &RestoreItem<'_>, folder: Option<u32>) -> Option<u32> {
        if let Some(digest) = item.digest
            && let Some(folder) = self.ours.get(&(item.key, short(&digest)))
        {
            return Some(*folder);
        }
        let wanted = name_digest(item.native_base?);
        let start = self.bases.partition_point(|(name, ..)| *name < wanted);
        let same = self.bases.iter().enumerate().skip(start).take_while(|(_, (name, ..))| *name == wanted);
        let free = same.filter(|(i, (_, _, size))| {
            item.length.is_none_or(|length| *size == length) && self.claims.get(i).is_none_or(|key| *key == item.key)
        });
        let (index, (_, found, _)) = free.min_by_key(|(_, (_, f, _))| Some(*f) != folder)?;
        self.claims.insert(index, item.key);
        Some(*found)
    }
}

fn name_digest(base: &[u8]) -> [u8; 16] {
    let mut digest = [0; 16];
    digest.iter_mut().zip(Sha256::digest(base)).for_each(|(to, from)| *to = from);
    digest
}

fn short(digest: &[u8; 32]) -> [u8; 8] {
    let mut short = [0; 8];
    short.iter_mut().zip(digest).for_each(|(to, from)| *to = *from);
    short
}

/// Item key and digest in a base name that we gave.
fn key_and_digest(base: &[u8]) -> Option<([u8; 16], [u8; 8])> {
    let digits = base.iter().take_while(|b| b.is_ascii_digit()).count();
    let rest = base.get(digits..)?.strip_prefix(b".Mms")?;
    let (key, rest) = rest.split_at_checked(32)?;
    let (digest, rest) = rest.strip_prefix(b".")?.split_at_checked(16)?;
    (rest == b".mailstrata" || rest.starts_with(b".mailstrata,")).then_some(())?;
    Some((unhex(key)?, unhex(digest)?))
}

fn base_name(item: &RestoreItem<'_>, digest: &[u8; 32], length: u64) -> Vec<u8> {
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_micros() as i64);
    let seconds = item.internal_date.unwrap_or_else(now).max(0) / 1_000_000;
    format!("{seconds}.Mms{}.{}.mailstrata,S={length}", hex(&item.key), hex(&short(digest))).into_bytes()
}

impl MaildirTarget {
    /// Opens `dir`, or what will be it, and lists the base names in it. Writes nothing.
    pub fn open(dir: &Path, options: MaildirOptions) -> Result<Self, TargetError> {
        let mut target = Self {
            root: Root::open(dir)?,
            options,
            folders: Vec::new(),
            folder_ids: HashMap::new(),
            open: HashMap::new(),
            known: Known::default(),
            staged: Vec::new(),
            staged_bytes: 0,
            dirs_made: false,
            other_device: false,
            subscribe: Vec::new(),
            names: TemporaryNames::new(),
            buffer: vec![0; 256 << 10],
            finished: Finished::default(),
            noticed_folders: BTreeSet::new(),
        };
        target.list()?;
        Ok(target)
    }

    fn list(&mut self) -> Result<(), TargetError> {
        let shown = self.root.path.clone();
        let failed = |e: Errno| TargetError::io("listing", &shown, e);
        let root = self.folder_id(b"");
        let Some(fd) = self.root.fd() else { return Ok(()) };
        let (mut dirs, mut is_maildir, mut stranger) = (Vec::new(), false, None);
        for entry in Dir::read_from(fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            is_maildir |= name == b"cur";
            let belongs = matches!(name, b"cur" | b"new" | b"tmp" | b"subscriptions" | b"lost+found");
            if !belongs && !name.starts_with(b".") && !name.starts_with(b"dovecot") {
                stranger = Some(name.to_vec());
            }
            let may_be = matches!(entry.file_type(), FileType::Directory | FileType::Unknown);
            if may_be && name.starts_with(b".") && name != b"." && name != b".." {
                dirs.push(name.to_vec());
            }
        }
        if let Some(stranger) = stranger.filter(|_| !is_maildir) {
            let why = format!(
                "it holds {} and is no Maildir; name one, or a directory that is empty or new",
                path_of(&stranger).display()
            );
            return Err(TargetError::refused(shown.as_os_str().as_encoded_bytes(), why));
        }
        let fd = fd.try_clone_to_owned().map_err(|e| TargetError::io("listing", &shown, e))?;
        self.list_folder(fd.as_fd(), root).map_err(failed)?;
        for name in dirs {
            match enter(fd.as_fd(), &name) {
                Ok(Some(dir)) => {
                    let id = self.folder_id(&name);
                    self.list_folder(dir.as_fd(), id).map_err(failed)?;
                }
                Ok(None) | Err(Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        self.known.bases.sort_unstable();
        Ok(())
    }

    fn list_folder(&mut self, dir: BorrowedFd<'_>, folder: u32) -> Result<(), Errno> {
        for sub in [&b"cur"[..], b"new"] {
            // What is no directory, a symlink for one, is not read; it is not written to either.
            let dir = match enter(dir, sub) {
                Ok(Some(dir)) => dir,
                Ok(None) | Err(Errno::NOTDIR | Errno::LOOP) => continue,
                Err(error) => return Err(error),
            };
            for entry in Dir::read_from(&dir)? {
                let entry = entry?;
                let name = entry.file_name().to_bytes();
                if name.starts_with(b".") {
                    continue;
                }
                let base = name_parts(name).base;
                let size = match size_hint(base) {
                    Some(size) => size,
                    None => match rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                        Ok(stat) => stat.st_size as u64,
                        Err(Errno::NOENT) => continue, // renamed meanwhile: its flags changed
                        Err(error) => return Err(error),
                    },
                };
                self.known.add(base, folder, size);
            }
        }
        Ok(())
    }

    fn folder_id(&mut self, dir: &[u8]) -> u32 {
        if let Some(id) = self.folder_ids.get(dir) {
            return *id;
        }
        let id = self.folders.len() as u32;
        self.folders.push(dir.to_vec());
        self.folder_ids.insert(dir.to_vec(), id);
        id
    }

    /// The directory name for a folder path.
    fn dir_for(&mut self, folder: &[u8]) -> Result<Vec<u8>, TargetError> {
        folder_levels(folder)?;
        dir_name(folder).or_else(|error| {
            let name = nearest_dir_name(folder);
            if self.noticed_folders.insert(folder.to_vec()) {
                self.finished.notice(None, format!("{error}; it is restored as {}", path_of(&name).display()));
            }
            Ok(name)
        })
    }

    fn dir_of(&self, folder: u32) -> &[u8] {
        self.folders.get(folder as usize).map_or(b"", Vec::as_slice)
    }

    /// Opens a folder, making what is missing. Says whether it was made.
    fn ready(&mut self, folder: u32) -> Result<bool, TargetError> {
        if self.open.contains_key(&folder) {
            return Ok(false);
        }
        if self.open.len() >= OPEN_FOLDERS_MAX {
            self.open.clear();
        }
        let inbox = self.folder_id(b"");
        if folder != inbox && !self.open.contains_key(&inbox) {
            // A directory without an INBOX is no Maildir to anybody who opens it.
            self.ready(inbox)?;
        }
        let opened = match self.open_folder(folder) {
            Err(TargetError::Io { source, .. })
                if source.raw_os_error() == Some(libc::EMFILE) && !self.open.is_empty() =>
            {
                self.open.clear();
                self.open_folder(folder)
            }
            other => other,
        };
        let (opened, made) = opened?;
        self.open.insert(folder, opened);
        Ok(made)
    }

    fn open_folder(&mut self, folder: u32) -> Result<(OpenFolder, bool), TargetError> {
        let name = self.dir_of(folder).to_vec();
        let shown = self.root.path.join(path_of(&name));
        let failed = |e: Errno| TargetError::io("opening", &shown, e);
        let access = self.root.access;
        let root = self.root.ready()?;
        let root_device = rustix::fs::fstat(root).map_err(failed)?.st_dev;
        let (dir, mut made) = if name.is_empty() {
            let dir = root.try_clone_to_owned().map_err(|e| TargetError::io("opening", &shown, e))?;
            (dir, false)
        } else {
            enter_or_make(root, &name, access).map_err(failed)?
        };
        let mut subs = Vec::new();
        for sub in [&b"new"[..], b"cur", b"tmp"] {
            let (fd, sub_made) = enter_or_make(dir.as_fd(), sub, access).map_err(failed)?;
            self.other_device |= rustix::fs::fstat(&fd).map_err(failed)?.st_dev != root_device;
            made |= sub_made;
            subs.push(fd);
        }
        if made && !name.is_empty() {
            match create_new(dir.as_fd(), b"maildirfolder", access) {
                Ok(_) | Err(Errno::EXIST) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        self.dirs_made |= made;
        let (Some(tmp), Some(cur)) = (subs.pop(), subs.pop()) else { return Err(failed(Errno::NOENT)) };
        Ok((OpenFolder { dir, cur, tmp }, made))
    }

    fn opened(&mut self, folder: u32) -> Result<&OpenFolder, TargetError> {
        self.ready(folder)?;
        let path = self.root.path.clone();
        self.open.get(&folder).ok_or_else(|| TargetError::io("opening", path, Errno::NOENT))
    }

    fn place(&self, folder: u32, base: &[u8]) -> PathBuf {
        path_of(self.dir_of(folder)).join("cur").join(path_of(base))
    }

    /// Makes staged files durable and gives them their names. Failures are each item's own.
    fn flush(&mut self) {
        self.staged_bytes = 0;
        let mut staged = std::mem::take(&mut self.staged);
        staged.sort_by_key(|s| s.folder);
        let singly = self.other_device
            || self.options.durability == Durability::PerFile
            || (staged.len() <= SYNC_SINGLY_MAX && !self.dirs_made);
        if !singly || self.dirs_made {
            if let Err(error) = self.root.fd().map_or(Err(Errno::NOENT), rustix::fs::syncfs) {
                for file in &staged {
                    let why = TargetError::io("syncing", self.root.path.clone(), error);
                    self.fail(file, why);
                }
                return;
            }
            self.dirs_made = false;
        }
        for group in staged.chunk_by(|a, b| a.folder == b.folder) {
            if let Some(first) = group.first() {
                self.publish_group(first.folder, group, singly);
            }
        }
    }

    /// One folder's part of a batch. Failures are each item's own.
    fn publish_group(&mut self, folder: u32, group: &[Staged], sync: bool) {
        let shown = self.root.path.join(path_of(self.dir_of(folder)));
        let names = match self.final_names(folder, group) {
            Ok(names) => names,
            Err(error) => {
                for staged in group {
                    let why = TargetError::refused(shown.as_os_str().as_encoded_bytes(), with_cause(&error));
                    self.fail(staged, why);
                }
                return;
            }
        };
        let mut published = Vec::new();
        for (staged, name) in group.iter().zip(&names) {
            let result = self.opened(folder).and_then(|open| {
                let failed = |e: Errno| TargetError::io("naming", shown.join("cur").join(path_of(name)), e);
                if sync {
                    sync_file(open.tmp.as_fd(), &staged.temporary).map_err(failed)?;
                }
                publish(open.tmp.as_fd(), &staged.temporary, open.cur.as_fd(), name).map_err(failed)
            });
            match result {
                Ok(true) => published.push(staged),
                Ok(false) => {
                    self.finished.notice(Some(staged.key), "another restore put it there meanwhile".into());
                    published.push(staged);
                }
                Err(error) => self.fail(staged, error),
            }
        }
        let synced = self.opened(folder).and_then(|open| {
            rustix::fs::fsync(&open.cur).map_err(|e| TargetError::io("syncing", shown.join("cur"), e))
        });
        match synced {
            Ok(()) => self.finished.durable += published.len() as u64,
            Err(error) => {
                // Named, and perhaps durable: not to be called so.
                for staged in published {
                    let why = TargetError::Io {
                        doing: "syncing",
                        path: shown.join("cur"),
                        source: io::Error::other(with_cause(&error)),
                    };
                    self.finished.late.push((staged.key, why));
                }
            }
        }
    }

    /// Base names with the letters of flags and keywords. Keywords are merged into the folder's file under its lock.
    fn final_names(&mut self, folder: u32, group: &[Staged]) -> Result<Vec<Vec<u8>>, TargetError> {
        let shown = self.root.path.join(path_of(self.dir_of(folder))).join(KEYWORDS_FILE);
        let access = self.root.access;
        let mut notices = Vec::new();
        let mut names = Vec::new();
        let mut name_all = |keywords: &mut Keywords| {
            for staged in group {
                let (letters, unplaced) = letters(&staged.flags, &staged.keywords, keywords);
                for keyword in unplaced {
                    let keyword = String::from_utf8_lossy(&keyword).into_owned();
                    notices.push((staged.key, format!("keyword {keyword:?} has no letter in {}", shown.display())));
                }
                names.push([&staged.base, &b":2,"[..], &letters].concat());
            }
        };
        if group.iter().all(|s| s.keywords.is_empty()) {
            name_all(&mut Keywords::default());
        } else {
            let open = self.opened(folder)?;
            replace_locked(open.dir.as_fd(), KEYWORDS_FILE, access, |text| {
                let mut keywords = Keywords::parse(text);
                let before = keywords.clone();
                name_all(&mut keywords);
                (keywords != before).then(|| keywords.to_bytes())
            })
            .map_err(|e| TargetError::io("merging keywords into", &shown, e))?;
        }
        for (key, text) in notices {
            self.finished.notice(Some(key), text);
        }
        Ok(names)
    }

    fn fail(&mut self, staged: &Staged, error: TargetError) {
        self.known.ours.remove(&(staged.key, staged.digest));
        if let Ok(open) = self.opened(staged.folder) {
            let _ = rustix::fs::unlinkat(&open.tmp, staged.temporary.as_slice(), AtFlags::empty());
        }
        self.finished.late.push((staged.key, error));
    }

    fn drop_staged(&mut self) {
        for staged in std::mem::take(&mut self.staged) {
            self.known.ours.remove(&(staged.key, staged.digest));
            if let Ok(open) = self.opened(staged.folder) {
                let _ = rustix::fs::unlinkat(&open.tmp, staged.temporary.as_slice(), AtFlags::empty());
            }
        }
    }

    /// Flags that have a letter, and keywords; what has no place gives a notice.
    fn split_flags(&mut self, item: &RestoreItem<'_>) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        const LETTERED: [&str; 5] = ["\\Answered", "\\Deleted", "\\Draft", "\\Flagged", "\\Seen"];
        let (mut flags, mut keywords) = (Vec::new(), item.keywords.to_vec());
        for flag in item.flags {
            let is = |name: &str| flag.eq_ignore_ascii_case(name.as_bytes());
            if !flag.starts_with(b"\\") {
                keywords.push(flag.clone());
            } else if !(is("\\Recent") || (self.options.strip_deleted && is("\\Deleted"))) {
                if !LETTERED.iter().any(|name| is(name)) {
                    let text = format!("flag {:?} has no letter in a Maildir", String::from_utf8_lossy(flag));
                    self.finished.notice(Some(item.key), text);
                }
                flags.push(flag.clone());
            }
        }
        (flags, keywords)
    }

    fn add_subscriptions(&mut self) -> Result<(), TargetError> {
        let dirs = std::mem::take(&mut self.subscribe);
        if dirs.is_empty() {
            return Ok(());
        }
        let access = self.root.access;
        let shown = self.root.path.join("subscriptions");
        let root = self.root.ready()?;
        replace_locked(root, "subscriptions", access, |text| add_lines(text, &dirs))
            .map_err(|e| TargetError::io("adding subscriptions to", shown, e))
    }
}

/// Dovecot's list of subscribed folders with those of `dirs` that it lacks; `None` when it has all.
fn add_lines(text: &[u8], dirs: &[Vec<u8>]) -> Option<Vec<u8>> {
    let version_2 = text.starts_with(b"V\t2");
    let mut out = text.to_vec();
    if !out.is_empty() && !out.ends_with(b"\n") {
        out.push(b'\n');
    }
    let mut added = false;
    for dir in dirs {
        let levels = dir.strip_prefix(b".").unwrap_or(INBOX);
        let line: Vec<u8> = levels.iter().map(|&b| if version_2 && b == b'.' { b'\t' } else { b }).collect();
        if !out.split(|&b| b == b'\n').any(|l| l == line) {
            out.extend_from_slice(&line);
            out.push(b'\n');
            added = true;
        }
    }
    added.then_some(out)
}

/// Replaces a small file of the server's in the server's own way: the new text goes into `NAME.lock`, which nobody else
/// may then create, and that becomes `NAME`. `change` gives the new text, or `None` to leave the file.
fn replace_locked(
    dir: BorrowedFd<'_>,
    name: &str,
    access: crate::target::Access,
    change: impl FnOnce(&[u8]) -> Option<Vec<u8>>,
) -> io::Result<()> {
    let lock = format!("{name}.lock");
    let mut waited = Duration::ZERO;
    let mut file: File = loop {
        match create_new(dir, lock.as_bytes(), access) {
            Ok(file) => break file,
            Err(Errno::EXIST) if waited < LOCK_WAIT => {
                let stat = rustix::fs::statat(dir, lock.as_str(), AtFlags::SYMLINK_NOFOLLOW);
                let age = stat.ok().and_then(|s| {
                    let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(s.st_mtime).ok()?);
                    SystemTime::now().duration_since(modified).ok()
                });
                if age.is_some_and(|age| age > LOCK_STALE) {
                    let _ = rustix::fs::unlinkat(dir, lock.as_str(), AtFlags::empty());
                }
                std::thread::sleep(Duration::from_millis(20));
                waited += Duration::from_millis(20);
            }
            Err(Errno::EXIST) => {
                return Err(io::Error::new(io::ErrorKind::WouldBlock, format!("{lock} is held by another")));
            }
            Err(error) => return Err(error.into()),
        }
    };
    let replaced = read_small(dir, name.as_bytes()).and_then(|text| match change(&text) {
        None => Ok(false),
        Some(text) => {
            file.write_all(&text)?;
            file.sync_all()?;
            rustix::fs::renameat(dir, lock.as_str(), dir, name)?;
            Ok(true)
        }
    });
    if !matches!(replaced, Ok(true)) {
        let _ = rustix::fs::unlinkat(dir, lock.as_str(), AtFlags::empty());
    } else {
        rustix::fs::fsync(rustix::fs::openat(dir, ".", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)?;
    }
    replaced.map(|_| ())
}

impl Target for MaildirTarget {
    fn create_folder(
        &mut self,
        folder: &[u8],
        subscribed: bool,
        attributes: &[(Vec<u8>, Vec<u8>)],
    ) -> Result<Outcome, TargetError> {
        let dir = self.dir_for(folder)?;
        let id = self.folder_id(&dir);
        let made = self.ready(id)?;
        if subscribed {
            self.subscribe.push(dir.clone());
        }
        if !attributes.is_empty() {
            let text = format!("a Maildir has no place for the attributes of folder {}", path_of(folder).display());
            self.finished.notice(None, text);
        }
        let place = path_of(&dir).to_owned();
        Ok(if made { Outcome::Restored { place } } else { Outcome::there(place) })
    }

    fn would_put(&mut self, item: &RestoreItem<'_>) -> Result<Outcome, TargetError> {
        let dir = self.dir_for(item.folder)?;
        let id = self.folder_ids.get(&dir).copied();
        if let Some(found) = self.known.find(item, id) {
            return Ok(Outcome::there(path_of(self.dir_of(found)).to_owned()));
        }
        let base = base_name(item, &item.digest.unwrap_or_default(), item.length.unwrap_or_default());
        Ok(Outcome::Restored { place: path_of(&dir).join("cur").join(path_of(&base)) })
    }

    fn put(&mut self, item: &RestoreItem<'_>, content: &mut dyn Read) -> Result<Outcome, TargetError> {
        let dir = self.dir_for(item.folder)?;
        let folder = self.folder_id(&dir);
        if let Some(found) = self.known.find(item, Some(folder)) {
            return Ok(Outcome::there(path_of(self.dir_of(found)).to_owned()));
        }
        self.ready(folder)?;
        let access = self.root.access;
        let temporary = self.names.next();
        let shown = self.root.path.join(path_of(&dir)).join("tmp").join(path_of(&temporary));
        let mut buffer = std::mem::take(&mut self.buffer);
        let written = self
            .opened(folder)
            .and_then(|open| write_new(open.tmp.as_fd(), &temporary, &shown, access, item, content, &mut buffer));
        self.buffer = buffer;
        let written = written?;
        let digest = short(&written.digest);
        if let Some(found) = self.known.ours.get(&(item.key, digest)).copied() {
            let open = self.opened(folder)?;
            rustix::fs::unlinkat(&open.tmp, temporary.as_slice(), AtFlags::empty())
                .map_err(|e| TargetError::io("removing", shown, e))?;
            return Ok(Outcome::there(path_of(self.dir_of(found)).to_owned()));
        }
        let base = base_name(item, &written.digest, written.length);
        let (flags, keywords) = self.split_flags(item);
        let place = self.place(folder, &base);
        self.known.ours.insert((item.key, digest), folder);
        self.staged.push(Staged { key: item.key, digest, folder, temporary, base, flags, keywords });
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
        if let Err(error) = self.add_subscriptions() {
            self.finished.notice(None, with_cause(&error));
        }
        Ok(std::mem::take(&mut self.finished))
    }
}

impl Drop for MaildirTarget {
    fn drop(&mut self) {
        self.drop_staged();
    }
}

#[cfg(test)]
#[path = "target_tests.rs"]
mod tests;
