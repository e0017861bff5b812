//! Putting items back.
//!
//! In come items with their content as a stream, out goes what became of each. Rules that every [`Target`] keeps:
//!
//! - **Nothing that exists is overwritten**, and an item that is there already is skipped: a restore may be run again.
//! - **A name is final only when its bytes are.** Content is written under a temporary name, made durable, and only then
//!   renamed; a stream that fails at its end (a digest that does not match) leaves nothing under a final name.
//! - **[`Outcome::Restored`] holds from [`Target::finish`] on**, not before: that is what makes everything durable.
//!   Items that failed on the way there are listed in [`Finished::late`].
//! - **Nothing is written outside the target**: folder names that would lead out of it are refused ([`folder_levels`]),
//!   and below the target's directory no symlink is followed.
//! - [`Target::would_put`] writes nothing, not even a directory.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

/// An item to put back.
#[derive(Debug, Clone, Copy, Default)]
pub struct RestoreItem<'a> {
    /// The item's key: its identity in the store.
    pub key: [u8; 16],
    /// SHA-256 of the content. Without it the target computes it.
    pub digest: Option<[u8; 32]>,
    /// Bytes of content. A stream of another length is refused.
    pub length: Option<u64>,
    /// `/` between levels, `INBOX` for the root.
    pub folder: &'a [u8],
    /// System flags (`\Seen`). What does not start with a backslash counts as a keyword.
    pub flags: &'a [Vec<u8>],
    pub keywords: &'a [Vec<u8>],
    /// µs UTC.
    pub internal_date: Option<i64>,
    /// The base name that the item had in its Maildir.
    pub native_base: Option<&'a [u8]>,
    pub message_id: Option<&'a [u8]>,
    /// Address of the envelope sender, for mbox.
    pub sender: Option<&'a [u8]>,
}

/// What became of an item or a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is there, once [`Target::finish`] has returned. `place` is below the target; flags may still follow a file's
    /// name.
    Restored { place: PathBuf },
    /// Nothing was written.
    Skipped { reason: SkipReason, place: PathBuf },
}

/// Why nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkipReason {
    AlreadyThere,
}

impl Outcome {
    pub(crate) fn there(place: PathBuf) -> Self {
        Self::Skipped { reason: SkipReason::AlreadyThere, place }
    }
}

/// Why an item was not restored.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    #[error("target {} cannot be reached", path.display())]
    Unreachable { path: PathBuf, source: io::Error },
    #[error("target is full or over quota at {}", path.display())]
    Full { path: PathBuf, source: io::Error },
    /// The target does not take this; others it may.
    #[error("{what:?} is refused: {why}")]
    Refused { what: String, why: String },
    /// The stream failed; the target is sound.
    #[error("reading the item's content")]
    Content { source: io::Error },
    #[error("{doing} {}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
}

impl TargetError {
    pub(crate) fn io(doing: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        let (path, source) = (path.into(), source.into());
        match source.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => Self::Full { path, source },
            Some(libc::ELOOP | libc::ENOTDIR) => Self::refused(
                path.as_os_str().as_bytes(),
                "something else is in its place; a symlink is not followed inside a target",
            ),
            _ => Self::Io { doing, path, source },
        }
    }

    pub(crate) fn refused(what: &[u8], why: impl Into<String>) -> Self {
        Self::Refused { what: String::from_utf8_lossy(what).into_owned(), why: why.into() }
    }

    /// Whether other items will fail as well.
    pub fn stops(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Full { .. })
    }
}

/// An error and what caused it, for a notice.
pub(crate) fn with_cause(error: &TargetError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// Something that could not be kept, though the item was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    pub key: Option<[u8; 16]>,
    pub text: String,
}

/// What [`Target::finish`] made durable.
#[derive(Debug, Default)]
pub struct Finished {
    /// Items restored since the last call, all durable.
    pub durable: u64,
    /// Items that `put` had called restored and that are not.
    pub late: Vec<([u8; 16], TargetError)>,
    /// At most [`NOTICES_MAX`].
    pub notices: Vec<Notice>,
}

