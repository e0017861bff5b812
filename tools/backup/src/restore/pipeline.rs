//! From rows to files: the one way in which items reach a target.
//!
//! In come rows of the states to put back, out go outcomes. Two passes over at most [`PLAN_MAX`] rows at a time:
//!
//! 1. *Plan*: threads read the records in the order of the segments; this thread asks the target what is there already. What
//!    remains keeps its row and its content's place in the packs.
//! 2. *Put*: sorted by that place and cut where pack entries end, so that each compressed block is decompressed once; threads
//!    read and verify, this thread writes.
//!
//! An outcome is certain when the target's `finish` has returned, so lines of restored items wait for it. It is called where
//! the target has just made a batch durable anyway.

use super::content::with_content;
use super::report::{Became, Each, ItemLine, Report, Why, kind_name};
use super::{Cause, Folder, Options, Place, Prepared, place_of};
use crossbeam_channel::bounded;
use mailstrata_engine::{Error, Hit, Transaction, View};
use mailstrata_format::{Damage, DamageKind, ItemKind};
use mailstrata_mailstore::json::percent_encode;
use mailstrata_mailstore::maildir::folder::INBOX;
use mailstrata_mailstore::target::{Outcome, Target, TargetError, folder_levels};
use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Rows planned at a time: 36 MB. An account with more is restored in as many rounds.
pub const PLAN_MAX: usize = 1 << 17;

/// Content up to this length is read before it is handed to the target; longer content streams.
pub const WHOLE_MAX: u64 = 1 << 20;

/// Items read ahead of the target, so at most this many times [`WHOLE_MAX`] bytes.
const AHEAD: usize = 32;

/// Records a thread reads before it hands them on.
const RECORDS: usize = 128;

/// The target makes a batch durable when it holds this much; then `finish` costs nothing more.
const BATCH_ITEMS: usize = 4096;
const BATCH_BYTES: u64 = 256 << 20;

/// A state to put back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub hit: Hit,
    /// A row of the same fields, for when the record of the first is damaged.
    pub instead: Option<Hit>,
}

/// Where a state's content lies: pack, entry, offset in it.
type Extent = (u64, u64, u64);

/// What a look at a record gave.
enum Looked {
    Ready(Hit, Extent, Box<Prepared>),
    Failed(Box<ItemLine>, Option<Error>),
}

/// An item whose content was read.
enum Loaded {
    Whole(Box<Prepared>, Vec<u8>),
    Large(Box<Prepared>),
    Failed(Box<ItemLine>, Error),
}

/// Changes a state on its way into the target.
pub(super) type Shape<'a> = dyn Fn(&mut Transaction) + Sync + 'a;

/// A restore under way.
pub(super) struct Pipeline<'a, 'o> {
    pub view: &'a View,
    pub target: &'a mut dyn Target,
    pub options: Options<'o>,
    pub report: Report,
    pub each: &'a mut Each<'a>,
    threads: usize,
    /// Lines of items that are in the target and not yet durable.
    pending: Vec<ItemLine>,
    pending_bytes: u64,
}

impl<'a, 'o> Pipeline<'a, 'o> {
    pub fn new(
        view: &'a View,
        target: &'a mut dyn Target,
        options: Options<'o>,
        report: Report,
        each: &'a mut Each<'a>,
    ) -> Self {
        let cores = || std::thread::available_parallelism().map_or(2, usize::from).min(8);
        let threads = if options.threads == 0 { cores() } else { options.threads };
        Self { view, target, options, report, each, threads, pending: Vec::new(), pending_bytes: 0 }
    }

    /// Makes a folder, or learns that it is there.
    pub fn folder(&mut self, folder: &Folder) {
        if self.report.stopped.is_some() {
            return;
        }
        let made = match folder_levels(&folder.path) {
            Ok(_) if self.options.dry_run => return self.report.counts.folders += 1,
            Ok(_) => self.target.create_folder(&folder.path, folder.subscribed, &folder.attributes),
            Err(error) => Err(error),
        };
        match made {
            Ok(outcome) => {
                self.report.counts.folders += 1;
                self.report.counts.folders_made += u64::from(matches!(outcome, Outcome::Restored { .. }));
            }
            Err(error) => {
                let mut why = Why::of_target(&error);
                if folder_levels(&folder.path).is_err() {
                    why.cause = Cause::InvalidName;
                }
                let mut line = line(None, Became::Unrestored);
                line.kind = ItemKind::Folder.name();
                line.item = Some(percent_encode(&folder.native));
                line.key = folder.key.to_string();
                line.folder = Some(percent_encode(&folder.path));
                line.fail(why);
                self.stop_if(&error);
                self.report.settle(line, self.each);
            }
        }
    }

