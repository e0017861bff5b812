//! redb: one write transaction a group, `Durability::Immediate`.

use crate::CACHE;
use crate::keyed::{Group, Key, Kv};
use mailstrata_benches::Outcome;
use redb::{Database, Durability, ReadableDatabase as _, TableDefinition};
use std::path::Path;

const RECORDS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("records");
const BODIES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("bodies");

pub struct Redb(Database);

impl Redb {
    pub fn open(dir: &Path) -> Outcome<Self> {
        let db = Self(Database::builder().set_cache_size(CACHE).create(dir.join("redb"))?);
        // Makes the tables.
        db.commit(Group::default())?;
        Ok(db)
    }
}

impl Kv for Redb {
    fn commit(&self, group: Group) -> Outcome {
        let mut write = self.0.begin_write()?;
        write.set_durability(Durability::Immediate)?;
        {
            let (mut records, mut bodies) = (write.open_table(RECORDS)?, write.open_table(BODIES)?);
            for (k, v) in &group.bodies {
                bodies.insert(&k[..], &v[..])?;
            }
            for (k, v) in &group.records {
                records.insert(&k[..], &v[..])?;
            }
        }
        Ok(write.commit()?)
    }

    fn has_body(&self, digest: &[u8; 32]) -> Outcome<bool> {
        Ok(self.0.begin_read()?.open_table(BODIES)?.get(&digest[..])?.is_some())
    }

    fn seek(&self, from: &Key, see: &mut dyn FnMut(&[u8], &[u8])) -> Outcome {
        let table = self.0.begin_read()?.open_table(RECORDS)?;
        if let Some(first) = table.range(&from[..]..)?.next() {
            let (key, value) = first?;
            see(key.value(), value.value());
        }
        Ok(())
    }
}
