//! What became of a restore: one line an item as it happens, and a report at the end.
//!
//! In come outcomes, out go [`ItemLine`]s (through the caller's callback, in no particular order) and one [`Report`]. Rules:
//!
//! - An item is *restored* once it is durable in the target, *skipped* when it is there already, *unrestored* with a cause
//!   otherwise. The three add up to the items that were wanted.
//! - Causes that another attempt may remove are marked `retry` (S-37): what is listed with it is the retry list.
//! - Memory is bounded: the report lists [`FAILURES_MAX`] unrestored items and counts the others; the lines name every one.
//! - Bytes that are not UTF-8 are spelled as in event lines; times are RFC 3339.

use mailstrata_engine::Error;
use mailstrata_format::{AccountId, ItemKind};
use mailstrata_mailstore::json::percent_encode;
use mailstrata_mailstore::target::TargetError;
use serde::Serialize;

/// Unrestored items that a report lists.
pub const FAILURES_MAX: usize = 10_000;

/// Warnings and notices of the target that a report keeps.
pub const WARNINGS_MAX: usize = 1000;

/// Why an item was not restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The operating system could not read the store.
    ReadError,
    /// Bytes of the store are not what they were; the code says what is damaged.
    Damaged,
    /// It existed, and its content could not be read when it was recorded.
    ContentUnseen,
    /// The recorded state has no content.
    NoContent,
    /// The target holds no items of this kind.
    Kind,
    /// The folder's name cannot be a name in any target.
    InvalidName,
    /// The target does not take this item.
    Refused,
    /// The target could not write it.
    TargetError,
    TargetFull,
    Unreachable,
    /// The restore was stopped before.
    Interrupted,
}

impl Cause {
    /// Whether another attempt may do better.
    #[must_use]
    pub const fn retry(self) -> bool {
        matches!(self, Self::ReadError | Self::TargetError | Self::TargetFull | Self::Unreachable | Self::Interrupted)
    }
}

/// A cause with its words.
#[derive(Debug, Clone)]
pub(super) struct Why {
    pub cause: Cause,
    /// Of damage.
    pub code: Option<&'static str>,
    pub message: String,
}

impl Why {
    pub fn new(cause: Cause, message: impl Into<String>) -> Self {
        Self { cause, code: None, message: message.into() }
    }

    /// Why the store did not give an item.
    pub fn of_store(error: &Error) -> Self {
        match error {
            Error::Damage(d) => Self { cause: Cause::Damaged, code: Some(d.kind.code()), message: d.to_string() },
            other => Self::new(Cause::ReadError, other.to_string()),
        }
    }

    /// Why the target did not take an item.
    pub fn of_target(error: &TargetError) -> Self {
        let cause = match error {
            TargetError::Unreachable { .. } => Cause::Unreachable,
            TargetError::Full { .. } => Cause::TargetFull,
            TargetError::Refused { .. } => Cause::Refused,
            TargetError::Content { .. } => Cause::ReadError,
            TargetError::Io { .. } => Cause::TargetError,
        };
        let message = match std::error::Error::source(error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        Self::new(cause, message)
    }
}

/// What became of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Became {
    Restored,
    /// It is in the target, or in the mailbox, already.
    Skipped,
    Unrestored,
}

/// One item, as it is known what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ItemLine {
    pub outcome: Became,
    pub kind: &'static str,
    /// Native id; absent when the record that holds it cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub item: Option<String>,
    /// Item key, 32 hexadecimal digits.
    pub key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
    /// Below the target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// Of damage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Where a copy of an item lies that the target refused, below the side directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub side: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub retry: bool,
}

impl ItemLine {
    pub(super) fn fail(&mut self, why: Why) {
        self.outcome = Became::Unrestored;
        self.place = None;
        self.retry = why.cause.retry();
        (self.cause, self.code, self.message) = (Some(why.cause), why.code, Some(why.message));
    }
}

/// Takes the lines as they come.
pub type Each<'a> = dyn FnMut(&ItemLine) + 'a;

/// The account that was restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Account {
    pub id: String,
    pub address: String,
    /// When it was deleted, if the report is about the moment before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deleted: Option<String>,
}

impl Account {
    pub(super) fn new(id: AccountId, address: &[u8]) -> Self {
        Self { id: id.to_string(), address: percent_encode(address), deleted: None }
    }
}

/// How many, and how much.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Items that were to be restored; the next three add up to it.
    pub wanted: u64,
    pub restored: u64,
    pub skipped: u64,
    pub unrestored: u64,
    /// Folders that are in the target now, beside the items above; one that could not be made is an unrestored item.
    pub folders: u64,
    /// Those of them that were not there before. A dry run does not know.
    pub folders_made: u64,
    /// Settings and the like, which belong to no mailbox: the account itself, tags, domains, classes of service, lists.
    pub settings: u64,
    /// Of restored content.
    pub bytes: u64,
}

