//! Where a digest is stored: the packs being written first, then the sealed ones, each behind its filter.

use crate::catalog::{Catalog, PackPart};
use crate::error::Result;
use crate::files::Files;
use crate::index::run::RunCursor;
use mailstrata_format::Digest;
use mailstrata_format::index::{self, PackRow};
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
        match &pack.part {
            PackPart::Table(table) => found.extend(table.get(digest)),
            PackPart::Run(run) if run.may_hold(hash) => {
                let place = run.lower_bound(files, &digest.0, |r| r[..32] < digest.0[..])?;
                let mut cursor = RunCursor::new(run, files, place);
                if let Some(row) = cursor.row()?.and_then(|r| PackRow::decode(r)).filter(|r| r.digest == digest.0) {
                    found.push(Extent {
                        pack: pack.number,
                        entry_offset: row.entry_offset,
                        entry_len: row.entry_len,
                        raw_offset: row.raw_offset,
                        length: row.length,
                        digest: *digest,
                    });
                }
            }
            PackPart::Run(_) => {}
        }
        if found.len() >= limit {
            break;
        }
    }
    Ok(found)
}
