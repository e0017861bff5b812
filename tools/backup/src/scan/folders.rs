//! Folders: which of those listed is which of those known.
//!
//! In comes a listing of an account's folders, out go their slots, and events for what is new, renamed or otherwise changed. Rules:
//!
//! - The server's identity (mailbox GUID) decides where there is one. Else the path does; and a folder that has gone and one that
//!   has come are one renamed folder when the directory (inode) or the UIDVALIDITY is the same and most of its messages are.
//! - A rename is one transaction of the folder, and one marked *derived* of each message in it, so that a message's state says the
//!   right folder at any moment.
//! - Which folders are gone is told; they are deleted by the caller, after their messages were looked for elsewhere.

use super::known::place_of;
use super::live::{GUID, Live, Slot, SlotId, number};
use super::{Result, When};
use mailstrata_engine::{Change, Error as StoreError, Patch, State, Store, Value};
use mailstrata_format::ItemKind;
use mailstrata_mailstore::maildir::source::MaildirSource;
use mailstrata_mailstore::source::{Account, FolderEntry, Folders, OpenFolder as _, Source as _};
use std::collections::HashSet;
use std::os::unix::fs::MetadataExt as _;

/// Attribute.
pub const SUBSCRIBED: &[u8] = b"subscribed";
/// Attribute.
pub const UID_VALIDITY: &[u8] = b"uidvalidity";

/// What became of a listing.
#[derive(Debug, Default)]
pub struct Synced {
    /// For each folder listed, in order.
    pub slots: Vec<SlotId>,
    pub gone: Vec<SlotId>,
    pub added: u64,
    pub changed: u64,
    /// Messages whose folder has another name.
    pub carried: u64,
}

/// The inode of a folder's `cur/`; 0 when it cannot be looked at.
pub fn inode_of(entry: &FolderEntry) -> u64 {
    std::fs::symlink_metadata(entry.dir.join("cur")).map_or(0, |m| m.ino())
}

fn guid_of(entry: &FolderEntry) -> Option<&[u8]> {
    entry.identity.as_ref().and_then(|i| i.guid.as_deref())
}

fn validity_of(entry: &FolderEntry) -> u64 {
    entry.identity.as_ref().map_or(0, |i| i.uid_validity)
}

fn boolean(b: bool) -> Value {
    Value::Json(if b { b"true".to_vec() } else { b"false".to_vec() })
}

fn last_level(path: &[u8]) -> Vec<u8> {
    path.rsplit(|b| *b == b'/').next().unwrap_or(path).to_vec()
}

impl Live {
    /// Matches a listing with what is known and records what differs.
    pub fn sync_folders(
        &mut self,
        store: &Store,
        source: &MaildirSource,
        account: &Account,
        folders: &Folders,
        when: When,
    ) -> Result<Synced> {
        let found = &folders.found;
        let mut slots: Vec<Option<SlotId>> = vec![None; found.len()];
        let mut taken: HashSet<SlotId> = HashSet::new();
        let known = |live: &Self| -> Vec<(SlotId, Slot)> {
            (0..).zip(live.slots.iter().cloned()).filter(|(_, s)| !s.gone).collect()
        };
        let before = known(self);
        for (entry, slot) in found.iter().zip(&mut slots) {
            let Some(guid) = guid_of(entry) else { continue };
            *slot = before.iter().find(|(i, s)| s.guid.as_deref() == Some(guid) && !taken.contains(i)).map(|(i, _)| *i);
            taken.extend(*slot);
        }
        for (entry, slot) in found.iter().zip(&mut slots).filter(|(_, slot)| slot.is_none()) {
            let same = |s: &Slot| {
                s.path == entry.path
                    && (s.guid.is_none() || guid_of(entry).is_none_or(|g| s.guid.as_deref() == Some(g)))
            };
            // Two directories may stand for one path: they share a slot.
            *slot = before
                .iter()
                .find(|(_, s)| same(s))
                .map(|(i, _)| *i)
                .filter(|i| !taken.contains(i) || found.iter().filter(|e| e.path == entry.path).count() > 1);
            taken.extend(*slot);
        }
        let mut gone: Vec<SlotId> = before
            .iter()
            .filter(|(i, s)| !taken.contains(i) && !folders.unread.contains(&s.path))
            .map(|(i, _)| *i)
            .collect();
        for (entry, slot) in found.iter().zip(&mut slots).filter(|(_, slot)| slot.is_none()) {
            let inode = if gone.is_empty() { 0 } else { inode_of(entry) };
            let mut was = None;
            for (at, candidate) in gone.iter().enumerate() {
                let Some(s) = self.slots.get(*candidate as usize) else { continue };
                let other_guid = s.guid.is_some() && guid_of(entry).is_some();
                let alike =
                    inode != 0 && s.inode == inode || s.uid_validity != 0 && s.uid_validity == validity_of(entry);
                if !other_guid && alike && self.holds_most(source, account, entry, *candidate, s.inode == inode) {
                    was = Some(at);
                    break;
                }
            }
            *slot = was.map(|at| gone.remove(at));
        }
        let mut synced = Synced { gone, ..Synced::default() };
        // Paths first: two folders may have changed names with each other.
        let mut renamed = Vec::new();
        for (entry, slot) in found.iter().zip(&slots) {
            if let Some(s) = slot.and_then(|i| self.slots.get_mut(i as usize))
                && s.path != entry.path
            {
                renamed.push((slot.unwrap_or_default(), std::mem::replace(&mut s.path, entry.path.clone())));
            }
        }
        for slot in &synced.gone {
            if let Some(s) = self.slots.get_mut(*slot as usize) {
                s.gone = true;
            }
        }
        self.index_paths();
        for (entry, slot) in found.iter().zip(&slots) {
            let slot = match slot {
                Some(slot) => *slot,
                None => self.slot_at(&entry.path),
            };
            if self.slots.get(slot as usize).is_some_and(|s| s.native.is_none()) {
                self.record_folder(store, slot, entry, when)?;
                synced.added += 1;
            } else if self.change_folder(store, slot, entry, renamed.iter().any(|(s, _)| *s == slot), when)? {
                synced.changed += 1;
            }
            synced.slots.push(slot);
        }
        for (slot, old) in renamed {
            synced.carried += self.carry_messages(store, slot, &old, when)?;
        }
        Ok(synced)
    }

