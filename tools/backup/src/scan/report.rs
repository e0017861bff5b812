//! What a scan says about itself: counts while it runs, and a report at its end.

use mailstrata_mailstore::source::Notice;
use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};

/// Lines of one sort that a report keeps; the total is counted beyond it.
pub const LINES_MAX: usize = 200;

/// What a scan or a follower did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    pub accounts: AccountCounts,
    pub folders: FolderCounts,
    pub messages: MessageCounts,
    /// Bytes of messages that were read.
    pub bytes_read: u64,
    /// Of these, bytes that the store did not have.
    pub bytes_new: u64,
    /// What could not be read or recorded.
    pub errors: Lines,
    /// What somebody should look at, though everything was recorded.
    pub alarms: Lines,
    /// What was left out, and why.
    pub notices: Lines,
    /// Ended before everything was seen: by request, or because of too many errors.
    pub stopped: Option<String>,
    pub seconds: f64,
}

#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct AccountCounts {
    pub seen: u64,
    pub changed: u64,
    pub unchanged: u64,
    /// Could not be listed.
    pub skipped: u64,
    pub deleted: u64,
    /// Still changing when the scan gave up; the next one looks again.
    pub in_doubt: u64,
}

#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct FolderCounts {
    pub listed: u64,
    pub added: u64,
    pub changed: u64,
    pub deleted: u64,
}

#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct MessageCounts {
    pub listed: u64,
    pub added: u64,
    /// Flags, keywords or content.
    pub changed: u64,
    pub moved: u64,
    pub deleted: u64,
    /// Existed and could not be read.
    pub unseen: u64,
}

/// The first lines of a sort, and how many there were.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Lines {
    pub total: u64,
    pub first: Vec<String>,
}

impl Lines {
    /// Takes a line.
    pub fn add(&mut self, line: impl Into<String>) {
        self.total += 1;
        if self.first.len() < LINES_MAX {
            self.first.push(line.into());
        }
    }

    fn merge(&mut self, other: Self) {
        let room = LINES_MAX.saturating_sub(self.first.len());
        self.total += other.total;
        self.first.extend(other.first.into_iter().take(room));
    }
}

impl Report {
    /// Adds what a part of the work did.
    pub(super) fn merge(&mut self, other: Self) {
        let Self { accounts: a, folders: f, messages: m, .. } = self;
        a.seen += other.accounts.seen;
        a.changed += other.accounts.changed;
        a.unchanged += other.accounts.unchanged;
        a.skipped += other.accounts.skipped;
        a.deleted += other.accounts.deleted;
        a.in_doubt += other.accounts.in_doubt;
        f.listed += other.folders.listed;
        f.added += other.folders.added;
        f.changed += other.folders.changed;
        f.deleted += other.folders.deleted;
        m.listed += other.messages.listed;
        m.added += other.messages.added;
        m.changed += other.messages.changed;
        m.moved += other.messages.moved;
        m.deleted += other.messages.deleted;
        m.unseen += other.messages.unseen;
        self.bytes_read += other.bytes_read;
        self.bytes_new += other.bytes_new;
        self.errors.merge(other.errors);
        self.alarms.merge(other.alarms);
        self.notices.merge(other.notices);
        self.stopped = self.stopped.take().or(other.stopped);
    }

    pub(super) fn notice(&mut self, notice: &Notice) {
        self.notices.add(format!("{}: {}", notice.path.display(), notice.what));
    }
}

/// Counts of a scan under way.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Progress {
    pub accounts_done: u64,
    pub accounts_total: u64,
    /// Messages looked at.
    pub messages: u64,
    /// Bytes of messages read.
    pub bytes: u64,
}

/// The same, counted by many threads.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub accounts_done: AtomicU64,
    pub accounts_total: AtomicU64,
    pub messages: AtomicU64,
    pub bytes: AtomicU64,
    /// Messages that could not be read.
    pub read_errors: AtomicU64,
}

impl Counters {
    pub fn progress(&self) -> Progress {
        Progress {
            accounts_done: self.accounts_done.load(Ordering::Relaxed),
            accounts_total: self.accounts_total.load(Ordering::Relaxed),
            messages: self.messages.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }
}
