//! The store.

pub mod disk;
