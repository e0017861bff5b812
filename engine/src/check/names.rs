//! Last pass: which states of which items findings hit.
//!
//! In come drafts with the rows and digests that were hit, and digests that are in no pack; out go hits with addresses and
//! native ids, and a finding for each blob that is missing. The log is walked once more, and only if anything was hit. Memory
//! follows what was hit.

use super::Pass;
use super::files::{Inventory, open};
use super::finding::{Draft, HITS_MAX, Hit, Repair};
use super::frames::{Judge, LogFile, Vouched};
use super::references::{BlobHash, ref_hash};
use super::window::Window;
use crate::error::Result;
use mailstrata_format::index::Row;
use mailstrata_format::{AccountId, DamageKind, Digest, ItemKey};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Blobs that are missing and get a finding of their own.
const MISSING_MAX: usize = 10_000;

type Key = ([u8; 16], [u8; 16]);

fn hit(row: &Row, blob: Option<[u8; 32]>, certain: bool) -> Hit {
    Hit {
        account: AccountId(row.account),
        address: None,
        item: ItemKey(row.item),
        native: None,
        item_kind: row.item_kind,
        lsn: row.lsn,
        moment: row.moment,
        blob: blob.map(Digest),
        certain,
    }
}

fn add(d: &mut Draft, h: Hit) {
    d.finding.hit_count += 1;
    if d.finding.hits.len() < HITS_MAX {
        d.finding.hits.push(h);
    }
}

/// Fills in the hits of all drafts.
pub fn run(pass: &Pass<'_>, inventory: &Inventory, drafts: &mut Vec<Draft>, missing: &[BlobHash]) -> Result<()> {
    let mut by_digest: HashMap<[u8; 32], Vec<usize>> = HashMap::new();
    let mut keys: HashSet<Key> = HashSet::new();
    let mut natives: HashMap<Key, Vec<u8>> = HashMap::new();
    // Addresses from damaged places: if no other frame of the account has one.
    let mut doubtful: HashMap<[u8; 16], Vec<u8>> = HashMap::new();
    for (i, d) in drafts.iter_mut().enumerate() {
        d.digests.sort_unstable();
        d.digests.dedup();
        for digest in &d.digests {
            by_digest.entry(*digest).or_default().push(i);
        }
        d.rows.sort_unstable_by_key(|(r, _)| r.lsn);
        d.rows.dedup_by_key(|(r, _)| r.lsn);
        let told = d.names.take();
        for (row, certain) in std::mem::take(&mut d.rows) {
            if let Some((address, native)) = &told {
                natives.insert((row.account, row.item), native.clone());
                doubtful.insert(row.account, address.clone());
            }
            keys.insert((row.account, row.item));
            add(d, hit(&row, None, certain));
        }
    }
    let missing: HashSet<BlobHash> = missing.iter().copied().collect();
    if by_digest.is_empty() && keys.is_empty() && missing.is_empty() {
        return Ok(());
    }
    let mut gone: BTreeMap<BlobHash, Draft> = BTreeMap::new();
    let mut left_off = 0u64;
    let mut addresses: HashMap<[u8; 16], Vec<u8>> = HashMap::new();
    let mut judge = Judge::default();
    // Names first: the first walk finds the blobs' states, whose items the second one names.
    for naming in [false, true] {
        for p in inventory.logs.iter().filter(|p| p.live) {
            if pass.stopped() {
                return Ok(());
            }
            let Some((file, len)) = open(pass.disk, pass.dir, &p.path)? else { continue };
            let limit = p.trailer.map_or(len, |t| t.data_end.min(len));
            let vouched = Vouched { trailer: p.trailer, entry: p.entry, ..Vouched::default() };
            let log = LogFile { path: &p.path, name: p.name, store: inventory.store, vouched };
            log.walk(&mut Window::new(file, limit), &mut |f, at| {
                let e = f.envelope;
                if naming {
                    let key = (e.account, e.item);
                    let item = keys.contains(&key) && !natives.contains_key(&key);
                    if item || !addresses.contains_key(&e.account) {
                        judge.judge(f, &mut |_, address, native| {
                            addresses.entry(e.account).or_insert_with(|| address.to_vec());
                            if item {
                                natives.insert(key, native.to_vec());
                            }
                        });
                    }
                    return None;
                }
                let row = super::frames::row_of(&e, f.header.lsn, at, f.len as u64);
                for b in f.blobs() {
                    let hash = ref_hash(&b);
                    for i in by_digest.get(&b.digest).into_iter().flatten() {
                        if let Some(d) = drafts.get_mut(*i) {
                            keys.insert((e.account, e.item));
                            add(d, hit(&row, Some(b.digest), true));
                        }
                    }
                    // What a damaged place took along has its finding there.
                    if missing.contains(&hash) && !by_digest.contains_key(&b.digest) {
                        if gone.len() >= MISSING_MAX && !gone.contains_key(&hash) {
                            left_off += 1;
                            continue;
                        }
                        let d = gone.entry(hash).or_insert_with(|| {
                            Draft::new(DamageKind::BlobMissing, &p.path, at, f.len as u64, Repair::Lost)
                                .because(format!("blob {} of {} bytes", Digest(b.digest), b.length))
                        });
                        keys.insert((e.account, e.item));
                        add(d, hit(&row, Some(b.digest), true));
                    }
                }
                None
            });
        }
    }
    drafts.extend(gone.into_values());
    if left_off > 0 {
        let d = Draft::new(DamageKind::BlobMissing, "log", 0, 0, Repair::Lost);
        drafts.push(d.because(format!("{left_off} more states name blobs that are missing")));
    }
    for h in drafts.iter_mut().flat_map(|d| &mut d.finding.hits) {
        h.address = addresses.get(&h.account.0).or_else(|| doubtful.get(&h.account.0)).cloned();
        h.native = natives.get(&(h.account.0, h.item.0)).cloned();
        // Read from the damaged place, and other states know the item: the bit that flipped was not there.
        h.certain |= h.native.is_some();
    }
    Ok(())
}
