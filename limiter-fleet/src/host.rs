// SPDX-License-Identifier: MIT OR Apache-2.0

//! The leases of one host.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use limiter_common::day::Day;

use crate::{
    ScopeId,
    call::{Answer, Call, Recall, Wish},
    lease::{Bound, Due, Lease, REFUSED_FOR, Refusal},
    outage::{EngineLost, Outage},
    queue::Queue,
    scope::ScopeLeases,
};

/// The settings of a host.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The time for which a lease should last (`fleet.lease`).
    pub lease: Duration,
    /// The rule while the engine is lost (`fleet.engine_lost`).
    pub engine_lost: EngineLost,
    /// A number above all operation numbers that this host has used.
    pub first_operation: u64,
}

/// A change that the caller has to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Record the bound in the store, and then publish it to the kernel.
    Publish(Bound),
    /// Publish the lower bound to the kernel, wait until no program uses the old one, read the
    /// count, record both in the store, and call [`HostLeases::lowered`].
    Lower(Bound),
}

/// The reason why a call has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The engine has not answered, or not confirmed the grant.
    Unanswered,
    /// The server is another one, or has lost its data. The caller first makes it the server of the
    /// bucket (`script::LEARN`).
    OtherServer,
}

/// The leases of one host.
#[derive(Debug)]
pub struct HostLeases {
    settings: Settings,
    /// The number of hosts in the fleet.
    hosts: u64,
    operation: u64,
    scopes: HashMap<ScopeId, ScopeLeases>,
    queue: Queue,
    outage: Outage,
}

