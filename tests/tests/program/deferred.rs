// SPDX-License-Identifier: MIT OR Apache-2.0

//! With `handshake = "defer"`, the first request on a connection completes its handshake. With
//! `"auto"`, this applies to client addresses that were refused lately.

use std::{
    net::{IpAddr, Ipv6Addr},
    time::Instant,
};

use limiter_common::abi::{KEPT_HANDSHAKE_RATE, Limits, counter, phase, policy};
use limiter_tests::program::{
    ACK, FIN, Programs, RST, RunResult, Segment, Shape, Talk, Verdict, no_limits,
};

use crate::{
    shapes::shapes,
    support::{SCOPE, assert_counters, assert_nothing_held, fin, get, limited, ok},
};

/// Returns the programs with deferred handshakes, and a connection that only its client considers
/// open. The server has sent its SYN-ACK and waits for the last segment of the handshake.
fn half_open(shape: Shape, limits: Limits) -> (Programs, Talk) {
    let mut programs = limited(limits);
    programs.configure(|config| config.handshake = policy::DEFER);
    let mut talk = Talk::new(shape);
    talk.begin(&mut programs);
    let ack = end_of_handshake(&mut talk);
    assert_eq!(talk.run(&mut programs, true, &ack).verdict, Verdict::Drop);
    assert_eq!(programs.counter(counter::HANDSHAKES_DEFERRED), 1);
    (programs, talk)
}

fn end_of_handshake(talk: &mut Talk) -> Segment {
    talk.client(b"").with_flags(ACK)
}

fn refusing() -> Limits {
    Limits {
        daily_quota: 0,
        ..no_limits()
    }
}

#[test]
fn an_admitted_request_completes_the_handshake() {
    for (what, shape) in shapes() {
        let (mut programs, mut talk) = half_open(shape, no_limits());
        let flow = programs.flow(&talk.key()).expect(what);
        assert_eq!(flow.phase, phase::HANDSHAKE, "{what}");
        talk.asks(&mut programs, get("/"));
        talk.answers(&mut programs, ok("x"));
        talk.asks(&mut programs, get("/"));
        assert_eq!(programs.state(SCOPE).in_flight, 1, "{what}");
        assert_eq!(programs.counter(counter::ADMITTED), 2, "{what}");
        assert_eq!(programs.counter(counter::HANDSHAKES_DEFERRED), 1, "{what}");
    }
}

#[test]
fn server_gets_only_a_reset_for_a_refused_request() {
    for (what, shape) in shapes().into_iter().filter(|(_, shape)| shape.is_usual()) {
        let (mut programs, mut talk) = half_open(shape, refusing());
        let request = talk.client(get("/").as_bytes());
        let ran = talk.run(&mut programs, true, &request);
        assert_eq!(ran.verdict, Verdict::Pass, "{what}");
        let answer = ran.answer();
        assert!(answer.text().starts_with("HTTP/1.1 429 "), "{what}");
        assert_eq!(answer.flags & (FIN | RST), FIN, "{what}");
        let reset = ran.decoded();
        assert_eq!(
            (reset.flags, reset.text()),
            (RST | ACK, String::new()),
            "{what}"
        );
        assert_eq!(
            (reset.seq, reset.ack),
            (talk.client_start, talk.server_start),
            "{what}"
        );
        // After the client has acknowledged the response, the server does not get another reset.
        let mut done = talk
            .client_at(request.payload.len() as u32, b"")
            .with_flags(ACK);
        done = done.with_ack(talk.server_start + answer.payload.len() as u32 + 1);
        let ran = talk.run(&mut programs, true, &done);
        assert_eq!((ran.verdict, ran.sent.len()), (Verdict::Drop, 0), "{what}");
        assert_nothing_held(&programs);
    }
}

