//! Putting back what was: a whole account, one item, or what was deleted in a span of time.
//!
//! ```text
//! rows of the account ─► plan: records read, what is there already set aside ─► sorted by place in the packs
//!   ─► readers (threads): content, verified ─► target (this thread) ─► durable ─► lines and report
//! ```
//!
//! In come a view, an account and a target; out go one line an item and a [`report::Report`]. Rules:
//!
//! - The store is only read. A view is one LSN, so what is recorded meanwhile does not matter.
//! - Nothing aborts the rest (R-30): an item that is damaged, unseen or refused is unrestored with its cause. Only a target that
//!   is full or gone, or the caller's stop, ends it early, and then every item left is named.
//! - An older state is never passed off as the one asked for: when that one is damaged, the item is unrestored. Where a lost
//!   record left no trace of whose it was, the report says so and counts as damage.
//! - Restoring again adds nothing: targets know items by key, digest and native base name.
//! - A dry run reads and verifies everything, and writes nothing: its outcomes are those of the restore, short of what only
//!   writing can show.
//! - Memory is bounded: the plan holds [`pipeline::PLAN_MAX`] items at a time (some 300 bytes each), content is in memory
//!   up to [`pipeline::WHOLE_MAX`] bytes an item and streams beyond.

pub mod report;

pub mod content;

pub mod pipeline;

pub mod account;

pub mod item;

pub mod undelete;

use mailstrata_engine::{Error, State, Transaction};
use mailstrata_format::{Damage, Digest, FileKind, ItemKey, ItemKind};
use mailstrata_mailstore::json::percent_encode;
use mailstrata_mailstore::target::{RestoreItem, Target, TargetError, folder_levels};
use mailstrata_mailstore::time::{MICROS_MAX, MICROS_MIN, format_rfc3339, parse_rfc3339};
use std::sync::atomic::AtomicBool;

pub use account::account;
pub use item::item;
pub use report::{Cause, Each, ItemLine, Report, Verdict};
pub use undelete::undelete;

/// A span in which the real-time scanner was blind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// µs UTC, inclusive as the end is.
    pub from: i64,
    /// `None`: it still lasts.
    pub until: Option<i64>,
}

impl Gap {
    fn holds(&self, at: Option<i64>) -> bool {
        match at {
            None => self.until.is_none(),
            Some(at) => self.from <= at && self.until.is_none_or(|until| at <= until),
        }
    }

    fn span(&self) -> report::Span {
        let text = |micros: i64| format_rfc3339(micros.clamp(MICROS_MIN, MICROS_MAX));
        report::Span { from: text(self.from), until: self.until.map(text) }
    }
}

/// How to restore.
#[derive(Default)]
pub struct Options<'a> {
    /// Threads that read; 0: as many as there are processors, at most 8.
    pub threads: usize,
    /// Write nothing, report the same.
    pub dry_run: bool,
    /// Where items go that the target refuses (S-38).
    pub side: Option<&'a mut dyn Target>,
    /// The account's gaps.
    pub gaps: Vec<Gap>,
    /// What opening the store found: a lost record in a segment that is not sealed has no row any more, so nobody can say
    /// whose it was.
    pub findings: Vec<Damage>,
    /// Set from outside: end after what is under way.
    pub stop: Option<&'a AtomicBool>,
}

impl Options<'_> {
    /// Says in the report that transactions are lost, of which any item may have been.
    fn note_findings(&self, report: &mut Report) {
        for damage in self.findings.iter().filter(|d| matches!(d.file.kind, FileKind::Segment | FileKind::Run)) {
            report.warn(format!("{damage}: what was recorded there is lost; an item may come back in an older state"));
            report.note_damage(&Error::Damage(*damage));
        }
    }
}

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("nothing is recorded before {}", format_rfc3339(*.first))]
    BeforeFirst { first: i64 },
    #[error("nothing is recorded of it")]
    Nothing,
    #[error("the folder {folder:?} cannot be: {why}")]
    Folder { folder: String, why: String },
    #[error("the window ends before it begins")]
    Window,
    #[error("the item is a {kind}: it is no mail, and no target holds it")]
    Kind { kind: &'static str },
    #[error(transparent)]
    Store(#[from] Error),
}

fn check_folder(folder: &[u8]) -> Result<(), RestoreError> {
    folder_levels(folder).map(|_| ()).map_err(|error| {
        let why = match error {
            TargetError::Refused { why, .. } => why,
            other => other.to_string(),
        };
        RestoreError::Folder { folder: percent_encode(folder), why }
    })
}

/// Where items go whose folder is not known (S-10).
pub const UNKNOWN_FOLDER: &[u8] = b"unknown_00";

/// An item's state in the form that a target takes.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub key: ItemKey,
    pub native: Vec<u8>,
    pub kind: ItemKind,
    pub folder: Vec<u8>,
    pub flags: Vec<Vec<u8>>,
    pub keywords: Vec<Vec<u8>>,
    pub internal_date: Option<i64>,
    pub native_base: Vec<u8>,
    pub message_id: Option<Vec<u8>>,
    pub sender: Option<Vec<u8>>,
    pub digest: Digest,
    pub length: u64,
}

