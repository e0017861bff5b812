//! One log file, record after record.
//!
//! In comes a file, out go its records in order, and between them what was passed over. Two ways to read:
//!
//! | at the place | a finished file | a live one |
//! | --- | --- | --- |
//! | a record | it | it |
//! | the file ends inside of the record | the next record that holds, if there is one; else a torn tail | wait |
//! | bytes that are no record, then a record that holds | damage, then that record | the same |
//! | bytes that are no record to the end | damage | wait: the marker may not be written yet |
//!
//! A record *holds* after damage when a marker or the end of the file follows it.

use crate::redolog::input::{Cursor, Fault, ReadAt};
use crate::redolog::record::{Boundary, MARKER, Record, boundary, parse};
use std::io;

/// Bytes that are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Skipped {
    pub from: u64,
    /// Where reading goes on.
    pub to: u64,
    pub why: &'static str,
    /// Where the last good record before it began.
    pub last_good: Option<u64>,
}

/// What comes next in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Record(Record),
    Skipped(Skipped),
    /// The file ends inside of a record, or of what may become one. Live: ask again when there is more.
    Torn {
        at: u64,
        left: u64,
        last_good: Option<u64>,
    },
    End,
}

/// Reads a file.
#[derive(Debug)]
pub struct Scanner<R> {
    cursor: Cursor<R>,
    pos: u64,
    live: bool,
    /// A record was found by searching: it was parsed, and is given next.
    found: Option<Record>,
    last_good: Option<u64>,
}

impl<R: ReadAt> Scanner<R> {
    /// From a place on, which is where a record begins: [`super::header::HEADER_LEN`], or a record's end.
    pub fn new(from: R, pos: u64, live: bool) -> io::Result<Self> {
        Ok(Self { cursor: Cursor::new(from)?, pos, live, found: None, last_good: None })
    }

    /// Where the next record begins.
    pub fn pos(&self) -> u64 {
        self.found.as_ref().map_or(self.pos, |r| r.offset)
    }

    /// Bytes of the file that were seen.
    pub fn end(&self) -> u64 {
        self.cursor.end()
    }

    pub fn source(&self) -> &R {
        self.cursor.source()
    }

    /// Bytes at a place, for a report.
    pub fn peek(&mut self, at: u64, n: usize) -> io::Result<&[u8]> {
        self.cursor.peek(at, n)
    }

    /// Sees what was written since; `live`: whether more may come. A file that became shorter, because the server cut a torn
    /// record off when it started again, is read on from its new end.
    pub fn refresh(&mut self, live: bool) -> io::Result<()> {
        self.cursor.refresh()?;
        self.live = live;
        self.found = None;
        self.pos = self.pos.min(self.cursor.end());
        Ok(())
    }

    /// What comes next. After [`Step::End`], and [`Step::Torn`] of a live file, it may be asked again.
    pub fn step(&mut self) -> io::Result<Step> {
        if let Some(record) = self.found.take() {
            return Ok(self.give(record));
        }
        if self.pos >= self.cursor.end() {
            return Ok(Step::End);
        }
        match parse(&mut self.cursor, self.pos, self.live) {
            Ok(record) => Ok(self.give(record)),
            Err(Fault::Io(e)) => Err(e),
            Err(Fault::Short) if self.live => Ok(self.torn()),
            Err(Fault::Short) => self.search(None),
            Err(Fault::Bad(why)) => self.search(Some(why)),
        }
    }

    fn give(&mut self, record: Record) -> Step {
        self.pos = record.end;
        self.last_good = Some(record.offset);
        Step::Record(record)
    }

    fn torn(&mut self) -> Step {
        let left = self.cursor.end().saturating_sub(self.pos);
        Step::Torn { at: self.pos, left, last_good: self.last_good }
    }

    /// Goes on at the next record that holds. `why`: what is wrong here; `None`: the file ends inside of the record.
    fn search(&mut self, why: Option<&'static str>) -> io::Result<Step> {
        let (from, last_good) = (self.pos, self.last_good);
        let mut at = from + 1;
        while let Some(marker) = self.next_marker(at)? {
            match parse(&mut self.cursor, marker, self.live) {
                Ok(record) => match boundary(&mut self.cursor, record.end) {
                    Err(Fault::Io(e)) => return Err(e),
                    // A live log may go on with something else than a marker.
                    Ok(Boundary::Torn) if self.live => return Ok(self.torn()),
                    Ok(Boundary::Marker | Boundary::End | Boundary::Torn) => {
                        let why = why.unwrap_or("a record whose lengths lead behind the end of the file");
                        self.found = Some(record);
                        self.pos = marker;
                        return Ok(Step::Skipped(Skipped { from, to: marker, why, last_good }));
                    }
                    Ok(Boundary::No) | Err(_) => {}
                },
                Err(Fault::Io(e)) => return Err(e),
                Err(Fault::Short) if self.live => return Ok(self.torn()),
                Err(_) => {}
            }
            at = marker + 1;
        }
        if self.live {
            return Ok(self.torn());
        }
        let torn = self.torn();
        self.pos = self.cursor.end();
        Ok(match why {
            None => torn,
            Some(why) => Step::Skipped(Skipped { from, to: self.pos, why, last_good }),
        })
    }

    /// The next marker at or behind a place.
    fn next_marker(&mut self, mut at: u64) -> io::Result<Option<u64>> {
        const PIECE: usize = 32 << 10;
        loop {
            let piece = self.cursor.peek(at, PIECE)?;
            if piece.len() < MARKER.len() {
                return Ok(None);
            }
            if let Some(i) = piece.windows(MARKER.len()).position(|window| window == MARKER) {
                return Ok(Some(at + i as u64));
            }
            at += (piece.len() - (MARKER.len() - 1)) as u64;
        }
    }
}
