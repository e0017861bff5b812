//! A mailstore's report becomes one item's whole state: [`event`] → [`transaction`].

pub mod event;

pub mod transaction;
