//! What changed in an account between two moments.
//!
//! In come an account and two moments, out goes one [`Difference`] an item that is not the same at both, as it is found, and a
//! [`Summary`]. Rules:
//!
//! - Compared are the states at the two moments, not the way between: what was changed and changed back is the same, what came
//!   and went is counted and not told.
//! - A state that was recorded again without a difference is no change.
//! - A damaged state is told as such: whether it differs cannot be known.

use mailstrata_engine::{Error, Hit, State, Transaction, View};
use mailstrata_format::AccountId;

/// What an item went through.
#[derive(Debug)]
pub enum What {
    /// It was not there, and is.
    Added {
        after: Box<Transaction>,
    },
    /// It was there, and is not; `deleted` is when it went.
    Removed {
        before: Box<Transaction>,
        deleted: i64,
    },
    /// It is in another folder; `fields` also lists what else changed.
    Moved {
        before: Box<Transaction>,
        after: Box<Transaction>,
        fields: Vec<Field>,
    },
    Changed {
        before: Box<Transaction>,
        after: Box<Transaction>,
        fields: Vec<Field>,
    },
    /// One of the two states cannot be read.
    Damaged(Error),
}

/// One item that differs.
#[derive(Debug)]
pub struct Difference {
    /// The later of the two rows.
    pub hit: Hit,
    pub what: What,
}

/// A field that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    Folder,
    Flags,
    Tags,
    Name,
    Sender,
    Date,
    Uid,
    /// Digests of the blobs.
    Content,
    /// By name.
    Attribute(Vec<u8>),
}

impl Field {
    /// The name in event lines; of an attribute, its own.
    #[must_use]
    pub fn name(&self) -> std::borrow::Cow<'_, str> {
        match self {
            Self::Folder => "folder".into(),
            Self::Flags => "flags".into(),
            Self::Tags => "tags".into(),
            Self::Name => "name".into(),
            Self::Sender => "sender".into(),
            Self::Date => "date".into(),
            Self::Uid => "uid".into(),
            Self::Content => "content".into(),
            Self::Attribute(name) => mailstrata_mailstore::json::percent_encode(name).into(),
        }
    }
}

/// How many items.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Summary {
    pub added: u64,
    pub removed: u64,
    pub moved: u64,
    pub changed: u64,
    pub same: u64,
    /// Neither there before nor after, but in between.
    pub came_and_went: u64,
    pub damaged: u64,
}

/// Why there is no comparison.
#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    #[error("the second moment lies before the first")]
    Backwards,
    #[error(transparent)]
    Store(#[from] Error),
}

/// Hands every item that differs between two moments (`None`: before everything, and the view's end) to `each`, which says
/// whether to go on.
pub fn diff(
    view: &View,
    account: AccountId,
    from: Option<i64>,
    to: Option<i64>,
    each: &mut dyn FnMut(Difference) -> bool,
) -> Result<Summary, DiffError> {
    if from.zip(to).is_some_and(|(from, to)| from > to) {
        return Err(DiffError::Backwards);
    }
    let (from, to) = (from.unwrap_or(i64::MIN), to.unwrap_or(i64::MAX));
    let mut summary = Summary::default();
    let mut pair: Option<Pair> = None;
    for hit in view.account_rows(account)? {
        let hit = hit?;
        if hit.row.moment > to {
            continue;
        }
        if let Some(done) = pair.take_if(|pair| pair.after.item() != hit.item())
            && !done.tell(view, &mut summary, each)?
        {
            return Ok(summary);
        }
        let pair = pair.get_or_insert(Pair { before: None, after: hit, lived: false });
        if hit.row.moment <= from {
            pair.before = Some(hit);
        } else {
            pair.lived |= !hit.deleted();
        }
        pair.after = hit;
    }
    if let Some(done) = pair {
        done.tell(view, &mut summary, each)?;
    }
    Ok(summary)
}

/// An item's rows at the two moments.
struct Pair {
    before: Option<Hit>,
    after: Hit,
    /// Alive at some time between.
    lived: bool,
}

impl Pair {
    fn tell(
        &self,
        view: &View,
        summary: &mut Summary,
        each: &mut dyn FnMut(Difference) -> bool,
    ) -> Result<bool, Error> {
        let before = self.before.filter(|hit| !hit.deleted());
        let after = Some(self.after).filter(|hit| !hit.deleted());
        let what = match (before, after) {
            (None, None) => {
                summary.came_and_went += u64::from(self.lived);
                return Ok(true);
            }
            (Some(b), Some(a)) if b.row.lsn == a.row.lsn => {
                summary.same += 1;
                return Ok(true);
            }
            (None, Some(a)) => view.read(&a).map(|after| Some(What::Added { after: Box::new(after) })),
            (Some(b), None) => {
                let deleted = self.after.row.moment;
                view.read(&b).map(|before| Some(What::Removed { before: Box::new(before), deleted }))
            }
            (Some(b), Some(a)) => view.read(&b).and_then(|b| Ok(compare(b, view.read(&a)?))),
        };
        let what = match what {
            Ok(Some(what)) => what,
            Ok(None) => {
                summary.same += 1;
                return Ok(true);
            }
            Err(error @ Error::Damage(_)) => What::Damaged(error),
            Err(error) => return Err(error),
        };
        *match &what {
            What::Added { .. } => &mut summary.added,
            What::Removed { .. } => &mut summary.removed,
            What::Moved { .. } => &mut summary.moved,
            What::Changed { .. } => &mut summary.changed,
            What::Damaged(_) => &mut summary.damaged,
        } += 1;
        Ok(each(Difference { hit: self.after, what }))
    }
}

fn compare(before: Transaction, after: Transaction) -> Option<What> {
    let mut fields = differing(&before.state, &after.state);
    if before.blobs != after.blobs || before.content_unseen != after.content_unseen {
        fields.push(Field::Content);
    }
    if fields.is_empty() {
        return None;
    }
    let (before, after) = (Box::new(before), Box::new(after));
    Some(if fields.contains(&Field::Folder) {
        What::Moved { before, after, fields }
    } else {
        What::Changed { before, after, fields }
    })
}

/// The fields in which two states differ. Flags and tags are sets: their order means nothing.
fn differing(a: &State, b: &State) -> Vec<Field> {
    fn set(list: &Option<Vec<Vec<u8>>>) -> Vec<&[u8]> {
        let mut set: Vec<_> = list.iter().flatten().map(Vec::as_slice).collect();
        set.sort_unstable();
        set.dedup();
        set
    }
    let mut fields = Vec::new();
    let mut note = |differs: bool, field: Field| {
        if differs {
            fields.push(field);
        }
    };
    note(a.folder != b.folder, Field::Folder);
    note(set(&a.flags) != set(&b.flags), Field::Flags);
    note(set(&a.tags) != set(&b.tags), Field::Tags);
    note(a.name != b.name, Field::Name);
    note(a.sender != b.sender, Field::Sender);
    note(a.date != b.date, Field::Date);
    note(a.uid != b.uid, Field::Uid);
    let mut names: Vec<&Vec<u8>> = a.attributes.iter().chain(&b.attributes).map(|(name, _)| name).collect();
    names.sort_unstable();
    names.dedup();
    let value = |s: &State, name: &[u8]| s.attributes.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    for name in names {
        note(value(a, name) != value(b, name), Field::Attribute(name.clone()));
    }
    fields
}
