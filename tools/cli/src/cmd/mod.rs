//! The commands, in the order of a store's life.

pub mod init;

pub mod append;

pub mod watch;

pub mod scan;

pub mod status;

pub mod accounts;

pub mod items;

pub mod log;

pub mod show;

pub mod cat;

pub mod find;

pub mod diff;

pub mod restore;

pub mod export;

pub mod import;

pub mod redolog;

pub mod info;

pub mod stats;

pub mod compact;

pub mod fsck;

pub mod demo;

pub mod completions;

pub mod man;

pub mod not_yet;