    /// Makes an INBOX: a mailbox has one, also when no record says so.
    pub fn inbox(&mut self) {
        if self.options.dry_run || self.report.stopped.is_some() {
            return;
        }
        if let Err(error) = self.target.create_folder(INBOX, false, &[]) {
            self.stop_if(&error);
            self.report.warn(format!("INBOX: {}", Why::of_target(&error).message));
        }
    }

    /// Puts the states of these rows into the target.
    pub fn put(&mut self, mut wanted: Vec<Wanted>, shape: &Shape<'_>) {
        wanted.sort_unstable_by_key(|w| (w.hit.file, w.hit.row.offset));
        self.view.will_read(&wanted.iter().map(|w| w.hit).collect::<Vec<_>>());
        let mut plan = self.plan(&wanted, shape);
        drop(wanted);
        plan.sort_unstable_by_key(|(_, extent)| *extent);
        self.pour(&plan, shape);
    }

    fn stopping(&mut self) -> bool {
        if self.report.stopped.is_none() && self.options.stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
            self.report.stopped = Some(Cause::Interrupted);
        }
        self.report.stopped.is_some()
    }

    fn stop_if(&mut self, error: &TargetError) {
        if error.stops() {
            self.report.stopped.get_or_insert(Why::of_target(error).cause);
        }
    }

    /// Reads the records; sets aside what is there already and what cannot be restored.
    fn plan(&mut self, wanted: &[Wanted], shape: &Shape<'_>) -> Vec<(Hit, Extent)> {
        let (view, next) = (self.view, AtomicUsize::new(0));
        let mut plan = Vec::with_capacity(wanted.len());
        std::thread::scope(|scope| {
            let (send, receive) = bounded::<Vec<Looked>>(self.threads * 2);
            for _ in 0..self.threads {
                let (send, next) = (send.clone(), &next);
                scope.spawn(move || {
                    loop {
                        let at = next.fetch_add(RECORDS, Ordering::Relaxed);
                        let Some(chunk) = wanted.get(at..wanted.len().min(at + RECORDS)).filter(|c| !c.is_empty())
                        else {
                            break;
                        };
                        let looked = chunk.iter().map(|w| look(view, w, shape)).collect();
                        if send.send(looked).is_err() {
                            break;
                        }
                    }
                });
            }
            drop(send);
            for looked in receive {
                for one in looked {
                    self.set_aside(one, &mut plan);
                }
            }
        });
        plan
    }

    fn set_aside(&mut self, looked: Looked, plan: &mut Vec<(Hit, Extent)>) {
        let (hit, extent, prepared) = match looked {
            Looked::Ready(hit, extent, prepared) => (hit, extent, prepared),
            Looked::Failed(line, error) => {
                if let Some(error) = error {
                    self.report.note_damage(&error);
                }
                return self.report.settle(*line, self.each);
            }
        };
        if self.report.stopped.is_some() {
            plan.push((hit, extent));
            return;
        }
        match self.target.would_put(&prepared.item()) {
            Ok(Outcome::Restored { .. }) => plan.push((hit, extent)),
            Ok(Outcome::Skipped { place, .. }) => {
                let mut line = line_of(&prepared, Became::Skipped);
                line.place = Some(shown(&place));
                self.report.settle(line, self.each);
            }
            Err(error) => self.refused(&prepared, error),
        }
    }

    /// The target failed with an item.
    fn refused(&mut self, prepared: &Prepared, error: TargetError) {
        self.stop_if(&error);
        let mut line = line_of(prepared, Became::Unrestored);
        let mut why = Why::of_target(&error);
        if folder_levels(&prepared.folder).is_err() {
            why.cause = Cause::InvalidName;
        }
        if matches!(why.cause, Cause::Refused | Cause::InvalidName) {
            line.side = self.put_aside(prepared);
        }
        line.fail(why);
        self.report.settle(line, self.each);
    }

    /// Keeps what the target refused in the side directory.
    fn put_aside(&mut self, prepared: &Prepared) -> Option<String> {
        if self.options.dry_run {
            return None;
        }
        let view = self.view;
        let side = self.options.side.as_mut()?;
        let item = prepared.item();
        let item = mailstrata_mailstore::target::RestoreItem { folder: b"refused", ..item };
        let (put, _) = with_content(view, &prepared.digest, &mut |content| side.put(&item, content));
        let kept = put.and_then(|outcome| side.finish().map(|finished| (outcome, finished)));
        match kept {
            Ok((Outcome::Restored { place } | Outcome::Skipped { place, .. }, finished))
                if finished.late.is_empty() =>
            {
                Some(shown(&place))
            }
            Ok((_, finished)) => {
                for (_, error) in finished.late {
                    self.report.warn(format!("side copy of {}: {}", prepared.key, Why::of_target(&error).message));
                }
                None
            }
            Err(error) => {
                self.report.warn(format!("side copy of {}: {}", prepared.key, Why::of_target(&error).message));
                None
            }
        }
    }

    /// Reads the content of what was planned, in the order of the packs, and writes it.
    fn pour(&mut self, plan: &[(Hit, Extent)], shape: &Shape<'_>) {
        let (view, threads, dry) = (self.view, self.threads, self.options.dry_run);
        let (next, done) = (Mutex::new(0), AtomicBool::new(false));
        let mut settled = vec![false; plan.len()];
        std::thread::scope(|scope| {
            let (send, receive) = bounded::<(usize, Loaded)>(AHEAD);
            for _ in 0..threads {
                let (send, next, done) = (send.clone(), &next, &done);
                scope.spawn(move || {
                    while let Some((start, part)) = take(plan, next) {
                        for (i, (hit, _)) in part.iter().enumerate() {
                            let loaded = load(view, hit, shape, dry);
                            if done.load(Ordering::Relaxed) || send.send((start + i, loaded)).is_err() {
                                return;
                            }
                        }
                    }
                });
            }
            drop(send);
            for (index, loaded) in &receive {
                if self.stopping() {
                    break;
                }
                if let Some(settled) = settled.get_mut(index) {
                    *settled = true;
                }
                self.deliver(loaded);
                if self.pending.len() >= BATCH_ITEMS || self.pending_bytes >= BATCH_BYTES {
                    self.finish();
                }
            }
            done.store(true, Ordering::Relaxed);
            drop(receive);
        });
        let left = plan.iter().zip(settled).filter(|(_, settled)| !settled);
        for ((hit, _), _) in left {
            self.left_out(hit);
        }
    }

    fn deliver(&mut self, loaded: Loaded) {
        let (prepared, (outcome, store)) = match loaded {
            Loaded::Failed(line, error) => {
                self.report.note_damage(&error);
                return self.report.settle(*line, self.each);
            }
            Loaded::Whole(prepared, _) | Loaded::Large(prepared) if self.options.dry_run => {
                let outcome = self.target.would_put(&prepared.item());
                (prepared, (outcome, None))
            }
            Loaded::Whole(prepared, content) => {
                let outcome = self.target.put(&prepared.item(), &mut content.as_slice());
                (prepared, (outcome, None))
            }
            Loaded::Large(prepared) => {
                let (target, item) = (&mut *self.target, prepared.item());
                let outcome = with_content(self.view, &prepared.digest, &mut |content| target.put(&item, content));
                (prepared, outcome)
            }
        };
        match (outcome, store) {
            (Ok(Outcome::Restored { place }), _) => {
                let mut line = line_of(&prepared, Became::Restored);
                line.place = Some(shown(&place));
                if self.options.dry_run {
                    return self.report.settle(line, self.each);
                }
                self.pending_bytes += prepared.length;
                self.pending.push(line);
            }
            (Ok(Outcome::Skipped { place, .. }), _) => {
                let mut line = line_of(&prepared, Became::Skipped);
                line.place = Some(shown(&place));
                self.report.settle(line, self.each);
            }
            (Err(TargetError::Content { .. }), Some(error)) => {
                let mut line = line_of(&prepared, Became::Unrestored);
                line.fail(Why::of_store(&error));
                self.report.note_damage(&error);
                self.report.settle(line, self.each);
            }
            (Err(error), _) => self.refused(&prepared, error),
        }
    }

    /// Makes durable what was put, and settles it.
    pub fn finish(&mut self) {
        if self.options.dry_run {
            return;
        }
        let mut pending = std::mem::take(&mut self.pending);
        self.pending_bytes = 0;
        match self.target.finish() {
            Ok(finished) => {
                let late: HashMap<String, &TargetError> = finished
                    .late
                    .iter()
                    .map(|(key, error)| (mailstrata_format::ItemKey(*key).to_string(), error))
                    .collect();
                for line in &mut pending {
                    if let Some(error) = late.get(&line.key) {
                        line.fail(Why::of_target(error));
                    }
                }
                for (_, error) in &finished.late {
                    self.stop_if(error);
                }
                for notice in finished.notices {
                    let key = notice.key.map(|key| format!(" (item {})", mailstrata_format::ItemKey(key)));
                    self.report.warn(notice.text + &key.unwrap_or_default());
                }
            }
            Err(error) => {
                self.stop_if(&error);
                if pending.is_empty() {
                    self.report.listing_incomplete = true;
                    self.report.warn(Why::of_target(&error).message);
                }
                for line in &mut pending {
                    line.fail(Why::of_target(&error));
                }
            }
        }
        for line in pending {
            self.report.settle(line, self.each);
        }
    }

    /// Names an item that was not reached before the restore was stopped.
    pub fn left_out(&mut self, hit: &Hit) {
        let cause = self.report.stopped.unwrap_or(Cause::Interrupted);
        let mut line = line(Some(hit), Became::Unrestored);
        line.item = native_of(self.view, hit);
        line.fail(Why::new(cause, "not tried: the restore had ended"));
        self.report.settle(line, self.each);
    }

    /// An item whose kind no target here holds.
    pub fn wrong_kind(&mut self, hit: &Hit) {
        let mut line = line(Some(hit), Became::Unrestored);
        line.item = native_of(self.view, hit);
        line.fail(Why::new(Cause::Kind, format!("a mail target holds no {}", line.kind)));
        self.report.settle(line, self.each);
    }

    /// A record that cannot be read.
    pub fn unreadable(&mut self, hit: &Hit, error: &Error) {
        let mut line = line(Some(hit), Became::Unrestored);
        line.fail(Why::of_store(error));
        self.report.note_damage(error);
        self.report.settle(line, self.each);
    }

    /// The account's index cannot be read further.
    pub fn listing_failed(&mut self, error: &Error) {
        self.report.listing_incomplete = true;
        self.report.note_damage(error);
        self.report.warn(format!("the account's index cannot be read to its end: {error}"));
    }

    /// Takes rows as long as there is work; a full plan is put at once. What comes after a stop is named.
    pub fn put_all(&mut self, rows: impl Iterator<Item = Result<Wanted, Error>>, shape: &Shape<'_>) {
        let mut wanted = Vec::new();
        for row in rows {
            match row {
                Ok(w) if self.stopping() => self.left_out(&w.hit),
                Ok(w) => match place_of(w.hit.kind()) {
                    Place::Content => {
                        wanted.push(w);
                        if wanted.len() >= PLAN_MAX {
                            self.put(std::mem::take(&mut wanted), shape);
                        }
                    }
                    Place::Elsewhere => self.wrong_kind(&w.hit),
                    Place::Settings => self.report.counts.settings += 1,
                    Place::Folder => {}
                },
                Err(error) => {
                    self.listing_failed(&error);
                    break;
                }
            }
        }
        self.put(wanted, shape);
        self.finish();
    }
}

