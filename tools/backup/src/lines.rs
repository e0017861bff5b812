//! Between event lines and the engine's events: what `append` and `import` read, what `export` writes.
//!
//! A line that came from an export gives the same transaction again, but for its LSN and the moment it was recorded.

use base64::Engine as _;
use mailstrata_engine::{Blob, Change, Error, Event, Patch, Source, State, Store, Transaction, Value};
use mailstrata_format::{AccountId, Digest, ItemKind};
use mailstrata_mailstore::json::{
    AttributeValue, BlobLine, BlobSource, Code, EventLine, Field, Kind, LineError, Op, SourceLine, StateLine,
};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// Why a line was not recorded.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("{0}")]
    Line(#[from] LineError),
    #[error(transparent)]
    Store(#[from] Error),
    #[error("blob.path {}: {source}", .path.display())]
    BlobFile { path: PathBuf, source: io::Error },
    #[error("the blob has {found} bytes, the line says {said}")]
    BlobLength { found: u64, said: u64 },
    #[error("an export wrote this line for an item it could not read; there is nothing to record")]
    Damaged,
    #[error("{0}")]
    Shape(&'static str),
}

impl Refused {
    /// The stable word for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Line(e) => e.code.name(),
            Self::Store(e) => e.code(),
            Self::BlobFile { .. } => "blob-file",
            Self::BlobLength { .. } => "blob-length",
            Self::Damaged => "damaged",
            Self::Shape(_) => Code::BadField.name(),
        }
    }

    /// Whether no later line can be recorded either.
    #[must_use]
    pub const fn ends_all(&self) -> bool {
        matches!(self, Self::Store(Error::Poisoned(_) | Error::Closed))
    }
}

/// The engine's word for a line's kind.
#[must_use]
pub fn item_kind(kind: Kind) -> ItemKind {
    ItemKind::from_name(kind.name()).unwrap_or(ItemKind::Other)
}

/// A line's word for the engine's kind; cursors have none.
#[must_use]
pub fn line_kind(kind: ItemKind) -> Option<Kind> {
    Kind::from_name(kind.name())
}

fn value(v: AttributeValue) -> Option<Value> {
    match v {
        AttributeValue::Null => None,
        AttributeValue::Text(t) => Some(Value::Text(t)),
        AttributeValue::Json(j) => Some(Value::Json(j.into_bytes())),
    }
}

fn to_state(s: StateLine) -> State {
    State {
        folder: s.folder.value(),
        flags: s.flags.value(),
        tags: s.tags.value(),
        name: s.name.value(),
        sender: s.sender.value(),
        date: s.date.value(),
        uid: s.uid.value(),
        attributes: s
            .attributes
            .value()
            .unwrap_or_default()
            .into_iter()
            .filter_map(|(name, v)| Some((name, value(v)?)))
            .collect(),
    }
}

fn to_patch(s: StateLine) -> Patch {
    fn change<T>(f: Field<T>) -> Option<Option<T>> {
        match f {
            Field::Absent => None,
            Field::Null => Some(None),
            Field::Value(v) => Some(Some(v)),
        }
    }
    let clear_attributes = matches!(s.attributes, Field::Null);
    let attributes = s.attributes.value().unwrap_or_default().into_iter().map(|(name, v)| (name, value(v))).collect();
    Patch {
        folder: change(s.folder),
        flags: change(s.flags),
        tags: change(s.tags),
        name: change(s.name),
        sender: change(s.sender),
        date: change(s.date),
        uid: change(s.uid),
        attributes,
        clear_attributes,
    }
}

