// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests of checks, recounts, and a table of flows that fills up.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex},
};

use limiter_common::{
    abi::{Clock, FlowKey, MAX_SUSPECTS},
    flow::Idle,
};

use super::{host::Host, plane::Tables};
use crate::{
    engine::{
        flows::{orphans, recount},
        publish::clock::{ClockPublisher, PublishClock},
        shared::Shared,
        state::Engine,
        time::ClockWords,
    },
    kernel::{
        KernelError,
        sockets::{Dump, Ends, SocketTable},
    },
};

/// A socket table that returns prepared results, one for each dump.
#[derive(Default)]
struct Sockets {
    dumps: VecDeque<(Vec<u16>, io::Result<Dump>)>,
    found: Vec<u16>,
    found_all: bool,
    asked: usize,
}

impl SocketTable for Sockets {
    fn dump(&mut self, seen: &mut dyn FnMut(Ends)) -> io::Result<Dump> {
        self.asked += 1;
        let (clients, end) = self
            .dumps
            .pop_front()
            .unwrap_or((vec![], Ok(Dump::Complete)));
        for client in clients {
            let key = FlowKey {
                client_port: client,
                ..FlowKey::default()
            };
            seen(Ends::from(&key));
        }
        end
    }

    fn find(&mut self, ends: Ends) -> io::Result<bool> {
        Ok(self.found_all || self.found.contains(&ends.client.port().to_be()))
    }
}

/// A host with one scope, prepared for checks and recounts.
struct Healed {
    host: Host,
    shared: Shared,
    id: u32,
}

impl Healed {
    fn new(config: &str) -> Self {
        let mut host = Host::new(config);
        let id = host.add("acme");
        let shared = Shared::new(host.engine.take().unwrap());
        Self { host, shared, id }
    }

    fn tables<T>(&self, change: impl FnOnce(&mut Tables) -> T) -> T {
        change(&mut self.host.plane.tables())
    }

    /// Opens a connection that has been silent for a long time.
    fn silent(&self, client: u16, slots: u64) {
        let id = self.id;
        self.tables(|tables| {
            tables.open(client, id, slots);
            tables.flows.last_mut().unwrap().silent_ns = u64::MAX;
        });
    }

    fn in_flight(&self) -> u64 {
        self.tables(|tables| tables.state[&self.id].in_flight)
    }

    fn check(&self, sockets: &mut Sockets) -> bool {
        orphans::check(&self.shared, || Ok(sockets)).is_ok()
    }

    fn recount(&self) {
        recount::recount(&self.shared).unwrap();
    }
}

#[test]
fn a_silent_connection_without_a_socket_is_forgotten() {
    let healed = Healed::new("");
    healed.silent(1, 2);
    healed.silent(2, 3);
    let complete = || (vec![2], Ok(Dump::Complete));
    let mut sockets = Sockets {
        dumps: [complete(), complete()].into(),
        ..Sockets::default()
    };
    assert!(healed.check(&mut sockets));
    assert_eq!(healed.in_flight(), 3);
    let view = healed.shared.engine().status().unwrap().healed;
    assert_eq!(
        (view.checks, view.orphaned_flows, view.orphaned_slots),
        (1, 1, 2)
    );
}

#[test]
fn a_connection_that_any_dump_finds_or_that_is_not_silent_stays() {
    let seen = || (vec![1], Ok(Dump::Complete));
    let missing = || (vec![], Ok(Dump::Complete));
    let cut = || (vec![], Ok(Dump::Interrupted));
    for (dumps, found) in [
        (vec![seen(), missing()], vec![]),
        (vec![missing(), seen()], vec![]),
        (vec![missing(), cut(), missing(), seen()], vec![]),
        (vec![missing(), missing()], vec![1]),
    ] {
        let healed = Healed::new("");
        healed.silent(1, 2);
        let mut sockets = Sockets {
            dumps: dumps.into(),
            found,
            ..Sockets::default()
        };
        assert!(healed.check(&mut sockets));
        assert_eq!(healed.in_flight(), 2);
    }
    let healed = Healed::new("");
    healed.tables(|tables| tables.open(1, healed.id, 2));
    let mut sockets = Sockets::default();
    assert!(healed.check(&mut sockets));
    assert_eq!(
        (healed.in_flight(), sockets.asked),
        (2, 0),
        "no dump without a suspect"
    );
}

#[test]
fn incomplete_dumps_forget_no_connection() {
    let healed = Healed::new("");
    healed.silent(1, 2);
    let cut = || (vec![], Ok(Dump::Interrupted));
    let complete = || (vec![], Ok(Dump::Complete));
    let mut sockets = Sockets {
        dumps: [complete(), cut(), complete(), cut(), complete(), cut()].into(),
        ..Sockets::default()
    };
    assert!(healed.check(&mut sockets));
    assert_eq!(healed.in_flight(), 2);
    let failed = || (vec![], Err(io::Error::other("out of buffers")));
    let mut sockets = Sockets {
        dumps: [complete(), failed()].into(),
        ..Sockets::default()
    };
    assert!(!healed.check(&mut sockets));
    assert_eq!(healed.in_flight(), 2);
}

