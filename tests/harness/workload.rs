//! Events as mail servers might report them, and as none should: drawn from a seed.
//!
//! In come a seed and bounds, out come steps. Each run draws its own weights (swarm testing: a run that never deletes
//! finds other faults than one that deletes all the time); accounts and items are few, so that they collide.

use crate::rng::Rng;
use mailstrata_engine::ingest::event::{Blob, Change, Event, Patch, Source, State, Value};
use mailstrata_format::{AccountId, Digest, ItemKind};
use std::sync::Arc;

/// What happens next.
#[derive(Debug, Clone)]
pub enum Step {
    /// The blobs are stored, then the event is recorded.
    Record { event: Box<Event>, blobs: Vec<Arc<[u8]>> },
    /// The clock moves by so many µs.
    Clock(i64),
}

/// Bounds of a workload.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub accounts: usize,
    /// Items of an account.
    pub items: usize,
    /// Largest blob, in bytes; such are rare.
    pub blob_max: usize,
    /// Largest attribute, in bytes; such are rare.
    pub attribute_max: usize,
    /// Accounts are deleted and their addresses come back.
    pub incarnations: bool,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { accounts: 4, items: 12, blob_max: 300_000, attribute_max: 20_000, incarnations: true }
    }
}

/// Names that break programs.
const HOSTILE: &[&[u8]] = &[
    b"",
    b".",
    b"../../x",
    b"/etc/passwd",
    b"a\0b",
    b"\xff\xfe\xfd",
    b"\\Seen",
    b"%00%25",
    "Entw\u{fc}rfe/\u{202e}txt".as_bytes(),
    b"CON",
    b"line\r\nbreak\n",
];

const KINDS: &[ItemKind] = &[
    ItemKind::Message,
    ItemKind::Message,
    ItemKind::Message,
    ItemKind::Folder,
    ItemKind::Contact,
    ItemKind::Appointment,
    ItemKind::Other,
];

/// See the module's text.
pub struct Workload {
    rng: Rng,
    bounds: Bounds,
    /// Put, patch, delete, repetition, contradiction, clock, account.
    weights: [u32; 7],
    /// None, empty, tiny, small, chunk-sized, large, one already stored.
    blob_weights: [u32; 7],
    with_source: u32,
    with_moment: u32,
    accounts: Vec<(Vec<u8>, Option<AccountId>)>,
    items: Vec<(Vec<u8>, ItemKind)>,
    recent: Vec<Arc<[u8]>>,
    /// What several blobs hold as a part.
    parts: Vec<Vec<u8>>,
    reported: Vec<Event>,
    positions: u64,
    now: i64,
}

impl Workload {
    /// A workload that starts at a moment of the clock.
    #[must_use]
    pub fn new(seed: u64, bounds: Bounds, now: i64) -> Self {
        let mut rng = Rng::new(seed);
        let draw = |rng: &mut Rng, of: &[u32]| *rng.pick(of);
        let weights = [
            draw(&mut rng, &[20, 40, 80]),
            draw(&mut rng, &[0, 10, 60]),
            draw(&mut rng, &[0, 5, 30]),
            draw(&mut rng, &[0, 5, 20]),
            draw(&mut rng, &[0, 2]),
            draw(&mut rng, &[0, 10, 40]),
            if bounds.incarnations { draw(&mut rng, &[0, 0, 3]) } else { 0 },
        ];
        let blob_weights = [
            draw(&mut rng, &[5, 30]),
            draw(&mut rng, &[0, 2]),
            draw(&mut rng, &[10, 40]),
            draw(&mut rng, &[5, 20]),
            draw(&mut rng, &[0, 4]),
            // Larger than a pack and than what is kept in memory: rare, and never left out.
            if bounds.blob_max > 256 << 10 { 2 } else { draw(&mut rng, &[0, 1, 2]) },
            draw(&mut rng, &[0, 10, 40]),
        ];
        let accounts = (0..bounds.accounts)
            .map(|i| {
                let id = (i % 3 == 2).then(|| AccountId(rng.bytes(16).try_into().unwrap_or_default()));
                (format!("user{i}@example.org").into_bytes(), id)
            })
            .collect();
        let items = (0..bounds.items)
            .map(|i| {
                let mut name = format!("{i}").into_bytes();
                if rng.percent(15) {
                    name = rng.pick(HOSTILE).to_vec();
                    name.extend(rng.bytes(2));
                }
                (name, *rng.pick(KINDS))
            })
            .collect();
        Self {
            weights,
            blob_weights,
            with_source: draw(&mut rng, &[0, 50, 100]),
            with_moment: draw(&mut rng, &[0, 50, 100]),
            bounds,
            accounts,
            items,
            recent: Vec::new(),
            parts: Vec::new(),
            reported: Vec::new(),
            positions: 0,
            now,
            rng,
        }
    }

