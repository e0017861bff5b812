//! What a check says: findings with their place, what they hit by name, and what repair would do; bytes by class.
//!
//! Passes make [`Draft`]s: a finding, and what it hit as far as the damaged place itself says (index rows, digests). The last
//! pass turns these into [`Hit`]s with the names that other frames know.

use mailstrata_format::index::Row;
use mailstrata_format::{AccountId, DamageKind, Digest, ItemKey, NoteKind};

/// Whether a finding is damage (exit code 13) or only told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Damage,
    Note,
}

impl Severity {
    /// The word in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Damage => "damage",
            Self::Note => "note",
        }
    }
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Damage(DamageKind),
    Note(NoteKind),
}

impl Kind {
    /// The stable code.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Damage(k) => k.code(),
            Self::Note(k) => k.code(),
        }
    }

    /// A sentence for people.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Damage(k) => k.text(),
            Self::Note(k) => k.text(),
        }
    }
}

impl From<DamageKind> for Kind {
    fn from(k: DamageKind) -> Self {
        Self::Damage(k)
    }
}

impl From<NoteKind> for Kind {
    fn from(k: NoteKind) -> Self {
        Self::Note(k)
    }
}

/// What repair would do about a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// Nothing: it harms nobody, or the next writer does it.
    Nothing,
    /// The superblock is written again from the copy that is good.
    RewriteSuperblock,
    /// The manifest is built again from the files.
    RebuildManifest,
    /// The index is built again from the content.
    RebuildIndex,
    /// The file goes to `quarantine/`; what verifies in it is written to a new one.
    Rewrite,
    /// The file goes to `quarantine/`.
    SetAside,
    /// The file gets the name that its header has.
    Rename,
    /// What is missing is nowhere: a scan of the mail server may still find it.
    Lost,
}

impl Repair {
    /// The stable word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::RewriteSuperblock => "rewrite-superblock",
            Self::RebuildManifest => "rebuild-manifest",
            Self::RebuildIndex => "rebuild-index",
            Self::Rewrite => "rewrite",
            Self::SetAside => "set-aside",
            Self::Rename => "rename",
            Self::Lost => "lost",
        }
    }
}

/// A state of an item that a finding hit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    pub account: AccountId,
    /// As other states of the account give it.
    pub address: Option<Vec<u8>>,
    pub item: ItemKey,
    /// As other states of the item give it.
    pub native: Option<Vec<u8>>,
    /// Item kind (code).
    pub item_kind: u8,
    pub lsn: u64,
    /// From when on the state counts, µs UTC.
    pub moment: i64,
    /// The blob of the state that is hit; `None`: the state itself.
    pub blob: Option<Digest>,
    /// Whether what names it verifies. If not, it was read from the damaged place.
    pub certain: bool,
}

/// See the module's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub severity: Severity,
    pub kind: Kind,
    /// Path below the store's directory.
    pub path: String,
    /// From the start of the file, in bytes.
    pub offset: u64,
    /// Bytes concerned; 0 when it is not a stretch of bytes.
    pub length: u64,
    /// What exactly, for people; may be empty.
    pub detail: String,
    pub repair: Repair,
    /// LSNs that are not readable because of it, first and last.
    pub lsns: Option<(u64, u64)>,
    /// What it hit, [`HITS_MAX`] at most.
    pub hits: Vec<Hit>,
    /// All that it hit, those that are not listed included.
    pub hit_count: u64,
}

/// Hits that are listed with a finding.
pub const HITS_MAX: usize = 1000;

/// Findings that are kept; what comes on top is only counted.
pub const FINDINGS_MAX: usize = 20_000;

/// A finding under way.
#[derive(Debug, Clone)]
pub struct Draft {
    pub finding: Finding,
    /// States that it hit, and whether what says so verifies.
    pub rows: Vec<(Row, bool)>,
    /// Blobs that it hit.
    pub digests: Vec<[u8; 32]>,
    /// Address and native id that the damaged place gives for its item, whose key they match.
    pub names: Option<(Vec<u8>, Vec<u8>)>,
}

impl Draft {
    /// A finding at a place.
    pub fn new(kind: impl Into<Kind>, path: &str, offset: u64, length: u64, repair: Repair) -> Self {
        let kind = kind.into();
        let severity = match kind {
            Kind::Damage(_) => Severity::Damage,
            Kind::Note(_) => Severity::Note,
        };
        let finding = Finding {
            severity,
            kind,
            path: path.to_owned(),
            offset,
            length,
            detail: String::new(),
            repair,
            lsns: None,
            hits: Vec::new(),
            hit_count: 0,
        };
        Self { finding, rows: Vec::new(), digests: Vec::new(), names: None }
    }

    /// Adds what exactly.
    #[must_use]
    pub fn because(mut self, detail: impl Into<String>) -> Self {
        self.finding.detail = detail.into();
        self
    }

    /// Whether a place lies in the stretch of bytes concerned.
    #[must_use]
    pub fn covers(&self, offset: u64) -> bool {
        offset >= self.finding.offset && offset - self.finding.offset < self.finding.length
    }
}

/// Bytes by class; they add up to the sizes of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bytes {
    /// File headers, superblock.
    pub header: u64,
    /// Groups with their frames, pack entries, the manifest's body: all that verifies.
    pub content: u64,
    /// Zeros between them.
    pub padding: u64,
    /// Zeros behind the content.
    pub zeros: u64,
    /// Footers, checkpoints.
    pub index: u64,
    /// What is none of these: damaged, torn, foreign.
    pub unknown: u64,
    /// `LOCK`, `READERS`, temporary files, `quarantine/`.
    pub other: u64,
}

impl Bytes {
    /// All.
    #[must_use]
    pub const fn sum(&self) -> u64 {
        self.header + self.content + self.padding + self.zeros + self.index + self.unknown + self.other
    }

    /// Adds those of another file.
    pub fn add(&mut self, b: &Self) {
        self.header += b.header;
        self.content += b.content;
        self.padding += b.padding;
        self.zeros += b.zeros;
        self.index += b.index;
        self.unknown += b.unknown;
        self.other += b.other;
    }
}

/// A whole check's outcome.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// By severity, path and offset.
    pub findings: Vec<Finding>,
    /// Findings beyond [`FINDINGS_MAX`].
    pub left_off: u64,
    pub damage: u64,
    pub notes: u64,
    /// The store's id.
    pub store: [u8; 16],
    /// Each file and its bytes by class, in the order of their paths.
    pub files: Vec<(String, u64, Bytes)>,
    pub bytes: Bytes,
    pub groups: u64,
    pub frames: u64,
    pub entries: u64,
    /// Rows of entries.
    pub blobs: u64,
    /// Uncompressed bytes that were hashed.
    pub hashed: u64,
    /// Blobs that no transaction names; counted when all was looked at.
    pub orphans: u64,
    pub last_lsn: u64,
    /// Rounds over the log and the trailers that the bound of memory made necessary.
    pub rounds: u64,
    /// Packs that an earlier run had read.
    pub resumed: u64,
    /// What `LOCK` says, when it is there.
    pub writer: Option<String>,
}

impl Report {
    /// Whether there is no damage.
    #[must_use]
    pub const fn sound(&self) -> bool {
        self.damage == 0
    }
}
