//! The log: every group and frame of a segment or run, the chain, LSNs, padding, the zeros behind.
//!
//! In comes a file and what vouches for its content; out come its frames, findings, and bytes by class. Written from
//! `SPEC.md` §5 and §12, not from the store's own walk: a mistake there must not be made here, too.

use super::finding::{Bytes, Draft, Repair};
use super::window::Window;
use mailstrata_format::checksum::block_is_sound;
use mailstrata_format::file::FileHeader;
use mailstrata_format::frame::{
    self, CODEC_ZSTD, Envelope, FLAG_SOURCE, FRAME_LEN_MAX, Frame, FrameFault, FrameHeader, KIND_CURSOR, KIND_REQUIRED,
    KIND_TRANSACTION, ROLE_CONTENT,
};
use mailstrata_format::index::{Row, Trailer};
use mailstrata_format::manifest::ManifestEntry;
use mailstrata_format::record::v1::{self, present};
use mailstrata_format::segment::{self, FLAG_RUN, GroupHeader};
use mailstrata_format::{ALIGN, BLOCK, Binding, DamageKind, FileKind, FileName, ItemKey, NoteKind, Operation, StoreId};

/// What a later file says of the group before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Next {
    pub previous: [u8; 16],
    pub first_group: u64,
}

/// What vouches for content from outside the groups (`SPEC.md` §12).
#[derive(Debug, Clone, Copy, Default)]
pub struct Vouched {
    /// The manifest's durable mark, when it lies in this file.
    pub mark_end: u64,
    pub mark_chain: [u8; 16],
    /// A later file and what it continues.
    pub next: Option<Next>,
    /// The manifest's entry, when it says sealed.
    pub entry: Option<ManifestEntry>,
    /// The file's own trailer.
    pub trailer: Option<Trailer>,
}

/// What a walk found.
#[derive(Debug, Clone, Default)]
pub struct Walked {
    pub header: Option<FileHeader>,
    /// Where the content ends, a multiple of 4096 unless the file was cut.
    pub end: u64,
    pub chain: [u8; 16],
    pub group: u64,
    pub lsns: Option<(u64, u64)>,
    pub moments: Option<(i64, i64)>,
    pub groups: u64,
    pub frames: u64,
    /// Header, content, padding, zeros, unknown up to where an index starts.
    pub bytes: Bytes,
    /// Where the bytes counted end.
    pub counted: u64,
    pub drafts: Vec<Draft>,
    /// Whether a damaged stretch was met.
    pub hurt: bool,
    /// Pack and end that groups name, in order.
    pub packs: Vec<(u64, u64)>,
    /// The last group started here; it is the first one's place when there is none.
    pub torn: bool,
}

/// A log file to walk.
pub struct LogFile<'a> {
    pub path: &'a str,
    /// What its header or, failing that, its name says it is.
    pub name: FileName,
    pub store: StoreId,
    pub vouched: Vouched,
}

/// Sees a record's envelope, the account's address and the item's native id.
pub type Names<'n> = dyn FnMut(&Envelope, &[u8], &[u8]) + 'n;

/// Takes each frame that verifies, with its place; gives what is wrong with its record.
pub type Visit<'v> = dyn FnMut(&Frame<'_>, u64) -> Option<(DamageKind, String)> + 'v;

struct Ahead {
    zeros: bool,
    next: Option<u64>,
    used: u64,
}

