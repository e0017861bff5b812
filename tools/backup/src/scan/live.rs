//! One account as it is known: its folders, its messages, and how a change of one of them becomes a transaction.
//!
//! In come what is in the store and what was read from the server, out go events, appended in the order in which they were
//! decided. Everything here happens under the account's lock, so what is known is what was recorded. Rules:
//!
//! - A message's native id is `<folder path>/<base name>` at first sight. When another message of the account has it (it was here
//!   once and moved away), `#2`, `#3` … is appended; a deleted one is revived.
//! - `maildir.base` is recorded only where the native id does not end in the base name.
//! - Messages that came from elsewhere (event lines, an import) have no `internaldate` and are not ours to call gone.

use super::content::Content;
use super::known::{Known, KnownMap, digest_of, low, object_of, place_of, state_of};
use super::{Result, When};
use mailstrata_engine::{Blob, Change, Error as StoreError, Event, Patch, State, Store, Ticket, Value};
use mailstrata_format::frame::{FLAG_UNSEEN, ROLE_CONTENT};
use mailstrata_format::{AccountId, Digest, ItemKey, ItemKind};
use mailstrata_mailstore::source::MessageEntry;
use std::collections::HashMap;
use std::sync::Arc;

/// Attribute: INTERNALDATE, µs UTC.
pub const INTERNAL_DATE: &[u8] = b"internaldate";
/// Attribute: the base name, where the native id does not tell it.
pub const BASE: &[u8] = b"maildir.base";
/// Attribute: the server's object id, where it is not the base name.
pub const GUID: &[u8] = b"guid";
/// Attribute: without angle brackets.
pub const MESSAGE_ID: &[u8] = b"message-id";
/// Attribute: length of a message whose content was not seen.
pub const SIZE: &[u8] = b"size";

/// Items whose ids are remembered because they are elsewhere than their ids say.
const STRAYS_MAX: usize = 4096;

/// A folder's place in [`Live::slots`]; it stays when the folder is renamed.
pub type SlotId = u32;

/// A folder as it is known.
#[derive(Debug, Clone, Default)]
pub struct Slot {
    pub path: Vec<u8>,
    /// `None`: its item is not recorded.
    pub native: Option<Vec<u8>>,
    pub subscribed: bool,
    pub guid: Option<Vec<u8>>,
    pub uid_validity: u64,
    /// Of `cur/`; 0 when unknown.
    pub inode: u64,
    pub gone: bool,
}

/// See the module.
pub struct Live {
    pub address: Vec<u8>,
    pub id: AccountId,
    pub slots: Vec<Slot>,
    by_path: HashMap<Vec<u8>, SlotId>,
    pub known: KnownMap,
    /// Native ids of items that are not where these say, as far as the store does not show it yet.
    strays: HashMap<[u8; 16], Vec<u8>>,
    /// Nothing was recorded when this was loaded, so nothing needs to be looked up.
    fresh: bool,
    pub has_item: bool,
    last: Option<Arc<Ticket>>,
    /// What the cursor says of inodes was taken over.
    pub marked: bool,
}

fn text(bytes: &[u8]) -> Value {
    Value::Text(bytes.to_vec())
}

/// A number as an attribute.
pub fn number(n: impl ToString) -> Value {
    Value::Json(n.to_string().into_bytes())
}

fn parsed(value: Option<&[u8]>) -> Option<i64> {
    std::str::from_utf8(value?).ok()?.parse().ok()
}

/// The last part of a native id.
fn tail(native: &[u8]) -> &[u8] {
    native.rsplit(|b| *b == b'/').next().unwrap_or(native)
}

/// What an entry's flags and keywords come to.
pub fn state_of_entry(entry: &MessageEntry) -> u32 {
    state_of(entry.flags.iter().map(Vec::as_slice), entry.keywords.iter().map(Vec::as_slice))
}