impl Prepared {
    /// From a state that has content.
    pub fn new(t: Transaction, digest: Digest, length: u64) -> Self {
        let s = t.state;
        let native_base = match s.attribute(b"maildir.base") {
            Some(base) => base.to_vec(),
            None => t.item.rsplit(|b| *b == b'/').next().unwrap_or_default().to_vec(),
        };
        Self {
            key: t.item_key,
            kind: t.kind,
            internal_date: Some(internal_date(&s).unwrap_or(t.moment)),
            native_base,
            message_id: s.attribute(b"message-id").map(<[u8]>::to_vec),
            sender: s.sender.as_deref().map(envelope_address),
            native: t.item,
            folder: s.folder.unwrap_or_else(|| UNKNOWN_FOLDER.to_vec()),
            flags: s.flags.unwrap_or_default(),
            keywords: s.tags.unwrap_or_default(),
            digest,
            length,
        }
    }

    /// As the target takes it.
    pub fn item(&self) -> RestoreItem<'_> {
        RestoreItem {
            key: self.key.0,
            digest: Some(self.digest.0),
            length: Some(self.length),
            folder: &self.folder,
            flags: &self.flags,
            keywords: &self.keywords,
            internal_date: self.internal_date,
            native_base: (!self.native_base.is_empty()).then_some(self.native_base.as_slice()),
            message_id: self.message_id.as_deref(),
            sender: self.sender.as_deref(),
        }
    }
}

/// INTERNALDATE as recorded (RFC 3339, or µs since 1970), else the message's own date.
fn internal_date(state: &State) -> Option<i64> {
    let text = state.attribute(b"internaldate").and_then(|text| std::str::from_utf8(text).ok());
    let recorded = text.and_then(|text| {
        let text = text.trim_matches('"');
        parse_rfc3339(text).ok().or_else(|| text.parse().ok())
    });
    recorded.or(state.date)
}

/// `bob@example.org` of `Bob <bob@example.org>`.
fn envelope_address(sender: &[u8]) -> Vec<u8> {
    let open = sender.iter().rposition(|b| *b == b'<');
    let inner = open.and_then(|at| sender.get(at + 1..)).and_then(|rest| rest.split(|b| *b == b'>').next());
    inner.unwrap_or(sender).to_vec()
}

/// A folder as it is created in a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Folder {
    pub key: ItemKey,
    pub native: Vec<u8>,
    pub path: Vec<u8>,
    pub subscribed: bool,
    pub attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What scanners keep with a folder for themselves: it is not the user's, and a target gives its own.
const SCANNERS_OWN: [&[u8]; 8] =
    [b"subscribed", b"guid", b"identity", b"uidvalidity", b"uid_validity", b"uidnext", b"uid_next", b"marker"];

impl Folder {
    /// From the state of a folder's item. Its path is the state's folder, else its native id.
    pub fn new(t: Transaction) -> Self {
        let yes = |v: &[u8]| matches!(v, b"true" | b"1" | b"yes");
        let subscribed = t.state.attribute(b"subscribed").is_some_and(yes);
        let own = |name: &[u8]| SCANNERS_OWN.contains(&name) || name.starts_with(b"maildir.");
        let attributes = t.state.attributes.iter().filter(|(name, _)| !own(name)).map(|(name, value)| {
            let (mailstrata_engine::Value::Text(text) | mailstrata_engine::Value::Json(text)) = value;
            (name.clone(), text.clone())
        });
        Self {
            key: t.item_key,
            attributes: attributes.collect(),
            path: t.state.folder.unwrap_or_else(|| t.item.clone()),
            native: t.item,
            subscribed,
        }
    }
}

/// What a target can be asked to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Written as a message.
    Content,
    Folder,
    /// Belongs to no mailbox.
    Settings,
    /// A mailbox item that mail targets do not hold.
    Elsewhere,
}

pub(crate) const fn place_of(kind: Option<ItemKind>) -> Place {
    match kind {
        Some(ItemKind::Message) => Place::Content,
        Some(ItemKind::Folder) => Place::Folder,
        Some(
            ItemKind::Account
            | ItemKind::Tag
            | ItemKind::List
            | ItemKind::Domain
            | ItemKind::Cos
            | ItemKind::Config
            | ItemKind::Cursor,
        ) => Place::Settings,
        _ => Place::Elsewhere,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_envelope_sender_is_the_address_alone() {
        for (from, to) in [
            (&b"Bob <bob@example.org>"[..], &b"bob@example.org"[..]),
            (b"bob@example.org", b"bob@example.org"),
            (b"\"a <b\" <c@d>", b"c@d"),
            (b"<", b""),
        ] {
            assert_eq!(envelope_address(from), to);
        }
    }

    #[test]
    fn the_internal_date_is_text_or_microseconds() {
        let dated = |text: &str| State {
            date: Some(7),
            attributes: vec![(b"internaldate".to_vec(), mailstrata_engine::Value::Text(text.into()))],
            ..State::default()
        };
        assert_eq!(internal_date(&dated("2026-11-22T00:15:11.000001Z")), Some(1_795_306_511_000_001));
        assert_eq!(internal_date(&dated("1795306511000001")), Some(1_795_306_511_000_001));
        assert_eq!(internal_date(&dated("yesterday")), Some(7));
    }

    #[test]
    fn a_gap_holds_its_start_and_its_end() {
        let gap = Gap { from: 5, until: Some(9) };
        assert_eq!([4, 5, 9, 10].map(|at| gap.holds(Some(at))), [false, true, true, false]);
        assert_eq!(Gap { from: i64::MIN, until: None }.span().from, "0001-01-01T00:00:00.000000Z");
        assert!(!gap.holds(None) && Gap { from: 5, until: None }.holds(None));
    }
}
