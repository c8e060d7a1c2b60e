//! The one place where exit statuses are decided.

use std::{fmt::Write as _, process::ExitCode};

use crate::{
    api::{ApiError, Kind},
    config::ConfigError,
};

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(super) enum Failure {
    /// It could not: exit status 1.
    Failed(anyhow::Error),
    /// It was asked wrongly, or the configuration is invalid: exit status 2.
    Usage(String),
    /// No daemon answers: exit status 3.
    Unreachable(String),
}

impl Failure {
    pub(super) fn failed(message: impl Into<String>) -> Self {
        Self::Failed(anyhow::anyhow!(message.into()))
    }

    /// Whether the daemon went away before it had answered.
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

    /// Says why, on standard error; through the log for the daemon, whose errors belong there.
    pub(super) fn tell(&self, through_log: bool) {
        let mut text = String::new();
        match self {
            Self::Failed(error) => {
                // Writing to a string does not fail.
                let _infallible = write!(text, "{error:#}");
            }
            Self::Usage(message) | Self::Unreachable(message) => text.push_str(message),
        }
        for line in text.lines() {
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
        // An error of the daemon's own says what kind it is, here as over the socket.
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
    fn what_was_typed_wrongly_is_usage_and_what_was_read_is_not() {
        for (error, usage) in [
            (ApiError::invalid("x"), true),
            (ApiError::configuration("x"), true),
            (ApiError::invalid_key("x"), false),
            (ApiError::not_found("x"), false),
            (ApiError::conflict("x"), false),
            (ApiError::forbidden("x"), false),
            (ApiError::failed("x"), false),
        ] {
            let told = format!("{error:?}");
            let failure = Failure::from(anyhow::Error::from(error.clone()));
            assert_eq!(matches!(failure, Failure::Usage(_)), usage, "{told}");
            let failure = Failure::from(error);
            assert_eq!(matches!(failure, Failure::Usage(_)), usage, "{told}");
        }
    }
}
