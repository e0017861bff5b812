//! A log file's header: 512 bytes at its start, rewritten in place by the server.

use crate::redolog::input::{Fault, ReadAt, read_exact_at};
use crate::redolog::record::{NEWEST, Version};
use std::io;

/// Where the first record stands.
pub const HEADER_LEN: u64 = 512;

/// What a file says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileHeader {
    /// In use, or left by a server that died.
    pub open: bool,
    /// Set at close; stale or 0 while open.
    pub file_size: i64,
    pub sequence: i64,
    /// The server's directory id.
    pub server_id: String,
    /// Milliseconds since 1970 UTC; 0: no record was logged.
    pub first_op_ms: i64,
    /// Milliseconds since 1970 UTC; true only after a clean close.
    pub last_op_ms: i64,
    pub version: Version,
    /// Milliseconds since 1970 UTC.
    pub created_ms: i64,
}

/// Why a file is not read.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    #[error("not a redo log: {0}")]
    NotRedoLog(&'static str),
    #[error("the file is of version {0}, the newest known is {NEWEST}")]
    TooNew(Version),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl FileHeader {
    /// Reads the header of a file.
    pub fn read(from: &impl ReadAt) -> Result<Self, HeaderError> {
        let bytes: [u8; 512] = read_exact_at(from, 0).map_err(|fault| match fault {
            Fault::Io(e) => HeaderError::Io(e),
            Fault::Short | Fault::Bad(_) => HeaderError::NotRedoLog("it is shorter than a header"),
        })?;
        let field = |at: usize, n: usize| bytes.get(at..at + n).unwrap_or_default();
        let long = |at: usize| field(at, 8).try_into().map(i64::from_be_bytes).unwrap_or_default();
        let short = |at: usize| field(at, 2).try_into().map(i16::from_be_bytes).unwrap_or_default();
        if field(0, 7) != b"ZM_REDO" {
            return Err(HeaderError::NotRedoLog("it does not begin with ZM_REDO"));
        }
        let id_len = usize::from(bytes[24]);
        if id_len > 127 {
            return Err(HeaderError::NotRedoLog("the server id is longer than its field"));
        }
        let server_id = std::str::from_utf8(field(25, id_len))
            .map_err(|_| HeaderError::NotRedoLog("the server id is not UTF-8"))?
            .to_owned();
        let version = match (short(168), short(170)) {
            // Files from before versions were written.
            (0, 0) => Version { major: 1, minor: 0 },
            (major, minor) => Version { major, minor },
        };
        if version.major < 0 || version.minor < 0 {
            return Err(HeaderError::NotRedoLog("its version is negative"));
        }
        if version > NEWEST {
            return Err(HeaderError::TooNew(version));
        }
        Ok(Self {
            open: bytes[7] != 0,
            file_size: long(8),
            sequence: long(16),
            server_id,
            first_op_ms: long(152),
            last_op_ms: long(160),
            version,
            created_ms: long(172),
        })
    }
}
