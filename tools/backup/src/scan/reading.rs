//! A chunk of messages: opened, read where need be, and recorded under the account's lock.
//!
//! Everything is decided at the moment of recording, against what is known then. When a follower works beside the scan, the file
//! is looked at once more under the lock, so that its state is not older than what the follower recorded.

use super::content::{Content, Unread, changed_us};
use super::known::{digest_of, place_of};
use super::live::{Live, Seen, SlotId, concerns_one, state_of_entry};
use super::pass::{Chunk, Job, Task, Why};
use super::report::{MessageCounts, Report};
use super::smart::Worker;
use super::{Result, locked, shown};
use mailstrata_engine::Error as StoreError;
use mailstrata_mailstore::maildir::source::MaildirFolder;
use mailstrata_mailstore::source::{FolderEntry, MessageEntry, OpenError, OpenFolder, OpenMessage, Source as _};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A message that may be one that vanished, by its content.
pub struct Deferred {
    folder: Arc<FolderEntry>,
    slot: SlotId,
    entry: MessageEntry,
    content: Content,
}

/// A message that was looked at.
struct Looked {
    entry: MessageEntry,
    why: Why,
    /// `None`: there was no need to read it, or it could not be read.
    content: Option<Content>,
    unreadable: bool,
    changed: i64,
    internal_date: i64,
}

/// The entry under the name that a message was opened by.
fn entry_now(folder: &mut MaildirFolder, listed: &MessageEntry, open: &OpenMessage) -> MessageEntry {
    if open.file_name == listed.file_name && open.in_new == listed.in_new {
        return listed.clone();
    }
    let mut entry = folder.entry(&open.file_name, open.in_new);
    entry.uid = entry.uid.or(listed.uid);
    entry.guid = entry.guid.or_else(|| listed.guid.clone());
    entry
}

/// The date of a file that cannot be opened, µs UTC.
fn stated_date(folder: &FolderEntry, entry: &MessageEntry, otherwise: i64) -> i64 {
    use std::os::unix::fs::MetadataExt as _;
    let part = folder.dir.join(if entry.in_new { "new" } else { "cur" });
    let meta = std::fs::symlink_metadata(part.join(std::ffi::OsStr::from_bytes(&entry.file_name)));
    meta.map_or(otherwise, |m| m.mtime().saturating_mul(1_000_000).saturating_add(m.mtime_nsec() / 1000))
}

