//! From an event to a line.
//!
//! In comes an [`EventLine`], out goes one line, keys in the order of the design's example, times in UTC: `at`,
//! `not_before` and `recorded` with six digits of a second, `date` with as many as it needs.
//!
//! Blobs may be put into the line as base64 while they are read. A line up to [`STAGED_BYTES_MAX`] goes out only once
//! it is whole, so a blob that cannot be read leaves nothing behind. A blob that makes the line longer is first read to
//! its end for that reason, and then again: memory stays bounded. Should it fail the second time, the line is broken
//! off and ended.

use std::io::{self, Read, Write};

use base64::Engine as _;

use super::{AttributeValue, BASE64, BlobLine, BlobSource, EventLine, Field, Op, StateLine, hex};
use crate::time::{Fraction, write_rfc3339};

/// Lines up to this are built in memory.
pub const STAGED_BYTES_MAX: usize = 16 << 20;

/// Bytes encoded at a time: a multiple of three, so that pieces join without padding.
const PIECE: usize = 48 * 1024;

/// Why a line was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("writing the line")]
    Output(#[source] io::Error),
    /// The line is not there, or (`broken_off`) ends in the middle of this blob.
    #[error("reading blob {blob} for the line")]
    Content { blob: usize, broken_off: bool, source: io::Error },
}

/// Gives the bytes of a blob that is to stand in the line as base64; `None` leaves it as it is.
pub type OpenBlob<'f, 'r> = dyn FnMut(&BlobLine<'_>) -> io::Result<Option<Box<dyn Read + 'r>>> + 'f;

/// Writes lines, one buffer for all of them.
#[derive(Debug)]
pub struct LineWriter<W: Write> {
    out: W,
    line: Vec<u8>,
    staged_bytes_max: usize,
}

/// Writes one line, blobs as the event has them.
pub fn write_line(event: &EventLine<'_>, out: impl Write) -> io::Result<()> {
    LineWriter::new(out).write(event)
}

impl<W: Write> LineWriter<W> {
    pub fn new(out: W) -> Self {
        Self { out, line: Vec::new(), staged_bytes_max: STAGED_BYTES_MAX }
    }

    pub fn get_mut(&mut self) -> &mut W {
        &mut self.out
    }

    pub fn into_inner(self) -> W {
        self.out
    }

    /// Writes `event`, blobs as it has them.
    pub fn write(&mut self, event: &EventLine<'_>) -> io::Result<()> {
        self.write_with(event, &mut |_| Ok(None)).map_err(|error| match error {
            WriteError::Output(source) | WriteError::Content { source, .. } => source,
        })
    }

    /// Writes `event`; a blob that `open` gives bytes for stands in the line, whatever its source was.
    pub fn write_with<'r>(&mut self, event: &EventLine<'_>, open: &mut OpenBlob<'_, 'r>) -> Result<(), WriteError> {
        if let Field::Value(blobs) = &event.blobs {
            let in_memory = self.staged_bytes_max as u64 / 2;
            for (i, blob) in blobs.iter().enumerate() {
                if blob.length.is_none_or(|length| length > in_memory) {
                    let failed = |source| WriteError::Content { blob: i, broken_off: false, source };
                    if let Some(mut content) = open(blob).map_err(failed)? {
                        io::copy(&mut content, &mut io::sink()).map_err(failed)?;
                    }
                }
            }
        }
        self.line.clear();
        let mut line =
            Staged { out: &mut self.out, bytes: &mut self.line, bytes_max: self.staged_bytes_max, spilled: false };
        let written = line.event(event, open);
        match written {
            Ok(()) => {
                line.bytes.push(b'\n');
                line.spill().map_err(WriteError::Output)
            }
            Err(WriteError::Content { blob, source, .. }) if line.spilled => {
                line.bytes.push(b'\n');
                line.spill().map_err(WriteError::Output)?;
                Err(WriteError::Content { blob, broken_off: true, source })
            }
            Err(error) => Err(error),
        }
    }
}

