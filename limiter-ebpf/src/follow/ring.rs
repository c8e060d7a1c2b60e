// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The ring of requests that await their responses.

use limiter_common::abi::{FLOW_SWITCHING, Flow, MAX_OUTSTANDING, Outstanding};
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
    *slot(flow, number) = Outstanding { scope, demands };
    flow.flags = flow.flags & !FLOW_SWITCHING | (demands & ASKS_TUNNEL) << 13;
    flow.asked = flow.asked.wrapping_add(1);
}

/// Returns the ring's entry for request `number`.
#[inline(always)]
pub fn slot(flow: &mut Flow, number: u32) -> &mut Outstanding {
    place::<MASK, _, _>(&mut flow.outstanding, number)
}
