//! The whole path: a Maildir tree into a store, looked at again, and back into Maildirs.
//!
//! *First* is a durable first backup; its ceiling is the CPU's part of the same mails, SHA-256 and zstd from memory on one
//! core. *Unchanged* and *1 %* are later scans; their ceiling is a bare listing of every folder. *Back* restores every
//! account, durably; its ceiling is `cp -r` of the tree followed by `sync`, which leaves the checks out.

use crate::mail::{self, Corpus};
use crate::report::{Goal, Report, Rounds};
use crate::{Bench, Outcome};
use mailstrata_backup::scan::{Options as ScanOptions, SmartScan};
use mailstrata_backup::{resolve, restore};
use mailstrata_engine::blob::entry::LEVEL;
use mailstrata_engine::{Create, Options, Store};
use mailstrata_format::Digest;
use mailstrata_mailstore::maildir::target::{MaildirOptions, MaildirTarget};
use mailstrata_mailstore::url::{MaildirUrl, Url};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

const FOLDERS: [&str; 5] = ["", ".Sent", ".Archive.2024", ".Projects", ".Trash"];

/// All of it.
pub fn run(bench: &Bench, report: &mut Report) -> Outcome {
    let corpus = Corpus::default();
    let tree = bench.dir.join("tree");
    plant(&tree, &corpus, bench.scale.items)?;
    let url: Url = format!("maildir:{}/{{user}}", tree.display()).parse()?;
    let Url::Maildir(url) = url else { return Err("the tree's URL is no Maildir".into()) };
    let (mut first, mut same, mut some, mut back) =
        (Rounds::default(), Rounds::default(), Rounds::default(), Rounds::default());
    let (mut rate, mut space) = (Rounds::default(), Rounds::default());
    for round in 0..bench.scale.rounds {
        bench.settle()?;
        let bytes = read_all(&tree)?;
        let bare = digest_and_compress(&tree)?;
        let dir = bench.dir.join("maildir-store");
        let options = Options::new()?;
        Store::create(&dir, &Create::default(), &options)?;
        let store = Store::open(&dir, &options)?;
        let seconds = scan(&store, &url)?;
        first.add(seconds, bare);
        rate.add_bare(bytes as f64 / seconds / 1e6);
        same.add(scan(&store, &url)?, list(&tree)?);
        let listed = list(&tree)?;
        change(&tree, round as u64)?;
        some.add(scan(&store, &url)?, listed);
        store.close()?;
        space.add_bare(crate::process::size(&dir)?.1 as f64 / bytes as f64);
        back.add(restore_all(&dir, &options, &bench.dir.join("back"))?, copy(&tree, &bench.dir.join("copy"))?);
        fs::remove_dir_all(&dir)?;
    }
    fs::remove_dir_all(&tree)?;
    let cpu = "SHA-256 and zstd of the same mails on one core";
    report.add("maildir", "first backup, durable", "s", &first, cpu, Goal::None);
    report.add("maildir", "first backup", "MB/s", &rate, "", Goal::None);
    report.add("maildir", "scan, nothing changed", "s", &same, "a listing of every folder", Goal::RatioAtMost(1.0));
    report.add("maildir", "scan, 1 % changed", "s", &some, "a listing of every folder", Goal::None);
    report.add("maildir", "everything back, durable", "s", &back, "cp -r and sync", Goal::None);
    report.add("maildir", "bytes of the store / of the mail", "", &space, "", Goal::None);
    Ok(())
}

/// Writes `items` mails into a tree of accounts and folders.
fn plant(tree: &Path, corpus: &Corpus, items: u64) -> Outcome {
    let mut bytes = Vec::new();
    for n in 0..items {
        let user = tree.join(mail::address(n).replace("@example.org", ""));
        let folder = user.join(FOLDERS[(n / mail::ACCOUNTS) as usize % FOLDERS.len()]);
        if n / mail::ACCOUNTS < FOLDERS.len() as u64 {
            for sub in ["cur", "new", "tmp"] {
                fs::create_dir_all(user.join(sub))?;
                fs::create_dir_all(folder.join(sub))?;
            }
        }
        corpus.mail(n, &mut bytes);
        fs::write(folder.join(format!("cur/17000{n:07}.M{n}P1.bench,S={}:2,S", bytes.len())), &bytes)?;
    }
    Ok(())
}

