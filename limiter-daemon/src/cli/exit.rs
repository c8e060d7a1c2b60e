// SPDX-License-Identifier: MIT OR Apache-2.0

//! The failures of commands, and their exit statuses.

use std::{fmt::Write as _, process::ExitCode};

use crate::{
    config::ConfigError,
    domain::plain::shown_lines,
    protocol::error::{ApiError, Kind},
};

/// The reason why a command failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The command failed (exit status 1).
    Failed(anyhow::Error),
    /// The command line or the configuration is invalid (exit status 2).
    Usage(String),
    /// No daemon can be reached (exit status 3).
    Unreachable(String),
}

impl Failure {
    pub(super) fn failed(message: impl Into<String>) -> Self {
        Self::Failed(anyhow::anyhow!(message.into()))
    }

    /// Returns whether the daemon closed the connection before its response was complete.
    pub(super) fn is_hang_up(&self) -> bool {
        matches!(self, Self::Failed(error) if error.is::<hyper::Error>())
    }

    pub(super) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
        })
    }

    /// Reports the reason in the log if `through_log` is set, as it is for the daemon, and
    /// otherwise on standard error.
    pub(super) fn report(&self, through_log: bool) {
        let mut text = String::new();
        match self {
            Self::Failed(error) => {
                // Writing to a string does not fail.
                let _infallible = write!(text, "{error:#}");
            }
            Self::Usage(message) | Self::Unreachable(message) => text.push_str(message),
        }
        for line in shown_lines(&text).lines() {
            if through_log {
                log::error!("{line}");
            } else {
                eprintln!("limiter: {line}");
            }
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        match error.kind {
            Kind::Invalid | Kind::InvalidConfiguration => Self::Usage(error.message),
            Kind::NotFound
            | Kind::Conflict
            | Kind::Forbidden
            | Kind::InvalidKey
            | Kind::MethodNotAllowed
            | Kind::UnsupportedMediaType
            | Kind::TooLarge
            | Kind::Timeout
            | Kind::Failed => Self::failed(error.message),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        // The error may be an `ApiError` even if it did not arrive over the socket. Its kind then
        // determines the exit status.
        match error.downcast::<ApiError>() {
            Ok(error) => error.into(),
            Err(error) => Self::Failed(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_request_is_a_usage_error_and_an_invalid_key_is_not() {
        for (error, usage) in [
            (ApiError::invalid("x"), true),
            (ApiError::configuration("x"), true),
            (ApiError::invalid_key("x"), false),
            (ApiError::not_found("x"), false),
            (ApiError::conflict("x"), false),
            (ApiError::forbidden("x"), false),
            (ApiError::failed("x"), false),
        ] {
            let message = format!("{error:?}");
            let failure = Failure::from(anyhow::Error::from(error.clone()));
            assert_eq!(matches!(failure, Failure::Usage(_)), usage, "{message}");
            let failure = Failure::from(error);
            assert_eq!(matches!(failure, Failure::Usage(_)), usage, "{message}");
        }
    }
}
