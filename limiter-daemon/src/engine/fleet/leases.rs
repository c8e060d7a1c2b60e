// SPDX-License-Identifier: MIT OR Apache-2.0

//! The quotas and leases of this host: those in the store, the decisions about them, and the bounds
//! in the kernel.

use std::{collections::HashSet, time::Instant};

use chrono::{DateTime, TimeDelta, Utc};
use limiter_common::day::{Day, DayCount};
use limiter_fleet::{ScopeId, Step};

use super::{
    bounds::Bounds,
    member::{self, Member},
};
use crate::{
    domain::{limits::Limits, mode::Mode, scope::ScopeName},
    engine::{
        counts::{flush::Occasion, history::end_of},
        scopes::registry::Scope,
        setup::Setup,
        state::Engine,
        time::day_of,
    },
    kernel::boot_ns,
    protocol::error::ApiError,
    store::ScopeRecord,
};

/// The time before midnight at which a host asks for leases of tomorrow.
const PREPARED: TimeDelta = TimeDelta::hours(1);

/// Returns whether the requests of a scope with these limits need a lease, if the host belongs to a
/// fleet. In observe mode, no request is refused.
pub(crate) fn needs_lease(limits: &Limits, mode: Mode) -> bool {
    limits.daily_quota.is_some() && mode == Mode::Enforce
}

impl Engine {
    /// Begins to share quotas, if this host belongs to a fleet.
    pub(crate) fn begin_fleet(&mut self) -> Result<(), ApiError> {
        let Some(config) = &self.setup.config().fleet else {
            return Ok(());
        };
        if let Some(fleet) = member::fleet_of(&self.store)? {
            let mut member = Member::new(fleet, config);
            member.registry = self.read_registry_state()?;
            self.fleet = Some(member);
        }
        Ok(())
    }

    /// Returns whether a scope with these limits shares its quota with other hosts.
    pub(crate) fn shares(&self, (limits, mode): &(Limits, Mode)) -> bool {
        self.fleet.is_some() && needs_lease(limits, *mode)
    }

    /// Makes the kernel's allowance of a scope at most its lease, before the scope begins to share
    /// its quota. Until then, the allowance may have been any number.
    pub(crate) fn limit_allowance(&self, name: &ScopeName, in_force: &(Limits, Mode)) {
        let Some(scope) = self.scopes.get(name).filter(|_| self.shares(in_force)) else {
            return;
        };
        let id = scope.record.id;
        let allowed = self.plane.allowed(id);
        match scope
            .bounds
            .filter(|bounds| bounds.today.day == allowed.day())
        {
            Some(bounds) => {
                if !bounds.unsaved {
                    self.plane.set_lease(id, &bounds.in_kernel());
                }
                if allowed.count() > bounds.today.limit {
                    let lease = DayCount::new(allowed.day(), bounds.today.limit);
                    self.plane.set_allowed(id, lease);
                }
            }
            // Without an allowance of the day, the kernel goes by the lease that it has.
            None => self.plane.set_allowed(id, DayCount::default()),
        }
    }

    /// Makes the leases of a scope follow its limits.
    ///
    /// # Errors
    /// Returns an error if the store reports one.
    pub(crate) fn follow_quota(
        &mut self,
        name: &ScopeName,
        in_force: &(Limits, Mode),
    ) -> Result<(), ApiError> {
        let shares = self.shares(in_force);
        let Some(member) = &mut self.fleet else {
            return Ok(());
        };
        let Some(scope) = self.scopes.get_mut(name) else {
            return Ok(());
        };
        let now = Instant::now();
        let id = scope.record.id;
        let day = scope.counts.day;
        let quota = in_force.0.daily_quota.unwrap_or(0);
        let of_scope = (scope.record.generation, quota);
        let steps = match (shares, scope.bounds.is_some()) {
            (false, false) => return Ok(()),
            // Other hosts may need the rest of the lease. The bounds stay for the case that the
            // scope shares its quota again.
            (false, true) => member.leases.give_back(id, day).into_iter().collect(),
            (true, true) => member.leases.set_quota(now, id, day, of_scope),
            (true, false) => {
                let first = member.leases.set_quota(now, id, day, of_scope);
                let used = scope.counts.usage.used;
                let in_kernel = self.plane.lease(id);
                let mut bounds = Bounds::none(id, day);
                let tomorrow = Day(day.0.saturating_add(1));
                for (day, used) in [(day, used), (tomorrow, 0)] {
                    let known = [in_kernel.current, in_kernel.next].map(DayCount);
                    let known = known.iter().find(|word| word.day() == day);
                    let stored = self.store.lease_of(name.as_str(), day)?;
                    // A store that was restored from a backup may know less than the kernel.
                    let lease = known.map_or(0, |word| word.count()).max(stored).max(used);
                    if lease > 0
                        && let Some(step) = member.leases.restore(now, id, day, lease, used)
                    {
                        bounds.take(step);
                    }
                }
                scope.bounds = Some(bounds);
                scope.unsaved = true;
                first
            }
        };
        self.apply(steps)
    }

