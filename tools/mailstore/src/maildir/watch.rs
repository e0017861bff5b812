//! The real-time follower: what changes in Maildirs, as it happens.
//!
//! In come a Maildir URL and the kernel's events on its directories, out go [`Change`]s in batches. Rules:
//!
//! - **A change is a hint, never the truth.** It says where to look; the consumer reads what is there. A change may come twice, or
//!   be about something that is gone again by now. In a batch, folder changes come before the messages in them.
//! - What may have been missed is said: [`Change::Doubt`], for one account or for all. A scan of these clears it.
//! - Nothing is reported about what existed at the start. Start the follower, then scan: what comes during the scan is reported.
//! - Memory is bounded: a batch takes a few thousand events; beyond that the kernel's queue fills, overflows, and that is a doubt.
//!
//! ```text
//! above      /srv/mail, /srv/mail/{domain}, …   users come and go
//! root       subscriptions, .Folder             folders come and go
//! folder     dovecot-keywords, maildirfolder, cur, new
//! cur, new   messages
//! ```
//!
//! Two kernel interfaces serve. **inotify** wants a watch a directory, three a folder: 1.8 kB of kernel memory each, 0.02 to 0.14 ms
//! to set, a limit a user. **fanotify** wants one mark a file system and privileges, and reports what any program does on that
//! file system; it does not tell that the fixed part of a template's path itself went. [`Choice::Auto`] takes inotify while the tree
//! needs less than half of the limit, else fanotify where it can.

mod fanotify;
mod inotify;
mod kernel;
mod places;

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use self::fanotify::FanotifyKernel;
use self::inotify::InotifyKernel;
use self::kernel::{Kernel, Raw, WatchId, What};
use self::places::{AccountId, Part, Place, Places};
use super::accounts::Tree;
use super::flags::KEYWORDS_FILE;
use super::subscriptions;
use crate::source::{Account, Notice, Notices, SourceError};
use crate::url::MaildirUrl;

/// Events taken up in one batch, but for the last read's.
const EVENTS_MAX: usize = 8192;

/// How long the second half of a rename may take. The kernel queues both within microseconds.
const PAIRING: Duration = Duration::from_millis(2);

/// How often accounts that lack watches are tried again, since somebody may have raised the limit, and a tree that is gone.
const RETRY: Duration = Duration::from_secs(60);

/// Which kernel interface to use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Choice {
    #[default]
    Auto,
    Inotify,
    Fanotify,
}

/// Something changed, or may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A message's file, in a folder's `new/` or `cur/`.
    Message {
        account: Arc<Account>,
        folder_dir: Arc<Path>,
        in_new: bool,
        name: Vec<u8>,
        kind: MessageChange,
        /// When the event was read, µs since 1970 UTC.
        at_us: i64,
    },
    /// Folders came, went or have another name; or subscriptions or keywords changed. List the folders again, and the messages
    /// of those whose marker changed.
    FolderChanged { account: Arc<Account> },
    /// Users came or went. List the accounts again.
    AccountsChanged,
    /// Something may have been missed from now on: scan this account, or all.
    Doubt { account: Option<Arc<Account>>, why: String },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MessageChange {
    /// It is there. When a program writes in place it comes twice, the second time when the file was closed.
    Appeared,
    Vanished,
    /// It has another name, or is in another folder of the same account. The old place is given.
    Renamed {
        from: Spot,
    },
}

/// Where a message was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spot {
    pub folder_dir: Arc<Path>,
    pub in_new: bool,
    pub name: Vec<u8>,
}

