//! `fsck`: everything in a store against the format, offline.

use crate::Global;
use crate::exit::{Code, Failure, Outcome};
use crate::out::{self, moment, size, text, text_or};
use crate::progress::Progress;
use crate::signals::Signals;
use mailstrata_engine::check::finding::{Bytes, Finding, Hit, Report};
use mailstrata_engine::check::{Options, PackDone, Watch, check};
use mailstrata_format::{ItemKind, StoreId};
use mailstrata_mailstore::json::percent_encode;
use serde_json::{Value, json};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Check a store: every structure against the format, every name against what it stands for.
///
/// Reads only, takes no lock, and needs nothing but the files; a writer may be at work. Without --read-data the content of blobs
/// is not read (their headers and digests are). A torn tail or a blob that nobody names is a note: exit code 0. Damage is
/// exit code 13, with what it hit by name.
#[derive(clap::Args)]
pub struct Args {
    /// Read every byte, and hash every blob.
    #[arg(long)]
    read_data: bool,
    /// Only what concerns this account (address or id).
    #[arg(long, value_name = "ACCOUNT")]
    account: Option<String>,
    /// Go on where an earlier run with --read-data was interrupted: packs that it found sound are not read again.
    #[arg(long, requires = "read_data")]
    resume: bool,
    /// Where --read-data keeps how far it is (default: a file under the user's cache directory, named after the store).
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Bytes of memory for digests and items; more of them than fit are checked in several rounds.
    #[arg(long, value_name = "BYTES", default_value = "512M", value_parser = super::init::parse_size)]
    memory: u64,
    /// Set aside what is damaged and build again what can be.
    #[arg(long, conflicts_with_all = ["resume", "account"])]
    repair: bool,
}

pub fn run(g: &Global, args: &Args) -> Outcome {
    if args.repair {
        return Err(Failure::new(Code::Failed, "`fsck --repair` is not built yet").hint("README.md lists what is"));
    }
    let dir = out::store_dir(g)?;
    let signals = Signals::take().map_err(|e| Failure::new(Code::Failed, e))?;
    let mut options = Options::new(out::options(g, "fsck")?.disk);
    options.read_data = args.read_data;
    options.account = args.account.as_ref().map(|a| a.clone().into_bytes());
    options.memory = args.memory;
    let state = args.read_data.then(|| State::open(args, &dir)).transpose()?;
    if let Some(s) = &state {
        options.done = s.done();
    }
    let progress = Mutex::new(Progress::of_bytes(g, "fsck"));
    let tell = |done: u64, total: u64| {
        if let Ok(mut p) = progress.lock() {
            p.set(done, total, done);
        }
    };
    let keep = |pack: PackDone| {
        if let Some(s) = &state {
            s.add(pack);
        }
    };
    let watch = Watch { progress: Some(&tell), pack_done: Some(&keep), stop: Some(&signals.stop) };
    let report = check(&dir, &options, &watch)?;
    if let Ok(p) = progress.lock() {
        p.finish();
    }
    let Some(report) = report else {
        let how = if args.read_data { "`fsck --read-data --resume` goes on from here" } else { "nothing was changed" };
        return Err(Failure::new(signals.code().unwrap_or(Code::Interrupted), "interrupted").hint(how));
    };
    if let Some(s) = state {
        s.remove();
    }
    if g.json {
        out::json_line(&mut std::io::stdout(), &as_json(&report, args))?;
    } else {
        print(&report, args)?;
    }
    Ok(if report.sound() { Code::Done } else { Code::Damage })
}

fn print(report: &Report, args: &Args) -> Result<(), Failure> {
    if let Some(writer) = &report.writer {
        eprintln!(
            "note: LOCK names a writer ({writer}): if it is at work, what is not sealed may have moved meanwhile"
        );
    }
    let mut out = out::stdout();
    for f in &report.findings {
        writeln!(out, "{} {} {} at {}: {}", f.severity.name(), f.kind.code(), f.path, f.offset, f.kind.text())?;
        if !f.detail.is_empty() {
            writeln!(out, "    {}", text(f.detail.as_bytes()))?;
        }
        if let Some((a, b)) = f.lsns {
            let which = if a == b { format!("LSN {a}") } else { format!("LSNs {a} to {b}") };
            writeln!(out, "    {which}")?;
        }
        for h in f.hits.iter().take(20) {
            writeln!(out, "    {}", hit_line(h))?;
        }
        if f.hit_count > 20 {
            writeln!(out, "    and {} more states (--json lists {})", f.hit_count - 20, f.hits.len())?;
        }
    }
    if report.left_off > 0 {
        writeln!(out, "{} more findings", report.left_off)?;
    }
    let b = &report.bytes;
    writeln!(
        out,
        "{} files, {}: {} content, {} padding, {} zeros, {} index, {} headers, {} other, {} unknown",
        report.files.len(),
        size(b.sum()),
        size(b.content),
        size(b.padding),
        size(b.zeros),
        size(b.index),
        size(b.header),
        size(b.other),
        size(b.unknown)
    )?;
    let read = if args.read_data { format!(", {} hashed", size(report.hashed)) } else { String::new() };
    writeln!(
        out,
        "{} groups, {} transactions, {} entries, {} blobs{read}",
        report.groups, report.frames, report.entries, report.blobs
    )?;
    if report.sound() {
        writeln!(out, "sound ({} notes)", report.notes)?;
    } else {
        writeln!(out, "{} damaged places, {} notes", report.damage, report.notes)?;
    }
    out.flush()?;
    Ok(())
}

