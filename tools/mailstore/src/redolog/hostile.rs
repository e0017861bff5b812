//! Any bytes as a log: what the fuzz target calls, and what a test replays over its corpus.
//!
//! Panics when the parser does, or when what it says contradicts itself. The bytes are those behind a header.

use crate::redolog::header::FileHeader;
use crate::redolog::scan::{Scanner, Step};
use crate::redolog::transaction::Transactions;

/// Reads bytes as a finished log and as a live one, and shows all that was found.
pub fn bytes(data: &[u8]) {
    // Whether it is one does not matter here, only that asking does no harm.
    let _ = FileHeader::read(&data);
    let mut at = 0;
    let mut finished = Vec::new();
    walk(data, false, &mut |step| {
        let (from, to) = match step {
            Step::Record(r) => {
                finished.push((r.offset, r.end));
                let mut out = Vec::new();
                let shown = r.write_json(&[], true, Some(&data), &mut out).and_then(|()| r.write_text(true, &mut out));
                assert!(shown.is_ok(), "a record that was read cannot be shown");
                (r.offset, r.end)
            }
            Step::Skipped(s) => (s.from, s.to),
            Step::Torn { at, left, .. } => (*at, at + left),
            Step::End => (at, at),
        };
        assert!(from == at && to >= from, "steps leave something out, or go back");
        at = to;
    });
    assert_eq!(at, data.len() as u64, "the end was not reached");
    // As long as a live log gives records, they are the same; it only waits where a finished one is judged.
    let mut n = 0;
    let mut same = true;
    walk(data, true, &mut |step| {
        if let Step::Record(r) = step {
            same &= finished.get(n) == Some(&(r.offset, r.end));
            n += 1;
        }
    });
    assert!(same, "a live log was read otherwise than a finished one");
}

fn walk(data: &[u8], live: bool, seen: &mut dyn FnMut(&Step)) {
    let Ok(mut scanner) = Scanner::new(data, 0, live) else { return };
    let mut transactions = Transactions::default();
    while let Ok(step) = scanner.step() {
        seen(&step);
        match step {
            Step::Record(record) => drop(transactions.take(record, ())),
            Step::End => break,
            Step::Torn { .. } if live => break,
            Step::Torn { .. } | Step::Skipped(_) => {}
        }
    }
}
