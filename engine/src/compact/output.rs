//! Writes a run: frames into groups, then the index of what was written.
//!
//! In come frames in the order of the keys; out comes `run/<n>.tmp`, complete and synced. Rows are not kept meanwhile: the
//! index is made by walking the file as recovery would, which also shows that what was written can be read. So memory is a
//! group, and fences and filter at the end. Nothing goes through the page cache, and no write is larger than [`STEP`]: a
//! commit that comes in between waits for that much at most.

use crate::disk::{Buffer, File, OpenMode, write_full};
use crate::error::{Error, Result};
use crate::files::Files;
use crate::index::table::low_half;
use crate::log::walk::{Vouched, Walk, row_of};
use mailstrata_format::file::{FileHeader, Replaced};
use mailstrata_format::frame::{self, Envelope, FRAME_LEN_MAX};
use mailstrata_format::index::{
    self, BLOCK_DATA, FENCES_PER_BLOCK, KEY, LINE, LINES_PER_BLOCK, ROW, ROWS_PER_BLOCK, Row, Trailer,
};
use mailstrata_format::segment::{self, FLAG_RUN, GroupHeader};
use mailstrata_format::{BLOCK, Binding, Damage, DamageKind, FileKind, FileName, StoreId, checksum};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes of a group, unless a frame is larger, and of a write.
pub const STEP: usize = 256 << 10;

/// A run that is being written.
pub struct Output<'a> {
    files: &'a Files,
    header: FileHeader,
    name: FileName,
    file: Arc<dyn File>,
    temp: PathBuf,
    /// First and last LSN of what goes in.
    lsns: (u64, u64),
    group: Buffer,
    used: usize,
    count: u32,
    first_lsn: u64,
    /// Where the group starts.
    at: u64,
    sequence: u64,
    chain: [u8; 16],
    records: u64,
    padding: u64,
    /// What the filter will hold, at most: keys that differ, and sources.
    hashes: u64,
    last_key: Option<[u8; KEY]>,
    moments: Option<(i64, i64)>,
}

fn write(file: &Arc<dyn File>, bytes: &[u8], mut at: u64) -> io::Result<()> {
    for part in bytes.chunks(STEP) {
        write_full(file.as_ref(), part, at, false)?;
        at += part.len() as u64;
        // Whoever commits comes first.
        std::thread::yield_now();
    }
    Ok(())
}

impl<'a> Output<'a> {
    /// Begins the run that `header` names. `lsns` is what it covers, `bytes` what it may take.
    pub fn create(
        files: &'a Files,
        header: FileHeader,
        replaced: &[Replaced],
        lsns: (u64, u64),
        bytes: u64,
    ) -> Result<Self> {
        let name = FileName::new(FileKind::Run, header.number);
        let temp = files.path(name).with_extension("tmp");
        let file = files.disk.open(&temp, OpenMode::CreateNewDirect).map_err(Error::io("creating", &temp))?;
        file.allocate(bytes.next_multiple_of(BLOCK as u64)).map_err(Error::io("allocating space for", &temp))?;
        let mut block = Buffer::new(BLOCK);
        block.copy_from_slice(&header.block_with(replaced));
        write(&file, &block, 0).map_err(Error::io("writing", &temp))?;
        Ok(Self {
            files,
            header,
            name,
            file,
            temp,
            lsns,
            group: Buffer::new(STEP),
            used: GroupHeader::SIZE,
            count: 0,
            first_lsn: 0,
            at: BLOCK as u64,
            sequence: 0,
            chain: [0; 16],
            records: 0,
            padding: 0,
            hashes: 0,
            last_key: None,
            moments: None,
        })
    }

