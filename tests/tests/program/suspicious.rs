//! What only an attacker sends, or a network in trouble.

use limiter_common::abi::{counter, phase};
use limiter_tests::program::{
    ACK, FIN, Hook, PSH, RST, Segment, Shape, Talk, URG, Verdict, no_limits,
};

use crate::support::{SCOPE, get, limited, ok, opened};

#[test]
fn urgent_data_does_not_pass() {
    // Its receiver takes it out of the stream, and would read another request than the parser.
    let (mut programs, mut talk) = opened();
    let request = talk.client(get("/").as_bytes()).with_flags(ACK | PSH | URG);
    let ran = talk.run(&mut programs, true, &request);
    assert_eq!(ran.verdict, Verdict::Drop);
    assert_eq!(programs.state(SCOPE).admitted, 0);
}

#[test]
fn a_syn_ack_sent_again_after_a_request_does_not_charge_it_twice() {
    let (mut programs, mut talk) = opened();
    talk.asks(&mut programs, get("/"));
    // The listener had no room for the connection, and so it has neither the handshake's end nor
    // the request.
    let again = talk.syn_ack();
    assert_eq!(
        talk.run(&mut programs, false, &again).verdict,
        Verdict::Pass
    );
    let request = talk.client_at(0, get("/").as_bytes());
    assert_eq!(
        talk.run(&mut programs, true, &request).verdict,
        Verdict::Pass
    );
    assert_eq!(
        programs.counter(counter::ADMITTED),
        1,
        "{:?}",
        programs.counters()
    );
    assert_eq!(programs.state(SCOPE).in_flight, 1);
}

#[test]
fn a_reset_that_is_believed_is_one_that_the_server_believes() {
    // A wrong checksum, or a time to live that ends on the way to the server.
    for (what, at, bit) in [("the checksum", 50, 1), ("the time to live", 22, 0x41)] {
        let (mut programs, mut talk) = opened();
        talk.asks(&mut programs, get("/"));
        talk.acknowledged(&mut programs);
        let reset = talk.client(b"").with_flags(RST | ACK);
        let mut frame = talk.shape.wrap(&talk.ends, true, &reset);
        frame[at] ^= bit;
        let ran = programs.run(Hook::Ingress, &frame);
        if programs
            .flow(&talk.key())
            .is_some_and(|flow| flow.phase != phase::RESET)
        {
            assert_eq!(programs.state(SCOPE).in_flight, 1, "{what}");
            continue;
        }
        assert_eq!(ran.verdict, Verdict::Pass, "{what}");
        let passed = ran.decoded();
        assert_eq!((passed.flags & RST, passed.seq), (RST, reset.seq), "{what}");
        assert!(ran.packet[22] >= 32, "{what}: {}", ran.packet[22]);
    }
}

#[test]
fn a_reset_before_what_the_server_may_have_is_not_believed() {
    let (mut programs, mut talk) = opened();
    talk.asks(&mut programs, get("/"));
    // The server has the request and has not acknowledged it yet: to it, this is old.
    let reset = talk.client_at(0, b"").with_flags(RST | ACK);
    talk.run(&mut programs, true, &reset);
    let flow = programs.flow(&talk.key()).expect("a flow");
    assert_ne!(flow.phase, phase::RESET);
    assert_eq!(programs.state(SCOPE).in_flight, 1);
}

#[test]
fn a_server_that_speaks_after_the_clients_reset_is_reset_again() {
    let (mut programs, mut talk) = opened();
    talk.asks(&mut programs, get("/"));
    let reset = talk.client(b"").with_flags(RST | ACK);
    talk.run(&mut programs, true, &reset);
    talk.server_acked = 10;
    let response = talk.server(ok("hello").as_bytes());
    let ran = talk.run(&mut programs, false, &response);
    assert_eq!(ran.verdict, Verdict::Redirect);
    let answer = ran.decoded();
    assert_eq!((answer.to, answer.flags & RST), (talk.ends.server, RST));
    assert_eq!(answer.seq, response.ack, "exactly what the server expects");
}

#[test]
fn nothing_passes_a_reset_connection() {
    let (mut programs, mut talk) = opened();
    let reset = talk.client(b"").with_flags(RST | ACK);
    talk.run(&mut programs, true, &reset);
    let ran = talk.ask(&mut programs, get("/"));
    assert_ne!(ran.verdict, Verdict::Pass);
    programs.sweep([0; 4]);
    let ran = talk.ask(&mut programs, get("/"));
    assert_ne!(ran.verdict, Verdict::Pass, "after a sweep");
    assert_eq!(programs.counter(counter::UNTRACKED_SEGMENTS), 0);
}

#[test]
fn a_server_that_took_a_part_of_a_segment_gets_no_other_rest_of_it() {
    // Receivers that cut segments to their window: a head of one copy, the body of another.
    let (mut programs, mut talk) = opened();
    let request = get("/aaaa");
    talk.asks(&mut programs, &request);
    talk.server_acked = 20;
    let ack = talk.server(b"").with_flags(ACK);
    talk.run(&mut programs, false, &ack);
    let other = talk.client_at(0, get("/bbbb").as_bytes());
    assert_eq!(talk.run(&mut programs, true, &other).verdict, Verdict::Drop);
}

#[test]
fn a_reset_of_the_server_in_a_handshake_does_not_let_the_connection_by_later() {
    // To a SYN-ACK of the client with a wrong number the server answers with a reset, and goes on
    // waiting for the handshake's end. When the flow is swept meanwhile, that is `untracked`.
    let mut programs = limited(no_limits());
    let mut talk = Talk::new(Shape::v4());
    for (to_server, segment) in [(true, talk.syn()), (false, talk.syn_ack())] {
        talk.run(&mut programs, to_server, &segment);
    }
    let odd = talk.syn_ack();
    let odd = Segment {
        seq: talk.client_start,
        ack: talk.server_start + 99,
        ..odd
    };
    let ran = talk.run(&mut programs, true, &odd);
    if ran.verdict == Verdict::Drop {
        return;
    }
    let reset = Segment {
        seq: odd.ack,
        flags: RST,
        ..odd
    };
    talk.run(&mut programs, false, &reset);
    std::thread::sleep(std::time::Duration::from_millis(20));
    // The patience with what has ended is short.
    let swept = programs.sweep([u64::MAX, u64::MAX, u64::MAX, 1_000_000]);
    assert_eq!(swept.removed, 0);
}

#[test]
fn a_fin_that_the_server_has_not_acknowledged_does_not_end_the_patience() {
    // It may have had a wrong checksum, and the connection may be open.
    let (mut programs, mut talk) = opened();
    let fin = talk.client(b"").with_flags(FIN | ACK);
    talk.run(&mut programs, true, &fin);
    std::thread::sleep(std::time::Duration::from_millis(20));
    let swept = programs.sweep([u64::MAX, u64::MAX, 1_000_000, 1_000_000]);
    assert_eq!(swept.removed, 0);
    // Now it is certain.
    let ack = talk
        .server(b"")
        .with_flags(ACK)
        .with_ack(talk.client_start + 1);
    talk.run(&mut programs, false, &ack);
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(
        programs
            .sweep([u64::MAX, u64::MAX, 1_000_000, 1_000_000])
            .removed,
        1
    );
}
