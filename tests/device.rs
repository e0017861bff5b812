//! Real file systems: ext4 and XFS under write loss at any moment, file systems that are full, read-only media. What needs
//! root, FUSE, loop devices or a tool says that it is skipped, and why, where that is not to be had.

use mailstrata_engine::disk::Clock;
use mailstrata_engine::{Change, Error, Event, Options, Store};
use mailstrata_format::Lsn;
use mailstrata_tests::device::{Cuts, Mounted, Recorder, make_image, tool};
use mailstrata_tests::drive::{Strictness, compare, put_blobs, settle, small};
use mailstrata_tests::model::Model;
use mailstrata_tests::program::Program;
use mailstrata_tests::rng::{Rng, Tally, cases};
use mailstrata_tests::sim::SimClock;
use mailstrata_tests::workload::{Bounds, Step, Workload};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

fn options(clock: &Arc<SimClock>, reserve_bytes: u64) -> Result<Options, String> {
    let real = Options::new().map_err(|e| e.to_string())?;
    Ok(Options { clock: clock.clone(), reserve_bytes, ..real })
}

/// A promise: so many events had reached the device when this LSN was acknowledged.
type Promise = (usize, Lsn);

/// Works on a store on a recorded device. Returns the model of all that was submitted, and the promises.
fn work(dir: &Path, clock: &Arc<SimClock>, recorder: &Recorder, seed: u64) -> Result<(Model, Vec<Promise>), String> {
    let options = options(clock, 0)?;
    let said = |e: Error| e.to_string();
    Store::create(dir, &small(64 << 10, 64 << 10), &options).map_err(said)?;
    let mut promises = vec![(recorder.now(), Lsn(0))];
    let mut model = Model::default();
    let bounds = Bounds { accounts: 2, items: 8, blob_max: 90_000, attribute_max: 3000, incarnations: true };
    let mut work = Workload::new(seed, bounds, clock.now());
    let mut store = Store::open(dir, &options).map_err(said)?;
    for at in 0..70 {
        let mut last = None;
        for _ in 0..1 + work.rng().below(6) {
            let Step::Record { event, blobs } = work.next_step() else { continue };
            put_blobs(&store, &mut model, &blobs)?.map_err(said)?;
            let ticket = store.submit(&event);
            let answer = match &ticket {
                Ok(t) => Ok((t.lsn(), model.lsn() >= t.lsn())),
                Err(e) => Err(e.clone()),
            };
            settle(&mut model, &event, clock.now(), answer)?;
            // A repeated source has the ticket of its first time: the newest one vouches for all.
            last = ticket.ok().into_iter().chain(last).max_by_key(mailstrata_engine::Ticket::lsn);
        }
        if let Some(t) = last {
            let lsn = t.wait().map_err(said)?.lsn;
            promises.push((recorder.now(), lsn));
        }
        if at % 25 == 20 {
            if at == 20 {
                store.close().map_err(said)?
            } else {
                drop(store)
            }
            store = Store::open(dir, &options).map_err(said)?;
        }
    }
    drop(store);
    Ok((model, promises))
}

/// Opens what a cut left.
fn verify(dir: &Path, clock: &Arc<SimClock>, model: &Model, promised: Lsn, seed: u64) -> Result<(), String> {
    let options = options(clock, 0)?;
    for round in ["first", "second"] {
        let store = Store::open(dir, &options).map_err(|e| format!("{round} open: {e}"))?;
        let lsn = store.view().lsn();
        if lsn < promised {
            return Err(format!("{round}: ends with LSN {lsn}, {promised} was acknowledged"));
        }
        compare(&store.view(), &model.until(lsn), Strictness::Exact, seed).map_err(|e| format!("{round}: {e}"))?;
        if let Some(damage) = store.findings().first() {
            return Err(format!("{round}: finds damage: {damage}"));
        }
        store.close().map_err(|e| format!("{round} close: {e}"))?;
    }
    Ok(())
}

