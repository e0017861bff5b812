//! Makes what waits durable: packs first (W1), then the group (W2); one at a time.
//!
//! Whoever finds nobody writing may write: a caller that waits alone does it himself with plain calls, a busy queue is
//! served by the writer thread with its ring. A failed write or sync ends all writing: what reached the disk is unknown,
//! and a second sync would prove nothing.

use super::group::{Batch, NOBODY, PackWrite, Rolled, State, Work};
use super::upkeep::{Job, Sealed, SpareSlot};
use crate::catalog::Catalog;
use crate::disk::{Buffer, Clock, File, Op, OpenMode, Queue, Stopwatch, run_all, run_all_while, write_full};
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
use std::time::Duration;

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

/// Whether to wait a little for the producers that were woken last. Those that come back at once would otherwise split into
/// two halves that take turns, each group with half of them. That halves the rate where a write takes long and producers are
/// quick; where producers are what takes long, it is better that they work while the device does. Told apart by trying.
#[derive(Default)]
struct Company {
    /// Groups that are written without waiting.
    skip: u32,
    /// What `skip` was last set to.
    skipped: u32,
}

/// After a wait in vain one group is written without waiting, after each further one twice as many, up to this.
const SKIP_MAX: u32 = 1024;
/// Longest wait for company, whatever a write takes.
const COMPANY_MAX: Duration = Duration::from_millis(20);
/// Up to here the wait is a look again and again, which starts the group at once; a longer one leaves the core to those who are
/// waited for.
const COMPANY_LOOK: Duration = Duration::from_micros(200);

impl Company {
    /// Whether to wait now that so many are woken.
    fn expected(&mut self, sleepers: u32) -> bool {
        let skip = self.skip > 0;
        self.skip = self.skip.saturating_sub(1);
        !skip && sleepers > 1
    }

    /// Waits until `expected` frames have come since `begin`, for as long as the last write took at most: who needs longer had
    /// better work while the device does. `came` tells how many came, `sleep` sleeps until all have or the time since `begin` is
    /// over.
    fn gather(
        &mut self,
        begin: &Stopwatch,
        write: Duration,
        expected: u64,
        came: impl Fn() -> u64,
        sleep: impl FnOnce(Duration),
    ) {
        let limit = write.min(COMPANY_MAX);
        while came() < expected && begin.elapsed() < limit.min(COMPANY_LOOK) {
            std::thread::yield_now();
        }
        if came() < expected && begin.elapsed() < limit {
            sleep(limit);
        }
        // The one or other may have stayed away.
        if came() * 4 >= expected * 3 {
            self.skipped = 0;
        } else {
            self.skipped = (self.skipped * 2).clamp(1, SKIP_MAX);
            self.skip = self.skipped;
        }
    }
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
    /// The LSN that comes next, for a look without the lock.
    pub appended: AtomicU64,
    /// One of them changes when a batch ends, by the batch's number: what those who wait for it sleep on, so that a group
    /// wakes its own and not those of the next. Two are enough: one batch is being written while one fills.
    pub ends: [AtomicU32; 2],
    /// Changes with every write and on failure; what tails sleep on, and how many do.
    pub epoch: AtomicU32,
    pub tails: AtomicU32,
    pub catalog: RwLock<Arc<Catalog>>,
    pub device: Mutex<Device>,
    pub jobs: Mutex<Option<Sender<Job>>>,
    pub spare: SpareSlot,
    /// What the last writer left to be sealed.
    pub unfinished: Mutex<Vec<Job>>,
    /// The manifest as it was last written.
    pub manifest: Mutex<Manifest>,
    /// What compaction waits on.
    pub sealed: Sealed,
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

/// Where one waits for the end of a batch: a word, and what it held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sleep {
    end: usize,
    before: u32,
}

/// Who is to be woken after a write.
#[derive(Default)]
#[must_use]
pub struct Wake {
    ends: [bool; 2],
    room: bool,
    /// How many sleep until a batch ends that has ended.
    sleepers: u32,
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

