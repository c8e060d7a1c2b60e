// SPDX-License-Identifier: MIT OR Apache-2.0

//! `limiter events`, which prints the latest events or follows new ones.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use anyhow::Context as _;
use http_body_util::BodyExt as _;
use hyper::{Method, Response, body::Incoming};

use super::{
    client::{Client, empty, shown},
    exit::Failure,
    render::{json, lines},
    terminal::{BAD, CHANGED, GOOD, NOTABLE, paint},
};
use crate::{
    domain::plain::escaped_json,
    protocol::{
        events::{EventKind, EventView},
        views::rfc3339,
    },
};

/// The time between two attempts to reconnect to a daemon.
const RECONNECT_INTERVAL: Duration = Duration::from_millis(500);

/// Prints the latest events.
pub(super) fn recent(events: &[EventView], as_json: bool) -> Result<(), Failure> {
    if as_json {
        return json(&events);
    }
    if events.is_empty() {
        return lines(&[
            "there are no events since the daemon started: use --follow to wait for new ones"
                .to_owned(),
        ]);
    }
    let text: Vec<String> = events.iter().map(line).collect();
    lines(&text)
}

/// Returns an event as a line of text.
fn line(event: &EventView) -> String {
    let at = rfc3339(&event.at);
    let style = match event.kind {
        EventKind::Refused | EventKind::Missed => NOTABLE,
        EventKind::Health => BAD,
        EventKind::Change => CHANGED,
        EventKind::Daemon => GOOD,
    };
    let kind = paint(style, &format!("{:<8}", event.kind.as_str()));
    let what = match (&event.message, event.kind) {
        (Some(message), _) => message.clone(),
        (None, _) => refused(event),
    };
    format!("{at:<24}  {kind}  {what}")
}

fn refused(event: &EventView) -> String {
    let scope = event.scope.as_ref().map_or("-", |scope| scope.as_str());
    let key = event.key.as_deref().unwrap_or("-");
    let reason = event.reason.as_deref().unwrap_or("-");
    let client = match event.client {
        Some(client) => client.to_string(),
        None => "others".to_owned(),
    };
    format!(
        "{scope}  {reason}  key {key}  from {client}  {}",
        times(event.count)
    )
}

fn times(count: u64) -> String {
    match count {
        1 => "once".to_owned(),
        count => format!("{count} times"),
    }
}

/// The reason why the stream of events ends.
enum End {
    /// The daemon has stopped.
    Daemon,
    /// The reader of standard output has closed it.
    Reader,
}

/// A reader of the stream of events.
struct Follower {
    as_json: bool,
    /// The number of the last event that was read.
    last: u64,
    limit: u32,
}

/// Prints the last `limit` events, and then each new event until the command is interrupted. If the
/// daemon stops, the command waits for the next daemon. If no daemon is running at first, the
/// command fails.
pub(super) fn follow(client: &Client, limit: u32, as_json: bool) -> Result<(), Failure> {
    let mut follower = Follower {
        as_json,
        last: 0,
        limit,
    };
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(follower.run(client))
}

impl Follower {
    async fn run(&mut self, client: &Client) -> Result<(), Failure> {
        let mut stream = self.open(client).await?;
        loop {
            if matches!(self.print(stream).await?, End::Reader) {
                return Ok(());
            }
            note("the daemon has stopped: waiting for the next one");
            stream = loop {
                tokio::time::sleep(RECONNECT_INTERVAL).await;
                match self.open(client).await {
                    Ok(stream) => break stream,
                    Err(Failure::Unreachable(_)) => {}
                    Err(failure) => return Err(failure),
                }
            };
            note("connected to a daemon again: `limiter usage` includes the refusals in between");
        }
    }

