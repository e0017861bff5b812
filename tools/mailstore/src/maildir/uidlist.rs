//! `dovecot-uidlist`: which UID each message has, and the folder's own identity.
//!
//! In comes the file, out go the folder's UIDVALIDITY, next UID and mailbox GUID, and a UID for each base name. Version 3 is
//! `3 V1280254347 N5 G3f2a…` and then lines `4 W580 G77c1… :1795308110.M9P4.vm,S=554`; version 1, `1 1280254347 5` and lines
//! `4 1795308110.M9P4.vm`. Rules:
//!
//! - The file is the server's: what is not understood is skipped, a missing file is no UIDs. It is written after the message
//!   files, so a message without a line is normal and not an error.
//! - Lines are appended; of two lines for one message the last holds.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::flags::name_parts;
use crate::source::FolderIdentity;

/// The file's name.
pub const UIDLIST_FILE: &str = "dovecot-uidlist";

/// Some two million messages. A longer file is cut, and the messages beyond have no UID here.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// Enough for any header line.
const HEADER_BYTES_MAX: u64 = 1024;

/// A message's line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uid {
    pub uid: u64,
    /// The object id, where it is not the base name (a copy whose name was taken).
    pub guid: Option<Vec<u8>>,
}

/// A whole file.
#[derive(Debug, Clone, Default)]
pub struct UidList {
    pub identity: Option<FolderIdentity>,
    by_base: HashMap<Box<[u8]>, Uid>,
}

impl UidList {
    /// Reads the file of the folder `name` below `at` (empty: `at` itself).
    pub fn read(at: impl AsFd, name: &[u8]) -> io::Result<Self> {
        Ok(read(at, name, FILE_BYTES_MAX)?.map_or_else(Self::default, |text| Self::parse(&text)))
    }

    /// Takes a file's content apart.
    pub fn parse(text: &[u8]) -> Self {
        let mut lines = text.split(|&b| b == b'\n');
        let Some((identity, version)) = lines.next().and_then(header) else { return Self::default() };
        let by_base = lines.filter_map(|line| message(line, version)).collect();
        Self { identity: Some(identity), by_base }
    }

    /// The line for a base name.
    pub fn get(&self, base: &[u8]) -> Option<&Uid> {
        self.by_base.get(base)
    }

    /// How many messages have a UID.
    pub fn len(&self) -> usize {
        self.by_base.len()
    }

    /// Whether no message has one.
    pub fn is_empty(&self) -> bool {
        self.by_base.is_empty()
    }
}

/// Only the folder's identity: reads one line.
pub fn read_identity(at: impl AsFd, name: &[u8]) -> io::Result<Option<FolderIdentity>> {
    let text = read(at, name, HEADER_BYTES_MAX)?;
    Ok(text.and_then(|text| header(text.split(|&b| b == b'\n').next()?)).map(|(identity, _)| identity))
}

fn read(at: impl AsFd, name: &[u8], limit: u64) -> io::Result<Option<Vec<u8>>> {
    let mut path = name.to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(UIDLIST_FILE.as_bytes());
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::openat(at, path, flags, Mode::empty()) {
        Ok(fd) => {
            let mut text = Vec::new();
            File::from(fd).take(limit).read_to_end(&mut text)?;
            Ok(Some(text))
        }
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn header(line: &[u8]) -> Option<(FolderIdentity, u64)> {
    let mut words = line.trim_ascii_end().split(|&b| b == b' ').filter(|word| !word.is_empty());
    let version = number(words.next()?)?;
    let mut identity = FolderIdentity::default();
    if version == 1 {
        identity.uid_validity = number(words.next()?)?;
        identity.uid_next = words.next().and_then(number).unwrap_or(0);
    } else {
        for word in words {
            match word.split_first() {
                Some((b'V', value)) => identity.uid_validity = number(value)?,
                Some((b'N', value)) => identity.uid_next = number(value).unwrap_or(0),
                Some((b'G', value)) if !value.is_empty() => identity.guid = Some(value.to_vec()),
                _ => {}
            }
        }
    }
    // UIDVALIDITY is never 0 (RFC 3501); without it the UIDs mean nothing.
    (identity.uid_validity != 0).then_some((identity, version))
}

fn message(line: &[u8], version: u64) -> Option<(Box<[u8]>, Uid)> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let space = line.iter().position(|&b| b == b' ')?;
    let (digits, rest) = line.split_at(space);
    let mut uid = Uid { uid: number(digits)?, guid: None };
    let name = if version == 1 {
        rest.get(1..)?
    } else {
        // ` :` ends the extensions; a name may hold a colon of its own, an extension holds none.
        let colon = rest.windows(2).position(|pair| pair == b" :")?;
        for word in rest.get(..colon)?.split(|&b| b == b' ') {
            if let Some((b'G', guid)) = word.split_first() {
                uid.guid = Some(guid.to_vec());
            }
        }
        rest.get(colon + 2..)?
    };
    let base = name_parts(name).base;
    (!base.is_empty()).then(|| (base.into(), uid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_3_gives_uids_and_the_folders_identity() {
        let list = UidList::parse(
            b"3 V1280254347 N7 G3f2a9c00aabbccdd\n1 :1.a,S=5\n3 W580 S554 :2.b,S=554,W=580:2,S\n4 G77c1 :3.c\n6 :\xff\xfe\n",
        );
        let identity = list.identity.clone().unwrap();
        assert_eq!((identity.uid_validity, identity.uid_next), (1280254347, 7));
        assert_eq!(identity.guid.as_deref(), Some(&b"3f2a9c00aabbccdd"[..]));
        assert_eq!(list.get(b"1.a,S=5").unwrap().uid, 1);
        assert_eq!(list.get(b"2.b,S=554,W=580").unwrap().uid, 3);
        assert_eq!(list.get(b"3.c").unwrap(), &Uid { uid: 4, guid: Some(b"77c1".to_vec()) });
        assert_eq!(list.get(b"\xff\xfe").unwrap().uid, 6);
        assert_eq!(list.len(), 4);
    }

    #[test]
    fn version_1_is_read_too() {
        let list = UidList::parse(b"1 1280254347 5\n1 1.a:2,S\n4 2.b\n");
        assert_eq!(list.identity.as_ref().unwrap().uid_next, 5);
        assert_eq!(list.get(b"1.a").unwrap().uid, 1);
        assert_eq!(list.get(b"2.b").unwrap().uid, 4);
    }

    #[test]
    fn what_is_not_understood_is_skipped() {
        let list = UidList::parse(
            b"3 V5 N9 Xnew\n\nfoo\n2\n3 \n-4 :x\n99999999999999999999999 :y\n5 :\n6 :ok\n7 :ok\n8 no-colon",
        );
        assert_eq!(list.len(), 1);
        assert_eq!(list.get(b"ok").unwrap().uid, 7);
        for text in [&b""[..], b"\0\0\0", b"3\n1 :a\n", b"3 V0 N1\n1 :a\n", b"hello\n1 :a\n"] {
            assert!(UidList::parse(text).is_empty() && UidList::parse(text).identity.is_none(), "{text:?}");
        }
    }
}
