//! Footers and checkpoints of segments and packs: from a table in memory to an index on disk.
//!
//! A footer ends a sealed file (W4); a checkpoint stands beside a file that is still written to, so that the next open
//! walks only what came after it. Both are derived (W3).

use super::run::{self, IndexRun};
use super::table::{PackTable, SegmentTable};
use crate::disk::{OpenMode, write_full};
use crate::error::{Error, Result};
use crate::files::Files;
use mailstrata_format::file::FileHeader;
use mailstrata_format::index::{self, PackRow, ROW, Trailer};
use mailstrata_format::{BLOCK, FileKind, FileName};

/// What a trailer says of the content beside the rows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Content {
    /// Where the content ends, a multiple of 4096.
    pub end: u64,
    pub records: u64,
    pub last_group: u64,
    pub root: [u8; 16],
    pub padding: u64,
    pub damaged: u64,
    /// Segment: the pack that its last group names, and how far that was durable.
    pub pack: u64,
    pub pack_end: u64,
}

fn trailer(kind: FileKind, number: u64, content: &Content) -> Trailer {
    Trailer {
        magic: index::MAGIC,
        kind: kind.code(),
        number,
        data_end: content.end,
        rows_offset: 0,
        row_count: 0,
        fences_offset: 0,
        fence_count: 0,
        filter_offset: 0,
        filter_lines: 0,
        file_len: 0,
        first_lsn: 0,
        last_lsn: 0,
        first_moment: 0,
        last_moment: 0,
        records: content.records,
        last_group: content.last_group,
        root: content.root,
        padding: content.padding,
        raw_bytes: 0,
        damaged: content.damaged,
        chain: [0; 16],
        groups: 0,
        first_segment: 0,
        last_segment: 0,
        tier: 0,
        reserved: [0; 44],
    }
}

/// The index of a segment, to be written at `offset` of file `name`.
#[must_use]
pub fn segment_index(table: &SegmentTable, content: &Content, files: &Files, name: FileName, offset: u64) -> Vec<u8> {
    let all = table.all();
    let span = table.span();
    let mut rows: Vec<[u8; ROW]> = Vec::with_capacity(all.len());
    let mut hashes = Vec::with_capacity(all.len());
    for (row, source) in &all {
        let bytes = row.encode();
        let hash = index::key_hash(&bytes[..32]);
        if hashes.last() != Some(&hash) {
            hashes.push(hash);
        }
        if *source != 0 {
            hashes.push(*source);
        }
        rows.push(bytes);
    }
    let trailer = Trailer {
        first_lsn: span.first_lsn,
        last_lsn: span.last_lsn,
        first_moment: span.first_moment,
        last_moment: span.last_moment,
        ..trailer(FileKind::Segment, table.number, content)
    };
    run::build(&rows, &hashes, trailer, files.store, name, offset)
}

/// The index of a pack, to be written at `offset` of file `name`.
#[must_use]
pub fn pack_index(table: &PackTable, content: &Content, files: &Files, name: FileName, offset: u64) -> Vec<u8> {
    let all = table.all();
    let mut raw_bytes = 0u64;
    let mut rows: Vec<[u8; ROW]> = Vec::with_capacity(all.len());
    let mut hashes = Vec::with_capacity(all.len());
    let mut roots = Vec::with_capacity(all.len() * 32);
    for e in &all {
        raw_bytes = raw_bytes.saturating_add(e.length);
        let row = PackRow {
            digest: e.digest.0,
            entry_offset: e.entry_offset,
            entry_len: e.entry_len,
            raw_offset: e.raw_offset,
            length: e.length,
        };
        rows.push(row.encode());
        hashes.push(index::key_hash(&e.digest.0));
    }
    let mut in_file_order: Vec<_> = all.iter().map(|e| (e.entry_offset, e.raw_offset, e.digest)).collect();
    in_file_order.sort_unstable();
    in_file_order.iter().for_each(|(_, _, d)| roots.extend_from_slice(&d.0));
    let trailer = Trailer {
        raw_bytes,
        root: mailstrata_format::checksum::body_hash(&roots).to_le_bytes(),
        ..trailer(FileKind::Pack, table.number, content)
    };
    run::build(&rows, &hashes, trailer, files.store, name, offset)
}

/// Writes a checkpoint file beside and renames it. Derived data, verified when they are read; synced all the same, because
/// after a clean end readers look rows up in it instead of walking the file that it is about.
pub fn write_checkpoint(files: &Files, name: FileName, created: i64, index: &[u8]) -> Result<()> {
    let path = files.path(name);
    let temp = path.with_extension("tmp");
    match files.disk.remove(&temp) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("removing", &temp)(e)),
        _ => {}
    }
    let file = files.disk.open(&temp, OpenMode::CreateNew).map_err(Error::io("creating", &temp))?;
    let header = FileHeader::new(files.store, name, created).block();
    write_full(file.as_ref(), &header, 0, false).map_err(Error::io("writing", &temp))?;
    write_full(file.as_ref(), index, BLOCK as u64, false).map_err(Error::io("writing", &temp))?;
    file.sync().map_err(Error::io("syncing", &temp))?;
    files.disk.rename(&temp, &path).map_err(Error::io("renaming", &temp))?;
    files.forget(name);
    Ok(())
}

/// The checkpoint of a segment or pack, when there is one that verifies.
#[must_use]
pub fn open_checkpoint(files: &Files, name: FileName) -> Option<IndexRun> {
    let file = files.get(name).ok()?;
    let mut header = vec![0; BLOCK];
    crate::disk::read_full(file.as_ref(), &mut header, 0).ok()?;
    FileHeader::read(&header, files.store, name).ok()?;
    let run = IndexRun::open(files, name).ok()?;
    (run.trailer.rows_offset == BLOCK as u64).then(|| run.holding(file))
}
