//! Search over the history of one account or of all: every state that was ever recorded is looked at, not only the last.
//!
//! In comes a [`Query`], out goes one [`Found`] an item, as it is found: its newest state that fits, since when that state
//! counts, and whether the item is deleted now. Rules:
//!
//! - All conditions must hold for one and the same state. `text` is looked for in subject, sender, folder and native id.
//! - Text fits anywhere in the field and in either case: of ASCII letters always, of others when needle and field are UTF-8.
//! - `after` and `before` bound the moment from which on the state counts, inclusive. A deletion is a state too; its fields are
//!   those of the item's last live one.
//! - Whether an item is deleted is decided by its last state in the view. Both are found unless the query says otherwise.
//! - Records are read in place. A damaged one is an entry of its own: it might have fitted.
//! - One account is searched item by item; several are, when not too much fits, in one pass over the whole history in the order
//!   in which it lies on disk. Both find the same, in the same order: account by account, item by item.

use mailstrata_engine::{Error, Hit, Scanned, Transaction, View};
use mailstrata_format::record::v1::{ArchivedTransactionV1, present};
use mailstrata_format::{AccountId, ItemKey, ItemKind};
use std::collections::HashMap;
use std::ops::ControlFlow;

/// What to look for. Empty: everything.
#[derive(Debug, Clone, Default)]
pub struct Query {
    pub text: Option<Vec<u8>>,
    pub sender: Option<Vec<u8>>,
    pub subject: Option<Vec<u8>>,
    pub folder: Option<Vec<u8>>,
    pub kind: Option<ItemKind>,
    /// µs UTC, inclusive.
    pub after: Option<i64>,
    /// µs UTC, inclusive.
    pub before: Option<i64>,
    /// `true`: only items that are deleted now; `false`: only those that are not.
    pub deleted: Option<bool>,
}

/// An item with a state that fits.
#[derive(Debug)]
pub struct Found {
    pub account: AccountId,
    /// The newest state that fits; its `moment` is since when it counts.
    pub state: Box<Transaction>,
    /// How many states of the item fit.
    pub states: u64,
    /// Whether the item is deleted now, and since when.
    pub deleted: Option<i64>,
}

/// One step of a search.
#[derive(Debug)]
pub enum Entry {
    Found(Found),
    /// This state cannot be read.
    Damaged(Hit, Error),
}

/// Hands every item that fits to `each`, which says whether to go on. Returns how many were found.
pub fn find(
    view: &View,
    accounts: &[AccountId],
    query: &Query,
    each: &mut dyn FnMut(Entry) -> bool,
) -> Result<u64, Error> {
    let query = Prepared::new(query);
    if accounts.len() > 1
        && let Some(fitting) = scan(view, accounts, &query)?
    {
        return tell_scanned(view, &query, fitting, each);
    }
    let mut count = 0;
    for account in accounts {
        let mut search = Search { view, query: &query, last: None, newest: None, states: 0 };
        // The last row of every item, in the order in which the rows come.
        let mut lasts = view.items(*account, None)?;
        for hit in view.ahead(view.account_rows(*account)?) {
            let hit = hit?;
            if search.last.is_none_or(|last| last.item() != hit.item()) {
                if !search.tell(&mut count, each)? {
                    return Ok(count);
                }
                search.last = lasts.next().transpose()?;
            }
            if !search.look(hit, each)? {
                return Ok(count);
            }
        }
        if !search.tell(&mut count, each)? {
            return Ok(count);
        }
    }
    Ok(count)
}

/// States of one item that fit, or that cannot be read, from a pass over the whole history.
struct Fitting {
    /// Place of the account among those asked for.
    account: usize,
    item: ItemKey,
    hit: Hit,
    damage: Option<Error>,
}

/// Fitting states that one pass keeps: beyond it most of what is read is told anyway, and the search goes item by item.
const FITTING_MAX: usize = 100_000;

