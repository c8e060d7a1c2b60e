//! `[healing]`: how often counts are held against what they count.

use std::{fmt, time::Duration};

use super::document::{Document, Entry, Section};

/// Shortest interval: a pass over all connections takes a while, and packets wait for it.
const SHORTEST: Duration = Duration::from_millis(100);
/// Longest interval: what is lost stays lost for that long.
const LONGEST: Duration = Duration::from_secs(3600);

/// The whole section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Healing {
    /// Between two looks whether the sockets of silent connections are still there.
    pub check_interval: Interval,
    /// How long a connection must have been silent for such a look.
    pub suspect_after: Interval,
    /// Between two recounts of what connections hold.
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

/// A time as the file has it: `500ms`, `10s`, `2min`.
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
            "`{} = \"{text}\"` is out of range: from {} to {}",
            entry.path,
            Interval(SHORTEST),
            Interval(LONGEST)
        ),
        None => format!(
            "`{} = \"{text}\"` is not a time: a number and ms, s or min, like \"10s\"",
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