impl LogFile<'_> {
    fn draft(&self, kind: DamageKind, at: u64, len: u64) -> Draft {
        Draft::new(kind, self.path, at, len, Repair::Rewrite)
    }

    fn is_run(&self) -> bool {
        self.name.kind == FileKind::Run
    }

    /// Walks up to the window's end, which is the content's end when the trailer says where that is.
    pub fn walk(&self, window: &mut Window, visit: &mut Visit<'_>) -> Walked {
        let place = Binding::new(self.store, self.name, 0);
        let mut out = Walked { end: BLOCK as u64, ..Walked::default() };
        let mut chain_known = !self.is_run();
        let head = window.get(0, BLOCK);
        let head_len = head.len() as u64;
        out.bytes.header = head_len;
        match FileHeader::read(head, self.store, self.name) {
            Ok(h) => {
                if !self.is_run() {
                    out.group = h.first_group.saturating_sub(1);
                    out.chain = h.previous;
                    out.lsns = None;
                }
                let used = FileHeader::SIZE + h.replaced(head).len() * mailstrata_format::file::Replaced::SIZE;
                if h.reserved != [0; 8] || head.get(used..BLOCK - 16).is_none_or(|r| r.iter().any(|b| *b != 0)) {
                    out.drafts.push(self.draft(DamageKind::Padding, 0, BLOCK as u64));
                }
                out.header = Some(h);
            }
            Err(_) => {
                out.bytes.header = 0;
                out.bytes.unknown = head_len;
                out.hurt = true;
                out.drafts.push(self.draft(DamageKind::FileHeader, 0, head_len));
                chain_known = false;
            }
        }
        chain_known |= self.is_run();
        out.end = out.end.min(window.end);
        let mut last_lsn = out.header.map_or(0, |h| h.first_lsn.saturating_sub(1));
        let mut last_key = None;
        loop {
            let at = out.end;
            let v = &self.vouched;
            let complete = v.next.is_some_and(|n| n.previous == out.chain && n.first_group == out.group + 1)
                || v.entry.is_some_and(|e| e.root == out.chain)
                || v.trailer.is_some_and(|t| t.root == out.chain);
            let vouched = v.mark_end > at || v.next.is_some() || v.entry.is_some() || v.trailer.is_some();
            if at >= window.end {
                if vouched && !complete {
                    let mut d = self.draft(DamageKind::FileTruncated, at, 0);
                    d.finding.lsns = self.lost_behind(last_lsn);
                    d.finding.length = u64::MAX - at;
                    d.finding.repair = Repair::Lost;
                    out.drafts.push(d);
                    out.hurt = true;
                }
                break;
            }
            if let Some(h) = group_at(window, at, &place) {
                let continues = h.sequence == out.group + 1 && h.previous == out.chain;
                if chain_known && !continues {
                    let what = if h.previous == out.chain {
                        format!("group {} follows group {}", h.sequence, out.group)
                    } else {
                        format!("group {} continues another group than the one before it", h.sequence)
                    };
                    out.drafts.push(self.draft(DamageKind::Chain, at, 0).because(what));
                } else if !chain_known && h.sequence <= out.group {
                    out.drafts.push(self.draft(DamageKind::Chain, at, 0).because("group numbers fall"));
                }
                chain_known = true;
                self.take(window, at, &h, &place, &mut out, &mut last_lsn, &mut last_key, visit);
                if at + u64::from(h.length) == v.mark_end && out.chain != v.mark_chain {
                    let d = Draft::new(DamageKind::ManifestDiffers, self.path, at, 0, Repair::RebuildManifest)
                        .because("the manifest names another last group here");
                    out.drafts.push(d);
                }
                continue;
            }
            let ahead = self.look_ahead(window, at, &place);
            if at >= window.end {
                // An index starts here.
                continue;
            }
            if complete || !(vouched || ahead.next.is_some()) {
                if ahead.zeros {
                    out.bytes.zeros += window.end - at;
                } else {
                    out.torn = true;
                    out.bytes.unknown += window.end - at;
                    let d = Draft::new(NoteKind::TornTail, self.path, at, ahead.used - at, Repair::Nothing);
                    out.drafts.push(d);
                }
                out.counted = window.end;
                return out;
            }
            out.hurt = true;
            let stop = self.damaged(window, at, &ahead, &place, &mut out, &mut last_lsn, visit);
            chain_known = out.chain_after(window, at, &place);
            out.end = stop.max(at + 8).min(window.end);
        }
        out.counted = out.end;
        out
    }

    /// LSNs behind the last one that something says were there.
    fn lost_behind(&self, last: u64) -> Option<(u64, u64)> {
        let until = self.vouched.entry.map(|e| e.last_lsn).or(self.vouched.trailer.map(|t| t.last_lsn))?;
        (until > last && !self.is_run()).then_some((last + 1, until))
    }

    /// Takes in a group that verifies.
    #[expect(clippy::too_many_arguments, reason = "one call; a struct of its own would name nothing")]
    fn take(
        &self,
        window: &mut Window,
        at: u64,
        h: &GroupHeader,
        place: &Binding,
        out: &mut Walked,
        last_lsn: &mut u64,
        last_key: &mut Option<([u8; 32], u64)>,
        visit: &mut Visit<'_>,
    ) {
        let run = self.is_run();
        let reserved = h.reserved != 0 || h.reserved2 != [0; 12] || h.flags != if run { FLAG_RUN } else { 0 };
        if reserved {
            out.drafts.push(self.draft(DamageKind::Padding, at, GroupHeader::SIZE as u64));
        }
        if !run {
            if h.first_lsn <= *last_lsn {
                let what = format!("LSN {} follows LSN {last_lsn}", h.first_lsn);
                out.drafts.push(self.draft(DamageKind::Chain, at, 0).because(what));
            } else if h.first_lsn > *last_lsn + 1 {
                let gap = Some((*last_lsn + 1, h.first_lsn - 1));
                match out.drafts.iter_mut().rev().find(|d| d.covers(at.saturating_sub(1)) && out.hurt) {
                    Some(d) => d.finding.lsns = gap,
                    None => {
                        let mut d = Draft::new(NoteKind::Gap, self.path, at, 0, Repair::Nothing);
                        d.finding.lsns = gap;
                        out.drafts.push(d);
                    }
                }
            }
            if h.durable_lsn >= h.first_lsn {
                let what = format!("it says that LSN {} was durable before it was written", h.durable_lsn);
                out.drafts.push(self.draft(DamageKind::Record, at, 0).because(what));
            }
            if h.pack != 0 && out.packs.last() != Some(&(h.pack, h.pack_end)) {
                match out.packs.last_mut() {
                    Some(last) if last.0 == h.pack => last.1 = last.1.max(h.pack_end),
                    _ => out.packs.push((h.pack, h.pack_end)),
                }
            }
        }
        let length = h.length as usize;
        let used = h.used as usize;
        let group = window.get(at, length);
        let mut pos = GroupHeader::SIZE;
        let mut count = 0u32;
        let mut drafts = Vec::new();
        while pos < used {
            let here = at + pos as u64;
            let bytes = group.get(pos..used).unwrap_or_default();
            match frame::parse(bytes, &place.at(here)) {
                Ok(f) => {
                    let lsn = f.header.lsn;
                    if !run && lsn != h.first_lsn + u64::from(count) {
                        let d = self.draft(DamageKind::Record, here, f.len as u64);
                        drafts.push(d.because(format!("LSN {lsn} is not the one that its group says")));
                    }
                    if run {
                        let key = (key_of(&f.envelope), lsn);
                        if last_key.is_some_and(|k| k >= key) {
                            drafts.push(self.draft(DamageKind::Order, here, f.len as u64).because("frames of a run"));
                        }
                        *last_key = Some(key);
                    }
                    *last_lsn = (*last_lsn).max(lsn);
                    count += 1;
                    out.visit(&f, here, self, &mut drafts, visit);
                    pos += f.len;
                }
                Err(fault) => {
                    // The group verifies, so this is how it was written.
                    let (kind, len) = match fault {
                        FrameFault::Header | FrameFault::Cut { .. } => (DamageKind::FrameHeader, used - pos),
                        FrameFault::Body { len } => (DamageKind::FrameBody, len),
                        FrameFault::Malformed { len } => (DamageKind::Record, len),
                    };
                    drafts.push(self.draft(kind, here, len as u64));
                    out.hurt = true;
                    pos += len.max(ALIGN);
                }
            }
        }
        if count != h.frame_count && !out.hurt {
            let what = format!("{count} frames, its header says {}", h.frame_count);
            drafts.push(self.draft(DamageKind::Record, at, 0).because(what));
        }
        if group.get(used..length).is_none_or(|pad| pad.iter().any(|b| *b != 0)) {
            drafts.push(self.draft(DamageKind::Padding, at + used as u64, (length - used) as u64));
        }
        out.drafts.append(&mut drafts);
        out.groups += 1;
        out.bytes.content += u64::from(h.used);
        out.bytes.padding += u64::from(h.length - h.used);
        out.end = at + u64::from(h.length);
        out.group = h.sequence;
        out.chain = h.check;
    }

    /// A damaged stretch from `at` on: says what it is, saves what verifies in it, and where the walk goes on.
    #[expect(clippy::too_many_arguments, reason = "one call; a struct of its own would name nothing")]
    fn damaged(
        &self,
        window: &mut Window,
        at: u64,
        ahead: &Ahead,
        place: &Binding,
        out: &mut Walked,
        last_lsn: &mut u64,
        visit: &mut Visit<'_>,
    ) -> u64 {
        let header = segment::header_at(window.get(at, GroupHeader::SIZE), &place.at(at));
        let limit = window.end;
        let stop = match &header {
            Some(h) => (at + u64::from(h.length)).min(ahead.next.unwrap_or(u64::MAX)).min(limit),
            None => ahead.next.unwrap_or(limit),
        };
        let first_draft = out.drafts.len();
        let whole = match header {
            Some(_) => self.draft(DamageKind::GroupBody, at, stop - at),
            None => self.draft(DamageKind::GroupHeader, at, stop - at),
        };
        out.drafts.push(whole);
        let frames_end = header.map_or(stop, |h| (at + u64::from(h.used)).min(stop));
        let mut pos = at + if header.is_some() { GroupHeader::SIZE as u64 } else { 0 };
        let mut gap = None;
        let mut found = Vec::new();
        let mut gaps = Vec::new();
        while pos < stop {
            let here = place.at(pos);
            let Some((fh, len)) = frame::header_at(window.get(pos, FrameHeader::SIZE), &here) else {
                gap.get_or_insert(pos);
                pos += ALIGN as u64;
                continue;
            };
            if let Some(from) = gap.take() {
                gaps.push((from, pos));
            }
            let bytes = window.get(pos, len);
            match frame::parse(bytes, &here) {
                Ok(f) => {
                    found.push(f.header.lsn);
                    *last_lsn = (*last_lsn).max(f.header.lsn);
                    let mut drafts = Vec::new();
                    out.visit(&f, pos, self, &mut drafts, visit);
                    out.drafts.append(&mut drafts);
                    pos += f.len as u64;
                }
                Err(fault) => {
                    let len = (len as u64).min(stop - pos);
                    let kind = if matches!(fault, FrameFault::Malformed { .. }) {
                        DamageKind::Record
                    } else {
                        DamageKind::FrameBody
                    };
                    let mut d = self.draft(kind, pos, len);
                    d.finding.lsns = Some((fh.lsn, fh.lsn));
                    if let Some(e) = bytes.get(FrameHeader::SIZE..).and_then(Envelope::decode) {
                        d.rows.push((row_of(&e, fh.lsn, pos, len), false));
                        d.names = names_in(&fh, &e, bytes);
                    }
                    out.drafts.push(d);
                    *last_lsn = (*last_lsn).max(fh.lsn);
                    pos += len.max(ALIGN as u64);
                }
            }
        }
        if let Some(from) = gap {
            gaps.push((from, stop));
        }
        out.bytes.unknown += stop - at;
        if let Some(h) = header {
            // Its header says what should be in it: bad frame headers are the gaps between the frames.
            for (from, to) in gaps.into_iter().filter(|g| g.0 < frames_end) {
                out.drafts.push(self.draft(DamageKind::FrameHeader, from, to.min(frames_end) - from));
            }
            if out.drafts.len() > first_draft + 1 && !found.is_empty() | (h.frame_count == 1) {
                out.drafts.remove(first_draft);
            } else if out.drafts.len() == first_draft + 1
                && let Some(d) = out.drafts.get_mut(first_draft)
            {
                d.finding.detail = "all its frames verify".into();
            }
            out.groups += 1;
            out.group = h.sequence;
            out.chain = h.check;
            *last_lsn = (*last_lsn).max(h.first_lsn + u64::from(h.frame_count).saturating_sub(1));
            if h.pack != 0 {
                out.packs.push((h.pack, h.pack_end));
            }
        } else if ahead.next.is_none()
            && let Some(d) = out.drafts.get_mut(first_draft)
        {
            d.finding.lsns = self.lost_behind(*last_lsn);
        }
        stop
    }

    /// Whether only zeros follow; the next group that verifies behind `at`; the end of what is not zero. A block that
    /// verifies as one of an index ends the content, when no trailer says where it ends.
    fn look_ahead(&self, window: &mut Window, at: u64, place: &Binding) -> Ahead {
        let mut out = Ahead { zeros: true, next: None, used: at };
        let mut pos = at;
        while pos < window.end {
            let block = window.get(pos, BLOCK);
            if block.is_empty() {
                window.end = pos;
                break;
            }
            if let Some(last) = block.iter().rposition(|b| *b != 0) {
                if self.vouched.trailer.is_none() && block.len() == BLOCK && block_is_sound(&place.at(pos), block) {
                    window.end = pos;
                    break;
                }
                out.zeros = false;
                out.used = pos + last as u64 + 1;
                if pos > at && group_at(window, pos, place).is_some() {
                    out.next = Some(pos);
                    break;
                }
            }
            pos += BLOCK as u64;
        }
        out
    }
}

