//! The offline check against damage of every kind, and against stores that are well.
//!
//! `tests/check/NNN-what/` holds a `damage` (what is done to a fresh store, in the words of [`apply`]) and the `findings` that a
//! check must come to. `UPDATE_CHECK=1` writes the findings instead of comparing them: read them before they are kept.
//! `MAILSTRATA_SWEEP=1` flips every bit of every file, `=N` every Nth; without it every 151st.

use mailstrata_engine::check::finding::{Finding, Report, Severity};
use mailstrata_engine::check::{Options, PackDone, Watch, check};
use mailstrata_engine::disk::Clock;
use mailstrata_engine::{Blob, Change, Event, Source, State, Store};
use mailstrata_format::checksum::{self, Binding};
use mailstrata_format::file::{FileHeader, Superblock};
use mailstrata_format::frame;
use mailstrata_format::index::{ROW, Trailer};
use mailstrata_format::pack::{ChunkHeader, EntryHeader};
use mailstrata_format::segment::{self, GroupHeader};
use mailstrata_format::{BLOCK, DamageKind, FileKind, FileName, ItemKind, NoteKind, StoreId};
use mailstrata_tests::drive::{Place, small, step};
use mailstrata_tests::model::Model;
use mailstrata_tests::program::Program;
use mailstrata_tests::rng::{Rng, Tally, from_env, seeds};
use mailstrata_tests::sim::SimDisk;
use mailstrata_tests::workload::{Bounds, Workload};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

/// A check of a store; its bytes must add up.
fn checked(place: &Place, change: impl FnOnce(&mut Options)) -> Report {
    let mut options = Options { read_data: true, threads: 1, ..Options::new(Arc::new(place.disk.clone())) };
    change(&mut options);
    let report = check(&place.dir, &options, &Watch::default()).expect("a check ends").expect("nobody stops it");
    for (path, len, bytes) in &report.files {
        assert_eq!(bytes.sum(), *len, "{path}: {bytes:?}");
    }
    report
}

fn deep(place: &Place) -> Report {
    checked(place, |_| {})
}

/// All files are accounted for.
fn bytes_add_up(place: &Place, report: &Report) {
    let all: BTreeSet<String> = place.disk.files().iter().map(|f| below(place, &f.0)).collect();
    let told: BTreeSet<String> = report.files.iter().map(|f| f.0.clone()).collect();
    assert_eq!(all, told);
    assert_eq!(report.files.len(), told.len(), "a file is counted twice");
    assert_eq!(report.bytes.sum(), place.disk.files().iter().map(|f| f.1).sum::<u64>());
}

fn below(place: &Place, path: &Path) -> String {
    path.strip_prefix(&place.dir).unwrap_or(path).display().to_string()
}

/// A finding as the corpus has it.
fn line(f: &Finding) -> String {
    let mut out = format!("{} {} {}", f.severity.name(), f.kind.code(), f.path);
    if let Some((a, b)) = f.lsns {
        out.push_str(&format!(" lsn {a}-{b}"));
    }
    out.push_str(&format!(" repair {}", f.repair.name()));
    for h in &f.hits {
        let text = |b: &Option<Vec<u8>>| b.as_deref().map_or("?".into(), |b| String::from_utf8_lossy(b).into_owned());
        let blob = if h.blob.is_some() { " its blob" } else { "" };
        let doubt = if h.certain { "" } else { " (perhaps)" };
        out.push_str(&format!("\n  {} {} LSN {}{blob}{doubt}", text(&h.address), text(&h.native), h.lsn));
    }
    out.push('\n');
    out
}

fn put(store: &Store, account: &str, item: &str, body: &[u8]) {
    let blob = store.put_blob(&mut &body[..]).expect("stored");
    let state = State {
        folder: Some(b"INBOX".to_vec()),
        name: Some(format!("about {item}").into_bytes()),
        attributes: vec![(b"x".to_vec(), mailstrata_engine::Value::Text(vec![b'y'; 700]))],
        ..State::default()
    };
    let event = Event {
        account: account.into(),
        account_id: None,
        item: item.into(),
        kind: ItemKind::Message,
        change: Change::Put { state, blobs: vec![Blob { ..blob }], content_unseen: false },
        at: None,
        not_before: None,
        source: Some(Source { name: b"test".to_vec(), position: item.into() }),
        derived: false,
    };
    store.record(&event).expect("recorded");
}

fn delete(store: &Store, account: &str, item: &str) {
    let event = Event {
        account: account.into(),
        account_id: None,
        item: item.into(),
        kind: ItemKind::Message,
        change: Change::Delete,
        at: None,
        not_before: None,
        source: None,
        derived: false,
    };
    store.record(&event).expect("recorded");
}

/// A store of two accounts with sealed segments and packs, closed cleanly, and as it was two thirds of the way.
struct Base {
    place: Place,
    older: Place,
}

/// Bytes that do not compress.
fn body(n: u64, len: usize) -> Vec<u8> {
    Rng::new(n).bytes(len)
}

fn write(store: &Store, place: &Place, items: std::ops::Range<u64>) {
    for n in items {
        let account = if n % 3 == 0 { "bob@example.org" } else { "alice@example.org" };
        put(store, account, &n.to_string(), &body(n, if n % 10 == 9 { 9000 } else { 3000 }));
        place.clock.advance(1_000_000);
        if n % 8 == 7 {
            delete(store, account, &(n - 3).to_string());
        }
    }
}

static BASE: LazyLock<Base> = LazyLock::new(|| {
    let place = Place::new(SimDisk::new(7));
    place.create(&small(64 << 10, 64 << 10)).expect("created");
    let store = place.open().expect("opened");
    write(&store, &place, 0..40);
    store.close().expect("closed");
    let older = place.on(place.disk.copy(1));
    let store = place.open().expect("opened");
    write(&store, &place, 40..60);
    store.close().expect("closed");
    Base { place, older }
});

