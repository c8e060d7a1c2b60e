//! What both directions do with a followed connection. Every function here wants its lock held.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use limiter_common::{
    abi::{
        CONNECTION_SCOPES, FLOW_CLIENT_FIN, FLOW_SERVER_FIN, Flow, FlowKey, MAX_OUTSTANDING,
        NO_SCOPE, counter,
    },
    seq::Seq,
};

use crate::{
    atomic, decide, maps,
    recount::{self, Count},
};

/// What becomes of a packet, decided under the flow's lock and carried out after it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Let it by.
    Pass,
    /// Drop it, and count that as said.
    Drop(u32),
    /// Let it by; the connection has ended.
    PassLast,
    /// Let by the first bytes of its payload: `Work::keep` of them.
    Cut,
    /// The connection was refused: `Work::tomb` says how to go on.
    Bury,
    /// The client has reset the connection: likewise.
    Reset,
}

/// Takes the lock of a flow found under `key`; false if another CPU holds it for too long or if
/// the map's slot has been given to another connection meanwhile.
///
/// # Safety
/// Both point to live map values.
#[inline(always)]
pub unsafe fn lock(flow: *mut Flow, key: *const FlowKey) -> bool {
    // SAFETY: the caller's promise.
    let locked = unsafe { try_lock(flow, key) };
    if !locked {
        maps::count(counter::CONTENDED_DROPPED);
    }
    locked
}

/// As [`lock`], for what is no packet.
///
/// # Safety
/// As [`lock`].
#[inline(always)]
pub unsafe fn try_lock(flow: *mut Flow, key: *const FlowKey) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        if !atomic::lock(&raw mut (*flow).lock) {
            return false;
        }
        if !same(&raw const (*flow).key, key) {
            unlock(flow);
            return false;
        }
    }
    true
}

/// # Safety
/// `flow` is a live map value whose lock this program holds.
#[inline(always)]
pub unsafe fn unlock(flow: *mut Flow) {
    // SAFETY: the caller's promise.
    unsafe { atomic::unlock(&raw mut (*flow).lock) };
}

/// Takes a flow that has ended out of the table, with its lock held: as long as it is in there nobody
/// else gets past the lock, so nobody can put a new connection in its place that would be removed
/// for it. The lock goes with the flow; who waits for it gives up, and its packet comes again.
///
/// # Safety
/// Both point to live map values; this program holds the flow's lock, and leaves the flow alone
/// afterwards.
#[inline(always)]
pub unsafe fn leave(flow: *mut Flow, key: *const FlowKey) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        if !maps::remove_flow(key) {
            unlock(flow);
            return false;
        }
    }
    maps::count(counter::FLOWS_CLOSED);
    true
}

/// Word by word: a derived comparison becomes a call that compares byte by byte.
#[inline(always)]
unsafe fn same(one: *const FlowKey, other: *const FlowKey) -> bool {
    // SAFETY: the caller passes live map values, in which keys are aligned to eight bytes.
    unsafe {
        let (left, right) = (one.cast::<u64>(), other.cast::<u64>());
        let mut difference = 0;
        for word in 0..4 {
            difference |= *left.add(word) ^ *right.add(word);
        }
        let ports = *left.add(4).cast::<u32>() ^ *right.add(4).cast::<u32>();
        difference | u64::from(ports) == 0
    }
}

const _: () = {
    assert!(core::mem::offset_of!(Flow, key).is_multiple_of(8));
    assert!(core::mem::offset_of!(crate::packet::Packet, key) == 0);
    assert!(core::mem::offset_of!(crate::work::Work, packet).is_multiple_of(8));
};

/// The oldest outstanding request has been answered: frees its slot.
///
/// # Safety
/// `flow` is a live map value, locked.
#[inline(always)]
pub unsafe fn answered(flow: *mut Flow) {
    // SAFETY: the caller's promise.
    unsafe {
        if (*flow).answered == (*flow).asked {
            return;
        }
        let scope = (*decide::slot(flow, (*flow).answered)).scope;
        (*flow).answered = (*flow).answered.wrapping_add(1);
        if scope != NO_SCOPE
            && let Some(state) = maps::state(scope)
        {
            recount::taken(flow, state, Count::InFlight);
            atomic::decrement(&raw mut (*state).in_flight);
        }
    }
}

/// Frees the slots of all outstanding requests: how many.
///
/// # Safety
/// `flow` is a live map value, locked.
#[inline(never)]
pub unsafe fn release_slots(flow: *mut Flow) -> u32 {
    // SAFETY: the caller's promise; the callback gets the flow as its context.
    unsafe {
        let outstanding = (*flow).asked.wrapping_sub((*flow).answered);
        if outstanding != 0 {
            let mut context = Releasing { flow };
            bpf_loop(
                MAX_OUTSTANDING,
                release_one as *mut c_void,
                (&raw mut context).cast(),
                0,
            );
        }
        outstanding
    }
}

struct Releasing {
    flow: *mut Flow,
}

unsafe extern "C" fn release_one(_: u32, context: *mut Releasing) -> i64 {
    // SAFETY: `release_slots` passes its own context.
    unsafe {
        let flow = (*context).flow;
        if (*flow).answered == (*flow).asked {
            return 1;
        }
        answered(flow);
    }
    0
}

/// Takes the flow out of the connection counts of its scopes: how many.
///
/// # Safety
/// `flow` is a live map value, locked.
#[inline(never)]
pub unsafe fn release_connections(flow: *mut Flow) -> u32 {
    let mut released = 0;
    for at in 0..CONNECTION_SCOPES {
        // SAFETY: the caller's promise.
        unsafe {
            let scope = (*flow).counted[at];
            if scope != NO_SCOPE {
                (*flow).counted[at] = NO_SCOPE;
                released += 1;
                if let Some(state) = maps::state(scope) {
                    recount::taken(flow, state, Count::Connections);
                    atomic::decrement(&raw mut (*state).connections);
                }
            }
        }
    }
    released
}

/// Notes a FIN that ends before `end`, from the client or the server (`flag`).
///
/// # Safety
/// `flow` is a live map value, locked.
#[inline(always)]
pub unsafe fn fin(flow: *mut Flow, flag: u32, end: Seq) {
    // SAFETY: the caller's promise.
    unsafe {
        if flag == FLOW_CLIENT_FIN {
            (*flow).client_fin = end;
        } else {
            (*flow).server_fin = end;
        }
        (*flow).flags |= flag;
    }
}

/// Whether both sides have ended and acknowledged each other's end; then nothing is left to free.
///
/// # Safety
/// `flow` is a live map value, locked.
#[inline(always)]
pub unsafe fn has_ended(flow: *mut Flow) -> bool {
    const BOTH: u32 = FLOW_CLIENT_FIN | FLOW_SERVER_FIN;
    // SAFETY: the caller's promise.
    unsafe {
        if (*flow).flags & BOTH != BOTH
            || (*flow).server_ack != (*flow).client_fin
            || (*flow).client_ack != (*flow).server_fin
        {
            return false;
        }
        release_slots(flow);
        release_connections(flow);
        (*flow).phase = limiter_common::abi::phase::RESET;
    }
    true
}
