//! Items in an ordered store of keys and values, as one would build it without an engine of one's own.
//!
//! A version of an item is a record under account, item, inverted moment and number: the first key not below (account, item,
//! inverted moment) is the state as of that moment. A body is packed with zstd under its SHA-256, once. A peer is asked for
//! three things only: [`Kv`]. Records are laid out by hand and not checked on read beyond what the peer does itself.

use crate::subject::{Put, Subject};
use mailstrata_benches::{Outcome, loose, mail};
use mailstrata_format::Digest;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

pub type Key = [u8; 48];

/// What becomes durable together.
#[derive(Default)]
pub struct Group {
    pub records: Vec<(Key, Vec<u8>)>,
    pub bodies: Vec<([u8; 32], Vec<u8>)>,
}

/// An ordered store.
pub trait Kv: Send + Sync {
    /// Everything or nothing; durable when it returns.
    fn commit(&self, group: Group) -> Outcome;
    /// Whether a body is there.
    fn has_body(&self, digest: &[u8; 32]) -> Outcome<bool>;
    /// Hands on the first record whose key is not below `from`, with its key.
    fn seek(&self, from: &Key, see: &mut dyn FnMut(&[u8], &[u8])) -> Outcome;
}

/// A peer under the workloads.
pub struct Keyed<K> {
    kv: K,
    number: AtomicU64,
}

impl<K: Kv> Keyed<K> {
    /// `first`: a number that no record has yet.
    pub fn new(kv: K, first: u64) -> Self {
        Self { kv, number: AtomicU64::new(first) }
    }

    fn key(&self, n: u64, at: i64) -> Key {
        key(n, at, self.number.fetch_add(1, Ordering::Relaxed))
    }

    fn find(&self, n: u64, at: i64, see: &mut dyn FnMut(&[u8])) -> Outcome {
        let from = key(n, at, 0);
        let mut found = false;
        self.kv.seek(&from, &mut |key, value| {
            if key.get(..32) == from.get(..32) {
                found = true;
                see(value);
            }
        })?;
        if found { Ok(()) } else { Err(format!("item {n} is not found").into()) }
    }
}

fn key(n: u64, at: i64, number: u64) -> Key {
    let (account, item) = mail::key(n);
    let mut key = [0; 48];
    key[..16].copy_from_slice(&account.0);
    key[16..32].copy_from_slice(&item.0);
    key[32..40].copy_from_slice(&(u64::MAX - at.cast_unsigned()).to_be_bytes());
    key[40..].copy_from_slice(&number.to_be_bytes());
    key
}

/// Where a record has its fields.
const UID: usize = 0;
const FLAG: usize = 8;

/// About the length of the engine's frame less what the key holds: 376 bytes with it.
const RECORD: usize = 328;

fn record(n: u64, at: i64, digest: Option<&Digest>) -> Vec<u8> {
    let mut r = Vec::with_capacity(RECORD);
    r.extend_from_slice(&n.to_le_bytes());
    r.extend_from_slice(b"\\Recent\0");
    r.extend_from_slice(&at.to_le_bytes());
    r.extend_from_slice(mail::address(n).as_bytes());
    r.extend_from_slice(&mail::native(n));
    r.extend_from_slice(b"INBOX");
    r.extend_from_slice(format!("message {n} about the meeting on Thursday").as_bytes());
    r.extend_from_slice(b"sender@example.net");
    r.extend_from_slice(format!("maildir{n:012}:0").as_bytes());
    r.extend_from_slice(&digest.map_or([0; 32], |d| d.0));
    // Checksums and offsets of the engine's frame, which do not pack either.
    let mut rng = mail::Rng::new(n);
    while r.len() < RECORD {
        r.extend_from_slice(&rng.next_u64().to_le_bytes());
    }
    r.truncate(RECORD);
    r
}

impl<K: Kv> Subject for Keyed<K> {
    fn put(&self, items: &[Put<'_>]) -> Outcome {
        let mut group = Group::default();
        for put in items {
            let digest = put.body.map(Digest::of);
            if let (Some(body), Some(digest)) = (put.body, digest)
                && !group.bodies.iter().any(|(d, _)| *d == digest.0)
                && !self.kv.has_body(&digest.0)?
            {
                group.bodies.push((digest.0, loose::pack(body)?));
            }
            group.records.push((self.key(put.n, put.at), record(put.n, put.at, digest.as_ref())));
        }
        self.kv.commit(group)
    }

    fn update(&self, items: &[(u64, i64)]) -> Outcome {
        let mut group = Group::default();
        for (n, at) in items {
            let mut new = Vec::new();
            self.find(*n, i64::MAX, &mut |before| new = before.to_vec())?;
            let flag = if at % 2 == 0 { b"\\Seen\0\0\0" } else { b"\\Flagged" };
            new.get_mut(FLAG..FLAG + 8).ok_or("a record is short")?.copy_from_slice(flag);
            new.get_mut(FLAG + 8..FLAG + 16).ok_or("a record is short")?.copy_from_slice(&at.to_le_bytes());
            group.records.push((self.key(*n, *at), new));
        }
        self.kv.commit(group)
    }

    fn as_of(&self, n: u64, at: i64) -> Outcome<i64> {
        let mut found = None;
        self.find(n, at, &mut |r| {
            let number = |at: usize| Some(u64::from_le_bytes(*r.get(at..)?.first_chunk()?));
            found = number(UID).filter(|uid| *uid == n).and_then(|_| number(FLAG + 8));
        })?;
        Ok(found.ok_or("a look-up found another item")?.cast_signed())
    }
}

/// Group commit on top of a store that has none: whoever finds nobody committing commits what has gathered.
pub struct Grouped<K> {
    kv: K,
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    group: Group,
    number: u64,
    done: u64,
    busy: bool,
    failed: Option<String>,
}

impl<K> Grouped<K> {
    pub fn new(kv: K) -> Self {
        let waiting = Waiting { number: 1, ..Waiting::default() };
        Self { kv, waiting: Mutex::new(waiting), changed: Condvar::new() }
    }
}

impl<K: Kv> Kv for Grouped<K> {
    fn commit(&self, mut group: Group) -> Outcome {
        let lock = || self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut w = lock();
        w.group.records.append(&mut group.records);
        w.group.bodies.append(&mut group.bodies);
        let mine = w.number;
        while w.done < mine {
            if let Some(e) = &w.failed {
                return Err(e.clone().into());
            }
            if w.busy {
                w = self.changed.wait(w).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            w.busy = true;
            let (all, number) = (std::mem::take(&mut w.group), w.number);
            w.number += 1;
            drop(w);
            let outcome = self.kv.commit(all);
            w = lock();
            w.busy = false;
            match outcome {
                Ok(()) => w.done = number,
                Err(e) => w.failed = Some(e.to_string()),
            }
            self.changed.notify_all();
        }
        Ok(())
    }

    fn has_body(&self, digest: &[u8; 32]) -> Outcome<bool> {
        self.kv.has_body(digest)
    }

    fn seek(&self, from: &Key, see: &mut dyn FnMut(&[u8], &[u8])) -> Outcome {
        self.kv.seek(from, see)
    }
}
