// SPDX-License-Identifier: MIT OR Apache-2.0

//! The responses of `limiter explain` and `limiter top`.

use std::cmp::Ordering;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    domain::{refusals::Refusals, scope::ScopeName},
    protocol::{
        fields,
        overrides::OverrideView,
        schema,
        views::{KeyView, optional_time, time},
    },
};

/// The verdict on a request that would arrive now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The request would be admitted.
    Passes,
    /// The request would be admitted, but counted as one that would be refused if limits were
    /// enforced.
    Observed,
    /// The request would be refused.
    Refused,
    /// The request would be held back until the store has allowed more requests, and then be
    /// admitted.
    Held,
}

/// `explain`: the verdict on a request that would arrive now, and the reason for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExplainView {
    /// The scope; `null` if it no longer exists.
    pub scope: Option<ScopeName>,
    /// The key, if the request to the daemon named one.
    pub key: Option<KeyView>,
    /// The time of the verdict.
    #[serde(serialize_with = "time")]
    pub at: DateTime<Utc>,
    /// The verdict on a request that arrives on a new connection.
    pub verdict: Verdict,
    /// The reason for a refusal: the first limit that the request would exceed, in the order in
    /// which limits are checked, or another reason.
    pub reason: Option<String>,
    /// The status code of the refusal.
    pub status: Option<u16>,
    /// The time since which requests have been refused; `null` if it is not known. For a rate and
    /// for a key, it is exact. For other reasons, it is accurate to a second.
    #[serde(serialize_with = "optional_time")]
    pub since: Option<DateTime<Utc>>,
    /// The time until which requests are refused if nothing else changes; `null` if the passage of
    /// time alone changes nothing.
    #[serde(serialize_with = "optional_time")]
    pub until: Option<DateTime<Utc>>,
    /// The scope's tier.
    pub tier: Option<String>,
    /// The mode in force, `enforce` or `observe`.
    pub mode: Option<String>,
    /// The origin of the mode: `scope`, `tier` or `policy`.
    pub mode_from: Option<String>,
    /// The scope's override.
    #[serde(rename = "override")]
    pub limits_override: Option<OverrideView>,
    /// The limits, in the order in which they are checked.
    pub limits: Vec<LimitView>,
    /// Other relevant facts.
    pub notes: Vec<String>,
}

/// The present state of one limit of a scope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LimitView {
    /// The name of the limit: `daily_quota`, `connections`, `concurrency` or `rate`.
    pub limit: String,
    /// The value of the limit: a number, or the text of a rate; `null` for unlimited.
    pub value: serde_json::Value,
    /// The origin of the value: `tier` or `override`.
    pub from: String,
    /// The part of the limit that is used; `null` for a rate.
    pub used: Option<u64>,
    /// Whether a request would exceed the limit.
    pub reached: bool,
    /// The time since which the limit has been reached.
    #[serde(serialize_with = "optional_time")]
    pub since: Option<DateTime<Utc>>,
    /// The time until which the limit stays reached.
    #[serde(serialize_with = "optional_time")]
    pub until: Option<DateTime<Utc>>,
}

/// The column by which scopes are ranked. Scopes with the greatest values come first. If the column
/// is the name, the order is alphabetical.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum TopColumn {
    /// Name
    Scope,
    /// Requests admitted per second
    #[default]
    Rate,
    /// Requests refused per second
    RefusedRate,
    /// Requests charged today
    Used,
    /// Share of the daily quota that is used
    Quota,
    /// Requests in flight
    InFlight,
    /// Open connections
    Connections,
    /// Requests refused today
    Refused,
}

impl TopColumn {
    /// Compares two scopes by this column, and by name if their values are equal.
    pub fn rank<Name: Ord>(self, one: &TopRow<Name>, other: &TopRow<Name>) -> Ordering {
        let greatest = match self {
            Self::Scope => Ordering::Equal,
            Self::Rate => other.rate.total_cmp(&one.rate),
            Self::RefusedRate => other.refused_rate.total_cmp(&one.refused_rate),
            Self::Used => other.used.cmp(&one.used),
            Self::Quota => {
                // A scope without a quota comes after all scopes with a quota.
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

/// The query of `top`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TopQuery {
    /// The column by which scopes are ranked.
    #[serde(default)]
    pub by: TopColumn,
    /// The number of scopes to return. The default is 50, and the maximum is 1,000.
    #[serde(default, deserialize_with = "fields::limit")]
    #[schemars(schema_with = "schema::limit")]
    pub limit: Option<u32>,
    /// Only scopes whose names contain this text.
    #[serde(default)]
    pub filter: String,
}

/// `top`: the busiest scopes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TopView {
    /// The time of these figures.
    #[serde(serialize_with = "time")]
    pub at: DateTime<Utc>,
    /// The number of scopes.
    pub scopes: u64,
    /// The number of scopes whose names match the filter.
    pub matching: u64,
    /// The number of requests of all matching scopes that are admitted per second.
    pub rate: f64,
    /// The number of requests of all matching scopes that are refused per second.
    pub refused_rate: f64,
    /// The number of requests of all matching scopes that are in flight.
    pub in_flight: u64,
    /// The first scopes in the ranking.
    pub top: Vec<TopRow>,
}

/// One scope of `top`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TopRow<Name = ScopeName> {
    /// The scope.
    pub scope: Name,
    /// The number of requests admitted per second, as of the last measurement.
    pub rate: f64,
    /// The number of requests refused per second, as of the last measurement.
    pub refused_rate: f64,
    /// The number of requests charged today.
    pub used: u64,
    /// The number of requests that all hosts of the fleet have charged today, as far as this host
    /// knows; `null` if the scope does not share its quota. The counts of the other hosts are those
    /// of the engine's last answer about the scope.
    #[serde(default)]
    pub fleet_used: Option<u64>,
    /// The daily quota in force.
    pub daily_quota: Option<u64>,
    /// The number of requests in flight now.
    pub in_flight: u64,
    /// The number of open connections now.
    pub connections: u64,
    /// The number of requests refused today, by reason.
    pub refused: Refusals,
}

impl<Name> TopRow<Name> {
    /// Returns the used share of the quota, where 1 means all of it, or `None` without a quota.
    pub fn quota_share(&self) -> Option<f64> {
        self.daily_quota.map(|quota| match quota {
            0 => 1.0,
            quota => self.fleet_used.unwrap_or(self.used) as f64 / quota as f64,
        })
    }
}
