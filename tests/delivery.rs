//! A real delivery agent writes into a Maildir while `watch` follows: every message is recorded, and how fast is printed.

use mailstrata_tests::program::{Program, json_lines};
use rustix::process::{Pid, Signal, kill_process};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const MESSAGES: usize = 200;

fn wait_for(what: &str, mut ready: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !ready() {
        assert!(Instant::now() < end, "{what}: not within a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn deliver(agent: &str, maildir: &Path, home: &Path, text: &str) {
    let mut c = Command::new(agent);
    let filter = home.join("filter");
    if !filter.exists() {
        std::fs::write(&filter, format!("to \"{}\"\n", maildir.display())).unwrap();
        std::fs::set_permissions(&filter, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }
    c.arg(filter);
    let mut child = c.env("HOME", home).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{agent}: {}", String::from_utf8_lossy(&out.stderr));
}

fn agent() -> Option<&'static str> {
    let found = |c: &str| {
        Command::new("sh").args(["-c", &format!("command -v {c}")]).output().is_ok_and(|o| o.status.success())
    };
    if found("maildrop") { Some("maildrop") } else { None }
}

#[test]
fn mail_that_a_delivery_agent_delivers_is_recorded_while_watch_runs() {
    let Some(agent) = agent() else {
        println!("skipped: there is no maildrop here (tests/run.sh installs it as root on Debian)");
        return;
    };
    let p = Program::new();
    p.ok(["init"]);
    let maildir = p.dir.path().join("Maildir");
    for sub in ["cur", "new", "tmp"] {
        std::fs::create_dir_all(maildir.join(sub)).unwrap();
    }
    let source = format!("maildir:{}?account=alice@example.org", maildir.display());
    let mut watch = p
        .command(["watch", "--source", &source])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let listed = || {
        let out = p.run(["items", "alice@example.org", "--kind", "message", "--json"]);
        if out.status.success() { json_lines(&out.stdout) } else { Vec::new() }
    };
    wait_for("watch follows", || p.run(["accounts"]).stdout.windows(17).any(|w| w == b"alice@example.org"));
    for i in 0..MESSAGES {
        let text = format!("From: bob@example.org\nSubject: message {i}\nMessage-ID: <{i}@example.org>\n\nbody {i}\n");
        deliver(agent, &maildir, p.dir.path(), &text);
    }
    wait_for("all are recorded", || listed().len() == MESSAGES);
    // A client reads one, files one, removes one.
    let new: Vec<_> = std::fs::read_dir(maildir.join("new")).unwrap().map(|e| e.unwrap().path()).collect();
    let name = |p: &Path| p.file_name().unwrap().to_str().unwrap().to_owned();
    let seen = maildir.join("cur").join(format!("{}:2,S", name(&new[0])));
    std::fs::rename(&new[0], &seen).unwrap();
    std::fs::remove_file(&new[1]).unwrap();
    wait_for("flag and deletion are recorded", || {
        let all = listed();
        all.len() == MESSAGES - 1 && all.iter().any(|m| m["state"]["flags"] == serde_json::json!(["\\Seen"]))
    });
    let status: serde_json::Value = serde_json::from_str(&p.ok(["status", "--json"])).unwrap();
    println!("{agent}: {MESSAGES} deliveries; recovery point {}", status["recovery_point"]);
    kill_process(Pid::from_child(&watch), Signal::TERM).unwrap();
    assert_eq!(watch.wait().unwrap().code(), Some(0), "SIGTERM drains and ends with 0");
    // The removed one comes back.
    let target = format!("maildir:{}", p.dir.path().join("restored").display());
    let out = p.ok(["restore", "undelete", "alice@example.org", "--to", &target]);
    assert!(out.contains("1 restored"), "{out}");
}
