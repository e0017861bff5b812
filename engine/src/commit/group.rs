//! What waits for the next write: the batch of frames, and the tail of the active pack.
//!
//! All of it under one short lock: an append assigns the LSN, binds the frame to its place, copies it and indexes it.

use crate::blob::entry::Entry;
use crate::catalog::{Pack, PackPart, Segment, SegmentPart};
use crate::commit::writer::{Shared, Sleep};
use crate::disk::Buffer;
use crate::error::{Error, Result};
use crate::index::table::{PackTable, SegmentTable, write};
use mailstrata_format::frame::{Body, FrameHeader};
use mailstrata_format::index::Row;
use mailstrata_format::pack::Extent;
use mailstrata_format::segment::GroupHeader;
use mailstrata_format::{BLOCK, Binding, Digest, FileKind, FileName, Lsn};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A group is cut here, so that its latency stays bounded; one larger frame makes a larger group.
pub const GROUP_BYTES: usize = 1 << 20;
/// From here on the writer is told of frames that nobody waits for yet, so that it writes while the next are made: a write of
/// this size takes little longer than one of a block.
pub const KICK_BYTES: usize = 32 << 10;
/// Size of a pack buffer.
pub const PACK_BUFFER: usize = 1 << 20;
/// Pack bytes that may wait for the writer before producers are held back.
pub const PACK_QUEUE_BYTES: usize = 8 << 20;
/// A pack with this many blobs is full, whatever its size: its index is in memory until it is sealed.
pub const PACK_BLOBS: usize = 60_000;

/// No company is waited for.
pub const NOBODY: u64 = u64::MAX;

/// The segment that the batch goes to.
pub struct Target {
    pub table: Arc<SegmentTable>,
    /// Size of the file.
    pub capacity: u64,
    /// The file does not exist under its name yet.
    pub fresh: bool,
}

/// Frames that become the next group.
pub struct Batch {
    pub buffer: Buffer,
    /// Header and frames so far, in bytes.
    pub used: usize,
    pub count: u32,
    pub first_lsn: u64,
    /// Where the group starts in the segment.
    pub start: u64,
    /// Most bytes this batch may take here.
    pub room: usize,
    pub target: Target,
    /// The pack that is written to, and its end once the group's blobs are durable; set when the batch is taken.
    pub pack: u64,
    pub pack_end: u64,
}

impl Batch {
    /// Whether it holds a frame.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// Pack bytes to be written; a multiple of 4096.
pub struct PackWrite {
    pub table: Arc<PackTable>,
    pub buffer: Buffer,
    pub len: usize,
    pub offset: u64,
}

/// A pack that gets no more entries.
pub struct Rolled {
    pub table: Arc<PackTable>,
    pub end: u64,
    pub entries: u64,
    pub padding: u64,
    pub damaged: u64,
}

/// The active pack.
pub struct PackTail {
    pub table: Arc<PackTable>,
    pub buffer: Buffer,
    /// Bytes in the buffer.
    pub filled: usize,
    /// Where the buffer starts in the file, a multiple of 4096.
    pub start: u64,
    pub entries: u64,
    pub padding: u64,
    pub damaged: u64,
}

/// Everything under the commit lock.
pub struct State {
    pub next_lsn: u64,
    pub batch: Batch,
    /// Number of the batch that fills, counting on with overflow.
    pub batch_number: u32,
    /// Who sleeps until a batch ends, by the batch's number modulo 2, and who until there is room.
    pub waiting: [u32; 2],
    pub room_waiters: u32,
    pub pack: PackTail,
    pub pack_writes: VecDeque<PackWrite>,
    pub queued_bytes: usize,
    pub rolled: Vec<Rolled>,
    /// Numbers of packs given out.
    pub next_pack: u64,
    /// Somebody is writing.
    pub writing: bool,
    /// The writer thread has been told that there is work.
    pub kicked: bool,
    /// The writer sleeps until this LSN comes next, so that those who came back share a group; or [`NOBODY`].
    pub company: u64,
    pub closing: bool,
    pub failed: Option<Arc<Error>>,
    pub spare_batches: Vec<Buffer>,
    pub spare_packs: Vec<Buffer>,
}

/// What a writer takes out.
pub struct Work {
    pub pack_writes: Vec<PackWrite>,
    pub rolled: Vec<Rolled>,
    pub batch: Option<Batch>,
}

fn padded(n: usize) -> usize {
    n.next_multiple_of(BLOCK)
}

/// The size of the segment after one of `capacity` bytes.
#[must_use]
pub fn next_capacity(capacity: u64, largest: u64) -> u64 {
    capacity.saturating_mul(2).clamp(BLOCK as u64 * 4, largest.max(BLOCK as u64 * 4))
}

impl State {
    /// An empty batch at a place.
    #[must_use]
    pub fn batch_at(buffer: Option<Buffer>, target: Target, start: u64, bytes: usize) -> Batch {
        let free = usize::try_from(target.capacity.saturating_sub(start)).unwrap_or(usize::MAX);
        let room = bytes.min(free);
        let buffer = buffer.filter(|b| b.len() >= room).unwrap_or_else(|| Buffer::new(room.max(BLOCK)));
        Batch { buffer, used: GroupHeader::SIZE, count: 0, first_lsn: 0, start, room, target, pack: 0, pack_end: 0 }
    }

