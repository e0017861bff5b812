//! Rows in, the same rows out; meanwhile the device fetches the frames of those that come next.
//!
//! An account's frames lie all over a log that is not compacted. Read one after the other each would cost a whole request;
//! asked for together they come as fast as the device can. Hints only: what is read is read and verified as always.

use super::as_of::{Hit, View};
use crate::error::Result;
use mailstrata_format::FileName;
use std::collections::VecDeque;

/// Frames asked for at once: at first, and at most.
const BATCH: (usize, usize) = (32, 1024);

/// Frames with no more bytes than this between them are asked for as one range.
const GAP: u64 = 32 << 10;

impl View {
    /// Passes rows on and has the device fetch the frames of the next ones meanwhile: for whoever reads many of them.
    pub fn ahead<I: Iterator<Item = Result<Hit>>>(&self, rows: I) -> Ahead<'_, I> {
        Ahead { view: self, rows, here: VecDeque::new(), coming: VecDeque::new(), batch: BATCH.0 }
    }

    /// Has the device fetch the frames of these rows.
    pub fn will_read(&self, rows: &[Hit]) {
        let place = |h: &Hit| (h.file, u64::from(h.row.offset), h.row.length);
        let mut places: Vec<_> = rows.iter().map(place).collect();
        places.sort_unstable_by_key(|(name, at, _)| (*name, *at));
        let mut range: Option<(FileName, u64, u64)> = None;
        for (name, at, len) in places {
            let end = at + u64::from(len);
            match &mut range {
                Some((file, _, to)) if *file == name && at <= to.saturating_add(GAP) => *to = end.max(*to),
                _ => {
                    self.ask(range.replace((name, at, end)));
                }
            }
        }
        self.ask(range);
    }

    fn ask(&self, range: Option<(FileName, u64, u64)>) {
        // A file that cannot be opened is told of when it is read.
        if let Some((name, from, to)) = range
            && let Ok(file) = self.files.get(name)
        {
            file.will_read(from, to - from);
        }
    }
}

/// See [`View::ahead`].
pub struct Ahead<'a, I> {
    view: &'a View,
    rows: I,
    here: VecDeque<Result<Hit>>,
    /// Asked for already.
    coming: VecDeque<Result<Hit>>,
    batch: usize,
}

impl<I: Iterator<Item = Result<Hit>>> Ahead<'_, I> {
    fn ask_for_more(&mut self) {
        self.coming.extend(self.rows.by_ref().take(self.batch));
        self.batch = (self.batch * 2).min(BATCH.1);
        let hits: Vec<Hit> = self.coming.iter().flatten().copied().collect();
        self.view.will_read(&hits);
    }
}

impl<I: Iterator<Item = Result<Hit>>> Iterator for Ahead<'_, I> {
    type Item = Result<Hit>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.here.is_empty() {
            if self.coming.is_empty() {
                self.ask_for_more();
            }
            std::mem::swap(&mut self.here, &mut self.coming);
            if !self.here.is_empty() {
                self.ask_for_more();
            }
        }
        self.here.pop_front()
    }
}
