//! Usage of past days: what is on record of one, and for how long.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Days, NaiveDate, Utc};
use limiter_common::day::Day;

use super::engine::{Engine, day_of};
use crate::{
    api::{ApiError, UsageView},
    scope::ScopeName,
    store::{DayUsage, date_of},
};

impl Engine {
    /// Removes the usage of days that are kept no longer; once a day, and at the start.
    ///
    /// # Errors
    /// The store's.
    pub(super) fn forget_old_days(&mut self, now: DateTime<Utc>) -> Result<(), ApiError> {
        let (today, keep) = (day_of(now), self.config.history.keep);
        if self.history_kept == Some((today, keep)) {
            return Ok(());
        }
        let removed = self
            .store
            .lightly(|store| store.remove_usage_beyond(today, keep.0))?;
        self.history_kept = Some((today, keep));
        if removed > 0 {
            log::info!("history: {removed} days of scopes removed, older than {keep}");
        }
        Ok(())
    }

    /// Complains about a day that is kept no longer.
    pub(super) fn check_kept(&self, date: NaiveDate, today: NaiveDate) -> Result<(), ApiError> {
        let keep = self.config.history.keep;
        let oldest = today.checked_sub_days(Days::new(keep.0.into()));
        match oldest.filter(|oldest| date < *oldest) {
            None => Ok(()),
            Some(oldest) => Err(ApiError::not_found(format!(
                "the usage of {date} is not kept any more: the oldest day is {oldest} (`history.keep = \"{keep}\"`)"
            ))),
        }
    }

    /// A past day of all scopes: of those that were there and are, and of those that have been
    /// removed since and are on record.
    pub(super) fn usage_on(&self, day: Day) -> Result<Vec<UsageView>, ApiError> {
        let rows: BTreeMap<String, DayUsage> = self.store.usage_on(day)?.into_iter().collect();
        let there = self
            .scopes
            .values()
            .filter(|scope| day_of(scope.record.created_at) <= day)
            .map(|scope| scope.record.name.clone());
        // A name that is no scope's would be another program's.
        let on_record = rows.keys().filter_map(|name| name.parse().ok());
        let names: BTreeSet<ScopeName> = there.chain(on_record).collect();
        Ok(names
            .into_iter()
            .map(|name| {
                let usage = rows.get(name.as_str()).copied().unwrap_or_default();
                self.past_view(name, day, &usage)
            })
            .collect())
    }

    /// A past day of one scope, which may have been removed since.
    pub(super) fn past_usage_of(&self, name: &ScopeName, day: Day) -> Result<UsageView, ApiError> {
        let row = self.store.usage_of(name.as_str(), day)?;
        if row.is_none() {
            self.scope(name).map_err(|error| {
                let date = date_of(day).unwrap_or(NaiveDate::MAX);
                ApiError::not_found(format!(
                    "{}; nor is there a removed one of that name with usage on {date}",
                    error.message
                ))
            })?;
        }
        Ok(self.past_view(name.clone(), day, &row.unwrap_or_default()))
    }

    /// Tier and limits are those of now: what they were then is in the audit trail.
    fn past_view(&self, name: ScopeName, day: Day, usage: &DayUsage) -> UsageView {
        let scope = self.scopes.get(&name);
        let quota = scope.and_then(|scope| scope.limits.daily_quota);
        UsageView {
            scope: name,
            tier: scope.map(|scope| scope.record.tier.clone()),
            removed: scope.is_none(),
            day: date_of(day).unwrap_or(NaiveDate::MAX),
            used: usage.used,
            lost: usage.lost,
            daily_quota: quota,
            remaining: quota.map(|quota| quota.saturating_sub(usage.used)),
            rate: scope.and_then(|scope| scope.limits.rate),
            in_flight: None,
            connections: None,
            refused: usage.refused,
            would_refuse: usage.would_refuse,
            resets_at: end_of(day),
        }
    }
}

/// The midnight that ends a day.
pub(super) fn end_of(day: Day) -> DateTime<Utc> {
    date_of(Day(day.0.saturating_add(1)))
        .unwrap_or(NaiveDate::MAX)
        .and_time(chrono::NaiveTime::MIN)
        .and_utc()
}
