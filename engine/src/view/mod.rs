//! The store as of one LSN or moment, held while it is read.
//!
//! A [`as_of::View`] is a catalog and an LSN: what is recorded later, and files that are sealed or replaced meanwhile, do
//! not disturb it (P8). [`read`] turns index rows into verified transactions, [`ahead`] has the device fetch them before they
//! are asked for, [`log`] walks all of them in LSN order, [`scan`] in the order in which they lie.

pub mod read;

pub mod as_of;

pub mod log;

pub mod ahead;

pub mod scan;
