//! Which of the runs that lie there are live, and which segments they hide (SPEC.md §2).
//!
//! In come the names in `run/` and `log/` and the manifest, if there is one; out go the runs that hold their transactions
//! now, and what a crash left. A segment is hidden when a live run covers it, and for no other reason: whatever else the
//! manifest says, nothing is overlooked that is nowhere else. So the files that a run replaced serve again when it is lost or
//! damaged while they are still there.

use crate::commit::upkeep::log_entry;
use crate::disk::read_full;
use crate::error::{Error, Result};
use crate::files::Files;
use crate::index::run::IndexRun;
use crate::index::table::SegmentTable;
use crate::log::walk::{Vouched, Walk, row_of};
use mailstrata_format::file::{FileHeader, Replaced};
use mailstrata_format::manifest::{Manifest, ManifestEntry, RETIRED, SEALED};
use mailstrata_format::{BLOCK, Damage, DamageKind, FileKind, FileName};
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

/// The index of a live run.
pub enum RunPart {
    Index(Arc<IndexRun>),
    /// Made from the frames: the footer is lost, and what it replaced is not there any more.
    Walked(Arc<SegmentTable>),
}

/// A run that holds its transactions now.
pub struct LiveRun {
    pub name: FileName,
    /// First and last segment; zeros when nothing says so any more.
    pub covers: (u64, u64),
    pub part: RunPart,
}

/// What [`Runs::decide`] found.
#[derive(Default)]
pub struct Found {
    pub live: Vec<LiveRun>,
    /// Complete runs that never became part of the store: what they would have replaced is all there.
    pub leftovers: Vec<u64>,
    /// Runs that a live one covers.
    hidden: Vec<u64>,
    /// Runs that the manifest calls sealed and whose work their inputs do again.
    dropped: Vec<u64>,
}

/// In comes what an open saw.
pub struct Runs<'a> {
    pub files: &'a Files,
    pub manifest: &'a Manifest,
    /// There is a manifest that verifies.
    pub told: bool,
    pub segments: &'a BTreeSet<u64>,
    pub numbers: BTreeSet<u64>,
}

const fn inside(inner: (u64, u64), outer: (u64, u64)) -> bool {
    outer.0 <= inner.0 && inner.1 <= outer.1
}

impl Found {
    /// Whether a live run holds what a segment held.
    #[must_use]
    pub fn covers(&self, segment: u64) -> bool {
        self.hides((segment, segment))
    }

    fn hides(&self, covers: (u64, u64)) -> bool {
        covers.0 != 0 && self.live.iter().any(|r| inside(covers, r.covers))
    }

    /// Number of the last segment that a live run covers.
    #[must_use]
    pub fn last_segment(&self) -> u64 {
        self.live.iter().map(|r| r.covers.1).max().unwrap_or(0)
    }

    /// The manifest as it is true now: what serves again is sealed, a run that others stand in for is not named.
    #[must_use]
    pub fn true_to(&self, mut manifest: Manifest, segments: &BTreeSet<u64>) -> Manifest {
        let run = |e: &ManifestEntry| e.kind == FileKind::Run.code();
        manifest.entries.retain(|e| !run(e) || !self.dropped.contains(&e.number));
        let named: BTreeSet<(u32, u64)> = manifest.entries.iter().map(|e| (e.kind, e.number)).collect();
        let unnamed = |kind: FileKind, number: &u64| !named.contains(&(kind.code(), *number));
        for r in self.live.iter().filter(|r| unnamed(FileKind::Run, &r.name.number)) {
            if let RunPart::Index(index) = &r.part {
                manifest.entries.push(log_entry(index));
            }
        }
        // What a run hides is a second copy, which is removed in time.
        let hidden = |kind: FileKind, number| ManifestEntry {
            kind: kind.code(),
            state: RETIRED,
            number,
            length: 0,
            first_lsn: 0,
            last_lsn: 0,
            first_moment: 0,
            last_moment: 0,
            records: 0,
            root: [0; 16],
            dead: 0,
            retired: 0,
        };
        let segments_hidden = segments.iter().filter(|n| unnamed(FileKind::Segment, n) && self.covers(**n));
        manifest.entries.extend(segments_hidden.map(|n| hidden(FileKind::Segment, *n)));
        let runs_hidden = self.hidden.iter().filter(|n| unnamed(FileKind::Run, n));
        manifest.entries.extend(runs_hidden.map(|n| hidden(FileKind::Run, *n)));
        manifest.entries.sort_unstable_by_key(|e| (e.kind, e.number));
        for e in manifest.entries.iter_mut().filter(|e| e.state == RETIRED) {
            let serves = match FileKind::from_code(e.kind) {
                Some(FileKind::Segment) => segments.contains(&e.number) && !self.covers(e.number),
                Some(FileKind::Run) => self.live.iter().any(|r| r.name.number == e.number),
                _ => false,
            };
            if serves {
                (e.state, e.retired) = (SEALED, 0);
            }
        }
        manifest
    }
}

