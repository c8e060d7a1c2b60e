// SPDX-License-Identifier: MIT OR Apache-2.0

//! Errors of the control interface, which are sent as problem details in JSON (RFC 9457).

use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::domain::bound::LimitError;

/// The kind of an error. It determines the exit status of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The object of the request does not exist.
    NotFound,
    /// The object exists already, or its state does not allow the change.
    Conflict,
    /// The user does not have the right to make the request.
    Forbidden,
    /// The request is invalid.
    Invalid,
    /// A key, or a file of keys, cannot be registered. This kind differs from `invalid`, because
    /// the input is at fault rather than the command line.
    InvalidKey,
    /// The configuration file is invalid, and nothing was changed.
    InvalidConfiguration,
    /// The path does not support this method.
    MethodNotAllowed,
    /// The path does not accept the media type of the body.
    UnsupportedMediaType,
    /// The body is too large.
    TooLarge,
    /// The request took too long to arrive.
    Timeout,
    /// The daemon failed to carry out the request.
    Failed,
}

/// The beginnings of axum's error texts. They are removed, because they do not help the client.
const FRAMEWORK: [&str; 2] = [
    "Failed to deserialize the JSON body into the target type: ",
    "Failed to deserialize query string: ",
];

/// An error that is sent over the control socket.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct ApiError {
    /// The kind of the error.
    pub kind: Kind,
    /// A description of the fault, and of valid input.
    pub message: String,
}

/// The body of an error.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct ProblemBody {
    /// The HTTP status.
    pub status: u16,
    /// The kind of the error.
    pub kind: Kind,
    /// A description of the fault, and of valid input.
    pub detail: String,
}

impl ApiError {
    /// Returns the error for an object that does not exist.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self {
            kind: Kind::NotFound,
            message: message.into(),
        }
    }

    /// Returns the error for an object that exists already, or whose state does not allow the
    /// change.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self {
            kind: Kind::Conflict,
            message: message.into(),
        }
    }

    /// Returns the error for a user who does not have the right to make the request.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self {
            kind: Kind::Forbidden,
            message: message.into(),
        }
    }

    /// Returns the error for an invalid request.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self {
            kind: Kind::Invalid,
            message: message.into(),
        }
    }

    /// Returns the error for an invalid part of a request. `why` is a text of axum or serde, which
    /// names the field.
    pub(crate) fn unexpected(part: &str, why: &str) -> Self {
        let why = FRAMEWORK
            .iter()
            .fold(why, |why, words| why.strip_prefix(words).unwrap_or(why));
        let (why, position) = match why.rsplit_once(" at line ") {
            Some((why, position)) => (why, format!(" (line {position})")),
            None => (why, String::new()),
        };
        Self::invalid(format!(
            "the {part} of the request is invalid: {why}{position}"
        ))
    }

    /// Returns the error for a key, or a file of keys, that cannot be registered.
    pub fn invalid_key(message: impl Into<String>) -> Self {
        Self {
            kind: Kind::InvalidKey,
            message: message.into(),
        }
    }

    /// Returns the error for an invalid configuration file.
    pub fn configuration(message: impl Into<String>) -> Self {
        Self {
            kind: Kind::InvalidConfiguration,
            message: message.into(),
        }
    }

    /// Returns the error for a method that the path does not support.
    pub fn method_not_allowed(message: impl Into<String>) -> Self {
        Self {
            kind: Kind::MethodNotAllowed,
            message: message.into(),
        }
    }

    /// Returns the error for a body whose media type the path does not accept.
    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self {
            kind: Kind::UnsupportedMediaType,
            message: message.into(),
        }
    }

    /// Returns the error for a body that is too large.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self {
            kind: Kind::TooLarge,
            message: message.into(),
        }
    }

    /// Returns the error for a request that took too long to arrive.
    pub fn timeout(message: impl Into<String>) -> Self {
        Self {
            kind: Kind::Timeout,
            message: message.into(),
        }
    }

    /// Returns the error for a request that the daemon failed to carry out.
    pub fn failed(message: impl Into<String>) -> Self {
        Self {
            kind: Kind::Failed,
            message: message.into(),
        }
    }

    pub(crate) fn status(&self) -> StatusCode {
        match self.kind {
            Kind::NotFound => StatusCode::NOT_FOUND,
            Kind::Conflict => StatusCode::CONFLICT,
            Kind::Forbidden => StatusCode::FORBIDDEN,
            Kind::Invalid | Kind::InvalidKey => StatusCode::BAD_REQUEST,
            Kind::InvalidConfiguration => StatusCode::UNPROCESSABLE_ENTITY,
            Kind::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Kind::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Kind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Kind::Timeout => StatusCode::REQUEST_TIMEOUT,
            Kind::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<LimitError> for ApiError {
    fn from(error: LimitError) -> Self {
        Self::invalid(error.to_string())
    }
}

impl From<getrandom::Error> for ApiError {
    fn from(error: getrandom::Error) -> Self {
        Self::failed(format!("the system returned no random bytes: {error}"))
    }
}
