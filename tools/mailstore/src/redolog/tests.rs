//! What was written from the description is read back, whole, torn and damaged.

use super::files::{LogFiles, sequence_of};
use super::generator::{CODES, Log, Written};
use super::header::{FileHeader, HEADER_LEN, HeaderError};
use super::input::ReadAt;
use super::operation::{name, variants};
use super::record::{Extent, Record, Value};
use super::scan::{Scanner, Skipped, Step};
use super::transaction::{Fate, Transactions};
use proptest::prelude::*;
use std::cell::RefCell;
use std::io::{self, Read as _, Write as _};

fn steps<R: ReadAt>(from: R) -> Vec<Step> {
    let mut scanner = Scanner::new(from, HEADER_LEN, false).unwrap();
    let mut steps = Vec::new();
    loop {
        match scanner.step().unwrap() {
            Step::End => return steps,
            step => steps.push(step),
        }
    }
}

fn same(record: &Record, written: &Written) {
    let head = record.head;
    let what = format!("{} ({}) v1.{} at {}", record.name(), written.code, written.minor, written.offset);
    assert_eq!((head.code, head.version.minor, head.mailbox), (written.code, written.minor, 9), "{what}");
    assert_eq!((head.time_ms, head.constraint), (1_795_309_849_316, 0), "{what}");
    assert_eq!((record.offset, record.end), (written.offset, written.end), "{what}");
    assert_eq!(record.fields, written.want, "{what}");
}

#[test]
fn every_operation_of_every_version_is_read_to_its_last_byte() {
    let mut read = 0;
    for minor in 0..=42 {
        for seed in 0..4 {
            let mut log = Log::new(seed << 8 | minor as u64, 3);
            let mut written: Vec<_> = CODES.iter().map(|&code| log.record(code, minor, code)).collect();
            log.close();
            let header = FileHeader::read(&log.bytes).unwrap();
            assert_eq!((header.sequence, header.open, header.server_id.as_str()), (3, false, "server"));
            assert_eq!(header.file_size, log.bytes.len() as i64);
            written.reverse();
            for step in steps(log.bytes.as_slice()) {
                match step {
                    Step::Record(record) => same(&record, &written.pop().unwrap()),
                    other => panic!("seed {seed}, v1.{minor}, before {:?}: {other:?}", written.last().map(|w| w.code)),
                }
                read += 1;
            }
            assert!(written.is_empty());
        }
    }
    assert_eq!(read, 43 * 4 * CODES.len());
}

#[test]
fn every_code_has_a_name_or_is_refused() {
    for code in -5..200 {
        assert_eq!(name(code).is_some(), CODES.contains(&code), "{code}");
    }
}

