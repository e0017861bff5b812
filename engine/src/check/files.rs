//! First pass: which files there are, which should be, and what each says it is.
//!
//! In comes a directory, out goes an inventory: the superblock's two copies, the manifest, every file with its header, trailer
//! and manifest entry, those that are missing, foreign, doubled or exchanged. What a reader would use is *live*
//! (`SPEC.md` §2).

use super::finding::{Bytes, Draft, Kind, Repair};
use crate::disk::{Disk, File, OpenMode, read_full};
use crate::error::{Error, Result};
use mailstrata_format::checksum::BLOCK_CHECK;
use mailstrata_format::file::{FileHeader, Superblock};
use mailstrata_format::index::Trailer;
use mailstrata_format::manifest::{Manifest, ManifestEntry, ManifestHead, RETIRED, SEALED};
use mailstrata_format::{BLOCK, Binding, DamageKind, FORMAT_VERSION, FileKind, FileName, NoteKind, StoreId};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// A segment, run or pack that is there.
#[derive(Debug, Clone)]
pub struct Present {
    pub path: String,
    /// What it is: as its header says when that verifies.
    pub name: FileName,
    pub len: u64,
    pub header: Option<FileHeader>,
    /// The last block, when it verifies as a trailer.
    pub trailer: Option<Trailer>,
    /// The manifest's entry, when it says sealed or retired.
    pub entry: Option<ManifestEntry>,
    /// Whether a reader uses it.
    pub live: bool,
}

impl Present {
    /// Segments whose content it has.
    #[must_use]
    pub fn covers(&self) -> (u64, u64) {
        if self.name.kind == FileKind::Run {
            let of_header = self.header.map(|h| (h.first_segment, h.last_segment));
            let of_trailer = self.trailer.map(|t| (t.first_segment, t.last_segment));
            return of_header.or(of_trailer).unwrap_or((0, 0));
        }
        (self.name.number, self.name.number)
    }
}

/// See the module's text.
pub struct Inventory {
    pub store: StoreId,
    pub superblock: Option<Superblock>,
    pub manifest: Option<Manifest>,
    /// Segments and runs: live ones in the order of their LSNs, then the others.
    pub logs: Vec<Present>,
    pub packs: BTreeMap<u64, Present>,
    /// Checkpoints, by what they index.
    pub checkpoints: BTreeMap<FileName, FileName>,
    pub drafts: Vec<Draft>,
    /// Files that need no further look.
    pub counted: Vec<(String, u64, Bytes)>,
    /// What `LOCK` says.
    pub writer: Option<String>,
    has_manifest: bool,
    /// Paths that were looked at.
    seen: BTreeSet<String>,
}

/// Opens a file for reading; `None` when there is none.
pub fn open(disk: &dyn Disk, dir: &Path, path: &str) -> Result<Option<(Arc<dyn File>, u64)>> {
    let full = dir.join(path);
    let file = match disk.open(&full, OpenMode::Read) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(Error::io("opening", &full))?,
    };
    let len = file.len().map_err(Error::io("reading the size of", &full))?;
    Ok(Some((file, len)))
}

/// Names in a directory of the store; none when it is not there.
fn list(disk: &dyn Disk, dir: &Path, sub: &str) -> Result<Vec<String>> {
    let path = dir.join(sub);
    match disk.list(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => {
            let mut names = other.map_err(Error::io("listing", &path))?;
            names.sort_unstable();
            Ok(names)
        }
    }
}

/// A block; shorter at the end of the file, empty when it cannot be read.
pub fn block(file: &Arc<dyn File>, at: u64) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK];
    let n = read_again(file, &mut bytes, at);
    bytes.truncate(n);
    bytes
}

/// Reads, and once more when the device gives an error; what cannot be read then is told by the pass that needs it.
fn read_again(file: &Arc<dyn File>, bytes: &mut [u8], at: u64) -> usize {
    read_full(file.as_ref(), bytes, at).or_else(|_| read_full(file.as_ref(), bytes, at)).unwrap_or(0)
}

/// Directories of a store, and the files in them that have a header.
const KINDS: [(&str, &str, FileKind); 3] =
    [("log", "seg", FileKind::Segment), ("run", "run", FileKind::Run), ("pack", "pack", FileKind::Pack)];

/// Longest manifest that is read: a hundred bytes a file.
const MANIFEST_MAX: u64 = 256 << 20;

