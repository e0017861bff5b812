//! SQLite: WAL, `synchronous=FULL`, one transaction a group, records in a table clustered by its key; one connection writes,
//! eight read.

use crate::CACHE;
use crate::keyed::{Group, Key, Kv};
use mailstrata_benches::Outcome;
use rusqlite::{Connection, OptionalExtension as _};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

pub struct Sqlite {
    write: Mutex<Connection>,
    read: Vec<Mutex<Connection>>,
}

impl Sqlite {
    pub fn open(dir: &Path) -> Outcome<Self> {
        let connect = |cache: usize| -> Outcome<Connection> {
            let c = Connection::open(dir.join("sqlite"))?;
            c.pragma_update(None, "journal_mode", "WAL")?;
            c.pragma_update(None, "synchronous", "FULL")?;
            c.pragma_update(None, "wal_autocheckpoint", 10_000)?;
            // Negative: KiB.
            c.pragma_update(None, "cache_size", -i64::try_from(cache >> 10)?)?;
            c.set_prepared_statement_cache_capacity(16);
            Ok(c)
        };
        let write = connect(CACHE / 2)?;
        write.execute_batch(
            "CREATE TABLE IF NOT EXISTS records (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
             CREATE TABLE IF NOT EXISTS bodies (digest BLOB PRIMARY KEY, value BLOB NOT NULL);",
        )?;
        let read = (0..8).map(|_| Ok(Mutex::new(connect(CACHE / 2)?))).collect::<Outcome<_>>()?;
        Ok(Self { write: Mutex::new(write), read })
    }

    fn reader(&self) -> MutexGuard<'_, Connection> {
        let free = self.read.iter().find_map(|r| r.try_lock().ok());
        free.unwrap_or_else(|| self.read[0].lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Kv for Sqlite {
    fn commit(&self, group: Group) -> Outcome {
        let mut connection = self.write.lock().unwrap_or_else(PoisonError::into_inner);
        let write = connection.transaction()?;
        {
            let mut body = write.prepare_cached("INSERT OR IGNORE INTO bodies VALUES (?1, ?2)")?;
            for (k, v) in &group.bodies {
                body.execute((&k[..], v))?;
            }
            let mut record = write.prepare_cached("INSERT INTO records VALUES (?1, ?2)")?;
            for (k, v) in &group.records {
                record.execute((&k[..], v))?;
            }
        }
        Ok(write.commit()?)
    }

    fn has_body(&self, digest: &[u8; 32]) -> Outcome<bool> {
        let reader = self.reader();
        let mut find = reader.prepare_cached("SELECT 1 FROM bodies WHERE digest = ?1")?;
        Ok(find.exists([&digest[..]])?)
    }

    fn seek(&self, from: &Key, see: &mut dyn FnMut(&[u8], &[u8])) -> Outcome {
        let reader = self.reader();
        let mut find = reader.prepare_cached("SELECT key, value FROM records WHERE key >= ?1 ORDER BY key LIMIT 1")?;
        let found = find.query_row([&from[..]], |row| {
            let blob = |i| Ok::<_, rusqlite::Error>(row.get_ref(i)?.as_blob()?);
            see(blob(0)?, blob(1)?);
            Ok(())
        });
        Ok(found.optional().map(|_| ())?)
    }
}