fn each(tree: &Path, what: &mut dyn FnMut(PathBuf) -> Outcome) -> Outcome {
    for user in fs::read_dir(tree)? {
        let user = user?.path();
        for folder in FOLDERS {
            let cur = user.join(folder).join("cur");
            if cur.is_dir() {
                for entry in fs::read_dir(cur)? {
                    what(entry?.path())?;
                }
            }
        }
    }
    Ok(())
}

fn read_all(tree: &Path) -> Outcome<u64> {
    let mut bytes = 0;
    each(tree, &mut |path| {
        bytes += fs::read(path)?.len() as u64;
        Ok(())
    })?;
    Ok(bytes)
}

fn digest_and_compress(tree: &Path) -> Outcome<f64> {
    let mut seconds = 0.0;
    let mut block: Vec<u8> = Vec::new();
    each(tree, &mut |path| {
        let bytes = fs::read(path)?;
        let begin = Instant::now();
        std::hint::black_box(Digest::of(&bytes));
        block.extend_from_slice(&bytes);
        if block.len() >= 256 << 10 {
            std::hint::black_box(zstd::bulk::compress(&block, LEVEL)?);
            block.clear();
        }
        seconds += begin.elapsed().as_secs_f64();
        Ok(())
    })?;
    Ok(seconds)
}

fn list(tree: &Path) -> Outcome<f64> {
    let begin = Instant::now();
    let mut count = 0u64;
    each(tree, &mut |path| {
        std::hint::black_box(path);
        count += 1;
        Ok(())
    })?;
    std::hint::black_box(count);
    Ok(begin.elapsed().as_secs_f64())
}

fn scan(store: &Store, url: &MaildirUrl) -> Outcome<f64> {
    let begin = Instant::now();
    let report = SmartScan::new(store, url, ScanOptions::default()).run(&|_| {}, &AtomicBool::new(false))?;
    let seconds = begin.elapsed().as_secs_f64();
    if report.errors.total > 0 || report.stopped.is_some() {
        return Err(format!("the scan was not complete: {report:?}").into());
    }
    Ok(seconds)
}

/// Of every hundred messages one gets a flag.
fn change(tree: &Path, round: u64) -> Outcome {
    let mut n = round;
    each(tree, &mut |path| {
        n += 1;
        if n.is_multiple_of(100) {
            let name = path.to_string_lossy();
            let other = if name.ends_with('F') { name.trim_end_matches('F').to_owned() } else { format!("{name}F") };
            fs::rename(&path, other)?;
        }
        Ok(())
    })
}

fn restore_all(store: &Path, options: &Options, to: &Path) -> Outcome<f64> {
    let begin = Instant::now();
    let reader = Store::open_read(store, options)?;
    let view = reader.view();
    for hit in view.accounts()? {
        let who = resolve::account(&view, hit.account().to_string().as_bytes(), None)?.is;
        let mut target = MaildirTarget::open(&to.join(hit.account().to_string()), MaildirOptions::default())?;
        let done = restore::account(&view, &who, None, &mut target, restore::Options::default(), &mut |_| {})?;
        if done.incomplete() {
            return Err(format!("the restore was not complete: {done:?}").into());
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    fs::remove_dir_all(to)?;
    Ok(seconds)
}

fn copy(tree: &Path, to: &Path) -> Outcome<f64> {
    let begin = Instant::now();
    let copied = Command::new("cp").arg("-r").arg(tree).arg(to).status()?.success();
    let synced = Command::new("sync").arg("-f").arg(to).status()?.success();
    let seconds = begin.elapsed().as_secs_f64();
    fs::remove_dir_all(to)?;
    if copied && synced { Ok(seconds) } else { Err("cp or sync failed".into()) }
}
