//! Which watch stands for which place, kept in step with the directories on disk.
//!
//! In come remarks of the event loop (this folder was touched, that directory disturbed), out go watches added and removed and
//! the changes that this brings to light. Rules:
//!
//! - A directory is watched first and listed afterwards: what came before the watch is found by the listing, what comes after by
//!   an event, and what falls between by both.
//! - Only what was touched is looked at again; after lost events that is everything.
//! - A watch follows its directory, a path does not: a touched folder's watches are asked for anew by path. The same directory
//!   keeps its id and gets the new path; an id that no path leads to any more is given back.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags};

use super::kernel::{Kernel, Role, WatchId};
use super::{Change, MessageChange};
use crate::maildir::accounts::{Found, Tree};
use crate::maildir::source::{each_name, folder_dir, folder_names, open_root};
use crate::source::{Account, Notices, Presence, SourceError};

/// A new folder with more messages than this is reported as a folder only: the consumer lists it, the batch stays small.
const LISTED_MAX: usize = 1000;

/// How often the tree is looked through again because it grew during the look.
const LOOKS_MAX: usize = 5;

pub type AccountId = u32;

/// Which of a folder's directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Dir,
    New,
    Cur,
}

const PARTS: [Part; 3] = [Part::Dir, Part::New, Part::Cur];

/// What a watch stands for.
#[derive(Debug, Clone)]
pub enum Place {
    /// Accounts can come and go in it.
    Above { dir: Arc<Path>, depth: usize },
    /// Part of the folder whose directory has this name (empty: the root).
    Folder { account: AccountId, name: Arc<[u8]>, dir: Arc<Path>, part: Part },
}

#[derive(Debug, Default)]
struct Folder {
    watches: [Option<WatchId>; 3],
}

#[derive(Debug)]
pub struct Watched {
    pub account: Arc<Account>,
    folders: HashMap<Arc<[u8]>, Folder>,
    /// Folders to look at again.
    touched: BTreeSet<Vec<u8>>,
    all_touched: bool,
    /// Some directory of it could not be watched for want of watches.
    pub short: bool,
}

/// What a synchronisation brought to light.
#[derive(Debug, Default)]
pub struct Synced {
    pub accounts_changed: bool,
    pub doubts: Vec<Change>,
    pub appeared: Vec<Change>,
}

impl Synced {
    fn doubt(&mut self, account: Option<&Arc<Account>>, why: String) {
        self.doubts.push(Change::Doubt { account: account.cloned(), why });
    }
}

pub struct Places {
    tree: Tree,
    places: HashMap<WatchId, Place>,
    above: HashMap<PathBuf, WatchId>,
    accounts: HashMap<AccountId, Watched>,
    next: AccountId,
    dirty: BTreeSet<AccountId>,
}

impl Places {
    pub fn new(tree: Tree) -> Self {
        Self {
            tree,
            places: HashMap::new(),
            above: HashMap::new(),
            accounts: HashMap::new(),
            next: 0,
            dirty: BTreeSet::new(),
        }
    }

    pub fn place(&self, watch: WatchId) -> Option<&Place> {
        self.places.get(&watch)
    }

    pub fn account(&self, id: AccountId) -> Option<&Arc<Account>> {
        self.accounts.get(&id).map(|watched| &watched.account)
    }

    pub fn may_hold(&self, depth: usize, name: &[u8]) -> bool {
        self.tree.may_hold(depth, name)
    }

    pub fn watches(&self) -> usize {
        self.places.len()
    }

    /// How many watches the tree would take.
    pub fn needed(found: &Found) -> usize {
        let folders = |account: &Account| {
            open_root(&account.root)
                .and_then(|root| folder_names(root, &account.root, &mut |_| {}))
                .map_or(1, |n| n.len())
        };
        found.above.len() + found.accounts.found.iter().map(|account| PARTS.len() * folders(account)).sum::<usize>()
    }

    /// The kernel dropped a watch.
    pub fn forget(&mut self, watch: WatchId) {
        if let Some(Place::Folder { account, name, .. }) = self.places.remove(&watch) {
            self.touch(account, &name);
        }
    }

