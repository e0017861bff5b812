//! A disk that loses, tears, delays and fails whatever POSIX lets a disk lose, tear, delay and fail.
//!
//! In come the calls of the engine's seam, a seed and a plan of faults; out come bytes, errors, and the disk as it is
//! after a power cut. A sequence of calls and a seed decide everything. Guarantees it gives, and no more:
//!
//! | call | stable when it returns |
//! | --- | --- |
//! | `write_at(durable)` | these bytes and the file's length |
//! | `sync` | the file's bytes and length, not its name |
//! | `sync_dir` | the names in that directory (not the directory's own) |
//! | anything else | nothing: lost, kept, or torn at 512 bytes, in any order |
//!
//! A store that survives this disk survives a file system with the least promises (`reliability.md`, rows 2 and 3).

pub mod clock;

pub mod fault;

mod inode;

mod pages;

mod queue;

mod world;

pub use clock::SimClock;
pub use fault::{Effect, Fault, Noise, OpKind, Which};
pub use inode::{SECTOR, Survival};

use crate::rng::Rng;
use mailstrata_engine::disk::{Disk, File, OpenMode, Queue};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use world::{World, errno};

#[derive(Default)]
struct Locks {
    exclusive: Option<u64>,
    shared: BTreeSet<u64>,
}

struct Planned {
    fault: Fault,
    seen: u64,
}

struct Inner {
    world: World,
    rng: Rng,
    dead: bool,
    ops: u64,
    counts: BTreeMap<OpKind, u64>,
    faults: Vec<Planned>,
    hits: u64,
    noise: Noise,
    locks: BTreeMap<u64, Locks>,
    /// Open handles by the address they live at.
    addresses: BTreeMap<usize, Handle>,
    next_handle: u64,
    capacity: Option<u64>,
    snapshots: Option<Vec<World>>,
}

impl Inner {
    fn new(world: World, rng: Rng) -> Self {
        Self {
            world,
            rng,
            dead: false,
            ops: 0,
            counts: BTreeMap::new(),
            faults: Vec::new(),
            hits: 0,
            noise: Noise::default(),
            locks: BTreeMap::new(),
            addresses: BTreeMap::new(),
            next_handle: 0,
            capacity: None,
            snapshots: None,
        }
    }

