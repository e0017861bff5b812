//! Damage costs the item it hit, is named, and costs nothing else.

mod restore_support;

use mailstrata_backup::restore::report::{Became, Cause, Verdict};
use mailstrata_backup::restore::{self, Options, undelete::Window};
use mailstrata_mailstore::target::{Finished, Outcome, RestoreItem, Target, TargetError};
use restore_support::*;
use std::io;
use std::path::{Path, PathBuf};

/// Flips a byte where `needle` lies in one of the files.
fn flip(dir: &Path, needle: &[u8]) -> PathBuf {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(needle.len()).position(|w| w == needle) {
            bytes[at] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            return path;
        }
    }
    panic!("it is in no file");
}

fn stored() -> (Lab, Vec<u8>) {
    let mut lab = Lab::new();
    let mut random = Random(7);
    // Random bytes do not compress, so they are found as they are.
    let victim: Vec<u8> = (0..400).flat_map(|_| random.next().to_le_bytes()).collect();
    for i in 0..60 {
        let content = random.message(2000);
        lab.put(&format!("ok{i}"), T0, "INBOX", &content);
    }
    lab.put("victim", T0, "INBOX", &victim);
    lab.close();
    (lab, victim)
}

#[test]
fn a_damaged_chunk_costs_its_item_and_is_named() {
    let (lab, victim) = stored();
    flip(&lab.path("store/pack"), &victim[1000..1100]);
    for (threads, dry_run) in [(1, false), (3, false), (2, true)] {
        let o = Options { threads, dry_run, ..Options::default() };
        let place = format!("m{threads}");
        let mut lines = Vec::new();
        let view = lab.reader().view();
        let target = &mut lab.maildir(&place);
        let report = restore::account(&view, &lab.alice(), None, target, o, &mut collect(&mut lines)).unwrap();
        assert_eq!((report.counts.restored, report.counts.unrestored), (60, 1));
        assert_eq!(report.verdict(), Verdict::Damage);
        let bad = lines.iter().find(|l| l.outcome == Became::Unrestored).unwrap();
        assert_eq!((bad.item.as_deref(), bad.cause, bad.code), (Some("victim"), Some(Cause::Damaged), Some("D11")));
        assert!(report.damage.unwrap().contains("pack/"));
        assert_eq!(lab.path(&place).exists(), !dry_run);
        if !dry_run {
            assert_eq!(messages(&lab.path(&place)).len(), 60);
        }
    }
}

#[test]
fn a_damaged_chunk_of_a_streamed_message_leaves_no_file() {
    let mut lab = Lab::new();
    let mut random = Random(9);
    let large: Vec<u8> = (0..400_000).flat_map(|_| random.next().to_le_bytes()).collect();
    lab.put("large", T0, "INBOX", &large);
    lab.put("ok", T0, "INBOX", b"ok");
    lab.close();
    flip(&lab.path("store/pack"), &large[2_500_000..2_500_100]);
    let view = lab.reader().view();
    let report = restore::account(&view, &lab.alice(), None, &mut lab.maildir("m"), options(), &mut |_| {}).unwrap();
    assert_eq!((report.counts.restored, report.counts.unrestored), (1, 1));
    assert_eq!(report.unrestored[0].code, Some("D11"), "{:?}", report.unrestored);
    assert_eq!(messages(&lab.path("m")).len(), 1);
    assert!(!tree(&lab.path("m")).iter().any(|p| p.starts_with("tmp/")));
}

#[test]
fn a_damaged_record_never_lets_an_older_state_pass_for_the_last() {
    // A sealed segment has its index with it, one that a clean close left unsealed has it beside it, where it may get lost.
    for (sealed, indexed) in [(true, true), (false, true), (false, false)] {
        let mut lab = Lab::new();
        lab.put("1", T0, "INBOX", b"old");
        lab.put("1", T0 + 5, "A folder that is nowhere else", b"new");
        lab.put("2", T0, "INBOX", b"two");
        if sealed {
            lab.seal();
        }
        lab.close();
        flip(&lab.path("store/log"), b"A folder that is nowhere else");
        if !indexed {
            std::fs::remove_dir_all(lab.path("store/index")).unwrap();
        }
        let (reader, alice) = (lab.reader(), lab.alice());
        let o = || Options { findings: reader.findings().to_vec(), ..options() };
        let view = reader.view();
        let report = restore::account(&view, &alice, None, &mut lab.maildir("m"), o(), &mut |_| {}).unwrap();
        assert_eq!(report.verdict(), Verdict::Damage);
        if !indexed {
            // Whose record it was is lost with it; that it was is not.
            assert!(report.warnings[0].starts_with("D0"), "{report:?}");
            continue;
        }
        assert_eq!((report.counts.restored, report.counts.unrestored), (1, 1));
        assert_eq!(report.unrestored[0].key, key("1").to_string());
        assert_eq!(report.unrestored[0].code, Some("D07"));
        assert_eq!(messages(&lab.path("m"))[0].4, b"two");
        let report = restore::account(&view, &alice, Some(T0), &mut lab.maildir("n"), o(), &mut |_| {}).unwrap();
        assert_eq!((report.counts.restored, report.verdict()), (2, Verdict::Done));
    }
}