impl Inventory {
    /// Looks at everything that is in the directory.
    pub fn take(disk: &dyn Disk, dir: &Path) -> Result<Self> {
        let root = list(disk, dir, "")?;
        let mut inv = Self {
            store: StoreId::default(),
            superblock: None,
            manifest: None,
            logs: Vec::new(),
            packs: BTreeMap::new(),
            checkpoints: BTreeMap::new(),
            drafts: Vec::new(),
            counted: Vec::new(),
            writer: None,
            has_manifest: false,
            seen: BTreeSet::new(),
        };
        inv.superblock(disk, dir)?;
        for name in &root {
            inv.root_entry(disk, dir, name)?;
        }
        // Files before the manifest: one that is sealed or added meanwhile is found in its newer state.
        let mut found = Vec::new();
        for (sub, ext, kind) in KINDS {
            for entry in list(disk, dir, sub)? {
                let path = format!("{sub}/{entry}");
                match FileName::number_of(&entry, ext) {
                    Some(number) => found.push((path, FileName::new(kind, number))),
                    None => inv.stray(disk, dir, &path)?,
                }
            }
        }
        for entry in list(disk, dir, "index")? {
            let path = format!("index/{entry}");
            let kinds = [
                ("seg.idx", FileKind::SegmentCheckpoint, FileKind::Segment),
                ("pack.idx", FileKind::PackCheckpoint, FileKind::Pack),
            ];
            let is = kinds.iter().find_map(|(ext, c, of)| FileName::number_of(&entry, ext).map(|n| (*c, *of, n)));
            match is {
                Some((c, of, n)) => drop(inv.checkpoints.insert(FileName::new(of, n), FileName::new(c, n))),
                None => inv.stray(disk, dir, &path)?,
            }
        }
        inv.quarantine(disk, dir)?;
        inv.read_manifest(disk, dir)?;
        inv.identify(disk, dir, found)?;
        inv.missing(disk, dir)?;
        inv.choose_live();
        Ok(inv)
    }

    /// Both copies; without one the store's id comes from the headers of its files.
    fn superblock(&mut self, disk: &dyn Disk, dir: &Path) -> Result<()> {
        let path = "SUPERBLOCK";
        let bytes = match open(disk, dir, path)? {
            None => Vec::new(),
            Some((file, len)) => {
                let mut bytes = block(&file, 0);
                bytes.extend(block(&file, BLOCK as u64));
                let mut count = Bytes { unknown: len.saturating_sub(2 * BLOCK as u64), ..Bytes::default() };
                for copy in 0..2u64 {
                    let there = len.saturating_sub(copy * BLOCK as u64).min(BLOCK as u64);
                    let sound = u32::try_from(copy).ok().and_then(|c| Superblock::copy_from(&bytes, c)).is_some();
                    *(if sound { &mut count.header } else { &mut count.unknown }) += there;
                }
                self.counted.push((path.into(), len, count));
                if len > 2 * BLOCK as u64 {
                    let at = 2 * BLOCK as u64;
                    self.drafts.push(Draft::new(DamageKind::FileLong, path, at, len - at, Repair::RewriteSuperblock));
                }
                bytes
            }
        };
        let copies = [Superblock::copy_from(&bytes, 0), Superblock::copy_from(&bytes, 1)];
        for (copy, found) in (0u64..).zip(&copies) {
            let at = copy * BLOCK as u64;
            let block = usize::try_from(at).ok().and_then(|a| bytes.get(a..a + BLOCK)).unwrap_or_default();
            match found {
                None => {
                    let d = Draft::new(DamageKind::Superblock, path, at, BLOCK as u64, Repair::RewriteSuperblock);
                    self.drafts.push(if bytes.is_empty() { d.because("the file is not there") } else { d });
                }
                Some(s) => {
                    let rest = block.get(Superblock::SIZE..BLOCK - BLOCK_CHECK).unwrap_or_default();
                    if s.reserved != [0; 48] || rest.iter().any(|b| *b != 0) {
                        let d = Draft::new(DamageKind::Padding, path, at, BLOCK as u64, Repair::RewriteSuperblock);
                        self.drafts.push(d);
                    }
                }
            }
        }
        if let [Some(a), Some(b)] = copies
            && a != (Superblock { copy: 0, ..b })
        {
            self.drafts.push(Draft::new(NoteKind::CopiesDiffer, path, BLOCK as u64, 0, Repair::RewriteSuperblock));
        }
        let [first, second] = copies;
        if let Some(s) = first.or(second) {
            if s.version != FORMAT_VERSION {
                return Err(Error::Version { path: dir.to_owned(), found: s.version, known: FORMAT_VERSION });
            }
            self.store = StoreId(s.store);
            self.superblock = Some(s);
            return Ok(());
        }
        self.store = claimed_store(disk, dir)?
            .ok_or(Error::NoStore { path: dir.to_owned(), why: "no superblock, and no file whose header verifies" })?;
        Ok(())
    }