/// Notices kept until the next `finish`.
pub const NOTICES_MAX: usize = 10_000;

impl Finished {
    pub(crate) fn notice(&mut self, key: Option<[u8; 16]>, text: String) {
        if self.notices.len() < NOTICES_MAX {
            self.notices.push(Notice { key, text });
        }
    }
}

/// A place that takes items back.
pub trait Target {
    /// Makes sure that a folder is there. Attributes the target has no place for give a notice.
    fn create_folder(
        &mut self,
        folder: &[u8],
        subscribed: bool,
        attributes: &[(Vec<u8>, Vec<u8>)],
    ) -> Result<Outcome, TargetError>;

    /// What [`Target::put`] would do. Writes nothing.
    fn would_put(&mut self, item: &RestoreItem<'_>) -> Result<Outcome, TargetError>;

    /// Puts an item back.
    fn put(&mut self, item: &RestoreItem<'_>, content: &mut dyn Read) -> Result<Outcome, TargetError>;

    /// Makes everything durable. An error means that nothing put since the last call may be called restored.
    fn finish(&mut self) -> Result<Finished, TargetError>;
}

/// How files are made durable before they get their final names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Each file by itself when they are few, else the file system as a whole.
    #[default]
    Auto,
    /// Each file by itself: slow, but waits for nobody else's writes.
    PerFile,
}

/// Up to this many files are synced one by one: a `syncfs` writes out what others left dirty, too.
pub(crate) const SYNC_SINGLY_MAX: usize = 32;

/// Staged files become final when there are this many …
pub(crate) const BATCH_FILES_MAX: usize = 4096;

/// … or when they hold this many bytes.
pub(crate) const BATCH_BYTES_MAX: u64 = 256 << 20;

/// The levels of a folder path, when each can be a name: not empty, not `.` or `..`, without NUL.
pub fn folder_levels(folder: &[u8]) -> Result<Vec<&[u8]>, TargetError> {
    folder
        .split(|&b| b == b'/')
        .map(|level| match level {
            b"" => Err(TargetError::refused(folder, "a level of the folder is empty")),
            b"." | b".." => Err(TargetError::refused(folder, "a level of the folder leads to another place")),
            _ if level.contains(&0) => Err(TargetError::refused(folder, "the folder's name has a NUL byte")),
            _ => Ok(level),
        })
        .collect()
}

/// The name of a directory or file for a folder's level, where levels are directories: the level itself, with `%XX` for
/// `%`, control characters, a leading dot, and the dot of `suffix` at the end (which marks files). Too long a name is
/// cut and ends in a digest of the whole.
pub(crate) fn level_name(level: &[u8], suffix: &str) -> Vec<u8> {
    const BYTES_MAX: usize = 200;
    let suffix_dot = level.len().checked_sub(suffix.len()).filter(|_| level.ends_with(suffix.as_bytes()));
    let mut name = Vec::with_capacity(level.len());
    for (i, &byte) in level.iter().enumerate() {
        if byte == b'%'
            || byte < 0x20
            || byte == 0x7f
            || byte == b'/'
            || (byte == b'.' && (i == 0 || Some(i) == suffix_dot))
        {
            name.extend_from_slice(format!("%{byte:02X}").as_bytes());
        } else {
            name.push(byte);
        }
    }
    if name.len() > BYTES_MAX {
        name.truncate(BYTES_MAX - 17);
        name.push(b'-');
        name.extend_from_slice(crate::json::hex(Sha256::digest(level).get(..8).unwrap_or_default()).as_bytes());
    }
    name
}

pub(crate) fn path_of(name: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(name))
}

/// The directory a target lives in. It need not exist before the first write.
#[derive(Debug)]
pub(crate) struct Root {
    pub(crate) path: PathBuf,
    fd: Option<OwnedFd>,
    pub(crate) access: Access,
}

