//! Bare loops: what this disk and these cores give when nothing but the bytes is handled.
//!
//! A directory, a record's length and a number of producers come in, a [`Run`] goes out. Every commit loop fills blocks of
//! 4 KiB with records, writes them with O_DIRECT and RWF_DSYNC to a file of written zeros, and acknowledges: no checksum,
//! no index, no LSN. They differ in who does it:
//!
//! | loop | producers | writes |
//! | --- | --- | --- |
//! | [`single`] | one, in the writing thread | `pwritev2` |
//! | [`ring`] | N, all in the writing thread | io_uring, one in flight |
//! | [`handoff`] | N, all in one other thread | io_uring, one hand-off each way a batch |
//! | [`threads`] | N threads | io_uring in a thread of its own, one futex a batch |
//!
//! [`pack`] and [`Packed`] are the CPU's part of bodies: SHA-256 and zstd as the engine uses them.

use crate::Outcome;
use crate::mail::Corpus;
use hdrhistogram::Histogram;
use io_uring::{IoUring, opcode, types};
use mailstrata_engine::blob::entry::LEVEL;
use mailstrata_engine::disk::Buffer;
use mailstrata_format::{BLOCK, Digest};
use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::ReadWriteFlags;
use rustix::thread::futex;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What a commit loop did.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// Commits a second.
    pub rate: f64,
    /// Latency of a commit, µs.
    pub p50: f64,
    pub p99: f64,
}

/// Collects the latencies of a run.
pub struct Clock {
    start: Instant,
    latencies: Histogram<u64>,
}

impl Clock {
    /// Starts now.
    pub fn start() -> Outcome<Self> {
        Ok(Self { start: Instant::now(), latencies: latencies()? })
    }

    /// Whether the window is over.
    #[must_use]
    pub fn over(&self, window: Duration) -> bool {
        self.start.elapsed() >= window
    }

    /// `count` commits took this long.
    pub fn add(&mut self, took: Duration, count: u64) {
        self.latencies.saturating_record_n(nanos(took), count);
    }

    /// Takes in the latencies that a thread collected.
    pub fn merge(&mut self, other: &Histogram<u64>) -> Outcome {
        Ok(self.latencies.add(other)?)
    }

    /// The run so far.
    #[must_use]
    pub fn run(&self) -> Run {
        let micros = |q| self.latencies.value_at_quantile(q) as f64 / 1e3;
        let seconds = self.start.elapsed().as_secs_f64();
        Run { rate: self.latencies.len() as f64 / seconds, p50: micros(0.5), p99: micros(0.99) }
    }
}

/// An empty set of latencies in ns, up to ten seconds.
pub fn latencies() -> Outcome<Histogram<u64>> {
    Ok(Histogram::new_with_max(10_000_000_000, 3)?)
}

/// For a histogram.
#[must_use]
pub fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

/// Size of the file that the loops write round and round.
const FILE: u64 = 64 << 20;

/// A file of written zeros.
pub struct Zeroed {
    file: File,
    at: u64,
}

impl Zeroed {
    /// The directory's file; made when it is not there yet.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let path = dir.join("ceiling.zeroed");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::DIRECT;
        let file = File::from(rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600))?);
        if file.metadata()?.len() != FILE {
            rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, FILE)?;
            let zeros = Buffer::new(1 << 20);
            for at in (0..FILE).step_by(zeros.len()) {
                write(&file, &zeros, at, ReadWriteFlags::empty())?;
            }
            file.sync_all()?;
        }
        Ok(Self { file, at: 0 })
    }

    /// Writes whole blocks at the next place; they are durable when this returns.
    pub fn put(&mut self, blocks: &[u8]) -> io::Result<()> {
        let at = self.place(blocks.len());
        write(&self.file, blocks, at, ReadWriteFlags::DSYNC)
    }

    /// A place for `len` bytes.
    fn place(&mut self, len: usize) -> u64 {
        if self.at + len as u64 > FILE {
            self.at = 0;
        }
        let at = self.at;
        self.at += len as u64;
        at
    }
}

