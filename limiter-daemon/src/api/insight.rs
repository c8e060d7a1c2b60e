//! `limiter explain` and `limiter top`.

use std::cmp::Ordering;

use axum::{
    extract::State,
    response::{IntoResponse as _, Response},
};
use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    KeyView, OverrideView, optional_time,
    routes::{App, Asked, Part, answer},
    time,
};
use crate::{scope::ScopeName, store::Refusals};

/// What would become of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It would pass.
    Passes,
    /// It would pass, and be counted as one that enforcement would refuse.
    Observed,
    /// It would be refused.
    Refused,
    /// It would be held for the moments that the store takes to allow more, and pass then.
    Held,
}

/// `explain`: whether a request would pass now, and why not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExplainView {
    /// The scope; `null` if what was asked for is there no more.
    pub scope: Option<ScopeName>,
    /// The key, if it was asked for.
    pub key: Option<KeyView>,
    /// Now.
    #[serde(serialize_with = "time")]
    pub at: DateTime<Utc>,
    /// What would become of a request on a new connection.
    pub verdict: Verdict,
    /// What stands against it: the first limit, in the order in which they are looked at, or what else.
    pub reason: Option<String>,
    /// The status that it would be answered with.
    pub status: Option<u16>,
    /// Since when; `null` if nobody knows. To a second, but for a rate and a key.
    #[serde(serialize_with = "optional_time")]
    pub since: Option<DateTime<Utc>>,
    /// Until when, if nothing else changes; `null` if time alone does not change it.
    #[serde(serialize_with = "optional_time")]
    pub until: Option<DateTime<Utc>>,
    /// The scope's tier.
    pub tier: Option<String>,
    /// `enforce` or `observe`.
    pub mode: Option<String>,
    /// Where the mode comes from: `scope`, `tier` or `policy`.
    pub mode_from: Option<String>,
    /// What of the limits is the scope's own.
    #[serde(rename = "override")]
    pub own: Option<OverrideView>,
    /// The limits, in the order in which they are looked at.
    pub limits: Vec<LimitView>,
    /// What else one should know.
    pub notes: Vec<String>,
}

/// One limit of a scope, as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LimitView {
    /// `daily_quota`, `connections`, `concurrency` or `rate`.
    pub limit: String,
    /// What it is: a number, or a rate in words; `null` for unlimited.
    pub value: serde_json::Value,
    /// Where it comes from: `tier` or `override`.
    pub from: String,
    /// How much of it is used; `null` for a rate.
    pub used: Option<u64>,
    /// Whether it stands against a request.
    pub reached: bool,
    /// Since when.
    #[serde(serialize_with = "optional_time")]
    pub since: Option<DateTime<Utc>>,
    /// Until when.
    #[serde(serialize_with = "optional_time")]
    pub until: Option<DateTime<Utc>>,
}

pub(super) async fn explain(State(shared): App, Part(object): Part<String>) -> Response {
    answer(&shared, move |engine| engine.explain(&object))
        .await
        .into_response()
}

/// What scopes are ranked by: the greatest first, or names from A to Z.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum TopColumn {
    /// Name
    Scope,
    /// Requests admitted in a second
    #[default]
    Rate,
    /// Requests refused in a second
    RefusedRate,
    /// Requests charged today
    Used,
    /// How much of the daily quota that is
    Quota,
    /// Requests in flight
    InFlight,
    /// Open connections
    Connections,
    /// Requests refused today
    Refused,
}

impl TopColumn {
    /// Which of two scopes comes first; by name where they are the same.
    pub fn rank<Name: Ord>(self, one: &TopRow<Name>, other: &TopRow<Name>) -> Ordering {
        let greatest = match self {
            Self::Scope => Ordering::Equal,
            Self::Rate => other.rate.total_cmp(&one.rate),
            Self::RefusedRate => other.refused_rate.total_cmp(&one.refused_rate),
            Self::Used => other.used.cmp(&one.used),
            Self::Quota => {
                // No quota is less used up than any.
                let share = |row: &TopRow<Name>| row.quota_share().unwrap_or(-1.0);
                share(other).total_cmp(&share(one))
            }
            Self::InFlight => other.in_flight.cmp(&one.in_flight),
            Self::Connections => other.connections.cmp(&one.connections),
            Self::Refused => other.refused.total().cmp(&one.refused.total()),
        };
        greatest.then_with(|| one.scope.cmp(&other.scope))
    }
}

/// What is asked of `top`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopQuery {
    /// Ranked by.
    #[serde(default)]
    pub by: TopColumn,
    /// At most so many scopes.
    pub limit: Option<u32>,
    /// Only scopes with this in their names.
    #[serde(default)]
    pub filter: String,
}

/// `top`: the busiest scopes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TopView {
    /// Now.
    #[serde(serialize_with = "time")]
    pub at: DateTime<Utc>,
    /// Scopes that there are.
    pub scopes: u64,
    /// Scopes whose names fit the filter.
    pub matching: u64,
    /// All those together: requests admitted in a second.
    pub rate: f64,
    /// Requests refused in a second.
    pub refused_rate: f64,
    /// Requests in flight.
    pub in_flight: u64,
    /// The first of them.
    pub top: Vec<TopRow>,
}

/// A scope of `top`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TopRow<Name = ScopeName> {
    /// The scope.
    pub scope: Name,
    /// Requests admitted in a second, at the last look.
    pub rate: f64,
    /// Requests refused in a second.
    pub refused_rate: f64,
    /// Requests charged today.
    pub used: u64,
    /// The quota in force.
    pub daily_quota: Option<u64>,
    /// Requests in flight now.
    pub in_flight: u64,
    /// Connections now.
    pub connections: u64,
    /// Requests refused today.
    pub refused: Refusals,
}

impl<Name> TopRow<Name> {
    /// How much of the quota is used, 1 for all of it; `None` without one.
    pub fn quota_share(&self) -> Option<f64> {
        self.daily_quota.map(|quota| match quota {
            0 => 1.0,
            quota => self.used as f64 / quota as f64,
        })
    }
}

pub(super) async fn top(State(shared): App, Asked(query): Asked<TopQuery>) -> Response {
    answer(&shared, move |engine| Ok(engine.top(&query, Utc::now())))
        .await
        .into_response()
}
