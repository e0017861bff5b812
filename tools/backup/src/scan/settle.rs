//! A hint of the follower becomes a transaction: by looking at what is there.
//!
//! In come changes in batches, in order, out go transactions. Rules:
//!
//! - The file decides, not the event: a message is opened, and what it is now is compared with what is known.
//! - Of several hints about one place in a batch only the last is looked at: the states between were never seen by anybody.
//! - What an event proves to have existed and what cannot be opened any more is recorded as content not seen (S-11).
//! - A rename that the kernel tells as one is a move; other moves are paired within the window.

use super::content::{Content, Reader, Unread, changed_us};
use super::known::{Known, digest_of, object_of, place_of};
use super::live::{Live, Seen, SlotId, concerns_one, state_of_entry};
use super::realtime::{Ack, Shared};
use super::registry::Shared as SharedLive;
use super::window::{Half, Held, Window};
use super::{Error, Result, When, locked, now_us, shown};
use crossbeam_channel::Sender;
use mailstrata_engine::{Batch, Error as StoreError};
use mailstrata_mailstore::maildir::flags::name_parts;
use mailstrata_mailstore::maildir::source::{MaildirFolder, folder_path};
use mailstrata_mailstore::maildir::watch::{Change, MessageChange, Spot};
use mailstrata_mailstore::source::{Account, Accounts, MessageEntry, OpenError, OpenFolder as _, SourceError};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use xxhash_rust::xxh3::Xxh3;

/// How long to wait before a refused account is tried again.
const REFUSED_WAIT: Duration = Duration::from_secs(10);

/// How long it is remembered under which name a message appeared …
const NAMES_FOR: Duration = Duration::from_secs(10);
/// … and of how many.
const NAMES_MAX: usize = 4096;

/// A file's own time of change is believed when it is this close before the event, µs.
const BELIEVED: i64 = 10_000_000;

/// See the module.
pub struct Follow<'a> {
    pub(super) shared: &'a Shared<'a>,
    acks: Sender<Ack>,
    pub(super) accounts: Accounts,
    pub(super) window: Window,
    reader: Reader,
    batch: Batch<'a>,
    /// Places that an event of this batch proved to hold a message.
    proven: HashSet<u64>,
    /// The names under which messages appeared lately, by place: when another name of the same message vanishes (a server links
    /// it from `new` to `cur` and removes the first), it has not gone.
    names: HashMap<u64, Name>,
}

struct Name {
    file_name: Vec<u8>,
    in_new: bool,
    since: Instant,
}

/// A message as an event names it.
struct Named<'e> {
    account: &'e Arc<Account>,
    live: SharedLive,
    dir: &'e Path,
    slot: SlotId,
    name: &'e [u8],
    in_new: bool,
    at: i64,
}

impl Named<'_> {
    fn base(&self) -> &[u8] {
        name_parts(self.name).base
    }

    fn place(&self) -> u64 {
        place_of(self.slot, self.base())
    }

    fn key(&self) -> u64 {
        place_key(&self.account.root, self.dir, self.name)
    }
}

fn place_key(root: &Path, dir: &Path, name: &[u8]) -> u64 {
    let mut h = Xxh3::new();
    for part in [root.as_os_str().as_encoded_bytes(), dir.as_os_str().as_encoded_bytes(), name_parts(name).base] {
        h.update(&(part.len() as u64).to_le_bytes());
        h.update(part);
    }
    h.digest()
}

/// The file's time when it is believable, else the event's.
fn moment(event: i64, file: i64) -> i64 {
    if (event - BELIEVED..=event).contains(&file) { file } else { event }
}

pub(super) const fn exactly(at: i64) -> When {
    When { at, not_before: None }
}

/// Whether another message of the account has this name or content.
fn elsewhere(live: &Live, place: u64, object: u64, digest: u64) -> bool {
    let same = |k: &Known| k.object == object || !k.unread() && k.digest == digest;
    live.known.iter().any(|k| k.place() != place && same(k))
}

impl<'a> Follow<'a> {
    pub fn new(shared: &'a Shared<'a>, acks: Sender<Ack>, accounts: Accounts, window: Duration) -> Self {
        Self {
            shared,
            acks,
            accounts,
            window: Window::new(window),
            reader: Reader::default(),
            batch: shared.store.batch(),
            proven: HashSet::new(),
            names: HashMap::new(),
        }
    }

