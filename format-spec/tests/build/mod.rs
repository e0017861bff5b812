//! Builds stores of version 1 with the format crate, byte for byte the same each time.

use mailstrata_format::checksum::{self, Binding};
use mailstrata_format::file::{FileHeader, Replaced, Superblock};
use mailstrata_format::frame::{self, BlobRef, Envelope};
use mailstrata_format::index::{self, PackRow, Row, Trailer};
use mailstrata_format::manifest::{self, Manifest, ManifestEntry};
use mailstrata_format::pack::{self, BlobRow, ChunkHeader, EntryHeader, Piece, TrailerHeader};
use mailstrata_format::record::v1::{self, AttributeV1, TransactionV1, present};
use mailstrata_format::segment::{self, GroupHeader};
use mailstrata_format::{AccountId, BLOCK, Digest, FileKind, FileName, ItemKey, ItemKind, Operation, StoreId, digest};
use std::collections::BTreeMap;

pub const STORE: StoreId = StoreId(*b"fixture store v1");
const PROGRAM: [u8; 4] = [0, 1, 0, 0];
/// 2026-11-22T00:15:11.123456Z.
const T0: i64 = 1_795_306_511_123_456;
const SECOND: i64 = 1_000_000;

pub const MAIL: &[u8] = b"From: bob@example.org\r\nTo: alice@example.org\r\nSubject: Re: plan\r\n\r\n\
    The plan, the whole plan and nothing but the plan.\r\n";
pub const CARD: &[u8] = b"BEGIN:VCARD\r\nVERSION:4.0\r\nFN:Bob Example\r\nEMAIL:bob@example.org\r\nEND:VCARD\r\n";
pub const NOTE: &[u8] = b"Subject: a second pack\r\n\r\nIt is not sealed.\r\n";

/// `MAIL` and `CARD` as zstd 1.5 compressed them; other releases may give other bytes, so these are kept.
fn mail_and_card_zstd() -> Vec<u8> {
    let hex = include_str!("../../fixtures/v1/chunk.zst.hex").trim().as_bytes();
    hex.chunks(2).map(|pair| digest::unhex::<1>(std::str::from_utf8(pair).unwrap()).unwrap()[0]).collect()
}

pub fn photo() -> Vec<u8> {
    (0u32..3000).map(|i| ((i * i * 31 + i * 7) >> 3) as u8).collect()
}

const LETTER: &[u8] = b"Subject: a photo\r\n\r\n--b\r\n\r\n";
const REPLY: [&[u8]; 2] = [b"Subject: Re: a photo\r\n\r\nMine:\r\n--c\r\n\r\n", b"\r\n--c--\r\n"];

/// A message with `photo` as a part.
pub fn letter() -> Vec<u8> {
    [LETTER, &photo()].concat()
}

/// Another.
pub fn reply() -> Vec<u8> {
    [REPLY[0], &photo(), REPLY[1]].concat()
}

/// `reply` as it is stored.
pub fn recipe() -> Vec<u8> {
    let piece = |kind, bytes: &[u8], digest| Piece { kind, reserved: [0; 7], length: bytes.len() as u64, digest };
    let pieces = [
        piece(pack::PIECE_OWN, REPLY[0], [0; 32]),
        piece(pack::PIECE_PART, &photo(), Digest::of(&photo()).0),
        piece(pack::PIECE_OWN, REPLY[1], [0; 32]),
    ];
    [&pack::recipe::encode(&pieces), REPLY[0], REPLY[1]].concat()
}

pub fn place(kind: FileKind, number: u64, offset: usize) -> Binding {
    Binding::new(STORE, FileName::new(kind, number), offset as u64)
}

fn header(kind: FileKind, number: u64) -> FileHeader {
    FileHeader { program: PROGRAM, ..FileHeader::new(STORE, FileName::new(kind, number), T0 - SECOND) }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
}

// Transactions.

