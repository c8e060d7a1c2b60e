// SPDX-License-Identifier: MIT OR Apache-2.0

//! The sweeps that the daemon requests over the table of flows.

use limiter_common::{
    abi::{FLOW_LOCAL, Flow, KeyEntry, Limits, ScopeState, Suspect, Sweep, counter, phase},
    flow::Idle,
};
use limiter_tests::program::{ACK, Programs, Shape, Talk, Verdict, no_limits};

use crate::support::{
    SCOPE, another, assert_counters, assert_nothing_held, boot_ns, fin, get, get_as, limited, ok,
    opened,
};

/// Returns a connection whose client has not answered the server's SYN-ACK.
fn half_open(programs: &mut Programs, port: u16) -> Talk {
    let mut talk = Talk::new(Shape::v4());
    talk.ends.client_port = port;
    talk.begin(programs);
    talk
}

/// Marks the flow as a connection of a socket on this host. (The programs cannot see this in a test
/// run, in which packets belong to no socket.)
fn set_local(programs: &mut Programs, talk: &Talk) {
    let flow = programs.flow(&talk.key()).expect("a flow");
    assert_eq!(flow.flags & FLOW_LOCAL, 0, "of no socket");
    programs.set_flow(Flow {
        flags: flow.flags | FLOW_LOCAL,
        ..flow
    });
}

/// Waits until the coarse clock, by which idle times are measured, has advanced.
fn sleep_briefly() {
    std::thread::sleep(std::time::Duration::from_millis(20));
}

#[test]
fn sweep_removes_idle_flows_and_returns_their_counts() {
    let (mut programs, mut talk) = opened();
    talk.asks(&mut programs, get("/") + &get("/"));
    programs.key(
        "other",
        KeyEntry {
            scope: 2,
            flags: 0,
            last_used_ns: 0,
        },
    );
    programs.limit(2, no_limits());
    talk.asks(&mut programs, get_as("other", "/"));
    talk.acknowledged(&mut programs);
    let swept = programs.sweep([u64::MAX; Idle::COUNT]);
    assert_eq!((swept.flows, swept.removed, swept.slots), (1, 0, 0));
    sleep_briefly();
    let swept = programs.sweep([u64::MAX, 1_000_000, u64::MAX, u64::MAX, u64::MAX]);
    let idle_ns = swept.idle_ns;
    assert_eq!(
        swept,
        Sweep {
            idle_ns,
            flows: 1,
            removed: 1,
            slots: 3,
            connections: 2,
            ..Sweep::default()
        }
    );
    assert_nothing_held(&programs);
    assert_eq!(
        (programs.state(2).in_flight, programs.state(2).connections),
        (0, 0)
    );
    assert_eq!(programs.flows(), []);
    assert_counters(
        &programs,
        &[
            (counter::ADMITTED, 3),
            (counter::SWEPT_FLOWS, 1),
            (counter::SWEPT_SLOTS, 3),
        ],
    );
}

#[test]
fn sweep_uses_the_idle_timeout_of_each_kind_of_connection() {
    let mut programs = limited(no_limits());
    let handshake = half_open(&mut programs, 41_000);
    let mut open = another(&mut programs, 41_001);
    open.acknowledged(&mut programs);
    let unconfirmed = another(&mut programs, 41_004);
    let mut closing = another(&mut programs, 41_002);
    fin(&mut programs, &mut closing, true);
    // The FIN counts only once the server has acknowledged it.
    closing.server_acked = 1;
    let ack = closing.server(b"").with_flags(ACK);
    closing.run(&mut programs, false, &ack);
    let mut closed = another(&mut programs, 41_003);
    fin(&mut programs, &mut closed, true);
    closed.server_acked = 1;
    fin(&mut programs, &mut closed, false);
    sleep_briefly();
    for (class, talk) in [&handshake, &open, &closing, &closed, &unconfirmed]
        .into_iter()
        .enumerate()
    {
        let mut idle_ns = [u64::MAX; Idle::COUNT];
        idle_ns[class] = 1_000_000;
        let before = programs.flows().len();
        assert!(programs.flow(&talk.key()).is_some());
        assert_eq!(programs.sweep(idle_ns).removed, 1, "class {class}");
        assert!(programs.flow(&talk.key()).is_none(), "class {class}");
        assert_eq!(programs.flows().len(), before - 1, "class {class}");
    }
}

#[test]
fn sweep_does_not_decrease_counts_below_zero() {
    let mut programs = limited(Limits {
        concurrency: 5,
        ..no_limits()
    });
    let mut talk = another(&mut programs, 41_000);
    talk.asks(&mut programs, get("/"));
    // The counts are zero, as if a recount had already corrected them.
    programs.set_state(SCOPE, ScopeState::default());
    sleep_briefly();
    programs.sweep([1_000_000; Idle::COUNT]);
    assert_nothing_held(&programs);
}

