//! Dates and times from PostgreSQL's ISO forms.
//!
//! A timestamp without an offset is taken as UTC: PostgreSQL's `timestamp` names no zone, every session of ours
//! runs in UTC, and reading it in the server's or the column's zone would make the stored instant depend on a
//! setting. Where a column declares a time zone, the instant is kept and ClickHouse shows it in that zone.

use super::refusal::{Checked, Fault};
use crate::data::CalendarRange;

const SECONDS_PER_DAY: i64 = 86_400;

/// Whether the server can show this day.
fn holds(range: CalendarRange, days: i64) -> bool {
    let (first, last) = match range {
        CalendarRange::Narrow => (days_from_civil(1900, 1, 1), days_from_civil(2299, 12, 31)),
        CalendarRange::Wide => (days_from_civil(1, 1, 1), days_from_civil(9999, 12, 31)),
    };
    (first..=last).contains(&days)
}

const fn years(range: CalendarRange) -> &'static str {
    match range {
        CalendarRange::Narrow => "1900-01-01 to 2299-12-31",
        CalendarRange::Wide => "0001-01-01 to 9999-12-31",
    }
}

/// `Date`: days since 1970-01-01, up to 2149-06-06.
pub(super) fn date(text: &str, at: usize, out: &mut Vec<u8>) -> Checked<()> {
    let days = midnight(text, at, "Date")?;
    let days = u16::try_from(days).map_err(|_| Fault::new(at, "out of range for Date (1970-01-01 to 2149-06-06)"))?;
    out.extend_from_slice(&days.to_le_bytes());
    Ok(())
}

pub(super) fn date32(text: &str, at: usize, range: CalendarRange, out: &mut Vec<u8>) -> Checked<()> {
    let days = midnight(text, at, "Date32")?;
    match i32::try_from(days) {
        Ok(small) if holds(range, days) => out.extend_from_slice(&small.to_le_bytes()),
        _ => {
            return Err(Fault::new(at, format!("out of range for Date32 ({} on this server)", years(range))));
        }
    }
    Ok(())
}

/// The days of a date, or of a timestamp that is midnight of one.
fn midnight(text: &str, at: usize, column_type: &str) -> Checked<i64> {
    let moment = Moment::parse(text, at)?;
    let exact = moment.seconds % SECONDS_PER_DAY == 0 && moment.fraction.trim_end_matches('0').is_empty();
    if !exact {
        return Err(Fault::new(at, format!("has a time of day, which {column_type} would cut")));
    }
    Ok(moment.seconds / SECONDS_PER_DAY)
}

/// `DateTime`: seconds since 1970, up to 2106-02-07 06:28:15 UTC.
pub(super) fn date_time(text: &str, at: usize, out: &mut Vec<u8>) -> Checked<()> {
    let moment = Moment::parse(text, at)?;
    fraction(moment.fraction, 0, at, "DateTime")?;
    let rule = "out of range for DateTime (1970-01-01 00:00:00 to 2106-02-07 06:28:15 UTC)";
    let seconds = u32::try_from(moment.seconds).map_err(|_| Fault::new(at, rule))?;
    out.extend_from_slice(&seconds.to_le_bytes());
    Ok(())
}

/// `DateTime64`: ticks of ten to the power of minus `digits` seconds since 1970.
pub(super) fn date_time64(digits: u8, text: &str, at: usize, range: CalendarRange, out: &mut Vec<u8>) -> Checked<()> {
    let moment = Moment::parse(text, at)?;
    let fraction = fraction(moment.fraction, digits, at, "DateTime64")?;
    let ticks =
        instant(digits, moment.seconds, fraction, range).ok_or_else(|| Fault::new(at, out_of_range(digits, range)))?;
    out.extend_from_slice(&ticks.to_le_bytes());
    Ok(())
}

/// Ticks of an instant; `None` outside the range. `fraction` counts ticks after the second.
pub(super) fn instant(digits: u8, seconds: i64, fraction: i64, range: CalendarRange) -> Option<i64> {
    if !holds(range, seconds.div_euclid(SECONDS_PER_DAY)) {
        return None;
    }
    seconds.checked_mul(10_i64.checked_pow(u32::from(digits))?)?.checked_add(fraction)
}

#[cold]
pub(super) fn out_of_range(digits: u8, range: CalendarRange) -> String {
    let limits = match (digits, range) {
        (9, CalendarRange::Narrow) => "1900-01-01 to 2262-04-11 23:47:16",
        (9, CalendarRange::Wide) => "1677-09-21 00:12:44 to 2262-04-11 23:47:16",
        (8, CalendarRange::Wide) => "0001-01-01 to 4892-10-07",
        _ => years(range),
    };
    format!("out of range for DateTime64({digits}) ({limits} UTC on this server)")
}

