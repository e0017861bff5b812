//! `completions`: for a shell.

use crate::exit::{Code, Outcome};

/// Write completions for a shell to stdout.
#[derive(clap::Args)]
pub struct Args {
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

pub fn run(args: &Args) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::command(), "mailstrata", &mut script);
    std::io::Write::write_all(&mut std::io::stdout(), &script)?;
    Ok(Code::Done)
}