/// What the message's object id, or else its base name, comes to.
pub fn object_of_entry(entry: &MessageEntry) -> u64 {
    object_of(entry.guid.as_deref().unwrap_or(&entry.base))
}

impl Live {
    /// An account of which nothing is known.
    pub fn unloaded(store: &Store, address: &[u8]) -> Result<Self> {
        Ok(Self {
            address: address.to_owned(),
            id: store.account_of(address)?,
            slots: Vec::new(),
            by_path: HashMap::new(),
            known: KnownMap::default(),
            strays: HashMap::new(),
            fresh: true,
            has_item: false,
            last: None,
            marked: false,
        })
    }

    /// What the store says of an account.
    pub fn load(store: &Store, address: &[u8]) -> Result<Self> {
        let mut live = Self::unloaded(store, address)?;
        let id = live.id;
        let view = store.view();
        let mut all = Vec::new();
        for hit in view.ahead(view.items(id, None)?) {
            let hit = hit?;
            live.fresh = false;
            if hit.deleted() {
                continue;
            }
            match hit.kind() {
                Some(ItemKind::Account) => live.has_item = true,
                Some(ItemKind::Folder) => {
                    let folder = view.read(&hit)?;
                    let (path, s) = (folder.state.folder.clone().unwrap_or_default(), &folder.state);
                    let slot = live.slot_at(&path);
                    if let Some(slot) = live.slots.get_mut(slot as usize).filter(|slot| slot.native.is_none()) {
                        slot.guid = s.attribute(GUID).map(<[u8]>::to_vec);
                        slot.subscribed = s.attribute(super::folders::SUBSCRIBED) == Some(b"true");
                        let validity = parsed(s.attribute(super::folders::UID_VALIDITY));
                        slot.uid_validity = validity.map_or(0, i64::cast_unsigned);
                        slot.native = Some(folder.item);
                    }
                }
                Some(ItemKind::Message) => {
                    let found = view.with_record(&hit, |frame, r| {
                        let attribute = |name: &[u8]| {
                            r.attributes.iter().find(|a| a.name.as_slice() == name).map(|a| a.value.as_slice())
                        };
                        let internal_date = parsed(attribute(INTERNAL_DATE))?;
                        let base = attribute(BASE).unwrap_or_else(|| tail(r.item.as_slice()));
                        let slot = live.slot_at(r.folder.as_slice());
                        let mut known = Known::new(slot, base);
                        known.item = hit.row.item;
                        known.object = object_of(attribute(GUID).unwrap_or(base));
                        known.internal_date = internal_date;
                        known.state =
                            state_of(r.flags.iter().map(|f| f.as_slice()), r.tags.iter().map(|t| t.as_slice()));
                        if let Some(blob) = frame.blobs().find(|b| b.role == ROLE_CONTENT) {
                            known.digest = digest_of(&Digest(blob.digest));
                            known.size = low(blob.length);
                        }
                        known.set_unread(frame.envelope.flags & FLAG_UNSEEN != 0);
                        Some(known)
                    });
                    match found {
                        Ok(known) => all.extend(known),
                        // Its file is found again and recorded anew.
                        Err(StoreError::Damage(_)) => {}
                        Err(e) => return Err(e.into()),
                    }
                }
                _ => {}
            }
        }
        live.known = KnownMap::new(all);
        Ok(live)
    }

    /// The slot of a folder path, made when there is none.
    pub fn slot_at(&mut self, path: &[u8]) -> SlotId {
        if let Some(slot) = self.by_path.get(path) {
            return *slot;
        }
        let slot = SlotId::try_from(self.slots.len()).unwrap_or(SlotId::MAX >> 2);
        self.slots.push(Slot { path: path.to_owned(), ..Slot::default() });
        self.by_path.insert(path.to_owned(), slot);
        slot
    }

    /// The slot of a folder that is there.
    pub fn slot_of(&self, path: &[u8]) -> Option<SlotId> {
        let slot = *self.by_path.get(path)?;
        self.slots.get(slot as usize).filter(|s| !s.gone && s.native.is_some()).map(|_| slot)
    }

