//! Moments as they are typed: a date, a moment, or a span from now.

use std::str::FromStr;

use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta, Utc};

/// When an override ends: after now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Until(DateTime<Utc>);

impl Until {
    pub(super) fn at(self) -> DateTime<Utc> {
        self.0
    }
}

impl FromStr for Until {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        until(text, Utc::now()).map(Self)
    }
}

/// From when on: before now.
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

fn until(text: &str, now: DateTime<Utc>) -> Result<DateTime<Utc>, String> {
    let span = |text: &str| now.checked_add_signed(span(text.strip_prefix('+').unwrap_or(text))?);
    let at = fixed(text).or_else(|| span(text)).ok_or_else(|| {
        format!(
            "`{text}` is not a time: write 2026-12-31 (its first moment, UTC), 2026-12-31T18:00:00Z, or from now on 90m, 36h, 7d"
        )
    })?;
    if at <= now {
        return Err(format!("`{text}` has passed already"));
    }
    Ok(at)
}

fn since(text: &str, now: DateTime<Utc>) -> Result<DateTime<Utc>, String> {
    let span = |text: &str| now.checked_sub_signed(span(text.strip_prefix('-').unwrap_or(text))?);
    let at = fixed(text).or_else(|| span(text)).ok_or_else(|| {
        format!(
            "`{text}` is not a time: write 2026-11-24 (its first moment, UTC), 2026-11-24T18:00:00Z, or for the last 90m, 36h, 7d"
        )
    })?;
    if at > now {
        return Err(format!("`{text}` is still to come"));
    }
    Ok(at)
}

/// A moment or the first moment of a UTC day.
fn fixed(text: &str) -> Option<DateTime<Utc>> {
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Some(at.with_timezone(&Utc));
    }
    let date = text.parse::<NaiveDate>().ok()?;
    Some(date.and_time(NaiveTime::MIN).and_utc())
}

/// `90m`, `36h`, `7d`.
fn span(text: &str) -> Option<TimeDelta> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit_at);
    let seconds = match unit {
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    let number: u32 = number.parse().ok()?;
    Some(TimeDelta::seconds(i64::from(number) * seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> DateTime<Utc> {
        "2026-11-24T12:00:00Z".parse().unwrap()
    }

    #[test]
    fn ends_are_moments_dates_or_spans() {
        for (text, wanted) in [
            ("2026-12-31", "2026-12-31T00:00:00Z"),
            ("2026-12-31T18:00:00+02:00", "2026-12-31T16:00:00Z"),
            ("90m", "2026-11-24T13:30:00Z"),
            ("+36h", "2026-11-26T00:00:00Z"),
            ("7d", "2026-12-01T12:00:00Z"),
        ] {
            let wanted: DateTime<Utc> = wanted.parse().unwrap();
            assert_eq!(until(text, now()), Ok(wanted), "{text}");
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
    fn beginnings_lie_before_now() {
        for (text, wanted) in [
            ("2026-11-24", "2026-11-24T00:00:00Z"),
            ("90m", "2026-11-24T10:30:00Z"),
            ("-7d", "2026-11-17T12:00:00Z"),
            ("0m", "2026-11-24T12:00:00Z"),
        ] {
            let wanted: DateTime<Utc> = wanted.parse().unwrap();
            assert_eq!(since(text, now()), Ok(wanted), "{text}");
        }
        for text in ["", "2026-11-25", "yesterday", "7", "+7d"] {
            assert!(since(text, now()).is_err(), "{text}");
        }
    }
}