/// The next part of the plan: whole pack entries, so that no two threads decompress the same.
fn take<'p>(plan: &'p [(Hit, Extent)], next: &Mutex<usize>) -> Option<(usize, &'p [(Hit, Extent)])> {
    let mut next = next.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let start = *next;
    let entry = |i: usize| plan.get(i).map(|(_, (pack, entry, _))| (*pack, *entry));
    let mut end = start + 1;
    // Some messages at least, so that the lock is taken seldom.
    while end < plan.len() && (end < start + 4 || entry(end) == entry(end - 1)) {
        end += 1;
    }
    *next = end;
    Some((start, plan.get(start..end)?))
}

/// Reads a record and finds its content.
fn look(view: &View, wanted: &Wanted, shape: &Shape<'_>) -> Looked {
    let mut hit = wanted.hit;
    let mut read = view.read(&hit);
    if let (Err(Error::Damage(_)), Some(instead)) = (&read, wanted.instead)
        && let Ok(t) = view.read(&instead)
    {
        hit = instead;
        read = Ok(t);
    }
    let mut t = match read {
        Ok(t) => t,
        Err(error) => {
            let mut line = line(Some(&hit), Became::Unrestored);
            line.fail(Why::of_store(&error));
            return Looked::Failed(Box::new(line), Some(error));
        }
    };
    shape(&mut t);
    let failed = |t: &Transaction, why: Why, error: Option<Error>| {
        let mut line = line(Some(&hit), Became::Unrestored);
        line.item = Some(percent_encode(&t.item));
        line.folder = t.state.folder.as_deref().map(percent_encode);
        line.fail(why);
        Looked::Failed(Box::new(line), error)
    };
    let Some((digest, length)) = t.content().map(|b| (b.digest, b.length)) else {
        let why = if t.content_unseen {
            Why::new(Cause::ContentUnseen, "its content could not be read when it was recorded")
        } else {
            Why::new(Cause::NoContent, "the recorded state has no content")
        };
        return failed(&t, why, None);
    };
    match view.extent(&digest) {
        Ok(Some(e)) => {
            Looked::Ready(hit, (e.pack, e.entry_offset, e.raw_offset), Box::new(Prepared::new(t, digest, length)))
        }
        Ok(None) => {
            let error = Error::Damage(Damage::new(hit.file, u64::from(hit.row.offset), DamageKind::BlobMissing));
            failed(&t, Why::of_store(&error), Some(error))
        }
        Err(error) => failed(&t, Why::of_store(&error), Some(error)),
    }
}