pub struct Sample {
    pub kind: u16,
    pub account: AccountId,
    pub item_kind: ItemKind,
    pub operation: Operation,
    pub flags: u16,
    pub not_before: i64,
    pub happened: i64,
    pub moment: i64,
    pub blobs: Vec<BlobRef>,
    pub record: TransactionV1,
    /// The payload goes into a zstd frame.
    pub zstd: bool,
    /// Instead of the record.
    pub raw: Option<&'static [u8]>,
}

fn text(list: &[&str]) -> Vec<Vec<u8>> {
    list.iter().map(|s| s.as_bytes().to_vec()).collect()
}

fn blob(bytes: &[u8], role: u8) -> BlobRef {
    BlobRef { digest: Digest::of(bytes).0, length: bytes.len() as u64, algorithm: 1, role, reserved: [0; 6] }
}

fn alice() -> AccountId {
    AccountId::of_address(b"alice@example.org", 1)
}

pub fn samples() -> Vec<Sample> {
    let attribute = |name: &[u8], kind, value: &[u8]| AttributeV1 { name: name.to_vec(), kind, value: value.to_vec() };
    let message = TransactionV1 {
        account: b"alice@example.org".to_vec(),
        item: b"a1f0".to_vec(),
        present: 127,
        folder: b"INBOX/caf\xe9 100%".to_vec(),
        flags: text(&["\\Seen"]),
        tags: text(&["work"]),
        name: "Re: Pläne".into(),
        sender: b"bob@example.org".to_vec(),
        date: T0 - 1_123_456,
        uid: 17,
        attributes: vec![
            attribute(b"x", v1::ATTRIBUTE_TEXT, b"y"),
            attribute(b"headers", v1::ATTRIBUTE_JSON, br#"{"n": 1.50}"#),
        ],
        ..TransactionV1::default()
    };
    let with_source = |r: &TransactionV1, position: &[u8]| TransactionV1 {
        present: r.present | present::SOURCE,
        source_name: b"maildir".to_vec(),
        source_position: position.to_vec(),
        source_content: 0x1122_3344_5566_7788,
        ..r.clone()
    };
    let patched = TransactionV1 { folder: b"INBOX".to_vec(), flags: text(&["\\Flagged", "\\Seen"]), ..message.clone() };
    let base = Sample {
        kind: frame::KIND_TRANSACTION,
        account: alice(),
        item_kind: ItemKind::Message,
        operation: Operation::Put,
        flags: 0,
        not_before: 0,
        happened: T0,
        moment: T0,
        blobs: vec![],
        record: TransactionV1::default(),
        zstd: false,
        raw: None,
    };
    vec![
        Sample {
            flags: frame::FLAG_SOURCE,
            blobs: vec![blob(MAIL, frame::ROLE_CONTENT)],
            record: with_source(&message, b"new/1"),
            ..sample(&base)
        },
        Sample {
            operation: Operation::Patch,
            flags: frame::FLAG_INTERVAL,
            not_before: T0 + SECOND,
            happened: T0 + 2 * SECOND,
            moment: T0 + 2 * SECOND,
            blobs: vec![blob(MAIL, frame::ROLE_CONTENT)],
            record: patched.clone(),
            ..sample(&base)
        },
        Sample {
            kind: 7,
            blobs: vec![blob(CARD, frame::ROLE_CONTENT)],
            raw: Some(b"a record of a later version"),
            ..sample(&base)
        },
        Sample {
            kind: frame::KIND_CURSOR,
            item_kind: ItemKind::Cursor,
            record: TransactionV1 {
                account: b"alice@example.org".to_vec(),
                item: b"maildir".to_vec(),
                attributes: vec![attribute(b"position", v1::ATTRIBUTE_TEXT, b"new/1")],
                ..TransactionV1::default()
            },
            ..sample(&base)
        },
        // The clock of its source went back: it counts from the state before on.
        Sample {
            operation: Operation::Delete,
            flags: frame::FLAG_DELETED | frame::FLAG_SOURCE,
            happened: T0 + SECOND,
            moment: T0 + 2 * SECOND,
            blobs: vec![blob(MAIL, frame::ROLE_CONTENT)],
            record: with_source(&patched, b"gone/1"),
            ..sample(&base)
        },
        // An account that has an id of its own.
        Sample {
            account: AccountId(*b"bob's own id :-)"),
            item_kind: ItemKind::Contact,
            happened: T0 + 3 * SECOND - 23_456,
            moment: T0 + 3 * SECOND - 23_456,
            blobs: vec![blob(CARD, frame::ROLE_CONTENT), blob(&photo(), 0)],
            record: TransactionV1 {
                account: b"bob@example.org".to_vec(),
                item: b"257".to_vec(),
                present: present::FOLDER | present::NAME | present::TAGS,
                folder: b"Contacts".to_vec(),
                name: b"Bob Example".to_vec(),
                roles: text(&["photo"]),
                ..TransactionV1::default()
            },
            ..sample(&base)
        },
        Sample {
            flags: frame::FLAG_UNSEEN,
            happened: T0 + 4 * SECOND,
            moment: T0 + 4 * SECOND,
            record: TransactionV1 {
                account: b"alice@example.org".to_vec(),
                item: b"a1f1".to_vec(),
                present: present::FOLDER,
                folder: b"INBOX".to_vec(),
                ..TransactionV1::default()
            },
            zstd: true,
            ..sample(&base)
        },
        Sample {
            happened: T0 + 5 * SECOND,
            moment: T0 + 5 * SECOND,
            blobs: vec![blob(NOTE, frame::ROLE_CONTENT)],
            record: TransactionV1 {
                account: b"alice@example.org".to_vec(),
                item: b"\xff\x00%".to_vec(),
                present: present::FOLDER | present::FLAGS | present::DATE,
                folder: b"INBOX".to_vec(),
                date: -1_500_000,
                ..TransactionV1::default()
            },
            ..sample(&base)
        },
    ]
}

pub fn sample(s: &Sample) -> Sample {
    Sample { blobs: s.blobs.clone(), record: s.record.clone(), ..*s }
}

/// One zstd frame (RFC 8878) of one raw block, which any library decodes and none has to make.
fn zstd_raw(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0x28, 0xb5, 0x2f, 0xfd, 0x20, u8::try_from(bytes.len()).unwrap()];
    out.extend_from_slice(&((bytes.len() as u32) << 3 | 1).to_le_bytes()[..3]);
    out.extend_from_slice(bytes);
    out
}

