//! From an event to a frame's body: whose item it is, what its state was, from when on the new one counts.
//!
//! An item's look-up and its append happen under one of 256 locks chosen by its key, so that two producers cannot both
//! build on the same state. The records of recent appends are kept until they are durable, since only then can they be
//! read from disk.

use crate::commit::writer::{Shared, locked};
use crate::error::{Error, Result};
use crate::index::{Key, key_of};
use crate::ingest::event::{Blob, Change, Event, State, Transaction, Value};
use crate::view::read as frames;
use mailstrata_format::frame::{
    self, BlobRef, Body, CODEC_PLAIN, CODEC_ZSTD, Envelope, FLAG_DELETED, FLAG_DERIVED, FLAG_INTERVAL, FLAG_SOURCE,
    FLAG_UNSEEN, ROLE_CONTENT,
};
use mailstrata_format::index::Row;
use mailstrata_format::record::v1::{self, TransactionV1, present};
use mailstrata_format::{AccountId, ItemKey, ItemKind, Lsn, Operation};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use xxhash_rust::xxh3::Xxh3;

/// Payloads from this length on are compressed when it helps.
const COMPRESS_FROM: usize = 1024;
/// Addresses whose account is remembered.
const ADDRESSES_MAX: usize = 100_000;
/// Recent records kept for each lock.
const RECENT_MAX: usize = 64;

type Recent = HashMap<Key, (Lsn, Arc<(State, Vec<Blob>)>)>;

/// What ingest keeps beside the index.
pub struct Ingest {
    stripes: Vec<Mutex<Recent>>,
    addresses: RwLock<HashMap<Vec<u8>, AccountId>>,
}

impl Default for Ingest {
    fn default() -> Self {
        Self { stripes: (0..256).map(|_| Mutex::default()).collect(), addresses: RwLock::default() }
    }
}

/// How a record ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    pub lsn: Lsn,
    /// The source position was recorded before, under this LSN; nothing was appended.
    pub duplicate: bool,
}

/// The hash by which a source position is found: account, item, name and position.
#[must_use]
pub fn source_hash(key: &Key, name: &[u8], position: &[u8]) -> u64 {
    let mut h = Xxh3::new();
    h.update(key);
    h.update(&(name.len() as u64).to_le_bytes());
    h.update(name);
    h.update(position);
    // Zero means "no source".
    h.digest().max(1)
}

