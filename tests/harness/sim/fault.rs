//! What goes wrong, and when.

/// Operations, as faults and counts tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OpKind {
    Open,
    Create,
    Read,
    Write,
    WriteDurable,
    Sync,
    Len,
    SetLen,
    Allocate,
    Lock,
    List,
    CreateDir,
    Rename,
    Remove,
    SyncDir,
    FreeSpace,
    Queue,
    Submit,
    Wait,
}

impl OpKind {
    /// Whether it changes the disk.
    #[must_use]
    pub const fn changes(self) -> bool {
        matches!(
            self,
            Self::Create
                | Self::Write
                | Self::WriteDurable
                | Self::Sync
                | Self::SetLen
                | Self::Allocate
                | Self::CreateDir
                | Self::Rename
                | Self::Remove
                | Self::SyncDir
        )
    }
}

/// Which operations a fault counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    Any,
    /// Those that change the disk.
    Changes,
    Kind(OpKind),
}

impl Which {
    /// Whether an operation counts.
    #[must_use]
    pub fn counts(self, kind: OpKind) -> bool {
        match self {
            Self::Any => true,
            Self::Changes => kind.changes(),
            Self::Kind(k) => k == kind,
        }
    }
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The operation fails with this errno. With EIO a change may have happened nevertheless, a write in part; a sync
    /// that fails drops what was dirty.
    Error(i32),
    /// A read or write does only a part.
    Short,
    /// A sync fails with EIO and drops what was dirty; those after it succeed.
    FsyncGate,
    /// The power goes before the operation.
    PowerCut,
    /// A write or sync is reported as done, and was not.
    Lose,
    /// A write lands this many bytes further on.
    Misdirect(u64),
}

/// One thing that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    pub which: Which,
    /// The first to be hit, from 1, counted from the moment the fault was planned.
    pub nth: u64,
    /// How many are hit one after the other; `u64::MAX`: all from there on.
    pub times: u64,
    pub effect: Effect,
}

impl Fault {
    /// The `nth` operation fails once.
    #[must_use]
    pub const fn once(which: Which, nth: u64, effect: Effect) -> Self {
        Self { which, nth, times: 1, effect }
    }

    /// The `nth` operation and all that follow fail.
    #[must_use]
    pub const fn from_then_on(which: Which, nth: u64, effect: Effect) -> Self {
        Self { which, nth, times: u64::MAX, effect }
    }
}

/// Small nuisances that any kernel may cause: once in so many operations, 0 for never.
#[derive(Debug, Clone, Copy, Default)]
pub struct Noise {
    pub short_read: u32,
    pub short_write: u32,
    /// EINTR or EAGAIN of a read or write.
    pub interrupted: u32,
}
