//! The decision over one request: whose it is, and whether that scope may.

use limiter_common::{
    abi::{
        CONNECTION_SCOPES, Config, Event, Flow, KEY_ADOPTED, KEY_DISABLED, KeyEntry,
        MAX_OUTSTANDING, NO_SCOPE, Outstanding, TextKey, counter, event, policy, reason,
    },
    http,
};

use crate::{
    atomic,
    charge::{ADMITTED, HELD, NO_LIMITS, limiter_charge, limiter_over_limit},
    maps,
    recount::{self, Count},
    skb,
    work::{Refusal, Work},
};

/// The request was charged, or is nobody's, and has been entered among the outstanding.
pub const ADMITS: u32 = 0;
/// `Work::refusal` says why it is refused.
pub const REFUSES: u32 = 1;
/// It has to come again.
pub const HOLDS: u32 = 2;

/// Decides over the request whose head has been scanned: [`ADMITS`], [`REFUSES`] or [`HOLDS`].
///
/// # Safety
/// All three point to live map values; the caller holds the flow's lock and has made sure that
/// the ring of outstanding requests has room.
#[inline(always)]
pub unsafe fn request(work: *mut Work, flow: *mut Flow, config: *const Config) -> u32 {
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
        let boot_ns = skb::boot_ns();
        let entry = match maps::key(digest) {
            Some(entry) => entry,
            None if (*config).unknown_key == policy::ADOPT => {
                let adopted = limiter_adopt(boot_ns) != 0;
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
        (*entry).last_used_ns = boot_ns;
        let scope = (*entry).scope;
        scoped(work, flow, config, method, scope, boot_ns)
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
) -> u32 {
    // SAFETY: the caller's promise.
    unsafe {
        if rule == policy::PASS || (*config).observe != 0 {
            match why {
                reason::MISSING_KEY => maps::count(counter::MISSING_KEY),
                reason::UNKNOWN_KEY => maps::count(counter::UNKNOWN_KEY),
                _ => {}
            }
            enter(flow, NO_SCOPE, method);
            return ADMITS;
        }
        refuse(work, (*config).common_texts, why, NO_SCOPE, 0, 0);
        REFUSES
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
        let Some(scope) = maps::take_unused() else {
            return 0;
        };
        let (Some(limits), Some(state)) = (maps::limits(scope), maps::state(scope)) else {
            return 0;
        };
        *limits = (*config).adopt_limits;
        (*state).day_count = (*config).adopt_count;
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
            maps::tell(Event {
                kind: event::ADOPTED,
                scope,
                key: *digest,
            });
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
    boot_ns: u64,
) -> u32 {
    // SAFETY: the caller's promise.
    unsafe {
        let connects = !is_counted(flow, scope);
        let mut boot_ns = boot_ns;
        let mut refused = limiter_charge(scope, u32::from(connects), boot_ns);
        if refused == reason::RATE {
            // This CPU may have been held up, by its hypervisor for one, since it read the clock, while others
            // charged for later requests: then this one is late, not early.
            boot_ns = skb::boot_ns();
            refused = limiter_charge(scope, u32::from(connects), boot_ns);
        }
        if refused == ADMITTED {
            maps::count(counter::ADMITTED);
            if connects {
                count_connection(flow, scope);
            }
            recount::added(flow, scope, Count::InFlight);
            enter(flow, scope, method);
            return ADMITS;
        }
        if refused == NO_LIMITS {
            // The scope has just been removed, and its keys with it.
            let rule = (*config).unknown_key;
            return anonymous(work, flow, config, method, reason::UNKNOWN_KEY, rule);
        }
        if refused == HELD {
            maps::count(counter::HELD);
            return HOLDS;
        }
        limiter_over_limit(scope, refused, boot_ns);
        REFUSES
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

/// Whether the flow is counted among the scope's connections. One comparison for all: the verifier
/// would follow both ways at each.
#[inline(always)]
unsafe fn is_counted(flow: *const Flow, scope: u32) -> bool {
    let mut below = 0;
    for at in 0..CONNECTION_SCOPES {
        // SAFETY: a live map value, locked by the caller.
        let difference = unsafe { (*flow).counted[at] } ^ scope;
        // Negative if there is no difference.
        below |= i64::from(difference) - 1;
    }
    below < 0
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