impl Walked {
    /// Whether the header of the damaged group at `at` still says what follows.
    fn chain_after(&self, window: &mut Window, at: u64, place: &Binding) -> bool {
        segment::header_at(window.get(at, GroupHeader::SIZE), &place.at(at)).is_some()
    }

    fn visit(&mut self, f: &Frame<'_>, at: u64, file: &LogFile<'_>, drafts: &mut Vec<Draft>, visit: &mut Visit<'_>) {
        let (lsn, moment) = (f.header.lsn, f.envelope.moment);
        self.frames += 1;
        self.lsns = Some(self.lsns.map_or((lsn, lsn), |l| (l.0.min(lsn), l.1.max(lsn))));
        self.moments = Some(self.moments.map_or((moment, moment), |m| (m.0.min(moment), m.1.max(moment))));
        if let Some((kind, what)) = visit(f, at) {
            let mut d = file.draft(kind, at, f.len as u64).because(what);
            d.rows.push((row_of(&f.envelope, lsn, at, f.len as u64), true));
            drafts.push(d);
        }
    }
}

/// The group at a place, when all of it verifies.
fn group_at(window: &mut Window, at: u64, place: &Binding) -> Option<GroupHeader> {
    let h = segment::header_at(window.get(at, GroupHeader::SIZE), &place.at(at))?;
    let group = window.get(at, h.length as usize);
    segment::is_sound(&h, group, &place.at(at)).then_some(h)
}

