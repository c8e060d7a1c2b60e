//! Removes dead flows when the daemon asks for it, with the same locks and the same code as the
//! packet path, and without a copy of the table to user space.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_for_each_map_elem;
use limiter_common::{
    abi::{Flow, FlowKey, Sweep, counter, phase},
    flow::Idle,
};

use crate::{flow, maps, skb};

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
        if !is_dead(found, context) || !flow::lock(found, key) {
            return 0;
        }
        // Only now for certain.
        if is_dead(found, context) {
            let slots = flow::release_slots(found);
            let connections = flow::release_connections(found);
            (*found).phase = phase::RESET;
            if flow::leave(found, key) {
                (*sweep).removed += 1;
                maps::count(counter::SWEPT_FLOWS);
            }
            (*sweep).slots += u64::from(slots);
            (*sweep).connections += u64::from(connections);
            maps::count_by(counter::SWEPT_SLOTS, u64::from(slots));
        } else {
            flow::unlock(found);
        }
    }
    0
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
        let silent = (*context).now_ns.saturating_sub((*found).last_seen_ns);
        silent > limit
    }
}
