//! `limiter usage --json`, held to the names and kinds of the contract.

use serde_json::Value;

/// Requests refused, or that would have been, by the limit that said so.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    pub rate: u64,
    pub concurrency: u64,
    pub connections: u64,
    pub daily_quota: u64,
}

/// One scope's day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    pub scope: String,
    pub tier: String,
    pub day: String,
    pub used: u64,
    pub lost: u64,
    /// `None`: unlimited.
    pub daily_quota: Option<u64>,
    pub remaining: Option<u64>,
    pub in_flight: u64,
    pub connections: u64,
    pub refused: Refused,
    pub would_refuse: Refused,
    pub resets_at: String,
}

impl Usage {
    /// # Panics
    /// When a field is missing or of another kind than the contract says.
    #[track_caller]
    pub fn parse(json: &Value) -> Self {
        Self {
            scope: text(json, "scope"),
            tier: text(json, "tier"),
            day: text(json, "day"),
            used: number(json, "used"),
            lost: number(json, "lost"),
            daily_quota: limit(json, "daily_quota"),
            remaining: limit(json, "remaining"),
            in_flight: number(json, "in_flight"),
            connections: number(json, "connections"),
            refused: Refused::parse(&json["refused"]),
            would_refuse: Refused::parse(&json["would_refuse"]),
            resets_at: text(json, "resets_at"),
        }
    }
}

impl Refused {
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

/// A limit, which is there in any case: `null` where it is unlimited.
#[track_caller]
fn limit(json: &Value, name: &str) -> Option<u64> {
    match json.get(name) {
        Some(Value::Null) => None,
        Some(_) => Some(number(json, name)),
        None => panic!("no {name} in {json}"),
    }
}
