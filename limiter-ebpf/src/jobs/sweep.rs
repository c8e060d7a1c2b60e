// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Sweeps of the table of flows for the daemon. They use the same locks and the same code as the
//! packet path, and do not copy the table to user space. A sweep removes dead flows, reports silent
//! flows to the daemon, and counts all flows and the slots and connections that they hold.

use limiter_common::{
    abi::{
        Client, FLOW_LOCAL, FlowKey, MAX_SUSPECTS, Suspect, Sweep, UNTRACKED_ENDING, counter, phase,
    },
    flow::Idle,
};

use crate::{
    follow::{clients::client_key, recount, slots},
    kernel::{
        clock,
        flow::{FoundFlow, LockedFlow},
        maps,
        shared::Untracked,
        skb,
        visit::{self, Visitor},
    },
    refuse::tomb::mark_untranslated,
};

/// A sweep, which visits every connection once.
struct Sweeper {
    sweep: &'static mut Sweep,
    now_ns: u64,
}

/// Runs a sweep with the settings in `SWEEP`. Returns 1 if that map does not exist, and 0
/// otherwise.
#[inline(always)]
pub fn run() -> i32 {
    let Some(sweep) = maps::sweep() else { return 1 };
    let mut sweeper = Sweeper {
        sweep,
        now_ns: skb::coarse_ns(),
    };
    visit::visit_all(&mut sweeper);
    0
}

impl Visitor for Sweeper {
    #[inline(always)]
    fn flow(&mut self, key: &FlowKey, found: FoundFlow) {
        self.count(found);
        let over_share = self.is_over_share(found);
        let nothing = !over_share
            && !self.is_dead(found)
            && found.recount() == self.sweep.recount
            && !self.is_suspect(found);
        if nothing {
            return;
        }
        let Some(mut flow) = found.lock(key) else {
            self.sweep.missed += 1;
            return;
        };
        // The first check was made without the lock, so it is repeated.
        let over_share = over_share && self.is_over_share(found);
        if over_share || self.is_dead(found) {
            self.remove(key, flow, over_share);
            return;
        }
        if flow.recount != self.sweep.recount {
            recount::join(&mut flow, self.sweep.recount);
            self.sweep.recounted += 1;
        }
        if self.is_suspect(found) {
            self.name(&mut flow);
        }
    }

    /// Removes an untracked connection that has been silent for longer than a followed connection
    /// may be. Counts any other untracked connection.
    #[inline(always)]
    fn untracked(&mut self, key: &FlowKey, connection: Untracked) {
        let silent_ns = self.now_ns.saturating_sub(connection.last_seen_ns());
        let limit = if connection.flags() & UNTRACKED_ENDING != 0 {
            self.sweep.idle_ns[Idle::Closing as usize]
        } else {
            self.sweep.idle_ns[Idle::Open as usize]
        };
        if silent_ns > limit {
            maps::remove_untracked(key);
        } else {
            self.sweep.untracked += 1;
        }
    }
}

impl Sweeper {
    /// Adds a flow to the totals of the sweep.
    #[inline(always)]
    fn count(&mut self, found: FoundFlow) {
        self.sweep.flows += 1;
        if found.phase() == phase::HANDSHAKE {
            self.sweep.handshakes += 1;
        }
        if found.class() == Idle::Unconfirmed {
            self.sweep.unconfirmed += 1;
        }
        if self.sweep.census != 0 {
            self.count_client(found);
        }
    }

    /// Counts a flow for its client's address. Other programs change the same words at the same
    /// time, so a flow that is opened during the census may be counted twice or not at all until
    /// the next census.
    #[inline(always)]
    fn count_client(&mut self, found: FoundFlow) {
        let census = self.sweep.census;
        let key = client_key(&found.client());
        match maps::client(&key) {
            Some(client) if client.census().load() == census => {
                client.flows().increment();
            }
            Some(client) => {
                client.census().store(census);
                client.flows().store(1);
            }
            None => maps::insert_client(&key, &Client { census, flows: 1 }),
        }
    }

