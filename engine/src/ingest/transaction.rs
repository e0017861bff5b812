//! From an event to a frame's body: whose item it is, what its state was, from when on the new one counts.
//!
//! An item's look-up and its append happen under one of 256 locks chosen by its key, so that two producers cannot both
//! build on the same state. A state that is not durable yet is taken from the batch that it waits in; one that is just
//! being written is waited for.

use crate::catalog::Likely;
use crate::commit::writer::{Shared, Sleep, locked};
use crate::error::{Error, Result};
use crate::index::{Key, key_of};
use crate::ingest::event::{Blob, Change, Event, State, Transaction, Value};
use crate::view::read as frames;
use mailstrata_format::frame::{
    self, BlobRef, Body, CODEC_PLAIN, CODEC_ZSTD, Envelope, FLAG_DELETED, FLAG_DERIVED, FLAG_INTERVAL, FLAG_SOURCE,
    FLAG_UNSEEN, ROLE_CONTENT,
};
use mailstrata_format::index::Row;
use mailstrata_format::record::v1::{TransactionV1, present};
use mailstrata_format::{AccountId, FileName, ItemKey, ItemKind, Lsn, Operation};
use rkyv::util::AlignedVec;
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, RwLock};
use xxhash_rust::xxh3::xxh3_64;

/// Payloads from this length on are compressed when it helps.
const COMPRESS_FROM: usize = 1024;
/// Addresses whose account is remembered.
const ADDRESSES_MAX: usize = 100_000;
/// What ingest keeps beside the index.
pub struct Ingest {
    stripes: Vec<Mutex<()>>,
    addresses: RwLock<HashMap<Vec<u8>, AccountId>>,
    /// Held shared from the moment an address is resolved until its event has an LSN, alone by an event that changes what an
    /// address means: else an event could follow the deletion of its account in the log, or leave the old account in
    /// `addresses`.
    meanings: RwLock<()>,
}

/// What an event holds of [`Ingest::meanings`] until it is appended.
enum Meaning<'a> {
    Shared { _held: std::sync::RwLockReadGuard<'a, ()> },
    Alone { _held: std::sync::RwLockWriteGuard<'a, ()> },
}

impl Default for Ingest {
    fn default() -> Self {
        Self {
            stripes: (0..256).map(|_| Mutex::default()).collect(),
            addresses: RwLock::default(),
            meanings: RwLock::default(),
        }
    }
}

/// How a record ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    pub lsn: Lsn,
    /// The source position was recorded before, under this LSN; nothing was appended.
    pub duplicate: bool,
    /// Where to wait for it, when somebody is writing.
    pub sleep: Option<Sleep>,
}

thread_local! {
    /// What [`content_hash`] and [`encode`] would otherwise allocate for each event.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

#[derive(Default)]
struct Scratch {
    hashed: Vec<u8>,
    record: TransactionV1,
    payload: AlignedVec,
    body: Vec<u8>,
}

/// A scratch that grew beyond this is given back.
const SCRATCH_MAX: usize = 64 << 10;

/// The hash by which a source position is found: account, item, name and position.
#[must_use]
pub fn source_hash(key: &Key, name: &[u8], position: &[u8]) -> u64 {
    SCRATCH.with_borrow_mut(|scratch| {
        let out = &mut scratch.hashed;
        out.clear();
        out.extend_from_slice(key);
        out.extend_from_slice(&(name.len() as u64).to_le_bytes());
        out.extend_from_slice(name);
        out.extend_from_slice(position);
        // Zero means "no source".
        xxh3_64(out).max(1)
    })
}

/// The bytes that [`content_hash`] is of: for each part a tag byte, then its length (u64) and bytes; 128 is added to the tag of
/// a part that is not there.
struct Parts<'a>(&'a mut Vec<u8>);

