//! `reader.py`, which was written from SPEC.md alone, reads what the format crate writes (P6).
//!
//! Runs with `MAILSTRATA_PYTHON`, else `python3`; passes with a printed reason where that lacks the modules it needs.

mod build;

use build::{
    CARD, Chunk, Log, MAIL, NOTE, Pack, STORE, letter, photo, plain, reply, sample, samples, store, store_with_run,
};
use mailstrata_format::checksum::Binding;
use mailstrata_format::file::{FLAG_OVERSIZE, FileHeader};
use mailstrata_format::manifest::Manifest;
use mailstrata_format::pack::{BlobRow, ChunkHeader, ENTRY_STREAMED, EntryHeader, trailer_bytes};
use mailstrata_format::{BLOCK, Digest, FileKind, FileName};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

type Files = BTreeMap<&'static str, Vec<u8>>;

/// What a run said.
struct Said {
    code: i32,
    lines: Vec<String>,
    findings: String,
}

fn python() -> Option<String> {
    let python = std::env::var("MAILSTRATA_PYTHON").unwrap_or_else(|_| "python3".into());
    let has = Command::new(&python).args(["-c", "import xxhash, zstandard"]).output().is_ok_and(|o| o.status.success());
    if !has {
        eprintln!("skipped: {python} is not there or lacks the modules of requirements.txt");
    }
    has.then_some(python)
}

fn run(python: &str, store: &Path, options: &[&str]) -> Said {
    let reader = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("reader.py");
    let out = Command::new(python).arg("-B").arg(reader).arg(store).args(options).output().unwrap();
    Said {
        code: out.status.code().unwrap(),
        lines: String::from_utf8(out.stdout).unwrap().lines().map(str::to_owned).collect(),
        findings: String::from_utf8(out.stderr).unwrap(),
    }
}

/// A store on disk, removed in the end.
struct OnDisk(PathBuf);

impl OnDisk {
    fn new(name: &str, files: &Files) -> Self {
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("reader-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        for (path, bytes) in files {
            let file = dir.join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, bytes).unwrap();
        }
        Self(dir)
    }
}

impl Drop for OnDisk {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn lsns(said: &Said) -> Vec<u64> {
    let lsn = |line: &String| line.split("\"lsn\":").nth(1)?.split([',', '}']).next()?.parse().ok();
    said.lines.iter().filter_map(lsn).collect()
}

fn fixture() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/v1")
}

#[test]
fn it_prints_the_lines_of_the_fixture() {
    let Some(python) = python() else { return };
    let said = run(&python, &fixture().join("store"), &[]);
    let expected = std::fs::read_to_string(fixture().join("store.ndjson")).unwrap();
    assert_eq!(said.findings, "");
    assert_eq!(said.lines, expected.lines().collect::<Vec<_>>());
    assert_eq!(said.code, 0);
    let said = run(&python, &fixture().join("store"), &["--check"]);
    assert_eq!((said.code, said.lines.len(), said.findings.as_str()), (0, 0, ""));
}

#[test]
fn it_prints_the_same_lines_of_a_store_with_a_run() {
    let Some(python) = python() else { return };
    let expected = std::fs::read_to_string(fixture().join("store.ndjson")).unwrap();
    let expected: Vec<_> = expected.lines().collect();
    let said = run(&python, &fixture().join("run"), &[]);
    assert_eq!(
        (said.code, said.lines, said.findings.as_str()),
        (0, expected.iter().map(ToString::to_string).collect(), "")
    );
    let said = run(&python, &fixture().join("run"), &["--check"]);
    assert_eq!((said.code, said.lines.len(), said.findings.as_str()), (0, 0, ""));
}

