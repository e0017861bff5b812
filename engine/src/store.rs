//! What callers hold: create, open, record, put blobs, view, close; wires the rest together.

use crate::blob::compose::{self, Part, Parts, Plan};
use crate::blob::entry::{Entry, Pace};
use crate::blob::known;
use crate::blob::oversize::Oversize;
use crate::catalog::{Catalog, PackPart};
use crate::commit::writer::{Shared, locked};
use crate::compact::{Compacted, Compactor};
use crate::disk::posix::Backend;
use crate::disk::{Clock, Disk, OpenMode, Posix, SystemClock, read_full, write_full};
use crate::error::{Error, Result};
use crate::files::Files;
use crate::ingest::event::{Blob, Event};
use crate::ingest::transaction::{Appended, Ingest};
use crate::open::{self, Opened};
use crate::tail::Tail;
use crate::view::as_of::View;
use mailstrata_format::digest::Hasher;
use mailstrata_format::file::{self, Superblock, SuperblockFault};
use mailstrata_format::index;
use mailstrata_format::pack::{BLOB_LEN_MAX, BlobRow, CHUNK_RAW_MAX, ENTRY_BLOBS_MAX, RAW_OFFSET};
use mailstrata_format::{BLOCK, Damage, Digest, FORMAT_VERSION, FileKind, Lsn, StoreId};
use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Everything a store takes from outside.
#[derive(Clone)]
pub struct Options {
    pub disk: Arc<dyn Disk>,
    pub clock: Arc<dyn Clock>,
    /// Bytes for caches of index blocks and decompressed chunks.
    pub cache_bytes: usize,
    /// The server that the store must belong to.
    pub server: Option<[u8; 16]>,
    /// Free bytes below which only deletions are taken.
    pub reserve_bytes: u64,
    /// What `LOCK` says the writer is doing.
    pub operation: String,
    /// A writer merges segments into runs beside its work.
    pub compaction: bool,
    /// How long files that a run replaced stay, for copies of the store that are under way.
    pub retire_delay: Duration,
}

impl Options {
    /// The real disk and clock, 24 MiB of caches, 32 MiB of reserve.
    pub fn new() -> Result<Self> {
        Self::with_backend(Backend::Auto)
    }

    /// As [`Options::new`], with a chosen backend.
    pub fn with_backend(backend: Backend) -> Result<Self> {
        let disk = Posix::new(backend).map_err(Error::io("setting up", "io_uring"))?;
        Ok(Self::on(Arc::new(disk), Arc::new(SystemClock)))
    }

    /// On a given disk and clock.
    #[must_use]
    pub fn on(disk: Arc<dyn Disk>, clock: Arc<dyn Clock>) -> Self {
        Self {
            disk,
            clock,
            cache_bytes: 24 << 20,
            server: None,
            reserve_bytes: 32 << 20,
            operation: "write".into(),
            compaction: true,
            retire_delay: Duration::from_secs(24 * 3600),
        }
    }
}

/// What a new store is like.
#[derive(Debug, Clone)]
pub struct Create {
    /// Largest size of a segment in bytes; 64 KiB to 1 GiB.
    pub segment_size: u64,
    /// Largest size of a pack in bytes (an oversize blob has a file of its own); 64 KiB to 1 TiB.
    pub pack_size: u64,
    /// The server that writes here; zeros: any.
    pub server: [u8; 16],
}

impl Default for Create {
    fn default() -> Self {
        Self { segment_size: 32 << 20, pack_size: 128 << 20, server: [0; 16] }
    }
}

/// The first segment's size; later ones double up to the store's.
pub const FIRST_SEGMENT: u64 = 1 << 20;

/// The directories of a store.
const DIRECTORIES: [&str; 5] = ["index", "log", "pack", "quarantine", "run"];

/// A blob this long streams into a pack of its own; a shorter one is held in memory while it is read.
const STREAM_FROM: u64 = 8 << 20;

