// SPDX-License-Identifier: MIT OR Apache-2.0

//! Another daily quota, tried with the usage of past days.

use chrono::{DateTime, NaiveDate, Utc};
use limiter_common::day::Day;

use crate::{
    domain::scope::ScopeName,
    engine::{state::Engine, time::day_of},
    protocol::{
        error::ApiError,
        trial::{TrialView, TriedScope},
    },
    store::{TrialScopes, date_of},
};

/// The number of days if a request names none.
const DAYS: u32 = 7;

/// A daily quota to try.
#[derive(Debug, Clone)]
pub(crate) struct Trial {
    /// One scope, instead of all scopes of a tier.
    pub(crate) scope: Option<ScopeName>,
    /// A tier, whose daily quota is tried if `daily_quota` is `None`.
    pub(crate) tier: Option<String>,
    /// The daily quota. `Some(None)` is no quota.
    pub(crate) daily_quota: Option<Option<u64>>,
    /// The number of days before today.
    pub(crate) days: Option<u32>,
}

impl Engine {
    /// Returns the scopes of which requests would have been refused on past days with another daily
    /// quota: one scope, or all scopes of a tier that have no daily quota of their own.
    ///
    /// # Errors
    /// Returns an error if there is no such scope or tier, if the request does not name a quota, or
    /// if the days are more than the history has.
    pub(crate) fn try_quota(
        &self,
        trial: Trial,
        now: DateTime<Utc>,
    ) -> Result<TrialView, ApiError> {
        let keep = self.setup.config().history.keep;
        let days = trial.days.unwrap_or(DAYS.min(keep.0));
        if days == 0 || days > keep.0 {
            return Err(ApiError::invalid(format!(
                "`days` must be from 1 to {}, because the history is kept for that long \
                 (`history.keep = \"{keep}\"`)",
                keep.0
            )));
        }
        let tier = trial.tier.as_deref();
        let of_tier = tier.map(|tier| self.setup.tier(tier)).transpose()?;
        let quota = match (trial.daily_quota, of_tier) {
            (Some(quota), _) => quota,
            (None, Some(tier)) => tier.limits.daily_quota,
            (None, None) => {
                return Err(ApiError::invalid(
                    "name the daily quota to try, or a tier whose quota is tried",
                ));
            }
        };
        let scopes = match (&trial.scope, tier) {
            (Some(name), _) => TrialScopes::Scope(self.scopes.find(name)?.record.name.as_str()),
            (None, Some(tier)) => TrialScopes::Tier(tier),
            (None, None) => return Err(ApiError::invalid("name a scope or a tier")),
        };
        let today = day_of(now);
        let (first, last) = (today.0.saturating_sub(days), today.0.saturating_sub(1));
        let rows = self.store.tried(scopes, (Day(first), Day(last)), quota)?;
        let date = |day| date_of(day).unwrap_or(NaiveDate::MAX);
        let over = rows.iter().filter(|row| row.days_over > 0);
        Ok(TrialView {
            daily_quota: quota,
            from: date(Day(first)),
            to: date(Day(last)),
            scopes_tried: rows.len() as u64,
            scopes: over
                .filter_map(|row| {
                    Some(TriedScope {
                        // The limiter never writes an invalid name.
                        scope: row.scope.parse().ok()?,
                        days: row.days,
                        days_over: row.days_over,
                        would_refuse: row.over,
                        refused: row.refused,
                        most: row.most.1,
                        most_on: date(row.most.0),
                    })
                })
                .collect(),
        })
    }
}