fn frame_body(s: &Sample) -> (frame::Body, Envelope) {
    let item = ItemKey::of(s.item_kind.code(), &s.record.item);
    let mut source = Vec::new();
    if s.flags & frame::FLAG_SOURCE != 0 {
        source.extend_from_slice(&s.account.0);
        source.extend_from_slice(&item.0);
        source.extend_from_slice(&(s.record.source_name.len() as u64).to_le_bytes());
        source.extend_from_slice(&s.record.source_name);
        source.extend_from_slice(&s.record.source_position);
    }
    let envelope = Envelope {
        account: s.account.0,
        item: item.0,
        not_before: s.not_before,
        happened: s.happened,
        moment: s.moment,
        recorded: s.moment + 250_000,
        item_kind: s.item_kind.code(),
        operation: s.operation.code(),
        flags: s.flags,
        blob_count: u16::try_from(s.blobs.len()).unwrap(),
        reserved: 0,
        source_hash: if source.is_empty() { 0 } else { index::key_hash(&source) },
    };
    let raw = s.raw.map_or_else(|| v1::encode(&s.record).unwrap().to_vec(), <[u8]>::to_vec);
    let (codec, stored) = if s.zstd { (frame::CODEC_ZSTD, zstd_raw(&raw)) } else { (frame::CODEC_PLAIN, raw.clone()) };
    (frame::Body::new(s.kind, &envelope, &s.blobs, codec, &stored, raw.len()).unwrap(), envelope)
}

// Segments.

pub struct Log {
    pub bytes: Vec<u8>,
    pub number: u64,
    pub chain: [u8; 16],
    pub sequence: u64,
    pub lsn: u64,
    pub rows: Vec<(Row, u64)>,
    pub padding: u64,
}

