//! Packs: every entry, chunk, trailer and gap, and with `--read-data` every blob under its SHA-256.
//!
//! One file is read from front to end by whoever is free, a stretch at a time under a lock ([`PackWalk::next`]); what is in
//! the stretch is hashed outside it, by as many threads as there are ([`verify`]). An entry of any length streams. Written
//! from `SPEC.md` §7.

use super::finding::{Bytes, Draft, Repair};
use super::window::{STEP, Window};
use mailstrata_format::checksum::block_is_sound;
use mailstrata_format::digest::Hasher;
use mailstrata_format::file::FileHeader;
use mailstrata_format::index::{PackRow, Trailer};
use mailstrata_format::pack::{
    self, BlobRow, CHUNK_RAW_MAX, COMPOSED, ChunkHeader, ENTRY_MAGIC, ENTRY_STREAMED, EntryHeader, PIECE_OWN,
    PIECE_PART, Piece, RAW_OFFSET, RecipeHeader, TrailerHeader, recipe,
};
use mailstrata_format::{ALIGN, BLOCK, Binding, DamageKind, Digest, FileName, NoteKind, StoreId};
use std::collections::VecDeque;

/// What vouches for a pack's content.
#[derive(Debug, Clone, Copy, Default)]
pub struct PackVouched {
    /// Everything before this was acknowledged.
    pub end: u64,
    pub trailer: Option<Trailer>,
}

/// An entry whose header was met.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    pub at: u64,
    pub header: EntryHeader,
    /// Something vouches for it.
    pub vouched: bool,
}

/// A walk through a pack.
pub struct PackWalk {
    pub path: String,
    pub place: Binding,
    vouched: PackVouched,
    /// Where entries start as the pack's index has it, when all of that verifies.
    entries: Option<Vec<u64>>,
    at: u64,
    /// Where the content ends, as far as is known.
    pub limit: u64,
    /// Whether blobs are read.
    deep: bool,
    pub header: Option<FileHeader>,
    pub bytes: Bytes,
    pub drafts: Vec<Draft>,
    /// End of the last entry, rounded up to 4096.
    pub end: u64,
    pub hurt: bool,
    /// Where the bytes counted end.
    pub counted: u64,
    done: bool,
}

impl PackWalk {
    /// Reads the header; `limit` is the content's end when a trailer says it, else the file's length.
    pub fn new(
        window: &mut Window,
        path: &str,
        store: StoreId,
        name: FileName,
        vouched: PackVouched,
        deep: bool,
    ) -> Self {
        let limit = window.end;
        let mut walk = Self {
            path: path.to_owned(),
            place: Binding::new(store, name, 0),
            vouched,
            entries: None,
            at: BLOCK as u64,
            limit,
            deep,
            header: None,
            bytes: Bytes::default(),
            drafts: Vec::new(),
            end: BLOCK as u64,
            hurt: false,
            counted: BLOCK as u64,
            done: false,
        };
        let head = window.get(0, BLOCK);
        let len = head.len() as u64;
        walk.at = walk.at.min(len);
        walk.end = walk.at;
        walk.counted = walk.at;
        match FileHeader::read(head, store, name) {
            Ok(h) => {
                walk.bytes.header = len;
                if h.reserved != [0; 8]
                    || head.get(FileHeader::SIZE..BLOCK - 16).is_none_or(|r| r.iter().any(|b| *b != 0))
                {
                    walk.drafts.push(walk.draft(DamageKind::Padding, 0, len));
                }
                walk.header = Some(h);
            }
            Err(_) => walk.bytes.unknown = len,
        }
        walk
    }

    fn draft(&self, kind: DamageKind, at: u64, len: u64) -> Draft {
        Draft::new(kind, &self.path, at, len, Repair::Rewrite)
    }

