//! A file's bytes, sparse: zeros cost nothing, copies share pages.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Size of a page in bytes.
pub const PAGE: usize = 4096;

/// Bytes of a file.
#[derive(Clone, Default)]
pub struct Pages {
    len: u64,
    map: BTreeMap<u64, Arc<[u8; PAGE]>>,
}

fn index(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

fn all_zero(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<64>();
    chunks.iter().all(|c| *c == [0; 64]) && rest.iter().all(|b| *b == 0)
}

impl Pages {
    /// Length in bytes.
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Reads at an offset; returns what lies before the end of the file.
    pub fn read(&self, buf: &mut [u8], offset: u64) -> usize {
        if offset >= self.len {
            return 0;
        }
        let want = buf.len().min(index(self.len - offset));
        let mut at = 0;
        while at < want {
            let place = offset + at as u64;
            let within = index(place % PAGE as u64);
            let n = (PAGE - within).min(want - at);
            match self.map.get(&(place / PAGE as u64)) {
                Some(page) => buf[at..at + n].copy_from_slice(&page[within..within + n]),
                None => buf[at..at + n].fill(0),
            }
            at += n;
        }
        want
    }

    /// A range as it reads, zeros behind the end.
    pub fn range(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        self.read(&mut out, offset);
        out
    }

    /// Writes at an offset; the file grows as needed.
    pub fn write(&mut self, bytes: &[u8], offset: u64) {
        let mut at = 0;
        while at < bytes.len() {
            let place = offset + at as u64;
            let within = index(place % PAGE as u64);
            let n = (PAGE - within).min(bytes.len() - at);
            let part = &bytes[at..at + n];
            let number = place / PAGE as u64;
            if n == PAGE && all_zero(part) {
                self.map.remove(&number);
            } else if self.map.contains_key(&number) || !all_zero(part) {
                let page = self.map.entry(number).or_insert_with(|| Arc::new([0; PAGE]));
                Arc::make_mut(page)[within..within + n].copy_from_slice(part);
            }
            at += n;
        }
        if !bytes.is_empty() {
            self.len = self.len.max(offset + bytes.len() as u64);
        }
    }

    /// Cuts or extends; what is added reads as zeros.
    pub fn set_len(&mut self, len: u64) {
        if len < self.len {
            let within = index(len % PAGE as u64);
            let number = len / PAGE as u64;
            drop(self.map.split_off(&(number + u64::from(within > 0))));
            if let Some(page) = self.map.get_mut(&number) {
                Arc::make_mut(page)[within..].fill(0);
            }
        }
        self.len = len;
    }
}