impl Worker<'_> {
    /// Looks at the messages of a chunk and records what they are.
    pub(super) fn read_chunk(&mut self, chunk: &Chunk) -> Result<()> {
        let (job, scan) = (&chunk.job, self.pool.scan);
        let mut folder = match scan.source.open_folder(&job.account, &chunk.folder) {
            Ok(folder) => folder,
            Err(e) => {
                job.trouble(chunk.slot);
                locked(&job.report).notices.add(format!("{}: {e}", shown(&job.account.address)));
                return Ok(());
            }
        };
        let mut all = Vec::with_capacity(chunk.tasks.len());
        let mut counts = Report::default();
        for task in &chunk.tasks {
            if self.pool.ends() {
                job.incomplete.store(true, Ordering::Release);
                break;
            }
            if let Some(looked) = self.look(chunk, &mut folder, task)? {
                if let Some(content) = &looked.content {
                    let length = content.blob.length;
                    self.pool.counters.bytes.fetch_add(length, Ordering::Relaxed);
                    counts.bytes_read += length;
                    counts.bytes_new += if content.new { length } else { 0 };
                }
                all.push(looked);
            }
        }
        // The blobs go ahead of the transactions that name them.
        self.batch.submit()?;
        let mut live = locked(&job.live);
        for looked in all {
            let recorded = self.record(chunk, &mut folder, &mut live, looked, &mut counts.messages);
            match recorded {
                Ok(()) => {}
                Err(e) if concerns_one(&e) => {
                    job.trouble(chunk.slot);
                    counts.errors.add(format!("{}: {e}", shown(&job.account.address)));
                }
                Err(e) => return Err(e.into()),
            }
        }
        drop(live);
        locked(&job.report).merge(counts);
        Ok(())
    }

    fn look(&mut self, chunk: &Chunk, folder: &mut MaildirFolder, task: &Task) -> Result<Option<Looked>> {
        let (job, store) = (&chunk.job, self.pool.scan.store);
        let open = match folder.open(&task.entry) {
            Ok(open) => open,
            Err(OpenError::Gone { .. }) => {
                locked(&job.gone).push((chunk.slot, task.entry.clone()));
                job.trouble(chunk.slot);
                return Ok(None);
            }
            Err(e) => return Ok(Some(self.unreadable(chunk, task, &task.entry, &e.to_string()))),
        };
        let entry = entry_now(folder, &task.entry, &open);
        let (changed, internal_date) = (changed_us(&open.file), open.received_us);
        let like = |place: u64| {
            let live = locked(&job.live);
            live.known.get(place).is_some_and(|k| k.looks_like(open.size, open.received_us))
        };
        let need = match task.why {
            Why::Verify | Why::New { from: None } => true,
            Why::New { from: Some(from) } => !like(from),
            Why::Known => !like(place_of(chunk.slot, &entry.base)),
        };
        let mut content = None;
        if need {
            let likely_known = !matches!(task.why, Why::New { from: None });
            match self.reader.read(store, &mut self.batch, open, likely_known) {
                Ok(read) => {
                    if task.why == Why::Verify && !read.new {
                        self.verify_stored(job, folder, &entry, &read)?;
                    }
                    content = Some(read);
                }
                Err(Unread::File(e)) => return Ok(Some(self.unreadable(chunk, task, &entry, &e.to_string()))),
                Err(Unread::Store(e)) => return Err(e.into()),
            }
        }
        Ok(Some(Looked { entry, why: task.why, content, unreadable: false, changed, internal_date }))
    }

    /// Reads the stored bytes of a message back. Damaged ones are stored again from the message at hand.
    fn verify_stored(
        &self,
        job: &Job,
        folder: &mut MaildirFolder,
        entry: &MessageEntry,
        content: &Content,
    ) -> Result<()> {
        let (store, digest) = (self.pool.scan.store, content.blob.digest);
        let view = store.view();
        // Stored a moment ago and not durable yet, it is not in the view; there is nothing to doubt then.
        if view.blob_len(&digest)?.is_none() {
            return Ok(());
        }
        let damage = match view.read_blob(&digest, &mut |_| Ok(())) {
            Ok(_) => return Ok(()),
            Err(StoreError::Damage(damage)) => damage,
            Err(e) => return Err(e.into()),
        };
        let (who, name) = (shown(&job.account.address), shown(&entry.file_name));
        let again = match folder.open(entry) {
            Ok(mut open) => match store.put_blob_again(&mut open.file) {
                Ok(blob) if blob.digest == digest => Ok(()),
                Ok(_) => Err("it has changed meanwhile".to_owned()),
                Err(StoreError::Content(e)) => Err(e.to_string()),
                Err(e) => return Err(e.into()),
            },
            Err(e) => Err(e.to_string()),
        };
        let mut report = locked(&job.report);
        match again {
            Ok(()) => report.alarms.add(format!(
                "{who}: the stored content of {name} was damaged and is stored again from the mailbox: {damage}"
            )),
            Err(why) => report.errors.add(format!(
                "{who}: the stored content of {name} is damaged: {damage}; it could not be stored again: {why}"
            )),
        }
        Ok(())
    }

    fn unreadable(&self, chunk: &Chunk, task: &Task, entry: &MessageEntry, why: &str) -> Looked {
        let job = &chunk.job;
        job.trouble(chunk.slot);
        if locked(&job.unreadable).insert(place_of(chunk.slot, &entry.base)) {
            locked(&job.report).errors.add(format!("{}: {why}", shown(&job.account.address)));
            let errors = self.pool.counters.read_errors.fetch_add(1, Ordering::Relaxed) + 1;
            if let Some(max) = self.pool.scan.options.read_errors_max.filter(|max| errors > *max) {
                self.pool.abort(format!("more than {max} messages could not be read"));
            }
        }
        let seen = job.bounds().seen;
        Looked {
            entry: entry.clone(),
            why: task.why,
            content: None,
            unreadable: true,
            changed: seen,
            internal_date: stated_date(&chunk.folder, entry, seen),
        }
    }

    /// Records a message as it is now.
    fn record(
        &self,
        chunk: &Chunk,
        folder: &mut MaildirFolder,
        live: &mut Live,
        mut looked: Looked,
        counts: &mut MessageCounts,
    ) -> std::result::Result<(), StoreError> {
        let (job, scan) = (&chunk.job, self.pool.scan);
        let slot = chunk.slot;
        if scan.followed && !looked.unreadable {
            match folder.open(&looked.entry) {
                Ok(open) => looked.entry = entry_now(folder, &looked.entry, &open),
                // Whatever happened, the follower has its events.
                Err(_) => {
                    job.trouble(slot);
                    return Ok(());
                }
            }
        }
        let place = place_of(slot, &looked.entry.base);
        let bounds = job.bounds();
        let (store, entry) = (scan.store, &looked.entry);
        if let Some(known) = live.known.get_mut(place) {
            known.see();
            let known = *known;
            if let Why::New { from: Some(from) } = looked.why {
                locked(&job.vanished).give_back(from);
            }
            let other = |c: &&Content| {
                known.unread() || known.digest != digest_of(&c.blob.digest) || known.internal_date != c.internal_date
            };
            if let Some(content) = looked.content.as_ref().filter(other) {
                let native = live.native_of(store, &known, Some(&entry.base))?;
                live.put(store, slot, entry, Some(native), &Seen::Read(content), bounds.rename(looked.changed))?;
                counts.changed += 1;
            } else if known.state != state_of_entry(entry) {
                live.change_flags(store, place, entry, bounds.rename(looked.changed))?;
                counts.changed += 1;
            }
            return Ok(());
        }
        if let Why::New { from: Some(from) } = looked.why
            && let Some(known) = live.known.get(from).copied()
        {
            let same = looked.content.as_ref().is_none_or(|c| digest_of(&c.blob.digest) == known.digest);
            if same && !looked.unreadable {
                live.move_to(store, from, Some(&entry.base), slot, entry, bounds.rename(looked.changed))?;
                counts.moved += 1;
                return Ok(());
            }
            locked(&job.vanished).give_back(from);
        }
        if let Some(content) = looked.content {
            if locked(&job.vanished).has_digest(digest_of(&content.blob.digest)) {
                let deferred = Deferred { folder: chunk.folder.clone(), slot, entry: looked.entry, content };
                locked(&job.deferred).push(deferred);
                return Ok(());
            }
            let when = bounds.arrival(content.internal_date, content.changed);
            live.put(store, slot, entry, None, &Seen::Read(&content), when)?;
            counts.added += 1;
        } else if looked.unreadable {
            let seen = Seen::Unread { internal_date: looked.internal_date };
            live.put(store, slot, entry, None, &seen, bounds.arrival(looked.internal_date, looked.changed))?;
            counts.unseen += 1;
        } else {
            // The message it was taken for was recorded elsewhere meanwhile; the next scan reads it.
            job.trouble(slot);
        }
        Ok(())
    }

    /// Messages with the content of one that vanished: the same date first, then in order.
    pub(super) fn decide_deferred(&mut self, job: &Arc<Job>) -> Result<()> {
        let mut deferred = std::mem::take(&mut *locked(&job.deferred));
        deferred.sort_by(|a, b| (a.slot, &a.entry.base).cmp(&(b.slot, &b.entry.base)));
        let store = self.pool.scan.store;
        let mut live = locked(&job.live);
        let bounds = job.bounds();
        for dated in [true, false] {
            let mut rest = Vec::new();
            for d in deferred {
                let place = place_of(d.slot, &d.entry.base);
                if live.known.get(place).is_some() {
                    continue;
                }
                let digest = digest_of(&d.content.blob.digest);
                let from = locked(&job.vanished).claim_digest(digest, dated.then_some(d.content.internal_date));
                if let Some(from) = from.filter(|from| live.known.get(*from).is_some()) {
                    live.move_to(store, from, None, d.slot, &d.entry, bounds.rename(d.content.changed))?;
                    locked(&job.report).messages.moved += 1;
                } else {
                    rest.push(d);
                }
            }
            deferred = rest;
        }
        for d in deferred {
            let when = bounds.arrival(d.content.internal_date, d.content.changed);
            match live.put(store, d.slot, &d.entry, None, &Seen::Read(&d.content), when) {
                Ok(()) => locked(&job.report).messages.added += 1,
                Err(e) if concerns_one(&e) => {
                    job.trouble(d.slot);
                    let at = d.folder.dir.display();
                    locked(&job.report).errors.add(format!("{}: {at}: {e}", shown(&job.account.address)));
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Messages that were listed and gone before they could be opened: they existed, and that is recorded. A follower records
    /// them itself.
    pub(super) fn record_unopened(&mut self, job: &Arc<Job>) -> Result<()> {
        let gone = std::mem::take(&mut *locked(&job.gone));
        if gone.is_empty() || self.pool.scan.followed {
            return Ok(());
        }
        let store = self.pool.scan.store;
        let mut live = locked(&job.live);
        for (slot, entry) in gone {
            let object = super::known::object_of(&entry.base);
            // Moved meanwhile, it is found where it is now; known before, its deletion is found by the next listing.
            if live.known.iter().any(|k| k.object == object) {
                continue;
            }
            let bounds = job.bounds();
            let seen = Seen::Unread { internal_date: bounds.seen };
            live.put(store, slot, &entry, None, &seen, bounds.unknown())?;
            live.delete(store, place_of(slot, &entry.base), Some(&entry.base), bounds.unknown())?;
            locked(&job.report).messages.unseen += 1;
        }
        Ok(())
    }
}
