//! What was deleted in a span of time, back into the folders it was deleted from.
//!
//! - What counts is removal from the mailbox: a message that lies in Trash is not deleted (S-07), and one that was removed from
//!   Trash comes back to Trash (S-08).
//! - An item's folder is the one of its last live state, under the name it had then (S-09). An item of which none is known goes
//!   to `unknown_XX` (S-10), XX being what its source called the folder, else `00`.
//! - Folders deleted in the span come back, empty ones too, with their latest attributes.
//! - What is alive again at the view's end is there already.
//! - Restored messages lose `\Deleted` and get the keyword `undelete_DD_MM_YY`.

use super::item::strip_deleted;
use super::pipeline::{Pipeline, Wanted, line};
use super::report::{Account, Approximate, Became, Each, Mode, Report, Span};
use super::{Folder, Options, Place, RestoreError, UNKNOWN_FOLDER, check_folder, place_of};
use crate::resolve::Incarnation;
use mailstrata_engine::{Error, Hit, Transaction, View};
use mailstrata_format::frame::FLAG_INTERVAL;
use mailstrata_mailstore::json::percent_encode;
use mailstrata_mailstore::target::Target;
use mailstrata_mailstore::time::format_rfc3339;
use std::collections::BTreeMap;
use std::time::Instant;

/// Which deletions to undo, and how.
#[derive(Debug, Clone)]
pub struct Window {
    /// µs UTC, inclusive; `None`: from the first record on.
    pub from: Option<i64>,
    /// µs UTC, inclusive; `None`: to the view's end.
    pub until: Option<i64>,
    /// The day on which this is done, for the keyword.
    pub today: jiff::civil::Date,
    /// One folder for all of it, instead of the original ones.
    pub folder: Option<Vec<u8>>,
}

impl Window {
    fn holds(&self, moment: i64) -> bool {
        self.from.is_none_or(|from| from <= moment) && self.until.is_none_or(|until| moment <= until)
    }
}

/// The keyword of what is undeleted on a day.
#[must_use]
pub fn tag(today: jiff::civil::Date) -> String {
    format!("undelete_{:02}_{:02}_{:02}", today.day(), today.month(), today.year().rem_euclid(100))
}

/// Restores what was deleted in a window into a target.
pub fn undelete(
    view: &View,
    who: &Incarnation,
    window: &Window,
    target: &mut dyn Target,
    options: Options<'_>,
    each: &mut Each<'_>,
) -> Result<Report, RestoreError> {
    let started = Instant::now();
    window.folder.as_deref().map_or(Ok(()), check_folder)?;
    if window.from.zip(window.until).is_some_and(|(from, until)| from > until) {
        return Err(RestoreError::Window);
    }
    let mut report = Report::new(Mode::Undelete, Account::new(who.id, &who.address), view.lsn().0, options.dry_run);
    options.note_findings(&mut report);
    let (from, until) = (window.from.map_or("first".to_owned(), format_rfc3339), window.until.map(format_rfc3339));
    report.window = Some(Span { from, until });
    let tag = tag(window.today);
    report.tag = Some(tag.clone());
    let survey = survey(view, who, window)?;
    let from = window.from.unwrap_or(i64::MIN);
    let overlaps = |gap: &&super::Gap| {
        gap.until.is_none_or(|until| until > from) && window.until.is_none_or(|until| gap.from <= until)
    };
    let found = Approximate {
        gaps: options.gaps.iter().filter(overlaps).map(super::Gap::span).collect(),
        items: survey.uncertain,
        changed: None,
    };
    report.approximate = (!found.is_empty()).then_some(found);
    let mut pipeline = Pipeline::new(view, target, options, report, each);
    if let Some(error) = &survey.failed {
        pipeline.listing_failed(error);
    }
    if window.folder.is_none() {
        // The latest state of a path wins, whichever item held it.
        let mut folders = BTreeMap::new();
        for hit in &survey.folders {
            match view.read(hit) {
                Ok(t) => {
                    let folder = Folder::new(t);
                    folders.insert(folder.path.clone(), folder);
                }
                Err(error) => pipeline.unreadable(hit, &error),
            }
        }
        for folder in folders.values() {
            pipeline.folder(folder);
        }
    }
    let shape = |t: &mut Transaction| {
        strip_deleted(t);
        t.state.folder = Some(window.folder.clone().unwrap_or_else(|| folder_of(t)));
        let tags = t.state.tags.get_or_insert_default();
        if !tags.iter().any(|known| known == tag.as_bytes()) {
            tags.push(tag.clone().into_bytes());
        }
    };
    let failed = survey.failed.is_some();
    let mut there = Vec::new();
    let wanted = deletions(view, who, window)?.filter_map(|found| match found {
        Ok(Deletion { deleted, alive_again: false, before, .. }) => Some(Ok(Wanted { hit: deleted, instead: before })),
        Ok(Deletion { deleted, .. }) => {
            if place_of(deleted.kind()) == Place::Content {
                there.push(deleted);
            }
            None
        }
        Err(error) => Some(Err(error)),
    });
    pipeline.put_all(wanted.take_while(|row| !(failed && row.is_err())), &shape);
    for hit in there {
        let mut skipped = line(Some(&hit), Became::Skipped);
        skipped.item = view.with_record(&hit, |_, r| percent_encode(r.item.as_slice())).ok();
        skipped.message = Some("it is in the mailbox again".into());
        pipeline.report.settle(skipped, pipeline.each);
    }
    pipeline.report.seconds = started.elapsed().as_secs_f64();
    Ok(pipeline.report)
}