    /// Adds the frame of a row, unless `fill`, which puts its verified bytes into the room it is given, returns `None`.
    pub fn push(&mut self, row: &Row, fill: impl FnOnce(&mut [u8]) -> Result<Option<Envelope>>) -> Result<()> {
        let len = row.length as usize;
        if len > FRAME_LEN_MAX {
            return Err(Error::TooLarge("frame"));
        }
        if self.used + len > STEP && self.count > 0 {
            self.flush()?;
        }
        if self.used + len > self.group.len() {
            let mut larger = Buffer::new(self.used + len);
            larger[..self.used].copy_from_slice(&self.group[..self.used]);
            self.group = larger;
        }
        let room = self.used..self.used + len;
        let Some(envelope) = fill(&mut self.group[room.clone()])? else { return Ok(()) };
        let place = Binding::new(self.files.store, self.name, self.at + self.used as u64);
        u32::try_from(place.offset).map_err(|_| Error::TooLarge("run"))?;
        frame::move_to(&mut self.group[room], &place);
        if self.count == 0 {
            self.first_lsn = row.lsn;
        }
        self.count += 1;
        self.used += len;
        self.records += 1;
        let key: Option<[u8; KEY]> = row.encode().first_chunk().copied();
        self.hashes += u64::from(key != self.last_key) + u64::from(envelope.source_hash != 0);
        self.last_key = key;
        let (least, greatest) = self.moments.unwrap_or((envelope.moment, envelope.moment));
        self.moments = Some((least.min(envelope.moment), greatest.max(envelope.moment)));
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if self.count == 0 {
            return Ok(());
        }
        let len = self.used.next_multiple_of(BLOCK);
        self.group[self.used..len].fill(0);
        self.sequence += 1;
        let header = GroupHeader {
            magic: segment::MAGIC,
            flags: FLAG_RUN,
            sequence: self.sequence,
            first_lsn: self.first_lsn,
            durable_lsn: self.lsns.1,
            frame_count: self.count,
            length: u32::try_from(len).map_err(|_| Error::TooLarge("group"))?,
            used: u32::try_from(self.used).map_err(|_| Error::TooLarge("group"))?,
            reserved: 0,
            previous: self.chain,
            pack: 0,
            pack_end: 0,
            reserved2: [0; 12],
            check: [0; 16],
            crc: 0,
        };
        let place = Binding::new(self.files.store, self.name, self.at);
        self.chain = segment::seal(&mut self.group[..len], header, &place);
        write(&self.file, &self.group[..len], self.at).map_err(Error::io("writing", &self.temp))?;
        self.padding += (len - self.used) as u64;
        self.at += len as u64;
        self.used = GroupHeader::SIZE;
        self.count = 0;
        if self.group.len() > STEP {
            self.group = Buffer::new(STEP);
        }
        Ok(())
    }

    /// Ends the run: index, length, sync. `chain` is sequence and check of the last group of the log that it holds.
    /// Whoever sets `stop` gets an error soon.
    pub fn finish(mut self, chain: (u64, [u8; 16]), stop: &Arc<AtomicBool>) -> Result<()> {
        self.flush()?;
        let (data_end, path) = (self.at, &self.temp);
        let file = self.files.disk.open(path, OpenMode::Read).map_err(Error::io("opening", path))?;
        let reader: Arc<dyn File> = Arc::new(UntilStopped { file, stop: stop.clone() });
        let mut index = Index::new(self.files.store, self.name, &self.file, data_end, self.hashes);
        let vouched = Vouched { end: data_end, successor: Some(self.chain) };
        let walk = Walk {
            file: &reader,
            path,
            store: self.files.store,
            name: self.name,
            limit: data_end,
            vouched,
            from: None,
        };
        let mut outcome = Ok(());
        let walked = walk.run(&mut |frame, offset| {
            if outcome.is_ok() {
                let (row, source) = row_of(frame, offset);
                outcome = index.push(&Row { source: low_half(source), ..row }, source);
            }
        });
        if stop.load(Ordering::Relaxed) {
            return Err(Error::Closed);
        }
        let walked = walked?;
        outcome.map_err(Error::io("writing", path))?;
        // The disk did not keep what it was given: the run is not used.
        if !walked.damage.is_empty() || walked.frames != self.records || walked.chain != self.chain {
            let damage = walked.damage.first().copied();
            let damage = damage.unwrap_or_else(|| Damage::new(self.name, data_end, DamageKind::FileTruncated));
            return Err(Error::io("writing", path)(io::Error::new(io::ErrorKind::InvalidData, damage.to_string())));
        }
        let (first_moment, last_moment) = self.moments.unwrap_or((0, 0));
        let trailer = Trailer {
            magic: index::MAGIC,
            kind: FileKind::Run.code(),
            number: self.name.number,
            data_end,
            rows_offset: data_end,
            row_count: 0,
            fences_offset: 0,
            fence_count: 0,
            filter_offset: 0,
            filter_lines: 0,
            file_len: 0,
            first_lsn: self.lsns.0,
            last_lsn: self.lsns.1,
            first_moment,
            last_moment,
            records: self.records,
            last_group: chain.0,
            root: self.chain,
            padding: self.padding,
            raw_bytes: 0,
            damaged: 0,
            chain: chain.1,
            groups: self.sequence,
            first_segment: self.header.first_segment,
            last_segment: self.header.last_segment,
            tier: self.header.tier,
            reserved: [0; 44],
        };
        let end = index.finish(trailer).map_err(Error::io("writing", path))?;
        self.file.set_len(end).map_err(Error::io("cutting", path))?;
        self.file.sync().map_err(Error::io("syncing", path))
    }
}