/// The line so far.
struct Staged<'l, W> {
    out: &'l mut W,
    bytes: &'l mut Vec<u8>,
    bytes_max: usize,
    spilled: bool,
}

impl<W: Write> Staged<'_, W> {
    fn spill(&mut self) -> io::Result<()> {
        self.spilled = true;
        let result = self.out.write_all(self.bytes);
        self.bytes.clear();
        result
    }

    fn event(&mut self, event: &EventLine<'_>, open: &mut OpenBlob<'_, '_>) -> Result<(), WriteError> {
        let line = &mut *self.bytes;
        line.extend_from_slice(b"{\"account\":");
        put_bytes(&event.account, line);
        line.extend_from_slice(b",\"item\":");
        put_bytes(&event.item, line);
        line.extend_from_slice(b",\"kind\":\"");
        line.extend_from_slice(event.kind.name().as_bytes());
        line.extend_from_slice(b"\",\"op\":\"");
        line.extend_from_slice(event.op.name().as_bytes());
        line.push(b'"');
        if let Op::Damaged { code } = &event.op {
            line.extend_from_slice(b",\"code\":");
            put_text(code, line);
        }
        put_time("at", event.at, line);
        put_time("not_before", event.not_before, line);
        if let Some(id) = &event.account_id {
            line.extend_from_slice(b",\"account_id\":\"");
            for (i, part) in [&id[..4], &id[4..6], &id[6..8], &id[8..10], &id[10..]].into_iter().enumerate() {
                if i > 0 {
                    line.push(b'-');
                }
                line.extend_from_slice(hex(part).as_bytes());
            }
            line.push(b'"');
        }
        if !event.state.is_empty() {
            line.extend_from_slice(b",\"state\":");
            put_state(&event.state, line);
        }
        match &event.blobs {
            Field::Absent => {}
            Field::Null => self.bytes.extend_from_slice(b",\"blob\":null"),
            Field::Value(blobs) => match blobs.as_slice() {
                [blob] if blob.role.is_none() => {
                    self.bytes.extend_from_slice(b",\"blob\":");
                    self.blob(0, blob, open)?;
                }
                blobs => {
                    self.bytes.extend_from_slice(b",\"blobs\":[");
                    for (i, blob) in blobs.iter().enumerate() {
                        if i > 0 {
                            self.bytes.push(b',');
                        }
                        self.blob(i, blob, open)?;
                    }
                    self.bytes.push(b']');
                }
            },
        }
        let line = &mut *self.bytes;
        if let Some(source) = &event.source {
            line.extend_from_slice(b",\"source\":{\"name\":");
            put_bytes(&source.name, line);
            line.extend_from_slice(b",\"position\":");
            put_bytes(&source.position, line);
            line.push(b'}');
        }
        if event.content_unseen {
            line.extend_from_slice(b",\"content\":\"unseen\"");
        }
        if let Some(lsn) = event.lsn {
            line.extend_from_slice(format!(",\"lsn\":{lsn}").as_bytes());
        }
        put_time("recorded", event.recorded, line);
        line.push(b'}');
        Ok(())
    }

    fn blob(&mut self, index: usize, blob: &BlobLine<'_>, open: &mut OpenBlob<'_, '_>) -> Result<(), WriteError> {
        let line = &mut *self.bytes;
        line.push(b'{');
        if let Some(role) = &blob.role {
            line.extend_from_slice(b"\"role\":");
            put_bytes(role, line);
            line.push(b',');
        }
        let content = open(blob).map_err(|source| WriteError::Content { blob: index, broken_off: false, source })?;
        if let Some(mut content) = content {
            line.extend_from_slice(b"\"base64\":\"");
            self.base64(index, blob.length, &mut *content)?;
            self.bytes.push(b'"');
        } else {
            match &blob.source {
                BlobSource::Path(path) => {
                    line.extend_from_slice(b"\"path\":");
                    put_bytes(path, line);
                }
                BlobSource::Digest(digest) => {
                    line.extend_from_slice(format!("\"digest\":\"sha256:{}\"", hex(digest)).as_bytes());
                }
                BlobSource::Base64(text) => {
                    line.extend_from_slice(b"\"base64\":\"");
                    // Its alphabet needs no escapes.
                    for piece in text.as_str().as_bytes().chunks(PIECE) {
                        self.bytes.extend_from_slice(piece);
                        self.bound().map_err(WriteError::Output)?;
                    }
                    self.bytes.push(b'"');
                }
            }
        }
        if let Some(length) = blob.length {
            self.bytes.extend_from_slice(format!(",\"length\":{length}").as_bytes());
        }
        self.bytes.push(b'}');
        Ok(())
    }

    fn bound(&mut self) -> io::Result<()> {
        if self.bytes.len() > self.bytes_max { self.spill() } else { Ok(()) }
    }

    fn base64(&mut self, index: usize, length: Option<u64>, content: &mut dyn Read) -> Result<(), WriteError> {
        let failed = |source| WriteError::Content { blob: index, broken_off: false, source };
        let mut piece =
            vec![0; PIECE.min(length.map_or(PIECE, |n| (n as usize).saturating_add(1).next_multiple_of(3)))];
        let mut total = 0u64;
        loop {
            let mut filled = 0;
            while let Some(room) = piece.get_mut(filled..).filter(|room| !room.is_empty()) {
                match content.read(room) {
                    Ok(0) => break,
                    Ok(n) => filled += n,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(failed(e)),
                }
            }
            total += filled as u64;
            let start = self.bytes.len();
            self.bytes.resize(start + filled.div_ceil(3) * 4, 0);
            let (Some(from), Some(to)) = (piece.get(..filled), self.bytes.get_mut(start..)) else { return Ok(()) };
            BASE64.encode_slice(from, to).map_err(|e| failed(io::Error::other(e)))?;
            if filled < piece.len() {
                break;
            }
            self.bound().map_err(WriteError::Output)?;
        }
        match length {
            Some(length) if length != total => {
                let message = format!("the blob has {total} bytes, {length} were promised");
                Err(failed(io::Error::new(io::ErrorKind::InvalidData, message)))
            }
            _ => Ok(()),
        }
    }
}

