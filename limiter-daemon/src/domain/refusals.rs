// SPDX-License-Identifier: MIT OR Apache-2.0

//! The numbers of refused requests, by the limit that refused them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The numbers of requests that each limit has refused, or would have refused if the limits had
/// been enforced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Refusals {
    /// The number of requests that exceeded the rate.
    pub rate: u64,
    /// The number of requests that exceeded the limit of requests in flight.
    pub concurrency: u64,
    /// The number of requests that exceeded the limit of connections.
    pub connections: u64,
    /// The number of requests that exceeded the daily quota.
    pub daily_quota: u64,
}

impl Refusals {
    /// Converts counts in the order of `limiter_common::abi::reason`.
    pub fn from_array([rate, concurrency, connections, daily_quota]: [u64; 4]) -> Self {
        Self {
            rate,
            concurrency,
            connections,
            daily_quota,
        }
    }

    /// Returns the sum of `self` and `other` for each limit.
    pub fn plus(self, other: Self) -> Self {
        Self {
            rate: self.rate.saturating_add(other.rate),
            concurrency: self.concurrency.saturating_add(other.concurrency),
            connections: self.connections.saturating_add(other.connections),
            daily_quota: self.daily_quota.saturating_add(other.daily_quota),
        }
    }

    /// Returns the number of refusals since `earlier`, for each limit. If a count is lower than
    /// before, its counter has started again from 0, and the whole count is returned.
    pub fn since(self, earlier: Self) -> Self {
        let since = |now: u64, then: u64| now.checked_sub(then).unwrap_or(now);
        Self {
            rate: since(self.rate, earlier.rate),
            concurrency: since(self.concurrency, earlier.concurrency),
            connections: since(self.connections, earlier.connections),
            daily_quota: since(self.daily_quota, earlier.daily_quota),
        }
    }

    /// Returns the sum over all limits.
    pub fn total(self) -> u64 {
        self.rate + self.concurrency + self.connections + self.daily_quota
    }
}
