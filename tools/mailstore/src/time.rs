//! Times as people and event lines write them.
//!
//! In comes text, out goes µs since 1970 UTC, and back. Two doors:
//!
//! - [`parse_rfc3339`] and [`write_rfc3339`] for event lines: a zone is required, one spelling goes out. Hand-written,
//!   because they run several times for each line.
//! - [`parse_moment`] for `--at`, which people type. Without a zone a time is local; an hour that a change of clocks made
//!   ambiguous or skipped is refused, and the error names both instants. A date alone is the first instant of that day. A
//!   relative time counts elapsed seconds: `-1d` is 24 hours. What is typed is exact: `10:15` is 10:15:00.000000, and a
//!   view `--at` it includes that instant.
//!
//! Years run from 1 to 9999, since RFC 3339 has no others. Digits beyond the microsecond are dropped. A leap second
//! (`:60`) has no place in µs since 1970 and is refused.

use jiff::civil::{Date, DateTime};
use jiff::tz::{AmbiguousOffset, TimeZone};

/// 0001-01-01T00:00:00Z.
pub const MICROS_MIN: i64 = -62_135_596_800_000_000;

/// 9999-12-31T23:59:59.999999Z.
pub const MICROS_MAX: i64 = 253_402_300_799_999_999;

const SECOND: i64 = 1_000_000;

/// What `--at` may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// µs UTC.
    At(i64),
    First,
    Last,
    Lsn(u64),
}

/// Why text is not a time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimeError {
    #[error("{text:?} is not a time: {why}")]
    Syntax { text: String, why: &'static str },
    #[error("{text:?} is outside the years 1 to 9999")]
    Range { text: String },
    #[error("{text:?} happened twice in {zone}, at {first} and at {second}: give one of these instead")]
    Twice { text: String, zone: String, first: String, second: String },
    #[error("{text:?} never was in {zone}, where clocks went forward: give {first} or {second} instead")]
    Never { text: String, zone: String, first: String, second: String },
}

/// µs UTC of an RFC 3339 time, such as `2026-11-22T00:15:11.123456Z` or `2026-11-22T01:15:11+01:00`.
pub fn parse_rfc3339(text: &str) -> Result<i64, TimeError> {
    let syntax = |why| TimeError::Syntax { text: shown(text), why };
    let mut at = Reader::new(text);
    let civil = at.iso_date().and_then(|date| {
        at.separator()?;
        at.clock(date, true)
    });
    let civil = civil.ok_or_else(|| syntax("RFC 3339 is wanted, such as 2026-11-22T00:15:11.123456Z"))?;
    let offset = at.zone().ok_or_else(|| syntax("it needs a zone, Z or one such as +01:00"))?;
    if !at.is_at_end() {
        return Err(syntax("something follows the zone"));
    }
    civil.check().map_err(syntax)?;
    civil.micros(offset).ok_or_else(|| TimeError::Range { text: shown(text) })
}

/// How many digits of a second go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fraction {
    /// Always six.
    Six,
    /// As many as are needed, and none for a whole second.
    Needed,
}

/// Appends the RFC 3339 spelling in UTC. What lies outside the years 1 to 9999 goes out as the first or last instant in
/// them.
pub fn write_rfc3339(micros: i64, fraction: Fraction, out: &mut Vec<u8>) {
    let micros = micros.clamp(MICROS_MIN, MICROS_MAX);
    let (seconds, sub) = (micros.div_euclid(SECOND), micros.rem_euclid(SECOND));
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil_from_days(days);
    put_digits(year, 4, out);
    out.push(b'-');
    put_digits(month, 2, out);
    out.push(b'-');
    put_digits(day, 2, out);
    out.push(b'T');
    put_digits(second / 3600, 2, out);
    out.push(b':');
    put_digits(second / 60 % 60, 2, out);
    out.push(b':');
    put_digits(second % 60, 2, out);
    if fraction == Fraction::Six || sub != 0 {
        out.push(b'.');
        put_digits(sub, 6, out);
        while fraction == Fraction::Needed && out.last() == Some(&b'0') {
            out.pop();
        }
    }
    out.push(b'Z');
}