fn put_state(state: &StateLine, line: &mut Vec<u8>) {
    line.push(b'{');
    put_field("folder", &state.folder, line, |v, line| put_bytes(v, line));
    put_field("flags", &state.flags, line, |v, line| put_list(v, line));
    put_field("tags", &state.tags, line, |v, line| put_list(v, line));
    put_field("name", &state.name, line, |v, line| put_bytes(v, line));
    put_field("sender", &state.sender, line, |v, line| put_bytes(v, line));
    put_field("date", &state.date, line, |v, line| {
        line.push(b'"');
        write_rfc3339(*v, Fraction::Needed, line);
        line.push(b'"');
    });
    put_field("uid", &state.uid, line, |v, line| line.extend_from_slice(v.to_string().as_bytes()));
    put_field("attributes", &state.attributes, line, |attributes, line| {
        line.push(b'{');
        for (i, (name, value)) in attributes.iter().enumerate() {
            if i > 0 {
                line.push(b',');
            }
            put_bytes(name, line);
            line.push(b':');
            match value {
                AttributeValue::Null => line.extend_from_slice(b"null"),
                AttributeValue::Text(text) => put_bytes(text, line),
                AttributeValue::Json(json) => line.extend_from_slice(json.as_bytes()),
            }
        }
        line.push(b'}');
    });
    line.push(b'}');
}

fn put_field<T>(name: &str, field: &Field<T>, line: &mut Vec<u8>, put: impl FnOnce(&T, &mut Vec<u8>)) {
    if field.is_absent() {
        return;
    }
    if line.last() != Some(&b'{') {
        line.push(b',');
    }
    line.push(b'"');
    line.extend_from_slice(name.as_bytes());
    line.extend_from_slice(b"\":");
    match field {
        Field::Value(value) => put(value, line),
        Field::Absent | Field::Null => line.extend_from_slice(b"null"),
    }
}

