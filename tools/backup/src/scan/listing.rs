//! A folder listed: each message in it is known and unchanged, or becomes a task.
//!
//! Nothing of a listing is kept but what may be one half of a move, and of that no more than [`APPEARED_MAX`]; a folder with more
//! is listed a second time when it is known what vanished.

use super::known::place_of;
use super::live::{SlotId, object_of_entry, state_of_entry};
use super::pass::{Chunk, Job, Planned, Task, Why};
use super::smart::Worker;
use super::{Result, locked, shown};
use mailstrata_mailstore::source::{FolderEntry, Listing, MessageEntry, OpenFolder as _, Source as _, SourceError};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Messages of an account that appeared and are kept until all its folders are listed.
const APPEARED_MAX: usize = 20_000;

/// A chunk ends with this many messages …
const CHUNK_MESSAGES: usize = 128;
/// … or bytes of them.
const CHUNK_BYTES: u64 = 4 << 20;

/// Tasks of one folder on their way into chunks.
pub struct Filling {
    job: Arc<Job>,
    folder: Arc<FolderEntry>,
    slot: SlotId,
    tasks: Vec<Task>,
    bytes: u64,
}

impl Filling {
    pub fn new(job: &Arc<Job>, folder: &Arc<FolderEntry>, slot: SlotId) -> Self {
        Self { job: job.clone(), folder: folder.clone(), slot, tasks: Vec::new(), bytes: 0 }
    }

    fn push(&mut self, worker: &mut Worker<'_>, entry: MessageEntry, why: Why) {
        self.bytes += entry.size_hint.unwrap_or(16 << 10);
        self.tasks.push(Task { entry, why });
        if self.tasks.len() >= CHUNK_MESSAGES || self.bytes >= CHUNK_BYTES {
            self.flush(worker);
        }
    }

    /// New messages in the order of their names.
    fn push_sorted(&mut self, worker: &mut Worker<'_>, fresh: &mut Vec<MessageEntry>) {
        fresh.sort_unstable_by(|a, b| a.base.cmp(&b.base));
        for entry in fresh.drain(..) {
            self.push(worker, entry, Why::New { from: None });
        }
    }

    pub fn flush(&mut self, worker: &mut Worker<'_>) {
        self.bytes = 0;
        let tasks = std::mem::take(&mut self.tasks);
        if !tasks.is_empty() {
            worker.dispatch(Chunk { job: self.job.clone(), folder: self.folder.clone(), slot: self.slot, tasks });
        }
    }
}

/// What appeared in the folders of an account, and may have moved there.
#[derive(Default)]
pub struct Appeared {
    kept: Vec<(SlotId, MessageEntry)>,
    /// Folders with more than is kept.
    overflown: HashSet<SlotId>,
}

enum Found {
    Unchanged,
    Task(Why),
    /// A task, unless the message is in `cur/` too.
    Late(Why),
    Appeared,
}