/// Account and item of an envelope, as an index key.
#[must_use]
pub fn key_of(e: &Envelope) -> [u8; 32] {
    let mut key = [0; 32];
    let (account, item) = key.split_at_mut(16);
    account.copy_from_slice(&e.account);
    item.copy_from_slice(&e.item);
    key
}

/// The index row of a frame.
#[must_use]
pub fn row_of(e: &Envelope, lsn: u64, offset: u64, len: u64) -> Row {
    let source = if e.flags & FLAG_SOURCE == 0 { 0 } else { e.source_hash };
    Row {
        account: e.account,
        item: e.item,
        lsn,
        moment: e.moment,
        offset: u32::try_from(offset).unwrap_or(u32::MAX),
        length: u32::try_from(len).unwrap_or(u32::MAX),
        item_kind: e.item_kind,
        operation: e.operation,
        flags: e.flags,
        source: (source & u64::from(u32::MAX)) as u32,
    }
}

/// Reads records: one for each thread.
pub struct Judge {
    zstd: Option<zstd::bulk::Decompressor<'static>>,
    raw: Vec<u8>,
    source: Vec<u8>,
}

impl Default for Judge {
    fn default() -> Self {
        Self { zstd: zstd::bulk::Decompressor::new().ok(), raw: Vec::new(), source: Vec::new() }
    }
}