fn store_id(place: &Place) -> StoreId {
    let bytes = place.disk.bytes(&place.dir.join("SUPERBLOCK")).expect("there is one");
    StoreId(Superblock::read(&bytes).expect("a copy verifies").store)
}

fn name_of(path: &str) -> FileName {
    let file = path.rsplit('/').next().unwrap_or(path);
    let kinds = [
        ("seg", FileKind::Segment),
        ("run", FileKind::Run),
        ("pack", FileKind::Pack),
        ("seg.idx", FileKind::SegmentCheckpoint),
        ("pack.idx", FileKind::PackCheckpoint),
    ];
    let found = kinds.iter().find_map(|(ext, kind)| FileName::number_of(file, ext).map(|n| FileName::new(*kind, n)));
    found.unwrap_or(FileName::new(FileKind::Manifest, 0))
}

/// A place in a file by its structure: `group N`, `frame N`, `entry N`, `chunk N` (of entry N), `entrytrailer N`, `rows`,
/// `fences`, `filter`, `trailer`, or a number.
fn offset(place: &Place, path: &str, what: &str, nth: usize) -> usize {
    let bytes = place.disk.bytes(&place.dir.join(path)).expect("the file is there");
    let at = Binding::new(store_id(place), name_of(path), 0);
    let trailer = || {
        let t = bytes.get(bytes.len() - BLOCK..).and_then(Trailer::decode).expect("a trailer");
        assert_eq!(t.magic, mailstrata_format::index::MAGIC, "{path} has no trailer");
        t
    };
    let us = |n: u64| usize::try_from(n).expect("small");
    match what {
        "group" | "frame" => {
            let (mut pos, mut groups, mut frames) = (BLOCK, 0, 0);
            while let Some(h) = bytes.get(pos..).and_then(|b| segment::header_at(b, &at.at(pos as u64))) {
                if what == "group" && groups == nth {
                    return pos;
                }
                groups += 1;
                let mut inner = pos + GroupHeader::SIZE;
                while inner < pos + h.used as usize {
                    let f = frame::parse(&bytes[inner..], &at.at(inner as u64)).expect("a frame");
                    if what == "frame" && frames == nth {
                        return inner;
                    }
                    frames += 1;
                    inner += f.len;
                }
                pos += h.length as usize;
            }
            panic!("{path} has no {what} {nth}");
        }
        "entry" | "chunk" | "entrytrailer" => {
            let (mut pos, mut entries) = (BLOCK, 0);
            loop {
                let Some(h) = EntryHeader::read(&bytes[pos..], &at.at(pos as u64)) else {
                    let next = (pos + 1).next_multiple_of(BLOCK);
                    assert!(next < bytes.len(), "{path} has no {what} {nth}");
                    pos = next;
                    continue;
                };
                if entries == nth {
                    return match what {
                        "entry" => pos,
                        "chunk" => pos + EntryHeader::SIZE,
                        _ => pos + us(h.length) - h.trailer_len as usize,
                    };
                }
                entries += 1;
                pos += us(h.length);
            }
        }
        "rows" => us(trailer().rows_offset),
        "fences" => us(trailer().fences_offset),
        "filter" => us(trailer().filter_offset),
        "trailer" => bytes.len() - BLOCK,
        number => number.parse().unwrap_or_else(|_| panic!("{number} is no place")),
    }
}

/// The last number of a kind of file, as names have it.
fn last(place: &Place, ext: &str) -> String {
    let numbers = place.disk.files().into_iter().filter_map(|(p, _)| {
        let name = p.file_name()?.to_string_lossy().into_owned();
        FileName::number_of(&name, ext)
    });
    format!("{:08}", numbers.max().expect("there is one"))
}

