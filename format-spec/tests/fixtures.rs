//! The frozen files of version 1: written again in memory and compared, decoded, and damaged bit by bit.
//!
//! `UPDATE_FIXTURES=1` writes them (`cargo test --test fixtures the_committed_store` alone). That is for a new version's
//! directory; those of a released version never change.

mod build;

use build::{CARD, MAIL, NOTE, STORE, letter, photo, place, reply, samples, store, store_with_run};
use mailstrata_format::checksum;
use mailstrata_format::file::{FileHeader, Superblock};
use mailstrata_format::frame::{self, BlobRef, Envelope, FrameHeader};
use mailstrata_format::index::{self, PackRow, Row, Trailer};
use mailstrata_format::manifest::{self, Manifest};
use mailstrata_format::pack::{self, BlobRow, ChunkHeader, EntryHeader, TrailerHeader};
use mailstrata_format::record::v1;
use mailstrata_format::segment::{self, GroupHeader};
use mailstrata_format::{BLOCK, Digest, FileKind, FileName};
use std::path::PathBuf;

fn dir(store: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/v1").join(store)
}

fn committed_in(store: &str, path: &str) -> Vec<u8> {
    std::fs::read(dir(store).join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn committed(path: &str) -> Vec<u8> {
    committed_in("store", path)
}

#[test]
fn the_committed_store_is_what_version_1_writes() {
    for (name, files) in [("store", store()), ("run", store_with_run())] {
        for (path, bytes) in files {
            let file = dir(name).join(path);
            if std::env::var_os("UPDATE_FIXTURES").is_some() {
                std::fs::create_dir_all(file.parent().unwrap()).unwrap();
                std::fs::write(&file, &bytes).unwrap();
            }
            assert!(committed_in(name, path) == bytes, "{name}: {path} differs from what the format crate writes");
        }
    }
}

// Reading, through the crate alone.

type Fault = &'static str;

fn require(holds: bool, fault: Fault) -> Result<(), Fault> {
    if holds { Ok(()) } else { Err(fault) }
}

fn zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|b| *b == 0)
}

/// The frames of a segment and the check of its last group.
struct Walked<'a> {
    frames: Vec<frame::Frame<'a>>,
    end: usize,
    chain: [u8; 16],
    sequence: u64,
}

fn walk_segment(bytes: &[u8], number: u64) -> Result<Walked<'_>, Fault> {
    let name = FileName::new(FileKind::Segment, number);
    let head = FileHeader::read(bytes, STORE, name).map_err(|_| "file header")?;
    let mut w = Walked { frames: vec![], end: BLOCK, chain: head.previous, sequence: head.first_group - 1 };
    let mut lsn = head.first_lsn;
    while let Some(h) = bytes.get(w.end..).and_then(|b| segment::header_at(b, &place(name.kind, number, w.end))) {
        let group = bytes.get(w.end..w.end + h.length as usize).ok_or("group is cut")?;
        require(segment::is_sound(&h, group, &place(name.kind, number, w.end)), "group")?;
        require(h.previous == w.chain && h.sequence == w.sequence + 1 && h.first_lsn == lsn, "chain")?;
        let mut at = GroupHeader::SIZE;
        for _ in 0..h.frame_count {
            let frame = frame::parse(&group[at..h.used as usize], &place(name.kind, number, w.end + at));
            let frame = frame.map_err(|_| "frame")?;
            require(frame.header.lsn == lsn, "LSN")?;
            lsn += 1;
            at += frame.len;
            w.frames.push(frame);
        }
        require(at == h.used as usize, "used")?;
        w.end += h.length as usize;
        w.chain = h.check;
        w.sequence = h.sequence;
    }
    Ok(w)
}

/// A composed blob whose parts lie in the same entry.
fn compose(raw: &[u8], start: usize, rows: &[BlobRow], length: u64) -> Result<Vec<u8>, Fault> {
    let pieces = pack::recipe::decode(&raw[start..], length).ok_or("recipe")?;
    let (mut at, mut out) = (start + pack::recipe::length(&raw[start..]).ok_or("recipe")?, vec![]);
    for p in pieces {
        let length = p.length as usize;
        if p.kind == pack::PIECE_OWN {
            out.extend_from_slice(&raw[at..at + length]);
            at += length;
        } else {
            let part = rows.iter().find(|r| r.digest == p.digest && r.raw_offset <= pack::RAW_OFFSET).ok_or("part")?;
            out.extend_from_slice(&raw[part.raw_offset as usize..part.raw_offset as usize + length]);
        }
    }
    Ok(out)
}