impl Judge {
    /// What is wrong with a record that verifies; `None`: nothing. `names` sees account and native id.
    pub fn judge(&mut self, f: &Frame<'_>, names: &mut Names<'_>) -> Option<(DamageKind, String)> {
        let bad = |what: &str| Some((DamageKind::Record, what.to_owned()));
        let e = f.envelope;
        if f.header.reserved != 0 || e.reserved != 0 || f.blobs().any(|b| b.reserved != [0; 6]) {
            return Some((DamageKind::Padding, "reserved bytes".into()));
        }
        if !matches!(f.header.kind, KIND_TRANSACTION | KIND_CURSOR) {
            return (f.header.kind & KIND_REQUIRED != 0)
                .then(|| (DamageKind::RequiredKind, format!("kind {}", f.header.kind)));
        }
        if Operation::from_code(e.operation).is_none() {
            return bad("no such operation");
        }
        let Self { zstd, raw, source: out } = self;
        let Some(bytes) = payload(zstd.as_mut(), raw, f) else {
            return bad("the payload does not decompress to its length");
        };
        let Ok(t) = v1::access(bytes) else { return bad("the payload is no transaction") };
        if ItemKey::of(e.item_kind, &t.item).0 != e.item {
            return bad("the item key is not that of the native id");
        }
        let roles = t.roles.len();
        let known = |b: frame::BlobRef| {
            b.algorithm == mailstrata_format::digest::SHA256 && (b.role == ROLE_CONTENT || usize::from(b.role) < roles)
        };
        if !f.blobs().all(known) {
            return bad("a blob of an unknown role or digest");
        }
        let sourced = t.present.to_native() & present::SOURCE != 0;
        if sourced != (e.flags & FLAG_SOURCE != 0) || (!sourced && e.source_hash != 0) {
            return bad("envelope and payload differ about the source");
        }
        names(&e, &t.account, &t.item);
        if sourced {
            let (name, position) = (&*t.source_name, &*t.source_position);
            out.clear();
            out.extend_from_slice(&key_of(&e));
            out.extend_from_slice(&(name.len() as u64).to_le_bytes());
            out.extend_from_slice(name);
            out.extend_from_slice(position);
            if mailstrata_format::index::key_hash(out).max(1) != e.source_hash {
                return bad("the source hash is not that of the source");
            }
        }
        None
    }
}