    pub fn touch(&mut self, account: AccountId, name: &[u8]) {
        if let Some(watched) = self.accounts.get_mut(&account) {
            watched.touched.insert(name.to_vec());
            self.dirty.insert(account);
        }
    }

    /// Everything of an account, or of all, is looked at again.
    pub fn touch_all(&mut self, only: impl Fn(&Watched) -> bool) {
        for (&id, watched) in &mut self.accounts {
            if only(watched) {
                watched.all_touched = true;
                self.dirty.insert(id);
            }
        }
    }

    /// Accounts whose root is `dir` or below it.
    pub fn below(&self, dir: &Path) -> Vec<AccountId> {
        self.accounts.iter().filter(|(_, w)| w.account.root.starts_with(dir)).map(|(&id, _)| id).collect()
    }

    /// A folder's directory has a new name: its watches stand for the new path from now on.
    pub fn rename(&mut self, account: AccountId, from: &[u8], to: &[u8]) {
        self.touch(account, from);
        self.touch(account, to);
        let Some(watched) = self.accounts.get_mut(&account) else { return };
        let Some(folder) = watched.folders.remove(from) else { return };
        let name: Arc<[u8]> = to.into();
        let dir: Arc<Path> = folder_dir(&watched.account.root, to).into();
        for (part, watch) in PARTS.iter().zip(folder.watches) {
            if let Some(watch) = watch {
                let (name, dir) = (name.clone(), dir.clone());
                self.places.insert(watch, Place::Folder { account, name, dir, part: *part });
            }
        }
        // What was at the new name before is replaced; its watches end with their directories, or in the next look.
        if let Some(replaced) = watched.folders.insert(name, folder) {
            for watch in replaced.watches.into_iter().flatten() {
                self.places.remove(&watch);
            }
        }
    }

    /// Brings accounts and the directories above them up to date. New accounts are dirty afterwards.
    pub fn sync_accounts(&mut self, kernel: &mut dyn Kernel, notices: &mut Notices<'_>) -> Result<Synced, SourceError> {
        let mut synced = Synced::default();
        let mut found = self.tree.find(notices)?;
        for _ in 0..LOOKS_MAX {
            let mut grew = false;
            for (dir, depth) in &found.above {
                match kernel.add(dir, Role::Above) {
                    Ok(watch) => {
                        grew |= self.above.insert(dir.clone(), watch) != Some(watch);
                        // An account's root may be the place where others are looked for; it is more than that.
                        if !matches!(self.places.get(&watch), Some(Place::Folder { .. })) {
                            let place = Place::Above { dir: dir.as_path().into(), depth: *depth };
                            self.places.insert(watch, place);
                        }
                    }
                    Err(error) if missing(&error) => {}
                    // The parent of a single Maildir is only watched to see it come back.
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied && found.above.len() == 1 => {}
                    Err(error) => synced.doubt(None, cannot_watch(dir, &error)),
                }
            }
            if !grew {
                break;
            }
            found = self.tree.find(&mut |_| {})?;
        }
        let live: std::collections::HashSet<&PathBuf> = found.above.iter().map(|(dir, _)| dir).collect();
        let gone: Vec<(PathBuf, WatchId)> =
            self.above.iter().filter(|(dir, _)| !live.contains(dir)).map(|(d, w)| (d.clone(), *w)).collect();
        for (dir, watch) in gone {
            self.above.remove(&dir);
            if matches!(self.places.get(&watch), Some(Place::Above { dir: at, .. }) if **at == *dir) {
                self.places.remove(&watch);
                kernel.remove(watch);
            }
        }
        let accounts = found.accounts;
        let mut known: HashMap<Account, AccountId> = HashMap::new();
        for (&id, watched) in &self.accounts {
            known.insert((*watched.account).clone(), id);
        }
        for account in &accounts.found {
            if known.remove(account).is_none() {
                let id = self.next;
                self.next += 1;
                let account = Arc::new(account.clone());
                let folders = HashMap::new();
                let watched = Watched { account, folders, touched: BTreeSet::new(), all_touched: true, short: false };
                self.accounts.insert(id, watched);
                self.dirty.insert(id);
                synced.accounts_changed = true;
            }
        }
        for (account, id) in known {
            // What cannot be read now is not gone.
            let moved = accounts.presence(&account) == Presence::Present;
            if moved || accounts.presence(&account) == Presence::Gone {
                self.drop_account(kernel, id);
                synced.accounts_changed = true;
            }
        }
        Ok(synced)
    }

