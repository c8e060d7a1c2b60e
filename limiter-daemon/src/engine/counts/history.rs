// SPDX-License-Identifier: MIT OR Apache-2.0

//! The usage of past days.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Days, NaiveDate, NaiveTime, Utc};
use limiter_common::day::Day;

use crate::{
    config,
    domain::scope::ScopeName,
    engine::{scopes::registry::Scopes, time::day_of},
    protocol::{error::ApiError, views::UsageView},
    store::{DayUsage, Store, StoreError, date_of},
};

/// Returns the day of `date`, or `None` if `date` is `None` or today.
///
/// # Errors
/// Returns an error if the day has not begun or its usage is no longer kept.
pub(crate) fn past_day(
    date: Option<NaiveDate>,
    keep: config::Days,
    now: DateTime<Utc>,
) -> Result<Option<Day>, ApiError> {
    let Some(date) = date else { return Ok(None) };
    let today = now.date_naive();
    if date > today {
        return Err(ApiError::invalid(format!(
            "{date} has not begun: today is {today} (UTC)"
        )));
    }
    if date == today {
        return Ok(None);
    }
    let oldest = today.checked_sub_days(Days::new(keep.0.into()));
    if let Some(oldest) = oldest.filter(|oldest| date < *oldest) {
        return Err(ApiError::not_found(format!(
            "the usage of {date} is no longer kept: the oldest day is {oldest} (`history.keep = \"{keep}\"`)"
        )));
    }
    let midnight = date.and_time(NaiveTime::MIN).and_utc();
    Ok(Some(day_of(midnight)))
}

/// Returns the usage of all scopes on a past day. The result includes the present scopes that
/// existed on that day, and the removed scopes for which the store has a record of that day.
pub(crate) fn usage_on(
    day: Day,
    store: &Store,
    scopes: &Scopes,
) -> Result<Vec<UsageView>, StoreError> {
    let rows: BTreeMap<String, DayUsage> = store.usage_on(day)?.into_iter().collect();
    let present = scopes
        .iter()
        .filter(|scope| day_of(scope.record.created_at) <= day)
        .map(|scope| scope.record.name.clone());
    let of_fleet: BTreeMap<String, u64> = store.fleet_usage_on(day)?.into_iter().collect();
    // A row with an invalid scope name is ignored, since the limiter never writes such a row.
    let on_record = rows.keys().chain(of_fleet.keys());
    let on_record = on_record.filter_map(|name| name.parse().ok());
    let names: BTreeSet<ScopeName> = present.chain(on_record).collect();
    Ok(names
        .into_iter()
        .map(|name| {
            let usage = rows.get(name.as_str()).copied().unwrap_or_default();
            let of_fleet = of_fleet.get(name.as_str()).copied();
            past_view(name, day, (&usage, of_fleet), scopes)
        })
        .collect())
}

/// Returns the usage of one scope on a past day. The scope may have been removed since then.
///
/// # Errors
/// Returns an error if no scope is named `name` and the store has no record of a scope with this
/// name on that day.
pub(crate) fn usage_of(
    name: &ScopeName,
    day: Day,
    store: &Store,
    scopes: &Scopes,
) -> Result<UsageView, ApiError> {
    let row = store.usage_of(name.as_str(), day)?;
    let of_fleet = store.fleet_usage_of(name.as_str(), day)?;
    if row.is_none() && of_fleet.is_none() {
        scopes.find(name).map_err(|error| {
            let date = date_of(day).unwrap_or(NaiveDate::MAX);
            ApiError::not_found(format!(
                "{}; no removed scope of that name has usage on {date} either",
                error.message
            ))
        })?;
    }
    let usage = row.unwrap_or_default();
    Ok(past_view(name.clone(), day, (&usage, of_fleet), scopes))
}

/// Returns the view of a past day. `of_fleet` is the number of requests that all hosts of a fleet
/// have admitted, if it is known. The tier and the limits in the view are those of today. The tier
/// and the limits that applied on that day can be found in the audit trail.
fn past_view(
    name: ScopeName,
    day: Day,
    (usage, of_fleet): (&DayUsage, Option<u64>),
    scopes: &Scopes,
) -> UsageView {
    let used = of_fleet.map_or(usage.used, |of_fleet| of_fleet.max(usage.used));
    let scope = scopes.get(&name);
    let quota = scope.and_then(|scope| scope.limits.daily_quota);
    UsageView {
        scope: name,
        tier: scope.map(|scope| scope.record.tier.clone()),
        removed: scope.is_none(),
        day: date_of(day).unwrap_or(NaiveDate::MAX),
        used,
        host_used: of_fleet.map(|_| usage.used),
        leased: None,
        lost: usage.lost,
        daily_quota: quota,
        remaining: quota.map(|quota| quota.saturating_sub(used)),
        rate: scope.and_then(|scope| scope.limits.rate),
        in_flight: None,
        connections: None,
        refused: usage.refused,
        would_refuse: usage.would_refuse,
        resets_at: end_of(day),
    }
}

/// Returns the midnight at the end of a day.
pub(crate) fn end_of(day: Day) -> DateTime<Utc> {
    date_of(Day(day.0.saturating_add(1)))
        .unwrap_or(NaiveDate::MAX)
        .and_time(NaiveTime::MIN)
        .and_utc()
}
