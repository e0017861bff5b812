//! RocksDB: one synced write a group (it groups writers itself), pipelined writes, LZ4 blocks, a Bloom filter over account
//! and item, bodies as they are in blob files.

use crate::CACHE;
use crate::keyed::{Group, Key, Kv};
use mailstrata_benches::Outcome;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, Options, ReadOptions,
    SliceTransform, WriteBatch, WriteOptions,
};
use std::path::Path;

pub struct Rocks(DB);

impl Rocks {
    pub fn open(dir: &Path) -> Outcome<Self> {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&Cache::new_lru_cache(CACHE));
        table.set_bloom_filter(10.0, false);
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_enable_pipelined_write(true);
        options.increase_parallelism(2);
        let mut records = Options::default();
        records.set_block_based_table_factory(&table);
        records.set_prefix_extractor(SliceTransform::create_fixed_prefix(32));
        records.set_memtable_prefix_bloom_ratio(0.1);
        records.set_compression_type(DBCompressionType::Lz4);
        let mut bodies = Options::default();
        bodies.set_block_based_table_factory(&table);
        bodies.set_compression_type(DBCompressionType::None);
        bodies.set_enable_blob_files(true);
        bodies.set_min_blob_size(1024);
        let families = [ColumnFamilyDescriptor::new("records", records), ColumnFamilyDescriptor::new("bodies", bodies)];
        Ok(Self(DB::open_cf_descriptors(&options, dir, families)?))
    }

    fn family(&self, name: &str) -> Outcome<&ColumnFamily> {
        Ok(self.0.cf_handle(name).ok_or("a column family is missing")?)
    }
}

impl Kv for Rocks {
    fn commit(&self, group: Group) -> Outcome {
        let (records, bodies) = (self.family("records")?, self.family("bodies")?);
        let mut batch = WriteBatch::default();
        group.bodies.iter().for_each(|(k, v)| batch.put_cf(bodies, k, v));
        group.records.iter().for_each(|(k, v)| batch.put_cf(records, k, v));
        let mut durable = WriteOptions::default();
        durable.set_sync(true);
        Ok(self.0.write_opt(batch, &durable)?)
    }

    fn has_body(&self, digest: &[u8; 32]) -> Outcome<bool> {
        let bodies = self.family("bodies")?;
        Ok(self.0.key_may_exist_cf(bodies, digest) && self.0.get_pinned_cf(bodies, digest)?.is_some())
    }

    fn seek(&self, from: &Key, see: &mut dyn FnMut(&[u8], &[u8])) -> Outcome {
        let mut read = ReadOptions::default();
        read.set_prefix_same_as_start(true);
        let mut at = self.0.raw_iterator_cf_opt(self.family("records")?, read);
        at.seek(from);
        if let Some((key, value)) = at.item() {
            see(key, value);
        }
        Ok(at.status()?)
    }
}