/// XXH3-64 of all that an event says, to tell a repetition from a contradiction: a tag byte, then the length (u64) and bytes
/// of each part, fields in the order of `SPEC.md`. Moments count when the source gave them.
fn content_hash(event: &Event) -> u64 {
    let mut h = Xxh3::new();
    let mut part = |tag: u8, bytes: &[u8]| {
        h.update(&[tag]);
        h.update(&(bytes.len() as u64).to_le_bytes());
        h.update(bytes);
    };
    let mut text = |tag: u8, field: &Option<Vec<u8>>| match field {
        Some(t) => part(tag, t),
        None => part(tag | 128, &[]),
    };
    let join = |list: &Vec<Vec<u8>>| -> Vec<u8> {
        list.iter().flat_map(|t| (t.len() as u64).to_le_bytes().into_iter().chain(t.iter().copied())).collect()
    };
    let number = |n: i64| n.to_le_bytes().to_vec();
    let unsigned = |n: u64| n.to_le_bytes().to_vec();
    let value = |v: &Value| match v {
        Value::Text(t) => [&[0], t.as_slice()].concat(),
        Value::Json(j) => [&[1], j.as_slice()].concat(),
    };
    let blob_bytes = |blobs: &[Blob]| -> Vec<u8> {
        let one = |b: &Blob| {
            [b.digest.0.as_slice(), &[u8::from(b.role.is_some())], &join(&b.role.iter().cloned().collect())].concat()
        };
        blobs.iter().flat_map(one).collect()
    };
    text(1, &event.at.map(number));
    text(2, &event.not_before.map(number));
    match &event.change {
        Change::Put { state: s, blobs, content_unseen } => {
            text(3, &Some(vec![1, u8::from(*content_unseen)]));
            text(4, &s.folder);
            text(5, &s.flags.as_ref().map(join));
            text(6, &s.tags.as_ref().map(join));
            text(7, &s.name);
            text(8, &s.sender);
            text(9, &s.date.map(number));
            text(10, &s.uid.map(unsigned));
            for (name, v) in &s.attributes {
                text(11, &Some(name.clone()));
                text(12, &Some(value(v)));
            }
            text(13, &Some(blob_bytes(blobs)));
        }
        Change::Patch { patch: p, blobs } => {
            text(3, &Some(vec![2, u8::from(p.clear_attributes)]));
            let mut field = |tag: u8, change: Option<Option<Vec<u8>>>| {
                if let Some(new) = change {
                    text(tag, &new);
                }
            };
            field(4, p.folder.clone());
            field(5, p.flags.as_ref().map(|f| f.as_ref().map(join)));
            field(6, p.tags.as_ref().map(|f| f.as_ref().map(join)));
            field(7, p.name.clone());
            field(8, p.sender.clone());
            field(9, p.date.map(|d| d.map(number)));
            field(10, p.uid.map(|u| u.map(unsigned)));
            for (name, v) in &p.attributes {
                field(11, Some(Some(name.clone())));
                field(12, Some(v.as_ref().map(value)));
            }
            field(13, blobs.as_ref().map(|b| Some(blob_bytes(b))));
        }
        Change::Delete => text(3, &Some(vec![3])),
    }
    // Zero means "no source".
    h.digest().max(1)
}

impl Ingest {
    fn stripe(&self, key: &Key) -> MutexGuard<'_, Recent> {
        let at = usize::from(key[16] ^ key[0]);
        locked(&self.stripes[at])
    }
}

impl Shared {
    /// The account that an address means now.
    pub fn account_of(&self, ingest: &Ingest, address: &[u8]) -> Result<AccountId> {
        if let Some(id) = crate::index::table::read(&ingest.addresses).get(address) {
            return Ok(*id);
        }
        let (id, _) = self.incarnation_of(address)?;
        let mut known = crate::index::table::write(&ingest.addresses);
        if known.len() >= ADDRESSES_MAX {
            known.clear();
        }
        known.insert(address.to_owned(), id);
        Ok(id)
    }

    /// The newest account that had an address and was not deleted, or a new one behind the deleted ones.
    fn incarnation_of(&self, address: &[u8]) -> Result<(AccountId, u32)> {
        let own = ItemKey::of(ItemKind::Account.code(), address);
        let mut n = 1;
        loop {
            let id = AccountId::of_address(address, n);
            match self.newest(&key_of(id, own))? {
                Some(row) if row.flags & FLAG_DELETED != 0 => n += 1,
                _ => return Ok((id, n)),
            }
        }
    }

    /// The newest row of an item, durable or not.
    pub fn newest(&self, key: &Key) -> Result<Option<Row>> {
        Ok(self.catalog().newest(&self.files, key, u64::MAX, i64::MAX)?.map(|(_, row)| row))
    }