    /// When something that waits must be decided.
    pub fn next_due(&self) -> Option<Instant> {
        self.window.next_due()
    }

    /// Takes a batch.
    pub fn take(&mut self, changes: Vec<Change>) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        self.shared.tally.count(|c| c.events += changes.len() as u64);
        let mut last: HashMap<u64, usize> = HashMap::new();
        if changes.len() > 1 {
            for (i, change) in changes.iter().enumerate() {
                if let Change::Message { account, folder_dir, name, kind, .. } = change {
                    last.insert(place_key(&account.root, folder_dir, name), i);
                    if let MessageChange::Renamed { from } = kind {
                        last.insert(place_key(&account.root, &from.folder_dir, &from.name), i);
                    }
                }
            }
        }
        self.proven.clear();
        for (i, change) in changes.into_iter().enumerate() {
            match change {
                Change::Message { account, folder_dir, in_new, name, kind, at_us } => {
                    let key = place_key(&account.root, &folder_dir, &name);
                    let now_named = self.remember_name(key, &name, in_new, &kind);
                    let across = matches!(&kind, MessageChange::Renamed { from }
                        if place_key(&account.root, &from.folder_dir, &from.name) != key);
                    if !across && last.get(&key).is_some_and(|l| *l > i) {
                        if kind != MessageChange::Vanished {
                            self.proven.insert(key);
                        }
                        continue;
                    }
                    let outcome = match now_named {
                        Some(n) => {
                            self.message(&account, &folder_dir, n.in_new, &n.file_name, MessageChange::Appeared, at_us)
                        }
                        None => self.message(&account, &folder_dir, in_new, &name, kind, at_us),
                    };
                    self.survive(&account.address, outcome)?;
                }
                Change::FolderChanged { account } => {
                    let outcome = self.folders(&account);
                    self.survive(&account.address, outcome)?;
                }
                Change::AccountsChanged => self.accounts_changed()?,
                Change::Doubt { account, why } => {
                    let all: Vec<Vec<u8>> = self.accounts.found.iter().map(|a| a.address.clone()).collect();
                    self.shared.doubt(account.as_ref().map(|a| a.address.as_slice()), &all, &why, now_us())?;
                }
            }
        }
        Ok(())
    }

    /// Keeps the name under which a message appeared. For a name that vanished, the other one that the message has.
    fn remember_name(&mut self, key: u64, name: &[u8], in_new: bool, kind: &MessageChange) -> Option<Name> {
        if *kind == MessageChange::Vanished {
            let now = self.names.remove(&key)?;
            return (now.file_name != name || now.in_new != in_new).then_some(now);
        }
        if self.names.len() >= NAMES_MAX {
            self.names.retain(|_, n| n.since.elapsed() < NAMES_FOR);
            if self.names.len() >= NAMES_MAX {
                self.names.clear();
            }
        }
        self.names.insert(key, Name { file_name: name.to_vec(), in_new, since: Instant::now() });
        None
    }

    /// An error of one item, or a full disk, puts its account in doubt; other errors of the store end it all.
    fn survive(&self, address: &[u8], outcome: Result<()>) -> Result<()> {
        let (why, wait) = match outcome {
            Ok(()) => return Ok(()),
            Err(Error::Store(e)) if concerns_one(&e) => (e.to_string(), Duration::ZERO),
            Err(Error::Store(e @ StoreError::NearlyFull { .. })) => (e.to_string(), REFUSED_WAIT),
            Err(e) => return Err(e),
        };
        self.trouble(address, &why);
        self.shared.tally.doubt(address, &why);
        self.shared.marks.open(address, now_us())?;
        self.shared.requests.ask(address, wait);
        Ok(())
    }

    fn trouble(&self, address: &[u8], why: &str) {
        self.shared.tally.count(|c| c.errors += 1);
        locked(&self.shared.report).errors.add(format!("{}: {why}", shown(address)));
    }

    /// Has the last transaction of an account waited for.
    pub(super) fn acknowledge(&self, live: &Live, happened: i64) {
        if let Some(ticket) = live.last() {
            self.shared.tally.update(|s| s.waiting += 1);
            // The other end is gone only when the scanner ends with an error.
            let _ = self.acks.send(Ack { ticket, happened });
        }
    }

    /// The account and the folder's slot; `None`: a scan will see to it.
    fn named<'e>(
        &mut self,
        account: &'e Arc<Account>,
        dir: &'e Path,
        in_new: bool,
        name: &'e [u8],
        at: i64,
    ) -> Result<Option<Named<'e>>> {
        let path = folder_path(&account.root, dir);
        let live = self.shared.scan.registry.get(self.shared.store, &account.address)?;
        let mut slot = locked(&live).slot_of(&path);
        if slot.is_none() {
            self.folders(account)?;
            slot = locked(&live).slot_of(&path);
        }
        Ok(slot.map(|slot| Named { account, live, dir, slot, name, in_new, at }))
    }

    fn message(
        &mut self,
        account: &Arc<Account>,
        dir: &Path,
        in_new: bool,
        name: &[u8],
        kind: MessageChange,
        at: i64,
    ) -> Result<()> {
        let Some(named) = self.named(account, dir, in_new, name, at)? else {
            if kind != MessageChange::Vanished {
                self.shared.requests.ask(&account.address, Duration::ZERO);
            }
            return Ok(());
        };
        match kind {
            MessageChange::Vanished => self.vanished(&named)?,
            MessageChange::Appeared => self.appeared(&named, None)?,
            MessageChange::Renamed { from } => self.renamed(&named, &from)?,
        }
        let bytes = locked(&named.live).bytes();
        drop(named);
        self.shared.scan.registry.trim(&account.address, bytes)
    }

    fn renamed(&mut self, to: &Named<'_>, from: &Spot) -> Result<()> {
        if place_key(&to.account.root, &from.folder_dir, &from.name) == to.key() {
            return self.appeared(to, None);
        }
        let Some(old) = self.named(to.account, &from.folder_dir, from.in_new, &from.name, to.at)? else {
            return self.appeared(to, None);
        };
        // Whatever waited about the old place is about this message, which is elsewhere now.
        self.window.take_place(to.account, old.place());
        self.appeared(to, Some((old.place(), old.base().to_vec())))
    }

    /// A message is at a place, perhaps from another one.
    fn appeared(&mut self, n: &Named<'_>, from: Option<(u64, Vec<u8>)>) -> Result<()> {
        let place = n.place();
        // It is there: nothing that waits about this place counts any more. Its content is known by now and read again for free.
        self.window.take_place(n.account, place);
        let mut folder = match MaildirFolder::open(&n.account.root, n.dir) {
            Ok(folder) => folder,
            Err(SourceError::Gone { .. }) => return self.not_found(n, from),
            Err(e) => {
                self.trouble(&n.account.address, &e.to_string());
                self.shared.requests.ask(&n.account.address, REFUSED_WAIT);
                return Ok(());
            }
        };
        let mut entry = folder.entry(n.name, n.in_new);
        let open = match folder.open(&entry) {
            Ok(open) => open,
            Err(OpenError::Gone { .. }) => return self.not_found(n, from),
            Err(e) => return self.unreadable(n, &entry, &e.to_string()),
        };
        if open.file_name != entry.file_name {
            entry = folder.entry(&open.file_name, open.in_new);
        }
        let at = moment(n.at, changed_us(&open.file));
        let source = from.as_ref().map_or(place, |(from, _)| *from);
        let like = {
            let live = locked(&n.live);
            live.known
                .get(place)
                .or_else(|| live.known.get(source))
                .is_some_and(|k| k.looks_like(open.size, open.received_us))
        };
        let mut content = None;
        if !like {
            match self.reader.read(self.shared.store, &mut self.batch, open, false) {
                Ok(read) => content = Some(read),
                Err(Unread::File(e)) => return self.unreadable(n, &entry, &e.to_string()),
                Err(Unread::Store(e)) => return Err(e.into()),
            }
            self.batch.submit()?;
            let (length, new) = content.as_ref().map_or((0, false), |c| (c.blob.length, c.new));
            let mut report = locked(&self.shared.report);
            report.bytes_read += length;
            report.bytes_new += if new { length } else { 0 };
        }
        self.decide(n, &entry, content, from, at)
    }

    /// What is there is recorded, or waits to be paired.
    fn decide(
        &mut self,
        n: &Named<'_>,
        entry: &MessageEntry,
        content: Option<Content>,
        from: Option<(u64, Vec<u8>)>,
        at: i64,
    ) -> Result<()> {
        let (store, tally) = (self.shared.store, self.shared.tally);
        let place = n.place();
        let live = n.live.clone();
        let mut live = locked(&live);
        if let Some(known) = live.known.get(place).copied() {
            let other = |c: &&Content| {
                known.unread() || known.digest != digest_of(&c.blob.digest) || known.internal_date != c.internal_date
            };
            if let Some(content) = content.as_ref().filter(other) {
                let native = live.native_of(store, &known, Some(&entry.base))?;
                live.put(store, n.slot, entry, Some(native), &Seen::Read(content), exactly(at))?;
            } else if known.state != state_of_entry(entry) {
                live.change_flags(store, place, entry, exactly(at))?;
            } else {
                return Ok(());
            }
            tally.count(|c| c.changed += 1);
            self.acknowledge(&live, at);
            return Ok(());
        }
        if let Some((from, base)) = &from
            && let Some(known) = live.known.get(*from)
            && content.as_ref().is_none_or(|c| known.unread() || digest_of(&c.blob.digest) == known.digest)
        {
            live.move_to(store, *from, Some(base), n.slot, entry, exactly(at))?;
            tally.count(|c| c.moved += 1);
            self.acknowledge(&live, at);
            return Ok(());
        }
        let Some(content) = content else {
            // The scan recorded something between two looks.
            self.shared.requests.ask(&n.account.address, Duration::ZERO);
            return Ok(());
        };
        let (object, digest) = (object_of(&entry.base), digest_of(&content.blob.digest));
        if let Some(gone) = self.window.take_gone(n.account, object, digest) {
            if let (Half::Gone { base }, Some(known)) = (&gone.half, live.known.get(gone.place))
                && (known.unread() || known.digest == digest)
            {
                live.move_to(store, gone.place, Some(base), n.slot, entry, exactly(at))?;
                tally.count(|c| c.moved += 1);
                self.acknowledge(&live, at);
                return Ok(());
            }
            // The name of another message: that one goes on waiting.
            self.window.hold(gone);
        }
        if !content.new && elsewhere(&live, place, object, digest) {
            let half = Half::Arrival { slot: n.slot, entry: entry.clone(), content: Box::new(content) };
            self.window.hold(Held { account: n.account.clone(), half, place, object, digest: Some(digest), at });
            return Ok(());
        }
        live.put(store, n.slot, entry, None, &Seen::Read(&content), exactly(at))?;
        tally.count(|c| c.added += 1);
        self.acknowledge(&live, at);
        Ok(())
    }

    /// An event says that it is there, and it is not.
    fn not_found(&mut self, n: &Named<'_>, from: Option<(u64, Vec<u8>)>) -> Result<()> {
        if let Some((from, base)) = from {
            let mut live = locked(&n.live);
            if live.known.get(from).is_some() && live.known.get(n.place()).is_none() {
                // It was here for a moment; where it is now, or that it is nowhere, is told by the next event.
                let mut at_once = MessageEntry { base: n.base().to_vec(), ..MessageEntry::default() };
                if let Ok(mut folder) = MaildirFolder::open(&n.account.root, n.dir) {
                    at_once = folder.entry(n.name, n.in_new);
                }
                live.move_to(self.shared.store, from, Some(&base), n.slot, &at_once, exactly(n.at))?;
                self.acknowledge(&live, n.at);
                return Ok(());
            }
        }
        self.proven.insert(n.key());
        self.vanished(n)
    }

    fn vanished(&mut self, n: &Named<'_>) -> Result<()> {
        let (store, tally) = (self.shared.store, self.shared.tally);
        let place = n.place();
        let entry = MessageEntry {
            file_name: n.name.to_vec(),
            in_new: n.in_new,
            base: n.base().to_vec(),
            ..MessageEntry::default()
        };
        match self.window.take_place(n.account, place) {
            Some(Held { half: Half::Arrival { slot, entry, content }, at, .. }) => {
                // It came and went while it waited, and its content is there.
                let mut live = locked(&n.live);
                if live.known.get(place).is_none() {
                    live.put(store, slot, &entry, None, &Seen::Read(&content), exactly(at))?;
                    live.delete(store, place, Some(&entry.base), exactly(n.at))?;
                    tally.count(|c| (c.added, c.deleted) = (c.added + 1, c.deleted + 1));
                    self.acknowledge(&live, n.at);
                    return Ok(());
                }
            }
            Some(Held { half: Half::Unopened { .. }, .. }) => {
                self.proven.insert(n.key());
            }
            // Told twice: it still waits for what the first time said.
            Some(held @ Held { half: Half::Gone { .. }, .. }) => {
                self.window.hold(held);
                return Ok(());
            }
            None => {}
        }
        let live = n.live.clone();
        let mut live = locked(&live);
        let Some(known) = live.known.get(place).copied() else {
            if self.proven.contains(&n.key()) {
                let half = Half::Unopened { slot: n.slot, entry };
                let object = object_of(n.base());
                self.window.hold(Held { account: n.account.clone(), half, place, object, digest: None, at: n.at });
            }
            return Ok(());
        };
        let digest = (!known.unread()).then_some(known.digest);
        if let Some(came) = self.window.take_arrival(n.account, known.object, digest) {
            if let Half::Arrival { slot, entry, content } = &came.half
                && (known.unread() || digest_of(&content.blob.digest) == known.digest)
                && live.known.get(came.place).is_none()
            {
                live.move_to(store, place, Some(n.base()), *slot, entry, exactly(came.at))?;
                tally.count(|c| c.moved += 1);
                self.acknowledge(&live, came.at);
                return Ok(());
            }
            self.window.hold(came);
        }
        let half = Half::Gone { base: n.base().to_vec() };
        self.window.hold(Held { account: n.account.clone(), half, place, object: known.object, digest, at: n.at });
        Ok(())
    }

    fn unreadable(&mut self, n: &Named<'_>, entry: &MessageEntry, why: &str) -> Result<()> {
        self.trouble(&n.account.address, why);
        let mut live = locked(&n.live);
        if live.known.get(n.place()).is_none() {
            live.put(self.shared.store, n.slot, entry, None, &Seen::Unread { internal_date: n.at }, exactly(n.at))?;
            self.shared.tally.count(|c| c.unseen += 1);
            self.acknowledge(&live, n.at);
        }
        Ok(())
    }

    /// Records what has waited long enough for its other half; with `all`, whatever waits.
    pub fn settle(&mut self, all: bool) -> Result<()> {
        while let Some(held) = self.window.take_due(Instant::now(), all) {
            let account = held.account.clone();
            let outcome = self.alone(held);
            self.survive(&account.address, outcome)?;
        }
        self.shared.tally.update(|s| s.held = self.window.len() as u64);
        Ok(())
    }

    fn alone(&mut self, held: Held) -> Result<()> {
        let (store, tally) = (self.shared.store, self.shared.tally);
        let live = self.shared.scan.registry.get(store, &held.account.address)?;
        let mut live = locked(&live);
        let known = live.known.get(held.place).is_some();
        let when = exactly(held.at);
        match held.half {
            Half::Arrival { slot, entry, content } if !known => {
                live.put(store, slot, &entry, None, &Seen::Read(&content), when)?;
                tally.count(|c| c.added += 1);
            }
            Half::Gone { base } if known => {
                live.delete(store, held.place, Some(&base), when)?;
                tally.count(|c| c.deleted += 1);
            }
            // Moved on before it was opened, it was recorded where it is now.
            Half::Unopened { slot, entry } if !known && !elsewhere(&live, held.place, held.object, 0) => {
                live.put(store, slot, &entry, None, &Seen::Unread { internal_date: held.at }, when)?;
                live.delete(store, held.place, Some(&entry.base), when)?;
                tally.count(|c| c.unseen += 1);
            }
            // A scan was faster.
            _ => return Ok(()),
        }
        self.acknowledge(&live, held.at);
        Ok(())
    }
}