fn write(file: &File, bytes: &[u8], at: u64, flags: ReadWriteFlags) -> io::Result<()> {
    let n = rustix::io::pwritev2(file, &[io::IoSlice::new(bytes)], at, flags)?;
    if n == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// A batch of records in a buffer, padded with zeros to whole blocks; returns the padded length.
fn fill(buffer: &mut Buffer, record: &[u8], count: usize) -> usize {
    for place in buffer.chunks_exact_mut(record.len()).take(count) {
        place.copy_from_slice(record);
    }
    pad(buffer, record.len() * count)
}

fn pad(buffer: &mut Buffer, used: usize) -> usize {
    let len = used.next_multiple_of(BLOCK);
    buffer[used..len].fill(0);
    len
}

fn sample(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8 + 1).collect()
}

/// One producer that writes itself.
pub fn single(dir: &Path, record: usize, window: Duration) -> Outcome<Run> {
    let mut file = Zeroed::open(dir)?;
    let record = sample(record);
    let mut buffer = Buffer::new(record.len());
    let mut clock = Clock::start()?;
    while !clock.over(window) {
        let begin = Instant::now();
        let len = fill(&mut buffer, &record, 1);
        let at = file.place(len);
        write(&file.file, &buffer[..len], at, ReadWriteFlags::DSYNC)?;
        clock.add(begin.elapsed(), 1);
    }
    Ok(clock.run())
}

/// A ring that has one durable write in flight.
struct Ring {
    ring: IoUring,
    file: Zeroed,
}

const RWF_DSYNC: i32 = 2;

impl Ring {
    fn new(dir: &Path) -> Outcome<Self> {
        let file = Zeroed::open(dir)?;
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_coop_taskrun()
            .setup_defer_taskrun()
            .build(8)
            .or_else(|_| IoUring::new(8))?;
        ring.submitter().register_files(&[file.file.as_raw_fd()])?;
        Ok(Self { ring, file })
    }

    fn write(&mut self, bytes: &[u8]) -> Outcome {
        let at = self.file.place(bytes.len());
        let len = u32::try_from(bytes.len())?;
        let entry = opcode::Write::new(types::Fixed(0), bytes.as_ptr(), len).offset(at).rw_flags(RWF_DSYNC).build();
        // SAFETY: `bytes` stay borrowed until the completion below has been seen; there is no other operation in flight.
        unsafe { self.ring.submission().push(&entry)? };
        loop {
            if let Err(e) = self.ring.submit_and_wait(1)
                && e.raw_os_error() != Some(libc::EINTR)
            {
                return Err(e.into());
            }
            if let Some(done) = self.ring.completion().next() {
                return if done.result() == i32::try_from(len)? {
                    Ok(())
                } else {
                    Err("a ring write fell short".into())
                };
            }
        }
    }
}

/// `producers` in the writing thread, each with one record in each batch.
pub fn ring(dir: &Path, record: usize, producers: usize, window: Duration) -> Outcome<Run> {
    let mut ring = Ring::new(dir)?;
    let record = sample(record);
    let mut buffer = Buffer::new(record.len() * producers);
    let mut clock = Clock::start()?;
    while !clock.over(window) {
        let begin = Instant::now();
        let len = fill(&mut buffer, &record, producers);
        ring.write(&buffer[..len])?;
        clock.add(begin.elapsed(), producers as u64);
    }
    Ok(clock.run())
}

/// A word that one side sets and the other sleeps on.
#[derive(Default)]
struct Word(AtomicU32);

impl Word {
    fn set(&self, value: u32) {
        self.0.store(value, Ordering::Release);
        let _ = futex::wake(&self.0, futex::Flags::PRIVATE, i32::MAX.unsigned_abs());
    }

