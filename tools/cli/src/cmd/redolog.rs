//! `redolog dump`: what stands in a Zimbra redo log. Reads the files given, needs no store and no server.

use crate::exit::{Code, Failure, Outcome};
use crate::{Global, out};
use mailstrata_mailstore::redolog::content;
use mailstrata_mailstore::redolog::files::{LogFile, LogFiles};
use mailstrata_mailstore::redolog::header::{HEADER_LEN, HeaderError};
use mailstrata_mailstore::redolog::record::Record;
use mailstrata_mailstore::redolog::scan::{Scanner, Skipped, Step};
use mailstrata_mailstore::redolog::transaction::{Fate, Transactions};
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

/// Read a Zimbra redo log.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    Dump(Dump),
}

/// Show every record of redo log files, in sequence order, commits included.
///
/// A directory means its redo.log and its archived logs. Damage is reported with its place, the last good record before it and
/// the bytes there; reading goes on behind it. Exit code 13: damage, 14: a file could not be read, 1: a file is no redo log.
#[derive(clap::Args)]
struct Dump {
    /// Log files, or directories of them.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Only records of this mailbox. May be given more than once.
    #[arg(long, value_name = "N", value_delimiter = ',', allow_negative_numbers = true)]
    mailbox: Vec<i64>,
    /// Only verify: show damage and the sums.
    #[arg(long, short)]
    quiet: bool,
    /// Leave file offsets away, so that dumps can be compared.
    #[arg(long)]
    no_offset: bool,
    /// Show the content that records carry, uncompressed; with --json as `base64`.
    #[arg(long)]
    show_blob: bool,
}

pub fn run(g: &Global, args: &Args) -> Outcome {
    let What::Dump(args) = &args.what;
    dump(g, args)
}

#[derive(Default)]
struct Sums {
    records: u64,
    committed: u64,
    aborted: u64,
    orphans: u64,
    damaged: u64,
    torn: u64,
    gaps: u64,
}

/// Bytes shown at a damaged place.
const SHOWN: usize = 64;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Content between its marks, by itself on lines.
fn show_blob(record: &Record, file: &File, to: &mut impl Write) -> io::Result<()> {
    let Some((extent, size)) = record.data() else { return Ok(()) };
    writeln!(to, "<START OF BLOB>")?;
    let copied = match content::open(file, extent, size) {
        Ok(content) => content::copy(content, to)?,
        Err(e) => Err(e),
    };
    match copied {
        Ok(_) => writeln!(to, "\n<END OF BLOB>"),
        Err(e) => writeln!(to, "\n<BLOB UNREADABLE: {e}>"),
    }
}

struct Place<'a> {
    name: &'a str,
    from: u64,
    to: u64,
    left: u64,
    last_good: Option<u64>,
    why: &'a str,
    bytes: &'a [u8],
}

fn say_damage(g: &Global, op: &str, p: &Place<'_>, to: &mut impl Write) -> Result<(), Failure> {
    if g.json {
        let line = serde_json::json!({"op": op, "file": p.name, "offset": p.from, "to": p.to, "left": p.left,
            "last_good": p.last_good, "why": p.why, "bytes": hex(p.bytes)});
        return out::json_line(to, &line);
    }
    let good = p.last_good.map_or("no good record before it".to_owned(), |at| format!("last good record at {at}"));
    writeln!(
        to,
        "{}: {} at offset {}: {}; reading goes on at {}, {} bytes were left, {good}\n  {}",
        p.name,
        op.to_uppercase(),
        p.from,
        p.why,
        p.to,
        p.left,
        hex(p.bytes)
    )?;
    Ok(())
}

