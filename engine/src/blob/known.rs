//! Where a digest is stored: the packs being written first, then the sealed ones, each behind its filter.

use crate::catalog::Catalog;
use crate::error::Result;
use crate::files::Files;
use mailstrata_format::Digest;
use mailstrata_format::index;
use mailstrata_format::pack::Extent;

/// The extent of a blob; `None` when no pack has it.
pub fn find(catalog: &Catalog, files: &Files, digest: &Digest) -> Result<Option<Extent>> {
    Ok(find_all(catalog, files, digest, 1)?.into_iter().next())
}

/// Up to `limit` extents of a blob, newest pack first: when one is damaged another may serve.
pub fn find_all(catalog: &Catalog, files: &Files, digest: &Digest, limit: usize) -> Result<Vec<Extent>> {
    let hash = index::key_hash(&digest.0);
    let mut found = Vec::new();
    for pack in catalog.packs.iter().rev() {
        found.extend(pack.find(files, digest, hash)?);
        if found.len() >= limit {
            break;
        }
    }
    Ok(found)
}
