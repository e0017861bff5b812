//! A sorted index on disk: the footer of a sealed file, or a checkpoint.
//!
//! Fences and filter stay in memory (about three bytes a row); rows are read in blocks of 4 KiB through a cache of
//! verified blocks with a fixed size.

use super::Key;
use crate::disk::{File, read_full};
use crate::error::{Error, Result};
use crate::files::Files;
use mailstrata_format::index::{
    self, BLOCK_DATA, FENCES_PER_BLOCK, KEY, LINE, LINES_PER_BLOCK, ROW, ROWS_PER_BLOCK, Trailer,
};
use mailstrata_format::{BLOCK, Binding, Damage, DamageKind, FileName, StoreId, checksum};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Lays out an index: row blocks, fences, filter, trailer. `rows` are sorted and all `ROW` bytes long, `hashes` are what
/// the filter must hold, `offset` is where the index starts in the file `name`; the trailer's places and counts are filled
/// in.
#[must_use]
pub fn build(
    rows: &[[u8; ROW]],
    hashes: &[u64],
    trailer: Trailer,
    store: StoreId,
    name: FileName,
    offset: u64,
) -> Vec<u8> {
    let place = Binding::new(store, name, 0);
    let mut out = Vec::with_capacity((rows.len() / ROWS_PER_BLOCK + 4) * BLOCK);
    let block = |out: &mut Vec<u8>, data: &[u8]| {
        let at = out.len();
        out.extend_from_slice(data);
        out.resize(at + BLOCK, 0);
        checksum::seal_block(&place.at(offset + at as u64), &mut out[at..]);
    };
    let mut data = Vec::with_capacity(BLOCK_DATA);
    let mut fences: Vec<u8> = Vec::new();
    for chunk in rows.chunks(ROWS_PER_BLOCK) {
        data.clear();
        chunk.iter().for_each(|r| data.extend_from_slice(r));
        fences.extend_from_slice(&chunk[0][..KEY]);
        block(&mut out, &data);
    }
    let fences_offset = offset + out.len() as u64;
    for chunk in fences.chunks(FENCES_PER_BLOCK * KEY) {
        block(&mut out, chunk);
    }
    let filter_offset = offset + out.len() as u64;
    let lines = index::filter_lines(hashes.len() as u64);
    let mut filter = vec![0u8; usize::try_from(lines).unwrap_or(1) * LINE];
    for h in hashes {
        let at = usize::try_from(index::filter_line(*h, lines)).unwrap_or(0) * LINE;
        index::line_set(&mut filter[at..at + LINE], *h);
    }
    for chunk in filter.chunks(LINES_PER_BLOCK * LINE) {
        block(&mut out, chunk);
    }
    let at = offset + out.len() as u64;
    let trailer = Trailer {
        magic: index::MAGIC,
        rows_offset: offset,
        row_count: rows.len() as u64,
        fences_offset,
        fence_count: (fences.len() / KEY) as u64,
        filter_offset,
        filter_lines: lines,
        file_len: at + BLOCK as u64,
        ..trailer
    };
    out.extend_from_slice(&trailer.block(&place.at(at)));
    out
}

/// An index on disk, open for look-ups.
pub struct IndexRun {
    /// The file that holds the index.
    pub name: FileName,
    pub trailer: Trailer,
    fences: Vec<Words>,
    filter: Vec<u8>,
    /// Blocks of rows that were damaged and were made again from the frames.
    mended: Mutex<BTreeMap<usize, Arc<[u8]>>>,
    /// A checkpoint's file, held because its name may come to mean another one.
    held: Option<Arc<dyn File>>,
}

