//! Subscribe: transactions from an LSN on, as they become durable.

use crate::commit::writer::Shared;
use crate::error::Result;
use crate::view::as_of::{LogEntry, View};
use crate::view::log::LogCursor;
use mailstrata_format::Lsn;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// A subscription. It holds nothing back: a slow reader reads later, from disk. Files that a run replaced while it was in the
/// middle of them stay until it is through.
pub struct Tail {
    shared: Arc<Shared>,
    files: Arc<crate::files::Files>,
    next: Lsn,
    /// The view that is being read, and where that is.
    under_way: Option<(View, LogCursor)>,
    ready: VecDeque<LogEntry>,
}

/// Entries read ahead at most.
const BATCH: usize = 256;

impl Tail {
    pub(crate) fn new(shared: Arc<Shared>, files: Arc<crate::files::Files>, from: Lsn) -> Self {
        Self { shared, files, next: Lsn(from.0.max(1)), under_way: None, ready: VecDeque::new() }
    }

    /// The next transaction; `None` when none became durable within `timeout`.
    pub fn next(&mut self, timeout: Duration) -> Result<Option<LogEntry>> {
        if let Some(e) = self.ready.pop_front() {
            return Ok(Some(e));
        }
        if self.under_way.is_none() {
            let durable = self.shared.wait_beyond(Lsn(self.next.0 - 1), timeout);
            if durable < self.next {
                return Ok(None);
            }
            let view = View { files: self.files.clone(), catalog: self.shared.catalog(), lsn: durable };
            self.under_way = Some((view, LogCursor::new(self.next)));
        }
        while self.ready.len() < BATCH
            && let Some((view, cursor)) = &mut self.under_way
        {
            match cursor.step(view) {
                Some(Ok(entry)) => {
                    self.next = cursor.position();
                    self.ready.push_back(entry);
                }
                Some(Err(e)) => {
                    // What was read before it comes first; then it is tried again from here.
                    self.under_way = None;
                    if self.ready.is_empty() {
                        return Err(e);
                    }
                    break;
                }
                None => {
                    self.next = self.next.max(Lsn(view.lsn().0 + 1));
                    self.under_way = None;
                }
            }
        }
        Ok(self.ready.pop_front())
    }
}
