//! What a mailstore reports, and what a state is made of. Neutral of any mail server.

use mailstrata_format::record::v1::{self, AttributeV1, TransactionV1, present};
use mailstrata_format::{AccountId, Digest, ItemKind, Lsn, Operation};

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Text(Vec<u8>),
    /// A JSON value other than a string, as it was written.
    Json(Vec<u8>),
}

/// The fields of an item. `None` means the source did not give the field.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    pub folder: Option<Vec<u8>>,
    pub flags: Option<Vec<Vec<u8>>>,
    pub tags: Option<Vec<Vec<u8>>>,
    pub name: Option<Vec<u8>>,
    pub sender: Option<Vec<u8>>,
    /// µs UTC.
    pub date: Option<i64>,
    pub uid: Option<u64>,
    /// In the order given; names are unique.
    pub attributes: Vec<(Vec<u8>, Value)>,
}

/// A change of some fields: outer `None` leaves a field, `Some(None)` clears it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Patch {
    pub folder: Option<Option<Vec<u8>>>,
    pub flags: Option<Option<Vec<Vec<u8>>>>,
    pub tags: Option<Option<Vec<Vec<u8>>>>,
    pub name: Option<Option<Vec<u8>>>,
    pub sender: Option<Option<Vec<u8>>>,
    pub date: Option<Option<i64>>,
    pub uid: Option<Option<u64>>,
    /// Merged by name; `None` removes.
    pub attributes: Vec<(Vec<u8>, Option<Value>)>,
    /// All attributes go first.
    pub clear_attributes: bool,
}

/// A blob that a state refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    pub digest: Digest,
    /// Uncompressed, in bytes.
    pub length: u64,
    /// `None`: the item's content.
    pub role: Option<Vec<u8>>,
}

/// Where a change comes from, for idempotence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub name: Vec<u8>,
    pub position: Vec<u8>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The whole state and its blobs.
    Put {
        state: State,
        blobs: Vec<Blob>,
        content_unseen: bool,
    },
    /// Some fields; `blobs`: `None` leaves them.
    Patch {
        patch: Patch,
        blobs: Option<Vec<Blob>>,
    },
    Delete,
}

/// A change of one item, as its source tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Address, verbatim.
    pub account: Vec<u8>,
    /// The server's own id of the account, when it has one.
    pub account_id: Option<AccountId>,
    /// Native id, verbatim.
    pub item: Vec<u8>,
    pub kind: ItemKind,
    pub change: Change,
    /// When it happened (not after), µs UTC; `None`: now.
    pub at: Option<i64>,
    /// It did not happen before this, µs UTC.
    pub not_before: Option<i64>,
    pub source: Option<Source>,
    /// Record [`ItemKind::Cursor`] states with this; they are in no view.
    pub derived: bool,
}

/// A transaction as it was recorded: one item's whole state after one change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    pub lsn: Lsn,
    pub account_id: AccountId,
    pub item_key: mailstrata_format::ItemKey,
    pub account: Vec<u8>,
    pub item: Vec<u8>,
    pub kind: ItemKind,
    pub operation: Operation,
    pub deleted: bool,
    pub content_unseen: bool,
    pub derived: bool,
    /// Not after, µs UTC.
    pub happened: i64,
    /// µs UTC.
    pub not_before: Option<i64>,
    /// From when on the state counts, µs UTC.
    pub moment: i64,
    /// µs UTC.
    pub recorded: i64,
    pub state: State,
    pub blobs: Vec<Blob>,
    pub source: Option<Source>,
}

impl Transaction {
    /// The blob that is the item's content.
    #[must_use]
    pub fn content(&self) -> Option<&Blob> {
        self.blobs.iter().find(|b| b.role.is_none())
    }
}