impl Worker<'_> {
    /// Lists a folder. With `first` nothing can have moved, and what is not known is read at once, in the order of the names:
    /// that is the order of arrival, and what arrived together is alike. The order of the directory makes packs of mail 4 %
    /// larger.
    pub(super) fn list(
        &mut self,
        job: &Arc<Job>,
        folder: &Arc<FolderEntry>,
        slot: SlotId,
        first: bool,
    ) -> Result<Option<Listing>> {
        let deep = self.pool.scan.options.deep;
        let mut filling = Filling::new(job, folder, slot);
        let mut open = match self.pool.scan.source.open_folder(&job.account, folder) {
            Ok(open) => open,
            Err(e) => return Ok(self.not_listed(job, slot, &e)),
        };
        let mut notices = Vec::new();
        // `new/` is listed before `cur/`. A message in both was renamed meanwhile, or somebody left a link behind: `cur/` counts.
        let mut late: Vec<(u64, MessageEntry, Why)> = Vec::new();
        let mut twice: HashSet<u64> = HashSet::new();
        let mut fresh: Vec<MessageEntry> = Vec::new();
        let mut appeared = std::mem::take(&mut self.appeared);
        let listing = open.messages(
            &mut |entry| {
                let place = place_of(slot, &entry.base);
                let found = {
                    let mut live = locked(&job.live);
                    match live.known.get_mut(place) {
                        None if first => Found::Task(Why::New { from: None }),
                        None => Found::Appeared,
                        Some(known) => {
                            let again = known.see() && !first;
                            let differs = known.unread() || known.state != state_of_entry(&entry);
                            if again {
                                twice.insert(place);
                            }
                            match (deep && !again, differs) {
                                (false, false) => Found::Unchanged,
                                (verify, _) if entry.in_new => {
                                    Found::Late(if verify { Why::Verify } else { Why::Known })
                                }
                                (true, _) => Found::Task(Why::Verify),
                                (false, true) => Found::Task(Why::Known),
                            }
                        }
                    }
                };
                match found {
                    Found::Unchanged => {}
                    Found::Task(Why::New { from: None }) => {
                        fresh.push(entry);
                        if fresh.len() >= APPEARED_MAX {
                            filling.push_sorted(self, &mut fresh);
                        }
                    }
                    Found::Task(why) => filling.push(self, entry, why),
                    Found::Late(why) => late.push((place, entry, why)),
                    Found::Appeared if appeared.kept.len() < APPEARED_MAX => appeared.kept.push((slot, entry)),
                    Found::Appeared => drop(appeared.overflown.insert(slot)),
                }
            },
            &mut |n| notices.push(n),
        );
        self.appeared = appeared;
        filling.push_sorted(self, &mut fresh);
        for (place, entry, why) in late {
            if !twice.contains(&place) {
                filling.push(self, entry, why);
            }
        }
        filling.flush(self);
        let mut report = locked(&job.report);
        notices.iter().for_each(|n| report.notice(n));
        if !twice.is_empty() && listing.as_ref().is_ok_and(|l| l.stable) {
            let (many, dir) = (twice.len(), folder.dir.display());
            report.notices.add(format!("{dir}: {many} messages are in new/ and in cur/; those in cur/ count"));
        }
        drop(report);
        match listing {
            Ok(listing) => {
                let mut report = locked(&job.report);
                report.folders.listed += 1;
                report.messages.listed += listing.messages;
                self.pool.counters.messages.fetch_add(listing.messages, Ordering::Relaxed);
                Ok(Some(listing))
            }
            Err(e) => Ok(self.not_listed(job, slot, &e)),
        }
    }

    fn not_listed(&self, job: &Job, slot: SlotId, error: &SourceError) -> Option<Listing> {
        job.trouble(slot);
        let line = format!("{}: {error}", shown(&job.account.address));
        let mut report = locked(&job.report);
        match error {
            SourceError::Gone { .. } => report.notices.add(line),
            _ => report.errors.add(line),
        }
        None
    }

    /// Now that it is known what vanished: everything that appeared becomes a task, with the place it may come from.
    pub(super) fn dispatch_appeared(&mut self, job: &Arc<Job>, plan: &[Planned]) -> Result<()> {
        let Appeared { mut kept, overflown } = std::mem::take(&mut self.appeared);
        kept.retain(|(slot, _)| !overflown.contains(slot));
        kept.sort_by(|a, b| (a.0, &a.1.base).cmp(&(b.0, &b.1.base)));
        // Listed twice, the later entry counts.
        kept.dedup_by(|later, earlier| {
            let same = later.0 == earlier.0 && later.1.base == earlier.1.base;
            if same {
                std::mem::swap(later, earlier);
            }
            same
        });
        let mut kept = kept.into_iter().peekable();
        while let Some((slot, _)) = kept.peek() {
            let slot = *slot;
            let Some(planned) = plan.iter().find(|p| p.slot == slot) else { break };
            let mut filling = Filling::new(job, &planned.folder, slot);
            while let Some((_, entry)) = kept.next_if(|(s, _)| *s == slot) {
                let from = claim(job, &entry);
                filling.push(self, entry, Why::New { from });
            }
            filling.flush(self);
        }
        for planned in plan.iter().filter(|p| overflown.contains(&p.slot)) {
            let mut filling = Filling::new(job, &planned.folder, planned.slot);
            let mut open = match self.pool.scan.source.open_folder(&job.account, &planned.folder) {
                Ok(open) => open,
                Err(e) => {
                    self.not_listed(job, planned.slot, &e);
                    continue;
                }
            };
            let listed = open.messages(
                &mut |entry| {
                    let place = place_of(planned.slot, &entry.base);
                    if locked(&job.live).known.get(place).is_none() {
                        let from = claim(job, &entry);
                        filling.push(self, entry, Why::New { from });
                    }
                },
                &mut |_| {},
            );
            filling.flush(self);
            if let Err(e) = listed {
                self.not_listed(job, planned.slot, &e);
            }
        }
        Ok(())
    }
}

/// The place of the vanished message that this one is by its name or object id.
fn claim(job: &Job, entry: &MessageEntry) -> Option<u64> {
    let mut vanished = locked(&job.vanished);
    if vanished.is_empty() {
        return None;
    }
    let by_name = super::known::object_of(&entry.base);
    vanished.claim_object(by_name).or_else(|| vanished.claim_object(object_of_entry(entry)))
}
