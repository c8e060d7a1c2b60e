//! What the daemon has done to the table of flows, with the same locks and the same code as the packet
//! path, and without a copy of the table to user space: dead flows are removed, silent ones named,
//! and what all of them hold is counted.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_for_each_map_elem;
use limiter_common::{
    abi::{FLOW_LOCAL, Flow, FlowKey, MAX_SUSPECTS, Suspect, Sweep, counter, phase},
    flow::Idle,
};

use crate::{flow, maps, recount, skb};

struct Sweeping {
    sweep: *mut Sweep,
    now_ns: u64,
}

/// Looks at every flow once.
#[inline(always)]
pub fn run() -> i32 {
    let Some(sweep) = maps::sweep() else { return 1 };
    let mut context = Sweeping {
        sweep,
        now_ns: skb::coarse_ns(),
    };
    // SAFETY: the map is FLOWS, for which the callback is made; the context outlives the call.
    unsafe {
        bpf_for_each_map_elem(
            maps::flows(),
            each as *mut c_void,
            (&raw mut context).cast(),
            0,
        );
    }
    0
}

unsafe extern "C" fn each(
    _map: *mut c_void,
    key: *const FlowKey,
    found: *mut Flow,
    context: *mut Sweeping,
) -> i64 {
    // SAFETY: the kernel passes an element of FLOWS; `run` passes its own context.
    unsafe {
        let sweep = (*context).sweep;
        (*sweep).flows += 1;
        if (*found).phase == phase::HANDSHAKE {
            (*sweep).handshakes += 1;
        }
        let nothing = !is_dead(found, context)
            && (*found).recount == (*sweep).recount
            && !is_suspect(found, context);
        if nothing {
            return 0;
        }
        if !flow::try_lock(found, key) {
            (*sweep).missed += 1;
            return 0;
        }
        // Only now for certain.
        if is_dead(found, context) {
            if (*found).phase == phase::HANDSHAKE
                && silent_ns(found, context) <= Idle::DEFAULT_NS[Idle::Handshake as usize]
            {
                maps::count(counter::HURRIED_HANDSHAKES);
            }
            let (slots, connections) =
                (flow::release_slots(found), flow::release_connections(found));
            (*found).phase = phase::RESET;
            if flow::leave(found, key) {
                (*sweep).removed += 1;
                maps::count(counter::SWEPT_FLOWS);
            }
            (*sweep).slots += u64::from(slots);
            (*sweep).connections += u64::from(connections);
            maps::count_by(counter::SWEPT_SLOTS, u64::from(slots));
            return 0;
        }
        if (*found).recount != (*sweep).recount {
            recount::join(found, (*sweep).recount);
            (*sweep).recounted += 1;
        }
        if is_suspect(found, context) {
            name(found, sweep);
        }
        flow::unlock(found);
    }
    0
}

#[inline(always)]
unsafe fn silent_ns(found: *const Flow, context: *const Sweeping) -> u64 {
    // SAFETY: as in `each`.
    unsafe { (*context).now_ns.saturating_sub((*found).last_seen_ns) }
}

#[inline(always)]
unsafe fn is_dead(found: *const Flow, context: *const Sweeping) -> bool {
    // SAFETY: as in `each`.
    unsafe {
        let acknowledged = (*found).server_ack == (*found).client_fin;
        let class = Idle::of((*found).phase, (*found).flags, acknowledged);
        let sweep = (*context).sweep;
        let limit = match class {
            Idle::Handshake => (*sweep).idle_ns[0],
            Idle::Open => (*sweep).idle_ns[1],
            Idle::Closing => (*sweep).idle_ns[2],
            Idle::Closed => (*sweep).idle_ns[3],
        };
        silent_ns(found, context) > limit
    }
}

/// Whether the daemon should look for the flow's socket. One that is half open has none yet that it
/// would find when the server uses SYN cookies.
#[inline(always)]
unsafe fn is_suspect(found: *const Flow, context: *const Sweeping) -> bool {
    // SAFETY: as in `each`.
    unsafe {
        let sweep = (*context).sweep;
        (*sweep).check != 0
            && (*found).check != (*sweep).check
            && (*found).flags & FLOW_LOCAL != 0
            && (*found).phase != phase::HANDSHAKE
            && silent_ns(found, context) >= (*sweep).suspect_ns
    }
}

/// Names a flow to the daemon, if there is room.
#[inline(always)]
unsafe fn name(found: *mut Flow, sweep: *mut Sweep) {
    // SAFETY: the callers' are live map values, and the flow is locked.
    unsafe {
        let number = (*sweep).suspects;
        if number < u64::from(MAX_SUSPECTS)
            && let Some(suspect) = maps::suspect(number as u32)
        {
            (*suspect).key = (*found).key;
            (*suspect).last_seen_ns = (*found).last_seen_ns;
            (*sweep).suspects = number + 1;
            (*found).check = (*sweep).check;
        }
    }
}

/// Removes the flow in `FORGET`, if its server has been silent since it was named.
#[inline(always)]
pub fn forget() -> i32 {
    let Some(suspect) = maps::forget() else {
        return 1;
    };
    // SAFETY: live map values.
    unsafe {
        let suspect: *mut Suspect = suspect;
        let key = &raw const (*suspect).key;
        let Some(found) = maps::flow(key) else {
            return 0;
        };
        if !flow::try_lock(found, key) {
            return 0;
        }
        if (*found).last_seen_ns != (*suspect).last_seen_ns {
            flow::unlock(found);
            return 0;
        }
        let (slots, connections) = (flow::release_slots(found), flow::release_connections(found));
        (*found).phase = phase::RESET;
        if flow::leave(found, key) {
            (*suspect).removed = 1;
            maps::count(counter::ORPHANED_FLOWS);
        }
        (*suspect).slots = u64::from(slots);
        (*suspect).connections = u64::from(connections);
        maps::count_by(counter::ORPHANED_SLOTS, u64::from(slots));
    }
    0
}