#[test]
fn retransmitted_syn_ack_gets_the_reset_again() {
    let (mut programs, mut talk) = half_open(Shape::v4(), refusing());
    let request = talk.client(get("/").as_bytes());
    talk.run(&mut programs, true, &request).answer();
    let again = talk.syn_ack();
    let ran = talk.run(&mut programs, false, &again);
    assert_eq!(ran.verdict, Verdict::Redirect, "the client gets no packet");
    let reset = ran.decoded();
    assert_eq!(reset.to, talk.ends.server);
    assert_eq!(reset.flags, RST | ACK);
    assert_eq!(
        (reset.seq, reset.ack),
        (talk.client_start, talk.server_start)
    );
    drop(programs);
    // Without deferred handshakes, the server gets a FIN instead of a reset. A retransmission of
    // its SYN-ACK is dropped and not answered.
    let mut programs = limited(refusing());
    let mut talk = Talk::open(&mut programs, Shape::v4());
    let request = talk.client(get("/").as_bytes());
    talk.run(&mut programs, true, &request).answer();
    let again = talk.syn_ack();
    let ran = talk.run(&mut programs, false, &again);
    assert_eq!((ran.verdict, ran.sent.len()), (Verdict::Drop, 0));
}

#[test]
fn retransmitted_syn_ack_completes_the_handshake_without_a_request() {
    let (mut programs, mut talk) = half_open(Shape::v4(), refusing());
    let again = talk.syn_ack();
    assert_eq!(
        talk.run(&mut programs, false, &again).verdict,
        Verdict::Pass
    );
    let ack = end_of_handshake(&mut talk);
    assert_eq!(talk.run(&mut programs, true, &ack).verdict, Verdict::Pass);
    let flow = programs.flow(&talk.key()).expect("a flow");
    assert_eq!(flow.phase, phase::HTTP);
    // The server has accepted the connection, so it gets a FIN as usual.
    let request = talk.client(get("/").as_bytes());
    let end = talk.run(&mut programs, true, &request).decoded();
    assert_eq!(end.flags, FIN | ACK);
    assert_eq!(programs.counter(counter::HANDSHAKES_DEFERRED), 1);
}

#[test]
fn later_refusal_ends_the_server_side_with_a_fin() {
    let (mut programs, mut talk) = half_open(Shape::v4(), no_limits());
    talk.asks(&mut programs, get("/"));
    talk.answers(&mut programs, ok("x"));
    programs.limit(SCOPE, refusing());
    let request = talk.client(get("/").as_bytes());
    let ran = talk.run(&mut programs, true, &request);
    ran.answer();
    assert_eq!(ran.decoded().flags, FIN | ACK);
}

#[test]
fn fin_and_reset_without_a_request_pass() {
    let (mut programs, mut talk) = half_open(Shape::v4(), no_limits());
    assert_eq!(fin(&mut programs, &mut talk, true), Verdict::Pass);
    drop(programs);
    let (mut programs, mut talk) = half_open(Shape::v4(), no_limits());
    let reset = talk.client(b"").with_flags(RST | ACK);
    let ran = talk.run(&mut programs, true, &reset);
    assert_eq!(
        (ran.verdict, ran.decoded().flags),
        (Verdict::Pass, RST | ACK)
    );
}

#[test]
fn wrong_acknowledgement_does_not_end_a_deferred_handshake() {
    let (mut programs, mut talk) = half_open(Shape::v4(), no_limits());
    let mut wrong = end_of_handshake(&mut talk);
    wrong.ack = talk.server_start.wrapping_add(7);
    // The acknowledgement could belong to an older connection, so the programs answer it with a
    // reset, as the server would.
    let refused = talk.run(&mut programs, true, &wrong);
    assert_eq!(refused.verdict, Verdict::Redirect);
    let flow = programs.flow(&talk.key()).expect("a flow");
    assert_eq!(flow.phase, phase::HANDSHAKE);
    talk.asks(&mut programs, get("/"));
    assert_counters(
        &programs,
        &[
            (counter::ADMITTED, 1),
            (counter::HANDSHAKES_DEFERRED, 1),
            (counter::HANDSHAKES_REFUSED, 1),
            (counter::RESETS_SENT, 1),
        ],
    );
}