    /// The next entries, all of them in the window but perhaps the last; none: the end.
    pub fn next(&mut self, window: &mut Window, found: &mut Vec<Found>) -> bool {
        found.clear();
        while !self.done && found.len() < 4096 {
            let at = self.at;
            if at >= self.limit {
                self.finish(at);
                break;
            }
            // A batch ends with the bytes that are there; the next one reads on.
            if !found.is_empty() && window.ready(at) < EntryHeader::SIZE as u64 {
                break;
            }
            if self.deep && found.is_empty() && window.ready(at) < (STEP / 2) as u64 {
                window.get(at, STEP);
            }
            let header = EntryHeader::read(window.get(at, EntryHeader::SIZE), &self.place.at(at));
            let vouched = at < self.vouched.end;
            match header {
                Some(h) if h.flags & ENTRY_STREAMED != 0 => {
                    // Its end is in its trailer: whoever verifies it finds that.
                    found.push(Found { at, header: h, vouched: true });
                    self.done = true;
                }
                Some(h) if at.saturating_add(h.length) <= self.limit => {
                    if !found.is_empty() && (window.ready(at) < h.length || !self.deep) {
                        break;
                    }
                    self.at = at + h.length;
                    self.end = self.at;
                    found.push(Found { at, header: h, vouched });
                }
                other => {
                    if !found.is_empty() {
                        break;
                    }
                    self.no_entry(window, at, other.is_some());
                }
            }
        }
        !found.is_empty()
    }

    /// What is at `at` is no entry, or one that ends behind the file.
    fn no_entry(&mut self, window: &mut Window, at: u64, cut: bool) {
        let boundary = mailstrata_format::round_up(at, BLOCK as u64).unwrap_or(self.limit).min(self.limit);
        let gap = window.get(at, usize::try_from(boundary - at).unwrap_or(0));
        if boundary > at && gap.iter().all(|b| *b == 0) {
            self.bytes.padding += boundary - at;
            self.at = boundary;
            return;
        }
        let (next, used) = self.look_ahead(window, at);
        let stop = next.unwrap_or(self.limit);
        if at >= self.limit {
            return;
        }
        let vouched = at < self.vouched.end;
        if used == at && next.is_none() && !vouched {
            self.bytes.zeros += self.limit - at;
            self.done = true;
            self.counted = self.limit;
            return;
        }
        self.bytes.unknown += stop - at;
        if vouched && self.was_never_an_entry(at, stop) {
            let note = Draft::new(NoteKind::Slack, &self.path, at, stop - at, Repair::Nothing);
            self.drafts.push(note.because("it was no entry when the pack was sealed"));
        } else if vouched {
            self.hurt = true;
            let kind = if cut { DamageKind::FileTruncated } else { DamageKind::EntryHeader };
            let d = self.draft(kind, at, stop - at);
            self.drafts.push(d);
        } else {
            let len = used.max(at) - at;
            self.drafts.push(Draft::new(NoteKind::TornTail, &self.path, at, len.min(stop - at), Repair::Nothing));
        }
        self.at = stop;
        self.end = self.end.max(stop);
        if next.is_none() {
            self.done = true;
            self.counted = stop;
            self.cut_short(stop);
        }
    }

    /// Whether the pack's own index, sound as a whole, has no entry that starts in `at..stop`: then there was none when the
    /// pack was sealed. A power cut leaves such a place: a lost write among others of a flush, an earlier footer.
    fn was_never_an_entry(&self, at: u64, stop: u64) -> bool {
        let Some(entries) = &self.entries else { return false };
        let from = entries.partition_point(|e| *e < at);
        entries.get(from).is_none_or(|e| *e >= stop)
    }

    /// Tells where entries start as the pack's index has it.
    pub fn knowing(mut self, entries: Option<Vec<u64>>) -> Self {
        self.entries = entries;
        self
    }

    fn finish(&mut self, at: u64) {
        self.done = true;
        self.counted = at;
        self.cut_short(at);
    }

