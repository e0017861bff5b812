//! The rows of several sealed files in the order of (account, item, LSN), each with its frame, verified.
//!
//! A segment has its frames in LSN order while they are asked for by key: it is read once from end to end first, so that
//! the page cache has it. A run has them in the order asked for, and is read through a window.

use super::Input;
use crate::disk::{File, read_full};
use crate::error::{Error, Result};
use crate::files::Files;
use crate::index::run::IndexRun;
use crate::index::{Key, row_key};
use mailstrata_format::frame::{self, Envelope, KIND_CURSOR, KIND_REQUIRED, KIND_TRANSACTION};
use mailstrata_format::index::{ROW, ROWS_PER_BLOCK, Row};
use mailstrata_format::{BLOCK, Binding, Damage, DamageKind, FileKind, FileName, checksum};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Blocks of rows read at once.
const ROW_BLOCKS: usize = 16;
/// Bytes of a run read at once, and of a segment ahead of need.
const WINDOW: usize = 256 << 10;

/// One file's rows and frames.
struct Source<'a> {
    run: &'a IndexRun,
    files: &'a Files,
    file: Arc<dyn File>,
    path: PathBuf,
    /// Row blocks that were read, and the number of the block behind them.
    blocks: Vec<u8>,
    next_block: usize,
    /// Of the next row in `blocks`.
    at: usize,
    /// Rows that are left in `blocks`.
    left: usize,
    row: Option<Row>,
    key: (Key, u64),
    window: Vec<u8>,
    window_start: u64,
}

/// See the module's text.
pub struct Merge<'a> {
    sources: Vec<Source<'a>>,
    stop: &'a AtomicBool,
}

/// A row and where its frame can be had.
pub struct Next<'m, 'a> {
    pub row: Row,
    source: &'m mut Source<'a>,
}

impl<'a> Merge<'a> {
    /// Opens the files. `stop`: whoever sets it gets an error from whatever is under way.
    pub fn new(files: &'a Files, inputs: &'a [Input], stop: &'a AtomicBool) -> Result<Self> {
        let mut sources = Vec::with_capacity(inputs.len());
        for input in inputs {
            let name = input.run.name;
            let path = files.path(name);
            let mut source = Source {
                run: &input.run,
                files,
                file: files.get(name)?,
                path,
                blocks: Vec::new(),
                next_block: 0,
                at: 0,
                left: 0,
                row: None,
                key: ([0; 32], 0),
                window: Vec::new(),
                window_start: 0,
            };
            if name.kind == FileKind::Segment {
                source.read_through(stop)?;
            }
            source.step()?;
            sources.push(source);
        }
        Ok(Self { sources, stop })
    }

    /// The next row of all; the one before is done with.
    pub fn advance(&mut self) -> Result<Option<Next<'_, 'a>>> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::Closed);
        }
        let candidates = self.sources.iter_mut().filter(|s| s.row.is_some());
        let Some(source) = candidates.min_by(|a, b| a.key.cmp(&b.key)) else { return Ok(None) };
        let Some(row) = source.row else { return Ok(None) };
        source.step()?;
        Ok(Some(Next { row, source }))
    }
}

