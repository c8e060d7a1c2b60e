//! `[history]`: how long the usage of past days is kept.

use std::fmt;

use super::document::{Document, Section};

/// Fewest days: yesterday's books are closed today.
const FEWEST: u32 = 2;
/// Most days, ten years: more is likely a slip of the keys, and a row is kept for each scope and
/// day.
const MOST: u32 = 3660;

/// The whole section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    /// How many days before today are kept.
    pub keep: Days,
}

impl Default for History {
    fn default() -> Self {
        // Last year's month can still be held against this year's.
        Self { keep: Days(400) }
    }
}

/// A number of days as the file has it: `400d`.
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
        // What does not fit is out of range, not ill-formed.
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
            Some(keep) if (FEWEST..=MOST).contains(&keep.0) => return Self { keep },
            Some(_) => format!(
                "`{} = \"{text}\"` is out of range: from {} to {}",
                entry.path,
                Days(FEWEST),
                Days(MOST)
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