/// Whose what is made becomes, and who may read it: as the target's directory, or the nearest one that exists. Root
/// restoring into a user's Maildir must not leave files that the user's server cannot open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Access {
    owner: Option<(Uid, Gid)>,
    dir_mode: Mode,
}

impl Access {
    fn file_mode(self) -> Mode {
        self.dir_mode & (Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::WGRP | Mode::ROTH | Mode::WOTH)
    }

    fn give(self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        match self.owner {
            Some((uid, gid)) => rustix::fs::fchown(fd, Some(uid), Some(gid)),
            None => Ok(()),
        }
    }
}

impl Root {
    /// Opens `path`, or learns that it is not there yet. Writes nothing.
    pub(crate) fn open(path: &Path) -> Result<Self, TargetError> {
        let unreachable = |source: io::Error| TargetError::Unreachable { path: path.to_owned(), source };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let absolute = std::path::absolute(path).map_err(unreachable)?;
        for ancestor in absolute.ancestors() {
            match rustix::fs::open(ancestor, flags, Mode::empty()) {
                Ok(fd) => {
                    let stat = rustix::fs::fstat(&fd).map_err(|e| unreachable(e.into()))?;
                    let me = rustix::process::geteuid();
                    let owner = (me.is_root() && (stat.st_uid, stat.st_gid) != (0, 0))
                        .then(|| (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid)));
                    let is_target = ancestor == absolute;
                    let dir_mode = if is_target {
                        Mode::from_raw_mode(stat.st_mode) & Mode::from_raw_mode(0o777)
                    } else {
                        Mode::RWXU
                    };
                    let access = Access { owner, dir_mode: dir_mode | Mode::RWXU };
                    return Ok(Self { path: absolute.clone(), fd: is_target.then_some(fd), access });
                }
                Err(Errno::NOENT) => {}
                Err(error) => return Err(unreachable(error.into())),
            }
        }
        Err(unreachable(io::ErrorKind::NotFound.into()))
    }

    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(AsFd::as_fd)
    }

    /// The directory, made when it is not there, with what leads to it.
    pub(crate) fn ready(&mut self) -> Result<BorrowedFd<'_>, TargetError> {
        if self.fd.is_none() {
            let missing: Vec<&Path> = self.path.ancestors().take_while(|a| !a.exists()).collect();
            for dir in missing.iter().rev() {
                make_dir(dir, self.access).map_err(|e| TargetError::io("creating", *dir, e))?;
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let fd = rustix::fs::open(&self.path, flags, Mode::empty());
            self.fd = Some(fd.map_err(|e| TargetError::Unreachable { path: self.path.clone(), source: e.into() })?);
        }
        self.fd()
            .ok_or_else(|| TargetError::Unreachable { path: self.path.clone(), source: io::ErrorKind::NotFound.into() })
    }
}

fn make_dir(dir: &Path, access: Access) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::mkdir(dir, access.dir_mode) {
        Err(Errno::EXIST) => return Ok(()),
        other => other?,
    }
    access.give(rustix::fs::open(dir, flags | OFlags::NOFOLLOW, Mode::empty())?.as_fd())?;
    match dir.parent() {
        Some(parent) => rustix::fs::fsync(rustix::fs::open(parent, flags, Mode::empty())?),
        None => Ok(()),
    }
}

/// Opens the directory `name` in `dir`, never through a symlink. `None` when it is not there.
pub(crate) fn enter(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Option<OwnedFd>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// As [`enter`], making the directory when it is not there. Says whether it was made; its parent is then not yet synced.
pub(crate) fn enter_or_make(dir: BorrowedFd<'_>, name: &[u8], access: Access) -> Result<(OwnedFd, bool), Errno> {
    if let Some(fd) = enter(dir, name)? {
        return Ok((fd, false));
    }
    let made = match rustix::fs::mkdirat(dir, name, access.dir_mode) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(error) => return Err(error),
    };
    let fd = enter(dir, name)?.ok_or(Errno::NOENT)?;
    if made {
        access.give(fd.as_fd())?;
    }
    Ok((fd, made))
}