    /// Paths changed: finds slots by their new ones.
    pub fn index_paths(&mut self) {
        self.by_path = (0..).zip(&self.slots).filter(|(_, s)| !s.gone).map(|(i, s)| (s.path.clone(), i)).collect();
    }

    pub fn path(&self, slot: SlotId) -> &[u8] {
        self.slots.get(slot as usize).map_or(b"", |s| s.path.as_slice())
    }

    /// Memory taken, roughly.
    pub fn bytes(&self) -> usize {
        self.known.bytes() + self.slots.len() * 256 + self.strays.len() * 128 + 512
    }

    /// Appends an event of this account.
    pub fn append(&mut self, store: &Store, event: &Event) -> std::result::Result<(), StoreError> {
        self.last = Some(Arc::new(store.submit(event)?));
        Ok(())
    }

    /// The last transaction of this account, when any was appended since it was loaded or since this was asked.
    pub fn take_last(&mut self) -> Option<Arc<Ticket>> {
        self.last.take()
    }

    /// The last transaction of this account that was appended and not waited for.
    pub fn last(&self) -> Option<Arc<Ticket>> {
        self.last.clone()
    }

    /// Blocks until all that was appended is durable: then the store shows it.
    pub fn settle(&mut self) -> std::result::Result<(), StoreError> {
        if let Some(last) = &self.last {
            last.wait()?;
        }
        self.last = None;
        self.strays.clear();
        Ok(())
    }

    /// An event of this account, otherwise empty.
    pub fn event(&self, kind: ItemKind, item: Vec<u8>, change: Change, when: When) -> Event {
        Event {
            account: self.address.clone(),
            account_id: Some(self.id),
            item,
            kind,
            change,
            at: Some(when.at),
            not_before: when.not_before,
            source: None,
            derived: false,
        }
    }

    /// A native id for an item that was not seen before: `wanted`, or with a number when another item has it.
    pub fn free_id(
        &self,
        store: &Store,
        kind: ItemKind,
        wanted: &[u8],
        is_this: impl Fn(&State) -> bool,
    ) -> std::result::Result<Vec<u8>, StoreError> {
        let mut native = wanted.to_vec();
        let mut n = 1u32;
        loop {
            let key = ItemKey::of(kind.code(), &native);
            let mut taken = self.strays.contains_key(&key.0);
            if !taken && !self.fresh {
                let view = store.view();
                if let Some(hit) = view.locate(self.id, key, None)?.filter(|hit| !hit.deleted()) {
                    taken = match view.read(&hit) {
                        Ok(there) => !is_this(&there.state),
                        Err(StoreError::Damage(_)) => false,
                        Err(e) => return Err(e),
                    };
                }
            }
            if !taken {
                return Ok(native);
            }
            n += 1;
            native.truncate(wanted.len());
            native.extend_from_slice(format!("#{n}").as_bytes());
        }
    }

    /// The native id of a message. `base` is its base name now, where the caller knows it.
    pub fn native_of(
        &mut self,
        store: &Store,
        known: &Known,
        base: Option<&[u8]>,
    ) -> std::result::Result<Vec<u8>, StoreError> {
        if let Some(native) = self.strays.get(&known.item) {
            return Ok(native.clone());
        }
        if let Some(base) = base {
            let native = [self.path(known.slot()), b"/", base].concat();
            if ItemKey::of(ItemKind::Message.code(), &native).0 == known.item {
                return Ok(native);
            }
        }
        for again in [false, true] {
            let view = store.view();
            if let Some(hit) = view.locate(self.id, ItemKey(known.item), None)? {
                return view.with_record(&hit, |_, r| r.item.as_slice().to_vec());
            }
            if !again {
                self.settle()?;
            }
        }
        Err(StoreError::NoItem)
    }

