//! The log: segments on disk. [`walk`] reads one from its first group to its end and says what a restart may trust;
//! [`decide`] is the decision table behind it; [`pack_walk`] does the same for packs.

pub mod decide;

pub mod walk;

pub mod pack_walk;