/// Does what a line of a `damage` file says. Blank lines and those that start with `#` say nothing; `LASTSEG`, `LASTPACK` are
/// the last numbers, `LASTOLD` that of the last segment of the older state.
fn apply(place: &Place, base: &Base, line: &str) {
    let line = &line
        .replace("LASTSEG", &last(place, "seg"))
        .replace("LASTPACK", &last(place, "pack"))
        .replace("LASTOLD", &last(&base.older, "seg"));
    let words: Vec<&str> = line.split_whitespace().collect();
    let full = |p: &str| place.dir.join(p);
    let number = |i: usize| words.get(i).map_or(0, |w| w.parse::<usize>().unwrap_or_else(|_| panic!("{line}")));
    let block_place = |path: &str, at: usize| Binding::new(store_id(place), name_of(path), at as u64);
    match words.as_slice() {
        [] | ["#", ..] => {}
        // FILE PLACE NTH BYTE BIT
        ["flip", path, what, ..] => {
            let at = offset(place, path, what, number(3)) + number(4);
            place.disk.flip(&full(path), (at * 8 + number(5)) as u64);
        }
        ["zero", path, what, ..] => {
            let at = offset(place, path, what, number(3));
            let len = number(4);
            place.disk.damage(&full(path), |b| b[at..at + len].fill(0));
        }
        ["cut", path, what, ..] => {
            let at = offset(place, path, what, number(3)) + number(4);
            place.disk.damage(&full(path), |b| b.truncate(at));
        }
        ["remove", path] => {
            use mailstrata_engine::disk::Disk;
            place.disk.remove(&full(path)).expect("it was there");
        }
        ["copy", from, to] => {
            let bytes = place.disk.bytes(&full(from)).expect("there");
            place.disk.damage(&full(to), |b| *b = bytes);
        }
        ["swap", a, b] => {
            let (x, y) = (place.disk.bytes(&full(a)).expect("there"), place.disk.bytes(&full(b)).expect("there"));
            place.disk.damage(&full(a), |bytes| *bytes = y);
            place.disk.damage(&full(b), |bytes| *bytes = x);
        }
        ["append", path, text] => place.disk.damage(&full(path), |b| b.extend_from_slice(text.as_bytes())),
        ["older", path] => {
            let bytes = base.older.disk.bytes(&base.older.dir.join(path)).expect("it was there then");
            place.disk.damage(&full(path), |b| *b = bytes);
        }
        ["foreign", path] => {
            let header = FileHeader::new(StoreId([9; 16]), name_of(path), 5).block();
            place.disk.damage(&full(path), |b| *b = header);
        }
        // A block of an index is changed and its check made right: FILE PLACE NTH BYTE
        ["lie", path, what, ..] => {
            let at = offset(place, path, what, number(3));
            let byte = number(4);
            place.disk.damage(&full(path), |b| {
                b[at + byte] ^= 1;
                checksum::seal_block(&block_place(path, at), &mut b[at..at + BLOCK]);
            });
        }
        // The first row of an index goes, and the trailer counts one less.
        ["forget-row", path] => {
            let rows = offset(place, path, "rows", 0);
            let trailer = offset(place, path, "trailer", 0);
            place.disk.damage(&full(path), |b| {
                let mut t = Trailer::decode(&b[trailer..]).expect("a trailer");
                let count = usize::try_from(t.row_count).expect("small");
                assert!(count <= 63, "one block");
                b.copy_within(rows + ROW..rows + count * ROW, rows);
                b[rows + (count - 1) * ROW..rows + count * ROW].fill(0);
                checksum::seal_block(&block_place(path, rows), &mut b[rows..rows + BLOCK]);
                t.row_count -= 1;
                b[trailer..].copy_from_slice(&t.block(&block_place(path, trailer)));
            });
        }
        // A group's chain field is changed, and its checks are made right.
        ["unchain", path, nth] => {
            let at = offset(place, path, "group", nth.parse().expect("a number"));
            place.disk.damage(&full(path), |b| {
                let mut h = GroupHeader::decode(&b[at..]).expect("a group");
                h.previous = [1; 16];
                let len = h.length as usize;
                segment::seal(&mut b[at..at + len], h, &block_place(path, at));
            });
        }
        // A frame names another blob, and all checks are made right.
        ["misname", path, nth] => {
            let at = offset(place, path, "frame", nth.parse().expect("a number"));
            let group = (at / BLOCK) * BLOCK;
            place.disk.damage(&full(path), |b| {
                let f = frame::parse(&b[at..], &block_place(path, at)).expect("a frame");
                let len = f.len;
                b[at + frame::FrameHeader::SIZE + frame::Envelope::SIZE] ^= 1;
                frame::move_to(&mut b[at..at + len], &block_place(path, at));
                let h = GroupHeader::decode(&b[group..]).expect("a group");
                let end = group + h.length as usize;
                segment::seal(&mut b[group..end], h, &block_place(path, group));
            });
        }
        // A state's moment falls behind that of the state before it, and all checks are made right.
        ["turn-back", path, nth] => {
            let at = offset(place, path, "frame", nth.parse().expect("a number"));
            let group = (at / BLOCK) * BLOCK;
            place.disk.damage(&full(path), |b| {
                let f = frame::parse(&b[at..], &block_place(path, at)).expect("a frame");
                let len = f.len;
                let moment = at + frame::FrameHeader::SIZE + 48;
                b[moment..moment + 8].copy_from_slice(&1i64.to_le_bytes());
                frame::move_to(&mut b[at..at + len], &block_place(path, at));
                let h = GroupHeader::decode(&b[group..]).expect("a group");
                let end = group + h.length as usize;
                segment::seal(&mut b[group..end], h, &block_place(path, group));
            });
        }
        // A chunk's bytes are others and verify: the blob's own digest must tell.
        ["forge", path, nth, ..] => {
            let at = offset(place, path, "chunk", nth.parse().expect("a number"));
            place.disk.damage(&full(path), |b| {
                let c = ChunkHeader::decode(&b[at..]).expect("a chunk");
                let from = at + ChunkHeader::SIZE;
                let to = at + usize::try_from(mailstrata_format::pack::chunk_len(c.stored_len)).expect("small");
                assert_eq!(c.codec, 0, "a chunk that is stored as it is");
                b[from + number(3)] ^= 1;
                let head = c.sealed(&block_place(path, at), checksum::body_hash(&b[from..to]));
                b[at..from].copy_from_slice(&head);
            });
        }
        // More work, then another end than a close.
        ["kill"] => {
            let store = place.open().expect("opened");
            write(&store, place, 60..62);
            std::mem::forget(store);
        }
        // What was being written when it was killed.
        ["torn", path] => place.disk.damage(&full(path), |b| {
            let at = b.len() - BLOCK;
            b[at..at + 300].fill(7);
        }),
        // Bytes before the footer that mean nothing: FILE
        ["slack", path] => {
            let rows = offset(place, path, "rows", 0);
            place.disk.damage(&full(path), |b| {
                b.splice(rows..rows, [7; BLOCK]);
                let end = b.len();
                let mut t = Trailer::decode(&b[end - BLOCK..]).expect("a trailer");
                t.rows_offset += BLOCK as u64;
                t.fences_offset += BLOCK as u64;
                t.filter_offset += BLOCK as u64;
                t.file_len += BLOCK as u64;
                for at in (rows + BLOCK..end - BLOCK).step_by(BLOCK) {
                    checksum::seal_block(&block_place(path, at), &mut b[at..at + BLOCK]);
                }
                b[end - BLOCK..].copy_from_slice(&t.block(&block_place(path, end - BLOCK)));
            });
        }
        // Reserved bytes of a group are used, and all checks are made right.
        ["reserve", path, nth] => {
            let at = offset(place, path, "group", nth.parse().expect("a number"));
            place.disk.damage(&full(path), |b| {
                let mut h = GroupHeader::decode(&b[at..]).expect("a group");
                h.reserved = 1;
                let len = h.length as usize;
                segment::seal(&mut b[at..at + len], h, &block_place(path, at));
            });
        }
        // The second superblock copy names another server, as an `adopt` that was interrupted leaves it.
        ["half-adopt"] => place.disk.damage(&full("SUPERBLOCK"), |b| {
            let s = Superblock::read(b).expect("a superblock");
            let other = Superblock { server: [1; 16], ..s }.file_bytes();
            b[BLOCK..].copy_from_slice(&other[BLOCK..]);
        }),
        // A frame's bytes are changed, and all checks are made right: FILE NTH BYTE VALUE
        ["rewrite", path, nth, ..] => {
            let at = offset(place, path, "frame", nth.parse().expect("a number"));
            let group = (at / BLOCK) * BLOCK;
            let value = u8::try_from(number(4)).expect("a byte");
            place.disk.damage(&full(path), |b| {
                let len = frame::parse(&b[at..], &block_place(path, at)).expect("a frame").len;
                b[at + number(3)] = value;
                frame::move_to(&mut b[at..at + len], &block_place(path, at));
                let mut h = GroupHeader::decode(&b[group..]).expect("a group");
                // A group of one frame starts with its LSN.
                h.first_lsn = frame::FrameHeader::decode(&b[group + GroupHeader::SIZE..]).expect("a frame").lsn;
                let end = group + h.length as usize;
                segment::seal(&mut b[group..end], h, &block_place(path, group));
            });
        }
        ["orphan"] => {
            let store = place.open().expect("opened");
            store.put_blob(&mut &body(4711, 5000)[..]).expect("stored");
            put(&store, "bob@example.org", "late", b"late");
            store.close().expect("closed");
        }
        _ => panic!("what is `{line}`?"),
    }
}

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("check")
}