impl Runs<'_> {
    /// Decides, from the newest run to the oldest: a newer one covers more.
    pub fn decide(&self, findings: &mut Vec<Damage>) -> Result<Found> {
        let mut found = Found::default();
        let named = self.manifest.entries.iter().filter(|e| e.kind == FileKind::Run.code()).map(|e| e.number);
        let all: BTreeSet<u64> = self.numbers.iter().copied().chain(named).collect();
        for number in all.into_iter().rev() {
            self.decide_on(FileName::new(FileKind::Run, number), &mut found, findings)?;
        }
        Ok(found)
    }

    fn decide_on(&self, name: FileName, found: &mut Found, findings: &mut Vec<Damage>) -> Result<()> {
        let entry = self.manifest.entry(name);
        let sealed = entry.filter(|e| e.state == SEALED);
        if let Some(retired) = entry.filter(|e| e.state == RETIRED)
            && found.live.iter().any(|r| holds(r, retired))
        {
            return Ok(());
        }
        // A footer that nothing vouches for is believed when all of it verifies.
        let run = IndexRun::open(self.files, name)
            .and_then(|run| if sealed.is_some() { Ok(run) } else { run.verified(self.files) });
        match run {
            Ok(run) => {
                let t = &run.trailer;
                let covers = (t.first_segment, t.last_segment);
                if found.hides(covers) {
                    found.hidden.push(name.number);
                    return Ok(());
                }
                if sealed.is_some_and(|e| e.length != t.file_len || e.root != t.root) {
                    findings.push(Damage::new(name, 0, DamageKind::Manifest));
                }
                if entry.is_none() && self.told && self.all_there(name)? {
                    found.leftovers.push(name.number);
                    return Ok(());
                }
                found.live.push(LiveRun { name, covers, part: RunPart::Index(Arc::new(run)) });
                Ok(())
            }
            Err(Error::Damage(damage)) => self.damaged(name, damage, found, findings),
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                if let Some(e) = sealed {
                    if self.stand_in(e)? {
                        tracing::warn!(run = %name, "a run is not there; the files that it replaced are and serve");
                        found.dropped.push(name.number);
                    } else {
                        findings.push(Damage::new(name, 0, DamageKind::FileMissing));
                    }
                }
                Ok(())
            }
            Err(e) => Err(e),
        }
    }

    /// A run whose footer does not verify.
    fn damaged(&self, name: FileName, why: Damage, found: &mut Found, findings: &mut Vec<Damage>) -> Result<()> {
        let header = self.header(name)?;
        let covers = header.as_ref().map_or((0, 0), |(h, _)| (h.first_segment, h.last_segment));
        if found.hides(covers) {
            return Ok(());
        }
        match self.manifest.entry(name) {
            Some(e) => {
                findings.push(why);
                if self.stand_in(e)? {
                    tracing::warn!(run = %name, error = %why, "the files that a damaged run replaced serve in its place");
                    found.dropped.push(name.number);
                    return Ok(());
                }
            }
            None if self.told && header.is_none() => {
                findings.push(why);
                return Ok(());
            }
            None if header.is_some() && self.all_there(name)? => return Ok(()),
            None => findings.push(why),
        }
        let file = self.files.get(name)?;
        let path = self.files.path(name);
        let limit = file.len().map_err(Error::io("reading the size of", &path))?;
        let table = Arc::new(SegmentTable::new(name.number));
        let vouched = Vouched { end: 0, successor: self.manifest.entry(name).map(|e| e.root) };
        let store = self.files.store;
        let walk = Walk { file: &file, path: &path, store, name, limit, vouched, from: None };
        let walked = walk.run(&mut |frame, offset| {
            let (row, source) = row_of(frame, offset);
            table.insert(&row, source);
        })?;
        findings.extend(walked.damage);
        found.live.push(LiveRun { name, covers, part: RunPart::Walked(table) });
        Ok(())
    }

    fn header(&self, name: FileName) -> Result<Option<(FileHeader, Vec<Replaced>)>> {
        let mut block = vec![0; BLOCK];
        let file = self.files.get(name)?;
        read_full(file.as_ref(), &mut block, 0).map_err(Error::io("reading", self.files.path(name)))?;
        let header = FileHeader::read(&block, self.files.store, name).ok();
        Ok(header.map(|h| (h, h.replaced(&block))))
    }

    /// Whether all that a run says it replaces is still there.
    fn all_there(&self, name: FileName) -> Result<bool> {
        let Some((header, replaced)) = self.header(name)? else { return Ok(false) };
        let there = |r: &Replaced| match FileKind::from_code(r.kind) {
            Some(FileKind::Segment) => self.segments.contains(&r.number),
            Some(FileKind::Run) => self.numbers.contains(&r.number),
            _ => false,
        };
        Ok(header.replaces > 0 && replaced.iter().all(there))
    }

    /// Whether files that were retired are there which together hold all that a run held.
    fn stand_in(&self, lost: &ManifestEntry) -> Result<bool> {
        let mut ranges = Vec::new();
        for e in self
            .manifest
            .entries
            .iter()
            .filter(|e| e.state == RETIRED && (e.kind, e.number) != (lost.kind, lost.number))
        {
            let there = match FileKind::from_code(e.kind) {
                Some(FileKind::Segment) => self.segments.contains(&e.number),
                Some(kind @ FileKind::Run) => {
                    self.numbers.contains(&e.number)
                        && IndexRun::open(self.files, FileName::new(kind, e.number)).is_ok()
                }
                _ => false,
            };
            if there && e.last_lsn != 0 {
                ranges.push((e.first_lsn, e.last_lsn));
            }
        }
        ranges.sort_unstable();
        let mut next = lost.first_lsn;
        for (first, last) in ranges {
            if first <= next && last >= next {
                next = last + 1;
            }
        }
        Ok(lost.last_lsn != 0 && next > lost.last_lsn)
    }
}

/// Whether a live run holds the transactions of a retired file.
fn holds(run: &LiveRun, retired: &ManifestEntry) -> bool {
    let (first, last) = match &run.part {
        RunPart::Index(i) => (i.trailer.first_lsn, i.trailer.last_lsn),
        RunPart::Walked(t) => (t.span().first_lsn, t.span().last_lsn),
    };
    retired.last_lsn != 0 && inside((retired.first_lsn, retired.last_lsn), (first, last))
}
