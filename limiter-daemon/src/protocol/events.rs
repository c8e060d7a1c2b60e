// SPDX-License-Identifier: MIT OR Apache-2.0

//! Events, as `limiter events` prints them.

use crate::{domain::scope::ScopeName, protocol::views::time};
use std::net::IpAddr;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The kind of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// Requests were refused.
    Refused,
    /// An operator changed something, or an override reached its end.
    Change,
    /// The daemon started, attached its programs, or is about to stop.
    Daemon,
    /// A part of the daemon has failed, or works again.
    Health,
    /// The reader of the stream was too slow, and has missed `count` events.
    Missed,
}

impl EventKind {
    /// Returns the name of the kind in JSON.
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
    /// The number of the event. Later events have greater numbers, even after a restart of the
    /// daemon.
    pub id: u64,
    /// The time of the event. For refusals, it is the time of the first refusal.
    #[serde(serialize_with = "time")]
    pub at: DateTime<Utc>,
    /// The kind of the event.
    pub kind: EventKind,
    /// The scope that the event concerns.
    pub scope: Option<ScopeName>,
    /// The id of the key that the event concerns.
    pub key: Option<String>,
    /// The client whose requests were refused; `null` if the event sums up refusals for which there
    /// is no other event, and which may come from several clients.
    pub client: Option<IpAddr>,
    /// The port of the client at the last refusal.
    pub client_port: Option<u16>,
    /// The limit because of which the requests were refused, or another reason for the refusals.
    pub reason: Option<String>,
    /// The kind of change, as in the audit trail.
    pub action: Option<String>,
    /// The number of requests or of missed events; 1 for other events.
    pub count: u64,
    /// A text for people.
    pub message: Option<String>,
}