    fn cut_short(&mut self, at: u64) {
        if self.vouched.trailer.is_none() && self.vouched.end != u64::MAX && at < self.vouched.end {
            self.hurt = true;
            let d = self.draft(DamageKind::FileTruncated, at, self.vouched.end - at);
            self.drafts.push(d);
        }
    }

    /// The next entry header behind `at`, else the end of what is not zero. An index block ends the content when no trailer
    /// says where it ends.
    fn look_ahead(&mut self, window: &mut Window, at: u64) -> (Option<u64>, u64) {
        let mut used = at;
        let mut pos = at;
        while pos < self.limit {
            let aligned = pos.is_multiple_of(BLOCK as u64);
            if aligned {
                let block = window.get(pos, BLOCK);
                if block.is_empty() {
                    self.limit = pos;
                    break;
                }
                let zeros = block.iter().all(|b| *b == 0);
                if !zeros
                    && self.vouched.trailer.is_none()
                    && block.len() == BLOCK
                    && block_is_sound(&self.place.at(pos), block)
                {
                    self.limit = pos;
                    break;
                }
                if zeros {
                    pos += BLOCK as u64;
                    continue;
                }
            }
            let head = window.get(pos, EntryHeader::SIZE);
            if pos > at && head.starts_with(&ENTRY_MAGIC) && EntryHeader::read(head, &self.place.at(pos)).is_some() {
                return (Some(pos), used);
            }
            if head.get(..ALIGN.min(head.len())).is_some_and(|b| b.iter().any(|b| *b != 0)) {
                used = (pos + ALIGN as u64).min(self.limit);
            }
            pos += ALIGN as u64;
        }
        (None, used)
    }

    /// Takes in where a streamed entry ends.
    pub fn streamed_to(&mut self, end: u64, window: &mut Window) {
        self.end = end;
        self.at = end;
        let mut pos = end;
        let mut zeros = true;
        while pos < self.limit {
            let block = window.get(pos, BLOCK - usize::try_from(pos % BLOCK as u64).unwrap_or(0));
            let len = block.len() as u64;
            if len == 0 || (self.vouched.trailer.is_none() && block_is_sound(&self.place.at(pos), block)) {
                break;
            }
            zeros &= block.iter().all(|b| *b == 0);
            pos += len;
        }
        if !zeros {
            self.drafts.push(Draft::new(NoteKind::Slack, &self.path, end, pos - end, Repair::Nothing));
            self.bytes.unknown += pos - end;
        } else if pos - end < BLOCK as u64 {
            self.bytes.padding += pos - end;
        } else {
            self.bytes.zeros += pos - end;
        }
        self.counted = pos;
    }
}

/// Longest entry that is read in one piece; a longer one has its last part read twice.
const WHOLE_MAX: u64 = 16 << 20;

/// What verifying an entry gave.
#[derive(Debug, Default)]
pub struct Entry {
    /// Whether its blobs count as stored.
    pub stored: bool,
    pub rows: Vec<PackRow>,
    pub drafts: Vec<Draft>,
    /// Composed blobs whose recipes were read, and the digests and lengths of the parts that these name.
    pub composed: Vec<BlobRow>,
    pub parts: Vec<([u8; 32], u64)>,
    /// In bytes, header and trailer included; of a streamed one as its trailer says.
    pub length: u64,
    /// Uncompressed bytes that were hashed.
    pub hashed: u64,
}

/// What a thread needs to verify entries.
pub struct Verifier {
    zstd: Option<zstd::bulk::Decompressor<'static>>,
    raw: Vec<u8>,
}

impl Default for Verifier {
    fn default() -> Self {
        Self { zstd: zstd::bulk::Decompressor::new().ok(), raw: Vec::with_capacity(CHUNK_RAW_MAX + 1) }
    }
}

/// Stretch of an entry's raw bytes that is lost, and the draft that says why.
struct Lost {
    from: u64,
    to: u64,
    draft: usize,
}

