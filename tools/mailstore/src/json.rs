//! Event and export lines: one JSON object a line, the schema of `format-spec/events.schema.json`.
//!
//! In come lines from [`lines::LineReader`], which [`parse::parse`] makes events of; out go events through
//! [`write::LineWriter`]. Rules:
//!
//! - **Absent, null and value are three things** ([`Field`]): a patch leaves what is absent, clears what is null.
//! - **Bytes are text with escapes.** Names of mail servers need not be UTF-8: a byte that is not goes out as `%XX`,
//!   and `%` as `%25`, in `account`, `item`, `folder`, `name`, `sender`, `tags`, `flags`, `source`, `role`, `path`, and
//!   in the keys and text values of `attributes`. On the way in `%` and two hex digits are that byte, and **any other
//!   `%` is itself**, because people write `100% sure`. So everything that went out comes back as it was.
//! - Attribute values that are not text (numbers, objects …) are kept as they were spelled, less the white space between
//!   tokens: `1.0` stays `1.0`. In them nothing is escaped. A null attribute is one that is not there.
//! - **What is not known is refused**, with a stable [`Code`] and the place: a field that nobody reads is a field that
//!   was misspelled. So are keys given twice. `lsn` and `recorded` are taken and mean nothing to `append`.
//! - A base64 blob stays text until it is read ([`Base64Text::reader`]); that it is base64 is checked with the line.

use std::borrow::Cow;
use std::fmt;
use std::io::Read;

use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::engine::{DecodePaddingMode, Engine as _};

pub mod lines;

pub mod parse;

pub mod write;

pub use lines::{Line, LineReader};
pub use parse::parse;
pub use write::{LineWriter, WriteError, write_line};

/// One event or export line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventLine<'a> {
    /// Address of the account, verbatim.
    pub account: Vec<u8>,
    pub account_id: Option<[u8; 16]>,
    /// Native id of the item, verbatim.
    pub item: Vec<u8>,
    pub kind: Kind,
    pub op: Op,
    /// µs UTC.
    pub at: Option<i64>,
    /// µs UTC: it happened between this and `at`.
    pub not_before: Option<i64>,
    pub state: StateLine,
    /// Null comes from `"blob":null` or `"blobs":null`.
    pub blobs: Field<Vec<BlobLine<'a>>>,
    pub source: Option<SourceLine>,
    /// `"content":"unseen"`: it existed and could not be read.
    pub content_unseen: bool,
    pub lsn: Option<u64>,
    pub recorded: Option<i64>,
}

impl EventLine<'_> {
    /// A line that says nothing beyond which item it is about.
    pub fn new(account: &[u8], item: &[u8], kind: Kind, op: Op) -> Self {
        Self {
            account: account.to_vec(),
            account_id: None,
            item: item.to_vec(),
            kind,
            op,
            at: None,
            not_before: None,
            state: StateLine::default(),
            blobs: Field::Absent,
            source: None,
            content_unseen: false,
            lsn: None,
            recorded: None,
        }
    }

    /// The same, independent of the line it was read from. Copies base64 text.
    pub fn into_owned(self) -> EventLine<'static> {
        let blobs = match self.blobs {
            Field::Absent => Field::Absent,
            Field::Null => Field::Null,
            Field::Value(blobs) => Field::Value(blobs.into_iter().map(BlobLine::into_owned).collect()),
        };
        EventLine {
            account: self.account,
            account_id: self.account_id,
            item: self.item,
            kind: self.kind,
            op: self.op,
            at: self.at,
            not_before: self.not_before,
            state: self.state,
            blobs,
            source: self.source,
            content_unseen: self.content_unseen,
            lsn: self.lsn,
            recorded: self.recorded,
        }
    }
}

/// What a line says about a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Field<T> {
    /// Not named: a patch leaves it.
    #[default]
    Absent,
    /// Named and null: a patch clears it.
    Null,
    Value(T),
}

impl<T> Field<T> {
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    /// The value, when there is one: what a whole state (`put`) makes of the field.
    pub fn value(self) -> Option<T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Absent | Self::Null => None,
        }
    }

    pub fn as_ref(&self) -> Field<&T> {
        match self {
            Self::Absent => Field::Absent,
            Self::Null => Field::Null,
            Self::Value(value) => Field::Value(value),
        }
    }
}