/// Identity and geometry of a store.
#[derive(Debug, Clone)]
pub struct Info {
    pub store: StoreId,
    pub server: [u8; 16],
    /// µs UTC.
    pub created: i64,
    pub segment_size: u64,
    pub pack_size: u64,
    /// What serves the writer's queue.
    pub backend: &'static str,
}

/// A store opened for reading; needs no write access and waits for nobody.
pub struct Reader {
    files: Arc<Files>,
    catalog: Arc<Catalog>,
    lsn: Lsn,
    info: Info,
    findings: Vec<Damage>,
}

impl Reader {
    /// The store as it was when it was opened.
    #[must_use]
    pub fn view(&self) -> View {
        View { files: self.files.clone(), catalog: self.catalog.clone(), lsn: self.lsn }
    }

    /// Identity and geometry.
    #[must_use]
    pub const fn info(&self) -> &Info {
        &self.info
    }

    /// Damage met while opening.
    #[must_use]
    pub fn findings(&self) -> &[Damage] {
        &self.findings
    }
}

/// A store opened for writing: there is one at a time.
pub struct Store {
    shared: Arc<Shared>,
    files: Arc<Files>,
    ingest: Ingest,
    info: Info,
    findings: Vec<Damage>,
    threads: Vec<JoinHandle<()>>,
    compaction: Option<JoinHandle<()>>,
    compactor: Arc<Compactor>,
    /// Threads that are in [`Store::record`].
    recording: AtomicUsize,
    /// From so many on they are a crowd.
    crowd: usize,
    /// Holds the kernel lock.
    _lock: Arc<dyn crate::disk::File>,
    dir: PathBuf,
}

/// So many producers for each core are a crowd.
const CROWD: usize = 4;

/// Counts a thread for as long as it lives.
struct Presence<'a>(&'a AtomicUsize);

impl<'a> Presence<'a> {
    fn note(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Presence<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A transaction on its way to the disk. It is written at the latest when somebody waits for the ticket, asks it or drops
/// it; until then it may gather company, for a group costs the same whoever shares it.
pub struct Ticket {
    shared: Arc<Shared>,
    receipt: Receipt,
}

/// What a recorded event got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    pub lsn: Lsn,
    /// The source position was recorded before, under this LSN.
    pub duplicate: bool,
}

impl Ticket {
    /// Blocks until the transaction and the blobs it names are durable.
    pub fn wait(&self) -> Result<Receipt> {
        self.shared.wait(self.receipt.lsn)?;
        Ok(self.receipt)
    }

    /// The LSN, durable or not yet.
    #[must_use]
    pub const fn lsn(&self) -> Lsn {
        self.receipt.lsn
    }

    /// Whether the transaction is durable already.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        let durable = self.shared.durable_lsn() >= self.receipt.lsn;
        if !durable {
            self.shared.kick_now();
        }
        durable
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.shared.durable_lsn() < self.receipt.lsn {
            self.shared.kick_now();
        }
    }
}

/// What is held in memory of a blob: all of it, or [`STREAM_FROM`] bytes.
fn read_start(content: &mut dyn Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(64 << 10);
    content.take(STREAM_FROM).read_to_end(&mut bytes).map_err(|e| Error::Content(Arc::new(e)))?;
    Ok(bytes)
}

fn superblock(dir: &Path, options: &Options) -> Result<Superblock> {
    let path = dir.join("SUPERBLOCK");
    let file = match options.disk.open(&path, OpenMode::Read) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::NoStore { path: dir.to_owned(), why: "there is no SUPERBLOCK" });
        }
        other => other.map_err(Error::io("opening", &path))?,
    };
    let mut bytes = vec![0; 2 * BLOCK];
    let n = read_full(file.as_ref(), &mut bytes, 0).map_err(Error::io("reading", &path))?;
    bytes.truncate(n);
    let s = match Superblock::read(&bytes) {
        Ok(s) => s,
        Err(SuperblockFault::Version(found)) => {
            return Err(Error::Version { path: dir.to_owned(), found, known: FORMAT_VERSION });
        }
        Err(SuperblockFault::Damaged) => {
            return Err(Error::NoStore { path: dir.to_owned(), why: "no copy of the SUPERBLOCK verifies" });
        }
    };
    if let Some(wanted) = options.server.filter(|w| *w != s.server && s.server != [0; 16]) {
        let hex = |b: [u8; 16]| StoreId(b).to_string();
        return Err(Error::Fenced { path: dir.to_owned(), found: hex(s.server), wanted: hex(wanted) });
    }
    Ok(s)
}