    fn drop_account(&mut self, kernel: &mut dyn Kernel, id: AccountId) {
        self.dirty.remove(&id);
        if let Some(watched) = self.accounts.remove(&id) {
            for watch in watched.folders.values().flat_map(|folder| folder.watches).flatten() {
                if matches!(self.places.get(&watch), Some(Place::Folder { account, .. }) if *account == id) {
                    self.places.remove(&watch);
                    kernel.remove(watch);
                }
            }
        }
    }

    /// Looks again at what was touched. Messages found in a folder that was not watched before are reported when `existing`.
    pub fn sync_folders(&mut self, kernel: &mut dyn Kernel, existing: bool, at_us: i64) -> Synced {
        let mut synced = Synced::default();
        for id in std::mem::take(&mut self.dirty) {
            self.sync_account(kernel, id, existing, at_us, &mut synced);
        }
        synced
    }

    fn sync_account(
        &mut self,
        kernel: &mut dyn Kernel,
        id: AccountId,
        existing: bool,
        at_us: i64,
        synced: &mut Synced,
    ) {
        let Some(watched) = self.accounts.get_mut(&id) else { return };
        let account = watched.account.clone();
        let all = std::mem::take(&mut watched.all_touched);
        let touched = std::mem::take(&mut watched.touched);
        let was_short = std::mem::take(&mut watched.short);
        // The root's own watch comes before the folders in it are listed, for the same reason as everywhere.
        let mut names = vec![Vec::new()];
        let mut done = BTreeSet::new();
        let mut first = true;
        while let Some(name) = names.pop() {
            if !done.insert(name.clone()) {
                continue;
            }
            let known = self.accounts.get(&id).is_some_and(|w| w.folders.contains_key(name.as_slice()));
            if all || !known || touched.contains(&name) {
                self.watch_folder(kernel, id, &account, &name, existing, at_us, synced);
                if self.accounts.get(&id).is_some_and(|watched| watched.short) {
                    return; // the next folder would fail as well
                }
            }
            if std::mem::take(&mut first) {
                let listed = open_root(&account.root).and_then(|root| folder_names(root, &account.root, &mut |_| {}));
                match listed {
                    Ok(listed) => names.extend(listed),
                    // Gone: the directory above tells. Its watches end by themselves.
                    Err(SourceError::Gone { .. }) => return,
                    Err(error) => return synced.doubt(Some(&account), error.to_string()),
                }
            }
        }
        let Some(watched) = self.accounts.get(&id) else { return };
        let stale: Vec<Arc<[u8]>> =
            watched.folders.keys().filter(|name| !done.contains(name.as_ref())).cloned().collect();
        for name in stale {
            let folder = self.accounts.get_mut(&id).and_then(|watched| watched.folders.remove(&name));
            self.release(kernel, id, &name, folder.unwrap_or_default().watches, &[None; 3]);
        }
        if was_short {
            synced.doubt(Some(&account), "is watched again; what changed meanwhile was not seen".to_owned());
        }
    }

