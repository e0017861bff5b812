//! Makes what waits durable: packs first (W1), then the group (W2); one at a time.
//!
//! Whoever finds nobody writing may write: a caller that waits alone does it himself with plain calls, a busy queue is
//! served by the writer thread with its ring. A failed write or sync ends all writing: what reached the disk is unknown,
//! and a second sync would prove nothing.

use super::group::{Batch, PackWrite, Rolled, State, Work};
use super::upkeep::{Job, SpareSlot};
use crate::catalog::Catalog;
use crate::disk::{Buffer, Clock, File, Op, OpenMode, Queue, run_all, write_full};
use crate::error::{Error, Result};
use crate::files::Files;
use crate::index::checkpoint::Content;
use crate::index::table::{PackTable, SegmentTable, read};
use mailstrata_format::file::FileHeader;
use mailstrata_format::manifest::Manifest;
use mailstrata_format::segment::{self, GroupHeader};
use mailstrata_format::{BLOCK, Binding, FileKind, FileName, Lsn};
use rustix::io::Errno;
use rustix::thread::futex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};

/// Space is asked for in steps of this size.
const PACK_STEP: u64 = 16 << 20;

/// The segment being written.
pub struct ActiveSegment {
    pub table: Arc<SegmentTable>,
    pub file: Arc<dyn File>,
    /// Of the file.
    pub capacity: u64,
    pub content: Content,
}

/// What only the one who writes may touch.
pub struct Device {
    /// `None` until the first group is written.
    pub segment: Option<ActiveSegment>,
    /// Check of the last group.
    pub chain: [u8; 16],
    /// Sequence of the last group.
    pub group: u64,
    /// Packs written to since their last sync.
    pub dirty: Vec<Arc<PackTable>>,
    /// Space asked for, by pack.
    pub allocated: HashMap<u64, u64>,
    /// Bytes written since free space was looked at.
    pub since_look: u64,
}

/// What all parts of a writer share.
pub struct Shared {
    pub files: Arc<Files>,
    pub clock: Arc<dyn Clock>,
    pub segment_size: u64,
    pub pack_size: u64,
    /// Below this many free bytes only deletions are taken.
    pub reserve: u64,
    pub nearly_full: AtomicBool,
    pub state: Mutex<State>,
    pub work: Condvar,
    pub room: Condvar,
    pub durable: AtomicU64,
    /// Changes with every group and on failure; what waiters sleep on.
    pub epoch: AtomicU32,
    pub catalog: RwLock<Arc<Catalog>>,
    pub device: Mutex<Device>,
    pub jobs: Mutex<Option<Sender<Job>>>,
    pub spare: SpareSlot,
    /// What the last writer left to be sealed.
    pub unfinished: Mutex<Vec<Job>>,
    /// The manifest as it was last written.
    pub manifest: Mutex<Manifest>,
}

/// Takes a mutex that a panicking thread may have left: what it guards is checked or replaced before use.
pub(crate) fn locked<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Buffers that come back from a write.
#[derive(Default)]
pub struct Returned {
    batch: Option<Buffer>,
    packs: Vec<Buffer>,
}

impl Shared {
    /// The commit lock.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    /// The LSN up to which everything is durable.
    #[must_use]
    pub fn durable_lsn(&self) -> Lsn {
        Lsn(self.durable.load(Ordering::Acquire))
    }

    /// What views can reach now.
    #[must_use]
    pub fn catalog(&self) -> Arc<Catalog> {
        read(&self.catalog).clone()
    }

    /// Tells the writer thread that there is work, unless somebody is at it.
    pub fn kick(&self, s: &mut State) {
        if s.has_work() && !s.writing && !s.kicked {
            s.kicked = true;
            self.work.notify_one();
        }
    }

    /// Sleeps until the writer made room.
    pub fn wait_for_room<'a>(&'a self, mut s: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.kick(&mut s);
        self.room.wait(s).unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks until an LSN is durable.
    pub fn wait(&self, lsn: Lsn) -> Result<()> {
        loop {
            let epoch = self.epoch.load(Ordering::Acquire);
            if self.durable_lsn() >= lsn {
                return Ok(());
            }
            let mut s = self.lock();
            if self.durable_lsn() >= lsn {
                return Ok(());
            }
            if let Some(e) = &s.failed {
                return Err(Error::Poisoned(e.clone()));
            }
            if !s.writing && !s.batch.is_empty() {
                s.writing = true;
                let work = s.take(self);
                drop(s);
                let _guard = PanicGuard(self);
                let outcome = self.perform(work, None);
                let mut s = self.lock();
                self.finish(&mut s, outcome);
                self.kick(&mut s);
                continue;
            }
            self.kick(&mut s);
            drop(s);
            // Woken early or for nothing: the loop looks again.
            let _ = futex::wait(&self.epoch, futex::Flags::PRIVATE, epoch, None);
        }
    }

