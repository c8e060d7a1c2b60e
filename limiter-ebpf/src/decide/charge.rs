// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The charge of a request to its scope. Either all limits of the scope are charged, or none.

use limiter_common::{
    abi::{
        ENDS, Event, LIMITS_IN_USE, LIMITS_OBSERVE, Limits, TextKey, UNLIMITED, counter, event,
        reason,
    },
    day::{Day, DayCount, seconds_to_midnight},
    gcra::Rate,
};

use crate::{
    decide::allowance::{ADMITTED, Allowance, limiter_not_allowed, wait_s},
    kernel::{
        atomic::{Change, ChangeResult},
        clock,
        global::global,
        maps,
        shared::{ScopeCounts, ScopeLimits},
        work::Work,
    },
};

/// The verdict of [`limiter_charge`] on a scope that does not exist.
pub const NO_LIMITS: u32 = u32::MAX - 1;

global! {
    /// Charges one request at `boot_ns` (`CLOCK_BOOTTIME`) to a scope, and returns [`ADMITTED`],
    /// [`NO_LIMITS`], [`WAITS`], or the reason why nothing was charged (`abi::reason`). `connects`
    /// is 1 if the request is the first one of this scope on its connection.
    pub fn limiter_charge(; scope: u32, connects: u32, boot_ns: u64) -> u32 = charge;

    /// Returns the number of the stage of `ENDED` that applies to a scope at `utc_ns`, or `ENDS` if
    /// there is none. (If the caller looked for the stage itself, the verifier would check the rest
    /// of the caller once for each stage.)
    fn limiter_stage(; scope: u32, utc_ns: u64) -> u32 = stage;

    /// Fills `Work::refusal` for a request that was refused at `boot_ns` because its scope is over
    /// the limit `reason`.
    pub fn limiter_over_limit(work; scope: u32, reason: u32, boot_ns: u64) -> () = over_limit,
        or ();
}

/// The body of [`limiter_stage`].
#[inline(always)]
fn stage(scope: u32, utc_ns: u64) -> u32 {
    for number in 0..ENDS as u32 {
        let Some(stage) = maps::ended(scope, number) else {
            break;
        };
        if Limits::apply_at(stage.until_s(), utc_ns) {
            return number;
        }
    }
    ENDS as u32
}

/// Converts `boot_ns` to nanoseconds since the Unix epoch, with the offset that the daemon has
/// published.
#[inline(always)]
pub fn utc_ns(boot_ns: u64) -> u64 {
    boot_ns.wrapping_add(clock::utc_offset_ns())
}

/// The body of [`limiter_charge`].
#[inline(always)]
fn charge(scope: u32, connects: u32, boot_ns: u64) -> u32 {
    let (Some(limits), Some(counts)) = (maps::limits(scope), maps::counts(scope)) else {
        return NO_LIMITS;
    };
    let flags = limits.flags();
    if flags & LIMITS_IN_USE == 0 {
        return NO_LIMITS;
    }
    // The mode comes from the flags of the scope and not from `Config`, because a tier or a scope
    // may have a mode of its own.
    let observe = flags & LIMITS_OBSERVE != 0;
    let utc_ns = utc_ns(boot_ns);
    let charge = Charge {
        scope,
        limits: in_force(scope, limits, utc_ns),
        counts,
        boot_ns,
        day: Day::at(utc_ns),
        connects: connects != 0,
    };
    let count = DayCount(counts.day_count().load()).on(charge.day);
    let allowance = Allowance::of(scope, limits, count, boot_ns);
    let would = charge.look(count, &allowance);
    let verdict = charge.attempt(would, observe, count.day(), &allowance);
    if verdict == ADMITTED && !observe && count.count() >= allowance.allowed {
        maps::count(counter::UNATTENDED);
    }
    if allowance.is_to_be_reported(verdict, count) {
        maps::send_event(Event {
            kind: event::ALLOWANCE,
            scope,
            key: [0; 2],
        });
    }
    verdict
}

/// Returns the limits that are in force for a scope at `utc_ns`. Each limit may have an end, which
/// takes effect even while no daemon runs.
#[inline(always)]
fn in_force(scope: u32, limits: ScopeLimits, utc_ns: u64) -> ScopeLimits {
    if Limits::apply_at(limits.until_s(), utc_ns) {
        return limits;
    }
    match maps::ended(scope, limiter_stage(scope, utc_ns)) {
        Some(next) => next,
        None => limits,
    }
}

/// The body of [`limiter_over_limit`].
#[inline(always)]
fn over_limit(work: &mut Work, scope: u32, reason: u32, boot_ns: u64) {
    let (Some(limits), Some(counts)) = (maps::limits(scope), maps::counts(scope)) else {
        return;
    };
    let utc_ns = utc_ns(boot_ns);
    let limits = in_force(scope, limits, utc_ns);
    let wait = match reason {
        reason::DAILY_QUOTA => {
            let count = DayCount(counts.day_count().load()).on(Day::at(utc_ns));
            let to_midnight = seconds_to_midnight(utc_ns) as u32;
            if count.count() < limits.daily_quota() {
                wait_s(scope, limits, count.day(), boot_ns, to_midnight)
            } else {
                to_midnight
            }
        }
        reason::RATE => {
            let seconds = wait_ns(limits, counts, boot_ns).div_ceil(1_000_000_000) as u32;
            if seconds == 0 { 1 } else { seconds }
        }
        _ => 1,
    };
    let set = limits.text_set();
    work.refuse(TextKey { set, reason }, scope, wait, wait);
}

