//! The files of a store that are open for reading, and the caches in front of them.
//!
//! Descriptors are few (a bounded cache; running out of them empties it), index blocks and decompressed chunks are kept in
//! caches of a fixed size. Everything in the caches has been verified.

use crate::disk::{Disk, File, OpenMode};
use crate::error::{Error, Result};
use mailstrata_format::{FileName, StoreId};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

#[derive(Clone)]
struct ByLength;

impl<K, V: AsRef<[u8]> + ?Sized> Weighter<K, Arc<V>> for ByLength {
    fn weight(&self, _key: &K, value: &Arc<V>) -> u64 {
        (**value).as_ref().len() as u64 + 128
    }
}

/// A decompressed chunk.
pub struct Raw {
    /// Where it starts in the entry's raw bytes.
    pub offset: u64,
    /// Its length in the file.
    pub file_len: u64,
    pub bytes: Vec<u8>,
}

impl AsRef<[u8]> for Raw {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A cache of verified bytes, bounded by their sum.
pub struct ByteCache<K, V: AsRef<[u8]> + ?Sized = [u8]>(Cache<K, Arc<V>, ByLength>);

impl<K: Eq + std::hash::Hash + Clone, V: AsRef<[u8]> + ?Sized> ByteCache<K, V> {
    fn new(bytes: usize, item: usize) -> Self {
        Self(Cache::with_weighter((bytes / item).max(16), bytes.max(item * 4) as u64, ByLength))
    }

    /// What is kept under a key.
    pub fn get(&self, key: &K) -> Option<Arc<V>> {
        self.0.get(key)
    }

    /// Whether so many bytes more drive nothing out.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.0.weight() + bytes as u64 <= self.0.capacity()
    }

    /// Keeps bytes under a key.
    pub fn insert(&self, key: K, bytes: Arc<V>) {
        self.0.insert(key, bytes);
    }
}

/// Descriptors kept open at most.
const OPEN_MAX: usize = 48;

/// See the module's text.
pub struct Files {
    pub disk: Arc<dyn Disk>,
    pub dir: PathBuf,
    pub store: StoreId,
    /// Index blocks by file and number.
    pub blocks: ByteCache<(FileName, u64)>,
    /// Decompressed chunks by pack and offset.
    pub chunks: ByteCache<(u64, u64), Raw>,
    open: Cache<FileName, Arc<dyn File>>,
    /// Holds the lock in `READERS` that says which files may still be asked for, for as long as a view has these files.
    pub(crate) reading: OnceLock<Arc<dyn File>>,
}

impl Files {
    /// The files of the store in `dir`; `cache_bytes` is shared by the caches, two thirds for index blocks.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, dir: &Path, store: StoreId, cache_bytes: usize) -> Self {
        Self {
            disk,
            dir: dir.to_owned(),
            store,
            blocks: ByteCache::new(cache_bytes / 3 * 2, 4096),
            chunks: ByteCache::new(cache_bytes / 3, 256 << 10),
            open: Cache::new(OPEN_MAX),
            reading: OnceLock::new(),
        }
    }

    /// The path of a file.
    #[must_use]
    pub fn path(&self, name: FileName) -> PathBuf {
        self.dir.join(name.path())
    }

    /// A file, open for reading.
    pub fn get(&self, name: FileName) -> Result<Arc<dyn File>> {
        if let Some(found) = self.open.get(&name) {
            return Ok(found);
        }
        let path = self.path(name);
        let opened = match self.disk.open(&path, OpenMode::Read) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
                self.open.clear();
                self.disk.open(&path, OpenMode::Read)
            }
            other => other,
        };
        let file = opened.map_err(Error::io("opening", &path))?;
        self.open.insert(name, file.clone());
        Ok(file)
    }

    /// Forgets a file that was replaced.
    pub fn forget(&self, name: FileName) {
        self.open.remove(&name);
    }
}
