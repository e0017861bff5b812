//! Record types. Released ones are frozen; a change is a new module.

pub mod v1;

/// What an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ItemKind {
    Message = 1,
    Folder = 2,
    Contact = 3,
    Group = 4,
    Appointment = 5,
    Task = 6,
    Document = 7,
    Tag = 8,
    Account = 9,
    List = 10,
    Domain = 11,
    Cos = 12,
    Config = 13,
    Other = 14,
    /// A scanner's mark; in no view.
    Cursor = 255,
}

impl ItemKind {
    /// All kinds that a mailbox may hold, in the order of their codes.
    pub const ALL: [ItemKind; 14] = [
        Self::Message,
        Self::Folder,
        Self::Contact,
        Self::Group,
        Self::Appointment,
        Self::Task,
        Self::Document,
        Self::Tag,
        Self::Account,
        Self::List,
        Self::Domain,
        Self::Cos,
        Self::Config,
        Self::Other,
    ];

    /// The code on disk.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The kind with this code.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.code() == code).or((code == 255).then_some(Self::Cursor))
    }

    /// The name in event lines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Folder => "folder",
            Self::Contact => "contact",
            Self::Group => "group",
            Self::Appointment => "appointment",
            Self::Task => "task",
            Self::Document => "document",
            Self::Tag => "tag",
            Self::Account => "account",
            Self::List => "list",
            Self::Domain => "domain",
            Self::Cos => "cos",
            Self::Config => "config",
            Self::Other => "other",
            Self::Cursor => "cursor",
        }
    }

    /// The kind with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.name() == name)
    }
}

/// What happened to an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Operation {
    /// A whole state was given.
    Put = 1,
    /// Some fields were given; the record holds the whole state that resulted.
    Patch = 2,
    /// The item went; the record keeps its last state.
    Delete = 3,
}

impl Operation {
    /// The code on disk.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The operation with this code.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Put),
            2 => Some(Self::Patch),
            3 => Some(Self::Delete),
            _ => None,
        }
    }

    /// The name in event lines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Patch => "patch",
            Self::Delete => "delete",
        }
    }
}
