//! A simulated file: what is on the platter, what is only in the cache, and what a power cut makes of the two.
//!
//! Contents become stable by [`Inode::sync`] or a durable write. Until then each written sector is lost or kept on its
//! own. Lengths and cuts are metadata: a prefix of their changes survives, with or without the data.

use super::pages::Pages;
use crate::rng::Rng;
use std::sync::Arc;

/// Unit in which a write tears, in bytes.
pub const SECTOR: u64 = 512;

#[derive(Clone)]
enum Data {
    Bytes(Arc<[u8]>),
    Zeros(u64),
    /// The file was extended, or cut to the length that stands beside.
    None,
    Cut,
}

/// A change that is in the cache only.
#[derive(Clone)]
struct Dirty {
    offset: u64,
    data: Data,
    /// Length of the file after the change.
    len: u64,
}

impl Dirty {
    fn end(&self) -> u64 {
        match &self.data {
            Data::Bytes(b) => self.offset + b.len() as u64,
            Data::Zeros(n) => self.offset + n,
            Data::None | Data::Cut => self.offset,
        }
    }

    fn part(&self, from: u64, to: u64) -> Self {
        let data = match &self.data {
            Data::Bytes(b) => {
                let at = |n: u64| usize::try_from(n - self.offset).unwrap_or(0);
                Data::Bytes(b[at(from)..at(to)].into())
            }
            _ => Data::Zeros(to - from),
        };
        Self { offset: from, data, len: self.len }
    }

    fn apply(&self, to: &mut Pages) {
        match &self.data {
            Data::Bytes(b) => to.write(b, self.offset),
            Data::Zeros(n) => write_zeros(to, self.offset, *n),
            Data::None => {}
            Data::Cut => to.set_len(self.len),
        }
    }
}

fn write_zeros(to: &mut Pages, offset: u64, len: u64) {
    static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
    let mut at = 0;
    while at < len {
        let n = (len - at).min(ZEROS.len() as u64);
        to.write(&ZEROS[..usize::try_from(n).unwrap_or(0)], offset + at);
        at += n;
    }
}

/// What survives of unsynced changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survival {
    /// Nothing that was not synced.
    Nothing,
    /// All of it.
    Everything,
    /// Whatever the seed says: each sector on its own, directory entries in one of several ways.
    Random,
}

/// See the module's text.
#[derive(Clone, Default)]
pub struct Inode {
    /// As a running system sees it.
    pub cache: Pages,
    /// As it is on the platter.
    stable: Pages,
    dirty: Vec<Dirty>,
}

impl Inode {
    /// A file that is wholly stable.
    pub fn stable(bytes: &[u8]) -> Self {
        let mut pages = Pages::default();
        pages.write(bytes, 0);
        Self { cache: pages.clone(), stable: pages, dirty: Vec::new() }
    }

    /// Changes that a power cut may take.
    pub fn unsynced(&self) -> usize {
        self.dirty.len()
    }

    /// Sectors that hold a range, as they read now.
    fn sectors(&self, bytes: &[u8], offset: u64) -> (u64, Arc<[u8]>) {
        let from = offset / SECTOR * SECTOR;
        let to = (offset + bytes.len() as u64).next_multiple_of(SECTOR);
        if from == offset && to - from == bytes.len() as u64 {
            return (from, bytes.into());
        }
        (from, self.cache.range(from, usize::try_from(to - from).unwrap_or(0)).into())
    }

    /// A write that stays in the cache.
    pub fn write(&mut self, bytes: &[u8], offset: u64) {
        if bytes.is_empty() {
            return;
        }
        self.cache.write(bytes, offset);
        let len = self.cache.len();
        let (from, data) = self.sectors(bytes, offset);
        let data = if data.iter().all(|b| *b == 0) { Data::Zeros(data.len() as u64) } else { Data::Bytes(data) };
        self.dirty.push(Dirty { offset: from, data, len });
    }