#[test]
fn damage_to_a_run_costs_what_it_hit_and_has_its_code() {
    let Some(python) = python() else { return };
    let all: &[u64] = &[1, 2, 5, 6, 7, 8];
    let run_path = "run/00000001.run";
    let sound = store_with_run();
    let len = sound[run_path].len();
    let flip = |at: usize| {
        let mut files = sound.clone();
        files.get_mut(run_path).unwrap()[at] ^= 1;
        files
    };
    let without = |path: &str| {
        let mut files = sound.clone();
        files.remove(path);
        files
    };
    // A run that no manifest knows, and what it was made from: a crash left it.
    let mut leftover = store();
    leftover.insert(run_path, {
        let samples = samples();
        let mut one = Log::start(1, None);
        one.group(&samples[..2]);
        one.group(&samples[2..5]);
        build::run(1, &[&one])
    });
    let cases: Vec<(&str, Files, &[&str], &[u64])> = vec![
        ("run-header", flip(60), &["D02"], all),
        ("run-rows", flip(len - 4 * 4096 + 10), &["D15"], all),
        ("run-trailer", flip(len - 4096 + 10), &["D17"], all),
        ("run-padding", flip(8190), &["D04"], all),
        ("run-no-manifest", without("MANIFEST"), &[], all),
        ("no-run", without(run_path), &["D19"], &[6, 7, 8]),
        ("run-leftover", leftover, &[], all),
    ];
    for (name, files, codes, printed) in cases {
        let dir = OnDisk::new(name, &files);
        let said = run(&python, &dir.0, &["--check"]);
        let mut found: Vec<_> =
            said.findings.lines().filter_map(|l| l.get(..3)).filter(|c| c.starts_with('D')).collect();
        found.sort_unstable();
        found.dedup();
        assert_eq!(found, codes, "{name}:\n{}", said.findings);
        let said = run(&python, &dir.0, &[]);
        assert_eq!(lsns(&said), printed, "{name}:\n{}", said.findings);
    }
}

#[test]
fn it_gives_every_blob_back() {
    let Some(python) = python() else { return };
    let out = OnDisk::new("blobs", &Files::new());
    let said = run(&python, &fixture().join("store"), &["--blobs", out.0.to_str().unwrap()]);
    assert_eq!((said.code, said.findings.as_str()), (0, ""));
    let photo = photo();
    for blob in [MAIL, CARD, NOTE, &photo, &letter(), &reply()] {
        assert_eq!(std::fs::read(out.0.join(Digest::of(blob).to_string())).unwrap(), blob);
    }
    assert_eq!(std::fs::read_dir(&out.0).unwrap().count(), 6);
}

#[test]
fn damage_costs_what_it_hit_and_has_its_code() {
    let Some(python) = python() else { return };
    let sound = store();
    let all: &[u64] = &[1, 2, 5, 6, 7, 8];
    /// Name, harm, exit code, codes of --check, LSNs that are still printed.
    type Case<'a> = (&'a str, fn(&mut Files), i32, &'a [&'a str], &'a [u64]);
    fn flip(files: &mut Files, path: &str, at: usize) {
        files.get_mut(path).unwrap()[at] ^= 1;
    }
    fn cut(files: &mut Files, path: &str, len: usize) {
        files.get_mut(path).unwrap().truncate(len);
    }
    let cases: &[Case<'_>] = &[
        ("superblock-copy", |f| flip(f, "SUPERBLOCK", 40), 13, &["D01"], all),
        ("superblock", |f| cut(f, "SUPERBLOCK", 0), 10, &["D01"], &[]),
        ("no-superblock", |f| drop(f.remove("SUPERBLOCK")), 10, &[], &[]),
        ("manifest", |f| flip(f, "MANIFEST", 4200), 13, &["D18"], all),
        ("no-manifest", |f| drop(f.remove("MANIFEST")), 0, &[], all),
        ("no-lock", |f| drop(f.remove("LOCK")), 0, &[], all),
        ("segment-header", |f| flip(f, "log/00000001.seg", 60), 13, &["D02"], all),
        ("group-header", |f| flip(f, "log/00000001.seg", 4110), 13, &["D03"], all),
        ("frame", |f| flip(f, "log/00000001.seg", 4096 + 112 + 60), 13, &["D04", "D07"], &[2, 5, 6, 7, 8]),
        ("group-padding", |f| flip(f, "log/00000001.seg", 8191), 13, &["D04"], all),
        ("segment-rows", |f| flip(f, "log/00000001.seg", 12300), 13, &["D15"], all),
        ("segment-trailer", |f| flip(f, "log/00000001.seg", 28600), 13, &["D17"], all),
        ("segment-cut", |f| cut(f, "log/00000001.seg", 8192), 13, &["D20"], &[1, 2, 6, 7, 8]),
        ("no-segment", |f| drop(f.remove("log/00000001.seg")), 13, &["D19"], &[6, 7, 8]),
        ("junk-behind-segment", |f| f.get_mut("log/00000001.seg").unwrap().push(1), 13, &["D21"], all),
        ("torn-tail", |f| flip(f, "log/00000002.seg", 9000), 0, &[], all),
        ("entry-header", |f| flip(f, "pack/00000001.pack", 4100), 13, &["D10"], all),
        ("chunk", |f| flip(f, "pack/00000001.pack", 4096 + 64 + 60), 13, &["D11", "D14"], all),
        ("entry-trailer", |f| flip(f, "pack/00000001.pack", 4096 + 64 + 48 + 152 + 8), 13, &["D12"], all),
        ("pack-padding", |f| flip(f, "pack/00000001.pack", 8000), 13, &["D21"], all),
        ("pack-rows", |f| flip(f, "pack/00000001.pack", 12300), 13, &["D15"], all),
        ("no-pack", |f| drop(f.remove("pack/00000001.pack")), 13, &["D14", "D19"], all),
        (
            "segment-under-another-number",
            |f| drop(f.insert("log/00000003.seg", f["log/00000002.seg"].clone())),
            13,
            &["D02"],
            all,
        ),
        (
            "another-history",
            |f| drop(f.insert("log/00000002.seg", Log::start(2, None).bytes)),
            13,
            &["D05"],
            &[1, 2, 5],
        ),
        ("pack-never-synced", |f| drop(f.insert("pack/00000003.pack", vec![0; 8192])), 0, &[], all),
        ("active-pack-header", |f| flip(f, "pack/00000002.pack", 60), 13, &["D02"], all),
        ("torn-flush", |f| flip(f, "pack/00000002.pack", 12500), 0, &[], all),
        ("temporary-files", |f| drop(f.insert("log/spare.tmp", vec![0; 16384])), 0, &[], all),
    ];
    let judge = |(name, harm, code, codes, printed): &Case<'_>| {
        let mut files = sound.clone();
        harm(&mut files);
        let dir = OnDisk::new(name, &files);
        let said = run(&python, &dir.0, &["--check"]);
        let mut found: Vec<_> =
            said.findings.lines().filter_map(|l| l.get(..3)).filter(|c| c.starts_with('D')).collect();
        found.sort_unstable();
        found.dedup();
        assert_eq!((said.code, found.as_slice()), (*code, *codes), "{name}:\n{}", said.findings);
        let said = run(&python, &dir.0, &[]);
        assert_eq!(lsns(&said), *printed, "{name}:\n{}", said.findings);
    };
    // Most of a run is the interpreter's start.
    std::thread::scope(|threads| {
        for some in cases.chunks(8) {
            threads.spawn(|| some.iter().for_each(&judge));
        }
    });
}

