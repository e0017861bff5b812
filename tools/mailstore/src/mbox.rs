//! An mbox file, or one a folder.
//!
//! In come items, out goes the "mboxrd" form: a line `From SENDER DATE`, the content, an empty line. Rules:
//!
//! - `mbox:FILE` takes everything. `mbox:DIR/` (or a directory that exists) has a file a folder, `Archive/2023.mbox`.
//! - Content goes in byte for byte: a line `From ` after any number of `>` gets one more, which [`Unquote`] takes away.
//!   Nothing else changes, no header is added. What an mbox cannot hold: flags and keywords (a notice says so once a
//!   file), and whether content that did not end with a newline did; it gets one.
//! - The file is locked (`flock` and `fcntl`) from the first write until it is closed, and only appended to.
//! - Messages in it are recognised by the digest of what they are without quotes (with and without the last newline).
//!   Each answers for one item: two items with the same bytes are two messages.
//! - A message is read to its end before any of it is written (in memory up to 1 MiB, then in a temporary file without
//!   a name), so a stream that fails leaves nothing.
//! - A file whose end is not an empty line ends in a message that a crash cut off. It stays, an empty line is put after
//!   it so that the next message is one of its own, and a notice is given.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use crate::target::{
    Finished, Outcome, RestoreItem, Root, Target, TargetError, TemporaryNames, copy, enter, enter_or_make,
    folder_levels, level_name, open_append, path_of,
};
use crate::time::{Fraction, write_rfc3339};

/// Content up to this is held in memory before it is appended.
const IN_MEMORY_MAX: usize = 1 << 20;

/// How long another's lock is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// Files held open, and locked, at a time.
const OPEN_FILES_MAX: usize = 32;

/// An mbox, or a directory of them, that takes items back.
#[derive(Debug)]
pub struct MboxTarget {
    /// The directory the files are in.
    root: Root,
    /// The one file in it, unless there is one a folder.
    single: Option<Vec<u8>>,
    files: HashMap<PathBuf, Mbox>,
    finished: Finished,
    appended: Vec<[u8; 16]>,
}

/// What is known of one file.
#[derive(Debug, Default)]
struct Mbox {
    /// Open for appending, and locked.
    file: Option<File>,
    /// Length up to which it was read.
    scanned: u64,
    /// Messages by digest, and how many of them answer for no item yet.
    free: HashMap<[u8; 32], u32>,
    /// Items that were put or found, with their digests, so that neither they nor their messages count twice.
    settled: HashMap<[u8; 16], [u8; 32]>,
    /// What has to be written before the next message.
    torn: usize,
    dirty: bool,
    noticed_flags: bool,
}

impl MboxTarget {
    /// Opens `path`, or what will be it: a directory of mbox files when it ends with a slash or is a directory. Writes
    /// nothing.
    pub fn open(path: &Path) -> Result<Self, TargetError> {
        let (dir, single) = if path.as_os_str().as_encoded_bytes().ends_with(b"/") || path.is_dir() {
            (path, None)
        } else {
            let name = path
                .file_name()
                .ok_or_else(|| TargetError::refused(path.as_os_str().as_encoded_bytes(), "it names no file"))?;
            let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            (parent, Some(name.as_encoded_bytes().to_vec()))
        };
        if single.is_some() && path.is_file() {
            // The beginning may be what is left of a message that was cut off; a `From ` line near it tells an mbox all the same.
            let mut start = b"\n".to_vec();
            let read = File::open(path).and_then(|f| f.take(64 << 10).read_to_end(&mut start));
            read.map_err(|e| TargetError::io("reading", path, e))?;
            let beginning = b"\nFrom ".starts_with(&start);
            if !beginning && !start.windows(6).any(|w| w == b"\nFrom ") {
                let why = "it is no mbox: no `From ` line begins it; name one, or a file that is new";
                return Err(TargetError::refused(path.as_os_str().as_encoded_bytes(), why));
            }
        }
        Ok(Self {
            root: Root::open(dir)?,
            single,
            files: HashMap::new(),
            finished: Finished::default(),
            appended: Vec::new(),
        })
    }