    /// The item is elsewhere than its native id says, or may be.
    pub fn stray(&mut self, item: [u8; 16], native: Vec<u8>) -> std::result::Result<(), StoreError> {
        if self.strays.len() >= STRAYS_MAX {
            self.settle()?;
        }
        self.strays.insert(item, native);
        Ok(())
    }

    /// Records the account itself, when it is not.
    pub fn record_account(&mut self, store: &Store, when: When) -> std::result::Result<(), StoreError> {
        if self.has_item {
            return Ok(());
        }
        let state = State { name: Some(self.address.clone()), ..State::default() };
        let put = Change::Put { state, blobs: Vec::new(), content_unseen: false };
        let event = self.event(ItemKind::Account, self.address.clone(), put, when);
        self.append(store, &event)?;
        self.has_item = true;
        Ok(())
    }

    fn whole_state(&self, slot: SlotId, entry: &MessageEntry, native: &[u8], content: &Seen<'_>) -> State {
        let mut attributes = vec![(INTERNAL_DATE.to_vec(), number(content.internal_date()))];
        if tail(native) != entry.base {
            attributes.push((BASE.to_vec(), text(&entry.base)));
        }
        if let Some(guid) = &entry.guid {
            attributes.push((GUID.to_vec(), text(guid)));
        }
        let mut state = State {
            folder: Some(self.path(slot).to_vec()),
            flags: Some(entry.flags.clone()),
            tags: Some(entry.keywords.clone()),
            uid: entry.uid,
            ..State::default()
        };
        match content {
            Seen::Read(content) => {
                let s = &content.summary;
                if let Some(id) = &s.message_id {
                    attributes.push((MESSAGE_ID.to_vec(), text(id.as_bytes())));
                }
                state.name = s.subject.as_ref().map(|t| t.as_bytes().to_vec());
                state.sender = s.from.as_ref().map(|t| t.as_bytes().to_vec());
                state.date = s.date_us;
            }
            Seen::Unread { .. } => {
                if let Some(size) = entry.size_hint {
                    attributes.push((SIZE.to_vec(), number(size)));
                }
            }
        }
        state.attributes = attributes;
        state
    }

    /// Records a message's whole state: of a new one, or of one whose content is another (`native` is given then).
    pub fn put(
        &mut self,
        store: &Store,
        slot: SlotId,
        entry: &MessageEntry,
        native: Option<Vec<u8>>,
        content: &Seen<'_>,
        when: When,
    ) -> std::result::Result<(), StoreError> {
        let native = match native {
            Some(native) => native,
            None => {
                let wanted = [self.path(slot), b"/", entry.base.as_slice()].concat();
                let path = self.path(slot);
                let base = entry.base.as_slice();
                self.free_id(store, ItemKind::Message, &wanted, |there| {
                    there.folder.as_deref() == Some(path) && there.attribute(BASE).is_none_or(|b| b == base)
                })?
            }
        };
        let state = self.whole_state(slot, entry, &native, content);
        let (blobs, content_unseen): (Vec<Blob>, bool) = match content {
            Seen::Read(content) => (vec![content.blob.clone()], false),
            Seen::Unread { .. } => (Vec::new(), true),
        };
        let mut known = Known::new(slot, &entry.base);
        known.item = ItemKey::of(ItemKind::Message.code(), &native).0;
        known.object = object_of_entry(entry);
        known.internal_date = content.internal_date();
        known.state = state_of_entry(entry);
        known.set_unread(content_unseen);
        if let Some(blob) = blobs.first() {
            known.digest = digest_of(&blob.digest);
            known.size = low(blob.length);
        }
        let plain = native.len() == self.path(slot).len() + 1 + entry.base.len();
        let put = Change::Put { state, blobs, content_unseen };
        let event = self.event(ItemKind::Message, native, put, when);
        self.append(store, &event)?;
        if !plain {
            self.stray(known.item, event.item)?;
        }
        self.known.insert(known);
        Ok(())
    }

