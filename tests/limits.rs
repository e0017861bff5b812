//! The binary where things are scarce or hostile: few descriptors, little memory, no io_uring, a clock that jumps, a kill at
//! every write, a copy taken meanwhile. What a machine cannot do says that it is skipped, and why.

use mailstrata_engine::disk::posix::Backend;
use mailstrata_engine::{Options, Store};
use mailstrata_tests::drive::{Place, Strictness, compare, send_again, small};
use mailstrata_tests::model::Model;
use mailstrata_tests::program::{Program, binary, json_lines};
use mailstrata_tests::rng::{Tally, cases, from_env};
use mailstrata_tests::sim::{Effect, Fault, SimDisk, Which};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn event(n: u64) -> Value {
    json!({"account": format!("u{}@x", n % 3), "item": format!("{}", n % 70), "kind": "message", "op": "put",
        "state": {"name": format!("version {n}"), "attributes": {"pad": "x".repeat((n % 900) as usize)}},
        "blob": {"base64": "QUJD".repeat(1 + (n % 89) as usize * 9)}})
}

fn lines(from: u64, count: u64) -> String {
    (from..from + count).map(|n| format!("{}\n", event(n))).collect()
}

/// What was acknowledged: line and LSN.
fn acks(stdout: &[u8]) -> Vec<(u64, u64)> {
    // The last line may be cut short by a kill: it is not an acknowledgement then.
    let whole = stdout.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
    let line = |l: Value| Some((l["ack"].as_u64()?, l["lsn"].as_u64()?));
    json_lines(&stdout[..whole]).into_iter().filter_map(line).collect()
}

/// What is stored, by LSN, and the exit code of the export that says so.
fn stored(p: &Program, what: &str) -> (BTreeMap<u64, Value>, i32) {
    let out = p.run(["export"]);
    let code = out.status.code().unwrap_or(-1);
    assert!(code == 0 || code == 13, "{what}: {code}: {}", String::from_utf8_lossy(&out.stderr));
    let line = |l: Value| Some((l["lsn"].as_u64()?, l));
    (json_lines(&out.stdout).into_iter().filter_map(line).collect(), code)
}

/// What was acknowledged is stored as it was sent.
fn same(stored: &BTreeMap<u64, Value>, acknowledged: &BTreeMap<u64, Value>, what: &str) {
    for (lsn, event) in acknowledged {
        let there = stored.get(lsn).unwrap_or_else(|| panic!("{what}: LSN {lsn} was acknowledged and is gone"));
        assert_eq!(there["state"], event["state"], "{what}: LSN {lsn}");
        assert_eq!(there["blob"]["base64"], event["blob"]["base64"], "{what}: LSN {lsn}");
    }
}

/// What was acknowledged is stored, without damage, and the LSNs have no hole.
fn holds(p: &Program, acknowledged: &BTreeMap<u64, Value>, what: &str) {
    let (stored, code) = stored(p, what);
    assert_eq!(code, 0, "{what}: damage is reported");
    same(&stored, acknowledged, what);
    assert!(stored.keys().copied().eq(1..=stored.len() as u64), "{what}: a hole in the LSNs");
}

/// The command inside a shell that limits it first.
fn limited(p: &Program, limit: &str, args: &[&str]) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{limit} && exec \"$0\" \"$@\"")]).arg(binary()).args(args);
    shell.env("MAILSTRATA_STORE", &p.store).env("TZ", "UTC").current_dir(p.dir.path());
    shell
}

/// Runs a command with an input.
fn feed(mut c: Command, input: &str) -> Output {
    let mut child =
        c.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the command runs");
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_owned();
    let feeder = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let out = child.wait_with_output().expect("the command ends");
    feeder.join().expect("the feeder ends");
    out
}

fn no_panic(out: &Output, what: &str) {
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(!stderr.contains("panicked"), "{what}: {stderr}");
}

#[test]
fn few_descriptors_cost_time_or_an_error_but_no_acknowledgement() {
    let p = Program::small();
    let mut acknowledged = BTreeMap::new();
    let mut errors = 0;
    for (round, limit) in [64, 24, 16, 12, 10, 9, 8, 16].into_iter().enumerate() {
        let from = round as u64 * 400;
        let out = feed(limited(&p, &format!("ulimit -n {limit}"), &["append"]), &lines(from, 400));
        no_panic(&out, &format!("{limit} descriptors"));
        for (line, lsn) in acks(&out.stdout) {
            acknowledged.insert(lsn, event(from + line - 1));
        }
        errors += u32::from(!out.status.success());
        holds(&p, &acknowledged, &format!("{limit} descriptors"));
    }
    assert!(acknowledged.len() >= 400, "only {} acknowledged", acknowledged.len());
    // Many files, read with few descriptors: the same answers, or an error.
    let expected = p.export();
    for limit in [16, 10, 8] {
        let out = feed(limited(&p, &format!("ulimit -n {limit}"), &["export"]), "");
        no_panic(&out, "export");
        assert!(!out.status.success() || json_lines(&out.stdout) == expected, "{limit} descriptors: another export");
    }
    println!("few descriptors: {} acknowledged, {errors} runs ended with an error", acknowledged.len());
}

