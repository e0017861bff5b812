//! The real binary under SIGKILL, many times, while it takes events: what was acknowledged is there.

use mailstrata_tests::program::{Program, json_lines};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;
use std::time::Duration;

/// How often the writer is killed; `MAILSTRATA_KILLS` scales it.
fn kills() -> u64 {
    std::env::var("MAILSTRATA_KILLS").ok().and_then(|v| v.parse().ok()).unwrap_or(25)
}

#[test]
fn what_was_acknowledged_survives_sigkill() {
    let p = Program::small();
    let mut acknowledged: BTreeMap<u64, Value> = BTreeMap::new();
    let mut next = 0u64;
    let mut cut_short = 0;
    for round in 0..kills() {
        let mut child =
            p.command(["append"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let events: Vec<Value> = (0..400)
            .map(|i| {
                let n = next + i;
                json!({"account": format!("u{}@x", n % 3), "item": format!("{}", n % 50), "kind": "message", "op": "put",
                    "state": {"name": format!("version {n}"), "attributes": {"pad": "x".repeat((n % 700) as usize)}},
                    "blob": {"base64": "QUJD".repeat(1 + (n % 97) as usize * 7)}})
            })
            .collect();
        next += 400;
        let feed = events.clone();
        let feeder = std::thread::spawn(move || {
            for e in feed {
                if stdin.write_all(format!("{e}\n").as_bytes()).is_err() {
                    break;
                }
            }
        });
        // At a moment that no round shares with another.
        let stop_after = 1 + (round * 37) % 390;
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut seen = 0;
        while let Some(Ok(line)) = lines.next() {
            let ack: Value = serde_json::from_str(&line).unwrap();
            let n = usize::try_from(ack["ack"].as_u64().unwrap_or_else(|| panic!("{line}"))).unwrap();
            acknowledged.insert(ack["lsn"].as_u64().unwrap(), events[n - 1].clone());
            seen += 1;
            if seen == stop_after {
                std::thread::sleep(Duration::from_micros(round * 131 % 700));
                child.kill().unwrap();
            }
        }
        if seen < 400 {
            cut_short += 1;
        }
        child.wait().unwrap();
        feeder.join().unwrap();
        let out = p.run(["export"]);
        assert_eq!(out.status.code(), Some(0), "round {round}: {}", String::from_utf8_lossy(&out.stderr));
        let stored: BTreeMap<u64, Value> =
            json_lines(&out.stdout).into_iter().map(|l| (l["lsn"].as_u64().unwrap(), l)).collect();
        for (lsn, event) in &acknowledged {
            let there =
                stored.get(lsn).unwrap_or_else(|| panic!("round {round}: LSN {lsn} was acknowledged and is gone"));
            assert_eq!(there["state"], event["state"], "round {round}: LSN {lsn}");
            assert_eq!(there["blob"]["base64"], event["blob"]["base64"], "round {round}: LSN {lsn}");
        }
        // What is there beyond is a prefix of what was sent: LSNs without holes.
        assert!(stored.keys().copied().eq(1..=stored.len() as u64), "round {round}: a hole in the LSNs");
    }
    println!("{} kills, {cut_short} of them in the middle, {} acknowledged events", kills(), acknowledged.len());
    assert!(cut_short > kills() / 2, "the kills came too late to say anything");
}

/// Delivers as a delivery agent does: written beside, then renamed.
fn deliver(maildir: &std::path::Path, n: u64) {
    let name = format!("17950000{:02}.M{n}P1.kill", n % 100);
    let temp = maildir.join("tmp").join(&name);
    std::fs::write(&temp, format!("Subject: {n}\r\n\r\n{}", "body\r\n".repeat((n % 300) as usize))).unwrap();
    std::fs::rename(&temp, maildir.join("new").join(&name)).unwrap();
}

#[test]
fn a_watch_that_is_killed_and_started_again_misses_nothing() {
    let p = Program::small();
    let maildir = p.dir.path().join("Maildir");
    for sub in ["cur", "new", "tmp"] {
        std::fs::create_dir_all(maildir.join(sub)).unwrap();
    }
    let source = format!("maildir:{}?account=alice@example.org", maildir.display());
    let rounds = kills() / 3 + 2;
    let mut delivered = 0;
    for round in 0..rounds {
        let mut watch = p
            .command(["watch", "--source", &source])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        for n in 0..60 {
            deliver(&maildir, delivered);
            delivered += 1;
            if n % 7 == 3 {
                // Another message is read: its file gets a flag.
                let first = std::fs::read_dir(maildir.join("new")).unwrap().next();
                if let Some(Ok(entry)) = first {
                    let name = entry.file_name().into_string().unwrap();
                    std::fs::rename(entry.path(), maildir.join("cur").join(format!("{name}:2,S"))).unwrap();
                }
            }
            std::thread::sleep(Duration::from_micros(round * 97 % 1500));
        }
        watch.kill().unwrap();
        watch.wait().unwrap();
        assert_eq!(p.run(["accounts"]).status.code(), Some(0), "round {round}");
    }
    // What the last one missed, a scan finds; what any of them recorded is still there.
    p.ok(["scan", "--source", &source]);
    let items = json_lines(p.ok(["items", "alice@example.org", "--kind", "message", "--json"]).as_bytes());
    assert_eq!(items.len() as u64, delivered);
    let target = p.dir.path().join("back");
    p.ok(["restore", "account", "alice@example.org", "--to", &format!("maildir:{}", target.display())]);
    let read = |dir: &std::path::Path| {
        let mut all: Vec<(bool, Vec<u8>)> = Vec::new();
        for sub in ["cur", "new"] {
            for entry in std::fs::read_dir(dir.join(sub)).unwrap() {
                let path = entry.unwrap().path();
                let seen = path.to_str().unwrap().ends_with('S');
                all.push((seen, std::fs::read(path).unwrap()));
            }
        }
        all.sort();
        all
    };
    assert!(read(&maildir) == read(&target), "what came back differs");
    println!("{rounds} kills of watch, {delivered} deliveries");
}