    fn root_entry(&mut self, disk: &dyn Disk, dir: &Path, name: &str) -> Result<()> {
        match name {
            "SUPERBLOCK" | "MANIFEST" | "log" | "run" | "pack" | "index" | "quarantine" => Ok(()),
            "LOCK" | "READERS" => {
                let Some((file, len)) = open(disk, dir, name)? else { return Ok(()) };
                if name == "LOCK" {
                    self.writer = Some(String::from_utf8_lossy(&block(&file, 0)).trim().to_owned());
                }
                self.counted.push((name.into(), len, Bytes { other: len, ..Bytes::default() }));
                Ok(())
            }
            _ => self.stray(disk, dir, name),
        }
    }

    /// A name that stands for no file of a store.
    fn stray(&mut self, disk: &dyn Disk, dir: &Path, path: &str) -> Result<()> {
        let len = match open(disk, dir, path) {
            Ok(Some((_, len))) => len,
            Ok(None) => return Ok(()),
            // A directory, a pipe: none of ours, whatever is in it.
            Err(e) => {
                self.drafts.push(Draft::new(NoteKind::Stranger, path, 0, 0, Repair::Nothing).because(e.to_string()));
                return Ok(());
            }
        };
        let work = path.ends_with(".tmp");
        if work {
            self.counted.push((path.into(), len, Bytes { other: len, ..Bytes::default() }));
            if self.writer.is_none() {
                self.drafts.push(Draft::new(NoteKind::Leftover, path, 0, len, Repair::Nothing));
            }
        } else {
            self.counted.push((path.into(), len, Bytes { unknown: len, ..Bytes::default() }));
            self.drafts.push(Draft::new(NoteKind::Stranger, path, 0, len, Repair::SetAside));
        }
        Ok(())
    }

    fn quarantine(&mut self, disk: &dyn Disk, dir: &Path) -> Result<()> {
        let names = list(disk, dir, "quarantine")?;
        let mut sum = 0;
        for name in &names {
            let path = format!("quarantine/{name}");
            if let Ok(Some((_, len))) = open(disk, dir, &path) {
                sum += len;
                self.counted.push((path, len, Bytes { other: len, ..Bytes::default() }));
            }
        }
        if !names.is_empty() {
            let d = Draft::new(NoteKind::Quarantine, "quarantine", 0, sum, Repair::Nothing);
            self.drafts.push(d.because(format!("{} files", names.len())));
        }
        Ok(())
    }

    fn read_manifest(&mut self, disk: &dyn Disk, dir: &Path) -> Result<()> {
        let path = "MANIFEST";
        let Some((file, len)) = open(disk, dir, path)? else { return Ok(()) };
        self.has_manifest = true;
        let mut bytes = vec![0; usize::try_from(len.min(MANIFEST_MAX)).unwrap_or(0)];
        let n = read_again(&file, &mut bytes, 0);
        bytes.truncate(n);
        match Manifest::read(&bytes, self.store) {
            Ok(m) => {
                let header = BLOCK as u64;
                self.counted.push((path.into(), len, Bytes { header, content: len - header, ..Bytes::default() }));
                let head = FileHeader::decode(&bytes).is_some_and(|h| h.reserved == [0; 8]);
                let rest = bytes.get(FileHeader::SIZE..BLOCK - BLOCK_CHECK).unwrap_or_default();
                let zero = head
                    && rest.iter().all(|b| *b == 0)
                    && (m.head.reserved, m.head.reserved2) == (0, [0; 40])
                    && m.entries.iter().all(|e| e.state == RETIRED || e.retired == 0);
                if !zero {
                    self.drafts.push(Draft::new(DamageKind::Padding, path, 0, len, Repair::RebuildManifest));
                }
                let known = |e: &ManifestEntry| e.state <= RETIRED && KINDS.iter().any(|k| k.2.code() == e.kind);
                if let Some(e) = m.entries.iter().position(|e| !known(e)) {
                    let at = (BLOCK + ManifestHead::SIZE + e * ManifestEntry::SIZE) as u64;
                    let d =
                        Draft::new(DamageKind::Manifest, path, at, ManifestEntry::SIZE as u64, Repair::RebuildManifest);
                    self.drafts.push(d.because("an entry of no known kind or state"));
                }
                self.manifest = Some(m);
            }
            Err(damage) => {
                self.counted.push((path.into(), len, Bytes { unknown: len, ..Bytes::default() }));
                let d = Draft::new(DamageKind::Manifest, path, damage.offset, len, Repair::RebuildManifest);
                self.drafts.push(d);
            }
        }
        Ok(())
    }

