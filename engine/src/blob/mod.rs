//! Blobs: known already, or appended to a pack.
//!
//! Bytes go through the digest and, when nobody has them yet, into an entry ([`entry`]) that the writer appends to the
//! active pack; a very large one streams into a pack of its own ([`oversize`]). [`known`] answers whether a digest is
//! stored, [`read`] gives the bytes back, verified. Parts that several messages hold ([`parts`]) are stored once ([`compose`]).

pub mod known;

pub mod entry;

pub mod oversize;

pub mod read;

pub mod parts;

pub mod compose;
