//! From a stream to lines.
//!
//! In comes a `BufRead`, out come numbered lines, one at a time, in one buffer. Lines count from 1, blank ones too, though
//! they are not given out. The end of a line may be CRLF, and missing on the last. A line longer than the bound is an error
//! of that line: its rest is skipped without being kept, and the next line is read as if nothing had been.

use std::io::{self, BufRead};

use super::{Code, LineError};

/// Room for a blob of some 190 MB in base64. Larger ones are named by `blob.path`.
pub const LINE_BYTES_MAX: usize = 256 << 20;

/// A buffer that grew beyond this for one line is given back before the next.
const KEPT_BYTES_MAX: usize = 4 << 20;

/// Reads lines.
#[derive(Debug)]
pub struct LineReader<R> {
    input: R,
    line: Vec<u8>,
    number: u64,
    bytes_max: usize,
}

/// One line that is not blank.
#[derive(Debug)]
pub struct Line<'a> {
    /// From 1.
    pub number: u64,
    /// Without its end.
    pub content: Result<&'a [u8], LineError>,
}

impl<R: BufRead> LineReader<R> {
    pub fn new(input: R) -> Self {
        Self::with_bytes_max(input, LINE_BYTES_MAX)
    }

    pub fn with_bytes_max(input: R, bytes_max: usize) -> Self {
        Self { input, line: Vec::new(), number: 0, bytes_max }
    }

    /// Lines read so far, blank ones too.
    pub fn lines_read(&self) -> u64 {
        self.number
    }

    /// The next line that is not blank. `None` at the end.
    pub fn next_line(&mut self) -> io::Result<Option<Line<'_>>> {
        // CRLF on top of the longest line.
        let taken_max = self.bytes_max.saturating_add(2);
        loop {
            if self.line.capacity() > KEPT_BYTES_MAX {
                self.line = Vec::new();
            }
            self.line.clear();
            io::Read::take(&mut self.input, taken_max as u64).read_until(b'\n', &mut self.line)?;
            if self.line.is_empty() {
                return Ok(None);
            }
            self.number += 1;
            let mut content: usize = self.line.len();
            let ended = self.line.ends_with(b"\n");
            if ended {
                content -= if self.line.ends_with(b"\r\n") { 2 } else { 1 };
            } else if self.line.len() == taken_max {
                self.input.skip_until(b'\n')?;
            }
            if content > self.bytes_max {
                let message = format!(
                    "the line is longer than {} bytes; put the blob in a file and name it with blob.path",
                    self.bytes_max
                );
                let error = LineError { code: Code::LineTooLong, field: String::new(), column: None, message };
                return Ok(Some(Line { number: self.number, content: Err(error) }));
            }
            self.line.truncate(content);
            if !self.line.iter().all(u8::is_ascii_whitespace) {
                break;
            }
        }
        let mut line = self.line.as_slice();
        if self.number == 1 {
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line); // a byte order mark
        }
        Ok(Some(Line { number: self.number, content: Ok(line) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufReader;

    fn read(text: &[u8], bytes_max: usize) -> Vec<(u64, Result<Vec<u8>, Code>)> {
        let mut reader = LineReader::with_bytes_max(BufReader::with_capacity(3, text), bytes_max);
        let mut lines = Vec::new();
        while let Some(line) = reader.next_line().unwrap() {
            lines.push((line.number, line.content.map(<[u8]>::to_vec).map_err(|e| e.code)));
        }
        lines
    }

    #[test]
    fn blank_lines_count_and_are_not_given_out() {
        let ok = |n: u64, text: &str| (n, Ok(text.as_bytes().to_vec()));
        assert_eq!(read(b"\n \t\na\r\n\r\nb\nc", 100), [ok(3, "a"), ok(5, "b"), ok(6, "c")]);
        assert_eq!(read(b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n", 100), [ok(1, "a"), ok(2, "\u{feff}b")]);
        assert_eq!(read(b"", 100), []);
        assert_eq!(read(b"\n\n", 100), []);
    }

    #[test]
    fn a_line_too_long_costs_only_itself() {
        let ok = |n: u64, text: &str| (n, Ok(text.as_bytes().to_vec()));
        let long = |n: u64| (n, Err(Code::LineTooLong));
        assert_eq!(
            read(b"1234\r\n12345\n12345\r\n123456\n1234567\n123\n12345678901234567890", 4),
            [ok(1, "1234"), long(2), long(3), long(4), long(5), ok(6, "123"), long(7)]
        );
        assert_eq!(read(b"12345", 4), [long(1)]);
        assert_eq!(read(b"123456", 4), [long(1)]);
        assert_eq!(read(b"1234\r", 4), [long(1)]);
    }
}
