//! Many transactions share two syncs: the pack's, then the log's.
//!
//! ```text
//! record ─► append (short lock: LSN, place, copy) ─► batch ─┐ taken whole, greedily
//! blob   ─► append (short lock: place, copy) ─► pack buffer ─┴─► write packs, sync them (W1) ─► write group durably (W2)
//!                                                                                           └─► publish LSN, wake waiters
//! ```
//!
//! [`group`] is what waits for the next write; [`writer`] makes it durable, one group in flight at a time, on the writer
//! thread or, when nobody else is at it, on the caller's; [`upkeep`] seals files and readies the next segment meanwhile.

pub mod group;

pub mod writer;

pub mod upkeep;