impl Verifier {
    /// The raw bytes of a chunk.
    pub fn unpack<'a>(&'a mut self, c: &ChunkHeader, body: &'a [u8]) -> Option<&'a [u8]> {
        let stored = body.get(..c.stored_len as usize)?;
        if c.codec == mailstrata_format::frame::CODEC_PLAIN {
            return (c.stored_len == c.raw_len).then_some(stored);
        }
        self.raw.clear();
        let n = self.zstd.as_mut()?.decompress_to_buffer(stored, &mut self.raw).ok()?;
        (n == c.raw_len as usize).then_some(self.raw.as_slice())
    }

    /// Verifies an entry. `deep`: chunks and blobs as well. What nobody vouches for is always read, since only whole it counts.
    pub fn verify(&mut self, window: &mut Window, found: &Found, path: &str, place: &Binding, deep: bool) -> Entry {
        let Found { at, header: h, vouched } = *found;
        let mut out = Entry { stored: true, length: h.length, ..Entry::default() };
        let draft = |kind: DamageKind, at: u64, len: u64| Draft::new(kind, path, at, len, Repair::Rewrite);
        if h.reserved != 0 || h.reserved2 != [0; 8] {
            out.drafts.push(draft(DamageKind::Padding, at, EntryHeader::SIZE as u64));
        }
        if h.flags & ENTRY_STREAMED != 0 {
            self.streamed(window, at, path, place, deep, &mut out);
        } else {
            let trailer_at = at + h.length.saturating_sub(u64::from(h.trailer_len));
            // The trailer comes first: what lies before it is read with it, unless that is much.
            if (deep || !vouched) && h.length <= WHOLE_MAX {
                window.get(at, usize::try_from(h.length).unwrap_or(0));
            }
            let tail = window.get(trailer_at, h.trailer_len as usize);
            match pack::read_trailer(tail, &place.at(trailer_at)) {
                Some((t, rows)) => {
                    if t.reserved != 0 || t.reserved2 != [0; 12] {
                        out.drafts.push(draft(DamageKind::Padding, trailer_at, TrailerHeader::SIZE as u64));
                    }
                    let agrees = (t.blob_count, t.chunk_count, t.raw_len, t.entry_len)
                        == (h.blob_count, h.chunk_count, h.raw_len, h.length);
                    if !agrees {
                        let d = draft(DamageKind::EntryTrailer, trailer_at, h.trailer_len.into());
                        out.drafts.push(d.because("header and trailer disagree"));
                    }
                    out.rows = index_rows(&rows, at, h.length);
                    if deep || !vouched {
                        self.chunks(window, at, trailer_at, &h, &rows, path, place, deep, &mut out);
                    }
                }
                None => {
                    out.stored = false;
                    out.drafts.push(draft(DamageKind::EntryTrailer, at, h.length));
                    if deep {
                        // The chunks are checked all the same: what is wrong with them is told.
                        self.chunks(window, at, trailer_at, &h, &[], path, place, false, &mut out);
                    }
                }
            }
        }
        if !vouched && !out.drafts.is_empty() {
            let d = Draft::new(NoteKind::TornTail, path, at, out.length, Repair::Nothing);
            out.drafts = vec![d.because("an entry of a flush that was not finished")];
            out.rows.clear();
            out.stored = false;
        }
        out
    }

