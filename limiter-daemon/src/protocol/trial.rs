// SPDX-License-Identifier: MIT OR Apache-2.0

//! The response of `limits try`.

use chrono::NaiveDate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{fields, schema};
use crate::domain::{
    bound::{self, Bound},
    scope::ScopeName,
};

/// The query of `GET /v1/trial`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrialQuery {
    /// The scope. By default, all scopes of the tier that have no daily quota of their own.
    #[serde(default)]
    #[schemars(with = "ScopeName")]
    pub scope: Option<ScopeName>,
    /// The tier. Without `daily_quota`, its daily quota is tried.
    #[serde(default)]
    #[schemars(with = "String")]
    pub tier: Option<String>,
    /// The daily quota to try, or `unlimited`.
    #[serde(default, deserialize_with = "bound::daily_quota")]
    #[schemars(schema_with = "crate::domain::schema::daily_quota")]
    pub daily_quota: Option<Bound<u64>>,
    /// The number of days before today. The default is 7.
    #[serde(default, deserialize_with = "fields::limit")]
    #[schemars(schema_with = "schema::limit")]
    pub days: Option<u32>,
}

/// `limits try`: the requests of past days that another daily quota would have refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TrialView {
    /// The daily quota that was tried; `null` for unlimited.
    pub daily_quota: Option<u64>,
    /// The first day (UTC).
    pub from: NaiveDate,
    /// The last day, which is yesterday.
    pub to: NaiveDate,
    /// The number of scopes with usage on these days.
    pub scopes_tried: u64,
    /// The scopes that would have had requests refused, those with the most such requests first.
    pub scopes: Vec<TriedScope>,
}

/// A scope that would have had requests refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TriedScope {
    /// The scope.
    pub scope: ScopeName,
    /// The number of days with usage.
    pub days: u64,
    /// The number of days on which requests would have been refused.
    pub days_over: u64,
    /// The number of requests that would have been refused. Clients that send a refused request
    /// again and again make it larger.
    pub would_refuse: u64,
    /// The number of requests that were refused because of the daily quota at the time.
    pub refused: u64,
    /// The largest number of requests on one day, whether they were admitted or refused because of
    /// the daily quota.
    pub most: u64,
    /// That day.
    pub most_on: NaiveDate,
}