/// A file that can be read until somebody says stop: a walk of two gigabytes has no other way to end early.
struct UntilStopped {
    file: Arc<dyn File>,
    stop: Arc<AtomicBool>,
}

impl File for UntilStopped {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("stopped"));
        }
        self.file.read_at(buf, offset)
    }

    fn write_at(&self, _buf: &[u8], _offset: u64, _durable: bool) -> io::Result<usize> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }

    fn sync(&self) -> io::Result<()> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, _len: u64) -> io::Result<()> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }

    fn allocate(&self, _len: u64) -> io::Result<()> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }

    fn try_lock(&self, _exclusive: bool) -> io::Result<bool> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }
}

/// An index that is written as its rows come.
struct Index<'a> {
    file: &'a Arc<dyn File>,
    place: Binding,
    /// Sealed blocks that wait to be written, and where they go.
    buffer: Buffer,
    filled: usize,
    at: u64,
    /// Rows of the block that fills.
    rows: Vec<u8>,
    row_count: u64,
    fences: Vec<u8>,
    filter: Vec<u8>,
    lines: u64,
    last_key: Option<[u8; KEY]>,
}

impl<'a> Index<'a> {
    fn new(store: StoreId, name: FileName, file: &'a Arc<dyn File>, at: u64, hashes: u64) -> Self {
        let lines = index::filter_lines(hashes);
        Self {
            file,
            place: Binding::new(store, name, 0),
            buffer: Buffer::new(STEP),
            filled: 0,
            at,
            rows: Vec::with_capacity(BLOCK_DATA),
            row_count: 0,
            fences: Vec::new(),
            filter: vec![0; usize::try_from(lines).unwrap_or(1) * LINE],
            lines,
            last_key: None,
        }
    }

    fn hold(&mut self, hash: u64) {
        let at = usize::try_from(index::filter_line(hash, self.lines)).unwrap_or(0) * LINE;
        index::line_set(&mut self.filter[at..at + LINE], hash);
    }

    fn push(&mut self, row: &Row, source: u64) -> io::Result<()> {
        let bytes = row.encode();
        if let Some(key) = bytes.first_chunk::<KEY>() {
            if self.rows.is_empty() {
                self.fences.extend_from_slice(key);
            }
            if self.last_key.replace(*key) != Some(*key) {
                self.hold(index::key_hash(key));
            }
        }
        if source != 0 {
            self.hold(source);
        }
        self.rows.extend_from_slice(&bytes);
        self.row_count += 1;
        if self.rows.len() == ROWS_PER_BLOCK * ROW {
            self.rows_done()?;
        }
        Ok(())
    }

    fn rows_done(&mut self) -> io::Result<()> {
        let mut rows = std::mem::take(&mut self.rows);
        if !rows.is_empty() {
            self.block(&rows)?;
        }
        rows.clear();
        self.rows = rows;
        Ok(())
    }

    /// Adds a block with this data.
    fn block(&mut self, data: &[u8]) -> io::Result<()> {
        let offset = self.at + self.filled as u64;
        let block = &mut self.buffer[self.filled..self.filled + BLOCK];
        block.fill(0);
        block[..data.len()].copy_from_slice(data);
        checksum::seal_block(&self.place.at(offset), block);
        self.filled += BLOCK;
        if self.filled == self.buffer.len() { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        write(self.file, &self.buffer[..self.filled], self.at)?;
        self.at += self.filled as u64;
        self.filled = 0;
        Ok(())
    }

    fn here(&self) -> u64 {
        self.at + self.filled as u64
    }

    /// Writes what is left and the trailer, whose places and counts it fills in; where the file ends.
    fn finish(mut self, trailer: Trailer) -> io::Result<u64> {
        self.rows_done()?;
        let fences_offset = self.here();
        let fences = std::mem::take(&mut self.fences);
        for some in fences.chunks(FENCES_PER_BLOCK * KEY) {
            self.block(some)?;
        }
        let filter_offset = self.here();
        let filter = std::mem::take(&mut self.filter);
        for some in filter.chunks(LINES_PER_BLOCK * LINE) {
            self.block(some)?;
        }
        let at = self.here();
        let trailer = Trailer {
            row_count: self.row_count,
            fences_offset,
            fence_count: (fences.len() / KEY) as u64,
            filter_offset,
            filter_lines: self.lines,
            file_len: at + BLOCK as u64,
            ..trailer
        };
        let block = trailer.block(&self.place.at(at));
        self.flush()?;
        let mut buffer = Buffer::new(BLOCK);
        buffer.copy_from_slice(&block);
        write(self.file, &buffer, at)?;
        Ok(at + BLOCK as u64)
    }
}
