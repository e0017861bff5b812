//! Sequential reading of a file that nobody vouches for: a moving window, and what could not be read.
//!
//! In come offsets, out go bytes: fewer than asked at the end. A range that the device refuses is read block by block; blocks
//! that cannot be read are zeros here, and are told.

use crate::disk::{File, read_full};
use mailstrata_format::BLOCK;
use std::sync::Arc;

/// Bytes that are read at once.
pub const STEP: usize = 2 << 20;

/// See the module's text.
pub struct Window {
    file: Arc<dyn File>,
    bytes: Vec<u8>,
    start: u64,
    /// Nothing is read from here on.
    pub end: u64,
    step: usize,
    /// Offset, length and error of ranges that could not be read.
    pub refused: Vec<(u64, u64, String)>,
}

impl Window {
    /// A window on a file, up to `end`.
    #[must_use]
    pub fn new(file: Arc<dyn File>, end: u64) -> Self {
        Self { file, bytes: Vec::new(), start: 0, end, step: STEP, refused: Vec::new() }
    }

    /// As [`Window::new`], for few small reads.
    #[must_use]
    pub fn small(file: Arc<dyn File>, end: u64) -> Self {
        Self { step: BLOCK, ..Self::new(file, end) }
    }

    /// Goes over to another file, to read all of it or only here and there; the buffer stays.
    pub fn turn_to(&mut self, file: &Arc<dyn File>, end: u64, all: bool) {
        self.file = file.clone();
        self.step = if all { STEP } else { BLOCK };
        self.end = end;
        self.bytes.clear();
        self.refused.clear();
    }

    /// Up to `len` bytes from `offset` on: fewer at the end.
    pub fn get(&mut self, offset: u64, len: usize) -> &[u8] {
        let wanted_end = offset.saturating_add(len as u64).min(self.end);
        if offset < self.start || wanted_end > self.start + self.bytes.len() as u64 {
            self.fill(offset, len);
        }
        let from = usize::try_from(offset.saturating_sub(self.start)).unwrap_or(usize::MAX).min(self.bytes.len());
        let to = from.saturating_add(len).min(self.bytes.len());
        self.bytes.get(from..to).unwrap_or_default()
    }

    /// How many bytes from `offset` on are there without reading.
    #[must_use]
    pub fn ready(&self, offset: u64) -> u64 {
        if offset < self.start {
            return 0;
        }
        (self.start + self.bytes.len() as u64).saturating_sub(offset)
    }

    fn fill(&mut self, offset: u64, len: usize) {
        let room = usize::try_from(self.end.saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = room.min(len.max(self.step));
        // What is there already is moved, not read again.
        let have = usize::try_from(self.ready(offset)).unwrap_or(0).min(len);
        let from = self.bytes.len() - have.min(self.bytes.len());
        if have > 0 && self.start + from as u64 == offset {
            self.bytes.copy_within(from.., 0);
            self.bytes.resize(len, 0);
        } else {
            self.bytes.resize(len, 0);
            self.start = offset;
            self.load(0);
            return;
        }
        self.start = offset;
        self.load(have);
    }

    /// Reads the buffer from its byte `from` on.
    fn load(&mut self, from: usize) {
        let place = self.start + from as u64;
        let Some(buffer) = self.bytes.get_mut(from..) else { return };
        let n = match read_full(self.file.as_ref(), buffer, place) {
            Ok(n) => n,
            Err(_) => {
                let mut at = 0;
                let mut end = buffer.len();
                for part in buffer.chunks_mut(BLOCK) {
                    match read_full(self.file.as_ref(), part, place + at as u64) {
                        Ok(n) if n < part.len() => {
                            end = at + n;
                            break;
                        }
                        Ok(_) => {}
                        Err(e) => {
                            part.fill(0);
                            let here = place + at as u64;
                            match self.refused.last_mut() {
                                Some((start, len, _)) if *start + *len == here => *len += part.len() as u64,
                                _ => self.refused.push((here, part.len() as u64, e.to_string())),
                            }
                        }
                    }
                    at += part.len();
                }
                end
            }
        };
        self.bytes.truncate(from + n);
    }
}