/// A log of records with the codes that have one layout: where one of several is cut, another may fit.
fn plain(log: &mut Log, n: usize) -> Vec<Written> {
    let plain: Vec<i32> = CODES.iter().copied().filter(|&code| variants(code) == 1).collect();
    (0..n)
        .map(|i| {
            let code = plain[log.below(plain.len() as u64) as usize];
            let minor = [42, 42, 33, 12][log.below(4) as usize];
            log.record(code, minor, i as i32 + 1)
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Cut anywhere, a finished log gives every record before the cut, and then one torn tail.
    #[test]
    fn a_cut_log_gives_what_is_whole(seed: u64, n in 1usize..12, cut: u64) {
        let mut log = Log::new(seed, 0);
        let written = plain(&mut log, n);
        let len = HEADER_LEN + cut % (log.bytes.len() as u64 - HEADER_LEN + 1);
        let bytes = &log.bytes[..len as usize];
        let whole = written.iter().filter(|w| w.end <= len).count();
        let steps = steps(bytes);
        for (step, w) in steps.iter().zip(written.iter().take(whole)) {
            match step {
                Step::Record(record) => same(record, w),
                other => prop_assert!(false, "{:?}", other),
            }
        }
        let at = written.get(whole).map_or(len, |w| w.offset);
        if at == len {
            prop_assert_eq!(steps.len(), whole);
        } else {
            prop_assert_eq!(steps.len(), whole + 1);
            let torn = Step::Torn { at, left: len - at, last_good: whole.checked_sub(1).map(|i| written[i].offset) };
            prop_assert_eq!(&steps[whole], &torn);
        }
    }

    /// A record whose head is overwritten is passed over, and only it.
    #[test]
    fn damage_costs_the_record_it_hit(seed: u64, n in 2usize..12, which: usize, garbage in prop::array::uniform6(any::<u8>())) {
        prop_assume!(&garbage != b"ZMREDO");
        let mut log = Log::new(seed, 0);
        let written = plain(&mut log, n);
        let which = which % n;
        let at = written[which].offset as usize;
        log.bytes[at..at + 6].copy_from_slice(&garbage);
        let steps = steps(log.bytes.as_slice());
        prop_assert_eq!(steps.len(), n);
        for (i, (step, w)) in steps.iter().zip(&written).enumerate() {
            match step {
                Step::Record(record) if i != which => same(record, w),
                Step::Skipped(s) if i == which => {
                    let last_good = which.checked_sub(1).map(|i| written[i].offset);
                    prop_assert_eq!(*s, Skipped { from: w.offset, to: w.end, why: "no record marker", last_good });
                }
                other => prop_assert!(false, "{}: {:?}", i, other),
            }
        }
    }

    /// A live log that grows by any pieces is read as if it had been there at once.
    #[test]
    fn a_growing_log_gives_each_record_once(seed: u64, n in 1usize..10, pieces in prop::collection::vec(1usize..2000, 1..40)) {
        let mut log = Log::new(seed, 0);
        let written: Vec<_> = (0..n).map(|i| {
            let code = CODES[log.below(CODES.len() as u64) as usize];
            log.record(code, 42, i as i32)
        }).collect();
        // What decides a record of several layouts.
        log.bytes.extend(b"ZMREDO");
        let file = Growing(RefCell::new(log.bytes[..512].to_vec()));
        let mut scanner = Scanner::new(&file, HEADER_LEN, true).unwrap();
        let mut seen = Vec::new();
        let mut pieces = pieces.iter().cycle();
        loop {
            loop {
                match scanner.step().unwrap() {
                    Step::Record(record) => seen.push(record),
                    Step::End | Step::Torn { .. } => break,
                    Step::Skipped(s) => prop_assert!(false, "{:?}", s),
                }
            }
            let have = file.0.borrow().len();
            if have == log.bytes.len() {
                break;
            }
            let to = (have + pieces.next().unwrap()).min(log.bytes.len());
            file.0.borrow_mut().extend(&log.bytes[have..to]);
            scanner.refresh(true).unwrap();
        }
        prop_assert_eq!(seen.len(), n);
        for (record, w) in seen.iter().zip(&written) {
            same(record, w);
        }
        prop_assert_eq!(scanner.pos(), log.bytes.len() as u64 - 6);
    }

    /// Any change of bytes: no panic, an end, and places that only go forward and cover the file.
    #[test]
    fn hostile_bytes_are_covered_without_overlap(seed: u64, n in 1usize..10, changes in prop::collection::vec((any::<u64>(), any::<u8>()), 0..20)) {
        let mut log = Log::new(seed, 0);
        plain(&mut log, n);
        for (at, byte) in changes {
            let len = log.bytes.len() as u64 - HEADER_LEN;
            log.bytes[(HEADER_LEN + at % len) as usize] = byte;
        }
        super::hostile::bytes(&log.bytes[HEADER_LEN as usize..]);
    }
}

struct Growing(RefCell<Vec<u8>>);

impl ReadAt for Growing {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        ReadAt::read_at(self.0.borrow().as_slice(), into, offset)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.borrow().len() as u64)
    }
}

#[test]
fn a_length_that_leads_behind_the_end_is_damage_in_a_finished_log_and_a_reason_to_wait_in_a_live_one() {
    let mut log = Log::new(1, 0);
    let bad = log.record(46, 42, 1);
    let good = log.record(3, 42, 1);
    let at = bad.offset as usize + 46;
    log.bytes[at..at + 4].copy_from_slice(&(1 << 24 | 5i32).to_be_bytes());
    let found = steps(log.bytes.as_slice());
    assert!(matches!(&found[0], Step::Skipped(s) if s.from == bad.offset && s.to == good.offset), "{found:?}");
    assert!(matches!(&found[1], Step::Record(r) if r.offset == good.offset));
    let mut live = Scanner::new(&log.bytes, HEADER_LEN, true).unwrap();
    assert!(matches!(live.step().unwrap(), Step::Torn { at, .. } if at == bad.offset));
    // When the server has closed it, it is decided.
    live.refresh(false).unwrap();
    assert!(matches!(live.step().unwrap(), Step::Skipped(_)));
}

