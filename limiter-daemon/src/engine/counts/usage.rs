// SPDX-License-Identifier: MIT OR Apache-2.0

//! The usage of scopes today, and the commands that show and change it.

use std::collections::HashSet;

use chrono::{DateTime, NaiveDate, Utc};
use limiter_common::{
    abi::{Lease, ScopeState},
    day::DayCount,
};

use super::{
    day_counts::seen,
    flush::{self, Occasion, Reader},
    history::{self, end_of},
};
use crate::{
    domain::scope::ScopeName,
    engine::{
        caller::Caller,
        scopes::{audit::check_note, registry::Scope},
        state::Engine,
        time::day_of,
    },
    kernel::Plane,
    protocol::{error::ApiError, views::UsageView},
    store::{AuditEntry, DayUsage, date_of},
};

/// A reset of the count of a scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CountReset {
    pub(crate) name: ScopeName,
    /// The generation of the counts after the reset, which the hosts of a fleet share.
    pub(crate) generation: u64,
    /// The reason, for the audit trail.
    pub(crate) note: String,
}

impl Engine {
    /// Reads the counters of all scopes, writes the changed counts, and closes a day that has
    /// ended.
    ///
    /// # Errors
    /// Returns an error if the store cannot be written. The next flush writes these counts again,
    /// and the kernel continues to count in any case.
    pub fn flush(&mut self, now: DateTime<Utc>) -> Result<(), ApiError> {
        self.flush_all(Occasion::Other, now)
    }

    /// Does the same as [`Self::flush`] on the occasion `occasion`.
    ///
    /// # Errors
    /// Returns the errors of [`Self::flush`].
    pub(crate) fn flush_all(
        &mut self,
        occasion: Occasion,
        now: DateTime<Utc>,
    ) -> Result<(), ApiError> {
        self.write_counts(None, occasion, now)?;
        self.clock.words().stay_attended();
        Ok(())
    }

    /// Does the same as [`Self::flush`], but only for the scopes with the ids in `ids`.
    ///
    /// # Errors
    /// Returns the errors of [`Self::flush`].
    pub(crate) fn flush_some(
        &mut self,
        ids: &HashSet<u32>,
        occasion: Occasion,
        now: DateTime<Utc>,
    ) -> Result<(), ApiError> {
        // A flush that writes nothing does not show that the store works, and therefore does not
        // extend the time for which the store counts as attended.
        if self.write_counts(Some(ids), occasion, now)? {
            self.clock.words().stay_attended();
        }
        Ok(())
    }

    /// Reads the counters of the scopes with the ids in `ids`, or of all scopes, and writes the
    /// changed counts. Returns whether there were any.
    fn write_counts(
        &mut self,
        ids: Option<&HashSet<u32>>,
        occasion: Occasion,
        now: DateTime<Utc>,
    ) -> Result<bool, ApiError> {
        let plane = self.plane.as_ref();
        let reader = Reader {
            plane,
            accounting: &self.setup.config().accounting,
            member: self.fleet.as_mut(),
            occasion,
            now,
        };
        let pending = match ids {
            Some(ids) => reader.read_some(ids, &mut self.scopes),
            None => reader.read_all(&mut self.scopes),
        };
        let writes = !pending.is_empty();
        flush::write(pending, &mut self.scopes, plane, &mut self.store)?;
        self.finish_lowering();
        Ok(writes)
    }

    /// Writes the counts of the scopes with the ids in `scopes`, and thereby extends their
    /// allowances.
    ///
    /// # Errors
    /// Returns an error if the store cannot be written.
    pub(crate) fn extend(
        &mut self,
        scopes: &HashSet<u32>,
        now: DateTime<Utc>,
    ) -> Result<(), ApiError> {
        if self.detached {
            return Ok(());
        }
        self.flush_some(scopes, Occasion::Report, now)
    }

    /// Returns the usage of all scopes today, or on a past day.
    ///
    /// # Errors
    /// Returns an error if the store cannot be read, or if the day has not begun or is no longer
    /// kept.
    pub fn usage(
        &self,
        date: Option<NaiveDate>,
        now: DateTime<Utc>,
    ) -> Result<Vec<UsageView>, ApiError> {
        let keep = self.setup.config().history.keep;
        if let Some(day) = history::past_day(date, keep, now)? {
            return Ok(history::usage_on(day, &self.store, &self.scopes)?);
        }
        let plane = self.plane.as_ref();
        Ok(self
            .scopes
            .iter()
            .map(|scope| usage_view(scope, plane, now))
            .collect())
    }

    /// Returns the usage of one scope today, or on a past day.
    ///
    /// # Errors
    /// Returns an error if there is no such scope, or if the day has not begun or is no longer
    /// kept.
    pub fn usage_of(
        &self,
        name: &ScopeName,
        date: Option<NaiveDate>,
        now: DateTime<Utc>,
    ) -> Result<UsageView, ApiError> {
        let keep = self.setup.config().history.keep;
        let past = |day| history::usage_of(name, day, &self.store, &self.scopes);
        if let Some(day) = history::past_day(date, keep, now)? {
            return past(day);
        }
        match self.scopes.find(name) {
            Ok(scope) => Ok(usage_view(scope, self.plane.as_ref(), now)),
            // If the scope was removed today, its final counts are in the store.
            Err(_) if date.is_some() => past(day_of(now)),
            Err(error) => Err(error),
        }
    }

