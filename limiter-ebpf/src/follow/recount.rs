// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The recount of the slots and connections that all flows hold. The daemon compares the sums with
//! the counts of the scopes (`abi::Sweep::recount`).

use limiter_common::abi::{CONNECTION_SCOPES, Flow, MAX_OUTSTANDING, NO_SCOPE};

use crate::{
    follow::ring::scope_of,
    kernel::{atomic::Word, maps, repeat::repeat, shared::ScopeCounts},
};

/// A count of a scope.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Count {
    InFlight,
    Connections,
}

#[inline(always)]
fn word(counts: ScopeCounts, count: Count) -> Word {
    match count {
        Count::InFlight => counts.recounted_in_flight(),
        Count::Connections => counts.recounted_connections(),
    }
}

/// Returns whether the recount of the scope with these `counts` already includes `flow`.
#[inline(always)]
fn includes(counts: ScopeCounts, flow: &Flow) -> bool {
    counts.recount().load() == u64::from(flow.recount)
}

/// Adds one to the recount of `scope` if that recount includes `flow`. The count of the scope has
/// already been incremented.
#[inline(always)]
pub fn added(flow: &Flow, scope: u32, count: Count) {
    if let Some(counts) = maps::counts(scope)
        && includes(counts, flow)
    {
        word(counts, count).increment();
    }
}

/// Subtracts one from the recount of the scope with these `counts` if that recount includes `flow`.
/// The caller then decrements the count of the scope.
#[inline(always)]
pub fn taken(flow: &Flow, counts: ScopeCounts, count: Count) {
    if includes(counts, flow) {
        word(counts, count).decrement();
    }
}

/// Adds the slots and the connections that a flow holds to the recount whose id is `recount`.
#[inline(never)]
pub fn join(flow: &mut Flow, recount: u32) {
    flow.recount = recount;
    for at in 0..CONNECTION_SCOPES {
        let scope = flow.counted[at];
        if scope != NO_SCOPE {
            added(flow, scope, Count::Connections);
        }
    }
    let number = flow.answered;
    let mut outstanding = Outstanding { flow, number };
    repeat(MAX_OUTSTANDING, &mut outstanding, Outstanding::turn);
}

/// The state of the loop over the outstanding requests of a flow.
struct Outstanding<'a> {
    flow: &'a mut Flow,
    number: u32,
}

impl Outstanding<'_> {
    #[inline(always)]
    fn turn(&mut self, _: u32) -> bool {
        if self.number == self.flow.asked {
            return true;
        }
        let scope = *scope_of(self.flow, self.number);
        if scope != NO_SCOPE {
            added(self.flow, scope, Count::InFlight);
        }
        self.number = self.number.wrapping_add(1);
        false
    }
}
