// SPDX-License-Identifier: MIT OR Apache-2.0

//! The section `[history]`, which states how long the usage of past days is kept.

use std::fmt;

use super::document::{Document, Section};

/// The minimum number of days. It is more than one, because yesterday's usage can still change in
/// the store today.
const MIN_DAYS: u32 = 2;
/// The maximum number of days, which is ten years. A larger number is probably a typing error, and
/// the store keeps a row for each scope and day.
const MAX_DAYS: u32 = 3660;

/// The section `[history]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    /// The number of past days that are kept.
    pub keep: Days,
}

impl Default for History {
    fn default() -> Self {
        // This is long enough to compare a month with the same month of the previous year.
        Self { keep: Days(400) }
    }
}

/// A number of days as written in the file, for example `400d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Days(pub u32);

impl fmt::Display for Days {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}d", self.0)
    }
}

impl Days {
    fn parse(text: &str) -> Option<Self> {
        let number = text.strip_suffix('d')?;
        let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        // A number with more than 32 bits is reported as out of range rather than as malformed.
        digits.then(|| Self(number.parse().unwrap_or(u32::MAX)))
    }
}

impl History {
    pub(super) fn read<'a>(document: &mut Document<'a>, root: &Section<'a>) -> Self {
        let base = Self::default();
        let Some(section) = document.section(root, "history") else {
            return base;
        };
        document.known(&section, &["keep"]);
        let Some((text, entry)) = document.string(&section, "keep") else {
            return base;
        };
        let message = match Days::parse(&text) {
            Some(keep) if (MIN_DAYS..=MAX_DAYS).contains(&keep.0) => return Self { keep },
            Some(_) => format!(
                "`{} = \"{text}\"` is out of range: give a number of days from {} to {}",
                entry.path,
                Days(MIN_DAYS),
                Days(MAX_DAYS)
            ),
            None => format!(
                "`{} = \"{text}\"` is not a number of days: write it like \"400d\"",
                entry.path
            ),
        };
        document.problem(&entry.span, message);
        base
    }
}
