//! The decision over one request: all limits of its scope at once, charged all or nothing.

use limiter_common::{
    abi::{
        CONNECTION_SCOPES, Config, Flow, KEY_ADOPTED, KEY_DISABLED, KeyEntry, LIMITS_IN_USE,
        LIMITS_OBSERVE, Limits, MAX_OUTSTANDING, NO_SCOPE, Outstanding, ScopeState, TextKey,
        UNLIMITED, counter, policy, reason,
    },
    day::{Day, DayCount, seconds_to_midnight},
    gcra::Rate,
    http,
};

use crate::{
    atomic::{self, Change, Changed},
    maps,
    recount::{self, Count},
    skb,
    work::{Refusal, Work},
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

/// Decides over the request whose head has been scanned: charges it and enters it among the
/// outstanding, or fills `Work::refusal` and returns `false`.
///
/// # Safety
/// All three point to live map values; the caller holds the flow's lock and has made sure that
/// the ring of outstanding requests has room.
#[inline(always)]
pub unsafe fn request(work: *mut Work, flow: *mut Flow, config: *const Config) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let state = &(*work).scan.state;
        let method = state.method;
        let Some(digest) = http::key(state) else {
            return anonymous(
                work,
                flow,
                config,
                method,
                reason::MISSING_KEY,
                (*config).missing_key,
            );
        };
        let now = Now {
            boot_ns: skb::boot_ns(),
        };
        let entry = match maps::key(digest) {
            Some(entry) => entry,
            None if (*config).unknown_key == policy::ADOPT => {
                let adopted = limiter_adopt(now.boot_ns) != 0;
                match maps::key(digest) {
                    Some(entry) if adopted => entry,
                    _ => {
                        maps::count(counter::UNKNOWN_KEY_OVERFLOW);
                        let rule = (*config).table_full;
                        return anonymous(work, flow, config, method, reason::UNKNOWN_KEY, rule);
                    }
                }
            }
            None => {
                let rule = (*config).unknown_key;
                return anonymous(work, flow, config, method, reason::UNKNOWN_KEY, rule);
            }
        };
        if (*entry).flags & KEY_DISABLED != 0 {
            return anonymous(
                work,
                flow,
                config,
                method,
                reason::DISABLED_KEY,
                policy::REJECT,
            );
        }
        if (*entry).flags & KEY_ADOPTED != 0 {
            maps::count(counter::UNKNOWN_KEY);
        }
        (*entry).last_used_ns = now.boot_ns;
        let scope = (*entry).scope;
        scoped(work, flow, config, method, scope, now)
    }
}

/// A request that no scope is charged for: passed or refused by `rule`.
///
/// # Safety
/// As [`request`].
#[inline(always)]
unsafe fn anonymous(
    work: *mut Work,
    flow: *mut Flow,
    config: *const Config,
    method: u32,
    why: u32,
    rule: u32,
) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        if rule == policy::PASS || (*config).observe != 0 {
            match why {
                reason::MISSING_KEY => maps::count(counter::MISSING_KEY),
                reason::UNKNOWN_KEY => maps::count(counter::UNKNOWN_KEY),
                _ => {}
            }
            enter(flow, NO_SCOPE, method);
            return true;
        }
        refuse(work, (*config).common_texts, why, NO_SCOPE, 0, 0);
        false
    }
}

/// Makes the unknown key of the request in `Work` a scope of its own; 0: there is no room.
///
/// A global function, as [`limiter_charge`] is.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn limiter_adopt(boot_ns: u64) -> i32 {
    let (Some(work), Some(config)) = (maps::work(), maps::config()) else {
        return 0;
    };
    // SAFETY: live map values; `work` is this CPU's.
    unsafe {
        let Some(digest) = http::key(&(*work).scan.state) else {
            return 0;
        };
        let count = u64::from((*config).adopt_count);
        if maps::adopted() >= count {
            return 0;
        }
        let given = maps::next_adopted();
        if given >= count {
            return 0;
        }
        let scope = (*config).adopt_first.wrapping_add(given as u32);
        let Some(limits) = maps::limits(scope) else {
            return 0;
        };
        *limits = (*config).adopt_limits;
        let entry = &raw mut (*work).key_entry;
        *entry = KeyEntry {
            scope,
            flags: KEY_ADOPTED,
            last_used_ns: boot_ns,
        };
        // Another CPU may have been first with the same key: then its scope holds, and the id
        // stays unused until the daemon gives it back.
        if maps::insert_key(digest, &*entry) {
            maps::count(counter::UNKNOWN_KEY_ADOPTED);
        }
    }
    1
}

/// # Safety
/// As [`request`].
#[inline(always)]
unsafe fn scoped(
    work: *mut Work,
    flow: *mut Flow,
    config: *const Config,
    method: u32,
    scope: u32,
    now: Now,
) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let connects = !is_counted(flow, scope);
        let refused = limiter_charge(scope, u32::from(connects), now.boot_ns);
        if refused == ADMITTED {
            maps::count(counter::ADMITTED);
            if connects {
                count_connection(flow, scope);
            }
            recount::added(flow, scope, Count::InFlight);
            enter(flow, scope, method);
            return true;
        }
        if refused == NO_LIMITS {
            // The scope has just been removed, and its keys with it.
            let rule = (*config).unknown_key;
            return anonymous(work, flow, config, method, reason::UNKNOWN_KEY, rule);
        }
        limiter_over_limit(scope, refused, now.boot_ns);
        false
    }
}

