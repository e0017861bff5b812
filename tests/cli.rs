//! The contract of the command line: JSON of `append` and `export`, exit codes, times.

use mailstrata_tests::program::{Program, json_lines, without_lsns};
use serde_json::{Value, json};

fn put(account: &str, item: &str, name: &str) -> Value {
    json!({"account": account, "item": item, "kind": "message", "op": "put", "state": {"name": name, "folder": "INBOX"}})
}

fn lines(all: &[Value]) -> String {
    all.iter().map(|v| format!("{v}\n")).collect()
}

#[test]
fn each_line_is_acknowledged_in_order_and_bad_ones_are_named() {
    let p = Program::small();
    let text = format!(
        "{}\n\nnot json\n{}\n{}\n{}",
        put("a@x", "1", "one"),
        json!({"account": "a@x", "item": "1", "kind": "message", "op": "patch", "state": {"flags": ["\\Seen"]}}),
        json!({"account": "a@x", "item": "2", "kind": "message", "op": "delete"}),
        json!({"account": "a@x", "item": "1", "kind": "message", "op": "delete"}),
    );
    let (told, code) = p.append(&text);
    assert_eq!(code, 3);
    let heads: Vec<(Option<u64>, Option<u64>, Option<&str>)> =
        told.iter().map(|t| (t["ack"].as_u64(), t["nack"].as_u64(), t["error"]["code"].as_str())).collect();
    assert_eq!(
        heads,
        [
            (Some(1), None, None),
            (None, Some(3), Some("bad-json")),
            (Some(4), None, None),
            (None, Some(5), Some("no-item")),
            (Some(6), None, None)
        ]
    );
    let lsns: Vec<_> = told.iter().filter_map(|t| t["lsn"].as_u64()).collect();
    assert!(lsns.is_sorted_by(|a, b| a < b));
    let ops: Vec<_> = p.export().iter().map(|l| l["op"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ops, ["put", "put", "delete"]);
}

#[test]
fn an_export_appended_to_an_empty_store_differs_in_nothing_but_lsns() {
    let p = Program::small();
    std::fs::write(p.dir.path().join("m.eml"), b"From: a\r\n\r\n\0\xff body").unwrap();
    let events = lines(&[
        json!({"account": "a@x", "item": "i%FF%25", "kind": "message", "op": "put", "at": "2026-11-22T00:15:11.123456Z",
            "not_before": "2026-11-22T00:10:00Z",
            "state": {"folder": "INBOX/Pro", "flags": ["\\Seen"], "tags": [], "name": "100%25 sure", "sender": "b@x",
                "date": "2026-11-22T01:15:10+01:00", "uid": 18446744073709551615u64,
                "attributes": {"x": "y", "n": 1.50, "deep": {"a": [1, null]}}},
            "blob": {"path": "m.eml"}, "source": {"name": "s", "position": "1"}}),
        json!({"account": "a@x", "item": "two", "kind": "document", "op": "put",
            "blobs": [{"base64": "aGVsbG8="}, {"role": "preview", "base64": "d29ybGQ="}]}),
        json!({"account": "a@x", "item": "two", "kind": "document", "op": "patch", "state": {"name": null, "tags": ["t"]}}),
        json!({"account": "a@x", "item": "a@x", "kind": "account", "op": "put"}),
        json!({"account": "a@x", "item": "a@x", "kind": "account", "op": "delete"}),
        put("a@x", "after", "a later account of the same name"),
        json!({"account": "b", "item": "seen", "kind": "message", "op": "put", "content": "unseen"}),
    ]);
    let (_, code) = p.append(&events);
    assert_eq!(code, 0);
    let first = p.export();
    assert_eq!(first.len(), 7);
    assert_eq!(first[0]["at"], "2026-11-22T00:15:11.123456Z");
    assert_eq!(first[0]["item"], "i%FF%25");
    assert_eq!(first[0]["state"]["date"], "2026-11-22T00:15:10Z");
    assert!(first[5]["account_id"].is_string(), "a second account of a name is told apart");
    for how in ["inline", "dir:blobs"] {
        let text = p.ok(["export", "--blobs", how]);
        let q = Program::small();
        let out = q.feed(["append"], text.as_bytes());
        assert!(out.status.success());
        assert_eq!(without_lsns(&q.export()), without_lsns(&first), "{how}");
    }
}

#[test]
fn a_source_position_is_acknowledged_with_its_old_lsn() {
    let p = Program::small();
    let mut event = put("a@x", "1", "one");
    event["source"] = json!({"name": "s", "position": "7"});
    let (first, _) = p.append(&lines(&[event.clone()]));
    let (again, code) = p.append(&lines(&[event.clone(), event.clone()]));
    assert_eq!((code, &again[0]["lsn"], &again[1]["lsn"]), (0, &first[0]["lsn"], &first[0]["lsn"]));
    event["state"]["name"] = json!("another");
    let (other, code) = p.append(&lines(&[event]));
    assert_eq!((code, other[0]["error"]["code"].as_str()), (3, Some("source-conflict")));
    assert_eq!(p.export().len(), 1);
}

#[test]
fn states_of_the_past_come_back() {
    let p = Program::small();
    let at = |t: &str, mut e: Value| {
        e["at"] = json!(t);
        e
    };
    let mut with_blob = at("2026-01-01T10:00:00Z", put("a@x", "1", "one"));
    with_blob["blob"] = json!({"base64": "Zmlyc3Q="});
    let mut second = at("2026-01-01T11:00:00Z", put("a@x", "1", "two"));
    second["blob"] = json!({"base64": "c2Vjb25k"});
    let gone = at("2026-01-01T12:00:00Z", json!({"account": "a@x", "item": "1", "kind": "message", "op": "delete"}));
    // Source clocks go backwards: an item's history does not.
    let early = at("2026-01-01T09:00:00Z", put("a@x", "1", "back"));
    p.append(&lines(&[with_blob, second, gone, early]));
    let cat = |at: &str| p.ok(["cat", "a@x", "1", "--at", at]);
    assert_eq!(cat("2026-01-01T10:00:00Z"), "first");
    assert_eq!(cat("2026-01-01 10:59:59.999999"), "first");
    assert_eq!(cat("01/01/2026 11:00:00"), "second");
    assert_eq!(cat("lsn:1"), "first");
    let show = |at: &str| json_lines(p.ok(["show", "a@x", "1", "--json", "--at", at]).as_bytes()).remove(0);
    assert_eq!(show("2026-01-01T11:59:59Z")["op"], "put");
    assert_eq!(show("lsn:3")["op"], "delete");
    assert_eq!(show("last")["state"]["name"], "back");
    assert_eq!(show("2026-01-01T12:00:00Z")["state"]["name"], "back", "ties resolve to the higher LSN");
    assert_eq!(p.ok(["log", "a@x", "1", "--json"]).lines().count(), 4);
    let said = p.fails(17, ["show", "a@x", "1", "--at", "2025-12-31"]);
    assert!(said.contains("2026-01-01T10:00:00"), "{said}");
    let history = json_lines(p.ok(["export", "--at", "2026-01-01T11:30:00Z"]).as_bytes());
    assert_eq!((history.len(), &history[0]["state"]["name"]), (1, &json!("two")));
}

#[test]
fn exit_codes_are_those_of_the_table() {
    let p = Program::new();
    assert!(p.fails(10, ["info"]).contains("init"));
    p.ok(["init"]);
    p.fails(1, ["init"]);
    p.fails(2, ["nonsense"]);
    p.fails(2, ["init", "--segment-size", "1K"]);
    p.fails(2, ["append", "--no-such-option"]);
    p.fails(17, ["items", "nobody@x"]);
    p.fails(14, ["append", "no-such-file"]);
    assert!(p.fails(1, ["bench"]).contains("not built yet"));
    // One writer at a time, named.
    let mut child =
        p.command(["append"]).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null()).spawn().unwrap();
    let busy = (0..200).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(25));
        let out = p.feed(["append"], b"");
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        out.status.code() == Some(11) && said.contains(&child.id().to_string()) && said.contains("append")
    });
    assert!(busy);
    p.ok(["accounts"]);
    drop(child.stdin.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(p.append("").1, 0);
}

