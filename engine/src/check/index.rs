//! Footers and checkpoints against what was walked: every block, row, fence and filter line, and the trailer's counts.
//!
//! In come the rows that the content gives, in the order of the index; out go findings, and the rows that the index has and
//! the content has not: what damage took, by name. Memory: fences and filter, 2 bytes a row.

use super::finding::{Draft, Repair};
use super::window::Window;
use mailstrata_format::checksum::block_is_sound;
use mailstrata_format::index::{self, BLOCK_DATA, KEY, LINE, PackRow, ROW, ROWS_PER_BLOCK, Row, Trailer};
use mailstrata_format::{BLOCK, Binding, DamageKind, FileKind};

/// Whether a row's place orders by LSN behind its key.
fn order(row: &[u8; ROW], log: bool) -> ([u8; KEY], u64) {
    let key = row.first_chunk().copied().unwrap_or([0; KEY]);
    let lsn = row.get(KEY..KEY + 8).and_then(|b| b.first_chunk()).map_or(0, |b| u64::from_le_bytes(*b));
    (key, if log { lsn } else { 0 })
}

/// What the content says of itself, for the trailer.
#[derive(Debug, Clone, Copy, Default)]
pub struct Content {
    pub end: u64,
    pub records: u64,
    pub last_group: u64,
    pub root: [u8; 16],
    pub padding: u64,
    /// Of all rows; `None` without any.
    pub lsns: Option<(u64, u64)>,
    pub moments: Option<(i64, i64)>,
}

/// Rows that are listed in findings of one index before the rest is only counted.
const LISTED: u64 = 100;

/// A comparison under way.
pub struct RowCheck<'a> {
    window: &'a mut Window,
    path: &'a str,
    place: Binding,
    trailer: Trailer,
    log: bool,
    fences: Vec<[u8; KEY]>,
    /// Fence blocks or filter blocks that do not verify: what they hold is not compared.
    fences_hurt: bool,
    filter: Option<Vec<u8>>,
    rows: Vec<[u8; ROW]>,
    at: usize,
    /// The next block of rows.
    block: u64,
    /// A block of rows was skipped just before the next row.
    hole: bool,
    row_before: Option<([u8; KEY], u64)>,
    /// Rows of the index that the content does not have.
    pub extra: Vec<[u8; ROW]>,
    /// Rows that agree, as they lie in the file: entry offset, raw offset, digest. Packs only.
    agreed: Vec<(u64, u64, [u8; KEY])>,
    raw_bytes: u64,
    lies: u64,
    pub drafts: Vec<Draft>,
}

impl<'a> RowCheck<'a> {
    /// Reads fences and filter of the index whose trailer was found in the file `path`, which is at `place`.
    pub fn new(window: &'a mut Window, path: &'a str, place: Binding, trailer: Trailer) -> Self {
        let mut check = Self {
            window,
            path,
            place,
            trailer,
            log: FileKind::from_code(trailer.kind) != Some(FileKind::Pack),
            fences: Vec::new(),
            fences_hurt: false,
            filter: Some(Vec::new()),
            rows: Vec::new(),
            at: 0,
            block: 0,
            hole: false,
            row_before: None,
            extra: Vec::new(),
            agreed: Vec::new(),
            raw_bytes: 0,
            lies: 0,
            drafts: Vec::new(),
        };
        let mut at = trailer.fences_offset;
        while at < trailer.filter_offset {
            match check.sound_block(at) {
                Some(data) => check.fences.extend(data.as_chunks::<KEY>().0.iter().copied()),
                None => check.fences_hurt = true,
            }
            at += BLOCK as u64;
        }
        check.fences.truncate(usize::try_from(trailer.fence_count).unwrap_or(usize::MAX));
        let mut filter = Vec::new();
        let mut whole = true;
        while at < trailer.file_len.saturating_sub(BLOCK as u64) {
            match check.sound_block(at) {
                Some(data) => filter.extend_from_slice(&data),
                None => whole = false,
            }
            at += BLOCK as u64;
        }
        filter.truncate(usize::try_from(trailer.filter_lines).unwrap_or(0).saturating_mul(LINE));
        check.filter = whole.then_some(filter);
        check
    }