    /// Resets the count of a scope for today to zero.
    ///
    /// # Errors
    /// Returns an error if there is no such scope or the store cannot be written.
    pub fn reset(
        &mut self,
        name: &ScopeName,
        note: &str,
        caller: &Caller,
    ) -> Result<UsageView, ApiError> {
        let reset = self.prepare_reset(name, note)?;
        self.commit_reset(reset, caller)
    }

    /// Prepares [`Engine::reset`].
    ///
    /// # Errors
    /// Returns an error if there is no such scope or the note is not one line of text.
    pub(crate) fn prepare_reset(
        &self,
        name: &ScopeName,
        note: &str,
    ) -> Result<CountReset, ApiError> {
        check_note(note)?;
        let record = &self.scopes.find(name)?.record;
        if record.unknown.is_some() && self.fleet.is_some() {
            return Err(ApiError::conflict(format!(
                "the scope {name} belongs to a key that is not registered, so the other hosts of the fleet cannot be told of a reset: register the key first"
            )));
        }
        Ok(CountReset {
            name: name.clone(),
            generation: record.generation + 1,
            note: note.to_owned(),
        })
    }

    /// Resets the count of a scope as prepared.
    ///
    /// # Errors
    /// Returns an error if there is no such scope any more, or if the store cannot be written.
    pub(crate) fn commit_reset(
        &mut self,
        reset: CountReset,
        caller: &Caller,
    ) -> Result<UsageView, ApiError> {
        let CountReset {
            name,
            generation,
            note,
        } = reset;
        let id = self.scopes.find(&name)?.record.id;
        self.flush(caller.now)?;
        let today = day_of(caller.now);
        let used = self.scopes.find(&name)?.counts.usage.used;
        // The host has no lease in the new generation. The kernel hears of this before the count is
        // reset, so that it admits nothing in between.
        let before = self.begin_generation(&name, generation, today);
        // The store is changed before the kernel. If the daemon crashes between the two steps, the
        // kernel still has the old, higher count, and the reset has no effect.
        let stored = self.store.change(|store| {
            let usage = store.usage_of(name.as_str(), today)?.unwrap_or_default();
            // The old allowance remains in the store until the kernel has the lower one.
            let reset = DayUsage {
                used: 0,
                lost: 0,
                ..usage
            };
            store.set_usage(name.as_str(), today, &reset)?;
            if before.is_some() {
                store.set_generation(id, generation)?;
            }
            store.set_lease(name.as_str(), today, 0)?;
            let detail = format!("was {used}");
            let entry = caller.entry("reset", name.as_str(), &detail);
            store.audit(&AuditEntry {
                note: Some(&note),
                ..entry
            })
        });
        if let Err(error) = stored {
            if let Some(before) = before {
                self.restart_leases(&name, before)?;
            }
            return Err(error.into());
        }
        if self.scopes.find(&name)?.bounds.is_none() {
            self.plane.set_lease(id, &Lease::default());
        }
        self.plane.set_day_count(id, DayCount::new(today, 0));
        // The scope now has no allowance, as on a day that has just begun.
        self.plane.set_allowed(id, DayCount::default());
        let admitted = seen(&self.plane.state(id)).admitted;
        if let Some(scope) = self.scopes.get_mut(&name) {
            // Requests that were charged before the reset no longer belong to the count of this
            // day.
            scope.counts.day = today;
            scope.counts.usage.used = 0;
            scope.counts.usage.lost = 0;
            scope.counts.seen.day = today;
            scope.counts.seen.used = 0;
            scope.counts.seen.admitted = admitted;
            scope.unsaved = true;
        }
        self.flush(caller.now)?;
        let message = format!("today's count of {name} was reset from {used} to 0");
        self.events
            .add_change(caller, "reset", Some(&name), None, message);
        self.usage_of(&name, None, caller.now)
    }
}

fn usage_view(scope: &Scope, plane: &dyn Plane, now: DateTime<Utc>) -> UsageView {
    let state: ScopeState = plane.state(scope.record.id);
    // A copy of the counts is updated, because a view must not change the scope.
    let mut counts = scope.counts;
    counts.read(&state, day_of(now));
    let quota = scope.limits.daily_quota;
    UsageView {
        scope: scope.record.name.clone(),
        tier: Some(scope.record.tier.clone()),
        removed: false,
        day: date_of(counts.day).unwrap_or(NaiveDate::MAX),
        used: counts.usage.used,
        host_used: None,
        leased: None,
        lost: counts.usage.lost,
        daily_quota: quota,
        remaining: quota.map(|quota| quota.saturating_sub(counts.usage.used)),
        rate: scope.limits.rate,
        in_flight: Some(state.in_flight),
        connections: Some(state.connections),
        refused: counts.usage.refused,
        would_refuse: counts.usage.would_refuse,
        resets_at: end_of(counts.day),
    }
}