#[test]
fn few_descriptors_make_no_message_look_deleted() {
    let p = Program::new();
    p.ok(["init"]);
    let maildir = p.dir.path().join("Maildir");
    let mut sent = 0;
    for folder in [String::new()].into_iter().chain((0..40).map(|n| format!(".f{n}"))) {
        for sub in ["cur", "new", "tmp"] {
            std::fs::create_dir_all(maildir.join(&folder).join(sub)).unwrap();
        }
        for n in 0..5 {
            let name = format!("17950000{n:02}.M{n}P1.few:2,S");
            std::fs::write(maildir.join(&folder).join("cur").join(name), format!("Subject: {folder} {n}\r\n\r\nx"))
                .unwrap();
            sent += 1;
        }
    }
    let source = format!("maildir:{}?account=alice@example.org", maildir.display());
    let count = || {
        let out = p.run(["items", "alice@example.org", "--kind", "message", "--json"]);
        json_lines(&out.stdout).len()
    };
    p.ok(["scan", "--source", &source]);
    assert_eq!(count(), sent);
    let mut errors = 0;
    for limit in [32, 20, 16, 14, 12, 11, 10, 9, 8] {
        let out = feed(limited(&p, &format!("ulimit -n {limit}"), &["scan", "--source", &source]), "");
        no_panic(&out, &format!("{limit} descriptors"));
        errors += u32::from(!out.status.success());
        assert_eq!(count(), sent, "{limit} descriptors: {}", String::from_utf8_lossy(&out.stderr));
    }
    println!("few descriptors: {sent} messages, {errors} scans ended with an error");
}