    fn group_bytes(shared: &Shared) -> usize {
        GROUP_BYTES.min(usize::try_from(shared.segment_size / 4).unwrap_or(GROUP_BYTES)).max(BLOCK)
    }

    /// Whether there is anything to write; `force` counts the tail of the pack too.
    #[must_use]
    pub fn has_work(&self) -> bool {
        !self.batch.is_empty() || !self.pack_writes.is_empty() || !self.rolled.is_empty()
    }

    /// Cuts what is in the pack's buffer to a write of its own.
    pub fn flush_pack(&mut self) {
        let p = &mut self.pack;
        if p.filled == 0 {
            return;
        }
        let len = padded(p.filled);
        p.buffer[p.filled..len].fill(0);
        p.padding += (len - p.filled) as u64;
        let fresh = self.spare_packs.pop().unwrap_or_else(|| Buffer::new(PACK_BUFFER));
        let buffer = std::mem::replace(&mut p.buffer, fresh);
        self.pack_writes.push_back(PackWrite { table: p.table.clone(), buffer, len, offset: p.start });
        self.queued_bytes += len;
        p.start += len as u64;
        p.filled = 0;
    }

    /// Takes all there is to write. With frames, the pack's tail goes along: every blob that a frame names was appended
    /// before the frame (W1).
    pub fn take(&mut self, shared: &Shared) -> Work {
        let batch = if self.batch.is_empty() {
            None
        } else {
            self.flush_pack();
            // A pack that nothing was written to has no file yet.
            let written = self.pack.start > BLOCK as u64;
            let (pack, pack_end) = if written { (self.pack.table.number, self.pack.start) } else { (0, 0) };
            Some(Batch { pack, pack_end, ..self.next_batch(shared) })
        };
        self.queued_bytes = 0;
        Work { pack_writes: self.pack_writes.drain(..).collect(), rolled: std::mem::take(&mut self.rolled), batch }
    }

    /// Replaces the batch by an empty one behind it.
    fn next_batch(&mut self, shared: &Shared) -> Batch {
        let old = &self.batch;
        let end = old.start + padded(old.used) as u64;
        let bytes = Self::group_bytes(shared);
        // A rest that takes less than half a group is not worth a group's latency: go on in the next segment.
        let least = (bytes / 2).max(BLOCK) as u64;
        let (target, start) = if end + least <= old.target.capacity {
            let t = Target { table: old.target.table.clone(), capacity: old.target.capacity, fresh: false };
            (t, end)
        } else {
            let capacity = next_capacity(old.target.capacity, shared.segment_size);
            (self.next_segment(shared, capacity), BLOCK as u64)
        };
        self.batch_number = self.batch_number.wrapping_add(1);
        let next = Self::batch_at(self.spare_batches.pop(), target, start, bytes);
        std::mem::replace(&mut self.batch, next)
    }

    /// The segment after the batch's, in the catalog at once so that its rows are found.
    fn next_segment(&self, shared: &Shared, capacity: u64) -> Target {
        let table = Arc::new(SegmentTable::for_bytes(self.batch.target.table.number + 1, capacity));
        shared.publish(|c| c.segments.push(Segment::new(table.name(), SegmentPart::Table(table.clone()))));
        Target { table, capacity, fresh: true }
    }

    /// Makes room for a frame of `len` bytes: `false` when the batch must be written first.
    fn make_room(&mut self, shared: &Shared, len: usize) -> bool {
        if self.batch.used + len <= self.batch.room {
            return true;
        }
        if !self.batch.is_empty() {
            return false;
        }
        // The batch is empty and the frame does not fit: a larger batch here, or a segment that takes it.
        let bytes = padded(GroupHeader::SIZE + len).max(Self::group_bytes(shared));
        let here = self.batch.start + bytes as u64 <= self.batch.target.capacity;
        let (target, start) = if here || self.batch.target.fresh {
            let t = &self.batch.target;
            let capacity = t.capacity.max(self.batch.start + bytes as u64);
            (Target { table: t.table.clone(), capacity, fresh: t.fresh }, self.batch.start)
        } else {
            let capacity = next_capacity(self.batch.target.capacity, shared.segment_size);
            (self.next_segment(shared, capacity.max((BLOCK + bytes) as u64)), BLOCK as u64)
        };
        self.batch = Self::batch_at(None, target, start, bytes);
        true
    }