    /// Finds out what each file is.
    fn identify(&mut self, disk: &dyn Disk, dir: &Path, found: Vec<(String, FileName)>) -> Result<()> {
        let mut claims = Vec::new();
        let mut own: BTreeSet<FileName> = self.logs.iter().chain(self.packs.values()).map(|p| p.name).collect();
        for (path, by_name) in found {
            self.seen.insert(path.clone());
            // A file that vanished was replaced by a writer at work.
            let Some((file, len)) = open(disk, dir, &path)? else { continue };
            let head = block(&file, 0);
            if let Ok(h) = FileHeader::read(&head, self.store, by_name) {
                own.insert(by_name);
                claims.push((path, by_name, by_name, Some(h), len, file));
                continue;
            }
            let raw = FileHeader::decode(&head);
            let other = raw.and_then(|h| Some((h, FileName::new(FileKind::from_code(h.kind)?, h.number))));
            let other = other.filter(|(h, n)| FileHeader::read(&head, StoreId(h.store), *n).is_ok());
            match other {
                Some((h, name)) if h.store != self.store.0 => {
                    let d = Draft::new(DamageKind::FileForeign, &path, 0, len, Repair::SetAside);
                    self.drafts.push(d.because(format!("it is {name} of store {}", StoreId(h.store))));
                    self.counted.push((path, len, Bytes { unknown: len, ..Bytes::default() }));
                }
                Some((h, name)) => claims.push((path, by_name, name, Some(h), len, file)),
                None => claims.push((path, by_name, by_name, None, len, file)),
            }
        }
        for (path, by_name, name, header, len, file) in claims {
            if name != by_name {
                if !matches!(name.kind, FileKind::Segment | FileKind::Run | FileKind::Pack) || !own.insert(name) {
                    let d = Draft::new(DamageKind::FileForeign, &path, 0, len, Repair::SetAside);
                    self.drafts.push(d.because(format!("it is a copy of {name}")));
                    self.counted.push((path, len, Bytes { unknown: len, ..Bytes::default() }));
                    continue;
                }
                let d = Draft::new(DamageKind::FileForeign, &path, 0, 0, Repair::Rename);
                self.drafts.push(d.because(format!("it is {name} under another name")));
            }
            self.add(path, name, header, len, &file);
        }
        Ok(())
    }

    fn add(&mut self, path: String, name: FileName, header: Option<FileHeader>, len: u64, file: &Arc<dyn File>) {
        let entry = self.manifest.as_ref().and_then(|m| m.entry(name)).filter(|e| matches!(e.state, SEALED | RETIRED));
        let entry = entry.copied();
        let end = entry.map_or(len, |e| if len > e.length { e.length } else { len });
        let trailer = end.checked_sub(BLOCK as u64).and_then(|at| {
            Trailer::read(&block(file, at), &Binding::new(self.store, name, at)).filter(|t| t.file_len == end)
        });
        if let Some(e) = entry {
            let draft = |kind: DamageKind, at: u64, n: u64, repair| Draft::new(kind, &path, at, n, repair);
            if len > e.length {
                self.drafts.push(draft(DamageKind::FileLong, e.length, len - e.length, Repair::Rewrite));
            }
            if len < e.length {
                let d = draft(DamageKind::FileTruncated, len, e.length - len, Repair::Rewrite);
                self.drafts.push(d.because(format!("{len} of {} bytes", e.length)));
            } else if trailer.is_none() {
                let at = end.saturating_sub(BLOCK as u64);
                self.drafts.push(draft(DamageKind::Footer, at, BLOCK as u64, Repair::RebuildIndex));
            }
            if let Some(t) = trailer {
                let of_log = name.kind != FileKind::Pack;
                let same = e.root == t.root
                    && e.length == t.file_len
                    && e.records == t.records
                    && (!of_log
                        || (e.first_lsn, e.last_lsn, e.first_moment, e.last_moment)
                            == (t.first_lsn, t.last_lsn, t.first_moment, t.last_moment));
                if !same {
                    let d = draft(DamageKind::ManifestDiffers, end - BLOCK as u64, 0, Repair::RebuildManifest);
                    self.drafts.push(d);
                }
            }
        } else if trailer.is_some() && self.manifest.is_some() && self.writer.is_none() {
            self.drafts.push(Draft::new(NoteKind::Unnamed, &path, 0, 0, Repair::Nothing));
        }
        let present = Present { path, name, len, header, trailer, entry, live: true };
        if name.kind == FileKind::Pack {
            self.packs.insert(name.number, present);
        } else {
            self.logs.push(present);
        }
    }

