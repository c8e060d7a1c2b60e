//! Errors as the control interface tells them: problem JSON (RFC 9457).

use axum::{
    Json,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{kernel::KernelError, limits::LimitError, store::StoreError};

/// What kind of error it is; the command line's exit status follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// What was asked for is not there.
    NotFound,
    /// It is there already, or in a state that does not allow this.
    Conflict,
    /// Who asks may not do this.
    Forbidden,
    /// The request does not make sense.
    Invalid,
    /// A key, or a file of keys, is not one that could be registered. Apart from `invalid`,
    /// since it is about what was read, not about what was typed.
    InvalidKey,
    /// The configuration file is invalid; nothing was changed.
    InvalidConfiguration,
    /// The path is there, but not for this method.
    MethodNotAllowed,
    /// The body is of another type than the path takes.
    UnsupportedMediaType,
    /// The body is too large.
    TooLarge,
    /// The request did not come in time.
    Timeout,
    /// The daemon could not do it.
    Failed,
}

/// An error for the other end of the control socket.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct ApiError {
    /// What kind.
    pub kind: Kind,
    /// What is wrong and what would be right.
    pub message: String,
}

/// The body of an error.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct ProblemBody {
    /// The HTTP status.
    pub status: u16,
    /// What kind of error.
    pub kind: Kind,
    /// What is wrong and what would be right.
    pub detail: String,
}

impl ApiError {
    /// What was asked for is not there.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self {
            kind: Kind::NotFound,
            message: message.into(),
        }
    }

    /// It is there already, or in a state that does not allow this.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self {
            kind: Kind::Conflict,
            message: message.into(),
        }
    }

    /// Who asks may not do this.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self {
            kind: Kind::Forbidden,
            message: message.into(),
        }
    }

    /// The request does not make sense.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self {
            kind: Kind::Invalid,
            message: message.into(),
        }
    }

    /// A key, or a file of keys, is not one that could be registered.
    pub fn invalid_key(message: impl Into<String>) -> Self {
        Self {
            kind: Kind::InvalidKey,
            message: message.into(),
        }
    }

    /// The configuration file is invalid.
    pub fn configuration(message: impl Into<String>) -> Self {
        Self {
            kind: Kind::InvalidConfiguration,
            message: message.into(),
        }
    }

    /// The path is there, but not for this method.
    pub fn method_not_allowed(message: impl Into<String>) -> Self {
        Self {
            kind: Kind::MethodNotAllowed,
            message: message.into(),
        }
    }

    /// The body is of another type than the path takes.
    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self {
            kind: Kind::UnsupportedMediaType,
            message: message.into(),
        }
    }

    /// The body is too large.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self {
            kind: Kind::TooLarge,
            message: message.into(),
        }
    }

    /// The request did not come in time.
    pub fn timeout(message: impl Into<String>) -> Self {
        Self {
            kind: Kind::Timeout,
            message: message.into(),
        }
    }

    /// The daemon could not do it.
    pub fn failed(message: impl Into<String>) -> Self {
        Self {
            kind: Kind::Failed,
            message: message.into(),
        }
    }

    fn status(&self) -> StatusCode {
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

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = self.status();
        let body = ProblemBody {
            status: status.as_u16(),
            kind: self.kind,
            detail: self.message,
        };
        let content_type = [(header::CONTENT_TYPE, "application/problem+json")];
        (status, content_type, Json(body)).into_response()
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::ScopeExists(_) | StoreError::KeyExists { .. } => {
                Self::conflict(error.to_string())
            }
            _ => Self::failed(error.to_string()),
        }
    }
}

impl From<KernelError> for ApiError {
    fn from(error: KernelError) -> Self {
        Self::failed(error.to_string())
    }
}

impl From<LimitError> for ApiError {
    fn from(error: LimitError) -> Self {
        Self::invalid(error.to_string())
    }
}

impl From<getrandom::Error> for ApiError {
    fn from(error: getrandom::Error) -> Self {
        Self::failed(format!("the system has no randomness to give: {error}"))
    }
}