    /// Counts an operation and says what goes wrong with it.
    fn begin(&mut self, kind: OpKind) -> io::Result<Option<Effect>> {
        if self.dead {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        self.ops += 1;
        *self.counts.entry(kind).or_default() += 1;
        let mut effect = None;
        for p in self.faults.iter_mut().filter(|p| p.fault.which.counts(kind)) {
            p.seen += 1;
            if p.seen >= p.fault.nth && p.seen - p.fault.nth < p.fault.times {
                effect = Some(p.fault.effect);
            }
        }
        if effect.is_some() {
            self.hits += 1;
        }
        if effect == Some(Effect::PowerCut) {
            self.dead = true;
            return Err(errno(libc::EIO));
        }
        let passing = matches!(kind, OpKind::Read | OpKind::Write | OpKind::WriteDurable);
        if effect.is_none() && passing && self.rng.one_in(self.noise.interrupted) {
            return Err(errno(*self.rng.pick(&[libc::EINTR, libc::EAGAIN])));
        }
        let short = match kind {
            OpKind::Read => self.noise.short_read,
            OpKind::Write | OpKind::WriteDurable => self.noise.short_write,
            _ => 0,
        };
        if effect.is_none() && self.rng.one_in(short) {
            effect = Some(Effect::Short);
        }
        Ok(effect)
    }

    /// A change of names or lengths: `Ok` when nothing goes wrong. On EIO it may have happened nevertheless.
    fn change<T>(&mut self, kind: OpKind, run: impl FnOnce(&mut World) -> io::Result<T>) -> io::Result<T> {
        let effect = self.begin(kind)?;
        let result = match effect {
            Some(Effect::Error(code)) => {
                if code == libc::EIO && self.rng.percent(50) {
                    drop(run(&mut self.world));
                }
                Err(errno(code))
            }
            _ => run(&mut self.world),
        };
        self.snapshot();
        result
    }

    fn snapshot(&mut self) {
        if let Some(all) = &mut self.snapshots {
            all.push(self.world.clone());
        }
    }

    /// How many more bytes a write may add to a file.
    fn room(&self, file: u64, offset: u64, len: usize) -> io::Result<usize> {
        let Some(capacity) = self.capacity else { return Ok(len) };
        let grows = (offset + len as u64).saturating_sub(self.world.inode(file)?.cache.len());
        let free = capacity.saturating_sub(self.world.used());
        if grows <= free {
            return Ok(len);
        }
        let fits = (len as u64).saturating_sub(grows - free);
        if fits == 0 { Err(errno(libc::ENOSPC)) } else { Ok(usize::try_from(fits).unwrap_or(0)) }
    }

    fn write(&mut self, handle: Handle, bytes: &[u8], offset: u64, durable: bool) -> io::Result<usize> {
        let kind = if durable { OpKind::WriteDurable } else { OpKind::Write };
        let effect = self.begin(kind)?;
        let file = handle.file;
        let mut len = handle.whole_units(self.room(file, offset, bytes.len())?);
        if len == 0 && !bytes.is_empty() {
            return Err(errno(libc::ENOSPC));
        }
        let mut at = offset;
        match effect {
            Some(Effect::Error(code)) => {
                if code == libc::EIO {
                    let part = handle.whole_units(self.rng.index(len + 1));
                    self.world.inode_mut(file)?.write(&bytes[..part], offset);
                    self.snapshot();
                }
                return Err(errno(code));
            }
            Some(Effect::Lose) => return Ok(len),
            Some(Effect::Misdirect(by)) => at += by,
            Some(Effect::Short) => len = handle.part(len, &mut self.rng),
            _ => {}
        }
        let inode = self.world.inode_mut(file)?;
        if durable {
            inode.write_durable(&bytes[..len], at);
        } else {
            inode.write(&bytes[..len], at);
        }
        self.snapshot();
        Ok(len)
    }

    fn sync(&mut self, file: u64) -> io::Result<()> {
        let effect = self.begin(OpKind::Sync)?;
        let forget = self.rng.percent(50);
        let inode = self.world.inode_mut(file)?;
        let result = match effect {
            Some(Effect::Error(code)) => {
                inode.lose_dirty(forget);
                Err(errno(code))
            }
            Some(Effect::FsyncGate) => {
                inode.lose_dirty(forget);
                Err(errno(libc::EIO))
            }
            Some(Effect::Lose) => Ok(()),
            _ => {
                inode.sync();
                Ok(())
            }
        };
        self.snapshot();
        result
    }
}

struct Shared(Mutex<Inner>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A test that failed while it held the lock has said so already.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// See the module's text. Clones are the same disk.
#[derive(Clone)]
pub struct SimDisk {
    shared: Arc<Shared>,
}

impl SimDisk {
    /// An empty disk.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::from_world(World::default(), Rng::new(seed))
    }

    fn from_world(world: World, rng: Rng) -> Self {
        Self { shared: Arc::new(Shared(Mutex::new(Inner::new(world, rng)))) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.shared.lock()
    }

    /// Plans a fault; it counts from now on.
    pub fn plan(&self, fault: Fault) {
        self.inner().faults.push(Planned { fault, seen: 0 });
    }

    /// Nothing goes wrong from now on.
    pub fn clear_faults(&self) {
        let mut inner = self.inner();
        inner.faults.clear();
        inner.noise = Noise::default();
    }

    /// How often a planned fault struck.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.inner().hits
    }

    /// Small nuisances.
    pub fn set_noise(&self, noise: Noise) {
        self.inner().noise = noise;
    }

    /// Handles that are open.
    #[must_use]
    pub fn handles(&self) -> usize {
        self.inner().addresses.len()
    }

    /// How many bytes all files may have together; more is ENOSPC.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.inner().capacity = bytes;
    }

