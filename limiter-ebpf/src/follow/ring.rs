// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The ring of requests that await their responses.

use limiter_common::abi::{FLOW_SWITCHING, Flow, MAX_OUTSTANDING};
use limiter_common::http::ASKS_TUNNEL;

use crate::kernel::verifier::place;

/// The mask that keeps the index of a request below the length of the ring.
const MASK: u64 = MAX_OUTSTANDING as u64 - 1;

/// Adds a request to the ring, which must have room, and records in the flags of the flow whether
/// the request asks for a tunnel.
#[inline(always)]
pub fn enter(flow: &mut Flow, scope: u32, demands: u32) {
    const { assert!(ASKS_TUNNEL << 13 == FLOW_SWITCHING) };
    let number = flow.asked;
    *scope_of(flow, number) = scope;
    *demands_of(flow, number) = demands as u8;
    flow.flags = flow.flags & !FLOW_SWITCHING | (demands & ASKS_TUNNEL) << 13;
    flow.asked = flow.asked.wrapping_add(1);
}

/// Returns the scope whose slot request `number` holds.
#[inline(always)]
pub fn scope_of(flow: &mut Flow, number: u32) -> &mut u32 {
    place::<MASK, _, _>(&mut flow.scopes, number)
}

/// Returns the demands of request `number`.
#[inline(always)]
pub fn demands_of(flow: &mut Flow, number: u32) -> &mut u8 {
    place::<MASK, _, _>(&mut flow.demands, number)
}