    /// The file for a folder, below the root.
    fn path_for(&self, folder: &[u8]) -> Result<PathBuf, TargetError> {
        let levels = folder_levels(folder)?;
        if let Some(name) = &self.single {
            return Ok(path_of(name).to_owned());
        }
        let (last, dirs) =
            levels.split_last().ok_or_else(|| TargetError::refused(folder, "the folder's name is empty"))?;
        let mut path: PathBuf = dirs.iter().map(|level| path_of(&level_name(level, ".mbox")).to_owned()).collect();
        path.push(path_of(&[&level_name(last, ".mbox")[..], b".mbox"].concat()));
        Ok(path)
    }

    /// The directory of a file; made when `make`.
    fn dir_of(&mut self, path: &Path, make: bool) -> Result<Option<OwnedFd>, TargetError> {
        let shown = self.root.path.join(path);
        let failed = |e: Errno| TargetError::io("opening", &shown, e);
        let access = self.root.access;
        let root = if make { Some(self.root.ready()?) } else { self.root.fd() };
        let Some(root) = root else { return Ok(None) };
        let mut dir = root.try_clone_to_owned().map_err(|e| TargetError::io("opening", &shown, e))?;
        for level in path.parent().into_iter().flat_map(Path::iter) {
            let name = level.as_encoded_bytes();
            if make {
                let (next, made) = enter_or_make(dir.as_fd(), name, access).map_err(failed)?;
                if made {
                    rustix::fs::fsync(&dir).map_err(failed)?;
                }
                dir = next;
            } else {
                match enter(dir.as_fd(), name).map_err(failed)? {
                    Some(next) => dir = next,
                    None => return Ok(None),
                }
            }
        }
        Ok(Some(dir))
    }

    /// Learns what is in the file; with `write` also opens and locks it for appending.
    fn ready(&mut self, path: &Path, write: bool) -> Result<&mut Mbox, TargetError> {
        let shown = self.root.path.join(path);
        let failed = |e: io::Error| TargetError::io("opening", &shown, e);
        let is_open = self.files.get(path).is_some_and(|mbox| mbox.file.is_some() || !write);
        if !is_open {
            if write && self.files.values().filter(|mbox| mbox.file.is_some()).count() >= OPEN_FILES_MAX {
                self.close_files()?;
            }
            let dir = self.dir_of(path, write)?;
            let name = path.file_name().unwrap_or_default().as_encoded_bytes();
            let access = self.root.access;
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let open = |dir: &OwnedFd| match write {
                true => open_append(dir.as_fd(), name, access),
                false => rustix::fs::openat(dir, name, flags, Mode::empty()).map(File::from),
            };
            let file = match dir.map(|dir| open(&dir).map(|file| (dir, file))) {
                Some(Ok((dir, file))) => {
                    if !file.metadata().map_err(failed)?.is_file() {
                        return Err(TargetError::refused(shown.as_os_str().as_encoded_bytes(), "it is not a file"));
                    }
                    if write {
                        lock(&file, &shown)?;
                        rustix::fs::fsync(&dir).map_err(|e| failed(e.into()))?;
                    }
                    Some(file)
                }
                None | Some(Err(Errno::NOENT)) => None,
                Some(Err(error)) => return Err(failed(error.into())),
            };
            let mbox = self.files.entry(path.to_owned()).or_default();
            if let Some(file) = file {
                let length = file.metadata().map_err(failed)?.len();
                if length != mbox.scanned {
                    // New to us, or written to by others since we looked.
                    mbox.scan(&file).map_err(|e| TargetError::io("reading", &shown, e))?;
                    mbox.scanned = length;
                    if mbox.torn > 0 {
                        let text = format!("{} ends in a message that was cut off; it stays as it is", shown.display());
                        self.finished.notice(None, text);
                    }
                }
                if write {
                    mbox.file = Some(file);
                }
            }
        }
        self.files.get_mut(path).ok_or_else(|| TargetError::io("opening", shown.clone(), Errno::NOENT))
    }