    /// Bytes of all files.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.inner().world.used()
    }

    /// Operations so far.
    #[must_use]
    pub fn ops(&self) -> u64 {
        self.inner().ops
    }

    /// Operations so far, by kind.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<OpKind, u64> {
        self.inner().counts.clone()
    }

    /// Operations so far that a fault of this kind counts.
    #[must_use]
    pub fn count(&self, which: Which) -> u64 {
        self.inner().counts.iter().filter(|(k, _)| which.counts(**k)).map(|(_, n)| n).sum()
    }

    /// Whether the power is off.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.inner().dead
    }

    /// Changes that a power cut may take.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        self.inner().world.unsynced()
    }

    /// Cuts the power. Handles of this disk answer EIO for ever; the disk goes on as the one returned.
    #[must_use]
    pub fn power_cut(&self, seed: u64, how: Survival) -> Self {
        let mut inner = self.inner();
        inner.dead = true;
        let mut rng = Rng::new(seed);
        let mut next = Inner::new(inner.world.after_power_cut(&mut rng, how), rng.fork());
        next.capacity = inner.capacity;
        Self { shared: Arc::new(Shared(Mutex::new(next))) }
    }

    /// All processes die and the system stays up: locks go, the cache stays, what was in flight may or may not run.
    /// Handles of this disk answer EIO for ever; the disk goes on as the one returned.
    #[must_use]
    pub fn processes_died(&self, seed: u64) -> Self {
        let mut inner = self.inner();
        inner.dead = true;
        let mut rng = Rng::new(seed);
        let mut next = Inner::new(inner.world.after_process_death(&mut rng), rng.fork());
        next.capacity = inner.capacity;
        Self { shared: Arc::new(Shared(Mutex::new(next))) }
    }

    /// From now on keeps the state after each change.
    pub fn keep_snapshots(&self) {
        let mut inner = self.inner();
        let now = inner.world.clone();
        inner.snapshots = Some(vec![now]);
    }

    /// Number of the newest snapshot.
    #[must_use]
    pub fn newest_snapshot(&self) -> usize {
        self.inner().snapshots.as_ref().map_or(0, |s| s.len().saturating_sub(1))
    }

    /// The disk as it would be, had the power gone right after a snapshot was taken.
    #[must_use]
    pub fn power_cut_at(&self, snapshot: usize, seed: u64, how: Survival) -> Option<Self> {
        let inner = self.inner();
        let world = inner.snapshots.as_ref()?.get(snapshot)?;
        let mut rng = Rng::new(seed);
        Some(Self::from_world(world.after_power_cut(&mut rng, how), rng.fork()))
    }

    /// An independent disk with the same files, all stable; nobody holds a lock there.
    #[must_use]
    pub fn copy(&self, seed: u64) -> Self {
        let inner = self.inner();
        let mut rng = Rng::new(seed);
        let mut world = inner.world.after_process_death(&mut rng).after_power_cut(&mut rng, Survival::Everything);
        world.flying.clear();
        Self::from_world(world, rng)
    }

    /// As [`SimDisk::copy`], with what is not stable still not stable.
    #[must_use]
    pub fn copy_unsynced(&self, seed: u64) -> Self {
        let inner = self.inner();
        let mut rng = Rng::new(seed);
        Self::from_world(inner.world.after_process_death(&mut rng), rng)
    }

    /// Paths and lengths of all files.
    #[must_use]
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let inner = self.inner();
        let len = |f: u64| inner.world.inode(f).map_or(0, |i| i.cache.len());
        inner.world.all_files().into_iter().map(|(p, f)| (p, len(f))).collect()
    }

    /// A file's bytes.
    #[must_use]
    pub fn bytes(&self, path: &Path) -> Option<Vec<u8>> {
        let inner = self.inner();
        let cache = &inner.world.inode(inner.world.file_at(path).ok()?).ok()?.cache;
        Some(cache.range(0, usize::try_from(cache.len()).ok()?))
    }

    /// Changes a file's bytes behind everybody's back, as rot does.
    pub fn damage(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = self.bytes(path).unwrap_or_default();
        change(&mut bytes);
        self.inner().world.plant(path, &bytes);
    }

    /// Flips a bit behind everybody's back.
    pub fn flip(&self, path: &Path, bit: u64) {
        self.damage(path, |bytes| {
            if let Some(b) = usize::try_from(bit / 8).ok().and_then(|i| bytes.get_mut(i)) {
                *b ^= 1 << (bit % 8);
            }
        });
    }
}

/// An open file.
#[derive(Clone, Copy)]
struct Handle {
    file: u64,
    id: u64,
    writable: bool,
    direct: bool,
}

struct SimFile {
    shared: Arc<Shared>,
    handle: Handle,
}

impl Handle {
    /// What O_DIRECT asks for.
    fn aligned(self, buf: &[u8], offset: u64) -> io::Result<()> {
        let whole = |n: u64| n.is_multiple_of(4096);
        if self.direct && !(whole(buf.as_ptr() as u64) && whole(buf.len() as u64) && whole(offset)) {
            return Err(errno(libc::EINVAL));
        }
        Ok(())
    }

    /// Bytes of which the kernel moves whole units only.
    const fn whole_units(self, len: usize) -> usize {
        if self.direct { len / 4096 * 4096 } else { len }
    }

    /// A part of `len` bytes, at least one unit.
    fn part(self, len: usize, rng: &mut Rng) -> usize {
        let unit = if self.direct { 4096 } else { 1 };
        if len <= unit { len } else { self.whole_units(unit + rng.index(len - unit)) }
    }

    fn writable(self) -> io::Result<()> {
        if self.writable { Ok(()) } else { Err(errno(libc::EBADF)) }
    }
}

