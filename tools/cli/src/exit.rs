//! How commands end: one table of codes, and what is said with them.

use mailstrata_backup::append::AppendError;
use mailstrata_backup::export::ExportError;
use mailstrata_engine::Error;
use std::fmt;

/// Exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    Done = 0,
    Failed = 1,
    Usage = 2,
    /// Some items failed; they are listed.
    Incomplete = 3,
    NoStore = 10,
    InUse = 11,
    Damage = 13,
    Unreachable = 14,
    Fenced = 15,
    TargetFull = 16,
    NothingMatched = 17,
    Interrupted = 130,
    Terminated = 143,
}

/// Code, short name and meaning, as help and README show them.
pub const TABLE: [(Code, &str); 13] = [
    (Code::Done, "done"),
    (Code::Failed, "failed"),
    (Code::Usage, "wrong usage"),
    (Code::Incomplete, "done but incomplete: some items failed, they are listed"),
    (Code::NoStore, "no such store"),
    (Code::InUse, "in use by another writer"),
    (Code::Damage, "damage found"),
    (Code::Unreachable, "source or target unreachable"),
    (Code::Fenced, "the store belongs to another server"),
    (Code::TargetFull, "target full or over quota"),
    (Code::NothingMatched, "nothing matched"),
    (Code::Interrupted, "interrupted (SIGINT)"),
    (Code::Terminated, "ended (SIGTERM)"),
];

/// Why a command did not succeed: what happened, and what to do next.
#[derive(Debug)]
pub struct Failure {
    pub code: Code,
    pub message: String,
    pub hint: Option<String>,
}

impl Failure {
    /// A failure with a message.
    pub fn new(code: Code, message: impl fmt::Display) -> Self {
        Self { code, message: message.to_string(), hint: None }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// Wrong usage.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self::new(Code::Usage, message)
    }
}

/// What a command gives back.
pub type Outcome = Result<Code, Failure>;

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        let code = match &e {
            Error::NoStore { .. } => Code::NoStore,
            Error::InUse { .. } => Code::InUse,
            Error::Damage(_) => Code::Damage,
            Error::Fenced { .. } => Code::Fenced,
            _ => Code::Failed,
        };
        let failure = Self::new(code, &e);
        match e {
            Error::NoStore { .. } => failure.hint("make one with `mailstrata init --store DIR`, or name another with --store"),
            Error::InUse { .. } => failure.hint("reading commands work beside a writer; wait for it with --lock-wait SECONDS"),
            Error::Fenced { .. } => failure.hint("name the right store, or leave --server-id away"),
            e if e.is_full() => failure.hint("make room on the file system; nothing that was acknowledged is lost"),
            Error::Poisoned(_) => failure.hint("everything acknowledged is safe; find the cause and start again"),
            _ => failure,
        }
    }
}

impl From<AppendError> for Failure {
    fn from(e: AppendError) -> Self {
        Self::new(Code::Failed, e)
    }
}

impl From<ExportError> for Failure {
    fn from(e: ExportError) -> Self {
        match e {
            ExportError::Store(e) => e.into(),
            ExportError::Output(ref source) if source.kind() == std::io::ErrorKind::BrokenPipe => Self::new(Code::Failed, "the reader of the output is gone"),
            e => Self::new(Code::Failed, e),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(e: std::io::Error) -> Self {
        Self::new(Code::Failed, format!("writing the output: {e}"))
    }
}