    #[expect(clippy::too_many_arguments, reason = "one call; a struct of its own would name nothing")]
    fn chunks(
        &mut self,
        window: &mut Window,
        entry: u64,
        trailer_at: u64,
        h: &EntryHeader,
        rows: &[BlobRow],
        path: &str,
        place: &Binding,
        hash: bool,
        out: &mut Entry,
    ) {
        let (plain, made): (Vec<BlobRow>, Vec<BlobRow>) = rows.iter().partition(|r| r.raw_offset <= RAW_OFFSET);
        let mut blobs = Blobs::new(if hash { &plain } else { &[] });
        let mut recipes = Recipes::new(if hash { &made } else { &[] });
        let mut lost = Vec::new();
        let mut at = entry + EntryHeader::SIZE as u64;
        let mut raw_at = 0u64;
        let mut index = 0u32;
        while index < h.chunk_count && at < trailer_at {
            let draft = |kind: DamageKind, len: u64| Draft::new(kind, path, at, len, Repair::Rewrite);
            let Some(c) = ChunkHeader::read(window.get(at, ChunkHeader::SIZE), &place.at(at)) else {
                // Its length is not known: the next chunk that verifies, or the trailer.
                let (next, c) = next_chunk(window, at, trailer_at, place);
                let raw_to = c.map_or(h.raw_len, |c| c.raw_offset);
                lost.push(Lost { from: raw_at, to: raw_to, draft: out.drafts.len() });
                out.drafts.push(draft(DamageKind::Chunk, next - at));
                blobs.skip_to(raw_to);
                recipes.skip_to(raw_to);
                (at, raw_at, index) = (next, raw_to, c.map_or(h.chunk_count, |c| c.index));
                continue;
            };
            let len = pack::chunk_len(c.stored_len);
            let raw_end = raw_at + u64::from(c.raw_len);
            let body = window.get(
                at + ChunkHeader::SIZE as u64,
                usize::try_from(len).unwrap_or(0).saturating_sub(ChunkHeader::SIZE),
            );
            let in_order = c.index == index && c.raw_offset == raw_at && c.reserved == [0; 3];
            let sound = in_order && c.vouches_for(body, &place.at(at));
            let raw = if sound { self.unpack(&c, body) } else { None };
            match raw {
                Some(raw) => {
                    if hash {
                        blobs.take(raw_at, raw);
                        recipes.take(raw_at, raw);
                        out.hashed += raw.len() as u64;
                    }
                }
                None => {
                    lost.push(Lost { from: raw_at, to: raw_end, draft: out.drafts.len() });
                    let d = draft(DamageKind::Chunk, len);
                    out.drafts.push(if in_order { d } else { d.because("chunks are not in order") });
                    blobs.skip_to(raw_end);
                    recipes.skip_to(raw_end);
                }
            }
            (at, raw_at, index) = (at + len, raw_end, index + 1);
        }
        if (at, raw_at, index) != (trailer_at, h.raw_len, h.chunk_count) && out.drafts.is_empty() {
            let d = Draft::new(DamageKind::EntryHeader, path, entry, h.length, Repair::Rewrite);
            out.drafts.push(d.because("its chunks do not add up to what it says"));
        }
        // Blobs in lost stretches, then those whose bytes verify and are others.
        for row in &plain {
            let end = row.raw_offset + row.length;
            for l in lost.iter().filter(|l| row.raw_offset < l.to && l.from < end.max(row.raw_offset + 1)) {
                if let Some(d) = out.drafts.get_mut(l.draft) {
                    d.digests.push(row.digest);
                }
            }
        }
        if hash {
            for (row, what) in recipes.finish() {
                let start = row.raw_offset & RAW_OFFSET;
                // Its bytes end where its recipe says; of one that did not come whole at least its start is known.
                let end = match &what {
                    Some((len, pieces)) => {
                        let own = pieces.iter().filter(|p| p.kind == PIECE_OWN).map(|p| p.length);
                        own.fold(start + *len as u64, u64::saturating_add)
                    }
                    None => start + RecipeHeader::SIZE as u64,
                };
                let mut hit = false;
                let whole = what.is_some();
                for l in lost.iter().filter(|l| start < l.to && (l.from < end || (!whole && l.from < end + RECIPE_MAX)))
                {
                    if let Some(d) = out.drafts.get_mut(l.draft) {
                        d.digests.push(row.digest);
                        hit = true;
                    }
                }
                if hit {
                    continue;
                }
                match what {
                    Some((_, pieces)) if end <= h.raw_len && row.raw_offset & !RAW_OFFSET == COMPOSED => {
                        out.composed.push(row);
                        let named = pieces.iter().filter(|p| p.kind == PIECE_PART);
                        out.parts.extend(named.map(|p| (p.digest, p.length)));
                        // Its new parts lie in its own bytes.
                        let within =
                            |r: &&BlobRow| start <= r.raw_offset && r.raw_offset.saturating_add(r.length) <= end;
                        out.parts.extend(plain.iter().filter(within).map(|r| (r.digest, r.length)));
                    }
                    _ => {
                        let mut d = Draft::new(DamageKind::Recipe, path, entry, h.length, Repair::Rewrite)
                            .because(format!("blob {}", Digest(row.digest)));
                        d.digests.push(row.digest);
                        out.drafts.push(d);
                    }
                }
            }
        }
        for (row, is) in blobs.finish() {
            if is.0 != row.digest && !lost.iter().any(|l| row.raw_offset < l.to && l.from < row.raw_offset + row.length)
            {
                let mut d = Draft::new(DamageKind::BlobDigest, path, entry, h.length, Repair::Rewrite)
                    .because(format!("blob {} has other bytes", Digest(row.digest)));
                d.digests.push(row.digest);
                out.drafts.push(d);
            }
        }
    }