/// A store without manifest: one segment of three groups that is not sealed, as a kill leaves it.
fn three_groups() -> (Files, Vec<usize>) {
    let mut files = store();
    files.retain(|path, _| *path == "SUPERBLOCK" || path.starts_with("pack/"));
    let samples = samples();
    let mut log = Log::start(1, None);
    let mut starts = vec![];
    for some in [&samples[..2], &samples[4..6], &samples[6..]] {
        starts.push(log.bytes.len());
        log.group(some);
    }
    log.bytes.resize(32768, 0);
    files.insert("log/00000001.seg", log.bytes);
    (files, starts)
}

#[test]
fn a_torn_tail_is_told_from_damage_by_what_vouches() {
    let Some(python) = python() else { return };
    let (files, starts) = three_groups();
    let said = run(&python, &OnDisk::new("three", &files).0, &[]);
    assert_eq!((said.code, lsns(&said)), (0, vec![1, 2, 3, 4, 5, 6]), "{}", said.findings);

    // The last group, and nobody vouches: torn.
    let mut torn = files.clone();
    torn.get_mut("log/00000001.seg").unwrap()[starts[2] + 300] ^= 1;
    let said = run(&python, &OnDisk::new("torn", &torn).0, &[]);
    assert_eq!((said.code, lsns(&said)), (0, vec![1, 2, 3, 4]), "{}", said.findings);

    // The next segment says that the last group was there.
    let samples = samples();
    let mut log = Log::start(1, None);
    [&samples[..2], &samples[4..6], &samples[6..]].into_iter().for_each(|some| log.group(some));
    let mut vouched = torn.clone();
    vouched.insert("log/00000002.seg", Log::start(2, Some(&log)).bytes);
    let said = run(&python, &OnDisk::new("vouched", &vouched).0, &[]);
    assert_eq!((said.code, lsns(&said)), (13, vec![1, 2, 3, 4, 6]), "{}", said.findings);
    assert!(said.findings.contains("D04 log/00000001.seg at "), "{}", said.findings);

    // So does the manifest's mark, when the group was never written at all.
    let mut lost = files.clone();
    lost.get_mut("log/00000001.seg").unwrap()[starts[2]..].fill(0);
    let mut m = Manifest::empty();
    m.head.durable_group = 3;
    m.head.durable_segment = 1;
    m.head.durable_end = starts[2] as u64 + 4096;
    m.head.durable_lsn = 6;
    lost.insert("MANIFEST", m.file_bytes(STORE, 0));
    let said = run(&python, &OnDisk::new("lost", &lost).0, &[]);
    assert_eq!((said.code, lsns(&said)), (13, vec![1, 2, 3, 4]), "{}", said.findings);
    assert!(said.findings.contains("D03 log/00000001.seg at "), "{}", said.findings);

    // A group in the middle: a later one vouches.
    let mut middle = files.clone();
    middle.get_mut("log/00000001.seg").unwrap()[starts[1]..starts[2]].fill(0);
    let said = run(&python, &OnDisk::new("middle", &middle).0, &[]);
    assert_eq!((said.code, lsns(&said)), (13, vec![1, 2, 5, 6]), "{}", said.findings);

    // Sealed at a torn tail, the next segment continues before it: what lies there counts for nothing.
    let mut log = Log::start(1, None);
    [&samples[..2], &samples[4..6]].into_iter().for_each(|some| log.group(some));
    let mut next = Log::start(2, Some(&log));
    next.group(&samples[6..7]);
    let mut sealed = torn.clone();
    sealed.insert("log/00000002.seg", next.bytes);
    let said = run(&python, &OnDisk::new("sealed", &sealed).0, &[]);
    assert_eq!((said.code, lsns(&said)), (0, vec![1, 2, 3, 4, 5]), "{}", said.findings);
}

