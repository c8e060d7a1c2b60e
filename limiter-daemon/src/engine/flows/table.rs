// SPDX-License-Identifier: MIT OR Apache-2.0

//! Sweeps dead flows out of the kernel's table of flows, and divides the table among clients when
//! it is nearly full.

use std::time::Duration;

use limiter_common::{
    abi::{MAX_SUSPECTS, Suspect, Sweep},
    flow::Idle,
};

use crate::{
    engine::publish::clock::ClockPublisher,
    kernel::{KernelError, Plane},
    protocol::views::FlowsView,
};

const NS_PER_SECOND: u64 = 1_000_000_000;
/// The index of half-open connections in arrays with an element for each class of idle connections.
const HANDSHAKE: usize = Idle::Handshake as usize;
/// The time within which a half-open connection can still become established after its flow was
/// removed early. This is the time for which a server keeps such a connection after the last
/// packet, plus 5 s for the client's packet to arrive.
const REFUSE_UNTRACKED_NS: u64 = Idle::DEFAULT_NS[HANDSHAKE] + 5 * NS_PER_SECOND;
/// The number of consecutive sweeps that must find the table less full before half-open connections
/// get more time again. Sweeps come every second while the table is crowded. Without this delay,
/// the time would keep changing during a flood.
const CALM_SWEEPS: u32 = 10;

/// A level of occupancy. While more than `percent` percent of the table is in use, half-open
/// connections are given up after `seconds` seconds.
///
/// Until half of the table is in use, half-open connections get the time that a server gives them.
/// The time is counted from the latest SYN-ACK of the server, which sends one after 0, 1, 3, 7, 15
/// and 31 s (tcp(7), `tcp_synack_retries`). With 20 s, no connection is given up before the sixth
/// SYN-ACK, with 5 s not before the fourth, and with 2 s not before the third. A round trip takes
/// less time than any of these values. A server under a flood sends a SYN cookie instead, and sends
/// it only once. With 2 s and a sweep every second, the table holds the connections that such a
/// flood opens in 3 s.
struct Crowding {
    percent: u64,
    seconds: u64,
}

const CROWDING: [Crowding; 3] = [
    Crowding {
        percent: 50,
        seconds: 20,
    },
    Crowding {
        percent: 75,
        seconds: 5,
    },
    Crowding {
        percent: 90,
        seconds: 2,
    },
];

/// The minimum percentage of the table that half-open and unconfirmed connections must occupy
/// before they are given up early. If most connections are established and confirmed, giving up the
/// half-open and unconfirmed ones early frees too little of the table.
const HALF_OPEN_PERCENT: u64 = 10;

/// The state of the table of flows, and the sequence numbers of the passes over the table.
#[derive(Debug, Default)]
pub(crate) struct FlowTable {
    occupancy: Occupancy,
    /// The id of the last recount, which the kernel stores in new flows. The id is at least 1 once
    /// the engine has started.
    recount: u32,
    /// The sequence number of the last check for suspects.
    check: u32,
    /// Whether that check still has to search a part of the table.
    more_suspects: bool,
    /// The sequence number of the last census, which counts the flows of each client address.
    census: u64,
    /// The published maximum number of flows for each client address, or 0 if there is no maximum.
    client_share: u64,
}

/// The occupancy of the table after the last sweep.
#[derive(Debug, Default)]
struct Occupancy {
    /// The number of flows in the table.
    open: u64,
    /// The number of these flows that are half open.
    half_open: u64,
    /// The number of these flows that are established but not confirmed by the server.
    unconfirmed: u64,
    /// The number of connections that are not followed.
    untracked: u64,
    /// The number of levels of [`CROWDING`] that the table exceeds. The number decreases only after
    /// [`CALM_SWEEPS`] consecutive sweeps have found the table less full.
    level: usize,
    /// The number of consecutive sweeps that have found the table less full than at `level`.
    calm: u32,
}

impl Occupancy {
    fn note(&mut self, swept: &Sweep, capacity: u64) {
        self.open = swept.flows.saturating_sub(swept.removed);
        self.half_open = swept.handshakes.min(self.open);
        self.unconfirmed = swept.unconfirmed.min(self.open);
        self.untracked = swept.untracked;
        let full = |past: &&Crowding| self.open * 100 > capacity * past.percent;
        let level = CROWDING.iter().take_while(full).count();
        if level >= self.level {
            (self.level, self.calm) = (level, 0);
        } else if self.calm + 1 < CALM_SWEEPS {
            self.calm += 1;
        } else {
            (self.level, self.calm) = (level, 0);
        }
    }

