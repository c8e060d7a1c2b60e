//! A request's charge to its scope: all limits at once, all or nothing.

use limiter_common::{
    abi::{LIMITS_IN_USE, LIMITS_OBSERVE, Limits, ScopeState, UNLIMITED, reason},
    day::{Day, DayCount, seconds_to_midnight},
    gcra::Rate,
};

use crate::{
    atomic::{self, Change, Changed},
    decide, maps,
};

/// The time of a request.
#[derive(Clone, Copy)]
struct Now {
    /// `CLOCK_BOOTTIME`, ns.
    boot_ns: u64,
}

impl Now {
    /// Nanoseconds since the Unix epoch, as the daemon last said.
    #[inline(always)]
    fn utc_ns(self) -> u64 {
        self.boot_ns.wrapping_add(maps::utc_offset_ns())
    }
}

/// The verdict of [`Charge::attempt`] that is no reason to refuse.
pub const ADMITTED: u32 = u32::MAX;

/// The verdict of [`limiter_charge`] on a scope that is not there.
pub const NO_LIMITS: u32 = u32::MAX - 1;

/// Charges one request at `boot_ns` to a scope: [`ADMITTED`], [`NO_LIMITS`], or the reason why nothing
/// was charged. `connects`: 1, it is the scope's first on its connection.
///
/// A global function, since the verifier looks at those once and for all, while it follows each
/// way through others to the end of the program; so it takes numbers only.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn limiter_charge(scope: u32, connects: u32, boot_ns: u64) -> u32 {
    let (Some(limits), Some(state)) = (maps::limits(scope), maps::state(scope)) else {
        return NO_LIMITS;
    };
    // SAFETY: a live map value.
    let flags = unsafe { (*limits).flags };
    if flags & LIMITS_IN_USE == 0 {
        return NO_LIMITS;
    }
    // The daemon says it for each scope: a tier may have a mode of its own.
    let observe = flags & LIMITS_OBSERVE != 0;
    let now = Now { boot_ns };
    let day = Day::at(now.utc_ns());
    let charge = Charge {
        limits,
        state,
        now,
        day,
        connects: connects != 0,
    };
    // SAFETY: both are live map values.
    unsafe { charge.attempt(charge.look(), observe) }
}

/// Fills `Work::refusal` for a request at `boot_ns` of a scope that is over a limit.
///
/// A global function, as [`limiter_charge`] is.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn limiter_over_limit(scope: u32, why: u32, boot_ns: u64) -> i32 {
    let (Some(work), Some(limits), Some(state)) =
        (maps::work(), maps::limits(scope), maps::state(scope))
    else {
        return 0;
    };
    let now = Now { boot_ns };
    let wait = match why {
        reason::DAILY_QUOTA => seconds_to_midnight(now.utc_ns()) as u32,
        reason::RATE => {
            let charge = Charge {
                limits,
                state,
                now,
                day: Day(0),
                connects: false,
            };
            // SAFETY: both are live map values.
            let seconds = unsafe { charge.wait_ns() }.div_ceil(1_000_000_000) as u32;
            if seconds == 0 { 1 } else { seconds }
        }
        _ => 1,
    };
    // SAFETY: live map values; `work` is this CPU's.
    unsafe { decide::refuse(work, (*limits).text_set, why, scope, wait, wait) };
    1
}

#[derive(Clone, Copy)]
struct Charge {
    limits: *const Limits,
    state: *mut ScopeState,
    now: Now,
    day: Day,
    /// The request is the scope's first on its connection.
    connects: bool,
}

impl Charge {
    /// Looks at all limits: [`ADMITTED`], or the first that stands against the request.
    ///
    /// Looking first keeps what a refused request would have charged out of the counts that other
    /// CPUs see; the charges themselves are what is exact.
    #[inline(always)]
    unsafe fn look(self) -> u32 {
        // SAFETY: both are live map values.
        unsafe {
            let count = DayCount(atomic::load(&raw const (*self.state).day_count)).on(self.day);
            if count.count() >= (*self.limits).daily_quota {
                reason::DAILY_QUOTA
            } else if self.connects
                && atomic::load(&raw const (*self.state).connections) >= (*self.limits).connections
            {
                reason::CONNECTIONS
            } else if atomic::load(&raw const (*self.state).in_flight) >= (*self.limits).concurrency
            {
                reason::CONCURRENCY
            } else if self.wait_ns() > 0 {
                reason::RATE
            } else {
                ADMITTED
            }
        }
    }