    /// Packs that came while the log was read.
    pub fn newer_packs(&mut self, disk: &dyn Disk, dir: &Path) -> Result<()> {
        let mut found = Vec::new();
        for entry in list(disk, dir, "pack")? {
            let path = format!("pack/{entry}");
            if let Some(number) = FileName::number_of(&entry, "pack").filter(|_| !self.seen.contains(&path)) {
                found.push((path, FileName::new(FileKind::Pack, number)));
            }
        }
        self.identify(disk, dir, found)
    }

    /// What the manifest names and is not there.
    fn missing(&mut self, disk: &dyn Disk, dir: &Path) -> Result<()> {
        let written = !self.logs.is_empty() || !self.packs.is_empty();
        if written && !self.has_manifest {
            // The first is written when the first file is sealed, or at the first close, after the checkpoints.
            let sealed = self.logs.iter().chain(self.packs.values()).filter(|p| p.trailer.is_some()).count();
            let closed = !self.checkpoints.is_empty() && self.writer.is_none();
            self.drafts.push(if sealed > 2 || closed {
                Draft::new(DamageKind::FileMissing, "MANIFEST", 0, 0, Repair::RebuildManifest)
            } else {
                Draft::new(NoteKind::NoManifest, "MANIFEST", 0, 0, Repair::Nothing)
            });
        }
        let Some(m) = self.manifest.clone() else { return Ok(()) };
        let mut wanted: Vec<(FileName, Option<ManifestEntry>)> = Vec::new();
        for e in m.entries.iter().filter(|e| e.state == SEALED) {
            if let Some(kind) = FileKind::from_code(e.kind) {
                wanted.push((FileName::new(kind, e.number), Some(*e)));
            }
        }
        for (kind, number) in [(FileKind::Segment, m.head.durable_segment), (FileKind::Pack, m.head.pack)] {
            let name = FileName::new(kind, number);
            if number != 0 && m.entry(name).is_none() {
                wanted.push((name, None));
            }
        }
        for (name, entry) in wanted {
            let there = |inv: &Self| inv.packs.values().chain(&inv.logs).any(|p| p.name == name);
            if there(self) {
                continue;
            }
            // It may have come since the directory was listed.
            if !self.seen.contains(&name.path()) && open(disk, dir, &name.path())?.is_some() {
                self.identify(disk, dir, vec![(name.path(), name)])?;
                if there(self) {
                    continue;
                }
            }
            let lost_run = |d: &Draft| d.finding.path.starts_with("run/");
            if name.kind == FileKind::Segment && entry.is_none() && self.drafts.iter().any(lost_run) {
                // It may have been in there.
                continue;
            }
            let covered = name.kind == FileKind::Segment
                && self.logs.iter().any(|p| {
                    let (first, last) = p.covers();
                    p.name.kind == FileKind::Run && first <= name.number && name.number <= last
                });
            if covered {
                continue;
            }
            let mut d = Draft::new(DamageKind::FileMissing, &name.path(), 0, 0, Repair::Lost);
            d.finding.lsns = entry.filter(|e| e.last_lsn > 0).map(|e| (e.first_lsn, e.last_lsn));
            d.finding.length = entry.map_or(0, |e| e.length);
            if let Some(e) = entry.filter(|e| name.kind == FileKind::Run && self.retired_serve(e)) {
                d.finding.lsns = None;
                d.finding.repair = Repair::RebuildManifest;
                let text =
                    format!("the files that it replaced are there and have its LSNs {}-{}", e.first_lsn, e.last_lsn);
                d = d.because(text);
            }
            self.drafts.push(d);
        }
        Ok(())
    }

