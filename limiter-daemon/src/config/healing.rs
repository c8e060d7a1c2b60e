// SPDX-License-Identifier: MIT OR Apache-2.0

//! The section `[healing]`, which states how often the counts are checked and corrected.

use std::{fmt, time::Duration};

use super::document::{Document, Entry, Section};

/// The shortest interval. It is not shorter, because a pass over all connections takes a while, and
/// packets may have to wait until the pass ends.
const SHORTEST: Duration = Duration::from_millis(100);
/// The longest interval. A wrong count stays wrong for up to this long.
const LONGEST: Duration = Duration::from_secs(3600);

/// The section `[healing]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Healing {
    /// The time between two checks of whether the sockets of silent connections still exist.
    pub check_interval: Interval,
    /// The time for which a connection must have been silent before it is checked.
    pub suspect_after: Interval,
    /// The time between two recounts of the requests in flight and the connections.
    pub recount_interval: Interval,
}

impl Default for Healing {
    fn default() -> Self {
        Self {
            check_interval: Interval(Duration::from_secs(10)),
            suspect_after: Interval(Duration::from_secs(5)),
            recount_interval: Interval(Duration::from_secs(30)),
        }
    }
}

/// A duration as written in the file, for example `500ms`, `10s` or `2min`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval(pub Duration);

impl Interval {
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

impl Healing {
    pub(super) fn read<'a>(document: &mut Document<'a>, root: &Section<'a>) -> Self {
        let base = Self::default();
        let Some(section) = document.section(root, "healing") else {
            return base;
        };
        document.known(
            &section,
            &["check_interval", "suspect_after", "recount_interval"],
        );
        let mut interval = |name: &str, default: Interval| {
            document
                .string(&section, name)
                .and_then(|(text, entry)| read_interval(document, &text, &entry))
                .unwrap_or(default)
        };
        Self {
            check_interval: interval("check_interval", base.check_interval),
            suspect_after: interval("suspect_after", base.suspect_after),
            recount_interval: interval("recount_interval", base.recount_interval),
        }
    }
}

fn read_interval(document: &mut Document<'_>, text: &str, entry: &Entry<'_>) -> Option<Interval> {
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
