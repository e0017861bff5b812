//! Bytes of a log file at a place: numbers, texts and lists, as the server's data streams write them.
//!
//! In comes anything that can be read at an offset, out go values, or a [`Fault`]. Lengths are held against what is left in
//! the file before memory is taken for them, and all that a record keeps against one bound.

use std::fs::File;
use std::io;

/// Longest text, in bytes; the server's own reader refuses longer ones.
pub const TEXT_LEN_MAX: i32 = 32 << 20;
/// What all fields of one record may take in memory, in bytes. The largest records without content are contacts and bulk
/// changes of 1,000 items, far below.
pub const FIELDS_LEN_MAX: usize = 64 << 20;

const WINDOW: usize = 64 << 10;

/// Something that can be read at an offset.
pub trait ReadAt {
    /// Reads some bytes; 0 only at the end.
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Bytes there are now. A live log grows.
    fn len(&self) -> io::Result<u64>;
    /// Whether there are none.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

impl ReadAt for File {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            match std::os::unix::fs::FileExt::read_at(self, into, offset) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

impl ReadAt for [u8] {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let from = usize::try_from(offset).ok().and_then(|at| self.get(at..)).unwrap_or_default();
        let n = from.len().min(into.len());
        if let (Some(to), Some(from)) = (into.get_mut(..n), from.get(..n)) {
            to.copy_from_slice(from);
        }
        Ok(n)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(<[u8]>::len(self) as u64)
    }
}

impl ReadAt for Vec<u8> {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        ReadAt::read_at(self.as_slice(), into, offset)
    }

    fn len(&self) -> io::Result<u64> {
        ReadAt::len(self.as_slice())
    }
}

impl<T: ReadAt + ?Sized> ReadAt for &T {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        (**self).read_at(into, offset)
    }

    fn len(&self) -> io::Result<u64> {
        (**self).len()
    }
}

impl<T: ReadAt + ?Sized> ReadAt for std::sync::Arc<T> {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        (**self).read_at(into, offset)
    }

    fn len(&self) -> io::Result<u64> {
        (**self).len()
    }
}