    /// Sleeps until the word has come to `value` (counting on, with overflow).
    fn wait(&self, value: u32) {
        loop {
            let now = self.0.load(Ordering::Acquire);
            if now.wrapping_sub(value) < u32::MAX / 2 {
                return;
            }
            let _ = futex::wait(&self.0, futex::Flags::PRIVATE, now, None);
        }
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `producers` in one thread, the writer in another: one hand-off each way a batch.
pub fn handoff(dir: &Path, record: usize, producers: usize, window: Duration) -> Outcome<Run> {
    let record = sample(record);
    let buffer = Mutex::new((Buffer::new(record.len() * producers), 0));
    let (posted, done, stop) = (Word::default(), Word::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| -> Outcome {
            let ring = Ring::new(dir);
            let mut result = ring.as_ref().map(|_| ()).map_err(|e| e.to_string());
            let mut ring = ring.ok();
            for turn in 1.. {
                posted.wait(turn);
                if stop.load(Ordering::Acquire) {
                    break;
                }
                let batch = lock(&buffer);
                if let (Some(ring), Ok(())) = (&mut ring, &result) {
                    result = ring.write(&batch.0[..batch.1]).map_err(|e| e.to_string());
                }
                drop(batch);
                done.set(turn);
            }
            Ok(result?)
        });
        let mut clock = Clock::start()?;
        let mut turn = 0;
        while !clock.over(window) {
            let begin = Instant::now();
            turn += 1;
            let mut batch = lock(&buffer);
            batch.1 = fill(&mut batch.0, &record, producers);
            drop(batch);
            posted.set(turn);
            done.wait(turn);
            clock.add(begin.elapsed(), producers as u64);
        }
        let run = clock.run();
        stop.store(true, Ordering::Release);
        posted.set(turn + 1);
        writer.join().map_err(|_| "the writer of a bare loop panicked")??;
        Ok(run)
    })
}

/// What the threads of [`threads`] fill while the writer is away.
struct Filling {
    buffer: Buffer,
    used: usize,
    /// Number of the batch, from 1.
    batch: u32,
    /// The writer sleeps.
    idle: bool,
}

/// `producers` threads, the writer in one of its own: whatever waits is the next batch, one futex word wakes a batch.
pub fn threads(dir: &Path, record: usize, producers: usize, window: Duration) -> Outcome<Run> {
    let record = sample(record);
    let bytes = record.len() * producers;
    let filling = Mutex::new(Filling { buffer: Buffer::new(bytes), used: 0, batch: 1, idle: false });
    let more = Condvar::new();
    // Two batches at most have waiters: one being written, one being filled.
    let words: [Word; 4] = Default::default();
    let word = |batch: u32| &words[batch as usize % words.len()];
    let running = AtomicU32::new(u32::try_from(producers)?);
    let failed = AtomicBool::new(false);
    let commits = AtomicU64::new(0);
    let merged = Mutex::new(latencies()?);
    let mut clock = Clock::start()?;
    let mut ended = None;
    std::thread::scope(|scope| -> Outcome {
        let writer = scope.spawn(|| -> Outcome {
            let mut ring = Ring::new(dir).map_err(|e| e.to_string());
            let mut spare = Buffer::new(bytes);
            let mut f = lock(&filling);
            loop {
                if f.used == 0 {
                    if running.load(Ordering::Acquire) == 0 {
                        return ring.map(|_| ()).map_err(Into::into);
                    }
                    f.idle = true;
                    f = more.wait_timeout(f, Duration::from_millis(2)).unwrap_or_else(PoisonError::into_inner).0;
                    f.idle = false;
                    continue;
                }
                std::mem::swap(&mut spare, &mut f.buffer);
                let (used, batch) = (std::mem::take(&mut f.used), f.batch);
                f.batch = batch.wrapping_add(1);
                drop(f);
                let len = pad(&mut spare, used);
                if let Ok(r) = &mut ring
                    && let Err(e) = r.write(&spare[..len])
                {
                    ring = Err(e.to_string());
                }
                failed.fetch_or(ring.is_err(), Ordering::Relaxed);
                word(batch).set(batch);
                f = lock(&filling);
            }
        });
        for _ in 0..producers {
            let (record, filling, more, word, running) = (&record, &filling, &more, &word, &running);
            let (failed, commits, merged) = (&failed, &commits, &merged);
            std::thread::Builder::new().stack_size(128 << 10).spawn_scoped(scope, move || {
                let begin = Instant::now();
                let mut own = latencies().ok();
                while begin.elapsed() < window && !failed.load(Ordering::Relaxed) {
                    let begin = Instant::now();
                    let mut f = lock(filling);
                    let at = f.used;
                    f.buffer[at..at + record.len()].copy_from_slice(record);
                    f.used += record.len();
                    let (batch, wake) = (f.batch, f.idle);
                    drop(f);
                    if wake {
                        more.notify_one();
                    }
                    word(batch).wait(batch);
                    commits.fetch_add(1, Ordering::Relaxed);
                    if let Some(h) = &mut own {
                        h.saturating_record(nanos(begin.elapsed()));
                    }
                }
                running.fetch_sub(1, Ordering::Release);
                if let Some(h) = own {
                    let _ = lock(merged).add(h);
                }
            })?;
        }
        let joined = writer.join().map_err(|_| "the writer of a bare loop panicked")?;
        ended = Some(clock.start.elapsed());
        joined
    })?;
    clock.merge(&lock(&merged))?;
    let seconds = ended.unwrap_or(window).as_secs_f64();
    Ok(Run { rate: commits.load(Ordering::Relaxed) as f64 / seconds, ..clock.run() })
}