impl Log {
    pub fn start(number: u64, before: Option<&Log>) -> Self {
        let (chain, sequence, lsn) = before.map_or(([0; 16], 0, 0), |b| (b.chain, b.sequence, b.lsn));
        let head = FileHeader {
            first_lsn: lsn + 1,
            first_group: sequence + 1,
            previous: chain,
            capacity: 16384,
            ..header(FileKind::Segment, number)
        };
        Self { bytes: head.block(), number, chain, sequence, lsn, rows: vec![], padding: 0 }
    }

    pub fn group(&mut self, samples: &[Sample]) {
        let start = self.bytes.len();
        let mut group = vec![0; GroupHeader::SIZE];
        let first_lsn = self.lsn + 1;
        for s in samples {
            self.lsn += 1;
            let (body, e) = frame_body(s);
            let offset = start + group.len();
            group.extend_from_slice(&body.header(self.lsn, &place(FileKind::Segment, self.number, offset)));
            group.extend_from_slice(&body.bytes);
            let row = Row {
                account: e.account,
                item: e.item,
                lsn: self.lsn,
                moment: e.moment,
                offset: u32::try_from(offset).unwrap(),
                length: u32::try_from(body.frame_len()).unwrap(),
                item_kind: e.item_kind,
                operation: e.operation,
                flags: e.flags,
                source: e.source_hash as u32,
            };
            self.rows.push((row, e.source_hash));
        }
        let used = group.len();
        pad(&mut group);
        self.padding += (group.len() - used) as u64;
        self.sequence += 1;
        let head = GroupHeader {
            magic: segment::MAGIC,
            flags: 0,
            sequence: self.sequence,
            first_lsn,
            durable_lsn: first_lsn - 1,
            frame_count: u32::try_from(samples.len()).unwrap(),
            length: u32::try_from(group.len()).unwrap(),
            used: u32::try_from(used).unwrap(),
            reserved: 0,
            previous: self.chain,
            pack: 0,
            pack_end: 0,
            reserved2: [0; 12],
            check: [0; 16],
            crc: 0,
        };
        self.chain = segment::seal(&mut group, head, &place(FileKind::Segment, self.number, start));
        self.bytes.extend_from_slice(&group);
    }

    pub fn moments(&self) -> (i64, i64) {
        let moments = || self.rows.iter().map(|(r, _)| r.moment);
        (moments().min().unwrap_or(0), moments().max().unwrap_or(0))
    }

    pub fn seal(&mut self) {
        let mut rows = self.rows.clone();
        rows.sort_by_key(|(r, _)| (r.account, r.item, r.lsn));
        let mut keys = Vec::new();
        for (r, source) in &rows {
            keys.push(index::key_hash(&r.encode()[..index::KEY]));
            keys.extend((*source != 0).then_some(*source));
        }
        let (first_moment, last_moment) = self.moments();
        let trailer = Trailer {
            data_end: self.bytes.len() as u64,
            first_lsn: rows.iter().map(|(r, _)| r.lsn).min().unwrap(),
            last_lsn: self.lsn,
            first_moment,
            last_moment,
            records: rows.len() as u64,
            last_group: self.sequence,
            root: self.chain,
            padding: self.padding,
            ..trailer(FileKind::Segment, self.number)
        };
        let rows: Vec<_> = rows.iter().map(|(r, _)| r.encode()).collect();
        footer(&mut self.bytes, &rows, keys, trailer);
    }
}

fn trailer(kind: FileKind, number: u64) -> Trailer {
    Trailer {
        magic: index::MAGIC,
        kind: kind.code(),
        number,
        data_end: 0,
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
        records: 0,
        last_group: 0,
        root: [0; 16],
        padding: 0,
        raw_bytes: 0,
        damaged: 0,
        chain: [0; 16],
        groups: 0,
        first_segment: 0,
        last_segment: 0,
        tier: 0,
        reserved: [0; 44],
    }
}