    fn text(&mut self) -> Vec<u8> {
        if self.rng.percent(10) {
            return self.rng.pick(HOSTILE).to_vec();
        }
        let len = if self.rng.percent(1) { 4096 } else { 1 + self.rng.index(12) };
        (0..len).map(|_| b'a' + u8::try_from(self.rng.below(26)).unwrap_or(0)).collect()
    }

    fn optional<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.rng.percent(60).then(|| make(self))
    }

    fn texts(&mut self) -> Vec<Vec<u8>> {
        (0..self.rng.below(4)).map(|_| self.text()).collect()
    }

    fn value(&mut self) -> Value {
        match self.rng.below(12) {
            0 => Value::Json(br#"{"a":[1,2.5,null]}"#.to_vec()),
            1 => Value::Json(b"17".to_vec()),
            2 => {
                let len = self.rng.index(self.bounds.attribute_max + 1);
                // Half of the large ones cannot be compressed.
                Value::Text(if self.rng.percent(50) { self.rng.bytes(len) } else { vec![b'x'; len] })
            }
            _ => Value::Text(self.text()),
        }
    }

    fn attribute_name(&mut self) -> Vec<u8> {
        if self.rng.percent(10) { self.text() } else { format!("x{}", self.rng.below(5)).into_bytes() }
    }

    fn state(&mut self) -> State {
        let mut attributes: Vec<(Vec<u8>, Value)> = Vec::new();
        for _ in 0..self.rng.below(4) {
            let name = self.attribute_name();
            if attributes.iter().all(|(n, _)| *n != name) {
                attributes.push((name, self.value()));
            }
        }
        State {
            folder: self.optional(Self::text),
            flags: self.optional(Self::texts),
            tags: self.optional(Self::texts),
            name: self.optional(Self::text),
            sender: self.optional(Self::text),
            date: self.optional(|w| w.rng.bits().cast_signed()),
            uid: self.optional(|w| w.rng.bits()),
            attributes,
        }
    }

    fn change<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<Option<T>> {
        match self.rng.below(4) {
            0 => Some(None),
            1 => Some(Some(make(self))),
            _ => None,
        }
    }

    fn patch(&mut self) -> Patch {
        let mut attributes: Vec<(Vec<u8>, Option<Value>)> = Vec::new();
        for _ in 0..self.rng.below(3) {
            let name = self.attribute_name();
            if attributes.iter().all(|(n, _)| *n != name) {
                attributes.push((name, self.optional(Self::value)));
            }
        }
        Patch {
            folder: self.change(Self::text),
            flags: self.change(Self::texts),
            tags: self.change(Self::texts),
            name: self.change(Self::text),
            sender: self.change(Self::text),
            date: self.change(|w| w.rng.bits().cast_signed()),
            uid: self.change(|w| w.rng.bits()),
            attributes,
            clear_attributes: self.rng.percent(5),
        }
    }

    fn content(&mut self) -> Option<Arc<[u8]>> {
        let largest = self.bounds.blob_max;
        let len = match self.rng.weighted(&self.blob_weights) {
            0 => return None,
            1 => 0,
            2 => 1 + self.rng.index(200),
            3 => 1 + self.rng.index(6000),
            4 => 65_000 + self.rng.index(1100),
            5 => self.rng.index(largest + 1),
            _ if self.recent.is_empty() => 1,
            _ => return Some(self.rng.pick(&self.recent).clone()),
        }
        .min(largest);
        let mut bytes = self.rng.bytes(len);
        match self.rng.below(3) {
            // As it is: nothing to compress.
            0 => {}
            // As text: much to compress.
            1 => bytes
                .iter_mut()
                .enumerate()
                .for_each(|(i, b)| *b = b" the quick brown fox"[(i + usize::from(*b % 2)) % 20]),
            _ => bytes.iter_mut().skip(16).for_each(|b| *b = 0),
        }
        if self.rng.percent(30) {
            self.attach(&mut bytes);
        }
        let bytes: Arc<[u8]> = bytes.into();
        if self.recent.len() >= 8 {
            let at = self.rng.index(8);
            self.recent[at] = bytes.clone();
        } else {
            self.recent.push(bytes.clone());
        }
        Some(bytes)
    }

    /// Adds parts that other blobs have as well, between delimiters.
    fn attach(&mut self, bytes: &mut Vec<u8>) {
        if self.parts.len() < 4 {
            let len = 4096 + self.rng.index(4000);
            let part = self.rng.bytes(len);
            self.parts.push(part);
        }
        for _ in 0..1 + self.rng.index(3) {
            let part = self.rng.pick(&self.parts);
            if bytes.len() + part.len() + 64 > self.bounds.blob_max {
                return;
            }
            bytes.extend_from_slice(b"\n--part\nContent-Type: x/y\n\n");
            bytes.extend_from_slice(part);
        }
        bytes.extend_from_slice(b"\n--part--\n");
    }

    fn contents(&mut self) -> (Vec<Blob>, Vec<Arc<[u8]>>) {
        let mut blobs = Vec::new();
        let mut all = Vec::new();
        let roles: &[Option<&[u8]>] = if self.rng.percent(10) { &[None, Some(b"photo"), Some(b"")] } else { &[None] };
        for role in roles {
            if let Some(bytes) = self.content() {
                let digest = Digest::of(&bytes);
                blobs.push(Blob { digest, length: bytes.len() as u64, role: role.map(<[u8]>::to_vec) });
                all.push(bytes);
            }
        }
        (blobs, all)
    }

    fn moment(&mut self) -> Option<i64> {
        if !self.rng.percent(self.with_moment) {
            return None;
        }
        Some(match self.rng.below(10) {
            0 => self.now + 1_000_000,
            1 => self.now - 86_400_000_000,
            2 => *self.rng.pick(&[0, -1, i64::MIN, i64::MAX, -120_000_000_000_000]),
            _ => self.now - self.rng.below(5_000_000).cast_signed(),
        })
    }

    fn event(&mut self, change: Change) -> Event {
        let (account, account_id) = self.rng.pick(&self.accounts).clone();
        let (item, kind) = self.rng.pick(&self.items).clone();
        let at = self.moment();
        let not_before = if self.rng.percent(20) { self.moment() } else { None };
        let source = self.rng.percent(self.with_source).then(|| {
            self.positions += 1;
            Source { name: b"maildir".to_vec(), position: format!("p{}", self.positions).into_bytes() }
        });
        let event =
            Event { account, account_id, item, kind, change, at, not_before, source, derived: self.rng.percent(5) };
        if event.source.is_some() && self.reported.len() < 200 {
            self.reported.push(event.clone());
        }
        event
    }

    /// The next step.
    pub fn next_step(&mut self) -> Step {
        let record = |event: Event, blobs| Step::Record { event: Box::new(event), blobs };
        match self.rng.weighted(&self.weights) {
            0 => {
                let (blobs, all) = self.contents();
                let content_unseen = all.is_empty() && self.rng.percent(10);
                let state = self.state();
                record(self.event(Change::Put { state, blobs, content_unseen }), all)
            }
            1 => {
                let patch = self.patch();
                let (blobs, all) = if self.rng.percent(20) { self.contents() } else { (Vec::new(), Vec::new()) };
                let blobs = if all.is_empty() && self.rng.percent(90) { None } else { Some(blobs) };
                record(self.event(Change::Patch { patch, blobs }), all)
            }
            2 => record(self.event(Change::Delete), Vec::new()),
            3 if !self.reported.is_empty() => record(self.rng.pick(&self.reported).clone(), Vec::new()),
            4 if !self.reported.is_empty() => {
                let mut event = self.rng.pick(&self.reported).clone();
                let state = State { name: Some(b"contradiction".to_vec()), ..State::default() };
                event.change = Change::Put { state, blobs: Vec::new(), content_unseen: false };
                record(event, Vec::new())
            }
            6 => {
                // An account's own item; its deletion ends the address's incarnation.
                let change = if self.rng.percent(50) {
                    Change::Delete
                } else {
                    Change::Put { state: self.state(), blobs: Vec::new(), content_unseen: false }
                };
                let mut event = self.event(change);
                event.source = None;
                event.kind = ItemKind::Account;
                event.item.clone_from(&event.account);
                record(event, Vec::new())
            }
            _ => {
                let by = match self.rng.below(20) {
                    0 => -3_600_000_000,
                    1 => 86_400_000_000,
                    _ => self.rng.below(2_000_000).cast_signed(),
                };
                self.now += by;
                Step::Clock(by)
            }
        }
    }

    /// The random numbers, for decisions of the test itself.
    pub fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }
}