    /// Removes a flow that is dead, or whose client holds more than its share of the table.
    #[inline(always)]
    fn remove(&mut self, key: &FlowKey, mut flow: LockedFlow, over_share: bool) {
        let found = flow.entry();
        let early = matches!(found.class(), Idle::Handshake | Idle::Unconfirmed)
            && self.silent_ns(found) <= Idle::DEFAULT_NS[Idle::Handshake as usize];
        if over_share {
            self.sweep.over_share += 1;
            maps::count(counter::OVER_SHARE);
            give_up(found);
        } else if early {
            maps::count(counter::HURRIED_HANDSHAKES);
        }
        mark_untranslated(key, &flow);
        let release = slots::end(&mut flow);
        if flow.remove(key) {
            self.sweep.removed += 1;
            maps::count(counter::SWEPT_FLOWS);
        }
        self.sweep.slots += u64::from(release.slots);
        self.sweep.connections += u64::from(release.connections);
        maps::count_by(counter::SWEPT_SLOTS, u64::from(release.slots));
    }

    #[inline(always)]
    fn silent_ns(&self, found: FoundFlow) -> u64 {
        self.now_ns.saturating_sub(found.last_seen_ns())
    }

    #[inline(always)]
    fn is_dead(&self, found: FoundFlow) -> bool {
        let [handshake, open, closing, closed, unconfirmed] = &self.sweep.idle_ns;
        let limit = match found.class() {
            Idle::Handshake => handshake,
            Idle::Open => open,
            Idle::Closing => closing,
            Idle::Closed => closed,
            Idle::Unconfirmed => unconfirmed,
        };
        self.silent_ns(found) > *limit
    }

    /// Returns whether the flow may be removed because its client holds more than its share of a
    /// table that is nearly full. (Returns false during a census, because the number of the
    /// client's flows is not known then.)
    #[inline(always)]
    fn is_over_share(&self, found: FoundFlow) -> bool {
        let share = clock::client_share();
        if share == 0
            || self.sweep.census != 0
            || found.asked() != found.answered()
            || self.silent_ns(found) < DISPENSABLE_NS
        {
            return false;
        }
        match maps::client(&client_key(&found.client())) {
            Some(client) => client.flows().load() > share,
            None => false,
        }
    }

    /// Returns whether the daemon should look for the flow's socket. A half-open flow is never a
    /// suspect, because the daemon would find no socket for it if the server uses SYN cookies.
    #[inline(always)]
    fn is_suspect(&self, found: FoundFlow) -> bool {
        self.sweep.check != 0
            && found.check() != self.sweep.check
            && found.flags() & FLOW_LOCAL != 0
            && found.phase() != phase::HANDSHAKE
            && self.silent_ns(found) >= self.sweep.suspect_ns
    }

    /// Reports a flow to the daemon if the list of suspects has room.
    #[inline(always)]
    fn name(&mut self, flow: &mut LockedFlow) {
        let number = self.sweep.suspects;
        if number < u64::from(MAX_SUSPECTS)
            && let Some(suspect) = maps::suspect(number as u32)
        {
            suspect.key = flow.key;
            suspect.last_seen_ns = flow.last_seen_ns;
            self.sweep.suspects = number + 1;
            flow.check = self.sweep.check;
        }
    }
}

/// The time in ns for which a flow without a request in flight has to be silent before it may be
/// removed in favour of other flows of its client.
const DISPENSABLE_NS: u64 = 1_000_000_000;

/// Subtracts a flow from the count of its client's address.
#[inline(always)]
fn give_up(found: FoundFlow) {
    if let Some(client) = maps::client(&client_key(&found.client())) {
        client.flows().decrement();
    }
}

/// Removes the flow in `FORGET` if its server has been silent since the flow was reported. Returns
/// 1 if that map does not exist, and 0 otherwise.
#[inline(always)]
pub fn forget() -> i32 {
    match maps::forget() {
        Some(suspect) => {
            remove_suspect(suspect);
            0
        }
        None => 1,
    }
}

#[inline(always)]
fn remove_suspect(suspect: &mut Suspect) {
    let Some(found) = FoundFlow::find(&suspect.key) else {
        return;
    };
    let Some(mut flow) = found.lock(&suspect.key) else {
        return;
    };
    if flow.last_seen_ns != suspect.last_seen_ns {
        return;
    }
    mark_untranslated(&suspect.key, &flow);
    let release = slots::end(&mut flow);
    if flow.remove(&suspect.key) {
        suspect.removed = 1;
        maps::count(counter::ORPHANED_FLOWS);
    }
    suspect.slots = u64::from(release.slots);
    suspect.connections = u64::from(release.connections);
    maps::count_by(counter::ORPHANED_SLOTS, u64::from(release.slots));
}