#[test]
fn packets_reset_the_idle_time_of_a_flow() {
    let (mut programs, mut talk) = opened();
    let flow = programs.flow(&talk.key()).expect("a flow");
    programs.set_flow(Flow {
        last_seen_ns: 0,
        ..flow
    });
    // Without this packet, the flow would be idle for longer than the sweep allows.
    talk.answers(&mut programs, "");
    let half = boot_ns() / 2;
    assert_eq!(programs.sweep([half; Idle::COUNT]).removed, 0);
    assert_eq!(
        programs.flow(&talk.key()).expect("a flow").phase,
        phase::HTTP
    );
}

/// Returns the parameters of a sweep that removes no flow.
fn sweep_without_timeouts() -> Sweep {
    Sweep {
        idle_ns: [u64::MAX; Idle::COUNT],
        ..Sweep::default()
    }
}

/// Begins the recount of `SCOPE` that has the id `number`, as the daemon does.
fn begin_recount(programs: &mut Programs, number: u32) {
    let state = ScopeState {
        recount: u64::from(number),
        recounted_in_flight: 0,
        recounted_connections: 0,
        ..programs.state(SCOPE)
    };
    programs.set_state(SCOPE, state);
}

/// Returns the result of the recount: the number of requests in flight and the number of
/// connections.
fn recounted(programs: &Programs) -> (u64, u64) {
    let state = programs.state(SCOPE);
    (state.recounted_in_flight, state.recounted_connections)
}

#[test]
fn recount_matches_the_flows_and_follows_their_changes() {
    let (mut programs, mut first) = opened();
    first.asks(&mut programs, get("/") + &get("/"));
    let mut second = another(&mut programs, 41_000);
    second.asks(&mut programs, get("/"));
    // The count of requests in flight is too high by two.
    let leaked = ScopeState {
        in_flight: 5,
        ..programs.state(SCOPE)
    };
    programs.set_state(SCOPE, leaked);

    begin_recount(&mut programs, 7);
    let ask = Sweep {
        recount: 7,
        ..sweep_without_timeouts()
    };
    assert_eq!(programs.sweep_with(ask).recounted, 2);
    assert_eq!(recounted(&programs), (3, 2));
    assert_eq!(programs.sweep_with(ask).recounted, 0, "each flow once");
    assert_eq!(recounted(&programs), (3, 2));

    // From here on, the recount follows the flows: it includes new connections, further requests
    // and responses.
    let mut third = another(&mut programs, 41_001);
    third.asks(&mut programs, get("/"));
    assert_eq!(recounted(&programs), (4, 3));
    first.answers(&mut programs, ok(""));
    second.answers(&mut programs, ok(""));
    assert_eq!(recounted(&programs), (2, 3));
    fin(&mut programs, &mut first, false);
    assert_eq!(recounted(&programs), (1, 3));
    let reset = third
        .server(b"")
        .with_flags(limiter_tests::program::RST | ACK);
    third.run(&mut programs, false, &reset);
    assert_eq!(recounted(&programs), (0, 2));
    assert_eq!(programs.state(SCOPE).in_flight, 2, "the leak");
    assert_eq!(programs.sweep_with(ask).recounted, 0);
}

#[test]
fn unvisited_flow_is_not_in_the_recount() {
    let (mut programs, mut talk) = opened();
    talk.asks(&mut programs, get("/"));
    begin_recount(&mut programs, 1);
    talk.answers(&mut programs, ok(""));
    talk.asks(&mut programs, get("/"));
    assert_eq!(recounted(&programs), (0, 0));
    programs.sweep_with(Sweep {
        recount: 1,
        ..sweep_without_timeouts()
    });
    assert_eq!(recounted(&programs), (1, 1));
}

#[test]
fn silent_flows_of_this_host_are_named_once_in_a_check() {
    let (mut programs, talk) = opened();
    let other = another(&mut programs, 41_000);
    let half = half_open(&mut programs, 41_001);
    another(&mut programs, 41_002);
    for local in [&talk, &other, &half] {
        set_local(&mut programs, local);
    }
    sleep_briefly();
    let ask = Sweep {
        check: 3,
        suspect_ns: 1_000_000,
        ..sweep_without_timeouts()
    };
    let swept = programs.sweep_with(ask);
    let mut named: Vec<u16> = programs
        .suspects(&swept)
        .iter()
        .map(|suspect| u16::from_be(suspect.key.client_port))
        .collect();
    named.sort_unstable();
    assert_eq!(
        named,
        [40_000, 41_000],
        "neither half-open flows nor those of other hosts"
    );
    assert_eq!(programs.sweep_with(ask).suspects, 0, "once");
    let next = Sweep { check: 4, ..ask };
    assert_eq!(programs.sweep_with(next).suspects, 2);
    let none = Sweep { check: 0, ..ask };
    assert_eq!(programs.sweep_with(none).suspects, 0);
    let long_timeout = Sweep {
        check: 5,
        suspect_ns: 3_600_000_000_000,
        ..ask
    };
    assert_eq!(programs.sweep_with(long_timeout).suspects, 0);
    assert!(programs.flow(&other.key()).is_some());
}