/// `Err`: why it cannot be tried here.
fn write_loss(kind: &str, bytes: u64, seed: u64, tally: &mut Tally) -> Result<(), String> {
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let at = |name: &str| dir.path().join(name);
    make_image(kind, &at("base"), bytes)?;
    let copy = |from: &Path, to: &Path| {
        tool("cp", &["--sparse=always", &from.display().to_string(), &to.display().to_string()])
    };
    copy(&at("base"), &at("current"))?;
    let recorder = Recorder::start(&at("current"), &at("disk"))?;
    let clock = Arc::new(SimClock::default());
    let mounted = Mounted::image(&recorder.path, at("mount"), "noatime")?;
    let done = work(&mounted.dir.join("store"), &clock, &recorder, seed);
    let end = recorder.now();
    drop(mounted);
    let log = recorder.log();
    drop(recorder);
    let (model, promises) = done.unwrap_or_else(|e| panic!("{kind}: {e}"));
    let created = promises[0].0;
    let mut cuts = Cuts::new(&log, &at("base")).map_err(|e| e.to_string())?;
    let mut rng = Rng::new(seed);
    let mut moments: Vec<usize> = (0..cases(100)).map(|_| created + rng.index(end - created)).collect();
    moments.sort_unstable();
    for moment in moments {
        cuts.cut(moment, &mut rng, &at("cut"))?;
        let promised = promises.iter().filter(|p| p.0 <= moment).map(|p| p.1).max().unwrap_or_default();
        let result = Mounted::image(&at("cut"), at("after"), "noatime")
            .and_then(|m| verify(&m.dir.join("store"), &clock, &model, promised, seed));
        tally.case(seed, result.map_err(|e| format!("{kind}, after {moment} of {end} events: {e}")));
    }
    println!("{kind}: {} writes and flushes, {} LSNs", end - created, model.lsn());
    Ok(())
}

fn on_file_system(kind: &str, bytes: u64) {
    let start = Instant::now();
    let mut tally = Tally::default();
    for seed in 1..=3 {
        if let Err(e) = write_loss(kind, bytes, seed, &mut tally) {
            println!("skipped: write loss on {kind}: {e}");
            return;
        }
    }
    tally.finish(&format!("write loss on {kind}"), format_args!("{:?}", start.elapsed()));
}

#[test]
fn ext4_under_write_loss() {
    on_file_system("ext4", 64 << 20);
}

#[test]
fn xfs_under_write_loss() {
    on_file_system("xfs", 320 << 20);
}

/// Fills the rest of a file system, to the last byte.
fn fill(path: &Path) {
    use std::io::Write as _;
    let mut f = std::fs::File::create(path).unwrap();
    for size in [1 << 20, 4096, 512, 1] {
        let block = vec![1u8; size];
        while f.write(&block).is_ok_and(|n| n == size) {}
    }
    // What was not written out yet fails here at the latest.
    let _ = f.sync_all();
}