    /// Waits for a durable LSN beyond `lsn`, and gives up when nothing at all happens for `timeout`; the durable LSN then.
    #[must_use]
    pub fn wait_beyond(&self, lsn: Lsn, timeout: std::time::Duration) -> Lsn {
        let limit = rustix::thread::Timespec::try_from(timeout).ok();
        loop {
            let epoch = self.epoch.load(Ordering::Acquire);
            let now = self.durable_lsn();
            if now > lsn || self.lock().failed.is_some() {
                return now;
            }
            // A wake-up that brought nothing (packs were written, say) is waited past.
            if futex::wait(&self.epoch, futex::Flags::PRIVATE, epoch, limit.as_ref()) == Err(Errno::TIMEDOUT) {
                return self.durable_lsn();
            }
        }
    }

    fn wake(&self) {
        self.epoch.fetch_add(1, Ordering::Release);
        // Nobody waiting is no error.
        let _ = futex::wake(&self.epoch, futex::Flags::PRIVATE, i32::MAX.unsigned_abs());
    }

    /// Ends a write: buffers back, failure noted, waiters woken.
    pub fn finish(&self, s: &mut State, outcome: Result<Returned>) {
        s.writing = false;
        match outcome {
            Ok(r) => {
                if s.spare_batches.len() < 2 {
                    s.spare_batches.extend(r.batch);
                }
                let room = 6usize.saturating_sub(s.spare_packs.len());
                s.spare_packs.extend(r.packs.into_iter().take(room));
            }
            Err(e) => {
                tracing::error!(error = %e, "the store takes no more writes");
                s.failed.get_or_insert(Arc::new(e));
            }
        }
        self.wake();
        self.room.notify_all();
    }

    /// Refuses new content when too little space is left for deletions and a clean end (S-41).
    pub fn check_space(&self) -> Result<()> {
        if !self.nearly_full.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.look_at_space();
        if !self.nearly_full.load(Ordering::Relaxed) {
            return Ok(());
        }
        let free = self.files.disk.free_space(&self.files.dir).unwrap_or(0);
        Err(Error::NearlyFull { path: self.files.dir.clone(), free, reserve: self.reserve })
    }

