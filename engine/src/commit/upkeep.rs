//! Work beside the commits: the next segment full of zeros ahead of need, footers for what is full, the manifest.
//!
//! A sealed file is vouched for by its footer and its manifest entry (W4). When a job fails nothing is lost: the file stays
//! as it is, and the next open seals it.

use super::writer::{Shared, locked};
use crate::catalog::{Pack, PackPart, SegmentPart};
use crate::disk::{Buffer, File, OpenMode, write_full};
use crate::error::{Error, Result};
use crate::files::Files;
use crate::index::checkpoint::{self, Content};
use crate::index::run::IndexRun;
use crate::index::table::{PackTable, SegmentTable};
use mailstrata_format::manifest::{Manifest, ManifestEntry, SEALED};
use mailstrata_format::{BLOCK, FileKind, FileName};
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// What the upkeep thread does.
pub enum Job {
    /// Ready a segment of this size.
    Spare {
        capacity: u64,
    },
    SealSegment {
        table: Arc<SegmentTable>,
        content: Content,
    },
    SealPack {
        table: Arc<PackTable>,
        content: Content,
    },
    /// Says that all before it is done.
    Tell(Sender<()>),
}

/// Tells compaction that there may be something to do.
#[derive(Default)]
pub struct Sealed {
    news: Mutex<bool>,
    changed: Condvar,
}

impl Sealed {
    /// There is something new.
    pub fn tell(&self) {
        *locked(&self.news) = true;
        self.changed.notify_all();
    }

    /// Waits for something new, or so long.
    pub fn wait(&self, timeout: Duration) {
        let news = locked(&self.news);
        let waited = self.changed.wait_timeout_while(news, timeout, |news| !*news);
        let (mut news, _) = waited.unwrap_or_else(std::sync::PoisonError::into_inner);
        *news = false;
    }
}

enum Slot {
    Empty,
    /// Being made.
    Coming,
    Ready {
        file: Arc<dyn File>,
        capacity: u64,
    },
}

/// The segment that is ready ahead of need.
pub struct SpareSlot {
    slot: Mutex<Slot>,
    changed: Condvar,
}

impl Default for SpareSlot {
    fn default() -> Self {
        Self { slot: Mutex::new(Slot::Empty), changed: Condvar::new() }
    }
}

/// Path of the spare segment.
fn spare_path(files: &Files) -> PathBuf {
    files.dir.join("log/spare.tmp")
}

/// Removes a file that may not be there.
pub fn remove_if_there(files: &Files, path: &std::path::Path) -> Result<()> {
    match files.disk.remove(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("removing", path)(e)),
        _ => Ok(()),
    }
}

/// A file of `capacity` zeros, synced: so that a commit changes no metadata.
fn zeroed(files: &Files, path: &std::path::Path, capacity: u64) -> Result<Arc<dyn File>> {
    remove_if_there(files, path)?;
    let file = files.disk.open(path, OpenMode::CreateNewDirect).map_err(Error::io("creating", path))?;
    zero_fill(&file, 0, capacity).map_err(Error::io("writing", path))?;
    file.sync().map_err(Error::io("syncing", path))?;
    Ok(file)
}

/// How far the upkeep thread steps back. Not far: commits wait for the next segment when it comes too late.
const NICE: i32 = 5;

/// What upkeep writes at once: a commit that comes in between waits for so much at most.
const STEP: usize = 128 << 10;

/// Writes zeros from `from` (a multiple of 4096) to `to`.
pub fn zero_fill(file: &Arc<dyn File>, mut from: u64, to: u64) -> io::Result<()> {
    if from >= to {
        return Ok(());
    }
    file.allocate(to)?;
    let zeros = Buffer::new(usize::try_from(to - from).unwrap_or(STEP).min(STEP));
    while from < to {
        let n = usize::try_from(to - from).unwrap_or(zeros.len()).min(zeros.len());
        write_full(file.as_ref(), &zeros[..n], from, false)?;
        from += n as u64;
    }
    Ok(())
}

impl SpareSlot {
    /// Announces that a spare will be made.
    pub fn announce(&self) {
        *locked(&self.slot) = Slot::Coming;
    }

