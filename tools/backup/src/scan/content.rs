//! A message's bytes: into the store, once, with the summary that its header gives.
//!
//! In comes an opened message, out goes its blob, stored (or waiting in a batch, ahead of any transaction that will name it).
//! A message below [`SMALL`] is read whole into a buffer that is used again; a larger one streams and is never held.

use mailstrata_engine::{Batch, Blob, Error as StoreError, Store};
use mailstrata_format::Digest;
use mailstrata_format::digest::Hasher;
use mailstrata_mailstore::header::{self, HEAD_BYTES_MAX, Summary};
use mailstrata_mailstore::source::OpenMessage;
use std::fs::File;
use std::io::{self, Read, Seek as _};
use std::os::unix::fs::MetadataExt as _;

/// Messages from this length on stream.
const SMALL: usize = 256 << 10;

/// A message that was read.
#[derive(Debug, Clone)]
pub struct Content {
    pub blob: Blob,
    pub summary: Summary,
    /// µs UTC.
    pub internal_date: i64,
    /// When the file was last renamed, linked or written, µs UTC.
    pub changed: i64,
    /// The store did not have it.
    pub new: bool,
}

/// Why there is no content.
#[derive(Debug)]
pub enum Unread {
    /// The file cannot be read.
    File(io::Error),
    Store(StoreError),
}

/// When a file was last renamed, linked or written, µs UTC.
pub fn changed_us(file: &File) -> i64 {
    file.metadata().map_or(0, |m| m.ctime().saturating_mul(1_000_000).saturating_add(m.ctime_nsec() / 1000))
}

/// Reads messages; holds the buffer.
pub struct Reader {
    buffer: Vec<u8>,
}

/// Keeps the beginning of what is read through it.
struct Head<R> {
    inner: R,
    head: Vec<u8>,
}

impl<R: Read> Read for Head<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(out)?;
        let room = HEAD_BYTES_MAX.saturating_sub(self.head.len());
        self.head.extend_from_slice(out.get(..n.min(room)).unwrap_or_default());
        Ok(n)
    }
}

impl Default for Reader {
    fn default() -> Self {
        Self { buffer: vec![0; SMALL + 1] }
    }
}

impl Reader {
    /// Reads a message to its end. With `likely_known` a large one is hashed first, and stored only if it is not.
    pub fn read(
        &mut self,
        store: &Store,
        batch: &mut Batch<'_>,
        mut open: OpenMessage,
        likely_known: bool,
    ) -> Result<Content, Unread> {
        if likely_known && open.size >= SMALL as u64 {
            match self.hashed(store, &mut open) {
                Ok(Some(content)) => return Ok(content),
                Ok(None) => open.file.rewind().map_err(Unread::File)?,
                Err(e) => return Err(e),
            }
        }
        let changed = changed_us(&open.file);
        let mut filled = 0;
        if open.size < SMALL as u64 {
            loop {
                let room = self.buffer.get_mut(filled..).unwrap_or_default();
                match open.file.read(room) {
                    Ok(0) => break,
                    Ok(n) => filled += n,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(Unread::File(e)),
                }
            }
        }
        let start = self.buffer.get(..filled).unwrap_or_default();
        let (blob, summary, new) = if open.size < SMALL as u64 && filled < SMALL {
            let digest = Digest::of(start);
            let new = store.blob_known(&digest).map_err(Unread::Store)?.is_none();
            let blob = batch.put_digested(start, digest).map_err(Unread::Store)?;
            (blob, header::summary(start), new)
        } else {
            // Large, or it grew while it was read.
            let mut stream = Head { inner: start.chain(open.file), head: Vec::with_capacity(HEAD_BYTES_MAX) };
            let (blob, new) = store.put_blob_if_new(&mut stream).map_err(|e| match e {
                StoreError::Content(e) => Unread::File(io::Error::new(e.kind(), e.to_string())),
                e => Unread::Store(e),
            })?;
            (blob, header::summary(&stream.head), new)
        };
        Ok(Content { blob, summary, internal_date: open.received_us, changed, new })
    }

    /// The content, when the store has it.
    fn hashed(&mut self, store: &Store, open: &mut OpenMessage) -> Result<Option<Content>, Unread> {
        let changed = changed_us(&open.file);
        let (mut hasher, mut length) = (Hasher::default(), 0);
        let mut head = Vec::new();
        loop {
            match open.file.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(n) => {
                    let part = self.buffer.get(..n).unwrap_or_default();
                    hasher.update(part);
                    length += n as u64;
                    if head.is_empty() {
                        head.extend_from_slice(part.get(..HEAD_BYTES_MAX).unwrap_or(part));
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Unread::File(e)),
            }
        }
        let digest = hasher.finish();
        if store.blob_known(&digest).map_err(Unread::Store)?.is_none() {
            return Ok(None);
        }
        let blob = Blob { digest, length, role: None };
        let summary = header::summary(&head);
        Ok(Some(Content { blob, summary, internal_date: open.received_us, changed, new: false }))
    }
}
