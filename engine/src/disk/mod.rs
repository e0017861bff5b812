//! The engine's only door to the operating system.
//!
//! Paths and buffers go in, bytes and errors come out. Reads and writes may be short and may fail with `EINTR`; callers
//! continue them ([`read_full`], [`write_full`]). [`Posix`] is the plain backend, [`uring`] adds a queue of operations in
//! flight for the writer; the test harness has a simulated disk. Time comes in the same way ([`Clock`]).

pub mod buffer;

mod ofd;

pub mod posix;

pub mod uring;

pub use buffer::Buffer;
pub use posix::Posix;

use std::io;
use std::path::Path;
use std::sync::Arc;

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// For reading only; works on read-only media.
    Read,
    /// An existing file, for reading and writing.
    Write,
    /// As `Write`, past the page cache where the file system can (O_DIRECT): offsets, lengths and buffers are multiples of
    /// 4096 bytes.
    WriteDirect,
    /// A file that must not exist yet, for reading and writing.
    CreateNew,
    /// As `CreateNew`, past the page cache as with `WriteDirect`.
    CreateNewDirect,
}

/// A file that is open.
#[allow(clippy::len_without_is_empty, reason = "whether a file is empty is nobody's question here")]
pub trait File: Send + Sync {
    /// Reads at an offset; may be short, 0 at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Says that a range will be read soon, so that the device can start on it while the caller goes on. A hint: nothing
    /// depends on it, and it cannot fail.
    fn will_read(&self, _offset: u64, _len: u64) {}
    /// Writes at an offset; may be short. `durable`: bytes and size are on stable storage before it returns.
    fn write_at(&self, buf: &[u8], offset: u64, durable: bool) -> io::Result<usize>;
    /// Makes contents and size durable. After an error nothing is known, and a second call proves nothing.
    fn sync(&self) -> io::Result<()>;
    /// Current length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Cuts or extends the file; what is added reads as zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Asks for space up to `len` without changing what is there; the file becomes at least that long, zeros behind.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Takes a kernel lock that dies with the process: exclusive or shared. `false`: somebody else holds it.
    fn try_lock(&self, exclusive: bool) -> io::Result<bool>;
    /// Takes a shared lock on one byte (which need not exist) for as long as this is open, or until it is released. Where
    /// there are no such locks nobody holds one.
    fn hold_byte(&self, _offset: u64) -> io::Result<()> {
        Ok(())
    }
    /// Gives back what [`File::hold_byte`] took.
    fn release_byte(&self, _offset: u64) -> io::Result<()> {
        Ok(())
    }
    /// Whether somebody else who has opened this file holds a byte before `end`.
    fn is_locked_below(&self, _end: u64) -> io::Result<bool> {
        Ok(false)
    }
    /// The descriptor, for backends that hand it to the kernel in another way.
    fn raw_fd(&self) -> Option<std::os::fd::RawFd> {
        None
    }
}

/// What a queue does.
pub enum Op {
    /// Writes the first `len` bytes of the buffer (see [`File::write_at`]).
    Write { buffer: Buffer, from: usize, len: usize, offset: u64, durable: bool },
    /// See [`File::sync`].
    Sync,
}

/// A finished operation; the buffer comes back.
pub struct Done {
    pub token: u64,
    /// Bytes written (may be fewer than asked), 0 for a sync.
    pub result: io::Result<usize>,
    pub buffer: Option<Buffer>,
}

/// Operations in flight, owned by one thread. The buffer moves in and returns in [`Done`]: nothing the kernel may still
/// touch is freed.
pub trait Queue: Send {
    /// Queues an operation. Operations in flight at once run in any order.
    fn submit(&mut self, token: u64, file: &Arc<dyn File>, op: Op) -> io::Result<()>;
    /// Hands what is queued to the device without waiting for it.
    fn start(&mut self) -> io::Result<()> {
        Ok(())
    }
    /// Blocks until at least one queued operation has finished; adds all that have.
    fn wait(&mut self, done: &mut Vec<Done>) -> io::Result<()>;
}

/// The operating system, as far as a store needs it.
pub trait Disk: Send + Sync {
    /// Opens or creates a file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>>;
    /// Names of the entries of a directory, in any order.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Makes a directory and those above it; one that exists is fine.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Replaces `to` by `from` in one step.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Bytes that may still be written on the file system of `path`.
    fn free_space(&self, path: &Path) -> io::Result<u64>;
    /// A queue for the calling thread.
    fn queue(&self) -> io::Result<Box<dyn Queue>>;
    /// What serves the queue, for people.
    fn backend(&self) -> &'static str;
}

/// Where moments come from.
pub trait Clock: Send + Sync {
    /// µs since 1970-01-01 UTC.
    fn now(&self) -> i64;
}

