//! The queue on io_uring: one ring, owned by the writer thread.
//!
//! Writes carry RWF_DSYNC when they must be durable, syncs are ring fsyncs. A buffer stays in the queue's table until its
//! completion has been seen, also when the queue is dropped early: then the queue waits for what is in flight.

use super::{Buffer, Done, File, Op, Queue};
use io_uring::{IoUring, opcode, types};
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

/// Operations in flight at most.
const ENTRIES: u32 = 64;
const RWF_DSYNC: i32 = 2;

struct Flying {
    token: u64,
    buffer: Option<Buffer>,
    /// Keeps the descriptor open while the kernel uses it.
    _file: Arc<dyn File>,
}

/// See the module's text.
pub struct RingQueue {
    ring: IoUring,
    flying: Vec<Option<Flying>>,
    count: usize,
    /// Finished before submission: operations on files that have no descriptor.
    early: Vec<Done>,
}

impl RingQueue {
    /// A ring for this thread, with the options the kernel has; an error when it allows none.
    pub fn new() -> io::Result<Self> {
        // SINGLE_ISSUER binds the ring to its first submitter, so it is enabled lazily by the thread that submits first:
        // the probe only builds and drops it.
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_coop_taskrun()
            .setup_defer_taskrun()
            .build(ENTRIES)
            .or_else(|_| IoUring::builder().setup_coop_taskrun().build(ENTRIES))
            .or_else(|_| IoUring::new(ENTRIES))?;
        let mut probe = io_uring::Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        if !(probe.is_supported(opcode::Write::CODE) && probe.is_supported(opcode::Fsync::CODE)) {
            return Err(io::Error::from(io::ErrorKind::Unsupported));
        }
        Ok(Self { ring, flying: (0..ENTRIES).map(|_| None).collect(), count: 0, early: Vec::new() })
    }

    fn fd(file: &Arc<dyn File>) -> io::Result<RawFd> {
        file.raw_fd().ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))
    }

    fn reap(&mut self, done: &mut Vec<Done>) {
        for cqe in self.ring.completion() {
            let slot = usize::try_from(cqe.user_data()).ok().and_then(|i| self.flying.get_mut(i));
            let Some(Flying { token, buffer, .. }) = slot.and_then(Option::take) else { continue };
            self.count -= 1;
            let result = match cqe.result() {
                n if n < 0 => Err(io::Error::from_raw_os_error(-n)),
                n => Ok(n.unsigned_abs() as usize),
            };
            done.push(Done { token, result, buffer });
        }
    }

    fn enter(&self) -> io::Result<()> {
        loop {
            match self.ring.submit_and_wait(1) {
                Err(e) if e.raw_os_error() == Some(libc::EINTR) => {}
                Err(e) => return Err(e),
                Ok(_) => return Ok(()),
            }
        }
    }
}

impl Queue for RingQueue {
    fn submit(&mut self, token: u64, file: &Arc<dyn File>, op: Op) -> io::Result<()> {
        while self.count >= ENTRIES as usize {
            let mut done = Vec::new();
            self.enter()?;
            self.reap(&mut done);
            self.early.append(&mut done);
        }
        let fd = types::Fd(Self::fd(file)?);
        let slot = self.flying.iter().position(Option::is_none).ok_or_else(|| io::Error::other("no free slot"))?;
        let (entry, buffer) = match op {
            Op::Write { buffer, from, len, offset, durable } => {
                let bytes = buffer.get(from..from + len).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
                let len = u32::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
                let flags = if durable { RWF_DSYNC } else { 0 };
                (opcode::Write::new(fd, bytes.as_ptr(), len).offset(offset).rw_flags(flags).build(), Some(buffer))
            }
            Op::Sync => (opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(), None),
        };
        let entry = entry.user_data(slot as u64);
        // SAFETY: the entry points into `buffer`, whose memory does not move when the handle does, and both buffer and
        // descriptor are kept in `flying` until the completion was reaped (`reap`, or `drop`).
        unsafe { self.ring.submission().push(&entry) }.map_err(|_| io::Error::other("submission queue full"))?;
        if let Some(s) = self.flying.get_mut(slot) {
            *s = Some(Flying { token, buffer, _file: file.clone() });
        }
        self.count += 1;
        Ok(())
    }

    fn start(&mut self) -> io::Result<()> {
        loop {
            match self.ring.submit() {
                Err(e) if e.raw_os_error() == Some(libc::EINTR) => {}
                Err(e) => return Err(e),
                Ok(_) => return Ok(()),
            }
        }
    }

    fn wait(&mut self, done: &mut Vec<Done>) -> io::Result<()> {
        done.append(&mut self.early);
        if done.is_empty() && self.count > 0 {
            self.enter()?;
            self.reap(done);
        }
        Ok(())
    }
}

impl Drop for RingQueue {
    fn drop(&mut self) {
        let mut done = Vec::new();
        while self.count > 0 {
            if self.enter().is_err() {
                // The kernel may still write from these buffers: leaking them is the safe end.
                for f in self.flying.iter_mut().filter_map(Option::take) {
                    std::mem::forget(f);
                }
                return;
            }
            self.reap(&mut done);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::posix::Backend;
    use super::super::{Disk, OpenMode, Posix, run_all};
    use super::*;

    #[test]
    fn both_queues_write_the_same_bytes() {
        for backend in [Backend::Auto, Backend::Posix] {
            let dir = tempfile::tempdir().unwrap();
            let disk = Posix::new(backend).unwrap();
            let file = disk.open(&dir.path().join("f"), OpenMode::CreateNewDirect).unwrap();
            let mut queue = disk.queue().unwrap();
            let ops = (0..100u64)
                .map(|i| {
                    let mut buffer = Buffer::new(4096);
                    buffer.fill(u8::try_from(i).unwrap());
                    (file.clone(), Op::Write { buffer, from: 0, len: 4096, offset: i * 4096, durable: i % 2 == 0 })
                })
                .collect();
            let (buffers, result) = run_all(queue.as_mut(), ops);
            result.unwrap();
            assert_eq!(buffers.len(), 100);
            let (_, result) = run_all(queue.as_mut(), vec![(file.clone(), Op::Sync)]);
            result.unwrap();
            let bytes = std::fs::read(dir.path().join("f")).unwrap();
            assert_eq!(bytes.len(), 409_600);
            assert!((0..100usize).all(|i| bytes[i * 4096..(i + 1) * 4096].iter().all(|b| *b as usize == i)));
        }
    }
}
