//! What a source can tell about the mail that exists: accounts, their folders, the messages in them, and a message's bytes.
//!
//! In comes nothing but the source's own state, out go neutral types, the same whichever server is behind. Rules:
//!
//! - Names are bytes and come back as they were. A folder's path has `/` between levels; the root is `INBOX`.
//! - Absence is never concluded from an error. What could not be read is listed as such ([`Accounts::unread`],
//!   [`Folders::unread`]) or is the error of the call; only what was read and not found is gone.
//! - Absence from a listing taken while the folder changed means nothing either: [`Listing::stable`] says so.
//! - What is skipped is said, once a call, through a callback taking [`Notice`].

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::maildir::marker::Marker;

/// One mailbox user.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Account {
    pub address: Vec<u8>,
    /// Where the account's mail is.
    pub root: PathBuf,
}

/// The accounts that exist, sorted by address.
#[derive(Debug, Clone, Default)]
pub struct Accounts {
    pub found: Vec<Account>,
    /// Directories that could not be read. An account known from below one of them is not gone.
    pub unread: Vec<PathBuf>,
}

/// Whether an account known from before is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    Present,
    Gone,
    /// The way to it could not be read.
    Unknown,
}

impl Accounts {
    /// Where an account known from an earlier listing stands in this one.
    pub fn presence(&self, known: &Account) -> Presence {
        if self.found.binary_search_by(|account| account.address.as_slice().cmp(&known.address)).is_ok() {
            Presence::Present
        } else if self.unread.iter().any(|dir| known.root.starts_with(dir)) {
            Presence::Unknown
        } else {
            Presence::Gone
        }
    }
}

/// One folder of an account.
#[derive(Debug, Clone)]
pub struct FolderEntry {
    pub path: Vec<u8>,
    pub dir: PathBuf,
    pub marker: Marker,
    pub subscribed: bool,
    /// The server's own identity of the folder, where it keeps one.
    pub identity: Option<FolderIdentity>,
}

/// What a server knows a folder by: stays when the folder is renamed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FolderIdentity {
    pub uid_validity: u64,
    pub uid_next: u64,
    /// The mailbox GUID, 32 hexadecimal digits with Dovecot.
    pub guid: Option<Vec<u8>>,
}

/// The folders of an account, by path.
#[derive(Debug, Clone, Default)]
pub struct Folders {
    pub found: Vec<FolderEntry>,
    /// Paths of folders that exist and could not be read. They and their messages are not gone.
    pub unread: Vec<Vec<u8>>,
}

/// One message of a folder, as its name tells it: no file was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MessageEntry {
    pub file_name: Vec<u8>,
    /// In `new/`: delivered, not yet seen by any client.
    pub in_new: bool,
    /// What stays of the name when flags change.
    pub base: Vec<u8>,
    /// IMAP system flags, sorted.
    pub flags: Vec<Vec<u8>>,
    /// Keywords, sorted.
    pub keywords: Vec<Vec<u8>>,
    pub uid: Option<u64>,
    /// The server's object id, where it is not the base name.
    pub guid: Option<Vec<u8>>,
    pub size_hint: Option<u64>,
}

/// What is known after a folder was listed.
#[derive(Debug, Clone)]
pub struct Listing {
    /// The folder's state just before the listing began: remember this one.
    pub marker: Marker,
    pub messages: u64,
    /// Nothing moved meanwhile. When false, a message renamed during the listing may be missing from it or be in it twice;
    /// list again before calling anything gone.
    pub stable: bool,
    pub identity: Option<FolderIdentity>,
}

/// An opened message.
#[derive(Debug)]
pub struct OpenMessage {
    pub file: File,
    pub size: u64,
    /// INTERNALDATE: the file's modification time, µs since 1970 UTC.
    pub received_us: i64,
    pub inode: u64,
    pub links: u64,
    /// The name it was opened under: a changed flag renames it after it was listed.
    pub file_name: Vec<u8>,
    pub in_new: bool,
}

/// Why a message was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Looked for under every name it could have by now.
    #[error("message {} is gone", .path.display())]
    Gone { path: PathBuf },
    #[error("{} is not a regular file", .path.display())]
    NotRegularFile { path: PathBuf },
    #[error("reading {} is not permitted", .path.display())]
    PermissionDenied { path: PathBuf },
    #[error("opening {}: {source}", .path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// Why a listing failed.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It was there when it was listed, and is not any more.
    #[error("{} is gone", .path.display())]
    Gone { path: PathBuf },
    #[error("{} is not a Maildir: {why}", .path.display())]
    NotMaildir { path: PathBuf, why: &'static str },
    #[error("{doing} {}: {source}", .path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
}

impl SourceError {
    /// An error of the operating system, met while `doing` something with `path`.
    pub fn io(doing: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io { doing, path: path.to_owned(), source: source.into() }
    }
}

/// Something that was left out, or that an administrator should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    pub path: PathBuf,
    pub what: String,
}

impl Notice {
    pub fn new(path: impl Into<PathBuf>, what: impl Into<String>) -> Self {
        Self { path: path.into(), what: what.into() }
    }
}

/// Takes notices as they come.
pub type Notices<'a> = dyn FnMut(Notice) + 'a;

/// A mail server's content, as it is now.
pub trait Source {
    /// A folder held open for listing and reading.
    type Folder: OpenFolder;

    /// The accounts that exist. An error when not even the place where they are can be read.
    fn accounts(&self, notices: &mut Notices<'_>) -> Result<Accounts, SourceError>;

    /// The folders of an account.
    fn folders(&self, account: &Account, notices: &mut Notices<'_>) -> Result<Folders, SourceError>;

    /// Opens a folder of an account.
    fn open_folder(&self, account: &Account, folder: &FolderEntry) -> Result<Self::Folder, SourceError>;
}

/// A folder held open: what is listed and what is read are the same directory, even when it is renamed meanwhile.
pub trait OpenFolder {
    /// Tells every message, one after the other; nothing is collected.
    fn messages(
        &mut self,
        each: &mut dyn FnMut(MessageEntry),
        notices: &mut Notices<'_>,
    ) -> Result<Listing, SourceError>;

    /// Opens a message that was listed, or that an event named.
    fn open(&mut self, message: &MessageEntry) -> Result<OpenMessage, OpenError>;

    /// The entry for a file name that an event gave, with the folder's present keywords. It has a UID only when the folder was
    /// listed before, and the server had written it by then.
    fn entry(&mut self, file_name: &[u8], in_new: bool) -> MessageEntry;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_below_an_unread_directory_is_not_gone() {
        let account = |name: &str| Account { address: name.into(), root: Path::new("/m").join(name) };
        let accounts = Accounts { found: vec![account("a")], unread: vec!["/m/b".into()] };
        assert_eq!(accounts.presence(&account("a")), Presence::Present);
        assert_eq!(accounts.presence(&account("b")), Presence::Unknown);
        assert_eq!(accounts.presence(&account("bb")), Presence::Gone);
    }
}
