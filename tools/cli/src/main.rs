//! `mailstrata`: the one binary. A command a file in `cmd`.

mod cmd;
mod config;
mod control;
mod exit;
mod out;
mod progress;
mod signals;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use exit::{Code, Failure, Outcome};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

/// Continuous backup for mail servers.
///
/// Every version of every item of every mailbox, any of them given back as it was at any moment. mailstrata follows mail
/// servers and records each change in an append-only store.
#[derive(Parser)]
#[command(name = "mailstrata", version, propagate_version = true, after_help = AFTER, max_term_width = 110)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const AFTER: &str = "\
Every option can be set in the environment (MAILSTRATA_STORE for --store) or in a TOML file (--config).\n\
Times: 2026-11-22T10:15:00Z, '2026-11-22 10:15', '22/11/2026 10:15:00' (local), -2h, @1764000000, first, last, lsn:N.\n\
Exit codes: 0 done, 1 failed, 2 usage, 3 incomplete, 10 no store, 11 in use, 13 damage, 14 unreachable, 15 fenced,\n\
16 target full, 17 nothing matched, 130/143 interrupted.";

/// Options of every command.
#[derive(clap::Args, Clone)]
pub struct Global {
    /// The store's directory.
    #[arg(short, long, global = true, value_name = "DIR")]
    pub store: Option<PathBuf>,
    /// JSON on stdout: one document, or one object a line where it streams.
    #[arg(long, global = true)]
    pub json: bool,
    /// Progress as JSON lines on stderr.
    #[arg(long, global = true)]
    pub json_progress: bool,
    /// Wait this long for another writer to end.
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 0)]
    pub lock_wait: u64,
    /// Writers: how long files that a compaction replaced stay, for plain copies that are under way.
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 86_400)]
    pub retire_delay: u64,
    /// The server this must be the store of (a UUID): another's is refused.
    #[arg(long, global = true, value_name = "ID")]
    pub server_id: Option<String>,
    /// How writes reach the disk.
    #[arg(long, global = true, value_enum, default_value_t = Backend::Auto)]
    pub io: Backend,
    /// Configuration file (TOML).
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What is logged to stderr: error, warn, info, debug, trace.
    #[arg(long, global = true, value_name = "LEVEL", default_value = "warn", value_parser = ["off", "error", "warn", "info", "debug", "trace"])]
    pub log_level: String,
}

/// How writes reach the disk.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// io_uring where the kernel allows it.
    Auto,
    Uring,
    Posix,
}

#[derive(Subcommand)]
enum Command {
    Init(cmd::init::Args),
    Append(cmd::append::Args),
    Watch(cmd::watch::Args),
    Scan(cmd::scan::Args),
    Status(cmd::status::Args),
    Accounts(cmd::accounts::Args),
    Items(cmd::items::Args),
    Log(cmd::log::Args),
    Show(cmd::show::Args),
    Cat(cmd::cat::Args),
    Find(cmd::find::Args),
    Diff(cmd::diff::Args),
    Restore(cmd::restore::Args),
    Export(cmd::export::Args),
    Import(cmd::import::Args),
    Redolog(cmd::redolog::Args),
    Info(cmd::info::Args),
    Stats(cmd::stats::Args),
    Compact(cmd::compact::Args),
    Fsck(cmd::fsck::Args),
    Demo(cmd::demo::Args),
    Completions(cmd::completions::Args),
    Man(cmd::man::Args),
    #[command(flatten)]
    NotYet(cmd::not_yet::NotYet),
}

/// The command line as clap knows it, for completions and man pages.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Whether errors are told in JSON too: known once the command line is.
static JSON: AtomicBool = AtomicBool::new(false);

fn run() -> Outcome {
    let file = config::load()?;
    let command = config::apply(Cli::command(), &file)?;
    let matches = match command.try_get_matches() {
        Ok(m) => m,
        Err(e) => {
            // clap prints help and version to stdout with 0, everything else to stderr with 2.
            let code = if e.use_stderr() { Code::Usage } else { Code::Done };
            e.print().map_err(|e| Failure::new(Code::Failed, e))?;
            return Ok(code);
        }
    };
    let cli = Cli::from_arg_matches(&matches).map_err(Failure::usage)?;
    let filter = tracing_subscriber::EnvFilter::try_new(&cli.global.log_level)
        .map_err(|e| Failure::usage(format!("--log-level: {e}")))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .without_time()
        .with_target(false)
        .init();
    let g = &cli.global;
    JSON.store(g.json, Ordering::Relaxed);
    match cli.command {
        Command::Init(a) => cmd::init::run(g, &a),
        Command::Append(a) => cmd::append::run(g, &a),
        Command::Watch(a) => cmd::watch::run(g, &a),
        Command::Scan(a) => cmd::scan::run(g, &a),
        Command::Status(a) => cmd::status::run(g, &a),
        Command::Accounts(a) => cmd::accounts::run(g, &a),
        Command::Items(a) => cmd::items::run(g, &a),
        Command::Log(a) => cmd::log::run(g, &a),
        Command::Show(a) => cmd::show::run(g, &a),
        Command::Cat(a) => cmd::cat::run(g, &a),
        Command::Find(a) => cmd::find::run(g, &a),
        Command::Diff(a) => cmd::diff::run(g, &a),
        Command::Restore(a) => cmd::restore::run(g, &a),
        Command::Export(a) => cmd::export::run(g, &a),
        Command::Import(a) => cmd::import::run(g, &a),
        Command::Redolog(a) => cmd::redolog::run(g, &a),
        Command::Info(a) => cmd::info::run(g, &a),
        Command::Stats(a) => cmd::stats::run(g, &a),
        Command::Compact(a) => cmd::compact::run(g, &a),
        Command::Fsck(a) => cmd::fsck::run(g, &a),
        Command::Demo(a) => cmd::demo::run(g, &a),
        Command::Completions(a) => cmd::completions::run(&a),
        Command::Man(a) => cmd::man::run(&a),
        Command::NotYet(a) => cmd::not_yet::run(&a),
    }
}

fn main() -> ExitCode {
    let code = match run() {
        Ok(code) => code,
        Err(failure) => {
            if !failure.message.is_empty() {
                // With stderr closed there is nobody left to tell.
                let text = failure.text(JSON.load(Ordering::Relaxed));
                let _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
            }
            failure.code
        }
    };
    ExitCode::from(code as u8)
}
