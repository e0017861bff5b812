//! Maildir and Maildir++: one directory a folder, one file a message, flags in the file's name.

pub mod folder;

pub mod flags;

pub mod uidlist;

pub mod subscriptions;

pub mod marker;

mod accounts;

pub mod source;

pub mod watch;

pub mod target;

#[cfg(test)]
pub(crate) mod test_tree;
