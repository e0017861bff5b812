//! The redo log of a Zimbra (or Carbonio) mailbox server, read.
//!
//! In come log files: the live `redo.log`, archived ones, torn and damaged ones. Out go records with every field and the place
//! of their content, and which changes were committed. Rules:
//!
//! - The format has no record length and no checksum: the next record is found by parsing this one to its last byte, or by
//!   searching for the marker. So every operation has an exact parser, whether a backup needs it or not.
//! - A record carries its own version; what it has and how wide it is depends on that version, never on the file's.
//! - No length is trusted: it is held against the bytes that are there before anything is allocated, and a record's fields
//!   together against a bound. Content is never read by the parser; it is a place in the file, and is streamed from there.
//! - After bytes that are no record, a record counts only when a marker or the end of the file follows it: message bodies may
//!   hold whole records.
//! - Nothing is skipped silently: what was passed over, and why, is a step of the reading like a record.

pub mod input;

pub mod header;

pub mod record;

pub mod operation;

pub mod scan;

pub mod transaction;

pub mod files;

pub mod content;

pub mod show;

pub mod follow;

#[doc(hidden)]
pub mod hostile;

#[cfg(test)]
mod generator;

#[cfg(test)]
mod tests;

#[cfg(test)]
mod follow_tests;