impl<T> From<Option<T>> for Field<T> {
    /// `None` is absent.
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Absent, Self::Value)
    }
}

/// The named fields of a state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StateLine {
    /// `/` between levels.
    pub folder: Field<Vec<u8>>,
    pub flags: Field<Vec<Vec<u8>>>,
    pub tags: Field<Vec<Vec<u8>>>,
    pub name: Field<Vec<u8>>,
    pub sender: Field<Vec<u8>>,
    /// µs UTC.
    pub date: Field<i64>,
    pub uid: Field<u64>,
    /// In the order of the line. A patch merges them by key.
    pub attributes: Field<Vec<(Vec<u8>, AttributeValue)>>,
}

impl StateLine {
    /// Whether nothing is named.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttributeValue {
    /// Not there; a patch removes it.
    Null,
    Text(Vec<u8>),
    /// A JSON value that is neither text nor null, without white space between tokens, else as it was spelled.
    Json(String),
}

/// Where an event came from: the same again is no new event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceLine {
    pub name: Vec<u8>,
    pub position: Vec<u8>,
}

/// A blob that a line names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobLine<'a> {
    /// `None` is the item's content.
    pub role: Option<Vec<u8>>,
    pub source: BlobSource<'a>,
    pub length: Option<u64>,
}

impl BlobLine<'_> {
    fn into_owned(self) -> BlobLine<'static> {
        let source = match self.source {
            BlobSource::Path(path) => BlobSource::Path(path),
            BlobSource::Base64(text) => BlobSource::Base64(Base64Text(Cow::Owned(text.0.into_owned()))),
            BlobSource::Digest(digest) => BlobSource::Digest(digest),
        };
        BlobLine { role: self.role, source, length: self.length }
    }
}

/// Where a blob's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlobSource<'a> {
    /// A file, relative to the directory of the lines.
    Path(Vec<u8>),
    /// In the line.
    Base64(Base64Text<'a>),
    /// Already stored, under this SHA-256.
    Digest([u8; 32]),
}

/// The standard alphabet; padding may be left out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Base64 text, known to be valid, borrowed from the line where it can be.
#[derive(Clone, PartialEq, Eq)]
pub struct Base64Text<'a>(Cow<'a, str>);

impl<'a> Base64Text<'a> {
    /// Checks `text` piece by piece; the bytes are not kept.
    pub fn new(text: Cow<'a, str>) -> Option<Self> {
        const PIECE: usize = 16 * 1024;
        let mut bytes = [0u8; PIECE / 4 * 3 + 3];
        let mut pieces = text.as_bytes().chunks(PIECE).peekable();
        while let Some(piece) = pieces.next() {
            // Padding is for the last piece only.
            if pieces.peek().is_some() && piece.last() == Some(&b'=') {
                return None;
            }
            BASE64.decode_slice(piece, &mut bytes).ok()?;
        }
        Some(Self(text))
    }

    /// Encodes `bytes`.
    pub fn encode(bytes: &[u8]) -> Base64Text<'static> {
        Base64Text(Cow::Owned(BASE64.encode(bytes)))
    }

    /// How many bytes it stands for.
    pub fn decoded_len(&self) -> u64 {
        let digits = self.0.trim_end_matches('=').len() as u64;
        digits / 4 * 3 + (digits % 4).saturating_sub(1)
    }

    /// The bytes, decoded while they are read.
    pub fn reader(&self) -> impl Read + '_ {
        base64::read::DecoderReader::new(self.0.as_bytes(), &BASE64)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Base64Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Base64Text({} bytes)", self.decoded_len())
    }
}

/// What an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Message,
    Folder,
    Contact,
    Group,
    Appointment,
    Task,
    Document,
    Tag,
    Account,
    List,
    Domain,
    Cos,
    Config,
    Other,
}

impl Kind {
    pub const ALL: [Kind; 14] = [
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

    /// The name in lines.
    pub fn name(self) -> &'static str {
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
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// What a line does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// The whole state.
    Put,
    /// Only the named fields change.
    Patch,
    Delete,
    /// Only in exports: the item could not be read, and this code says why.
    Damaged {
        code: String,
    },
}

impl Op {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::Damaged { .. } => "damaged",
        }
    }
}

