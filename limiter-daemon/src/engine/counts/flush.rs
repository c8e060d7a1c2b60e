// SPDX-License-Identifier: MIT OR Apache-2.0

//! Reads the counters of scopes, and writes changed counts to the store.

use std::{collections::HashSet, time::Instant};

use chrono::{DateTime, Utc};
use limiter_common::day::{Day, DayCount};

use super::day_counts::{DayCounts, Reading};
use crate::{
    config::Accounting,
    domain::scope::ScopeName,
    engine::{
        fleet::{bounds::Bounds, member::Member},
        scopes::registry::{Scope, Scopes},
        time::day_of,
    },
    kernel::Plane,
    store::{CounterReading, DayUsage, Store, StoreError},
};

/// The occasion of a reading of the counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Occasion {
    /// The end of a second.
    Tick,
    /// A report of the kernel, which means that requests wait or may soon have to wait.
    Report,
    /// Any other.
    Other,
}

/// The parts of the engine on which a reading depends.
pub(crate) struct Reader<'a> {
    pub(crate) plane: &'a dyn Plane,
    pub(crate) accounting: &'a Accounting,
    /// The host's part in its fleet, if it belongs to one.
    pub(crate) member: Option<&'a mut Member>,
    pub(crate) occasion: Occasion,
    pub(crate) now: DateTime<Utc>,
}

/// The counts of one scope that have to be written.
pub(crate) struct Pending {
    /// The counts of the scope before its counters were read.
    before: DayCounts,
    /// The allowance to publish after the counts have been written, or `None` for a scope without a
    /// quota or on a day that has just begun.
    allowed: Option<DayCount>,
    /// The bounds to publish, if the scope shares its quota.
    bounds: Option<Bounds>,
    /// The bounds to store. A scope has some even if it does not share its quota at present.
    stored: Option<Bounds>,
    /// The number of requests by which the count may run ahead of the store.
    ahead: u32,
    id: u32,
    name: ScopeName,
    seen: CounterReading,
    day: Day,
    usage: DayUsage,
    closed: Option<(Day, DayUsage)>,
}

impl Reader<'_> {
    /// Reads the counters of all scopes.
    pub(crate) fn read_all(mut self, scopes: &mut Scopes) -> Vec<Pending> {
        scopes
            .iter_mut()
            .filter_map(|scope| self.read(scope))
            .collect()
    }

    /// Reads the counters of the scopes with the ids in `ids`. Skips the ids of scopes that have
    /// just been removed or that the daemon does not know yet.
    pub(crate) fn read_some(mut self, ids: &HashSet<u32>, scopes: &mut Scopes) -> Vec<Pending> {
        let mut pending = Vec::new();
        for id in ids {
            if let Some(scope) = scopes.by_id_mut(*id) {
                pending.extend(self.read(scope));
            }
        }
        pending
    }

    /// Reads the counters of a scope, and returns its counts if they have to be written.
    fn read(&mut self, scope: &mut Scope) -> Option<Pending> {
        let before = scope.counts;
        let state = self.plane.state(scope.record.id);
        scope.pace.note(&state, &scope.limits, self.now);
        let reading = scope.counts.read(&state, day_of(self.now));
        self.note_lease(scope, &reading);
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
        let bounds = scope.shared_bounds();
        let allowed = match &bounds {
            Some(bounds) => self.allowed_of_lease(scope, bounds),
            None => self.allowed_ahead(scope, &reading),
        };
        let used = usage.used;
        scope.counts.usage.allowed = allowed.map_or(used, |allowed| allowed.count().max(used));
        Some(Pending {
            before,
            allowed,
            bounds,
            stored: scope.bounds,
            ahead: self.accounting.ahead_of(scope.limits.daily_quota),
            id: scope.record.id,
            name: scope.record.name.clone(),
            seen,
            day,
            usage: scope.counts.usage,
            closed: reading.closed,
        })
    }

    /// Tells the leases of a reading, if the scope shares its quota.
    fn note_lease(&mut self, scope: &mut Scope, reading: &Reading) {
        let Some(member) = &mut self.member else {
            return;
        };
        if scope.shared_bounds().is_none() {
            return;
        }
        let Some(bounds) = &mut scope.bounds else {
            return;
        };
        let (id, now) = (scope.record.id, Instant::now());
        let leases = &mut member.leases;
        if let Some((day, usage)) = reading.closed {
            // The bound of a day that has ended no longer matters.
            let _ended = leases.count(now, id, day, usage.used, false);
        }
        let DayCounts { day, usage, .. } = scope.counts;
        bounds.begin(day);
        let is_at_end = usage.used >= bounds.today.limit;
        let step = match self.occasion {
            Occasion::Tick => leases.tick(now, id, day, usage.used),
            Occasion::Report => {
                member.held += u64::from(is_at_end);
                leases.count(now, id, day, usage.used, is_at_end)
            }
            Occasion::Other => leases.count(now, id, day, usage.used, false),
        };
        if let Some(step) = step {
            bounds.take(step);
        }
        scope.unsaved |= bounds.unsaved;
    }

    /// Returns the allowance of a scope that does not share its quota.
    fn allowed_ahead(&self, scope: &Scope, reading: &Reading) -> Option<DayCount> {
        let DayCounts { day, usage, .. } = scope.counts;
        // No allowance is published on a day that has just begun, because the programs admit
        // `ahead` requests on such a day without asking for one.
        let begins = reading.closed.is_some() && usage.is_empty();
        let quota = scope.limits.daily_quota.filter(|_| !begins)?;
        let allowed = self.ahead_of_count(scope).min(quota);
        let known = self.known(scope);
        Some(DayCount::new(day, allowed.max(known)))
    }

    /// Returns the allowance of a scope that shares its quota. It never exceeds the lease.
    fn allowed_of_lease(&self, scope: &Scope, bounds: &Bounds) -> Option<DayCount> {
        let DayCounts { day, .. } = scope.counts;
        let allowed = self.ahead_of_count(scope).max(self.known(scope));
        (bounds.today.day == day).then(|| DayCount::new(day, allowed.min(bounds.today.limit)))
    }

    fn ahead_of_count(&self, scope: &Scope) -> u64 {
        let ahead = self.accounting.ahead_of(scope.limits.daily_quota);
        scope.counts.usage.used.saturating_add(u64::from(ahead))
    }

    /// Returns the allowance of the day that the kernel has already.
    fn known(&self, scope: &Scope) -> u64 {
        let known = self.plane.allowed(scope.record.id);
        let is_of_day = known.day() == scope.counts.day;
        if is_of_day { known.count() } else { 0 }
    }
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
            for (day, lease) in scope.stored.iter().flat_map(Bounds::leases) {
                store.set_lease(name, day, lease)?;
            }
            store.set_seen(scope.id, &map, &scope.seen)?;
        }
        Ok::<(), StoreError>(())
    });
    for counts in pending {
        if written.is_ok() {
            if let Some(bounds) = &counts.bounds {
                plane.set_lease(counts.id, &bounds.in_kernel());
                plane.set_ahead(counts.id, bounds.ahead(counts.ahead));
            }
            if let Some(allowed) = counts.allowed {
                plane.set_allowed(counts.id, allowed);
            }
        }
        if let Some(scope) = scopes.get_mut(&counts.name) {
            match written {
                Ok(()) => {
                    scope.unsaved = false;
                    if let Some(bounds) = &mut scope.bounds {
                        bounds.unsaved = false;
                    }
                }
                Err(_) => scope.counts = counts.before,
            }
        }
    }
    written
}
