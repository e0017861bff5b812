//! A message's summary, from its first bytes.
//!
//! In come the first bytes of a message (up to [`HEAD_BYTES_MAX`] are looked at), out go subject, sender, date and Message-ID as far
//! as they are there. Rules:
//!
//! - It never fails and never panics: what cannot be read is `None`. Messages are hostile input.
//! - It is cheap, because it runs for every message of a mailbox: one walk over the lines up to the first empty one picks the four
//!   fields, and only these are decoded (RFC 2047, charsets, comments, date forms) by mail-parser.
//! - The first field of a name counts, as it does for mail clients; later ones are often forged or left over.

use std::sync::LazyLock;

use mail_parser::{HeaderName, HeaderValue, MessageParser};

/// More than any header that a mail client would show; a message without an empty line is cut here.
pub const HEAD_BYTES_MAX: usize = 64 << 10;

/// One field is cut here: room for any subject, not for an attack on the decoders.
const FIELD_BYTES_MAX: usize = 16 << 10;

/// What a mailbox list shows of a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Decoded; empty when the field is there and empty.
    pub subject: Option<String>,
    /// The address in `From`, or its name when it has no address.
    pub from: Option<String>,
    /// `Date`, µs since 1970 UTC.
    pub date_us: Option<i64>,
    /// Without the angle brackets.
    pub message_id: Option<String>,
}

/// The fields that are looked at, as they are spelled in the piece given to the parser.
const FIELDS: [&[u8]; 4] = [b"Subject", b"From", b"Date", b"Message-ID"];

static PARSER: LazyLock<MessageParser> = LazyLock::new(|| {
    MessageParser::new()
        .header_text(HeaderName::Subject)
        .header_address(HeaderName::From)
        .header_date(HeaderName::Date)
        .header_id(HeaderName::MessageId)
        .default_header_ignore()
});

/// Reads the summary from a message's first bytes.
pub fn summary(message: &[u8]) -> Summary {
    let head = message.get(..HEAD_BYTES_MAX).unwrap_or(message);
    // A message from a system whose lines end in CR alone is one long line otherwise.
    let converted: Vec<u8>;
    let head = if !head.contains(&b'\n') && head.contains(&b'\r') {
        converted = head.iter().map(|&b| if b == b'\r' { b'\n' } else { b }).collect();
        &converted
    } else {
        head
    };
    let mut found = [None; FIELDS.len()];
    pick(head, &mut found);
    let mut piece = Vec::with_capacity(512);
    for (name, value) in FIELDS.iter().zip(found) {
        if let Some(value) = value {
            piece.extend_from_slice(name);
            piece.extend_from_slice(b": ");
            piece.extend_from_slice(value.get(..FIELD_BYTES_MAX).unwrap_or(value));
            piece.push(b'\n');
        }
    }
    let mut summary = Summary { subject: found[0].map(|_| String::new()), ..Summary::default() };
    if piece.is_empty() {
        return summary;
    }
    piece.extend_from_slice(b"\n.");
    let Some(parsed) = PARSER.parse_headers(&piece) else { return summary };
    for header in parsed.headers() {
        match (&header.name, &header.value) {
            (HeaderName::Subject, value) => {
                if let Some(text) = value.as_text() {
                    summary.subject = Some(text.to_owned());
                }
            }
            (HeaderName::From, HeaderValue::Address(address)) => {
                summary.from = address.first().and_then(|a| a.address().or_else(|| a.name())).map(str::to_owned);
            }
            (HeaderName::Date, HeaderValue::DateTime(date)) if date.is_valid() => {
                summary.date_us = date.to_timestamp().checked_mul(1_000_000);
            }
            (HeaderName::MessageId, value) => {
                let id = match value {
                    HeaderValue::TextList(ids) => ids.first().map(|id| id.as_ref()),
                    value => value.as_text(),
                };
                summary.message_id = id.map(str::trim).filter(|id| !id.is_empty()).map(str::to_owned);
            }
            _ => {}
        }
    }
    summary
}

/// Walks the lines up to the first empty one and notes the first value of each field, with its folded lines.
fn pick<'a>(head: &'a [u8], found: &mut [Option<&'a [u8]>; FIELDS.len()]) {
    let mut at = 0;
    while at < head.len() {
        let start = at;
        let mut end = line_end(head, at);
        if matches!(head.get(start..end), None | Some(b"" | b"\r")) {
            return;
        }
        while matches!(head.get(end + 1), Some(b' ' | b'\t')) {
            let next = line_end(head, end + 1);
            // A line of blanks ends the header for some and not for others; it never belongs to a value that matters.
            if head.get(end + 1..next).is_none_or(|line| line.trim_ascii().is_empty()) {
                break;
            }
            end = next;
        }
        at = end + 1;
        let field = head.get(start..end).unwrap_or_default();
        // Before anything else, since most fields are none of the four.
        if !matches!(field.first(), Some(b'S' | b's' | b'F' | b'f' | b'D' | b'd' | b'M' | b'm')) {
            continue;
        }
        for (name, slot) in FIELDS.iter().zip(found.iter_mut()) {
            if slot.is_none()
                && let Some((start, rest)) = field.split_at_checked(name.len())
                && start.eq_ignore_ascii_case(name)
                && let Some((b':', value)) = rest.trim_ascii_start().split_first()
            {
                *slot = Some(value.trim_ascii());
            }
        }
    }
}

