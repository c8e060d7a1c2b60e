// SPDX-License-Identifier: MIT OR Apache-2.0

//! The output of `limiter usage --json`. Parsing it also checks the names and types of its fields
//! against the contract.

use serde_json::Value;

/// The number of requests that each limit refused, or would have refused.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct RefusalCounts {
    pub rate: u64,
    pub concurrency: u64,
    pub connections: u64,
    pub daily_quota: u64,
}

/// The usage of one scope on one day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    pub scope: String,
    pub tier: String,
    pub day: String,
    /// The number of requests. In a fleet, it is the sum over all hosts.
    pub used: u64,
    /// This host's part of a sum over all hosts.
    pub host_used: Option<u64>,
    pub lost: u64,
    /// The daily quota; `None` means unlimited.
    pub daily_quota: Option<u64>,
    pub remaining: Option<u64>,
    pub in_flight: u64,
    pub connections: u64,
    pub refused: RefusalCounts,
    pub would_refuse: RefusalCounts,
    pub resets_at: String,
}

impl Usage {
    /// # Panics
    /// Panics if a field is missing or has a different type than the contract specifies.
    #[track_caller]
    pub fn parse(json: &Value) -> Self {
        Self {
            scope: text(json, "scope"),
            tier: text(json, "tier"),
            day: text(json, "day"),
            used: number(json, "used"),
            host_used: limit(json, "host_used"),
            lost: number(json, "lost"),
            daily_quota: limit(json, "daily_quota"),
            remaining: limit(json, "remaining"),
            in_flight: number(json, "in_flight"),
            connections: number(json, "connections"),
            refused: RefusalCounts::parse(&json["refused"]),
            would_refuse: RefusalCounts::parse(&json["would_refuse"]),
            resets_at: text(json, "resets_at"),
        }
    }
}

impl RefusalCounts {
    #[track_caller]
    fn parse(json: &Value) -> Self {
        Self {
            rate: number(json, "rate"),
            concurrency: number(json, "concurrency"),
            connections: number(json, "connections"),
            daily_quota: number(json, "daily_quota"),
        }
    }

    pub fn total(self) -> u64 {
        self.rate + self.concurrency + self.connections + self.daily_quota
    }
}

#[track_caller]
fn text(json: &Value, name: &str) -> String {
    json[name]
        .as_str()
        .unwrap_or_else(|| panic!("no text {name} in {json}"))
        .to_owned()
}

#[track_caller]
fn number(json: &Value, name: &str) -> u64 {
    json[name]
        .as_u64()
        .unwrap_or_else(|| panic!("no number {name} in {json}"))
}

/// Returns a limit, or `None` if the field is `null`, which means that there is no limit. The field
/// must be present.
#[track_caller]
fn limit(json: &Value, name: &str) -> Option<u64> {
    match json.get(name) {
        Some(Value::Null) => None,
        Some(_) => Some(number(json, name)),
        None => panic!("no {name} in {json}"),
    }
}