#[test]
fn damage_is_found_and_named() {
    let update = std::env::var_os("UPDATE_CHECK").is_some();
    let mut cases: Vec<PathBuf> =
        std::fs::read_dir(corpus()).expect("a corpus").map(|e| e.expect("an entry").path()).collect();
    cases.sort();
    assert!(cases.len() > 30, "only {} cases", cases.len());
    let mut codes = BTreeSet::new();
    let mut wrong = String::new();
    for case in cases {
        let name = case.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let place = BASE.place.on(BASE.place.disk.copy(3));
        let damage = std::fs::read_to_string(case.join("damage")).expect("a damage");
        damage.lines().for_each(|l| apply(&place, &BASE, l));
        let report = deep(&place);
        if !damage.contains("kill") {
            bytes_add_up(&place, &report);
        }
        let found: String = report.findings.iter().map(line).collect();
        codes.extend(report.findings.iter().map(|f| f.kind.code()));
        let path = case.join("findings");
        if update {
            std::fs::write(&path, &found).expect("written");
            continue;
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        if found != expected {
            wrong.push_str(&format!("\n{name}\n--- expected\n{expected}--- found\n{found}"));
        }
        // The quick check finds nothing that the whole one does not.
        let quick = checked(&place, |o| o.read_data = false);
        assert!(quick.damage <= report.damage, "{name}: {:?}", quick.findings);
        // More threads, little memory: the same.
        let other = checked(&place, |o| (o.threads, o.memory) = (3, 0));
        assert_eq!(other.findings, report.findings, "{name}");
    }
    assert!(wrong.is_empty(), "{wrong}");
    // What no case can show: a device's own error, a store that was killed before its first seal; and, with a test of its own,
    // a recipe.
    let elsewhere = [DamageKind::Unreadable.code(), NoteKind::NoManifest.code(), DamageKind::Recipe.code()];
    let all = DamageKind::ALL.iter().map(|k| k.code()).chain(NoteKind::ALL.iter().map(|k| k.code()));
    let missing: Vec<_> = all.filter(|c| !codes.contains(c) && !elsewhere.contains(c)).collect();
    assert!(missing.is_empty(), "codes without a case: {missing:?}");
}

/// A store that was written at random; the writer is still there, or was closed.
fn random_store(seed: u64, close: bool) -> (Place, Option<Store>) {
    let place = Place::new(SimDisk::new(seed));
    place.create(&small(64 << 10, 64 << 10)).expect("created");
    let bounds = Bounds { accounts: 3, items: 10, blob_max: 100_000, attribute_max: 4000, incarnations: true };
    let mut work = Workload::new(seed, bounds, place.clock.now());
    let mut model = Model::default();
    let mut store = place.open().expect("opened");
    for _ in 0..100 {
        step(&store, &mut model, &place, &work.next_step()).unwrap_or_else(|e| panic!("MAILSTRATA_SEED={seed}: {e}"));
        if work.rng().one_in(40) {
            store.close().expect("closed");
            store = place.open().expect("opened");
        }
    }
    if close {
        store.close().expect("closed");
        return (place, None);
    }
    (place, Some(store))
}

/// Findings of a store that is well: none, but blobs that the workload stored and never named.
fn well(report: &Report) -> Result<(), String> {
    let told = |f: &&Finding| f.severity == Severity::Damage || f.kind.code() != NoteKind::Orphan.code();
    let bad: Vec<_> = report.findings.iter().filter(told).map(line).collect();
    if bad.is_empty() { Ok(()) } else { Err(bad.concat()) }
}

#[test]
fn a_store_that_was_closed_has_no_findings() {
    let mut tally = Tally::default();
    for seed in seeds(1, 12) {
        let (place, _) = random_store(seed, true);
        let report = deep(&place);
        bytes_add_up(&place, &report);
        tally.case(seed, well(&report));
        tally.case(seed, well(&checked(&place, |o| o.read_data = false)));
    }
    tally.finish("closed stores", "");
}

#[test]
fn a_store_at_work_or_killed_has_no_damage() {
    let mut tally = Tally::default();
    for seed in seeds(100, 12) {
        let (place, store) = random_store(seed, false);
        // Beside the writer, then after it died, then after a power cut.
        let beside = deep(&place);
        tally.case(seed, if beside.sound() { Ok(()) } else { Err(beside.findings.iter().map(line).collect()) });
        assert!(beside.writer.is_some());
        let mut disks = vec![place.disk.processes_died(seed)];
        for cut in 0..4 {
            disks.push(place.disk.power_cut(seed + cut, mailstrata_tests::sim::Survival::Random));
        }
        for disk in disks {
            let report = deep(&place.on(disk));
            let text = || report.findings.iter().map(line).collect();
            tally.case(seed, if report.sound() { Ok(()) } else { Err(text()) });
        }
        drop(store);
    }
    tally.finish("stores at work", "");
}

#[test]
fn a_store_that_was_never_sealed_needs_no_manifest() {
    let place = Place::new(SimDisk::new(8));
    place.create(&small(64 << 10, 64 << 10)).expect("created");
    assert!(deep(&place).findings.is_empty());
    let store = place.open().expect("opened");
    write(&store, &place, 0..2);
    let report = deep(&place.on(place.disk.processes_died(1)));
    let codes: Vec<_> = report.findings.iter().map(|f| f.kind.code()).collect();
    assert_eq!(codes, [NoteKind::NoManifest.code()]);
    drop(store);
}

#[test]
fn a_writer_at_work_never_looks_like_damage() {
    let place = Place::new(SimDisk::new(5));
    place.create(&small(64 << 10, 64 << 10)).expect("created");
    let store = place.open().expect("opened");
    let stop = std::sync::atomic::AtomicBool::new(false);
    let damage = Mutex::new(String::new());
    let mut checks = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            write(&store, &place, 0..400);
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            let report = checked(&place, |o| o.threads = 2);
            checks += 1;
            if !report.sound() {
                damage.lock().unwrap().push_str(&report.findings.iter().map(line).collect::<String>());
                break;
            }
        }
    });
    assert_eq!(*damage.lock().unwrap(), "");
    assert!(checks > 2, "only {checks} checks beside the writer");
    store.close().expect("closed");
}

