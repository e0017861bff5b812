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
    let dir = tempfile::tempdir_in(std::env::var("MAILSTRATA_DIR").unwrap_or("/tmp".into())).unwrap();
    let store = dir.path().join("store");
    let options = StoreOptions::new().unwrap();
    Store::create(&store, &Create::default(), &options).unwrap();
    let Ok(Url::Maildir(url)) = format!("maildir:{tree}/{{user}}").parse() else { panic!() };
    let scan = |what: &str, opened: &Store| {
        let report = SmartScan::new(opened, &url, Options::default()).run(&|_| {}, &AtomicBool::new(false)).unwrap();
        println!("{what}: {}", serde_json::to_string(&report).unwrap());
    };
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
            let run =
                std::process::Command::new("sh").arg("-c").arg(command.replace("SEED", &seed.to_string())).status();
            assert!(run.unwrap().success());
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
    let deep = Options { deep: true, ..Options::default() };
    let report = SmartScan::new(&opened, &url, deep).run(&|_| {}, &AtomicBool::new(false)).unwrap();
    println!("deep: {}", serde_json::to_string(&report).unwrap());
    size();
    rss();
}
