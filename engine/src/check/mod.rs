//! The offline check: everything on disk against `SPEC.md`, and nothing else.
//!
//! ```text
//! files ─► frames (log) ─► blobs (packs) ─► references ─► names of what was hit
//!              └── index (footers, checkpoints) ──┘
//! ```
//!
//! In comes a directory, out comes a [`Report`]. Only the format and the disk seam are used: the code that writes and reads
//! stores is what is judged. Nothing is opened for writing and no lock is taken. A writer may be at work: the log is read
//! before the packs (W1), and an unsealed file that looks damaged is looked at again.
//!
//! Memory: [`Options::memory`] for digests and items, and for each thread a window of 2 MiB, the largest group (32 MiB at
//! most) and the index rows of one segment or pack.

pub mod finding;

mod window;

mod files;

mod frames;

mod log_pass;

mod blobs;

mod pack_pass;

mod composed;

mod references;

mod index;

mod names;

use crate::disk::Disk;
use crate::error::Result;
use files::Inventory;
use finding::{Bytes, Draft, FINDINGS_MAX, Finding, Report, Severity};
use mailstrata_format::{AccountId, DamageKind, NoteKind};
use references::Sets;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A pack that was read from front to end and is sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PackDone {
    pub number: u64,
    pub length: u64,
    /// As in its trailer.
    pub root: [u8; 16],
}

/// What a check is to do.
#[derive(Clone)]
pub struct Options {
    pub disk: Arc<dyn Disk>,
    /// Read every byte of every pack, and hash every blob.
    pub read_data: bool,
    /// Only what concerns this account (address, or id as text).
    pub account: Option<Vec<u8>>,
    /// Bytes for the digests and items of one round.
    pub memory: u64,
    pub threads: usize,
    /// Packs that an earlier run has read: only their entries' headers and trailers are looked at.
    pub done: Vec<PackDone>,
}

impl Options {
    /// A quick check, with 512 MiB and as many threads as there are cores.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self { disk, read_data: false, account: None, memory: 512 << 20, threads, done: Vec::new() }
    }
}

/// Who watches a check.
#[derive(Default)]
pub struct Watch<'a> {
    /// Bytes done, and all.
    pub progress: Option<&'a (dyn Fn(u64, u64) + Sync)>,
    /// A pack was read and is sound.
    pub pack_done: Option<&'a (dyn Fn(PackDone) + Sync)>,
    /// Set: the check ends soon, with what it has.
    pub stop: Option<&'a AtomicBool>,
}

/// What all passes share.
struct Pass<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    options: &'a Options,
    watch: &'a Watch<'a>,
    done: AtomicU64,
    total: AtomicU64,
}

impl Pass<'_> {
    fn stopped(&self) -> bool {
        self.watch.stop.is_some_and(|s| s.load(Ordering::Relaxed))
    }

    fn advance(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if let Some(tell) = self.watch.progress {
            let total = self.total.load(Ordering::Relaxed);
            tell(done.min(total), total);
        }
    }
}

/// What passes gather.
struct Gathered {
    sets: Sets,
    composed: composed::ComposedBlobs,
    drafts: Vec<Draft>,
    files: Vec<(String, u64, Bytes)>,
    report: Report,
    /// Pack → how far groups say it was durable.
    packs: std::collections::BTreeMap<u64, u64>,
    /// Ids of the account that was asked for.
    accounts: BTreeSet<AccountId>,
    /// A file is missing or hurt: what nobody names may have been named there.
    log_hurt: bool,
}

