// SPDX-License-Identifier: MIT OR Apache-2.0

//! Times and days that users type: a date, a time, a duration from now, or a word.

use std::str::FromStr;

use chrono::{DateTime, Days, NaiveDate, NaiveTime, TimeDelta, Utc};

use crate::{
    domain::plain::Shown,
    protocol::{
        fields::{day, fits_rfc3339},
        requests::End,
    },
};

/// The end of an override: a time in the future, or never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Until(End);

impl Until {
    pub(super) fn end(self) -> End {
        self.0
    }
}

impl FromStr for Until {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        until(text, Utc::now()).map(Self)
    }
}

/// The beginning of a time range, which must not be in the future.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Since(DateTime<Utc>);

impl Since {
    pub(super) fn at(self) -> DateTime<Utc> {
        self.0
    }
}

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        since(text, Utc::now()).map(Self)
    }
}

/// A UTC day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Date(NaiveDate);

impl Date {
    pub(super) fn day(self) -> NaiveDate {
        self.0
    }
}

impl FromStr for Date {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        date(text, Utc::now().date_naive()).map(Self)
    }
}

fn until(text: &str, now: DateTime<Utc>) -> Result<End, String> {
    if text == "never" {
        return Ok(End::Never);
    }
    let shown = Shown(text);
    let at = match (fixed(text), span(text.strip_prefix('+').unwrap_or(text))) {
        (Some(at), _) => Some(at),
        (None, Some(span)) => now.checked_add_signed(span),
        (None, None) => {
            let negative = text.strip_prefix('-').and_then(span);
            return Err(if negative.is_some() {
                format!("`{shown}` is in the past: give an end in the future, like 7d")
            } else {
                format!(
                    "`{shown}` is not a time: write 2026-12-31 (for its beginning in UTC), 2026-12-31T18:00:00Z, a duration from now like 90m, 36h or 7d, or never"
                )
            });
        }
    };
    let Some(at) = at.filter(fits_rfc3339) else {
        return Err(format!(
            "`{shown}` is after the year 9999: write an earlier time, or never"
        ));
    };
    if at <= now {
        return Err(format!(
            "`{shown}` is in the past: give an end in the future"
        ));
    }
    Ok(End::At(at))
}

fn since(text: &str, now: DateTime<Utc>) -> Result<DateTime<Utc>, String> {
    let shown = Shown(text);
    let at = match (fixed(text), span(text.strip_prefix('-').unwrap_or(text))) {
        (Some(at), _) => at,
        // The difference may be a time that RFC 3339 cannot express. There are no records from
        // before 1970, so all earlier times become the beginning of 1970.
        (None, Some(span)) => now
            .checked_sub_signed(span)
            .unwrap_or_default()
            .max(DateTime::UNIX_EPOCH),
        (None, None) => {
            return Err(format!(
                "`{shown}` is not a time: write 2026-11-24 (for its beginning in UTC), 2026-11-24T18:00:00Z, or a duration before now like 90m, 36h or 7d"
            ));
        }
    };
    if at > now {
        return Err(format!(
            "`{shown}` is in the future: give a time in the past"
        ));
    }
    Ok(at)
}

fn date(text: &str, today: NaiveDate) -> Result<NaiveDate, String> {
    let shown = Shown(text);
    let date = match text {
        "today" => Some(today),
        "yesterday" => today.checked_sub_days(Days::new(1)),
        text => day(text),
    };
    // Days in the future are accepted here. The daemon checks by its own clock whether the day has
    // begun.
    date.ok_or_else(|| {
        format!(
            "`{shown}` is not a day of the calendar: write it like 2026-11-24, or write today or yesterday (in UTC)"
        )
    })
}

/// Parses a time or a UTC day. A day stands for its beginning.
fn fixed(text: &str) -> Option<DateTime<Utc>> {
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Some(at.with_timezone(&Utc));
    }
    let date = day(text)?;
    Some(date.and_time(NaiveTime::MIN).and_utc())
}

/// Parses a duration like `90m`, `36h` or `7d`.
fn span(text: &str) -> Option<TimeDelta> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit_at);
    let seconds = match unit {
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    if number.is_empty() {
        return None;
    }
    // A number that is too large for `u32` is replaced by the maximum of `u32`. With either number,
    // the resulting time is out of range.
    let number: u32 = number.parse().unwrap_or(u32::MAX);
    Some(TimeDelta::seconds(i64::from(number) * seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> DateTime<Utc> {
        "2026-11-24T12:00:00Z".parse().unwrap()
    }

    #[test]
    fn ends_are_times_dates_or_durations() {
        for (text, wanted) in [
            ("2026-12-31", "2026-12-31T00:00:00Z"),
            ("2026-12-31T18:00:00+02:00", "2026-12-31T16:00:00Z"),
            ("90m", "2026-11-24T13:30:00Z"),
            ("+36h", "2026-11-26T00:00:00Z"),
            ("7d", "2026-12-01T12:00:00Z"),
        ] {
            let wanted: DateTime<Utc> = wanted.parse().unwrap();
            assert_eq!(until(text, now()), Ok(End::At(wanted)), "{text}");
        }
        assert_eq!(until("never", now()), Ok(End::Never));
        for text in [
            "3000000d",
            "4294967295d",
            "99999999999d",
            "9999-12-31T23:59:59-00:01",
        ] {
            let message = until(text, now()).unwrap_err();
            assert!(message.contains("after the year 9999"), "{message}");
        }
        for text in ["-3d", "2026-11-24", "0m"] {
            let message = until(text, now()).unwrap_err();
            assert!(message.contains("is in the past"), "{message}");
        }
        for text in [
            "",
            "tomorrow",
            "7",
            "d",
            "7w",
            "2026-13-01",
            "2026-11-24",
            "0m",
            "é",
            "-3d",
        ] {
            assert!(until(text, now()).is_err(), "{text}");
        }
    }

    #[test]
    fn beginnings_are_in_the_past() {
        for (text, wanted) in [
            ("2026-11-24", "2026-11-24T00:00:00Z"),
            ("90m", "2026-11-24T10:30:00Z"),
            ("-7d", "2026-11-17T12:00:00Z"),
            ("0m", "2026-11-24T12:00:00Z"),
            ("3000000d", "1970-01-01T00:00:00Z"),
            ("-4294967295d", "1970-01-01T00:00:00Z"),
        ] {
            let wanted: DateTime<Utc> = wanted.parse().unwrap();
            assert_eq!(since(text, now()), Ok(wanted), "{text}");
        }
        for text in ["", "2026-11-25", "yesterday", "7", "+7d", "d", "--limit"] {
            assert!(since(text, now()).is_err(), "{text}");
        }
    }

    #[test]
    fn days_are_written_in_three_ways() {
        let today = now().date_naive();
        for (text, wanted) in [
            ("today", "2026-11-24"),
            ("yesterday", "2026-11-23"),
            ("2025-02-28", "2025-02-28"),
            // Tomorrow is accepted, because it may already be today by the daemon's clock.
            ("2026-11-25", "2026-11-25"),
        ] {
            assert_eq!(date(text, today), Ok(wanted.parse().unwrap()), "{text}");
        }
        for (text, word) in [
            ("2026-02-30", "like 2026-11-24, or write today or yesterday"),
            ("tomorrow", "like 2026-11-24"),
            ("24.11.2026", "like 2026-11-24"),
            ("-1d", "like 2026-11-24"),
        ] {
            let message = date(text, today).unwrap_err();
            assert!(
                message.contains(word) && message.contains(text),
                "{message}"
            );
        }
    }
}