    /// Whether most messages of a slot are in this directory. An empty folder is the same when its directory is.
    fn holds_most(
        &self,
        source: &MaildirSource,
        account: &Account,
        entry: &FolderEntry,
        slot: SlotId,
        same_dir: bool,
    ) -> bool {
        let had = self.known.iter().filter(|k| k.slot() == slot).count();
        if had == 0 {
            return same_dir;
        }
        let mut same = 0;
        let listed = source.open_folder(account, entry).and_then(|mut folder| {
            folder
                .messages(&mut |m| same += usize::from(self.known.get(place_of(slot, &m.base)).is_some()), &mut |_| {})
        });
        listed.is_ok() && same * 2 > had
    }

    fn record_folder(
        &mut self,
        store: &Store,
        slot: SlotId,
        entry: &FolderEntry,
        when: When,
    ) -> std::result::Result<(), StoreError> {
        let wanted = guid_of(entry).unwrap_or(&entry.path);
        let native =
            self.free_id(store, ItemKind::Folder, wanted, |there| there.folder.as_ref() == Some(&entry.path))?;
        let mut attributes = vec![(SUBSCRIBED.to_vec(), boolean(entry.subscribed))];
        if validity_of(entry) != 0 {
            attributes.push((UID_VALIDITY.to_vec(), number(validity_of(entry))));
        }
        if let Some(guid) = guid_of(entry) {
            attributes.push((GUID.to_vec(), Value::Text(guid.to_vec())));
        }
        let state = State {
            folder: Some(entry.path.clone()),
            name: Some(last_level(&entry.path)),
            attributes,
            ..State::default()
        };
        let put = Change::Put { state, blobs: Vec::new(), content_unseen: false };
        let event = self.event(ItemKind::Folder, native.clone(), put, when);
        self.append(store, &event)?;
        if let Some(s) = self.slots.get_mut(slot as usize) {
            *s = Slot {
                path: entry.path.clone(),
                native: Some(native),
                subscribed: entry.subscribed,
                guid: guid_of(entry).map(<[u8]>::to_vec),
                uid_validity: validity_of(entry),
                inode: inode_of(entry),
                gone: false,
            };
        }
        Ok(())
    }

    /// Records what differs of a folder that is known; says whether anything did.
    fn change_folder(
        &mut self,
        store: &Store,
        slot: SlotId,
        entry: &FolderEntry,
        renamed: bool,
        when: When,
    ) -> std::result::Result<bool, StoreError> {
        let Some(s) = self.slots.get_mut(slot as usize) else { return Ok(false) };
        if s.inode == 0 {
            s.inode = inode_of(entry);
        }
        let mut patch = Patch::default();
        if renamed {
            patch.folder = Some(Some(entry.path.clone()));
            patch.name = Some(Some(last_level(&entry.path)));
            s.inode = inode_of(entry);
        }
        if s.subscribed != entry.subscribed {
            patch.attributes.push((SUBSCRIBED.to_vec(), Some(boolean(entry.subscribed))));
            s.subscribed = entry.subscribed;
        }
        if let Some(identity) = &entry.identity {
            if s.uid_validity != identity.uid_validity {
                patch.attributes.push((UID_VALIDITY.to_vec(), Some(number(identity.uid_validity))));
                s.uid_validity = identity.uid_validity;
            }
            if let Some(guid) = identity.guid.as_ref().filter(|g| s.guid.as_ref() != Some(g)) {
                patch.attributes.push((GUID.to_vec(), Some(Value::Text(guid.clone()))));
                s.guid = Some(guid.clone());
            }
        }
        let Some(native) = s.native.clone().filter(|_| patch != Patch::default()) else { return Ok(false) };
        let event = self.event(ItemKind::Folder, native, Change::Patch { patch, blobs: None }, when);
        self.append(store, &event)?;
        Ok(true)
    }

    /// Tells each message of a renamed folder its folder's name.
    fn carry_messages(
        &mut self,
        store: &Store,
        slot: SlotId,
        old_path: &[u8],
        when: When,
    ) -> std::result::Result<u64, StoreError> {
        let inside: Vec<_> = self.known.iter().filter(|k| k.slot() == slot).copied().collect();
        let path = self.path(slot).to_vec();
        if path == old_path {
            return Ok(0);
        }
        for known in &inside {
            let native = self.native_of(store, known, None)?;
            let patch = Patch { folder: Some(Some(path.clone())), ..Patch::default() };
            let mut event = self.event(ItemKind::Message, native.clone(), Change::Patch { patch, blobs: None }, when);
            event.derived = true;
            self.append(store, &event)?;
            self.stray(known.item, native)?;
        }
        Ok(inside.len() as u64)
    }

    /// Records that a folder is gone.
    pub fn delete_folder(&mut self, store: &Store, slot: SlotId, when: When) -> std::result::Result<bool, StoreError> {
        let Some(native) = self.slots.get_mut(slot as usize).and_then(|s| s.native.take()) else { return Ok(false) };
        let event = self.event(ItemKind::Folder, native, Change::Delete, when);
        match self.append(store, &event) {
            Ok(()) | Err(StoreError::NoItem) => Ok(true),
            Err(e) => Err(e),
        }
    }
}
