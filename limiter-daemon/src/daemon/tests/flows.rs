//! The table of flows of the kernel in memory, as far as sweeps, checks and recounts see it.

use limiter_common::abi::{self, FlowKey, MAX_SUSPECTS, Suspect, Sweep};

use super::plane::Tables;
use crate::kernel::plane::{Count, Counted, First};

/// A connection with requests of one scope in flight.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flow {
    pub(super) key: FlowKey,
    pub(super) scope: u32,
    pub(super) slots: u64,
    pub(super) silent_ns: u64,
    pub(super) last_seen_ns: u64,
    pub(super) check: u32,
    recount: u32,
}

impl Tables {
    /// A connection is opened, with so many requests in flight, all of it counted.
    pub(super) fn open(&mut self, client_port: u16, scope: u32, slots: u64) {
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

    pub(super) fn swept(&mut self, ask: &Sweep) -> Sweep {
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

    pub(super) fn forget(&mut self, suspect: &Suspect) -> Suspect {
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

    /// With `noise`, half of the looks find a request on its way between count and sum.
    pub(super) fn counted(
        &mut self,
        scope: u32,
        count: Count,
        first: First,
        number: u32,
    ) -> Option<Counted> {
        let abi::ScopeState {
            in_flight,
            connections,
            recount,
            recounted_in_flight,
            recounted_connections,
            ..
        } = self.state.get(&scope).copied()?;
        self.looks += 1;
        // At every other look, but in no step with what asks (Knuth's multiplicative hash).
        let busy = self.looks.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 63 != 0;
        let noise = if busy { self.noise } else { 0 };
        let (count, recounted) = match count {
            Count::InFlight => (in_flight, recounted_in_flight),
            Count::Connections => (connections, recounted_connections),
        };
        let (more, less) = match first {
            First::Count => (noise, 0),
            First::Recounted => (0, noise),
        };
        (recount == u64::from(number)).then_some(Counted {
            count: count + more,
            recounted: recounted + less,
        })
    }
}
