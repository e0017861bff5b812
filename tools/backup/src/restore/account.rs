//! An account as it was at a moment, into a target: the folders, also empty ones, and every message that was alive then, with
//! flags, keywords and date.
//!
//! - An account that was deleted comes back as it was just before, whether its messages were recorded as deleted at the
//!   same moment or not at all.
//! - Nothing, where there was something: the report says how much there was and which moment to ask for instead (S-06).
//! - Before the first record: an error that names the first moment.
//! - A moment that lies in a gap, or in the span in which a change is known to lie, makes the report approximate (S-19).

use super::pipeline::{Pipeline, Wanted};
use super::report::{Account, Approximate, Each, Emptied, Mode, Report, Span, Suggestion};
use super::{Folder, Options, Place, RestoreError, place_of};
use crate::resolve::{Incarnation, own_key};
use mailstrata_engine::{Error, Hit, View};
use mailstrata_format::frame::FLAG_INTERVAL;
use mailstrata_format::{AccountId, ItemKind, Lsn};
use mailstrata_mailstore::maildir::folder::INBOX;
use mailstrata_mailstore::target::Target;
use mailstrata_mailstore::time::format_rfc3339;
use std::time::Instant;

/// Deletions that follow each other within this are one emptying.
const EMPTYING_PAUSE: i64 = 60_000_000;

/// Restores an account as of `at` (`None`: the view's end) into a target.
pub fn account(
    view: &View,
    who: &Incarnation,
    at: Option<i64>,
    target: &mut dyn Target,
    options: Options<'_>,
    each: &mut Each<'_>,
) -> Result<Report, RestoreError> {
    let started = Instant::now();
    let mut report = Report::new(Mode::Account, Account::new(who.id, &who.address), view.lsn().0, options.dry_run);
    report.at = at.map(format_rfc3339);
    options.note_findings(&mut report);
    let moment = Moment::of(view, who, at)?;
    if let Some((deleted, _)) = moment.end {
        report.account.deleted = Some(format_rfc3339(deleted));
        if at.is_some() {
            report.warn("the account was deleted by then; it is restored as it was just before its deletion");
        }
    }
    let survey = survey(view, who.id, &moment)?;
    report.approximate = approximate(&survey, &options, moment.asked());
    if survey.alive == 0 && survey.ever > 0 {
        report.emptied = emptied(view, who.id, &moment, survey.ever)?;
    }
    let mut pipeline = Pipeline::new(view, target, options, report, each);
    if let Some(error) = &survey.failed {
        pipeline.listing_failed(error);
    }
    let mut folders = Vec::new();
    for hit in &survey.folders {
        match view.read(hit) {
            Ok(t) => folders.push(Folder::new(t)),
            Err(error) => pipeline.unreadable(hit, &error),
        }
    }
    folders.sort_by(|a, b| a.path.cmp(&b.path));
    for folder in &folders {
        pipeline.folder(folder);
    }
    if !folders.iter().any(|folder| folder.path == INBOX) {
        pipeline.inbox();
    }
    let alive = states(view, who.id, &moment)?.filter_map(|state| match state {
        Ok(State { then: Some(hit), .. }) if !hit.deleted() => Some(Ok(Wanted { hit, instead: None })),
        Ok(_) => None,
        Err(error) => Some(Err(error)),
    });
    // What the survey met is met again here; it counts once.
    let failed = survey.failed.is_some();
    pipeline.put_all(alive.take_while(|row| !(failed && row.is_err())), &|_| {});
    pipeline.report.seconds = started.elapsed().as_secs_f64();
    Ok(pipeline.report)
}

/// The moment asked for, and where the account ends when it was deleted by then.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    at: Option<i64>,
    /// Moment and LSN of the account's deletion.
    pub end: Option<(i64, Lsn)>,
}

impl Moment {
    fn of(view: &View, who: &Incarnation, at: Option<i64>) -> Result<Self, Error> {
        let own = view.locate(who.id, own_key(&who.address), at)?;
        Ok(Self { at, end: own.filter(Hit::deleted).map(|hit| (hit.row.moment, Lsn(hit.row.lsn))) })
    }

    /// Whether a row belongs to the state. At the very moment of the account's deletion what was put before it does, and what
    /// was deleted with it does not.
    fn counts(&self, hit: &Hit) -> bool {
        let row = &hit.row;
        row.moment <= self.at.unwrap_or(i64::MAX)
            && self
                .end
                .is_none_or(|(end, lsn)| row.moment < end || (row.moment == end && row.lsn < lsn.0 && !hit.deleted()))
    }

    /// The moment that the state is of; `None`: the view's end.
    fn asked(&self) -> Option<i64> {
        self.end.map(|(end, _)| end - 1).or(self.at)
    }
}

/// One item around the moment.
struct State {
    /// Its last row that counts.
    then: Option<Hit>,
    /// The row after it.
    next: Option<Hit>,
    /// Whether it was ever alive up to the moment.
    lived: bool,
    /// The moment of its first row.
    first: i64,
}