/// Classes of errors in lines. The names are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    BadJson,
    BadField,
    MissingField,
    UnknownField,
    DuplicateField,
    BadTime,
    BadBase64,
    BadDigest,
    UnknownKind,
    UnknownOp,
    LineTooLong,
}

impl Code {
    pub fn name(self) -> &'static str {
        match self {
            Self::BadJson => "bad-json",
            Self::BadField => "bad-field",
            Self::MissingField => "missing-field",
            Self::UnknownField => "unknown-field",
            Self::DuplicateField => "duplicate-field",
            Self::BadTime => "bad-time",
            Self::BadBase64 => "bad-base64",
            Self::BadDigest => "bad-digest",
            Self::UnknownKind => "unknown-kind",
            Self::UnknownOp => "unknown-op",
            Self::LineTooLong => "line-too-long",
        }
    }
}

/// Why a line is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct LineError {
    pub code: Code,
    /// The field, such as `state.flags`; empty when it is the line.
    pub field: String,
    /// In bytes, from 1, where it is known.
    pub column: Option<usize>,
    pub message: String,
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)?;
        match self.column {
            Some(column) => write!(f, " (column {column})"),
            None => Ok(()),
        }
    }
}

/// Bytes as the text of a line, before JSON's own escapes.
pub fn percent_encode(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for (i, part) in chunk.valid().split('%').enumerate() {
            if i > 0 {
                out.push_str("%25");
            }
            out.push_str(part);
        }
        for byte in chunk.invalid() {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The bytes that text stands for.
pub fn percent_decode(text: &str) -> Vec<u8> {
    let mut rest = text.as_bytes();
    let mut out = Vec::with_capacity(rest.len());
    while let Some(at) = rest.iter().position(|&b| b == b'%') {
        let (before, tail) = rest.split_at(at);
        out.extend_from_slice(before);
        match (tail.get(1).and_then(hex_value), tail.get(2).and_then(hex_value)) {
            (Some(high), Some(low)) => {
                out.push(high << 4 | low);
                rest = tail.get(3..).unwrap_or_default();
            }
            _ => {
                out.push(b'%');
                rest = tail.get(1..).unwrap_or_default();
            }
        }
    }
    out.extend_from_slice(rest);
    out
}

pub(crate) fn hex_value(digit: &u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// Exactly `N` bytes from hexadecimal digits of either case.
pub(crate) fn unhex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    if text.len() != 2 * N {
        return None;
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        *byte = hex_value(pair.first()?)? << 4 | hex_value(pair.get(1)?)?;
    }
    Some(out)
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [b >> 4, b & 15]).map(|nibble| char::from(DIGITS[usize::from(nibble)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_is_decoded_only_before_two_hex_digits() {
        assert_eq!(percent_decode("100% sure"), b"100% sure");
        assert_eq!(percent_decode("%"), b"%");
        assert_eq!(percent_decode("%4"), b"%4");
        assert_eq!(percent_decode("%%41%zz%C3%bc%fF"), b"%A%zz\xc3\xbc\xff");
        assert_eq!(percent_decode("%%25"), b"%%");
        assert_eq!(percent_encode(b"100% \xff\xc3\xbc\xc3"), "100%25 %FFü%C3");
    }

    #[test]
    fn base64_is_checked_at_once_and_read_lazily() {
        for length in [0usize, 1, 2, 3, 4, 12_287, 12_288, 12_289, 50_000] {
            let bytes: Vec<u8> = (0..length).map(|i| (i * 7) as u8).collect();
            let text = Base64Text::encode(&bytes);
            let bare = text.as_str().trim_end_matches('=').to_owned();
            for text in [text.as_str().to_owned(), bare] {
                let text = Base64Text::new(text.into()).unwrap();
                assert_eq!(text.decoded_len(), length as u64);
                let mut out = Vec::new();
                text.reader().read_to_end(&mut out).unwrap();
                assert_eq!(out, bytes);
            }
        }
        for text in ["A", "A===", "AB=C", "A-_=", "QQ==QQ==", "QR==", "QQ\n==", "ü"] {
            assert!(Base64Text::new(text.into()).is_none(), "{text}");
        }
        let long = format!("{}==={}", "A".repeat(16 * 1024 - 3), "A".repeat(8));
        assert!(Base64Text::new(long.into()).is_none());
    }
}