/// Appends rows, fences, filter and trailer to a file.
fn footer(bytes: &mut Vec<u8>, rows: &[[u8; 64]], mut hashes: Vec<u64>, trailer: Trailer) {
    let at = |offset| place(FileKind::from_code(trailer.kind).unwrap(), trailer.number, offset);
    let mut block = |data: &[u8]| {
        let mut block = data.to_vec();
        block.resize(BLOCK, 0);
        checksum::seal_block(&at(bytes.len()), &mut block);
        bytes.extend_from_slice(&block);
        bytes.len() as u64
    };
    let rows_offset = trailer.data_end;
    let mut end = rows_offset;
    let mut fences = Vec::new();
    for some in rows.chunks(index::ROWS_PER_BLOCK) {
        fences.extend_from_slice(&some[0][..index::KEY]);
        end = block(some.as_flattened());
    }
    let fences_offset = end;
    for some in fences.chunks(index::BLOCK_DATA) {
        end = block(some);
    }
    let filter_offset = end;
    hashes.sort_unstable();
    hashes.dedup();
    let lines = index::filter_lines(hashes.len() as u64);
    let mut filter = vec![0; lines as usize * index::LINE];
    for h in hashes {
        let at = index::filter_line(h, lines) as usize * index::LINE;
        index::line_set(&mut filter[at..at + index::LINE], h);
    }
    for some in filter.chunks(index::BLOCK_DATA) {
        end = block(some);
    }
    let trailer = Trailer {
        rows_offset,
        row_count: rows.len() as u64,
        fences_offset,
        fence_count: (fences.len() / index::KEY) as u64,
        filter_offset,
        filter_lines: lines,
        file_len: end + BLOCK as u64,
        ..trailer
    };
    bytes.extend_from_slice(&trailer.block(&at(end as usize)));
}

// Packs.

pub struct Chunk {
    pub codec: u8,
    pub raw_len: usize,
    pub stored: Vec<u8>,
}

pub fn plain(bytes: &[u8]) -> Chunk {
    Chunk { codec: frame::CODEC_PLAIN, raw_len: bytes.len(), stored: bytes.to_vec() }
}

pub struct Pack {
    pub bytes: Vec<u8>,
    pub number: u64,
    pub rows: Vec<PackRow>,
    pub entries: u64,
    pub padding: u64,
}

impl Pack {
    pub fn start(number: u64) -> Self {
        let head = FileHeader { capacity: 12288, ..header(FileKind::Pack, number) };
        Self { bytes: head.block(), number, rows: vec![], entries: 0, padding: 0 }
    }

    pub fn entry(&mut self, chunks: &[Chunk], blobs: &[&[u8]]) {
        let mut raw_offset = 0;
        let rows: Vec<BlobRow> = blobs
            .iter()
            .map(|b| {
                let row = BlobRow { digest: Digest::of(b).0, raw_offset, length: b.len() as u64 };
                raw_offset += row.length;
                row
            })
            .collect();
        self.entry_of(chunks, rows);
    }

    pub fn entry_of(&mut self, chunks: &[Chunk], rows: Vec<BlobRow>) {
        let start = self.bytes.len();
        let at = |offset| place(FileKind::Pack, self.number, offset);
        let raw_offset = chunks.iter().map(|c| c.raw_len as u64).sum();
        let trailer_len = TrailerHeader::SIZE + rows.len() * BlobRow::SIZE;
        let length: u64 = chunks.iter().map(|c| pack::chunk_len(c.stored.len() as u32)).sum();
        let length = length + (EntryHeader::SIZE + trailer_len) as u64;
        let chunk_count = u32::try_from(chunks.len()).unwrap();
        let head = EntryHeader {
            magic: pack::ENTRY_MAGIC,
            flags: 0,
            reserved: 0,
            blob_count: u32::try_from(rows.len()).unwrap(),
            chunk_count,
            raw_len: raw_offset,
            length,
            trailer_len: u32::try_from(trailer_len).unwrap(),
            reserved2: [0; 8],
            check: [0; 16],
            crc: 0,
        };
        self.bytes.extend_from_slice(&head.sealed(&at(start)));
        let mut done = 0;
        for (index, c) in (0u32..).zip(chunks) {
            let mut stored = c.stored.clone();
            stored.resize(stored.len().next_multiple_of(8), 0);
            let head = ChunkHeader {
                magic: pack::CHUNK_MAGIC,
                codec: c.codec,
                reserved: [0; 3],
                index,
                raw_len: u32::try_from(c.raw_len).unwrap(),
                stored_len: u32::try_from(c.stored.len()).unwrap(),
                raw_offset: done,
                check: [0; 16],
                crc: 0,
            };
            done += c.raw_len as u64;
            let bytes = head.sealed(&at(self.bytes.len()), checksum::body_hash(&stored));
            self.bytes.extend_from_slice(&bytes);
            self.bytes.extend_from_slice(&stored);
        }
        let bytes = pack::trailer_bytes(&rows, chunk_count, raw_offset, length, &at(self.bytes.len()));
        self.bytes.extend_from_slice(&bytes);
        for r in &rows {
            self.rows.push(PackRow {
                digest: r.digest,
                entry_offset: start as u64,
                entry_len: length,
                raw_offset: r.raw_offset,
                length: r.length,
            });
        }
        self.entries += 1;
        let used = self.bytes.len();
        pad(&mut self.bytes);
        self.padding += (self.bytes.len() - used) as u64;
    }

