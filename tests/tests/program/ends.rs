//! Connections end, and nothing is left of them.

use limiter_common::abi::{
    FLOW_CLIENT_FIN, FLOW_SERVER_FIN, KeyEntry, Limits, ScopeState, Sweep, counter, phase,
};
use limiter_tests::program::{ACK, FIN, Programs, RST, Talk, Verdict, no_limits};

use crate::support::{SCOPE, another, counted, get, get_as, limited, ok, opened};

/// A FIN of one side, behind all that it sent.
#[track_caller]
fn fin(programs: &mut Programs, talk: &mut Talk, client: bool) -> Verdict {
    let segment = if client {
        talk.client(b"")
    } else {
        talk.server(b"")
    };
    talk.run(programs, client, &segment.with_flags(FIN | ACK))
        .verdict
}

/// Nothing is held any more.
#[track_caller]
fn nothing_is_held(programs: &Programs) {
    let ScopeState {
        in_flight,
        connections,
        ..
    } = programs.state(SCOPE);
    assert_eq!((in_flight, connections), (0, 0));
}

#[test]
fn fins_of_both_sides_end_the_flow_when_they_are_acknowledged() {
    for client_first in [true, false] {
        let (mut programs, mut talk) = opened();
        talk.asks(&mut programs, get("/"));
        talk.answers(&mut programs, ok("hello"));
        assert_eq!(programs.state(SCOPE).connections, 1);
        assert_eq!(fin(&mut programs, &mut talk, client_first), Verdict::Pass);
        // The other side acknowledges with its own FIN.
        if client_first {
            talk.server_acked = talk.asked + 1;
        } else {
            talk.answered += 1;
        }
        assert_eq!(fin(&mut programs, &mut talk, !client_first), Verdict::Pass);
        let flow = programs.flow(&talk.key()).expect("a flow");
        assert_eq!(flow.flags & (FLOW_CLIENT_FIN | FLOW_SERVER_FIN), 3);
        // And the first one with an acknowledgement.
        let last = if client_first {
            talk.answered += 1;
            talk.asked += 1;
            talk.client(b"")
        } else {
            talk.server_acked = talk.asked + 1;
            talk.server(b"")
        };
        let ran = talk.run(&mut programs, client_first, &last.with_flags(ACK));
        assert_eq!(ran.verdict, Verdict::Pass);
        assert!(
            programs.flow(&talk.key()).is_none(),
            "client first: {client_first}"
        );
        assert_eq!(programs.counter(counter::FLOWS_CLOSED), 1);
        nothing_is_held(&programs);
    }
}

#[test]
fn a_fin_sent_again_ends_nothing_twice() {
    let (mut programs, mut talk) = opened();
    for _ in 0..3 {
        assert_eq!(fin(&mut programs, &mut talk, true), Verdict::Pass);
    }
    let flow = programs.flow(&talk.key()).expect("a flow");
    assert_eq!(flow.client_fin.0, talk.client_start + 1);
    counted(&programs, &[]);
}

#[test]
fn a_fin_ahead_is_dropped() {
    let (mut programs, mut talk) = opened();
    let ahead = talk.client_at(5, b"").with_flags(FIN | ACK);
    assert_eq!(talk.run(&mut programs, true, &ahead).verdict, Verdict::Drop);
    counted(&programs, &[(counter::OUT_OF_ORDER_DROPPED, 1)]);
}

#[test]
fn a_request_with_a_fin_is_admitted_and_answered() {
    let (mut programs, mut talk) = opened();
    let last = talk.client(get("/").as_bytes()).with_flags(FIN | ACK);
    assert_eq!(talk.run(&mut programs, true, &last).verdict, Verdict::Pass);
    talk.asked = u32::try_from(get("/").len()).expect("a length") + 1;
    assert_eq!(programs.state(SCOPE).in_flight, 1);
    talk.answers(&mut programs, ok("hello"));
    assert_eq!(programs.state(SCOPE).in_flight, 0);
    // Sent again as it was.
    let again = last.clone();
    assert_eq!(talk.run(&mut programs, true, &again).verdict, Verdict::Pass);
    counted(
        &programs,
        &[(counter::ADMITTED, 1), (counter::RETRANSMITTED, 1)],
    );
}

