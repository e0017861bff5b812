//! A record as JSON, and as a line for people.

use crate::redolog::content;
use crate::redolog::input::ReadAt;
use crate::redolog::record::{Record, Value};
use crate::time::format_rfc3339;
use base64::engine::general_purpose::STANDARD;
use std::io::{self, Write};

/// µs for the milliseconds of the log; what no calendar holds is the nearest that one does.
fn moment(ms: i64) -> String {
    format_rfc3339(ms.saturating_mul(1000))
}

fn json_text(text: &str, out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer(out, text).map_err(io::Error::from)
}

fn json_fields<R: ReadAt>(
    fields: &[(&'static str, Value)],
    record: &Record,
    blobs: Option<&R>,
    out: &mut impl Write,
) -> io::Result<()> {
    out.write_all(b"{")?;
    for (i, (name, value)) in fields.iter().enumerate() {
        if i > 0 {
            out.write_all(b",")?;
        }
        json_text(name, out)?;
        out.write_all(b":")?;
        json_value(value, record, blobs, out)?;
    }
    out.write_all(b"}")
}

fn json_value<R: ReadAt>(value: &Value, record: &Record, blobs: Option<&R>, out: &mut impl Write) -> io::Result<()> {
    match value {
        Value::Null => out.write_all(b"null"),
        Value::Bool(b) => write!(out, "{b}"),
        Value::Int(n) => write!(out, "{n}"),
        Value::Text(text) => json_text(text, out),
        Value::List(list) => {
            out.write_all(b"[")?;
            for (i, value) in list.iter().enumerate() {
                if i > 0 {
                    out.write_all(b",")?;
                }
                json_value(value, record, blobs, out)?;
            }
            out.write_all(b"]")
        }
        Value::Map(fields) => json_fields(fields, record, blobs, out),
        Value::Data(extent) => {
            write!(out, "{{\"offset\":{},\"length\":{}", extent.offset, extent.length)?;
            if let Some(from) = blobs {
                let size = record.data().filter(|(own, _)| own == extent).and_then(|(_, size)| size);
                out.write_all(b",\"base64\":\"")?;
                let mut encoder = base64::write::EncoderWriter::new(&mut *out, &STANDARD);
                let copied = match content::open(from, *extent, size) {
                    Ok(content) => content::copy(content, &mut encoder)?,
                    Err(e) => Err(e),
                };
                encoder.finish()?;
                drop(encoder);
                out.write_all(b"\"")?;
                if let Err(e) = copied {
                    out.write_all(b",\"unreadable\":")?;
                    json_text(&e.to_string(), out)?;
                }
            }
            out.write_all(b"}")
        }
    }
}

impl Record {
    /// One JSON object, without a line's end. `more`: members that come first, as `(name, JSON)`. `blobs`: the file, when
    /// content shall be in it.
    pub fn write_json<R: ReadAt>(
        &self,
        more: &[(&str, String)],
        offsets: bool,
        blobs: Option<&R>,
        out: &mut impl Write,
    ) -> io::Result<()> {
        out.write_all(b"{\"op\":")?;
        json_text(self.name(), out)?;
        let h = &self.head;
        write!(out, ",\"code\":{}", h.code)?;
        for (name, json) in more {
            write!(out, ",\"{name}\":{json}")?;
        }
        if offsets {
            write!(out, ",\"offset\":{},\"end\":{}", self.offset, self.end)?;
        }
        write!(
            out,
            ",\"version\":\"{}\",\"at\":\"{}\",\"timestamp_ms\":{},\"change_id\":{},\"change_constraint\":{},\
             \"txn\":\"{}\",\"mailbox_id\":{},\"fields\":",
            h.version,
            moment(h.time_ms),
            h.time_ms,
            h.change,
            h.constraint,
            h.transaction,
            h.mailbox
        )?;
        json_fields(&self.fields, self, blobs, out)?;
        out.write_all(b"}")
    }

    /// One line for people, without its end. Control characters are escaped: a terminal would obey them.
    pub fn write_text(&self, offset: bool, out: &mut impl Write) -> io::Result<()> {
        let h = &self.head;
        if offset {
            write!(out, "[{:>10}] ", self.offset)?;
        }
        write!(out, "{} txn {} mailbox {} ", moment(h.time_ms), h.transaction, h.mailbox)?;
        if h.change >= 0 {
            write!(out, "change {} ", h.change)?;
        }
        write!(out, "{} (v{})", self.name(), h.version)?;
        for (name, value) in &self.fields {
            write!(out, " {name}=")?;
            text_value(value, out)?;
        }
        Ok(())
    }
}

fn text_value(value: &Value, out: &mut impl Write) -> io::Result<()> {
    match value {
        Value::Null => out.write_all(b"-"),
        Value::Bool(b) => write!(out, "{b}"),
        Value::Int(n) => write!(out, "{n}"),
        Value::Text(text) => write!(out, "{text:?}"),
        Value::List(list) => {
            out.write_all(b"[")?;
            for (i, value) in list.iter().enumerate() {
                if i > 0 {
                    out.write_all(b" ")?;
                }
                text_value(value, out)?;
            }
            out.write_all(b"]")
        }
        Value::Map(fields) => {
            out.write_all(b"{")?;
            for (i, (name, value)) in fields.iter().enumerate() {
                if i > 0 {
                    out.write_all(b" ")?;
                }
                write!(out, "{name}=")?;
                text_value(value, out)?;
            }
            out.write_all(b"}")
        }
        Value::Data(extent) => write!(out, "{} bytes at {}", extent.length, extent.offset),
    }
}
