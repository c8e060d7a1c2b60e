// SPDX-License-Identifier: MIT OR Apache-2.0

//! The mode, which states whether requests that exceed a limit are refused or only counted.

/// The treatment of requests that exceed a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Requests that exceed a limit are refused.
    Enforce,
    /// Requests that exceed a limit are counted, but not refused.
    Observe,
}

impl Mode {
    /// Returns the word for the mode in the configuration and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
        }
    }

    /// Returns the mode whose word is `name`.
    pub fn named(name: &str) -> Option<Self> {
        MODES
            .into_iter()
            .find_map(|(word, mode)| (word == name).then_some(mode))
    }
}

pub(crate) const MODES: [(&str, Mode); 2] =
    [("enforce", Mode::Enforce), ("observe", Mode::Observe)];