#[test]
fn a_suspect_that_sends_a_packet_is_not_forgotten() {
    struct SendingPeer<'a>(&'a Healed);
    impl SocketTable for SendingPeer<'_> {
        fn dump(&mut self, _: &mut dyn FnMut(Ends)) -> io::Result<Dump> {
            self.0.tables(|tables| tables.flows[0].last_seen_ns += 1);
            Ok(Dump::Complete)
        }
        fn find(&mut self, _: Ends) -> io::Result<bool> {
            Ok(false)
        }
    }
    let healed = Healed::new("");
    healed.silent(1, 2);
    let mut sockets = SendingPeer(&healed);
    orphans::check(&healed.shared, || Ok(&mut sockets)).unwrap();
    assert_eq!(healed.in_flight(), 2);
}

#[test]
fn more_suspects_than_one_sweep_can_report_are_all_checked() {
    let healed = Healed::new("");
    for client in 0..2 * MAX_SUSPECTS as u16 + 5 {
        healed.silent(client, 1);
    }
    assert!(healed.check(&mut Sockets::default()));
    assert_eq!(healed.in_flight(), 0);
}

#[test]
fn an_unfinished_check_of_the_table_is_continued() {
    let healed = Healed::new("");
    let more_than_a_check = 17 * MAX_SUSPECTS;
    for flow in 0..more_than_a_check {
        healed.silent(flow as u16, 0);
        healed.tables(|tables| {
            let key = &mut tables.flows.last_mut().unwrap().key;
            key.server_port = (flow >> 16) as u16;
        });
    }
    let mut numbers = Vec::new();
    for _ in 0..3 {
        let mut sockets = Sockets {
            found_all: true,
            ..Sockets::default()
        };
        assert!(healed.check(&mut sockets));
        numbers.push(healed.tables(|tables| tables.sweep.check));
    }
    assert_eq!(numbers, [1, 1, 2]);
    let named = healed.tables(|tables| tables.flows.iter().filter(|flow| flow.check != 0).count());
    assert_eq!(named, more_than_a_check as usize);
}

#[test]
fn a_new_daemon_continues_the_numbers_of_the_old_one() {
    let mut host = Host::new("");
    {
        let mut tables = host.plane.tables();
        (tables.sweep.recount, tables.sweep.check) = (7, 9);
    }
    host.start(super::host::noon()).unwrap();
    let shared = Shared::new(host.engine.take().unwrap());
    assert_eq!(host.plane.tables().sweep.recount, 7);
    recount::recount(&shared).unwrap();
    assert_eq!(host.plane.tables().sweep.recount, 8);
    orphans::check(&shared, || Err(io::Error::other("not needed"))).unwrap();
    let sweep = host.plane.tables().sweep;
    assert_eq!((sweep.recount, sweep.check), (8, 10));
}

#[test]
fn counts_that_are_off_in_two_recounts_are_corrected() {
    for (off_in_flight, off_connections) in [(5, 0), (0, 2), (3, 1)] {
        let healed = Healed::new("");
        let id = healed.id;
        healed.tables(|tables| {
            tables.open(1, id, 2);
            let state = tables.state.get_mut(&id).unwrap();
            state.in_flight += off_in_flight;
            state.connections += off_connections;
            // At about half of the reads, a packet has changed only the count or only the sum.
            tables.noise = 1;
        });
        healed.recount();
        assert_eq!(healed.in_flight(), 2 + off_in_flight, "once is not enough");
        healed.recount();
        let state = healed.tables(|tables| tables.state[&id]);
        assert_eq!(
            (state.in_flight, state.connections, state.recount),
            (2, 1, 0)
        );
        let view = healed.shared.engine().status().unwrap().healed;
        assert_eq!(
            (view.recounts, view.slots, view.connections),
            (2, off_in_flight, off_connections)
        );
        healed.recount();
        assert_eq!(healed.in_flight(), 2, "and only once");
    }
}

#[test]
fn counts_that_are_too_low_are_corrected() {
    let healed = Healed::new("");
    let id = healed.id;
    healed.tables(|tables| {
        tables.open(1, id, 4);
        tables.state.get_mut(&id).unwrap().in_flight = 1;
        tables.noise = 1;
    });
    healed.recount();
    healed.recount();
    assert_eq!(healed.in_flight(), 4);
}