#[test]
fn headers_that_are_none_are_refused() {
    let log = Log::new(1, 0);
    assert!(matches!(FileHeader::read(&&log.bytes[..511]), Err(HeaderError::NotRedoLog(_))));
    let mut other = log.bytes.clone();
    other[0] = b'Y';
    assert!(matches!(FileHeader::read(&other), Err(HeaderError::NotRedoLog(_))));
    let mut newer = log.bytes.clone();
    newer[171] = 43;
    assert!(matches!(FileHeader::read(&newer), Err(HeaderError::TooNew(_))));
    let mut old = log.bytes;
    old[168..172].fill(0);
    assert_eq!(FileHeader::read(&old).unwrap().version.to_string(), "1.0");
}

#[test]
fn only_committed_changes_count_and_each_once() {
    let mut log = Log::new(5, 0);
    let order =
        [(20, 1), (20, 2), (3, 2), (21, 3), (4, 3), (20, 1), (3, 1), (3, 1), (20, 1), (3, 1), (3, 9), (1, 0), (20, 7)];
    for (code, counter) in order {
        log.record(code, 42, counter);
    }
    let mut transactions = Transactions::default();
    let fates: Vec<_> = steps(log.bytes.as_slice())
        .into_iter()
        .map(|step| match step {
            Step::Record(record) => match transactions.take(record, ()) {
                Fate::Open => "open",
                Fate::Again => "again",
                Fate::Committed(_) => "committed",
                Fate::CommittedAgain => "committed again",
                Fate::Aborted => "aborted",
                Fate::Orphan => "orphan",
                Fate::Nothing => "nothing",
            },
            other => panic!("{other:?}"),
        })
        .collect();
    let want = [
        "open",
        "open",
        "committed",
        "open",
        "aborted",
        "again",
        "committed",
        "committed again",
        "open",
        "committed again",
        "orphan",
        "nothing",
        "open",
    ];
    assert_eq!(fates, want);
    assert_eq!(transactions.open_len(), 1);
}

#[test]
fn content_is_streamed_and_unpacked_when_its_length_is_not_its_size() {
    let text = b"Subject: x\r\n\r\nbody\r\n".repeat(1000);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&text).unwrap();
    let gzip = gzip.finish().unwrap();
    let read = |bytes: &Vec<u8>, size: Option<u64>| {
        let mut out = Vec::new();
        let extent = Extent { offset: 0, length: bytes.len() as u64 };
        super::content::open(bytes, extent, size).unwrap().read_to_end(&mut out).map(|_| out)
    };
    assert_eq!(read(&gzip, Some(text.len() as u64)).unwrap(), text);
    // A message that is itself a gzip file stays one.
    assert_eq!(read(&gzip, Some(gzip.len() as u64)).unwrap(), gzip);
    assert_eq!(read(&gzip, None).unwrap(), gzip);
    assert_eq!(read(&text, Some(3)).unwrap(), text);
    assert!(read(&gzip[..gzip.len() / 2].to_vec(), Some(text.len() as u64)).is_err());
}

#[test]
fn files_come_in_sequence_order_and_gaps_are_seen() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("archive")).unwrap();
    let write = |name: &str, sequence| std::fs::write(dir.path().join(name), Log::new(1, sequence).bytes).unwrap();
    write("redo.log", 12);
    write("archive/redo-20261122.011128.263-seq9.log", 9);
    write("archive/redo-20261122.021128.263-seq10.log", 10);
    std::fs::write(dir.path().join("archive/redo-20261122.021128.263-seq11.log"), b"no log").unwrap();
    std::fs::write(dir.path().join("archive/notes.txt"), b"not meant").unwrap();
    let logs = LogFiles::open(&[dir.path().to_owned(), dir.path().join("redo.log"), dir.path().join("none")]);
    assert_eq!(logs.found.iter().map(|f| f.header.sequence).collect::<Vec<_>>(), [9, 10, 12]);
    assert_eq!(logs.gaps().iter().map(|g| (g.after, g.before)).collect::<Vec<_>>(), [(10, 12)]);
    let mut unread: Vec<_> = logs.unread.iter().map(|u| matches!(u.source, HeaderError::Io(_))).collect();
    unread.sort_unstable();
    assert_eq!(unread, [false, true]);
    assert_eq!(sequence_of("redo-20261122.011128.263-seq9.log"), Some(9));
    assert_eq!(sequence_of("redo-x-seq-1.log"), None);
    assert_eq!(sequence_of("~tmp-redo-20261122.011128.263-seq9.log"), None);
}