#[test]
fn what_comes_behind_a_fin_is_dropped() {
    let (mut programs, mut talk) = opened();
    fin(&mut programs, &mut talk, true);
    for at in [0, 1] {
        let late = talk.client_at(at, get("/").as_bytes());
        assert_eq!(
            talk.run(&mut programs, true, &late).verdict,
            Verdict::Drop,
            "{at}"
        );
    }
    assert_eq!(programs.state(SCOPE).admitted, 0);
}

#[test]
fn a_fin_in_the_middle_of_a_head_is_refused_as_malformed() {
    let (mut programs, mut talk) = opened();
    talk.asks(&mut programs, &get("/")[..20]);
    let end = talk.client(b"").with_flags(FIN | ACK);
    let ran = talk.run(&mut programs, true, &end);
    assert!(ran.answer().text().starts_with("HTTP/1.1 400 "));
    assert_eq!(
        ran.decoded().flags & RST,
        RST,
        "the server has a part of it"
    );
}

#[test]
fn a_clients_reset_frees_all() {
    for flags in [RST, RST | ACK] {
        let (mut programs, mut talk) = opened();
        talk.asks(&mut programs, get("/") + &get("/"));
        let reset = talk.client(b"").with_flags(flags);
        assert_eq!(talk.run(&mut programs, true, &reset).verdict, Verdict::Pass);
        nothing_is_held(&programs);
    }
}

#[test]
fn a_clients_reset_out_of_place_frees_nothing() {
    let (mut programs, mut talk) = opened();
    talk.asks(&mut programs, get("/"));
    talk.acknowledged(&mut programs);
    for at in [talk.asked - 1, talk.asked + 1, talk.asked + 500] {
        let reset = talk.client_at(at, b"").with_flags(RST);
        talk.run(&mut programs, true, &reset);
        assert_eq!(programs.state(SCOPE).in_flight, 1, "at {at}");
    }
    talk.answers(&mut programs, ok("hello"));
    talk.asks(&mut programs, get("/"));
    assert_eq!(programs.state(SCOPE).admitted, 2);
}

#[test]
fn a_servers_reset_frees_all() {
    let (mut programs, mut talk) = opened();
    talk.asks(&mut programs, get("/") + &get("/"));
    let reset = talk.server(b"").with_flags(RST | ACK);
    assert_eq!(
        talk.run(&mut programs, false, &reset).verdict,
        Verdict::Pass
    );
    nothing_is_held(&programs);
    assert!(programs.flow(&talk.key()).is_none());
    assert_eq!(programs.counter(counter::FLOWS_CLOSED), 1);
}

#[test]
fn a_servers_reset_in_a_handshake_lets_no_request_by_that_is_not_followed() {
    // It may have answered something else than the handshake, which goes on.
    let mut programs = limited(no_limits());
    let mut talk = Talk::new(limiter_tests::program::Shape::v4());
    for (to_server, segment) in [(true, talk.syn()), (false, talk.syn_ack())] {
        talk.run(&mut programs, to_server, &segment);
    }
    let reset = talk.server(b"").with_flags(RST);
    talk.run(&mut programs, false, &reset);
    let ran = talk.ask(&mut programs, get("/"));
    let admitted = u64::from(ran.verdict == Verdict::Pass);
    assert_eq!(programs.state(SCOPE).admitted, admitted);
    assert_eq!(programs.counter(counter::UNTRACKED_SEGMENTS), 0);
}

#[test]
fn the_servers_fin_frees_the_slots_of_what_it_will_not_answer() {
    let (mut programs, mut talk) = opened();
    talk.asks(&mut programs, get("/") + &get("/"));
    talk.answers(&mut programs, ok("one"));
    assert_eq!(programs.state(SCOPE).in_flight, 1);
    fin(&mut programs, &mut talk, false);
    let state = programs.state(SCOPE);
    assert_eq!((state.in_flight, state.connections), (0, 1));
}

#[test]
fn a_request_after_the_servers_fin_is_not_charged() {
    let (mut programs, mut talk) = opened();
    fin(&mut programs, &mut talk, false);
    let ran = talk.ask(&mut programs, get("/"));
    assert_eq!(
        programs.state(SCOPE).admitted,
        0,
        "{:?}",
        programs.counters()
    );
    // The client gets the reset that the server would answer with.
    assert_eq!(ran.answer().flags & RST, RST);
}

