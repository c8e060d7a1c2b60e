// SPDX-License-Identifier: MIT OR Apache-2.0

//! Extracts the parts of requests, and makes responses from the results of the engine.

use std::sync::Arc;

use axum::{
    Json,
    body::Bytes,
    extract::{
        ConnectInfo, FromRequest, FromRequestParts, Path, Query, Request, State,
        rejection::{BytesRejection, JsonRejection, PathRejection, QueryRejection},
    },
    http::{HeaderMap, HeaderValue, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use chrono::Utc;
use serde::Serialize;

use super::peer::Peer;
use crate::{
    engine::{caller::Caller, shared::Shared, state::Engine},
    protocol::error::ApiError,
};

pub(super) type App = State<Arc<Shared>>;

pub(super) type Sender = ConnectInfo<Peer>;

/// A body in JSON. An invalid body is reported in the same form as any other error.
#[derive(FromRequest)]
#[from_request(via(Json), rejection(ApiError))]
pub(super) struct Body<T>(pub(super) T);

/// A parameter of the path, percent-decoded.
#[derive(FromRequestParts)]
#[from_request(via(Path), rejection(ApiError))]
pub(super) struct Part<T>(pub(super) T);

/// The parameters of the query.
#[derive(FromRequestParts)]
#[from_request(via(Query), rejection(ApiError))]
pub(super) struct QueryOf<T>(pub(super) T);

/// A body in CSV.
pub(super) struct Csv(pub(super) Bytes);

impl<S: Send + Sync> FromRequest<S> for Csv {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        if !is_csv(request.headers()) {
            return Err(ApiError::unsupported_media_type(
                "the body of the request must be a file of keys: send it with `Content-Type: text/csv`",
            ));
        }
        Ok(Self(Bytes::from_request(request, state).await?))
    }
}

fn is_csv(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let essence = value.and_then(|value| value.split(|byte| *byte == b';').next());
    essence.is_some_and(|essence| essence.trim_ascii().eq_ignore_ascii_case(b"text/csv"))
}

impl From<JsonRejection> for ApiError {
    fn from(error: JsonRejection) -> Self {
        if let JsonRejection::MissingJsonContentType(_) = error {
            return Self::unsupported_media_type(
                "the body of the request must be JSON: send it with `Content-Type: application/json`",
            );
        }
        // The text of `error` names a field and a position. It never quotes a raw key, because
        // `protocol::fields::raw_key` reads the fields that hold one.
        Self::unexpected("body", &error.body_text())
    }
}

impl From<PathRejection> for ApiError {
    fn from(error: PathRejection) -> Self {
        Self::invalid(error.body_text())
    }
}

impl From<QueryRejection> for ApiError {
    fn from(error: QueryRejection) -> Self {
        Self::unexpected("query", &error.body_text())
    }
}

impl From<BytesRejection> for ApiError {
    fn from(error: BytesRejection) -> Self {
        // Only the import of a key file uses this extractor, so the error concerns the file.
        Self::invalid_key(error.body_text())
    }
}

pub(super) fn caller(ConnectInfo(peer): &Sender) -> Caller {
    Caller {
        who: peer.name(),
        now: Utc::now(),
    }
}

/// The result of a handler: a `T` in JSON with status 200, or an error.
pub(super) type Answer<T> = Result<Json<T>, ApiError>;

/// A `T` in JSON with status 201.
pub(super) struct Created<T>(pub(super) T);

impl<T: Serialize> IntoResponse for Created<T> {
    fn into_response(self) -> Response {
        (StatusCode::CREATED, Json(self.0)).into_response()
    }
}

/// Runs `work` on the engine, and responds with the result of `work`.
pub(super) async fn answer<T: Send + 'static>(
    shared: &Arc<Shared>,
    work: impl FnOnce(&mut Engine) -> Result<T, ApiError> + Send + 'static,
) -> Answer<T> {
    shared.with(work).await.map(Json)
}