    fn close_files(&mut self) -> Result<(), TargetError> {
        for (path, mbox) in &mut self.files {
            if let Some(file) = mbox.file.take() {
                mbox.scanned =
                    file.metadata().map_err(|e| TargetError::io("syncing", self.root.path.join(path), e))?.len();
                if std::mem::take(&mut mbox.dirty) {
                    file.sync_all().map_err(|e| TargetError::io("syncing", self.root.path.join(path), e))?;
                }
            }
        }
        Ok(())
    }
}

/// A file without a name.
fn nameless(dir: &Path) -> io::Result<File> {
    let mode = Mode::RUSR | Mode::WUSR;
    match rustix::fs::open(dir, OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC, mode) {
        // Not every file system has them.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
            let name = [&b"."[..], &TemporaryNames::new().next()].concat();
            let path = dir.join(path_of(&name));
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = rustix::fs::open(&path, flags, mode)?;
            rustix::fs::unlink(&path)?;
            Ok(File::from(fd))
        }
        other => Ok(File::from(other?)),
    }
}

/// Takes both kinds of locks that mail programs use; they fall when the file is closed.
fn lock(file: &File, shown: &Path) -> Result<(), TargetError> {
    let mut waited = Duration::ZERO;
    loop {
        let both = rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive)
            .and_then(|()| rustix::fs::fcntl_lock(file, FlockOperation::NonBlockingLockExclusive));
        match both {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK | Errno::ACCESS) if waited < LOCK_WAIT => {
                std::thread::sleep(Duration::from_millis(20));
                waited += Duration::from_millis(20);
            }
            Err(Errno::WOULDBLOCK | Errno::ACCESS) => {
                return Err(TargetError::refused(
                    shown.as_os_str().as_encoded_bytes(),
                    "another program holds the lock on it",
                ));
            }
            Err(error) => return Err(TargetError::io("locking", shown, error)),
        }
    }
}

impl Mbox {
    /// Reads the whole file. What was counted before is counted anew, less what items have settled.
    fn scan(&mut self, file: &File) -> io::Result<()> {
        self.free.clear();
        let mut reader = BufReader::with_capacity(256 << 10, file);
        reader.rewind()?;
        let mut message: Option<Unquote> = None;
        let mut ends_with = *b"\n\n";
        let (mut at_line_start, mut is_from_line) = (true, false);
        let mut line = Vec::new();
        loop {
            // A line, or a piece of a long one: memory stays bounded.
            line.clear();
            let n = (&mut reader).take(64 << 10).read_until(b'\n', &mut line)?;
            if n == 0 {
                break;
            }
            for &byte in line.get(n.saturating_sub(2)..).unwrap_or_default() {
                ends_with = [ends_with[1], byte];
            }
            is_from_line = (at_line_start && line.starts_with(b"From ")) || (is_from_line && !at_line_start);
            if is_from_line && at_line_start {
                self.count(message.replace(Unquote::default()));
            } else if let Some(message) = message.as_mut().filter(|_| !is_from_line) {
                message.take(&line, at_line_start);
            }
            at_line_start = line.ends_with(b"\n");
        }
        self.torn = match &ends_with {
            b"\n\n" => 0,
            [_, b'\n'] => 1,
            _ => 2,
        };
        // A `From ` line that does not end starts nothing.
        self.count(message.filter(|_| at_line_start || !is_from_line));
        for digest in self.settled.values() {
            if let Some(count) = self.free.get_mut(digest) {
                *count = count.saturating_sub(1);
            }
        }
        Ok(())
    }

    fn count(&mut self, message: Option<Unquote>) {
        for digest in message.map(Unquote::finish).into_iter().flatten() {
            *self.free.entry(digest).or_default() += 1;
        }
    }

    /// Whether a message here answers for the item; from then on it answers for no other.
    fn holds(&mut self, item: &RestoreItem<'_>, digest: &[u8; 32]) -> bool {
        if self.settled.get(&item.key) == Some(digest) {
            return true;
        }
        match self.free.get_mut(digest) {
            Some(count) if *count > 0 => {
                *count -= 1;
                self.settled.insert(item.key, *digest);
                true
            }
            _ => false,
        }
    }
}

