//! Event lines into a store: each acknowledged once it is durable, in the order of the lines.
//!
//! ```text
//! lines ─► parse ─► store blobs ─► submit ─► tickets, in order ─► wait ─► acknowledge
//! ```
//!
//! Reading goes on while a group is being made durable, so that one stream fills groups. A bad line is refused and the rest
//! goes on; when the store takes no more writes, every later line is refused.

use crate::lines::{Refused, to_event};
use mailstrata_engine::{Store, Ticket};
use mailstrata_mailstore::json::{LineReader, parse};
use std::io::{self, BufRead};
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};

/// Lines on their way to the disk at most.
const IN_FLIGHT: usize = 8192;

/// What became of a line.
#[derive(Debug)]
pub enum Outcome {
    /// Durable under this LSN.
    Acknowledged {
        line: u64,
        lsn: u64,
    },
    Refused {
        line: u64,
        why: Refused,
    },
}

/// What became of all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    pub acknowledged: u64,
    pub refused: u64,
    /// The store took no more writes before the end.
    pub stopped: bool,
}

/// Why reading ended early.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    #[error("reading the events: {0}")]
    Input(#[source] io::Error),
    #[error("writing an acknowledgement: {0}")]
    Output(#[source] io::Error),
}

enum Step {
    Waiting(u64, Ticket),
    Refused(u64, Refused),
}

/// Records every line of `input`. Acknowledgements go to `tell`, in order, each as soon as it is certain; when `tell` fails
/// no more lines are read.
pub fn append(
    store: &Store,
    input: impl BufRead,
    base: &Path,
    tell: impl FnMut(Outcome) -> io::Result<()> + Send,
) -> Result<Totals, AppendError> {
    let (send, receive) = sync_channel(IN_FLIGHT);
    std::thread::scope(|scope| {
        let teller = scope.spawn(move || {
            let mut tell = tell;
            let mut totals = Totals::default();
            for step in receive {
                let outcome = match step {
                    Step::Refused(line, why) => Outcome::Refused { line, why },
                    Step::Waiting(line, ticket) => match ticket.wait() {
                        Ok(receipt) => Outcome::Acknowledged { line, lsn: receipt.lsn.0 },
                        Err(e) => Outcome::Refused { line, why: e.into() },
                    },
                };
                match &outcome {
                    Outcome::Acknowledged { .. } => totals.acknowledged += 1,
                    Outcome::Refused { why, .. } => {
                        totals.refused += 1;
                        totals.stopped |= why.ends_all();
                    }
                }
                tell(outcome).map_err(AppendError::Output)?;
            }
            Ok(totals)
        });
        let read = read_lines(store, input, base, &send);
        drop(send);
        let told = teller.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        read.map_err(AppendError::Input)?;
        told
    })
}

fn read_lines(store: &Store, input: impl BufRead, base: &Path, send: &SyncSender<Step>) -> io::Result<()> {
    let mut lines = LineReader::new(input);
    while let Some(line) = lines.next_line()? {
        let number = line.number;
        let ticket = line
            .content
            .and_then(parse)
            .map_err(Refused::from)
            .and_then(|l| to_event(store, l, base))
            .and_then(|e| store.submit(&e).map_err(Refused::from));
        let step = match ticket {
            Ok(ticket) => Step::Waiting(number, ticket),
            Err(why) => Step::Refused(number, why),
        };
        if send.send(step).is_err() {
            // Nobody takes acknowledgements any more: its error is the one that is told.
            break;
        }
    }
    Ok(())
}