    pub fn root(&self) -> [u8; 16] {
        let digests: Vec<u8> = self.rows.iter().flat_map(|r| r.digest).collect();
        checksum::body_hash(&digests).to_le_bytes()
    }

    pub fn seal(&mut self) {
        let trailer = Trailer {
            data_end: self.bytes.len() as u64,
            records: self.entries,
            root: self.root(),
            padding: self.padding,
            raw_bytes: self.rows.iter().map(|r| r.length).sum(),
            ..trailer(FileKind::Pack, self.number)
        };
        let mut rows = self.rows.clone();
        rows.sort_by_key(|r| r.digest);
        let rows: Vec<_> = rows.iter().map(PackRow::encode).collect();
        let hashes = self.rows.iter().map(|r| index::key_hash(&r.digest)).collect();
        footer(&mut self.bytes, &rows, hashes, trailer);
    }
}

/// A run of whole segments: their frames in the order of the keys, two a group.
pub fn run(number: u64, segments: &[&Log]) -> Vec<u8> {
    let mut frames: Vec<(Row, u64, Vec<u8>)> = Vec::new();
    for s in segments {
        let bytes = |r: &Row| s.bytes[r.offset as usize..(r.offset + r.length) as usize].to_vec();
        frames.extend(s.rows.iter().map(|(r, source)| (*r, *source, bytes(r))));
    }
    frames.sort_by_key(|(r, ..)| (r.account, r.item, r.lsn));
    let (first, last) = (segments[0], segments[segments.len() - 1]);
    let replaced: Vec<Replaced> = segments
        .iter()
        .map(|s| Replaced { kind: FileKind::Segment.code(), reserved: 0, number: s.number, root: s.chain })
        .collect();
    let head = FileHeader::decode(&first.bytes).unwrap();
    let head = FileHeader {
        first_lsn: head.first_lsn,
        first_group: head.first_group,
        previous: head.previous,
        first_segment: first.number,
        last_segment: last.number,
        tier: 1,
        ..header(FileKind::Run, number)
    };
    let mut bytes = head.block_with(&replaced);
    let (mut rows, mut hashes, mut padding, mut chain, mut groups) = (vec![], vec![], 0, [0; 16], 0);
    for some in frames.chunks(2) {
        let start = bytes.len();
        let mut group = vec![0; GroupHeader::SIZE];
        for (row, source, frame) in some {
            let offset = start + group.len();
            let mut frame = frame.clone();
            frame::move_to(&mut frame, &place(FileKind::Run, number, offset));
            group.extend_from_slice(&frame);
            let row = Row { offset: u32::try_from(offset).unwrap(), ..*row }.encode();
            hashes.push(index::key_hash(&row[..index::KEY]));
            hashes.extend((*source != 0).then_some(*source));
            rows.push(row);
        }
        let used = group.len();
        pad(&mut group);
        padding += (group.len() - used) as u64;
        groups += 1;
        let head = GroupHeader {
            magic: segment::MAGIC,
            flags: segment::FLAG_RUN,
            sequence: groups,
            first_lsn: some[0].0.lsn,
            durable_lsn: last.lsn,
            frame_count: u32::try_from(some.len()).unwrap(),
            length: u32::try_from(group.len()).unwrap(),
            used: u32::try_from(used).unwrap(),
            reserved: 0,
            previous: chain,
            pack: 0,
            pack_end: 0,
            reserved2: [0; 12],
            check: [0; 16],
            crc: 0,
        };
        chain = segment::seal(&mut group, head, &place(FileKind::Run, number, start));
        bytes.extend_from_slice(&group);
    }
    let moments = || frames.iter().map(|(r, ..)| r.moment);
    let trailer = Trailer {
        data_end: bytes.len() as u64,
        first_lsn: head.first_lsn,
        last_lsn: last.lsn,
        first_moment: moments().min().unwrap(),
        last_moment: moments().max().unwrap(),
        records: rows.len() as u64,
        last_group: last.sequence,
        root: chain,
        padding,
        chain: last.chain,
        groups,
        first_segment: first.number,
        last_segment: last.number,
        tier: 1,
        ..trailer(FileKind::Run, number)
    };
    footer(&mut bytes, &rows, hashes, trailer);
    bytes
}

