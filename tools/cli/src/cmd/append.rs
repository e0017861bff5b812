//! `append`: read events, acknowledge each once it is durable.

use crate::exit::{Code, Failure, Outcome};
use crate::signals::{Interruptible, Signals};
use crate::{Global, control, out};
use mailstrata_backup::append::{Outcome as LineOutcome, Totals, append};
use std::io::{BufReader, Write as _};
use std::path::{Path, PathBuf};

/// Read events as JSON lines and record them.
///
/// For each line, once it is durable: {"ack":LINE,"lsn":N}. A line that cannot be recorded gives
/// {"nack":LINE,"error":{"code":…,"message":…}}, and the rest goes on (exit code 3). Acknowledgements come in the order of
/// the lines, each at once. The schema is format-spec/events.schema.json.
#[derive(clap::Args)]
pub struct Args {
    /// The events; `-` is standard input.
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
}

pub fn run(g: &Global, args: &Args) -> Outcome {
    let signals = Signals::take()?;
    let store = out::writer(g, "append")?;
    let (input, base) = if args.file == Path::new("-") {
        let stdin = rustix::io::dup(std::io::stdin()).map_err(std::io::Error::from)?;
        (stdin, PathBuf::from("."))
    } else {
        let file = std::fs::File::open(&args.file)
            .map_err(|e| Failure::new(Code::Unreachable, format!("{}: {e}", args.file.display())))?;
        let base = args.file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        (file.into(), base.to_owned())
    };
    let input = BufReader::with_capacity(256 << 10, Interruptible::new(input, &signals));
    let mut stdout = std::io::stdout();
    let mut told = |outcome| {
        let line = match outcome {
            LineOutcome::Acknowledged { line, lsn } => format!("{{\"ack\":{line},\"lsn\":{lsn}}}\n"),
            LineOutcome::Refused { line, why } => {
                let error = serde_json::json!({"code": why.code(), "message": why.to_string()});
                format!("{{\"nack\":{line},\"error\":{error}}}\n")
            }
        };
        stdout.write_all(line.as_bytes())?;
        stdout.flush()
    };
    let result = control::beside(&store, "append", &signals.stop, || append(&store, input, &base, &mut told));
    end(store, result?, &signals)
}

/// Closes the store and says how it went.
pub fn end(store: mailstrata_engine::Store, totals: Totals, signals: &Signals) -> Outcome {
    let closed = store.close();
    if totals.stopped {
        return Err(Failure::new(
            Code::Failed,
            format!("the store took no more writes; {} lines were not recorded", totals.refused),
        )
        .hint("what was acknowledged is safe; see the first refused line for the cause"));
    }
    closed?;
    Ok(match signals.code() {
        Some(code) => code,
        None if totals.refused > 0 => Code::Incomplete,
        None => Code::Done,
    })
}