#[test]
fn a_connection_counts_once_for_each_of_its_scopes_and_for_four_at_most() {
    let mut programs = limited(no_limits());
    for scope in 2..=6 {
        programs.scope(scope, &format!("key-{scope}"), no_limits());
    }
    let mut talk = another(&mut programs, 40_001);
    for scope in 2..=5 {
        for _ in 0..2 {
            talk.asks(&mut programs, get_as(&format!("key-{scope}"), "/"));
            talk.answers(&mut programs, ok(""));
        }
        assert_eq!(programs.state(scope).connections, 1);
    }
    talk.asks(&mut programs, get_as("key-6", "/"));
    let counts: Vec<u64> = (2..=6)
        .map(|scope| programs.state(scope).connections)
        .collect();
    assert_eq!(counts, [0, 1, 1, 1, 1], "the first gave way");
    let reset = talk.server(b"").with_flags(RST | ACK);
    talk.run(&mut programs, false, &reset);
    for scope in 2..=6 {
        assert_eq!(programs.state(scope).connections, 0, "scope {scope}");
    }
}

#[test]
fn a_sweep_removes_what_is_silent_and_gives_back_what_it_held() {
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
    let patient = programs.sweep([u64::MAX; 4]);
    assert_eq!((patient.flows, patient.removed, patient.slots), (1, 0, 0));
    // The clock of the last packet is a coarse one.
    std::thread::sleep(std::time::Duration::from_millis(20));
    let swept = programs.sweep([u64::MAX, 1_000_000, u64::MAX, u64::MAX]);
    let idle_ns = swept.idle_ns;
    assert_eq!(
        swept,
        Sweep {
            idle_ns,
            flows: 1,
            removed: 1,
            slots: 3,
            connections: 2
        }
    );
    nothing_is_held(&programs);
    assert_eq!(
        (programs.state(2).in_flight, programs.state(2).connections),
        (0, 0)
    );
    assert_eq!(programs.flows(), []);
    counted(
        &programs,
        &[
            (counter::ADMITTED, 3),
            (counter::SWEPT_FLOWS, 1),
            (counter::SWEPT_SLOTS, 3),
        ],
    );
}

#[test]
fn a_sweep_looks_at_each_kind_of_connection_by_its_own_patience() {
    let mut programs = limited(no_limits());
    let mut handshake = Talk::new(limiter_tests::program::Shape::v4());
    handshake.ends.client_port = 41_000;
    for (to_server, segment) in [(true, handshake.syn()), (false, handshake.syn_ack())] {
        handshake.run(&mut programs, to_server, &segment);
    }
    let open = another(&mut programs, 41_001);
    let mut closing = another(&mut programs, 41_002);
    fin(&mut programs, &mut closing, true);
    // The FIN counts when the server says that it has it.
    closing.server_acked = 1;
    let ack = closing.server(b"").with_flags(ACK);
    closing.run(&mut programs, false, &ack);
    let mut closed = another(&mut programs, 41_003);
    fin(&mut programs, &mut closed, true);
    closed.server_acked = 1;
    fin(&mut programs, &mut closed, false);
    std::thread::sleep(std::time::Duration::from_millis(20));
    for (class, talk) in [&handshake, &open, &closing, &closed]
        .into_iter()
        .enumerate()
    {
        let mut idle_ns = [u64::MAX; 4];
        idle_ns[class] = 1_000_000;
        let before = programs.flows().len();
        assert!(programs.flow(&talk.key()).is_some());
        assert_eq!(programs.sweep(idle_ns).removed, 1, "class {class}");
        assert!(programs.flow(&talk.key()).is_none(), "class {class}");
        assert_eq!(programs.flows().len(), before - 1, "class {class}");
    }
}

#[test]
fn a_sweep_takes_nothing_from_counts_that_are_zero_already() {
    let mut programs = limited(Limits {
        concurrency: 5,
        ..no_limits()
    });
    let mut talk = another(&mut programs, 41_000);
    talk.asks(&mut programs, get("/"));
    // A recount was first.
    programs.set_state(SCOPE, ScopeState::default());
    std::thread::sleep(std::time::Duration::from_millis(20));
    programs.sweep([1_000_000; 4]);
    nothing_is_held(&programs);
}

#[test]
fn packets_keep_a_connection_from_the_sweep() {
    let (mut programs, mut talk) = opened();
    std::thread::sleep(std::time::Duration::from_millis(40));
    talk.answers(&mut programs, "");
    assert_eq!(programs.sweep([30_000_000; 4]).removed, 0);
    assert_eq!(
        programs.flow(&talk.key()).expect("a flow").phase,
        phase::HTTP
    );
}