#[test]
fn flow_is_forgotten_unless_its_server_sent_a_packet() {
    let (mut programs, mut talk) = opened();
    talk.asks(&mut programs, get("/"));
    set_local(&mut programs, &talk);
    sleep_briefly();
    let ask = Sweep {
        check: 1,
        ..sweep_without_timeouts()
    };
    let swept = programs.sweep_with(ask);
    let suspect = programs.suspects(&swept)[0];
    sleep_briefly();
    talk.acknowledged(&mut programs);
    assert_eq!(programs.forget(suspect).removed, 0);
    assert_eq!(programs.state(SCOPE).in_flight, 1);

    set_local(&mut programs, &talk);
    let swept = programs.sweep_with(Sweep { check: 2, ..ask });
    let suspect = programs.suspects(&swept)[0];
    let done = programs.forget(suspect);
    assert_eq!((done.removed, done.slots, done.connections), (1, 1, 1));
    assert_nothing_held(&programs);
    assert_eq!(programs.flows(), []);
    assert_eq!(programs.counter(counter::ORPHANED_FLOWS), 1);
    assert_eq!(programs.counter(counter::ORPHANED_SLOTS), 1);
    let again = programs.forget(Suspect {
        removed: 0,
        slots: 0,
        connections: 0,
        ..done
    });
    assert_eq!((again.removed, again.slots), (0, 0));
}

#[test]
fn early_removal_of_a_half_open_flow_is_counted() {
    let mut programs = limited(no_limits());
    half_open(&mut programs, 41_000);
    sleep_briefly();
    assert_eq!(
        programs
            .sweep([1_000_000, u64::MAX, u64::MAX, u64::MAX, u64::MAX])
            .handshakes,
        1
    );
    assert_counters(
        &programs,
        &[(counter::SWEPT_FLOWS, 1), (counter::HURRIED_HANDSHAKES, 1)],
    );
}

#[test]
fn early_removed_connection_is_not_treated_as_older() {
    let mut programs = limited(no_limits());
    // The programs treat this connection as older than themselves, and record it as untracked.
    programs.older_until(u64::MAX);
    let mut old = Talk::new(Shape::v4());
    old.ends.client_port = 41_001;
    old.asks(&mut programs, get("/"));
    let mut slow = half_open(&mut programs, 41_000);
    sleep_briefly();
    programs.refuse_untracked_until(boot_ns() + 60_000_000_000);
    programs.sweep([1_000_000, u64::MAX, u64::MAX, u64::MAX, u64::MAX]);
    let ack = slow.client(b"").with_flags(ACK);
    assert_eq!(slow.run(&mut programs, true, &ack).verdict, Verdict::Pass);
    let ran = slow.ask(&mut programs, get("/"));
    assert_eq!(
        ran.decoded().flags & limiter_tests::program::RST,
        limiter_tests::program::RST
    );
    assert_eq!(programs.counter(counter::UNTRACKED_REFUSED), 1);
    old.asks(&mut programs, get("/"));
    assert_eq!(programs.counter(counter::UNTRACKED_SEGMENTS), 2);
    // Once the period in which untracked connections are refused has ended, older connections pass
    // again.
    programs.refuse_untracked_until(1);
    let mut another_old = Talk::new(Shape::v4());
    another_old.ends.client_port = 41_002;
    another_old.asks(&mut programs, get("/"));
    assert_eq!(programs.counter(counter::UNTRACKED_CONNECTIONS), 2);
}

#[test]
fn reused_port_does_not_make_a_connection_untracked() {
    let mut programs = limited(no_limits());
    programs.older_until(u64::MAX);
    let mut talk = Talk::new(Shape::v4());
    talk.asks(&mut programs, get("/"));
    assert_eq!(programs.counter(counter::UNTRACKED_CONNECTIONS), 1);
    // This half-open connection must replace the entry of the untracked connection on the same
    // port. Otherwise, after an early removal of the flow, its request would pass as one on a
    // connection that is older than the programs.
    let mut talk = half_open(&mut programs, talk.ends.client_port);
    sleep_briefly();
    programs.refuse_untracked_until(boot_ns() + 60_000_000_000);
    programs.sweep([1_000_000, u64::MAX, u64::MAX, u64::MAX, u64::MAX]);
    talk.ask(&mut programs, get("/"));
    assert_eq!(programs.counter(counter::UNTRACKED_REFUSED), 1);
}
