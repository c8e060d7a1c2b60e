// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A visit to all elements of the tables of connections (`bpf_for_each_map_elem`).

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_for_each_map_elem;
use limiter_common::abi::{FlowEntry, FlowKey, UntrackedConnection};

use crate::kernel::{
    flow::FoundFlow,
    maps::{FLOWS, UNTRACKED},
    shared::Untracked,
};

/// A visitor whose methods are called for the elements of the tables of connections.
pub trait Visitor {
    /// Visits a flow, which is not locked.
    fn flow(&mut self, key: &FlowKey, flow: FoundFlow);
    fn untracked(&mut self, key: &FlowKey, connection: Untracked);
}

/// Calls a visitor once for each element of both tables.
#[inline(always)]
pub fn visit_all<V: Visitor>(visitor: &mut V) {
    unsafe extern "C" fn flow<V: Visitor>(
        _map: *mut c_void,
        key: *const FlowKey,
        entry: *mut FlowEntry,
        visitor: *mut V,
    ) -> i64 {
        // SAFETY: the kernel passes an element of FLOWS, and the pointer that it got from
        // `visit_all`. Nothing else uses the visitor during the call.
        unsafe { (*visitor).flow(&*key, FoundFlow::at(entry)) };
        0
    }
    unsafe extern "C" fn untracked<V: Visitor>(
        _map: *mut c_void,
        key: *const FlowKey,
        entry: *mut UntrackedConnection,
        visitor: *mut V,
    ) -> i64 {
        // SAFETY: the kernel passes an element of UNTRACKED, and the pointer that it got from
        // `visit_all`. Nothing else uses the visitor during the call.
        unsafe { (*visitor).untracked(&*key, Untracked::at(entry)) };
        0
    }
    let visitor: *mut c_void = (&raw mut *visitor).cast();
    // SAFETY: each callback expects elements of the map to which it is passed, and a pointer to a
    // `V`. `visitor` is such a pointer, and outlives the calls.
    unsafe {
        let flows = (&raw const FLOWS).cast_mut().cast();
        bpf_for_each_map_elem(flows, flow::<V> as *mut c_void, visitor, 0);
        let connections = (&raw const UNTRACKED).cast_mut().cast();
        bpf_for_each_map_elem(connections, untracked::<V> as *mut c_void, visitor, 0);
    }
}
