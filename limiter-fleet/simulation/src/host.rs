// SPDX-License-Identifier: MIT OR Apache-2.0

//! A host of the simulation: the daemon's leases, and a model of the kernel and of the store.

use std::time::Instant;

use limiter_common::day::Day;
use limiter_fleet::{Bound, Excess, HostLeases, Settings, Step};

/// The only scope.
pub const SCOPE: u32 = 0;
/// The first day of a simulation.
pub const FIRST_DAY: Day = Day(20_000);
/// The number of days of a simulation.
pub const DAYS: usize = 3;

/// The verdict of the kernel on a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The request is admitted. The kernel reports to the daemon if the flag is set.
    Admitted(bool),
    /// The client has to send the request again.
    Held,
    /// The request is refused.
    Refused,
}

/// A host.
#[derive(Debug)]
pub struct Host {
    /// Whether the host runs.
    pub alive: bool,
    /// Whether the daemon of the host runs.
    pub attended: bool,
    /// Whether the host is cut off from the engine.
    pub cut: bool,
    /// The leases.
    pub leases: HostLeases,
    /// The generation of the scope's counts.
    pub generation: u64,
    /// The number of the server to which the host is connected.
    pub server: usize,
    /// The name of that server when the host connected.
    pub server_name: String,
    /// The time by which the host's clock is ahead of the engine's, in µs.
    pub ahead_us: i64,
    /// The time of the next event that asks the host for calls, in µs.
    pub poll_at: Option<u64>,
    /// Whether an event at the end of the current second is scheduled.
    pub ticks: bool,
    /// The requests of each day, in this generation.
    pub counts: [u64; DAYS],
    bounds: [Option<Bound>; DAYS],
    /// The bounds in the host's store.
    stored: [u64; DAYS],
}

impl Host {
    /// Returns a host without leases.
    #[must_use]
    pub fn new(settings: Settings, ahead_us: i64, alive: bool) -> Self {
        Self {
            alive,
            attended: true,
            cut: false,
            leases: HostLeases::new(settings),
            generation: 0,
            server: 0,
            server_name: String::new(),
            ahead_us,
            poll_at: None,
            ticks: false,
            counts: [0; DAYS],
            bounds: [None; DAYS],
            stored: [0; DAYS],
        }
    }

    /// Returns the index of the day on the host's clock.
    #[must_use]
    pub fn day(&self, at_us: u64) -> usize {
        let day = at_us.saturating_add_signed(self.ahead_us) / crate::scenario::DAY;
        (day as usize).min(DAYS - 1)
    }

    /// Judges a request of the day with the index `day`, and counts it if it is admitted.
    pub fn judge(&mut self, now: Instant, day: usize) -> Verdict {
        let (limit, report_at, excess) = match &self.bounds[day] {
            Some(bound) => (bound.limit, bound.report_at, bound.excess),
            None => (0, 0, Excess::Held),
        };
        if self.counts[day] < limit {
            self.counts[day] += 1;
            let count = self.counts[day];
            return Verdict::Admitted(count == report_at || count == limit);
        }
        match excess {
            Excess::RefusedAllDay => Verdict::Refused,
            Excess::RefusedUntil(until) if now < until => Verdict::Refused,
            // The kernel refuses what no daemon can extend.
            _ if !self.attended => Verdict::Refused,
            _ => Verdict::Held,
        }
    }

    /// Makes a change that the leases ask for.
    pub fn apply(&mut self, now: Instant, step: Step) {
        let (Step::Publish(bound) | Step::Lower(bound)) = step;
        let day = index(bound.day);
        self.bounds[day] = Some(bound);
        let used = self.counts[day];
        // The kernel may not admit more than the store has recorded.
        self.stored[day] = bound.lease.max(bound.limit).max(used);
        if let Step::Lower(_) = step {
            self.leases.lowered(now, &bound, used);
        }
    }

    /// Returns the leased and unused requests of a day.
    #[must_use]
    pub fn left(&self, day: usize) -> u64 {
        let limit = self.bounds[day].map_or(0, |bound| bound.limit);
        limit.saturating_sub(self.counts[day])
    }

    /// Starts the host after a crash. What was leased counts as used.
    pub fn reboot(&mut self, now: Instant, settings: Settings, at_us: u64, quota: u64) {
        self.counts = self.stored;
        self.start(now, settings, at_us, quota);
        self.alive = true;
    }

    /// Starts the daemon of the host.
    pub fn start(&mut self, now: Instant, settings: Settings, at_us: u64, quota: u64) {
        self.leases = HostLeases::new(settings);
        self.attended = true;
        self.poll_at = None;
        let today = self.day(at_us);
        let of_scope = (self.generation, quota);
        let steps = self.leases.set_quota(now, SCOPE, day_at(today), of_scope);
        debug_assert!(steps.is_empty(), "the scope is new: {steps:?}");
        for day in 0..DAYS {
            if self.stored[day] > 0 {
                let (lease, used) = (self.stored[day], self.counts[day]);
                self.leases.restore(now, SCOPE, day_at(day), lease, used);
            }
        }
    }

    /// Begins a new generation of counts.
    pub fn reset(&mut self, generation: u64) {
        self.generation = generation;
        self.counts = [0; DAYS];
        self.bounds = [None; DAYS];
        self.stored = [0; DAYS];
    }
}

/// Returns the day with the index `day`.
#[must_use]
pub fn day_at(day: usize) -> Day {
    Day(FIRST_DAY.0 + day as u32)
}

/// Returns the index of `day`.
#[must_use]
pub fn index(day: Day) -> usize {
    ((day.0 - FIRST_DAY.0) as usize).min(DAYS - 1)
}
