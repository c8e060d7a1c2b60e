// SPDX-License-Identifier: MIT OR Apache-2.0

//! A connection that has ended holds no slots.

use limiter_common::abi::{FLOW_CLIENT_FIN, FLOW_SERVER_FIN, counter};
use limiter_tests::program::{ACK, FIN, Hook, PSH, RST, Talk, Verdict, no_limits};

use crate::support::{
    SCOPE, another, assert_counters, assert_nothing_held, fin, get, get_as, limited, ok, opened,
};

#[test]
fn fins_of_both_sides_end_the_flow_when_they_are_acknowledged() {
    for client_first in [true, false] {
        let (mut programs, mut talk) = opened();
        talk.asks(&mut programs, get("/"));
        talk.answers(&mut programs, ok("hello"));
        assert_eq!(programs.state(SCOPE).connections, 1);
        assert_eq!(fin(&mut programs, &mut talk, client_first), Verdict::Pass);
        // The FIN of the other side also acknowledges the FIN of the first side.
        if client_first {
            talk.server_acked = talk.asked + 1;
        } else {
            talk.answered += 1;
        }
        assert_eq!(fin(&mut programs, &mut talk, !client_first), Verdict::Pass);
        let flow = programs.flow(&talk.key()).expect("a flow");
        assert_eq!(flow.flags & (FLOW_CLIENT_FIN | FLOW_SERVER_FIN), 3);
        // The first side acknowledges the second FIN.
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
        assert_nothing_held(&programs);
    }
}

#[test]
fn retransmitted_fin_ends_nothing_twice() {
    let (mut programs, mut talk) = opened();
    for _ in 0..3 {
        assert_eq!(fin(&mut programs, &mut talk, true), Verdict::Pass);
    }
    let flow = programs.flow(&talk.key()).expect("a flow");
    assert_eq!(flow.client_fin.0, talk.client_start + 1);
    assert_counters(&programs, &[]);
}

#[test]
fn out_of_order_fin_is_dropped() {
    let (mut programs, mut talk) = opened();
    let ahead = talk.client_at(5, b"").with_flags(FIN | ACK);
    assert_eq!(talk.run(&mut programs, true, &ahead).verdict, Verdict::Drop);
    assert_counters(&programs, &[(counter::OUT_OF_ORDER_DROPPED, 1)]);
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
    // If the client retransmits the segment, the segment passes and is not charged again.
    let again = last.clone();
    assert_eq!(talk.run(&mut programs, true, &again).verdict, Verdict::Pass);
    assert_counters(
        &programs,
        &[(counter::ADMITTED, 1), (counter::RETRANSMITTED, 1)],
    );
}