/// Bits of all files of a store that has few.
fn sweep(place: &Place, bits: impl Iterator<Item = u64>, tally: &mut Tally) {
    let files = place.disk.files();
    let mut ends = Vec::new();
    let mut sum = 0;
    for (path, len) in &files {
        sum += len * 8;
        ends.push((sum, path.clone(), len * 8));
    }
    for bit in bits {
        let bit = bit % sum;
        let i = ends.partition_point(|e| e.0 <= bit);
        let (end, path, len) = &ends[i];
        let at = bit - (end - len);
        place.disk.flip(path, at);
        let report = deep(place);
        let said = report.findings.iter().any(|f| f.path == below(place, path));
        // A checkpoint that does not verify may be the work of a power cut.
        let checkpoint = below(place, path).starts_with("index/");
        let result = if said && (checkpoint || !report.sound()) {
            Ok(())
        } else {
            let what: String = report.findings.iter().map(line).collect();
            Err(format!("bit {at} of {} ({} bytes): {what}", below(place, path), len / 8))
        };
        tally.case(0, result);
        place.disk.flip(path, at);
    }
    assert!(deep(place).findings.is_empty(), "the store is as it was");
}

#[test]
fn every_flipped_bit_is_found() {
    // One segment and pack sealed, one of each open, with their checkpoints.
    let place = Place::new(SimDisk::new(11));
    place.create(&small(64 << 10, 64 << 10)).expect("created");
    let store = place.open().expect("opened");
    write(&store, &place, 0..25);
    store.close().expect("closed");
    let total: u64 = place.disk.files().iter().map(|f| f.1 * 8).sum();
    let step = usize::try_from(from_env("MAILSTRATA_SWEEP", 151)).expect("small").max(1);
    let mut tally = Tally::default();
    sweep(&place, (0..total).step_by(step), &mut tally);
    tally.finish("bits of a small store", format_args!("{total} bits, every {step}"));
}

#[test]
fn random_bits_of_larger_stores_are_found() {
    let mut tally = Tally::default();
    let mut rng = Rng::new(21);
    let bits: Vec<u64> = (0..400).map(|_| rng.bits() >> 8).collect();
    sweep(&BASE.place.on(BASE.place.disk.copy(2)), bits.into_iter(), &mut tally);
    tally.finish("bits of a larger store", "");
}

#[test]
fn only_what_concerns_an_account_is_told() {
    let place = BASE.place.on(BASE.place.disk.copy(4));
    for line in ["flip log/00000001.seg frame 3 60 0", "flip log/00000001.seg frame 1 60 0"] {
        apply(&place, &BASE, line);
    }
    let all = deep(&place);
    let names: BTreeSet<_> =
        all.findings.iter().flat_map(|f| &f.hits).map(|h| h.address.clone().expect("known")).collect();
    assert_eq!(names.len(), 2, "{:?}", all.findings);
    let bob = checked(&place, |o| o.account = Some(b"bob@example.org".to_vec()));
    assert!(bob.damage > 0 && bob.damage < all.damage);
    assert!(bob.findings.iter().flat_map(|f| &f.hits).all(|h| h.address.as_deref() == Some(b"bob@example.org")));
    let nobody = checked(&place, |o| o.account = Some(b"nobody@example.org".to_vec()));
    assert!(nobody.sound());
}

#[test]
fn a_run_that_goes_on_reads_only_what_is_left() {
    let place = BASE.place.on(BASE.place.disk.copy(5));
    let done: Mutex<Vec<PackDone>> = Mutex::default();
    let keep = |p| done.lock().unwrap().push(p);
    let mut options = Options { read_data: true, ..Options::new(Arc::new(place.disk.clone())) };
    let watch = Watch { pack_done: Some(&keep), ..Watch::default() };
    let whole = check(&place.dir, &options, &watch).expect("it ends").expect("nobody stops it");
    let packs = done.lock().unwrap().clone();
    assert!(packs.len() > 2);
    options.done = packs[1..].to_vec();
    let rest = check(&place.dir, &options, &Watch::default()).expect("it ends").expect("nobody stops it");
    assert_eq!(rest.resumed, packs.len() as u64 - 1);
    assert!(rest.hashed > 0 && rest.hashed < whole.hashed, "{} of {}", rest.hashed, whole.hashed);
    assert_eq!(rest.findings, whole.findings);
    let stop = std::sync::atomic::AtomicBool::new(true);
    let watch = Watch { stop: Some(&stop), ..Watch::default() };
    assert!(check(&place.dir, &options, &watch).expect("it ends").is_none());
}