/// The frames of a run, in its order, and the end of its content.
fn walk_run(bytes: &[u8], number: u64) -> Result<(Vec<frame::Frame<'_>>, usize, [u8; 16], u64), Fault> {
    let name = FileName::new(FileKind::Run, number);
    FileHeader::read(bytes, STORE, name).map_err(|_| "file header")?;
    let (mut frames, mut end, mut chain, mut sequence) = (vec![], BLOCK, [0; 16], 0);
    while let Some(h) = bytes.get(end..).and_then(|b| segment::header_at(b, &place(name.kind, number, end))) {
        let group = bytes.get(end..end + h.length as usize).ok_or("group is cut")?;
        require(segment::is_sound(&h, group, &place(name.kind, number, end)), "group")?;
        require(h.previous == chain && h.sequence == sequence + 1 && h.flags == segment::FLAG_RUN, "chain")?;
        let mut at = GroupHeader::SIZE;
        for _ in 0..h.frame_count {
            let frame = frame::parse(&group[at..h.used as usize], &place(name.kind, number, end + at));
            let frame = frame.map_err(|_| "frame")?;
            at += frame.len;
            frames.push(frame);
        }
        require(at == h.used as usize, "used")?;
        (end, chain, sequence) = (end + h.length as usize, h.check, h.sequence);
    }
    Ok((frames, end, chain, sequence))
}

/// The blobs of a pack with the entry's raw bytes, where its chunks are plain, and the end of its content.
fn walk_pack(bytes: &[u8], number: u64) -> Result<(Vec<BlobRow>, usize), Fault> {
    let name = FileName::new(FileKind::Pack, number);
    FileHeader::read(bytes, STORE, name).map_err(|_| "file header")?;
    let at = |offset| place(name.kind, number, offset);
    let (mut here, mut blobs) = (BLOCK, vec![]);
    while let Some(entry) = bytes.get(here..).and_then(|b| EntryHeader::read(b, &at(here))) {
        let (start, mut raw, mut plain) = (here, vec![], true);
        here += EntryHeader::SIZE;
        for index in 0..entry.chunk_count {
            let chunk = bytes.get(here..).and_then(|b| ChunkHeader::read(b, &at(here))).ok_or("chunk header")?;
            let len = pack::chunk_len(chunk.stored_len) as usize;
            let stored = bytes.get(here + ChunkHeader::SIZE..here + len).ok_or("chunk is cut")?;
            require(chunk.vouches_for(stored, &at(here)), "chunk")?;
            require(chunk.index == index, "chunk order")?;
            plain &= chunk.codec == frame::CODEC_PLAIN;
            raw.extend_from_slice(&stored[..chunk.stored_len as usize]);
            here += len;
        }
        let (t, rows) = bytes.get(here..).and_then(|b| pack::read_trailer(b, &at(here))).ok_or("trailer")?;
        here += entry.trailer_len as usize;
        require((here - start) as u64 == entry.length && t.entry_len == entry.length, "entry length")?;
        for r in &rows {
            let start = (r.raw_offset & pack::RAW_OFFSET) as usize;
            if r.raw_offset > pack::RAW_OFFSET {
                let bytes = compose(&raw, start, &rows, r.length)?;
                require(Digest::of(&bytes).0 == r.digest, "digest")?;
                continue;
            }
            require(!plain || Digest::of(&raw[start..start + r.length as usize]).0 == r.digest, "digest")?;
        }
        blobs.extend(rows);
        let next = here.next_multiple_of(BLOCK);
        require(zero(&bytes[here..next]), "padding")?;
        here = next;
    }
    Ok((blobs, here))
}

/// Every block behind the content of a sealed file.
fn walk_footer(bytes: &[u8], kind: FileKind, number: u64, end: usize) -> Result<Trailer, Fault> {
    let last = bytes.len().checked_sub(BLOCK).ok_or("short")?;
    let t = Trailer::read(&bytes[last..], &place(kind, number, last)).ok_or("footer")?;
    require(t.data_end == end as u64 && t.rows_offset == end as u64 && t.file_len == bytes.len() as u64, "end")?;
    let sound = |at: usize| checksum::block_is_sound(&place(kind, number, at), &bytes[at..at + BLOCK]);
    require((end..bytes.len()).step_by(BLOCK).all(sound), "index block")?;
    Ok(t)
}