/// One pass over history; `None` when too much fits.
fn scan(view: &View, accounts: &[AccountId], query: &Prepared<'_>) -> Result<Option<Vec<Fitting>>, Error> {
    let places: HashMap<AccountId, usize> = accounts.iter().enumerate().map(|(i, id)| (*id, i)).collect();
    let mut fitting = Vec::new();
    view.scan(|step| {
        let (hit, damage) = match step {
            Scanned::Record(hit, _, record) => {
                if !query.may_fit(&hit) || !query.fits(record) {
                    return ControlFlow::Continue(());
                }
                (hit, None)
            }
            Scanned::Damaged(hit, error) => {
                if !query.may_fit(&hit) {
                    return ControlFlow::Continue(());
                }
                (hit, Some(error))
            }
        };
        if let Some(account) = places.get(&hit.account()) {
            fitting.push(Fitting { account: *account, item: hit.item(), hit, damage });
        }
        if fitting.len() > FITTING_MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    if fitting.len() > FITTING_MAX {
        return Ok(None);
    }
    fitting.sort_by_key(|f| (f.account, f.item, f.hit.row.lsn));
    Ok(Some(fitting))
}

/// Tells what a pass found, item by item.
fn tell_scanned(
    view: &View,
    query: &Prepared<'_>,
    mut fitting: Vec<Fitting>,
    each: &mut dyn FnMut(Entry) -> bool,
) -> Result<u64, Error> {
    let mut count = 0;
    for states in fitting.chunk_by_mut(|a, b| (a.account, a.item) == (b.account, b.item)) {
        let Some(first) = states.first() else { continue };
        let last = view.locate(first.hit.account(), first.item, None)?;
        if query.query.deleted.is_some_and(|wanted| last.is_none_or(|last| last.deleted() != wanted)) {
            continue;
        }
        let mut search = Search { view, query, last, newest: None, states: 0 };
        for state in states {
            match state.damage.take() {
                Some(error) => {
                    if !each(Entry::Damaged(state.hit, error)) {
                        return Ok(count);
                    }
                }
                None => {
                    search.states += 1;
                    search.newest = Some(state.hit);
                }
            }
        }
        if !search.tell(&mut count, each)? {
            return Ok(count);
        }
    }
    Ok(count)
}

/// The ids of all accounts of a view, for [`find`].
pub fn all_accounts(view: &View) -> Result<Vec<AccountId>, Error> {
    Ok(view.accounts()?.iter().map(Hit::account).collect())
}

/// The search through the states of one item.
struct Search<'a> {
    view: &'a View,
    query: &'a Prepared<'a>,
    /// The item's last row.
    last: Option<Hit>,
    newest: Option<Hit>,
    states: u64,
}

impl Search<'_> {
    /// Looks at one state; `false` when the caller wants no more.
    fn look(&mut self, hit: Hit, each: &mut dyn FnMut(Entry) -> bool) -> Result<bool, Error> {
        let q = self.query.query;
        if q.deleted.is_some_and(|wanted| self.last.is_none_or(|last| last.deleted() != wanted))
            || !self.query.may_fit(&hit)
        {
            return Ok(true);
        }
        match self.view.with_record(&hit, |_, record| self.query.fits(record)) {
            Ok(fits) => {
                if fits {
                    self.states += 1;
                    self.newest = Some(hit);
                }
                Ok(true)
            }
            Err(error @ Error::Damage(_)) => Ok(each(Entry::Damaged(hit, error))),
            Err(error) => Err(error),
        }
    }

    /// Tells of the item that was looked at, if one of its states fitted.
    fn tell(&mut self, count: &mut u64, each: &mut dyn FnMut(Entry) -> bool) -> Result<bool, Error> {
        let states = std::mem::take(&mut self.states);
        let Some(hit) = self.newest.take() else { return Ok(true) };
        *count += 1;
        let deleted = self.last.filter(Hit::deleted).map(|last| last.row.moment);
        let state = Box::new(self.view.read(&hit)?);
        Ok(each(Entry::Found(Found { account: hit.account(), state, states, deleted })))
    }
}

/// A query with its needles in lower case.
struct Prepared<'q> {
    query: &'q Query,
    text: Option<Needle>,
    sender: Option<Needle>,
    subject: Option<Needle>,
    folder: Option<Needle>,
}

impl<'q> Prepared<'q> {
    fn new(query: &'q Query) -> Self {
        let needle = |text: &Option<Vec<u8>>| text.as_deref().map(Needle::new);
        Self {
            text: needle(&query.text),
            sender: needle(&query.sender),
            subject: needle(&query.subject),
            folder: needle(&query.folder),
            query,
        }
    }

    /// What a row tells already.
    fn may_fit(&self, hit: &Hit) -> bool {
        let (q, moment) = (self.query, hit.row.moment);
        q.kind.is_none_or(|kind| hit.kind() == Some(kind))
            && q.after.is_none_or(|after| after <= moment)
            && q.before.is_none_or(|before| moment <= before)
    }

    fn fits(&self, r: &ArchivedTransactionV1) -> bool {
        let bits = r.present.to_native();
        let holds = |needle: &Option<Needle>, bit: u32, value: &[u8]| match needle {
            None => true,
            Some(needle) => bits & bit != 0 && needle.is_in(value),
        };
        holds(&self.sender, present::SENDER, &r.sender)
            && holds(&self.subject, present::NAME, &r.name)
            && holds(&self.folder, present::FOLDER, &r.folder)
            && self.text.as_ref().is_none_or(|needle| {
                [(present::NAME, &r.name), (present::SENDER, &r.sender), (present::FOLDER, &r.folder)]
                    .into_iter()
                    .any(|(bit, value)| bits & bit != 0 && needle.is_in(value))
                    || needle.is_in(&r.item)
            })
    }
}

/// What is looked for in a field, in either case.
struct Needle {
    bytes: Vec<u8>,
    /// In lower case, when it is text with letters beyond ASCII.
    unicode: Option<String>,
}

impl Needle {
    fn new(needle: &[u8]) -> Self {
        let text = std::str::from_utf8(needle).ok().filter(|text| !text.is_ascii());
        Self { bytes: needle.to_ascii_lowercase(), unicode: text.map(str::to_lowercase) }
    }

    fn is_in(&self, field: &[u8]) -> bool {
        if let (Some(needle), Ok(text)) = (&self.unicode, std::str::from_utf8(field)) {
            return text.to_lowercase().contains(needle.as_str());
        }
        self.bytes.is_empty() || field.windows(self.bytes.len()).any(|w| w.eq_ignore_ascii_case(&self.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_fits_in_either_case() {
        for (needle, field, fits) in [
            (&b"PLAN"[..], &b"Re: plan b"[..], true),
            (b"", b"", true),
            (b"longer", b"long", false),
            ("ENTWÜRFE".as_bytes(), "Entwürfe".as_bytes(), true),
            (b"\xff", b"a\xffb", true),
            (b"a", b"\xffA", true),
        ] {
            assert_eq!(Needle::new(needle).is_in(field), fits, "{needle:?} in {field:?}");
        }
    }
}
