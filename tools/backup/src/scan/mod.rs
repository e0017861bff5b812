//! From a mail server's files to transactions: what is there now ([`smart`]), and what changes from now on ([`realtime`]).
//!
//! In come accounts, folders and messages of a Maildir tree, out go events for the store and a report. Rules:
//!
//! - **A mark follows what it stands for.** An account's cursor is appended after all that its scan found, and the log is
//!   durable as a prefix; so a cursor that survives proves that what it vouches for survived.
//! - **Gone is concluded, never assumed**: only from a listing that was stable, of a folder that was read.
//! - **One truth an account.** What is known of an account is in one `live::Live` behind one lock; a scan and the follower
//!   both look there, and at the file, at the moment they record. So a scan never puts an older state over a newer one.
//! - A message's identity is `<folder path>/<base name>` at first sight, and stays through flags, renames and moves.
//!
//! ```text
//! smart ──► pass ──► listing ──► pairing ──► live ──► store      realtime ──► window ──► live ──► store
//!   accounts   one account  what is there   moves    one item's event   events     moves within 25 ms
//! ```

pub mod report;

pub mod smart;

mod pass;

mod listing;

mod reading;

mod pairing;

pub mod realtime;

mod settle;

mod comings;

mod window;

mod marks;

pub mod status;

mod content;

mod live;

mod folders;

mod known;

mod registry;

mod cursor;

pub mod gaps;

pub use gaps::{Gap, gaps};
pub use realtime::{Told, Watch};
pub use report::{Progress, Report};
pub use smart::SmartScan;
pub use status::Status;

use mailstrata_mailstore::maildir::watch::{Choice, WatchError};
use mailstrata_mailstore::source::SourceError;
use mailstrata_mailstore::url::{MaildirUrl, Part};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What a scan is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// Read and compare every message, whatever the markers say.
    pub deep: bool,
    /// Only this account.
    pub account: Option<Vec<u8>>,
    /// Threads that read; 0: as many as the machine has processors.
    pub threads: usize,
    /// Ends the scan when more messages than this could not be read.
    pub read_errors_max: Option<u64>,
    /// What is known of accounts may take this many bytes between events (real-time only).
    pub known_bytes_max: usize,
    /// How long one half of a move waits for the other.
    pub window: Duration,
    /// How often a mark says that changes are being followed: an unclean stop is known as exactly as this.
    pub heartbeat: Duration,
    /// How the kernel is asked for changes.
    pub choice: Choice,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            deep: false,
            account: None,
            threads: 0,
            read_errors_max: None,
            known_bytes_max: 24 << 20,
            window: Duration::from_millis(25),
            heartbeat: Duration::from_secs(300),
            choice: Choice::Auto,
        }
    }
}

impl Options {
    fn threads(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        }
    }
}

/// Why a scan ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] mailstrata_engine::Error),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Watch(#[from] WatchError),
    #[error("reading what changes: {0}")]
    Follow(#[source] io::Error),
    #[error("starting a thread: {0}")]
    Thread(#[source] io::Error),
    #[error("there is no account {0} here")]
    NoAccount(String),
}

/// Result of a scan's operations.
pub type Result<T> = std::result::Result<T, Error>;

/// µs since 1970 UTC.
fn now_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX))
}

/// Takes a lock that a panicking thread may have left; the panic itself ends the scan when its thread is joined.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes for a message to a person.
fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What tells one source from another: an account is called gone only by the source that knew it.
fn source_id(url: &MaildirUrl) -> Vec<u8> {
    let mut id = b"maildir:".to_vec();
    match url {
        MaildirUrl::One { path, account } => {
            id.extend_from_slice(path.as_os_str().as_bytes());
            id.extend_from_slice(b"?account=");
            id.extend_from_slice(account);
        }
        MaildirUrl::Tree(template) => {
            id.extend_from_slice(template.base.as_os_str().as_bytes());
            for level in &template.levels {
                id.push(b'/');
                for part in &level.0 {
                    match part {
                        Part::Text(text) => id.extend_from_slice(text),
                        Part::User => id.extend_from_slice(b"{user}"),
                        Part::Domain => id.extend_from_slice(b"{domain}"),
                    }
                }
            }
        }
    }
    id
}

/// When something happened, as far as is known.
#[derive(Debug, Clone, Copy)]
struct When {
    /// Not after, µs UTC.
    at: i64,
    /// µs UTC.
    not_before: Option<i64>,
}

/// What a scan knows of the moments of what it finds: after the scan before, and not after the listing.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    before: Option<i64>,
    seen: i64,
}

impl Bounds {
    /// Of a change that left no time behind.
    fn unknown(self) -> When {
        When { at: self.seen, not_before: self.before }
    }

    /// Of a message that was not there: its INTERNALDATE is the moment of its delivery when it lies between the two scans, else
    /// the file's last change (a copy keeps its date). At the first scan nothing shows since when a message has been where it is.
    fn arrival(self, received: i64, changed: i64) -> When {
        match self.before {
            None => When { at: self.seen, not_before: Some(received.min(self.seen)) },
            Some(before) => {
                let inside = |t: &i64| (before..=self.seen).contains(t);
                let at = Some(received).filter(inside).or(Some(changed).filter(inside));
                When { at: at.unwrap_or(self.seen), not_before: self.before }
            }
        }
    }

    /// Of a rename: it set the file's ctime.
    fn rename(self, changed: i64) -> When {
        let inside = self.before.is_some_and(|before| (before..=self.seen).contains(&changed));
        When { at: if inside { changed } else { self.seen }, not_before: self.before }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_named_by_its_url() {
        let id = |url: &str| match url.parse() {
            Ok(mailstrata_mailstore::url::Url::Maildir(url)) => shown(&source_id(&url)),
            other => panic!("{other:?}"),
        };
        assert_eq!(id("maildir:/srv/mail/{domain}/{user}/Maildir"), "maildir:/srv/mail/{domain}/{user}/Maildir");
        assert_ne!(id("maildir:/srv/a?account=x"), id("maildir:/srv/a?account=y"));
    }

    #[test]
    fn moments_stay_between_two_scans() {
        let first = Bounds { before: None, seen: 100 };
        let later = Bounds { before: Some(50), seen: 100 };
        let pair = |w: When| (w.at, w.not_before);
        assert_eq!(pair(first.arrival(7, 9)), (100, Some(7)));
        assert_eq!(pair(later.arrival(60, 90)), (60, Some(50)));
        assert_eq!(pair(later.arrival(7, 90)), (90, Some(50)));
        assert_eq!(pair(later.arrival(7, 200)), (100, Some(50)));
        assert_eq!(pair(later.rename(90)), (90, Some(50)));
        assert_eq!(pair(later.rename(20)), (100, Some(50)));
    }
}