/// Against logs that a server wrote, with what is in them beside each: `X.log` and `X.expected.json` in the directory that
/// `MAILSTRATA_REDOLOG_SAMPLES` names. They are not part of this tree.
#[test]
fn genuine_logs_are_read_as_expected() {
    let Some(dir) = std::env::var_os("MAILSTRATA_REDOLOG_SAMPLES") else {
        println!("skipped: MAILSTRATA_REDOLOG_SAMPLES names no directory of genuine redo logs");
        return;
    };
    let mut checked = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "log") {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        let text = std::fs::read(path.with_extension("expected.json")).unwrap();
        let expected: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let header = FileHeader::read(&bytes).unwrap();
        assert_eq!(header.file_size, bytes.len() as i64);
        assert_eq!(serde_json::Value::from(header.last_op_ms), expected["header"]["last_op_ms"]);
        assert_eq!(serde_json::Value::from(header.created_ms), expected["header"]["create_ms"]);
        let want = expected["records"].as_array().unwrap();
        let found = steps(bytes.as_slice());
        assert_eq!(found.len(), want.len(), "{}", path.display());
        let mut transactions = Transactions::default();
        let mut committed = Vec::new();
        for (step, want) in found.into_iter().zip(want) {
            let Step::Record(record) = step else { panic!("{}: {step:?}", path.display()) };
            let mut json = Vec::new();
            record.write_json::<&[u8]>(&[], true, None, &mut json).unwrap();
            let got: serde_json::Value = serde_json::from_slice(&json).unwrap();
            for (key, value) in got.as_object().unwrap() {
                if key == "fields" {
                    let mut want = want["fields"].clone();
                    if let Some(data) = want.get_mut("data").and_then(|d| d.as_object_mut()) {
                        data.remove("sha256");
                    }
                    // Beside the logs as a map, here in the order of the record.
                    if let Some(uids) = want.get_mut("uids") {
                        let map = uids.as_object().unwrap().iter();
                        *uids = map
                            .map(|(id, uid)| serde_json::json!({"id": id.parse::<i64>().unwrap(), "uid": uid}))
                            .collect();
                    }
                    assert_eq!(*value, want, "{} at {}", path.display(), record.offset);
                } else if key != "at" {
                    assert_eq!(*value, want[key], "{} at {}: {key}", path.display(), record.offset);
                }
            }
            if let Fate::Committed(change) = transactions.take(record, ()) {
                committed.push(serde_json::Value::from(change.0.head.transaction.to_string()));
            }
        }
        assert_eq!(serde_json::Value::from(committed), expected["commit_order"]);
        checked += 1;
    }
    assert!(checked > 0, "no sample was found");
}

#[test]
fn json_is_valid_and_carries_content() {
    let mut log = Log::new(11, 0);
    let written: Vec<_> = CODES.iter().map(|&code| log.record(code, 42, 1)).collect();
    for (step, w) in steps(log.bytes.as_slice()).iter().zip(written) {
        let Step::Record(record) = step else { panic!("{step:?}") };
        let mut json = Vec::new();
        record.write_json(&[("sequence", "4".to_owned())], true, Some(&log.bytes), &mut json).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(json["op"], name(w.code).unwrap());
        assert_eq!((json["sequence"].as_i64(), json["offset"].as_u64()), (Some(4), Some(w.offset)));
        if let Some(Value::Data(extent)) = record.get("data") {
            let text = json["fields"]["data"]["base64"].as_str().unwrap();
            let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text).unwrap();
            assert_eq!(bytes, &log.bytes[extent.offset as usize..(extent.offset + extent.length) as usize]);
        }
        let mut line = Vec::new();
        record.write_text(true, &mut line).unwrap();
        assert!(!line.iter().any(|&b| b < 32), "{}", String::from_utf8_lossy(&line));
    }
}

/// The corpus of `fuzz/`, replayed without a fuzzer. With `MAILSTRATA_WRITE_CORPUS` the first inputs are written.
#[test]
fn the_fuzz_corpus_does_no_harm() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/redolog");
    if std::env::var_os("MAILSTRATA_WRITE_CORPUS").is_some() {
        std::fs::create_dir_all(&dir).unwrap();
        for seed in 0..6 {
            let mut log = Log::new(seed, 0);
            while log.bytes.len() < 1500 {
                let before = log.bytes.len();
                let code = CODES[log.below(CODES.len() as u64) as usize];
                log.record(code, if seed % 2 == 0 { 42 } else { 30 }, 1);
                if log.bytes.len() > 8000 {
                    log.bytes.truncate(before);
                }
            }
            std::fs::write(dir.join(format!("seed-{seed}")), &log.bytes[HEADER_LEN as usize..]).unwrap();
        }
    }
    let mut replayed = 0;
    for entry in std::fs::read_dir(&dir).unwrap() {
        super::hostile::bytes(&std::fs::read(entry.unwrap().path()).unwrap());
        replayed += 1;
    }
    assert!(replayed >= 6, "no corpus");
}
