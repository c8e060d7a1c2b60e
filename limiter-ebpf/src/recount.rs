//! Counts taken anew from what the flows hold, which the daemon compares the scopes' own counts
//! with (`abi::Sweep::recount`). Every function here wants the flow's lock held.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use limiter_common::abi::{CONNECTION_SCOPES, Flow, MAX_OUTSTANDING, NO_SCOPE, ScopeState};

use crate::{atomic, decide, maps};

/// Which count of a scope.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Count {
    InFlight,
    Connections,
}

/// # Safety
/// `state` is a live map value.
#[inline(always)]
unsafe fn word(state: *mut ScopeState, count: Count) -> *mut u64 {
    // SAFETY: the caller's promise.
    unsafe {
        match count {
            Count::InFlight => &raw mut (*state).recounted_in_flight,
            Count::Connections => &raw mut (*state).recounted_connections,
        }
    }
}

/// Whether the recount of the scope has been at the flow.
#[inline(always)]
unsafe fn joined(flow: *const Flow, state: *const ScopeState) -> bool {
    // SAFETY: the callers pass live map values.
    unsafe { atomic::load(&raw const (*state).recount) == u64::from((*flow).recount) }
}

/// The flow adds one to a count of `scope`.
///
/// # Safety
/// `flow` is a live map value, locked.
#[inline(always)]
pub unsafe fn added(flow: *const Flow, scope: u32, count: Count) {
    // SAFETY: the caller's promise.
    unsafe {
        if let Some(state) = maps::state(scope)
            && joined(flow, state)
        {
            atomic::increment(word(state, count));
        }
    }
}

/// The flow takes one from a count of the scope with this state.
///
/// # Safety
/// Both are live map values, the flow is locked.
#[inline(always)]
pub unsafe fn taken(flow: *const Flow, state: *mut ScopeState, count: Count) {
    // SAFETY: the caller's promise.
    unsafe {
        if joined(flow, state) {
            atomic::decrement(word(state, count));
        }
    }
}

struct Joining {
    flow: *mut Flow,
    number: u32,
}

/// Adds what the flow holds to the recount `recount`.
///
/// # Safety
/// `flow` is a live map value, locked.
#[inline(never)]
pub unsafe fn join(flow: *mut Flow, recount: u32) {
    // SAFETY: the caller's promise; the context outlives the loop.
    unsafe {
        (*flow).recount = recount;
        for at in 0..CONNECTION_SCOPES {
            let scope = (*flow).counted[at];
            if scope != NO_SCOPE {
                added(flow, scope, Count::Connections);
            }
        }
        let mut context = Joining {
            flow,
            number: (*flow).answered,
        };
        bpf_loop(
            MAX_OUTSTANDING,
            join_one as *mut c_void,
            (&raw mut context).cast(),
            0,
        );
    }
}

unsafe extern "C" fn join_one(_: u32, context: *mut Joining) -> i64 {
    // SAFETY: `join` passes its own context.
    unsafe {
        let Joining { flow, number } = *context;
        if number == (*flow).asked {
            return 1;
        }
        let scope = (*decide::slot(flow, number)).scope;
        if scope != NO_SCOPE {
            added(flow, scope, Count::InFlight);
        }
        (*context).number = number.wrapping_add(1);
    }
    0
}