    /// Makes the changes that `steps` ask for: lower bounds reach the kernel first, and then the
    /// store; higher ones reach the store first.
    ///
    /// # Errors
    /// Returns an error if the store cannot be written. The next flush tries again.
    pub(crate) fn apply(&mut self, steps: Vec<Step>) -> Result<(), ApiError> {
        let changed = self.take_steps(steps);
        self.flush_some(&changed, Occasion::Other, self.utc_now())
    }

    fn utc_now(&self) -> DateTime<Utc> {
        let now = self.clock.words().utc(boot_ns());
        now.unwrap_or_else(Utc::now)
    }

    /// Takes over the bounds of `steps`, and publishes those that are lower to the kernel. Returns
    /// the scopes whose counts have to be written, which publishes the others.
    pub(crate) fn take_steps(&mut self, steps: Vec<Step>) -> HashSet<u32> {
        let mut changed = HashSet::new();
        let mut lowers = false;
        for step in steps {
            let (Step::Publish(bound) | Step::Lower(bound)) = step;
            let Some(scope) = self.scopes.by_id_mut(bound.scope) else {
                continue;
            };
            let Some(bounds) = &mut scope.bounds else {
                continue;
            };
            bounds.take(step);
            scope.unsaved = true;
            changed.insert(bound.scope);
            if matches!(step, Step::Lower(_)) {
                lowers = true;
                self.plane.set_lease(bound.scope, &bounds.in_kernel());
                let allowed = self.plane.allowed(bound.scope);
                if allowed.day() == bound.day && allowed.count() > bound.limit {
                    let lower = DayCount::new(bound.day, bound.limit);
                    self.plane.set_allowed(bound.scope, lower);
                }
                if let Some(member) = &mut self.fleet {
                    member.lowered.push(bound);
                }
            }
        }
        if lowers {
            self.plane.wait_for_programs();
        }
        changed
    }

    /// Begins a generation of a scope's counts, in which this host has no lease. The kernel then
    /// admits no request of a scope that shares its quota. Returns the previous generation, or
    /// `None` if this host belongs to no fleet.
    pub(crate) fn begin_generation(
        &mut self,
        name: &ScopeName,
        generation: u64,
        day: Day,
    ) -> Option<u64> {
        let member = self.fleet.as_mut()?;
        let scope = self.scopes.get_mut(name)?;
        let before = std::mem::replace(&mut scope.record.generation, generation);
        if scope.bounds.is_some() {
            let quota = scope.limits.daily_quota.unwrap_or(0);
            let of_scope = (generation, quota);
            let now = Instant::now();
            let steps = member.leases.set_quota(now, scope.record.id, day, of_scope);
            self.take_steps(steps);
        }
        Some(before)
    }

    /// Makes the counts of a scope those of another generation, and reports them in it.
    ///
    /// # Errors
    /// Returns an error if the store or the kernel reports one.
    pub(crate) fn restart_leases(
        &mut self,
        name: &ScopeName,
        generation: u64,
    ) -> Result<(), ApiError> {
        let Some(scope) = self.scopes.get_mut(name) else {
            return Ok(());
        };
        scope.record.generation = generation;
        scope.bounds = None;
        let id = scope.record.id;
        self.forget_leases(id);
        self.publish_scope(name)
    }