impl Parts<'_> {
    fn begin(&mut self, tag: u8, len: usize) {
        self.0.push(tag);
        self.length(len);
    }

    fn length(&mut self, len: usize) {
        self.0.extend_from_slice(&(len as u64).to_le_bytes());
    }

    fn text(&mut self, tag: u8, text: Option<&[u8]>) {
        match text {
            Some(t) => {
                self.begin(tag, t.len());
                self.0.extend_from_slice(t);
            }
            None => self.begin(tag | 128, 0),
        }
    }

    fn number(&mut self, tag: u8, n: Option<[u8; 8]>) {
        self.text(tag, n.as_ref().map(|n| &n[..]));
    }

    fn list(&mut self, tag: u8, list: Option<&Vec<Vec<u8>>>) {
        let Some(list) = list else { return self.begin(tag | 128, 0) };
        self.begin(tag, list.iter().map(|t| 8 + t.len()).sum());
        for t in list {
            self.length(t.len());
            self.0.extend_from_slice(t);
        }
    }

    fn value(&mut self, tag: u8, value: Option<&Value>) {
        let (kind, bytes) = match value {
            Some(Value::Text(t)) => (0, t),
            Some(Value::Json(j)) => (1, j),
            None => return self.begin(tag | 128, 0),
        };
        self.begin(tag, 1 + bytes.len());
        self.0.push(kind);
        self.0.extend_from_slice(bytes);
    }

    fn blobs(&mut self, tag: u8, blobs: &[Blob]) {
        self.begin(tag, blobs.iter().map(|b| 33 + b.role.as_ref().map_or(0, |r| 8 + r.len())).sum());
        for b in blobs {
            self.0.extend_from_slice(&b.digest.0);
            self.0.push(u8::from(b.role.is_some()));
            if let Some(role) = &b.role {
                self.length(role.len());
                self.0.extend_from_slice(role);
            }
        }
    }
}

/// XXH3-64 of all that an event says, to tell a repetition from a contradiction: its [`Parts`], fields in the order of
/// `SPEC.md`. Moments count when the source gave them.
fn content_hash(event: &Event) -> u64 {
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.hashed.clear();
        content_parts(event, &mut Parts(&mut scratch.hashed));
        let hash = xxh3_64(&scratch.hashed);
        if scratch.hashed.len() > SCRATCH_MAX {
            scratch.hashed = Vec::new();
        }
        // Zero means "no source".
        hash.max(1)
    })
}

fn content_parts(event: &Event, parts: &mut Parts<'_>) {
    parts.number(1, event.at.map(i64::to_le_bytes));
    parts.number(2, event.not_before.map(i64::to_le_bytes));
    match &event.change {
        Change::Put { state: s, blobs, content_unseen } => {
            parts.text(3, Some(&[1, u8::from(*content_unseen)]));
            parts.text(4, s.folder.as_deref());
            parts.list(5, s.flags.as_ref());
            parts.list(6, s.tags.as_ref());
            parts.text(7, s.name.as_deref());
            parts.text(8, s.sender.as_deref());
            parts.number(9, s.date.map(i64::to_le_bytes));
            parts.number(10, s.uid.map(u64::to_le_bytes));
            for (name, v) in &s.attributes {
                parts.text(11, Some(name));
                parts.value(12, Some(v));
            }
            parts.blobs(13, blobs);
        }
        Change::Patch { patch: p, blobs } => {
            parts.text(3, Some(&[2, u8::from(p.clear_attributes)]));
            if let Some(f) = &p.folder {
                parts.text(4, f.as_deref());
            }
            if let Some(f) = &p.flags {
                parts.list(5, f.as_ref());
            }
            if let Some(f) = &p.tags {
                parts.list(6, f.as_ref());
            }
            if let Some(f) = &p.name {
                parts.text(7, f.as_deref());
            }
            if let Some(f) = &p.sender {
                parts.text(8, f.as_deref());
            }
            if let Some(f) = &p.date {
                parts.number(9, f.map(i64::to_le_bytes));
            }
            if let Some(f) = &p.uid {
                parts.number(10, f.map(u64::to_le_bytes));
            }
            for (name, v) in &p.attributes {
                parts.text(11, Some(name));
                parts.value(12, v.as_ref());
            }
            if let Some(b) = blobs {
                parts.blobs(13, b);
            }
        }
        Change::Delete => parts.text(3, Some(&[3])),
    }
}

