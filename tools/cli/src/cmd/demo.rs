//! `demo`: the main job from end to end, on a mailbox it makes itself.

use crate::exit::{Code, Failure, Outcome};
use crate::{Global, out};
use mailstrata_backup::resolve;
use mailstrata_backup::restore::{self, Verdict};
use mailstrata_backup::scan::{Options, Watch};
use mailstrata_engine::{Create, Store, View};
use mailstrata_format::{AccountId, ItemKind};
use mailstrata_mailstore::maildir::target::{MaildirOptions, MaildirTarget};
use mailstrata_mailstore::url::{MaildirUrl, Url};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Protect a mailbox live, lose mail, get it back: on a mailbox made for it in a temporary directory.
#[derive(clap::Args)]
pub struct Args {
    /// Messages that are there before it begins.
    #[arg(long, value_name = "N", default_value_t = 500)]
    messages: usize,
    /// Keep the directory and say where it is.
    #[arg(long)]
    keep: bool,
}

const ALICE: &[u8] = b"alice@example.org";
const PATIENCE: Duration = Duration::from_secs(30);

fn text(i: usize) -> String {
    let word = ["plan", "invoice", "minutes", "offer", "photos", "contract", "travel"][i % 7];
    format!(
        "Return-Path: <bob@example.net>\r\nFrom: Bob <bob@example.net>\r\nTo: alice@example.org\r\nSubject: {word} number {i}\r\n\
         Date: Sun, 22 Nov 2026 10:{:02}:{:02} +0000\r\nMessage-ID: <{i}.demo@example.net>\r\n\r\n{}",
        i / 60 % 60,
        i % 60,
        format!("About the {word}, part {i}.\r\n").repeat(1 + i % 200)
    )
}

struct Mailbox(PathBuf);

impl Mailbox {
    fn make(root: &Path) -> io::Result<Self> {
        for folder in ["", ".Projects", ".Archive.2025"] {
            for sub in ["cur", "new", "tmp"] {
                fs::create_dir_all(root.join(folder).join(sub))?;
            }
            if !folder.is_empty() {
                fs::write(root.join(folder).join("maildirfolder"), b"")?;
            }
        }
        Ok(Self(root.to_owned()))
    }

    /// As a delivery agent does: written beside, then renamed.
    fn deliver(&self, folder: &str, i: usize, text: &str) -> io::Result<PathBuf> {
        let name = format!("17950000{:02}.M{i}P1.demo,S={}", i % 100, text.len());
        let temp = self.0.join(folder).join("tmp").join(&name);
        fs::write(&temp, text)?;
        let path = self.0.join(folder).join("new").join(&name);
        fs::rename(temp, &path)?;
        Ok(path)
    }
}

/// Every message below a Maildir: folder, flags, content.
fn contents(root: &Path) -> io::Result<BTreeMap<Vec<u8>, (String, String)>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(root)? {
        let dir = entry?.path();
        let name = dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let folder = if name.starts_with('.') { name } else { String::new() };
        let subs: &[PathBuf] =
            if folder.is_empty() { std::slice::from_ref(&dir) } else { &[dir.join("cur"), dir.join("new")] };
        for sub in subs.iter().filter(|s| s.ends_with("cur") || s.ends_with("new")) {
            for message in fs::read_dir(sub)? {
                let path = message?.path();
                let file = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
                let flags = file.split_once(":2,").map_or(String::new(), |(_, f)| f.to_owned());
                all.insert(fs::read(&path)?, (folder.clone(), flags));
            }
        }
    }
    Ok(all)
}

struct Demo<'a> {
    store: &'a Store,
    account: AccountId,
}

