//! The plain backend: `pread`, `pwritev2`, `fdatasync`. Also opens the files that [`super::uring`] writes to.

use super::uring::RingQueue;
use super::{Disk, Done, File, Op, OpenMode, Queue, ofd};
use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::{Errno, ReadWriteFlags};
use std::fs::TryLockError;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Which backend serves the writer's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backend {
    /// io_uring where the kernel allows it, else plain calls.
    #[default]
    Auto,
    /// io_uring, or an error.
    Uring,
    /// Plain calls.
    Posix,
}

/// The operating system.
#[derive(Debug, Clone, Copy)]
pub struct Posix {
    ring: bool,
}

impl Posix {
    /// Probes the kernel and chooses.
    pub fn new(backend: Backend) -> io::Result<Self> {
        match backend {
            Backend::Posix => Ok(Self { ring: false }),
            Backend::Auto => Ok(Self { ring: RingQueue::new().is_ok() }),
            Backend::Uring => RingQueue::new().map(|_| Self { ring: true }),
        }
    }
}

struct PosixFile {
    file: std::fs::File,
    /// RWF_DSYNC is refused by some file systems and old kernels; then writes are followed by fdatasync.
    no_dsync_flag: AtomicBool,
    /// A lock was taken. It belongs to the open file, of which a child between fork and exec has a copy: to be free at once it
    /// is given back, not only closed.
    locked: AtomicBool,
}

impl Drop for PosixFile {
    fn drop(&mut self) {
        if *self.locked.get_mut()
            && let Err(e) = self.file.unlock()
        {
            tracing::warn!(error = %e, "a lock is kept until its file is closed everywhere");
        }
    }
}

impl File for PosixFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        Ok(rustix::io::pread(&self.file, buf, offset)?)
    }

    fn will_read(&self, offset: u64, len: u64) {
        if let Some(len) = std::num::NonZeroU64::new(len) {
            // A file system that does not know the hint reads when it is asked to.
            let _ = rustix::fs::fadvise(&self.file, offset, Some(len), rustix::fs::Advice::WillNeed);
        }
    }

    fn write_at(&self, buf: &[u8], offset: u64, durable: bool) -> io::Result<usize> {
        if !durable {
            return Ok(rustix::io::pwrite(&self.file, buf, offset)?);
        }
        if !self.no_dsync_flag.load(Ordering::Relaxed) {
            let bufs = [io::IoSlice::new(buf)];
            match rustix::io::pwritev2(&self.file, &bufs, offset, ReadWriteFlags::DSYNC) {
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.no_dsync_flag.store(true, Ordering::Relaxed),
                other => return Ok(other?),
            }
        }
        let n = rustix::io::pwrite(&self.file, buf, offset)?;
        self.sync()?;
        Ok(n)
    }

    fn sync(&self) -> io::Result<()> {
        // EROFS too is an error: a file system that was aborted and made read-only answers so, with the data gone.
        Ok(rustix::fs::fdatasync(&self.file)?)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, len) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                if self.len()? < len {
                    self.set_len(len)?;
                }
                Ok(())
            }
            other => Ok(other?),
        }
    }

    fn try_lock(&self, exclusive: bool) -> io::Result<bool> {
        let taken = if exclusive { self.file.try_lock() } else { self.file.try_lock_shared() };
        match taken {
            Ok(()) => {
                self.locked.store(true, Ordering::Relaxed);
                Ok(true)
            }
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(e)) => Err(e),
        }
    }

    fn hold_byte(&self, offset: u64) -> io::Result<()> {
        ofd::hold(self.file.as_fd(), offset)
    }

    fn release_byte(&self, offset: u64) -> io::Result<()> {
        ofd::release(self.file.as_fd(), offset)
    }

    fn is_locked_below(&self, end: u64) -> io::Result<bool> {
        ofd::is_held_below(self.file.as_fd(), end)
    }

    fn raw_fd(&self) -> Option<RawFd> {
        Some(self.file.as_fd().as_raw_fd())
    }
}

impl Disk for Posix {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let base = OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let (flags, direct) = match mode {
            OpenMode::Read => (base | OFlags::RDONLY, false),
            OpenMode::Write => (base | OFlags::RDWR, false),
            OpenMode::WriteDirect => (base | OFlags::RDWR, true),
            OpenMode::CreateNew => (base | OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, false),
            OpenMode::CreateNewDirect => (base | OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, true),
        };
        let rights = Mode::from_raw_mode(0o600);
        let fd = if direct {
            match rustix::fs::open(path, flags | OFlags::DIRECT, rights) {
                // The file may have been made by the refused call: without EXCL it is opened, with its one owner, us.
                Err(Errno::INVAL) => rustix::fs::open(path, flags & !OFlags::EXCL, rights)?,
                other => other?,
            }
        } else if mode == OpenMode::Read {
            // Reading leaves no trace, as a backup's should; only the file's owner may ask for that.
            match rustix::fs::open(path, flags | OFlags::NOATIME, rights) {
                Err(Errno::PERM | Errno::INVAL) => rustix::fs::open(path, flags, rights)?,
                other => other?,
            }
        } else {
            rustix::fs::open(path, flags, rights)?
        };
        let file = std::fs::File::from(fd);
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(Arc::new(PosixFile { file, no_dsync_flag: AtomicBool::new(false), locked: AtomicBool::new(false) }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            // A name that is not UTF-8 is none of ours; it is passed on in a form that matches nothing.
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        Ok(names)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        std::fs::create_dir_all(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        std::fs::File::open(dir)?.sync_all()
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        let s = rustix::fs::statvfs(path)?;
        Ok(s.f_bavail.saturating_mul(s.f_frsize))
    }

    fn queue(&self) -> io::Result<Box<dyn Queue>> {
        if self.ring { Ok(Box::new(RingQueue::new()?)) } else { Ok(Box::new(PlainQueue::default())) }
    }

    fn backend(&self) -> &'static str {
        if self.ring { "io_uring" } else { "pwritev2" }
    }
}

/// A queue that does each operation when it is submitted.
#[derive(Default)]
pub struct PlainQueue {
    done: Vec<Done>,
}

impl Queue for PlainQueue {
    fn submit(&mut self, token: u64, file: &Arc<dyn File>, op: Op) -> io::Result<()> {
        let done = match op {
            Op::Write { buffer, from, len, offset, durable } => {
                let result = match buffer.get(from..from + len) {
                    Some(bytes) => file.write_at(bytes, offset, durable),
                    None => Err(io::Error::from(io::ErrorKind::InvalidInput)),
                };
                Done { token, result, buffer: Some(buffer) }
            }
            Op::Sync => Done { token, result: file.sync().map(|()| 0), buffer: None },
        };
        self.done.push(done);
        Ok(())
    }

    fn wait(&mut self, done: &mut Vec<Done>) -> io::Result<()> {
        done.append(&mut self.done);
        Ok(())
    }
}
