// SPDX-License-Identifier: MIT OR Apache-2.0

//! The usage of past days, compared with another daily quota.

use limiter_common::day::Day;
use rusqlite::params;

use super::{
    Store, StoreError,
    usage::{signed, unsigned},
};

/// The scopes whose usage is compared.
#[derive(Debug, Clone, Copy)]
pub enum TrialScopes<'a> {
    /// The scope with this name.
    Scope(&'a str),
    /// All scopes of this tier that have no daily quota of their own.
    Tier(&'a str),
}

/// The usage of a scope on some days, compared with a daily quota.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrialRow {
    /// The name of the scope.
    pub scope: String,
    /// The number of days with usage.
    pub days: u64,
    /// The number of days on which more requests were sent than the quota.
    pub days_over: u64,
    /// The number of requests beyond the quota on these days.
    pub over: u64,
    /// The number of requests that were refused because of the daily quota at the time.
    pub refused: u64,
    /// The day with the most requests, and their number.
    pub most: (Day, u64),
}

impl Store {
    /// Compares the requests that were sent on each day from `first` to `last` with a daily quota.
    /// These are the requests that were charged, in a fleet by all hosts, and those that this host
    /// has refused because of the daily quota, but not those that are counted only because a crash
    /// lost the exact count. `None` is no quota. Returns the scopes with usage on
    /// these days, those with the most requests beyond the quota first.
    ///
    /// # Errors
    /// Returns an error if SQLite fails or the store is damaged.
    pub fn tried(
        &self,
        scopes: TrialScopes<'_>,
        (first, last): (Day, Day),
        quota: Option<u64>,
    ) -> Result<Vec<TrialRow>, StoreError> {
        let (name, tier) = match scopes {
            TrialScopes::Scope(name) => (Some(name), None),
            TrialScopes::Tier(tier) => (None, Some(tier)),
        };
        // A column without an aggregate function has its value from the row with the maximum
        // (<https://www.sqlite.org/lang_select.html#bareagg>).
        self.query(
            "WITH chosen AS (
                SELECT name FROM scopes WHERE name = ?1
                UNION ALL
                SELECT name FROM scopes WHERE tier = ?2 AND NOT EXISTS
                    (SELECT 1 FROM overrides
                     WHERE overrides.scope = scopes.id AND overrides.name = 'daily_quota')
             ), both AS (
                SELECT scope, day, used - lost + refused_daily_quota AS sent,
                       refused_daily_quota AS refused
                FROM usage JOIN chosen ON chosen.name = usage.scope WHERE day BETWEEN ?3 AND ?4
                UNION ALL
                SELECT fleet_usage.scope, fleet_usage.day,
                       fleet_usage.used + coalesce(usage.refused_daily_quota, 0), 0
                FROM fleet_usage JOIN chosen ON chosen.name = fleet_usage.scope
                LEFT JOIN usage USING (scope, day) WHERE fleet_usage.day BETWEEN ?3 AND ?4
             ), days AS (
                SELECT scope, day, max(sent) AS sent, sum(refused) AS refused
                FROM both GROUP BY scope, day
             )
             SELECT scope, count(*), sum(sent > ?5), sum(max(sent - ?5, 0)) AS over, sum(refused),
                    day, max(sent)
             FROM days GROUP BY scope ORDER BY over DESC, max(sent) DESC, scope",
            params![name, tier, first.0, last.0, quota.map_or(i64::MAX, signed)],
            |row| {
                Ok(TrialRow {
                    scope: row.get(0)?,
                    days: unsigned(row, 1)?,
                    days_over: unsigned(row, 2)?,
                    over: unsigned(row, 3)?,
                    refused: unsigned(row, 4)?,
                    most: (Day(row.get(5)?), unsigned(row, 6)?),
                })
            },
        )
    }
}