/// The system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> i64 {
        let since = |d: std::time::Duration| i64::try_from(d.as_micros()).unwrap_or(i64::MAX);
        match std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
            Ok(d) => since(d),
            Err(before) => -since(before.duration()),
        }
    }
}

/// Measures how long something takes, for pacing alone: nothing that is recorded depends on it.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(std::time::Instant);

impl Stopwatch {
    /// Starts now.
    #[must_use]
    pub fn start() -> Self {
        Self(std::time::Instant::now())
    }

    /// Time since the start.
    #[must_use]
    pub fn elapsed(&self) -> std::time::Duration {
        self.0.elapsed()
    }
}

fn passing(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}

/// How often an operation that the kernel put off is tried again before the error is passed on.
const TRIES_MAX: u32 = 1000;

/// Reads until `buf` is full or the file ends; returns the bytes read.
pub fn read_full(file: &dyn File, buf: &mut [u8], mut offset: u64) -> io::Result<usize> {
    let mut at = 0;
    let mut tries = 0;
    while at < buf.len() {
        match file.read_at(&mut buf[at..], offset) {
            Ok(0) => break,
            Ok(n) => {
                at += n;
                offset += n as u64;
                tries = 0;
            }
            Err(e) if passing(&e) && tries < TRIES_MAX => tries += 1,
            Err(e) => return Err(e),
        }
    }
    Ok(at)
}

/// Writes all of `buf`.
pub fn write_full(file: &dyn File, buf: &[u8], mut offset: u64, durable: bool) -> io::Result<()> {
    let mut at = 0;
    let mut tries = 0;
    while at < buf.len() {
        match file.write_at(&buf[at..], offset, durable) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero)),
            Ok(n) => {
                at += n;
                offset += n as u64;
                tries = 0;
            }
            Err(e) if passing(&e) && tries < TRIES_MAX => tries += 1,
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Runs operations to their end on a queue: short writes are continued, passing errors tried again. All of `ops` are in
/// flight at once. Returns the buffers, in any order, and the first error.
pub fn run_all(queue: &mut dyn Queue, ops: Vec<(Arc<dyn File>, Op)>) -> (Vec<Buffer>, io::Result<()>) {
    run_all_while(queue, ops, &mut || {})
}

/// As [`run_all`]; `meanwhile` is called once the operations are with the device.
pub fn run_all_while(
    queue: &mut dyn Queue,
    ops: Vec<(Arc<dyn File>, Op)>,
    meanwhile: &mut dyn FnMut(),
) -> (Vec<Buffer>, io::Result<()>) {
    struct Pending {
        file: Arc<dyn File>,
        from: usize,
        len: usize,
        offset: u64,
        durable: bool,
        tries: u32,
        sync: bool,
    }
    let mut pending: Vec<Pending> = Vec::with_capacity(ops.len());
    let mut buffers = Vec::new();
    let mut result = Ok(());
    let mut flying = 0usize;
    for (file, op) in ops {
        let token = pending.len() as u64;
        let p = match &op {
            Op::Write { from, len, offset, durable, .. } => {
                Pending { file, from: *from, len: *len, offset: *offset, durable: *durable, tries: 0, sync: false }
            }
            Op::Sync => Pending { file, from: 0, len: 0, offset: 0, durable: false, tries: 0, sync: true },
        };
        match queue.submit(token, &p.file, op) {
            Ok(()) => flying += 1,
            Err(e) => result = Err(e),
        }
        pending.push(p);
    }
    if let Err(e) = queue.start() {
        result = Err(e);
    }
    meanwhile();
    let mut done = Vec::new();
    while flying > 0 {
        done.clear();
        if let Err(e) = queue.wait(&mut done) {
            return (buffers, Err(e));
        }
        for d in done.drain(..) {
            flying -= 1;
            let Some(p) = usize::try_from(d.token).ok().and_then(|i| pending.get_mut(i)) else { continue };
            let mut again = false;
            match d.result {
                Ok(_) if p.sync => {}
                Ok(n) if n >= p.len => {}
                Ok(0) => result = Err(io::Error::from(io::ErrorKind::WriteZero)),
                Ok(n) => {
                    p.from += n;
                    p.len -= n;
                    p.offset += n as u64;
                    again = true;
                }
                // A sync is never tried again: what a failed one left behind is unknown.
                Err(e) if passing(&e) && !p.sync && p.tries < TRIES_MAX => {
                    p.tries += 1;
                    again = true;
                }
                Err(e) => result = Err(e),
            }
            match d.buffer {
                Some(buffer) if again && result.is_ok() => {
                    let op = Op::Write { buffer, from: p.from, len: p.len, offset: p.offset, durable: p.durable };
                    match queue.submit(d.token, &p.file, op) {
                        Ok(()) => flying += 1,
                        Err(e) => result = Err(e),
                    }
                }
                Some(buffer) => buffers.push(buffer),
                None => {}
            }
        }
    }
    (buffers, result)
}
