//! Where options come from: command line, then `MAILSTRATA_…` in the environment, then a TOML file, then the default.
//!
//! The environment's name of an option is its long name in capitals with `_` for `-`. In the file an option stands at the
//! top (for every command that has it) or in a table with the command's name.

use crate::exit::Failure;
use clap::{Arg, Command};
use std::path::PathBuf;

/// The file that is read when none is named and it is there.
const DEFAULT: &str = "/etc/mailstrata.toml";

/// The configuration file.
#[derive(Default)]
pub struct ConfigFile {
    pub path: PathBuf,
    pub table: toml::Table,
}

/// The configuration file; an empty table without one.
pub fn load() -> Result<ConfigFile, Failure> {
    // Before clap runs: the file decides what clap takes for defaults.
    let named = named_file();
    let path = named.clone().unwrap_or_else(|| DEFAULT.into());
    let text = match std::fs::read_to_string(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && named.is_none() => return Ok(ConfigFile::default()),
        other => other.map_err(|e| Failure::usage(format!("configuration {}: {e}", path.display())))?,
    };
    let table = text.parse().map_err(|e| Failure::usage(format!("configuration {}: {e}", path.display())))?;
    Ok(ConfigFile { path, table })
}

fn named_file() -> Option<PathBuf> {
    let mut args = std::env::args_os().skip(1);
    while let Some(arg) = args.next() {
        let text = arg.to_string_lossy();
        if text == "--" {
            break;
        }
        if text == "--config" {
            return args.next().map(PathBuf::from);
        }
        if let Some(path) = text.strip_prefix("--config=") {
            return Some(path.into());
        }
    }
    std::env::var_os("MAILSTRATA_CONFIG").map(PathBuf::from)
}

/// Gives every option its environment variable and the file's value as default. The names in the file that no command has
/// are an error: a misspelled setting must not be passed over.
pub fn apply(command: Command, file: &ConfigFile) -> Result<Command, Failure> {
    let wrong = |what: String| Failure::usage(format!("configuration {}: {what}", file.path.display()));
    let known: Vec<String> = command.get_subcommands().map(|c| c.get_name().to_owned()).collect();
    let mut top = Vec::new();
    let mut tables = Vec::new();
    for (key, value) in &file.table {
        match value {
            toml::Value::Table(t) if known.contains(key) => tables.push((key.clone(), t.clone())),
            toml::Value::Table(_) => return Err(wrong(format!("there is no command `{key}`"))),
            v => top.push((key.clone(), v.clone())),
        }
    }
    for (key, _) in &top {
        let has = |c: &Command| c.get_arguments().any(|a| a.get_long() == Some(key.as_str()));
        if !has(&command) && !command.get_subcommands().any(has) {
            return Err(wrong(format!("there is no option `{key}`")));
        }
    }
    for (name, table) in &tables {
        let unknown = table.keys().find(|k| {
            let sub = command.find_subcommand(name);
            !sub.is_some_and(|c| c.get_arguments().any(|a| a.get_long() == Some(k.as_str())))
        });
        if let Some(key) = unknown {
            return Err(wrong(format!("`{name}` has no option `{key}`")));
        }
    }
    Ok(dress(command, &top, &tables))
}

fn dress(mut command: Command, top: &[(String, toml::Value)], tables: &[(String, toml::Table)]) -> Command {
    let own: Vec<(String, toml::Value)> = tables
        .iter()
        .filter(|(name, _)| name == command.get_name())
        .flat_map(|(_, t)| t.iter().map(|(k, v)| (k.clone(), v.clone())))
        .collect();
    command = command.mut_args(|arg| {
        let Some(long) = arg.get_long().map(str::to_owned) else { return arg };
        if matches!(long.as_str(), "help" | "version") {
            return arg;
        }
        let name = format!("MAILSTRATA_{}", long.to_uppercase().replace('-', "_"));
        let set = own.iter().chain(top).find(|(k, _)| *k == long).map(|(_, v)| text_of(v));
        let arg = arg.env(leak(name)).hide_env(true);
        match set {
            Some(values) => default(arg, values),
            None => arg,
        }
    });
    let names: Vec<String> = command.get_subcommands().map(|c| c.get_name().to_owned()).collect();
    for name in names {
        command = command.mut_subcommand(name, |sub| dress(sub, top, tables));
    }
    command
}

fn default(arg: Arg, values: Vec<String>) -> Arg {
    arg.required(false).default_values(values.into_iter().map(leak))
}

fn text_of(value: &toml::Value) -> Vec<String> {
    match value {
        toml::Value::String(s) => vec![s.clone()],
        toml::Value::Array(list) => list.iter().flat_map(text_of).collect(),
        v => vec![v.to_string()],
    }
}

/// clap keeps names for the life of the process; so do we.
fn leak(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}
