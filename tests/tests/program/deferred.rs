// SPDX-License-Identifier: MIT OR Apache-2.0

//! With `handshake = "defer"`, the first request on a connection completes its handshake.

use limiter_common::abi::{Limits, counter, phase, policy};
use limiter_tests::program::{ACK, FIN, Programs, RST, Segment, Shape, Talk, Verdict, no_limits};

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
    for (to_server, segment) in [(true, talk.syn()), (false, talk.syn_ack())] {
        let ran = talk.run(&mut programs, to_server, &segment);
        assert_eq!(ran.verdict, Verdict::Pass);
    }
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