/// All that the format says of one file of the fixture.
fn verify(path: &str, bytes: &[u8]) -> Result<(), Fault> {
    match path {
        "SUPERBLOCK" => {
            let copies = [Superblock::copy_from(bytes, 0), Superblock::copy_from(bytes, 1)];
            require(copies.iter().all(Option::is_some), "superblock copy")
        }
        "MANIFEST" => Manifest::read(bytes, STORE).map(|_| ()).map_err(|_| "manifest"),
        "log/00000001.seg" => {
            let w = walk_segment(bytes, 1)?;
            let t = walk_footer(bytes, FileKind::Segment, 1, w.end)?;
            require(t.root == w.chain && t.last_group == w.sequence, "root")
        }
        "log/00000002.seg" => require(zero(&bytes[walk_segment(bytes, 2)?.end..]), "tail"),
        "run/00000001.run" => {
            let (_, end, chain, groups) = walk_run(bytes, 1)?;
            let t = walk_footer(bytes, FileKind::Run, 1, end)?;
            require(t.root == chain && t.groups == groups, "root")
        }
        "pack/00000001.pack" => {
            let (_, end) = walk_pack(bytes, 1)?;
            walk_footer(bytes, FileKind::Pack, 1, end).map(|_| ())
        }
        "pack/00000002.pack" => require(zero(&bytes[walk_pack(bytes, 2)?.1..]), "tail"),
        _ => Ok(()),
    }
}

#[test]
fn a_flipped_bit_anywhere_is_found() {
    let all = store().into_keys().filter(|p| *p != "LOCK").map(|p| ("store", p));
    for (store, path) in all.chain([("run", "run/00000001.run"), ("run", "MANIFEST")]) {
        let mut bytes = committed_in(store, path);
        assert_eq!(verify(path, &bytes), Ok(()), "{path}");
        for at in 0..bytes.len() {
            for bit in 0..8 {
                bytes[at] ^= 1 << bit;
                assert!(verify(path, &bytes).is_err(), "{path}: bit {bit} of byte {at}");
                bytes[at] ^= 1 << bit;
            }
        }
    }
}

#[test]
fn a_file_in_the_place_of_another_is_found() {
    for (path, other) in [("log/00000001.seg", "log/00000002.seg"), ("pack/00000001.pack", "pack/00000002.pack")] {
        assert!(verify(path, &committed(other)).is_err());
        assert!(verify(other, &committed(path)).is_err());
    }
}

#[test]
fn the_log_holds_what_was_put_in() {
    let (one, two) = (committed("log/00000001.seg"), committed("log/00000002.seg"));
    let (one, two) = (walk_segment(&one, 1).unwrap(), walk_segment(&two, 2).unwrap());
    assert_eq!((one.sequence, two.sequence, two.end), (2, 3, 8192));
    let all: Vec<_> = one.frames.iter().chain(&two.frames).collect();
    let kinds: Vec<u16> = all.iter().map(|f| f.header.kind).collect();
    assert_eq!(kinds, [1, 1, 7, 2, 1, 1, 1, 1]);
    for (f, s) in all.iter().zip(samples()) {
        assert_eq!(f.envelope.moment, s.moment);
        assert_eq!(f.blobs().collect::<Vec<_>>(), s.blobs);
        if s.raw.is_none() {
            let skip = if s.zstd { 9 } else { 0 };
            assert_eq!(f.header.raw_len as usize, f.payload.len() - skip);
            assert_eq!(v1::decode(&f.payload[skip..]).unwrap(), s.record);
        }
    }
    let gone = all[4].envelope;
    assert!(gone.happened < gone.moment && gone.flags & frame::FLAG_DELETED != 0);
}

#[test]
fn a_run_holds_what_its_segments_held() {
    let bytes = committed_in("run", "run/00000001.run");
    let name = FileName::new(FileKind::Run, 1);
    let head = FileHeader::read(&bytes, STORE, name).unwrap();
    let (frames, end, _, _) = walk_run(&bytes, 1).unwrap();
    let t = walk_footer(&bytes, FileKind::Run, 1, end).unwrap();
    assert!(frames.is_sorted_by_key(|f| (f.envelope.account, f.envelope.item, f.header.lsn)));
    let mut lsns: Vec<u64> = frames.iter().map(|f| f.header.lsn).collect();
    lsns.sort_unstable();
    assert_eq!(lsns, [1, 2, 3, 4, 5, 6, 7]);
    for f in &frames {
        let s = &samples()[f.header.lsn as usize - 1];
        assert_eq!(
            (f.header.kind, f.envelope.moment, f.blobs().collect::<Vec<_>>()),
            (s.kind, s.moment, s.blobs.clone())
        );
    }
    // It stands in the chain where its segments stood.
    assert_eq!((head.first_segment, head.last_segment, t.first_segment, t.last_segment), (1, 2, 1, 2));
    let replaced = head.replaced(&bytes);
    assert_eq!(replaced.iter().map(|r| r.number).collect::<Vec<_>>(), [1, 2]);
    let old = committed("log/00000001.seg");
    assert_eq!((head.previous, replaced[0].root), ([0; 16], walk_segment(&old, 1).unwrap().chain));
    let three = committed_in("run", "log/00000003.seg");
    let next = FileHeader::read(&three, STORE, FileName::new(FileKind::Segment, 3)).unwrap();
    assert_eq!((next.previous, next.first_group), (t.chain, t.last_group + 1));
    let m = Manifest::read(&committed_in("run", "MANIFEST"), STORE).unwrap();
    assert_eq!(m.entry(name).map(|e| (e.state, e.root)), Some((manifest::SEALED, t.root)));
    assert_eq!(m.entry(FileName::new(FileKind::Segment, 2)).map(|e| e.state), Some(manifest::RETIRED));
}

