//! The simulated disk is what other tests trust: here it is tested itself.

use super::*;
use mailstrata_engine::disk::{Buffer, Done, Op, read_full, run_all, write_full};

fn path(name: &str) -> PathBuf {
    Path::new("/d").join(name)
}

fn disk() -> SimDisk {
    let disk = SimDisk::new(1);
    disk.create_dir(Path::new("/d")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk
}

/// A file whose name is stable and whose content is not.
fn file(disk: &SimDisk, name: &str) -> Arc<dyn File> {
    let f = disk.open(&path(name), OpenMode::CreateNew).unwrap();
    disk.sync_dir(Path::new("/d")).unwrap();
    f
}

/// What a file holds after many power cuts.
fn outcomes(disk: &SimDisk, name: &str) -> BTreeSet<Option<Vec<u8>>> {
    (0..200).map(|seed| cut(disk, seed, Survival::Random).bytes(&path(name))).collect()
}

/// A power cut of a copy that keeps the original going.
fn cut(disk: &SimDisk, seed: u64, how: Survival) -> SimDisk {
    disk.keep_snapshots();
    disk.power_cut_at(0, seed, how).unwrap()
}

#[test]
fn synced_bytes_are_never_lost_and_others_may_be() {
    let disk = disk();
    let f = file(&disk, "a");
    write_full(&*f, &[1; 1024], 0, false).unwrap();
    f.sync().unwrap();
    write_full(&*f, &[2; 512], 512, false).unwrap();
    let old = vec![1; 1024];
    let new = [vec![1; 512], vec![2; 512]].concat();
    assert_eq!(outcomes(&disk, "a"), BTreeSet::from([Some(old.clone()), Some(new.clone())]));
    assert_eq!(cut(&disk, 0, Survival::Nothing).bytes(&path("a")), Some(old));
    assert_eq!(cut(&disk, 0, Survival::Everything).bytes(&path("a")), Some(new.clone()));
    f.sync().unwrap();
    assert_eq!(outcomes(&disk, "a"), BTreeSet::from([Some(new)]));
}

#[test]
fn a_write_tears_at_sectors_and_nowhere_else() {
    let disk = disk();
    let f = file(&disk, "a");
    write_full(&*f, &[1; 4096], 0, true).unwrap();
    write_full(&*f, &[2; 3000], 500, false).unwrap();
    let mut torn = 0;
    for bytes in outcomes(&disk, "a").into_iter().flatten() {
        assert_eq!(bytes.len(), 4096);
        assert!(bytes[..500].iter().chain(&bytes[3500..]).all(|b| *b == 1));
        for sector in bytes[512..3072].chunks(512) {
            assert!(sector.iter().all(|b| *b == sector[0]), "torn within a sector");
        }
        torn += usize::from(bytes[512] != bytes[1024]);
    }
    assert!(torn > 10, "{torn}");
}

#[test]
fn a_durable_write_keeps_itself_and_the_length_alone() {
    let disk = disk();
    let f = file(&disk, "a");
    write_full(&*f, &[3; 4096], 4096, false).unwrap();
    write_full(&*f, &[4; 512], 0, true).unwrap();
    let seen = outcomes(&disk, "a");
    assert!(seen.len() > 3);
    for bytes in seen.into_iter().flatten() {
        assert_eq!((bytes.len(), &bytes[..512]), (8192, &[4; 512][..]));
    }
    // Over dirty bytes: the older version cannot come back.
    write_full(&*f, &[5; 512], 4096, true).unwrap();
    assert!(outcomes(&disk, "a").into_iter().flatten().all(|b| b[4096] == 5));
}

#[test]
fn length_without_data_and_no_data_without_length() {
    let disk = disk();
    let f = file(&disk, "a");
    write_full(&*f, &[7; 2048], 0, false).unwrap();
    let seen = outcomes(&disk, "a");
    assert!(seen.contains(&Some(vec![])) && seen.contains(&Some(vec![0; 2048])) && seen.contains(&Some(vec![7; 2048])));
    assert!(seen.iter().flatten().all(|b| b.is_empty() || b.len() == 2048));
}

#[test]
fn a_cut_that_was_not_synced_may_be_undone() {
    let disk = disk();
    let f = file(&disk, "a");
    write_full(&*f, &[9; 2048], 0, true).unwrap();
    f.set_len(1000).unwrap();
    f.set_len(2048).unwrap();
    let now = [vec![9; 1000], vec![0; 1048]].concat();
    assert_eq!(disk.bytes(&path("a")), Some(now.clone()));
    let cut_only = vec![9; 1000];
    assert_eq!(outcomes(&disk, "a"), BTreeSet::from([Some(vec![9; 2048]), Some(cut_only), Some(now.clone())]));
    write_full(&*f, &[9; 512], 0, true).unwrap();
    assert_eq!(outcomes(&disk, "a"), BTreeSet::from([Some(now)]));
}

#[test]
fn names_are_lost_without_a_directory_sync() {
    let disk = disk();
    let f = disk.open(&path("a"), OpenMode::CreateNew).unwrap();
    write_full(&*f, b"x", 0, true).unwrap();
    f.sync().unwrap();
    assert_eq!(outcomes(&disk, "a"), BTreeSet::from([None, Some(b"x".to_vec())]));
    disk.sync_dir(Path::new("/d")).unwrap();
    assert_eq!(outcomes(&disk, "a"), BTreeSet::from([Some(b"x".to_vec())]));
    disk.remove(&path("a")).unwrap();
    assert_eq!(outcomes(&disk, "a"), BTreeSet::from([None, Some(b"x".to_vec())]));
    // A directory whose own name is lost takes all below with it.
    disk.create_dir(&path("sub")).unwrap();
    write_full(&*disk.open(&path("sub/b"), OpenMode::CreateNew).unwrap(), b"y", 0, true).unwrap();
    disk.sync_dir(&path("sub")).unwrap();
    assert_eq!(outcomes(&disk, "sub/b"), BTreeSet::from([None, Some(b"y".to_vec())]));
}

#[test]
fn a_rename_is_done_or_not() {
    let disk = disk();
    write_full(&*file(&disk, "a"), b"old", 0, true).unwrap();
    let new = disk.open(&path("tmp"), OpenMode::CreateNew).unwrap();
    write_full(&*new, b"new", 0, true).unwrap();
    disk.rename(&path("tmp"), &path("a")).unwrap();
    assert_eq!(outcomes(&disk, "a"), BTreeSet::from([Some(b"old".to_vec()), Some(b"new".to_vec())]));
    let both = |seed| {
        let after = cut(&disk, seed, Survival::Random);
        (after.bytes(&path("a")), after.bytes(&path("tmp")))
    };
    assert!((0..200).all(|s| both(s) != (Some(b"new".to_vec()), Some(b"new".to_vec()))));
    disk.sync_dir(Path::new("/d")).unwrap();
    assert_eq!(outcomes(&disk, "a"), BTreeSet::from([Some(b"new".to_vec())]));
    assert_eq!(outcomes(&disk, "tmp"), BTreeSet::from([None]));
}

#[test]
fn after_a_failed_sync_the_next_one_lies() {
    for effect in [Effect::FsyncGate, Effect::Error(libc::EIO)] {
        let disk = disk();
        let f = file(&disk, "a");
        write_full(&*f, &[1; 512], 0, true).unwrap();
        write_full(&*f, &[2; 512], 0, false).unwrap();
        disk.plan(Fault::once(Which::Kind(OpKind::Sync), 1, effect));
        assert_eq!(f.sync().unwrap_err().raw_os_error(), Some(libc::EIO));
        f.sync().unwrap();
        assert_eq!(outcomes(&disk, "a"), BTreeSet::from([Some(vec![1; 512])]));
        assert_eq!(disk.hits(), 1);
    }
}

#[test]
fn faults_strike_where_they_were_planned() {
    let disk = disk();
    let f = file(&disk, "a");
    disk.plan(Fault::once(Which::Kind(OpKind::WriteDurable), 2, Effect::Error(libc::ENOSPC)));
    assert_eq!(f.write_at(&[1; 8], 0, true).unwrap(), 8);
    assert_eq!(f.write_at(&[1; 8], 8, true).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    assert_eq!(f.write_at(&[1; 8], 8, true).unwrap(), 8);
    disk.clear_faults();
    disk.plan(Fault::from_then_on(Which::Any, 1, Effect::Error(libc::EIO)));
    assert!(f.len().is_err() && f.sync().is_err() && disk.list(Path::new("/d")).is_err());
    disk.clear_faults();
    disk.plan(Fault::once(Which::Kind(OpKind::Read), 1, Effect::Short));
    let mut buf = [0; 16];
    let n = f.read_at(&mut buf, 0).unwrap();
    assert!((1..16).contains(&n));
    assert_eq!(read_full(&*f, &mut buf, 0).unwrap(), 16);
    disk.plan(Fault::once(Which::Changes, 1, Effect::PowerCut));
    assert!(f.len().is_ok());
    assert!(f.write_at(&[2; 8], 0, true).is_err());
    assert!(f.len().is_err() && disk.is_off());
    let after = disk.power_cut(0, Survival::Random);
    assert!(f.write_at(&[2; 8], 0, true).is_err());
    assert_eq!(after.bytes(&path("a")), Some(vec![1; 16]));
}

#[test]
fn a_full_disk_takes_what_fits() {
    let disk = disk();
    let f = file(&disk, "a");
    disk.set_capacity(Some(1000));
    assert_eq!(f.write_at(&[1; 1200], 0, false).unwrap(), 1000);
    assert_eq!(f.write_at(&[1; 1200], 1000, false).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    assert_eq!(f.write_at(&[2; 1000], 0, false).unwrap(), 1000);
    assert_eq!(f.allocate(1001).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    assert_eq!(disk.free_space(&path("")).unwrap(), 0);
    disk.remove(&path("a")).unwrap();
    assert_eq!(disk.free_space(&path("")).unwrap(), 1000);
}

#[test]
fn locks_are_a_handles_and_die_with_its_process() {
    let disk = disk();
    let a = file(&disk, "a");
    let b = disk.open(&path("a"), OpenMode::Read).unwrap();
    assert!(a.try_lock(true).unwrap() && a.try_lock(true).unwrap());
    assert!(!b.try_lock(true).unwrap() && !b.try_lock(false).unwrap());
    let next = disk.processes_died(1);
    let c = next.open(&path("a"), OpenMode::Read).unwrap();
    assert!(c.try_lock(false).unwrap());
    let d = next.open(&path("a"), OpenMode::Read).unwrap();
    assert!(d.try_lock(false).unwrap() && !d.try_lock(true).unwrap());
    drop(c);
    assert!(d.try_lock(true).unwrap());
}

#[test]
fn operations_in_flight_run_in_any_order_and_complete_in_any_order() {
    let mut orders = BTreeSet::new();
    for seed in 0..40 {
        let disk = SimDisk::new(seed);
        let f = disk.open(Path::new("/a"), OpenMode::CreateNewDirect).unwrap();
        let mut queue = disk.queue().unwrap();
        for i in 0..4u8 {
            let mut buffer = Buffer::new(4096);
            buffer.fill(i + 1);
            queue.submit(u64::from(i), &f, Op::Write { buffer, from: 0, len: 4096, offset: 0, durable: true }).unwrap();
        }
        let mut done: Vec<Done> = Vec::new();
        while done.len() < 4 {
            queue.wait(&mut done).unwrap();
        }
        orders.insert(done.iter().map(|d| d.token).collect::<Vec<_>>());
        assert!(done.iter().all(|d| matches!(d.result, Ok(4096)) && d.buffer.is_some()));
        let last = done.last().unwrap().token;
        assert_eq!(u64::from(disk.bytes(Path::new("/a")).unwrap()[0]), last + 1);
    }
    assert!(orders.len() > 10, "{}", orders.len());
}

#[test]
fn a_power_cut_finds_operations_in_flight_done_torn_or_not_begun() {
    let disk = disk();
    let f = file(&disk, "a");
    write_full(&*f, &[1; 4096], 0, true).unwrap();
    let mut queue = disk.queue().unwrap();
    let mut buffer = Buffer::new(4096);
    buffer.fill(2);
    queue.submit(1, &f, Op::Write { buffer, from: 0, len: 4096, offset: 0, durable: true }).unwrap();
    let seen: Vec<Vec<u8>> = outcomes(&disk, "a").into_iter().flatten().collect();
    assert!(seen.contains(&vec![1; 4096]) && seen.contains(&vec![2; 4096]) && seen.len() > 4);
    // Without the queue's wait, nothing has been promised; with it, everything.
    let (_, result) = run_all(queue.as_mut(), vec![]);
    result.unwrap();
    let mut done = Vec::new();
    queue.wait(&mut done).unwrap();
    assert_eq!(outcomes(&disk, "a"), BTreeSet::from([Some(vec![2; 4096])]));
    let (_, result) = run_all(queue.as_mut(), vec![(f.clone(), Op::Sync)]);
    result.unwrap();
    let cut = disk.power_cut(1, Survival::Nothing);
    let buffer = Buffer::new(4096);
    assert!(queue.submit(2, &f, Op::Write { buffer, from: 0, len: 4096, offset: 0, durable: true }).is_err());
    assert_eq!(cut.bytes(&path("a")), Some(vec![2; 4096]));
}

#[test]
fn a_dead_process_leaves_its_writes_behind() {
    let disk = disk();
    let f = disk.open(&path("a"), OpenMode::CreateNew).unwrap();
    f.write_at(b"abc", 0, false).unwrap();
    let next = disk.processes_died(3);
    assert!(f.write_at(b"xyz", 0, false).is_err());
    assert_eq!(next.bytes(&path("a")), Some(b"abc".to_vec()));
    assert_eq!(next.power_cut(3, Survival::Nothing).bytes(&path("a")), None);
}

#[test]
fn the_same_seed_gives_the_same_disk() {
    let run = |seed| {
        let disk = SimDisk::new(seed);
        disk.set_noise(Noise { short_read: 3, short_write: 3, interrupted: 5 });
        let mut rng = Rng::new(seed);
        let f = disk.open(Path::new("/a"), OpenMode::CreateNew).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        for _ in 0..50 {
            let len = rng.index(3000);
            let bytes = rng.bytes(len);
            write_full(&*f, &bytes, rng.below(20_000), rng.percent(20)).unwrap();
            if rng.percent(10) {
                f.sync().unwrap();
            }
        }
        (disk.counts(), disk.power_cut(seed, Survival::Random).bytes(Path::new("/a")))
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}

#[test]
fn a_large_file_of_zeros_costs_nothing_and_operations_are_fast() {
    let disk = disk();
    let f = file(&disk, "a");
    f.set_len(1 << 30).unwrap();
    for i in 0..16 {
        f.write_at(&vec![0; 1 << 20], i << 20, false).unwrap();
    }
    f.sync().unwrap();
    let mut buf = [0; 4096];
    let start = std::time::Instant::now();
    for i in 0..50_000u64 {
        f.write_at(&[1; 64], i * 64, true).unwrap();
        f.read_at(&mut buf, i * 64).unwrap();
    }
    assert!(start.elapsed().as_secs() < 10, "{:?} for 100000 operations", start.elapsed());
}

#[test]
fn short_completions_are_continued_and_a_cancelled_one_fails_its_group() {
    let group = |disk: &SimDisk| {
        let f = disk.open(&path("q"), OpenMode::CreateNewDirect).unwrap();
        let ops = (0..8u64).map(|i| {
            let mut buffer = Buffer::new(4 * 4096);
            buffer.fill(u8::try_from(i + 1).unwrap());
            (f.clone(), Op::Write { buffer, from: 0, len: 4 * 4096, offset: i * 4 * 4096, durable: true })
        });
        run_all(disk.queue().unwrap().as_mut(), ops.collect())
    };
    for seed in 0..50 {
        let noisy = SimDisk::new(seed);
        noisy.create_dir(Path::new("/d")).unwrap();
        noisy.plan(Fault { which: Which::Kind(OpKind::WriteDurable), nth: 1, times: 9, effect: Effect::Short });
        noisy.set_noise(Noise { short_read: 0, short_write: 2, interrupted: 3 });
        let (buffers, result) = group(&noisy);
        result.unwrap();
        assert_eq!(buffers.len(), 8);
        let bytes = noisy.bytes(&path("q")).unwrap();
        assert!((0..8).all(|i| bytes[i * 16384..(i + 1) * 16384].iter().all(|b| usize::from(*b) == i + 1)));
        // Each of the eight is cancelled once: the group fails, and every buffer is back all the same.
        let failing = SimDisk::new(seed);
        failing.create_dir(Path::new("/d")).unwrap();
        let nth = 1 + seed % 8;
        failing.plan(Fault::once(Which::Kind(OpKind::WriteDurable), nth, Effect::Error(libc::ECANCELED)));
        let (buffers, result) = group(&failing);
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::ECANCELED));
        assert_eq!(buffers.len(), 8);
    }
}
