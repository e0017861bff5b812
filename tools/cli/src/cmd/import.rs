//! `import`: what `export` wrote, into a store.

use crate::cmd::append::end;
use crate::exit::{Code, Failure, Outcome};
use crate::progress::Progress;
use crate::signals::{Interruptible, Signals};
use crate::{Global, control, out};
use mailstrata_backup::append::{Outcome as LineOutcome, append};
use std::io::BufReader;
use std::path::{Path, PathBuf};

/// Record an export's lines.
///
/// Like `append`, with a summary instead of a line for each. Lines that cannot be recorded are listed.
#[derive(clap::Args)]
pub struct Args {
    /// What PATH holds.
    #[arg(long, value_enum, default_value_t = Format::Ndjson)]
    format: Format,
    /// The export; `-` is standard input.
    #[arg(value_name = "PATH")]
    path: PathBuf,
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
        return Err(Failure::new(Code::Failed, "import --format backup-path is not built yet"));
    }
    let signals = Signals::take()?;
    let (input, base) = if args.path == Path::new("-") {
        (rustix::io::dup(std::io::stdin()).map_err(std::io::Error::from)?, PathBuf::from("."))
    } else {
        let file = std::fs::File::open(&args.path)
            .map_err(|e| Failure::new(Code::Unreachable, format!("{}: {e}", args.path.display())))?;
        let base = args.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        (file.into(), base.to_owned())
    };
    let store = out::writer(g, "import")?;
    let input = BufReader::with_capacity(256 << 10, Interruptible::new(input, &signals));
    let mut progress = Progress::new(g, "import");
    let mut done = 0;
    let json = g.json;
    let mut told = |outcome| {
        done += 1;
        progress.set(done, 0, 0);
        if let LineOutcome::Refused { line, why } = outcome {
            if json {
                crate::say!("{}", serde_json::json!({"refused": line, "code": why.code(), "message": why.to_string()}));
            } else {
                eprintln!("line {line} refused ({}): {why}", why.code());
            }
        }
        Ok(())
    };
    let result = control::beside(&store, "import", &signals.stop, || append(&store, input, &base, &mut told));
    progress.finish();
    let totals = result?;
    if g.json {
        crate::say!("{}", serde_json::json!({"recorded": totals.acknowledged, "refused": totals.refused}));
    } else {
        crate::say!("{} lines recorded, {} refused", totals.acknowledged, totals.refused);
    }
    end(store, totals, &signals)
}
