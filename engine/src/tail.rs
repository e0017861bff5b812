//! Subscribe: transactions from an LSN on, as they become durable.

use crate::commit::writer::Shared;
use crate::error::Result;
use crate::view::as_of::{LogEntry, View};
use mailstrata_format::Lsn;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// A subscription. It holds nothing back: a slow reader reads later, from disk.
pub struct Tail {
    shared: Arc<Shared>,
    files: Arc<crate::files::Files>,
    next: Lsn,
    ready: VecDeque<LogEntry>,
}

/// Entries read ahead at most.
const BATCH: usize = 256;

impl Tail {
    pub(crate) fn new(shared: Arc<Shared>, files: Arc<crate::files::Files>, from: Lsn) -> Self {
        Self { shared, files, next: Lsn(from.0.max(1)), ready: VecDeque::new() }
    }

    /// The next transaction; `None` when none became durable within `timeout`.
    pub fn next(&mut self, timeout: Duration) -> Result<Option<LogEntry>> {
        if let Some(e) = self.ready.pop_front() {
            return Ok(Some(e));
        }
        let durable = self.shared.wait_beyond(Lsn(self.next.0 - 1), timeout);
        if durable < self.next {
            return Ok(None);
        }
        let view = View { files: self.files.clone(), catalog: self.shared.catalog(), lsn: durable };
        let mut last = durable;
        for entry in view.log(self.next) {
            let entry = entry?;
            if self.ready.len() == BATCH {
                // The next call starts with this one.
                last = match &entry {
                    LogEntry::Transaction(t) => Lsn(t.lsn.0 - 1),
                    LogEntry::Damaged(hit, _) => Lsn(hit.row.lsn - 1),
                    LogEntry::Missing { from, .. } => Lsn(from.0 - 1),
                };
                break;
            }
            self.ready.push_back(entry);
        }
        self.next = Lsn(last.0 + 1);
        Ok(self.ready.pop_front())
    }
}