/// The items of an account, each with what it was at the moment.
fn states<'v>(
    view: &'v View,
    account: AccountId,
    moment: &Moment,
) -> Result<impl Iterator<Item = Result<State, Error>> + 'v, Error> {
    let moment = *moment;
    let mut rows = view.account_rows(account)?;
    let mut ahead: Option<Hit> = None;
    let mut over = false;
    Ok(std::iter::from_fn(move || {
        let mut state: Option<(Hit, State)> = None;
        while !over {
            let hit = match ahead.take().map(Ok).or_else(|| rows.next()) {
                Some(Ok(hit)) => hit,
                Some(Err(error)) => {
                    over = true;
                    return Some(Err(error));
                }
                None => {
                    over = true;
                    break;
                }
            };
            if state.as_ref().is_some_and(|(of, _)| of.item() != hit.item()) {
                ahead = Some(hit);
                break;
            }
            let first = State { then: None, next: None, lived: false, first: hit.row.moment };
            let (_, state) = state.get_or_insert((hit, first));
            if moment.counts(&hit) {
                state.then = Some(hit);
                state.lived |= !hit.deleted();
            } else if state.next.is_none() {
                state.next = Some(hit);
            }
        }
        state.map(|(_, state)| Ok(state))
    }))
}

/// What one walk over the account's index tells.
#[derive(Default)]
struct Survey {
    folders: Vec<Hit>,
    /// Messages.
    alive: u64,
    /// Messages alive at the moment or before it.
    ever: u64,
    uncertain: u64,
    uncertain_span: Option<(i64, i64)>,
    failed: Option<Error>,
}

fn survey(view: &View, account: AccountId, moment: &Moment) -> Result<Survey, RestoreError> {
    let mut survey = Survey::default();
    let (mut any, mut first) = (false, None);
    for state in states(view, account, moment)? {
        let state = match state {
            Ok(state) => state,
            Err(error) => {
                survey.failed = Some(error);
                break;
            }
        };
        first = Some(first.map_or(state.first, |f: i64| f.min(state.first)));
        any |= state.then.is_some();
        let alive = state.then.filter(|hit| !hit.deleted());
        let kind = alive.or(state.then).or(state.next).and_then(|hit| hit.kind());
        match place_of(kind) {
            Place::Content => {
                survey.alive += u64::from(alive.is_some());
                survey.ever += u64::from(state.lived);
            }
            Place::Folder => survey.folders.extend(alive),
            Place::Settings => continue,
            Place::Elsewhere => {}
        }
        let Some(at) = moment.asked() else { continue };
        if let Some(next) = state.next.filter(|hit| hit.row.flags & FLAG_INTERVAL != 0)
            && let Ok(not_before) = view.with_record(&next, |frame, _| frame.envelope.not_before)
            && not_before <= at
            && at < next.row.moment
        {
            survey.uncertain += 1;
            let (from, until) = survey.uncertain_span.unwrap_or((not_before, next.row.moment));
            survey.uncertain_span = Some((from.min(not_before), until.max(next.row.moment)));
        }
    }
    match (any, first, &survey.failed) {
        (true, ..) | (false, _, Some(_)) => Ok(survey),
        (false, Some(first), None) => Err(RestoreError::BeforeFirst { first }),
        (false, None, None) => Err(RestoreError::Nothing),
    }
}

fn approximate(survey: &Survey, options: &Options<'_>, at: Option<i64>) -> Option<Approximate> {
    let found = Approximate {
        gaps: options.gaps.iter().filter(|gap| gap.holds(at)).map(super::Gap::span).collect(),
        items: survey.uncertain,
        changed: survey
            .uncertain_span
            .map(|(from, until)| Span { from: format_rfc3339(from), until: Some(format_rfc3339(until)) }),
    };
    (!found.is_empty()).then_some(found)
}

/// What to ask for instead, when all that there was is deleted.
fn emptied(view: &View, account: AccountId, moment: &Moment, messages: u64) -> Result<Option<Emptied>, Error> {
    let gone = |state: Result<State, Error>| {
        let hit = state.ok()?.then?;
        (hit.kind() == Some(ItemKind::Message) && hit.deleted()).then_some(hit.row.moment)
    };
    let mut deletions: Vec<i64> = states(view, account, moment)?.filter_map(gone).collect();
    deletions.sort_unstable_by(|a, b| b.cmp(a));
    let Some(last) = deletions.first().copied() else { return Ok(None) };
    let mut begin = last;
    for &deletion in &deletions {
        if begin - deletion > EMPTYING_PAUSE {
            break;
        }
        begin = deletion;
    }
    let suggest = |at: i64| -> Result<Suggestion, Error> {
        let then = Moment { at: Some(at), end: moment.end };
        let alive = |state: &Result<State, Error>| {
            let hit = state.as_ref().ok().and_then(|state| state.then);
            hit.is_some_and(|hit| hit.kind() == Some(ItemKind::Message) && !hit.deleted())
        };
        let messages = states(view, account, &then)?.filter(alive).count() as u64;
        Ok(Suggestion { at: format_rfc3339(at), messages })
    };
    Ok(Some(Emptied { messages, last_non_empty: suggest(last - 1)?, before_emptying: suggest(begin - 1)? }))
}
