//! The store: every version of every item of every mailbox, in an append-only log beside a content-addressed blob pack.
//!
//! Usable as a library by a mail server's own code:
//!
//! | | waits for the disk | reads | writes |
//! | --- | --- | --- | --- |
//! | [`Store::create`], [`Store::open`], [`Store::close`] | yes | | yes |
//! | [`Store::record`] | yes, shared with others | | yes |
//! | [`Store::submit`], [`Store::batch`], [`Store::put_blob`] | when too much waits | | yes |
//! | [`Store::compact_now`] | yes | yes | yes |
//! | [`Store::view`], [`Store::open_read`], [`Store::tail`] | no | yes | |
//!
//! Modules stand in the order in which data meets them.

pub mod store;

pub mod error;

pub mod ingest;

pub mod blob;

pub mod log;

pub mod commit;

pub mod index;

pub mod view;

pub mod tail;

pub mod runs;

pub mod open;

pub mod compact;

pub mod catalog;

pub mod files;

pub mod check;

pub mod disk;

pub use compact::Compacted;
pub use error::{Error, Result};
pub use ingest::event::{Blob, Change, Event, Patch, Source, State, Transaction, Value};
pub use store::{Batch, Create, Info, Options, Reader, Receipt, Store, Ticket};
pub use tail::Tail;
pub use view::as_of::{Hit, LogEntry, View};
pub use view::scan::Scanned;