/// As [`write_rfc3339`] with six digits, as text of its own.
pub fn format_rfc3339(micros: i64) -> String {
    let mut out = Vec::with_capacity(27);
    write_rfc3339(micros, Fraction::Six, &mut out);
    out.iter().map(|&b| char::from(b)).collect()
}

/// What `--at` means, in `zone` and at `now` (µs UTC).
///
/// RFC 3339, `2026-11-22 10:15[:SS[.frac]]`, `2026-11-22`, `dd/MM/yyyy[ HH:mm[:ss]]`, `-2h` (also `w d m s`, and in a
/// row: `-1d12h`), `@epoch[.frac]`, `first`, `last`, `lsn:N`.
pub fn parse_moment(text: &str, now: i64, zone: &TimeZone) -> Result<Moment, TimeError> {
    let syntax = |why| TimeError::Syntax { text: shown(text), why };
    let range = || TimeError::Range { text: shown(text) };
    let in_years = |micros: i64| (MICROS_MIN..=MICROS_MAX).contains(&micros).then_some(Moment::At(micros));
    match text {
        "first" => return Ok(Moment::First),
        "last" => return Ok(Moment::Last),
        _ => {}
    }
    if let Some(lsn) = text.strip_prefix("lsn:") {
        let number = lsn.bytes().all(|b| b.is_ascii_digit()).then(|| lsn.parse().ok()).flatten();
        return number.map(Moment::Lsn).ok_or_else(|| syntax("lsn: wants a number, such as lsn:1200"));
    }
    if let Some(epoch) = text.strip_prefix('@') {
        let micros = epoch_micros(epoch).ok_or_else(|| syntax("@ wants seconds since 1970, such as @1795306511.25"))?;
        return micros.and_then(in_years).ok_or_else(range);
    }
    if let Some(ago) = text.strip_prefix('-') {
        let micros = ago_micros(ago).ok_or_else(|| syntax("- wants a number and one of w d h m s, such as -2h"))?;
        return micros.and_then(|ago| now.checked_sub(ago)).and_then(in_years).ok_or_else(range);
    }
    let mut at = Reader::new(text);
    let date = if text.as_bytes().get(2) == Some(&b'/') { at.slashed_date() } else { at.iso_date() };
    let date = date.ok_or_else(|| {
        syntax(
            "wanted are RFC 3339, 2026-11-22 10:15, 22/11/2026 10:15:00, 2026-11-22, -2h, @epoch, first, last or lsn:N",
        )
    })?;
    if at.is_at_end() {
        date.check().map_err(syntax)?;
        return local_day(text, date, zone).and_then(|micros| in_years(micros).ok_or_else(range));
    }
    let civil = at
        .separator()
        .and_then(|()| at.clock(date, false))
        .ok_or_else(|| syntax("the time of day wants HH:MM or HH:MM:SS"))?;
    civil.check().map_err(syntax)?;
    if at.is_at_end() {
        return local(text, civil, zone).and_then(|micros| in_years(micros).ok_or_else(range));
    }
    let offset = at
        .zone()
        .filter(|_| at.is_at_end())
        .ok_or_else(|| syntax("after the time only a zone may stand, Z or one such as +01:00"))?;
    civil.micros(offset).map(Moment::At).ok_or_else(range)
}

/// The instant of a local time that names exactly one.
fn local(text: &str, civil: Civil, zone: &TimeZone) -> Result<i64, TimeError> {
    let range = || TimeError::Range { text: shown(text) };
    let clock = civil.jiff().ok_or_else(range)?;
    let micros = |offset: jiff::tz::Offset| {
        let instant = offset.to_timestamp(clock).map_err(|_| range())?;
        Ok::<i64, TimeError>(instant.as_microsecond())
    };
    let name = || zone.iana_name().unwrap_or("the local zone").to_owned();
    match zone.to_ambiguous_timestamp(clock).offset() {
        AmbiguousOffset::Unambiguous { offset } => micros(offset),
        AmbiguousOffset::Fold { before, after } => Err(TimeError::Twice {
            text: shown(text),
            zone: name(),
            first: format_rfc3339(micros(before)?),
            second: format_rfc3339(micros(after)?),
        }),
        AmbiguousOffset::Gap { before, after } => Err(TimeError::Never {
            text: shown(text),
            zone: name(),
            first: format_rfc3339(micros(after)?),
            second: format_rfc3339(micros(before)?),
        }),
    }
}

