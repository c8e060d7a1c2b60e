//! `limiter events`: what happened, and its stream.

use std::{convert::Infallible, net::IpAddr, sync::Arc};

use axum::{
    Extension, Json,
    body::{Body, Bytes},
    extract::State,
    http::header::CONTENT_TYPE,
    response::{IntoResponse as _, Response},
};
use chrono::{DateTime, Utc};
use futures_util::{Stream, StreamExt as _, stream};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::{
    ApiError,
    body::Endless,
    routes::{App, Asked},
    time,
};
use crate::{daemon::Following, scope::ScopeName};

/// The type of a stream of JSON objects, one a line.
const NDJSON: &str = "application/x-ndjson";

/// What kind of event it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// Requests were refused.
    Refused,
    /// Somebody changed something, or its time had come.
    Change,
    /// The daemon itself: it began, it attached, it ends.
    Daemon,
    /// A part of the daemon does not work, or works again.
    Health,
    /// Who follows did not read fast enough, and has missed `count` events.
    Missed,
}

impl EventKind {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Change => "change",
            Self::Daemon => "daemon",
            Self::Health => "health",
            Self::Missed => "missed",
        }
    }
}

/// An event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EventView {
    /// Its number: a later event has a greater one, of a later daemon too.
    pub id: u64,
    /// When; of refusals, when the first of them was.
    #[serde(serialize_with = "time")]
    pub at: DateTime<Utc>,
    /// What kind.
    pub kind: EventKind,
    /// The scope that it is about.
    pub scope: Option<ScopeName>,
    /// The id of the key.
    pub key: Option<String>,
    /// Refusals: the client; `null` on the line that counts those that no other line does.
    pub client: Option<IpAddr>,
    /// Refusals: the client's port, of the last of them.
    pub client_port: Option<u16>,
    /// Refusals: the limit, or what else was the reason.
    pub reason: Option<String>,
    /// Changes: what was done, as in the audit trail.
    pub action: Option<String>,
    /// How many there were.
    pub count: u64,
    /// In words.
    pub message: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsQuery {
    /// Go on with what happens from now on.
    #[serde(default)]
    follow: bool,
    /// Most events of the past.
    limit: Option<u32>,
    /// Only those with a greater number.
    #[serde(default)]
    after: u64,
}

/// The latest events, as an array; or, followed, as a stream of objects that ends with the daemon.
pub(super) async fn events(State(shared): App, Asked(query): Asked<EventsQuery>) -> Response {
    let limit = query.limit.map_or(usize::MAX, |limit| limit as usize);
    let log = shared.events();
    if !query.follow {
        let recent = log.recent(limit, query.after);
        let events: Vec<&EventView> = recent.iter().map(Arc::as_ref).collect();
        return Json(events).into_response();
    }
    let Some(following) = log.follow(limit, query.after) else {
        return ApiError::failed("the daemon is about to stop, or too many follow its events")
            .into_response();
    };
    let body = Body::from_stream(lines(following));
    ([(CONTENT_TYPE, NDJSON)], Extension(Endless), body).into_response()
}

/// The events as lines. They are made as the other end reads them: one that does not holds up nobody.
fn lines(following: Following) -> impl Stream<Item = Result<Bytes, Infallible>> {
    let Following {
        recent,
        live,
        place,
    } = following;
    // Not to wait for the first event says that there is someone.
    let begin = stream::iter([Bytes::from_static(b"\n")]);
    let recent = stream::iter(recent).map(|event| line(&event));
    let live = stream::unfold((live, place), |(mut live, place)| async move {
        let line = next(&mut live).await?;
        Some((line, (live, place)))
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
        message: Some(format!("{count} events went by unread: read faster")),
    }
}

fn line(event: &EventView) -> Bytes {
    // Texts and numbers alone: it can be written.
    let mut line = serde_json::to_vec(event).unwrap_or_default();
    line.push(b'\n');
    line.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::EventLog;

    #[tokio::test]
    async fn the_past_the_present_and_what_was_missed_are_lines_of_one_stream() {
        let log = EventLog::default();
        log.say("before");
        let lines = lines(log.follow(usize::MAX, 0).unwrap());
        // Nobody reads while more happens than is kept for one who is slow.
        for number in 0..3000 {
            log.say(number.to_string());
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