/// Creates a file that is not there yet.
pub(crate) fn create_new(dir: BorrowedFd<'_>, name: &[u8], access: Access) -> Result<File, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir, name, flags, access.file_mode())?;
    access.give(fd.as_fd())?;
    Ok(File::from(fd))
}

/// Opens a file to read and to append to, creating it when it is not there.
pub(crate) fn open_append(dir: BorrowedFd<'_>, name: &[u8], access: Access) -> Result<File, Errno> {
    let flags = OFlags::RDWR | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let open = || rustix::fs::openat(dir, name, flags, Mode::empty()).map(File::from);
    match open() {
        Err(Errno::NOENT) => match create_new(dir, name, access) {
            Ok(_) | Err(Errno::EXIST) => open(),
            Err(error) => Err(error),
        },
        other => other,
    }
}

/// Reads a small file whole; nothing when it is not there.
pub(crate) fn read_small(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut text = Vec::new();
    match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Ok(fd) => File::from(fd).take(16 << 20).read_to_end(&mut text)?,
        Err(Errno::NOENT) => 0,
        Err(error) => return Err(error.into()),
    };
    Ok(text)
}

/// What a temporary file holds.
pub(crate) struct Written {
    pub(crate) length: u64,
    pub(crate) digest: [u8; 32],
}

/// Streams an item's content into the new file `name`, with its date. On any error the file is gone again.
pub(crate) fn write_new(
    dir: BorrowedFd<'_>,
    name: &[u8],
    shown: &Path,
    access: Access,
    item: &RestoreItem<'_>,
    content: &mut dyn Read,
    buffer: &mut [u8],
) -> Result<Written, TargetError> {
    let failed = |e: io::Error| TargetError::io("writing", shown, e);
    let mut file = create_new(dir, name, access).map_err(|e| failed(e.into()))?;
    let written = copy(item, content, &mut |piece| file.write_all(piece).map_err(failed), buffer).and_then(|written| {
        if let Some(micros) = item.internal_date {
            let time =
                Timespec { tv_sec: micros.div_euclid(1_000_000), tv_nsec: (micros.rem_euclid(1_000_000) * 1000) as _ };
            let times = Timestamps { last_access: time, last_modification: time };
            rustix::fs::futimens(&file, &times).map_err(|e| failed(e.into()))?;
        }
        Ok(written)
    });
    if written.is_err() {
        // Nothing refers to it; the error that counts is the first.
        let _ = rustix::fs::unlinkat(dir, name, AtFlags::empty());
    }
    written
}

/// Streams an item's content to `sink`, and holds it to what the item promises. Hashes only when there is no digest to
/// take.
pub(crate) fn copy(
    item: &RestoreItem<'_>,
    content: &mut dyn Read,
    sink: &mut dyn FnMut(&[u8]) -> Result<(), TargetError>,
    buffer: &mut [u8],
) -> Result<Written, TargetError> {
    let mut hasher = item.digest.is_none().then(Sha256::new);
    let mut length = 0u64;
    loop {
        let n = match content.read(buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(TargetError::Content { source }),
        };
        let piece = buffer.get(..n).unwrap_or_default();
        if let Some(hasher) = &mut hasher {
            hasher.update(piece);
        }
        sink(piece)?;
        length += n as u64;
    }
    if let Some(promised) = item.length.filter(|promised| *promised != length) {
        let message = format!("the content has {length} bytes, {promised} were promised");
        return Err(TargetError::Content { source: io::Error::new(io::ErrorKind::InvalidData, message) });
    }
    let digest = item.digest.or_else(|| hasher.map(|h| h.finalize().into())).unwrap_or_default();
    Ok(Written { length, digest })
}