/// Has the kernel answer `io_uring_setup` with an errno, as containers do.
fn refuse_io_uring(c: &mut Command, errno: i32) {
    let setup = u32::try_from(libc::SYS_io_uring_setup).unwrap();
    let ins = |code: u32, jt, jf, k| libc::sock_filter { code: u16::try_from(code).unwrap(), jt, jf, k };
    // The number of the call stands at offset 0 of what the filter sees.
    let filter = [
        ins(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        ins(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, setup),
        ins(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | errno.unsigned_abs()),
        ins(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let install = move || {
        let mut filter = filter;
        let program = libc::sock_fprog { len: 4, filter: filter.as_mut_ptr() };
        // SAFETY: plain system calls; the program and its filter outlive them, and the kernel copies both.
        let failed = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
                || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) != 0
        };
        if failed { Err(std::io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: between fork and exec only prctl is called, which allocates nothing and takes no lock.
    unsafe { c.pre_exec(install) };
}

#[test]
fn without_io_uring_the_guarantees_are_the_same() {
    let p = Program::small();
    let mut acknowledged = BTreeMap::new();
    for (round, errno) in [libc::EPERM, libc::ENOSYS, libc::ENOMEM].into_iter().enumerate() {
        let mut info = p.command(["info", "--json"]);
        refuse_io_uring(&mut info, errno);
        let said: Value = serde_json::from_slice(&info.output().unwrap().stdout).unwrap();
        assert!(said.to_string().contains("pwritev2"), "{said}");
        for kill in [false, true] {
            let from = (round as u64 * 2 + u64::from(kill)) * 300;
            let mut c = p.command(["append"]);
            refuse_io_uring(&mut c, errno);
            let mut child = c.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
            let mut stdin = child.stdin.take().unwrap();
            let feeder = std::thread::spawn(move || drop(stdin.write_all(lines(from, 300).as_bytes())));
            let mut seen = 0;
            for line in BufReader::new(child.stdout.take().unwrap()).lines() {
                for (line, lsn) in acks(format!("{}\n", line.unwrap()).as_bytes()) {
                    acknowledged.insert(lsn, event(from + line - 1));
                    seen += 1;
                }
                if kill && seen == 150 {
                    child.kill().unwrap();
                }
            }
            let status = child.wait().unwrap();
            feeder.join().unwrap();
            assert!(kill || (status.success() && seen == 300), "{status:?}, {seen} acknowledged");
        }
        holds(&p, &acknowledged, &format!("errno {errno}"));
    }
}

#[test]
fn both_backends_take_the_same_workload() {
    let mut seen = Vec::new();
    for backend in [Backend::Auto, Backend::Posix] {
        let dir = tempfile::tempdir().unwrap();
        let clock = Place::new(SimDisk::new(1)).clock;
        let real = Options::with_backend(backend).unwrap();
        let options = Options { clock: clock.clone(), reserve_bytes: 0, ..real };
        let path = dir.path().join("store");
        Store::create(&path, &small(64 << 10, 64 << 10), &options).unwrap();
        let mut model = Model::default();
        let place = Place::new(SimDisk::new(2));
        for round in 0..6u8 {
            let store = Store::open(&path, &options).unwrap();
            seen.push(store.info().backend);
            let blobs: Vec<std::sync::Arc<[u8]>> =
                (0..60u8).map(|n| vec![n ^ round; 1 + usize::from(n) * 1700].into()).collect();
            send_again(&store, &mut model, &place, &blobs).unwrap();
            compare(&store.view(), &model, Strictness::Exact, 1).unwrap();
            if round % 2 == 0 { store.close().unwrap() } else { drop(store) }
        }
        let reader = Store::open_read(&path, &options).unwrap();
        compare(&reader.view(), &model, Strictness::Exact, 1).unwrap();
        assert!(reader.findings().is_empty());
    }
    assert!(seen.contains(&"pwritev2"));
    if !seen.contains(&"io_uring") {
        println!("skipped: io_uring is not to be had here");
    }
}

/// Lines that each killed writer gets at most.
const LINES: u64 = 40;

/// Calls that change files, as the binary makes them.
const CHANGES: &str = "openat,unlink,rename,ftruncate,fallocate,pwrite64,pwritev2,fdatasync,fsync,io_uring_enter";

#[test]
fn a_kill_at_every_write_loses_nothing_that_was_acknowledged() {
    let start = Instant::now();
    if Command::new("strace").arg("-V").output().is_err() {
        println!("skipped: kills at every write: no strace");
        return;
    }
    let mut tally = Tally::default();
    let all = cases(150);
    let mut p = Program::small();
    let mut acknowledged = BTreeMap::new();
    let mut total = 0;
    let mut next = 0;
    for nth in 1..=all {
        let when = nth;
        if nth % 20 == 0 {
            // Always the same store would be a long one; a new one has its first segment and pack again.
            total += acknowledged.len();
            (p, acknowledged, next) = (Program::small(), BTreeMap::new(), 0);
        }
        let mut c = p.command(["append"]);
        let traced = {
            let mut s = Command::new("strace");
            s.args(["-f", "-qqq", "-o", "/dev/null", "-e"]).arg(format!("trace={CHANGES}")).arg("-e");
            s.arg(format!("inject={CHANGES}:signal=KILL:when={when}"));
            s.arg(c.get_program()).args(c.get_args());
            s.env("MAILSTRATA_STORE", &p.store).env("TZ", "UTC").current_dir(p.dir.path());
            s
        };
        c = traced;
        // Line by line: each is a group of its own, so that there are many writes.
        let mut child = c.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        for n in next..next + LINES {
            let mut line = String::new();
            let sent = stdin.write_all(lines(n, 1).as_bytes());
            if sent.is_err() || said.read_line(&mut line).unwrap() == 0 {
                break;
            }
            for (_, lsn) in acks(line.as_bytes()) {
                acknowledged.insert(lsn, event(n));
            }
        }
        drop(stdin);
        tally.count("killed", u64::from(!child.wait().unwrap().success()));
        next += LINES;
        holds(&p, &acknowledged, &format!("killed at call {when}"));
        tally.case(nth, Ok(()));
    }
    tally.finish(
        "kills at every write",
        format_args!("{} acknowledged, {:?}", total + acknowledged.len(), start.elapsed()),
    );
}

#[test]
fn a_copy_taken_while_it_is_written_opens_and_holds_what_was_acknowledged() {
    let p = Program::small();
    let mut child = p.command(["append"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let feeder = std::thread::spawn(move || {
        for n in 0..8_000 {
            if stdin.write_all(format!("{}\n", event(n)).as_bytes()).is_err() {
                break;
            }
        }
    });
    let acknowledged = std::sync::Arc::new(std::sync::Mutex::new(BTreeMap::new()));
    let reader = std::thread::spawn({
        let acknowledged = acknowledged.clone();
        let out = BufReader::new(child.stdout.take().unwrap());
        move || {
            for line in out.lines().map_while(Result::ok) {
                for (line, lsn) in acks(format!("{line}\n").as_bytes()) {
                    acknowledged.lock().unwrap().insert(lsn, event(line - 1));
                }
            }
        }
    });
    let mut copies = 0;
    let mut beside = 0;
    let mut newer = 0;
    for n in 0..cases(10) {
        std::thread::sleep(Duration::from_millis(20 + n * 7 % 50));
        let before = acknowledged.lock().unwrap().clone();
        let copy = Program::new();
        let out = Command::new("cp").arg("-r").arg(&p.store).arg(&copy.store).output().unwrap();
        // A file that vanished meanwhile is cp's to complain about; the copy counts as it is.
        drop(out);
        beside += u64::from(child.try_wait().unwrap().is_none());
        // A manifest that was copied last names files that are newer than the copy: they are reported as missing (13).
        let (there, code) = stored(&copy, &format!("copy {n}"));
        same(&there, &before, &format!("copy {n}"));
        newer += u32::from(code == 13);
        // It can be written, too.
        let (acks, _) = copy.append(&lines(0, 3));
        assert!(acks.iter().all(|a| a["ack"].is_u64()), "copy {n} takes no more: {acks:?}");
        copies += 1;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    feeder.join().unwrap();
    reader.join().unwrap();
    assert!(beside > 0, "all copies were taken after the writer had ended");
    println!("{copies} copies, {beside} of them beside a writer, {newer} miss what is newer than the copy");
}

#[test]
fn a_clock_that_jumps_by_decades_deletes_and_reorders_nothing() {
    if Command::new("faketime").arg("--version").output().is_err() {
        println!("skipped: the binary under a false clock: no faketime");
        return;
    }
    let p = Program::small();
    let mut acknowledged = BTreeMap::new();
    for (round, years) in ["+0y", "-50y", "+30y", "-50y", "+0y"].into_iter().enumerate() {
        let from = round as u64 * 100;
        let mut c = Command::new("faketime");
        c.args(["-f", years]).arg(binary()).arg("append");
        c.env("MAILSTRATA_STORE", &p.store).env("TZ", "UTC").current_dir(p.dir.path());
        let out = feed(c, &lines(from, 100));
        assert!(out.status.success(), "{years}: {}", String::from_utf8_lossy(&out.stderr));
        for (line, lsn) in acks(&out.stdout) {
            acknowledged.insert(lsn, event(from + line - 1));
        }
        holds(&p, &acknowledged, years);
    }
    assert_eq!(acknowledged.len(), 500);
    let recorded: Vec<String> = p.export().iter().map(|l| l["recorded"].as_str().unwrap()[..4].to_owned()).collect();
    let years: std::collections::BTreeSet<_> = recorded.into_iter().collect();
    assert!(years.len() >= 3, "the clock did not jump: {years:?}");
    // Now is what was recorded last, whatever the clocks said.
    let now = p.ok(["items", "u0@x", "--kind", "message", "--json"]);
    let newest: BTreeMap<String, u64> = (0..500).filter(|n| n % 3 == 0).map(|n| (format!("{}", n % 70), n)).collect();
    for item in json_lines(now.as_bytes()) {
        let n = newest[item["item"].as_str().unwrap()];
        assert!(item.to_string().contains(&format!("\"version {n}\"")), "{item}, not version {n}");
    }
}

/// Bytes of address space that the binary gets for `items` items.
const MEMORY: u64 = 128 << 20;

/// Puts a command into a group with limited memory; `None`: why that cannot be.
struct MemoryGroup(std::path::PathBuf);

impl MemoryGroup {
    fn new() -> Result<Self, String> {
        let name = format!("mailstrata-test-{}", std::process::id());
        let v2 = Path::new("/sys/fs/cgroup/cgroup.controllers");
        let (dir, limit) = if v2.exists() {
            (Path::new("/sys/fs/cgroup").join(name), "memory.max")
        } else {
            (Path::new("/sys/fs/cgroup/memory").join(name), "memory.limit_in_bytes")
        };
        std::fs::create_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        let group = Self(dir);
        std::fs::write(group.0.join(limit), MEMORY.to_string()).map_err(|e| format!("{limit}: {e}"))?;
        Ok(group)
    }

    fn shell(&self) -> String {
        format!("echo $$ > {}", self.0.join("cgroup.procs").display())
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir(&self.0) {
            println!("{}: {e}", self.0.display());
        }
    }
}

#[test]
fn a_million_items_fit_into_128_mib() {
    let start = Instant::now();
    let group = match MemoryGroup::new() {
        Ok(g) => g,
        Err(e) => {
            println!("skipped: a limit of memory: {e}");
            return;
        }
    };
    let items = from_env("MAILSTRATA_ITEMS", cases(1_000_000));
    let p = Program::new();
    p.ok(["init"]);
    let mut c = limited(&p, &group.shell(), &["append"]);
    let mut child = c.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
    let mut stdin = std::io::BufWriter::with_capacity(1 << 20, child.stdin.take().unwrap());
    let feeder = std::thread::spawn(move || {
        for n in 0..items {
            let line = format!(
                "{{\"account\":\"u{}@x\",\"item\":\"{n}\",\"kind\":\"message\",\"op\":\"put\",\"state\":{{\"name\":\"{n}\"}}}}\n",
                n % 1000
            );
            if stdin.write_all(line.as_bytes()).is_err() {
                return;
            }
        }
        drop(stdin.flush());
    });
    let mut acknowledged = 0u64;
    for line in BufReader::with_capacity(1 << 20, child.stdout.take().unwrap()).lines() {
        acknowledged += u64::from(line.unwrap().contains("\"ack\""));
    }
    let status = child.wait().unwrap();
    feeder.join().unwrap();
    assert!(status.success(), "{status:?}");
    assert_eq!(acknowledged, items);
    let ingested = start.elapsed();
    // Reopen, and one account back.
    let out = feed(limited(&p, &group.shell(), &["items", "u7@x", "--json"]), "");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(json_lines(&out.stdout).len() as u64, items / 1000);
    let back = format!("maildir:{}", p.dir.path().join("back").display());
    let out = feed(limited(&p, &group.shell(), &["restore", "account", "u7@x", "--to", &back]), "");
    assert!(!matches!(out.status.code(), None | Some(1)), "{:?}: {}", out.status, String::from_utf8_lossy(&out.stderr));
    println!("{items} items within {} MiB: ingest {ingested:?}, in all {:?}", MEMORY >> 20, start.elapsed());
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

#[test]
fn ten_thousand_openings_leave_nothing_behind() {
    let start = Instant::now();
    // On the simulated disk, errors included.
    let place = Place::new(SimDisk::new(1));
    place.create(&small(64 << 10, 64 << 10)).unwrap();
    let mut model = Model::default();
    let (mut failed, mut files, mut bytes) = (0, 0, 0);
    let rounds = cases(10_000);
    for n in 0..rounds {
        if n % 3 == 1 {
            place.disk.plan(Fault::once(Which::Any, 1 + n % 41, Effect::Error(libc::EIO)));
        }
        match place.open() {
            Ok(store) => {
                if n % 50 == 0 {
                    place.disk.clear_faults();
                    send_again(&store, &mut model, &place, &[vec![7u8; 100].into()]).ok();
                }
                if n % 2 == 0 { drop(store.close()) } else { drop(store) }
            }
            Err(_) => failed += 1,
        }
        place.disk.clear_faults();
        assert_eq!(place.disk.handles(), 0, "round {n}: handles stay open");
        if n == rounds / 10 {
            (files, bytes) = (place.disk.files().len(), place.disk.used());
        }
    }
    let temporary = place.disk.files().into_iter().filter(|f| f.0.extension().is_some_and(|e| e == "tmp")).count();
    let store = place.open().unwrap();
    store.close().unwrap();
    let grew = place.disk.files().len().saturating_sub(files);
    println!(
        "{rounds} openings, {failed} failed, {temporary} temporary files, {files} files after a tenth and {grew} more, {bytes} B and {} B",
        place.disk.used()
    );
    // Every record makes a file or two at most, an opening alone makes none.
    assert!(grew as u64 <= 3 * (rounds / 50 + 1), "{grew} more files");
    let left: Vec<_> = place.disk.files().into_iter().filter(|f| f.0.extension().is_some_and(|e| e == "tmp")).collect();
    assert!(left.is_empty(), "{left:?}");
    // On the real one, in this process.
    let dir = tempfile::tempdir().unwrap();
    let options = Options { reserve_bytes: 0, ..Options::new().unwrap() };
    let path = dir.path().join("store");
    Store::create(&path, &small(64 << 10, 64 << 10), &options).unwrap();
    let cycle = || {
        let store = Store::open(&path, &options).unwrap();
        assert!(Store::open(&path, &options).is_err());
        drop(Store::open_read(&path, &options).unwrap());
        store.close().unwrap();
    };
    (0..20).for_each(|_| cycle());
    let before = descriptors();
    let real = cases(150);
    (0..real).for_each(|_| cycle());
    let after = descriptors();
    // Other tests of this process open and close theirs.
    assert!(after < before + 60, "{before} descriptors, then {after}");
    println!("{real} real openings, {before} and {after} descriptors, {:?}", start.elapsed());
}