const CHUNK: usize = 256 << 10;

/// SHA-256 of each mail and zstd of chunks of them, with `threads` threads; returns bytes a second before packing.
pub fn pack(corpus: &Corpus, mails: std::ops::Range<u64>, threads: usize) -> Outcome<f64> {
    let next = AtomicU64::new(mails.start);
    let bytes = AtomicU64::new(0);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let work = || -> io::Result<()> {
            let mut packer = zstd::bulk::Compressor::new(LEVEL)?;
            let (mut mail, mut chunk, mut out) = (Vec::new(), Vec::with_capacity(CHUNK), Vec::new());
            let mut flush = |chunk: &mut Vec<u8>| -> io::Result<()> {
                out.resize(zstd::zstd_safe::compress_bound(chunk.len()), 0);
                std::hint::black_box(packer.compress_to_buffer(chunk, &mut out)?);
                chunk.clear();
                Ok(())
            };
            loop {
                let from = next.fetch_add(16, Ordering::Relaxed);
                for n in from..(from + 16).min(mails.end) {
                    corpus.mail(n, &mut mail);
                    std::hint::black_box(Digest::of(&mail));
                    bytes.fetch_add(mail.len() as u64, Ordering::Relaxed);
                    if chunk.len() + mail.len() > CHUNK {
                        flush(&mut chunk)?;
                    }
                    chunk.extend_from_slice(&mail);
                }
                if from >= mails.end {
                    return flush(&mut chunk);
                }
            }
        };
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        all.into_iter().try_for_each(|t| t.join().map_err(|_| "a packing thread panicked")?.map_err(Into::into))
    })
    .map_err(|e: Box<dyn std::error::Error + Send + Sync>| e)?;
    Ok(bytes.load(Ordering::Relaxed) as f64 / begin.elapsed().as_secs_f64())
}

/// Packed chunks, and the lengths of the mails in each.
pub struct Packed(Vec<(Vec<u8>, Vec<usize>)>);

impl Packed {
    /// The mails that `numbers` gives, some 32 MiB at most.
    pub fn new(corpus: &Corpus, numbers: impl Iterator<Item = u64>) -> Outcome<Self> {
        let mut packer = zstd::bulk::Compressor::new(LEVEL)?;
        let (mut all, mut raw, mut lengths, mut mail) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut total = 0;
        for n in numbers {
            corpus.mail(n, &mut mail);
            if raw.len() + mail.len() > CHUNK && !raw.is_empty() {
                all.push((packer.compress(&raw)?, std::mem::take(&mut lengths)));
                raw.clear();
            }
            raw.extend_from_slice(&mail);
            lengths.push(mail.len());
            total += mail.len();
            if total > 32 << 20 {
                break;
            }
        }
        all.push((packer.compress(&raw)?, lengths));
        Ok(Self(all))
    }

    /// zstd and SHA-256 back, in this thread; returns bytes a second.
    pub fn unpack(&self) -> Outcome<f64> {
        let begin = Instant::now();
        let mut unpacker = zstd::bulk::Decompressor::new()?;
        let mut raw = vec![0; 2 << 20];
        let mut bytes = 0;
        for (packed, lengths) in &self.0 {
            let len = unpacker.decompress_to_buffer(packed, &mut raw)?;
            let mut rest = &raw[..len];
            for len in lengths {
                let (mail, more) = rest.split_at_checked(*len).ok_or("a chunk came back short")?;
                std::hint::black_box(Digest::of(mail));
                bytes += len;
                rest = more;
            }
        }
        Ok(bytes as f64 / begin.elapsed().as_secs_f64())
    }
}