/// The transactions of [`store`] after a compaction: a run has those of two segments, the second of which is still there.
pub fn store_with_run() -> BTreeMap<&'static str, Vec<u8>> {
    let mut files = store();
    let samples = samples();
    let mut one = Log::start(1, None);
    one.group(&samples[..2]);
    one.group(&samples[2..5]);
    let mut two = Log::start(2, Some(&one));
    two.group(&samples[5..7]);
    let bytes = run(1, &[&one, &two]);
    let mut three = Log::start(3, Some(&two));
    three.group(&samples[7..]);
    three.bytes.resize(16384, 0);
    let old = Manifest::read(&files["MANIFEST"], STORE).unwrap();
    let name = |kind| FileName::new(kind, 1);
    let sealed = *old.entry(name(FileKind::Segment)).unwrap();
    let (durable_end, root) = (two.bytes.len() as u64, Trailer::decode(&bytes[bytes.len() - BLOCK..]).unwrap().root);
    two.seal();
    let (first_moment, last_moment) = two.moments();
    let mut m = old.clone();
    m.head.generation = 7;
    m.head.durable_lsn = two.lsn;
    m.head.durable_segment = 2;
    m.head.durable_end = durable_end;
    m.head.durable_chain = two.chain;
    m.head.durable_group = two.sequence;
    m.entries.retain(|e| e.kind == FileKind::Pack.code());
    m.entries.extend([
        ManifestEntry {
            state: manifest::RETIRED,
            number: 2,
            length: two.bytes.len() as u64,
            first_lsn: 6,
            last_lsn: two.lsn,
            first_moment,
            last_moment,
            records: two.rows.len() as u64,
            root: two.chain,
            retired: T0 + 10 * SECOND,
            ..sealed
        },
        ManifestEntry { number: 3, state: manifest::ACTIVE, length: 0, root: [0; 16], records: 0, ..sealed },
        ManifestEntry {
            kind: FileKind::Run.code(),
            length: bytes.len() as u64,
            first_lsn: 1,
            last_lsn: two.lsn,
            first_moment: sealed.first_moment,
            last_moment,
            records: (one.rows.len() + two.rows.len()) as u64,
            root,
            ..sealed
        },
    ]);
    m.entries.sort_by_key(|e| (e.kind, e.number));
    m.head.entry_count = m.entries.len() as u64;
    files.insert("MANIFEST", manifest_bytes(&m));
    files.remove("log/00000001.seg");
    files.insert("log/00000002.seg", two.bytes);
    files.insert("log/00000003.seg", three.bytes);
    files.insert("run/00000001.run", bytes);
    files.insert("READERS", Vec::new());
    files
}

/// The body's check does not cover the header: it gets a program version that stays.
fn manifest_bytes(m: &Manifest) -> Vec<u8> {
    let mut bytes = m.file_bytes(STORE, T0);
    let head = FileHeader { program: PROGRAM, ..FileHeader::decode(&bytes).unwrap() };
    bytes[..BLOCK].copy_from_slice(&head.block());
    bytes
}

