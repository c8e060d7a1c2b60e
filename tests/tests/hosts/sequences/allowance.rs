// SPDX-License-Identifier: MIT OR Apache-2.0

//! The number of requests that a fleet may admit, after commands some of which have failed.

/// The requests of a scope that a fleet may have admitted. A reset begins a generation, in which
/// the whole quota may be used again. A command that has failed may be in force all the same.
#[derive(Debug, Clone, Copy)]
pub struct Allowance {
    /// The most requests of earlier generations.
    earlier: u64,
    /// The highest quota of the present generation.
    highest: u64,
    /// The quota in force, or `None` if it is not known.
    quota: Option<u64>,
    /// Whether there may have been a reset.
    pub was_reset: bool,
}

impl Allowance {
    pub fn new(quota: u64) -> Self {
        Self {
            earlier: 0,
            highest: quota,
            quota: Some(quota),
            was_reset: false,
        }
    }

    /// Records a command that sets the quota.
    pub fn set_quota(&mut self, quota: u64, has_succeeded: bool) {
        // A host that is cut off may go on with an earlier quota of this generation.
        self.highest = self.highest.max(quota);
        self.quota = has_succeeded.then_some(quota);
    }

    /// Records a command that resets the counts.
    pub fn reset(&mut self, has_succeeded: bool) {
        self.earlier += self.highest;
        self.was_reset = true;
        self.quota = self.quota.filter(|_| has_succeeded);
        self.highest = self.quota.unwrap_or(self.highest);
    }

    /// Returns the most requests that the fleet may have admitted.
    pub fn most(&self) -> u64 {
        self.earlier + self.highest
    }

    /// Returns the quota in force, or `None` if it is not known.
    pub fn quota(&self) -> Option<u64> {
        self.quota
    }
}
