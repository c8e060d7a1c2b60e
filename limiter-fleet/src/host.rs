// SPDX-License-Identifier: MIT OR Apache-2.0

//! When a host calls the engine, what its kernel may admit, and how much of its leases it gives
//! back.

mod give_back;
mod lost_engine;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use limiter_common::day::Day;

use crate::{
    ScopeId,
    call::{Answer, Call, Purpose, Recall, Status},
    lease::{Bound, Due, Excess, Lease, REFUSED_FOR},
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
    /// The highest number of a call that this host has used. Numbers stay below 2^53, which is the
    /// range in which the engine's scripts count exactly.
    pub last_number: u64,
}

/// A change that the caller has to make. The caller makes the changes in the order in which they
/// are returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Record the lease in the store, and then publish the bound to the kernel.
    Publish(Bound),
    /// Publish the lower bound to the kernel, wait until no program uses the old one, read the
    /// count (after a reset, set it to zero), record the lease in the store, and call
    /// [`HostLeases::lowered`].
    Lower(Bound),
}

/// The reason why a call has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The engine did not answer or returned an error, or too few replicas confirmed the grant. The
    /// call may have been executed.
    Unanswered,
    /// The server of the bucket has changed or has lost its data, and the call was not executed.
    /// The client has recorded the new server (`scripts/claim.lua`). The host reports its lease
    /// again.
    OtherServer,
}

/// The leases of one host.
#[derive(Debug)]
pub struct HostLeases {
    settings: Settings,
    /// The number of hosts in the fleet.
    hosts: u64,
    /// The number of the last call.
    calls: u64,
    /// The number of the last bound.
    bounds: u64,
    scopes: HashMap<ScopeId, ScopeLeases>,
    queue: Queue,
    /// The time without an answer to a heartbeat.
    silence: Outage,
    /// Whether the engine did not answer heartbeats at the last check.
    unreachable: bool,
    /// Whether the host leaves the fleet or stops.
    leaving: bool,
}