impl IndexRun {
    /// Opens the index at the end of a file and verifies all but its rows, which are verified when they are read.
    pub fn open(files: &Files, name: FileName) -> Result<Self> {
        let path = files.path(name);
        let file = files.get(name)?;
        let len = file.len().map_err(Error::io("reading the size of", &path))?;
        let damage = |offset, kind| Error::Damage(Damage::new(name, offset, kind));
        let at = len.checked_sub(BLOCK as u64).ok_or_else(|| damage(0, DamageKind::Footer))?;
        // Trailer, filter and fences lie together at the end: most often one read has them all.
        let mut tail = vec![0; usize::try_from(len).unwrap_or(usize::MAX).min(TAIL_READ)];
        let mut start = len - tail.len() as u64;
        let read = |tail: &mut [u8], start: u64| -> Result<()> {
            let n = read_full(file.as_ref(), tail, start).map_err(Error::io("reading", &path))?;
            if n == tail.len() { Ok(()) } else { Err(damage(start, DamageKind::FileTruncated)) }
        };
        read(&mut tail, start)?;
        let place = Binding::new(files.store, name, at);
        let last = tail.last_chunk::<BLOCK>().ok_or_else(|| damage(0, DamageKind::Footer))?;
        let trailer = Trailer::read(last, &place).ok_or_else(|| damage(at, DamageKind::Footer))?;
        if trailer.file_len != len {
            return Err(damage(at, DamageKind::Footer));
        }
        if trailer.fences_offset < start {
            start = trailer.fences_offset;
            tail = vec![0; usize::try_from(len - start).unwrap_or(usize::MAX)];
            read(&mut tail, start)?;
        }
        let blocks = |from: u64, to: u64, what: &mut dyn FnMut(&[u8])| -> Result<()> {
            let range = usize::try_from(from - start).unwrap_or(usize::MAX)..usize::try_from(to - start).unwrap_or(0);
            let bytes = tail.get(range).ok_or_else(|| damage(from, DamageKind::FileTruncated))?;
            for (i, block) in bytes.chunks_exact(BLOCK).enumerate() {
                let here = from + (i * BLOCK) as u64;
                if !checksum::block_is_sound(&place.at(here), block) {
                    return Err(damage(here, DamageKind::IndexBlock));
                }
                what(&block[..BLOCK_DATA]);
            }
            Ok(())
        };
        let mut fences = Vec::new();
        blocks(trailer.fences_offset, trailer.filter_offset, &mut |data| {
            fences.extend(data.as_chunks::<KEY>().0.iter().map(words));
        })?;
        fences.truncate(usize::try_from(trailer.fence_count).unwrap_or(usize::MAX));
        let mut filter = Vec::new();
        blocks(trailer.filter_offset, at, &mut |data| filter.extend_from_slice(data))?;
        filter.truncate(usize::try_from(trailer.filter_lines).unwrap_or(0).saturating_mul(LINE));
        Ok(Self { name, trailer, fences, filter, mended: Mutex::default(), held: None })
    }

    /// Has the device fetch what [`IndexRun::open`] will read of a file of this length.
    pub fn will_open(file: &dyn File, len: u64) {
        let from = len.saturating_sub(TAIL_READ as u64);
        file.will_read(from, len - from);
    }

    /// Keeps the file that it was opened from, whatever is renamed to its name later.
    #[must_use]
    pub fn holding(self, file: Arc<dyn File>) -> Self {
        Self { held: Some(file), ..self }
    }

    /// Whether a key or source with this hash may be in the index; `false` is certain.
    #[must_use]
    #[inline]
    pub fn may_hold(&self, hash: u64) -> bool {
        let line = usize::try_from(index::filter_line(hash, self.trailer.filter_lines)).unwrap_or(usize::MAX);
        let at = line.saturating_mul(LINE);
        self.filter.get(at..at.saturating_add(LINE)).is_none_or(|l| index::line_may_hold(l, hash))
    }

    /// A verified block of rows, from the cache or the file. While the cache has room its neighbours come along: one read of
    /// 64 KiB instead of sixteen of 4 KiB, until what is asked for often is there.
    pub fn block(&self, files: &Files, number: usize) -> Result<Arc<[u8]>> {
        self.block_within(files, number, READ_AHEAD)
    }

    /// As [`IndexRun::block`], where `ahead` blocks in line are read when the cache has room.
    fn block_within(&self, files: &Files, number: usize, ahead: usize) -> Result<Arc<[u8]>> {
        if let Some(found) = files.blocks.get(&(self.name, number as u64)) {
            return Ok(found);
        }
        let window = if files.blocks.has_room(ahead * BLOCK) {
            let first = number - number % ahead.max(1);
            first..(first + ahead).min(self.block_count()).max(number + 1)
        } else {
            number..number + 1
        };
        let place = |block: usize| self.trailer.rows_offset + (block * BLOCK) as u64;
        let mut buf = vec![0; window.len() * BLOCK];
        let file = match &self.held {
            Some(file) => file.clone(),
            None => files.get(self.name)?,
        };
        read_full(file.as_ref(), &mut buf, place(window.start)).map_err(Error::io("reading", files.path(self.name)))?;
        let mut wanted = None;
        for (block, bytes) in window.zip(buf.chunks_exact(BLOCK)) {
            // Damage, or a file that ended early: it counts when somebody asks for that very block.
            if checksum::block_is_sound(&Binding::new(files.store, self.name, place(block)), bytes) {
                let bytes: Arc<[u8]> = bytes.into();
                files.blocks.insert((self.name, block as u64), bytes.clone());
                wanted = if block == number { Some(bytes) } else { wanted };
            }
        }
        let mended = || self.mended.lock().unwrap_or_else(PoisonError::into_inner).get(&number).cloned();
        wanted.or_else(mended).ok_or_else(|| Damage::new(self.name, place(number), DamageKind::IndexBlock).into())
    }