    /// The data of an index block; a finding when it does not verify.
    fn sound_block(&mut self, at: u64) -> Option<[u8; BLOCK_DATA]> {
        let block = self.window.get(at, BLOCK);
        if block.len() == BLOCK && block_is_sound(&self.place.at(at), block) {
            let rest = block.get(BLOCK_DATA..BLOCK - 16).is_some_and(|pad| pad.iter().all(|b| *b == 0));
            let data = block.first_chunk::<BLOCK_DATA>().copied();
            if !rest {
                let draft = Draft::new(DamageKind::Padding, self.path, at, BLOCK as u64, Repair::RebuildIndex);
                self.drafts.push(draft);
            }
            return data;
        }
        let draft = Draft::new(DamageKind::IndexBlock, self.path, at, BLOCK as u64, Repair::RebuildIndex);
        self.drafts.push(draft);
        None
    }

    fn lie(&mut self, at: u64, detail: String) {
        self.lies += 1;
        if self.lies <= LISTED {
            let draft = Draft::new(DamageKind::IndexRow, self.path, at, 0, Repair::RebuildIndex).because(detail);
            self.drafts.push(draft);
        }
    }

    /// The row that comes next in the index.
    fn peek(&mut self) -> Option<[u8; ROW]> {
        while self.at >= self.rows.len() {
            let number = self.block;
            if number >= self.trailer.fence_count {
                return None;
            }
            self.block += 1;
            let at = self.trailer.rows_offset + number * BLOCK as u64;
            let left = self.trailer.row_count.saturating_sub(number * ROWS_PER_BLOCK as u64);
            let count = usize::try_from(left).unwrap_or(usize::MAX).min(ROWS_PER_BLOCK);
            self.rows.clear();
            self.at = 0;
            let Some(data) = self.sound_block(at) else {
                self.hole = true;
                continue;
            };
            let (rows, rest) = data.split_at(count * ROW);
            self.rows.extend_from_slice(rows.as_chunks::<ROW>().0);
            if rest.iter().any(|b| *b != 0) {
                self.lie(at, "bytes behind the last row".into());
            }
            let first = self.rows.first().and_then(|r| r.first_chunk::<KEY>()).copied();
            let fence = usize::try_from(number).ok().and_then(|n| self.fences.get(n)).copied();
            if !self.fences_hurt && first != fence {
                self.lie(self.trailer.fences_offset, format!("fence {number} is not the first key of its block"));
            }
        }
        let row = self.rows.get(self.at).copied()?;
        Some(row)
    }

    fn step(&mut self, row: &[u8; ROW]) {
        self.at += 1;
        let here = order(row, self.log);
        if self.row_before.is_some_and(|before| before >= here) {
            self.lie(self.row_place(), "rows are not in order".into());
        }
        self.row_before = Some(here);
        self.hole = false;
    }

    fn row_place(&self) -> u64 {
        let block = self.trailer.rows_offset + self.block.saturating_sub(1) * BLOCK as u64;
        block + (self.at.saturating_sub(1) * ROW) as u64
    }

    fn filter_has(&self, hash: u64) -> bool {
        let Some(filter) = &self.filter else { return true };
        let line = usize::try_from(index::filter_line(hash, self.trailer.filter_lines)).unwrap_or(usize::MAX);
        let at = line.saturating_mul(LINE);
        filter.get(at..at.saturating_add(LINE)).is_some_and(|l| index::line_may_hold(l, hash))
    }

    /// Rows of the content that have the same place in the order (one; in a pack one for each copy of a blob); they come in
    /// order. `source` is the frame's source hash, or 0.
    pub fn feed(&mut self, same: &[[u8; ROW]], source: u64) {
        let Some(row) = same.first() else { return };
        let wanted = order(row, self.log);
        if !self.filter_has(index::key_hash(&wanted.0)) || (source != 0 && !self.filter_has(source)) {
            self.lie(self.trailer.filter_offset, "the filter says that a key is not there".into());
        }
        while let Some(found) = self.peek() {
            let here = order(&found, self.log);
            if here > wanted {
                break;
            }
            self.step(&found);
            if here < wanted {
                self.extra.push(found);
                continue;
            }
            if same.contains(&found) {
                self.agree(&found);
            } else {
                let what = if self.log { format!("row of LSN {} differs", wanted.1) } else { "row differs".into() };
                self.lie(self.row_place(), what);
            }
            return;
        }
        if !self.hole {
            let what = if self.log { format!("LSN {} has no row", wanted.1) } else { "a blob has no row".into() };
            self.lie(self.trailer.rows_offset, what);
        }
    }

