//! One account: from its folders' markers to its new cursor.
//!
//! ```text
//! markers ──► nothing changed: done
//!    └► folders matched ──► changed ones listed ──► what vanished is paired with what appeared ──► deletions ──► cursor
//! ```
//!
//! The cursor is appended last. A folder whose listing was not stable, or in which something could not be read, is left out of it.

use super::cursor::{Cursor, Mark};
use super::known::Known;
use super::listing::Appeared;
use super::live::{SlotId, concerns_one};
use super::pairing::Vanished;
use super::reading::Deferred;
use super::registry::Shared;
use super::report::Report;
use super::smart::Worker;
use super::{Bounds, Result, locked, now_us, shown};
use mailstrata_mailstore::maildir::marker::Marker;
use mailstrata_mailstore::source::{Account, FolderEntry, Folders, MessageEntry, Source as _, SourceError};
use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A listing is stable when nothing changed during a kernel clock tick before it; this is longer than two ticks.
const SETTLE: Duration = Duration::from_millis(30);

/// Alarms are about accounts with more messages than this.
const ALARM_FROM: usize = 20;

/// Deletions recorded under one hold of the account's lock.
const DELETES_AT_ONCE: usize = 256;

/// What became of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Unchanged,
    Changed,
    /// Still changing when the scan gave up.
    InDoubt,
    /// Could not be listed, or the scan ended before it was through.
    Skipped,
    Gone,
}

/// What the threads that work on one account share.
pub struct Job {
    pub account: Account,
    pub live: Shared,
    /// The moment of the scan before, µs UTC.
    pub before: Option<i64>,
    /// Chunks under way.
    pub pending: AtomicUsize,
    pub incomplete: AtomicBool,
    pub vanished: Mutex<Vanished>,
    /// Read, and perhaps moved: decided when all were read.
    pub deferred: Mutex<Vec<Deferred>>,
    /// Listed, and gone before they were opened.
    pub gone: Mutex<Vec<(SlotId, MessageEntry)>>,
    /// Places of messages that could not be read: counted once, however often they were listed.
    pub unreadable: Mutex<HashSet<u64>>,
    /// Folders that must be listed again next time.
    pub troubled: Mutex<HashSet<SlotId>>,
    pub report: Mutex<Report>,
}

impl Job {
    pub fn bounds(&self) -> Bounds {
        Bounds { before: self.before, seen: now_us() }
    }

    pub fn trouble(&self, slot: SlotId) {
        locked(&self.troubled).insert(slot);
    }
}

/// Why a message is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Not known at its place; it may have been at this other one.
    New { from: Option<u64> },
    /// Known; its flags differ, or its content was never read.
    Known,
    /// Known, and its content is compared.
    Verify,
}

/// A message to look at.
pub struct Task {
    pub entry: MessageEntry,
    pub why: Why,
}

/// Messages of one folder, for one thread.
pub struct Chunk {
    pub job: Arc<Job>,
    pub folder: Arc<FolderEntry>,
    pub slot: SlotId,
    pub tasks: Vec<Task>,
}

/// A folder of this pass.
pub struct Planned {
    pub folder: Arc<FolderEntry>,
    pub slot: SlotId,
    /// The mark that still holds; `None`: the folder is listed.
    pub kept: Option<Mark>,
    /// From the listing.
    pub marker: Option<Marker>,
    pub stable: bool,
}

/// Whether a root is a Maildir, and another one than `ours`.
fn is_another(root: &Path, ours: &Path) -> bool {
    let id = |p: &Path| std::fs::metadata(p.join("cur")).map(|m| (m.dev(), m.ino())).ok();
    root != ours && id(root).is_some_and(|theirs| id(ours) != Some(theirs))
}

/// The account's marks against its folders: the ones that still hold.
fn holding(cursor: Option<&Cursor>, folders: &Folders, deep: bool) -> Vec<Option<Mark>> {
    let once = |path: &[u8]| folders.found.iter().filter(|f| f.path == path).count() == 1;
    folders
        .found
        .iter()
        .map(|f| {
            let mark = cursor.filter(|_| !deep)?.folders.get(&f.path)?;
            (mark.marker.vouches_for(&f.marker) && mark.subscribed == f.subscribed && once(&f.path))
                .then(|| mark.clone())
        })
        .collect()
}

fn folders_gone(cursor: &Cursor, folders: &Folders) -> bool {
    let there = |path: &Vec<u8>| folders.found.iter().any(|f| f.path == *path) || folders.unread.contains(path);
    !cursor.folders.keys().all(there)
}