#[test]
fn a_terminated_append_acknowledges_what_it_took_and_says_so() {
    use std::io::{BufRead as _, Write as _};
    let p = Program::small();
    let mut child =
        p.command(["append"]).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(lines(&[put("a@x", "1", "one")]).as_bytes()).unwrap();
    let mut first = String::new();
    std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(first.contains("\"ack\":1"), "acknowledged at once, while the input stays open: {first}");
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert_eq!(p.export().len(), 1);
}

#[test]
fn settings_come_from_option_environment_file_default_in_this_order() {
    let p = Program::small();
    let file = p.dir.path().join("c.toml");
    let other = p.dir.path().join("other");
    std::fs::write(&file, format!("store = {:?}\n[export]\nblobs = \"digest\"\n", p.store)).unwrap();
    p.append(&lines(&[{
        let mut e = put("a@x", "1", "one");
        e["blob"] = json!({"base64": "aGVsbG8="});
        e
    }]));
    let run = |args: &[&str], env: Option<&std::path::Path>| {
        let mut c = p.command(args);
        c.env_remove("MAILSTRATA_STORE");
        if let Some(store) = env {
            c.env("MAILSTRATA_STORE", store);
        }
        c.output().unwrap()
    };
    let config = file.to_str().unwrap();
    let out = run(&["--config", config, "export"], None);
    assert!(String::from_utf8_lossy(&out.stdout).contains("sha256:"), "{}", String::from_utf8_lossy(&out.stderr));
    let out = run(&["--config", config, "export", "--blobs", "inline"], None);
    assert!(String::from_utf8_lossy(&out.stdout).contains("aGVsbG8="));
    assert_eq!(run(&["--config", config, "info"], Some(&other)).status.code(), Some(10));
    assert_eq!(run(&["info"], None).status.code(), Some(2));
    std::fs::write(&file, "stroe = \"x\"\n").unwrap();
    assert_eq!(run(&["--config", config, "info"], None).status.code(), Some(2));
}