    /// The block of rows that starts at an offset.
    #[must_use]
    pub fn block_at(&self, offset: u64) -> Option<usize> {
        let number = usize::try_from(offset.checked_sub(self.trailer.rows_offset)? / BLOCK as u64).ok()?;
        (number < self.block_count()).then_some(number)
    }

    /// Keeps rows that were made from the frames in the place of a damaged block.
    pub fn mend(&self, number: usize, rows: &[u8]) {
        let mut block = rows.to_vec();
        block.resize(BLOCK, 0);
        self.mended.lock().unwrap_or_else(PoisonError::into_inner).insert(number, block.into());
    }

    /// Has the device fetch the blocks in which accounts begin, before they are asked for one by one.
    pub fn will_walk_accounts(&self, files: &Files) {
        let Some(file) = self.held.clone().or_else(|| files.get(self.name).ok()) else { return };
        let begins = |pair: &[Words]| matches!(pair, [a, b] if a.0 != b.0);
        // The account's first row is in the block that starts with it or at the end of the one before.
        let first = self.fences.windows(2).enumerate().filter(|(_, pair)| begins(pair)).map(|(block, _)| block);
        let mut windows: Vec<usize> = std::iter::once(0)
            .chain(first.flat_map(|b| [b, b + 1]))
            .map(|b| b / READ_AHEAD)
            .take(WINDOWS_MAX)
            .collect();
        windows.dedup();
        for window in windows {
            let (from, to) = (window * READ_AHEAD, ((window + 1) * READ_AHEAD).min(self.block_count()));
            if files.blocks.get(&(self.name, from as u64)).is_none() {
                let at = self.trailer.rows_offset + (from * BLOCK) as u64;
                file.will_read(at, (to.saturating_sub(from) * BLOCK) as u64);
            }
        }
    }

    /// Verifies the rows as well: for a file whose seal nothing vouches for (W4), where the trailer may be there and they not.
    pub fn verified(self, files: &Files) -> Result<Self> {
        for block in 0..self.block_count() {
            self.block(files, block)?;
        }
        Ok(self)
    }

    /// Rows in the block with this number.
    #[must_use]
    #[inline]
    pub fn rows_in(&self, block: usize) -> usize {
        let rows = usize::try_from(self.trailer.row_count).unwrap_or(usize::MAX);
        rows.saturating_sub(block * ROWS_PER_BLOCK).min(ROWS_PER_BLOCK)
    }

    /// Number of blocks.
    #[must_use]
    #[inline]
    pub fn block_count(&self) -> usize {
        self.fences.len()
    }

    /// The place of the first row whose key is not below `key`.
    pub fn lower_bound(&self, files: &Files, key: &Key) -> Result<Place> {
        self.lower_bound_within(files, key, READ_AHEAD)
    }

    /// As [`IndexRun::lower_bound`] for a key that is most likely not there and has only passed the filter by chance: the
    /// neighbours of the block are nobody's business.
    pub fn lower_bound_alone(&self, files: &Files, key: &Key) -> Result<Place> {
        self.lower_bound_within(files, key, 1)
    }

    fn lower_bound_within(&self, files: &Files, key: &Key, ahead: usize) -> Result<Place> {
        let wanted = words(key);
        // A block whose first key is below ours may hold it; so may the blocks behind that start with it.
        let mut block = self.fences.partition_point(|f| *f < wanted).saturating_sub(1);
        while block < self.block_count() {
            let bytes = self.block_within(files, block, ahead)?;
            let rows = bytes[..self.rows_in(block) * ROW].as_chunks::<ROW>().0;
            let bounds = (self.fences.get(block), self.fences.get(block + 1));
            let at = first_not_below(rows, wanted, guess(wanted, bounds, rows.len()));
            if at < rows.len() {
                return Ok(Place { block, at, bytes: Some(bytes) });
            }
            block += 1;
        }
        Ok((block, 0).into())
    }
}

/// A key as numbers of the same order: compared without a call.
type Words = (u128, u128);

#[inline]
fn words(key: &Key) -> Words {
    let half = |at: usize| key[at..].first_chunk().map_or(0, |b| u128::from_be_bytes(*b));
    (half(0), half(16))
}

