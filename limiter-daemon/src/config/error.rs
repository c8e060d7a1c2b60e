// SPDX-License-Identifier: MIT OR Apache-2.0

//! Errors in the configuration. They state what is wrong, where it is, and what would be valid.

use std::{fmt, path::PathBuf};

use thiserror::Error;

/// The reason why the configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}{hint}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the system call.
        source: std::io::Error,
        /// Further advice for the operator, or an empty string.
        hint: &'static str,
    },
    /// The file or the command line has an invalid setting.
    #[error("{}", Lines(problems))]
    Invalid {
        /// All problems, in the order in which they appear in the file. There is at least one.
        problems: Vec<Problem>,
    },
}

/// An invalid setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The place as `FILE:LINE:COLUMN`, or `command line`.
    pub at: String,
    /// The message, which states what is wrong and what would be valid.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.message)
    }
}

/// Prints problems, each on a line of its own.
struct Lines<'a>(&'a [Problem]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}