fn full(mounted: &Mounted) -> Result<(u64, u64), String> {
    let clock = Arc::new(SimClock::default());
    let said = |e: Error| e.to_string();
    let dir = mounted.dir.join("store");
    let filler = mounted.dir.join("filler");
    let with_reserve = options(&clock, 4 << 20)?;
    Store::create(&dir, &small(256 << 10, 256 << 10), &with_reserve).map_err(said)?;
    let mut model = Model::default();
    let bounds = Bounds { items: 60, blob_max: 60_000, ..Bounds::default() };
    let mut work = Workload::new(7, bounds, clock.now());
    let mut acknowledged = Lsn(0);
    let mut refusals = 0;
    // 1. The reserve is reached: new work is refused, deletions are taken.
    let store = Store::open(&dir, &with_reserve).map_err(said)?;
    let record =
        |store: &Store, model: &mut Model, event: &Event, blobs: &[Arc<[u8]>]| -> Result<Option<Error>, String> {
            if let Err(e) = put_blobs(store, model, blobs)? {
                return Ok(Some(e));
            }
            let answer = store.record(event).map(|r| (r.lsn, r.duplicate));
            match settle(model, event, clock.now(), answer)? {
                mailstrata_tests::drive::Fate::Done(_) => Ok(None),
                mailstrata_tests::drive::Fate::Refused(e) | mailstrata_tests::drive::Fate::Unknown(e) => Ok(Some(e)),
            }
        };
    for n in 0..4000 {
        if n == 60 {
            std::fs::File::create(&filler)
                .and_then(|f| {
                    let free = mailstrata_engine::disk::Disk::free_space(
                        &mailstrata_engine::disk::Posix::new(mailstrata_engine::disk::posix::Backend::Auto)?,
                        &mounted.dir,
                    )?;
                    std::io::copy(&mut std::io::Read::take(std::io::repeat(1), free.saturating_sub(5 << 20)), &mut &f)?;
                    f.sync_all()
                })
                .map_err(|e| e.to_string())?;
        }
        let Step::Record { event, blobs } = work.next_step() else { continue };
        match record(&store, &mut model, &event, &blobs)? {
            None => acknowledged = model.lsn(),
            Some(Error::NearlyFull { .. }) => {
                refusals += 1;
                break;
            }
            Some(e) => return Err(format!("before the reserve was reached: {e}")),
        }
    }
    if refusals == 0 {
        return Err("the reserve was never reached".into());
    }
    let alive = model.keys().filter_map(|k| model.state(&k, None).filter(|t| !t.deleted).cloned());
    let deletions: Vec<Event> = alive
        .take(10)
        .map(|t| Event {
            account: t.account,
            account_id: Some(t.account_id),
            item: t.item,
            kind: t.kind,
            change: Change::Delete,
            at: None,
            not_before: None,
            source: None,
            derived: false,
        })
        .collect();
    for event in &deletions {
        if let Some(e) = record(&store, &mut model, event, &[])? {
            return Err(format!("a deletion on a nearly full file system: {e}"));
        }
    }
    acknowledged = acknowledged.max(model.lsn());
    store.close().map_err(|e| format!("closing on a nearly full file system: {e}"))?;
    // 2. Not a byte is left: what fails is an error, what was acknowledged stays, reading works.
    let without = options(&clock, 0)?;
    let mut taken = 0;
    if let Ok(store) = Store::open(&dir, &without) {
        fill(&mounted.dir.join("more"));
        for _ in 0..300 {
            let Step::Record { event, blobs } = work.next_step() else { continue };
            match record(&store, &mut model, &event, &blobs)? {
                None => {
                    acknowledged = acknowledged.max(store.view().lsn());
                    taken += 1;
                }
                Some(e) if e.is_full() => {
                    refusals += 1;
                    if matches!(e, Error::Poisoned(_)) {
                        break;
                    }
                }
                Some(e) => return Err(format!("on a full file system: {e:?}")),
            }
        }
    }
    let reader = Store::open_read(&dir, &without).map_err(|e| format!("reading on a full file system: {e}"))?;
    let lsn = reader.view().lsn();
    if lsn < acknowledged {
        return Err(format!("ends with LSN {lsn}, {acknowledged} was acknowledged"));
    }
    compare(&reader.view(), &model.until(lsn), Strictness::Exact, 7)?;
    drop(reader);
    // 3. Room again.
    for f in [&filler, &mounted.dir.join("more")] {
        std::fs::remove_file(f).map_err(|e| e.to_string())?;
    }
    let store = Store::open(&dir, &without).map_err(|e| format!("with room again: {e}"))?;
    let lsn = store.view().lsn();
    if lsn < acknowledged {
        return Err(format!("with room again: ends with LSN {lsn}, {acknowledged} was acknowledged"));
    }
    let mut model = model.until(lsn);
    for _ in 0..30 {
        let Step::Record { event, blobs } = work.next_step() else { continue };
        if let Some(e) = record(&store, &mut model, &event, &blobs)? {
            return Err(format!("with room again: {e}"));
        }
    }
    compare(&store.view(), &model, Strictness::Exact, 7)?;
    store.close().map_err(said)?;
    Ok((refusals, taken))
}

#[test]
fn a_full_file_system_refuses_and_goes_on_with_room_again() {
    let dir = tempfile::tempdir().unwrap();
    let memory = Mounted::memory(dir.path().join("memory"), 24 << 20);
    let ext4 = make_image("ext4", &dir.path().join("image"), 48 << 20)
        .and_then(|()| Mounted::image(&dir.path().join("image"), dir.path().join("ext4"), "noatime"));
    for (name, mounted) in [("tmpfs", memory), ("ext4", ext4)] {
        match mounted {
            Err(e) => println!("skipped: a full {name}: {e}"),
            Ok(m) => match full(&m) {
                Ok((refused, taken)) => println!("a full {name}: {refused} refusals, {taken} taken with nothing free"),
                Err(e) => panic!("a full {name}: {e}"),
            },
        }
    }
}

/// Everything that reads works where nothing can be written; what writes says so.
fn reads_only(p: &Program, expected: &[serde_json::Value], name: &str) {
    assert_eq!(p.export(), expected, "{name}");
    p.ok(["accounts"]);
    p.ok(["info"]);
    let back = p.dir.path().join(format!("back-{name}"));
    p.ok(["restore", "account", "a@x", "--to", &format!("maildir:{}", back.display())]);
    let out = p
        .feed(["append"], b"{\"account\":\"a@x\",\"item\":\"new\",\"kind\":\"message\",\"op\":\"put\",\"state\":{}}\n");
    let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.code().is_some_and(|c| c != 0), "{name}: append succeeded");
    assert!(!stderr.contains("panicked"), "{name}: {stderr}");
    assert!(stderr.to_lowercase().contains("read-only"), "{name}: {stderr}");
    assert!(!String::from_utf8_lossy(&out.stdout).contains("\"ack\""), "{name}: an acknowledgement");
    assert_eq!(p.export(), expected, "{name}, afterwards");
}