/// Why no value was read.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The file ends inside of it.
    #[error("the file ends inside of the record")]
    Short,
    #[error("{0}")]
    Bad(&'static str),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A place in a file and a window of bytes around it.
#[derive(Debug)]
pub struct Cursor<R> {
    from: R,
    /// Where the next value is read.
    pos: u64,
    /// Nothing is read at or behind this.
    end: u64,
    window: Vec<u8>,
    window_at: u64,
    /// Memory that the record being read may still take.
    budget: usize,
}

impl<R: ReadAt> Cursor<R> {
    /// At the start of a file; sees the bytes that are there now.
    pub fn new(from: R) -> io::Result<Self> {
        let end = from.len()?;
        Ok(Self { from, pos: 0, end, window: Vec::new(), window_at: 0, budget: FIELDS_LEN_MAX })
    }

    /// Sees what was written, or cut off, since.
    pub fn refresh(&mut self) -> io::Result<()> {
        self.end = self.from.len()?;
        self.window.clear();
        Ok(())
    }

    pub fn end(&self) -> u64 {
        self.end
    }

    pub fn pos(&self) -> u64 {
        self.pos
    }

    pub fn source(&self) -> &R {
        &self.from
    }

    /// Goes to a place; a new record may begin there.
    pub fn seek(&mut self, pos: u64) {
        self.pos = pos;
        self.budget = FIELDS_LEN_MAX;
    }

    pub fn left(&self) -> u64 {
        self.end.saturating_sub(self.pos)
    }

    /// Up to `n` bytes at a place, fewer at the end. `n` is at most the window.
    pub fn peek(&mut self, at: u64, n: usize) -> io::Result<&[u8]> {
        let n = n.min(WINDOW).min(usize::try_from(self.end.saturating_sub(at)).unwrap_or(usize::MAX));
        let inside = at >= self.window_at && at + n as u64 <= self.window_at + self.window.len() as u64;
        if !inside {
            let want = WINDOW.min(usize::try_from(self.end.saturating_sub(at)).unwrap_or(WINDOW));
            self.window.resize(want, 0);
            self.window_at = at;
            let mut filled = 0;
            while let Some(rest) = self.window.get_mut(filled..).filter(|rest| !rest.is_empty()) {
                match self.from.read_at(rest, at + filled as u64) {
                    Ok(0) => break,
                    Ok(more) => filled += more,
                    Err(e) => {
                        self.window.clear();
                        return Err(e);
                    }
                }
            }
            // The file was cut while it was read.
            self.window.truncate(filled);
        }
        let start = usize::try_from(at.saturating_sub(self.window_at)).unwrap_or(usize::MAX);
        let there = self.window.get(start..).unwrap_or_default();
        Ok(there.get(..n).unwrap_or(there))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let bytes: [u8; N] = self.peek(self.pos, N)?.try_into().map_err(|_| Fault::Short)?;
        self.pos += N as u64;
        Ok(bytes)
    }

    pub fn bytes6(&mut self) -> Result<[u8; 6], Fault> {
        self.array()
    }

    pub fn i8(&mut self) -> Result<i8, Fault> {
        self.array().map(i8::from_be_bytes)
    }

    pub fn i16(&mut self) -> Result<i16, Fault> {
        self.array().map(i16::from_be_bytes)
    }

    pub fn i32(&mut self) -> Result<i32, Fault> {
        self.array().map(i32::from_be_bytes)
    }

    pub fn i64(&mut self) -> Result<i64, Fault> {
        self.array().map(i64::from_be_bytes)
    }

    pub fn bool(&mut self) -> Result<bool, Fault> {
        Ok(self.array::<1>()? != [0])
    }

    /// Takes memory from the record's bound.
    pub fn charge(&mut self, bytes: usize) -> Result<(), Fault> {
        self.budget = self.budget.checked_sub(bytes).ok_or(Fault::Bad("the record's fields are too large"))?;
        Ok(())
    }

    /// A text; `None` is the null text, which is not the empty one.
    pub fn text(&mut self) -> Result<Option<String>, Fault> {
        let n = match self.i32()? {
            -1 => return Ok(None),
            n @ 0..=TEXT_LEN_MAX => u32::try_from(n).map_err(|_| Fault::Bad("a text of negative length"))?,
            _ => return Err(Fault::Bad("a text of impossible length")),
        };
        if u64::from(n) > self.left() {
            return Err(Fault::Short);
        }
        let n = usize::try_from(n).map_err(|_| Fault::Bad("a text of impossible length"))?;
        self.charge(n + size_of::<String>())?;
        let mut bytes = Vec::with_capacity(n);
        while bytes.len() < n {
            let want = n - bytes.len();
            let some = self.peek(self.pos, want)?;
            if some.is_empty() {
                return Err(Fault::Short);
            }
            bytes.extend_from_slice(some);
            self.pos += some.len() as u64;
        }
        String::from_utf8(bytes).map(Some).map_err(|_| Fault::Bad("a text that is not UTF-8"))
    }

    /// How many elements a list says it has; each takes at least `each_min` bytes of the file, so more than that many are not
    /// there. -1 and less is refused.
    pub fn count(&mut self, each_min: u64) -> Result<usize, Fault> {
        let n = self.i32()?;
        self.check_count(i64::from(n), each_min)
    }

    /// See [`Cursor::count`].
    pub fn check_count(&mut self, n: i64, each_min: u64) -> Result<usize, Fault> {
        let n = u64::try_from(n).map_err(|_| Fault::Bad("a list of negative length"))?;
        if n.saturating_mul(each_min) > self.left() {
            return Err(Fault::Short);
        }
        usize::try_from(n).map_err(|_| Fault::Bad("a list of impossible length"))
    }

    /// Passes over content whose length, an `i32`, stands before it; gives its place.
    pub fn content(&mut self) -> Result<(u64, u64), Fault> {
        let n = self.i32()?;
        let n = u64::try_from(n).map_err(|_| Fault::Bad("content of negative length"))?;
        if n > self.left() {
            return Err(Fault::Short);
        }
        let at = self.pos;
        self.pos += n;
        Ok((at, n))
    }
}

/// Reads a whole array at a place.
pub fn read_exact_at<const N: usize>(from: &impl ReadAt, offset: u64) -> Result<[u8; N], Fault> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match from.read_at(rest, offset + filled as u64)? {
            0 => return Err(Fault::Short),
            n => filled += n,
        }
    }
    Ok(bytes)
}
