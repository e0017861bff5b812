//! From an index row to a verified record, in place.

use crate::disk::read_full;
use crate::error::{Error, Result};
use crate::files::Files;
use crate::ingest::event::{Blob, Source, State, Transaction};
use mailstrata_format::frame::{
    self, CODEC_PLAIN, CODEC_ZSTD, FLAG_DELETED, FLAG_DERIVED, FLAG_INTERVAL, FLAG_UNSEEN, FRAME_LEN_MAX, Frame,
    KIND_CURSOR, KIND_REQUIRED, KIND_TRANSACTION,
};
use mailstrata_format::index::Row;
use mailstrata_format::record::v1::{self, ArchivedTransactionV1, present};
use mailstrata_format::{AccountId, Binding, Damage, DamageKind, Digest, FileName, ItemKey, ItemKind, Lsn, Operation};
use std::borrow::Cow;
use std::cell::Cell;

thread_local! {
    /// What frames are read into; away while one is looked at.
    static FRAME: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A longer buffer than this is not kept for the next frame.
const KEPT_MAX: usize = 64 << 10;

/// Reads a row's frame, verifies it and hands it on with its record.
pub fn with_frame<R>(
    files: &Files,
    name: FileName,
    row: &Row,
    use_it: impl FnOnce(&Frame<'_>, &ArchivedTransactionV1) -> R,
) -> Result<R> {
    let at = u64::from(row.offset);
    let len = row.length as usize;
    if len > FRAME_LEN_MAX {
        return Err(Damage::new(name, at, DamageKind::IndexRow).into());
    }
    let mut buffer = FRAME.take();
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
    let found = match buffer.get_mut(..len) {
        Some(buf) => read_frame(files, name, row, buf)
            .and_then(|frame| with_record(&frame, name, at, |record| use_it(&frame, record))),
        None => Err(Damage::new(name, at, DamageKind::IndexRow).into()),
    };
    if buffer.len() <= KEPT_MAX {
        FRAME.set(buffer);
    }
    found
}

/// Reads a row's frame into `buf`, which has its length, and verifies it.
fn read_frame<'a>(files: &Files, name: FileName, row: &Row, buf: &'a mut [u8]) -> Result<Frame<'a>> {
    let at = u64::from(row.offset);
    let file = files.get(name)?;
    let n = read_full(file.as_ref(), buf, at).map_err(|e| Error::io("reading", files.path(name))(e))?;
    if n < buf.len() {
        return Err(Damage::new(name, at, DamageKind::FileTruncated).into());
    }
    let frame = parse(buf, &Binding::new(files.store, name, at))?;
    if frame.header.lsn != row.lsn || frame.envelope.account != row.account || frame.envelope.item != row.item {
        return Err(Damage::new(name, at, DamageKind::IndexRow).into());
    }
    Ok(frame)
}

/// Verifies a frame at its place.
pub fn parse<'a>(bytes: &'a [u8], place: &Binding) -> Result<Frame<'a>> {
    frame::parse(bytes, place).map_err(|fault| {
        let kind = match fault {
            frame::FrameFault::Header | frame::FrameFault::Cut { .. } => DamageKind::FrameHeader,
            frame::FrameFault::Body { .. } => DamageKind::FrameBody,
            frame::FrameFault::Malformed { .. } => DamageKind::Record,
        };
        Damage::new(place.file, place.offset, kind).into()
    })
}

/// Hands on the record of a verified frame.
pub fn with_record<R>(
    frame: &Frame<'_>,
    name: FileName,
    at: u64,
    use_it: impl FnOnce(&ArchivedTransactionV1) -> R,
) -> Result<R> {
    let damage = |kind| Error::Damage(Damage::new(name, at, kind));
    match frame.header.kind {
        KIND_TRANSACTION | KIND_CURSOR => {}
        k if k & KIND_REQUIRED != 0 => return Err(damage(DamageKind::RequiredKind)),
        _ => return Err(damage(DamageKind::Record)),
    }
    let raw_len = frame.header.raw_len as usize;
    let payload: Cow<'_, [u8]> = match frame.header.codec {
        CODEC_PLAIN if frame.payload.len() == raw_len => Cow::Borrowed(frame.payload),
        CODEC_ZSTD if raw_len <= FRAME_LEN_MAX => {
            crate::blob::read::decompress(frame.payload, raw_len).ok_or_else(|| damage(DamageKind::Record))?.into()
        }
        _ => return Err(damage(DamageKind::Record)),
    };
    let record = v1::access(&payload).map_err(|_| damage(DamageKind::Record))?;
    Ok(use_it(record))
}

/// The transaction of a row.
pub fn transaction(files: &Files, name: FileName, row: &Row) -> Result<Transaction> {
    with_frame(files, name, row, to_transaction)?
        .ok_or_else(|| Damage::new(name, u64::from(row.offset), DamageKind::Record).into())
}

/// A transaction of its own from a verified frame; `None` when a code in it is not known.
pub fn to_transaction(frame: &Frame<'_>, record: &ArchivedTransactionV1) -> Option<Transaction> {
    let e = &frame.envelope;
    let mut r = rkyv::deserialize::<v1::TransactionV1, rkyv::rancor::Error>(record).ok()?;
    let roles = std::mem::take(&mut r.roles);
    let blobs = frame
        .blobs()
        .map(|b| {
            let role = if b.role == frame::ROLE_CONTENT {
                Some(None)
            } else {
                roles.get(usize::from(b.role)).cloned().map(Some)
            };
            Some(Blob { digest: Digest(b.digest), length: b.length, role: role? })
        })
        .collect::<Option<Vec<_>>>()?;
    let source = (r.present & present::SOURCE != 0)
        .then(|| Source { name: std::mem::take(&mut r.source_name), position: std::mem::take(&mut r.source_position) });
    Some(Transaction {
        lsn: Lsn(frame.header.lsn),
        account_id: AccountId(e.account),
        item_key: ItemKey(e.item),
        account: std::mem::take(&mut r.account),
        item: std::mem::take(&mut r.item),
        kind: ItemKind::from_code(e.item_kind)?,
        operation: Operation::from_code(e.operation)?,
        deleted: e.flags & FLAG_DELETED != 0,
        content_unseen: e.flags & FLAG_UNSEEN != 0,
        derived: e.flags & FLAG_DERIVED != 0,
        happened: e.happened,
        not_before: (e.flags & FLAG_INTERVAL != 0).then_some(e.not_before),
        moment: e.moment,
        recorded: e.recorded,
        state: State::from_record(&mut r),
        blobs,
        source,
    })
}