fn hit_line(h: &Hit) -> String {
    let who = text_or(h.address.as_deref(), &h.account.to_string());
    let what = text_or(h.native.as_deref(), &h.item.to_string());
    let kind = ItemKind::from_code(h.item_kind).map_or("item", ItemKind::name);
    let blob = h.blob.map(|d| format!(", blob {d}")).unwrap_or_default();
    let doubt = if h.certain { "" } else { " (names as read from the damaged place)" };
    format!("{who} {kind} {what}, LSN {}, {}{blob}{doubt}", h.lsn, moment(h.moment))
}

fn as_json(r: &Report, args: &Args) -> Value {
    let files: Vec<Value> =
        r.files.iter().map(|(path, len, b)| json!({"path": path, "length": len, "bytes": bytes(b)})).collect();
    json!({
        "version": 1,
        "store": StoreId(r.store).to_string(),
        "sound": r.sound(),
        "damage": r.damage,
        "notes": r.notes,
        "read_data": args.read_data,
        "writer": r.writer,
        "findings": r.findings.iter().map(finding).collect::<Vec<_>>(),
        "findings_left_off": r.left_off,
        "bytes": bytes(&r.bytes),
        "files": files,
        "groups": r.groups,
        "transactions": r.frames,
        "entries": r.entries,
        "blobs": r.blobs,
        "hashed": r.hashed,
        "orphans": r.orphans,
        "last_lsn": r.last_lsn,
        "rounds": r.rounds,
        "resumed_packs": r.resumed,
    })
}

fn bytes(b: &Bytes) -> Value {
    json!({
        "header": b.header, "content": b.content, "padding": b.padding, "zeros": b.zeros, "index": b.index,
        "other": b.other, "unknown": b.unknown, "sum": b.sum(),
    })
}

fn finding(f: &Finding) -> Value {
    json!({
        "severity": f.severity.name(),
        "code": f.kind.code(),
        "text": f.kind.text(),
        "file": f.path,
        "offset": f.offset,
        "length": f.length,
        "detail": f.detail,
        "repair": f.repair.name(),
        "first_lsn": f.lsns.map(|l| l.0),
        "last_lsn": f.lsns.map(|l| l.1),
        "hits": f.hits.iter().map(hit).collect::<Vec<_>>(),
        "hit_count": f.hit_count,
    })
}

fn hit(h: &Hit) -> Value {
    json!({
        "account_id": h.account.to_string(),
        "account": h.address.as_deref().map(percent_encode),
        "item_key": h.item.to_string(),
        "item": h.native.as_deref().map(percent_encode),
        "kind": ItemKind::from_code(h.item_kind).map(ItemKind::name),
        "lsn": h.lsn,
        "moment": moment(h.moment),
        "blob": h.blob.map(|d| format!("sha256:{d}")),
        "certain": h.certain,
    })
}

/// Packs that were read and are sound, one a line (number, length, root), in a file outside the store.
struct State {
    path: PathBuf,
    packs: Mutex<Vec<PackDone>>,
}

impl State {
    /// The state of a run that goes on, or a fresh one.
    fn open(args: &Args, dir: &Path) -> Result<Self, Failure> {
        let path = match &args.state {
            Some(p) => p.clone(),
            None => default_state(dir),
        };
        let mut packs = Vec::new();
        if args.resume {
            match fs::read_to_string(&path) {
                Ok(t) => packs.extend(t.lines().filter_map(parse_done)),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                    eprintln!("note: {}: no earlier run to go on from", path.display());
                }
                Err(e) => return Err(Failure::new(Code::Failed, format!("{}: {e}", path.display()))),
            }
        }
        Ok(Self { path, packs: Mutex::new(packs) })
    }

    fn done(&self) -> Vec<PackDone> {
        self.packs.lock().map(|p| p.clone()).unwrap_or_default()
    }

    /// Adds a pack, and replaces the file. A run whose state cannot be kept is still a run.
    fn add(&self, pack: PackDone) {
        let Ok(mut packs) = self.packs.lock() else { return };
        if packs.contains(&pack) {
            return;
        }
        packs.push(pack);
        let lines: String = packs.iter().map(|p| format!("{} {} {}\n", p.number, p.length, hex(&p.root))).collect();
        let write = || -> std::io::Result<()> {
            if let Some(parent) = self.path.parent() {
                fs::create_dir_all(parent)?;
            }
            let beside = self.path.with_extension("tmp");
            fs::write(&beside, &lines)?;
            fs::rename(&beside, &self.path)
        };
        if let Err(e) = write() {
            tracing::warn!(error = %e, path = %self.path.display(), "an interrupted run could not go on");
        }
    }

    /// The run is complete.
    fn remove(&self) {
        if let Err(e) = fs::remove_file(&self.path)
            && e.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(error = %e, path = %self.path.display(), "the state of a run that is complete stays");
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn parse_done(line: &str) -> Option<PackDone> {
    let mut parts = line.split(' ');
    let (number, length) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some(PackDone { number, length, root: mailstrata_format::digest::unhex(parts.next()?)? })
}

/// Under the user's cache directory, by the store's place; the roots in it bind it to the store's content.
fn default_state(dir: &Path) -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cache")))
        .unwrap_or_else(std::env::temp_dir);
    let whole = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    let name = mailstrata_format::Digest::of(whole.as_os_str().as_encoded_bytes()).to_string();
    cache.join("mailstrata").join(format!("fsck-{}.state", name.get(..16).unwrap_or("store")))
}