    /// Turns an event into a transaction and appends it. It is durable when its LSN is.
    pub fn append_event(&self, ingest: &Ingest, event: &Event) -> Result<Appended> {
        let account = match event.account_id {
            Some(id) => id,
            None => self.account_of(ingest, &event.account)?,
        };
        let deleting = matches!(event.change, Change::Delete);
        if !deleting {
            self.check_space()?;
        }
        let item = ItemKey::of(event.kind.code(), &event.item);
        let key = key_of(account, item);
        let mut stripe = ingest.stripe(&key);
        let (source, content) = match &event.source {
            Some(s) => (source_hash(&key, &s.name, &s.position), content_hash(event)),
            None => (0, 0),
        };
        if let Some(s) = &event.source
            && let Some((lsn, before)) = self.known_source(&key, source, &s.name, &s.position)?
        {
            if before != content {
                return Err(Error::SourceConflict(lsn));
            }
            return Ok(Appended { lsn, duplicate: true });
        }
        let previous = self.newest(&key)?;
        let alive = previous.filter(|r| r.flags & FLAG_DELETED == 0);
        let (operation, state, blobs, unseen) = match &event.change {
            Change::Put { state, blobs, content_unseen } => {
                (Operation::Put, state.clone(), blobs.clone(), *content_unseen)
            }
            Change::Patch { patch, blobs } => {
                let row = alive.ok_or(Error::NoItem)?;
                let before = self.state_of(&mut stripe, &key, &row)?;
                let mut state = before.0.clone();
                state.apply(patch);
                let unseen = row.flags & FLAG_UNSEEN != 0 && blobs.is_none();
                (Operation::Patch, state, blobs.clone().unwrap_or_else(|| before.1.clone()), unseen)
            }
            Change::Delete => {
                let row = alive.ok_or(Error::NoItem)?;
                let before = self.state_of(&mut stripe, &key, &row)?;
                (Operation::Delete, before.0.clone(), before.1.clone(), row.flags & FLAG_UNSEEN != 0)
            }
        };
        let blobs = self.check_blobs(blobs)?;
        let recorded = self.clock.now();
        let happened = event.at.unwrap_or(recorded).min(recorded);
        let moment = previous.map_or(happened, |r| happened.max(r.moment));
        let mut flags = 0;
        let mut set = |on: bool, bit: u16| flags |= if on { bit } else { 0 };
        set(deleting, FLAG_DELETED);
        set(unseen, FLAG_UNSEEN);
        set(event.source.is_some(), FLAG_SOURCE);
        set(event.not_before.is_some(), FLAG_INTERVAL);
        set(event.derived, FLAG_DERIVED);
        let envelope = Envelope {
            account: account.0,
            item: item.0,
            not_before: event.not_before.unwrap_or(happened).min(happened),
            happened,
            moment,
            recorded,
            item_kind: event.kind.code(),
            operation: operation.code(),
            flags,
            blob_count: u16::try_from(blobs.len())
                .map_err(|_| Error::TooLarge("more blobs than a transaction takes"))?,
            reserved: 0,
            source_hash: source,
        };
        let body = encode(&envelope, event, &state, &blobs, content)?;
        let row = Row {
            account: account.0,
            item: item.0,
            lsn: 0,
            moment,
            offset: 0,
            length: 0,
            item_kind: envelope.item_kind,
            operation: envelope.operation,
            flags,
            source: 0,
        };
        let lsn = self.append_frame(&body, row, source)?;
        self.remember(&mut stripe, key, lsn, state, blobs);
        if deleting && event.kind == ItemKind::Account && event.item == event.account {
            crate::index::table::write(&ingest.addresses).remove(&event.account);
        }
        Ok(Appended { lsn, duplicate: false })
    }

    fn remember(&self, stripe: &mut Recent, key: Key, lsn: Lsn, state: State, blobs: Vec<Blob>) {
        if stripe.len() >= RECENT_MAX {
            let durable = self.durable_lsn();
            stripe.retain(|_, (l, _)| *l > durable);
        }
        if stripe.len() < RECENT_MAX {
            stripe.insert(key, (lsn, Arc::new((state, blobs))));
        } else {
            stripe.remove(&key);
        }
    }

