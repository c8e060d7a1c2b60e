// SPDX-License-Identifier: MIT OR Apache-2.0

//! The number of requests that a host needs for a scope.

use std::time::Duration;

/// The weight of the last second in the average: for few requests, and for more than
/// [`MANY`] of them.
const WEIGHTS: (f64, f64) = (0.1, 0.3);
/// The number of requests in a second above which the average follows them faster.
const MANY: u64 = 5;
/// An average below this, in requests a second, counts as none.
const NEGLIGIBLE: f64 = 0.003;

/// The recent requests of a scope on one host.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Demand {
    /// The moving average, in requests a second.
    average: f64,
    /// The requests in the last whole second.
    last: u64,
    /// The requests since then.
    current: u64,
}

impl Demand {
    /// Counts requests that the host has admitted.
    pub(crate) fn add(&mut self, requests: u64) {
        self.current = self.current.saturating_add(requests);
    }

    /// Ends a second.
    pub(crate) fn tick(&mut self) {
        let weight = if self.current > MANY {
            WEIGHTS.1
        } else {
            WEIGHTS.0
        };
        self.average += weight * (self.current as f64 - self.average);
        if self.average < NEGLIGIBLE {
            self.average = 0.0;
        }
        self.last = self.current;
        self.current = 0;
    }

    /// Returns whether there were no requests lately.
    pub(crate) fn is_idle(&self) -> bool {
        self.average == 0.0 && self.last == 0 && self.current == 0
    }

    /// Returns the number of requests that the host asks for: the average demand for the time
    /// `lease` or twice the requests of the last second, whichever is larger, and at least 1.
    pub(crate) fn wanted(&self, lease: Duration) -> u64 {
        let average = (self.average * lease.as_secs_f64()).ceil() as u64;
        average
            .max(self.last.max(self.current).saturating_mul(2))
            .max(1)
    }

    /// Returns the expected number of requests within `time`, which may be a fraction.
    pub(crate) fn within(&self, time: Duration) -> f64 {
        self.average * time.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn without_requests_a_host_wants_one() {
        assert_eq!(Demand::default().wanted(MINUTE), 1);
        assert!(Demand::default().is_idle());
    }

    #[test]
    fn a_host_wants_the_average_of_the_lease_or_twice_the_last_second() {
        let mut demand = Demand::default();
        for _ in 0..60 {
            demand.add(10);
            demand.tick();
        }
        assert_eq!(demand.wanted(MINUTE), 600);
        demand.add(1_000);
        assert_eq!(demand.wanted(MINUTE), 2_000);
        demand.tick();
        // 0.7 × 10 + 0.3 × 1,000 a second.
        assert_eq!(demand.wanted(MINUTE), 18_420);
    }

    #[test]
    fn demand_that_ends_is_forgotten() {
        let mut demand = Demand::default();
        demand.add(1);
        assert!(!demand.is_idle());
        demand.tick();
        assert!(!demand.is_idle());
        for _ in 0..40 {
            demand.tick();
        }
        assert!(demand.is_idle());
    }
}
