//! Hostile bytes for every decoder: what the fuzz targets call, and what an ordinary test replays.
//!
//! In come bytes, out comes nothing: a function here panics when a decoder does, or when what it decoded contradicts
//! itself. Bytes are tried as they are, and again with the checksums made right, since nobody fuzzes through a 128-bit check.

use crate::drive::{Place, read_blob, small};
use crate::model::Model;
use crate::rng::Rng;
use crate::sim::SimDisk;
use crate::workload::{Bounds, Workload};
use mailstrata_engine::LogEntry;
use mailstrata_engine::blob::read::decompress;
use mailstrata_format::checksum::{self, Binding};
use mailstrata_format::file::{FileHeader, Superblock};
use mailstrata_format::frame::{self, CODEC_ZSTD, FRAME_LEN_MAX, FrameHeader};
use mailstrata_format::index::{self, Trailer};
use mailstrata_format::manifest::Manifest;
use mailstrata_format::pack::{self, CHUNK_RAW_MAX, ChunkHeader, EntryHeader, TrailerHeader};
use mailstrata_format::record::v1;
use mailstrata_format::segment::{self, GroupHeader};
use mailstrata_format::{ALIGN, BLOCK, FileKind, FileName, Lsn, StoreId};
use mailstrata_mailstore::json;
use std::sync::OnceLock;

/// Takes any bytes.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("frame", frame),
    ("group", group),
    ("pack", pack),
    ("manifest", manifest),
    ("index", index),
    ("record_v1", record_v1),
    ("event_line", event_line),
    ("store", store),
];

const STORE: StoreId = StoreId([7; 16]);

fn place(kind: FileKind) -> Binding {
    Binding::new(STORE, FileName::new(kind, 1), BLOCK as u64)
}

/// A payload that a frame carries.
fn payload(codec: u8, bytes: &[u8], raw_len: usize) {
    if raw_len > FRAME_LEN_MAX {
        return;
    }
    if codec == CODEC_ZSTD {
        if let Some(raw) = decompress(bytes, raw_len) {
            assert_eq!(raw.len(), raw_len);
            record_v1(&raw);
        }
    } else {
        record_v1(bytes);
    }
}

fn frame_at(bytes: &[u8], place: &Binding) {
    match frame::parse(bytes, place) {
        Ok(f) => {
            assert!(f.len <= bytes.len() && f.len % ALIGN == 0);
            assert_eq!(f.blobs().count(), usize::from(f.envelope.blob_count));
            payload(f.header.codec, f.payload, f.header.raw_len as usize);
        }
        Err(frame::FrameFault::Cut { len }) => assert!(len > bytes.len()),
        Err(_) => {}
    }
}

/// Makes the checks of the frame at the start of `bytes` right, when it is long enough for its lengths; returns its length.
fn seal_frame(bytes: &mut [u8], place: &Binding) -> Option<usize> {
    let mut h = FrameHeader::decode(bytes)?;
    h.magic = frame::MAGIC;
    let body = usize::from(h.envelope_len).checked_add(h.payload_len as usize)?.next_multiple_of(ALIGN);
    let len = FrameHeader::SIZE + body;
    let hash = checksum::body_hash(bytes.get(FrameHeader::SIZE..len)?);
    h.check = checksum::check(place, &h.encode()[..28], hash);
    h.crc = checksum::header_crc(place, &h.encode()[..44]);
    bytes[..FrameHeader::SIZE].copy_from_slice(&h.encode());
    Some(len)
}

/// A frame in a segment.
pub fn frame(data: &[u8]) {
    let place = place(FileKind::Segment);
    frame_at(data, &place);
    let mut bytes = data.to_vec();
    if seal_frame(&mut bytes, &place).is_some() {
        frame_at(&bytes, &place);
    }
}

/// Makes the checks of the group at the start of `bytes`, and of its frames, right; returns its length.
fn seal_group(bytes: &mut [u8], place: &Binding) -> Option<usize> {
    let mut h = GroupHeader::decode(bytes)?;
    h.magic = segment::MAGIC;
    let len = h.length as usize;
    let group = bytes.get_mut(..len).filter(|g| g.len() >= GroupHeader::SIZE)?;
    let mut at = GroupHeader::SIZE;
    for _ in 0..h.frame_count.min(1000) {
        let Some(n) = group.get_mut(at..).and_then(|f| seal_frame(f, &place.at(place.offset + at as u64))) else {
            break;
        };
        at += n;
    }
    segment::seal(group, h, place);
    Some(len)
}

