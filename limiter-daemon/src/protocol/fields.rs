// SPDX-License-Identifier: MIT OR Apache-2.0

//! Reads fields of requests. Each error message states the given value, unless that may be a key,
//! and the valid values. axum puts the name of the field before the message.

use std::{fmt::Display, ops::RangeInclusive, str::FromStr};

use chrono::{DateTime, Datelike as _, NaiveDate, Utc};
use serde::{Deserialize as _, Deserializer, de::Error as _};
use serde_json::Value;

use crate::domain::plain::Shown;

/// The years that RFC 3339 can express (section 1).
const YEARS: RangeInclusive<i32> = 0..=9999;

/// Returns whether RFC 3339 can express a time.
pub fn fits_rfc3339(at: &DateTime<Utc>) -> bool {
    YEARS.contains(&at.year())
}

/// Parses a time in the form of RFC 3339, and returns it in UTC.
pub(crate) fn moment(text: &str) -> Option<DateTime<Utc>> {
    let at = DateTime::parse_from_rfc3339(text).ok()?;
    Some(at.with_timezone(&Utc)).filter(fits_rfc3339)
}

/// Parses a day of the calendar, like `2026-11-24`.
pub fn day(text: &str) -> Option<NaiveDate> {
    let is_form = text.len() == 10
        && text.bytes().zip(0..).all(|(byte, index)| match index {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    is_form.then(|| text.parse().ok()).flatten()
}

fn wrong<E: serde::de::Error>(given: &str, right: impl Display) -> E {
    E::custom(format!("`{}` is not {right}", Shown(given)))
}

/// Reads a time from a query.
pub(crate) fn since<'de, D: Deserializer<'de>>(d: D) -> Result<Option<DateTime<Utc>>, D::Error> {
    let text = String::deserialize(d)?;
    let right = "a time: write it in the form of RFC 3339, like 2026-11-24T18:00:00Z";
    moment(&text).map(Some).ok_or_else(|| wrong(&text, right))
}

/// Reads a day from a query.
pub(crate) fn date<'de, D: Deserializer<'de>>(d: D) -> Result<Option<NaiveDate>, D::Error> {
    let text = String::deserialize(d)?;
    let right = "a day of the calendar: write it like 2026-11-24";
    day(&text).map(Some).ok_or_else(|| wrong(&text, right))
}

fn whole<'de, T: FromStr, D: Deserializer<'de>>(d: D, most: u64) -> Result<T, D::Error> {
    let text = String::deserialize(d)?;
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = is_number.then(|| text.parse().ok()).flatten();
    number.ok_or_else(|| wrong(&text, format_args!("a whole number from 0 to {most}")))
}

/// Reads the maximum number of results from a query.
pub(crate) fn limit<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u32>, D::Error> {
    whole(d, u32::MAX.into()).map(Some)
}

/// Reads the number of an event from a query.
pub(crate) fn number<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
    whole(d, u64::MAX)
}

/// Reads a raw key. If the value is not a string, the error does not quote it, because it may still
/// be a secret.
pub(crate) fn raw_key<'de, D: Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    match Value::deserialize(d)? {
        Value::String(key) => Ok(key),
        _ => Err(D::Error::custom(
            "a key must be a string in quotation marks",
        )),
    }
}

/// Reads a reason, a label or a tier, which must be a string.
pub(crate) fn text<'de, D: Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    match Value::deserialize(d)? {
        Value::String(text) => Ok(text),
        other => Err(wrong(
            &other.to_string(),
            "a text: put it in quotation marks",
        )),
    }
}

/// Reads a reason that may be missing.
pub(crate) fn optional_text<'de, D: Deserializer<'de>>(d: D) -> Result<Option<String>, D::Error> {
    match Value::deserialize(d)? {
        Value::Null => Ok(None),
        given => text(given).map(Some).map_err(D::Error::custom),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar_in_one_form() {
        assert_eq!(day("2028-02-29"), NaiveDate::from_ymd_opt(2028, 2, 29));
        for text in [
            "2026-02-30",
            "2026-2-3",
            "+12345-01-01",
            "12026-01-1",
            "today",
            "",
            " 2026-01-01",
        ] {
            assert_eq!(day(text), None, "{text}");
        }
    }

    #[test]
    fn times_are_those_that_rfc_3339_can_express_in_utc() {
        assert!(moment("9999-12-31T23:59:59.999Z").is_some());
        assert!(moment("2026-12-31T18:00:00+02:00").is_some());
        for text in [
            "9999-12-31T23:59:59-00:01",
            "+10000-01-01T00:00:00Z",
            "-0001-01-01T00:00:00Z",
            "2026-12-31",
            "soon",
        ] {
            assert_eq!(moment(text), None, "{text}");
        }
    }
}