/// Address and native id in a frame that does not verify. The item key is a hash of the native id: if they match, no bit of
/// it has flipped.
fn names_in(h: &FrameHeader, e: &Envelope, frame: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let from = FrameHeader::SIZE + usize::from(h.envelope_len);
    let stored = frame.get(from..from.checked_add(h.payload_len as usize)?)?;
    let unpacked;
    let bytes = if h.codec == CODEC_ZSTD {
        unpacked = zstd::bulk::decompress(stored, (h.raw_len as usize).min(FRAME_LEN_MAX)).ok()?;
        unpacked.as_slice()
    } else {
        stored
    };
    let t = v1::access(bytes).ok()?;
    let matches = ItemKey::of(e.item_kind, &t.item).0 == e.item;
    matches.then(|| (t.account.to_vec(), t.item.to_vec()))
}

/// The payload of a frame before its codec; its length is bounded by the format.
fn payload<'a>(
    zstd: Option<&mut zstd::bulk::Decompressor<'static>>,
    raw: &'a mut Vec<u8>,
    f: &Frame<'a>,
) -> Option<&'a [u8]> {
    if f.header.codec != CODEC_ZSTD {
        return Some(f.payload);
    }
    let raw_len = f.header.raw_len as usize;
    raw.clear();
    raw.reserve(raw_len.min(FRAME_LEN_MAX) + 1);
    let n = zstd?.decompress_to_buffer(f.payload, raw).ok()?;
    (n == raw_len).then_some(raw.as_slice())
}