#[test]
fn a_required_kind_that_is_not_known_stops_it() {
    let Some(python) = python() else { return };
    let mut files = store();
    let samples = samples();
    let mut log = Log::start(1, None);
    log.group(&samples[..1]);
    log.group(&[build::Sample { kind: 0x8007, ..sample(&samples[2]) }]);
    log.group(&samples[6..7]);
    files.retain(|path, _| *path == "SUPERBLOCK");
    files.insert("log/00000001.seg", log.bytes);
    let said = run(&python, &OnDisk::new("required", &files).0, &[]);
    assert_eq!((said.code, lsns(&said)), (13, vec![1]));
    assert!(said.findings.contains("D09 log/00000001.seg at 8304"), "{}", said.findings);
}

#[test]
fn an_oversize_pack_streams() {
    let Some(python) = python() else { return };
    let blob: Vec<u8> = (0..600_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let name = FileName::new(FileKind::Pack, 3);
    let place = |offset: usize| Binding::new(STORE, name, offset as u64);
    let mut bytes = FileHeader { flags: FLAG_OVERSIZE, ..FileHeader::new(STORE, name, 0) }.block();
    let entry = EntryHeader {
        magic: mailstrata_format::pack::ENTRY_MAGIC,
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
    bytes.extend_from_slice(&entry.sealed(&place(BLOCK)));
    let mut raw_offset = 0;
    let mut count = 0;
    for raw in blob.chunks(256 << 10) {
        let Chunk { codec, raw_len, mut stored } = plain(raw);
        let head = ChunkHeader {
            magic: mailstrata_format::pack::CHUNK_MAGIC,
            codec,
            reserved: [0; 3],
            index: count,
            raw_len: raw_len as u32,
            stored_len: stored.len() as u32,
            raw_offset,
            check: [0; 16],
            crc: 0,
        };
        stored.resize(stored.len().next_multiple_of(8), 0);
        let head = head.sealed(&place(bytes.len()), mailstrata_format::checksum::body_hash(&stored));
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(&stored);
        raw_offset += raw_len as u64;
        count += 1;
    }
    let row = BlobRow { digest: Digest::of(&blob).0, raw_offset: 0, length: raw_offset };
    let length = (bytes.len() - BLOCK + 64 + 48) as u64;
    let trailer = trailer_bytes(&[row], count, raw_offset, length, &place(bytes.len()));
    bytes.extend_from_slice(&trailer);
    let mut files = store();
    files.insert("pack/00000003.pack", bytes);
    let dir = OnDisk::new("oversize", &files);
    let out = OnDisk::new("oversize-blobs", &Files::new());
    let said = run(&python, &dir.0, &["--blobs", out.0.to_str().unwrap()]);
    assert_eq!((said.code, said.findings.as_str()), (0, ""));
    assert_eq!(std::fs::read(out.0.join(Digest::of(&blob).to_string())).unwrap(), blob);

    // An empty blob has an entry, too.
    let mut pack = Pack::start(3);
    pack.entry(&[plain(b"")], &[b""]);
    files.insert("pack/00000003.pack", pack.bytes);
    let dir = OnDisk::new("empty", &files);
    assert_eq!(run(&python, &dir.0, &["--blobs", out.0.to_str().unwrap()]).code, 0);
    assert_eq!(std::fs::read(out.0.join(Digest::of(b"").to_string())).unwrap(), b"");
}
