//! `man`: manual pages.

use crate::exit::{Code, Failure, Outcome};
use std::path::PathBuf;

/// Write the manual pages, one a command, into a directory.
#[derive(clap::Args)]
pub struct Args {
    /// Where to.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

pub fn run(args: &Args) -> Outcome {
    let failed = |e: std::io::Error| Failure::new(Code::Failed, format!("{}: {e}", args.dir.display()));
    std::fs::create_dir_all(&args.dir).map_err(failed)?;
    clap_mangen::generate_to(crate::command(), &args.dir).map_err(failed)?;
    Ok(Code::Done)
}