/// Why following is not possible.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error("{backend} cannot be used for {}: {source}", .path.display())]
    Unavailable { backend: &'static str, path: PathBuf, source: io::Error },
    #[error(transparent)]
    Source(#[from] SourceError),
}

/// Ends a [`Follower::next`] that waits in another thread.
#[derive(Debug, Clone)]
pub struct Stopper(Arc<UnixStream>);

impl Stopper {
    /// From now on `next` returns at once. A signal handler's thread may call it, more than once.
    pub fn stop(&self) {
        // It fails when the follower is gone, or when the pipe is full of calls like this one.
        let _ = (&*self.0).write(&[0]);
    }
}

/// Follows the Maildirs that a URL stands for.
pub struct Follower {
    kernel: Box<dyn Kernel>,
    places: Places,
    raws: Vec<Raw>,
    /// What the start brought to light.
    waiting: Vec<Change>,
    retry_at: Instant,
    /// The tree could not be looked through: no event will tell when it can.
    blind: bool,
    woken: UnixStream,
    stopper: Stopper,
    stopped: bool,
}

impl Follower {
    /// Sets all watches. What could not be watched is a doubt in the first batch; what is no Maildir is a notice.
    pub fn start(url: &MaildirUrl, choice: Choice, notices: &mut Notices<'_>) -> Result<Self, WatchError> {
        let tree = Tree::new(url);
        let kernel = choose(&tree, choice, notices)?;
        let sockets = || -> io::Result<(UnixStream, UnixStream)> {
            let (woken, stopper) = UnixStream::pair()?;
            woken.set_nonblocking(true)?;
            stopper.set_nonblocking(true)?;
            Ok((woken, stopper))
        };
        let (woken, stopper) = sockets().map_err(|source| WatchError::Unavailable {
            backend: kernel.name(),
            path: tree.base().to_owned(),
            source,
        })?;
        let mut follower = Self {
            kernel,
            places: Places::new(tree),
            raws: Vec::new(),
            waiting: Vec::new(),
            retry_at: Instant::now() + RETRY,
            blind: false,
            woken,
            stopper: Stopper(Arc::new(stopper)),
            stopped: false,
        };
        let accounts = follower.places.sync_accounts(&mut *follower.kernel, notices)?;
        let folders = follower.places.sync_folders(&mut *follower.kernel, false, now_us());
        follower.waiting = accounts.doubts;
        follower.waiting.extend(folders.doubts);
        Ok(follower)
    }

    /// The kernel interface in use: `inotify` or `fanotify`.
    pub fn backend(&self) -> &'static str {
        self.kernel.name()
    }

    /// How many directories are watched.
    pub fn watches(&self) -> usize {
        self.places.watches()
    }

    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Whether somebody asked to stop.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// Waits up to `timeout` for changes. An empty batch means none came, or that it was stopped. After an error the follower
    /// is of no more use.
    pub fn next(&mut self, timeout: Duration) -> io::Result<Vec<Change>> {
        if !self.waiting.is_empty() {
            return Ok(std::mem::take(&mut self.waiting));
        }
        let until = Instant::now() + timeout;
        loop {
            let mut batch = Batch::new();
            if Instant::now() >= self.retry_at {
                self.retry_at = Instant::now() + RETRY;
                self.places.touch_short();
                batch.accounts = self.blind;
            }
            if self.wait(until.min(self.retry_at).saturating_duration_since(Instant::now()))? {
                self.read()?;
                self.take(&mut batch);
                if !batch.moved.is_empty() && self.wait(PAIRING)? {
                    self.read()?;
                    self.take(&mut batch);
                }
            }
            let changes = self.settle(batch);
            if !changes.is_empty() || self.stopped || Instant::now() >= until {
                return Ok(changes);
            }
        }
    }

    /// Waits for events or for the stopper; says whether there are events.
    fn wait(&mut self, timeout: Duration) -> io::Result<bool> {
        // Rounded up: a wait of a few µs must not become a busy loop.
        let millis = timeout.as_micros().div_ceil(1000).min(i32::MAX.unsigned_abs().into());
        let wait =
            if self.stopped { Duration::ZERO } else { Duration::from_millis(u64::try_from(millis).unwrap_or(0)) };
        let limit = Timespec::try_from(wait).unwrap_or_default();
        let kernel = self.kernel.fd();
        let mut fds = [PollFd::from_borrowed_fd(kernel, PollFlags::IN), PollFd::new(&self.woken, PollFlags::IN)];
        match poll(&mut fds, Some(&limit)) {
            Err(Errno::INTR) => return Ok(false),
            other => other?,
        };
        let (ready, woken) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
        if woken {
            let mut byte = [0; 64];
            let _ = (&self.woken).read(&mut byte);
            self.stopped = true;
        }
        Ok(ready)
    }

    fn read(&mut self) -> io::Result<()> {
        while self.raws.len() < EVENTS_MAX && self.kernel.read(&mut self.raws)? {}
        Ok(())
    }

    fn take(&mut self, batch: &mut Batch) {
        for raw in std::mem::take(&mut self.raws) {
            batch.take(raw, &mut self.places);
        }
    }

    /// Brings the watches up to date and puts the batch in order.
    fn settle(&mut self, mut batch: Batch) -> Vec<Change> {
        let mut front = Vec::new();
        if batch.overflow {
            front.push(Change::Doubt { account: None, why: format!("{} lost events", self.kernel.name()) });
            self.places.touch_all(|_| true);
            batch.accounts = true;
        }
        for dir in &batch.disturbed {
            for id in self.places.below(dir) {
                batch.replaced.insert(id);
            }
        }
        if batch.accounts {
            match self.places.sync_accounts(&mut *self.kernel, &mut |_| {}) {
                Ok(synced) => {
                    if std::mem::take(&mut self.blind) {
                        let why = "the accounts can be looked through again; what changed meanwhile was not seen";
                        front.push(Change::Doubt { account: None, why: why.to_owned() });
                        self.places.touch_all(|_| true);
                    }
                    if synced.accounts_changed || batch.overflow {
                        front.push(Change::AccountsChanged);
                    }
                    front.extend(synced.doubts);
                }
                Err(error) => {
                    self.blind = true;
                    front.push(Change::Doubt { account: None, why: error.to_string() });
                }
            }
        }
        for id in &batch.replaced {
            // Gone accounts are no longer known here; those that are have a directory that came from somewhere.
            if let Some(account) = self.places.account(*id).cloned() {
                let root = account.root.clone();
                self.places.touch_all(|watched| Arc::ptr_eq(&watched.account, &account));
                let why = format!("{} was moved or replaced", root.display());
                front.push(Change::Doubt { account: Some(account), why });
            }
        }
        let synced = self.places.sync_folders(&mut *self.kernel, true, batch.at_us);
        front.extend(
            batch
                .folders
                .iter()
                .filter_map(|id| self.places.account(*id))
                .map(|account| Change::FolderChanged { account: account.clone() }),
        );
        front.extend(synced.doubts);
        front.extend(batch.changes.into_iter().flatten());
        front.extend(synced.appeared);
        front
    }
}

fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

fn choose(tree: &Tree, choice: Choice, notices: &mut Notices<'_>) -> Result<Box<dyn Kernel>, WatchError> {
    let unavailable = |backend| move |source| WatchError::Unavailable { backend, path: tree.base().to_owned(), source };
    let wanted = match choice {
        Choice::Inotify => false,
        Choice::Fanotify => {
            let kernel = FanotifyKernel::new(tree.base()).map_err(unavailable("fanotify"))?;
            return Ok(Box::new(kernel));
        }
        Choice::Auto => {
            let needed = Places::needed(&tree.find(&mut |_| {})?);
            places::max_user_watches().is_some_and(|limit| needed > limit / 2)
        }
    };
    if wanted {
        match FanotifyKernel::new(tree.base()) {
            Ok(kernel) => return Ok(Box::new(kernel)),
            Err(error) => notices(Notice::new(
                tree.base(),
                format!("needs many watches, and fanotify cannot be used ({error}); inotify is used"),
            )),
        }
    }
    Ok(Box::new(InotifyKernel::new().map_err(unavailable("inotify"))?))
}

/// The first half of a rename.
enum Moved {
    Message { account: AccountId, change: usize, spot: Spot },
    Folder { account: AccountId, name: Vec<u8> },
}

/// What some reads gave.
struct Batch {
    at_us: i64,
    /// An entry is taken back when a later event says it better.
    changes: Vec<Option<Change>>,
    moved: HashMap<u64, Moved>,
    /// Files created in place, by watch and name, until they are closed.
    created: HashMap<(WatchId, Vec<u8>), usize>,
    folders: BTreeSet<AccountId>,
    accounts: bool,
    /// Directories above accounts that went or came.
    disturbed: BTreeSet<PathBuf>,
    replaced: BTreeSet<AccountId>,
    overflow: bool,
}

impl Batch {
    fn new() -> Self {
        Self {
            at_us: now_us(),
            changes: Vec::new(),
            moved: HashMap::new(),
            created: HashMap::new(),
            folders: BTreeSet::new(),
            accounts: false,
            disturbed: BTreeSet::new(),
            replaced: BTreeSet::new(),
            overflow: false,
        }
    }

