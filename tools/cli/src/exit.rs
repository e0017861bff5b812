//! How commands end: one table of codes, and what is said with them.

use mailstrata_backup::append::AppendError;
use mailstrata_backup::diff::DiffError;
use mailstrata_backup::export::ExportError;
use mailstrata_backup::resolve::ResolveError;
use mailstrata_backup::restore::RestoreError;
use mailstrata_engine::Error;
use mailstrata_mailstore::target::TargetError;
use mailstrata_mailstore::url::UrlError;
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
    /// Another writer has it.
    InUse = 11,
    /// Found on the way.
    Damage = 13,
    /// Source or target.
    Unreachable = 14,
    /// The store belongs to another server.
    Fenced = 15,
    TargetFull = 16,
    NothingMatched = 17,
    Interrupted = 130,
    Terminated = 143,
}

impl Code {
    /// All of them.
    const ALL: [Self; 13] = [
        Self::Done,
        Self::Failed,
        Self::Usage,
        Self::Incomplete,
        Self::NoStore,
        Self::InUse,
        Self::Damage,
        Self::Unreachable,
        Self::Fenced,
        Self::TargetFull,
        Self::NothingMatched,
        Self::Interrupted,
        Self::Terminated,
    ];

    /// The code of a number.
    #[must_use]
    pub fn of(number: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|c| *c as u64 == number)
    }

    /// The name in JSON errors.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::Incomplete => "incomplete",
            Self::NoStore => "no-store",
            Self::InUse => "in-use",
            Self::Damage => "damage",
            Self::Unreachable => "unreachable",
            Self::Fenced => "fenced",
            Self::TargetFull => "target-full",
            Self::NothingMatched => "nothing-matched",
            Self::Interrupted => "interrupted",
            Self::Terminated => "terminated",
        }
    }
}

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

    /// What is said on stderr: a line for people with what to do next below it, or one JSON object.
    #[must_use]
    pub fn text(&self, json: bool) -> String {
        if json {
            let mut error =
                serde_json::json!({"code": self.code as u8, "name": self.code.name(), "message": self.message});
            if let Some(hint) = &self.hint {
                error["hint"] = hint.as_str().into();
            }
            return format!("{}\n", serde_json::json!({ "error": error }));
        }
        let hint = self.hint.as_ref().map(|h| format!("  {h}\n")).unwrap_or_default();
        format!("mailstrata: {}\n{hint}", self.message)
    }

    /// Whoever read the output has seen enough: there is nothing to say, and nobody to say it to.
    #[must_use]
    pub fn reader_is_gone() -> Self {
        Self::new(Code::Failed, "")
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
        if let Error::Io { source, path, .. } = &e
            && source.kind() == std::io::ErrorKind::BrokenPipe
            && path.as_os_str() == "stdout"
        {
            return Self::reader_is_gone();
        }
        let failure = Self::new(code, &e);
        match e {
            Error::NoStore { .. } => {
                failure.hint("make one with `mailstrata init --store DIR`, or name another with --store")
            }
            Error::InUse { .. } => {
                failure.hint("reading commands work beside a writer; wait for it with --lock-wait SECONDS")
            }
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
            ExportError::Output(source) => source.into(),
            e => Self::new(Code::Failed, e),
        }
    }
}

impl From<ResolveError> for Failure {
    fn from(e: ResolveError) -> Self {
        match e {
            ResolveError::Store(e) => e.into(),
            e => Self::new(Code::NothingMatched, e),
        }
    }
}

impl From<RestoreError> for Failure {
    fn from(e: RestoreError) -> Self {
        match e {
            RestoreError::Store(e) => e.into(),
            RestoreError::BeforeFirst { .. } => {
                Self::new(Code::NothingMatched, e).hint("give a later moment, or `--at first`")
            }
            RestoreError::Nothing => Self::new(Code::NothingMatched, e),
            RestoreError::Folder { .. } | RestoreError::Window | RestoreError::Kind { .. } => Self::new(Code::Usage, e),
        }
    }
}

impl From<DiffError> for Failure {
    fn from(e: DiffError) -> Self {
        match e {
            DiffError::Store(e) => e.into(),
            DiffError::Backwards => Self::new(Code::Usage, e),
        }
    }
}

impl From<TargetError> for Failure {
    fn from(e: TargetError) -> Self {
        let code = match e {
            TargetError::Unreachable { .. } => Code::Unreachable,
            TargetError::Full { .. } => Code::TargetFull,
            _ => Code::Failed,
        };
        let cause = std::error::Error::source(&e).map(|c| format!(": {c}")).unwrap_or_default();
        Self::new(code, format!("{e}{cause}"))
    }
}

impl From<UrlError> for Failure {
    fn from(e: UrlError) -> Self {
        Self::new(Code::Usage, e)
    }
}

impl From<std::io::Error> for Failure {
    fn from(e: std::io::Error) -> Self {
        if e.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::reader_is_gone();
        }
        Self::new(Code::Failed, format!("writing the output: {e}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_json_object_with_code_and_hint() {
        let failure = Failure::new(Code::NoStore, "no store in \"x\"").hint("make one");
        let read: serde_json::Value = serde_json::from_str(&failure.text(true)).unwrap();
        assert_eq!(
            read,
            serde_json::json!({"error": {"code": 10, "name": "no-store", "message": "no store in \"x\"", "hint": "make one"}})
        );
        assert_eq!(failure.text(false), "mailstrata: no store in \"x\"\n  make one\n");
    }
}
