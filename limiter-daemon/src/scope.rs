//! Names of scopes: a master account, or a profile in one.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use thiserror::Error;

/// Longest part of a name, in bytes.
const MAX_PART: usize = 64;

/// `account`, or `account/profile`; each part 1 to 64 of `A-Z a-z 0-9 . _ -`, but not `.` or
/// `..`, which URLs and paths read as something else.
///
/// A profile does not need its account to exist: a profile's count is its own, and an account
/// counts only its own keys.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ScopeName(String);

/// Why a name is not a scope's.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "`{0}` is not a scope: write an account like `acme` or a profile like `acme/web`, each part 1 to 64 letters, digits, dots, underscores or hyphens, and not `.` or `..`"
)]
pub struct ScopeNameError(String);

impl ScopeName {
    /// The name as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The tier of a scope that names none: `profile` for a profile, `master` for an account.
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
        Err(ScopeNameError(text.chars().take(2 * MAX_PART).collect()))
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
    }
}