    /// Charges all limits: [`ADMITTED`], or the reason why nothing was charged. `would` is what
    /// [`Self::look`] saw; with `observe` that is counted, and the request admitted.
    #[inline(always)]
    unsafe fn attempt(self, would: u32, observe: bool) -> u32 {
        // SAFETY: both are live map values.
        unsafe {
            let (mut quota, mut concurrency, mut connections) = (UNLIMITED, UNLIMITED, UNLIMITED);
            if !observe {
                if would != ADMITTED {
                    return would;
                }
                quota = (*self.limits).daily_quota;
                concurrency = (*self.limits).concurrency;
                connections = (*self.limits).connections;
            } else if would != ADMITTED {
                let counters = &raw mut (*self.state).would_refuse;
                atomic::increment(counters.cast::<u64>().add(would as usize & 3));
            }
            if atomic::increment(&raw mut (*self.state).in_flight) >= concurrency {
                atomic::decrement(&raw mut (*self.state).in_flight);
                return reason::CONCURRENCY;
            }
            if self.connects && atomic::increment(&raw mut (*self.state).connections) >= connections
            {
                self.return_connection();
                return reason::CONNECTIONS;
            }
            let refused = self.charge_day(quota);
            if refused != ADMITTED {
                self.return_connection();
                return refused;
            }
            if would != reason::RATE && !self.charge_rate() && !observe {
                self.return_day();
                self.return_connection();
                return reason::RATE;
            }
            atomic::increment(&raw mut (*self.state).admitted);
            ADMITTED
        }
    }

    /// Nanoseconds until the rate would let a request by; 0: now.
    #[inline(always)]
    unsafe fn wait_ns(self) -> u64 {
        // SAFETY: both are live map values.
        unsafe {
            if (*self.limits).interval_ns == 0 {
                // A schedule that some rate has left behind says nothing once there is none.
                return 0;
            }
            match self.rate().judge(
                atomic::load(&raw const (*self.state).tat_ns),
                self.now.boot_ns,
            ) {
                Ok(_) => 0,
                Err(wait) => wait,
            }
        }
    }

    #[inline(always)]
    unsafe fn rate(self) -> Rate {
        // SAFETY: a live map value.
        unsafe {
            Rate {
                interval_ns: (*self.limits).interval_ns,
                tolerance_ns: (*self.limits).tolerance_ns,
            }
        }
    }

    #[inline(always)]
    unsafe fn charge_day(self, quota: u64) -> u32 {
        let change = ChargeDay {
            day: self.day,
            quota,
        };
        // SAFETY: a live map value.
        match unsafe { atomic::change(&raw mut (*self.state).day_count, change) } {
            Changed::Done => ADMITTED,
            Changed::Declined => reason::DAILY_QUOTA,
            // So many others were admitted within these nanoseconds: too fast for any rate.
            Changed::Contended => reason::RATE,
        }
    }

    #[inline(always)]
    unsafe fn return_day(self) {
        // SAFETY: a live map value. A charge that stays is one the customer was not due, never
        // one too many for the server.
        let _lost = unsafe {
            atomic::change(
                &raw mut (*self.state).day_count,
                ReturnDay { day: self.day },
            )
        };
    }

    #[inline(always)]
    unsafe fn charge_rate(self) -> bool {
        // SAFETY: both are live map values.
        unsafe {
            let rate = self.rate();
            if rate.interval_ns == 0 {
                return true;
            }
            let change = ChargeRate {
                rate,
                now_ns: self.now.boot_ns,
            };
            atomic::change(&raw mut (*self.state).tat_ns, change) == Changed::Done
        }
    }

    /// Takes back the slot and the connection.
    #[inline(always)]
    unsafe fn return_connection(self) {
        // SAFETY: a live map value.
        unsafe {
            atomic::decrement(&raw mut (*self.state).in_flight);
            if self.connects {
                atomic::decrement(&raw mut (*self.state).connections);
            }
        }
    }
}

struct ChargeDay {
    day: Day,
    quota: u64,
}

impl Change for ChargeDay {
    #[inline(always)]
    fn apply(&self, old: u64) -> Option<u64> {
        let today = DayCount(old).on(self.day);
        if today.count() >= self.quota {
            None
        } else {
            Some(today.charged().0)
        }
    }
}

struct ReturnDay {
    day: Day,
}

impl Change for ReturnDay {
    #[inline(always)]
    fn apply(&self, old: u64) -> Option<u64> {
        Some(DayCount(old).returned(self.day).0)
    }
}

struct ChargeRate {
    rate: Rate,
    now_ns: u64,
}

impl Change for ChargeRate {
    #[inline(always)]
    fn apply(&self, old: u64) -> Option<u64> {
        self.rate.judge(old, self.now_ns).ok()
    }
}