    /// The writer thread.
    pub fn run_writer(&self) {
        let _guard = PanicGuard(self);
        // Without a queue the plain calls serve.
        let mut queue = self.files.disk.queue().ok();
        let mut s = self.lock();
        loop {
            if s.failed.is_some() {
                return;
            }
            if s.writing || !s.has_work() {
                if s.closing && !s.writing {
                    return;
                }
                s.kicked = false;
                s = self.work.wait(s).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            s.writing = true;
            s.kicked = true;
            let work = s.take(self);
            drop(s);
            let outcome = match &mut queue {
                Some(q) => self.perform(work, Some(q.as_mut())),
                None => self.perform(work, None),
            };
            s = self.lock();
            self.finish(&mut s, outcome);
        }
    }

    /// Makes work durable. Only the one who set `writing` calls this.
    pub fn perform(&self, work: Work, mut queue: Option<&mut dyn Queue>) -> Result<Returned> {
        let mut device = locked(&self.device);
        let d = &mut *device;
        let mut returned = Returned::default();
        if !work.pack_writes.is_empty() {
            returned.packs = self.write_packs(d, work.pack_writes, reborrow(&mut queue))?;
        }
        if !work.rolled.is_empty() {
            self.sync_packs(d, reborrow(&mut queue))?;
            for rolled in work.rolled {
                self.seal_pack(d, rolled);
            }
        }
        if let Some(batch) = work.batch {
            self.sync_packs(d, reborrow(&mut queue))?; // W1
            returned.batch = Some(self.write_group(d, batch, queue)?); // W2
        }
        if d.since_look >= 1 << 20 {
            d.since_look = 0;
            self.look_at_space();
        }
        Ok(returned)
    }

    /// Notes whether the file system is nearly full.
    pub fn look_at_space(&self) {
        if let Ok(free) = self.files.disk.free_space(&self.files.dir) {
            self.nearly_full.store(free < self.reserve, Ordering::Relaxed);
        }
    }

    fn write_packs(
        &self,
        d: &mut Device,
        writes: Vec<PackWrite>,
        queue: Option<&mut dyn Queue>,
    ) -> Result<Vec<Buffer>> {
        let mut ops = Vec::with_capacity(writes.len());
        for w in writes {
            let file = self.pack_file(d, &w.table)?;
            let end = w.offset + w.len as u64;
            let allocated = d.allocated.entry(w.table.number).or_default();
            if end > *allocated {
                let step = PACK_STEP.min(self.pack_size.next_multiple_of(BLOCK as u64));
                let want = end.next_multiple_of(step);
                let path = self.files.path(FileName::new(FileKind::Pack, w.table.number));
                file.allocate(want).map_err(Error::io("allocating space for", path))?;
                *allocated = want;
            }
            if !d.dirty.iter().any(|t| t.number == w.table.number) {
                d.dirty.push(w.table.clone());
            }
            d.since_look += w.len as u64;
            ops.push((file, w.buffer, w.len, w.offset));
        }
        let dir = self.files.dir.join("pack");
        let Some(queue) = queue else {
            let mut buffers = Vec::with_capacity(ops.len());
            for (file, buffer, len, offset) in ops {
                write_full(file.as_ref(), &buffer[..len], offset, false)
                    .map_err(Error::io("writing a pack in", &dir))?;
                buffers.push(buffer);
            }
            return Ok(buffers);
        };
        let ops = ops
            .into_iter()
            .map(|(file, buffer, len, offset)| (file, Op::Write { buffer, from: 0, len, offset, durable: false }))
            .collect();
        let (buffers, result) = run_all(queue, ops);
        result.map_err(Error::io("writing a pack in", &dir))?;
        Ok(buffers)
    }

    /// The file of a pack; made with its first write.
    fn pack_file(&self, d: &mut Device, table: &Arc<PackTable>) -> Result<Arc<dyn File>> {
        if let Some(file) = table.file.get() {
            return Ok(file.clone());
        }
        let name = FileName::new(FileKind::Pack, table.number);
        let path = self.files.path(name);
        let disk = &self.files.disk;
        let file = disk.open(&path, OpenMode::CreateNewDirect).map_err(Error::io("creating", &path))?;
        let header =
            FileHeader { capacity: self.pack_size, ..FileHeader::new(self.files.store, name, self.clock.now()) };
        let mut block = Buffer::new(BLOCK);
        block.copy_from_slice(&header.block());
        write_full(file.as_ref(), &block, 0, true).map_err(Error::io("writing", &path))?;
        let dir = self.files.dir.join("pack");
        disk.sync_dir(&dir).map_err(Error::io("syncing", dir))?;
        d.allocated.insert(table.number, BLOCK as u64);
        Ok(table.file.get_or_init(|| file).clone())
    }

    fn sync_packs(&self, d: &mut Device, queue: Option<&mut dyn Queue>) -> Result<()> {
        if d.dirty.is_empty() {
            return Ok(());
        }
        let files: Vec<_> = d.dirty.iter().filter_map(|t| t.file.get().cloned()).collect();
        let dir = self.files.dir.join("pack");
        match queue {
            Some(q) => run_all(q, files.into_iter().map(|f| (f, Op::Sync)).collect()).1,
            None => files.iter().try_for_each(|f| f.sync()),
        }
        .map_err(Error::io("syncing a pack in", dir))?;
        d.dirty.clear();
        Ok(())
    }

    fn seal_pack(&self, d: &mut Device, rolled: Rolled) {
        d.allocated.remove(&rolled.table.number);
        let content = Content {
            end: rolled.end,
            records: rolled.entries,
            padding: rolled.padding,
            damaged: rolled.damaged,
            ..Content::default()
        };
        self.job(Job::SealPack { table: rolled.table, content });
    }

    fn write_group(&self, d: &mut Device, mut batch: Batch, queue: Option<&mut dyn Queue>) -> Result<Buffer> {
        let number = batch.target.table.number;
        if batch.target.fresh && d.segment.as_ref().is_none_or(|s| s.table.number != number) {
            self.activate(d, &batch)?;
        }
        let name = FileName::new(FileKind::Segment, number);
        let path = self.files.path(name);
        let Some(segment) = d.segment.as_mut().filter(|s| s.table.number == number) else {
            return Err(Error::io("writing", path)(std::io::Error::other("no active segment")));
        };
        let len = batch.used.next_multiple_of(BLOCK);
        batch.buffer[batch.used..len].fill(0);
        let header = GroupHeader {
            magic: segment::MAGIC,
            flags: 0,
            sequence: d.group + 1,
            first_lsn: batch.first_lsn,
            durable_lsn: self.durable_lsn().0,
            frame_count: batch.count,
            length: u32::try_from(len).map_err(|_| Error::TooLarge("group"))?,
            used: u32::try_from(batch.used).map_err(|_| Error::TooLarge("group"))?,
            reserved: 0,
            previous: d.chain,
            pack: batch.pack,
            pack_end: batch.pack_end,
            reserved2: [0; 12],
            check: [0; 16],
            crc: 0,
        };
        let place = Binding::new(self.files.store, name, batch.start);
        let check = segment::seal(&mut batch.buffer[..len], header, &place);
        let buffer = match queue {
            None => {
                write_full(segment.file.as_ref(), &batch.buffer[..len], batch.start, true)
                    .map_err(Error::io("writing", &path))?;
                batch.buffer
            }
            Some(q) => {
                let op = Op::Write { buffer: batch.buffer, from: 0, len, offset: batch.start, durable: true };
                let (mut buffers, result) = run_all(q, vec![(segment.file.clone(), op)]);
                result.map_err(Error::io("writing", &path))?;
                buffers.pop().unwrap_or_else(|| Buffer::new(BLOCK))
            }
        };
        d.chain = check;
        d.group += 1;
        segment.content.end = batch.start + len as u64;
        segment.content.records += u64::from(batch.count);
        segment.content.last_group = d.group;
        segment.content.root = check;
        segment.content.padding += (len - batch.used) as u64;
        (segment.content.pack, segment.content.pack_end) = (batch.pack, batch.pack_end);
        d.since_look += len as u64;
        self.durable.store(batch.first_lsn + u64::from(batch.count) - 1, Ordering::Release);
        Ok(buffer)
    }

    /// Gives the next segment its header and name, and the one before to its sealing.
    fn activate(&self, d: &mut Device, batch: &Batch) -> Result<()> {
        let table = batch.target.table.clone();
        let (file, temp, capacity) = self.spare.take(self, table.number, batch.target.capacity)?;
        let name = FileName::new(FileKind::Segment, table.number);
        let path = self.files.path(name);
        let header = FileHeader {
            first_lsn: batch.first_lsn,
            first_group: d.group + 1,
            previous: d.chain,
            capacity,
            ..FileHeader::new(self.files.store, name, self.clock.now())
        };
        let mut block = Buffer::new(BLOCK);
        block.copy_from_slice(&header.block());
        write_full(file.as_ref(), &block, 0, true).map_err(Error::io("writing", &temp))?;
        let disk = &self.files.disk;
        disk.rename(&temp, &path).map_err(Error::io("renaming", &temp))?;
        let dir = self.files.dir.join("log");
        disk.sync_dir(&dir).map_err(Error::io("syncing", dir))?;
        let file = table.file.get_or_init(|| file).clone();
        let next = ActiveSegment {
            table,
            file,
            capacity,
            content: Content { end: BLOCK as u64, last_group: d.group, root: d.chain, ..Content::default() },
        };
        self.order_spare(super::group::next_capacity(capacity, self.segment_size));
        if let Some(old) = d.segment.replace(next) {
            self.job(Job::SealSegment { table: old.table, content: old.content });
        }
        Ok(())
    }

    /// Has a segment of this size readied.
    pub fn order_spare(&self, capacity: u64) {
        if let Some(jobs) = locked(&self.jobs).as_ref() {
            self.spare.announce();
            if jobs.send(Job::Spare { capacity }).is_err() {
                self.spare.give_up();
            }
        }
    }

    /// Hands a job to the upkeep thread; without one (the store is closing) it is left to the next open.
    pub fn job(&self, job: Job) {
        if let Some(jobs) = locked(&self.jobs).as_ref() {
            // The thread is gone only when the store is being dropped.
            let _ = jobs.send(job);
        }
    }
}

/// Wakes everybody with an error when the one who writes panics: nobody else would.
struct PanicGuard<'a>(&'a Shared);

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let error = Error::io("writing to", &self.0.files.dir)(std::io::Error::other("the writer panicked"));
            let mut s = self.0.lock();
            self.0.finish(&mut s, Err(error));
        }
    }
}

fn reborrow<'a>(queue: &'a mut Option<&mut dyn Queue>) -> Option<&'a mut dyn Queue> {
    match queue {
        Some(q) => Some(&mut **q),
        None => None,
    }
}
