//! Blobs with parts that the store has already: what of a blob is stored, and the blob given back.
//!
//! Writing: in come a blob's bytes and an answer to "is this part here", out goes a [`Plan`]: the blob as it is, with a row
//! for each part that nobody had; or a recipe and the bytes that are its own. A part is taken from elsewhere only when it is
//! durable there, or lies in the same entry (W1): whatever a crash leaves, a composed blob that is found finds its parts.
//!
//! Reading: pieces in their order, each part verified under its own digest, all of it under the blob's. A part is always
//! plain, so nothing recurses; memory is bounded by a recipe and two chunks.

use super::parts;
use super::read;
use crate::catalog::Catalog;
use crate::error::{Error, Result};
use crate::files::Files;
use mailstrata_format::digest::Hasher;
use mailstrata_format::index;
use mailstrata_format::pack::{BlobRow, COMPOSED, Extent, PIECE_OWN, PIECE_PART, Piece, RecipeHeader, recipe};
use mailstrata_format::{Damage, DamageKind, Digest, FileKind, FileName};
use std::ops::Range;

/// What is known of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A recipe may name it.
    Usable,
    /// It is stored, or on its way, but a recipe may not name it.
    Known,
    New,
}

/// Asks the packs for a part.
pub fn find(catalog: &Catalog, files: &Files, digest: &Digest, length: u64) -> Result<Part> {
    let hash = index::key_hash(&digest.0);
    let mut part = Part::New;
    for pack in catalog.packs.iter().rev() {
        if let Some(extent) = pack.find(files, digest, hash)? {
            if extent.is_plain() && extent.length == length && pack.is_durable(&extent) {
                return Ok(Part::Usable);
            }
            part = Part::Known;
        }
    }
    Ok(part)
}

/// A blob's parts with their digests.
pub struct Parts(Vec<(Range<usize>, Digest)>);

impl Parts {
    /// Finds and hashes them.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let ranges = parts::of(bytes).into_iter();
        Self(ranges.filter_map(|r| bytes.get(r.clone()).map(|b| (r, Digest::of(b)))).collect())
    }

    /// How the blob is stored, given what is known of its parts now.
    pub fn plan(&self, length: usize, known: &mut dyn FnMut(&Digest, u64) -> Result<Part>) -> Result<Plan> {
        let (mut pieces, mut own, mut fresh) = (Vec::new(), Vec::new(), Vec::new());
        // Up to here the blob's bytes are in pieces.
        let mut at = 0;
        // Length of the parts taken from elsewhere.
        let mut taken = 0;
        for (range, digest) in &self.0 {
            match known(digest, range.len() as u64)? {
                Part::Usable => {
                    if at < range.start {
                        pieces.push(own_piece(range.start - at));
                        own.push(at..range.start);
                    }
                    let length = range.len() as u64;
                    pieces.push(Piece { kind: PIECE_PART, reserved: [0; 7], length, digest: digest.0 });
                    at = range.end;
                    taken += range.len();
                }
                Part::Known => {}
                // A part twice in one blob gets one row.
                Part::New if fresh.iter().any(|(d, _)| d == digest) => {}
                Part::New => fresh.push((*digest, range.start - taken..range.end - taken)),
            }
        }
        if at < length {
            if !pieces.is_empty() {
                pieces.push(own_piece(length - at));
            }
            own.push(at..length);
        }
        let recipe = if pieces.is_empty() { Vec::new() } else { recipe::encode(&pieces) };
        Ok(Plan { recipe, own, fresh })
    }
}

fn own_piece(length: usize) -> Piece {
    Piece { kind: PIECE_OWN, reserved: [0; 7], length: length as u64, digest: [0; 32] }
}

/// What is stored of a blob.
pub struct Plan {
    /// Empty for a plain blob.
    recipe: Vec<u8>,
    /// The ranges of the blob that are stored with it.
    own: Vec<Range<usize>>,
    /// Parts that get a row, as ranges of the own bytes.
    fresh: Vec<(Digest, Range<usize>)>,
}