/// The first instant of a local day. A day has one, also where clocks change at midnight.
fn local_day(text: &str, civil: Civil, zone: &TimeZone) -> Result<i64, TimeError> {
    let range = || TimeError::Range { text: shown(text) };
    let date: Date = civil.jiff().ok_or_else(range)?.date();
    Ok(date.to_zoned(zone.clone()).map_err(|_| range())?.timestamp().as_microsecond())
}

/// Seconds with a fraction. The outer `None` is not a number, the inner one is out of bounds.
fn epoch_micros(text: &str) -> Option<Option<i64>> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let mut at = Reader::new(digits);
    let seconds = at.number()?;
    let sub = at.fraction()?;
    if !at.is_at_end() {
        return None;
    }
    let micros = seconds.and_then(|s| s.checked_mul(SECOND)).and_then(|s| s.checked_add(sub));
    Some(micros.map(|m| if negative { -m } else { m }))
}

/// `2h`, `1d12h`. As [`epoch_micros`].
fn ago_micros(text: &str) -> Option<Option<i64>> {
    let mut at = Reader::new(text);
    let mut sum = Some(0i64);
    while !at.is_at_end() || text.is_empty() {
        let count = at.number()?;
        let unit = match at.next()? {
            b'w' => 7 * 86_400,
            b'd' => 86_400,
            b'h' => 3600,
            b'm' => 60,
            b's' => 1,
            _ => return None,
        };
        let part = count.and_then(|n| n.checked_mul(unit * SECOND));
        sum = sum.zip(part).and_then(|(a, b)| a.checked_add(b));
    }
    Some(sum)
}

/// A date and a time of day, not yet checked.
#[derive(Debug, Clone, Copy, Default)]
struct Civil {
    year: i64,
    month: i64,
    day: i64,
    second_of_day: i64,
    /// False when an hour, minute or second is beyond its clock.
    clock_is_sound: bool,
    is_leap_second: bool,
    micros: i64,
}

impl Civil {
    fn check(&self) -> Result<(), &'static str> {
        let leap = self.year % 4 == 0 && (self.year % 100 != 0 || self.year % 400 == 0);
        let days = match self.month {
            2 if leap => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            1..=12 => 31,
            _ => return Err("there is no such month"),
        };
        if self.year == 0 {
            Err("years start at 1")
        } else if !(1..=days).contains(&self.day) {
            Err("the month has no such day")
        } else if self.is_leap_second {
            Err("a leap second cannot be kept; give the second before or after")
        } else if !self.clock_is_sound {
            Err("there is no such time of day")
        } else {
            Ok(())
        }
    }

    /// µs UTC, when the clock that showed this is `offset` seconds ahead. `None` outside the years 1 to 9999.
    fn micros(&self, offset: i64) -> Option<i64> {
        let days = days_from_civil(self.year, self.month, self.day);
        let micros = (days * 86_400 + self.second_of_day - offset) * SECOND + self.micros;
        (MICROS_MIN..=MICROS_MAX).contains(&micros).then_some(micros)
    }

    fn jiff(&self) -> Option<DateTime> {
        DateTime::new(
            i16::try_from(self.year).ok()?,
            i8::try_from(self.month).ok()?,
            i8::try_from(self.day).ok()?,
            i8::try_from(self.second_of_day / 3600).ok()?,
            i8::try_from(self.second_of_day / 60 % 60).ok()?,
            i8::try_from(self.second_of_day % 60).ok()?,
            i32::try_from(self.micros * 1000).ok()?,
        )
        .ok()
    }
}