#[test]
fn help_completions_and_manual_pages_exist() {
    let p = Program::new();
    assert!(p.ok(["--help"]).contains("restore"));
    assert!(p.ok(["restore", "--help"]).contains("undelete"));
    for shell in ["bash", "zsh", "fish"] {
        assert!(p.ok(["completions", shell]).contains("mailstrata"));
    }
    p.ok(["man", "pages"]);
    assert!(std::fs::read_dir(p.dir.path().join("pages")).unwrap().count() > 15);
}

#[test]
fn a_store_written_by_the_binary_is_read_by_the_reader_written_from_the_specification() {
    let python = std::env::var("MAILSTRATA_PYTHON").unwrap_or_else(|_| "python3".into());
    let modules = std::process::Command::new(&python).args(["-c", "import xxhash, zstandard"]).output();
    if !modules.is_ok_and(|o| o.status.success()) {
        println!("skipped: {python} lacks xxhash or zstandard (tests/run.sh installs them)");
        return;
    }
    let p = Program::small();
    let mut all = Vec::new();
    for i in 0..300 {
        let mut e = put(if i % 3 == 0 { "a@x" } else { "b%FF@x" }, &format!("{}", i % 90), &format!("name {i}"));
        e["blob"] = json!({"base64": base64_of(i)});
        all.push(e);
    }
    assert_eq!(p.append(&lines(&all)).1, 0);
    let reader = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../format-spec/reader.py");
    let run = |args: &[&std::ffi::OsStr]| {
        let out = std::process::Command::new(&python).arg(&reader).arg(&p.store).args(args).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        out.stdout
    };
    assert_eq!(json_lines(&run(&[])), json_lines(p.ok(["export", "--blobs", "digest"]).as_bytes()));
    let blobs = p.dir.path().join("blobs");
    run(&["--blobs".as_ref(), blobs.as_os_str()]);
    assert_eq!(std::fs::read_dir(&blobs).unwrap().count(), 300);
    run(&["--check".as_ref()]);
}

