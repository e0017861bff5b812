//! How long scans of a large tree take. Ignored: run by hand, in release mode, with `MAILSTRATA_TREE` a copy of a tree of users'
//! Maildirs that may be changed, and `MAILSTRATA_MUTATE` a command that changes some of it.

use mailstrata_backup::scan::{Options, SmartScan};
use mailstrata_engine::{Create, Options as StoreOptions, Store};
use mailstrata_mailstore::url::Url;
use std::sync::atomic::AtomicBool;

#[test]
#[ignore = "takes a tree of its own"]
fn measure() {
    let tree = std::env::var("MAILSTRATA_TREE").unwrap();
    let dir = std::env::var("MAILSTRATA_DIR").map_or_else(|_| tempfile::tempdir(), tempfile::tempdir_in).unwrap();
    let store = dir.path().join("store");
    let options = StoreOptions::new().unwrap();
    Store::create(&store, &Create::default(), &options).unwrap();
    let Ok(Url::Maildir(url)) = format!("maildir:{tree}/{{user}}").parse() else { panic!() };
    let cpu = || {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let words: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        (words[11].parse::<f64>().unwrap() / 100.0, words[12].parse::<f64>().unwrap() / 100.0)
    };
    let run = |what: &str, opened: &Store, options: Options| {
        let before = cpu();
        let r = SmartScan::new(opened, &url, options).run(&|_| {}, &AtomicBool::new(false)).unwrap();
        let after = cpu();
        println!(
            "{what}: {:.3} s, {:.2} s user, {:.2} s system; {:?} {:?} {} bytes read, {} new, {} errors, {} alarms",
            r.seconds,
            after.0 - before.0,
            after.1 - before.1,
            r.accounts,
            r.messages,
            r.bytes_read,
            r.bytes_new,
            r.errors.total,
            r.alarms.total
        );
    };
    let scan = |what: &str, opened: &Store| run(what, opened, Options::default());
    let size = || {
        let out = std::process::Command::new("du").args(["-sb"]).arg(&store).output().unwrap();
        println!("store: {}", String::from_utf8_lossy(&out.stdout).trim());
    };
    let rss = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        println!("{}", status.lines().find(|l| l.starts_with("VmHWM")).unwrap());
    };
    let opened = Store::open(&store, &options).unwrap();
    scan("first", &opened);
    opened.close().unwrap();
    size();
    rss();
    let opened = Store::open(&store, &options).unwrap();
    scan("second", &opened);
    opened.close().unwrap();
    for _ in 0..3 {
        let opened = Store::open(&store, &options).unwrap();
        scan("unchanged", &opened);
        opened.close().unwrap();
    }
    if let Ok(command) = std::env::var("MAILSTRATA_MUTATE") {
        for n in 0..3 {
            let seed = std::env::var("SEED").unwrap_or("7".into()).parse::<u64>().unwrap() + n;
            let status =
                std::process::Command::new("sh").arg("-c").arg(command.replace("SEED", &seed.to_string())).status();
            assert!(status.unwrap().success());
            let opened = Store::open(&store, &options).unwrap();
            scan("changed", &opened);
            opened.close().unwrap();
            std::thread::sleep(std::time::Duration::from_millis(2500));
            let opened = Store::open(&store, &options).unwrap();
            scan("settled", &opened);
            scan("unchanged", &opened);
            opened.close().unwrap();
        }
    }
    let opened = Store::open(&store, &options).unwrap();
    if std::env::var("DEEP").is_ok() {
        run("deep", &opened, Options { deep: true, ..Options::default() });
    }
    size();
    rss();
}