fn info(s: &Superblock, options: &Options) -> Info {
    Info {
        store: StoreId(s.store),
        server: s.server,
        created: s.created,
        segment_size: s.segment_size,
        pack_size: s.pack_size,
        backend: options.disk.backend(),
    }
}

impl Store {
    /// Makes a store in a directory that is empty or does not exist. After a crash in it there is either a whole store or
    /// none, and it may be called again.
    pub fn create(dir: &Path, create: &Create, options: &Options) -> Result<StoreId> {
        if !(64 << 10..=1 << 30).contains(&create.segment_size) || !(64 << 10..=1 << 40).contains(&create.pack_size) {
            return Err(Error::TooLarge("segment size is 64 KiB to 1 GiB, pack size 64 KiB to 1 TiB"));
        }
        let disk = &options.disk;
        disk.create_dir(dir).map_err(Error::io("creating", dir))?;
        let there = disk.list(dir).map_err(Error::io("listing", dir))?;
        if !there.iter().all(|name| DIRECTORIES.contains(&name.as_str()) || name == "SUPERBLOCK.tmp") {
            return Err(Error::NotEmpty { path: dir.to_owned() });
        }
        for sub in DIRECTORIES {
            let sub = dir.join(sub);
            disk.create_dir(&sub).map_err(Error::io("creating", &sub))?;
            if !disk.list(&sub).map_err(Error::io("listing", &sub))?.is_empty() {
                return Err(Error::NotEmpty { path: sub });
            }
            disk.sync_dir(&sub).map_err(Error::io("syncing", &sub))?;
        }
        let store = uuid::Uuid::new_v4().into_bytes();
        let block = Superblock {
            magic: file::MAGIC,
            kind: FileKind::Superblock.code(),
            version: FORMAT_VERSION,
            store,
            server: create.server,
            created: options.clock.now(),
            segment_size: create.segment_size.next_multiple_of(BLOCK as u64),
            pack_size: create.pack_size.next_multiple_of(BLOCK as u64),
            copy: 0,
            program: file::program_version(),
            reserved: [0; 48],
        };
        let temp = dir.join("SUPERBLOCK.tmp");
        match disk.remove(&temp) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("removing", &temp)(e)),
            _ => {}
        }
        let file = disk.open(&temp, OpenMode::CreateNew).map_err(Error::io("creating", &temp))?;
        write_full(file.as_ref(), &block.file_bytes(), 0, false).map_err(Error::io("writing", &temp))?;
        file.sync().map_err(Error::io("syncing", &temp))?;
        disk.sync_dir(dir).map_err(Error::io("syncing", dir))?;
        let path = dir.join("SUPERBLOCK");
        disk.rename(&temp, &path).map_err(Error::io("renaming", &temp))?;
        disk.sync_dir(dir).map_err(Error::io("syncing", dir))?;
        // The directory's own name, and of those above it that were made as well: they are not ours, so this is done as far
        // as it is allowed.
        for above in dir.ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()) {
            let _ = disk.sync_dir(above);
        }
        Ok(StoreId(store))
    }

    /// Opens a store for reading. Works beside a writer, on read-only media, and on a copy.
    pub fn open_read(dir: &Path, options: &Options) -> Result<Reader> {
        let s = superblock(dir, options)?;
        let files = Arc::new(Files::new(options.disk.clone(), dir, StoreId(s.store), options.cache_bytes));
        let reading = open::announce_reader(&files);
        let opened = open::load(&files, true)?;
        if let Some(reading) = reading {
            open::hold_generation(&files, reading, opened.manifest.head.generation);
        }
        Ok(Reader {
            lsn: Lsn(opened.last_lsn),
            catalog: Arc::new(opened.catalog),
            findings: opened.findings,
            info: info(&s, options),
            files,
        })
    }

    /// Opens a store for writing, after any crash, without a repair step.
    pub fn open(dir: &Path, options: &Options) -> Result<Self> {
        let s = superblock(dir, options)?;
        let path = dir.join("SUPERBLOCK");
        let lock = options.disk.open(&path, OpenMode::Write).map_err(Error::io("opening", &path))?;
        if !lock.try_lock(true).map_err(Error::io("locking", &path))? {
            return Err(Error::InUse { path: dir.to_owned(), by: open::lock_holder(dir, options) });
        }
        for sub in DIRECTORIES {
            // Derived files may have been removed with their directory.
            let sub = dir.join(sub);
            options.disk.create_dir(&sub).map_err(Error::io("creating", &sub))?;
        }
        open::write_lock(dir, options)?;
        let files = Arc::new(Files::new(options.disk.clone(), dir, StoreId(s.store), options.cache_bytes));
        let opened: Opened = open::load(&files, false)?;
        open::make_readers(&files);
        let last_run = opened.last_run;
        let findings = opened.findings.clone();
        let shared = Arc::new(open::start(files.clone(), opened, &s, options)?);
        let mut store = Self {
            shared: shared.clone(),
            files,
            ingest: Ingest::default(),
            info: info(&s, options),
            findings,
            threads: Vec::new(),
            compaction: None,
            compactor: Arc::new(Compactor::new(shared.clone(), last_run, options.retire_delay)),
            recording: AtomicUsize::new(0),
            crowd: CROWD * std::thread::available_parallelism().map_or(1, usize::from),
            _lock: lock,
            dir: dir.to_owned(),
        };
        let (send, receive) = std::sync::mpsc::channel();
        *locked(&shared.jobs) = Some(send);
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.into()).spawn(run).map_err(Error::io("starting a thread for", dir))
        };
        let s1 = shared.clone();
        store.threads.push(spawn("ms-upkeep", Box::new(move || s1.run_upkeep(&receive)))?);
        let s2 = shared.clone();
        store.threads.push(spawn("ms-writer", Box::new(move || s2.run_writer()))?);
        if options.compaction {
            let compactor = store.compactor.clone();
            store.compaction = Some(spawn("ms-compact", Box::new(move || compactor.run()))?);
        }
        open::order_first_spare(&shared);
        shared.look_at_space();
        Ok(store)
    }

    /// Records a change: it and the blobs it names are durable when this returns.
    pub fn record(&self, event: &Event) -> Result<Receipt> {
        let _here = Presence::note(&self.recording);
        let Appended { lsn, duplicate, sleep } = self.shared.append_event(&self.ingest, event, true)?;
        if let Some(at) = sleep {
            self.shared.sleep(&at);
        }
        self.shared.wait(lsn)?;
        Ok(Receipt { lsn, duplicate })
    }

    /// How hard a blob is compressed: a crowd of producers that wait for their transactions will want the processor all at
    /// once, with the next blob each.
    fn pace(&self) -> Pace {
        if self.recording.load(Ordering::Relaxed) >= self.crowd { Pace::Pressed } else { Pace::Calm }
    }

    /// Records a change without waiting for the disk.
    pub fn submit(&self, event: &Event) -> Result<Ticket> {
        let Appended { lsn, duplicate, .. } = self.shared.append_event(&self.ingest, event, false)?;
        Ok(Ticket { shared: self.shared.clone(), receipt: Receipt { lsn, duplicate } })
    }

    /// Stores a blob unless it is known; up to 8 MiB in memory, a larger one streamed. It is durable before any transaction
    /// that names it. An error of `content` is [`Error::Content`].
    pub fn put_blob(&self, content: &mut dyn Read) -> Result<Blob> {
        Ok(self.put_blob_if_new(content)?.0)
    }

    /// As [`Store::put_blob`]; says as well whether the blob was new.
    pub fn put_blob_if_new(&self, content: &mut dyn Read) -> Result<(Blob, bool)> {
        let bytes = read_start(content)?;
        if (bytes.len() as u64) < STREAM_FROM {
            let digest = Digest::of(&bytes);
            let new = self.blob_known(&digest)?.is_none();
            if new {
                self.store_bytes(&bytes, digest)?;
            }
            return Ok((Blob { digest, length: bytes.len() as u64, role: None }, new));
        }
        self.store_stream(&bytes, content, false)
    }

    /// Stores a blob that is known, and damaged: the new copy is the one that is read from now on. It stands for itself: its
    /// parts are stored again with it, so that other blobs whose recipes name them are whole again as well.
    pub fn put_blob_again(&self, content: &mut dyn Read) -> Result<Blob> {
        let bytes = read_start(content)?;
        if bytes.len() as u64 >= STREAM_FROM {
            return Ok(self.store_stream(&bytes, content, true)?.0);
        }
        let (digest, length) = (Digest::of(&bytes), bytes.len() as u64);
        let plan = Parts::of(&bytes).plan(bytes.len(), &mut |_, _| Ok(Part::New))?;
        let entry = Entry::new(&bytes, plan.rows(0, digest, length).collect(), Pace::Calm);
        // A pack keeps its first copy of a digest, and what lies in a later pack is read first: a copy in the pack that is
        // being written, or behind it, makes this one a pack of its own.
        let catalog = self.shared.catalog();
        let written = catalog.packs.iter().rposition(|p| matches!(p.part, PackPart::Table(_))).unwrap_or(0);
        let hash = index::key_hash(&digest.0);
        let mut in_the_way = entry.file_len() + 2 * BLOCK as u64 > self.info.pack_size;
        for pack in catalog.packs.iter().skip(written) {
            in_the_way |= pack.find(&self.files, &digest, hash)?.is_some();
        }
        if in_the_way {
            return Ok(self.store_stream(&bytes, &mut std::io::empty(), true)?.0);
        }
        self.shared.append_entry(&entry)?;
        Ok(Blob { digest, length, role: None })
    }

    /// Stores a blob that is not known, and the parts of it that are not.
    fn store_bytes(&self, bytes: &[u8], digest: Digest) -> Result<()> {
        let catalog = self.shared.catalog();
        let parts = Parts::of(bytes);
        let plan = parts.plan(bytes.len(), &mut |d, len| compose::find(&catalog, &self.files, d, len))?;
        let raw = if plan.is_plain() { Cow::Borrowed(bytes) } else { plan.raw(bytes).flatten().copied().collect() };
        let entry = Entry::new(&raw, plan.rows(0, digest, bytes.len() as u64).collect(), self.pace());
        if raw.len() > CHUNK_RAW_MAX && entry.file_len() + 2 * BLOCK as u64 > self.info.pack_size {
            return self.store_stream(bytes, &mut std::io::empty(), false).map(|_| ());
        }
        self.shared.append_entry(&entry)
    }

    /// Streams a blob, of which `start` is read already, into a pack of its own; it is given up when the blob is known and
    /// not `again` to be stored. Says whether it was new.
    fn store_stream(&self, start: &[u8], rest: &mut dyn Read, again: bool) -> Result<(Blob, bool)> {
        self.shared.check_space()?;
        let mut s = self.shared.lock();
        let number = s.next_pack;
        s.next_pack += 1;
        drop(s);
        let mut pack = Oversize::start(&self.files, number, self.shared.clock.now())?;
        let mut hasher = Hasher::default();
        let mut length = 0;
        let mut push = |pack: &mut Oversize<'_>, bytes: &[u8]| {
            length += bytes.len() as u64;
            if length > BLOB_LEN_MAX {
                return Err(Error::TooLarge("a blob takes at most 16 TiB"));
            }
            hasher.update(bytes);
            pack.push(bytes)
        };
        let mut outcome = start.chunks(CHUNK_RAW_MAX).try_for_each(|chunk| push(&mut pack, chunk));
        let mut chunk = Vec::with_capacity(CHUNK_RAW_MAX);
        while outcome.is_ok() {
            chunk.clear();
            match rest.take(CHUNK_RAW_MAX as u64).read_to_end(&mut chunk) {
                Ok(0) => break,
                Ok(_) => outcome = push(&mut pack, &chunk),
                Err(e) => outcome = Err(Error::Content(Arc::new(e))),
            }
        }
        if let Err(e) = outcome {
            // What cannot be removed now the next writer removes.
            let _ = pack.abandon();
            return Err(e);
        }
        let digest = hasher.finish();
        let new = self.blob_known(&digest)?.is_none();
        if new || again {
            let pack = pack.finish(digest)?;
            self.shared.adopt_pack(pack)?;
        } else {
            pack.abandon()?;
        }
        Ok((Blob { digest, length, role: None }, new))
    }

    /// Appends an entry as it is.
    #[cfg(test)]
    pub(crate) fn append_for_test(&self, entry: &Entry) -> Result<()> {
        self.shared.append_entry(entry)
    }

    /// The length of a blob that is stored (or on its way, ahead of any transaction recorded from now on).
    pub fn blob_known(&self, digest: &Digest) -> Result<Option<u64>> {
        Ok(known::find(&self.shared.catalog(), &self.files, digest)?.map(|e| e.length))
    }

    /// A batch: small blobs that are compressed together, and the transactions that name them.
    #[must_use]
    pub fn batch(&self) -> Batch<'_> {
        Batch { store: self, raw: Vec::new(), rows: Vec::new(), here: HashMap::new(), events: Vec::new() }
    }

    /// The store as of now: everything durable.
    #[must_use]
    pub fn view(&self) -> View {
        // The LSN first: what is durable by then is in any later catalog.
        let lsn = self.shared.durable_lsn();
        View { files: self.files.clone(), catalog: self.shared.catalog(), lsn }
    }

    /// The account that an address means now.
    pub fn account_of(&self, address: &[u8]) -> Result<mailstrata_format::AccountId> {
        self.shared.account_of(&self.ingest, address)
    }

    /// Transactions from an LSN on, as they become durable.
    #[must_use]
    pub fn tail(&self, from: Lsn) -> Tail {
        Tail::new(self.shared.clone(), self.files.clone(), from)
    }

    /// Identity and geometry.
    #[must_use]
    pub const fn info(&self) -> &Info {
        &self.info
    }

    /// Damage met while opening.
    #[must_use]
    pub fn findings(&self) -> &[Damage] {
        &self.findings
    }

    /// The directory of the store.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes everything durable that was accepted, and leaves the mark of a clean end.
    pub fn close(mut self) -> Result<()> {
        let mut s = self.shared.lock();
        s.closing = true;
        self.shared.work.notify_all();
        self.shared.room.notify_all();
        drop(s);
        self.stop_threads();
        open::close(&self.shared, &self.dir)
    }

    /// Merges what is due now, and removes retired files whose time has come; returns when that is done. With
    /// [`Options::compaction`] the store does so by itself.
    pub fn compact_now(&self) -> Result<Compacted> {
        self.compactor.run_due_now()
    }

    fn stop_threads(&mut self) {
        self.compactor.stop();
        if let Some(compaction) = self.compaction.take() {
            let _ = compaction.join();
        }
        // The writer first: it may still have work for the upkeep.
        if let Some(writer) = self.threads.pop() {
            let _ = writer.join();
        }
        *locked(&self.shared.jobs) = None;
        if let Some(upkeep) = self.threads.pop() {
            let _ = upkeep.join();
        }
    }
}

