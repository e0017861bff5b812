//! Fourth pass, with `--read-data`: every composed blob under its SHA-256, from its recipe and its parts.
//!
//! In come the composed blobs that the packs' pass met; out go findings: a part that is in no pack, bytes that are others.
//! What harms a part harms the blobs that it is in: they are told with the part's finding. Parts are found by another walk
//! over the packs' trailers. Blobs are read in the order in which they lie; a thread keeps [`CACHE_MAX`] of chunks, so that a
//! part beside its message is unpacked once. Of all blobs 80 bytes are kept, of each different part about 100. Written from
//! `SPEC.md` §7.

use super::blobs::Verifier;
use super::files::{Inventory, open};
use super::finding::{Draft, Repair, Severity};
use super::references::{AsIs, BlobHash, blob_hash};
use super::{Gathered, PackDone, Pass, pack_pass};
use crate::disk::{File, read_full};
use crate::error::Result;
use mailstrata_format::digest::Hasher;
use mailstrata_format::pack::{
    self, BlobRow, ChunkHeader, EntryHeader, PIECE_OWN, PIECES_MAX, Piece, RAW_OFFSET, RecipeHeader, recipe,
};
use mailstrata_format::{Binding, DamageKind, Digest, FileKind, FileName};
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasherDefault;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A composed blob and where its recipe is.
#[derive(Debug, Clone, Copy)]
pub struct Composed {
    pub pack: u64,
    pub entry: u64,
    pub entry_len: u64,
    pub row: BlobRow,
}

/// Where a part is.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    pub pack: u64,
    pub entry: u64,
    /// In the entry's raw bytes.
    pub start: u64,
}

/// What the packs' pass gathers for this one.
#[derive(Default)]
pub struct ComposedBlobs {
    pub all: Vec<Composed>,
    /// Parts that recipes name.
    pub wanted: Vec<BlobHash>,
    /// Where they are, while they are looked for.
    pub found: Option<HashMap<BlobHash, Part, BuildHasherDefault<AsIs>>>,
    /// There are recipes that were not read.
    pub unread: bool,
    /// Packs that are sound if their composed blobs are.
    pub done: Vec<PackDone>,
}

/// Unpacked chunks that a thread keeps, in bytes.
const CACHE_MAX: usize = 32 << 20;
/// Entries whose chunks' places a thread keeps.
const ENTRIES_MAX: usize = 256;
/// Blobs that a thread takes at once.
const BATCH: usize = 16;

/// What is wrong with a composed blob.
enum Fault {
    /// A part is in no pack.
    Missing(Piece),
    /// A part, or the recipe, cannot be read.
    Unread(Option<Piece>),
    Bytes,
}

/// Reads all composed blobs.
pub fn run(pass: &Pass<'_>, inventory: &Inventory, all: &mut Gathered) -> Result<()> {
    if all.composed.all.is_empty() {
        tell_done(pass, all, &[]);
        return Ok(());
    }
    all.composed.found = Some(HashMap::default());
    pack_pass::run(pass, inventory, all, false)?;
    let found = all.composed.found.take().unwrap_or_default();
    let mut blobs = std::mem::take(&mut all.composed.all);
    blobs.sort_unstable_by_key(|c| (c.pack, c.entry, c.row.raw_offset, c.row.digest));
    let next = AtomicUsize::new(0);
    let faults = Mutex::new(Vec::new());
    let hashed = Mutex::new(0u64);
    std::thread::scope(|scope| {
        let work = || {
            let mut reader = Reader::new(pass, inventory, &found);
            let mut sum = 0;
            loop {
                let from = next.fetch_add(BATCH, Ordering::Relaxed);
                let Some(batch) = blobs.get(from..blobs.len().min(from.saturating_add(BATCH))) else { break };
                for c in batch {
                    if pass.stopped() {
                        return;
                    }
                    sum += c.row.length;
                    if let Err(fault) = reader.blob(c) {
                        faults.lock().unwrap_or_else(PoisonError::into_inner).push((*c, fault));
                    }
                }
                if batch.is_empty() {
                    break;
                }
            }
            *hashed.lock().unwrap_or_else(PoisonError::into_inner) += sum;
        };
        for _ in 1..pass.options.threads {
            scope.spawn(work);
        }
        work();
    });
    all.report.hashed += hashed.into_inner().unwrap_or_else(PoisonError::into_inner);
    let faults = faults.into_inner().unwrap_or_else(PoisonError::into_inner);
    let harmed: Vec<u64> = faults.iter().map(|f| f.0.pack).collect();
    tell(faults, all);
    if !pass.stopped() {
        tell_done(pass, all, &harmed);
    }
    Ok(())
}