impl State {
    /// Fills the fields of a record that a state has; a record that is used again keeps its memory.
    pub(crate) fn fill_record(&self, record: &mut TransactionV1) {
        fn text(to: &mut Vec<u8>, from: &Option<Vec<u8>>) {
            to.clear();
            to.extend_from_slice(from.as_deref().unwrap_or_default());
        }
        fn list(to: &mut Vec<Vec<u8>>, from: &Option<Vec<Vec<u8>>>) {
            match from {
                Some(list) => to.clone_from(list),
                None => to.clear(),
            }
        }
        let mut bits = 0;
        let mut bit = |there: bool, bit: u32| bits |= if there { bit } else { 0 };
        bit(self.folder.is_some(), present::FOLDER);
        bit(self.flags.is_some(), present::FLAGS);
        bit(self.tags.is_some(), present::TAGS);
        bit(self.name.is_some(), present::NAME);
        bit(self.sender.is_some(), present::SENDER);
        bit(self.date.is_some(), present::DATE);
        bit(self.uid.is_some(), present::UID);
        record.present = bits;
        text(&mut record.folder, &self.folder);
        list(&mut record.flags, &self.flags);
        list(&mut record.tags, &self.tags);
        text(&mut record.name, &self.name);
        text(&mut record.sender, &self.sender);
        record.date = self.date.unwrap_or_default();
        record.uid = self.uid.unwrap_or_default();
        let empty = || AttributeV1 { name: Vec::new(), kind: v1::ATTRIBUTE_TEXT, value: Vec::new() };
        record.attributes.resize_with(self.attributes.len(), empty);
        for (to, (name, value)) in record.attributes.iter_mut().zip(&self.attributes) {
            let (kind, bytes) = match value {
                Value::Text(t) => (v1::ATTRIBUTE_TEXT, t),
                Value::Json(j) => (v1::ATTRIBUTE_JSON, j),
            };
            to.name.clone_from(name);
            to.kind = kind;
            to.value.clone_from(bytes);
        }
    }

    /// The state in a record.
    pub(crate) fn from_record(r: &mut TransactionV1) -> Self {
        let take = |v: &mut Vec<u8>, bit: u32, bits: u32| (bits & bit != 0).then(|| std::mem::take(v));
        let bits = r.present;
        Self {
            folder: take(&mut r.folder, present::FOLDER, bits),
            flags: (bits & present::FLAGS != 0).then(|| std::mem::take(&mut r.flags)),
            tags: (bits & present::TAGS != 0).then(|| std::mem::take(&mut r.tags)),
            name: take(&mut r.name, present::NAME, bits),
            sender: take(&mut r.sender, present::SENDER, bits),
            date: (bits & present::DATE != 0).then_some(r.date),
            uid: (bits & present::UID != 0).then_some(r.uid),
            attributes: std::mem::take(&mut r.attributes)
                .into_iter()
                .map(|a| {
                    (a.name, if a.kind == v1::ATTRIBUTE_TEXT { Value::Text(a.value) } else { Value::Json(a.value) })
                })
                .collect(),
        }
    }

    /// The text of an attribute.
    #[must_use]
    pub fn attribute(&self, name: &[u8]) -> Option<&[u8]> {
        self.attributes.iter().find(|(n, _)| n == name).map(|(_, v)| match v {
            Value::Text(t) | Value::Json(t) => t.as_slice(),
        })
    }

    /// Applies a patch.
    pub fn apply(&mut self, patch: &Patch) {
        fn set<T: Clone>(field: &mut Option<T>, change: &Option<Option<T>>) {
            if let Some(new) = change {
                field.clone_from(new);
            }
        }
        set(&mut self.folder, &patch.folder);
        set(&mut self.flags, &patch.flags);
        set(&mut self.tags, &patch.tags);
        set(&mut self.name, &patch.name);
        set(&mut self.sender, &patch.sender);
        set(&mut self.date, &patch.date);
        set(&mut self.uid, &patch.uid);
        if patch.clear_attributes {
            self.attributes.clear();
        }
        for (name, value) in &patch.attributes {
            let at = self.attributes.iter().position(|(n, _)| n == name);
            match (at, value) {
                (Some(i), Some(v)) => self.attributes[i].1 = v.clone(),
                (Some(i), None) => {
                    self.attributes.remove(i);
                }
                (None, Some(v)) => self.attributes.push((name.clone(), v.clone())),
                (None, None) => {}
            }
        }
    }
}
