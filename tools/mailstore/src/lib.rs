//! The doors to mail servers.
//!
//! In come URLs that name a mail store, out go neutral types: what exists and what changed (*source*), and back goes what was
//! restored (*target*). Nothing here knows the engine; names, flags and addresses are bytes. A source reads and never writes.

pub mod url;

pub mod source;

pub mod header;

pub mod maildir;

pub mod target;

pub mod redolog;

pub mod mbox;

pub mod eml;

pub mod json;

pub mod time;