impl HostLeases {
    /// Returns a host without leases.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            hosts: 1,
            operation: settings.first_operation,
            scopes: HashMap::new(),
            queue: Queue::default(),
            outage: Outage::default(),
        }
    }

    /// Sets the number of hosts in the fleet.
    pub fn set_hosts(&mut self, hosts: u64) {
        self.hosts = hosts.max(1);
    }

    /// Sets the quota of a scope, and the generation of its counts. A new generation begins with an
    /// empty lease, and the caller sets the kernel's count to zero. After a lower quota, the host
    /// gives back what it does not need.
    pub fn set_quota(
        &mut self,
        now: Instant,
        scope: ScopeId,
        day: Day,
        (generation, quota): (u64, u64),
    ) -> Option<Step> {
        let leases = self
            .scopes
            .entry(scope)
            .or_insert_with(|| ScopeLeases::new(generation, quota, day));
        if generation > leases.generation {
            let mut fresh = ScopeLeases::new(generation, quota, day);
            fresh.demand = leases.demand;
            *leases = fresh;
            return Some(Step::Publish(leases.today.bound(scope)));
        }
        let before = std::mem::replace(&mut leases.quota, quota);
        if before == quota {
            return None;
        }
        let refusal = leases.today.bound(scope).refusal;
        leases.today.reconsider();
        if quota < before {
            let keep = leases.kept(Recall::Most);
            if !leases.today.lower(keep) {
                // Nothing is given back. The engine is asked whether too much is leased.
                leases.today.report();
                self.queue.push(scope, now);
                return None;
            }
            return Some(Step::Lower(self.bound(scope, day)));
        }
        (refusal != Refusal::Held).then(|| Step::Publish(leases.today.bound(scope)))
    }

    /// Enters a lease that the store or the kernel has from an earlier run of the daemon. The
    /// engine is told of it.
    pub fn restore(&mut self, now: Instant, scope: ScopeId, day: Day, lease: u64, used: u64) {
        let Some(leases) = self.scopes.get_mut(&scope) else {
            return;
        };
        let mut restored = Lease::new(day, lease, used);
        restored.report();
        match day.cmp(&leases.today.day) {
            std::cmp::Ordering::Less => leases.ended = Some(restored),
            std::cmp::Ordering::Equal => {
                leases.today = restored;
                leases.served |= used > 0;
            }
            std::cmp::Ordering::Greater => leases.tomorrow = Some(restored),
        }
        self.queue.push(scope, now);
    }

    /// Removes a scope.
    pub fn remove(&mut self, scope: ScopeId) {
        self.scopes.remove(&scope);
    }

    /// Records that the host has admitted `used` requests of a scope on `day`. `held` is set if the
    /// kernel holds another request, which is beyond the lease.
    pub fn count(
        &mut self,
        now: Instant,
        scope: ScopeId,
        day: Day,
        used: u64,
        held: bool,
    ) -> Option<Step> {
        let lost = self.outage.is_lost();
        let leases = self.scopes.get_mut(&scope)?;
        leases.begin(day);
        let mut changed = leases.count(now, day, used, held);
        let lease = leases.on(day)?;
        if lost && held {
            lease.refuse_until(now + REFUSED_FOR);
            changed = true;
        }
        if lease.due(now) != Due::Nothing {
            self.queue.push(scope, now);
        }
        changed.then(|| Step::Publish(self.bound(scope, day)))
    }

    /// Ends a second for a scope, of which `used` requests have been admitted on `day`.
    pub fn tick(&mut self, now: Instant, scope: ScopeId, day: Day, used: u64) -> Option<Step> {
        let step = self.count(now, scope, day, used, false);
        if let Some(leases) = self.scopes.get_mut(&scope) {
            leases.demand.tick();
        }
        step
    }

    /// Returns whether the host has had no requests of a scope lately.
    #[must_use]
    pub fn is_quiet(&self, scope: ScopeId) -> bool {
        self.scopes
            .get(&scope)
            .is_none_or(|leases| leases.demand.is_none())
    }

    /// Asks for one request of `day`, which is tomorrow, for a scope that the host serves today.
    pub fn prepare(&mut self, now: Instant, scope: ScopeId, day: Day) {
        if let Some(leases) = self.scopes.get_mut(&scope)
            && leases.served
            && leases.tomorrow.is_none()
            && day > leases.today.day
        {
            let mut lease = Lease::new(day, 0, 0);
            lease.ask();
            leases.tomorrow = Some(lease);
            self.queue.push(scope, now);
        }
    }

    /// Returns up to `most` calls that are to be sent now.
    pub fn calls(&mut self, now: Instant, most: usize) -> Vec<Call> {
        let mut calls = Vec::new();
        while !self.outage.is_lost()
            && calls.len() < most
            && let Some(scope) = self.queue.pop(now)
        {
            let Some(leases) = self.scopes.get_mut(&scope) else {
                continue;
            };
            let wanted = leases.demand.wanted(self.settings.lease);
            let (generation, quota, today) = (leases.generation, leases.quota, leases.today.day);
            for lease in leases.all() {
                if lease.is_unanswered(now) {
                    self.outage.failed(now);
                }
                let wish = match lease.due(now) {
                    Due::Nothing => continue,
                    Due::At(at) => {
                        self.queue.push(scope, at);
                        continue;
                    }
                    Due::Call(Wish::UpTo(used)) if lease.day > today => Wish::UpTo(used + 1),
                    Due::Call(Wish::UpTo(used)) => Wish::UpTo(used.saturating_add(wanted)),
                    Due::Call(Wish::Keep) => Wish::Keep,
                };
                self.operation += 1;
                let look_again = lease.sent(now, self.operation, wish);
                self.queue.push(scope, look_again);
                calls.push(Call {
                    scope,
                    day: lease.day,
                    generation,
                    quota,
                    lease: lease.total,
                    used: lease.used,
                    wish,
                    operation: self.operation,
                });
            }
        }
        calls
    }

    /// Returns the time at which [`Self::calls`] may have something to send. While the engine is
    /// lost, that is never.
    pub fn next_call(&mut self) -> Option<Instant> {
        self.queue.next().filter(|_| !self.outage.is_lost())
    }

    /// Records the answer to `call`.
    pub fn answered(&mut self, now: Instant, call: &Call, answer: &Answer) -> Option<Step> {
        self.outage.answered();
        let leases = self.scopes.get_mut(&call.scope)?;
        if leases.generation != call.generation {
            return None;
        }
        let lease = leases.on(call.day)?;
        let changed = lease.answered(now, call.operation, answer);
        let has_rest = lease.left() > 0;
        if lease.due(now) != Due::Nothing {
            self.queue.push(call.scope, now);
        }
        if leases
            .ended
            .as_ref()
            .is_some_and(|lease| lease.due(now) == Due::Nothing)
        {
            leases.ended = None;
        }
        let is_today = call.day == leases.today.day;
        if answer.free < 0 && is_today && has_rest {
            // The leases exceed the quota, which was lowered.
            return self.lower(call.scope, call.day, 0);
        }
        changed.then(|| Step::Publish(self.bound(call.scope, call.day)))
    }

    /// Records that `call` has no answer.
    pub fn failed(&mut self, now: Instant, call: &Call, failure: Failure) {
        match failure {
            Failure::Unanswered => self.outage.failed(now),
            Failure::OtherServer => self.outage.answered(),
        }
        let Some(leases) = self.scopes.get_mut(&call.scope) else {
            return;
        };
        if let Some(lease) = leases.on(call.day) {
            lease.failed(now, call.operation);
            if failure == Failure::OtherServer {
                lease.report();
            }
            self.queue.push(call.scope, now);
        }
    }

    /// Records that the engine has answered something else than a call.
    pub fn engine_answered(&mut self) {
        self.outage.answered();
    }

    /// Records that the engine has not answered something else than a call.
    pub fn engine_failed(&mut self, now: Instant) {
        self.outage.failed(now);
    }

    /// Makes the host report all its leases, because the engine may have forgotten some.
    pub fn report_all(&mut self, now: Instant) {
        for (&scope, leases) in &mut self.scopes {
            for lease in leases.all().filter(|lease| lease.total > 0) {
                lease.report();
            }
            self.queue.push(scope, now);
        }
    }

    /// Gives back what the host does not need of a scope, because another host needs it.
    pub fn recall(
        &mut self,
        now: Instant,
        scope: ScopeId,
        day: Day,
        recall: Recall,
    ) -> Option<Step> {
        let leases = self.scopes.get_mut(&scope)?;
        let keep = leases.kept(recall);
        let lease = leases.on(day)?;
        if recall == Recall::All && lease.left() == 0 && lease.total > 0 {
            // There is nothing to give back, but the engine may not know that all of it is used.
            if lease.report_use() {
                self.queue.push(scope, now);
            }
            return None;
        }
        self.lower(scope, day, keep)
    }

    fn lower(&mut self, scope: ScopeId, day: Day, keep: u64) -> Option<Step> {
        let lease = self.scopes.get_mut(&scope)?.on(day)?;
        lease
            .lower(keep)
            .then(|| Step::Lower(self.bound(scope, day)))
    }

    /// Records that the kernel and the store have the lower bound of a [`Step::Lower`], and that
    /// `used` requests had been admitted when no program used the old one any more. The host then
    /// gives the rest back.
    pub fn lowered(&mut self, now: Instant, scope: ScopeId, day: Day, used: u64) {
        if let Some(lease) = self
            .scopes
            .get_mut(&scope)
            .and_then(|leases| leases.on(day))
        {
            lease.lowered(used);
            self.queue.push(scope, now);
        }
    }

    /// Gives back all leases, because the host leaves the fleet or stops.
    pub fn give_back_all(&mut self) -> Vec<Step> {
        let days: Vec<(ScopeId, Day)> = self
            .scopes
            .iter_mut()
            .flat_map(|(&scope, leases)| leases.all().map(move |lease| (scope, lease.day)))
            .collect();
        days.into_iter()
            .filter_map(|(scope, day)| self.lower(scope, day, 0))
            .collect()
    }

    /// Checks whether the engine is lost. Returns the bounds that change if it has just been lost
    /// or has just come back. While it is lost, the caller calls this every second.
    pub fn check_engine(&mut self, now: Instant) -> Vec<Step> {
        let changed = self.outage.check(now);
        let lost = self.outage.is_lost();
        let mut steps = Vec::new();
        let scopes: Vec<ScopeId> = self.scopes.keys().copied().collect();
        for scope in scopes {
            let Some(leases) = self.scopes.get_mut(&scope) else {
                continue;
            };
            let today = leases.today.day;
            let short = leases.today.is_short();
            if lost && (short || self.settings.engine_lost == EngineLost::Closed) {
                leases.today.refuse_until(now + REFUSED_FOR);
            }
            if changed && lost && self.settings.engine_lost == EngineLost::Share {
                let part = leases.today.free / self.hosts;
                leases.alone = Some(leases.today.total.saturating_add(part));
            }
            if changed && !lost {
                leases.alone = None;
                leases.today.reconsider();
                leases.today.report();
                self.queue.push(scope, now);
            }
            if changed || lost && short {
                steps.push(Step::Publish(self.bound(scope, today)));
            }
        }
        steps
    }

    /// Returns the bound for a scope and day, with what the rule for a lost engine adds to the
    /// lease or takes from it.
    fn bound(&self, scope: ScopeId, day: Day) -> Bound {
        let Some(leases) = self.scopes.get(&scope) else {
            return Lease::new(day, 0, 0).bound(scope);
        };
        let lease = [Some(&leases.today), leases.tomorrow.as_ref()]
            .into_iter()
            .flatten()
            .find(|lease| lease.day == day)
            .unwrap_or(&leases.today);
        let mut bound = lease.bound(scope);
        if self.outage.is_lost() && day == leases.today.day {
            bound.limit = match self.settings.engine_lost {
                EngineLost::Lease => bound.limit,
                EngineLost::Share => bound.limit.max(leases.alone.unwrap_or(0)),
                EngineLost::Open => bound.limit.max(leases.quota),
                EngineLost::Closed => 0,
            };
        }
        bound
    }
}

#[cfg(test)]
mod tests;
