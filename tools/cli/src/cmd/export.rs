//! `export`: a store as event lines.

use crate::exit::{Code, Failure, Outcome};
use crate::{Global, out};
use mailstrata_backup::export::{Blobs, Export, export};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Write the store's history, or its items at a moment, as JSON lines.
///
/// Without --at the whole history, in LSN order. Appending the lines to an empty store gives the same histories. What is
/// damaged stands as a line of its own ("op":"damaged"), and the exit code is 13.
#[derive(clap::Args)]
pub struct Args {
    /// What is written.
    #[arg(long, value_enum, default_value_t = Format::Ndjson)]
    format: Format,
    /// Where to; `-` is standard output.
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
    /// What stands for a message's bytes: inline (base64), digest, or dir:PATH (a file each).
    #[arg(long, value_name = "HOW", default_value = "inline")]
    blobs: String,
    /// The items as they were then, instead of the history.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    at: Option<String>,
    /// Only this account (address or id).
    #[arg(long, value_name = "ACCOUNT")]
    account: Option<String>,
    /// Only accounts of this domain.
    #[arg(long, value_name = "DOMAIN")]
    domain: Option<String>,
    /// Only what was recorded after this LSN.
    #[arg(long, value_name = "LSN")]
    since: Option<u64>,
}

#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// Event lines.
    Ndjson,
    /// The JSON layout of earlier systems (not built yet).
    BackupPath,
}

pub fn run(g: &Global, args: &Args) -> Outcome {
    if args.format == Format::BackupPath {
        return Err(Failure::new(Code::Failed, "export --format backup-path is not built yet"));
    }
    let blobs = match args.blobs.as_str() {
        "inline" => Blobs::Inline,
        "digest" => Blobs::Digest,
        other => match other.strip_prefix("dir:").filter(|d| !d.is_empty()) {
            Some(dir) => Blobs::Dir(dir.into()),
            None => return Err(Failure::usage(format!("--blobs takes inline, digest or dir:PATH, not `{other}`"))),
        },
    };
    let reader = out::reader(g)?;
    let at = out::resolve_at(reader.view(), args.at.as_deref())?;
    let account = args.account.as_ref().map(|a| out::account(&at.view, a)).transpose()?;
    let what = Export {
        blobs,
        account,
        domain: args.domain.clone(),
        since: args.since,
        at: args.at.as_ref().map(|_| at.moment.unwrap_or(i64::MAX)),
    };
    let to: Box<dyn Write> = if args.file == Path::new("-") {
        Box::new(out::stdout())
    } else {
        let file = File::create(&args.file)
            .map_err(|e| Failure::new(Code::Unreachable, format!("{}: {e}", args.file.display())))?;
        Box::new(BufWriter::with_capacity(256 << 10, file))
    };
    let totals = export(&at.view, &what, to)?;
    if args.file != Path::new("-") {
        eprintln!("{} lines, {} damaged", totals.lines, totals.damaged);
    }
    Ok(if totals.damaged > 0 || !reader.findings().is_empty() { Code::Damage } else { Code::Done })
}
