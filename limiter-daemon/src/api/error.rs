// SPDX-License-Identifier: MIT OR Apache-2.0

//! Makes HTTP responses from errors.

use axum::{
    Json,
    http::header,
    response::{IntoResponse, Response},
};

use crate::protocol::error::{ApiError, ProblemBody};

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
