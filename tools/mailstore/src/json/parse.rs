//! From a line to an event.
//!
//! In comes one line without its end, out comes an [`EventLine`] that borrows only base64 text from it, or a
//! [`LineError`] that names field and column. Never panics; what it takes of memory is bounded by the line.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{
    AttributeValue, Base64Text, BlobLine, BlobSource, Code, EventLine, Field, Kind, LineError, Op, SourceLine,
    StateLine, percent_decode, unhex,
};
use crate::time::parse_rfc3339;

/// Every field a line may have.
pub const LINE_FIELDS: [&str; 15] = [
    "account",
    "account_id",
    "item",
    "kind",
    "op",
    "code",
    "at",
    "not_before",
    "state",
    "blob",
    "blobs",
    "source",
    "content",
    "lsn",
    "recorded",
];

/// Every field a state may have.
pub const STATE_FIELDS: [&str; 8] = ["folder", "flags", "tags", "name", "sender", "date", "uid", "attributes"];

/// Fields of one object, attributes and list entries: a bound on what a line of commas and quotes may cost.
const ENTRIES_MAX: usize = 65_536;

/// Brackets within brackets in an attribute: readers of the value recurse.
const DEPTH_MAX: usize = 64;

/// Reads one line.
pub fn parse(line: &[u8]) -> Result<EventLine<'_>, LineError> {
    let text = std::str::from_utf8(line).map_err(|e| LineError {
        code: Code::BadJson,
        field: String::new(),
        column: Some(e.valid_up_to() + 1),
        message: "the line is not UTF-8; write bytes that are not as %XX".into(),
    })?;
    let mut event = EventLine::new(b"", b"", Kind::Other, Op::Put);
    let (mut kind, mut op, mut damage_code) = (None, None, None);
    let place = Place { line: text, path: "" };
    let fields = place.fields(text, &LINE_FIELDS)?;
    for (name, value) in &fields {
        let place = place.field(name);
        let is_null = value.get() == "null";
        match name.as_ref() {
            "account" => event.account = place.required_bytes(value)?,
            "item" => event.item = place.required_bytes(value)?,
            "kind" => {
                let text = place.text(value)?;
                let wanted = || format!("{:?} is none of {}", shown(&text), Kind::ALL.map(Kind::name).join(", "));
                kind = Some(Kind::from_name(&text).ok_or_else(|| place.error(value, Code::UnknownKind, wanted()))?);
            }
            "op" => op = Some((place.text(value)?, *value)),
            "code" if !is_null => damage_code = Some((place.text(value)?, *value)),
            "at" if !is_null => event.at = Some(place.time(value)?),
            "not_before" if !is_null => event.not_before = Some(place.time(value)?),
            "account_id" if !is_null => event.account_id = Some(place.account_id(value)?),
            "state" if !is_null => event.state = place.state(value)?,
            "source" if !is_null => event.source = Some(place.source(value)?),
            "content" if !is_null => {
                if place.text(value)? != "unseen" {
                    return Err(place.error(value, Code::BadField, "only \"unseen\" may stand here".into()));
                }
                event.content_unseen = true;
            }
            "blob" | "blobs" => {
                if !event.blobs.is_absent() {
                    return Err(place.error(value, Code::BadField, "blob and blobs exclude each other".into()));
                }
                event.blobs = match name.as_ref() {
                    _ if is_null => Field::Null,
                    "blob" => Field::Value(vec![place.blob(value)?]),
                    _ => Field::Value(place.blobs(value)?),
                };
            }
            "lsn" => event.lsn = value.get().parse().ok(),
            "recorded" => event.recorded = place.time(value).ok(),
            _ => {} // null, which says nothing here
        }
    }
    let missing = |name: &str| LineError {
        code: Code::MissingField,
        field: name.to_owned(),
        column: None,
        message: "the line has no such field".into(),
    };
    for name in ["account", "item"] {
        if !fields.iter().any(|(n, _)| n == name) {
            return Err(missing(name));
        }
    }
    event.kind = kind.ok_or_else(|| missing("kind"))?;
    let (op, op_value) = op.ok_or_else(|| missing("op"))?;
    event.op = match (op.as_ref(), damage_code) {
        ("damaged", Some((code, _))) => Op::Damaged { code: code.into_owned() },
        ("damaged", None) => return Err(missing("code")),
        ("put" | "patch" | "delete", Some((_, value))) => {
            return Err(place.field("code").error(value, Code::BadField, "only op damaged has a code".into()));
        }
        ("put", None) => Op::Put,
        ("patch", None) => Op::Patch,
        ("delete", None) => Op::Delete,
        (other, _) => {
            let message = format!("{:?} is none of put, patch, delete", shown(other));
            return Err(place.field("op").error(op_value, Code::UnknownOp, message));
        }
    };
    if let (Some(not_before), Some(at)) = (event.not_before, event.at)
        && not_before > at
    {
        let message = "not_before is later than at".into();
        return Err(LineError { code: Code::BadTime, field: "not_before".into(), column: None, message });
    }
    Ok(event)
}