#[test]
fn a_store_on_read_only_media() {
    let mut p = Program::new();
    let kept = p.dir.path().join("kept");
    p.store = kept.clone();
    p.ok(["init", "--segment-size", "64K", "--pack-size", "64K"]);
    let line = |n: u32| {
        let body = "QUJD".repeat(1 + n as usize % 600);
        format!(
            "{{\"account\":\"a@x\",\"item\":\"{}\",\"kind\":\"message\",\"op\":\"put\",\"state\":{{\"folder\":\"INBOX\"}},\"blob\":{{\"base64\":\"{body}\"}}}}\n",
            n % 90
        )
    };
    p.append(&(0..400).map(line).collect::<String>());
    let expected = p.export();
    let mut tried = 0;
    match Mounted::memory(p.dir.path().join("memory"), 64 << 20) {
        Err(e) => println!("skipped: a file system that is mounted read-only: {e}"),
        Ok(m) => {
            tool("cp", &["-r", &kept.display().to_string(), &m.dir.display().to_string()]).unwrap();
            m.read_only().unwrap();
            p.store = m.dir.join("kept");
            reads_only(&p, &expected, "tmpfs");
            tried += 1;
        }
    }
    let image = p.dir.path().join("squash");
    let made =
        tool("mksquashfs", &[&kept.display().to_string(), &image.display().to_string(), "-quiet", "-no-progress"]);
    match made.and_then(|_| Mounted::image(&image, p.dir.path().join("mount"), "ro")) {
        Err(e) => println!("skipped: squashfs: {e}"),
        Ok(m) => {
            p.store = m.dir.clone();
            reads_only(&p, &expected, "squashfs");
            tried += 1;
        }
    }
    println!("read-only media: {tried} of 2");
}

#[test]
fn a_file_system_that_is_aborted_acknowledges_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let mounted = make_image("ext4", &image, 32 << 20)
        .and_then(|()| Mounted::image(&image, dir.path().join("mount"), "noatime,errors=remount-ro"));
    let mounted = match mounted {
        Ok(m) => m,
        Err(e) => {
            println!("skipped: an aborted ext4: {e}");
            return;
        }
    };
    let trigger = format!("/sys/fs/ext4/{}/trigger_fs_error", mounted.device_name().unwrap_or_default());
    use mailstrata_engine::disk::posix::Backend;
    use mailstrata_engine::disk::{Disk as _, OpenMode, Posix};
    let disk = Posix::new(Backend::Posix).unwrap();
    let file = disk.open(&mounted.dir.join("file"), OpenMode::CreateNew).unwrap();
    let clock = Arc::new(SimClock::default());
    let options = options(&clock, 0).unwrap();
    let store = mounted.dir.join("store");
    Store::create(&store, &small(64 << 10, 64 << 10), &options).unwrap();
    let open = Store::open(&store, &options).unwrap();
    let mut model = Model::default();
    let mut work = Workload::new(3, Bounds { blob_max: 20_000, ..Bounds::default() }, clock.now());
    let mut record = |open: &Store, model: &mut Model| {
        let Step::Record { event, blobs } = work.next_step() else { return true };
        if put_blobs(open, model, &blobs).unwrap().is_err() {
            return false;
        }
        let answer = open.record(&event).map(|r| (r.lsn, r.duplicate));
        matches!(settle(model, &event, clock.now(), answer).unwrap(), mailstrata_tests::drive::Fate::Done(_))
    };
    assert!((0..40).all(|_| record(&open, &mut model)));
    let acknowledged = open.view().lsn();
    file.write_at(&[1; 4096], 0, false).unwrap();
    if let Err(e) = std::fs::write(&trigger, "broken by a test") {
        println!("skipped: an aborted ext4: {trigger}: {e}");
        return;
    }
    file.sync().expect_err("a sync on an aborted file system");
    while record(&open, &mut model) {
        assert!(model.lsn().0 < acknowledged.0 + 5, "records are acknowledged on an aborted file system");
    }
    drop(open);
    drop(file);
    drop(mounted);
    let mounted = Mounted::image(&image, dir.path().join("mount"), "noatime").unwrap();
    verify(&mounted.dir.join("store"), &clock, &model, acknowledged, 3).unwrap();
}
