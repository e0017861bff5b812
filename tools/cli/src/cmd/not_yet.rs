//! Commands that are planned and not there: they say so instead of being unknown.

use crate::exit::{Code, Failure, Outcome};
use clap::Subcommand;
use std::ffi::OsString;

#[derive(Subcommand)]
pub enum NotYet {
    #[command(hide = true)]
    Purge(Rest),
    #[command(hide = true)]
    Hold(Rest),
    #[command(hide = true)]
    Adopt(Rest),
    #[command(hide = true)]
    Bench(Rest),
}

#[derive(clap::Args)]
pub struct Rest {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _rest: Vec<OsString>,
}

pub fn run(command: &NotYet) -> Outcome {
    let name = match command {
        NotYet::Purge(_) => "purge",
        NotYet::Hold(_) => "hold",
        NotYet::Adopt(_) => "adopt",
        NotYet::Bench(_) => "bench",
    };
    Err(Failure::new(Code::Failed, format!("`{name}` is not built yet")).hint("README.md lists what is"))
}