    /// The spare, or a new file when it is too small or there is none. Returns the file, its temporary path, its size.
    pub fn take(&self, shared: &Shared, _number: u64, capacity: u64) -> Result<(Arc<dyn File>, PathBuf, u64)> {
        let capacity = capacity.next_multiple_of(BLOCK as u64);
        let path = spare_path(&shared.files);
        let mut slot = locked(&self.slot);
        while matches!(*slot, Slot::Coming) {
            slot = self.changed.wait(slot).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        match std::mem::replace(&mut *slot, Slot::Empty) {
            Slot::Ready { file, capacity: size } if size >= capacity => Ok((file, path, size)),
            _ => Ok((zeroed(&shared.files, &path, capacity)?, path, capacity)),
        }
    }

    fn make(&self, files: &Files, capacity: u64) {
        let made = zeroed(files, &spare_path(files), capacity.next_multiple_of(BLOCK as u64));
        *locked(&self.slot) = match made {
            Ok(file) => Slot::Ready { file, capacity },
            Err(e) => {
                // The one who needs it will try himself and report.
                tracing::warn!(error = %e, "no spare segment");
                Slot::Empty
            }
        };
        self.changed.notify_all();
    }

    /// Nobody will make a spare any more.
    pub fn give_up(&self) {
        let mut slot = locked(&self.slot);
        if matches!(*slot, Slot::Coming) {
            *slot = Slot::Empty;
        }
        self.changed.notify_all();
    }
}

/// Writes an index behind a file's content, cuts the file there and makes it durable.
fn write_footer(file: &Arc<dyn File>, index: &[u8], at: u64) -> io::Result<()> {
    let mut buffer = Buffer::new(index.len());
    buffer[..index.len()].copy_from_slice(index);
    let mut to = at;
    for part in buffer[..index.len().next_multiple_of(BLOCK)].chunks(STEP) {
        write_full(file.as_ref(), part, to, false)?;
        to += part.len() as u64;
    }
    file.set_len(at + index.len() as u64)?;
    file.sync()
}

impl Shared {
    /// The upkeep thread.
    pub fn run_upkeep(&self, jobs: &Receiver<Job>) {
        // Commits go first where cores are few. On Linux this is the calling thread's own; refused, all goes on as before.
        let _ = rustix::process::setpriority_process(None, NICE);
        for job in jobs {
            let result = match job {
                Job::Spare { capacity } => {
                    self.spare.make(&self.files, capacity);
                    Ok(())
                }
                Job::SealSegment { table, content } => self.seal_segment(&table, &content),
                Job::SealPack { table, content } => self.seal_pack_file(&table, &content),
                Job::Tell(done) => {
                    // Who asked may have given up.
                    let _ = done.send(());
                    Ok(())
                }
            };
            if let Err(e) = result {
                tracing::warn!(error = %e, "a full file was not sealed; the next open will do it");
            }
        }
        self.spare.give_up();
    }

    /// Seals a segment whose groups are all durable.
    pub fn seal_segment(&self, table: &Arc<SegmentTable>, content: &Content) -> Result<()> {
        let name = FileName::new(FileKind::Segment, table.number);
        let path = self.files.path(name);
        let index = checkpoint::segment_index(table, content, &self.files, name, content.end);
        let Some(file) = table.file.get() else { return Ok(()) };
        write_footer(file, &index, content.end).map_err(Error::io("sealing", &path))?;
        self.files.forget(name);
        let run = Arc::new(IndexRun::open(&self.files, name)?);
        self.update_manifest(|m| {
            add_entry(m, log_entry(&run));
            if content.end > BLOCK as u64 && content.last_group >= m.head.durable_group {
                m.head.durable_lsn = run.trailer.last_lsn;
                m.head.durable_segment = table.number;
                m.head.durable_end = content.end;
                m.head.durable_chain = content.root;
                m.head.durable_group = content.last_group;
                if content.pack != 0 {
                    (m.head.pack, m.head.pack_end) = (content.pack, content.pack_end);
                }
            }
        })?;
        self.publish(|c| {
            for s in c.segments.iter_mut().filter(|s| s.name == name) {
                s.part = SegmentPart::Run(run.clone());
            }
        });
        self.sealed.tell();
        let checkpoint = FileName::new(FileKind::SegmentCheckpoint, table.number);
        self.files.forget(checkpoint);
        remove_if_there(&self.files, &self.files.path(checkpoint))
    }

