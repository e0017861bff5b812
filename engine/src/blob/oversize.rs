//! A very large blob: streamed into a pack of its own, past the writer, which has better things to do.
//!
//! The pack is written under a temporary name and gets its own when it is complete, durable and sealed; only then can a
//! frame name the blob (W1). A crash leaves a temporary file that the next writer removes.

use super::entry::{Chunk, Pace};
use crate::catalog::{Pack, PackPart};
use crate::disk::{Buffer, File, OpenMode, write_full};
use crate::error::{Error, Result};
use crate::files::Files;
use crate::index::checkpoint::{self, Content};
use crate::index::run::IndexRun;
use crate::index::table::PackTable;
use mailstrata_format::file::{FLAG_OVERSIZE, FileHeader};
use mailstrata_format::pack::{self, BlobRow, ENTRY_MAGIC, ENTRY_STREAMED, EntryHeader, Extent};
use mailstrata_format::{BLOCK, Binding, Digest, FileKind, FileName};
use std::path::PathBuf;
use std::sync::Arc;

const BUFFER: usize = 1 << 20;

/// A pack under way.
pub struct Oversize<'a> {
    files: &'a Files,
    name: FileName,
    temp: PathBuf,
    file: Arc<dyn File>,
    buffer: Buffer,
    filled: usize,
    /// Where the buffer starts in the file.
    start: u64,
    chunks: u32,
    raw_len: u64,
}

impl<'a> Oversize<'a> {
    /// Starts a pack.
    pub fn start(files: &'a Files, number: u64, created: i64) -> Result<Self> {
        let name = FileName::new(FileKind::Pack, number);
        let temp = files.dir.join(format!("pack/{number:08}.tmp"));
        let file = files.disk.open(&temp, OpenMode::CreateNewDirect).map_err(Error::io("creating", &temp))?;
        let mut this =
            Self { files, name, temp, file, buffer: Buffer::new(BUFFER), filled: 0, start: 0, chunks: 0, raw_len: 0 };
        let header = FileHeader { flags: FLAG_OVERSIZE, ..FileHeader::new(files.store, name, created) };
        this.put(&header.block())?;
        let entry = EntryHeader {
            magic: ENTRY_MAGIC,
            flags: ENTRY_STREAMED,
            reserved: 0,
            blob_count: 0,
            chunk_count: 0,
            raw_len: 0,
            length: 0,
            trailer_len: 0,
            reserved2: [0; 8],
            check: [0; 16],
            crc: 0,
        };
        let bytes = entry.sealed(&this.place());
        this.put(&bytes)?;
        Ok(this)
    }

    fn place(&self) -> Binding {
        Binding::new(self.files.store, self.name, self.start + self.filled as u64)
    }

    fn put(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let n = bytes.len().min(BUFFER - self.filled);
            self.buffer[self.filled..self.filled + n].copy_from_slice(&bytes[..n]);
            self.filled += n;
            bytes = &bytes[n..];
            if self.filled == BUFFER {
                self.flush(BUFFER)?;
            }
        }
        Ok(())
    }

    fn flush(&mut self, len: usize) -> Result<()> {
        write_full(self.file.as_ref(), &self.buffer[..len], self.start, false)
            .map_err(Error::io("writing", &self.temp))?;
        self.start += len as u64;
        self.filled = 0;
        Ok(())
    }

    fn chunk(&mut self, chunk: &Chunk) -> Result<()> {
        let place = self.place();
        let mut result = Ok(());
        let index = self.chunks;
        chunk.layout(index, &place, &mut |bytes| {
            if result.is_ok() {
                result = self.put(bytes);
            }
        });
        self.chunks += 1;
        result
    }

    /// Adds up to 256 KiB.
    pub fn push(&mut self, raw: &[u8]) -> Result<()> {
        let chunk = Chunk::new(raw, self.raw_len, Pace::Calm);
        self.raw_len += raw.len() as u64;
        self.chunk(&chunk)
    }

    /// Ends the blob: the pack is durable, sealed and in place when this returns.
    pub fn finish(mut self, digest: Digest) -> Result<Pack> {
        let entry_offset = BLOCK as u64;
        let trailer_at = self.place();
        let row = BlobRow { digest: digest.0, raw_offset: 0, length: self.raw_len };
        let entry_len = trailer_at.offset - entry_offset + (pack::TrailerHeader::SIZE + BlobRow::SIZE) as u64;
        let trailer = pack::trailer_bytes(&[row], self.chunks, self.raw_len, entry_len, &trailer_at);
        self.put(&trailer)?;
        let used = self.filled;
        let padded = used.next_multiple_of(BLOCK);
        self.buffer[used..padded].fill(0);
        self.flush(padded)?;
        let table = PackTable::new(self.name.number);
        let extent =
            Extent { pack: self.name.number, entry_offset, entry_len, raw_offset: 0, length: self.raw_len, digest };
        table.insert(extent);
        let content = Content { end: self.start, records: 1, padding: (padded - used) as u64, ..Content::default() };
        let footer = checkpoint::pack_index(&table, &content, self.files, self.name, self.start);
        let mut tail = Buffer::new(footer.len());
        tail[..footer.len()].copy_from_slice(&footer);
        write_full(self.file.as_ref(), &tail, self.start, false).map_err(Error::io("writing", &self.temp))?;
        self.file.sync().map_err(Error::io("syncing", &self.temp))?;
        let path = self.files.path(self.name);
        self.files.disk.rename(&self.temp, &path).map_err(Error::io("renaming", &self.temp))?;
        let dir = self.files.dir.join("pack");
        self.files.disk.sync_dir(&dir).map_err(Error::io("syncing", &dir))?;
        let run = IndexRun::open(self.files, self.name)?;
        Ok(Pack::new(self.name.number, PackPart::Run(Arc::new(run))))
    }

    /// Gives the blob up: it was known already, or could not be read.
    pub fn abandon(self) -> Result<()> {
        self.files.disk.remove(&self.temp).map_err(Error::io("removing", &self.temp))
    }
}