fn base64_of(i: u32) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    // Four digits a number, so that every blob differs, and some length.
    let mut text = String::new();
    for k in 0..100 + i % 400 {
        let mut n = i.wrapping_mul(2_654_435_761).wrapping_add(k * 40_503);
        for _ in 0..4 {
            text.push(char::from(DIGITS[(n % 64) as usize]));
            n /= 64;
        }
    }
    text
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error_and_a_full_output_is_one() {
    use std::process::Stdio;
    let p = Program::small();
    p.append(&lines(&(0..300).map(|i| put("a@x", &i.to_string(), "name")).collect::<Vec<_>>()));
    for args in [&["info"][..], &["stats"], &["export"], &["items", "a@x"], &["completions", "bash"]] {
        let (read, write) = std::io::pipe().unwrap();
        drop(read);
        let out = p.command(args).stdout(write).stderr(Stdio::piped()).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&out.stderr), "", "{args:?}");
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let out = p.command(args).stdout(full).stderr(Stdio::piped()).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.contains("No space left") && !said.contains("panicked"), "{args:?}: {said}");
    }
}

#[test]
fn a_source_that_is_not_there_is_unreachable_and_not_an_empty_mailbox() {
    let p = Program::small();
    let nowhere = format!("maildir:{}?account=a@x", p.dir.path().join("nowhere").display());
    assert!(p.fails(14, ["scan", "--source", &nowhere]).contains("no Maildir"));
    p.fails(14, ["watch", "--source", &nowhere]);
    p.fails(14, ["scan", "--source", &format!("maildir:{}/none/{{user}}", p.dir.path().display())]);
    p.fails(2, ["scan", "--source", "imap://example.org"]);
}

#[test]
fn first_and_last_bound_what_they_say() {
    let p = Program::small();
    let at = |t: &str, mut e: Value| {
        e["at"] = json!(t);
        e
    };
    let gone = |i: &str| json!({"account": "a@x", "item": i, "kind": "message", "op": "delete"});
    let mut all: Vec<Value> = (0..3).map(|i| at("2026-01-01T10:00:00Z", put("a@x", &i.to_string(), "m"))).collect();
    for e in &mut all {
        e["blob"] = json!({"base64": "aGVsbG8="});
    }
    all.push(at("2026-01-02T10:00:00Z", gone("0")));
    all.push(at("2026-01-03T10:00:00Z", gone("1")));
    p.append(&lines(&all));
    let target = format!("maildir:{}", p.dir.path().join("m").display());
    let dry = |from: &str, until: &str| {
        let args =
            ["restore", "undelete", "a@x", "--from", from, "--until", until, "--to", &target, "--dry-run", "--json"];
        let out = json_lines(&p.run(args).stdout);
        out.last().unwrap()["report"]["counts"]["wanted"].as_u64().unwrap()
    };
    assert_eq!((dry("first", "last"), dry("last", "last"), dry("first", "first")), (2, 1, 0));
    assert_eq!(dry("2026-01-02T11:00:00Z", "last"), 1);
    let summary = |from: &str, to: &str| {
        json_lines(p.ok(["diff", "a@x", "--from", from, "--to", to, "--json"]).as_bytes()).pop().unwrap()["summary"]
            .clone()
    };
    assert_eq!(summary("last", "last")["removed"], 0);
    assert_eq!(summary("2026-01-01T12:00:00Z", "last")["removed"], 2);
    assert_eq!(summary("first", "first")["added"], 3);
}

