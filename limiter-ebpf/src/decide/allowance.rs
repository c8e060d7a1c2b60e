// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The allowance of a scope, which limits how far the count of the scope may run ahead of the count
//! in the store.

use limiter_common::{
    abi::{UNLIMITED, policy},
    day::DayCount,
};

use crate::kernel::{clock, maps, shared::ScopeLimits};

/// The verdict on a request that was charged.
pub const ADMITTED: u32 = u32::MAX;

/// The verdict on a request that has to wait until the daemon extends the allowance. The request is
/// withheld from the server, and is judged again when the client retransmits it.
pub const WAITS: u32 = u32::MAX - 2;

/// The bounds on the count of a scope that result from its allowance.
pub struct Allowance {
    /// The count up to which requests are admitted, unless the daily quota is lower.
    pub limit: u64,
    /// The count up to which the store has recorded requests in advance, or [`UNLIMITED`] if the
    /// store does not have to record any in advance.
    pub allowed: u64,
    ahead: u64,
}

impl Allowance {
    /// Returns the allowance that applies at `boot_ns` (`CLOCK_BOOTTIME`) according to `limits`.
    /// `count` contains the current day.
    #[inline(always)]
    pub fn of(limits: ScopeLimits, count: DayCount, boot_ns: u64) -> Self {
        let word = limits.allowance();
        let ahead = u64::from(limits.ahead());
        if ahead == 0 {
            return Self {
                limit: UNLIMITED,
                allowed: UNLIMITED,
                ahead,
            };
        }
        let allowed = if word.day().0 == count.day().0 {
            word.count()
        } else {
            ahead
        };
        let attended = boot_ns < clock::attended_until_ns();
        Self {
            limit: if attended || !admits_unattended() {
                allowed
            } else {
                UNLIMITED
            },
            allowed,
            ahead,
        }
    }

    /// Returns whether to report the allowance to the daemon after a request with this `verdict`.
    /// That is the case if the request has to wait, if it is the first request that is admitted on
    /// this day, or if exactly a half or a quarter of `ahead` is left after it. `count` is the
    /// count before the request.
    #[inline(always)]
    pub fn is_to_be_reported(&self, verdict: u32, count: DayCount) -> bool {
        if verdict == WAITS {
            return true;
        }
        if verdict != ADMITTED || self.allowed == UNLIMITED {
            return false;
        }
        let left = self.allowed.wrapping_sub(count.count() + 1);
        count.count() == 0 || left == self.ahead / 2 || left == self.ahead / 4
    }
}

/// Returns whether requests beyond the allowance are admitted while no daemon extends it.
#[inline(always)]
fn admits_unattended() -> bool {
    match maps::config() {
        Some(config) => config.unattended == policy::PASS,
        None => false,
    }
}