/// Where in the line a value stands, for errors.
#[derive(Clone, Copy)]
struct Place<'a, 'p> {
    line: &'a str,
    path: &'p str,
}

impl<'a> Place<'a, '_> {
    fn error(&self, value: &RawValue, code: Code, message: String) -> LineError {
        LineError { code, field: self.path.to_owned(), column: Some(self.offset(value.get()) + 1), message }
    }

    fn offset(&self, part: &str) -> usize {
        // Values are parts of the line. Addresses are compared, nothing is read through them.
        (part.as_ptr().addr()).saturating_sub(self.line.as_ptr().addr()).min(self.line.len())
    }

    fn json_error(&self, part: &str, error: &serde_json::Error) -> LineError {
        let column = self.offset(part) + error.column().max(1);
        let text = error.to_string();
        let message = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what).to_owned();
        LineError { code: Code::BadJson, field: self.path.to_owned(), column: Some(column), message }
    }

    /// The fields of an object; only those in `known`, each once.
    fn fields(&self, text: &'a str, known: &[&str]) -> Result<Vec<(Cow<'a, str>, &'a RawValue)>, LineError> {
        let fields = self.object(text)?;
        for (i, (name, value)) in fields.iter().enumerate() {
            let path = joined(self.path, &shown(name));
            let place = Place { line: self.line, path: &path };
            if !known.contains(&name.as_ref()) {
                let message = format!("there is no such field; known are {}", known.join(", "));
                return Err(place.error(value, Code::UnknownField, message));
            }
            // Known fields are few, so a repeat turns up before this costs anything.
            if fields.iter().take(i).any(|(earlier, _)| earlier == name) {
                return Err(place.error(value, Code::DuplicateField, "the field is there twice".into()));
            }
        }
        Ok(fields)
    }

    fn object(&self, text: &'a str) -> Result<Vec<(Cow<'a, str>, &'a RawValue)>, LineError> {
        let start = text.trim_start();
        if self.path.is_empty() && !start.starts_with('{') && serde_json::from_str::<&RawValue>(text).is_ok() {
            let message = "a line is one JSON object".into();
            return Err(LineError { code: Code::BadJson, field: String::new(), column: Some(1), message });
        }
        if !self.path.is_empty() && !start.starts_with('{') {
            let column = Some(self.offset(text) + 1);
            let message = "an object is wanted".into();
            return Err(LineError { code: Code::BadField, field: self.path.to_owned(), column, message });
        }
        Ok(serde_json::from_str::<Object<'a>>(text).map_err(|e| self.json_error(text, &e))?.0)
    }

    fn array(&self, value: &'a RawValue) -> Result<Vec<&'a RawValue>, LineError> {
        if !value.get().starts_with('[') {
            return Err(self.error(value, Code::BadField, "an array is wanted".into()));
        }
        Ok(serde_json::from_str::<Array<'a>>(value.get()).map_err(|e| self.json_error(value.get(), &e))?.0)
    }

    fn text(&self, value: &'a RawValue) -> Result<Cow<'a, str>, LineError> {
        let raw = value.get();
        let inner = raw.strip_prefix('"').and_then(|r| r.strip_suffix('"'));
        let inner = inner.ok_or_else(|| self.error(value, Code::BadField, "text is wanted".into()))?;
        if !inner.as_bytes().contains(&b'\\') {
            return Ok(Cow::Borrowed(inner));
        }
        serde_json::from_str::<String>(raw).map(Cow::Owned).map_err(|e| self.json_error(raw, &e))
    }

    fn bytes(&self, value: &'a RawValue) -> Result<Vec<u8>, LineError> {
        Ok(percent_decode(&self.text(value)?))
    }

    fn required_bytes(&self, value: &'a RawValue) -> Result<Vec<u8>, LineError> {
        let bytes = self.bytes(value)?;
        if bytes.is_empty() {
            return Err(self.error(value, Code::BadField, "it is empty".into()));
        }
        Ok(bytes)
    }

    fn list(&self, value: &'a RawValue) -> Result<Vec<Vec<u8>>, LineError> {
        self.array(value)?.into_iter().map(|entry| self.bytes(entry)).collect()
    }

    fn number(&self, value: &'a RawValue) -> Result<u64, LineError> {
        let raw = value.get();
        let number = raw.bytes().all(|b| b.is_ascii_digit()).then(|| raw.parse().ok()).flatten();
        number.ok_or_else(|| self.error(value, Code::BadField, "a whole number below 2^64 is wanted".into()))
    }

    fn time(&self, value: &'a RawValue) -> Result<i64, LineError> {
        let text = self.text(value)?;
        parse_rfc3339(&text).map_err(|e| self.error(value, Code::BadTime, e.to_string()))
    }

    /// 32 hexadecimal digits, with the hyphens of a UUID or without any.
    fn account_id(&self, value: &'a RawValue) -> Result<[u8; 16], LineError> {
        let text = self.text(value)?;
        let bytes = text.as_bytes();
        let hyphens: Vec<usize> = bytes.iter().enumerate().filter(|(_, b)| **b == b'-').map(|(i, _)| i).collect();
        let digits: Vec<u8> = bytes.iter().copied().filter(|b| *b != b'-').collect();
        let id = matches!(hyphens.as_slice(), [] | [8, 13, 18, 23]).then(|| unhex::<16>(&digits)).flatten();
        id.ok_or_else(|| self.error(value, Code::BadField, "a UUID is wanted".into()))
    }

    fn source(&self, value: &'a RawValue) -> Result<SourceLine, LineError> {
        let (mut name, mut position) = (None, None);
        for (field, entry) in self.fields(value.get(), &["name", "position"])? {
            let path = joined(self.path, &field);
            let bytes = Place { line: self.line, path: &path }.bytes(entry)?;
            *(if field == "name" { &mut name } else { &mut position }) = Some(bytes);
        }
        let missing = |field| self.error(value, Code::MissingField, format!("it has no {field}"));
        Ok(SourceLine {
            name: name.ok_or_else(|| missing("name"))?,
            position: position.ok_or_else(|| missing("position"))?,
        })
    }

    fn blobs(&self, value: &'a RawValue) -> Result<Vec<BlobLine<'a>>, LineError> {
        let mut blobs: Vec<BlobLine<'a>> = Vec::new();
        let mut roles = HashSet::new();
        for (i, entry) in self.array(value)?.into_iter().enumerate() {
            let path = format!("{}[{i}]", self.path);
            let place = Place { line: self.line, path: &path };
            let blob = place.blob(entry)?;
            if !roles.insert(blob.role.clone()) {
                return Err(place.error(entry, Code::DuplicateField, "another blob has this role".into()));
            }
            blobs.push(blob);
        }
        Ok(blobs)
    }

    fn blob(&self, value: &'a RawValue) -> Result<BlobLine<'a>, LineError> {
        let (mut role, mut length, mut source) = (None, None, None);
        for (field, entry) in self.fields(value.get(), &["role", "path", "base64", "digest", "length"])? {
            let path = joined(self.path, &field);
            let place = Place { line: self.line, path: &path };
            let given = match field.as_ref() {
                "role" | "length" if entry.get() == "null" => continue,
                "role" => {
                    role = Some(place.bytes(entry)?);
                    continue;
                }
                "length" => {
                    length = Some(place.number(entry)?);
                    continue;
                }
                "path" => BlobSource::Path(place.required_bytes(entry)?),
                "base64" => {
                    let bad = || place.error(entry, Code::BadBase64, "it is not base64 (RFC 4648 §4)".into());
                    BlobSource::Base64(Base64Text::new(place.text(entry)?).ok_or_else(bad)?)
                }
                _ => {
                    let text = place.text(entry)?;
                    let digest = text.strip_prefix("sha256:").and_then(|digits| unhex(digits.as_bytes()));
                    let bad =
                        || place.error(entry, Code::BadDigest, "sha256: and 64 hexadecimal digits are wanted".into());
                    BlobSource::Digest(digest.ok_or_else(bad)?)
                }
            };
            if source.replace(given).is_some() {
                return Err(self.error(
                    value,
                    Code::BadField,
                    "only one of path, base64, digest may stand here".into(),
                ));
            }
        }
        let missing = || self.error(value, Code::MissingField, "one of path, base64, digest is wanted".into());
        let source = source.ok_or_else(missing)?;
        if let (BlobSource::Base64(text), Some(length)) = (&source, length)
            && text.decoded_len() != length
        {
            let message = format!("length is {length}, base64 holds {} bytes", text.decoded_len());
            return Err(self.error(value, Code::BadField, message));
        }
        Ok(BlobLine { role, source, length })
    }

    fn state(&self, value: &'a RawValue) -> Result<StateLine, LineError> {
        let mut state = StateLine::default();
        for (field, entry) in self.fields(value.get(), &STATE_FIELDS)? {
            let path = joined(self.path, &field);
            let place = Place { line: self.line, path: &path };
            match field.as_ref() {
                "folder" => state.folder = nullable(entry, |v| place.bytes(v))?,
                "flags" => state.flags = nullable(entry, |v| place.list(v))?,
                "tags" => state.tags = nullable(entry, |v| place.list(v))?,
                "name" => state.name = nullable(entry, |v| place.bytes(v))?,
                "sender" => state.sender = nullable(entry, |v| place.bytes(v))?,
                "date" => state.date = nullable(entry, |v| place.time(v))?,
                "uid" => state.uid = nullable(entry, |v| place.number(v))?,
                _ => state.attributes = nullable(entry, |v| place.attributes(v))?,
            }
        }
        Ok(state)
    }

    fn attributes(&self, value: &'a RawValue) -> Result<Vec<(Vec<u8>, AttributeValue)>, LineError> {
        let mut names = HashSet::new();
        let mut attributes = Vec::new();
        for (field, entry) in self.object(value.get())? {
            let path = joined(self.path, &shown(&field));
            let place = Place { line: self.line, path: &path };
            let name = percent_decode(&field);
            if !names.insert(name.clone()) {
                return Err(place.error(entry, Code::DuplicateField, "the attribute is there twice".into()));
            }
            let value = match entry.get() {
                "null" => AttributeValue::Null,
                text if text.starts_with('"') => AttributeValue::Text(place.bytes(entry)?),
                text => AttributeValue::Json(compact(text).ok_or_else(|| {
                    place.error(entry, Code::BadField, format!("brackets are nested more than {DEPTH_MAX} deep"))
                })?),
            };
            attributes.push((name, value));
        }
        Ok(attributes)
    }
}

impl<'a> Place<'a, 'static> {
    fn field<'p>(&self, name: &'p str) -> Place<'a, 'p> {
        Place { line: self.line, path: name }
    }
}

fn nullable<'a, T>(
    value: &'a RawValue,
    read: impl FnOnce(&'a RawValue) -> Result<T, LineError>,
) -> Result<Field<T>, LineError> {
    if value.get() == "null" { Ok(Field::Null) } else { read(value).map(Field::Value) }
}

fn joined(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// At most 64 characters of what was given, for a message.
fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

/// Valid JSON without white space between tokens. `None` when it is nested too deep.
fn compact(json: &str) -> Option<String> {
    let mut out = String::with_capacity(json.len());
    let (mut in_text, mut escaped, mut depth) = (false, false, 0usize);
    for c in json.chars() {
        if in_text {
            in_text = escaped || c != '"';
            escaped = !escaped && c == '\\';
        } else {
            match c {
                ' ' | '\t' | '\n' | '\r' => continue,
                '"' => in_text = true,
                '[' | '{' => depth += 1,
                ']' | '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth > DEPTH_MAX {
                return None;
            }
        }
        out.push(c);
    }
    Some(out)
}

/// An object's fields in their order, repeats included.
struct Object<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

/// An array's entries.
struct Array<'a>(Vec<&'a RawValue>);

/// Text, borrowed where nothing in it is escaped.
struct Text<'a>(Cow<'a, str>);

struct Collect<T>(PhantomData<T>);

impl<'a> Deserialize<'a> for Object<'a> {
    fn deserialize<D: Deserializer<'a>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(Collect::<Self>(PhantomData))
    }
}