#[test]
fn an_undelete_takes_the_last_live_record_when_the_deletion_is_damaged() {
    let mut lab = Lab::new();
    lab.put("1", T0, "Some folder", b"one");
    lab.delete("1", T0 + 5);
    lab.seal();
    lab.close();
    // The deletion repeats the fields, so its record is the second place of this name.
    let path = lab.path("store/log/00000001.seg");
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(11).enumerate().filter(|(_, w)| *w == b"Some folder").map(|(i, _)| i).nth(1).unwrap();
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let window = Window { from: None, until: None, today: jiff::civil::date(2026, 1, 1), folder: None };
    let view = lab.reader().view();
    let report =
        restore::undelete(&view, &lab.alice(), &window, &mut lab.maildir("m"), options(), &mut |_| {}).unwrap();
    assert_eq!(report.counts.restored, 1, "{report:?}");
    assert_eq!(messages(&lab.path("m"))[0].0, "Some folder");
}

/// A target that takes so many items, then is full; and that loses one when they are made durable.
struct Limited {
    room: usize,
    puts: usize,
    lose: Option<[u8; 16]>,
}

impl Target for Limited {
    fn create_folder(&mut self, _: &[u8], _: bool, _: &[(Vec<u8>, Vec<u8>)]) -> Result<Outcome, TargetError> {
        Ok(Outcome::Restored { place: "f".into() })
    }

    fn would_put(&mut self, _: &RestoreItem<'_>) -> Result<Outcome, TargetError> {
        Ok(Outcome::Restored { place: "p".into() })
    }

    fn put(&mut self, _: &RestoreItem<'_>, content: &mut dyn io::Read) -> Result<Outcome, TargetError> {
        if self.puts == self.room {
            let source = io::ErrorKind::StorageFull.into();
            return Err(TargetError::Full { path: "here".into(), source });
        }
        self.puts += 1;
        io::copy(content, &mut io::sink()).unwrap();
        Ok(Outcome::Restored { place: "p".into() })
    }

    fn finish(&mut self) -> Result<Finished, TargetError> {
        let error = || TargetError::Io { doing: "naming", path: "p".into(), source: io::ErrorKind::Other.into() };
        let late = self.lose.take().map(|key| (key, error())).into_iter().collect();
        Ok(Finished { late, ..Finished::default() })
    }
}

#[test]
fn a_full_target_ends_it_and_every_item_left_is_named() {
    let (lab, _) = stored();
    let view = lab.reader().view();
    let mut lines = Vec::new();
    let mut target = Limited { room: 10, puts: 0, lose: None };
    let report = restore::account(&view, &lab.alice(), None, &mut target, options(), &mut collect(&mut lines)).unwrap();
    assert_eq!((report.counts.wanted, report.counts.restored, report.verdict()), (61, 10, Verdict::TargetFull));
    assert_eq!((lines.len(), report.retry().count()), (61, 51));
    assert!(report.unrestored.iter().all(|l| l.cause == Some(Cause::TargetFull) && l.item.is_some()));
}

#[test]
fn what_the_target_loses_on_its_way_to_the_disk_is_not_called_restored() {
    let (lab, _) = stored();
    let view = lab.reader().view();
    let mut lines = Vec::new();
    let mut target = Limited { room: 100, puts: 0, lose: Some(key("ok7").0) };
    let report = restore::account(&view, &lab.alice(), None, &mut target, options(), &mut collect(&mut lines)).unwrap();
    assert_eq!((report.counts.restored, report.counts.unrestored), (60, 1));
    let lost = lines.iter().find(|l| l.item.as_deref() == Some("ok7")).unwrap();
    assert_eq!((lost.outcome, lost.cause, lost.retry), (Became::Unrestored, Some(Cause::TargetError), true));
}
