//! Counting refusals, and telling the daemon whose they were.

use limiter_common::{
    abi::{NO_SCOPE, REFUSALS_TOLD, Refused, counter, reason},
    http,
};

use crate::{atomic, maps, skb, work::Work};

/// Tells of the refusal in `Work::refusal`, which is being carried out, and counts it: in this order, see
/// [`Refused`]. Nobody needs what it returns.
///
/// A global function, as those in `global.rs` are.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn limiter_count_refusal() -> i32 {
    let Some(work) = maps::work() else { return 0 };
    // SAFETY: a live map value, of this CPU alone.
    unsafe {
        tell(work);
        count(work);
    }
    0
}

/// Tells of the refusal, if this CPU has not told of many just now.
///
/// # Safety
/// `work` is a live map value, of this CPU alone.
#[inline(always)]
unsafe fn tell(work: *mut Work) {
    // SAFETY: the caller's promise.
    unsafe {
        let Ok(told_ns) = REFUSALS_TOLD.judge((*work).told_ns, skb::coarse_ns()) else {
            return;
        };
        (*work).told_ns = told_ns;
        let refusal = &(*work).refusal;
        let packet = &(*work).packet;
        let key = match refusal.text.reason {
            // What was scanned last may be another packet's.
            reason::MISSING_KEY | reason::MALFORMED => None,
            _ => http::key(&(*work).scan.state),
        };
        maps::tell_refusal(&Refused {
            at_ns: skb::boot_ns(),
            key: match key {
                Some(key) => *key,
                None => [0; 2],
            },
            client: packet.key.client,
            scope: refusal.scope,
            reason: refusal.text.reason,
            client_port: packet.key.client_port,
            reserved: [0; 3],
        });
    }
}

/// # Safety
/// As [`tell`].
#[inline(always)]
unsafe fn count(work: *const Work) {
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