impl Drop for Store {
    /// Without [`Store::close`] nothing more is written, as if the process had died.
    fn drop(&mut self) {
        if self.threads.is_empty() {
            return;
        }
        let mut s = self.shared.lock();
        s.failed.get_or_insert_with(|| Arc::new(Error::Closed));
        self.shared.work.notify_all();
        drop(s);
        self.stop_threads();
        self.shared.wake_everybody();
    }
}

/// See [`Store::batch`].
pub struct Batch<'a> {
    store: &'a Store,
    raw: Vec<u8>,
    rows: Vec<BlobRow>,
    /// What the rows hold: the length of each blob and part, and whether it is plain.
    here: HashMap<Digest, (u64, bool)>,
    events: Vec<Event>,
}

impl Batch<'_> {
    /// Adds a blob's bytes unless they are known. Larger ones than fit are stored on their own.
    pub fn put_bytes(&mut self, bytes: &[u8]) -> Result<Blob> {
        self.put_digested(bytes, Digest::of(bytes))
    }

    /// As [`Batch::put_bytes`], for a caller that has the digest already.
    pub fn put_digested(&mut self, bytes: &[u8], digest: Digest) -> Result<Blob> {
        let length = bytes.len() as u64;
        let blob = Blob { digest, length, role: None };
        if self.here.contains_key(&digest) || self.store.blob_known(&digest)?.is_some() {
            return Ok(blob);
        }
        if length >= STREAM_FROM {
            return Ok(self.store.store_stream(bytes, &mut std::io::empty(), false)?.0);
        }
        if bytes.len() >= CHUNK_RAW_MAX {
            self.store.store_bytes(bytes, digest)?;
            return Ok(blob);
        }
        let parts = Parts::of(bytes);
        let mut plan = self.plan(&parts, bytes.len())?;
        let fits = |raw: usize, rows: usize| raw <= CHUNK_RAW_MAX && rows <= ENTRY_BLOBS_MAX;
        if !fits(self.raw.len() + plan.raw_len(), self.rows.len() + plan.row_count()) {
            self.flush_blobs()?;
            // Parts that were at hand in the entry may be on their way now, where no recipe may name them.
            plan = self.plan(&parts, bytes.len())?;
        }
        for row in plan.rows(self.raw.len() as u64, digest, length) {
            self.here.insert(Digest(row.digest), (row.length, row.raw_offset <= RAW_OFFSET));
            self.rows.push(row);
        }
        plan.raw(bytes).for_each(|slice| self.raw.extend_from_slice(slice));
        Ok(blob)
    }

    /// How a blob is stored in the entry that fills.
    fn plan(&self, parts: &Parts, length: usize) -> Result<Plan> {
        let catalog = self.store.shared.catalog();
        parts.plan(length, &mut |digest, len| match self.here.get(digest) {
            Some((there, true)) if *there == len => Ok(Part::Usable),
            Some(_) => Ok(Part::Known),
            None => compose::find(&catalog, &self.store.files, digest, len),
        })
    }

    /// Adds a transaction.
    pub fn record(&mut self, event: Event) {
        self.events.push(event);
    }

    /// Uncompressed bytes that wait.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.raw.len()
    }

    /// Transactions that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.rows.is_empty()
    }

    fn flush_blobs(&mut self) -> Result<()> {
        if !self.rows.is_empty() {
            let entry = Entry::new(&self.raw, std::mem::take(&mut self.rows), self.store.pace());
            self.store.shared.append_entry(&entry)?;
        }
        self.raw.clear();
        self.here.clear();
        Ok(())
    }

    /// Hands everything over without waiting for the disk. Each event's outcome is in the order they were added.
    pub fn submit(&mut self) -> Result<Vec<Result<Ticket>>> {
        self.flush_blobs()?;
        let events = std::mem::take(&mut self.events);
        Ok(events.iter().map(|e| self.store.submit(e)).collect())
    }
}