fn put_list(entries: &[Vec<u8>], line: &mut Vec<u8>) {
    line.push(b'[');
    for (i, entry) in entries.iter().enumerate() {
        if i > 0 {
            line.push(b',');
        }
        put_bytes(entry, line);
    }
    line.push(b']');
}

fn put_time(name: &str, micros: Option<i64>, line: &mut Vec<u8>) {
    if let Some(micros) = micros {
        line.extend_from_slice(format!(",\"{name}\":\"").as_bytes());
        write_rfc3339(micros, Fraction::Six, line);
        line.push(b'"');
    }
}

/// Bytes as JSON text: `%XX` where they are not UTF-8, `%25` for `%`.
pub(crate) fn put_bytes(bytes: &[u8], line: &mut Vec<u8>) {
    line.push(b'"');
    for chunk in bytes.utf8_chunks() {
        put_escaped(chunk.valid(), true, line);
        for byte in chunk.invalid() {
            line.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
    line.push(b'"');
}

fn put_text(text: &str, line: &mut Vec<u8>) {
    line.push(b'"');
    put_escaped(text, false, line);
    line.push(b'"');
}

fn put_escaped(text: &str, percent: bool, line: &mut Vec<u8>) {
    for &byte in text.as_bytes() {
        match byte {
            b'"' => line.extend_from_slice(b"\\\""),
            b'\\' => line.extend_from_slice(b"\\\\"),
            b'\n' => line.extend_from_slice(b"\\n"),
            b'\r' => line.extend_from_slice(b"\\r"),
            b'\t' => line.extend_from_slice(b"\\t"),
            0..=0x1f => line.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            b'%' if percent => line.extend_from_slice(b"%25"),
            _ => line.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::{Base64Text, Kind, SourceLine, parse, percent_decode, percent_encode};
    use crate::time::{MICROS_MAX, MICROS_MIN};
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    fn text(event: &EventLine<'_>) -> String {
        let mut out = Vec::new();
        write_line(event, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn keys_go_out_in_the_order_of_the_design() {
        let line = r#"{"account":"alice@example.org","item":"a1f0…","kind":"message","op":"put","at":"2026-11-22T00:15:11.120000Z","state":{"folder":"INBOX/Projects","flags":["\\Seen"],"tags":["work"],"name":"Re: plan","sender":"bob@example.org","date":"2026-11-22T00:15:10Z","uid":17,"attributes":{"x":"y","n":1.0}},"blob":{"path":"msg.eml"},"source":{"name":"maildir","position":"…"}}"#;
        assert_eq!(text(&parse(line.as_bytes()).unwrap()), format!("{line}\n"));
        let line = r#"{"account":"a%FF%25","item":"i","kind":"contact","op":"delete","at":"2026-11-22T00:15:11.000000Z","not_before":"2026-11-22T00:15:10.000000Z","account_id":"00112233-4455-6677-8899-aabbccddeeff","blobs":[{"role":"vcard","base64":"Zm9v","length":3},{"digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000"}],"content":"unseen","lsn":7,"recorded":"2026-11-22T00:15:12.000000Z"}"#;
        assert_eq!(text(&parse(line.as_bytes()).unwrap()), format!("{line}\n"));
    }

    #[test]
    fn damage_is_a_line() {
        let event = EventLine::new(b"a@b", b"17", Kind::Message, Op::Damaged { code: "D04".into() });
        let line = r#"{"account":"a@b","item":"17","kind":"message","op":"damaged","code":"D04"}"#;
        assert_eq!(text(&event), format!("{line}\n"));
        assert_eq!(parse(line.as_bytes()).unwrap(), event);
    }

    fn with_blob(length: Option<u64>) -> EventLine<'static> {
        let blob = BlobLine { role: None, source: BlobSource::Digest([1; 32]), length };
        EventLine { blobs: Field::Value(vec![blob]), ..EventLine::new(b"a", b"i", Kind::Message, Op::Put) }
    }

    #[test]
    fn blobs_stream_into_the_line() {
        for size in [0usize, 1, 2, 3, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 17] {
            for staged_bytes_max in [STAGED_BYTES_MAX, 1000] {
                for length in [None, Some(size as u64)] {
                    let bytes: Vec<u8> = (0..size).map(|i| (i * 31) as u8).collect();
                    let mut writer = LineWriter { staged_bytes_max, ..LineWriter::new(Vec::new()) };
                    writer.write_with(&with_blob(length), &mut |_| Ok(Some(Box::new(&bytes[..])))).unwrap();
                    let out = writer.into_inner();
                    let event = parse(out.strip_suffix(b"\n").unwrap()).unwrap();
                    let Field::Value(blobs) = &event.blobs else { panic!() };
                    assert!(
                        matches!(&blobs[0].source, BlobSource::Base64(t) if *t == Base64Text::encode(&bytes)),
                        "{size}"
                    );
                }
            }
        }
    }

    struct Torn(u64);

    impl Read for Torn {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            if self.0 == 0 {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "digest mismatch"));
            }
            let n = (buf.len() as u64).min(self.0) as usize;
            self.0 -= n as u64;
            Ok(n)
        }
    }

    #[test]
    fn a_blob_that_cannot_be_read_leaves_no_line() {
        for (staged_bytes_max, length) in
            [(STAGED_BYTES_MAX, None), (STAGED_BYTES_MAX, Some(200_000)), (1000, None), (1000, Some(200_000))]
        {
            let mut writer = LineWriter { staged_bytes_max, ..LineWriter::new(Vec::new()) };
            let error = writer.write_with(&with_blob(length), &mut |_| Ok(Some(Box::new(Torn(200_000))))).unwrap_err();
            assert!(matches!(error, WriteError::Content { blob: 0, broken_off: false, .. }));
            writer.write(&with_blob(None)).unwrap();
            assert_eq!(writer.into_inner(), text(&with_blob(None)).as_bytes());
        }
        let mut writer = LineWriter::new(Vec::new());
        let short = writer.write_with(&with_blob(Some(5)), &mut |_| Ok(Some(Box::new(&b"four"[..]))));
        assert!(matches!(short, Err(WriteError::Content { .. })) && writer.into_inner().is_empty());
    }

    #[test]
    fn a_blob_that_fails_only_the_second_time_ends_its_line() {
        let mut writer = LineWriter { staged_bytes_max: 1000, ..LineWriter::new(Vec::new()) };
        let mut times = 0;
        let error = writer.write_with(&with_blob(None), &mut |_| {
            times += 1;
            let whole = Box::new(io::repeat(0).take(200_000));
            Ok(Some(if times == 1 { whole } else { Box::new(Torn(200_000)) as Box<dyn Read> }))
        });
        assert!(matches!(error, Err(WriteError::Content { broken_off: true, .. })));
        let out = writer.into_inner();
        assert_eq!(out.iter().filter(|&&b| b == b'\n').count(), 1);
        assert!(parse(out.strip_suffix(b"\n").unwrap()).is_err());
    }

    fn hostile() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            any::<u8>().prop_map(|b| vec![b]),
            Just(b"%".to_vec()),
            Just(b"%41".to_vec()),
            Just("\u{1}\"\\\n\u{7f}\u{2028}ü💩".as_bytes().to_vec()),
        ];
        vec(piece, 0..8).prop_map(|pieces| pieces.concat())
    }

    fn field<T: std::fmt::Debug + Clone + 'static>(
        value: impl Strategy<Value = T> + 'static,
    ) -> BoxedStrategy<Field<T>> {
        prop_oneof![Just(Field::Absent), Just(Field::Null), value.prop_map(Field::Value)].boxed()
    }

    fn attributes() -> impl Strategy<Value = Vec<(Vec<u8>, AttributeValue)>> {
        let json =
            prop_oneof!["-?[1-9][0-9]{0,30}(\\.[0-9]{1,3})?", Just("[1,{\"%41\":null}]".into()), Just("true".into())];
        let value = prop_oneof![
            Just(AttributeValue::Null),
            hostile().prop_map(AttributeValue::Text),
            json.prop_map(AttributeValue::Json),
        ];
        proptest::collection::btree_map(hostile(), value, 0..5).prop_map(|map| map.into_iter().collect())
    }

    fn states() -> impl Strategy<Value = StateLine> {
        let lists = || field(vec(hostile(), 0..4));
        let date = field(MICROS_MIN..=MICROS_MAX);
        (
            field(hostile()),
            lists(),
            lists(),
            field(hostile()),
            field(hostile()),
            date,
            field(any::<u64>()),
            field(attributes()),
        )
            .prop_map(|(folder, flags, tags, name, sender, date, uid, attributes)| StateLine {
                folder,
                flags,
                tags,
                name,
                sender,
                date,
                uid,
                attributes,
            })
    }

    fn blobs() -> impl Strategy<Value = Vec<BlobLine<'static>>> {
        let source = prop_oneof![
            hostile().prop_filter("a path", |p| !p.is_empty()).prop_map(BlobSource::Path),
            vec(any::<u8>(), 0..40).prop_map(|bytes| BlobSource::Base64(Base64Text::encode(&bytes))),
            any::<[u8; 32]>().prop_map(BlobSource::Digest),
        ];
        proptest::collection::btree_map(option::of(hostile()), (source, any::<bool>()), 0..4).prop_map(|map| {
            let blob = |(role, (source, known)): (Option<Vec<u8>>, (BlobSource<'static>, bool))| {
                let length = match &source {
                    BlobSource::Base64(text) => text.decoded_len(),
                    _ => 17,
                };
                BlobLine { role, source, length: known.then_some(length) }
            };
            map.into_iter().map(blob).collect()
        })
    }

    fn events() -> impl Strategy<Value = EventLine<'static>> {
        let op = prop_oneof![
            Just(Op::Put),
            Just(Op::Patch),
            Just(Op::Delete),
            "\\PC{0,5}".prop_map(|code| Op::Damaged { code })
        ];
        let name = || hostile().prop_filter("a name", |n| !n.is_empty());
        let times =
            (option::of(MICROS_MIN..=MICROS_MAX), option::of(0i64..1 << 40), option::of(MICROS_MIN..=MICROS_MAX));
        let source = option::of((hostile(), hostile()).prop_map(|(name, position)| SourceLine { name, position }));
        (
            name(),
            name(),
            (0usize..14, op),
            any::<Option<[u8; 16]>>(),
            times,
            states(),
            field(blobs()),
            source,
            any::<(bool, Option<u64>)>(),
        )
            .prop_map(
                |(
                    account,
                    item,
                    (kind, op),
                    account_id,
                    (at, before, recorded),
                    state,
                    blobs,
                    source,
                    (unseen, lsn),
                )| {
                    EventLine {
                        account,
                        account_id,
                        item,
                        kind: Kind::ALL[kind],
                        op,
                        at,
                        not_before: before.map(|b| at.map_or(b, |at| (at - b).max(MICROS_MIN))),
                        state,
                        blobs,
                        source,
                        content_unseen: unseen,
                        lsn,
                        recorded,
                    }
                },
            )
    }

    proptest! {
        #[test]
        fn what_goes_out_comes_back(event in events()) {
            let line = text(&event);
            let line = line.strip_suffix('\n').unwrap();
            prop_assert!(!line.contains('\n'));
            prop_assert!(serde_json::from_str::<serde_json::Value>(line).is_ok());
            prop_assert_eq!(parse(line.as_bytes()).unwrap(), event);
        }

        #[test]
        fn bytes_survive_their_text(bytes in hostile()) {
            prop_assert_eq!(percent_decode(&percent_encode(&bytes)), bytes);
        }

        #[test]
        fn no_line_panics(bytes in vec(any::<u8>(), 0..60), event in events(), at in any::<prop::sample::Index>(), byte: u8) {
            let _ = parse(&bytes);
            let mut line = text(&event).into_bytes();
            let at = at.index(line.len());
            line[at] = byte;
            let _ = parse(&line);
        }
    }
}