    /// A write that is on the platter when it returns, with the file's length and nothing else.
    pub fn write_durable(&mut self, bytes: &[u8], offset: u64) {
        if bytes.is_empty() {
            return;
        }
        self.cache.write(bytes, offset);
        let (from, data) = self.sectors(bytes, offset);
        let to = from + data.len() as u64;
        let len = self.cache.len();
        let mut rest = Vec::new();
        for d in self.dirty.drain(..) {
            match d.data {
                Data::None => {}
                Data::Cut => self.stable.set_len(self.stable.len().min(d.len)),
                _ if d.end() <= from || d.offset >= to => rest.push(Dirty { len, ..d }),
                _ => {
                    if d.offset < from {
                        rest.push(Dirty { len, ..d.part(d.offset, from) });
                    }
                    if d.end() > to {
                        rest.push(Dirty { len, ..d.part(to, d.end()) });
                    }
                }
            }
        }
        self.dirty = rest;
        self.stable.write(&data, from);
        self.stable.set_len(len);
    }

    /// Cuts or extends.
    pub fn set_len(&mut self, len: u64) {
        let before = self.cache.len();
        self.cache.set_len(len);
        if len >= before {
            if len > before {
                self.dirty.push(Dirty { offset: before, data: Data::None, len });
            }
            return;
        }
        // What was written behind the cut and never synced is gone whether the cut survives or not.
        let edge = len.next_multiple_of(SECTOR);
        self.dirty.retain(|d| matches!(d.data, Data::None | Data::Cut) || d.offset < edge);
        for d in &mut self.dirty {
            if matches!(d.data, Data::None | Data::Cut) {
                continue;
            }
            if d.end() > edge {
                *d = d.part(d.offset, edge);
            }
            if let Data::Bytes(b) = &mut d.data
                && d.offset + b.len() as u64 > len
            {
                let keep = usize::try_from(len - d.offset).unwrap_or(0);
                let mut cut = b.to_vec();
                cut[keep..].fill(0);
                *b = cut.into();
            }
        }
        self.dirty.push(Dirty { offset: len, data: Data::Cut, len });
    }

    /// Contents and length become stable.
    pub fn sync(&mut self) {
        for d in self.dirty.drain(..) {
            d.apply(&mut self.stable);
        }
        self.stable.set_len(self.cache.len());
    }

    /// A sync that failed: what was dirty counts as clean and will never be written. `forget`: the cache goes as well.
    pub fn lose_dirty(&mut self, forget: bool) {
        self.dirty.clear();
        if forget {
            self.cache = self.stable.clone();
        }
    }

    /// What is on the platter after a power cut.
    pub fn after_power_cut(&self, rng: &mut Rng, how: Survival) -> Self {
        let n = self.dirty.len();
        let metadata = match how {
            Survival::Nothing => 0,
            Survival::Everything => n,
            Survival::Random => rng.index(n + 1),
        };
        let len = if metadata == 0 { self.stable.len() } else { self.dirty[metadata - 1].len };
        // Each cut draws its own odds, so that nearly everything and nearly nothing come up too.
        let odds = [rng.below(10), rng.below(10), rng.below(10)].map(|n| u32::try_from(n).unwrap_or(0));
        let mut out = self.stable.clone();
        for (i, d) in self.dirty.iter().enumerate() {
            match (&d.data, how) {
                (Data::None, _) => {}
                (Data::Cut, _) => {
                    if i < metadata {
                        out.set_len(out.len().min(d.len));
                    }
                }
                (_, Survival::Nothing) => {}
                (_, Survival::Everything) => d.apply(&mut out),
                (_, Survival::Random) => match rng.weighted(&odds) {
                    0 => d.apply(&mut out),
                    1 => {}
                    _ => {
                        let keep = rng.pick(&[10, 50, 90]).to_owned();
                        let mut from = d.offset;
                        while from < d.end() {
                            let to = (from + SECTOR).min(d.end());
                            if rng.percent(keep) {
                                d.part(from, to).apply(&mut out);
                            }
                            from = to;
                        }
                    }
                },
            }
        }
        out.set_len(len);
        Self { cache: out.clone(), stable: out, dirty: Vec::new() }
    }
}