#[test]
fn observe_mode_defers_no_handshake() {
    let mut programs = limited(no_limits());
    programs.configure(|config| {
        config.handshake = policy::DEFER;
        config.observe = 1;
    });
    Talk::open(&mut programs, Shape::v4());
    assert_eq!(programs.counter(counter::HANDSHAKES_DEFERRED), 0);
}

/// Returns the programs with `handshake = "auto"`. All requests are refused.
fn auto(on_limit: u32) -> Programs {
    let mut programs = limited(refusing());
    programs.configure(|config| {
        config.handshake = policy::AUTO;
        config.on_limit = on_limit;
    });
    programs
}

/// Opens a connection from the client's point of view, and returns whether its handshake was
/// deferred.
#[track_caller]
fn opens_deferred(programs: &mut Programs, talk: &mut Talk) -> bool {
    talk.begin(programs);
    let ack = end_of_handshake(talk);
    match talk.run(programs, true, &ack).verdict {
        Verdict::Pass => false,
        Verdict::Drop => true,
        verdict => panic!("{verdict:?}"),
    }
}

/// Makes a connection from another port of the client.
fn from_port(shape: Shape, port: u16) -> Talk {
    let mut talk = Talk::new(shape);
    talk.ends.client_port = port;
    talk
}

/// Sends a request that is refused.
fn refused(programs: &mut Programs, talk: &mut Talk) -> RunResult {
    let request = talk.client(get("/").as_bytes());
    let ran = talk.run(programs, true, &request);
    assert!(ran.answer().text().starts_with("HTTP/1.1 429 "));
    ran
}

#[test]
fn handshakes_are_deferred_for_addresses_that_were_refused_lately() {
    for (what, shape) in shapes().into_iter().filter(|(_, shape)| shape.is_usual()) {
        let mut programs = auto(policy::ON_LIMIT_CLOSE);
        let mut first = from_port(shape.clone(), 40_000);
        assert!(!opens_deferred(&mut programs, &mut first), "{what}");
        // Until the refusal, the address is one like others.
        let mut second = from_port(shape.clone(), 40_001);
        assert!(!opens_deferred(&mut programs, &mut second), "{what}");
        refused(&mut programs, &mut first);
        let mut third = from_port(shape.clone(), 40_002);
        assert!(opens_deferred(&mut programs, &mut third), "{what}");
        let ran = refused(&mut programs, &mut third);
        assert_eq!(ran.decoded().flags, RST | ACK, "{what}");
        programs.configure(|config| config.defer_for_ns = 0);
        let mut fourth = from_port(shape, 40_003);
        assert!(!opens_deferred(&mut programs, &mut fourth), "{what}");
    }
}

#[test]
fn an_address_is_refused_alone_and_with_its_ipv6_network() {
    let cases = [
        (Shape::v4(), "203.0.113.77", false),
        (Shape::v6(), "2001:db8:7:7::1", false),
        (Shape::v6(), "", true),
    ];
    for (shape, other, is_deferred) in cases {
        let mut programs = auto(policy::ON_LIMIT_CLOSE);
        let mut first = from_port(shape.clone(), 40_000);
        opens_deferred(&mut programs, &mut first);
        refused(&mut programs, &mut first);
        let mut second = from_port(shape, 40_000);
        second.ends.client = match (second.ends.client, other) {
            // Another host of the same network.
            (IpAddr::V6(client), "") => Ipv6Addr::from_bits(client.to_bits() ^ 0xff).into(),
            _ => other.parse().expect("an address"),
        };
        assert_eq!(
            opens_deferred(&mut programs, &mut second),
            is_deferred,
            "{other}"
        );
    }
}

