// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The slots and the connection counts that a flow holds.

use limiter_common::abi::{
    CONNECTION_SCOPES, FLOW_CLIENT_FIN, FLOW_SERVER_FIN, Flow, MAX_OUTSTANDING, NO_SCOPE, phase,
};

use crate::{
    follow::{
        recount::{self, Count},
        ring::scope_of,
    },
    kernel::{global::global, maps, repeat::repeat, verifier::place, work::Work},
};

/// The mask that keeps the index of a scope below the length of `Flow::counted`.
const MASK: u64 = CONNECTION_SCOPES as u64 - 1;

/// Returns whether the flow is counted among the connections of the scope. All entries are compared
/// without a branch, because the verifier would check both sides of a branch for each entry.
#[inline(always)]
pub fn is_counted(flow: &Flow, scope: u32) -> bool {
    let mut below = 0;
    for counted in flow.counted {
        // The right side is negative if `counted` and `scope` are equal.
        below |= i64::from(counted ^ scope) - 1;
    }
    below < 0
}

/// Adds a scope to the list of scopes whose connection counts include this flow. The caller has
/// just incremented the scope's count. The new scope replaces the oldest one in the list, and the
/// flow is removed from the connection count of that old scope.
#[inline(always)]
pub fn count_connection(flow: &mut Flow, scope: u32) {
    let number = flow.counted_next;
    let counted = place::<MASK, _, _>(&mut flow.counted, number);
    let old = *counted;
    *counted = scope;
    if old != NO_SCOPE {
        return_connection(flow, old);
    }
    recount::added(flow, scope, Count::Connections);
    flow.counted_next = flow.counted_next.wrapping_add(1);
}

/// Removes the flow from the connection count of a scope.
#[inline(always)]
fn return_connection(flow: &Flow, scope: u32) {
    if let Some(counts) = maps::counts(scope) {
        recount::taken(flow, counts, Count::Connections);
        counts.connections().decrement();
    }
}

/// Frees the slot of the oldest outstanding request, whose response has ended.
#[inline(always)]
pub fn answered(flow: &mut Flow) {
    if flow.answered == flow.asked {
        return;
    }
    let number = flow.answered;
    let scope = *scope_of(flow, number);
    flow.answered = flow.answered.wrapping_add(1);
    if scope != NO_SCOPE
        && let Some(counts) = maps::counts(scope)
    {
        recount::taken(flow, counts, Count::InFlight);
        counts.in_flight().decrement();
    }
}

/// Frees the slots of all outstanding requests, and returns the number of these requests.
#[inline(never)]
pub fn release_slots(flow: &mut Flow) -> u32 {
    let outstanding = flow.asked.wrapping_sub(flow.answered);
    if outstanding != 0 {
        let mut release = SlotRelease { flow };
        repeat(MAX_OUTSTANDING, &mut release, SlotRelease::turn);
    }
    outstanding
}

struct SlotRelease<'a> {
    flow: &'a mut Flow,
}

impl SlotRelease<'_> {
    #[inline(always)]
    fn turn(&mut self, _: u32) -> bool {
        if self.flow.answered == self.flow.asked {
            return true;
        }
        answered(self.flow);
        false
    }
}

/// Removes the flow from the connection counts of its scopes, and returns the number of these
/// scopes.
#[inline(never)]
pub fn release_connections(flow: &mut Flow) -> u32 {
    let mut released = 0;
    for at in 0..CONNECTION_SCOPES {
        let scope = flow.counted[at];
        if scope != NO_SCOPE {
            flow.counted[at] = NO_SCOPE;
            released += 1;
            return_connection(flow, scope);
        }
    }
    released
}

global! {
    /// Ends the packet's flow, as [`end`] does.
    pub fn limiter_end(work, flow;) -> () = end_for_packet, or ();
}

/// The body of [`limiter_end`].
#[inline(always)]
fn end_for_packet(_: &mut Work, flow: &mut Flow) {
    end(flow);
}

/// Ends a flow: frees its slots, removes it from the connection counts, and from then on lets only
/// resets pass.
#[inline(always)]
pub fn end(flow: &mut Flow) -> Release {
    let release = Release {
        slots: release_slots(flow),
        connections: release_connections(flow),
    };
    // A CPU that is waiting for the lock will see this phase, and drop its packet unless the packet
    // is a reset.
    flow.phase = phase::RESET;
    release
}

/// The numbers of slots and connection counts that the end of a flow has freed.
#[derive(Clone, Copy)]
pub struct Release {
    pub slots: u32,
    pub connections: u32,
}

/// Returns whether both sides have sent a FIN and acknowledged the FIN of the other side. If they
/// have, ends the flow and frees everything that the flow held.
#[inline(always)]
pub fn has_ended(flow: &mut Flow) -> bool {
    const BOTH: u32 = FLOW_CLIENT_FIN | FLOW_SERVER_FIN;
    if flow.flags & BOTH != BOTH
        || flow.server_ack != flow.client_fin
        || flow.client_ack != flow.server_fin
    {
        return false;
    }
    end(flow);
    true
}
