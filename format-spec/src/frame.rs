//! A frame: one record in a segment. Header, envelope (readable without rkyv), payload; padded to 8 bytes.
//!
//! ```text
//! | FrameHeader 48 | Envelope 80 | BlobRef 48 × n | payload | zeros to a multiple of 8 |
//! ```

use crate::checksum::{self, Binding};
use crate::{ALIGN, round_up};

/// First bytes of a frame.
pub const MAGIC: [u8; 4] = *b"FRM1";

/// [`FrameHeader::kind`]: a transaction whose payload is `TransactionV1`.
pub const KIND_TRANSACTION: u16 = 1;
/// [`FrameHeader::kind`]: a scanner's mark, laid out as a transaction; not part of any mailbox, the last one counts.
pub const KIND_CURSOR: u16 = 2;
/// Bit of [`FrameHeader::kind`]: a reader that does not know the kind must stop.
pub const KIND_REQUIRED: u16 = 0x8000;

/// [`FrameHeader::codec`] and [`crate::pack::ChunkHeader::codec`]: stored as it is.
pub const CODEC_PLAIN: u8 = 0;
/// As before: one zstd frame (RFC 8878).
pub const CODEC_ZSTD: u8 = 1;

/// Longest frame, in bytes, header included.
pub const FRAME_LEN_MAX: usize = 24 << 20;
/// Most blobs that one transaction may name.
pub const BLOBS_MAX: usize = 1024;

layout! {
    /// Precedes every record in a segment.
    pub struct FrameHeader[48] {
        /// ASCII `FRM1`.
        magic: [u8; 4],
        /// Record kind: 1 transaction, 2 cursor. Bit 15: must be understood.
        kind: u16,
        /// Of the payload: 0 plain, 1 zstd.
        codec: u8,
        /// Zero.
        reserved: u8,
        /// Envelope and blob references, in bytes.
        envelope_len: u16,
        /// Key that the payload is encrypted with; 0 none. Version 1 writes 0 only.
        key: u16,
        /// Payload as stored, in bytes.
        payload_len: u32,
        /// Payload before the codec, in bytes.
        raw_len: u32,
        /// The record's LSN.
        lsn: u64,
        /// Check of header bytes 0–27 and the body (envelope to padding), bound to the header's place.
        check: [u8; 16],
        /// CRC-32 of binding and header bytes 0–43.
        crc: u32,
    }
}

layout! {
    /// First part of a frame's body: what routing, counting and liveness need.
    pub struct Envelope[80] {
        /// Account id.
        account: [u8; 16],
        /// Item key.
        item: [u8; 16],
        /// The change happened not before this, µs UTC.
        not_before: i64,
        /// The change happened not after this, µs UTC.
        happened: i64,
        /// From when on the state counts: `max(happened, moment of the item's state before)`, µs UTC.
        moment: i64,
        /// When it was recorded here, µs UTC.
        recorded: i64,
        /// Item kind (see the list).
        item_kind: u8,
        /// 1 put, 2 patch, 3 delete. The payload always holds the whole state.
        operation: u8,
        /// Bit 0 deleted, 1 content not seen, 2 has a source, 3 `not_before` was given, 4 derived.
        flags: u16,
        /// Blob references that follow.
        blob_count: u16,
        /// Zero.
        reserved: u16,
        /// XXH3-64 of account, item, source name length (u64), source name, source position; 0 without source.
        source_hash: u64,
    }
}

/// [`Envelope::flags`]: the item is deleted from here on.
pub const FLAG_DELETED: u16 = 1;
/// [`Envelope::flags`]: the item was there, its content could not be read.
pub const FLAG_UNSEEN: u16 = 2;
/// [`Envelope::flags`]: source name and position are given.
pub const FLAG_SOURCE: u16 = 4;
/// [`Envelope::flags`]: `not_before` is known.
pub const FLAG_INTERVAL: u16 = 8;
/// [`Envelope::flags`]: made from other changes, not reported by itself.
pub const FLAG_DERIVED: u16 = 16;

layout! {
    /// A blob that a transaction refers to.
    pub struct BlobRef[48] {
        /// Of the uncompressed bytes.
        digest: [u8; 32],
        /// In bytes, uncompressed.
        length: u64,
        /// Digest algorithm: 1 SHA-256.
        algorithm: u8,
        /// Index into the payload's roles, 255: the item's content.
        role: u8,
        /// Zero.
        reserved: [u8; 6],
    }
}

/// [`BlobRef::role`]: the item's content.
pub const ROLE_CONTENT: u8 = 255;

const HEADER_CHECKED: usize = 28;
const HEADER_CRC: usize = 44;

/// A frame's body ready to be given a place: everything that does not depend on it.
#[derive(Debug, Clone)]
pub struct Body {
    /// Envelope, blob references, payload, padding.
    pub bytes: Vec<u8>,
    pub kind: u16,
    pub codec: u8,
    pub envelope_len: u16,
    pub payload_len: u32,
    pub raw_len: u32,
    hash: u128,
}