/// The whole store, by path.
pub fn store() -> BTreeMap<&'static str, Vec<u8>> {
    let mut files = BTreeMap::new();
    let superblock = Superblock {
        magic: mailstrata_format::file::MAGIC,
        kind: FileKind::Superblock.code(),
        version: 1,
        store: STORE.0,
        server: *b"mail.example.org",
        created: T0 - SECOND,
        segment_size: 65536,
        pack_size: 65536,
        copy: 0,
        program: PROGRAM,
        reserved: [0; 48],
    };
    files.insert("SUPERBLOCK", superblock.file_bytes());

    let mut first = Pack::start(1);
    let shared = Chunk { codec: frame::CODEC_ZSTD, raw_len: MAIL.len() + CARD.len(), stored: mail_and_card_zstd() };
    first.entry(&[shared], &[MAIL, CARD]);
    let photo = photo();
    first.entry(&[plain(&photo[..2048]), plain(&photo[2048..])], &[&photo]);
    first.seal();
    let mut second = Pack::start(2);
    let second_start = second.bytes.len() as u64;
    second.entry(&[plain(NOTE)], &[NOTE]);
    // A letter with an attachment that has a row of its own, and one that is composed of the attachment and its own lines.
    let (letter, reply) = (letter(), reply());
    let recipe = recipe();
    let rows = vec![
        BlobRow { digest: Digest::of(&letter).0, raw_offset: 0, length: letter.len() as u64 },
        BlobRow { digest: Digest::of(&photo).0, raw_offset: LETTER.len() as u64, length: photo.len() as u64 },
        BlobRow {
            digest: Digest::of(&reply).0,
            raw_offset: pack::COMPOSED | letter.len() as u64,
            length: reply.len() as u64,
        },
    ];
    second.entry_of(&[plain(&letter), plain(&recipe)], rows);
    second.bytes.resize(16384, 0);

    let samples = samples();
    let mut one = Log::start(1, None);
    one.group(&samples[..2]);
    one.group(&samples[2..5]);
    let durable_end = one.bytes.len() as u64;
    one.seal();
    let mut two = Log::start(2, Some(&one));
    two.group(&samples[5..]);
    two.bytes.resize(16384, 0);

    let entry = |kind: FileKind, number: u64| ManifestEntry {
        kind: kind.code(),
        state: manifest::ACTIVE,
        number,
        length: 0,
        first_lsn: 0,
        last_lsn: 0,
        first_moment: 0,
        last_moment: 0,
        records: 0,
        root: [0; 16],
        dead: 0,
        retired: 0,
    };
    let (first_moment, last_moment) = one.moments();
    let mut m = Manifest::empty();
    m.head.generation = 3;
    m.head.entry_count = 4;
    m.head.durable_lsn = one.lsn;
    m.head.durable_segment = 1;
    m.head.durable_end = durable_end;
    m.head.durable_chain = one.chain;
    m.head.durable_group = one.sequence;
    m.head.pack = 2;
    m.head.pack_end = second_start;
    m.entries = vec![
        ManifestEntry {
            state: manifest::SEALED,
            length: one.bytes.len() as u64,
            first_lsn: 1,
            last_lsn: one.lsn,
            first_moment,
            last_moment,
            records: one.rows.len() as u64,
            root: one.chain,
            ..entry(FileKind::Segment, 1)
        },
        entry(FileKind::Segment, 2),
        ManifestEntry {
            state: manifest::SEALED,
            length: first.bytes.len() as u64,
            records: first.entries,
            root: first.root(),
            ..entry(FileKind::Pack, 1)
        },
        entry(FileKind::Pack, 2),
    ];
    files.insert("MANIFEST", manifest_bytes(&m));

    files.insert("log/00000001.seg", one.bytes);
    files.insert("log/00000002.seg", two.bytes);
    files.insert("pack/00000001.pack", first.bytes);
    files.insert("pack/00000002.pack", second.bytes);
    files.insert("LOCK", br#"{"host":"mail.example.org","pid":4711,"operation":"append"}"#.to_vec());
    files
}
