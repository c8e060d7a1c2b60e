// SPDX-License-Identifier: MIT OR Apache-2.0

//! The leases of one scope.

use std::time::{Duration, Instant};

use limiter_common::day::Day;

use crate::{call::Recall, demand::Demand, lease::Lease};

/// The leases of a scope on a host: today's, tomorrow's from the hour before midnight on, and that
/// of a day that has ended until the engine has the host's final count.
#[derive(Debug, Clone)]
pub(crate) struct ScopeLeases {
    pub(crate) generation: u64,
    pub(crate) demand: Demand,
    pub(crate) today: Lease,
    pub(crate) tomorrow: Option<Lease>,
    pub(crate) ended: Option<Lease>,
    /// Whether the host has admitted a request of this scope today.
    pub(crate) served: bool,
    /// Whether the engine counts as lost for this scope. (In a cluster, the engine is several
    /// servers.)
    pub(crate) lost: bool,
    /// The number of requests of today that the host may admit while the engine is lost, if
    /// [`EngineLost`] allows more than the lease.
    ///
    /// [`EngineLost`]: crate::EngineLost
    pub(crate) outage_limit: Option<u64>,
}

impl ScopeLeases {
    pub(crate) fn new(generation: u64, quota: u64, day: Day) -> Self {
        Self {
            generation,
            demand: Demand::default(),
            today: Lease::new(day, quota, 0, 0),
            tomorrow: None,
            ended: None,
            served: false,
            lost: false,
            outage_limit: None,
        }
    }

    /// Returns the lease of `day`.
    pub(crate) fn of_day(&mut self, day: Day) -> Option<&mut Lease> {
        self.all().find(|lease| lease.day == day)
    }

    /// Returns all leases.
    pub(crate) fn all(&mut self) -> impl Iterator<Item = &mut Lease> {
        [
            Some(&mut self.today),
            self.tomorrow.as_mut(),
            self.ended.as_mut(),
        ]
        .into_iter()
        .flatten()
    }

    /// Begins `day`, if it is later than the day of today's lease.
    pub(crate) fn begin(&mut self, day: Day) {
        if day <= self.today.day {
            return;
        }
        let quota = self.today.quota;
        let next = self
            .tomorrow
            .take_if(|lease| lease.day == day)
            .unwrap_or_else(|| Lease::new(day, quota, 0, 0));
        let mut ended = std::mem::replace(&mut self.today, next);
        self.tomorrow = None;
        if ended.total > 0 {
            ended.report();
            self.ended = Some(ended);
        }
        self.served = false;
        self.outage_limit = None;
    }

    /// Records that the host has admitted `used` requests of `day`. Returns whether the bound of
    /// that day has changed.
    pub(crate) fn count(&mut self, now: Instant, day: Day, used: u64, held: bool) -> bool {
        let Some(lease) = self.of_day(day) else {
            return false;
        };
        let more = used.saturating_sub(lease.used);
        let changed = lease.count(now, used, held);
        self.demand.add(more);
        self.served |= more > 0;
        changed
    }

    /// Returns the number of requests that the host keeps after a recall.
    pub(crate) fn reserve(&self, recall: Recall) -> u64 {
        match recall {
            Recall::Most => self.demand.within(Duration::from_secs(2)).ceil() as u64,
            Recall::All => self.demand.within(Duration::from_millis(100)).floor() as u64,
        }
    }
}
