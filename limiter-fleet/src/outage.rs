// SPDX-License-Identifier: MIT OR Apache-2.0

//! The detection of an engine that does not answer.

use std::time::{Duration, Instant};

/// The time without an answer after which the engine counts as lost.
const LOST_AFTER: Duration = Duration::from_secs(5);

/// The rule for the time in which the engine is lost (`fleet.engine_lost`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EngineLost {
    /// A host uses up its lease and then refuses requests. The fleet never exceeds the quota.
    #[default]
    Lease,
    /// A host may also use its share of the quota that was free when it last received an answer.
    /// The fleet may admit up to twice the quota.
    Share,
    /// Each host may use the whole quota.
    Open,
    /// All requests are refused.
    Closed,
}

/// A time without answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Outage {
    /// The time of the first failure since the last answer.
    since: Option<Instant>,
}

impl Outage {
    pub(crate) fn failed(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    pub(crate) fn answered(&mut self) {
        self.since = None;
    }

    /// Returns whether there has been no answer for so long that the engine counts as lost.
    pub(crate) fn is_long(self, now: Instant) -> bool {
        self.since
            .is_some_and(|since| now.saturating_duration_since(since) >= LOST_AFTER)
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
        assert!(!outage.is_long(at(9)));
        outage.failed(at(0));
        outage.failed(at(4));
        assert!(!outage.is_long(at(4)) && outage.is_long(at(5)));
        outage.answered();
        assert!(!outage.is_long(at(9)));
    }
}
