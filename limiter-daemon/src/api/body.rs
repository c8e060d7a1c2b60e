// SPDX-License-Identifier: MIT OR Apache-2.0

//! Reads the bodies of requests, with bounds on their time and size.

use std::sync::Arc;

use axum::{
    Extension,
    body::{Body, Bytes},
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use tokio::time::{Instant, timeout, timeout_at};

use crate::{
    http::{Bounds, Place},
    protocol::error::ApiError,
};

/// The maximum size of the body of an ordinary request, in bytes.
const MAX_BODY: usize = 64 * 1024;
/// The maximum size of a key file, in bytes. A file with a million keys of the maximum length is
/// smaller than this.
const MAX_CSV: usize = 512 * 1024 * 1024;
/// The path of requests that import a file of keys.
pub(super) const CSV_PATH: &str = "/v1/keys/import-csv";

/// Reads the whole body, and then passes the request on. From then until the response is ready, the
/// connection keeps its place.
pub(super) async fn whole(
    State(bounds): State<Bounds>,
    Extension(place): Extension<Arc<Place>>,
    request: Request,
    next: Next,
) -> Response {
    let max_bytes = if request.uri().path() == CSV_PATH {
        MAX_CSV
    } else {
        MAX_BODY
    };
    let (head, body) = request.into_parts();
    let body = match collect(body, max_bytes, bounds).await {
        Ok(body) => body,
        Err(error) => return error.into_response(),
    };
    place.begin_request();
    let response = next.run(Request::from_parts(head, Body::from(body))).await;
    if response.extensions().get::<Endless>().is_none() {
        place.end_request();
    }
    response
}

/// Marks a response whose body has no end. The connection keeps its place while such a response is
/// being sent, so the code that makes these responses limits their number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Endless;

async fn collect(body: Body, max_bytes: usize, bounds: Bounds) -> Result<Bytes, ApiError> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(max_bytes);
    let mut pieces = Pieces::new(body, bounds);
    let mut whole = Vec::with_capacity(announced.min(max_bytes));
    while let Some(piece) = pieces.next().await? {
        if whole.len() + piece.len() > max_bytes {
            drop(whole);
            pieces.drain().await;
            return Err(ApiError::too_large(format!(
                "the body of the request is too large: it may have {max_bytes} bytes here"
            )));
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole.into())
}

/// A body that is read piece by piece. Each piece and the whole body have a time limit.
pub(super) struct Pieces {
    body: Body,
    bounds: Bounds,
    end: Instant,
}

impl Pieces {
    pub(super) fn new(body: Body, bounds: Bounds) -> Self {
        Self {
            body,
            bounds,
            end: Instant::now() + bounds.body,
        }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        let late = |_elapsed| ApiError::timeout("the body of the request took too long to arrive");
        loop {
            let frame = timeout(self.bounds.piece, self.body.frame());
            let Some(frame) = timeout_at(self.end, frame)
                .await
                .map_err(late)?
                .map_err(late)?
            else {
                return Ok(None);
            };
            let frame = frame.map_err(|error| {
                ApiError::invalid(format!("the body of the request cannot be read: {error}"))
            })?;
            // Frames without data are trailers, which are ignored.
            if let Ok(piece) = frame.into_data() {
                return Ok(Some(piece));
            }
        }
    }

    /// Reads and drops the rest of the body, because some clients do not read the response until
    /// they have sent the whole body.
    pub(super) async fn drain(&mut self) {
        while let Ok(Some(_dropped)) = self.next().await {}
    }
}