    fn crowding(&self) -> Option<&'static Crowding> {
        CROWDING.get(self.level.checked_sub(1)?)
    }

    /// Returns the time, in ns, that the next sweep gives to connections that are half open or
    /// unconfirmed, or `None` if they get the usual time.
    fn shortened_ns(&self, capacity: u64) -> Option<u64> {
        let dispensable = self.half_open + self.unconfirmed;
        let many = dispensable * 100 >= capacity * HALF_OPEN_PERCENT;
        let crowding = self.crowding().filter(|_| many)?;
        Some(crowding.seconds * NS_PER_SECOND)
    }

    fn problem(&self, capacity: u64) -> Option<String> {
        let Crowding { percent, seconds } = self.crowding()?;
        Some(format!(
            "the table of connections is more than {percent}% full (`tables.flows` is {capacity}); if many are half open, or their servers have confirmed nothing of them, these are given up after {seconds} s, and untracked connections are refused meanwhile"
        ))
    }
}

/// The result of a sweep of dead flows.
pub(crate) struct SweepReport {
    /// The warning if the table is crowded.
    pub(crate) crowding: Result<Option<String>, KernelError>,
    /// The result of publishing the share of each client.
    pub(crate) shared_out: Result<(), KernelError>,
}

impl FlowTable {
    /// Continues the sequence numbers of the previous daemon, since flows in the table contain
    /// them.
    pub(crate) fn continue_numbers(&mut self, plane: &mut dyn Plane) -> Result<(), KernelError> {
        let last = plane.last_sweep()?;
        self.recount = last.recount.max(1);
        self.check = last.check;
        plane.set_recount(self.recount)
    }

    /// Returns whether the table is so full that it has to be swept as often as possible.
    pub(crate) fn is_crowded(&self) -> bool {
        self.occupancy.level > 0
    }

    pub(crate) fn view(&self, capacity: u64) -> FlowsView {
        FlowsView {
            open: self.occupancy.open,
            half_open: self.occupancy.half_open,
            unconfirmed: self.occupancy.unconfirmed,
            untracked: self.occupancy.untracked,
            capacity,
        }
    }

    /// Removes dead flows.
    pub(crate) fn sweep(
        &mut self,
        plane: &mut dyn Plane,
        clock: &ClockPublisher,
        capacity: u64,
    ) -> SweepReport {
        let mut idle_ns = Idle::DEFAULT_NS;
        if let Some(shortened_ns) = self.occupancy.shortened_ns(capacity) {
            // A connection that is given up early must not count as older than the limiter when one
            // of its packets arrives later. If this cannot be prevented, all connections get the
            // usual time, and the health of the clock reports the reason.
            if clock.refuse_untracked_for(REFUSE_UNTRACKED_NS).is_ok() {
                idle_ns[HANDSHAKE] = shortened_ns;
                idle_ns[Idle::Unconfirmed as usize] = shortened_ns;
            }
        }
        let shared_out = self.share_out(plane, clock, capacity);
        let swept = self.run(
            plane,
            Sweep {
                idle_ns,
                ..Sweep::default()
            },
        );
        SweepReport {
            crowding: swept.map(|swept| {
                self.occupancy.note(&swept, capacity);
                self.occupancy.problem(capacity)
            }),
            shared_out,
        }
    }

    /// Counts the flows of each client address while the table is nearly full, and publishes the
    /// share that no address may exceed.
    fn share_out(
        &mut self,
        plane: &mut dyn Plane,
        clock: &ClockPublisher,
        capacity: u64,
    ) -> Result<(), KernelError> {
        let mut share = 0;
        if self.occupancy.level == CROWDING.len() {
            self.census += 1;
            let census = self.census;
            // This sweep removes nothing, because the shares are known only after all flows have
            // been counted.
            self.run(
                plane,
                Sweep {
                    idle_ns: [u64::MAX; Idle::COUNT],
                    census,
                    ..Sweep::default()
                },
            )?;
            let mut clients = plane.clients(census)?;
            share = fair_share(&mut clients, capacity * FAIR_PERCENT / 100);
        }
        if share != self.client_share {
            clock.set_client_share(share)?;
            self.client_share = share;
        }
        Ok(())
    }

    /// Runs one pass over the table with the parameters in `request` and the id of the last
    /// recount.
    pub(crate) fn run(&self, plane: &mut dyn Plane, request: Sweep) -> Result<Sweep, KernelError> {
        let swept = plane.sweep(&Sweep {
            recount: self.recount,
            ..request
        })?;
        if swept.slots > 0 || swept.connections > 0 {
            log::info!(
                "removed {} dead flows of {}, and released {} slots and {} connections",
                swept.removed,
                swept.flows,
                swept.slots,
                swept.connections
            );
        }
        Ok(swept)
    }

    /// Begins the next recount, and returns the id of the recount.
    pub(crate) fn begin_recount(
        &mut self,
        plane: &mut dyn Plane,
        scopes: &[u32],
    ) -> Result<u32, KernelError> {
        let number = self.recount.wrapping_add(1).max(1);
        for scope in scopes {
            plane.begin_recount(*scope, number);
        }
        plane.set_recount(number)?;
        // From now on, every sweep publishes the new id too.
        self.recount = number;
        Ok(number)
    }