    /// Gives back the watches in `old` that still stand for this folder and are not in `kept`.
    fn release(
        &mut self,
        kernel: &mut dyn Kernel,
        id: AccountId,
        folder: &[u8],
        old: [Option<WatchId>; 3],
        kept: &[Option<WatchId>; 3],
    ) {
        for watch in old.into_iter().flatten().filter(|watch| !kept.contains(&Some(*watch))) {
            let still = matches!(self.places.get(&watch),
                Some(Place::Folder { account, name, .. }) if *account == id && **name == *folder);
            if still {
                self.places.remove(&watch);
                kernel.remove(watch);
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "all of it belongs to one look at one folder")]
    fn watch_folder(
        &mut self,
        kernel: &mut dyn Kernel,
        id: AccountId,
        account: &Arc<Account>,
        name: &[u8],
        existing: bool,
        at_us: i64,
        synced: &mut Synced,
    ) {
        let dir: Arc<Path> = folder_dir(&account.root, name).into();
        let shared: Arc<[u8]> = name.into();
        let mut watches = [None; 3];
        let mut fresh = Vec::new();
        for (i, part) in PARTS.into_iter().enumerate() {
            let (path, role) = match part {
                Part::Dir => (dir.to_path_buf(), if name.is_empty() { Role::Root } else { Role::Folder }),
                Part::Cur => (dir.join("cur"), Role::Messages),
                Part::New => (dir.join("new"), Role::Messages),
            };
            match kernel.add(&path, role) {
                Ok(watch) => {
                    let place = Place::Folder { account: id, name: shared.clone(), dir: dir.clone(), part };
                    match self.places.get(&watch) {
                        Some(Place::Folder { account: other, .. }) if *other != id => {
                            if part == Part::Dir {
                                synced.doubt(Some(account), format!("{} is also another account's", path.display()));
                            }
                            continue;
                        }
                        Some(Place::Folder { .. }) => {}
                        _ if part != Part::Dir => fresh.push(part),
                        _ => {}
                    }
                    self.places.insert(watch, place);
                    watches[i] = Some(watch);
                }
                Err(error) if missing(&error) => {}
                Err(error) => {
                    synced.doubt(Some(account), cannot_watch(&path, &error));
                    if error.raw_os_error() == Some(libc::ENOSPC)
                        && let Some(watched) = self.accounts.get_mut(&id)
                    {
                        watched.short = true;
                    }
                    break;
                }
            }
        }
        let Some(watched) = self.accounts.get_mut(&id) else { return };
        let old = watched.folders.insert(shared, Folder { watches }).unwrap_or_default();
        self.release(kernel, id, name, old.watches, &watches);
        if existing {
            for part in fresh {
                list(account, &dir, part, at_us, &mut synced.appeared);
            }
        }
    }

    /// Accounts that lack watches, to be tried again.
    pub fn touch_short(&mut self) {
        self.touch_all(|watched| watched.short);
    }
}

/// The directory, or something on the way to it, is not there, or is something else.
fn missing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::ESTALE))
}

fn cannot_watch(dir: &Path, error: &io::Error) -> String {
    if error.raw_os_error() != Some(libc::ENOSPC) {
        return format!("cannot watch {}: {error}", dir.display());
    }
    let limit = max_user_watches().map_or(String::new(), |n| format!(", now {n}"));
    format!("cannot watch {}: the limit fs.inotify.max_user_watches is reached{limit}; raise it", dir.display())
}

/// How many inotify watches this user may have.
pub fn max_user_watches() -> Option<usize> {
    std::fs::read_to_string("/proc/sys/fs/inotify/max_user_watches").ok()?.trim().parse().ok()
}

/// What is in a directory that was not watched before.
fn list(account: &Arc<Account>, dir: &Arc<Path>, part: Part, at_us: i64, out: &mut Vec<Change>) {
    let in_new = part == Part::New;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // What cannot be read now, or is gone again, the folder's own listing will tell.
    let Ok(fd) = rustix::fs::open(dir.join(if in_new { "new" } else { "cur" }), flags, Mode::empty()) else { return };
    let before = out.len();
    let mut buffer = vec![std::mem::MaybeUninit::uninit(); 16 << 10];
    let read = each_name(std::os::fd::AsFd::as_fd(&fd), &mut buffer, |name, kind| {
        let message = matches!(kind, FileType::RegularFile | FileType::Unknown) && !name.starts_with(b".");
        if message && out.len() - before <= LISTED_MAX {
            out.push(Change::Message {
                account: account.clone(),
                folder_dir: dir.clone(),
                in_new,
                name: name.to_vec(),
                kind: MessageChange::Appeared,
                at_us,
            });
        }
    });
    if read.is_err() || out.len() - before > LISTED_MAX {
        out.truncate(before);
    }
}