    fn agree(&mut self, row: &[u8; ROW]) {
        if !self.log
            && let Some(r) = PackRow::decode(row)
        {
            self.agreed.push((r.entry_offset, r.raw_offset, r.digest));
            self.raw_bytes = self.raw_bytes.saturating_add(r.length);
        }
    }

    /// The rest of the index, and the trailer against the content; `whole`: the content has no damage.
    pub fn finish(mut self, content: &Content, whole: bool) -> (Vec<[u8; ROW]>, Vec<Draft>) {
        while let Some(found) = self.peek() {
            self.step(&found);
            self.extra.push(found);
        }
        let t = self.trailer;
        let at = t.file_len.saturating_sub(BLOCK as u64);
        let mut differs = Vec::new();
        if whole && t.damaged == 0 && self.extra.is_empty() {
            let mut same = |name: &'static str, equal: bool| {
                if !equal {
                    differs.push(name);
                }
            };
            same("data_end", t.data_end == content.end);
            same("records", t.records == content.records);
            same("padding", t.padding == content.padding);
            if self.log {
                same("row_count", t.row_count == content.records);
                same("root", t.root == content.root);
                same("last_group", t.last_group == content.last_group);
                same("lsns", content.lsns.is_none_or(|l| l == (t.first_lsn, t.last_lsn)));
                same("moments", content.moments.is_none_or(|m| m == (t.first_moment, t.last_moment)));
            } else if self.lies == 0 && self.drafts.is_empty() {
                self.agreed.sort_unstable();
                let digests: Vec<u8> = self.agreed.iter().flat_map(|a| a.2).collect();
                same("root", t.root == mailstrata_format::checksum::body_hash(&digests).to_le_bytes());
                same("raw_bytes", t.raw_bytes == self.raw_bytes);
            }
        }
        if !differs.is_empty() {
            self.lie(at, format!("the trailer says something else: {}", differs.join(", ")));
        }
        if self.lies > LISTED {
            let draft = Draft::new(DamageKind::IndexRow, self.path, t.rows_offset, 0, Repair::RebuildIndex)
                .because(format!("{} more rows", self.lies - LISTED));
            self.drafts.push(draft);
        }
        (self.extra, self.drafts)
    }
}

/// Rows of a log's index that name frames which were not found: those that lie in damaged stretches go to these findings,
/// others are lies of the index.
pub fn hand_out(extra: &[[u8; ROW]], path: &str, rows_offset: u64, damage: &mut [Draft], lies: &mut Vec<Draft>) {
    let mut wrong = 0u64;
    for row in extra.iter().filter_map(|r| Row::decode(r)) {
        // Inner stretches come after the outer ones.
        match damage.iter_mut().rev().find(|d| d.covers(u64::from(row.offset))) {
            Some(d) => {
                // What was read from the damaged place itself stands first, and is not needed now.
                if d.rows.first().is_some_and(|(r, certain)| !certain && r.lsn == row.lsn) {
                    d.rows.clear();
                }
                d.rows.push((row, true));
            }
            None => {
                wrong += 1;
                if wrong <= LISTED {
                    let draft = Draft::new(DamageKind::IndexRow, path, rows_offset, 0, Repair::RebuildIndex)
                        .because(format!("row of LSN {}: there is no such frame", row.lsn));
                    lies.push(draft);
                }
            }
        }
    }
}

/// As [`hand_out`], for a pack's rows: an entry that was not found in a damaged stretch took its blobs along.
pub fn hand_out_blobs(extra: &[[u8; ROW]], path: &str, rows_offset: u64, damage: &mut [Draft], lies: &mut Vec<Draft>) {
    let mut wrong = 0u64;
    for row in extra.iter().filter_map(|r| PackRow::decode(r)) {
        match damage.iter_mut().rev().find(|d| d.covers(row.entry_offset)) {
            Some(d) => d.digests.push(row.digest),
            None => {
                wrong += 1;
                if wrong <= LISTED {
                    let draft = Draft::new(DamageKind::IndexRow, path, rows_offset, 0, Repair::RebuildIndex)
                        .because(format!("row of blob {}: it is not there", mailstrata_format::Digest(row.digest)));
                    lies.push(draft);
                }
            }
        }
    }
}