fn line_end(head: &[u8], from: usize) -> usize {
    let rest = head.get(from..).unwrap_or_default();
    rest.iter().position(|&b| b == b'\n').map_or(head.len(), |n| from + n)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn the_four_fields_are_read_and_decoded() {
        let message = b"Received: from a by b;\r\n\tSat, 21 Nov 2026 10:00:00 +0000\r\nDATE: Sun, 22 Nov 2026 01:15:10 +0100\r\n\
            From: \"Bob B.\" <bob@example.org>, other@x\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n =?iso-8859-1?q?_aus_K=F6ln?=\r\n\
            Message-Id: <id-1@example.org>\r\nSubject: second\r\n\r\nFrom: body@example.org\r\n";
        let summary = summary(message);
        assert_eq!(summary.subject, some("Grüße aus Köln"));
        assert_eq!(summary.from, some("bob@example.org"));
        assert_eq!(summary.date_us, Some(1_795_306_510_000_000));
        assert_eq!(summary.message_id, some("id-1@example.org"));
    }

    #[test]
    fn nothing_after_the_empty_line_counts() {
        assert_eq!(summary(b"X: y\n\nSubject: body\n"), Summary::default());
        assert_eq!(summary(b"\nSubject: body\n"), Summary::default());
        assert_eq!(summary(b"\r\nSubject: body\n"), Summary::default());
        assert_eq!(summary(b""), Summary::default());
    }

    #[test]
    fn odd_messages_give_what_they_have() {
        assert_eq!(summary(b"Subject:\n\n").subject, some(""));
        assert_eq!(summary("Subject: Grüße\n\n".as_bytes()).subject, some("Grüße"));
        assert_eq!(summary(b"Subject : spaced\n").subject, some("spaced"));
        assert_eq!(summary(b"Subject: cut").subject, some("cut"));
        assert_eq!(summary(b"Subject: a\rFrom: a@b\r\rbody").from, some("a@b"));
        assert_eq!(summary(b"From a@b Sat Nov 21\nFrom: x@y\n\n").from, some("x@y"));
        assert_eq!(summary(b"From: root\n\n").from, some("root"));
        assert_eq!(summary(b"From: Team: a@b, c@d;\n\n").from, some("a@b"));
        assert_eq!(summary(b"Date: yesterday\n\n").date_us, None);
        assert_eq!(summary(b"Message-ID: <a@b> <c@d>\n\n").message_id, some("a@b"));
        assert!(summary(b"Subject: caf\xe9 \0 x\n\n").subject.is_some_and(|s| s.starts_with("caf")));
        assert_eq!(summary(b"\0\0\xff: x\nSubject: ok\n\n").subject, some("ok"));
    }

    #[test]
    fn a_huge_header_is_cut_and_a_huge_field_too() {
        let mut message = b"X-Long: ".to_vec();
        message.resize(HEAD_BYTES_MAX, b'x');
        message.extend_from_slice(b"\nSubject: too late\n\n");
        assert_eq!(summary(&message).subject, None);
        let message = [b"Subject: ".to_vec(), vec![b'y'; 40_000], b"\nFrom: a@b\n\n".to_vec()].concat();
        let summary = summary(&message);
        assert!(summary.subject.is_some_and(|s| s.len() <= FIELD_BYTES_MAX) && summary.from == some("a@b"));
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let words: [&[u8]; 12] = [
            b"Subject:",
            b"From:",
            b"Date:",
            b"Message-ID:",
            b"\n",
            b"\r",
            b" ",
            b"=?utf-8?b?",
            b"?=",
            b"<\"(",
            b"\0\xff\xc3",
            b"Mon, 99 Feb 99999 -9999",
        ];
        let mut seed = 1u64;
        for _ in 0..20_000 {
            let mut message = Vec::new();
            for _ in 0..16 {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                message.extend_from_slice(words[(seed >> 33) as usize % words.len()]);
            }
            summary(&message);
        }
    }

    #[test]
    fn a_typical_message_takes_microseconds() {
        let mut message = Vec::new();
        for i in 0..8 {
            message.extend_from_slice(format!("Received: from mx{i}.example.org (mx{i} [192.0.2.{i}])\r\n\tby store with ESMTPS id ABC{i};\r\n\tSat, 21 Nov 2026 10:00:0{i} +0000\r\n").as_bytes());
        }
        message.extend_from_slice(b"DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=example.org; s=mail; h=from:to:subject;\r\n\tbh=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=; b=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\nFrom: Bob <bob@example.org>\r\nTo: Alice <alice@example.org>\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?= and more\r\nDate: Sun, 22 Nov 2026 01:15:10 +0100\r\nMessage-ID: <id-1@example.org>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain\r\n\r\n");
        summary(&message);
        let start = std::time::Instant::now();
        for _ in 0..10_000 {
            std::hint::black_box(summary(std::hint::black_box(&message)));
        }
        let each = start.elapsed() / 10_000;
        eprintln!("a summary takes {each:?}");
        assert!(each.as_micros() < 200, "{each:?}"); // some 3 µs optimised; tests run on busy machines
    }
}