    fn take(&mut self, raw: Raw, places: &mut Places) {
        if raw.what == What::Overflow {
            self.overflow = true;
            return;
        }
        // Events of a watch given back meanwhile, and with fanotify of all the rest of the file system, end here.
        let Some(place) = places.place(raw.watch).cloned() else { return };
        match place {
            Place::Above { dir, depth } => self.above(raw, &dir, depth, places),
            Place::Folder { account, name, dir, part } => {
                if matches!(raw.what, What::SelfGone | What::Unwatched) {
                    if raw.what == What::Unwatched {
                        places.forget(raw.watch);
                    }
                    places.touch(account, &name);
                    self.folders.insert(account);
                    self.accounts |= name.is_empty();
                } else if part == Part::Dir {
                    self.folder(raw, account, &name, places);
                } else {
                    self.message(raw, account, dir, part == Part::New, places);
                }
            }
        }
    }

    fn above(&mut self, raw: Raw, dir: &Path, depth: usize, places: &mut Places) {
        match raw.what {
            What::Unwatched => {
                places.forget(raw.watch);
                self.accounts = true;
            }
            What::SelfGone => self.accounts = true,
            What::Closed => {}
            _ if places.may_hold(depth, &raw.name) => {
                self.accounts = true;
                if raw.what != What::Created {
                    self.disturbed.insert(dir.join(OsStr::from_bytes(&raw.name)));
                }
            }
            _ => {}
        }
    }

    fn folder(&mut self, raw: Raw, account: AccountId, folder: &[u8], places: &mut Places) {
        let in_root = folder.is_empty();
        let name = raw.name.as_slice();
        if in_root && name.starts_with(b".") {
            // A folder, or a link in its place. Files with a dot are the server's.
            if !raw.is_dir {
                return;
            }
            places.touch(account, name);
            self.folders.insert(account);
            match raw.what {
                What::MovedFrom if raw.cookie != 0 => {
                    self.moved.insert(raw.cookie, Moved::Folder { account, name: raw.name });
                }
                What::MovedTo => {
                    if let Some(Moved::Folder { account: from, name: old }) = self.moved.remove(&raw.cookie)
                        && from == account
                    {
                        places.rename(account, &old, name);
                    }
                }
                _ => {}
            }
        } else if name == b"cur" || name == b"new" {
            places.touch(account, folder);
            self.folders.insert(account);
            self.accounts |= in_root;
        } else {
            let told = name == KEYWORDS_FILE.as_bytes()
                || name == b"maildirfolder"
                || in_root && subscriptions::FILES.iter().any(|file| name == file.as_bytes());
            if told && matches!(raw.what, What::Closed | What::Deleted | What::MovedTo) {
                self.folders.insert(account);
            }
        }
    }

    fn message(&mut self, raw: Raw, account: AccountId, dir: Arc<Path>, in_new: bool, places: &Places) {
        let Some(owner) = places.account(account) else { return };
        if raw.is_dir || raw.name.starts_with(b".") || raw.name.is_empty() {
            return;
        }
        let mut kind = match raw.what {
            What::Deleted | What::MovedFrom => MessageChange::Vanished,
            _ => MessageChange::Appeared,
        };
        match raw.what {
            What::MovedFrom if raw.cookie != 0 => {
                let spot = Spot { folder_dir: dir.clone(), in_new, name: raw.name.clone() };
                let change = self.changes.len();
                self.moved.insert(raw.cookie, Moved::Message { account, change, spot });
            }
            What::MovedTo => {
                if let Some(Moved::Message { account: from, change, spot }) = self.moved.remove(&raw.cookie)
                    && from == account
                {
                    // The disappearance was noted in its place, should the other half never come; now it is a rename.
                    if let Some(slot) = self.changes.get_mut(change) {
                        *slot = None;
                    }
                    kind = MessageChange::Renamed { from: spot };
                }
            }
            What::Created => {
                self.created.insert((raw.watch, raw.name.clone()), self.changes.len());
            }
            What::Closed => {
                let created = self.created.remove(&(raw.watch, raw.name.clone()));
                if let Some(slot) = created.and_then(|change| self.changes.get_mut(change)) {
                    *slot = None;
                }
            }
            _ => {}
        }
        let (account, name, at_us) = (owner.clone(), raw.name, self.at_us);
        self.changes.push(Some(Change::Message { account, folder_dir: dir, in_new, name, kind, at_us }));
    }
}

#[cfg(test)]
#[path = "watch/tests.rs"]
mod tests;