impl Ingest {
    fn stripe(&self, key: &Key) -> MutexGuard<'_, ()> {
        let at = usize::from(key[16] ^ key[0]);
        locked(&self.stripes[at])
    }
}

impl Shared {
    /// The account that an address means now.
    pub fn account_of(&self, ingest: &Ingest, address: &[u8]) -> Result<AccountId> {
        let _held = crate::index::table::read(&ingest.meanings);
        self.account_meant(ingest, address)
    }

    /// As [`Shared::account_of`], for who holds the meanings.
    fn account_meant(&self, ingest: &Ingest, address: &[u8]) -> Result<AccountId> {
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
            match self.newest(&key_of(id, own), Likely::New)? {
                Some(row) if row.flags & FLAG_DELETED != 0 => n += 1,
                _ => return Ok((id, n)),
            }
        }
    }

    /// The newest row of an item, durable or not.
    pub fn newest(&self, key: &Key, likely: Likely) -> Result<Option<Row>> {
        Ok(self.catalog().newest_if(&self.files, key, u64::MAX, i64::MAX, likely)?.map(|(_, row)| row))
    }

    /// Turns an event into a transaction and appends it. It is durable when its LSN is. `waits`: see
    /// [`Shared::append_frame`].
    pub fn append_event(&self, ingest: &Ingest, event: &Event, waits: bool) -> Result<Appended> {
        let own = event.kind == ItemKind::Account && event.item == event.account;
        let _meaning = if own {
            Meaning::Alone { _held: crate::index::table::write(&ingest.meanings) }
        } else {
            Meaning::Shared { _held: crate::index::table::read(&ingest.meanings) }
        };
        let account = match event.account_id {
            Some(id) => id,
            None => self.account_meant(ingest, &event.account)?,
        };
        let deleting = matches!(event.change, Change::Delete);
        if !deleting {
            self.check_space()?;
        }
        let item = ItemKey::of(event.kind.code(), &event.item);
        let key = key_of(account, item);
        let _stripe = ingest.stripe(&key);
        let (source, content) = match &event.source {
            Some(s) => (source_hash(&key, &s.name, &s.position), content_hash(event)),
            None => (0, 0),
        };
        let likely = if matches!(event.change, Change::Put { .. }) { Likely::New } else { Likely::There };
        // Held while the state before is read: what it names is not removed meanwhile.
        let catalog = self.catalog();
        let found = catalog.newest_if(&self.files, &key, u64::MAX, i64::MAX, likely)?;
        let previous = found.map(|(_, row)| row);
        // A source position is one of its item: without a row of the item there is none.
        if let Some(s) = &event.source
            && previous.is_some()
            && let Some((lsn, before)) = self.known_source(&key, source, &s.name, &s.position)?
        {
            if before != content {
                return Err(Error::SourceConflict(lsn));
            }
            return Ok(Appended { lsn, duplicate: true, sleep: None });
        }
        let alive = found.filter(|(_, r)| r.flags & FLAG_DELETED == 0);
        let (operation, state, blobs, unseen) = match &event.change {
            Change::Put { state, blobs, content_unseen } => {
                (Operation::Put, Cow::Borrowed(state), Cow::Borrowed(&blobs[..]), *content_unseen)
            }
            Change::Patch { patch, blobs } => {
                let (file, row) = alive.ok_or(Error::NoItem)?;
                let (mut state, before) = self.state_of(file, &row)?;
                state.apply(patch);
                let unseen = row.flags & FLAG_UNSEEN != 0 && blobs.is_none();
                let blobs = blobs.as_ref().map_or(Cow::Owned(before), |b| Cow::Borrowed(&b[..]));
                (Operation::Patch, Cow::Owned(state), blobs, unseen)
            }
            Change::Delete => {
                let (file, row) = alive.ok_or(Error::NoItem)?;
                let (state, blobs) = self.state_of(file, &row)?;
                (Operation::Delete, Cow::Owned(state), Cow::Owned(blobs), row.flags & FLAG_UNSEEN != 0)
            }
        };
        drop(catalog);
        let blobs = self.check_blobs(&blobs)?;
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
        let (lsn, sleep) = self.append_frame(&body, row, source, waits)?;
        if body.bytes.capacity() <= SCRATCH_MAX {
            SCRATCH.with_borrow_mut(|scratch| scratch.body = body.bytes);
        }
        if own {
            crate::index::table::write(&ingest.addresses).remove(&event.account);
        }
        Ok(Appended { lsn, duplicate: false, sleep })
    }

    /// The state that a row of a file stands for. The caller holds a catalog that has the file.
    fn state_of(&self, file: FileName, row: &Row) -> Result<(State, Vec<Blob>)> {
        let t: Transaction = match self.waiting_frame(row) {
            Some((place, bytes)) => {
                let frame = frames::parse(&bytes, &place)?;
                let whole = |record: &_| frames::to_transaction(&frame, record);
                frames::with_record(&frame, place.file, place.offset, whole)?.ok_or(Error::NoItem)?
            }
            None => {
                self.wait(Lsn(row.lsn))?;
                frames::transaction(&self.files, file, row)?
            }
        };
        Ok((t.state, t.blobs))
    }

    /// The LSN and content hash recorded for a source position.
    fn known_source(&self, key: &Key, hash: u64, name: &[u8], position: &[u8]) -> Result<Option<(Lsn, u64)>> {
        let catalog = self.catalog();
        for segment in catalog.segments.iter().rev() {
            for row in segment.with_source(&self.files, key, hash)? {
                self.wait(Lsn(row.lsn))?;
                let found = frames::with_frame(&self.files, segment.name, &row, |_, record| {
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
    fn check_blobs(&self, blobs: &[Blob]) -> Result<Vec<Blob>> {
        if blobs.is_empty() {
            return Ok(Vec::new());
        }
        if blobs.len() > frame::BLOBS_MAX {
            return Err(Error::TooLarge("more blobs than a transaction takes"));
        }
        let catalog = self.catalog();
        blobs
            .iter()
            .map(|b| match crate::blob::known::find(&catalog, &self.files, &b.digest)? {
                Some(extent) => Ok(Blob { length: extent.length, ..b.clone() }),
                None => Err(Error::NoBlob(b.digest)),
            })
            .collect()
    }
}

/// Lays a transaction out.
fn encode(envelope: &Envelope, event: &Event, state: &State, blobs: &[Blob], content: u64) -> Result<Body> {
    SCRATCH.with_borrow_mut(|scratch| {
        let body = encode_with(scratch, envelope, event, state, blobs, content);
        if scratch.payload.len() > SCRATCH_MAX {
            *scratch = Scratch::default();
        }
        body
    })
}

fn encode_with(
    scratch: &mut Scratch,
    envelope: &Envelope,
    event: &Event,
    state: &State,
    blobs: &[Blob],
    content: u64,
) -> Result<Body> {
    let record = &mut scratch.record;
    state.fill_record(record);
    record.account.clone_from(&event.account);
    record.item.clone_from(&event.item);
    record.roles.clear();
    record.source_name.clear();
    record.source_position.clear();
    record.source_content = 0;
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
    let mut buffer = std::mem::take(&mut scratch.payload);
    buffer.clear();
    let payload = rkyv::api::high::to_bytes_in::<_, rkyv::rancor::Error>(&*record, buffer)
        .map_err(|_| Error::TooLarge("record"))?;
    let raw_len = payload.len();
    let packed = (raw_len >= COMPRESS_FROM).then(|| zstd::bulk::compress(&payload, 1).ok()).flatten();
    let kind = if event.kind == ItemKind::Cursor { frame::KIND_CURSOR } else { frame::KIND_TRANSACTION };
    let bytes = std::mem::take(&mut scratch.body);
    let body = match packed {
        Some(p) if p.len() < raw_len - raw_len / 8 => {
            Body::new_in(bytes, kind, envelope, &refs, CODEC_ZSTD, &p, raw_len)
        }
        _ => Body::new_in(bytes, kind, envelope, &refs, CODEC_PLAIN, &payload, raw_len),
    };
    scratch.payload = payload;
    body.ok_or(Error::TooLarge("an item's metadata exceed 24 MiB"))
}