/// About where a key is among the rows of a block, from the first keys of the block and of the next one. Item keys are parts
/// of digests, so within an account they lie evenly.
#[inline]
fn guess(wanted: Words, bounds: (Option<&Words>, Option<&Words>), rows: usize) -> usize {
    let (Some(low), Some(high)) = bounds else { return rows / 2 };
    if low.0 != wanted.0 || high.0 != wanted.0 {
        return rows / 2;
    }
    // The upper 56 bits leave room for the number of rows.
    let part = |from: u128, to: u128| u64::try_from(to.saturating_sub(from) >> 72).unwrap_or(0);
    let share = part(low.1, wanted.1).saturating_mul(rows as u64) / part(low.1, high.1).max(1);
    usize::try_from(share).unwrap_or(0)
}

/// The first row whose key is not below `wanted`: as `partition_point`, but outwards from a guess in growing steps, which
/// touches fewer cache lines when the guess is near.
#[inline]
fn first_not_below(rows: &[[u8; ROW]], wanted: Words, guess: usize) -> usize {
    let below = |r: &[u8; ROW]| r.first_chunk().is_some_and(|k| words(k) < wanted);
    let below_at = |i: usize| rows.get(i).is_some_and(below);
    let (mut low, mut high, mut step) = (0, rows.len(), 2);
    let mut at = guess.min(rows.len().saturating_sub(1));
    // All before `low` are below, none from `high` on is.
    if below_at(at) {
        low = at + 1;
        while low < high {
            at = at.saturating_add(step);
            if at >= high {
                break;
            }
            if !below_at(at) {
                high = at;
                break;
            }
            low = at + 1;
            step *= 2;
        }
    } else {
        high = at;
        while high > low {
            let Some(next) = at.checked_sub(step) else { break };
            at = next;
            if below_at(at) {
                low = at + 1;
                break;
            }
            high = at;
            step *= 2;
        }
    }
    low + rows.get(low..high).map_or(0, |part| part.partition_point(below))
}

/// Bytes read at once at the end of a file: what follows the rows of some 30,000.
const TAIL_READ: usize = 64 << 10;

/// Blocks of rows that are read at once.
const READ_AHEAD: usize = 16;

/// Parts of an index that are asked of the device at once.
const WINDOWS_MAX: usize = 512;

/// Where a row lies, and its block when that was just looked at.
pub struct Place {
    block: usize,
    at: usize,
    bytes: Option<Arc<[u8]>>,
}

impl From<(usize, usize)> for Place {
    fn from((block, at): (usize, usize)) -> Self {
        Self { block, at, bytes: None }
    }
}

/// Walks rows in order from a place on.
pub struct RunCursor<'a> {
    run: &'a IndexRun,
    files: &'a Files,
    block: usize,
    at: usize,
    bytes: Option<Arc<[u8]>>,
}

impl<'a> RunCursor<'a> {
    /// A cursor at a place that [`IndexRun::lower_bound`] gave, or at a block and a row in it.
    pub fn new(run: &'a IndexRun, files: &'a Files, place: impl Into<Place>) -> Self {
        let Place { block, at, bytes } = place.into();
        Self { run, files, block, at, bytes }
    }

    /// The row here, or `None` at the end.
    pub fn row(&mut self) -> Result<Option<&[u8; ROW]>> {
        while self.block < self.run.block_count() {
            if self.at >= self.run.rows_in(self.block) {
                self.block += 1;
                self.at = 0;
                self.bytes = None;
                continue;
            }
            if self.bytes.is_none() {
                self.bytes = Some(self.run.block(self.files, self.block)?);
            }
            let start = self.at * ROW;
            return Ok(self.bytes.as_ref().and_then(|b| b.get(start..start + ROW)?.first_chunk::<ROW>()));
        }
        Ok(None)
    }

    /// Goes on to the next row.
    pub fn step(&mut self) {
        self.at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_row_is_found_from_any_guess(
            mut keys in proptest::collection::vec((0u8..3, 0u8..60), 0..70),
            asked in (0u8..3, 0u8..62),
            guess in 0usize..80,
        ) {
            keys.sort_unstable();
            let key = |(account, item): (u8, u8)| {
                let mut row = [0; ROW];
                (row[15], row[16]) = (account, item);
                row
            };
            let rows: Vec<_> = keys.iter().map(|k| key(*k)).collect();
            let wanted = words(key(asked).first_chunk().unwrap());
            let right = keys.partition_point(|k| *k < asked);
            prop_assert_eq!(first_not_below(&rows, wanted, guess), right);
            // From the guess that the fences give, whatever they say.
            let bounds = rows.first().zip(rows.last()).map(|(a, b)| {
                (words(a.first_chunk().unwrap()), words(b.first_chunk().unwrap()))
            });
            let from = super::guess(wanted, (bounds.as_ref().map(|b| &b.0), bounds.as_ref().map(|b| &b.1)), rows.len());
            prop_assert_eq!(first_not_below(&rows, wanted, from), right);
        }
    }
}
