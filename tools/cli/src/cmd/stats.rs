//! `stats`: what is in a store, in numbers.

use crate::exit::{Code, Failure, Outcome};
use crate::{Global, out};
use mailstrata_engine::catalog::{PackPart, SegmentPart};
use std::collections::HashSet;

/// Count accounts, items, versions, blobs and bytes.
#[derive(clap::Args)]
pub struct Args {}

pub fn run(g: &Global, _args: &Args) -> Outcome {
    let reader = out::reader(g)?;
    let view = reader.view();
    let (mut accounts, mut alive, mut deleted) = (0u64, 0u64, 0u64);
    let mut named = 0u64;
    let mut referred = 0u64;
    let mut seen: HashSet<[u8; 8]> = HashSet::new();
    let mut unique = 0u64;
    for hit in view.accounts()? {
        let mut any = false;
        for item in view.ahead(view.items(hit.account(), None)?) {
            let item = item?;
            any = true;
            if item.deleted() {
                deleted += 1
            } else {
                alive += 1
            }
            let blobs = view.with_record(&item, |f, _| f.blobs().map(|b| (b.digest, b.length)).collect::<Vec<_>>());
            for (digest, length) in blobs.unwrap_or_default() {
                named += 1;
                referred += length;
                // Eight bytes of a digest tell a few hundred million blobs apart well enough to count.
                if seen.insert(digest.first_chunk().copied().unwrap_or_default()) {
                    unique += length;
                }
            }
        }
        accounts += u64::from(any);
    }
    let (mut versions, mut blobs, mut raw) = (0u64, 0u64, 0u64);
    for s in &view.catalog().segments {
        versions += match &s.part {
            SegmentPart::Run(r) => r.trailer.row_count,
            SegmentPart::Table(t) => t.span().rows,
        };
    }
    for p in &view.catalog().packs {
        match &p.part {
            PackPart::Run(r) => {
                blobs += r.trailer.row_count;
                raw += r.trailer.raw_bytes;
            }
            PackPart::Table(t) => {
                let all = t.all();
                blobs += all.len() as u64;
                raw += all.iter().map(|e| e.length).sum::<u64>();
            }
        }
    }
    let dir = out::store_dir(g)?;
    let (mut files, mut bytes) = (0u64, 0u64);
    count(&dir, &mut files, &mut bytes).map_err(|e| Failure::new(Code::Failed, format!("{}: {e}", dir.display())))?;
    let ratio = if bytes > 0 { referred as f64 / bytes as f64 } else { 0.0 };
    if g.json {
        let line = serde_json::json!({
            "accounts": accounts, "items": alive, "deleted_items": deleted, "versions": versions,
            "blobs": blobs, "blob_bytes": raw, "referred_blobs": named, "referred_bytes": referred,
            "unique_referred_bytes": unique, "files": files, "bytes": bytes, "ratio": ratio,
        });
        out::json_line(&mut std::io::stdout(), &line)?;
    } else {
        crate::say!("accounts    {accounts}");
        crate::say!("items       {alive} ({deleted} deleted)");
        crate::say!("versions    {versions}");
        crate::say!("blobs       {blobs}, {} uncompressed", out::size(raw));
        crate::say!("referred    {named} times, {} by the last version of every item", out::size(referred));
        crate::say!("on disk     {} in {files} files ({ratio:.2} bytes of mail a byte)", out::size(bytes));
    }
    Ok(if reader.findings().is_empty() { Code::Done } else { Code::Damage })
}

fn count(dir: &std::path::Path, files: &mut u64, bytes: &mut u64) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        if meta.is_dir() {
            count(&entry.path(), files, bytes)?;
        } else {
            *files += 1;
            *bytes += meta.len();
        }
    }
    Ok(())
}