/// A moment to try instead, and what would come back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Suggestion {
    pub at: String,
    /// Messages there were.
    pub messages: u64,
}

/// S-06: there is nothing, though there was something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Emptied {
    /// Messages that were there at some time up to the moment asked for, all deleted since.
    pub messages: u64,
    /// The last moment at which at least one was there.
    pub last_non_empty: Suggestion,
    /// Before the run of deletions (none more than a minute after the one before) that ended there.
    pub before_emptying: Suggestion,
}

/// Why the answer may differ from what there was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Approximate {
    /// Spans in which the real-time scanner was blind and which hold the moment asked for (S-19).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<Span>,
    /// Items that changed somewhere in a span which holds the moment asked for: their state at it may be the later one.
    pub items: u64,
    /// The spans of those items together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changed: Option<Span>,
}

impl Approximate {
    pub(super) fn is_empty(&self) -> bool {
        self.gaps.is_empty() && self.items == 0
    }
}

/// From one moment to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Span {
    pub from: String,
    /// Absent: it still lasts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

/// Which restore it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    Account,
    Item,
    Undelete,
}

/// How it ended, for the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Exit 0.
    Done,
    /// Exit 3: items are unrestored.
    Incomplete,
    /// Exit 13: some of them because of damage.
    Damage,
    /// Exit 14.
    Unreachable,
    /// Exit 16.
    TargetFull,
    /// Exit 130 or 143.
    Interrupted,
}

/// What became of a restore.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub mode: Mode,
    /// Nothing was written; the outcomes are what would have been.
    pub dry_run: bool,
    pub account: Account,
    /// The state of which moment; absent: the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// Undelete: the window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<Span>,
    /// Undelete: the keyword that restored items got.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// The LSN that the store was read as of.
    pub lsn: u64,
    pub counts: Counts,
    pub seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approximate: Option<Approximate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub emptied: Option<Emptied>,
    /// The first damage met, with its code and place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
    /// The index of the account could not be read to its end: items may be missing from the counts.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub listing_incomplete: bool,
    /// Why the restore ended early.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Cause>,
    /// Unrestored items, the first [`FAILURES_MAX`] of them.
    pub unrestored: Vec<ItemLine>,
    pub warnings: Vec<String>,
}

impl Report {
    pub(super) fn new(mode: Mode, account: Account, lsn: u64, dry_run: bool) -> Self {
        Self {
            mode,
            dry_run,
            account,
            at: None,
            window: None,
            tag: None,
            lsn,
            counts: Counts::default(),
            seconds: 0.0,
            approximate: None,
            emptied: None,
            damage: None,
            listing_incomplete: false,
            stopped: None,
            unrestored: Vec::new(),
            warnings: Vec::new(),
        }
    }

    pub(super) fn warn(&mut self, text: impl Into<String>) {
        if self.warnings.len() < WARNINGS_MAX {
            self.warnings.push(text.into());
        }
    }

    pub(super) fn note_damage(&mut self, error: &Error) {
        if let Error::Damage(d) = error {
            self.damage.get_or_insert_with(|| d.to_string());
        }
    }

    /// Counts an item whose outcome is certain, and hands its line on.
    pub(super) fn settle(&mut self, line: ItemLine, each: &mut Each<'_>) {
        each(&line);
        let c = &mut self.counts;
        c.wanted += 1;
        match line.outcome {
            Became::Restored => {
                c.restored += 1;
                c.bytes += line.bytes.unwrap_or(0);
            }
            Became::Skipped => c.skipped += 1,
            Became::Unrestored => {
                c.unrestored += 1;
                if line.code.is_some() && self.damage.is_none() {
                    self.damage.clone_from(&line.message);
                }
                if self.unrestored.len() < FAILURES_MAX {
                    self.unrestored.push(line);
                }
            }
        }
    }

    /// Whether something that was wanted is not in the target.
    #[must_use]
    pub const fn incomplete(&self) -> bool {
        self.counts.unrestored > 0 || self.listing_incomplete || self.stopped.is_some()
    }

    /// Unrestored items for which another attempt may do better.
    pub fn retry(&self) -> impl Iterator<Item = &ItemLine> {
        self.unrestored.iter().filter(|line| line.retry)
    }

    /// How it ended. What ended it early comes first: nothing else can be said before that is put right. Then damage.
    #[must_use]
    pub const fn verdict(&self) -> Verdict {
        match self.stopped {
            Some(Cause::Interrupted) => Verdict::Interrupted,
            Some(Cause::TargetFull) => Verdict::TargetFull,
            Some(Cause::Unreachable) => Verdict::Unreachable,
            _ if self.damage.is_some() => Verdict::Damage,
            _ if self.incomplete() => Verdict::Incomplete,
            _ => Verdict::Done,
        }
    }
}

/// The word for a kind.
pub(super) fn kind_name(kind: Option<ItemKind>) -> &'static str {
    kind.map_or("unknown", ItemKind::name)
}