/// Gives a durable file its final name. `false`, with the file gone, when the name is taken.
pub(crate) fn publish(from: BorrowedFd<'_>, temporary: &[u8], to: BorrowedFd<'_>, name: &[u8]) -> Result<bool, Errno> {
    let linked = match rustix::fs::renameat_with(from, temporary, to, name, RenameFlags::NOREPLACE) {
        Ok(()) => return Ok(true),
        // Not every file system knows NOREPLACE; a hard link does not replace either.
        Err(Errno::INVAL | Errno::NOSYS) => rustix::fs::linkat(from, temporary, to, name, AtFlags::empty()),
        Err(error) => Err(error),
    };
    match linked {
        Ok(()) => rustix::fs::unlinkat(from, temporary, AtFlags::empty()).map(|()| true),
        Err(Errno::EXIST) => rustix::fs::unlinkat(from, temporary, AtFlags::empty()).map(|()| false),
        Err(error) => {
            let _ = rustix::fs::unlinkat(from, temporary, AtFlags::empty());
            Err(error)
        }
    }
}

/// Makes one file durable, by name.
pub(crate) fn sync_file(dir: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::fsync(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}

/// A name for a temporary file that no other process of this machine, past or present, uses.
#[derive(Debug)]
pub(crate) struct TemporaryNames {
    prefix: String,
    count: u64,
}

impl TemporaryNames {
    pub(crate) fn new() -> Self {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self { prefix: format!("mailstrata.{}.{}", std::process::id(), since.as_nanos()), count: 0 }
    }

    pub(crate) fn next(&mut self) -> Vec<u8> {
        self.count += 1;
        format!("{}.{}", self.prefix, self.count).into_bytes()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Folder names that want out, or cannot be names.
    pub(crate) const HOSTILE: [&[u8]; 12] = [
        b"",
        b"/",
        b"/etc",
        b"..",
        b"../x",
        b"a/../../x",
        b".",
        b"a/./b",
        b"a//b",
        b"a\0b",
        b"a/",
        b"../../../../tmp/mailstrata-escape",
    ];

    /// Content that fails after its bytes, as a digest that does not match would.
    pub(crate) struct Torn(pub(crate) &'static [u8]);

    impl Read for Torn {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            match self.0.read(buf)? {
                0 => Err(io::Error::new(io::ErrorKind::InvalidData, "digest mismatch")),
                n => Ok(n),
            }
        }
    }

    /// Every path below `dir`, sorted.
    pub(crate) fn tree(dir: &Path) -> Vec<String> {
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

    #[test]
    fn levels_that_lead_out_are_refused() {
        for folder in HOSTILE {
            assert!(matches!(folder_levels(folder), Err(TargetError::Refused { .. })), "{folder:?}");
        }
        assert_eq!(folder_levels(b"a/b.c/...").unwrap(), [&b"a"[..], b"b.c", b"..."]);
    }

    #[test]
    fn a_level_is_one_harmless_name() {
        assert_eq!(level_name(b"...", ".mbox"), b"%2E..");
        assert_eq!(level_name(b"a\nb%", ".mbox"), b"a%0Ab%25");
        assert_eq!(level_name(b"x.mbox", ".mbox"), b"x%2Embox");
        assert_eq!(level_name("Entwürfe".as_bytes(), ".mbox"), "Entwürfe".as_bytes());
        let long = |end: &str| level_name(format!("{}{end}", "x".repeat(4096)).as_bytes(), ".mbox");
        assert!(long("a").len() <= 200 && long("a") != long("b"));
    }

    #[test]
    fn full_and_unreachable_are_told_apart() {
        assert!(TargetError::io("x", "y", Errno::NOSPC).stops());
        assert!(matches!(TargetError::io("x", "y", Errno::DQUOT), TargetError::Full { .. }));
        assert!(!TargetError::io("x", "y", Errno::IO).stops());
        assert!(matches!(Root::open(Path::new("/proc/version/x")), Err(TargetError::Unreachable { .. })));
    }
}
