//! LMDB: one write transaction a group, synced as by default; a map of 64 GiB.

use crate::keyed::{Group, Key, Kv};
use heed::types::Bytes;
use heed::{Database, Env, EnvOpenOptions};
use mailstrata_benches::Outcome;
use std::path::Path;

pub struct Lmdb {
    env: Env,
    records: Database<Bytes, Bytes>,
    bodies: Database<Bytes, Bytes>,
}

impl Lmdb {
    pub fn open(dir: &Path) -> Outcome<Self> {
        let mut options = EnvOpenOptions::new();
        options.map_size(64 << 30).max_dbs(2).max_readers(512);
        // SAFETY: nobody else touches the files of this run, and they are on a local disk.
        let env = unsafe { options.open(dir)? };
        let mut write = env.write_txn()?;
        let records = env.create_database(&mut write, Some("records"))?;
        let bodies = env.create_database(&mut write, Some("bodies"))?;
        write.commit()?;
        Ok(Self { env, records, bodies })
    }
}

impl Kv for Lmdb {
    fn commit(&self, group: Group) -> Outcome {
        let mut write = self.env.write_txn()?;
        for (k, v) in &group.bodies {
            self.bodies.put(&mut write, k, v)?;
        }
        for (k, v) in &group.records {
            self.records.put(&mut write, k, v)?;
        }
        Ok(write.commit()?)
    }

    fn has_body(&self, digest: &[u8; 32]) -> Outcome<bool> {
        let read = self.env.read_txn()?;
        Ok(self.bodies.get(&read, digest)?.is_some())
    }

    fn seek(&self, from: &Key, see: &mut dyn FnMut(&[u8], &[u8])) -> Outcome {
        let read = self.env.read_txn()?;
        if let Some((key, value)) = self.records.get_greater_than_or_equal_to(&read, from)? {
            see(key, value);
        }
        Ok(())
    }
}
