//! A disk whose flush takes as long as it is told to: what a device without a protected cache does.
//!
//! Everything goes through to the real disk. A durable write, a sync and a directory's sync are then held back until the
//! simulated flush is over, and the device does one flush at a time: flushes that meet queue up. It counts them.

use mailstrata_engine::disk::posix::Backend;
use mailstrata_engine::disk::{Disk, Done, File, Op, OpenMode, Posix, Queue};
use std::io;
use std::os::fd::RawFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The one flush unit of a device.
struct Device {
    flush: Duration,
    /// When the flush that was asked for last is over.
    free_at: Mutex<Instant>,
    flushes: AtomicU64,
}

impl Device {
    /// Takes the next turn; when it is over.
    fn turn(&self) -> Instant {
        self.flushes.fetch_add(1, Ordering::Relaxed);
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        *free_at = (*free_at).max(Instant::now()) + self.flush;
        *free_at
    }

    fn hold<T>(&self, outcome: io::Result<T>) -> io::Result<T> {
        sleep_until(self.turn());
        outcome
    }
}

fn sleep_until(due: Instant) {
    std::thread::sleep(due.saturating_duration_since(Instant::now()));
}

/// The real disk with a slow flush.
pub struct Slow {
    under: Posix,
    device: Arc<Device>,
}

impl Slow {
    /// Every flush takes `flush`, and what the real one takes if that is longer.
    pub fn new(flush: Duration) -> io::Result<Self> {
        let device = Device { flush, free_at: Mutex::new(Instant::now()), flushes: AtomicU64::new(0) };
        Ok(Self { under: Posix::new(Backend::Auto)?, device: Arc::new(device) })
    }

    /// Flushes so far.
    #[must_use]
    pub fn flushes(&self) -> u64 {
        self.device.flushes.load(Ordering::Relaxed)
    }
}

struct SlowFile {
    under: Arc<dyn File>,
    device: Arc<Device>,
}

impl File for SlowFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.under.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64, durable: bool) -> io::Result<usize> {
        let outcome = self.under.write_at(buf, offset, durable);
        if durable { self.device.hold(outcome) } else { outcome }
    }

    fn sync(&self) -> io::Result<()> {
        self.device.hold(self.under.sync())
    }

    fn len(&self) -> io::Result<u64> {
        self.under.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.under.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.under.allocate(len)
    }

    fn try_lock(&self, exclusive: bool) -> io::Result<bool> {
        self.under.try_lock(exclusive)
    }

    /// The ring writes past this file; [`SlowQueue`] holds its answers back instead.
    fn raw_fd(&self) -> Option<RawFd> {
        self.under.raw_fd()
    }
}

struct SlowQueue {
    under: Box<dyn Queue>,
    device: Arc<Device>,
    /// What is in flight and may not come back before a moment.
    due: Vec<(u64, Instant)>,
    held: Vec<(Instant, Done)>,
}

impl Queue for SlowQueue {
    fn submit(&mut self, token: u64, file: &Arc<dyn File>, op: Op) -> io::Result<()> {
        if matches!(op, Op::Sync | Op::Write { durable: true, .. }) {
            self.due.push((token, self.device.turn()));
        }
        self.under.submit(token, file, op)
    }

    fn start(&mut self) -> io::Result<()> {
        self.under.start()
    }

    fn wait(&mut self, done: &mut Vec<Done>) -> io::Result<()> {
        let before = done.len();
        while done.len() == before {
            if self.held.is_empty() {
                let mut come = Vec::new();
                self.under.wait(&mut come)?;
                for d in come {
                    match self.due.iter().position(|(token, _)| *token == d.token) {
                        Some(i) => self.held.push((self.due.swap_remove(i).1, d)),
                        None => done.push(d),
                    }
                }
                if done.len() > before {
                    return Ok(());
                }
            }
            if let Some(first) = self.held.iter().map(|(due, _)| *due).min() {
                sleep_until(first);
                let now = Instant::now();
                done.extend(self.held.extract_if(.., |(due, _)| *due <= now).map(|(_, d)| d));
            }
        }
        Ok(())
    }
}

impl Disk for Slow {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let under = self.under.open(path, mode)?;
        Ok(Arc::new(SlowFile { under, device: self.device.clone() }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.under.list(dir)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.under.create_dir(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.under.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.under.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.device.hold(self.under.sync_dir(dir))
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        self.under.free_space(path)
    }

    fn queue(&self) -> io::Result<Box<dyn Queue>> {
        let under = self.under.queue()?;
        if self.under.backend() == "io_uring" {
            Ok(Box::new(SlowQueue { under, device: self.device.clone(), due: Vec::new(), held: Vec::new() }))
        } else {
            // Plain calls go through the files, which are slow themselves.
            Ok(under)
        }
    }

    fn backend(&self) -> &'static str {
        self.under.backend()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mailstrata_engine::disk::{Buffer, run_all};

    #[test]
    fn a_flush_takes_its_time_and_two_take_twice_as_long() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Slow::new(Duration::from_millis(20)).unwrap();
        let file = disk.open(&dir.path().join("f"), OpenMode::CreateNew).unwrap();
        let timed = |what: &mut dyn FnMut()| {
            let begin = Instant::now();
            what();
            begin.elapsed().as_millis()
        };
        let write = |durable| Op::Write { buffer: Buffer::new(4096), from: 0, len: 4096, offset: 0, durable };
        let mut queue = disk.queue().unwrap();
        assert!(timed(&mut || file.write_at(&[1; 4096], 0, false).map(|_| ()).unwrap()) < 20);
        assert!(timed(&mut || file.write_at(&[1; 4096], 0, true).map(|_| ()).unwrap()) >= 20);
        let both = timed(&mut || {
            let (_, done) = run_all(queue.as_mut(), vec![(file.clone(), write(true)), (file.clone(), Op::Sync)]);
            done.unwrap();
        });
        assert!(both >= 40, "{both}");
        assert_eq!(disk.flushes(), 3);
    }
}
