//! What an administrator types as `ACCOUNT` and `ITEM`, and which account and item it means.
//!
//! In come names, out go ids. Rules:
//!
//! - An account's id means exactly that account. An address means the account that has it at the moment asked for; when none is
//!   alive then, the newest one that was. The others of that name are named beside it. Two alive ones of one name are
//!   an error that lists both.
//! - A moment before the first record of every account of that name is an error that names the first moment.
//! - An item is its native id, of whichever kind, or its key in 32 hexadecimal digits. One that fits several items is an error
//!   that names their keys.
//! - `%XX` stands for a byte, for names that are not UTF-8. A name that fits as it was typed is taken as typed.

use mailstrata_engine::{Error, View};
use mailstrata_format::{AccountId, ItemKey, ItemKind};
use mailstrata_mailstore::json::{percent_decode, percent_encode};
use mailstrata_mailstore::time::format_rfc3339;
use std::fmt::Write as _;

/// One account that had an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incarnation {
    pub id: AccountId,
    pub address: Vec<u8>,
    /// When it was deleted, µs UTC, if it is at the moment asked for.
    pub deleted: Option<i64>,
}

/// The account that a name means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub is: Incarnation,
    /// Others of the same address, oldest first.
    pub others: Vec<Incarnation>,
}

/// The item that a name means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    pub key: ItemKey,
    /// `None` when the record does not say a known one.
    pub kind: Option<ItemKind>,
}

/// Why a name means nothing, or too much.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    #[error("no account {} in this store", percent_encode(.name))]
    NoAccount { name: Vec<u8> },
    #[error("{} accounts are called {}: name one by its id: {}", .found.len(), percent_encode(.name), listed(.found))]
    AmbiguousAccount { name: Vec<u8>, found: Vec<Incarnation> },
    #[error("nothing is recorded of {} before {}", percent_encode(.name), format_rfc3339(*.first))]
    BeforeFirst { name: Vec<u8>, first: i64 },
    #[error("account {account} has no item {}", percent_encode(.name))]
    NoItem { account: AccountId, name: Vec<u8> },
    #[error("{} items are called {}: name one by its key: {}", .found.len(), percent_encode(.name), keys(.found))]
    AmbiguousItem { name: Vec<u8>, found: Vec<Item> },
    #[error(transparent)]
    Store(#[from] Error),
}

fn listed(found: &[Incarnation]) -> String {
    let mut text = String::new();
    for (i, one) in found.iter().enumerate() {
        let sep = if i > 0 { ", " } else { "" };
        let state = one.deleted.map_or("alive".to_owned(), |d| format!("deleted {}", format_rfc3339(d)));
        let _ = write!(text, "{sep}{} ({state})", one.id);
    }
    text
}