    fn failure(&self) -> Result<()> {
        match &self.failed {
            Some(e) => Err(Error::Poisoned(e.clone())),
            None if self.closing => Err(Error::Closed),
            None => Ok(()),
        }
    }
}

impl Shared {
    /// Appends a frame to the batch. `row` lacks LSN, offset and length. Blocks while the batch is full. Who goes on to wait
    /// gets a place to sleep at when somebody is writing or about to. The writer is told only when much waits: who wants it sooner waits
    /// for it (see [`crate::store::Ticket`]), and all that was submitted until then shares a group.
    pub fn append_frame(&self, body: &Body, mut row: Row, source: u64, waits: bool) -> Result<(Lsn, Option<Sleep>)> {
        let len = body.frame_len();
        let mut s = self.lock();
        loop {
            s.failure()?;
            if s.make_room(self, len) {
                break;
            }
            s = self.wait_for_room(s);
        }
        let lsn = s.next_lsn;
        s.next_lsn += 1;
        self.appended.store(s.next_lsn, Ordering::Relaxed);
        if s.next_lsn >= s.company {
            self.end_company(&mut s);
        }
        let b = &mut s.batch;
        let offset = b.start + b.used as u64;
        let name = FileName::new(FileKind::Segment, b.target.table.number);
        let header = body.header(lsn, &Binding::new(self.files.store, name, offset));
        let used = b.used;
        b.buffer[used..used + FrameHeader::SIZE].copy_from_slice(&header);
        b.buffer[used + FrameHeader::SIZE..used + len].copy_from_slice(&body.bytes);
        b.used += len;
        if b.count == 0 {
            b.first_lsn = lsn;
        }
        b.count += 1;
        row.lsn = lsn;
        row.offset = u32::try_from(offset).map_err(|_| Error::TooLarge("segment"))?;
        row.length = u32::try_from(len).map_err(|_| Error::TooLarge("frame"))?;
        b.target.table.insert(&row, source);
        if !waits && s.batch.used >= KICK_BYTES {
            self.kick(&mut s);
        }
        let number = s.batch_number;
        let sleep = (waits && (s.writing || s.kicked)).then(|| self.sleep_until(&mut s, number));
        Ok((Lsn(lsn), sleep))
    }

    /// A row's frame and its place, while it waits in the batch.
    #[must_use]
    pub fn waiting_frame(&self, row: &Row) -> Option<(Binding, Vec<u8>)> {
        let s = self.lock();
        let b = &s.batch;
        if b.is_empty() || row.lsn < b.first_lsn {
            return None;
        }
        let from = usize::try_from(u64::from(row.offset).checked_sub(b.start)?).ok()?;
        let bytes = b.buffer[..b.used].get(from..from + row.length as usize)?.to_vec();
        let name = FileName::new(FileKind::Segment, b.target.table.number);
        Some((Binding::new(self.files.store, name, u64::from(row.offset)), bytes))
    }

    /// Appends an entry to the active pack; its blobs are known from then on, and durable before any frame that is
    /// appended later. Blocks while too much waits for the writer.
    pub fn append_entry(&self, entry: &Entry) -> Result<()> {
        self.check_space()?;
        let mut s = self.lock();
        loop {
            s.failure()?;
            if s.queued_bytes < PACK_QUEUE_BYTES {
                break;
            }
            s = self.wait_for_room(s);
        }
        let at = s.pack.start + s.pack.filled as u64;
        let full = at + entry.file_len() > self.pack_size || s.pack.table.len() >= PACK_BLOBS;
        if full && s.pack.entries > 0 {
            self.roll_pack(&mut s);
        }
        let offset = s.pack.start + s.pack.filled as u64;
        let table = s.pack.table.clone();
        let place = Binding::new(self.files.store, FileName::new(FileKind::Pack, table.number), offset);
        let state = &mut *s;
        entry.layout(&place, &mut |mut bytes| {
            while !bytes.is_empty() {
                let p = &mut state.pack;
                let n = bytes.len().min(PACK_BUFFER - p.filled);
                p.buffer[p.filled..p.filled + n].copy_from_slice(&bytes[..n]);
                p.filled += n;
                bytes = &bytes[n..];
                if p.filled == PACK_BUFFER {
                    state.flush_pack();
                }
            }
        });
        s.pack.entries += 1;
        for r in entry.rows() {
            table.insert(Extent {
                pack: table.number,
                entry_offset: offset,
                entry_len: entry.file_len(),
                raw_offset: r.raw_offset,
                length: r.length,
                digest: Digest(r.digest),
            });
        }
        self.kick(&mut s);
        Ok(())
    }

    /// Ends the active pack and begins the next.
    fn roll_pack(&self, s: &mut State) {
        s.flush_pack();
        let table = Arc::new(PackTable::new(s.next_pack));
        s.next_pack += 1;
        self.publish(|c| c.packs.push(Pack::new(table.number, PackPart::Table(table.clone()))));
        let fresh = PackTail {
            table,
            buffer: s.spare_packs.pop().unwrap_or_else(|| Buffer::new(PACK_BUFFER)),
            filled: 0,
            start: BLOCK as u64,
            entries: 0,
            padding: 0,
            damaged: 0,
        };
        let old = std::mem::replace(&mut s.pack, fresh);
        s.rolled.push(Rolled {
            table: old.table,
            end: old.start,
            entries: old.entries,
            padding: old.padding,
            damaged: old.damaged,
        });
    }

    /// Replaces the catalog by a changed copy.
    pub fn publish(&self, change: impl FnOnce(&mut crate::catalog::Catalog)) {
        let mut slot = write(&self.catalog);
        let mut next = (**slot).clone();
        change(&mut next);
        *slot = Arc::new(next);
    }
}
