//! The real disk with a flush that takes long, as on disks without power-loss protection: what design wastes, time shows.

use mailstrata_engine::disk::posix::{Backend, PlainQueue};
use mailstrata_engine::disk::{Disk, File, OpenMode, Posix, Queue};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Every flush (a durable write, a sync of a file or directory) takes so much longer.
pub struct SlowFlush {
    inner: Posix,
    flush: Duration,
}

impl SlowFlush {
    /// On the real disk, with plain calls.
    pub fn new(flush: Duration) -> io::Result<Self> {
        Ok(Self { inner: Posix::new(Backend::Posix)?, flush })
    }
}

struct SlowFile {
    inner: Arc<dyn File>,
    flush: Duration,
}

impl File for SlowFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64, durable: bool) -> io::Result<usize> {
        if durable {
            std::thread::sleep(self.flush);
        }
        self.inner.write_at(buf, offset, durable)
    }

    fn sync(&self) -> io::Result<()> {
        std::thread::sleep(self.flush);
        self.inner.sync()
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.inner.allocate(len)
    }

    fn try_lock(&self, exclusive: bool) -> io::Result<bool> {
        self.inner.try_lock(exclusive)
    }
}

impl Disk for SlowFlush {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(SlowFile { inner: self.inner.open(path, mode)?, flush: self.flush }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.inner.list(dir)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner.create_dir(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.inner.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        std::thread::sleep(self.flush);
        self.inner.sync_dir(dir)
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        self.inner.free_space(path)
    }

    fn queue(&self) -> io::Result<Box<dyn Queue>> {
        Ok(Box::new(PlainQueue::default()))
    }

    fn backend(&self) -> &'static str {
        "pwritev2, slow flush"
    }
}