    /// The state that a row stands for: kept since its append, or read.
    fn state_of(&self, stripe: &mut Recent, key: &Key, row: &Row) -> Result<Arc<(State, Vec<Blob>)>> {
        if let Some((lsn, kept)) = stripe.get(key)
            && lsn.0 == row.lsn
        {
            return Ok(kept.clone());
        }
        self.wait(Lsn(row.lsn))?;
        let found = self.catalog().newest(&self.files, key, row.lsn, i64::MAX)?;
        let t: Transaction = match found {
            Some((segment, row)) => frames::transaction(&self.files, segment, &row)?,
            None => return Err(Error::NoItem),
        };
        Ok(Arc::new((t.state, t.blobs)))
    }

    /// The LSN and content hash recorded for a source position.
    fn known_source(&self, key: &Key, hash: u64, name: &[u8], position: &[u8]) -> Result<Option<(Lsn, u64)>> {
        let catalog = self.catalog();
        for segment in catalog.segments.iter().rev() {
            for row in segment.with_source(&self.files, key, hash)? {
                self.wait(Lsn(row.lsn))?;
                let found = frames::with_frame(&self.files, segment.number, &row, |_, record| {
                    let same = record.source_name.as_slice() == name && record.source_position.as_slice() == position;
                    same.then_some(record.source_content.to_native())
                })?;
                if let Some(content) = found {
                    return Ok(Some((Lsn(row.lsn), content)));
                }
            }
        }
        Ok(None)
    }

    /// Every blob named must be stored; lengths come from the packs.
    fn check_blobs(&self, blobs: Vec<Blob>) -> Result<Vec<Blob>> {
        if blobs.is_empty() {
            return Ok(blobs);
        }
        if blobs.len() > frame::BLOBS_MAX {
            return Err(Error::TooLarge("more blobs than a transaction takes"));
        }
        let catalog = self.catalog();
        blobs
            .into_iter()
            .map(|b| match crate::blob::known::find(&catalog, &self.files, &b.digest)? {
                Some(extent) => Ok(Blob { length: extent.length, ..b }),
                None => Err(Error::NoBlob(b.digest)),
            })
            .collect()
    }
}

/// Lays a transaction out.
fn encode(envelope: &Envelope, event: &Event, state: &State, blobs: &[Blob], content: u64) -> Result<Body> {
    let mut record: TransactionV1 = state.to_record();
    record.account.clone_from(&event.account);
    record.item.clone_from(&event.item);
    if let Some(s) = &event.source {
        record.present |= present::SOURCE;
        record.source_name.clone_from(&s.name);
        record.source_position.clone_from(&s.position);
        record.source_content = content;
    }
    let refs: Vec<BlobRef> = blobs
        .iter()
        .map(|b| {
            let role = match &b.role {
                None => ROLE_CONTENT,
                Some(role) => {
                    let at = record.roles.iter().position(|r| r == role).unwrap_or_else(|| {
                        record.roles.push(role.clone());
                        record.roles.len() - 1
                    });
                    u8::try_from(at).unwrap_or(ROLE_CONTENT - 1)
                }
            };
            BlobRef {
                digest: b.digest.0,
                length: b.length,
                algorithm: mailstrata_format::digest::SHA256,
                role,
                reserved: [0; 6],
            }
        })
        .collect();
    if record.roles.len() > usize::from(ROLE_CONTENT) {
        return Err(Error::TooLarge("more roles than a transaction takes"));
    }
    let payload = v1::encode(&record).map_err(|_| Error::TooLarge("record"))?;
    let raw_len = payload.len();
    let packed = (raw_len >= COMPRESS_FROM).then(|| zstd::bulk::compress(&payload, 1).ok()).flatten();
    let kind = if event.kind == ItemKind::Cursor { frame::KIND_CURSOR } else { frame::KIND_TRANSACTION };
    let body = match packed {
        Some(p) if p.len() < raw_len - raw_len / 8 => Body::new(kind, envelope, &refs, CODEC_ZSTD, &p, raw_len),
        _ => Body::new(kind, envelope, &refs, CODEC_PLAIN, &payload, raw_len),
    };
    body.ok_or(Error::TooLarge("an item's metadata exceed 24 MiB"))
}
