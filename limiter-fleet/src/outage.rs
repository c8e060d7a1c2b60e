// SPDX-License-Identifier: MIT OR Apache-2.0

//! The time in which a host does not reach the engine.

use std::time::{Duration, Instant};

/// The time without an answer after which the engine counts as lost.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// The rule for the time in which the engine is lost (`fleet.engine_lost`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EngineLost {
    /// A host goes on with its lease, and then refuses. The fleet never exceeds the quota.
    #[default]
    Lease,
    /// Beyond its lease, each host may use its part of what was free when it last heard from the
    /// engine. The fleet may use up to twice the quota.
    Share,
    /// Each host may use the whole quota.
    Open,
    /// All requests are refused.
    Closed,
}

/// Whether the engine answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Outage {
    /// The time of the first call since the last answer that has failed.
    since: Option<Instant>,
    /// Whether the engine counted as lost at the last check.
    lost: bool,
}

impl Outage {
    pub(crate) fn failed(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    pub(crate) fn answered(&mut self) {
        self.since = None;
    }

    /// Returns whether the engine counted as lost at the last check.
    pub(crate) fn is_lost(self) -> bool {
        self.lost
    }

    /// Checks whether the engine is lost, and returns whether that has changed since the last
    /// check.
    pub(crate) fn check(&mut self, now: Instant) -> bool {
        let lost = self
            .since
            .is_some_and(|since| now.saturating_duration_since(since) >= PATIENCE);
        std::mem::replace(&mut self.lost, lost) != lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_is_lost_after_five_seconds_without_an_answer() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut outage = Outage::default();
        outage.failed(at(0));
        outage.failed(at(4));
        assert!(!outage.check(at(4)) && !outage.is_lost());
        assert!(outage.check(at(5)) && outage.is_lost());
        assert!(!outage.check(at(6)) && outage.is_lost());
        outage.answered();
        assert!(outage.check(at(7)) && !outage.is_lost());
    }
}