#[test]
fn what_the_device_refuses_is_told_with_its_place() {
    use mailstrata_tests::sim::{Effect, Fault, OpKind, Which};
    let place = BASE.place.on(BASE.place.disk.copy(6));
    let reads = Which::Kind(OpKind::Read);
    let before = place.disk.count(reads);
    deep(&place);
    let count = place.disk.count(reads) - before;
    for n in 1..=count {
        place.disk.plan(Fault::once(reads, n, Effect::Error(libc::EIO)));
        // What can be read when it is read again is not lost.
        let report = deep(&place);
        assert!(report.sound(), "read {n} of {count}: {:?}", report.findings);
        place.disk.clear_faults();
    }
    let mut codes = BTreeSet::new();
    for n in (1..=count).step_by(7) {
        place.disk.plan(Fault::from_then_on(reads, n, Effect::Error(libc::EIO)));
        let mut options = Options { read_data: true, threads: 1, ..Options::new(Arc::new(place.disk.clone())) };
        options.memory = 1 << 20;
        match check(&place.dir, &options, &Watch::default()) {
            Ok(report) => {
                let report = report.expect("nobody stops it");
                assert!(!report.sound(), "read {n} of {count}");
                codes.extend(report.findings.iter().map(|f| f.kind.code()));
            }
            Err(e) => assert!(matches!(e, mailstrata_engine::Error::NoStore { .. }), "{e}"),
        }
        place.disk.clear_faults();
    }
    assert!(codes.contains(DamageKind::Unreadable.code()), "{codes:?}");
}

#[test]
fn whatever_the_files_hold_a_check_ends() {
    let mut rng = Rng::new(31);
    let mut damaged = 0;
    for _ in 0..400 {
        let place = BASE.place.on(BASE.place.disk.copy(rng.bits()));
        for _ in 0..1 + rng.below(4) {
            let files: Vec<_> = place.disk.files().into_iter().filter(|f| f.1 > 0).collect();
            let (path, len) = rng.pick(&files).clone();
            let size = usize::try_from(len).expect("small");
            let at = rng.index(size);
            let end = (at + 1 + rng.index(9000)).min(size);
            match rng.below(6) {
                0 => place.disk.damage(&path, |b| b[at..end].fill(0)),
                1 => {
                    let noise = rng.bytes(end - at);
                    place.disk.damage(&path, |b| b[at..end].copy_from_slice(&noise));
                }
                2 => place.disk.damage(&path, |b| b.truncate(at)),
                3 => {
                    let more = rng.bytes(end - at);
                    place.disk.damage(&path, |b| b.extend(more));
                }
                4 => {
                    let other = place.disk.bytes(&rng.pick(&files).0).expect("there");
                    place.disk.damage(&path, |b| *b = other);
                }
                // A number somewhere in a header becomes large, and the block's check is made right.
                _ => {
                    let block = at / BLOCK * BLOCK;
                    let place_of = Binding::new(store_id(&BASE.place), name_of(&below(&place, &path)), block as u64);
                    place.disk.damage(&path, |b| {
                        let end = (block + BLOCK).min(b.len());
                        b[block + at % 200..end.min(block + at % 200 + 8)].fill(0xff);
                        checksum::seal_block(&place_of, &mut b[block..end]);
                    });
                }
            }
        }
        let mut options = Options { read_data: true, threads: 2, ..Options::new(Arc::new(place.disk.clone())) };
        options.memory = 1 << 20;
        match check(&place.dir, &options, &Watch::default()) {
            Ok(report) => damaged += u64::from(!report.expect("nobody stops it").sound()),
            Err(e) => {
                use mailstrata_engine::Error;
                assert!(matches!(e, Error::NoStore { .. } | Error::Version { .. }), "{e}");
                damaged += 1;
            }
        }
    }
    assert!(damaged > 250, "only {damaged} of 400 were found damaged");
}

/// A store with a run, retired files that stay for so long, and segments behind it; closed.
fn with_run(delay: Duration) -> Place {
    let place = Place::new(SimDisk::new(17));
    place.create(&small(64 << 10, 256 << 10)).expect("created");
    let options = mailstrata_engine::Options { retire_delay: delay, ..place.options() };
    let store = Store::open(&place.dir, &options).expect("opened");
    let mut from = 0;
    while store.view().catalog().segments.len() < 10 {
        write(&store, &place, from..from + 10);
        from += 10;
        assert!(from < 2000, "segments do not fill");
    }
    assert_eq!(store.compact_now().expect("compacted").runs, 1);
    // What this process read is let go with the views.
    store.compact_now().expect("compacted");
    write(&store, &place, from..from + 5);
    store.close().expect("closed");
    place
}

static GONE: LazyLock<Base> = LazyLock::new(|| {
    let place = with_run(Duration::ZERO);
    let older = place.on(place.disk.copy(1));
    Base { place, older }
});

static RETIRED: LazyLock<Base> = LazyLock::new(|| {
    let place = with_run(Duration::from_secs(24 * 3600));
    let older = place.on(place.disk.copy(1));
    Base { place, older }
});

fn all_of(report: &Report) -> String {
    report.findings.iter().map(|f| format!("{}  {}\n", line(f), f.detail)).collect()
}

#[test]
fn a_store_with_runs_has_no_findings() {
    for base in [&*GONE, &*RETIRED] {
        let files: Vec<String> = base.place.disk.files().iter().map(|f| below(&base.place, &f.0)).collect();
        assert!(files.iter().any(|f| f == "run/00000001.run"), "{files:?}");
        let first = files.iter().any(|f| f == "log/00000001.seg");
        assert_eq!(first, std::ptr::eq(base, &*RETIRED), "{files:?}");
        for (deep, memory) in [(true, 512 << 20), (false, 512 << 20), (true, 0)] {
            let report = checked(&base.place, |o| (o.read_data, o.memory) = (deep, memory));
            assert_eq!(all_of(&report), "");
            bytes_add_up(&base.place, &report);
        }
    }
}