impl Plan {
    /// Whether the blob is stored as it is.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.recipe.is_empty()
    }

    /// Raw bytes it takes.
    #[must_use]
    pub fn raw_len(&self) -> usize {
        self.recipe.len() + self.own.iter().map(Range::len).sum::<usize>()
    }

    /// Rows it takes.
    #[must_use]
    pub fn row_count(&self) -> usize {
        1 + self.fresh.len()
    }

    /// The rows: the blob's, and those of its parts. Its raw bytes start at `at`.
    pub fn rows(&self, at: u64, digest: Digest, length: u64) -> impl Iterator<Item = BlobRow> {
        let form = if self.recipe.is_empty() { 0 } else { COMPOSED };
        let own = at + self.recipe.len() as u64;
        let part = move |(digest, r): &(Digest, Range<usize>)| BlobRow {
            digest: digest.0,
            raw_offset: own + r.start as u64,
            length: r.len() as u64,
        };
        std::iter::once(BlobRow { digest: digest.0, raw_offset: form | at, length }).chain(self.fresh.iter().map(part))
    }

    /// The raw bytes of blob `bytes`, in a few slices.
    pub fn raw<'a>(&'a self, bytes: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let own = self.own.iter().filter_map(|r| bytes.get(r.clone()));
        std::iter::once(self.recipe.as_slice()).chain(own)
    }
}

/// Streams a blob of any form, verified as [`read::stream`] does.
pub fn stream(
    catalog: &Catalog,
    files: &Files,
    extent: &Extent,
    sink: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    if extent.is_plain() {
        return read::stream(files, extent, sink);
    }
    let name = FileName::new(FileKind::Pack, extent.pack);
    let damage = |kind| Error::Damage(Damage::new(name, extent.entry_offset, kind));
    if !extent.is_composed() {
        return Err(damage(DamageKind::Recipe));
    }
    let mut bytes = Vec::new();
    let mut at = extent.start();
    read::range(files, extent, at..at + RecipeHeader::SIZE as u64, &mut |b| {
        bytes.extend_from_slice(b);
        Ok(())
    })?;
    let len = recipe::length(&bytes).ok_or_else(|| damage(DamageKind::Recipe))?;
    read::range(files, extent, at + RecipeHeader::SIZE as u64..at + len as u64, &mut |b| {
        bytes.extend_from_slice(b);
        Ok(())
    })?;
    let pieces = recipe::decode(&bytes, extent.length).ok_or_else(|| damage(DamageKind::Recipe))?;
    at += len as u64;
    let mut hasher = Hasher::default();
    for piece in pieces {
        let mut give = |b: &[u8]| {
            hasher.update(b);
            sink(b)
        };
        if piece.kind == PIECE_OWN {
            let end = at.checked_add(piece.length).ok_or_else(|| damage(DamageKind::Recipe))?;
            read::range(files, extent, at..end, &mut give)?;
            at = end;
        } else {
            part(catalog, files, &piece, &damage, &mut give)?;
        }
    }
    if hasher.finish() == extent.digest { Ok(()) } else { Err(damage(DamageKind::BlobDigest)) }
}