    /// Seals a pack whose entries are all durable.
    pub fn seal_pack_file(&self, table: &Arc<PackTable>, content: &Content) -> Result<()> {
        let name = FileName::new(FileKind::Pack, table.number);
        let path = self.files.path(name);
        let index = checkpoint::pack_index(table, content, &self.files, name, content.end);
        let Some(file) = table.file.get() else { return Ok(()) };
        write_footer(file, &index, content.end).map_err(Error::io("sealing", &path))?;
        self.files.forget(name);
        let run = Arc::new(IndexRun::open(&self.files, name)?);
        self.update_manifest(|m| add_entry(m, pack_entry(&run)))?;
        self.publish(|c| {
            for p in c.packs.iter_mut().filter(|p| p.number == table.number) {
                p.part = PackPart::Run(run.clone());
            }
        });
        let checkpoint = FileName::new(FileKind::PackCheckpoint, table.number);
        self.files.forget(checkpoint);
        remove_if_there(&self.files, &self.files.path(checkpoint))
    }

    /// Takes in a pack that was written beside the writer and is complete.
    pub fn adopt_pack(&self, pack: Pack) -> Result<()> {
        if let PackPart::Run(run) = &pack.part {
            self.update_manifest(|m| add_entry(m, pack_entry(run)))?;
        }
        self.publish(|c| c.packs.push(pack));
        Ok(())
    }

    /// Changes the manifest and replaces it on disk.
    pub fn update_manifest(&self, change: impl FnOnce(&mut Manifest)) -> Result<()> {
        let mut manifest = locked(&self.manifest);
        let mut next = manifest.clone();
        next.head.clean = 0;
        change(&mut next);
        next.head.generation += 1;
        next.head.entry_count = next.entries.len() as u64;
        write_manifest(&self.files, &next, self.clock.now())?;
        *manifest = next;
        Ok(())
    }
}

/// The manifest entry of a sealed segment or run.
#[must_use]
pub fn log_entry(run: &IndexRun) -> ManifestEntry {
    let t = &run.trailer;
    ManifestEntry {
        kind: run.name.kind.code(),
        state: SEALED,
        number: run.name.number,
        length: t.file_len,
        first_lsn: t.first_lsn,
        last_lsn: t.last_lsn,
        first_moment: t.first_moment,
        last_moment: t.last_moment,
        records: t.records,
        root: t.root,
        dead: 0,
        retired: 0,
    }
}

/// The manifest entry of a sealed pack.
#[must_use]
pub fn pack_entry(run: &IndexRun) -> ManifestEntry {
    ManifestEntry {
        kind: FileKind::Pack.code(),
        state: SEALED,
        number: run.trailer.number,
        length: run.trailer.file_len,
        first_lsn: 0,
        last_lsn: 0,
        first_moment: 0,
        last_moment: 0,
        records: run.trailer.records,
        root: run.trailer.root,
        dead: 0,
        retired: 0,
    }
}

/// Adds or replaces the entry of a file.
pub fn add_entry(m: &mut Manifest, entry: ManifestEntry) {
    m.entries.retain(|e| (e.kind, e.number) != (entry.kind, entry.number));
    m.entries.push(entry);
    m.entries.sort_unstable_by_key(|e| (e.kind, e.number));
}

/// Replaces the manifest on disk: beside, synced, renamed, directory synced.
pub fn write_manifest(files: &Files, manifest: &Manifest, now: i64) -> Result<()> {
    let temp = files.dir.join("MANIFEST.tmp");
    let path = files.dir.join("MANIFEST");
    remove_if_there(files, &temp)?;
    let file = files.disk.open(&temp, OpenMode::CreateNew).map_err(Error::io("creating", &temp))?;
    write_full(file.as_ref(), &manifest.file_bytes(files.store, now), 0, false).map_err(Error::io("writing", &temp))?;
    file.sync().map_err(Error::io("syncing", &temp))?;
    files.disk.rename(&temp, &path).map_err(Error::io("renaming", &temp))?;
    files.disk.sync_dir(&files.dir).map_err(Error::io("syncing", &files.dir))
}
