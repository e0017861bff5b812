//! okaywal: one entry a group; it groups writers itself. A log only: nothing is found again, so it takes part in `commit`.

use crate::keyed::{Group, Key, Kv};
use mailstrata_benches::Outcome;
use okaywal::{Configuration, Entry, EntryId, LogManager, SegmentReader, WriteAheadLog};
use std::io;
use std::path::Path;

pub struct Wal(WriteAheadLog);

#[derive(Debug)]
struct Forgetful;

impl LogManager for Forgetful {
    fn recover(&mut self, _: &mut Entry<'_>) -> io::Result<()> {
        Ok(())
    }

    fn checkpoint_to(&mut self, _: EntryId, _: &mut SegmentReader, _: &WriteAheadLog) -> io::Result<()> {
        Ok(())
    }
}

impl Wal {
    pub fn open(dir: &Path) -> Outcome<Self> {
        let configuration =
            Configuration::default_for(dir).preallocate_bytes(64 << 20).checkpoint_after_bytes(48 << 20);
        Ok(Self(configuration.open(Forgetful)?))
    }
}

impl Kv for Wal {
    fn commit(&self, group: Group) -> Outcome {
        let mut entry = self.0.begin_entry()?;
        for (_, body) in &group.bodies {
            entry.write_chunk(body)?;
        }
        for (key, value) in &group.records {
            entry.write_chunk(&[&key[..], value].concat())?;
        }
        entry.commit()?;
        Ok(())
    }

    fn has_body(&self, _: &[u8; 32]) -> Outcome<bool> {
        Ok(false)
    }

    fn seek(&self, _: &Key, _: &mut dyn FnMut(&[u8], &[u8])) -> Outcome {
        Err("a log finds nothing".into())
    }
}