/// Streams a part from the first copy that is sound, while nothing of it has gone out.
fn part(
    catalog: &Catalog,
    files: &Files,
    piece: &Piece,
    damage: &dyn Fn(DamageKind) -> Error,
    sink: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let digest = Digest(piece.digest);
    let mut last = damage(DamageKind::BlobMissing);
    let mut sent = false;
    for copy in super::known::find_all(catalog, files, &digest, usize::MAX)? {
        if !copy.is_plain() || copy.length != piece.length {
            continue;
        }
        let outcome = read::stream(files, &copy, &mut |b| {
            sent |= !b.is_empty();
            sink(b)
        });
        match outcome {
            Err(e @ Error::Damage(_)) if !sent => last = e,
            other => return other,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::entry::{Entry, Pace};
    use crate::disk::posix::Backend;
    use crate::store::{Create, Options, Store};
    use mailstrata_format::pack::RAW_OFFSET;

    fn part_piece(bytes: &[u8]) -> Piece {
        Piece { kind: PIECE_PART, reserved: [0; 7], length: bytes.len() as u64, digest: Digest::of(bytes).0 }
    }

    /// What a store says of blob `wanted`, whose raw bytes in an entry behind `part` are these.
    fn read_back(part: &[u8], raw: &[u8], form: u64, wanted: &[u8]) -> Result<Vec<u8>> {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { reserve_bytes: 0, ..Options::with_backend(Backend::Auto)? };
        Store::create(dir.path(), &Create::default(), &options)?;
        let store = Store::open(dir.path(), &options)?;
        let at = part.len() as u64;
        let rows = vec![
            BlobRow { digest: Digest::of(part).0, raw_offset: 0, length: at },
            BlobRow { digest: Digest::of(wanted).0, raw_offset: form | at, length: wanted.len() as u64 },
            // A composed blob that could be taken for a part.
            BlobRow { digest: [5; 32], raw_offset: COMPOSED | at, length: 4 },
        ];
        store.append_for_test(&Entry::new(&[part, raw].concat(), rows, Pace::Calm))?;
        // What was not named by anything is durable with the next transaction, and read from the files after a clean end.
        store.close()?;
        let view = Store::open_read(dir.path(), &options)?.view();
        let mut out = Vec::new();
        view.read_blob(&Digest::of(wanted), &mut |b| {
            out.extend_from_slice(b);
            Ok(())
        })?;
        Ok(out)
    }

    fn kind(result: Result<Vec<u8>>) -> DamageKind {
        match result {
            Err(Error::Damage(d)) => d.kind,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn hostile_recipes_are_damage_and_nothing_else() {
        let part = vec![b'p'; 300_000];
        let wanted = [b"head".as_slice(), &part, b"tail"].concat();
        let pieces = [own_piece(4), part_piece(&part), own_piece(4)];
        let good = [&recipe::encode(&pieces), b"headtail".as_slice()].concat();
        assert!(read_back(&part, &good, COMPOSED, &wanted).unwrap() == wanted);

        // Other bytes than the digest's.
        let other = [&recipe::encode(&pieces), b"headTail".as_slice()].concat();
        assert_eq!(kind(read_back(&part, &other, COMPOSED, &wanted)), DamageKind::BlobDigest);
        // A form of a later version.
        assert_eq!(kind(read_back(&part, &good, 2 * (RAW_OFFSET + 1), &wanted)), DamageKind::Recipe);
        // No recipe, one that makes another length, one with more pieces than there can be.
        assert_eq!(kind(read_back(&part, &[7; 400], COMPOSED, &wanted)), DamageKind::Recipe);
        assert_eq!(kind(read_back(&part, &good, COMPOSED, &wanted[1..])), DamageKind::Recipe);
        let mut many = good.clone();
        many[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(kind(read_back(&part, &many, COMPOSED, &wanted)), DamageKind::Recipe);
        // A recipe or its own bytes that lie outside the entry.
        let cut = &good[..good.len() - 1];
        assert_eq!(kind(read_back(&part, cut, COMPOSED, &wanted)), DamageKind::Chunk);
        assert_eq!(kind(read_back(&part, &good[..20], COMPOSED, &wanted)), DamageKind::Chunk);
        // A part that is not there, has another length, or is composed itself.
        let with = |p: Piece| {
            let length = usize::try_from(p.length + 8).unwrap();
            let raw = [&recipe::encode(&[own_piece(4), p, own_piece(4)]), b"headtail".as_slice()].concat();
            kind(read_back(&part, &raw, COMPOSED, &wanted[..length.min(wanted.len())]))
        };
        assert_eq!(with(Piece { digest: [9; 32], ..part_piece(&part) }), DamageKind::BlobMissing);
        assert_eq!(with(Piece { length: 299_999, ..part_piece(&part) }), DamageKind::BlobMissing);
        assert_eq!(with(Piece { digest: [5; 32], ..part_piece(&part[..4]) }), DamageKind::BlobMissing);
    }
}