/// Stores a line's blob, or says that it is there. `base` is what `blob.path` is relative to.
fn blob(store: &Store, line: &BlobLine<'_>, base: &Path) -> Result<Blob, Refused> {
    let found = match &line.source {
        BlobSource::Digest(digest) => {
            let digest = Digest(*digest);
            let length = store.blob_known(&digest)?.ok_or(Error::NoBlob(digest))?;
            Blob { digest, length, role: None }
        }
        BlobSource::Base64(text) => store.put_blob(&mut text.reader())?,
        BlobSource::Path(path) => {
            let path = base.join(std::ffi::OsStr::from_bytes(path));
            let failed = |source| Refused::BlobFile { path: path.clone(), source };
            let mut file = File::open(&path).map_err(failed)?;
            if !file.metadata().map_err(failed)?.is_file() {
                return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
            }
            store.put_blob(&mut file)?
        }
    };
    if let Some(said) = line.length.filter(|l| *l != found.length) {
        return Err(Refused::BlobLength { found: found.length, said });
    }
    Ok(Blob { role: line.role.clone(), ..found })
}

/// The event of a line; its blobs are stored on the way.
pub fn to_event(store: &Store, line: EventLine<'_>, base: &Path) -> Result<Event, Refused> {
    let blobs = match line.blobs.as_ref() {
        Field::Absent => None,
        Field::Null => Some(Vec::new()),
        Field::Value(list) => Some(list.iter().map(|b| blob(store, b, base)).collect::<Result<Vec<_>, _>>()?),
    };
    let change = match line.op {
        Op::Put => Change::Put {
            state: to_state(line.state),
            blobs: blobs.unwrap_or_default(),
            content_unseen: line.content_unseen,
        },
        Op::Patch => Change::Patch { patch: to_patch(line.state), blobs },
        Op::Delete => Change::Delete,
        Op::Damaged { .. } => return Err(Refused::Damaged),
    };
    if let (Some(from), Some(to)) = (line.not_before, line.at)
        && from > to
    {
        return Err(Refused::Shape("not_before is later than at"));
    }
    Ok(Event {
        account: line.account,
        account_id: line.account_id.map(AccountId),
        item: line.item,
        kind: item_kind(line.kind),
        change,
        at: line.at,
        not_before: line.not_before,
        source: line.source.map(|s| Source { name: s.name, position: s.position }),
        derived: false,
    })
}

/// The line of a transaction, blobs by digest. `name_account`: whether the account's id must stand in it.
#[must_use]
pub fn to_line(t: &Transaction, name_account: bool) -> EventLine<'static> {
    let op = if t.deleted { Op::Delete } else { Op::Put };
    let kind = line_kind(t.kind).unwrap_or(Kind::Other);
    let mut line = EventLine::new(&t.account, &t.item, kind, op);
    line.account_id = name_account.then_some(t.account_id.0);
    line.at = Some(t.happened);
    line.not_before = t.not_before;
    line.lsn = Some(t.lsn.0);
    line.recorded = Some(t.recorded);
    line.source = t.source.as_ref().map(|s| SourceLine { name: s.name.clone(), position: s.position.clone() });
    if t.deleted {
        return line;
    }
    line.content_unseen = t.content_unseen;
    line.state = state_line(&t.state);
    if !t.blobs.is_empty() {
        let one = |b: &Blob| BlobLine {
            role: b.role.clone(),
            source: BlobSource::Digest(b.digest.0),
            length: Some(b.length),
        };
        line.blobs = Field::Value(t.blobs.iter().map(one).collect());
    }
    line
}

/// The fields of a state as a line has them.
#[must_use]
pub fn state_line(s: &State) -> StateLine {
    let attributes: Vec<_> = s
        .attributes
        .iter()
        .map(|(name, v)| {
            let v = match v {
                Value::Text(t) => AttributeValue::Text(t.clone()),
                Value::Json(j) => AttributeValue::Json(String::from_utf8_lossy(j).into_owned()),
            };
            (name.clone(), v)
        })
        .collect();
    StateLine {
        folder: s.folder.clone().into(),
        flags: s.flags.clone().into(),
        tags: s.tags.clone().into(),
        name: s.name.clone().into(),
        sender: s.sender.clone().into(),
        date: s.date.into(),
        uid: s.uid.into(),
        attributes: if attributes.is_empty() { Field::Absent } else { Field::Value(attributes) },
    }
}

/// A digest's bytes in the URL-safe alphabet, for file names.
#[must_use]
pub fn short_name(digest: &Digest) -> String {
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(digest.0)
}