fn group_at(bytes: &[u8], place: &Binding) {
    let Some(h) = segment::header_at(bytes, place) else { return };
    assert_eq!(h.length as usize % BLOCK, 0);
    let Some(group) = bytes.get(..h.length as usize) else { return };
    if !segment::is_sound(&h, group, place) {
        return;
    }
    let mut at = GroupHeader::SIZE;
    while let Ok(f) = frame::parse(&group[at..h.used as usize], &place.at(place.offset + at as u64)) {
        payload(f.header.codec, f.payload, f.header.raw_len as usize);
        at += f.len;
    }
}

/// A commit group.
pub fn group(data: &[u8]) {
    let place = place(FileKind::Segment);
    group_at(data, &place);
    let mut bytes = data.to_vec();
    bytes.resize(data.len().next_multiple_of(BLOCK), 0);
    if seal_group(&mut bytes, &place).is_some() {
        group_at(&bytes, &place);
    }
}

/// An entry of a pack: header, chunk, trailer.
pub fn pack(data: &[u8]) {
    let place = place(FileKind::Pack);
    let look = |bytes: &[u8]| {
        if let Some(h) = EntryHeader::read(bytes, &place) {
            assert!(h.flags & pack::ENTRY_STREAMED != 0 || h.length >= u64::from(h.trailer_len));
        }
        if let Some(c) = ChunkHeader::read(bytes, &place) {
            assert!(c.raw_len as usize <= CHUNK_RAW_MAX);
            let end = usize::try_from(pack::chunk_len(c.stored_len)).unwrap_or(usize::MAX);
            if let Some(stored) = bytes.get(ChunkHeader::SIZE..end)
                && c.vouches_for(stored, &place)
                && c.codec == CODEC_ZSTD
                && let Some(raw) = decompress(&stored[..c.stored_len as usize], c.raw_len as usize)
            {
                assert_eq!(raw.len(), c.raw_len as usize);
            }
        }
        if let Some((h, rows)) = pack::read_trailer(bytes, &place) {
            assert_eq!(rows.len(), h.blob_count as usize);
            assert!(rows.iter().all(|r| r.raw_offset > pack::RAW_OFFSET || r.raw_offset + r.length <= h.raw_len));
            assert!(rows.iter().all(|r| r.raw_offset & pack::RAW_OFFSET <= h.raw_len));
        }
        if let Some(len) = pack::recipe::length(bytes) {
            assert!(len <= pack::RecipeHeader::SIZE + pack::PIECES_MAX * pack::Piece::SIZE);
            // The length that makes it possible, if any does.
            let h = pack::RecipeHeader::decode(bytes);
            let body = bytes.get(pack::RecipeHeader::SIZE..len);
            let lengths = |b: &[u8]| -> u64 {
                let pieces = b.chunks_exact(pack::Piece::SIZE).filter_map(pack::Piece::decode);
                pieces.fold(0, |all, p| all.wrapping_add(p.length))
            };
            let all = body.map(lengths);
            if let (Some(h), Some(pieces)) = (h, all.and_then(|all| pack::recipe::decode(bytes, all))) {
                assert!((1..=pack::PIECES_MAX).contains(&pieces.len()) && pieces.len() == h.piece_count as usize);
                assert_eq!(pack::recipe::encode(&pieces), bytes[..len]);
            }
        }
    };
    look(data);
    if let Some(mut h) = EntryHeader::decode(data) {
        h.magic = pack::ENTRY_MAGIC;
        look(&h.sealed(&place));
    }
    if let Some(mut h) = ChunkHeader::decode(data) {
        h.magic = pack::CHUNK_MAGIC;
        let mut body = data.get(ChunkHeader::SIZE..).unwrap_or_default().to_vec();
        body.resize(body.len().next_multiple_of(ALIGN), 0);
        let mut bytes = h.sealed(&place, checksum::body_hash(&body)).to_vec();
        bytes.extend_from_slice(&body);
        look(&bytes);
    }
    if let Some(mut h) = TrailerHeader::decode(data) {
        h.magic = pack::TRAILER_MAGIC;
        let mut bytes = data.to_vec();
        let body = bytes.get(TrailerHeader::SIZE..).unwrap_or_default();
        h.check = checksum::check(&place, &h.encode()[..44], checksum::body_hash(body));
        h.crc = checksum::header_crc(&place, &h.encode()[..60]);
        bytes[..TrailerHeader::SIZE].copy_from_slice(&h.encode());
        look(&bytes);
    }
}