/// Checks the store in a directory. `None`: it was stopped.
pub fn check(dir: &Path, options: &Options, watch: &Watch<'_>) -> Result<Option<Report>> {
    let disk = options.disk.as_ref();
    let mut inventory = Inventory::take(disk, dir)?;
    let pass = Pass { disk, dir, options, watch, done: AtomicU64::new(0), total: AtomicU64::new(0) };
    let sizes = |inv: &Inventory| inv.logs.iter().chain(inv.packs.values()).map(|p| p.len).sum::<u64>();
    pass.total.store(sizes(&inventory), Ordering::Relaxed);
    let mut all = Gathered {
        sets: Sets::new(options.memory),
        composed: composed::ComposedBlobs::default(),
        drafts: std::mem::take(&mut inventory.drafts),
        files: std::mem::take(&mut inventory.counted),
        report: Report { store: inventory.store.0, writer: inventory.writer.clone(), ..Report::default() },
        packs: std::collections::BTreeMap::new(),
        accounts: BTreeSet::new(),
        log_hurt: false,
    };
    if let Some(text) = options.account.as_deref().and_then(|a| std::str::from_utf8(a).ok()) {
        all.accounts.extend(AccountId::parse(text));
    }
    let mut first = true;
    loop {
        all.report.rounds += 1;
        log_pass::run(&pass, &inventory, &mut all, first)?;
        if first {
            inventory.newer_packs(disk, dir)?;
            all.drafts.append(&mut inventory.drafts);
            all.files.append(&mut inventory.counted);
            pass.total.store(sizes(&inventory), Ordering::Relaxed);
        }
        if pass.stopped() {
            return Ok(None);
        }
        pack_pass::run(&pass, &inventory, &mut all, first)?;
        if pass.stopped() {
            return Ok(None);
        }
        if first {
            all.composed.wanted.sort_unstable();
            all.composed.wanted.dedup();
        }
        first = false;
        all.sets.name(&all.composed.wanted);
        if !all.sets.next_round() {
            break;
        }
    }
    composed::run(&pass, &inventory, &mut all)?;
    if pass.stopped() {
        return Ok(None);
    }
    let missing = std::mem::take(&mut all.sets.missing);
    // Without the recipes nobody knows what they name.
    all.report.orphans = if all.composed.unread { 0 } else { all.sets.orphans };
    names::run(&pass, &inventory, &mut all.drafts, &missing)?;
    if pass.stopped() {
        return Ok(None);
    }
    if all.report.orphans > 0 && !all.log_hurt && options.account.is_none() {
        let d = Draft::new(NoteKind::Orphan, "pack", 0, 0, finding::Repair::Nothing);
        all.drafts.push(d.because(format!("{} blobs", all.report.orphans)));
    }
    Ok(Some(report(all, options)))
}

/// Puts the report together.
fn report(all: Gathered, options: &Options) -> Report {
    let mut report = all.report;
    let mut findings: Vec<Finding> = all.drafts.into_iter().map(|d| d.finding).collect();
    if options.account.is_some() {
        findings.retain_mut(|f| {
            let named = !f.hits.is_empty();
            f.hits.retain(|h| all.accounts.contains(&h.account));
            // What hit others is none of its business; what nobody can say the victims of is.
            !f.hits.is_empty() || (!named && f.severity == Severity::Damage)
        });
    }
    findings.sort_by(|a, b| {
        (a.severity, &a.path, a.offset, a.kind, &a.detail).cmp(&(b.severity, &b.path, b.offset, b.kind, &b.detail))
    });
    findings.dedup();
    report.damage = findings.iter().filter(|f| f.severity == Severity::Damage).count() as u64;
    report.notes = findings.len() as u64 - report.damage;
    report.left_off = findings.len().saturating_sub(FINDINGS_MAX) as u64;
    findings.truncate(FINDINGS_MAX);
    report.findings = findings;
    report.files = all.files;
    report.files.sort_by(|a, b| a.0.cmp(&b.0));
    report.files.iter().for_each(|f| report.bytes.add(&f.2));
    report
}

/// Findings for ranges that the device refused.
fn refused(window: &window::Window, path: &str, drafts: &mut Vec<Draft>) {
    for (at, len, why) in &window.refused {
        let d = Draft::new(DamageKind::Unreadable, path, *at, *len, finding::Repair::Rewrite);
        drafts.push(d.because(why.clone()));
    }
}