impl<'a> Visitor<'a> for Collect<Object<'a>> {
    type Value = Object<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Object<'a>, A::Error> {
        let mut fields = Vec::new();
        while let Some((Text(name), value)) = map.next_entry()? {
            if fields.len() == ENTRIES_MAX {
                return Err(A::Error::custom(format_args!("an object has more than {ENTRIES_MAX} fields")));
            }
            fields.push((name, value));
        }
        Ok(Object(fields))
    }
}

impl<'a> Deserialize<'a> for Array<'a> {
    fn deserialize<D: Deserializer<'a>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_seq(Collect::<Self>(PhantomData))
    }
}

impl<'a> Visitor<'a> for Collect<Array<'a>> {
    type Value = Array<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut seq: A) -> Result<Array<'a>, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = seq.next_element()? {
            if entries.len() == ENTRIES_MAX {
                return Err(A::Error::custom(format_args!("an array has more than {ENTRIES_MAX} entries")));
            }
            entries.push(entry);
        }
        Ok(Array(entries))
    }
}

impl<'a> Deserialize<'a> for Text<'a> {
    fn deserialize<D: Deserializer<'a>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_str(Collect::<Self>(PhantomData))
    }
}

impl<'a> Visitor<'a> for Collect<Text<'a>> {
    type Value = Text<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text")
    }

    fn visit_borrowed_str<E>(self, text: &'a str) -> Result<Text<'a>, E> {
        Ok(Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Text<'a>, E> {
        Ok(Text(Cow::Owned(text.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DESIGN: &str = r#"{"account":"alice@example.org","item":"a1f0…","kind":"message","op":"put","at":"2026-11-22T00:15:11.123456Z", "state":{"folder":"INBOX/Projects","flags":["\\Seen"],"tags":["work"],"name":"Re: plan","sender":"bob@example.org", "date":"2026-11-22T00:15:10Z","uid":17,"attributes":{"x":"y"}}, "blob":{"path":"msg.eml"},"source":{"name":"maildir","position":"…"}}"#;

    fn with(extra: &str) -> String {
        format!(r#"{{"account":"a","item":"i","kind":"message","op":"patch",{extra}}}"#)
    }

    fn state(text: &str) -> StateLine {
        parse(with(&format!(r#""state":{text}"#)).as_bytes()).unwrap().state
    }

    #[test]
    fn the_line_of_the_design_is_read() {
        let event = parse(DESIGN.as_bytes()).unwrap();
        assert_eq!(event.account, b"alice@example.org");
        assert_eq!(event.item, "a1f0…".as_bytes());
        assert_eq!((event.kind, event.op), (Kind::Message, Op::Put));
        assert_eq!(event.at, Some(1_795_306_511_123_456));
        assert_eq!(event.state.folder, Field::Value(b"INBOX/Projects".to_vec()));
        assert_eq!(event.state.flags, Field::Value(vec![b"\\Seen".to_vec()]));
        assert_eq!(event.state.date, Field::Value(1_795_306_510_000_000));
        assert_eq!(event.state.uid, Field::Value(17));
        assert_eq!(event.state.attributes, Field::Value(vec![(b"x".to_vec(), AttributeValue::Text(b"y".to_vec()))]));
        let blob = BlobLine { role: None, source: BlobSource::Path(b"msg.eml".to_vec()), length: None };
        assert_eq!(event.blobs, Field::Value(vec![blob]));
        assert_eq!(event.source, Some(SourceLine { name: b"maildir".to_vec(), position: "…".as_bytes().to_vec() }));
    }

    #[test]
    fn absent_null_and_value_are_three_things() {
        assert_eq!(state("{}"), StateLine::default());
        let nulls = state(
            r#"{"folder":null,"flags":null,"tags":null,"name":null,"sender":null,"date":null,"uid":null,"attributes":null}"#,
        );
        assert!(nulls.folder == Field::Null && nulls.flags == Field::Null && nulls.tags == Field::Null);
        assert!(nulls.name == Field::Null && nulls.sender == Field::Null && nulls.date == Field::Null);
        assert!(nulls.uid == Field::Null && nulls.attributes == Field::Null);
        assert_eq!(state(r#"{"flags":[],"name":""}"#).flags, Field::Value(vec![]));
        assert_eq!(parse(with(r#""blob":null"#).as_bytes()).unwrap().blobs, Field::Null);
        assert_eq!(parse(with(r#""blobs":[]"#).as_bytes()).unwrap().blobs, Field::Value(vec![]));
        assert!(parse(with(r#""at":null,"state":null,"source":null"#).as_bytes()).unwrap().state.is_empty());
    }

    #[test]
    fn attributes_keep_their_spelling() {
        let text = r#"{"a":1.0,"b":1e999,"c":{ "z" : [ 1 , "a \" { b\\" ] },"d":true,"e":null,"f":"%FF 100% \u00fc","g%41":-0,"":[]}"#;
        let json = |text: &str| AttributeValue::Json(text.into());
        assert_eq!(
            state(&format!(r#"{{"attributes":{text}}}"#)).attributes,
            Field::Value(vec![
                (b"a".to_vec(), json("1.0")),
                (b"b".to_vec(), json("1e999")),
                (b"c".to_vec(), json(r#"{"z":[1,"a \" { b\\"]}"#)),
                (b"d".to_vec(), json("true")),
                (b"e".to_vec(), AttributeValue::Null),
                (b"f".to_vec(), AttributeValue::Text(b"\xff 100% \xc3\xbc".to_vec())),
                (b"gA".to_vec(), json("-0")),
                (b"".to_vec(), json("[]")),
            ])
        );
    }

    #[test]
    fn blobs_come_in_two_forms() {
        let digest = "00".repeat(31) + "fF";
        let line = with(&format!(
            r#""blobs":[{{"role":"body","base64":"Zm9v\/w==","length":4}},{{"digest":"sha256:{digest}"}}]"#
        ));
        let event = parse(line.as_bytes()).unwrap();
        let Field::Value(blobs) = event.blobs else { panic!() };
        assert_eq!(blobs[0].role, Some(b"body".to_vec()));
        assert!(matches!(&blobs[0].source, BlobSource::Base64(text) if text.decoded_len() == 4));
        let mut bytes = [0; 32];
        bytes[31] = 0xff;
        assert_eq!(blobs[1], BlobLine { role: None, source: BlobSource::Digest(bytes), length: None });
    }

    #[test]
    fn base64_is_borrowed_from_the_line() {
        let line = with(r#""blob":{"base64":"Zm9v"}"#);
        let Field::Value(blobs) = parse(line.as_bytes()).unwrap().blobs else { panic!() };
        let BlobSource::Base64(text) = &blobs[0].source else { panic!() };
        assert!(line.as_bytes().as_ptr_range().contains(&text.as_str().as_ptr()));
    }

    #[test]
    fn what_is_wrong_is_named_with_code_and_place() {
        let deep = format!(r#""state":{{"attributes":{{"x":{}{}}}}}"#, "[".repeat(65), "]".repeat(65));
        let commas = format!(r#""state":{{"tags":[{}""]}}"#, r#""","#.repeat(65_536));
        for (extra, code, field) in [
            (r#""blob":"x""#, Code::BadField, "blob"),
            (r#""blob":{}"#, Code::MissingField, "blob"),
            (r#""blob":{"path":""}"#, Code::BadField, "blob.path"),
            (r#""blob":{"path":"a","base64":""}"#, Code::BadField, "blob"),
            (r#""blob":{"base64":"a"}"#, Code::BadBase64, "blob.base64"),
            (r#""blob":{"base64":"Zm9v","length":4}"#, Code::BadField, "blob"),
            (r#""blob":{"base64":"Zm9v","length":-3}"#, Code::BadField, "blob.length"),
            (r#""blob":{"digest":"md5:00"}"#, Code::BadDigest, "blob.digest"),
            (r#""blob":{"digest":"sha256:00"}"#, Code::BadDigest, "blob.digest"),
            (r#""blob":{"pth":"x"}"#, Code::UnknownField, "blob.pth"),
            (r#""blob":{"path":"x"},"blobs":[]"#, Code::BadField, "blobs"),
            (r#""blobs":[{"path":"x"},{"path":"y"}]"#, Code::DuplicateField, "blobs[1]"),
            (r#""blobs":[{"path":"x"},3]"#, Code::BadField, "blobs[1]"),
            (r#""flags":["x"]"#, Code::UnknownField, "flags"),
            (r#""item":"j""#, Code::DuplicateField, "item"),
            (r#""code":"D04""#, Code::BadField, "code"),
            (r#""content":"seen""#, Code::BadField, "content"),
            (r#""at":5"#, Code::BadField, "at"),
            (r#""at":"2026-11-22""#, Code::BadTime, "at"),
            (r#""at":"2026-06-30T23:59:60Z""#, Code::BadTime, "at"),
            (r#""at":"2026-06-30T23:59:59Z","not_before":"2026-07-30T23:59:59Z""#, Code::BadTime, "not_before"),
            (r#""account_id":"x""#, Code::BadField, "account_id"),
            (r#""source":{"name":"x"}"#, Code::MissingField, "source"),
            (r#""source":{"name":"x","position":7}"#, Code::BadField, "source.position"),
            (r#""state":[]"#, Code::BadField, "state"),
            (r#""state":{"flag":[]}"#, Code::UnknownField, "state.flag"),
            (r#""state":{"flags":"x"}"#, Code::BadField, "state.flags"),
            (r#""state":{"flags":[1]}"#, Code::BadField, "state.flags"),
            (r#""state":{"uid":17.0}"#, Code::BadField, "state.uid"),
            (r#""state":{"uid":-1}"#, Code::BadField, "state.uid"),
            (r#""state":{"uid":18446744073709551616}"#, Code::BadField, "state.uid"),
            (r#""state":{"date":"10000-01-01T00:00:00Z"}"#, Code::BadTime, "state.date"),
            (r#""state":{"name":"a","name":"b"}"#, Code::DuplicateField, "state.name"),
            (r#""state":{"attributes":{"aA":1,"a%41":1}}"#, Code::DuplicateField, "state.attributes.a%41"),
            (r#""state":{"name":"\ud800"}"#, Code::BadJson, "state.name"),
            (&deep, Code::BadField, "state.attributes.x"),
            (&commas, Code::BadJson, "state.tags"),
        ] {
            let line = with(extra);
            let error = parse(line.as_bytes()).unwrap_err();
            assert_eq!((error.code, error.field.as_str()), (code, field), "{extra:.100}: {error}");
        }
        for (line, code, field) in [
            ("", Code::BadJson, ""),
            ("{", Code::BadJson, ""),
            ("[]", Code::BadJson, ""),
            ("{}{}", Code::BadJson, ""),
            ("{\"a\":\"\u{1}\"}", Code::BadJson, ""),
            ("{}", Code::MissingField, "account"),
            (r#"{"account":"a"}"#, Code::MissingField, "item"),
            (r#"{"account":"","item":"i"}"#, Code::BadField, "account"),
            (r#"{"account":null,"item":"i"}"#, Code::BadField, "account"),
            (r#"{"account":"a","item":"i"}"#, Code::MissingField, "kind"),
            (r#"{"account":"a","item":"i","kind":"Message"}"#, Code::UnknownKind, "kind"),
            (r#"{"account":"a","item":"i","kind":"message"}"#, Code::MissingField, "op"),
            (r#"{"account":"a","item":"i","kind":"message","op":"move"}"#, Code::UnknownOp, "op"),
            (r#"{"account":"a","item":"i","kind":"message","op":"damaged"}"#, Code::MissingField, "code"),
        ] {
            let error = parse(line.as_bytes()).unwrap_err();
            assert_eq!((error.code, error.field.as_str()), (code, field), "{line}: {error}");
        }
        let error = parse(b"{\"account\":\"\xff\"}").unwrap_err();
        assert_eq!((error.code, error.column), (Code::BadJson, Some(13)));
        let error = parse(br#"{"account":"a","item":"i","kind":"nix"}"#).unwrap_err();
        assert_eq!(error.column, Some(34));
    }

    #[test]
    fn lsn_and_recorded_never_cost_a_line() {
        let event = with(r#""lsn":7,"recorded":"2026-11-22T00:15:11Z","content":"unseen""#);
        let event = parse(event.as_bytes()).unwrap();
        assert!(event.lsn == Some(7) && event.recorded.is_some() && event.content_unseen);
        assert!(parse(with(r#""lsn":"x","recorded":null"#).as_bytes()).unwrap().lsn.is_none());
    }

    #[test]
    fn the_schema_knows_the_same_fields() {
        let schema = include_str!("../../../../format-spec/events.schema.json");
        let schema: serde_json::Value = serde_json::from_str(schema).unwrap();
        let fields = |name: &str| {
            let mut fields: Vec<&str> =
                schema["$defs"][name]["properties"].as_object().unwrap().keys().map(|k| k.as_str()).collect();
            fields.sort_unstable();
            fields
        };
        let sorted = |known: &[&'static str]| {
            let mut known = known.to_vec();
            known.sort_unstable();
            known
        };
        assert_eq!(fields("event"), sorted(&LINE_FIELDS));
        assert_eq!(fields("state"), sorted(&STATE_FIELDS));
        assert_eq!(fields("blob"), ["base64", "digest", "length", "path", "role"]);
        let kinds: Vec<&str> =
            schema["$defs"]["kind"]["enum"].as_array().unwrap().iter().map(|k| k.as_str().unwrap()).collect();
        assert_eq!(kinds, Kind::ALL.map(Kind::name));
    }
}