/// Takes the quotes of mboxrd away, and digests what is left.
#[derive(Default)]
pub struct Unquote {
    hasher: Sha256,
    /// Newlines at the end that were not hashed yet, two at most: the last is the separator.
    newlines: u32,
    /// There were more, so that none was added.
    more: bool,
}

impl Unquote {
    /// A line with its newline, or a piece of one.
    pub fn take(&mut self, line: &[u8], at_line_start: bool) {
        let line = if at_line_start && is_quoted(line) { line.get(1..).unwrap_or_default() } else { line };
        if line == b"\n" {
            self.newlines += 1;
            if self.newlines > 2 {
                self.hasher.update(b"\n");
                self.newlines = 2;
                self.more = true;
            }
            return;
        }
        let (line, newline) = line.strip_suffix(b"\n").map_or((line, 0), |line| (line, 1));
        for _ in 0..self.newlines {
            self.hasher.update(b"\n");
        }
        self.hasher.update(line);
        self.newlines = newline;
        self.more = false;
    }

    /// Digests of what the content may have been: with its last newline, and without any that was added.
    fn finish(self) -> Vec<[u8; 32]> {
        let mut digests = Vec::new();
        if self.newlines > 0 {
            digests.push(self.hasher.clone().chain_update(b"\n").finalize().into());
        }
        if !self.more {
            digests.push(self.hasher.finalize().into());
        }
        digests
    }
}

/// `From ` after at least one `>`.
fn is_quoted(line: &[u8]) -> bool {
    let marks = line.iter().take_while(|b| **b == b'>').count();
    marks > 0 && line.get(marks..).is_some_and(|rest| rest.starts_with(b"From "))
}

/// Copies lines, with one `>` more before every `From ` that follows any number of them. Returns whether the last ended.
pub fn quote(mut content: impl BufRead, out: &mut impl io::Write) -> io::Result<bool> {
    let mut ended = true;
    let mut line = Vec::new();
    loop {
        line.clear();
        if (&mut content).take(64 << 10).read_until(b'\n', &mut line)? == 0 {
            return Ok(ended);
        }
        if ended && (line.starts_with(b"From ") || is_quoted(&line)) {
            out.write_all(b">")?;
        }
        out.write_all(&line)?;
        ended = line.ends_with(b"\n");
    }
}

/// `From SENDER Sun Nov 22 00:15:11 2026`, in UTC. A sender that could not stand there becomes `MAILER-DAEMON`.
fn from_line(item: &RestoreItem<'_>) -> Vec<u8> {
    let sender = item.sender.filter(|s| !s.is_empty() && s.len() <= 320 && s.iter().all(|b| (0x21..0x7f).contains(b)));
    let micros = item.internal_date.unwrap_or(0);
    let mut iso = Vec::new();
    write_rfc3339(micros.div_euclid(1_000_000).saturating_mul(1_000_000), Fraction::Needed, &mut iso);
    let day = micros.div_euclid(86_400_000_000).rem_euclid(7);
    let name = |names: &'static str, i: usize| names.get(i * 3..i * 3 + 3).unwrap_or("Jan");
    let text = |range: std::ops::Range<usize>| String::from_utf8_lossy(iso.get(range).unwrap_or_default()).into_owned();
    let weekday = name("ThuFriSatSunMonTueWed", usize::try_from(day).unwrap_or(0));
    let month = name("JanFebMarAprMayJunJulAugSepOctNovDec", text(5..7).parse::<usize>().unwrap_or(1) - 1);
    let date = format!("{weekday} {month} {} {} {}", text(8..10), text(11..19), text(0..4));
    [b"From ", sender.unwrap_or(b"MAILER-DAEMON"), b" ", date.as_bytes(), b"\n"].concat()
}