#[test]
fn damage_in_a_run_is_told_with_what_it_costs() {
    let run = "run/00000001.run";
    // What is done, the code and place it has, whether items are told as hit when the replaced files are gone.
    let cases = [
        ("flip RUN frame 3 60 0", DamageKind::FrameBody, true),
        ("flip RUN frame 3 4 0", DamageKind::FrameHeader, true),
        ("remove RUN", DamageKind::FileMissing, false),
        ("cut RUN trailer 0 0", DamageKind::FileTruncated, false),
        ("lie RUN rows 0 20", DamageKind::IndexRow, false),
    ];
    for (what, kind, hits) in cases {
        for (base, kept) in [(&*GONE, false), (&*RETIRED, true)] {
            let place = base.place.on(base.place.disk.copy(9));
            apply(&place, base, &what.replace("RUN", run));
            let report = deep(&place);
            let all = all_of(&report);
            let damage: Vec<_> = report.findings.iter().filter(|f| f.severity == Severity::Damage).collect();
            assert!(!damage.is_empty(), "{what}, kept {kept}: nothing is told");
            assert!(damage.iter().all(|f| f.path == run), "{what}, kept {kept}: {all}");
            let expected = damage.iter().any(|f| f.kind.code() == kind.code());
            assert!(expected || kind == DamageKind::FileTruncated || kind == DamageKind::FrameHeader, "{what}: {all}");
            if kept {
                assert!(damage.iter().all(|f| f.hits.is_empty() && f.lsns.is_none()), "{what}: {all}");
                assert!(damage.iter().all(|f| f.detail.contains("replaced")), "{what}: {all}");
            } else {
                assert_eq!(damage.iter().any(|f| !f.hits.is_empty()), hits, "{what}: {all}");
                let lost = damage.iter().any(|f| f.lsns.is_some());
                // In a run LSNs do not count up: a frame whose header is lost has none.
                assert!(lost || !what.starts_with("remove"), "{what}: {all}");
            }
        }
    }
}

#[test]
fn what_is_wrong_with_a_second_copy_is_no_damage() {
    for what in ["flip log/00000001.seg frame 0 60 0", "append run/00000009.tmp half"] {
        let place = RETIRED.place.on(RETIRED.place.disk.copy(10));
        apply(&place, &RETIRED, what);
        let report = deep(&place);
        assert!(report.sound() && report.notes > 0, "{what}: {}", all_of(&report));
        bytes_add_up(&place, &report);
    }
}

#[test]
fn flipped_bits_of_a_store_with_a_run_are_found() {
    let place = GONE.place.on(GONE.place.disk.copy(11));
    let mut rng = Rng::new(41);
    let bits: Vec<u64> = (0..150).map(|_| rng.bits() >> 8).collect();
    let mut tally = Tally::default();
    sweep(&place, bits.into_iter(), &mut tally);
    tally.finish("bits of a store with a run", "");
}

#[test]
fn a_power_cut_in_a_compaction_is_no_damage() {
    let place = Place::new(SimDisk::new(19));
    place.create(&small(64 << 10, 256 << 10)).expect("created");
    let options = mailstrata_engine::Options { retire_delay: Duration::ZERO, ..place.options() };
    let store = Store::open(&place.dir, &options).expect("opened");
    let mut from = 0;
    while store.view().catalog().segments.len() < 10 {
        write(&store, &place, from..from + 10);
        from += 10;
    }
    place.disk.keep_snapshots();
    assert_eq!(store.compact_now().expect("compacted").runs, 1);
    drop(store);
    let mut tally = Tally::default();
    use mailstrata_tests::sim::Survival;
    for snapshot in 0..=place.disk.newest_snapshot() {
        for how in [Survival::Nothing, Survival::Everything, Survival::Random] {
            let Some(disk) = place.disk.power_cut_at(snapshot, 5 + snapshot as u64, how) else { continue };
            let report = deep(&place.on(disk));
            let result = if report.sound() { Ok(()) } else { Err(all_of(&report)) };
            tally.case(5, result.map_err(|e| format!("snapshot {snapshot}, {how:?}: {e}")));
        }
    }
    tally.finish("power cuts in a compaction", "");
}

/// A message whose head no other one has, and whose body is long enough for a part.
fn message(head: u64, text: u64) -> Vec<u8> {
    let mut out = b"X: ".to_vec();
    out.extend(body(head, 3000).iter().map(|b| if matches!(*b, b'\n' | b'\r') { b' ' } else { *b }));
    out.extend_from_slice(b"\n\n");
    out.extend(body(text, 9000).iter().map(|b| if matches!(*b, b'\n' | b'\r') { b' ' } else { *b }));
    out
}

/// Messages with the same body, the second one in a later pack than the first.
fn composed() -> Base {
    let place = Place::new(SimDisk::new(23));
    place.create(&small(64 << 10, 64 << 10)).expect("created");
    let store = place.open().expect("opened");
    put(&store, "alice@example.org", "first", &message(1001, 2000));
    store.close().expect("closed");
    let store = place.open().expect("opened");
    write(&store, &place, 0..30);
    store.close().expect("closed");
    let store = place.open().expect("opened");
    put(&store, "bob@example.org", "second", &message(1002, 2000));
    store.close().expect("closed");
    let older = place.on(place.disk.copy(1));
    Base { place, older }
}

