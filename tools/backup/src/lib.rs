//! What an administrator asks for, on top of the engine and the doors to mail servers.

pub mod lines;

pub mod append;

pub mod export;

pub mod resolve;

pub mod restore;

pub mod find;

pub mod diff;

pub mod scan;