/// A manifest, and the headers that stand before it.
pub fn manifest(data: &[u8]) {
    let look = |bytes: &[u8]| {
        if let Ok(m) = Manifest::read(bytes, STORE) {
            assert_eq!(m.head.entry_count, m.entries.len() as u64);
            assert_eq!(Manifest::read(&m.file_bytes(STORE, 1), STORE), Ok(m));
        }
        // Whatever they say, they say it without a panic.
        let _ = Superblock::read(bytes);
        let _ = FileHeader::read(bytes, STORE, FileName::new(FileKind::Pack, 1));
    };
    look(data);
    let name = FileName::new(FileKind::Manifest, u64::from(data.first().copied().unwrap_or(0)));
    let mut bytes = FileHeader::new(STORE, name, 1).block();
    bytes.extend_from_slice(data);
    if let Some(body) = bytes.get_mut(BLOCK..) {
        checksum::seal_block(&Binding::new(STORE, name, BLOCK as u64), body);
    }
    look(&bytes);
}

/// A footer's trailer.
pub fn index(data: &[u8]) {
    let mut block = data.to_vec();
    block.resize(BLOCK, 0);
    let offset = data.first().map_or(0, |b| u64::from(*b) * BLOCK as u64);
    let place = place(FileKind::Segment).at(offset);
    let _ = Trailer::read(&block, &place);
    if let Some(head) = block.get_mut(..4) {
        head.copy_from_slice(&index::MAGIC);
    }
    checksum::seal_block(&place, &mut block);
    if let Some(t) = Trailer::read(&block, &place) {
        assert!(t.rows_offset <= t.fences_offset && t.fences_offset <= t.filter_offset && t.filter_offset < t.file_len);
    }
}

/// A transaction's payload.
pub fn record_v1(data: &[u8]) {
    let Ok(there) = v1::access(data) else { return };
    let bytes: usize = there.attributes.iter().map(|a| a.value.len()).sum();
    // Overlapping archives may name the same bytes often, but not more of them than there are pointers for.
    assert!(bytes <= data.len().saturating_mul(data.len().max(1)));
    if let Ok(t) = v1::decode(data)
        && let Ok(again) = v1::encode(&t)
    {
        assert_eq!(v1::decode(&again).ok(), Some(t));
    }
}

/// A line of events: what is read and written again is the same.
pub fn event_line(data: &[u8]) {
    let Ok(event) = json::parse(data) else { return };
    let mut line = Vec::new();
    if json::write_line(&event, &mut line).is_err() {
        return;
    }
    let text = line.strip_suffix(b"\n").unwrap_or(&line);
    match json::parse(text) {
        Ok(again) => assert_eq!(again, event, "{}", String::from_utf8_lossy(text)),
        Err(e) => panic!("{e:?} in {}", String::from_utf8_lossy(text)),
    }
}

/// A small store to be damaged, and its id.
fn template() -> &'static (Place, StoreId) {
    static TEMPLATE: OnceLock<(Place, StoreId)> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let place = Place::new(SimDisk::new(1));
        let bounds = Bounds { accounts: 2, items: 5, blob_max: 70_000, attribute_max: 2000, incarnations: true };
        let mut model = Model::default();
        let mut work = Workload::new(3, bounds, crate::sim::clock::START);
        let made = place.create(&small(64 << 10, 64 << 10)).and_then(|()| place.open());
        let store = made.unwrap_or_else(|e| panic!("{e}"));
        for _ in 0..60 {
            crate::drive::step(&store, &mut model, &place, &work.next_step()).unwrap_or_else(|e| panic!("{e}"));
        }
        let id = store.info().store;
        store.close().unwrap_or_else(|e| panic!("{e}"));
        (place, id)
    })
}