/// `Time`: seconds; `Time64`: ticks. PostgreSQL's `time` goes up to 24:00:00, and an interval may be negative.
pub(super) fn time(digits: Option<u8>, text: &str, at: usize, out: &mut Vec<u8>) -> Checked<()> {
    let form = || Fault::new(at, "not a time of the form [-]HH:MM:SS[.ffffff] within 24 hours");
    let (sign, text) = text.strip_prefix('-').map_or((1, text), |text| (-1, text));
    let (seconds, rest) = clock(text.as_bytes()).ok_or_else(form)?;
    let (tail, rest) = split_fraction(text, text.len() - rest.len()).ok_or_else(form)?;
    if !rest.is_empty() {
        return Err(form());
    }
    let Some(digits) = digits else {
        fraction(tail, 0, at, "Time")?;
        let seconds = i32::try_from(sign * seconds).map_err(|_| form())?;
        out.extend_from_slice(&seconds.to_le_bytes());
        return Ok(());
    };
    let ticks = seconds * 10_i64.pow(u32::from(digits)) + fraction(tail, digits, at, "Time64")?;
    out.extend_from_slice(&(sign * ticks).to_le_bytes());
    Ok(())
}

/// An instant as it was written.
struct Moment<'a> {
    /// Seconds since 1970 in UTC.
    seconds: i64,
    /// The digits after the second's point, which the offset leaves alone.
    fraction: &'a str,
}

impl<'a> Moment<'a> {
    fn parse(text: &'a str, at: usize) -> Checked<Moment<'a>> {
        Moment::read(text).ok_or_else(|| Fault::new(at, why_no_moment(text)))
    }

    fn read(text: &'a str) -> Option<Moment<'a>> {
        let bytes = text.as_bytes();
        let (date, rest) = bytes.split_at_checked(10)?;
        if date[4] != b'-' || date[7] != b'-' {
            return None;
        }
        let year = pair(date[0], date[1])? * 100 + pair(date[2], date[3])?;
        let (month, day) = (pair(date[5], date[6])?, pair(date[8], date[9])?);
        if year == 0 || !(1..=12).contains(&month) || day == 0 || day > days_in_month(year, month) {
            return None;
        }
        let midnight = days_from_civil(year, month, day) * SECONDS_PER_DAY;
        let (b'T' | b' ', rest) = (match rest.split_first() {
            Some((separator, rest)) => (*separator, rest),
            None => {
                return Some(Moment { seconds: midnight, fraction: "" });
            }
        }) else {
            return None;
        };
        let (time, rest) = clock(rest)?;
        let (fraction, rest) = split_fraction(text, text.len() - rest.len())?;
        Some(Moment { seconds: midnight + time - offset(rest.as_bytes())?, fraction })
    }
}

/// `HH:MM:SS` in seconds, and what follows it.
fn clock(text: &[u8]) -> Option<(i64, &[u8])> {
    let (clock, rest) = text.split_at_checked(8)?;
    let (hours, minutes, seconds) = (pair(clock[0], clock[1])?, pair(clock[3], clock[4])?, pair(clock[6], clock[7])?);
    let well_formed = clock[2] == b':' && clock[5] == b':' && minutes < 60 && seconds < 60;
    let time = hours * 3600 + minutes * 60 + seconds;
    (well_formed && time <= SECONDS_PER_DAY).then_some((time, rest))
}

/// The digits after a point, if one stands there, and what follows them.
fn split_fraction(text: &str, at: usize) -> Option<(&str, &str)> {
    let rest = text.get(at..)?;
    let Some(rest) = rest.strip_prefix('.') else {
        return Some(("", rest));
    };
    let length = rest.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
    if length == 0 { None } else { rest.split_at_checked(length) }
}

/// Seconds east of UTC: nothing, `Z`, `+HH`, `+HH:MM` or `+HH:MM:SS`.
fn offset(text: &[u8]) -> Option<i64> {
    let (sign, rest) = match text.split_first() {
        None | Some((b'Z', [])) => return Some(0),
        Some((b'+', rest)) => (1, rest),
        Some((b'-', rest)) => (-1, rest),
        _ => return None,
    };
    let (hours, minutes, seconds) = match *rest {
        [a, b] => (pair(a, b)?, 0, 0),
        [a, b, b':', c, d] => (pair(a, b)?, pair(c, d)?, 0),
        [a, b, b':', c, d, b':', e, f] => (pair(a, b)?, pair(c, d)?, pair(e, f)?),
        _ => return None,
    };
    (hours < 24 && minutes < 60 && seconds < 60).then_some(sign * (hours * 3600 + minutes * 60 + seconds))
}

/// The digits after the second as ticks.
fn fraction(text: &str, digits: u8, at: usize, column_type: &str) -> Checked<i64> {
    let (kept, cut) = text.split_at_checked(usize::from(digits)).unwrap_or((text, ""));
    if cut.bytes().any(|digit| digit != b'0') {
        let rule = format!("more than {digits} digits after the second, which {column_type} would cut");
        return Err(Fault::new(at, rule));
    }
    let mut ticks = 0;
    for digit in kept.bytes() {
        ticks = ticks * 10 + i64::from(digit - b'0');
    }
    for _ in kept.len()..usize::from(digits) {
        ticks *= 10;
    }
    Ok(ticks)
}

/// Which rule a text breaks that is no date or timestamp.
#[cold]
fn why_no_moment(text: &str) -> &'static str {
    let leading_digits = text.bytes().take_while(u8::is_ascii_digit).count();
    if text == "infinity" || text == "-infinity" {
        "infinity has no counterpart in ClickHouse"
    } else if text.ends_with(" BC") {
        "a date before the year 1, which ClickHouse cannot hold"
    } else if leading_digits > 4 && text.as_bytes().get(leading_digits) == Some(&b'-') {
        "a year beyond 9999, which ClickHouse cannot hold"
    } else {
        "not a date or timestamp of the form YYYY-MM-DD[THH:MM:SS[.ffffff][+HH[:MM]]]"
    }
}

fn pair(tens: u8, ones: u8) -> Option<i64> {
    let (tens, ones) = (tens.wrapping_sub(b'0'), ones.wrapping_sub(b'0'));
    (tens < 10 && ones < 10).then_some(i64::from(tens) * 10 + i64::from(ones))
}

const fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar, which PostgreSQL and ClickHouse share. Years are
/// counted from March, so that a leap day is the last of its year.
const fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(text: &str) -> Option<i64> {
        Moment::read(text).map(|moment| moment.seconds)
    }