impl Worker<'_> {
    /// Scans an account.
    pub(super) fn scan_account(&mut self, account: &Account) -> Result<Outcome> {
        let scan = self.pool.scan;
        self.appeared = Appeared::default();
        let mut report = Report::default();
        report.accounts.seen = 1;
        let time = now_us();
        let folders = scan.source.folders(account, &mut |n| report.notice(&n));
        let folders = match folders {
            Ok(folders) => folders,
            Err(e) => return Ok(self.skip(account, &e, report)),
        };
        let id = scan.store.account_of(&account.address)?;
        let cursor = Cursor::read(&scan.store.view(), id)?;
        if let Some(other) = cursor.as_ref().map(|c| &c.root).filter(|root| is_another(root, &account.root)) {
            // Two Maildirs under one name would take turns in calling each other's messages deleted.
            report.accounts.skipped = 1;
            report.errors.add(format!(
                "account {} is {} in this store, which is still there; {} is not scanned under the same name",
                shown(&account.address),
                other.display(),
                account.root.display()
            ));
            self.pool.merge(report);
            return Ok(Outcome::Skipped);
        }
        let before = cursor.as_ref().map(|c| c.time);
        let cursor = cursor.filter(|c| c.is_of(&scan.source_id, &account.root));
        let kept = holding(cursor.as_ref(), &folders, scan.options.deep);
        if let Some(cursor) = &cursor
            && cursor.complete
            && kept.iter().all(Option::is_some)
            && !folders_gone(cursor, &folders)
        {
            report.accounts.unchanged = 1;
            self.pool.merge(report);
            return Ok(Outcome::Unchanged);
        }
        let job = Arc::new(Job {
            account: account.clone(),
            live: scan.registry.get(scan.store, &account.address)?,
            before,
            pending: AtomicUsize::new(0),
            incomplete: AtomicBool::new(false),
            vanished: Mutex::default(),
            deferred: Mutex::default(),
            gone: Mutex::default(),
            unreadable: Mutex::default(),
            troubled: Mutex::default(),
            report: Mutex::new(report),
        });
        let outcome = self.go_through(&job, folders, kept, cursor, time);
        self.finish_chunks(&job.pending);
        let outcome = outcome?;
        let mut live = locked(&job.live);
        let bytes = live.bytes();
        if scan.followed {
            live.settle()?;
            drop(live);
        } else {
            self.pool.await_later(live.take_last());
            drop(live);
            scan.registry.forget(&account.address)?;
        }
        let mut report = std::mem::take(&mut *locked(&job.report));
        match outcome {
            Outcome::InDoubt => report.accounts.in_doubt = 1,
            Outcome::Skipped => report.accounts.skipped = 1,
            _ => {}
        }
        let touched = report.messages.added
            + report.messages.changed
            + report.messages.moved
            + report.messages.deleted
            + report.messages.unseen
            + report.folders.added
            + report.folders.changed
            + report.folders.deleted;
        if touched > 0 {
            report.accounts.changed = 1;
        } else if outcome == Outcome::Changed {
            report.accounts.unchanged = 1;
        }
        self.pool.merge(report);
        drop(job);
        if scan.followed {
            scan.registry.trim(&account.address, bytes)?;
        }
        Ok(outcome)
    }

    fn skip(&mut self, account: &Account, error: &SourceError, mut report: Report) -> Outcome {
        report.accounts.skipped = 1;
        match error {
            // Whether it is gone is told by the accounts' listing.
            SourceError::Gone { .. } | SourceError::NotMaildir { .. } => {
                report.notices.add(format!("{}: {error}", shown(&account.address)));
            }
            SourceError::Io { .. } => report.errors.add(format!("{}: {error}", shown(&account.address))),
        }
        self.pool.merge(report);
        Outcome::Skipped
    }

    fn go_through(
        &mut self,
        job: &Arc<Job>,
        mut folders: Folders,
        mut kept: Vec<Option<Mark>>,
        cursor: Option<Cursor>,
        time: i64,
    ) -> Result<Outcome> {
        let scan = self.pool.scan;
        let (store, source) = (scan.store, &scan.source);
        let mut live = locked(&job.live);
        if let Some(cursor) = cursor.as_ref().filter(|_| !live.marked) {
            for (path, mark) in &cursor.folders {
                if let Some(slot) = live.slot_of(path).and_then(|s| live.slots.get_mut(s as usize)) {
                    slot.inode = mark.inode;
                }
            }
        }
        live.marked = true;
        let missing = |live: &super::live::Live, folders: &Folders| {
            live.slots.iter().any(|s| !s.gone && s.native.is_some() && !folders.found.iter().any(|f| f.path == s.path))
        };
        if missing(&live, &folders) {
            // A directory that is renamed while its parent is read can be missed: what is missing twice is gone.
            let again = source.folders(&job.account, &mut |_| {});
            let Ok(again) = again else { return Ok(Outcome::Skipped) };
            if !folders.found.iter().all(|f| again.found.iter().any(|a| a.path == f.path)) {
                return Ok(Outcome::InDoubt);
            }
            folders = again;
            kept = holding(cursor.as_ref(), &folders, scan.options.deep);
        }
        let when = job.bounds().unknown();
        live.record_account(store, when)?;
        let synced = live.sync_folders(store, source, &job.account, &folders, when)?;
        let first = live.known.len() == 0;
        let known_before = live.known.len();
        live.known.iter_mut().for_each(Known::forget_seen);
        drop(live);
        {
            let mut report = locked(&job.report);
            report.folders.added += synced.added;
            report.folders.changed += synced.changed;
        }
        let unread: HashSet<Vec<u8>> = folders.unread.iter().cloned().collect();
        for path in &unread {
            let (folder, account) = (shown(path), shown(&job.account.address));
            locked(&job.report).errors.add(format!("folder {folder} of {account} cannot be read; it is left as it is"));
        }
        let mut plan: Vec<Planned> = folders
            .found
            .into_iter()
            .zip(kept)
            .zip(&synced.slots)
            .map(|((folder, kept), slot)| Planned {
                folder: Arc::new(folder),
                slot: *slot,
                kept,
                marker: None,
                stable: true,
            })
            .collect();
        self.list_all(job, &mut plan, first)?;
        if self.pool.ends() {
            return Ok(Outcome::Skipped);
        }
        self.record_vanished(job, &plan, &synced.gone, known_before)?;
        self.record_unopened(job)?;
        if self.pool.ends() || job.incomplete.load(Ordering::Acquire) {
            return Ok(Outcome::Skipped);
        }
        let mut live = locked(&job.live);
        for slot in &synced.gone {
            if live.delete_folder(store, *slot, job.bounds().unknown())? {
                locked(&job.report).folders.deleted += 1;
            }
        }
        let doubtful = plan.iter().any(|p| !p.stable);
        let wrote = {
            let r = locked(&job.report);
            r.messages.added
                + r.messages.changed
                + r.messages.moved
                + r.messages.deleted
                + r.messages.unseen
                + r.folders.added
                + r.folders.changed
                + r.folders.deleted
                > 0
        };
        let next = next_cursor(job, &plan, &live, &unread, cursor.as_ref(), &scan.source_id, time);
        let same = cursor.as_ref().is_some_and(|old| !wrote && same_marks(old, &next));
        if !same {
            let event = next.event(&job.account.address, live.id);
            live.append(store, &event)?;
        }
        Ok(if doubtful { Outcome::InDoubt } else { Outcome::Changed })
    }

    /// Pairs what vanished with what appeared, and records the rest as deleted.
    fn record_vanished(
        &mut self,
        job: &Arc<Job>,
        plan: &[Planned],
        gone: &[SlotId],
        known_before: usize,
    ) -> Result<()> {
        let mut listed: HashMap<SlotId, bool> = HashMap::new();
        for p in plan {
            let read = p.kept.is_none() && p.stable && p.marker.is_some();
            listed.entry(p.slot).and_modify(|all| *all &= read).or_insert(read);
        }
        listed.extend(gone.iter().map(|slot| (*slot, true)));
        let vanished: Vec<Known> = {
            let live = locked(&job.live);
            let is_gone = |k: &&Known| !k.seen() && listed.get(&k.slot()).copied().unwrap_or(false);
            live.known.iter().filter(is_gone).copied().collect()
        };
        *locked(&job.vanished) = Vanished::new(&vanished);
        self.dispatch_appeared(job, plan)?;
        self.finish_chunks(&job.pending);
        if self.pool.ends() || job.incomplete.load(Ordering::Acquire) {
            return Ok(());
        }
        self.decide_deferred(job)?;
        let left = std::mem::take(&mut *locked(&job.vanished)).into_left();
        let mut doomed: Vec<Known> = vanished.into_iter().filter(|k| left.contains(&k.place())).collect();
        doomed.sort_unstable_by_key(Known::place);
        let mut deleted = 0;
        for part in doomed.chunks(DELETES_AT_ONCE) {
            deleted += self.delete_some(job, plan, part)?;
        }
        let mut report = locked(&job.report);
        report.messages.deleted += deleted;
        let total = usize::try_from(deleted).unwrap_or(usize::MAX);
        if total > 0 && total == known_before && total > 1 {
            report.alarms.add(format!("{}: all {total} messages are gone", shown(&job.account.address)));
        } else if known_before > ALARM_FROM && total * 2 > known_before {
            report.alarms.add(format!("{}: {total} of {known_before} messages are gone", shown(&job.account.address)));
        }
        Ok(())
    }

    fn delete_some(&mut self, job: &Arc<Job>, plan: &[Planned], part: &[Known]) -> Result<u64> {
        let scan = self.pool.scan;
        let bounds = job.bounds();
        let mut deleted = 0;
        let mut live = locked(&job.live);
        for known in part {
            // The follower may have recorded it, or recorded something newer at its place.
            if live.known.get(known.place()).is_none_or(|now| now.item != known.item || now.seen()) {
                continue;
            }
            let when = plan
                .iter()
                .find(|p| p.slot == known.slot())
                .map_or(bounds.unknown(), |p| bounds.rename(last_change(&p.folder)));
            match live.delete(scan.store, known.place(), None, when) {
                Ok(()) => deleted += 1,
                Err(e) if concerns_one(&e) => {
                    locked(&job.report).errors.add(format!("{}: {e}", shown(&job.account.address)));
                    job.trouble(known.slot());
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(deleted)
    }

    /// Lists what changed; again, once, what changed meanwhile.
    fn list_all(&mut self, job: &Arc<Job>, plan: &mut [Planned], first: bool) -> Result<()> {
        for attempt in 0..2 {
            let mut waited = attempt == 0;
            for p in plan.iter_mut() {
                if self.pool.ends() {
                    return Ok(());
                }
                let again = attempt > 0 && !p.stable;
                if p.kept.is_some() || attempt > 0 && !again {
                    continue;
                }
                if !std::mem::replace(&mut waited, true) {
                    self.finish_chunks(&job.pending);
                    std::thread::sleep(SETTLE);
                }
                if again {
                    let mut live = locked(&job.live);
                    live.known.iter_mut().filter(|k| k.slot() == p.slot).for_each(Known::forget_seen);
                }
                match self.list(job, &p.folder, p.slot, first)? {
                    Some(listing) => (p.marker, p.stable) = (Some(listing.marker), listing.stable),
                    None => (p.marker, p.stable) = (None, false),
                }
            }
            if plan.iter().all(|p| p.stable) {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// When a message was last taken out of a folder, or put into it, µs UTC.
fn last_change(folder: &FolderEntry) -> i64 {
    use std::os::unix::fs::MetadataExt as _;
    let time = |part: &str| {
        let meta = std::fs::symlink_metadata(folder.dir.join(part));
        meta.map_or(0, |m| m.mtime().saturating_mul(1_000_000).saturating_add(m.mtime_nsec() / 1000))
    };
    // Rounded up: the kernel's clock ticks every few ms, and a deletion is not after this.
    time("cur").max(time("new")).saturating_add(1)
}

fn next_cursor(
    job: &Job,
    plan: &[Planned],
    live: &super::live::Live,
    unread: &HashSet<Vec<u8>>,
    old: Option<&Cursor>,
    source: &[u8],
    time: i64,
) -> Cursor {
    let troubled = locked(&job.troubled);
    let mut folders = std::collections::BTreeMap::new();
    let mut complete = true;
    for p in plan {
        let path = &p.folder.path;
        let twice = plan.iter().filter(|o| o.slot == p.slot).count() > 1;
        if twice || troubled.contains(&p.slot) || !p.stable {
            complete = false;
            continue;
        }
        let mark = match (&p.kept, &p.marker) {
            (Some(kept), _) => kept.clone(),
            (None, Some(marker)) => {
                let inode = live.slots.get(p.slot as usize).map_or(0, |s| s.inode);
                let fresh = Mark { subscribed: p.folder.subscribed, inode, marker: marker.clone() };
                let before = old.and_then(|old| old.folders.get(path));
                // Neither vouches for anything: writing the new one would change nothing.
                let idle = !marker.vouches_for(marker);
                before.filter(|b| idle && b.subscribed == fresh.subscribed).cloned().unwrap_or(fresh)
            }
            (None, None) => {
                complete = false;
                continue;
            }
        };
        folders.insert(path.clone(), mark);
    }
    for path in unread {
        if let Some(mark) = old.and_then(|old| old.folders.get(path)) {
            folders.insert(path.clone(), mark.clone());
        } else {
            complete = false;
        }
    }
    Cursor { source: source.to_vec(), root: job.account.root.clone(), time, folders, complete }
}

fn same_marks(old: &Cursor, new: &Cursor) -> bool {
    let text = |c: &Cursor| -> Vec<(Vec<u8>, String)> {
        c.folders.iter().map(|(p, m)| (p.clone(), format!("{} {:x} {}", m.subscribed, m.inode, m.marker))).collect()
    };
    old.complete == new.complete && text(old) == text(new)
}