#[test]
fn a_deferred_connection_goes_on_after_its_first_refusal() {
    for (what, shape) in shapes().into_iter().filter(|(_, shape)| shape.is_usual()) {
        let mut programs = auto(policy::ON_LIMIT_KEEPALIVE);
        let mut first = from_port(shape.clone(), 40_000);
        opens_deferred(&mut programs, &mut first);
        refused(&mut programs, &mut first);
        let mut talk = from_port(shape, 40_001);
        assert!(opens_deferred(&mut programs, &mut talk), "{what}");
        let withheld = u32::try_from(get("/").len()).expect("a length");
        let ran = refused(&mut programs, &mut talk);
        let answer = ran.answer();
        assert!(answer.text().contains("Connection: keep-alive"), "{what}");
        // The server's handshake is complete, and the server knows of no request.
        let seen = ran.decoded();
        assert_eq!((seen.flags, seen.payload.len()), (ACK, 0), "{what}");
        assert_eq!(
            (seen.seq, seen.ack),
            (talk.client_start, talk.server_start),
            "{what}"
        );
        programs.limit(SCOPE, no_limits());
        let injected = u32::try_from(answer.payload.len()).expect("a length");
        let next = talk.client_at(withheld, get("/").as_bytes());
        let next = next.with_ack(talk.server_start.wrapping_add(injected));
        let ran = talk.run(&mut programs, true, &next);
        assert_eq!(ran.verdict, Verdict::Pass, "{what}");
        let seen = ran.decoded();
        assert_eq!(
            (seen.seq, seen.ack),
            (talk.client_start, talk.server_start),
            "{what}"
        );
        assert_eq!(programs.counter(counter::KEPT), 2, "{what}");
    }
}

#[test]
fn a_syn_ack_that_comes_again_after_both_kinds_of_refusal_gets_a_reset() {
    let mut programs = auto(policy::ON_LIMIT_KEEPALIVE);
    let mut first = from_port(Shape::v4(), 40_000);
    opens_deferred(&mut programs, &mut first);
    refused(&mut programs, &mut first);
    let mut talk = from_port(Shape::v4(), 40_001);
    assert!(opens_deferred(&mut programs, &mut talk));
    let ran = refused(&mut programs, &mut talk);
    // The acknowledgement that completes the handshake is lost. The next request ends the
    // connection.
    let at = u32::try_from(get("/").len()).expect("a length");
    let closing = get("/").replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    let injected = u32::try_from(ran.answer().payload.len()).expect("a length");
    let request = talk.client_at(at, closing.as_bytes());
    let request = request.with_ack(talk.server_start.wrapping_add(injected));
    let ran = talk.run(&mut programs, true, &request);
    assert_eq!(ran.answer().flags & FIN, FIN);
    let again = talk.syn_ack();
    let ran = talk.run(&mut programs, false, &again);
    assert_ne!(ran.verdict, Verdict::Pass, "the client gets nothing");
    assert_eq!(programs.flows(), [first.key()], "no new connection");
}

#[test]
fn a_server_that_knows_of_a_deferred_connection_gets_a_fin() {
    let mut programs = auto(policy::ON_LIMIT_CLOSE);
    programs.configure(|config| config.handshake = policy::DEFER);
    let mut talk = from_port(Shape::v4(), 40_000);
    assert!(opens_deferred(&mut programs, &mut talk));
    // The first segment of the request is lost, so the second one is dropped.
    let (request, half) = (get("/"), 20);
    let second = talk.client_at(20, &request.as_bytes()[half..]);
    assert_eq!(
        talk.run(&mut programs, true, &second).verdict,
        Verdict::Drop
    );
    // The client answers the server's second SYN-ACK.
    let ack = end_of_handshake(&mut talk);
    assert_eq!(talk.run(&mut programs, true, &ack).verdict, Verdict::Pass);
    let ran = refused(&mut programs, &mut talk);
    assert_eq!(ran.decoded().flags, FIN | ACK);
}