/// Takes text apart from the left.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn new(text: &'a str) -> Self {
        Self { rest: text.as_bytes() }
    }

    fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    fn next(&mut self) -> Option<u8> {
        let (&first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(first)
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        (self.rest.first() == Some(&byte)).then(|| self.rest = &self.rest[1..])
    }

    /// Exactly `count` digits.
    fn digits(&mut self, count: usize) -> Option<i64> {
        let (digits, rest) = self.rest.split_at_checked(count)?;
        let value = digits.iter().try_fold(0i64, |n, b| b.is_ascii_digit().then(|| n * 10 + i64::from(b - b'0')))?;
        self.rest = rest;
        Some(value)
    }

    /// At least one digit; the inner `None` is a number too large.
    fn number(&mut self) -> Option<Option<i64>> {
        let count = self.rest.iter().take_while(|b| b.is_ascii_digit()).count();
        let (digits, rest) = self.rest.split_at_checked(count).filter(|(digits, _)| !digits.is_empty())?;
        self.rest = rest;
        Some(digits.iter().try_fold(0i64, |n, b| n.checked_mul(10)?.checked_add(i64::from(b - b'0'))))
    }

    /// A dot and digits, as µs; 0 without a dot.
    fn fraction(&mut self) -> Option<i64> {
        if self.take(b'.').is_none() {
            return Some(0);
        }
        let count = self.rest.iter().take_while(|b| b.is_ascii_digit()).count();
        let (digits, rest) = self.rest.split_at_checked(count).filter(|(digits, _)| !digits.is_empty())?;
        self.rest = rest;
        Some((0..6).fold(0, |n, i| n * 10 + digits.get(i).map_or(0, |b| i64::from(b - b'0'))))
    }

    /// `yyyy-MM-dd`
    fn iso_date(&mut self) -> Option<Civil> {
        let year = self.digits(4)?;
        self.take(b'-')?;
        let month = self.digits(2)?;
        self.take(b'-')?;
        let day = self.digits(2)?;
        Some(Civil { year, month, day, clock_is_sound: true, ..Civil::default() })
    }

    /// `dd/MM/yyyy`
    fn slashed_date(&mut self) -> Option<Civil> {
        let day = self.digits(2)?;
        self.take(b'/')?;
        let month = self.digits(2)?;
        self.take(b'/')?;
        let year = self.digits(4)?;
        Some(Civil { year, month, day, clock_is_sound: true, ..Civil::default() })
    }

    fn separator(&mut self) -> Option<()> {
        matches!(self.next()?, b'T' | b't' | b' ').then_some(())
    }

    /// `HH:MM:SS[.frac]`, and `HH:MM` when seconds are not required.
    fn clock(&mut self, date: Civil, seconds_required: bool) -> Option<Civil> {
        let hour = self.digits(2)?;
        self.take(b':')?;
        let minute = self.digits(2)?;
        let (mut second, mut micros) = (0, 0);
        if seconds_required || self.rest.first() == Some(&b':') {
            self.take(b':')?;
            second = self.digits(2)?;
            micros = self.fraction()?;
        }
        Some(Civil {
            second_of_day: hour * 3600 + minute * 60 + second,
            clock_is_sound: hour < 24 && minute < 60 && second < 60,
            is_leap_second: second == 60,
            micros,
            ..date
        })
    }

    /// `Z`, `+HH:MM` or `+HHMM`: seconds ahead of UTC.
    fn zone(&mut self) -> Option<i64> {
        let sign = match self.next()? {
            b'Z' | b'z' => return Some(0),
            b'+' => 1,
            b'-' => -1,
            _ => return None,
        };
        let hour = self.digits(2)?;
        let _ = self.take(b':');
        let minute = self.digits(2)?;
        (hour < 24 && minute < 60).then_some(sign * (hour * 3600 + minute * 60))
    }
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar (after H. Hinnant, "chrono-compatible low-level date
/// algorithms").
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

fn put_digits(value: i64, count: u32, out: &mut Vec<u8>) {
    let mut unit = 10i64.pow(count - 1);
    while unit > 0 {
        // A digit: the remainder of a division by ten.
        out.push(b'0' + u8::try_from(value / unit % 10).unwrap_or(0));
        unit /= 10;
    }
}

/// At most 64 characters of what was given: an error must not repeat a whole line.
fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: i64 = 1_795_306_511_123_456; // 2026-11-22T00:15:11.123456Z

    fn berlin() -> TimeZone {
        TimeZone::get("Europe/Berlin").unwrap()
    }

    #[test]
    fn rfc3339_is_read() {
        for (text, micros) in [
            ("2026-11-22T00:15:11.123456Z", NOW),
            ("2026-11-22t00:15:11.123456z", NOW),
            ("2026-11-22 01:15:11.123456789+01:00", NOW),
            ("2026-11-21T19:15:11.123456-0500", NOW),
            ("1970-01-01T00:00:00Z", 0),
            ("1969-12-31T23:59:59.5Z", -500_000),
            ("2024-02-29T12:00:00Z", 1_709_208_000_000_000),
            ("0001-01-01T00:00:00Z", MICROS_MIN),
            ("9999-12-31T23:59:59.999999999Z", MICROS_MAX),
            ("0001-01-01T01:00:00+01:00", MICROS_MIN),
        ] {
            assert_eq!(parse_rfc3339(text), Ok(micros), "{text}");
        }
    }

    #[test]
    fn what_is_not_rfc3339_is_refused() {
        for text in [
            "",
            "2026",
            "2026-11-22",
            "2026-11-22T00:15Z",
            "2026-11-22T00:15:11",
            "2026-11-22T00:15:11.Z",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "2026-04-31T00:00:00Z",
            "2026-11-22T24:00:00Z",
            "2026-11-22T23:60:00Z",
            "2026-06-30T23:59:60Z",
            "2026-11-22T00:15:11+24:00",
            "2026-11-22T00:15:11Zx",
            "+2026-11-22T00:15:11Z",
            "10000-01-01T00:00:00Z",
            "0000-12-31T23:59:59Z",
            "0001-01-01T00:00:00+01:00",
            "9999-12-31T23:59:59-01:00",
            "２０26-11-22T00:15:11Z",
            "-001-01-01T00:00:00Z",
            "2026-11-22T0a:15:11Z",
            "now",
        ] {
            assert!(parse_rfc3339(text).is_err(), "{text}");
        }
        assert!(parse_rfc3339("2026-06-30T23:59:60Z").unwrap_err().to_string().contains("leap second"));
    }

    #[test]
    fn one_spelling_goes_out() {
        assert_eq!(format_rfc3339(NOW), "2026-11-22T00:15:11.123456Z");
        assert_eq!(format_rfc3339(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(format_rfc3339(i64::MIN), "0001-01-01T00:00:00.000000Z");
        assert_eq!(format_rfc3339(i64::MAX), "9999-12-31T23:59:59.999999Z");
        for (micros, text) in
            [(0, "1970-01-01T00:00:00Z"), (1_500_000, "1970-01-01T00:00:01.5Z"), (-1, "1969-12-31T23:59:59.999999Z")]
        {
            let mut out = Vec::new();
            write_rfc3339(micros, Fraction::Needed, &mut out);
            assert_eq!(out, text.as_bytes());
        }
    }

    #[test]
    fn what_people_type_is_read() {
        let at = |text: &str| Moment::At(parse_rfc3339(text).unwrap());
        for (text, moment) in [
            ("first", Moment::First),
            ("last", Moment::Last),
            ("lsn:0", Moment::Lsn(0)),
            ("lsn:18446744073709551615", Moment::Lsn(u64::MAX)),
            ("2026-11-22T00:15:11.123456Z", Moment::At(NOW)),
            ("2026-11-22 10:15", at("2026-11-22T09:15:00Z")),
            ("2026-11-22T10:15", at("2026-11-22T09:15:00Z")),
            ("2026-11-22 10:15Z", at("2026-11-22T10:15:00Z")),
            ("2026-11-22 10:15:30", at("2026-11-22T09:15:30Z")),
            ("2026-11-22 10:15:30.25", at("2026-11-22T09:15:30.25Z")),
            ("2026-07-22 10:15:30-03:00", at("2026-07-22T13:15:30Z")),
            ("2026-07-22", at("2026-07-21T22:00:00Z")),
            ("22/07/2026 10:15:30", at("2026-07-22T08:15:30Z")),
            ("22/07/2026 10:15", at("2026-07-22T08:15:00Z")),
            ("22/07/2026", at("2026-07-21T22:00:00Z")),
            ("-2h", Moment::At(NOW - 7200 * SECOND)),
            ("-3d", Moment::At(NOW - 3 * 86_400 * SECOND)),
            ("-15m", Moment::At(NOW - 900 * SECOND)),
            ("-30s", Moment::At(NOW - 30 * SECOND)),
            ("-1w", Moment::At(NOW - 7 * 86_400 * SECOND)),
            ("-1d12h", Moment::At(NOW - 36 * 3600 * SECOND)),
            ("@0", Moment::At(0)),
            ("@1795306511.123456", Moment::At(NOW)),
            ("@-1.5", Moment::At(-1_500_000)),
            // The clocks of Berlin went forward at 2026-03-29 02:00 and back at 2026-10-25 03:00.
            ("2026-03-29 01:59:59.999999", at("2026-03-29T00:59:59.999999Z")),
            ("2026-03-29 03:00", at("2026-03-29T01:00:00Z")),
            ("2026-10-25 01:59", at("2026-10-24T23:59:00Z")),
            ("2026-10-25 03:00", at("2026-10-25T02:00:00Z")),
            ("2026-10-25 02:30+02:00", at("2026-10-25T00:30:00Z")),
        ] {
            assert_eq!(parse_moment(text, NOW, &berlin()), Ok(moment), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_moment_is_refused() {
        for text in [
            "",
            "yesterday",
            "First",
            "lsn:",
            "lsn:-1",
            "lsn:+1",
            "lsn:18446744073709551616",
            "-",
            "-2",
            "-h",
            "-2y",
            "-2h ",
            "- 2h",
            "--2h",
            "-99999999999999999999h",
            "-9999999w",
            "@",
            "@x",
            "@1.",
            "@1e3",
            "@99999999999999999999",
            "@253402300800",
            "2026-11-22 1:15",
            "2026-11-22 10:15:",
            "2026-11-22 10:15:60",
            "2026-11-22 10:60",
            "2026-11-31",
            "31/11/2026",
            "22/11/26 10:00",
            "22/13/2026",
            "2026-11-22 10:15 Europe/Berlin",
            "2026-11-22 ",
            "0000-01-01",
        ] {
            assert!(parse_moment(text, NOW, &berlin()).is_err(), "{text}");
        }
    }

    #[test]
    fn an_hour_that_was_twice_or_never_names_both_instants() {
        let twice = parse_moment("2026-10-25 02:30", NOW, &berlin()).unwrap_err();
        assert_eq!(
            twice,
            TimeError::Twice {
                text: "2026-10-25 02:30".into(),
                zone: "Europe/Berlin".into(),
                first: "2026-10-25T00:30:00.000000Z".into(),
                second: "2026-10-25T01:30:00.000000Z".into()
            }
        );
        let never = parse_moment("29/03/2026 02:30:00", NOW, &berlin()).unwrap_err();
        let text = never.to_string();
        assert!(text.contains("2026-03-29T00:30:00.000000Z") && text.contains("2026-03-29T01:30:00.000000Z"), "{text}");
        assert!(matches!(never, TimeError::Never { .. }));
    }

    #[test]
    fn a_day_begins_also_where_clocks_change_at_midnight() {
        let sao_paulo = TimeZone::get("America/Sao_Paulo").unwrap();
        let at = |text: &str| Ok(Moment::At(parse_rfc3339(text).unwrap()));
        assert_eq!(parse_moment("2018-11-04", NOW, &sao_paulo), at("2018-11-04T03:00:00Z"));
        assert!(parse_moment("2018-11-04 00:00", NOW, &sao_paulo).is_err());
        let havana = TimeZone::get("America/Havana").unwrap();
        assert_eq!(parse_moment("2026-11-01", NOW, &havana), at("2026-11-01T04:00:00Z"));
    }

    proptest! {
        #[test]
        fn every_instant_survives(micros in MICROS_MIN..=MICROS_MAX) {
            prop_assert_eq!(parse_rfc3339(&format_rfc3339(micros)), Ok(micros));
            let mut out = Vec::new();
            write_rfc3339(micros, Fraction::Needed, &mut out);
            prop_assert_eq!(parse_rfc3339(std::str::from_utf8(&out).unwrap()), Ok(micros));
            let jiff = jiff::Timestamp::from_microsecond(micros).unwrap();
            prop_assert_eq!(jiff.to_string(), String::from_utf8(out).unwrap());
        }

        #[test]
        fn no_text_panics(text in "\\PC*", typed in "[-@/:. 0-9TZlsnwdhm+]{0,30}") {
            let _ = parse_rfc3339(&text);
            let _ = parse_rfc3339(&typed);
            let _ = parse_moment(&text, NOW, &berlin());
            let _ = parse_moment(&typed, i64::MAX, &berlin());
        }
    }
}