impl File for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.handle.aligned(buf, offset)?;
        let mut inner = self.shared.lock();
        let want = match inner.begin(OpKind::Read)? {
            Some(Effect::Error(code)) => return Err(errno(code)),
            Some(Effect::Short) => self.handle.part(buf.len(), &mut inner.rng),
            _ => buf.len(),
        };
        Ok(inner.world.inode(self.handle.file)?.cache.read(&mut buf[..want], offset))
    }

    fn write_at(&self, buf: &[u8], offset: u64, durable: bool) -> io::Result<usize> {
        self.handle.aligned(buf, offset)?;
        self.handle.writable()?;
        self.shared.lock().write(self.handle, buf, offset, durable)
    }

    fn sync(&self) -> io::Result<()> {
        self.shared.lock().sync(self.handle.file)
    }

    fn len(&self) -> io::Result<u64> {
        let mut inner = self.shared.lock();
        match inner.begin(OpKind::Len)? {
            Some(Effect::Error(code)) => Err(errno(code)),
            _ => Ok(inner.world.inode(self.handle.file)?.cache.len()),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.handle.writable()?;
        self.shared.lock().change(OpKind::SetLen, |w| {
            w.inode_mut(self.handle.file)?.set_len(len);
            Ok(())
        })
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.handle.writable()?;
        let mut inner = self.shared.lock();
        let now = inner.world.inode(self.handle.file)?.cache.len();
        let more = len.saturating_sub(now);
        let room = inner.room(self.handle.file, now, usize::try_from(more).unwrap_or(usize::MAX));
        let fits = more == 0 || room.is_ok_and(|n| n as u64 == more);
        inner.change(OpKind::Allocate, |w| {
            if !fits {
                return Err(errno(libc::ENOSPC));
            }
            let inode = w.inode_mut(self.handle.file)?;
            inode.set_len(len.max(now));
            Ok(())
        })
    }

    fn try_lock(&self, exclusive: bool) -> io::Result<bool> {
        let mut inner = self.shared.lock();
        if let Some(Effect::Error(code)) = inner.begin(OpKind::Lock)? {
            return Err(errno(code));
        }
        let locks = inner.locks.entry(self.handle.file).or_default();
        let others = locks.shared.iter().any(|h| *h != self.handle.id);
        if locks.exclusive.is_some_and(|h| h != self.handle.id) || (exclusive && others) {
            return Ok(false);
        }
        locks.exclusive = exclusive.then_some(self.handle.id);
        locks.shared.remove(&self.handle.id);
        if !exclusive {
            locks.shared.insert(self.handle.id);
        }
        Ok(true)
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut inner = self.shared.lock();
        inner.addresses.remove(&(std::ptr::from_ref(self) as usize));
        if let Some(locks) = inner.locks.get_mut(&self.handle.file) {
            locks.shared.remove(&self.handle.id);
            if locks.exclusive == Some(self.handle.id) {
                locks.exclusive = None;
            }
        }
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let create = matches!(mode, OpenMode::CreateNew | OpenMode::CreateNewDirect);
        let mut inner = self.inner();
        let file = if create {
            let full = inner.capacity.is_some_and(|c| inner.world.used() >= c);
            inner.change(OpKind::Create, |w| if full { Err(errno(libc::ENOSPC)) } else { w.create(path) })?
        } else {
            if let Some(Effect::Error(code)) = inner.begin(OpKind::Open)? {
                return Err(errno(code));
            }
            inner.world.file_at(path)?
        };
        inner.next_handle += 1;
        let handle = Handle {
            file,
            id: inner.next_handle,
            writable: mode != OpenMode::Read,
            direct: matches!(mode, OpenMode::WriteDirect | OpenMode::CreateNewDirect),
        };
        let open: Arc<dyn File> = Arc::new(SimFile { shared: self.shared.clone(), handle });
        inner.addresses.insert(queue::address(&open), handle);
        Ok(open)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut inner = self.inner();
        if let Some(Effect::Error(code)) = inner.begin(OpKind::List)? {
            return Err(errno(code));
        }
        let mut names = inner.world.list(dir)?;
        inner.rng.shuffle(&mut names);
        Ok(names)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner().change(OpKind::CreateDir, |w| w.create_dir(dir))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner().change(OpKind::Rename, |w| w.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.inner().change(OpKind::Remove, |w| w.remove(path))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner().change(OpKind::SyncDir, |w| w.sync_dir(dir))
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        let mut inner = self.inner();
        if let Some(Effect::Error(code)) = inner.begin(OpKind::FreeSpace)? {
            return Err(errno(code));
        }
        inner.world.look_up(path)?;
        Ok(inner.capacity.map_or(1 << 40, |c| c.saturating_sub(inner.world.used())))
    }

    fn queue(&self) -> io::Result<Box<dyn Queue>> {
        let mut inner = self.inner();
        if let Some(Effect::Error(code)) = inner.begin(OpKind::Queue)? {
            return Err(errno(code));
        }
        Ok(Box::new(queue::SimQueue::new(self.shared.clone())))
    }

    fn backend(&self) -> &'static str {
        "simulated"
    }
}

#[cfg(test)]
mod tests;
