// SPDX-License-Identifier: MIT OR Apache-2.0

//! The names of scopes. A scope is a master account, or a profile of one.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use thiserror::Error;

use crate::domain::plain::{self, InvisibleError, Shown};

/// The maximum length of each part of a name, in bytes.
const MAX_PART: usize = 64;

/// A name of the form `account` or `account/profile`. Each part has 1 to 64 characters of `A-Z a-z
/// 0-9 . _ -`, and is neither `.` nor `..`, which have a special meaning in URLs and paths.
///
/// A profile can exist without its account. Requests with the keys of a profile count only for the
/// profile, and not for its account.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ScopeName(String);

/// The reason why a string cannot be the name of a scope.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("`{}` {}", Shown(given), self.why())]
pub struct ScopeNameError {
    /// The first `2 * MAX_PART` characters of the string.
    given: String,
    unseen: Option<InvisibleError>,
}

impl ScopeNameError {
    /// Returns a message that states the fault and the right form. The message does not contain the
    /// string itself, because a file with keys and names may have a key where a name is expected.
    pub fn why(&self) -> String {
        let unseen = self.unseen.map(|unseen| format!("{unseen}, and "));
        format!(
            "{}is not a valid scope: write an account like `acme` or a profile like `acme/web`, where each part has 1 to {MAX_PART} letters, digits, dots, underscores or hyphens and is not `.` or `..`",
            unseen.unwrap_or_default()
        )
    }
}

impl ScopeName {
    /// Returns the name as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the account in the name. For the name of a profile, this is the account to which the
    /// profile belongs.
    pub fn account(&self) -> &str {
        self.0.split('/').next().unwrap_or_default()
    }

    /// Returns the tier of a scope for which no tier was chosen. It is `profile` for a profile and
    /// `master` for an account.
    pub fn default_tier(&self) -> &'static str {
        if self.0.contains('/') {
            "profile"
        } else {
            "master"
        }
    }
}

impl FromStr for ScopeName {
    type Err = ScopeNameError;

    fn from_str(text: &str) -> Result<Self, ScopeNameError> {
        let is_part = |part: &str| {
            (1..=MAX_PART).contains(&part.len())
                && !matches!(part, "." | "..")
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        let parts = text.split('/');
        if parts.clone().count() <= 2 && parts.clone().all(is_part) {
            return Ok(Self(text.to_owned()));
        }
        Err(ScopeNameError {
            given: text.chars().take(2 * MAX_PART).collect(),
            unseen: plain::check(text).err(),
        })
    }
}

impl fmt::Display for ScopeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Serialize for ScopeName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ScopeName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_and_profiles_are_scopes_with_a_default_tier() {
        assert_eq!(
            "acme".parse::<ScopeName>().expect("account").default_tier(),
            "master"
        );
        assert_eq!(
            "acme/web-1.x_y"
                .parse::<ScopeName>()
                .expect("profile")
                .default_tier(),
            "profile"
        );
    }

    #[test]
    fn other_names_are_refused() {
        let long = "a".repeat(65);
        for text in [
            "",
            "/",
            "acme/",
            "/web",
            "a/b/c",
            "a b",
            "ä",
            "a\n",
            "a//b",
            ".",
            "..",
            "../web",
            "acme/.",
            "acme/..",
            long.as_str(),
        ] {
            assert!(text.parse::<ScopeName>().is_err(), "{text:?}");
        }
        let message = "ac\u{202e}me"
            .parse::<ScopeName>()
            .expect_err("unseen")
            .to_string();
        assert!(
            message.starts_with(r"`ac\u{202e}me` has U+202E as its character 3, "),
            "{message}"
        );
        assert!(
            message.contains("is not a valid scope: write an account like `acme`"),
            "{message}"
        );
    }
}