    /// Returns a batch of flows that have been silent for at least `silence`. Begins a new check if
    /// `first` is set and the previous check has searched the whole table.
    pub(crate) fn find_suspects(
        &mut self,
        plane: &mut dyn Plane,
        silence: Duration,
        first: bool,
    ) -> Result<Vec<Suspect>, KernelError> {
        if first && !self.more_suspects {
            self.check = self.check.wrapping_add(1).max(1);
        }
        let swept = self.run(
            plane,
            Sweep {
                idle_ns: Idle::DEFAULT_NS,
                check: self.check,
                suspect_ns: u64::try_from(silence.as_nanos()).unwrap_or(u64::MAX),
                ..Sweep::default()
            },
        )?;
        self.more_suspects = swept.suspects >= u64::from(MAX_SUSPECTS);
        plane.suspects(swept.suspects)
    }
}

/// The percentage of the table that is divided among the client addresses. The rest is for
/// addresses that have no flow yet.
const FAIR_PERCENT: u64 = 90;

/// Returns the max-min fair share of the flows: the largest limit per client under which the flows
/// of all clients fit into `capacity`. Only the clients with the most flows are above this limit.
/// `clients` contains the present number of flows of each client. Returns 0, which means no limit,
/// if there is only one client.
fn fair_share(clients: &mut [u64], capacity: u64) -> u64 {
    clients.sort_unstable();
    let [_, .., largest] = clients else {
        return 0;
    };
    let largest = *largest;
    let (mut left, mut others) = (capacity, clients.len() as u64);
    for &mut flows in clients {
        let each = left / others;
        if flows > each {
            return each.max(1);
        }
        left -= flows;
        others -= 1;
    }
    largest + left
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: u64 = 1000;

    fn swept(flows: u64, handshakes: u64) -> Sweep {
        Sweep {
            flows,
            handshakes,
            ..Sweep::default()
        }
    }

    #[test]
    fn the_fair_share_limits_only_the_largest_clients() {
        for (clients, wanted) in [
            (&[][..], 0),
            // There is no other client with which the table could be shared.
            (&[990], 0),
            (&[10, 980], 890),
            (&[980, 10, 20], 870),
            (&[400, 400, 400], 300),
            (&[100, 450, 450], 400),
            // All flows fit, and the client with the most flows may use the rest.
            (&[10, 20], 890),
        ] {
            let mut counted = clients.to_vec();
            assert_eq!(fair_share(&mut counted, 900), wanted, "{clients:?}");
        }
    }

    #[test]
    fn unconfirmed_connections_get_as_little_time_as_half_open_ones() {
        let mut table = Occupancy::default();
        let swept = Sweep {
            unconfirmed: 400,
            ..swept(751, 0)
        };
        table.note(&swept, CAPACITY);
        assert_eq!(hurry_s(&table), Some(5));
    }

    fn hurry_s(table: &Occupancy) -> Option<u64> {
        table.shortened_ns(CAPACITY).map(|ns| ns / NS_PER_SECOND)
    }

    #[test]
    fn half_open_connections_get_less_time_in_a_fuller_table() {
        for (flows, handshakes, wanted) in [
            (0, 0, None),
            (500, 500, None),
            (501, 400, Some(20)),
            (751, 400, Some(5)),
            (901, 400, Some(2)),
            (1000, 100, Some(2)),
            // Giving up 99 connections frees too little of a table of 1000.
            (1000, 99, None),
        ] {
            let mut table = Occupancy::default();
            table.note(&swept(flows, handshakes), CAPACITY);
            assert_eq!(hurry_s(&table), wanted, "{flows} {handshakes}");
            assert_eq!(table.problem(CAPACITY).is_some(), flows > 500);
        }
    }

    #[test]
    fn half_open_connections_get_more_time_only_after_a_calm_period() {
        let mut table = Occupancy::default();
        table.note(&swept(950, 900), CAPACITY);
        for _ in 1..CALM_SWEEPS {
            table.note(&swept(600, 300), CAPACITY);
            assert_eq!(hurry_s(&table), Some(2));
        }
        table.note(&swept(600, 300), CAPACITY);
        assert_eq!(hurry_s(&table), Some(20));
        for _ in 0..CALM_SWEEPS {
            table.note(&swept(100, 100), CAPACITY);
        }
        assert_eq!(hurry_s(&table), None);
        assert_eq!(table.problem(CAPACITY), None);
    }

    #[test]
    fn removed_flows_no_longer_count() {
        let mut table = Occupancy::default();
        let swept = Sweep {
            removed: 700,
            ..swept(1000, 900)
        };
        table.note(&swept, CAPACITY);
        assert_eq!((table.open, table.half_open), (300, 300));
        assert_eq!(table.problem(CAPACITY), None);
    }
}