/// A whole store, edited: each 8 bytes of input choose a file, a place, what to write there, and whether the checks around
/// it are made right again. Whatever it is then, it opens or says why, and every read ends.
pub fn store(data: &[u8]) {
    let (template, id) = template();
    let place = template.on(template.disk.copy(1));
    let files = place.disk.files();
    for edit in data.chunks_exact(8).take(16) {
        let (path, len) = &files[usize::from(edit[0]) % files.len()];
        let at = u64::from(u32::from_le_bytes([edit[1], edit[2], edit[3], 0])) % (*len).max(1);
        let at = if edit[7] & 2 == 0 { at / BLOCK as u64 * BLOCK as u64 + at % 256 } else { at };
        place.disk.damage(path, |bytes| {
            for (i, b) in edit[4..7].iter().enumerate() {
                if let Some(there) = usize::try_from(at).ok().and_then(|a| bytes.get_mut(a + i)) {
                    *there = *b;
                }
            }
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            if edit[7] & 1 == 0 {
                return;
            }
            if let Some(number) = FileName::number_of(&name, "seg") {
                let place = Binding::new(*id, FileName::new(FileKind::Segment, number), 0);
                let mut pos = BLOCK;
                while let Some(n) = bytes.get_mut(pos..).and_then(|g| seal_group(g, &place.at(pos as u64))) {
                    pos += n.max(BLOCK);
                }
            } else if name == "MANIFEST" {
                let number = FileHeader::decode(bytes).map_or(0, |h| h.number);
                let place = Binding::new(*id, FileName::new(FileKind::Manifest, number), BLOCK as u64);
                if let Some(body) = bytes.get_mut(BLOCK..) {
                    checksum::seal_block(&place, body);
                }
            } else if let Some(number) = FileName::number_of(&name, "pack") {
                let place = Binding::new(*id, FileName::new(FileKind::Pack, number), at / 4096 * 4096);
                let from = usize::try_from(place.offset).unwrap_or(0);
                if let Some(block) = bytes.get_mut(from..from + BLOCK) {
                    checksum::seal_block(&place, block);
                }
            }
        });
    }
    let Ok(reader) = place.open_read() else { return };
    let view = reader.view();
    let mut digests = Vec::new();
    for entry in view.log(Lsn(1)).take(10_000) {
        if let Ok(LogEntry::Transaction(t)) = entry {
            digests.extend(t.blobs.iter().map(|b| b.digest));
            // Right, or an error: what is right is for other tests to say.
            drop(view.history(t.account_id, t.item_key));
        }
    }
    for digest in digests.iter().take(200) {
        if let Ok(bytes) = read_blob(&view, digest) {
            assert_eq!(mailstrata_format::Digest::of(&bytes), *digest, "a blob with another digest");
        }
    }
    if let Ok(accounts) = view.accounts() {
        for hit in accounts.iter().take(100) {
            if let Ok(items) = view.items(hit.account(), None) {
                let _ = items.take(1000).count();
            }
        }
    }
}

/// Inputs to start from.
#[must_use]
pub fn seeds_for(target: &str) -> Vec<Vec<u8>> {
    let (place, _) = template();
    let file = |ext: &str| place.disk.files().into_iter().find(|(p, _)| p.to_string_lossy().ends_with(ext));
    let bytes = |ext: &str| file(ext).and_then(|(p, _)| place.disk.bytes(&p)).unwrap_or_default();
    let cut = |b: &[u8], from: usize, len: usize| b.get(from..(from + len).min(b.len())).unwrap_or_default().to_vec();
    let mut rng = Rng::new(5);
    match target {
        "frame" => {
            let b = bytes(".seg");
            vec![cut(&b, BLOCK + GroupHeader::SIZE, 700), cut(&b, BLOCK + GroupHeader::SIZE, 60)]
        }
        "group" => vec![cut(&bytes(".seg"), BLOCK, BLOCK)],
        "pack" => {
            let b = bytes(".pack");
            let piece = |kind, digest| pack::Piece { kind, reserved: [0; 7], length: 5000, digest };
            vec![
                cut(&b, BLOCK, 400),
                cut(&b, BLOCK + EntryHeader::SIZE, 400),
                cut(&b, BLOCK, EntryHeader::SIZE),
                pack::recipe::encode(&[piece(pack::PIECE_OWN, [0; 32]), piece(pack::PIECE_PART, [7; 32])]),
            ]
        }
        "manifest" => vec![cut(&bytes("MANIFEST"), BLOCK, 4096), cut(&bytes("SUPERBLOCK"), 0, 200)],
        "index" => {
            let b = bytes(".seg");
            vec![cut(&b, b.len().saturating_sub(BLOCK), 256)]
        }
        "record_v1" => {
            let t = v1::TransactionV1 {
                account: b"a@b".to_vec(),
                item: b"1".to_vec(),
                flags: vec![b"\\Seen".to_vec()],
                attributes: vec![v1::AttributeV1 { name: b"x".to_vec(), kind: 1, value: b"[1]".to_vec() }],
                ..v1::TransactionV1::default()
            };
            vec![v1::encode(&t).map(|b| b.to_vec()).unwrap_or_default()]
        }
        "event_line" => vec![
            br#"{"account":"a@b","item":"1","kind":"message","op":"put","at":"2026-11-22T00:15:11.123456Z","state":{"folder":"INBOX","flags":["\\Seen"],"attributes":{"x":1.0}},"blob":{"base64":"YQ=="},"source":{"name":"s","position":"1"}}"#.to_vec(),
            br#"{"account":"%FF%25","item":"x","kind":"folder","op":"patch","state":{"name":null,"tags":[]},"blobs":[{"role":"r","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}]}"#.to_vec(),
            br#"{"account":"a","item":"b","kind":"other","op":"delete","lsn":7,"recorded":"2026-11-22T00:15:11Z"}"#.to_vec(),
        ],
        _ => (0..3).map(|_| rng.bytes(64)).collect(),
    }
}