/// The verdict of [`Charge::attempt`] that is no reason to refuse.
const ADMITTED: u32 = u32::MAX;

/// The verdict of [`limiter_charge`] on a scope that is not there.
const NO_LIMITS: u32 = u32::MAX - 1;

/// Charges one request at `boot_ns` to a scope: [`ADMITTED`], [`NO_LIMITS`], or the reason why nothing
/// was charged. `connects`: 1, it is the scope's first on its connection.
///
/// A global function, since the verifier looks at those once and for all, while it follows each
/// way through others to the end of the program; so it takes numbers only.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn limiter_charge(scope: u32, connects: u32, boot_ns: u64) -> u32 {
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
extern "C" fn limiter_over_limit(scope: u32, why: u32, boot_ns: u64) -> i32 {
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
    unsafe { refuse(work, (*limits).text_set, why, scope, wait, wait) };
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

/// # Safety
/// `work` is a live map value.
#[inline(always)]
pub unsafe fn refuse(
    work: *mut Work,
    set: u32,
    why: u32,
    scope: u32,
    retry_after: u32,
    reset_after: u32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        (*work).refusal = Refusal {
            text: TextKey { set, reason: why },
            scope,
            retry_after,
            reset_after,
            reserved: 0,
        };
    }
}

/// Counts the refusal in `Work::refusal`, which is being carried out.
///
/// # Safety
/// `work` is a live map value.
#[inline(always)]
pub unsafe fn count_refusal(work: *const Work) {
    // SAFETY: the caller's promise.
    unsafe {
        let refusal = &(*work).refusal;
        match refusal.text.reason {
            reason::RATE => maps::count(counter::REFUSED_RATE),
            reason::CONCURRENCY => maps::count(counter::REFUSED_CONCURRENCY),
            reason::CONNECTIONS => maps::count(counter::REFUSED_CONNECTIONS),
            reason::DAILY_QUOTA => maps::count(counter::REFUSED_DAILY_QUOTA),
            reason::MISSING_KEY => {
                maps::count(counter::MISSING_KEY);
                maps::count(counter::MISSING_KEY_REFUSED);
            }
            reason::UNKNOWN_KEY => {
                maps::count(counter::UNKNOWN_KEY);
                maps::count(counter::UNKNOWN_KEY_REFUSED);
            }
            reason::DISABLED_KEY => maps::count(counter::DISABLED_KEY_REFUSED),
            _ => {
                maps::count(counter::MALFORMED);
                maps::count(counter::MALFORMED_REFUSED);
            }
        }
        if refusal.scope != NO_SCOPE
            && refusal.text.reason < reason::LIMITS
            && let Some(state) = maps::state(refusal.scope)
        {
            let counters = &raw mut (*state).refused;
            atomic::increment(counters.cast::<u64>().add(refusal.text.reason as usize & 3));
        }
    }
}

/// Enters a request among those that await their response.
#[inline(always)]
unsafe fn enter(flow: *mut Flow, scope: u32, method: u32) {
    // SAFETY: a live map value, locked by the caller.
    unsafe {
        *slot(flow, (*flow).asked) = Outstanding { scope, method };
        (*flow).asked = (*flow).asked.wrapping_add(1);
    }
}

/// The place in the ring for the request with a number.
///
/// # Safety
/// `flow` is a live map value, locked by the caller.
#[inline(always)]
pub unsafe fn slot(flow: *mut Flow, number: u32) -> *mut Outstanding {
    let mut at = u64::from(number);
    // The mask at the moment of use: the verifier has to see it.
    #[cfg(target_arch = "bpf")]
    // SAFETY: arithmetic on a register.
    unsafe {
        core::arch::asm!("{0} &= 31", inout(reg) at, options(nomem, nostack, preserves_flags));
    }
    // SAFETY: below MAX_OUTSTANDING.
    unsafe {
        (&raw mut (*flow).outstanding)
            .cast::<Outstanding>()
            .add(at as usize)
    }
}

const _: () = assert!(MAX_OUTSTANDING == 32, "the mask in `slot`");

/// Whether the flow is counted among the scope's connections.
#[inline(always)]
unsafe fn is_counted(flow: *const Flow, scope: u32) -> bool {
    let mut counted = false;
    for at in 0..CONNECTION_SCOPES {
        // SAFETY: a live map value, locked by the caller.
        counted |= unsafe { (*flow).counted[at] } == scope;
    }
    counted
}

/// Enters a scope whose `connections` has just counted this flow; the one entered first gives way.
#[inline(always)]
unsafe fn count_connection(flow: *mut Flow, scope: u32) {
    // SAFETY: a live map value, locked by the caller; the index is below CONNECTION_SCOPES.
    unsafe {
        let mut at = u64::from((*flow).counted_next);
        #[cfg(target_arch = "bpf")]
        core::arch::asm!("{0} &= 3", inout(reg) at, options(nomem, nostack, preserves_flags));
        let place = (&raw mut (*flow).counted).cast::<u32>().add(at as usize);
        let old = *place;
        if old != NO_SCOPE
            && let Some(state) = maps::state(old)
        {
            recount::taken(flow, state, Count::Connections);
            atomic::decrement(&raw mut (*state).connections);
        }
        *place = scope;
        recount::added(flow, scope, Count::Connections);
        (*flow).counted_next = (*flow).counted_next.wrapping_add(1);
    }
}

const _: () = assert!(CONNECTION_SCOPES == 4, "the mask in `count_connection`");
