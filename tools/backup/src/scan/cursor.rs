//! A scan's mark of an account: which folders looked how when they were last read.
//!
//! Kept in the store as a state of kind cursor, `maildir-scan`, that is in no view. A folder that is not in it is listed. The
//! mark is appended after all that it vouches for.

use super::Result;
use super::live::number;
use mailstrata_engine::{Change, Event, State, Value, View};
use mailstrata_format::{AccountId, ItemKey, ItemKind};
use mailstrata_mailstore::maildir::marker::Marker;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

/// Native id of the cursor.
pub const SCAN: &[u8] = b"maildir-scan";

/// What is before a folder's path in the name of its attribute.
const FOLDER: &[u8] = b"f/";

/// Attribute, see [`Cursor::complete`].
const COMPLETE: &[u8] = b"complete";

/// A folder as it was read.
#[derive(Debug, Clone)]
pub struct Mark {
    pub subscribed: bool,
    /// Of `cur/`: a renamed folder keeps it.
    pub inode: u64,
    pub marker: Marker,
}

impl Mark {
    fn text(&self) -> String {
        format!("{} {:x} {}", u8::from(self.subscribed), self.inode, self.marker)
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(text).ok()?.split(' ');
        let subscribed = words.next()? == "1";
        let inode = u64::from_str_radix(words.next()?, 16).ok()?;
        Some(Self { subscribed, inode, marker: words.next()?.parse().ok()? })
    }
}

/// An account as it was last scanned.
#[derive(Debug, Clone)]
pub struct Cursor {
    /// The URL that it was scanned by.
    pub source: Vec<u8>,
    pub root: PathBuf,
    /// µs UTC: all before was seen.
    pub time: i64,
    /// By path.
    pub folders: BTreeMap<Vec<u8>, Mark>,
    /// No folder was left out: what is not in it was not there.
    pub complete: bool,
}

impl Cursor {
    /// The account's last mark.
    pub fn read(view: &View, account: AccountId) -> Result<Option<Self>> {
        let key = ItemKey::of(ItemKind::Cursor.code(), SCAN);
        let Some(hit) = view.locate(account, key, None)?.filter(|hit| !hit.deleted()) else { return Ok(None) };
        let state = match view.read(&hit) {
            Ok(t) => t.state,
            // Without the mark everything is listed again.
            Err(mailstrata_engine::Error::Damage(_)) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let time = state.attribute(b"time").and_then(|t| std::str::from_utf8(t).ok()?.parse().ok());
        let Some(time) = time else { return Ok(None) };
        let folders = state.attributes.iter().filter_map(|(name, value)| {
            let (Some(path), Value::Text(text)) = (name.strip_prefix(FOLDER), value) else { return None };
            Some((path.to_vec(), Mark::parse(text)?))
        });
        Ok(Some(Self {
            source: state.attribute(b"source").unwrap_or_default().to_vec(),
            root: PathBuf::from(OsString::from_vec(state.attribute(b"root").unwrap_or_default().to_vec())),
            time,
            folders: folders.collect(),
            complete: state.attribute(COMPLETE) == Some(b"true"),
        }))
    }

    /// The event that records it.
    pub fn event(&self, address: &[u8], account: AccountId) -> Event {
        let text = |v: &[u8]| Value::Text(v.to_vec());
        let mut attributes = vec![
            (b"source".to_vec(), text(&self.source)),
            (b"root".to_vec(), text(self.root.as_os_str().as_bytes())),
            (b"time".to_vec(), number(self.time)),
            (COMPLETE.to_vec(), number(self.complete)),
        ];
        for (path, mark) in &self.folders {
            attributes.push(([FOLDER, path.as_slice()].concat(), text(mark.text().as_bytes())));
        }
        mark_event(address, account, SCAN, attributes)
    }

    /// Whether a scan of `source` at `root` may go by it.
    pub fn is_of(&self, source: &[u8], root: &Path) -> bool {
        self.source == source && self.root == root
    }
}

/// A mark that replaces the one before.
pub fn mark_event(address: &[u8], account: AccountId, native: &[u8], attributes: Vec<(Vec<u8>, Value)>) -> Event {
    Event {
        account: address.to_owned(),
        account_id: Some(account),
        item: native.to_vec(),
        kind: ItemKind::Cursor,
        change: Change::Put {
            state: State { attributes, ..State::default() },
            blobs: Vec::new(),
            content_unseen: false,
        },
        at: None,
        not_before: None,
        source: None,
        derived: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_survives_its_text() {
        let marker: Marker = "m1:5:1.0.2.3:4.0.5.6:0.0.0.0:7.8.9.a".parse().unwrap();
        let mark = Mark { subscribed: true, inode: 0xabc, marker };
        let again = Mark::parse(mark.text().as_bytes()).unwrap();
        assert_eq!(again.text(), mark.text());
        assert!(again.subscribed && again.inode == 0xabc);
        for bad in ["", "1", "1 x m1", "1 a m1:5", "é"] {
            assert!(Mark::parse(bad.as_bytes()).is_none(), "{bad}");
        }
    }
}