#[test]
fn scopes_that_were_removed_or_adopted_are_recounted() {
    let healed = Healed::new("[policy]\nunknown_key = \"tier:profile\"\n");
    let adopted = 131_072 + 1;
    healed.tables(|tables| {
        let entry = crate::engine::publish::keys::unknown_entry(adopted, 0);
        tables.keys.insert([7, 7], entry);
    });
    {
        let mut engine = healed.shared.engine();
        engine
            .record_unknown(&[([7, 7], adopted)], super::host::noon())
            .unwrap();
        let caller = super::host::caller(super::host::noon());
        engine
            .remove_scope(&super::host::name("acme"), true, &caller)
            .unwrap();
    }
    healed.tables(|tables| {
        for id in [healed.id, adopted] {
            tables.state.entry(id).or_default().in_flight = 5;
        }
    });
    healed.recount();
    healed.recount();
    for id in [healed.id, adopted] {
        assert_eq!(
            healed.tables(|tables| tables.state[&id].in_flight),
            0,
            "{id}"
        );
    }
}

#[test]
fn a_recount_that_cannot_see_all_flows_corrects_nothing() {
    let healed = Healed::new("");
    healed.tables(|tables| {
        tables.state.entry(healed.id).or_default().in_flight = 5;
        tables.missed = 1;
    });
    healed.recount();
    healed.recount();
    assert_eq!(healed.in_flight(), 5);
    assert_eq!(healed.shared.engine().status().unwrap().healed.recounts, 0);
    // A recount that is not completed also discards the result of the previous recount.
    healed.tables(|tables| tables.missed = 0);
    healed.recount();
    healed.tables(|tables| tables.missed = 1);
    healed.recount();
    healed.tables(|tables| tables.missed = 0);
    healed.recount();
    assert_eq!(healed.in_flight(), 5);
    assert_eq!(healed.tables(|tables| tables.state[&healed.id].recount), 0);
    healed.recount();
    assert_eq!(healed.in_flight(), 0);
}

/// The map of the clock, with a flag that makes writes to the map fail.
#[derive(Clone, Default)]
struct ClockMap(Arc<Mutex<(Clock, bool)>>);

impl PublishClock for ClockMap {
    fn published(&self) -> Result<Clock, KernelError> {
        Ok(self.0.lock().unwrap().0)
    }

    fn publish(&mut self, clock: Clock) -> Result<(), KernelError> {
        let mut map = self.0.lock().unwrap();
        if map.1 {
            return Err(KernelError::Missing("clock".to_owned()));
        }
        map.0 = clock;
        Ok(())
    }
}

fn flooded() -> (Host, ClockMap, ClockPublisher) {
    let host = Host::new("[tables]\nflows = 1000\n");
    let map = ClockMap::default();
    let clock = ClockPublisher::new(Box::new(map.clone()), ClockWords::default());
    host.plane.tables().more_half_open = 800;
    (host, map, clock)
}

fn handshake_ns(engine: &Host) -> u64 {
    engine.plane.tables().sweep.idle_ns[Idle::Handshake as usize]
}

#[test]
fn a_flood_gets_less_time_and_untracked_connections_are_refused_for_as_long() {
    let (mut host, map, clock) = flooded();
    host.engine().sweep(&clock);
    assert_eq!(handshake_ns(&host), Idle::DEFAULT_NS[0]);
    assert!(host.engine().is_crowded());
    assert_eq!(map.0.lock().unwrap().0.refuse_untracked_until_ns, 0);
    let flows = |engine: &Engine| {
        let status = engine.status().unwrap();
        let message = status.health.iter().find(|health| health.part == "flows");
        (status.flows, message.map(|health| health.message.clone()))
    };
    let (view, message) = flows(host.engine());
    assert_eq!((view.open, view.half_open, view.capacity), (800, 800, 1000));
    assert!(message.unwrap().contains("more than 75% full"));

    host.engine().sweep(&clock);
    assert_eq!(handshake_ns(&host), 5_000_000_000);
    assert_eq!(
        host.plane.tables().sweep.idle_ns[1..4],
        Idle::DEFAULT_NS[1..4]
    );
    assert_eq!(
        host.plane.tables().sweep.idle_ns[Idle::Unconfirmed as usize],
        5_000_000_000
    );
    assert!(map.0.lock().unwrap().0.refuse_untracked_until_ns > 80_000_000_000);

    host.plane.tables().more_half_open = 0;
    while host.engine().is_crowded() {
        host.engine().sweep(&clock);
    }
    host.engine().sweep(&clock);
    assert_eq!(handshake_ns(&host), Idle::DEFAULT_NS[0]);
    assert_eq!(flows(host.engine()).1, None);
}

#[test]
fn half_open_connections_keep_their_time_if_untracked_ones_cannot_be_refused() {
    let (mut host, map, clock) = flooded();
    map.0.lock().unwrap().1 = true;
    for _ in 0..3 {
        host.engine().sweep(&clock);
        assert_eq!(handshake_ns(&host), Idle::DEFAULT_NS[0]);
    }
    assert!(clock.problem().is_some());
}