    fn streamed(&mut self, window: &mut Window, entry: u64, path: &str, place: &Binding, deep: bool, out: &mut Entry) {
        let draft = |kind: DamageKind, at: u64, len: u64| Draft::new(kind, path, at, len, Repair::Rewrite);
        let mut at = entry + EntryHeader::SIZE as u64;
        let (mut raw_at, mut index) = (0u64, 0u32);
        let mut hasher = Hasher::default();
        let mut lost = Vec::new();
        loop {
            let head = window.get(at, ChunkHeader::SIZE);
            if let Some(c) = ChunkHeader::read(head, &place.at(at)) {
                let len = pack::chunk_len(c.stored_len);
                if deep {
                    let body_len = usize::try_from(len).unwrap_or(0).saturating_sub(ChunkHeader::SIZE);
                    let body = window.get(at + ChunkHeader::SIZE as u64, body_len);
                    let sound = c.index == index && c.raw_offset == raw_at && c.vouches_for(body, &place.at(at));
                    let raw = if sound { self.unpack(&c, body) } else { None };
                    match raw {
                        Some(raw) => {
                            hasher.update(raw);
                            out.hashed += raw.len() as u64;
                        }
                        None => {
                            lost.push(out.drafts.len());
                            out.drafts.push(draft(DamageKind::Chunk, at, len));
                        }
                    }
                }
                (at, raw_at, index) = (at + len, raw_at + u64::from(c.raw_len), index + 1);
                continue;
            }
            let tail = window.get(at, TrailerHeader::SIZE + BlobRow::SIZE);
            if let Some((t, rows)) = pack::read_trailer(tail, &place.at(at)) {
                let end = at + (TrailerHeader::SIZE + rows.len() * BlobRow::SIZE) as u64;
                out.length = end - entry;
                let agrees = (t.chunk_count, t.raw_len, t.entry_len) == (index, raw_at, end - entry) && rows.len() == 1;
                if !agrees && lost.is_empty() {
                    let d = draft(DamageKind::EntryTrailer, at, end - at).because("it says something else");
                    out.drafts.push(d);
                }
                out.rows = index_rows(&rows, entry, out.length);
                if let Some(row) = rows.first().filter(|_| deep) {
                    if lost.is_empty() && agrees && hasher.finish().0 != row.digest {
                        let d = draft(DamageKind::BlobDigest, entry, out.length);
                        lost.push(out.drafts.len());
                        out.drafts.push(d);
                    }
                    for i in lost {
                        if let Some(d) = out.drafts.get_mut(i) {
                            d.digests.push(row.digest);
                        }
                    }
                }
                return;
            }
            // Neither: look for the next one of either kind.
            let (next, c) = next_chunk(window, at, window.end, place);
            let kind = if c.is_none() && next >= window.end { DamageKind::EntryTrailer } else { DamageKind::Chunk };
            lost.push(out.drafts.len());
            // An index names the entry: what is lost is found by its start.
            let mut d = draft(kind, if c.is_none() && next >= window.end { entry } else { at }, next - at);
            if next >= window.end {
                d.finding.length = next - entry;
                out.drafts.push(d);
                out.length = next - entry;
                out.stored = false;
                return;
            }
            out.drafts.push(d);
            if let Some(c) = c {
                (raw_at, index) = (c.raw_offset, c.index);
            }
            at = next;
        }
    }
}

