//! `completions`: for a shell.

use crate::exit::{Code, Outcome};

/// Write completions for a shell to stdout.
#[derive(clap::Args)]
pub struct Args {
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

pub fn run(args: &Args) -> Outcome {
    clap_complete::generate(args.shell, &mut crate::command(), "mailstrata", &mut std::io::stdout());
    Ok(Code::Done)
}
