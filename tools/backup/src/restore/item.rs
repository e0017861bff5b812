//! One item as it was at a moment, into a target; into another folder when the caller says so.
//!
//! An item that was deleted by then comes back as it last was, without `\Deleted`: the next expunge would take it again.

use super::pipeline::{Pipeline, Wanted, line};
use super::report::{Account, Approximate, Became, Each, Mode, Report, Span};
use super::{Folder, Options, Place, RestoreError, check_folder, place_of};
use crate::resolve::Incarnation;
use mailstrata_engine::{Error, Hit, Transaction, View};
use mailstrata_format::ItemKey;
use mailstrata_format::frame::FLAG_INTERVAL;
use mailstrata_mailstore::target::Target;
use mailstrata_mailstore::time::format_rfc3339;
use std::time::Instant;

/// The flag that marks a message for the next expunge.
const DELETED: &[u8] = b"\\Deleted";

/// Takes `\Deleted` away.
pub(super) fn strip_deleted(t: &mut Transaction) {
    if let Some(flags) = &mut t.state.flags {
        flags.retain(|flag| !flag.eq_ignore_ascii_case(DELETED));
    }
}

/// Which item, as of when, and where to.
#[derive(Debug, Clone, Copy)]
pub struct Which<'a> {
    pub key: ItemKey,
    /// `None`: the view's end.
    pub at: Option<i64>,
    /// Instead of the folder that it was in.
    pub folder: Option<&'a [u8]>,
}

/// Restores one item into a target.
pub fn item(
    view: &View,
    who: &Incarnation,
    which: Which<'_>,
    target: &mut dyn Target,
    options: Options<'_>,
    each: &mut Each<'_>,
) -> Result<Report, RestoreError> {
    let started = Instant::now();
    which.folder.map_or(Ok(()), check_folder)?;
    let rows = view.rows(who.id, which.key)?;
    let limit = which.at.unwrap_or(i64::MAX);
    let split = rows.partition_point(|hit| hit.row.moment <= limit);
    let first = rows.first().ok_or(RestoreError::Nothing)?.row.moment;
    let then = split.checked_sub(1).and_then(|i| rows.get(i)).ok_or(RestoreError::BeforeFirst { first })?;
    let mut report = Report::new(Mode::Item, Account::new(who.id, &who.address), view.lsn().0, options.dry_run);
    report.at = which.at.map(format_rfc3339);
    options.note_findings(&mut report);
    let mut found = Approximate {
        gaps: options.gaps.iter().filter(|gap| gap.holds(which.at)).map(super::Gap::span).collect(),
        ..Approximate::default()
    };
    if let Some(next) = rows.get(split)
        && let Some(span) = uncertain(view, next, limit)
    {
        (found.items, found.changed) = (1, Some(span));
    }
    report.approximate = (!found.is_empty()).then_some(found);
    let was_deleted = then.deleted();
    if was_deleted {
        report.warn(format!("it was deleted {}; it is restored as it last was", format_rfc3339(then.row.moment)));
    }
    let place = place_of(then.kind());
    if !matches!(place, Place::Content | Place::Folder) {
        return Err(RestoreError::Kind { kind: super::report::kind_name(then.kind()) });
    }
    let instead = was_deleted.then(|| last_alive(&rows, split)).flatten();
    let mut pipeline = Pipeline::new(view, target, options, report, each);
    if place == Place::Folder {
        match view.read(then) {
            Ok(t) => {
                let mut folder = Folder::new(t);
                if let Some(path) = which.folder {
                    folder.path = path.to_vec();
                }
                pipeline.folder(&folder);
                if pipeline.report.counts.folders > 0 {
                    let mut done = line(Some(then), Became::Restored);
                    done.item = Some(mailstrata_mailstore::json::percent_encode(&folder.native));
                    done.folder = Some(mailstrata_mailstore::json::percent_encode(&folder.path));
                    pipeline.report.settle(done, pipeline.each);
                }
            }
            Err(error) => pipeline.unreadable(then, &error),
        }
    }
    let shape = |t: &mut Transaction| {
        if was_deleted {
            strip_deleted(t);
        }
        if let Some(folder) = which.folder {
            t.state.folder = Some(folder.to_vec());
        }
    };
    let wanted = Wanted { hit: *then, instead };
    let rows: Option<Result<Wanted, Error>> = (place == Place::Content).then_some(Ok(wanted));
    pipeline.put_all(rows.into_iter(), &shape);
    pipeline.report.seconds = started.elapsed().as_secs_f64();
    Ok(pipeline.report)
}

fn uncertain(view: &View, next: &Hit, at: i64) -> Option<Span> {
    let interval = next.row.flags & FLAG_INTERVAL != 0;
    let not_before = interval.then(|| view.with_record(next, |frame, _| frame.envelope.not_before).ok()).flatten()?;
    (not_before <= at && at < next.row.moment)
        .then(|| Span { from: format_rfc3339(not_before), until: Some(format_rfc3339(next.row.moment)) })
}

/// The last row before `split` that is not a deletion: a deletion repeats its fields.
fn last_alive(rows: &[Hit], split: usize) -> Option<Hit> {
    rows.get(..split)?.iter().rfind(|hit| !hit.deleted()).copied()
}