/// Rows of a trailer as an index has them.
fn index_rows(rows: &[BlobRow], entry_offset: u64, entry_len: u64) -> Vec<PackRow> {
    let row =
        |r: &BlobRow| PackRow { digest: r.digest, entry_offset, entry_len, raw_offset: r.raw_offset, length: r.length };
    rows.iter().map(row).collect()
}

/// The next chunk that verifies behind `at`, or the trailer, or `to`.
fn next_chunk(window: &mut Window, at: u64, to: u64, place: &Binding) -> (u64, Option<ChunkHeader>) {
    let mut pos = at + ALIGN as u64;
    while pos < to {
        let head = window.get(pos, TrailerHeader::SIZE);
        if head.starts_with(&pack::CHUNK_MAGIC)
            && let Some(c) = ChunkHeader::read(head, &place.at(pos))
        {
            return (pos, Some(c));
        }
        if head.starts_with(&pack::TRAILER_MAGIC) && pack::trailer_len(head, &place.at(pos)).is_some() {
            return (pos, None);
        }
        pos += ALIGN as u64;
    }
    (to, None)
}

/// Digests of blobs whose bytes come in order; ranges may overlap.
struct Blobs {
    /// Not begun, by their start.
    waiting: VecDeque<BlobRow>,
    open: Vec<(BlobRow, Hasher)>,
    done: Vec<(BlobRow, Digest)>,
}

impl Blobs {
    fn new(rows: &[BlobRow]) -> Self {
        let mut waiting: Vec<BlobRow> = rows.to_vec();
        waiting.sort_unstable_by_key(|r| r.raw_offset);
        Self { waiting: waiting.into(), open: Vec::new(), done: Vec::new() }
    }

    /// Bytes at a place; none before were left out.
    fn take(&mut self, at: u64, raw: &[u8]) {
        let end = at + raw.len() as u64;
        while let Some(row) = self.waiting.front().copied().filter(|r| r.raw_offset < end) {
            self.waiting.pop_front();
            self.open.push((row, Hasher::default()));
        }
        let done = &mut self.done;
        self.open.retain_mut(|(row, hasher)| {
            let last = row.raw_offset + row.length;
            let from = usize::try_from(row.raw_offset.max(at) - at).unwrap_or(usize::MAX);
            let to = usize::try_from(last.min(end).saturating_sub(at)).unwrap_or(0);
            hasher.update(raw.get(from..to).unwrap_or_default());
            if last <= end {
                done.push((*row, std::mem::take(hasher).finish()));
            }
            last > end
        });
    }

    /// Bytes up to here are lost, and with them the blobs that have some of them.
    fn skip_to(&mut self, end: u64) {
        self.open.clear();
        while self.waiting.front().is_some_and(|r| r.raw_offset < end) {
            self.waiting.pop_front();
        }
    }

    /// All blobs whose bytes came, with what they are.
    fn finish(mut self) -> Vec<(BlobRow, Digest)> {
        // Empty ones may stand behind the last byte.
        for row in self.waiting.into_iter().filter(|r| r.length == 0) {
            self.done.push((row, Digest::of(&[])));
        }
        self.done
    }
}

