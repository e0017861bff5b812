//! One record: its head, its fields by name, and where its content stands.
//!
//! Fields have the names that `redolog dump` shows; a field of a newer version is absent in an older record.

use crate::redolog::input::{Cursor, Fault, ReadAt};
use crate::redolog::operation;
use std::fmt;

/// ASCII that every record begins with.
pub const MARKER: &[u8; 6] = b"ZMREDO";

/// A format version; parts as they are in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    pub major: i16,
    pub minor: i16,
}

/// What every release since 8.7 writes. Newer records are not guessed at.
pub const NEWEST: Version = Version { major: 1, minor: 42 };

impl Version {
    /// At least 1.`minor`.
    pub fn has(self, minor: i16) -> bool {
        self >= Self { major: 1, minor }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A transaction, by the server's start and a counter from there. Ordered by start of the operation, not by commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionId {
    /// Seconds since 1970 UTC.
    pub time: i32,
    pub counter: i32,
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.time, self.counter)
    }
}

/// What precedes the fields of every operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub version: Version,
    pub code: i32,
    /// Milliseconds since 1970 UTC: the start of the change, the end for a commit or abort.
    pub time_ms: i64,
    /// The mailbox's modification sequence; -1: none.
    pub change: i32,
    pub constraint: i32,
    pub transaction: TransactionId,
    /// > 0 a mailbox, -1 all, 0 none.
    pub mailbox: i64,
}

/// Content in the file: raw, or a gzip stream when its length is not the size that the record gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub offset: u64,
    pub length: u64,
}

/// A field's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Text(String),
    List(Vec<Value>),
    Map(Vec<(&'static str, Value)>),
    Data(Extent),
}

impl Value {
    pub fn int(&self) -> Option<i64> {
        if let Self::Int(n) = self { Some(*n) } else { None }
    }

    pub fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// The elements; of anything else none.
    pub fn list(&self) -> &[Value] {
        if let Self::List(list) = self { list } else { &[] }
    }

    /// A field of a map.
    pub fn get(&self, name: &str) -> Option<&Value> {
        if let Self::Map(fields) = self { fields.iter().find(|(n, _)| *n == name).map(|(_, v)| v) } else { None }
    }
}

/// A record, as it stands in its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub offset: u64,
    /// Of the first byte behind it.
    pub end: u64,
    pub head: Head,
    pub fields: Vec<(&'static str, Value)>,
}

impl Record {
    /// The operation's name.
    pub fn name(&self) -> &'static str {
        operation::name(self.head.code).unwrap_or("unknown")
    }

    pub fn get(&self, name: &str) -> Option<&Value> {
        self.fields.iter().find(|(n, _)| *n == name).map(|(_, v)| v)
    }

    /// A whole number, absent in versions that do not have it.
    pub fn int(&self, name: &str) -> Option<i64> {
        self.get(name).and_then(Value::int)
    }

    /// A text; null and absent are the same here.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(Value::text)
    }

    /// Whether the record concerns a mailbox: its own, or one that a delivery to several is for.
    pub fn concerns(&self, mailbox: i64) -> bool {
        self.head.mailbox == mailbox
            || self.get("mailbox_ids").is_some_and(|ids| ids.list().iter().any(|id| id.int() == Some(mailbox)))
    }
}

/// What stands at a place where a record ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boundary {
    Marker,
    /// Of the file.
    End,
    /// The first bytes of a marker, then the end of the file.
    Torn,
    /// Something else.
    No,
}

/// What stands at a place.
pub fn boundary<R: ReadAt>(cursor: &mut Cursor<R>, at: u64) -> Result<Boundary, Fault> {
    let there = cursor.peek(at, MARKER.len())?;
    Ok(match there.len() {
        0 => Boundary::End,
        6 if there == MARKER => Boundary::Marker,
        n if n < 6 && MARKER.starts_with(there) => Boundary::Torn,
        _ => Boundary::No,
    })
}

/// Parses the record at a place. `live`: more bytes may come, so nothing is decided by the end of the file.
pub fn parse<R: ReadAt>(cursor: &mut Cursor<R>, offset: u64, live: bool) -> Result<Record, Fault> {
    cursor.seek(offset);
    let left = cursor.left();
    let there = cursor.peek(offset, MARKER.len())?;
    if !MARKER.starts_with(there) {
        return Err(Fault::Bad("no record marker"));
    }
    if left < MARKER.len() as u64 {
        return Err(Fault::Short);
    }
    cursor.bytes6()?;
    let version = Version { major: cursor.i16()?, minor: cursor.i16()? };
    if version.major < 0 || version.minor < 0 {
        return Err(Fault::Bad("a negative version"));
    }
    if version > NEWEST {
        return Err(Fault::Bad("a version newer than 1.42"));
    }
    let code = cursor.i32()?;
    if operation::name(code).is_none() {
        return Err(Fault::Bad("an operation code that does not exist"));
    }
    let head = Head {
        version,
        code,
        time_ms: cursor.i64()?,
        change: cursor.i32()?,
        constraint: cursor.i32()?,
        transaction: TransactionId { time: cursor.i32()?, counter: cursor.i32()? },
        mailbox: if version.has(26) { cursor.i64()? } else { i64::from(cursor.i32()?) },
    };
    let body = cursor.pos();
    let mut short = false;
    for variant in 0..operation::variants(code) {
        cursor.seek(body);
        match operation::fields(cursor, &head, variant) {
            Ok(fields) => {
                let end = cursor.pos();
                let record = Record { offset, end, head, fields };
                if operation::variants(code) == 1 {
                    return Ok(record);
                }
                // Layouts that only their length tells apart: the one that a marker or the end follows.
                match boundary(cursor, end)? {
                    Boundary::Marker => return Ok(record),
                    Boundary::End | Boundary::Torn if !live => return Ok(record),
                    Boundary::End | Boundary::Torn => short = true,
                    Boundary::No => {}
                }
            }
            Err(Fault::Short) => short = true,
            Err(Fault::Bad(_)) if variant + 1 < operation::variants(code) => {}
            Err(Fault::Bad(why)) if operation::variants(code) == 1 => return Err(Fault::Bad(why)),
            Err(Fault::Bad(_)) => {}
            Err(e) => return Err(e),
        }
    }
    Err(if short { Fault::Short } else { Fault::Bad("fields that fit none of the operation's layouts") })
}
