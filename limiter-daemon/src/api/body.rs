//! Bodies of requests: whole, in time, and no larger than what they may be.

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

use super::ApiError;
use crate::http::{Bounds, Place};

/// Largest body of an ordinary request, in bytes.
const MAX_BODY: usize = 64 * 1024;
/// Largest file of keys, in bytes: a million keys of the longest kind fit.
const MAX_CSV: usize = 512 * 1024 * 1024;
/// Where files of keys go.
pub(super) const CSV_PATH: &str = "/v1/keys/import-csv";

/// Has the whole body before anything is done, and the connection's place sure from there to the
/// answer.
pub(super) async fn whole(
    State(bounds): State<Bounds>,
    Extension(place): Extension<Arc<Place>>,
    request: Request,
    next: Next,
) -> Response {
    let most = if request.uri().path() == CSV_PATH {
        MAX_CSV
    } else {
        MAX_BODY
    };
    let (head, body) = request.into_parts();
    let body = match collect(body, most, bounds).await {
        Ok(body) => body,
        Err(error) => return error.into_response(),
    };
    place.works();
    let response = next.run(Request::from_parts(head, Body::from(body))).await;
    if response.extensions().get::<Endless>().is_none() {
        place.waits();
    }
    response
}

/// Of a response: its body goes on as things happen. It is the other end that waits, so that the
/// connection keeps its place; how many there are of these is bounded where they are made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Endless;

async fn collect(body: Body, most: usize, bounds: Bounds) -> Result<Bytes, ApiError> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(most);
    let mut pieces = Pieces::new(body, bounds);
    let mut whole = Vec::with_capacity(announced.min(most));
    while let Some(piece) = pieces.next().await? {
        if whole.len() + piece.len() > most {
            drop(whole);
            pieces.drain().await;
            return Err(ApiError::too_large(format!(
                "the body is larger than the {most} bytes that it may have here"
            )));
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole.into())
}

/// A body, piece by piece, each of them in time.
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
        let late = |_elapsed| ApiError::timeout("the body of the request did not come in time");
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
            // Trailers say nothing to us.
            if let Ok(piece) = frame.into_data() {
                return Ok(Some(piece));
            }
        }
    }

    /// Reads what is left, so that who sent it is there to read the answer.
    pub(super) async fn drain(&mut self) {
        while let Ok(Some(_dropped)) = self.next().await {}
    }
}
