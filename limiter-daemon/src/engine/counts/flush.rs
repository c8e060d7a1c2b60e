// SPDX-License-Identifier: MIT OR Apache-2.0

//! Reads the counters of scopes, and writes changed counts to the store.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use limiter_common::day::{Day, DayCount};

use super::day_counts::DayCounts;
use crate::{
    config::Accounting,
    domain::scope::ScopeName,
    engine::{
        scopes::registry::{Scope, Scopes},
        time::day_of,
    },
    kernel::Plane,
    store::{CounterReading, DayUsage, Store, StoreError},
};

/// The counts of one scope that have to be written.
pub(crate) struct Pending {
    /// The counts of the scope before its counters were read.
    before: DayCounts,
    /// The allowance to publish after the counts have been written, or `None` for a scope without a
    /// quota or on a day that has just begun.
    allowed: Option<DayCount>,
    id: u32,
    name: ScopeName,
    seen: CounterReading,
    day: Day,
    usage: DayUsage,
    closed: Option<(Day, DayUsage)>,
}

/// Reads the counters of all scopes.
pub(crate) fn read_all(
    scopes: &mut Scopes,
    plane: &dyn Plane,
    accounting: &Accounting,
    now: DateTime<Utc>,
) -> Vec<Pending> {
    scopes
        .iter_mut()
        .filter_map(|scope| read(scope, plane, accounting, now))
        .collect()
}

/// Reads the counters of the scopes with the ids in `ids`. Skips the ids of scopes that have just
/// been removed or that the daemon does not know yet.
pub(crate) fn read_some(
    ids: &HashSet<u32>,
    scopes: &mut Scopes,
    plane: &dyn Plane,
    accounting: &Accounting,
    now: DateTime<Utc>,
) -> Vec<Pending> {
    let mut pending = Vec::new();
    for id in ids {
        if let Some(scope) = scopes.by_id_mut(*id) {
            pending.extend(read(scope, plane, accounting, now));
        }
    }
    pending
}

/// Reads the counters of a scope, and returns its counts if they have to be written.
fn read(
    scope: &mut Scope,
    plane: &dyn Plane,
    accounting: &Accounting,
    now: DateTime<Utc>,
) -> Option<Pending> {
    let before = scope.counts;
    let state = plane.state(scope.record.id);
    scope.pace.note(&state, &scope.limits, now);
    let reading = scope.counts.read(&state, day_of(now));
    if !reading.changed && !scope.unsaved {
        return None;
    }
    let DayCounts { seen, day, usage } = scope.counts;
    let closed_nothing = reading.closed.is_none_or(|(_, usage)| usage.is_empty());
    if !scope.unsaved && seen == before.seen && usage.is_empty() && closed_nothing {
        // The only change is that a new day has begun, so there is nothing to write.
        return None;
    }
    scope.unsaved = true;
    let quota = scope.limits.daily_quota;
    let ahead = u64::from(accounting.ahead_of(quota));
    // No allowance is published on a day that has just begun, because the programs admit `ahead`
    // requests on such a day without asking for one.
    let begins = reading.closed.is_some() && usage.is_empty();
    let allowed = quota.filter(|_| !begins).map(|quota| {
        let allowed = usage.used.saturating_add(ahead).min(quota);
        let known = plane.allowed(scope.record.id);
        let known = if known.day() == day { known.count() } else { 0 };
        DayCount::new(day, allowed.max(known))
    });
    let used = usage.used;
    scope.counts.usage.allowed = allowed.map_or(used, |allowed| allowed.count().max(used));
    Some(Pending {
        before,
        allowed,
        id: scope.record.id,
        name: scope.record.name.clone(),
        seen,
        day,
        usage: scope.counts.usage,
        closed: reading.closed,
    })
}

/// Writes the counts in one transaction, and then publishes the allowances.
///
/// # Errors
/// Returns an error if the store cannot be written. In that case, the counts in memory are restored
/// to their values from before the reading, so that the next flush closes a day that has ended.
pub(crate) fn write(
    pending: Vec<Pending>,
    scopes: &mut Scopes,
    plane: &dyn Plane,
    store: &mut Store,
) -> Result<(), StoreError> {
    if pending.is_empty() {
        return Ok(());
    }
    let map = plane.identity();
    // An allowance must be on the disk before the kernel gets it.
    let written = store.change(|store| {
        for scope in &pending {
            let name = scope.name.as_str();
            if let Some((day, usage)) = &scope.closed {
                store.set_usage(name, *day, usage)?;
            }
            if !scope.usage.is_empty() || scope.closed.is_none() {
                store.set_usage(name, scope.day, &scope.usage)?;
            }
            store.set_seen(scope.id, &map, &scope.seen)?;
        }
        Ok::<(), StoreError>(())
    });
    for counts in pending {
        if let (Ok(()), Some(allowed)) = (&written, counts.allowed) {
            plane.set_allowed(counts.id, allowed);
        }
        if let Some(scope) = scopes.get_mut(&counts.name) {
            match written {
                Ok(()) => scope.unsaved = false,
                Err(_) => scope.counts = counts.before,
            }
        }
    }
    written
}