impl Source<'_> {
    fn damage(&self, offset: u64, kind: DamageKind) -> Error {
        Damage::new(self.run.name, offset, kind).into()
    }

    /// Has the kernel's cache hold the content.
    fn read_through(&self, stop: &AtomicBool) -> Result<()> {
        let mut buffer = vec![0; WINDOW];
        let mut at = 0;
        while at < self.run.trailer.data_end {
            let n = read_full(self.file.as_ref(), &mut buffer, at).map_err(Error::io("reading", &self.path))?;
            if stop.load(Ordering::Relaxed) {
                return Err(Error::Closed);
            }
            if n == 0 {
                break;
            }
            at += n as u64;
        }
        Ok(())
    }

    /// Goes on to the next row. Rows are read past the cache that views use: nobody asks for them again.
    fn step(&mut self) -> Result<()> {
        if self.left == 0 {
            if self.next_block >= self.run.block_count() {
                self.row = None;
                return Ok(());
            }
            let count = ROW_BLOCKS.min(self.run.block_count() - self.next_block);
            let from = self.run.trailer.rows_offset + (self.next_block * BLOCK) as u64;
            self.blocks.resize(count * BLOCK, 0);
            let n = read_full(self.file.as_ref(), &mut self.blocks, from).map_err(Error::io("reading", &self.path))?;
            let place = Binding::new(self.files.store, self.run.name, from);
            for (i, block) in self.blocks.chunks_exact(BLOCK).enumerate() {
                let here = from + (i * BLOCK) as u64;
                if n < self.blocks.len() || !checksum::block_is_sound(&place.at(here), block) {
                    return Err(self.damage(here, DamageKind::IndexBlock));
                }
                self.left += self.run.rows_in(self.next_block + i);
            }
            self.next_block += count;
            self.at = 0;
        }
        let start = self.at / ROWS_PER_BLOCK * BLOCK + self.at % ROWS_PER_BLOCK * ROW;
        let row = self.blocks.get(start..start + ROW).and_then(Row::decode);
        let row = row.ok_or_else(|| self.damage(self.run.trailer.rows_offset, DamageKind::IndexBlock))?;
        let key = (row_key(&row), row.lsn);
        if self.row.is_some() && key < self.key {
            return Err(self.damage(self.run.trailer.rows_offset, DamageKind::IndexRow));
        }
        self.at += 1;
        self.left -= 1;
        self.key = key;
        self.row = Some(row);
        Ok(())
    }

    /// Copies the bytes of a row's frame to `room`.
    fn bytes_of(&mut self, row: &Row, room: &mut [u8]) -> Result<()> {
        let at = u64::from(row.offset);
        if self.run.name.kind == FileKind::Segment {
            let n = read_full(self.file.as_ref(), room, at).map_err(Error::io("reading", &self.path))?;
            return if n == room.len() { Ok(()) } else { Err(self.damage(at, DamageKind::FileTruncated)) };
        }
        let inside = at >= self.window_start && at + room.len() as u64 <= self.window_start + self.window.len() as u64;
        if !inside {
            self.window.resize(room.len().max(WINDOW), 0);
            let n = read_full(self.file.as_ref(), &mut self.window, at).map_err(Error::io("reading", &self.path))?;
            self.window.truncate(n);
            self.window_start = at;
        }
        let from = usize::try_from(at - self.window_start).unwrap_or(usize::MAX);
        match self.window.get(from..from.saturating_add(room.len())) {
            Some(bytes) => room.copy_from_slice(bytes),
            None => return Err(self.damage(at, DamageKind::FileTruncated)),
        }
        Ok(())
    }
}

impl Next<'_, '_> {
    /// Name of the file that the frame is in.
    #[must_use]
    pub fn file(&self) -> FileName {
        self.source.run.name
    }

    /// Copies the frame to `room`, which has its length, and verifies it there: it is whole, and what the row says. Frames of
    /// kinds that are not known are kept, those that must be understood are not touched.
    pub fn copy(&mut self, room: &mut [u8]) -> Result<Envelope> {
        let (row, source) = (self.row, &mut *self.source);
        source.bytes_of(&row, room)?;
        let at = u64::from(row.offset);
        let place = Binding::new(source.files.store, source.run.name, at);
        let frame = frame::parse(room, &place).map_err(|fault| {
            let kind = match fault {
                frame::FrameFault::Header | frame::FrameFault::Cut { .. } => DamageKind::FrameHeader,
                frame::FrameFault::Body { .. } => DamageKind::FrameBody,
                frame::FrameFault::Malformed { .. } => DamageKind::Record,
            };
            source.damage(at, kind)
        })?;
        let e = frame.envelope;
        let same = frame.len == room.len()
            && frame.header.lsn == row.lsn
            && (e.account, e.item, e.moment) == (row.account, row.item, row.moment);
        if !same {
            return Err(source.damage(at, DamageKind::IndexRow));
        }
        let known = matches!(frame.header.kind, KIND_TRANSACTION | KIND_CURSOR);
        if !known && frame.header.kind & KIND_REQUIRED != 0 {
            return Err(source.damage(at, DamageKind::RequiredKind));
        }
        Ok(e)
    }
}
