// SPDX-License-Identifier: MIT OR Apache-2.0

//! Durations in the configuration.

use std::{fmt, time::Duration};

use super::document::{Document, Entry, Section};

/// The shortest duration. Healing makes a pass over all connections at such intervals, which takes
/// a while, and packets may have to wait until the pass ends.
const SHORTEST: Duration = Duration::from_millis(100);
/// The longest duration. With healing, a wrong count stays wrong for up to this long.
const LONGEST: Duration = Duration::from_secs(3600);

/// A duration as written in the file, for example `500ms`, `10s` or `2min`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval(pub Duration);

impl Interval {
    /// Reads an entry. Returns `default` if the entry is missing or invalid.
    pub(super) fn read<'a>(
        document: &mut Document<'a>,
        section: &Section<'a>,
        name: &str,
        default: Self,
    ) -> Self {
        document
            .string(section, name)
            .and_then(|(text, entry)| checked(document, &text, &entry))
            .unwrap_or(default)
    }

    fn parse(text: &str) -> Option<Self> {
        let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
        let (number, unit) = text.split_at(unit_at);
        let number: u64 = number.parse().ok()?;
        let ms = match unit.trim_start() {
            "ms" => 1,
            "s" => 1000,
            "min" => 60_000,
            _ => return None,
        };
        Some(Self(Duration::from_millis(number.checked_mul(ms)?)))
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        if !ms.is_multiple_of(1000) {
            write!(f, "{ms}ms")
        } else if !ms.is_multiple_of(60_000) || ms == 0 {
            write!(f, "{}s", ms / 1000)
        } else {
            write!(f, "{}min", ms / 60_000)
        }
    }
}

/// Returns the duration in `text`, or reports the problem with the entry.
fn checked(document: &mut Document<'_>, text: &str, entry: &Entry<'_>) -> Option<Interval> {
    let message = match Interval::parse(text) {
        Some(interval) if (SHORTEST..=LONGEST).contains(&interval.0) => return Some(interval),
        Some(_) => format!(
            "`{} = \"{text}\"` is out of range: give a duration from {} to {}",
            entry.path,
            Interval(SHORTEST),
            Interval(LONGEST)
        ),
        None => format!(
            "`{} = \"{text}\"` is not a duration: write a number with ms, s or min, like \"10s\"",
            entry.path
        ),
    };
    document.problem(&entry.span, message);
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_written_as_they_are_read() {
        for text in ["100ms", "1500ms", "1s", "90s", "2min", "60min"] {
            assert_eq!(Interval::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "",
            "10",
            "s",
            "1 h",
            "-1s",
            "1.5s",
            "18446744073709551615min",
        ] {
            assert_eq!(Interval::parse(text), None, "{text}");
        }
    }
}
