// SPDX-License-Identifier: MIT OR Apache-2.0

//! The parts of leases that a host gives back, and its reports to the engine.

use std::time::Instant;

use limiter_common::day::Day;

use super::{HostLeases, Step};
use crate::{ScopeId, call::Recall, lease::Bound};

impl HostLeases {
    /// Gives back the requests of a scope that the host does not need, because another host needs
    /// them. Returns the step that follows, if there is one.
    pub fn recall(
        &mut self,
        now: Instant,
        scope: ScopeId,
        day: Day,
        recall: Recall,
    ) -> Option<Step> {
        let leases = self.scopes.get_mut(&scope)?;
        if leases.today.day != day {
            return None;
        }
        let keep = leases.reserve(recall).max(leases.today.promised(now));
        let lease = &mut leases.today;
        if recall == Recall::All && lease.left() == 0 {
            // There is nothing to give back, but the engine may not know that all of it is used, or
            // may have granted requests to an earlier daemon that was killed before the answer.
            if lease.report_use() {
                self.queue.push(scope, now);
            }
            return None;
        }
        self.lower(scope, day, keep)
    }

    /// Gives back the rest of a lease, because the scope does not share its quota any more. Returns
    /// the step that follows, if there is one.
    pub fn give_back(&mut self, scope: ScopeId, day: Day) -> Option<Step> {
        self.lower(scope, day, 0)
    }

    /// Makes the host report the count of a scope, unless the engine knows it already.
    pub fn report_count(&mut self, now: Instant, scope: ScopeId, day: Day) {
        if let Some(leases) = self.scopes.get_mut(&scope)
            && let Some(lease) = leases.of_day(day)
            && lease.report_use()
        {
            self.queue.push(scope, now);
        }
    }

    pub(super) fn lower(&mut self, scope: ScopeId, day: Day, keep: u64) -> Option<Step> {
        let number = self.bounds + 1;
        let lease = self.scopes.get_mut(&scope)?.of_day(day)?;
        if !lease.lower(keep, number) {
            return None;
        }
        self.bounds = number;
        Some(Step::Lower(lease.bound(scope, number)))
    }

    /// Records that the kernel and the store have the bound of a [`Step::Lower`], and that `used`
    /// requests had been admitted when no program used the old one any more. The host then gives
    /// the rest back. If a later bound has lowered the lease further, this changes nothing.
    pub fn lowered(&mut self, now: Instant, bound: &Bound, used: u64) {
        if let Some(leases) = self.scopes.get_mut(&bound.scope)
            && let Some(lease) = leases.of_day(bound.day)
            && lease.lowered(bound.number, used)
        {
            if self.leaving {
                lease.finish();
            }
            self.queue.push(bound.scope, now);
        }
    }

    /// Gives back all leases, because the host leaves the fleet or stops. From now on, the host
    /// asks for nothing. Returns the steps that follow.
    pub fn give_back_all(&mut self, now: Instant) -> Vec<Step> {
        self.leaving = true;
        let mut days: Vec<(ScopeId, Day)> = Vec::new();
        for (&scope, leases) in &mut self.scopes {
            for lease in leases.all() {
                lease.finish();
                days.push((scope, lease.day));
            }
            self.queue.push(scope, now);
        }
        days.into_iter()
            .filter_map(|(scope, day)| self.lower(scope, day, 0))
            .collect()
    }
}