fn keys(found: &[Item]) -> String {
    let one = |item: &Item| format!("{} ({})", item.key, item.kind.map_or("unknown", ItemKind::name));
    found.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// The account that `name` means at a moment (`None`: the view's end).
pub fn account(view: &View, name: &[u8], at: Option<i64>) -> Result<Account, ResolveError> {
    if let Some(id) = std::str::from_utf8(name).ok().and_then(AccountId::parse)
        && let Some(address) = address_of(view, id)?
    {
        let is = incarnation(view, id, address, at)?;
        let mut others = Vec::new();
        for other in ids_of(view, &is.address)?.into_iter().filter(|other| *other != id) {
            others.push(incarnation(view, other, is.address.clone(), at)?);
        }
        return Ok(Account { is, others });
    }
    for address in spellings(name) {
        let ids = ids_of(view, &address)?;
        if !ids.is_empty() {
            return choose(view, name, &address, &ids, at);
        }
    }
    Err(ResolveError::NoAccount { name: name.to_owned() })
}

/// Every account that has or had an address, oldest first.
pub fn incarnations(view: &View, address: &[u8], at: Option<i64>) -> Result<Vec<Incarnation>, ResolveError> {
    let all: Result<_, Error> =
        ids_of(view, address)?.into_iter().map(|id| incarnation(view, id, address.to_owned(), at)).collect();
    Ok(all?)
}

fn choose(
    view: &View,
    name: &[u8],
    address: &[u8],
    ids: &[AccountId],
    at: Option<i64>,
) -> Result<Account, ResolveError> {
    let mut then = Vec::new();
    for id in ids {
        // One that began later has no name yet at that moment.
        if at.is_none() || view.items(*id, at)?.next().transpose()?.is_some() {
            then.push(incarnation(view, *id, address.to_owned(), at)?);
        }
    }
    let mut alive = (0..then.len()).filter(|i| then.get(*i).is_some_and(|one| one.deleted.is_none()));
    let chosen = match (alive.next(), alive.next()) {
        (Some(one), None) => one,
        (Some(_), Some(_)) => {
            then.retain(|one| one.deleted.is_none());
            return Err(ResolveError::AmbiguousAccount { name: name.to_owned(), found: then });
        }
        (None, _) if then.is_empty() => {
            let mut first = i64::MAX;
            for id in ids {
                first = first.min(first_moment(view, *id)?.unwrap_or(i64::MAX));
            }
            return Err(ResolveError::BeforeFirst { name: name.to_owned(), first });
        }
        (None, _) => then.len() - 1,
    };
    let is = then.remove(chosen);
    let mut others = then;
    for id in ids.iter().filter(|id| **id != is.id && !others.iter().any(|o| o.id == **id)).collect::<Vec<_>>() {
        others.push(incarnation(view, *id, address.to_owned(), at)?);
    }
    Ok(Account { is, others })
}

/// The least moment of what is recorded of an account.
pub fn first_moment(view: &View, account: AccountId) -> Result<Option<i64>, Error> {
    let mut first = None;
    for hit in view.account_rows(account)? {
        let moment = hit?.row.moment;
        first = Some(first.map_or(moment, |f: i64| f.min(moment)));
    }
    Ok(first)
}

/// The ids of the accounts that have or had an address, oldest first. Those that are derived from it are found although the
/// record that would say so is damaged.
fn ids_of(view: &View, address: &[u8]) -> Result<Vec<AccountId>, Error> {
    let mut ids = view.accounts_of(address)?;
    for n in 1.. {
        let id = AccountId::of_address(address, n);
        if ids.contains(&id) {
            continue;
        }
        if view.account_rows(id)?.next().transpose()?.is_none() {
            break;
        }
        ids.insert(usize::try_from(n - 1).unwrap_or(0).min(ids.len()), id);
    }
    Ok(ids)
}

/// The address in an account's first readable record; empty when none is readable. `None`: there is no such account.
fn address_of(view: &View, id: AccountId) -> Result<Option<Vec<u8>>, Error> {
    let mut there = false;
    for hit in view.account_rows(id)?.take(1000) {
        there = true;
        match view.with_record(&hit?, |_, record| record.account.to_vec()) {
            Ok(address) => return Ok(Some(address)),
            Err(Error::Damage(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(there.then(Vec::new))
}

fn incarnation(view: &View, id: AccountId, address: Vec<u8>, at: Option<i64>) -> Result<Incarnation, Error> {
    let own = view.locate(id, own_key(&address), at)?;
    let deleted = own.filter(|hit| hit.deleted()).map(|hit| hit.row.moment);
    Ok(Incarnation { id, address, deleted })
}

/// The key of the item that is the account itself.
#[must_use]
pub fn own_key(address: &[u8]) -> ItemKey {
    ItemKey::of(ItemKind::Account.code(), address)
}

/// The item of an account that `name` means, deleted or not.
pub fn item(view: &View, account: AccountId, name: &[u8]) -> Result<Item, ResolveError> {
    let mut found: Vec<Item> = Vec::new();
    for native in spellings(name) {
        for kind in ItemKind::ALL {
            let key = ItemKey::of(kind.code(), &native);
            if view.locate(account, key, None)?.is_some() {
                found.push(Item { key, kind: Some(kind) });
            }
        }
        if !found.is_empty() {
            break;
        }
    }
    if let Some(key) = std::str::from_utf8(name).ok().and_then(ItemKey::parse)
        && let Some(hit) = view.locate(account, key, None)?
        && hit.kind() != Some(ItemKind::Cursor)
        && !found.iter().any(|item| item.key == key)
    {
        found.push(Item { key, kind: hit.kind() });
    }
    match found.as_slice() {
        [] => Err(ResolveError::NoItem { account, name: name.to_owned() }),
        [one] => Ok(*one),
        _ => Err(ResolveError::AmbiguousItem { name: name.to_owned(), found }),
    }
}

/// What was typed, then what it says with its escapes taken away.
fn spellings(name: &[u8]) -> Vec<Vec<u8>> {
    let mut all = vec![name.to_owned()];
    if let Some(decoded) = std::str::from_utf8(name).ok().map(percent_decode).filter(|d| d != name) {
        all.push(decoded);
    }
    all
}