#[test]
fn a_file_that_is_no_mbox_is_not_written_to() {
    let p = Program::small();
    let mut e = put("a@x", "1", "m");
    e["blob"] = json!({"base64": "aGVsbG8="});
    p.append(&lines(&[e]));
    let script = p.dir.path().join("script");
    std::fs::write(&script, "#!/bin/sh\n").unwrap();
    p.fails(1, ["restore", "account", "a@x", "--to", &format!("mbox:{}", script.display())]);
    assert_eq!(std::fs::read(&script).unwrap(), b"#!/bin/sh\n");
    p.ok(["restore", "account", "a@x", "--to", &format!("mbox:{}/", p.dir.path().join("boxes").display())]);
    assert!(p.dir.path().join("boxes").is_dir());
}

#[test]
fn a_removed_index_directory_comes_back() {
    let p = Program::small();
    p.append(&lines(&[put("a@x", "1", "one")]));
    std::fs::remove_dir_all(p.store.join("index")).unwrap();
    std::fs::remove_file(p.store.join("MANIFEST")).unwrap();
    assert_eq!(p.append(&lines(&[put("a@x", "2", "two")])).1, 0);
    assert_eq!(p.export().len(), 2);
}

#[test]
fn two_maildirs_under_one_name_do_not_delete_each_others_mail() {
    let p = Program::small();
    let make = |name: &str| {
        let root = p.dir.path().join(name);
        for sub in ["cur", "new", "tmp"] {
            std::fs::create_dir_all(root.join(sub)).unwrap();
        }
        std::fs::write(root.join(format!("cur/1.{name}:2,S")), format!("Subject: {name}\n\nx\n")).unwrap();
        format!("maildir:{}?account=a@x", root.display())
    };
    let (one, two) = (make("one"), make("two"));
    p.ok(["scan", "--source", &one]);
    assert!(p.fails(3, ["scan", "--source", &two]).contains("same name"));
    assert_eq!(p.ok(["items", "a@x", "--kind", "message", "--json"]).lines().count(), 1);
    // A mailbox that moved is still the same account.
    std::fs::rename(p.dir.path().join("one"), p.dir.path().join("three")).unwrap();
    let three = one.replace("/one?", "/three?");
    p.ok(["scan", "--source", &three]);
    let items = json_lines(p.ok(["items", "a@x", "--kind", "message", "--json"]).as_bytes());
    assert_eq!((items.len(), &items[0]["state"]["name"]), (1, &json!("one")));
}

#[test]
fn a_command_reaches_the_process_that_writes_the_store() {
    use std::io::{BufRead as _, Write as _};
    let p = Program::small();
    let mut writer =
        p.command(["append"]).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut input = writer.stdin.take().unwrap();
    let mut acks = std::io::BufReader::new(writer.stdout.take().unwrap());
    writeln!(input, "{}", put("a@x", "1", "one")).unwrap();
    let mut ack = String::new();
    acks.read_line(&mut ack).unwrap();

    // The lock is taken, the work is done all the same, by the one who has it.
    let done: Value = serde_json::from_str(&p.ok(["compact", "--json"])).unwrap();
    assert_eq!((&done["runs"], &done["left_out"]), (&json!(0), &json!(0)));
    let status: Value = serde_json::from_str(&p.ok(["status", "--json"])).unwrap();
    assert_eq!(status["writer"], json!({"pid": writer.id(), "operation": "append"}));

    // And the writer was not disturbed.
    writeln!(input, "{}", put("a@x", "2", "two")).unwrap();
    drop(input);
    assert!(writer.wait().unwrap().success());
    assert_eq!(p.export().len(), 2);
    let status: Value = serde_json::from_str(&p.ok(["status", "--json"])).unwrap();
    assert_eq!(status["writer"], Value::Null);
}