/// Reads a record again, and its content when that fits in memory. A dry run reads all of it and keeps nothing.
fn load(view: &View, hit: &Hit, shape: &Shape<'_>, dry: bool) -> Loaded {
    let fail = |mut line: ItemLine, error: Error| {
        line.fail(Why::of_store(&error));
        Loaded::Failed(Box::new(line), error)
    };
    let mut t = match view.read(hit) {
        Ok(t) => t,
        Err(error) => return fail(line(Some(hit), Became::Unrestored), error),
    };
    shape(&mut t);
    let Some((digest, length)) = t.content().map(|b| (b.digest, b.length)) else {
        return fail(line(Some(hit), Became::Unrestored), Error::NoItem);
    };
    let prepared = Box::new(Prepared::new(t, digest, length));
    if length > WHOLE_MAX && !dry {
        return Loaded::Large(prepared);
    }
    let mut content = Vec::with_capacity(if dry { 0 } else { usize::try_from(length).unwrap_or(0) });
    let read = view.read_blob(&digest, &mut |bytes| {
        if !dry {
            content.extend_from_slice(bytes);
        }
        Ok(())
    });
    match read {
        Ok(_) => Loaded::Whole(prepared, content),
        Err(error) => fail(line_of(&prepared, Became::Unrestored), error),
    }
}

fn native_of(view: &View, hit: &Hit) -> Option<String> {
    view.with_record(hit, |_, record| percent_encode(record.item.as_slice())).ok()
}

/// A line that says no more than which item it is.
pub(super) fn line(hit: Option<&Hit>, outcome: Became) -> ItemLine {
    ItemLine {
        outcome,
        kind: kind_name(hit.and_then(Hit::kind)),
        item: None,
        key: hit.map(|h| h.item().to_string()).unwrap_or_default(),
        folder: None,
        place: None,
        bytes: None,
        cause: None,
        code: None,
        message: None,
        side: None,
        retry: false,
    }
}

fn line_of(p: &Prepared, outcome: Became) -> ItemLine {
    ItemLine {
        kind: p.kind.name(),
        item: Some(percent_encode(&p.native)),
        key: p.key.to_string(),
        folder: Some(percent_encode(&p.folder)),
        bytes: Some(p.length),
        ..line(None, outcome)
    }
}

fn shown(place: &Path) -> String {
    percent_encode(place.as_os_str().as_bytes())
}
