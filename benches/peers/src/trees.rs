//! fjall: one batch a group with `PersistMode::SyncData`, bodies separated from their keys.

use crate::CACHE;
use crate::keyed::{Group, Key, Kv};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, PersistMode};
use mailstrata_benches::Outcome;
use std::path::Path;

pub struct Trees {
    db: Database,
    records: Keyspace,
    bodies: Keyspace,
}

impl Trees {
    pub fn open(dir: &Path) -> Outcome<Self> {
        let db = Database::builder(dir).cache_size(CACHE as u64).open()?;
        let records = db.keyspace("records", KeyspaceCreateOptions::default)?;
        let apart = || KeyspaceCreateOptions::default().with_kv_separation(Some(KvSeparationOptions::default()));
        let bodies = db.keyspace("bodies", apart)?;
        Ok(Self { db, records, bodies })
    }
}

impl Kv for Trees {
    fn commit(&self, group: Group) -> Outcome {
        let mut batch = self.db.batch().durability(Some(PersistMode::SyncData));
        group.bodies.into_iter().for_each(|(k, v)| batch.insert(&self.bodies, k, v));
        group.records.into_iter().for_each(|(k, v)| batch.insert(&self.records, k, v));
        Ok(batch.commit()?)
    }

    fn has_body(&self, digest: &[u8; 32]) -> Outcome<bool> {
        Ok(self.bodies.contains_key(digest)?)
    }

    fn seek(&self, from: &Key, see: &mut dyn FnMut(&[u8], &[u8])) -> Outcome {
        if let Some(first) = self.records.range::<&[u8], _>(&from[..]..).next() {
            let (key, value) = first.into_inner()?;
            see(&key, &value);
        }
        Ok(())
    }
}