/// Longest recipe, in bytes.
const RECIPE_MAX: u64 = (RecipeHeader::SIZE + pack::PIECES_MAX * Piece::SIZE) as u64;

/// A recipe whose bytes come.
struct Coming {
    row: BlobRow,
    bytes: Vec<u8>,
}

/// Length in bytes, and pieces; `None`: it did not come whole, or is not possible.
type Recipe = Option<(usize, Vec<Piece>)>;

/// Recipes of composed blobs, whose bytes come in order.
struct Recipes {
    /// Not begun, by their start.
    waiting: VecDeque<BlobRow>,
    open: Vec<Coming>,
    done: Vec<(BlobRow, Recipe)>,
}

impl Recipes {
    fn new(rows: &[BlobRow]) -> Self {
        let mut waiting: Vec<BlobRow> = rows.to_vec();
        waiting.sort_unstable_by_key(|r| r.raw_offset & RAW_OFFSET);
        Self { waiting: waiting.into(), open: Vec::new(), done: Vec::new() }
    }

    /// Bytes at a place; none before were left out.
    fn take(&mut self, at: u64, raw: &[u8]) {
        let end = at + raw.len() as u64;
        while let Some(row) = self.waiting.front().copied().filter(|r| r.raw_offset & RAW_OFFSET < end) {
            self.waiting.pop_front();
            self.open.push(Coming { row, bytes: Vec::new() });
        }
        let done = &mut self.done;
        self.open.retain_mut(|c| {
            let from = (c.row.raw_offset & RAW_OFFSET) + c.bytes.len() as u64;
            let mut rest = usize::try_from(from.saturating_sub(at)).ok().and_then(|n| raw.get(n..)).unwrap_or_default();
            for step in 0..2 {
                let need = match step {
                    0 => RecipeHeader::SIZE,
                    _ if c.bytes.len() < RecipeHeader::SIZE => return true,
                    _ => match recipe::length(&c.bytes) {
                        Some(need) => need,
                        None => break,
                    },
                };
                let (now, later) = rest.split_at(need.saturating_sub(c.bytes.len()).min(rest.len()));
                c.bytes.extend_from_slice(now);
                rest = later;
                if step == 1 && c.bytes.len() < need {
                    return true;
                }
            }
            let pieces = recipe::decode(&c.bytes, c.row.length);
            done.push((c.row, pieces.map(|p| (c.bytes.len(), p))));
            false
        });
    }

    /// Bytes up to here are lost, and with them the recipes that have some of them.
    fn skip_to(&mut self, end: u64) {
        self.done.extend(self.open.drain(..).map(|c| (c.row, None)));
        while let Some(row) = self.waiting.front().copied().filter(|r| r.raw_offset & RAW_OFFSET < end) {
            self.waiting.pop_front();
            self.done.push((row, None));
        }
    }

    /// All of them.
    fn finish(mut self) -> Vec<(BlobRow, Recipe)> {
        self.skip_to(u64::MAX);
        self.done
    }
}

/// Rows that lie inside another one's bytes, of one entry: parts of a message that is stored in one piece.
#[must_use]
pub fn inner(rows: &[PackRow]) -> Vec<PackRow> {
    let mut sorted: Vec<&PackRow> = rows.iter().filter(|r| r.raw_offset <= RAW_OFFSET && r.length > 0).collect();
    sorted.sort_unstable_by_key(|r| (r.raw_offset, std::cmp::Reverse(r.length)));
    let mut out = Vec::new();
    let mut outer: Option<(u64, u64)> = None;
    for r in sorted {
        let end = r.raw_offset.saturating_add(r.length);
        match outer {
            Some((from, to)) if end <= to && (r.raw_offset, end) != (from, to) => out.push(*r),
            Some((_, to)) if end <= to => {}
            _ => outer = Some((r.raw_offset, end)),
        }
    }
    out
}