    /// As [`Shared::kick`].
    pub fn kick_now(&self) {
        let mut s = self.lock();
        self.kick(&mut s);
    }

    /// Sleeps until the writer made room.
    pub fn wait_for_room<'a>(&'a self, mut s: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.kick(&mut s);
        s.room_waiters += 1;
        self.end_company(&mut s);
        self.room.wait(s).unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps until the LSN that comes next is `until`, somebody waits for room, the store closes, or `limit` has passed since
    /// `begin`.
    fn wait_for_company(&self, until: u64, begin: &Stopwatch, limit: Duration) {
        let mut s = self.lock();
        s.company = until;
        while s.company != NOBODY && s.next_lsn < until && s.room_waiters == 0 && !s.closing {
            let left = limit.saturating_sub(begin.elapsed());
            if left.is_zero() {
                break;
            }
            s = self.work.wait_timeout(s, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        s.company = NOBODY;
    }

    /// The writer waits for company no longer.
    pub fn end_company(&self, s: &mut State) {
        if s.company != NOBODY {
            s.company = NOBODY;
            self.work.notify_one();
        }
    }

    /// Blocks until an LSN is durable.
    pub fn wait(&self, lsn: Lsn) -> Result<()> {
        loop {
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
            // A writer that was told and has not come yet is on its way: it finds more company than this caller has.
            if !s.writing && !s.kicked && !s.batch.is_empty() {
                s.writing = true;
                let work = s.take(self);
                drop(s);
                let _guard = PanicGuard(self);
                let outcome = self.perform(work, None, &mut None);
                let mut s = self.lock();
                let wake = self.finish(&mut s, outcome);
                self.kick(&mut s);
                drop(s);
                self.wake(wake);
                continue;
            }
            self.kick(&mut s);
            let fills = !s.batch.is_empty() && lsn.0 >= s.batch.first_lsn;
            let number = if fills { s.batch_number } else { s.batch_number.wrapping_sub(1) };
            let sleep = self.sleep_until(&mut s, number);
            drop(s);
            self.sleep(&sleep);
        }
    }

    /// A place to sleep at until the batch with this number ends. Under the lock, so that its end is not missed.
    pub fn sleep_until(&self, s: &mut State, number: u32) -> Sleep {
        let end = usize::from(number % 2 == 1);
        s.waiting[end] += 1;
        Sleep { end, before: self.ends[end].load(Ordering::Relaxed) }
    }

    /// Sleeps; woken early or for nothing, the caller looks again.
    pub fn sleep(&self, at: &Sleep) {
        let _ = futex::wait(&self.ends[at.end], futex::Flags::PRIVATE, at.before, None);
    }

    /// Waits for a durable LSN beyond `lsn`, and gives up when nothing at all happens for `timeout`; the durable LSN then.
    #[must_use]
    pub fn wait_beyond(&self, lsn: Lsn, timeout: std::time::Duration) -> Lsn {
        let limit = rustix::thread::Timespec::try_from(timeout).ok();
        loop {
            // Counted before the epoch is read: who changes it afterwards sees that somebody may sleep.
            self.tails.fetch_add(1, Ordering::SeqCst);
            let epoch = self.epoch.load(Ordering::SeqCst);
            let now = self.durable_lsn();
            if now > lsn || self.lock().failed.is_some() {
                self.tails.fetch_sub(1, Ordering::SeqCst);
                return now;
            }
            // A wake-up that brought nothing (packs were written, say) is waited past.
            let woken = futex::wait(&self.epoch, futex::Flags::PRIVATE, epoch, limit.as_ref());
            self.tails.fetch_sub(1, Ordering::SeqCst);
            if woken == Err(Errno::TIMEDOUT) {
                return self.durable_lsn();
            }
        }
    }

    /// Wakes those who waited for a write that has ended. Without the lock: the first thing that many of them do is take it.
    pub fn wake(&self, wake: Wake) {
        // Nobody waiting is no error.
        for (end, _) in self.ends.iter().zip(wake.ends).filter(|(_, waiting)| *waiting) {
            let _ = futex::wake(end, futex::Flags::PRIVATE, i32::MAX.unsigned_abs());
        }
        if wake.room {
            self.room.notify_all();
        }
        self.epoch.fetch_add(1, Ordering::SeqCst);
        if self.tails.load(Ordering::SeqCst) > 0 {
            let _ = futex::wake(&self.epoch, futex::Flags::PRIVATE, i32::MAX.unsigned_abs());
        }
    }

    /// Nothing will be written any more: nobody is left asleep.
    pub fn wake_everybody(&self) {
        self.ends.iter().for_each(|end| _ = end.fetch_add(1, Ordering::Release));
        self.wake(Wake { ends: [true; 2], room: true, sleepers: 0 });
    }

    /// Ends a write: buffers back, failure noted. The caller passes on to [`Shared::wake`] who is to be woken.
    pub fn finish(&self, s: &mut State, outcome: Result<Returned>) -> Wake {
        s.writing = false;
        let mut ended = [false; 2];
        match outcome {
            Ok(r) => {
                // The batch that was written is the one before the one that fills.
                ended[usize::from(s.batch_number.is_multiple_of(2))] = r.batch.is_some();
                if s.spare_batches.len() < 2 {
                    s.spare_batches.extend(r.batch);
                }
                let room = 6usize.saturating_sub(s.spare_packs.len());
                s.spare_packs.extend(r.packs.into_iter().take(room));
            }
            Err(e) => {
                tracing::error!(error = %e, "the store takes no more writes");
                s.failed.get_or_insert(Arc::new(e));
                ended = [true; 2];
            }
        }
        let mut wake = Wake { ends: [false; 2], room: std::mem::take(&mut s.room_waiters) > 0, sleepers: 0 };
        for (i, end) in self.ends.iter().enumerate().filter(|(i, _)| ended[*i]) {
            end.fetch_add(1, Ordering::Release);
            let sleepers = std::mem::take(&mut s.waiting[i]);
            wake.ends[i] = sleepers > 0;
            wake.sleepers += sleepers;
        }
        wake
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
        // Who waited for the write before is woken while the next is under way.
        let mut wake = None;
        let mut company = Company::default();
        let mut s = self.lock();
        loop {
            let idle = s.failed.is_some() || s.writing || !s.has_work();
            if idle && let Some(w) = wake.take() {
                drop(s);
                self.wake(w);
                s = self.lock();
                continue;
            }
            if s.failed.is_some() {
                return;
            }
            if idle {
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
            let queue = queue.as_mut().map(|q| &mut **q as &mut dyn Queue);
            let begin = Stopwatch::start();
            let outcome = self.perform(work, queue, &mut wake);
            let took = begin.elapsed();
            s = self.lock();
            let ended = self.finish(&mut s, outcome);
            if s.failed.is_some() || s.closing || !company.expected(ended.sleepers) {
                wake = Some(ended);
                continue;
            }
            let (expected, next) = (u64::from(ended.sleepers), s.next_lsn);
            drop(s);
            self.wake(ended);
            let begin = Stopwatch::start();
            let came = || self.appended.load(Ordering::Relaxed).saturating_sub(next);
            let sleep = |limit| self.wait_for_company(next + expected, &begin, limit);
            company.gather(&begin, took, expected, came, sleep);
            s = self.lock();
        }
    }

    /// Makes work durable. Only the one who set `writing` calls this. `wake` is used up as soon as the device is busy.
    pub fn perform(&self, work: Work, mut queue: Option<&mut dyn Queue>, wake: &mut Option<Wake>) -> Result<Returned> {
        if queue.is_none() {
            self.wake_now(wake);
        }
        let outcome = self.perform_under(work, reborrow(&mut queue), wake);
        self.wake_now(wake);
        outcome
    }

    fn wake_now(&self, wake: &mut Option<Wake>) {
        if let Some(w) = wake.take() {
            self.wake(w);
        }
    }

    fn perform_under(
        &self,
        work: Work,
        mut queue: Option<&mut dyn Queue>,
        wake: &mut Option<Wake>,
    ) -> Result<Returned> {
        let mut device = locked(&self.device);
        let d = &mut *device;
        let mut returned = Returned::default();
        if !work.pack_writes.is_empty() {
            returned.packs = self.write_packs(d, work.pack_writes, reborrow(&mut queue), wake)?;
        }
        if !work.rolled.is_empty() {
            self.sync_packs(d, reborrow(&mut queue))?;
            for rolled in work.rolled {
                self.seal_pack(d, rolled);
            }
        }
        if let Some(batch) = work.batch {
            self.sync_packs(d, reborrow(&mut queue))?; // W1
            returned.batch = Some(self.write_group(d, batch, queue, wake)?); // W2
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
        wake: &mut Option<Wake>,
    ) -> Result<Vec<Buffer>> {
        let mut ops = Vec::with_capacity(writes.len());
        let ends: Vec<_> = writes.iter().map(|w| (w.table.clone(), w.offset + w.len as u64)).collect();
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
            ends.iter().for_each(|(table, end)| table.note_written(*end));
            return Ok(buffers);
        };
        let ops = ops
            .into_iter()
            .map(|(file, buffer, len, offset)| (file, Op::Write { buffer, from: 0, len, offset, durable: false }))
            .collect();
        let (buffers, result) = run_all_while(queue, ops, &mut || self.wake_now(wake));
        result.map_err(Error::io("writing a pack in", &dir))?;
        ends.iter().for_each(|(table, end)| table.note_written(*end));
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
        d.dirty.drain(..).for_each(|table| table.note_durable());
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

    fn write_group(
        &self,
        d: &mut Device,
        mut batch: Batch,
        queue: Option<&mut dyn Queue>,
        wake: &mut Option<Wake>,
    ) -> Result<Buffer> {
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
                let (mut buffers, result) =
                    run_all_while(q, vec![(segment.file.clone(), op)], &mut || self.wake_now(wake));
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
            let wake = self.0.finish(&mut s, Err(error));
            drop(s);
            self.0.wake(wake);
        }
    }
}

fn reborrow<'a>(queue: &'a mut Option<&mut dyn Queue>) -> Option<&'a mut dyn Queue> {
    match queue {
        Some(q) => Some(&mut **q),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn company_that_comes_is_waited_for_and_company_that_stays_away_less_and_less() {
        let mut company = Company::default();
        assert!(!company.expected(1), "nobody waits for one who writes alone");
        let long = Duration::from_secs(60);
        assert!(company.expected(8));
        company.gather(&Stopwatch::start(), long, 8, || 8, |_| panic!("all are there"));
        for skipped in [1, 2, 4, 8] {
            assert!(company.expected(8));
            let begin = Stopwatch::start();
            let mut slept = Duration::ZERO;
            company.gather(&begin, long, 8, || 5, |limit| slept = limit);
            // On a busy machine the look alone may have taken all the time there is.
            let bounded = slept == COMPANY_MAX || begin.elapsed() >= COMPANY_MAX;
            assert!(bounded, "the bound holds, however long the write took");
            assert!(begin.elapsed() >= COMPANY_LOOK, "first it is looked for");
            assert_eq!((0..skipped).filter(|_| company.expected(8)).count(), 0);
        }
        assert!(company.expected(8));
        company.gather(&Stopwatch::start(), long, 8, || 8, |_| panic!("all are there"));
        assert!(company.expected(8), "once they come again, they are waited for again");
    }
}
