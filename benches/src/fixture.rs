//! The store that the reading workloads share: mails in ten accounts, every fourth read by its owner later.

use crate::mail::{self, Corpus};
use crate::{Bench, Outcome, ingest};
use mailstrata_engine::{Create, Options, Store};
use std::path::PathBuf;

/// The store of `bench.scale.items` messages; made when it is not there yet.
pub fn store(bench: &Bench) -> Outcome<PathBuf> {
    let dir = bench.dir.join(format!("store-{}", bench.scale.items));
    let whole = dir.join("MANIFEST").exists() && dir.with_extension("whole").exists();
    if whole {
        return Ok(dir);
    }
    if dir.exists() {
        std::fs::remove_dir_all(&dir)?;
    }
    let options = Options::new()?;
    Store::create(&dir, &Create::default(), &options)?;
    let store = Store::open(&dir, &options)?;
    ingest::fill(&store, &Corpus::default(), 0..bench.scale.items)?;
    let mut batch = store.batch();
    let mut last = None;
    for n in (0..bench.scale.items).step_by(4) {
        batch.record(mail::seen(n));
        if batch.len() == 256 || n + 4 >= bench.scale.items {
            for ticket in batch.submit()? {
                last = Some(ticket?);
            }
        }
    }
    last.map_or(Ok(()), |t| t.wait().map(|_| ()))?;
    store.close()?;
    std::fs::write(dir.with_extension("whole"), b"")?;
    Ok(dir)
}