/// The folder a deleted item goes back to.
fn folder_of(t: &Transaction) -> Vec<u8> {
    if let Some(folder) = t.state.folder.as_ref().filter(|folder| !folder.is_empty()) {
        return folder.clone();
    }
    let id = [&b"folder-id"[..], b"folder_id", b"parent"].iter().find_map(|name| t.state.attribute(name));
    let id: Vec<u8> =
        id.unwrap_or_default().iter().copied().filter(|b| b.is_ascii_alphanumeric() || *b == b'-').take(64).collect();
    if id.is_empty() { UNKNOWN_FOLDER.to_vec() } else { [b"unknown_", id.as_slice()].concat() }
}

/// An item's last deletion in the window.
struct Deletion {
    deleted: Hit,
    /// Its last live state.
    before: Option<Hit>,
    alive_again: bool,
    /// Was it not in the window, but may have been: it is known only from a span that reaches into it.
    maybe: bool,
}

/// The items deleted in the window, folders and settings included.
fn deletions<'v>(
    view: &'v View,
    who: &Incarnation,
    window: &'v Window,
) -> Result<impl Iterator<Item = Result<Deletion, Error>> + 'v, Error> {
    Ok(every(view, who, window)?.filter(|found| !found.as_ref().is_ok_and(|d| d.maybe)))
}

fn every<'v>(
    view: &'v View,
    who: &Incarnation,
    window: &'v Window,
) -> Result<impl Iterator<Item = Result<Deletion, Error>> + 'v, Error> {
    let mut rows = view.account_rows(who.id)?;
    let mut found: Option<Deletion> = None;
    let mut previous: Option<Hit> = None;
    let mut over = false;
    Ok(std::iter::from_fn(move || {
        while !over {
            let hit = match rows.next() {
                Some(Ok(hit)) => Some(hit),
                Some(Err(error)) => {
                    over = true;
                    return Some(Err(error));
                }
                None => None,
            };
            over = hit.is_none();
            let same = previous.zip(hit).is_some_and(|(p, h)| p.item() == h.item());
            let before = previous.filter(|p| same && !p.deleted());
            let last = previous;
            previous = hit;
            let complete = if same {
                None
            } else {
                found.take().map(|done| Deletion { alive_again: last.is_some_and(|p| !p.deleted()), ..done })
            };
            if let Some(deleted) = hit.filter(|hit| hit.deleted() && (before.is_some() || !same)) {
                let inside = window.holds(deleted.row.moment);
                let known = found.as_ref().is_some_and(|d| !d.maybe);
                let maybe = !inside && !known && may_be_inside(view, &deleted, window);
                if inside || maybe {
                    found = Some(Deletion { deleted, before, alive_again: false, maybe });
                }
            }
            if complete.is_some() {
                return complete.map(Ok);
            }
        }
        None
    }))
}

fn may_be_inside(view: &View, deleted: &Hit, window: &Window) -> bool {
    let Some(until) = window.until.filter(|_| deleted.row.flags & FLAG_INTERVAL != 0) else { return false };
    let from = window.from.unwrap_or(i64::MIN);
    let began = view.with_record(deleted, |frame, _| frame.envelope.not_before);
    deleted.row.moment >= from && began.is_ok_and(|began| began <= until)
}

#[derive(Default)]
struct Survey {
    /// Folders to make: those deleted in the window and not alive again, in the order of their LSNs.
    folders: Vec<Hit>,
    /// Deletions that may lie in the window, or may not.
    uncertain: u64,
    failed: Option<Error>,
}

fn survey(view: &View, who: &Incarnation, window: &Window) -> Result<Survey, RestoreError> {
    let mut survey = Survey::default();
    if view.account_rows(who.id)?.next().transpose()?.is_none() {
        return Err(RestoreError::Nothing);
    }
    for found in every(view, who, window)? {
        match found {
            Ok(d) if d.maybe => survey.uncertain += u64::from(place_of(d.deleted.kind()) == Place::Content),
            Ok(d) if place_of(d.deleted.kind()) == Place::Folder && !d.alive_again => survey.folders.push(d.deleted),
            Ok(_) => {}
            Err(error) => {
                survey.failed = Some(error);
                break;
            }
        }
    }
    survey.folders.sort_unstable_by_key(|hit| hit.row.lsn);
    Ok(survey)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_is_the_day_of_the_undelete() {
        assert_eq!(tag(jiff::civil::date(2026, 11, 3)), "undelete_03_11_26");
    }
}