#[test]
fn the_packs_hold_what_was_put_in() {
    let digests = |path, number| {
        let (rows, _) = walk_pack(&committed(path), number).unwrap();
        rows.iter().map(|r| Digest(r.digest)).collect::<Vec<_>>()
    };
    assert_eq!(digests("pack/00000001.pack", 1), [Digest::of(MAIL), Digest::of(CARD), Digest::of(&photo())]);
    let with_parts = [Digest::of(NOTE), Digest::of(&letter()), Digest::of(&photo()), Digest::of(&reply())];
    assert_eq!(digests("pack/00000002.pack", 2), with_parts);
}

#[test]
fn the_footers_lead_to_the_data() {
    let bytes = committed("log/00000001.seg");
    let w = walk_segment(&bytes, 1).unwrap();
    let t = walk_footer(&bytes, FileKind::Segment, 1, w.end).unwrap();
    assert_eq!((t.row_count, t.fence_count, t.filter_lines, t.first_lsn, t.last_lsn), (5, 1, 1, 1, 5));
    let rows = &bytes[t.rows_offset as usize..][..5 * index::ROW];
    assert_eq!(rows[..index::KEY], bytes[t.fences_offset as usize..][..index::KEY]);
    let line = &bytes[t.filter_offset as usize..][..index::LINE];
    for row in rows.chunks_exact(index::ROW) {
        assert!(index::line_may_hold(line, index::key_hash(&row[..index::KEY])));
        let row = Row::decode(row).unwrap();
        let at = row.offset as usize;
        let frame = frame::parse(&bytes[at..], &place(FileKind::Segment, 1, at)).unwrap();
        assert_eq!((frame.header.lsn, frame.len), (row.lsn, row.length as usize));
        assert_eq!((frame.envelope.account, frame.envelope.item), (row.account, row.item));
        assert!(row.source == 0 || index::line_may_hold(line, frame.envelope.source_hash));
    }
    let bytes = committed("pack/00000001.pack");
    let t = walk_footer(&bytes, FileKind::Pack, 1, walk_pack(&bytes, 1).unwrap().1).unwrap();
    assert_eq!((t.row_count, t.records), (3, 2));
    let digests: Vec<_> = bytes[t.rows_offset as usize..][..3 * index::ROW]
        .chunks_exact(index::ROW)
        .map(|r| PackRow::decode(r).unwrap().digest)
        .collect();
    assert!(digests.is_sorted() && digests.contains(&Digest::of(CARD).0));
}

#[test]
fn the_manifest_vouches_for_the_files() {
    let m = Manifest::read(&committed("MANIFEST"), STORE).unwrap();
    let bytes = committed("log/00000001.seg");
    let w = walk_segment(&bytes, 1).unwrap();
    assert_eq!((m.head.durable_lsn, m.head.durable_group, m.head.clean), (5, 2, 0));
    assert_eq!((m.head.durable_chain, m.head.durable_end), (w.chain, w.end as u64));
    let two = FileHeader::read(&committed("log/00000002.seg"), STORE, FileName::new(FileKind::Segment, 2)).unwrap();
    assert_eq!((two.previous, two.first_group, two.first_lsn), (w.chain, 3, 6));
    assert_eq!(m.entry(FileName::new(FileKind::Segment, 1)).unwrap().length, bytes.len() as u64);
    assert_eq!(m.entry(FileName::new(FileKind::Pack, 2)).unwrap().state, manifest::ACTIVE);
}

#[test]
fn every_frame_that_was_written_still_has_its_header_size() {
    // A reader in another language counts on these.
    assert_eq!((FrameHeader::SIZE, Envelope::SIZE, BlobRef::SIZE, GroupHeader::SIZE), (48, 80, 48, 112));
    assert_eq!((EntryHeader::SIZE, ChunkHeader::SIZE, TrailerHeader::SIZE, BlobRow::SIZE), (64, 48, 64, 48));
}