#[test]
fn data_behind_a_fin_is_dropped() {
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
fn fin_in_a_head_is_refused_as_malformed() {
    let (mut programs, mut talk) = opened();
    talk.asks(&mut programs, &get("/")[..20]);
    let end = talk.client(b"").with_flags(FIN | ACK);
    let ran = talk.run(&mut programs, true, &end);
    assert!(ran.answer().text().starts_with("HTTP/1.1 400 "));
    assert_eq!(
        ran.decoded().flags & RST,
        RST,
        "the server has a part of the head"
    );
}

#[test]
fn fin_in_a_head_passes_where_malformed_requests_pass() {
    let relaxations: [fn(&mut limiter_common::abi::Config); 2] = [
        |config| config.malformed = limiter_common::abi::policy::PASS,
        |config| config.observe = 1,
    ];
    for relax in relaxations {
        let (mut programs, mut talk) = opened();
        programs.configure(relax);
        talk.asks(&mut programs, &get("/")[..20]);
        for _ in 0..2 {
            // In the second iteration, this is a retransmission of the FIN.
            let end = talk.client(b"").with_flags(FIN | ACK);
            let ran = talk.run(&mut programs, true, &end);
            assert_eq!(ran.verdict, Verdict::Pass);
            assert_eq!(ran.decoded().flags, FIN | ACK);
            assert_eq!(ran.sent, [] as [Vec<u8>; 0]);
        }
        assert_counters(
            &programs,
            &[(counter::MALFORMED, 1), (counter::MALFORMED_CONNECTIONS, 1)],
        );
    }
}

#[test]
fn data_before_a_fin_in_a_head_passes_without_the_fin() {
    let (mut programs, mut talk) = opened();
    let both = get("/a") + &get("/b")[..20];
    let segment = talk.client(both.as_bytes()).with_flags(PSH | FIN | ACK);
    let ran = talk.run(&mut programs, true, &segment);
    assert_eq!(ran.verdict, Verdict::Pass);
    assert_eq!(ran.decoded().payload, both.as_bytes());
    assert_eq!(ran.decoded().flags, PSH | ACK, "without its FIN");
    talk.asked = u32::try_from(both.len()).expect("a length");
    talk.answers(&mut programs, ok(""));
    // The client retransmits the FIN after the server has answered all requests.
    let end = talk.client(b"").with_flags(FIN | ACK);
    let ran = talk.run(&mut programs, true, &end);
    assert!(ran.answer().text().starts_with("HTTP/1.1 400 "));
    assert_nothing_held(&programs);
}

#[test]
fn client_reset_that_the_server_drops_frees_nothing() {
    let (mut programs, mut talk) = opened();
    talk.asks(&mut programs, get("/"));
    let reset = talk.client(b"").with_flags(RST);
    let good = talk.shape.wrap(&talk.ends, true, &reset);
    let mut bad = good.clone();
    bad[50] ^= 1;
    let mut elsewhere = good.clone();
    elsewhere[..6].copy_from_slice(&[0xff; 6]);
    let options = [&[1, 1, 19, 18][..], &[7; 16]].concat();
    let signed = talk
        .shape
        .wrap(&talk.ends, true, &reset.with_options(options));
    for frame in [bad, elsewhere, signed] {
        assert_eq!(programs.run(Hook::Ingress, &frame).verdict, Verdict::Drop);
        assert_eq!(programs.state(SCOPE).in_flight, 1);
    }
    assert_eq!(programs.run(Hook::Ingress, &good).verdict, Verdict::Pass);
    assert_nothing_held(&programs);
}

#[test]
fn client_reset_frees_all_slots() {
    for flags in [RST, RST | ACK] {
        let (mut programs, mut talk) = opened();
        talk.asks(&mut programs, get("/") + &get("/"));
        let reset = talk.client(b"").with_flags(flags);
        assert_eq!(talk.run(&mut programs, true, &reset).verdict, Verdict::Pass);
        assert_nothing_held(&programs);
    }
}

#[test]
fn client_reset_with_a_wrong_number_frees_nothing() {
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
fn server_reset_frees_all_slots() {
    let (mut programs, mut talk) = opened();
    talk.asks(&mut programs, get("/") + &get("/"));
    let reset = talk.server(b"").with_flags(RST | ACK);
    assert_eq!(
        talk.run(&mut programs, false, &reset).verdict,
        Verdict::Pass
    );
    assert_nothing_held(&programs);
    assert!(programs.flow(&talk.key()).is_none());
    assert_eq!(programs.counter(counter::FLOWS_CLOSED), 1);
}

#[test]
fn server_reset_in_a_handshake_lets_no_request_pass_untracked() {
    // The reset may not have ended the handshake at the server, and then the handshake continues.
    let mut programs = limited(no_limits());
    let mut talk = Talk::new(limiter_tests::program::Shape::v4());
    talk.begin(&mut programs);
    let reset = talk.server(b"").with_flags(RST);
    talk.run(&mut programs, false, &reset);
    let ran = talk.ask(&mut programs, get("/"));
    let admitted = u64::from(ran.verdict == Verdict::Pass);
    assert_eq!(programs.state(SCOPE).admitted, admitted);
    assert_eq!(programs.counter(counter::UNTRACKED_SEGMENTS), 0);
}

#[test]
fn server_fin_frees_the_slots_of_unanswered_requests() {
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
    // The client gets the same reset that the server would have sent.
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
    assert_eq!(counts, [0, 1, 1, 1, 1], "the first scope gave up its place");
    let reset = talk.server(b"").with_flags(RST | ACK);
    talk.run(&mut programs, false, &reset);
    for scope in 2..=6 {
        assert_eq!(programs.state(scope).connections, 0, "scope {scope}");
    }
}