    /// Whether retired files that are there have all that a run has which is not.
    fn retired_serve(&self, run: &ManifestEntry) -> bool {
        let inside = |e: &ManifestEntry| {
            e.state == RETIRED && e.last_lsn > 0 && run.first_lsn <= e.first_lsn && e.last_lsn <= run.last_lsn
        };
        let mut files: Vec<_> = self
            .logs
            .iter()
            .filter_map(|p| p.entry.filter(inside).map(|e| (p.covers(), (e.first_lsn, e.last_lsn))))
            .collect();
        // Of a run and what it replaced before, the run: it is the longer one.
        files.sort_by_key(|(covers, _)| (covers.0, std::cmp::Reverse(covers.1)));
        let mut last: Option<((u64, u64), (u64, u64))> = None;
        let mut first_lsn = None;
        for (covers, lsns) in files {
            match last {
                Some((before, _)) if covers.1 <= before.1 => continue,
                Some((before, _)) if covers.0 != before.1 + 1 => return false,
                _ => {}
            }
            first_lsn.get_or_insert(lsns.0);
            last = Some((covers, lsns));
        }
        first_lsn == Some(run.first_lsn) && last.is_some_and(|(_, lsns)| lsns.1 == run.last_lsn)
    }

    /// Decides which segments and runs a reader uses, and what is missing between them.
    fn choose_live(&mut self) {
        let names: BTreeSet<FileName> = self.logs.iter().map(|p| p.name).collect();
        let mut hidden: Vec<(u64, u64, u64)> = Vec::new();
        for p in self.logs.iter_mut().filter(|p| p.name.kind == FileKind::Run) {
            let (first, last) = p.covers();
            let named = p.entry.is_some_and(|e| e.state == SEALED);
            let replaced_gone = (first..=last.min(first.saturating_add(100_000)))
                .any(|n| !names.contains(&FileName::new(FileKind::Segment, n)));
            p.live = last > 0
                && (named || (p.entry.is_none() && p.trailer.is_some() && (self.manifest.is_none() || replaced_gone)));
            if p.live {
                hidden.push((first, last, p.name.number));
            } else if p.entry.is_none() {
                self.drafts.push(Draft::new(NoteKind::Leftover, &p.path, 0, p.len, Repair::SetAside));
            }
        }
        for p in &mut self.logs {
            let (first, last) = p.covers();
            let run = p.name.kind == FileKind::Run;
            if hidden.iter().any(|h| h.0 <= first && last <= h.1 && (!run || h.2 > p.name.number)) {
                p.live = false;
            }
        }
        self.logs.sort_by_key(|p| (!p.live, p.covers(), p.name));
        let mut next = 1;
        let live: Vec<_> = self.logs.iter().filter(|p| p.live).map(|p| (p.covers(), p.path.clone())).collect();
        // What a run that is missing covered has its finding there.
        let lost_run =
            |d: &Draft| d.finding.kind == Kind::Damage(DamageKind::FileMissing) && d.finding.path.starts_with("run/");
        let told = |inv: &Self, path: &str| inv.drafts.iter().any(|d| d.finding.path == path || lost_run(d));
        for ((first, last), _) in live {
            for n in (next..first).take(1000) {
                let path = FileName::new(FileKind::Segment, n).path();
                if !told(self, &path) {
                    self.drafts.push(Draft::new(DamageKind::FileMissing, &path, 0, 0, Repair::Lost));
                }
            }
            next = last + 1;
        }
    }
}

/// The store that the headers of most files name.
fn claimed_store(disk: &dyn Disk, dir: &Path) -> Result<Option<StoreId>> {
    let mut votes: BTreeMap<[u8; 16], usize> = BTreeMap::new();
    for (sub, ext, kind) in KINDS {
        for entry in list(disk, dir, sub)? {
            let Some(number) = FileName::number_of(&entry, ext) else { continue };
            let Some((file, _)) = open(disk, dir, &format!("{sub}/{entry}"))? else { continue };
            let head = block(&file, 0);
            let Some(h) = FileHeader::decode(&head) else { continue };
            if FileHeader::read(&head, StoreId(h.store), FileName::new(kind, number)).is_ok() {
                *votes.entry(h.store).or_default() += 1;
            }
        }
    }
    Ok(votes.into_iter().max_by_key(|v| v.1).map(|v| StoreId(v.0)))
}
