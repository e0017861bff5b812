//! What a workload asks of a store, and the stores there are.

use crate::keyed::{Grouped, Keyed};
use crate::ours;
use mailstrata_benches::Outcome;
use mailstrata_benches::loose::Loose;
use std::path::Path;

/// A new item.
pub struct Put<'a> {
    pub n: u64,
    /// When it happened, µs UTC.
    pub at: i64,
    pub body: Option<&'a [u8]>,
}

/// A store under the workloads; all calls come from many threads at once.
pub trait Subject: Send + Sync {
    /// New items, durable when it returns.
    fn put(&self, items: &[Put<'_>]) -> Outcome;
    /// Other flags for items that are there: each item's whole state is read and written again. Durable when it returns.
    fn update(&self, items: &[(u64, i64)]) -> Outcome;
    /// The state of an item as of a moment: when that state happened.
    fn as_of(&self, n: u64, at: i64) -> Outcome<i64>;
}

/// Keys of one process do not meet those of another.
fn first_number() -> u64 {
    u64::from(std::process::id()) << 32
}

/// The stores of this build, the engine first. What is not an ordered store takes part in some workloads only.
pub const NAMES: &[&str] = &[
    "mailstrata",
    #[cfg(feature = "rocksdb")]
    "rocksdb",
    #[cfg(feature = "fjall")]
    "fjall",
    #[cfg(feature = "fjall")]
    "fjall+group",
    #[cfg(feature = "heed")]
    "lmdb",
    #[cfg(feature = "heed")]
    "lmdb+group",
    #[cfg(feature = "redb")]
    "redb",
    #[cfg(feature = "redb")]
    "redb+group",
    #[cfg(feature = "rusqlite")]
    "sqlite",
    #[cfg(feature = "rusqlite")]
    "sqlite+group",
    #[cfg(feature = "okaywal")]
    "okaywal",
];
/// Takes part in `newitem` alone.
pub const LOOSE: &str = "loose-files";

/// Opens or creates a store.
pub fn open(name: &str, dir: &Path) -> Outcome<Box<dyn Subject>> {
    std::fs::create_dir_all(dir)?;
    let n = first_number();
    Ok(match name {
        "mailstrata" => Box::new(ours::Ours::open(dir)?),
        #[cfg(feature = "rocksdb")]
        "rocksdb" => Box::new(Keyed::new(crate::rocks::Rocks::open(dir)?, n)),
        #[cfg(feature = "fjall")]
        "fjall" => Box::new(Keyed::new(crate::trees::Trees::open(dir)?, n)),
        #[cfg(feature = "fjall")]
        "fjall+group" => Box::new(Keyed::new(Grouped::new(crate::trees::Trees::open(dir)?), n)),
        #[cfg(feature = "heed")]
        "lmdb" => Box::new(Keyed::new(crate::lmdb::Lmdb::open(dir)?, n)),
        #[cfg(feature = "heed")]
        "lmdb+group" => Box::new(Keyed::new(Grouped::new(crate::lmdb::Lmdb::open(dir)?), n)),
        #[cfg(feature = "redb")]
        "redb" => Box::new(Keyed::new(crate::redb_store::Redb::open(dir)?, n)),
        #[cfg(feature = "redb")]
        "redb+group" => Box::new(Keyed::new(Grouped::new(crate::redb_store::Redb::open(dir)?), n)),
        #[cfg(feature = "rusqlite")]
        "sqlite" => Box::new(Keyed::new(crate::sqlite::Sqlite::open(dir)?, n)),
        #[cfg(feature = "rusqlite")]
        "sqlite+group" => Box::new(Keyed::new(Grouped::new(crate::sqlite::Sqlite::open(dir)?), n)),
        #[cfg(feature = "okaywal")]
        "okaywal" => Box::new(Keyed::new(crate::wal::Wal::open(dir)?, n)),
        LOOSE => Box::new(LooseFiles(Loose::create(dir)?)),
        _ => return Err(format!("there is no peer {name} in this build").into()),
    })
}

struct LooseFiles(Loose);

impl Subject for LooseFiles {
    fn put(&self, items: &[Put<'_>]) -> Outcome {
        items.iter().try_for_each(|p| self.0.put(p.n, p.body.unwrap_or_default()))
    }

    fn update(&self, _: &[(u64, i64)]) -> Outcome {
        Err("loose files take part in newitem alone".into())
    }

    fn as_of(&self, _: u64, _: i64) -> Outcome<i64> {
        Err("loose files take part in newitem alone".into())
    }
}
