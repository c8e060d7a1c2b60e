// SPDX-License-Identifier: MIT OR Apache-2.0

//! The state of a key.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The state of a key, which decides whether its requests are admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyState {
    /// Requests with the key are admitted within the limits of its scope.
    Active,
    /// Requests with the key get 401 until the key is enabled again.
    Disabled,
    /// Requests with the key get 401, and the key can never be enabled again.
    Revoked,
}

impl KeyState {
    /// Returns the word for the state in JSON and in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Disabled => "disabled",
            Self::Revoked => "revoked",
        }
    }
}

impl fmt::Display for KeyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for KeyState {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::Active, Self::Disabled, Self::Revoked]
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or(())
    }
}