impl Body {
    /// Lays out a body. `payload` is as stored under `codec`, `raw_len` its length before. `None` when a bound is broken.
    #[must_use]
    pub fn new(
        kind: u16,
        envelope: &Envelope,
        blobs: &[BlobRef],
        codec: u8,
        payload: &[u8],
        raw_len: usize,
    ) -> Option<Self> {
        Self::new_in(Vec::new(), kind, envelope, blobs, codec, payload, raw_len)
    }

    /// As [`Body::new`], in the memory of `bytes`, whose content is replaced.
    #[must_use]
    pub fn new_in(
        mut bytes: Vec<u8>,
        kind: u16,
        envelope: &Envelope,
        blobs: &[BlobRef],
        codec: u8,
        payload: &[u8],
        raw_len: usize,
    ) -> Option<Self> {
        if blobs.len() > BLOBS_MAX || usize::from(envelope.blob_count) != blobs.len() {
            return None;
        }
        let envelope_len = Envelope::SIZE + blobs.len() * BlobRef::SIZE;
        let len = usize::try_from(round_up((envelope_len + payload.len()) as u64, ALIGN as u64)?).ok()?;
        if len + FrameHeader::SIZE > FRAME_LEN_MAX || raw_len > FRAME_LEN_MAX {
            return None;
        }
        bytes.clear();
        bytes.reserve(len);
        bytes.extend_from_slice(&envelope.encode());
        for b in blobs {
            bytes.extend_from_slice(&b.encode());
        }
        bytes.extend_from_slice(payload);
        bytes.resize(len, 0);
        Some(Self {
            hash: checksum::body_hash(&bytes),
            bytes,
            kind,
            codec,
            envelope_len: u16::try_from(envelope_len).ok()?,
            payload_len: u32::try_from(payload.len()).ok()?,
            raw_len: u32::try_from(raw_len).ok()?,
        })
    }

    /// The frame's length with its header, a multiple of 8.
    #[must_use]
    pub fn frame_len(&self) -> usize {
        FrameHeader::SIZE + self.bytes.len()
    }

    /// The header for this body at its place.
    #[must_use]
    pub fn header(&self, lsn: u64, place: &Binding) -> [u8; 48] {
        let header = FrameHeader {
            magic: MAGIC,
            kind: self.kind,
            codec: self.codec,
            reserved: 0,
            envelope_len: self.envelope_len,
            key: 0,
            payload_len: self.payload_len,
            raw_len: self.raw_len,
            lsn,
            check: [0; 16],
            crc: 0,
        };
        let mut out = header.encode();
        let check = checksum::check(place, &out[..HEADER_CHECKED], self.hash);
        out[HEADER_CHECKED..HEADER_CRC].copy_from_slice(&check);
        let crc = checksum::header_crc(place, &out[..HEADER_CRC]);
        out[HEADER_CRC..].copy_from_slice(&crc.to_le_bytes());
        out
    }
}

/// Gives a verified frame a new place: `frame` is its bytes, header to padding, `place` where they will be. All but check
/// and CRC stays. Does nothing to bytes that are no frame.
pub fn move_to(frame: &mut [u8], place: &Binding) {
    let Some((head, body)) = frame.split_at_mut_checked(FrameHeader::SIZE) else { return };
    let Some(mut header) = FrameHeader::decode(head) else { return };
    let hash = checksum::body_hash(body);
    header.check = [0; 16];
    header.crc = 0;
    let plain = header.encode();
    header.check = checksum::check(place, &plain[..HEADER_CHECKED], hash);
    let checked = header.encode();
    header.crc = checksum::header_crc(place, &checked[..HEADER_CRC]);
    head.copy_from_slice(&header.encode());
}

/// Why bytes are not a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameFault {
    /// The header does not verify here.
    Header,
    /// The header verifies, its body does not; `len` is the frame's length.
    Body { len: usize },
    /// The frame verifies and contradicts itself; `len` is its length.
    Malformed { len: usize },
    /// The header verifies, and the frame ends behind the bytes given; `len` is the frame's length.
    Cut { len: usize },
}

/// A verified frame.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    pub header: FrameHeader,
    pub envelope: Envelope,
    blobs: &'a [u8],
    /// As stored.
    pub payload: &'a [u8],
    /// In bytes, header and padding included.
    pub len: usize,
}

impl<'a> Frame<'a> {
    /// The blobs the transaction refers to, in order.
    pub fn blobs(&self) -> impl Iterator<Item = BlobRef> + use<'a> {
        self.blobs.chunks_exact(BlobRef::SIZE).filter_map(BlobRef::decode)
    }
}