/// Returns the number of nanoseconds until the rate would admit a request, or 0 if it would admit
/// one now.
#[inline(always)]
fn wait_ns(limits: ScopeLimits, counts: ScopeCounts, boot_ns: u64) -> u64 {
    let rate = limits.rate();
    if rate.interval_ns == 0 {
        // The scope has no rate now. `tat_ns` may still contain the theoretical arrival time of an
        // earlier rate, which no longer matters.
        return 0;
    }
    match rate.judge(counts.tat_ns().load(), boot_ns) {
        Ok(_) => 0,
        Err(wait) => wait,
    }
}

#[derive(Clone, Copy)]
struct Charge {
    scope: u32,
    limits: ScopeLimits,
    counts: ScopeCounts,
    /// The time of the request on `CLOCK_BOOTTIME`, in ns.
    boot_ns: u64,
    day: Day,
    /// Whether the request is the first one of the scope on its connection.
    connects: bool,
}

impl Charge {
    /// Checks all limits without charging them. Returns [`ADMITTED`], [`WAITS`], or the first limit
    /// that the request would exceed.
    ///
    /// Without this check, a refused request would be counted until its charges are taken back, and
    /// other CPUs could meanwhile refuse requests because of these counts. The check is not exact,
    /// because other CPUs charge at the same time. [`Self::attempt`] is exact.
    #[inline(always)]
    fn look(self, count: DayCount, allowance: &Allowance) -> u32 {
        let Self { limits, counts, .. } = self;
        if count.count() >= limits.daily_quota() {
            reason::DAILY_QUOTA
        } else if self.connects && counts.connections().load() >= limits.connections() {
            reason::CONNECTIONS
        } else if counts.in_flight().load() >= limits.concurrency() {
            reason::CONCURRENCY
        } else if wait_ns(limits, counts, self.boot_ns) > 0 {
            reason::RATE
        } else if count.count() >= allowance.limit {
            self.not_allowed()
        } else {
            ADMITTED
        }
    }

    /// Returns the verdict on a request beyond the allowance.
    #[inline(always)]
    fn not_allowed(self) -> u32 {
        limiter_not_allowed(self.scope, self.day.0, self.boot_ns)
    }

    /// Charges all limits and returns [`ADMITTED`], or charges nothing and returns another verdict.
    /// `would` is the result of [`Self::look`]. If `observe` is set, a refusal in `would` is only
    /// counted, and the request is admitted. `day` is the day to which `allowance` applies.
    #[inline(always)]
    fn attempt(self, would: u32, observe: bool, day: Day, allowance: &Allowance) -> u32 {
        let Self { limits, counts, .. } = self;
        let (mut quota, mut concurrency, mut connections) = (UNLIMITED, UNLIMITED, UNLIMITED);
        let mut limit = UNLIMITED;
        if !observe {
            if would != ADMITTED {
                return would;
            }
            quota = limits.daily_quota();
            limit = allowance.limit;
            concurrency = limits.concurrency();
            connections = limits.connections();
        } else if would < reason::LIMITS {
            counts.would_refuse(would).increment();
        }
        if counts.in_flight().increment() >= concurrency {
            counts.in_flight().decrement();
            return reason::CONCURRENCY;
        }
        if self.connects && counts.connections().increment() >= connections {
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
        counts.admitted().increment();
        ADMITTED
    }

    #[inline(always)]
    fn charge_day(self, quota: u64, limit: u64, day: Day) -> u32 {
        let change = ChargeDay {
            day: self.day,
            limit: if limit < quota { limit } else { quota },
            of: if limit == UNLIMITED { None } else { Some(day) },
        };
        let word = self.counts.day_count();
        match word.change(change) {
            ChangeResult::Done => ADMITTED,
            ChangeResult::Declined => {
                if DayCount(word.load()).on(self.day).count() >= quota {
                    reason::DAILY_QUOTA
                } else {
                    self.not_allowed()
                }
            }
            // All attempts have failed, which means that other CPUs have admitted more requests
            // within nanoseconds than any rate allows.
            ChangeResult::Contended => reason::RATE,
        }
    }

    #[inline(always)]
    fn return_day(self) {
        // If the change fails, the customer can make one request fewer on that day, but the server
        // never receives one request too many.
        let change = ReturnDay { day: self.day };
        let _result = self.counts.day_count().change(change);
    }

    #[inline(always)]
    fn charge_rate(self) -> bool {
        let rate = self.limits.rate();
        if rate.interval_ns == 0 {
            return true;
        }
        let change = ChargeRate {
            rate,
            now_ns: self.boot_ns,
        };
        self.counts.tat_ns().change(change) == ChangeResult::Done
    }

    /// Takes back the charge of a slot and, if `connects` is set, also the charge of a connection.
    #[inline(always)]
    fn return_connection(self) {
        self.counts.in_flight().decrement();
        if self.connects {
            self.counts.connections().decrement();
        }
    }
}

struct ChargeDay {
    day: Day,
    limit: u64,
    /// The day to which `limit` applies, or `None` if it applies to any day.
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
