// SPDX-License-Identifier: MIT OR Apache-2.0

//! The handler of `limiter events`, and the stream of events that it returns.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Extension, Json,
    body::{Body, Bytes},
    extract::State,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use chrono::Utc;
use futures_util::{Stream, StreamExt as _, stream};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::{
    body::Endless,
    extract::{App, QueryOf},
};
use crate::{
    domain::plain,
    engine::events::log::Following,
    protocol::{
        error::ApiError,
        events::{EventKind, EventView},
        fields, schema,
    },
};

/// The media type of a stream of JSON objects with one object per line.
const NDJSON: &str = "application/x-ndjson";

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsQuery {
    /// Continue with new events until the daemon stops. The response then has one event per line
    /// (`application/x-ndjson`).
    #[serde(default)]
    follow: bool,
    /// The maximum number of past events. If there are more, the latest ones are returned.
    #[serde(default, deserialize_with = "fields::limit")]
    #[schemars(schema_with = "schema::limit")]
    limit: Option<u32>,
    /// Only events whose number is greater than this one.
    #[serde(default, deserialize_with = "fields::number")]
    #[schemars(schema_with = "schema::event_number")]
    after: u64,
}

/// The latest events as an array, or a stream of events.
pub(super) enum Events {
    Latest(Vec<Arc<EventView>>),
    Stream(Following),
}

impl IntoResponse for Events {
    fn into_response(self) -> Response {
        match self {
            Self::Latest(events) => {
                let events: Vec<&EventView> = events.iter().map(Arc::as_ref).collect();
                Json(events).into_response()
            }
            Self::Stream(following) => {
                let body = Body::from_stream(lines(following));
                ([(CONTENT_TYPE, NDJSON)], Extension(Endless), body).into_response()
            }
        }
    }
}

/// Returns the latest events or, with `follow`, a stream that ends when the daemon stops.
pub(super) async fn events(
    State(shared): App,
    QueryOf(query): QueryOf<EventsQuery>,
) -> Result<Events, ApiError> {
    let limit = query.limit.map_or(usize::MAX, |limit| limit as usize);
    let log = shared.events();
    if !query.follow {
        return Ok(Events::Latest(log.recent(limit, query.after)));
    }
    let following = log.follow(limit, query.after).ok_or_else(|| {
        ApiError::failed(
            "cannot follow events: the daemon is about to stop, or too many clients follow them",
        )
    })?;
    Ok(Events::Stream(following))
}

/// Returns the events as lines of JSON. Each line is made only when the client reads it. A client
/// that does not read therefore delays no other client.
fn lines(following: Following) -> impl Stream<Item = Result<Bytes, Infallible>> {
    let Following {
        recent,
        live,
        permit,
    } = following;
    // Without this empty line, the head of the response would not be sent before the first event.
    let begin = stream::iter([Bytes::from_static(b"\n")]);
    let recent = stream::iter(recent).map(|event| line(&event));
    let live = stream::unfold((live, permit), |(mut live, permit)| async move {
        let line = next(&mut live).await?;
        Some((line, (live, permit)))
    });
    begin.chain(recent).chain(live).map(Ok)
}

async fn next(live: &mut Receiver<Arc<EventView>>) -> Option<Bytes> {
    match live.recv().await {
        Ok(event) => Some(line(&event)),
        Err(RecvError::Lagged(count)) => Some(line(&missed(count))),
        Err(RecvError::Closed) => None,
    }
}

fn missed(count: u64) -> EventView {
    EventView {
        id: 0,
        at: Utc::now(),
        kind: EventKind::Missed,
        scope: None,
        key: None,
        client: None,
        client_port: None,
        reason: None,
        action: None,
        count,
        message: Some(format!(
            "{} missed, because the client did not read fast enough",
            plain::counted(count, "event")
        )),
    }
}

fn line(event: &EventView) -> Bytes {
    // An event consists of strings and numbers, so its serialization cannot fail.
    let mut line = serde_json::to_vec(event).unwrap_or_default();
    line.push(b'\n');
    line.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::events::log::EventLog;

    #[tokio::test]
    async fn past_live_and_missed_events_are_lines_of_one_stream() {
        let log = EventLog::default();
        log.add_message("before");
        let lines = lines(log.follow(usize::MAX, 0).unwrap());
        // The stream is read only after all these events, which are more than the log keeps for a
        // slow reader.
        for number in 0..3000 {
            log.add_message(number.to_string());
        }
        log.close();
        let text: Vec<Bytes> = lines.map(|line| line.unwrap()).collect().await;
        let text = text.concat();
        let events: Vec<EventView> = text
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect();
        assert_eq!(events[0].message.as_deref(), Some("before"));
        assert_eq!(events[1].kind, EventKind::Missed);
        let read = events.len() as u64 - 2;
        assert_eq!(events[1].count + read, 3000);
        assert_eq!(events.last().unwrap().message.as_deref(), Some("2999"));
    }
}