fn one(g: &Global, args: &Dump, log: &LogFile, open: &mut Transactions<()>, sums: &mut Sums) -> Result<(), Failure> {
    let name = out::text(std::os::unix::ffi::OsStrExt::as_bytes(log.path.as_os_str()));
    let failed = |e: io::Error| Failure::new(Code::Unreachable, format!("{name}: {e}"));
    let mut to = out::stdout();
    if !g.json && !args.quiet {
        let h = &log.header;
        let state = if h.open { "in use, or left by a server that died" } else { "closed" };
        let server = out::text(h.server_id.as_bytes());
        writeln!(to, "{name}: sequence {}, server {server}, version {}, {state}", h.sequence, h.version)?;
    }
    let more =
        [("file", serde_json::Value::from(name.as_str()).to_string()), ("sequence", log.header.sequence.to_string())];
    let more = if args.no_offset { &more[1..] } else { &more[..] };
    // A dump takes what is there: it does not wait for more.
    let mut scanner = Scanner::new(&log.file, HEADER_LEN, false).map_err(failed)?;
    let len = scanner.end();
    loop {
        match scanner.step().map_err(failed)? {
            Step::End => break,
            Step::Record(record) => {
                sums.records += 1;
                let wanted = args.mailbox.is_empty() || args.mailbox.iter().any(|&m| record.concerns(m));
                if wanted && !args.quiet {
                    if g.json {
                        let blobs = args.show_blob.then_some(&log.file);
                        record.write_json(more, !args.no_offset, blobs, &mut to)?;
                        to.write_all(b"\n")?;
                    } else {
                        record.write_text(!args.no_offset, &mut to)?;
                        to.write_all(b"\n")?;
                        if args.show_blob {
                            show_blob(&record, &log.file, &mut to)?;
                        }
                    }
                }
                match open.take(record, ()) {
                    Fate::Committed(_) => sums.committed += 1,
                    Fate::Aborted => sums.aborted += 1,
                    Fate::Orphan => sums.orphans += 1,
                    Fate::Open | Fate::Again | Fate::CommittedAgain | Fate::Nothing => {}
                }
            }
            Step::Skipped(Skipped { from, to: next, why, last_good }) => {
                sums.damaged += 1;
                let bytes = scanner.peek(from, SHOWN).map_err(failed)?;
                let p = Place { name: &name, from, to: next, left: len.saturating_sub(from), last_good, why, bytes };
                say_damage(g, "damaged", &p, &mut to)?;
            }
            Step::Torn { at, left, last_good } => {
                // A server that runs, or died, may leave half a record. One that closed its file did not.
                let (op, why) = if log.header.open {
                    sums.torn += 1;
                    ("torn", "the last record is not written to its end")
                } else {
                    sums.damaged += 1;
                    ("damaged", "the file was closed, and yet ends inside of a record")
                };
                let bytes = scanner.peek(at, SHOWN).map_err(failed)?;
                say_damage(g, op, &Place { name: &name, from: at, to: len, left, last_good, why, bytes }, &mut to)?;
            }
        }
    }
    // A cut between two records shows only here.
    if !log.header.open && u64::try_from(log.header.file_size).is_ok_and(|size| size != len) {
        sums.damaged += 1;
        let why = format!("the file was closed with {} bytes and has {len}", log.header.file_size);
        let p = Place { name: &name, from: len, to: len, left: 0, last_good: None, why: &why, bytes: &[] };
        say_damage(g, "damaged", &p, &mut to)?;
    }
    to.flush()?;
    Ok(())
}

fn dump(g: &Global, args: &Dump) -> Outcome {
    let logs = LogFiles::open(&args.files);
    let mut code = Code::Done;
    for unread in &logs.unread {
        eprintln!("mailstrata: {unread}");
        if matches!(unread.source, HeaderError::Io(_)) {
            code = Code::Unreachable;
        } else if code == Code::Done {
            code = Code::Failed;
        }
    }
    if logs.found.is_empty() && logs.unread.is_empty() {
        return Err(Failure::new(Code::NothingMatched, "there is no redo log in the directories given")
            .hint("logs are called redo.log, and redo-TIME-seqN.log in the archive"));
    }
    let gaps = logs.gaps();
    let mut open = Transactions::default();
    let mut sums = Sums::default();
    for gap in &gaps {
        sums.gaps += 1;
        eprintln!("note: sequence {} is followed by {}: what was between is not here", gap.after, gap.before);
    }
    for log in &logs.found {
        match one(g, args, log, &mut open, &mut sums) {
            Ok(()) => {}
            // One unreadable file does not keep the others from being shown.
            Err(failure) if failure.code == Code::Unreachable => {
                eprintln!("mailstrata: {}", failure.message);
                code = Code::Unreachable;
            }
            Err(failure) => return Err(failure),
        }
    }
    eprintln!(
        "{} files, {} records: {} changes committed, {} aborted, {} without an end, {} ends without a change; \
         {} damaged places, {} torn tails, {} gaps",
        logs.found.len(),
        sums.records,
        sums.committed,
        sums.aborted,
        open.open_len(),
        sums.orphans,
        sums.damaged,
        sums.torn,
        sums.gaps
    );
    Ok(if sums.damaged > 0 { Code::Damage } else { code })
}