impl Target for MboxTarget {
    fn create_folder(
        &mut self,
        folder: &[u8],
        _subscribed: bool,
        attributes: &[(Vec<u8>, Vec<u8>)],
    ) -> Result<Outcome, TargetError> {
        let place = self.path_for(folder)?;
        let existed = self.ready(&place, false)?.scanned > 0;
        self.ready(&place, true)?;
        if !attributes.is_empty() {
            let text = format!("an mbox has no place for the attributes of folder {}", path_of(folder).display());
            self.finished.notice(None, text);
        }
        Ok(if existed { Outcome::there(place) } else { Outcome::Restored { place } })
    }

    fn would_put(&mut self, item: &RestoreItem<'_>) -> Result<Outcome, TargetError> {
        let place = self.path_for(item.folder)?;
        let mbox = self.ready(&place, false)?;
        let there = item.digest.is_some_and(|digest| mbox.holds(item, &digest));
        Ok(if there { Outcome::there(place) } else { Outcome::Restored { place } })
    }

    fn put(&mut self, item: &RestoreItem<'_>, content: &mut dyn Read) -> Result<Outcome, TargetError> {
        let place = self.path_for(item.folder)?;
        let shown = self.root.path.join(&place);
        let failed = |e: io::Error| TargetError::io("writing", &shown, e);
        let mbox = self.ready(&place, true)?;
        if item.digest.is_some_and(|digest| mbox.holds(item, &digest)) {
            return Ok(Outcome::there(place));
        }
        let mut memory: Vec<u8> = Vec::new();
        let mut spool: Option<File> = None;
        let dir = self.root.path.clone();
        let mut sink = |piece: &[u8]| {
            if let Some(file) = &mut spool {
                return file.write_all(piece).map_err(failed);
            }
            memory.extend_from_slice(piece);
            if memory.len() > IN_MEMORY_MAX {
                let mut file = nameless(&dir).map_err(failed)?;
                file.write_all(&memory).map_err(failed)?;
                memory = Vec::new();
                spool = Some(file);
            }
            Ok(())
        };
        let written = copy(item, content, &mut sink, &mut vec![0; 128 << 10])?;
        let mbox = self.ready(&place, true)?;
        if mbox.holds(item, &written.digest) {
            return Ok(Outcome::there(place));
        }
        let flagged = !item.flags.is_empty() || !item.keywords.is_empty();
        let lossy = flagged && !std::mem::replace(&mut mbox.noticed_flags, true);
        let start = mbox.file.as_ref().map_or(Ok(0), |f| f.metadata().map(|m| m.len())).map_err(failed)?;
        let appended = mbox.append(item, &memory, spool);
        if let Err(error) = appended {
            // Only what was just written goes; whoever wrote before us wrote below `start`, and the lock is ours.
            if let Some(file) = &mbox.file {
                let _ = file.set_len(start);
            }
            return Err(failed(error));
        }
        mbox.settled.insert(item.key, written.digest);
        mbox.dirty = true;
        self.appended.push(item.key);
        if lossy {
            self.finished.notice(None, format!("{} has no place for flags and keywords", shown.display()));
        }
        Ok(Outcome::Restored { place })
    }

    fn finish(&mut self) -> Result<Finished, TargetError> {
        let appended = std::mem::take(&mut self.appended);
        self.close_files()?;
        self.finished.durable += appended.len() as u64;
        Ok(std::mem::take(&mut self.finished))
    }
}

impl Mbox {
    fn append(&mut self, item: &RestoreItem<'_>, memory: &[u8], spool: Option<File>) -> io::Result<()> {
        let Some(file) = &self.file else { return Err(io::ErrorKind::NotFound.into()) };
        let mut out = io::BufWriter::with_capacity(64 << 10, file);
        out.write_all(b"\n\n".get(..self.torn).unwrap_or_default())?;
        out.write_all(&from_line(item))?;
        let ended = match spool {
            None => quote(memory, &mut out)?,
            Some(mut file) => {
                file.rewind()?;
                quote(BufReader::with_capacity(256 << 10, file), &mut out)?
            }
        };
        out.write_all(if ended { b"\n" } else { b"\n\n" })?;
        out.into_inner().map_err(io::IntoInnerError::into_error)?;
        self.torn = 0;
        Ok(())
    }
}

#[cfg(test)]
#[path = "mbox_tests.rs"]
mod tests;
