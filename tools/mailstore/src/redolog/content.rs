//! The content of a record, streamed from its file.
//!
//! Content whose length is not the size that the record gives is a gzip stream of that size: some servers store blobs
//! compressed and log them as they are.

use crate::redolog::input::ReadAt;
use crate::redolog::record::{Extent, Record, Value};
use flate2::read::MultiGzDecoder;
use std::io::{self, Read};

/// Content as the server holds it, uncompressed.
#[derive(Debug)]
pub struct Content<R: ReadAt> {
    kind: Kind<R>,
}

#[derive(Debug)]
enum Kind<R: ReadAt> {
    Raw(Bytes<R>),
    Gzip(Box<MultiGzDecoder<io::BufReader<Bytes<R>>>>),
}

/// The bytes of an extent.
#[derive(Debug)]
struct Bytes<R> {
    from: R,
    at: u64,
    left: u64,
}

impl<R: ReadAt> Read for Bytes<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let want = into.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let Some(into) = into.get_mut(..want).filter(|into| !into.is_empty()) else { return Ok(0) };
        let n = self.from.read_at(into, self.at)?;
        if n == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the log was cut inside of the content"));
        }
        self.at += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}

impl<R: ReadAt> Read for Content<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match &mut self.kind {
            Kind::Raw(bytes) => bytes.read(into),
            Kind::Gzip(stream) => stream.read(into),
        }
    }
}

impl Record {
    /// Where the record's own content is, and the uncompressed size that it gives. Contacts and invites give none.
    pub fn data(&self) -> Option<(Extent, Option<u64>)> {
        let Some(Value::Data(extent)) = self.get("data") else { return None };
        Some((*extent, self.int("size").and_then(|size| u64::try_from(size).ok())))
    }
}

/// Opens content. `size`: what the record says it is uncompressed; `None`: it is never compressed.
pub fn open<R: ReadAt>(from: R, extent: Extent, size: Option<u64>) -> io::Result<Content<R>> {
    let mut magic = [0; 2];
    let gzip = size.is_some_and(|size| size != extent.length)
        && extent.length >= 2
        && from.read_at(&mut magic, extent.offset)? == 2
        && magic == [0x1f, 0x8b];
    let bytes = Bytes { from, at: extent.offset, left: extent.length };
    let kind =
        if gzip { Kind::Gzip(Box::new(MultiGzDecoder::new(io::BufReader::new(bytes)))) } else { Kind::Raw(bytes) };
    Ok(Content { kind })
}

/// Copies content. Outer error: it could not be written; inner: it could not be read or is damaged, and what came out so far
/// is not all of it.
pub fn copy(mut from: impl Read, to: &mut impl io::Write) -> io::Result<io::Result<u64>> {
    let mut buffer = [0; 16 << 10];
    let mut copied = 0;
    loop {
        let n = match from.read(&mut buffer) {
            Ok(0) => return Ok(Ok(copied)),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Ok(Err(e)),
        };
        to.write_all(buffer.get(..n).unwrap_or_default())?;
        copied += n as u64;
    }
}
