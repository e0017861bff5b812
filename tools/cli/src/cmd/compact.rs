//! `compact`: merge what is due, now.

use crate::exit::{Code, Outcome};
use crate::signals::Signals;
use crate::{Global, control, out};

/// Merge sealed segments into runs clustered by account, and remove replaced files whose time has come.
///
/// A writer does this by itself while it runs; this does it at once, in the writer when one runs (`watch`, `append`), and
/// changes nothing that can be read. Files that were replaced stay for --retire-delay seconds.
#[derive(clap::Args)]
pub struct Args {}

pub fn run(g: &Global, _args: &Args) -> Outcome {
    let signals = Signals::take()?;
    let done = control::run(g, "compact", &control::Request::Compact, &mut |_| !signals.came())?;
    if g.json {
        crate::say!("{done}");
    } else {
        crate::say!(
            "{} runs made of {} files, {} written; {} replaced files removed{}",
            done["runs"],
            done["replaced"],
            out::size(done["bytes"].as_u64().unwrap_or(0)),
            done["removed"],
            match done["left_out"].as_u64() {
                None | Some(0) => String::new(),
                Some(n) => format!("; {n} damaged files stay as they are, `fsck` names them"),
            }
        );
    }
    Ok(signals.code().unwrap_or(Code::Done))
}