    /// Tells the leases of the lower bounds that the kernel and the store have now.
    pub(crate) fn finish_lowering(&mut self) {
        let Some(member) = &mut self.fleet else {
            return;
        };
        let now = Instant::now();
        let scopes = &self.scopes;
        let leases = &mut member.leases;
        member.lowered.retain(|bound| {
            let Some(scope) = scopes.by_id(bound.scope) else {
                return false;
            };
            if scope.unsaved {
                return true;
            }
            let is_of_day = scope.counts.day == bound.day;
            let used = if is_of_day {
                scope.counts.usage.used
            } else {
                0
            };
            leases.lowered(now, bound, used);
            false
        });
        self.wake_calls();
    }

    /// Wakes the task that sends calls, if there is one to send.
    pub(crate) fn wake_calls(&mut self) {
        if let Some(member) = &mut self.fleet
            && member
                .leases
                .next_call()
                .is_some_and(|at| at <= Instant::now())
        {
            member.calls.notify_one();
        }
    }

    /// Does the work for leases that is due every second, after the counts have been read.
    ///
    /// # Errors
    /// Returns an error if the store cannot be written.
    pub(crate) fn tick_leases(&mut self, now: DateTime<Utc>) -> Result<(), ApiError> {
        let Some(member) = &mut self.fleet else {
            return Ok(());
        };
        let steps = member.leases.check_engine(Instant::now());
        self.apply(steps)?;
        if day_of(now + PREPARED) > day_of(now) {
            self.prepare_tomorrow(now);
        }
        self.wake_calls();
        Ok(())
    }

    /// Asks for leases of tomorrow for the scopes that this host has served today.
    fn prepare_tomorrow(&mut self, now: DateTime<Utc>) {
        let Some(member) = &mut self.fleet else {
            return;
        };
        let tomorrow = day_of(now + PREPARED);
        for scope in self.scopes.iter() {
            if scope.bounds.is_some_and(|bounds| bounds.tomorrow.is_none())
                && let Some(quota) = quota_at_midnight(scope, &self.setup, tomorrow)
            {
                let id = scope.record.id;
                member.leases.prepare(Instant::now(), id, tomorrow, quota);
            }
        }
    }

    /// Gives back all leases, because the daemon ends or leaves the fleet. From now on, the kernel
    /// admits no request of a scope that shares its quota.
    ///
    /// # Errors
    /// Returns an error if the store cannot be written.
    pub(crate) fn give_back(&mut self) -> Result<(), ApiError> {
        if self.fleet.is_some() {
            self.flush(self.utc_now())?;
        }
        let Some(member) = &mut self.fleet else {
            return Ok(());
        };
        let steps = member.leases.give_back_all(Instant::now());
        self.apply(steps)
    }

    /// Returns whether this host has neither scopes nor keys of operators.
    pub(crate) fn is_new(&self) -> bool {
        let has_scopes = self
            .scopes
            .iter()
            .any(|scope| scope.record.unknown.is_none());
        !has_scopes && self.store.key_count().is_ok_and(|keys| keys == 0)
    }

    /// Returns the version of the registry that this host has.
    pub(crate) fn registry_version(&self) -> u64 {
        self.fleet
            .as_ref()
            .map_or(0, |member| member.registry.version)
    }

    /// Records that this host has all changes of the registry that were made before `at`.
    pub(crate) fn note_current(&mut self, at: DateTime<Utc>) {
        if let Some(member) = &mut self.fleet {
            member.current_at = member.current_at.max(at);
        }
    }

    /// Forgets the leases of a scope that has been removed.
    pub(crate) fn forget_leases(&mut self, id: ScopeId) {
        if let Some(member) = &mut self.fleet {
            member.leases.remove(id);
        }
    }
}

/// Returns the quota that a scope will have when `day` begins, if it has one then.
fn quota_at_midnight(scope: &Scope, setup: &Setup, day: Day) -> Option<u64> {
    let record = &scope.record;
    let Some(own) = &record.limits_override else {
        return scope.limits.daily_quota;
    };
    // A limit that ends at midnight no longer applies to the next day.
    let then = ScopeRecord {
        limits_override: own.at(end_of(Day(day.0 - 1))).non_empty(),
        ..record.clone()
    };
    let (limits, _) = setup.effective(&then).ok()?;
    limits.daily_quota
}