/// The header at the start of `bytes`, when its CRC verifies at `place`, and the frame's length.
#[must_use]
#[inline]
pub fn header_at(bytes: &[u8], place: &Binding) -> Option<(FrameHeader, usize)> {
    let head = bytes.get(..FrameHeader::SIZE)?;
    if !head.starts_with(&MAGIC) {
        return None;
    }
    let h = FrameHeader::decode(head)?;
    if checksum::header_crc(place, head.get(..HEADER_CRC)?) != h.crc {
        return None;
    }
    let body = u64::from(h.envelope_len).checked_add(u64::from(h.payload_len))?;
    let len = round_up(body, ALIGN as u64)?.checked_add(FrameHeader::SIZE as u64)?;
    let len = usize::try_from(len).ok()?;
    (len <= FRAME_LEN_MAX && h.raw_len as usize <= FRAME_LEN_MAX).then_some((h, len))
}

/// The frame at the start of `bytes`, verified at `place`.
#[inline]
pub fn parse<'a>(bytes: &'a [u8], place: &Binding) -> Result<Frame<'a>, FrameFault> {
    let (header, len) = header_at(bytes, place).ok_or(FrameFault::Header)?;
    let frame = bytes.get(..len).ok_or(FrameFault::Cut { len })?;
    let (head, body) = frame.split_at_checked(FrameHeader::SIZE).ok_or(FrameFault::Header)?;
    let checked = head.get(..HEADER_CHECKED).ok_or(FrameFault::Header)?;
    if checksum::check(place, checked, checksum::body_hash(body)) != header.check {
        return Err(FrameFault::Body { len });
    }
    let malformed = FrameFault::Malformed { len };
    let envelope = Envelope::decode(body).ok_or(malformed)?;
    let blobs_end = Envelope::SIZE + usize::from(envelope.blob_count) * BlobRef::SIZE;
    let plain = header.codec == CODEC_PLAIN;
    let sound = usize::from(header.envelope_len) == blobs_end
        && usize::from(envelope.blob_count) <= BLOBS_MAX
        && header.codec <= CODEC_ZSTD
        && (!plain || header.raw_len == header.payload_len)
        && header.key == 0;
    if !sound {
        return Err(malformed);
    }
    let blobs = body.get(Envelope::SIZE..blobs_end).ok_or(malformed)?;
    let payload_len = usize::try_from(header.payload_len).map_err(|_| malformed)?;
    let end = blobs_end.checked_add(payload_len).ok_or(malformed)?;
    let payload = body.get(blobs_end..end).ok_or(malformed)?;
    if body.get(end..).is_none_or(|pad| pad.iter().any(|b| *b != 0)) {
        return Err(malformed);
    }
    Ok(Frame { header, envelope, blobs, payload, len })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FileKind, FileName, StoreId};

    fn place(offset: u64) -> Binding {
        Binding::new(StoreId([1; 16]), FileName::new(FileKind::Segment, 2), offset)
    }

    fn sample() -> Body {
        let envelope = Envelope {
            account: [2; 16],
            item: [3; 16],
            not_before: 1,
            happened: 2,
            moment: 3,
            recorded: 4,
            item_kind: 1,
            operation: 1,
            flags: 0,
            blob_count: 1,
            reserved: 0,
            source_hash: 0,
        };
        let blob = BlobRef { digest: [4; 32], length: 9, algorithm: 1, role: ROLE_CONTENT, reserved: [0; 6] };
        Body::new(KIND_TRANSACTION, &envelope, &[blob], CODEC_PLAIN, b"payload", 7).unwrap()
    }

    #[test]
    fn every_flipped_bit_of_a_frame_is_found() {
        let body = sample();
        let mut bytes = body.header(77, &place(4208)).to_vec();
        bytes.extend_from_slice(&body.bytes);
        assert_eq!(bytes.len(), body.frame_len());
        let frame = parse(&bytes, &place(4208)).unwrap();
        assert_eq!((frame.header.lsn, frame.payload, frame.blobs().count()), (77, &b"payload"[..], 1));
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&bytes, &place(4208)).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(parse(&bytes, &place(4216)).err(), Some(FrameFault::Header));
        assert_eq!(parse(&bytes[..60], &place(4208)).err(), Some(FrameFault::Cut { len: bytes.len() }));
    }

    #[test]
    fn a_frame_that_moves_verifies_at_its_new_place_only() {
        let body = sample();
        let mut bytes = body.header(77, &place(4208)).to_vec();
        bytes.extend_from_slice(&body.bytes);
        let run = Binding::new(StoreId([1; 16]), FileName::new(FileKind::Run, 9), 8304);
        move_to(&mut bytes, &run);
        assert_eq!(parse(&bytes, &run).unwrap().header.lsn, 77);
        assert_eq!(bytes[FrameHeader::SIZE..], body.bytes);
        assert!(parse(&bytes, &place(4208)).is_err());
    }

    #[test]
    fn too_large_a_frame_is_refused_before_it_is_written() {
        let envelope = Envelope { blob_count: 0, ..parse_envelope() };
        let payload = vec![0; FRAME_LEN_MAX];
        assert!(Body::new(KIND_TRANSACTION, &envelope, &[], CODEC_PLAIN, &payload, payload.len()).is_none());
    }

    fn parse_envelope() -> Envelope {
        Envelope::decode(&sample().bytes).unwrap()
    }
}
