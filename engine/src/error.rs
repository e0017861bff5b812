//! What can go wrong, in the words of the caller.

use mailstrata_format::{Damage, Lsn};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Result of the engine's operations.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an operation failed. Cheap to clone: one failure wakes many waiters.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("{doing} {}: {source}", .path.display())]
    Io { doing: &'static str, path: PathBuf, source: Arc<io::Error> },
    /// There is no store, or its superblock is not usable.
    #[error("{}: no store here ({why})", .path.display())]
    NoStore { path: PathBuf, why: &'static str },
    /// The directory holds something already.
    #[error("{}: not empty, a store is created in an empty directory only", .path.display())]
    NotEmpty { path: PathBuf },
    /// The store is of a format version this program does not know.
    #[error("{}: the store has format version {found}, this program knows version {known}", .path.display())]
    Version { path: PathBuf, found: u32, known: u32 },
    /// Another writer has the store.
    #[error("{}: in use by another writer: {by}", .path.display())]
    InUse { path: PathBuf, by: String },
    /// The store belongs to another server.
    #[error("{}: the store belongs to server {found}, not to {wanted}", .path.display())]
    Fenced { path: PathBuf, found: String, wanted: String },
    /// A write or sync failed; what reached the disk is unknown, so it is not tried again.
    #[error("the store takes no more writes until it is reopened: {0}")]
    Poisoned(Arc<Error>),
    /// Too little space is left to take new work.
    #[error("{}: {free} bytes free, less than the reserve of {reserve}: only deletions are taken", .path.display())]
    NearlyFull { path: PathBuf, free: u64, reserve: u64 },
    /// Bytes on disk are not what the format promises.
    #[error(transparent)]
    Damage(#[from] Damage),
    /// A patch or delete of an item that is absent or deleted.
    #[error("no such item: it is absent or deleted")]
    NoItem,
    /// The same source position came with other content.
    #[error("source position was recorded as LSN {0} with other content")]
    SourceConflict(Lsn),
    /// A transaction names a blob that is not stored.
    #[error("blob {0} is not stored")]
    NoBlob(mailstrata_format::Digest),
    /// Something is larger than the format takes.
    #[error("too large: {0}")]
    TooLarge(&'static str),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// A blob's source could not be read.
    #[error("reading the content: {0}")]
    Content(Arc<io::Error>),
}

impl Error {
    /// An I/O error with its place.
    pub fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { doing, path, source: Arc::new(source) }
    }

    /// Whether the cause is a device or quota without room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            Self::Io { source, .. } | Self::Content(source) => {
                matches!(source.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
            }
            Self::Poisoned(inner) => inner.is_full(),
            Self::NearlyFull { .. } => true,
            _ => false,
        }
    }

    /// A stable word for programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "io",
            Self::NoStore { .. } => "no-store",
            Self::NotEmpty { .. } => "not-empty",
            Self::Version { .. } => "version",
            Self::InUse { .. } => "in-use",
            Self::Fenced { .. } => "fenced",
            Self::Poisoned(_) => "poisoned",
            Self::NearlyFull { .. } => "nearly-full",
            Self::Damage(_) => "damage",
            Self::NoItem => "no-item",
            Self::SourceConflict(_) => "source-conflict",
            Self::NoBlob(_) => "no-blob",
            Self::TooLarge(_) => "too-large",
            Self::Closed => "closed",
            Self::Content(_) => "content",
        }
    }
}
