//! A request's charge to its scope: all limits at once, all or nothing.

use limiter_common::{
    abi::{
        Event, LIMITS_IN_USE, LIMITS_OBSERVE, Limits, ScopeState, UNLIMITED, counter, event,
        policy, reason,
    },
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

/// The verdict of [`limiter_charge`] on a request that the store does not allow yet: it is to come again.
pub const HELD: u32 = u32::MAX - 2;

/// What a request has to wait for that nobody extends an allowance for, s.
const UNATTENDED_WAIT: u32 = 5;

/// Charges one request at `boot_ns` to a scope: [`ADMITTED`], [`NO_LIMITS`], [`HELD`], or the reason why
/// nothing was charged. `connects`: 1, it is the scope's first on its connection.
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
    let utc_ns = now.utc_ns();
    let charge = Charge {
        // SAFETY: a live map value.
        limits: unsafe { in_force(scope, limits, utc_ns) },
        state,
        now,
        day: Day::at(utc_ns),
        connects: connects != 0,
    };
    // SAFETY: all are live map values.
    unsafe {
        let count = DayCount(atomic::load(&raw const (*state).day_count)).on(charge.day);
        let allowance = Allowance::of(limits, count, boot_ns);
        let would = charge.look(count, &allowance);
        let verdict = charge.attempt(would, observe, count.day(), &allowance);
        if verdict == ADMITTED && !observe && count.count() >= allowance.allowed {
            maps::count(counter::UNATTENDED);
        }
        if allowance.is_to_be_told(verdict, count) {
            maps::tell(Event {
                kind: event::ALLOWANCE,
                scope,
                key: [0; 2],
            });
        }
        verdict
    }
}

/// The limits of a scope at `utc_ns`: some end by themselves, also while there is no daemon.
///
/// # Safety
/// `limits` are the scope's entry, a live map value.
#[inline(always)]
unsafe fn in_force(scope: u32, limits: *const Limits, utc_ns: u64) -> *const Limits {
    // SAFETY: the caller's promise.
    let until_s = unsafe { (*limits).until_s };
    if until_s == 0 || utc_ns < u64::from(until_s) * 1_000_000_000 {
        return limits;
    }
    match maps::ended(scope) {
        Some(then) => then.cast_const(),
        None => limits,
    }
}

/// What the store allows a scope.
struct Allowance {
    /// The count up to which requests are admitted, should the quota not end before.
    limit: u64,
    /// The count up to which the store knows of them; [`UNLIMITED`]: it need not.
    allowed: u64,
    ahead: u64,
}

impl Allowance {
    /// What it is at `boot_ns` on the day of `count`.
    ///
    /// # Safety
    /// `limits` is a live map value.
    #[inline(always)]
    unsafe fn of(limits: *const Limits, count: DayCount, boot_ns: u64) -> Self {
        // SAFETY: the caller's promise.
        let (word, ahead) = unsafe {
            (
                DayCount(atomic::load(&raw const (*limits).allowed)),
                u64::from((*limits).ahead),
            )
        };
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
        let attended = boot_ns < maps::attended_until_ns();
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

    /// Whether the daemon should look: at the day's first request, when little is left, and when that
    /// was too late. `count` is what there was before the request.
    #[inline(always)]
    fn is_to_be_told(&self, verdict: u32, count: DayCount) -> bool {
        if verdict == HELD {
            return true;
        }
        if verdict != ADMITTED || self.allowed == UNLIMITED {
            return false;
        }
        let left = self.allowed.wrapping_sub(count.count() + 1);
        count.count() == 0 || left == self.ahead / 2 || left == self.ahead / 4
    }
}

#[inline(always)]
fn admits_unattended() -> bool {
    match maps::config() {
        // SAFETY: a live map value.
        Some(config) => unsafe { (*config).unattended == policy::PASS },
        None => false,
    }
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
    let utc_ns = now.utc_ns();
    // SAFETY: a live map value.
    let limits = unsafe { in_force(scope, limits, utc_ns) };
    let wait = match why {
        reason::DAILY_QUOTA => {
            // SAFETY: both are live map values.
            let (count, quota) = unsafe {
                (
                    DayCount(atomic::load(&raw const (*state).day_count)).on(Day::at(utc_ns)),
                    (*limits).daily_quota,
                )
            };
            if count.count() < quota {
                UNATTENDED_WAIT
            } else {
                seconds_to_midnight(utc_ns) as u32
            }
        }
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
    unsafe fn look(self, count: DayCount, allowance: &Allowance) -> u32 {
        // SAFETY: both are live map values.
        unsafe {
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
            } else if count.count() >= allowance.limit {
                self.not_allowed()
            } else {
                ADMITTED
            }
        }
    }

    /// The verdict on a request beyond what is allowed so far.
    #[inline(always)]
    unsafe fn not_allowed(self) -> u32 {
        if self.now.boot_ns < maps::attended_until_ns() {
            HELD
        } else {
            reason::DAILY_QUOTA
        }
    }

    /// Charges all limits: [`ADMITTED`], or the reason why nothing was charged. `would` is what
    /// [`Self::look`] saw; with `observe` that is counted, and the request admitted. `day` is that of
    /// the allowance.
    #[inline(always)]
    unsafe fn attempt(self, would: u32, observe: bool, day: Day, allowance: &Allowance) -> u32 {
        // SAFETY: both are live map values.
        unsafe {
            let (mut quota, mut concurrency, mut connections) = (UNLIMITED, UNLIMITED, UNLIMITED);
            let mut limit = UNLIMITED;
            if !observe {
                if would != ADMITTED {
                    return would;
                }
                quota = (*self.limits).daily_quota;
                limit = allowance.limit;
                concurrency = (*self.limits).concurrency;
                connections = (*self.limits).connections;
            } else if would < reason::LIMITS {
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
            let refused = self.charge_day(quota, limit, day);
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
    unsafe fn charge_day(self, quota: u64, limit: u64, day: Day) -> u32 {
        let change = ChargeDay {
            day: self.day,
            limit: if limit < quota { limit } else { quota },
            of: if limit == UNLIMITED { None } else { Some(day) },
        };
        // SAFETY: a live map value.
        match unsafe { atomic::change(&raw mut (*self.state).day_count, change) } {
            Changed::Done => ADMITTED,
            Changed::Declined => {
                // SAFETY: live map values.
                let word = DayCount(unsafe { atomic::load(&raw const (*self.state).day_count) });
                if word.on(self.day).count() >= quota {
                    reason::DAILY_QUOTA
                } else {
                    // SAFETY: live map values.
                    unsafe { self.not_allowed() }
                }
            }
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
    limit: u64,
    /// The day that `limit` is for; `None`: any.
    of: Option<Day>,
}

impl Change for ChargeDay {
    #[inline(always)]
    fn apply(&self, old: u64) -> Option<u64> {
        let today = DayCount(old).on(self.day);
        let other = match self.of {
            Some(day) => day.0 != today.day().0,
            None => false,
        };
        if other || today.count() >= self.limit {
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