    #[test]
    fn days_count_from_1970() {
        for (date, days) in [
            ("1970-01-01", 0),
            ("1969-12-31", -1),
            ("2000-02-29", 11_016),
            ("1900-01-01", -25_567),
            ("2299-12-31", 120_529),
            ("0001-01-01", -719_162),
            ("9999-12-31", 2_932_896),
        ] {
            assert_eq!(seconds(date), Some(days * SECONDS_PER_DAY), "{date}");
        }
    }

    #[test]
    fn an_offset_names_the_same_instant() {
        let noon = seconds("2024-01-02T12:00:00");
        for same in [
            "2024-01-02 12:00:00",
            "2024-01-02T12:00:00Z",
            "2024-01-02T12:00:00+00",
            "2024-01-02T17:30:00+05:30",
            "2024-01-02T09:00:00-03",
            "2024-01-02T12:53:28+00:53:28",
            "2024-01-02T12:00:00.123+00:00",
        ] {
            assert_eq!(seconds(same), noon, "{same}");
        }
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for text in [
            "",
            "2024",
            "2024-1-02",
            "2024-13-01",
            "2024-00-01",
            "2024-02-30",
            "2023-02-29",
            "1900-02-29",
            "0000-01-01",
            "2024-01-02T",
            "2024-01-02T12:00",
            "2024-01-02T25:00:00",
            "2024-01-02T24:00:01",
            "2024-01-02T12:60:00",
            "2024-01-02T12:00:60",
            "2024-01-02T12:00:00.",
            "2024-01-02T12:00:00+",
            "2024-01-02T12:00:00+5",
            "2024-01-02T12:00:00 BC",
            "2024-01-02X12:00:00",
            "2024-01-02Z",
            "2024-01-0é",
            "12024-01-01",
        ] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    #[test]
    fn the_rule_says_what_is_wrong() {
        assert!(why_no_moment("-infinity").contains("infinity"));
        assert!(why_no_moment("0044-03-15T00:00:00 BC").contains("before the year 1"));
        assert!(why_no_moment("12024-01-01").contains("beyond 9999"));
        assert!(why_no_moment("yesterday").contains("not a date"));
    }
}