impl HostLeases {
    /// Returns a host without leases.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            hosts: 1,
            calls: settings.last_number,
            bounds: 0,
            scopes: HashMap::new(),
            queue: Queue::default(),
            silence: Outage::default(),
            unreachable: false,
            leaving: false,
        }
    }

    /// Sets the number of hosts in the fleet.
    pub fn set_hosts(&mut self, hosts: u64) {
        self.hosts = hosts.max(1);
    }

    /// Sets the quota of a scope, and the generation of its counts. A new generation begins with an
    /// empty lease. If the quota has been lowered, the host gives back the part of its lease that
    /// it does not need. Returns the steps that follow.
    pub fn set_quota(
        &mut self,
        now: Instant,
        scope: ScopeId,
        day: Day,
        (generation, quota): (u64, u64),
    ) -> Vec<Step> {
        let leases = self
            .scopes
            .entry(scope)
            .or_insert_with(|| ScopeLeases::new(generation, quota, day));
        leases.begin(day);
        if generation > leases.generation {
            let mut fresh = ScopeLeases::new(generation, quota, day);
            fresh.demand = leases.demand;
            fresh.tomorrow = leases
                .tomorrow
                .as_ref()
                .map(|lease| Lease::new(lease.day, lease.quota, 0, 0));
            *leases = fresh;
            let days: Vec<Day> = leases.all().map(|lease| lease.day).collect();
            return days
                .into_iter()
                .filter_map(|day| self.enforce(scope, day))
                .collect();
        }
        let before = std::mem::replace(&mut leases.today.quota, quota);
        if before == quota {
            return Vec::new();
        }
        let was_refused = leases.today.excess() != Excess::Held;
        leases.today.reconsider();
        if quota > before {
            return match was_refused {
                true => vec![self.publish(scope, day)],
                false => Vec::new(),
            };
        }
        let keep = leases.reserve(Recall::Most);
        // Tomorrow's lease is given back, because it was granted for the higher quota.
        let tomorrow = leases.tomorrow.as_mut().map(|lease| {
            lease.quota = quota;
            lease.day
        });
        let mut steps: Vec<Step> = self.lower(scope, day, keep).into_iter().collect();
        steps.extend(tomorrow.and_then(|tomorrow| self.lower(scope, tomorrow, 0)));
        if let Some(leases) = self.scopes.get_mut(&scope)
            && steps.is_empty()
        {
            // Nothing is given back. The engine is asked whether too much is leased.
            leases.today.report();
        }
        self.queue.push(scope, now);
        steps
    }

    /// Returns the step after which the kernel enforces exactly the lease.
    fn enforce(&mut self, scope: ScopeId, day: Day) -> Option<Step> {
        self.bounds += 1;
        let number = self.bounds;
        let lease = self.scopes.get_mut(&scope)?.of_day(day)?;
        lease.wait_for_kernel(number);
        Some(Step::Lower(lease.bound(scope, number)))
    }

    /// Enters a lease that the store or the kernel has from an earlier run of the daemon. The host
    /// reports it to the engine. Returns the step that follows, unless the day has ended.
    pub fn restore(
        &mut self,
        now: Instant,
        scope: ScopeId,
        day: Day,
        lease: u64,
        used: u64,
    ) -> Option<Step> {
        let leases = self.scopes.get_mut(&scope)?;
        let mut restored = Lease::new(day, leases.today.quota, lease, used);
        restored.report();
        match day.cmp(&leases.today.day) {
            std::cmp::Ordering::Less => leases.ended = Some(restored),
            std::cmp::Ordering::Equal => {
                leases.today = restored;
                leases.served |= used > 0;
            }
            std::cmp::Ordering::Greater => leases.tomorrow = Some(restored),
        }
        let is_open = day >= leases.today.day;
        self.queue.push(scope, now);
        is_open.then(|| self.publish(scope, day))
    }

    /// Removes a scope.
    pub fn remove(&mut self, scope: ScopeId) {
        self.scopes.remove(&scope);
    }

    /// Records that the host has admitted `used` requests of a scope since `day` began. `held`
    /// means that the kernel holds a request beyond the lease. Returns the step that follows, if
    /// there is one.
    pub fn count(
        &mut self,
        now: Instant,
        scope: ScopeId,
        day: Day,
        used: u64,
        held: bool,
    ) -> Option<Step> {
        let leases = self.scopes.get_mut(&scope)?;
        leases.begin(day);
        let mut changed = leases.count(now, day, used, held);
        let lost = leases.lost;
        let lease = leases.of_day(day)?;
        if self.leaving {
            lease.finish();
        }
        if lost && held {
            lease.refuse_until(now + REFUSED_FOR);
            changed = true;
        }
        if lease.due(now) != Due::Nothing {
            self.queue.push(scope, now);
        }
        changed.then(|| self.publish(scope, day))
    }

    /// Does the same as [`Self::count`] at the end of each second, and updates the average demand.
    pub fn tick(&mut self, now: Instant, scope: ScopeId, day: Day, used: u64) -> Option<Step> {
        let step = self.count(now, scope, day, used, false);
        if let Some(leases) = self.scopes.get_mut(&scope) {
            leases.demand.tick();
        }
        step
    }

    /// Returns whether the host's average demand for a scope is negligible.
    #[must_use]
    pub fn is_idle(&self, scope: ScopeId) -> bool {
        self.scopes
            .get(&scope)
            .is_none_or(|leases| leases.demand.is_idle())
    }

    /// Asks for a lease of one request for tomorrow (`day`), if the host has admitted a request of
    /// the scope today. `quota` is the quota of tomorrow.
    pub fn prepare(&mut self, now: Instant, scope: ScopeId, day: Day, quota: u64) {
        if let Some(leases) = self.scopes.get_mut(&scope)
            && !self.leaving
            && leases.served
            && leases.tomorrow.is_none()
            && day > leases.today.day
        {
            let mut lease = Lease::new(day, quota, 0, 0);
            lease.ask();
            leases.tomorrow = Some(lease);
            self.queue.push(scope, now);
        }
    }

    /// Returns the number of requests of today that all hosts have admitted, as far as this host
    /// knows: its own, and those that the others had reported at the last answer of the engine.
    /// Returns `None` if the scope has no lease.
    #[must_use]
    pub fn used_by_all(&self, scope: ScopeId) -> Option<u64> {
        let today = &self.scopes.get(&scope)?.today;
        Some(today.used.saturating_add(today.used_by_others))
    }

    /// Returns up to `most` calls that are to be sent now.
    pub fn calls(&mut self, now: Instant, most: usize) -> Vec<Call> {
        let mut calls = Vec::new();
        while !self.unreachable
            && calls.len() < most
            && let Some(scope) = self.queue.pop(now)
        {
            let Some(leases) = self.scopes.get_mut(&scope) else {
                continue;
            };
            let wanted = leases.demand.wanted(self.settings.lease);
            let (generation, today) = (leases.generation, leases.today.day);
            for lease in leases.all() {
                lease.note_unanswered(now);
                let purpose = match lease.due(now) {
                    Due::Nothing => continue,
                    Due::At(at) => {
                        self.queue.push(scope, at);
                        continue;
                    }
                    Due::Call(Purpose::Extend(used)) if lease.day > today => {
                        Purpose::Extend(used + 1)
                    }
                    Due::Call(Purpose::Extend(used)) => {
                        Purpose::Extend(used.saturating_add(wanted))
                    }
                    Due::Call(Purpose::Report) => Purpose::Report,
                };
                self.calls += 1;
                let look_again = lease.sent(now, self.calls, purpose);
                self.queue.push(scope, look_again);
                calls.push(Call {
                    scope,
                    day: lease.day,
                    generation,
                    quota: lease.quota,
                    lease: lease.total,
                    used: lease.used,
                    purpose,
                    number: self.calls,
                });
            }
        }
        calls
    }

    /// Returns the time at which [`Self::calls`] may have something to send. While the engine
    /// cannot be reached, that is never.
    pub fn next_call(&mut self) -> Option<Instant> {
        self.queue.next().filter(|_| !self.unreachable)
    }

    /// Returns whether the engine has answered everything that this host has to tell or to ask.
    #[must_use]
    pub fn is_settled(&mut self, now: Instant) -> bool {
        let mut leases = self.scopes.values_mut().flat_map(ScopeLeases::all);
        leases.all(|lease| lease.due(now) == Due::Nothing)
    }

    /// Records the answer to `call`. Returns the step that follows, if there is one.
    pub fn answered(&mut self, now: Instant, call: &Call, answer: &Answer) -> Option<Step> {
        if answer.status == Status::Superseded {
            // The numbers of this host have gone back, for example because its store was restored.
            self.calls = self.calls.max(answer.lease);
        }
        let leases = self.scopes.get_mut(&call.scope)?;
        if leases.generation != call.generation {
            return None;
        }
        let lease = leases.of_day(call.day)?;
        let changed = lease.answered(now, (call.number, call.quota), answer);
        let has_rest = lease.left() > 0;
        if lease.due(now) != Due::Nothing {
            self.queue.push(call.scope, now);
        }
        let has_ended = call.day < leases.today.day;
        if let Some(ended) = &leases.ended
            && ended.due(now) == Due::Nothing
        {
            leases.ended = None;
        }
        if answer.free < 0 && has_rest && !has_ended {
            // The leases exceed the quota, which was lowered.
            return self.lower(call.scope, call.day, 0);
        }
        changed.then(|| self.publish(call.scope, call.day))
    }

    /// Returns the number of requests that all hosts have reported, if it exceeds the quota in the
    /// answer to `call` and did not in the answer before. Each excess is returned once.
    pub fn take_overrun(&mut self, call: &Call) -> Option<u64> {
        let leases = self.scopes.get_mut(&call.scope)?;
        leases.of_day(call.day)?.take_overrun()
    }

    /// Records that `call` has no answer.
    pub fn failed(&mut self, now: Instant, call: &Call, failure: Failure) {
        let Some(leases) = self.scopes.get_mut(&call.scope) else {
            return;
        };
        if let Some(lease) = leases.of_day(call.day) {
            lease.failed(now, call.number);
            if failure == Failure::OtherServer {
                lease.outage.answered();
                lease.report();
            }
            self.queue.push(call.scope, now);
        }
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

    /// Returns the step that publishes the bound of a scope on a day, with the effect of the rule
    /// for a lost engine.
    fn publish(&mut self, scope: ScopeId, day: Day) -> Step {
        self.bounds += 1;
        let number = self.bounds;
        let Some(leases) = self.scopes.get_mut(&scope) else {
            return Step::Publish(Lease::new(day, 0, 0, 0).bound(scope, number));
        };
        let (lost, alone) = (leases.lost, leases.outage_limit);
        let is_today = day == leases.today.day;
        let lease = match leases.of_day(day) {
            Some(lease) => &*lease,
            None => &leases.today,
        };
        let mut bound = lease.bound(scope, number);
        if lost && is_today {
            bound.limit = match self.settings.engine_lost {
                EngineLost::Lease => bound.limit,
                EngineLost::Share => bound.limit.max(alone.unwrap_or(0)),
                EngineLost::Open => bound.limit.max(lease.quota),
                EngineLost::Closed => 0,
            };
        }
        Step::Publish(bound)
    }
}

#[cfg(test)]
mod tests;