    /// Records a message's flags and keywords.
    pub fn change_flags(
        &mut self,
        store: &Store,
        place: u64,
        entry: &MessageEntry,
        when: When,
    ) -> std::result::Result<(), StoreError> {
        let Some(known) = self.known.get(place).copied() else { return Ok(()) };
        let native = self.native_of(store, &known, Some(&entry.base))?;
        let patch = Patch {
            flags: Some(Some(entry.flags.clone())),
            tags: Some(Some(entry.keywords.clone())),
            uid: entry.uid.map(Some),
            ..Patch::default()
        };
        let event = self.event(ItemKind::Message, native, Change::Patch { patch, blobs: None }, when);
        self.append(store, &event)?;
        if let Some(known) = self.known.get_mut(place) {
            known.state = state_of_entry(entry);
        }
        Ok(())
    }

    /// Records that a message is at another place. `from_base` is the base name it had, where the caller knows it.
    pub fn move_to(
        &mut self,
        store: &Store,
        from: u64,
        from_base: Option<&[u8]>,
        slot: SlotId,
        entry: &MessageEntry,
        when: When,
    ) -> std::result::Result<(), StoreError> {
        let Some(known) = self.known.get(from).copied() else { return Ok(()) };
        let native = self.native_of(store, &known, from_base)?;
        let base_told = tail(&native) == entry.base;
        let mut attributes = vec![(BASE.to_vec(), (!base_told).then(|| text(&entry.base)))];
        if let Some(guid) = &entry.guid {
            attributes.push((GUID.to_vec(), Some(text(guid))));
        }
        let mut moved = Known::new(slot, &entry.base);
        moved.item = known.item;
        moved.object = if entry.guid.is_some() { object_of_entry(entry) } else { known.object };
        moved.digest = known.digest;
        moved.internal_date = known.internal_date;
        moved.size = known.size;
        moved.state = state_of_entry(entry);
        moved.set_unread(known.unread());
        // The same path under another folder's identity is no change of the message.
        let told = self.path(known.slot()) == self.path(slot)
            && moved.state == known.state
            && known.place() == place_of(known.slot(), &entry.base);
        if !told {
            let patch = Patch {
                folder: Some(Some(self.path(slot).to_vec())),
                flags: Some(Some(entry.flags.clone())),
                tags: Some(Some(entry.keywords.clone())),
                // A UID belongs to a folder.
                uid: Some(entry.uid),
                attributes,
                ..Patch::default()
            };
            let event = self.event(ItemKind::Message, native.clone(), Change::Patch { patch, blobs: None }, when);
            self.append(store, &event)?;
        }
        self.stray(known.item, native)?;
        self.known.remove(from);
        self.known.insert(moved);
        Ok(())
    }

    /// Records that a message is gone.
    pub fn delete(
        &mut self,
        store: &Store,
        place: u64,
        base: Option<&[u8]>,
        when: When,
    ) -> std::result::Result<(), StoreError> {
        let Some(known) = self.known.get(place).copied() else { return Ok(()) };
        let native = self.native_of(store, &known, base)?;
        let event = self.event(ItemKind::Message, native, Change::Delete, when);
        match self.append(store, &event) {
            // What is known and what is stored differ only after damage; deleted is what it is then.
            Ok(()) | Err(StoreError::NoItem) => {}
            Err(e) => return Err(e),
        }
        self.strays.remove(&known.item);
        self.known.remove(place);
        Ok(())
    }
}

/// A message's content, as far as it could be had.
pub enum Seen<'a> {
    Read(&'a Content),
    Unread { internal_date: i64 },
}

impl Seen<'_> {
    fn internal_date(&self) -> i64 {
        match self {
            Self::Read(content) => content.internal_date,
            Self::Unread { internal_date } => *internal_date,
        }
    }
}

/// Whether an error is of this one item, and others can still be recorded.
pub fn concerns_one(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::NoItem
            | StoreError::TooLarge(_)
            | StoreError::SourceConflict(_)
            | StoreError::NoBlob(_)
            | StoreError::Damage(_)
    )
}
