// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The allowance of a scope, which limits how far the count of the scope may run ahead of the count
//! in the store.

use limiter_common::{
    abi::{LIMITS_LEASED, REFUSED_ALL_DAY, UNLIMITED, policy, reason},
    day::{Day, DayCount},
};

use crate::kernel::{clock, global::global, maps, shared::ScopeLimits};

/// The verdict on a request that was charged.
pub const ADMITTED: u32 = u32::MAX;

/// The verdict on a request that has to wait until the daemon extends the allowance. The request is
/// withheld from the server, and is judged again when the client retransmits it.
pub const WAITS: u32 = u32::MAX - 2;

/// The value of `Retry-After`, in seconds, for a request beyond an allowance that no daemon
/// extends.
const UNATTENDED_WAIT: u32 = 5;

/// The bounds on the count of a scope that result from its allowance. The daemon does not allow
/// more than the lease of a scope that shares its quota with other hosts.
pub struct Allowance {
    /// The count up to which requests are admitted, unless the daily quota is lower.
    pub limit: u64,
    /// The count up to which the store has recorded requests in advance, or [`UNLIMITED`] if the
    /// store does not have to record any in advance.
    pub allowed: u64,
    ahead: u64,
}

impl Allowance {
    /// Returns the allowance of `scope` that applies at `boot_ns` (`CLOCK_BOOTTIME`) according to
    /// `limits`. `count` contains the current day.
    #[inline(always)]
    pub fn of(scope: u32, limits: ScopeLimits, count: DayCount, boot_ns: u64) -> Self {
        let word = limits.allowance();
        let ahead = u64::from(limits.ahead());
        if ahead == 0 {
            return Self {
                limit: UNLIMITED,
                allowed: UNLIMITED,
                ahead,
            };
        }
        let is_leased = limits.flags() & LIMITS_LEASED != 0;
        let allowed = if word.day().0 == count.day().0 {
            word.count()
        } else if is_leased {
            limiter_lease(scope, count.day().0)
        } else {
            ahead
        };
        let attended = boot_ns < clock::attended_until_ns();
        Self {
            limit: if attended || is_leased || !admits_unattended() {
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

global! {
    /// Returns the number of requests of `day` that the lease of `scope` admits.
    fn limiter_lease(; scope: u32, day: u32) -> u64 = lease;

    /// Returns the verdict on a request that is beyond the allowance or the lease of `scope` on
    /// `day`, at `boot_ns` (`CLOCK_BOOTTIME`).
    pub fn limiter_not_allowed(; scope: u32, day: u32, boot_ns: u64) -> u32 = not_allowed;
}

/// The body of [`limiter_lease`].
#[inline(always)]
fn lease(scope: u32, day: u32) -> u64 {
    let Some(lease) = maps::lease(scope) else {
        return 0;
    };
    for word in [lease.current(), lease.next()] {
        let word = DayCount(word);
        if word.day().0 == day {
            return word.count();
        }
    }
    0
}

/// The body of [`limiter_not_allowed`].
#[inline(always)]
fn not_allowed(scope: u32, day: u32, boot_ns: u64) -> u32 {
    if boot_ns >= clock::attended_until_ns() {
        return reason::DAILY_QUOTA;
    }
    let (Some(limits), Some(lease), Some(counts)) =
        (maps::limits(scope), maps::lease(scope), maps::counts(scope))
    else {
        return WAITS;
    };
    let current = DayCount(lease.current());
    let count = DayCount(counts.day_count().load());
    let is_used = current.day().0 == day && count.count() >= current.count();
    if limits.flags() & LIMITS_LEASED != 0 && is_used && boot_ns < lease.refused_until_ns() {
        reason::DAILY_QUOTA
    } else {
        WAITS
    }
}

/// Returns the number of seconds after which a request of `scope` may be admitted, if the scope has
/// used up its lease at `boot_ns` but not its quota. `to_midnight` is the number of seconds to
/// midnight.
#[inline(always)]
pub fn wait_s(scope: u32, limits: ScopeLimits, day: Day, boot_ns: u64, to_midnight: u32) -> u32 {
    if limits.flags() & LIMITS_LEASED != 0
        && let Some(lease) = maps::lease(scope)
        && DayCount(lease.current()).day().0 == day.0
    {
        let until_ns = lease.refused_until_ns();
        if until_ns == REFUSED_ALL_DAY {
            return to_midnight;
        }
        if boot_ns < until_ns {
            let seconds = (until_ns - boot_ns).div_ceil(1_000_000_000) as u32;
            return if seconds < to_midnight {
                seconds
            } else {
                to_midnight
            };
        }
    }
    UNATTENDED_WAIT
}

/// Returns whether requests beyond the allowance are admitted while no daemon extends it.
#[inline(always)]
fn admits_unattended() -> bool {
    match maps::config() {
        Some(config) => config.unattended == policy::PASS,
        None => false,
    }
}
