//! What the follower needs from the kernel, whichever interface gives it.
//!
//! In come directories to watch, out come [`Raw`] events that name the watch and a file in it. A watch belongs to the directory
//! itself (its inode): it stays with it when the directory is renamed.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

/// A watched directory. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WatchId(pub u64);

/// What a directory is watched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Directories come and go. May be reached through a symlink.
    Above,
    /// An account's root: as a folder, but may be reached through a symlink.
    Root,
    /// Directories and a few files come and go.
    Folder,
    /// Messages come and go.
    Messages,
}

impl Role {
    /// Whether a symlink at the end of the path may stand for the directory.
    pub fn follows(self) -> bool {
        matches!(self, Self::Above | Self::Root)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Created,
    /// Closed after it was written.
    Closed,
    Deleted,
    MovedFrom,
    MovedTo,
    /// The watched directory itself was deleted, moved, or its file system unmounted.
    SelfGone,
    /// The watch is no more; its id will not be heard of again.
    Unwatched,
    /// Events were lost. The watch means nothing.
    Overflow,
}

#[derive(Debug, Clone)]
pub struct Raw {
    pub watch: WatchId,
    pub what: What,
    pub is_dir: bool,
    /// The same in both halves of a rename; 0 when they cannot be paired.
    pub cookie: u64,
    pub name: Vec<u8>,
}

/// A kernel interface that reports changes in directories.
pub trait Kernel: Send {
    fn name(&self) -> &'static str;

    /// Watches a directory; one that is watched already keeps its id. Whatever is not a directory is an error.
    fn add(&mut self, dir: &Path, role: Role) -> io::Result<WatchId>;

    fn remove(&mut self, watch: WatchId);

    /// Appends one read's worth of events; false when there were none.
    fn read(&mut self, events: &mut Vec<Raw>) -> io::Result<bool>;

    /// Readable when there are events.
    fn fd(&self) -> BorrowedFd<'_>;
}
