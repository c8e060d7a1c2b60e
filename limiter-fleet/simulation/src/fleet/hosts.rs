// SPDX-License-Identifier: MIT OR Apache-2.0

//! The hosts: the readings of their counts, their calls, and their connections.

use super::{Action, Fleet, NAME};
use crate::host::{SCOPE, day_at};
use crate::scenario::SECOND;
use limiter_fleet::{Bucket, Call, Step};

impl Fleet {
    /// Tells the daemon of a host about a request that its kernel has admitted or held.
    pub(super) fn count(&mut self, host: usize, day: usize, held: bool) {
        let now = self.now();
        let host_index = host;
        let host = &mut self.hosts[host];
        if !host.attended {
            return;
        }
        let used = host.counts[day];
        let step = host.leases.count(now, SCOPE, day_at(day), used, held);
        self.apply(host_index, step);
    }

    pub(super) fn apply(&mut self, host: usize, step: Option<Step>) {
        let now = self.now();
        if let Some(step) = step {
            self.hosts[host].apply(now, step);
        }
        self.look(host);
    }

    /// Schedules the event that takes the calls of a host.
    pub(super) fn look(&mut self, host: usize) {
        let Some(next) = self.hosts[host].leases.next_call() else {
            return;
        };
        let next = next.saturating_duration_since(self.base).as_micros() as u64;
        let next = next.max(self.at);
        if self.hosts[host].poll_at.is_none_or(|at| next < at) {
            self.hosts[host].poll_at = Some(next);
            self.schedule.add(next, Action::Poll(host));
        }
    }

    pub(super) fn poll(&mut self, host: usize) {
        if self.hosts[host].poll_at != Some(self.at) {
            return;
        }
        self.hosts[host].poll_at = None;
        if !self.hosts[host].alive || !self.hosts[host].attended {
            return;
        }
        let now = self.now();
        for call in self.hosts[host].leases.calls(now, usize::MAX) {
            self.send(host, call);
        }
        self.look(host);
    }

    pub(super) fn send(&mut self, host: usize, call: Call) {
        let server = self.hosts[host].server;
        let arrival = self.at + self.latency();
        if self.hosts[host].cut {
            // Nothing comes back, not even an error.
            return;
        }
        self.schedule
            .add(arrival, Action::Execute { host, call, server });
        if self.random.fraction() < self.scenario.repeated_calls {
            let arrival = arrival + self.random.below(SECOND);
            self.schedule
                .add(arrival, Action::Execute { host, call, server });
        }
    }

    /// Returns whether the daemon of a host runs and reaches the engine.
    pub(super) fn reaches(&self, host: usize) -> bool {
        let host = &self.hosts[host];
        host.alive && host.attended && !host.cut && self.engine_up
    }

    /// Schedules the event that a host has every second. A host without requests has none, because
    /// the event would change nothing.
    pub(super) fn wake(&mut self, host: usize) {
        if !self.hosts[host].ticks {
            self.hosts[host].ticks = true;
            let offset = SECOND / 2 + self.random.below(SECOND / 2);
            self.schedule.add(self.at + offset, Action::Tick(host));
        }
    }

    pub(super) fn wake_all(&mut self) {
        for host in 0..self.hosts.len() {
            self.wake(host);
        }
    }

    pub(super) fn tick(&mut self, host: usize) {
        self.hosts[host].ticks = false;
        if !self.hosts[host].alive || !self.hosts[host].attended {
            return;
        }
        let reaches = self.reaches(host);
        if !reaches || !self.hosts[host].leases.is_idle(SCOPE) {
            self.hosts[host].ticks = true;
            self.schedule.add(self.at + SECOND, Action::Tick(host));
        }
        let now = self.now();
        let day = self.hosts[host].day(self.at);
        let used = self.hosts[host].counts[day];
        let step = self.hosts[host].leases.tick(now, SCOPE, day_at(day), used);
        self.apply(host, step);
        if reaches {
            self.hosts[host].leases.engine_answered();
            let server = &self.servers[self.hosts[host].server];
            if !server.has(&Bucket::of(NAME).state_key()) {
                // The server has lost its data.
                self.hosts[host].leases.report_all(now);
            }
        } else {
            self.hosts[host].leases.engine_failed(now);
        }
        for step in self.hosts[host].leases.check_engine(now) {
            self.hosts[host].apply(now, step);
        }
        self.look(host);
    }

    /// Connects a host to the newest server.
    pub(super) fn reconnect(&mut self, host: usize) {
        if !self.reaches(host) {
            return;
        }
        let newest = self.servers.len() - 1;
        self.hosts[host].server = newest;
        let name = self.servers[newest].name.clone();
        if self.hosts[host].server_name != name {
            self.hosts[host].server_name = name;
            let now = self.now();
            self.hosts[host].leases.report_all(now);
        }
        self.look(host);
    }

    /// Tells a host the quota and the generation.
    pub(super) fn learns(&mut self, host: usize) {
        let (now, generation) = (self.now(), self.generation);
        if generation != self.hosts[host].generation {
            self.hosts[host].reset(generation);
        }
        let day = day_at(self.hosts[host].day(self.at));
        let of_scope = (generation, self.quota);
        let steps = self.hosts[host].leases.set_quota(now, SCOPE, day, of_scope);
        for step in steps {
            self.hosts[host].apply(now, step);
        }
        self.look(host);
    }
}