    async fn open(&mut self, client: &Client) -> Result<Response<Incoming>, Failure> {
        let path = format!(
            "/v1/events?follow=true&limit={}&after={}",
            self.limit, self.last
        );
        let answer = client
            .begin(Method::GET, &path, "application/json", empty())
            .await;
        let response = match answer {
            Ok((response, _running)) => response,
            // The daemon stopped during the request.
            Err(failure) if failure.is_hang_up() => {
                return Err(Failure::Unreachable("the daemon has stopped".to_owned()));
            }
            Err(failure) => return Err(failure),
        };
        if response.status().is_success() {
            // After a reconnection, the command requests all missed events that the daemon still
            // has. The daemon keeps at most 1,000 events.
            self.limit = 1000;
            return Ok(response);
        }
        let status = response.status();
        let body = response.into_body().collect().await;
        let body = body.context("the daemon closed the connection")?.to_bytes();
        client.read::<serde_json::Value>(status, &body)?;
        Err(Failure::failed(
            "the response of the daemon cannot be parsed",
        ))
    }

    async fn print(&mut self, response: Response<Incoming>) -> Result<End, Failure> {
        let mut body = response.into_body();
        let mut pending = Vec::new();
        while let Some(Ok(frame)) = body.frame().await {
            let Ok(data) = frame.into_data() else {
                continue;
            };
            pending.extend_from_slice(&data);
            let Some(end) = pending.iter().rposition(|byte| *byte == b'\n') else {
                continue;
            };
            let rest = pending.split_off(end + 1);
            let text = self.text(&pending)?;
            pending = rest;
            let mut out = anstream::stdout().lock();
            match out.write_all(&text).and_then(|()| out.flush()) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(End::Reader),
                Err(error) => {
                    let error = anyhow::Error::from(error);
                    return Err(error.context("cannot write to standard output").into());
                }
            }
        }
        Ok(End::Daemon)
    }

    /// Returns the text to print for complete lines of the stream.
    fn text(&mut self, bytes: &[u8]) -> Result<Vec<u8>, Failure> {
        let mut text = Vec::new();
        for bytes in bytes.split(|byte| *byte == b'\n') {
            if bytes.is_empty() {
                continue;
            }
            let event: EventView = if self.as_json {
                serde_json::from_slice(bytes)
            } else {
                shown(bytes)
            }
            .context("an event cannot be parsed: use a command and a daemon of the same version")?;
            self.last = self.last.max(event.id);
            if self.as_json {
                let json = String::from_utf8_lossy(bytes);
                text.extend_from_slice(escaped_json(&json).as_bytes());
            } else {
                text.extend_from_slice(line(&event).as_bytes());
            }
            text.push(b'\n');
        }
        Ok(text)
    }
}

/// Prints a message on standard error, separate from the events.
fn note(text: &str) {
    eprintln!("limiter: {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(text: &str) -> EventView {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_line_says_whose_request_was_refused_and_why() {
        let refused = r#"{"id": 1, "at": "2026-11-24T12:00:00Z", "kind": "refused", "scope": "acme/web",
            "key": "k_7m3k9p2rtx", "client": "10.0.0.2", "client_port": 9, "reason": "rate",
            "action": null, "count": 7, "message": null}"#;
        assert_eq!(
            anstream::adapter::strip_str(&line(&event(refused))).to_string(),
            "2026-11-24T12:00:00Z      refused   acme/web  rate  key k_7m3k9p2rtx  from 10.0.0.2  7 times"
        );
        let others = EventView {
            client: None,
            key: None,
            ..event(refused)
        };
        assert!(line(&others).ends_with("key -  from others  7 times"));
        assert!(line(&others).contains("\x1b[33mrefused \x1b[0m"));
    }

    #[test]
    fn events_are_read_across_empty_lines() {
        let mut follower = Follower {
            as_json: true,
            last: 0,
            limit: 5,
        };
        let line = r#"{"id":8,"at":"2026-11-24T12:00:00Z","kind":"daemon","scope":null,"key":null,"client":null,"client_port":null,"reason":null,"action":null,"count":1,"message":"x"}"#;
        let text = follower
            .text(format!("\n{line}\n\n{line}\n").as_bytes())
            .unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            format!("{line}\n{line}\n")
        );
        assert_eq!(follower.last, 8);
        assert!(follower.text(b"{}\n").is_err());
    }
}