/// Packs whose composed blobs are sound, too, are done.
fn tell_done(pass: &Pass<'_>, all: &mut Gathered, harmed: &[u64]) {
    for done in std::mem::take(&mut all.composed.done) {
        if let Some(tell) = pass.watch.pack_done.filter(|_| !harmed.contains(&done.number)) {
            tell(done);
        }
    }
}

/// Findings: where a part is harmed that is told already, the blob is told with it.
fn tell(mut faults: Vec<(Composed, Fault)>, all: &mut Gathered) {
    if faults.is_empty() {
        return;
    }
    faults.sort_by_key(|(c, _)| (c.pack, c.entry, c.row.raw_offset, c.row.digest));
    let mut told: HashMap<[u8; 32], Vec<usize>> = HashMap::new();
    for (i, d) in all.drafts.iter().enumerate().filter(|(_, d)| d.finding.severity == Severity::Damage) {
        for digest in &d.digests {
            told.entry(*digest).or_default().push(i);
        }
    }
    for (c, fault) in faults {
        let path = FileName::new(FileKind::Pack, c.pack).path();
        let whose = match &fault {
            Fault::Missing(p) | Fault::Unread(Some(p)) => told.get(&p.digest),
            Fault::Unread(None) => told.get(&c.row.digest),
            Fault::Bytes => None,
        };
        if let Some(whose) = whose {
            for i in whose {
                if let Some(d) = all.drafts.get_mut(*i) {
                    d.digests.push(c.row.digest);
                }
            }
            continue;
        }
        let name = Digest(c.row.digest);
        let part = |p: &Piece| format!("part {} of {} bytes", Digest(p.digest), p.length);
        let (kind, repair, what) = match &fault {
            Fault::Missing(p) => {
                (DamageKind::BlobMissing, Repair::Lost, format!("{}, which blob {name} is made of", part(p)))
            }
            Fault::Unread(Some(p)) => {
                (DamageKind::Chunk, Repair::Rewrite, format!("{} of blob {name} cannot be read", part(p)))
            }
            Fault::Unread(None) => {
                (DamageKind::Recipe, Repair::Rewrite, format!("recipe of blob {name} cannot be read"))
            }
            Fault::Bytes => (DamageKind::BlobDigest, Repair::Rewrite, format!("composed blob {name} has other bytes")),
        };
        let mut d = Draft::new(kind, &path, c.entry, c.entry_len, repair).because(what);
        d.digests.push(c.row.digest);
        all.drafts.push(d);
    }
}

/// A chunk's place.
#[derive(Clone, Copy)]
struct Place {
    at: u64,
    header: ChunkHeader,
}

/// Chunks of an entry, as far as they were asked for.
struct Entry {
    chunks: Vec<Place>,
    next: u64,
    raw_end: u64,
}

/// A chunk's pack and place, and its raw bytes.
type Unpacked = ((u64, u64), Arc<[u8]>);

type Opened = Option<(Arc<dyn File>, u64)>;

/// Reads raw bytes of entries.
struct Reader<'a> {
    pass: &'a Pass<'a>,
    inventory: &'a Inventory,
    found: &'a HashMap<BlobHash, Part, BuildHasherDefault<AsIs>>,
    verifier: Verifier,
    files: HashMap<u64, Opened>,
    entries: HashMap<(u64, u64), Entry>,
    /// By pack and place, the latest behind.
    chunks: VecDeque<Unpacked>,
    kept: usize,
    stored: Vec<u8>,
}

impl<'a> Reader<'a> {
    fn new(
        pass: &'a Pass<'a>,
        inventory: &'a Inventory,
        found: &'a HashMap<BlobHash, Part, BuildHasherDefault<AsIs>>,
    ) -> Self {
        Self {
            pass,
            inventory,
            found,
            verifier: Verifier::default(),
            files: HashMap::new(),
            entries: HashMap::new(),
            chunks: VecDeque::new(),
            kept: 0,
            stored: Vec::new(),
        }
    }

    /// Hashes a blob.
    fn blob(&mut self, c: &Composed) -> std::result::Result<(), Fault> {
        let start = c.row.raw_offset & RAW_OFFSET;
        let mut bytes = Vec::new();
        let mut keep = |b: &[u8]| bytes.extend_from_slice(b);
        let unread = || Fault::Unread(None);
        self.raw(c.pack, c.entry, start, RecipeHeader::SIZE as u64, &mut keep).ok_or_else(unread)?;
        let len = recipe::length(&bytes).ok_or_else(unread)?.min(RecipeHeader::SIZE + PIECES_MAX * Piece::SIZE) as u64;
        let rest = len - RecipeHeader::SIZE as u64;
        let mut keep = |b: &[u8]| bytes.extend_from_slice(b);
        self.raw(c.pack, c.entry, start + RecipeHeader::SIZE as u64, rest, &mut keep).ok_or_else(unread)?;
        let pieces = recipe::decode(&bytes, c.row.length).ok_or_else(unread)?;
        let mut hasher = Hasher::default();
        let mut own = start + len;
        for p in &pieces {
            let mut feed = |b: &[u8]| hasher.update(b);
            if p.kind == PIECE_OWN {
                self.raw(c.pack, c.entry, own, p.length, &mut feed).ok_or_else(unread)?;
                own = own.saturating_add(p.length);
            } else {
                let hash = blob_hash(&p.digest, p.length);
                let part = self.found.get(&hash).copied().ok_or(Fault::Missing(*p))?;
                self.raw(part.pack, part.entry, part.start, p.length, &mut feed).ok_or(Fault::Unread(Some(*p)))?;
            }
        }
        if hasher.finish().0 == c.row.digest {
            return Ok(());
        }
        Err(Fault::Bytes)
    }