impl Demo<'_> {
    fn view(&self) -> View {
        self.store.view()
    }

    fn messages(&self) -> Result<usize, Failure> {
        let mut n = 0;
        for hit in self.view().items(self.account, None)? {
            let hit = hit?;
            n += usize::from(!hit.deleted() && hit.kind() == Some(ItemKind::Message));
        }
        Ok(n)
    }

    /// Waits until the store knows, and says how long that took.
    fn until(&self, what: &str, mut known: impl FnMut(&Self) -> Result<bool, Failure>) -> Result<Duration, Failure> {
        let started = Instant::now();
        while !known(self)? {
            if started.elapsed() > PATIENCE {
                return Err(Failure::new(
                    Code::Failed,
                    format!("{what}: not recorded within {} s", PATIENCE.as_secs()),
                ));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(started.elapsed())
    }
}

fn step(what: &str, took: Duration) -> io::Result<()> {
    crate::say!("{what:<68} {:>8.1} ms", took.as_secs_f64() * 1e3);
    Ok(())
}

pub fn run(g: &Global, args: &Args) -> Outcome {
    let dir = tempfile::Builder::new().prefix("mailstrata-demo-").tempdir()?;
    let root = dir.path().to_owned();
    crate::say!("in {}", root.display());
    let mailbox = Mailbox::make(&root.join("Maildir"))?;
    for i in 0..args.messages {
        let folder = ["", "", ".Projects", ".Archive.2025"][i % 4];
        mailbox.deliver(folder, i, &text(i))?;
    }
    let place = root.join("store");
    let options = out::options(g, "demo")?;
    Store::create(&place, &Create::default(), &options)?;
    let store = Store::open(&place, &options)?;
    let url: Url = format!("maildir:{}?account=alice@example.org", mailbox.0.display()).parse()?;
    let Url::Maildir(url @ MaildirUrl::One { .. }) = url else {
        return Err(Failure::usage("the demo's own URL is not a Maildir"));
    };
    let stop = AtomicBool::new(false);
    let watch = Watch::new(&store, &url, Options::default());
    let outcome = std::thread::scope(|scope| {
        let following = scope.spawn(|| watch.run(&stop, &|_| {}));
        let told = play(&store, &mailbox, args.messages, &root);
        stop.store(true, Ordering::Relaxed);
        let ended = following.join().unwrap_or_else(|p| std::panic::resume_unwind(p));
        told.and_then(|t| ended.map(|_| t).map_err(Failure::from))
    });
    let latency = watch.status().latency;
    drop(watch);
    store.close()?;
    outcome?;
    crate::say!(
        "from the change of a file to its acknowledgement: p50 {:.1} ms, p99 {:.1} ms over {} changes",
        latency.p50 as f64 / 1e3,
        latency.p99 as f64 / 1e3,
        latency.count
    );
    if args.keep {
        let kept = dir.keep();
        crate::say!("kept: try `mailstrata --store {}/store log alice@example.org ITEM`", kept.display());
    }
    crate::say!("all of it came back, byte for byte");
    Ok(Code::Done)
}

/// The story: deliver, flag, move, delete, restore, compare.
fn play(store: &Store, mailbox: &Mailbox, before: usize, root: &Path) -> Result<(), Failure> {
    let demo = Demo { store, account: store.account_of(ALICE)? };
    let took = demo.until("the first scan", |d| Ok(d.messages()? == before))?;
    step(&format!("{before} messages were there: scanned, and durable after"), took)?;
    // Let the follower settle before its latency is measured.
    std::thread::sleep(Duration::from_millis(300));

    let first = mailbox.deliver("", 100_000, &text(100_000))?;
    step("a message is delivered: recorded after", demo.until("the delivery", |d| Ok(d.messages()? == before + 1))?)?;

    let name = first.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let seen = mailbox.0.join("cur").join(format!("{name}:2,FS"));
    let lsn = store.view().lsn();
    fs::rename(&first, &seen)?;
    step("it is read and flagged: recorded after", demo.until("the flags", |d| Ok(d.view().lsn() > lsn))?)?;

    let lsn = store.view().lsn();
    let moved = mailbox.0.join(".Projects/cur").join(format!("{name}:2,FS"));
    fs::rename(&seen, &moved)?;
    step("it is moved to Projects: recorded after", demo.until("the move", |d| Ok(d.view().lsn() > lsn))?)?;
    // What is compared at the end must not fall into the same microsecond as the loss.
    std::thread::sleep(Duration::from_millis(50));
    let good = out::now();
    let expected = contents(&mailbox.0)?;
    std::thread::sleep(Duration::from_millis(50));

    let mut lost = 0;
    for folder in ["new", "cur", ".Projects/new", ".Projects/cur"] {
        for entry in fs::read_dir(mailbox.0.join(folder))? {
            fs::remove_file(entry?.path())?;
            lost += 1;
        }
    }
    let left = before + 1 - lost;
    step(
        &format!("{lost} messages are deleted by mistake: recorded after"),
        demo.until("the deletions", |d| Ok(d.messages()? == left))?,
    )?;

    let started = Instant::now();
    let target = root.join("restored");
    let mut maildir = MaildirTarget::open(&target, MaildirOptions::default())?;
    let view = store.view();
    let who = resolve::account(&view, ALICE, Some(good))?;
    let report = restore::account(&view, &who.is, Some(good), &mut maildir, restore::Options::default(), &mut |_| {})?;
    if report.verdict() != Verdict::Done {
        return Err(Failure::new(Code::Failed, format!("the restore was not complete: {report:?}")));
    }
    step(
        &format!("the mailbox as of {}: {} messages restored in", out::moment(good), report.counts.restored),
        started.elapsed(),
    )?;

    let restored = contents(&target)?;
    let differ = expected
        .iter()
        .filter(|(bytes, (folder, flags))| restored.get(*bytes).is_none_or(|(f, l)| f != folder || l != flags))
        .count();
    if differ > 0 || restored.len() != expected.len() {
        return Err(Failure::new(
            Code::Failed,
            format!("{differ} messages differ, {} of {} are there", restored.len(), expected.len()),
        ));
    }
    crate::say!("compared: {} messages, every byte, folder and flag as they were", expected.len());
    Ok(())
}