#[test]
fn composed_blobs_are_hashed_from_their_parts() {
    let base = composed();
    for (deep, memory) in [(true, 512 << 20), (false, 512 << 20), (true, 0)] {
        let report = checked(&base.place, |o| (o.read_data, o.memory) = (deep, memory));
        assert_eq!(all_of(&report), "");
    }
    let natives = |f: &Finding| -> BTreeSet<String> {
        f.hits.iter().filter_map(|h| h.native.as_deref()).map(|n| String::from_utf8_lossy(n).into_owned()).collect()
    };
    // The part is damaged: both are hit.
    let place = base.place.on(base.place.disk.copy(2));
    apply(&place, &base, "flip pack/00000001.pack chunk 0 5000 0");
    let report = deep(&place);
    assert_eq!(report.damage, 1, "{}", all_of(&report));
    assert_eq!(natives(&report.findings[0]), ["first", "second"].map(String::from).into(), "{}", all_of(&report));
    // The part's pack is lost: the blob that is made of it is told where it is.
    let place = base.place.on(base.place.disk.copy(3));
    apply(&place, &base, "remove pack/00000001.pack");
    let report = deep(&place);
    let told = report.findings.iter().any(|f| {
        f.kind.code() == DamageKind::BlobMissing.code() && f.path.starts_with("pack/") && natives(f).contains("second")
    });
    assert!(told, "{}", all_of(&report));
    // A recipe that is none, and own bytes that are others; both verify.
    let pack = format!("pack/{}.pack", last(&base.place, "pack"));
    let nth = (0..40).take_while(|n| has_entry(&base.place, &pack, *n)).count() - 1;
    let place = base.place.on(base.place.disk.copy(4));
    apply(&place, &base, &format!("forge {pack} {nth}"));
    let report = deep(&place);
    assert_eq!(report.findings[0].kind.code(), DamageKind::Recipe.code(), "{}", all_of(&report));
    assert_eq!(natives(&report.findings[0]), ["second"].map(String::from).into());
    let place = base.place.on(base.place.disk.copy(5));
    apply(&place, &base, &format!("forge {pack} {nth} 2000"));
    let report = deep(&place);
    assert_eq!(report.findings[0].kind.code(), DamageKind::BlobDigest.code(), "{}", all_of(&report));
    assert_eq!(natives(&report.findings[0]), ["second"].map(String::from).into());
}

/// Whether a pack has so many entries.
fn has_entry(place: &Place, path: &str, nth: usize) -> bool {
    std::panic::catch_unwind(|| offset(place, path, "entry", nth)).is_ok()
}

#[test]
fn a_blob_in_a_pack_of_its_own_is_checked() {
    let place = Place::new(SimDisk::new(29));
    place.create(&small(64 << 10, 64 << 10)).expect("created");
    let store = place.open().expect("opened");
    put(&store, "alice@example.org", "small", b"small");
    put(&store, "alice@example.org", "huge", &body(3, OVERSIZE));
    store.close().expect("closed");
    let report = deep(&place);
    assert_eq!(all_of(&report), "");
    bytes_add_up(&place, &report);
    let packs: Vec<_> =
        place.disk.files().into_iter().filter(|f| f.0.extension().is_some_and(|e| e == "pack")).collect();
    let (path, len) = packs.iter().max_by_key(|f| f.1).expect("packs").clone();
    let head = place.disk.bytes(&path).and_then(|b| FileHeader::decode(&b)).expect("a header");
    assert_ne!(head.flags & mailstrata_format::file::FLAG_OVERSIZE, 0, "it is stored as others are");
    for bit in [BLOCK as u64 * 8 + 3, len * 4, len * 6] {
        place.disk.flip(&path, bit);
        let report = deep(&place);
        assert!(!report.sound(), "bit {bit}");
        let named = report.findings.iter().flat_map(|f| &f.hits).any(|h| h.native.as_deref() == Some(b"huge"));
        assert!(named, "bit {bit}: {}", all_of(&report));
        place.disk.flip(&path, bit);
    }
}

/// Longer than any blob that shares a pack.
const OVERSIZE: usize = 900_000;

/// The command says the same, with its exit codes.
#[test]
fn the_command_tells_sound_from_damaged() {
    let p = Program::small();
    let event = |n: u32| {
        format!(
            r#"{{"account":"alice@example.org","item":"{n}","kind":"message","op":"put","state":{{"folder":"INBOX"}},"blob":{{"base64":"aGVsbG8="}}}}"#
        ) + "\n"
    };
    let lines: String = (0..200).map(event).collect();
    assert_eq!(p.append(&lines).1, 0);
    let state = p.dir.path().join("state");
    let state = state.to_str().expect("UTF-8");
    let read = ["--json", "fsck", "--read-data", "--state", state];
    let report = |text: &str| -> Value { serde_json::from_str(text).expect("one document") };
    let sound = report(&p.ok(read));
    assert_eq!((&sound["sound"], &sound["findings"]), (&true.into(), &Value::Array(Vec::new())));
    assert_eq!(sound["transactions"], 200);
    let on_disk: u64 = sound["files"].as_array().expect("files").iter().map(|f| f["length"].as_u64().expect("n")).sum();
    assert_eq!(sound["bytes"]["sum"], on_disk);
    p.ok(["fsck", "--read-data", "--resume", "--state", state]);
    assert!(!Path::new(state).exists(), "a run that is complete leaves no state");
    // A bit of a frame's content.
    let path = p.store.join("log/00000001.seg");
    let mut bytes = std::fs::read(&path).expect("a segment");
    bytes[BLOCK + GroupHeader::SIZE + 60] ^= 1;
    std::fs::write(&path, bytes).expect("written");
    let out = p.run(read);
    assert_eq!(out.status.code(), Some(13), "{}", String::from_utf8_lossy(&out.stderr));
    let found = report(&String::from_utf8_lossy(&out.stdout));
    assert_eq!(found["findings"][0]["code"], "D07");
    assert_eq!(found["findings"][0]["hits"][0]["item"], "0");
    assert_eq!(found["findings"][0]["hits"][0]["account"], "alice@example.org");
    p.fails(13, ["fsck"]);
    assert!(p.fails(1, ["fsck", "--repair"]).contains("not built"));
    p.fails(2, ["fsck", "--resume"]);
    std::fs::remove_dir_all(&p.store).expect("removed");
    p.fails(10, ["fsck"]);
}