    /// Gives a stretch of an entry's raw bytes, a chunk at a time. `None`: not all of it can be read.
    fn raw(&mut self, pack: u64, entry: u64, from: u64, len: u64, sink: &mut dyn FnMut(&[u8])) -> Option<()> {
        let to = from.checked_add(len)?;
        let mut at = from;
        while at < to {
            let place = self.chunk_at(pack, entry, at)?;
            let bytes = self.chunk(pack, &place)?;
            let inside = usize::try_from(at.checked_sub(place.header.raw_offset)?).ok()?;
            let rest = bytes.get(inside..)?;
            let now = rest.get(..rest.len().min(usize::try_from(to - at).unwrap_or(usize::MAX)))?;
            if now.is_empty() {
                return None;
            }
            sink(now);
            at += now.len() as u64;
        }
        Some(())
    }

    fn file(&mut self, pack: u64) -> Option<(Arc<dyn File>, u64)> {
        if let Some(f) = self.files.get(&pack) {
            return f.clone();
        }
        if self.files.len() >= 64 {
            self.files.clear();
        }
        let path = &self.inventory.packs.get(&pack)?.path;
        let opened = open(self.pass.disk, self.pass.dir, path).ok().flatten();
        self.files.insert(pack, opened.clone());
        opened
    }

    fn place(&self, pack: u64, at: u64) -> Binding {
        Binding::new(self.inventory.store, FileName::new(FileKind::Pack, pack), at)
    }

    /// The chunk that has a byte of an entry's raw bytes.
    fn chunk_at(&mut self, pack: u64, entry: u64, raw: u64) -> Option<Place> {
        let (file, len) = self.file(pack)?;
        let binding = self.place(pack, 0);
        if self.entries.len() >= ENTRIES_MAX && !self.entries.contains_key(&(pack, entry)) {
            self.entries.clear();
        }
        let e = self.entries.entry((pack, entry)).or_insert_with(|| Entry {
            chunks: Vec::new(),
            next: entry + EntryHeader::SIZE as u64,
            raw_end: 0,
        });
        while e.raw_end <= raw && e.next < len {
            let mut head = [0; ChunkHeader::SIZE];
            let n = read_full(file.as_ref(), &mut head, e.next).ok()?;
            // Behind a chunk that is damaged the others say themselves where they are; those are told already.
            let header = ChunkHeader::read(head.get(..n)?, &binding.at(e.next))?;
            e.chunks.push(Place { at: e.next, header });
            e.next += pack::chunk_len(header.stored_len);
            e.raw_end = header.raw_offset.checked_add(header.raw_len.into())?;
        }
        let i = e.chunks.partition_point(|c| c.header.raw_offset + u64::from(c.header.raw_len) <= raw);
        e.chunks.get(i).copied().filter(|c| c.header.raw_offset <= raw)
    }

    /// The raw bytes of a chunk.
    fn chunk(&mut self, pack: u64, place: &Place) -> Option<Arc<[u8]>> {
        let key = (pack, place.at);
        if let Some(i) = self.chunks.iter().rposition(|c| c.0 == key) {
            let hit = self.chunks.remove(i)?;
            let bytes = hit.1.clone();
            self.chunks.push_back(hit);
            return Some(bytes);
        }
        let (file, _) = self.file(pack)?;
        let len = usize::try_from(pack::chunk_len(place.header.stored_len)).ok()?.checked_sub(ChunkHeader::SIZE)?;
        self.stored.resize(len, 0);
        let n = read_full(file.as_ref(), &mut self.stored, place.at + ChunkHeader::SIZE as u64).ok()?;
        let binding = self.place(pack, place.at);
        let body = self.stored.get(..len).filter(|_| n == len)?;
        if !place.header.vouches_for(body, &binding) {
            return None;
        }
        let bytes: Arc<[u8]> = self.verifier.unpack(&place.header, body)?.into();
        self.kept += bytes.len();
        self.chunks.push_back((key, bytes.clone()));
        while self.kept > CACHE_MAX {
            self.kept = self.kept.saturating_sub(self.chunks.pop_front()?.1.len());
        }
        Some(bytes)
    }
}
