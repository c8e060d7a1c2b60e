// SPDX-License-Identifier: MIT OR Apache-2.0

//! The table of flows of the in-memory kernel, for tests of sweeps, checks and recounts.

use limiter_common::abi::{self, FlowKey, MAX_SUSPECTS, Suspect, Sweep};

use super::plane::Tables;
use crate::kernel::plane::{Count, CountPair, ReadFirst};

/// A connection whose requests in flight all belong to one scope.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flow {
    pub(crate) key: FlowKey,
    pub(crate) scope: u32,
    pub(crate) slots: u64,
    pub(crate) silent_ns: u64,
    pub(crate) last_seen_ns: u64,
    pub(crate) check: u32,
    recount: u32,
}

impl Tables {
    /// Opens a connection with `slots` requests in flight, and adds the requests and the connection
    /// to the counts of `scope`.
    pub(crate) fn open(&mut self, client_port: u16, scope: u32, slots: u64) {
        let recount = self.sweep.recount;
        self.flows.push(Flow {
            key: FlowKey {
                client_port,
                ..FlowKey::default()
            },
            scope,
            slots,
            recount,
            last_seen_ns: 1,
            ..Flow::default()
        });
        let state = self.state.entry(scope).or_default();
        state.in_flight += slots;
        state.connections += 1;
        if state.recount == u64::from(recount) {
            state.recounted_in_flight += slots;
            state.recounted_connections += 1;
        }
    }

    pub(crate) fn swept(&mut self, ask: &Sweep) -> Sweep {
        self.sweep = *ask;
        self.sweeps.push(*ask);
        self.suspects.clear();
        let mut swept = Sweep {
            flows: self.flows.len() as u64 + self.more_half_open,
            handshakes: self.more_half_open,
            missed: self.missed,
            ..*ask
        };
        for flow in &mut self.flows {
            if ask.check != 0
                && flow.check != ask.check
                && flow.silent_ns >= ask.suspect_ns
                && self.suspects.len() < MAX_SUSPECTS as usize
            {
                flow.check = ask.check;
                self.suspects.push(Suspect {
                    key: flow.key,
                    last_seen_ns: flow.last_seen_ns,
                    ..Suspect::default()
                });
            }
            if flow.recount != ask.recount {
                flow.recount = ask.recount;
                swept.recounted += 1;
                let state = self.state.entry(flow.scope).or_default();
                if state.recount == u64::from(ask.recount) {
                    state.recounted_in_flight += flow.slots;
                    state.recounted_connections += 1;
                }
            }
        }
        swept.suspects = self.suspects.len() as u64;
        swept
    }

    pub(crate) fn forget(&mut self, suspect: &Suspect) -> Suspect {
        let same =
            |flow: &Flow| flow.key == suspect.key && flow.last_seen_ns == suspect.last_seen_ns;
        let Some(at) = self.flows.iter().position(same) else {
            return *suspect;
        };
        let Flow { scope, slots, .. } = self.flows.swap_remove(at);
        let state = self.state.entry(scope).or_default();
        state.in_flight -= slots;
        state.connections -= 1;
        Suspect {
            removed: 1,
            slots,
            connections: 1,
            ..*suspect
        }
    }

    /// Returns the count and the recounted sum. In about half of the calls, the value that is read
    /// first is too high by `noise`, as if a packet had changed only this value so far.
    pub(crate) fn counted(
        &mut self,
        scope: u32,
        count: Count,
        first: ReadFirst,
        number: u32,
    ) -> Option<CountPair> {
        let abi::ScopeState {
            in_flight,
            connections,
            recount,
            recounted_in_flight,
            recounted_connections,
            ..
        } = self.state.get(&scope).copied()?;
        self.looks += 1;
        // Knuth's multiplicative hash selects these calls, so that they have no regular pattern.
        let busy = self.looks.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 63 != 0;
        let noise = if busy { self.noise } else { 0 };
        let (count, recounted) = match count {
            Count::InFlight => (in_flight, recounted_in_flight),
            Count::Connections => (connections, recounted_connections),
        };
        let (more, less) = match first {
            ReadFirst::Count => (noise, 0),
            ReadFirst::Recounted => (0, noise),
        };
        (recount == u64::from(number)).then_some(CountPair {
            count: count + more,
            recounted: recounted + less,
        })
    }
}