#[test]
fn deferred_connections_beyond_the_budget_of_their_address_are_closed() {
    const CONNECTIONS: u16 = 100;
    let mut programs = auto(policy::ON_LIMIT_KEEPALIVE);
    let mut first = from_port(Shape::v4(), 39_999);
    opens_deferred(&mut programs, &mut first);
    refused(&mut programs, &mut first);
    let withheld = u32::try_from(get("/").len()).expect("a length");
    let begin = Instant::now();
    let mut kept = 0;
    let mut closed = 0;
    for number in 0..CONNECTIONS {
        let mut talk = from_port(Shape::v4(), 40_000 + number);
        assert!(opens_deferred(&mut programs, &mut talk), "{number}");
        let ran = refused(&mut programs, &mut talk);
        match (ran.decoded().flags, ran.answer().flags & FIN) {
            (ACK, 0) => {
                kept += 1;
                // The table of the tests has room for only a few connections.
                let reset = talk.client_at(withheld, b"").with_flags(RST | ACK);
                let ran = talk.run(&mut programs, true, &reset);
                assert_eq!(ran.verdict, Verdict::Pass);
            }
            (flags, FIN) if flags == RST | ACK => closed += 1,
            flags => panic!("{flags:x?}"),
        }
    }
    let rate = KEPT_HANDSHAKE_RATE;
    let at_once = rate.tolerance_ns / rate.interval_ns + 1;
    // The clock of the programs has the resolution of a tick, which is 10 ms at most.
    let passed = u64::try_from(begin.elapsed().as_nanos()).expect("a short time") + 10_000_000;
    let more = passed / rate.interval_ns + 1;
    assert!(kept >= at_once && kept <= at_once + more, "{kept}");
    assert_eq!(kept + closed, u64::from(CONNECTIONS));
    // A client that is refused on connections that go on takes nothing out of the budget.
    assert_eq!(programs.counter(counter::KEPT), kept + 1);
}

#[test]
fn a_request_instead_of_the_acknowledgement_is_deferred_as_well() {
    let mut programs = auto(policy::ON_LIMIT_CLOSE);
    programs.configure(|config| config.handshake = policy::DEFER);
    let mut talk = Talk::new(Shape::v4());
    talk.begin(&mut programs);
    let ran = refused(&mut programs, &mut talk);
    assert_eq!(ran.decoded().flags, RST | ACK);
    programs.limit(SCOPE, no_limits());
    let mut talk = from_port(Shape::v4(), 40_001);
    talk.begin(&mut programs);
    talk.asks(&mut programs, get("/"));
    talk.answers(&mut programs, ok("x"));
    // The server has accepted this connection.
    programs.limit(SCOPE, refusing());
    let ran = refused(&mut programs, &mut talk);
    assert_eq!(ran.decoded().flags, FIN | ACK);
}

#[test]
fn without_auto_no_refusal_defers_a_handshake() {
    for handshake in [policy::PASS, policy::AUTO] {
        let mut programs = auto(policy::ON_LIMIT_KEEPALIVE);
        programs.configure(|config| {
            config.handshake = handshake;
            config.observe = u32::from(handshake == policy::AUTO);
        });
        let mut first = from_port(Shape::v4(), 40_000);
        opens_deferred(&mut programs, &mut first);
        refused(&mut programs, &mut first);
        let mut second = from_port(Shape::v4(), 40_001);
        assert!(!opens_deferred(&mut programs, &mut second), "{handshake}");
    }
}

#[test]
fn a_deferred_connection_is_not_kept_under_defer() {
    let mut programs = auto(policy::ON_LIMIT_KEEPALIVE);
    programs.configure(|config| config.handshake = policy::DEFER);
    let mut talk = from_port(Shape::v4(), 40_000);
    assert!(opens_deferred(&mut programs, &mut talk));
    let ran = refused(&mut programs, &mut talk);
    assert_eq!(ran.decoded().flags, RST | ACK);
    assert_eq!(programs.counter(counter::KEPT), 0);
}
