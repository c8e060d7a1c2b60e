// SPDX-License-Identifier: MIT OR Apache-2.0

//! Packets that only an attacker or a faulty network sends.

use limiter_common::{
    abi::{counter, phase},
    flow::Idle,
};
use limiter_tests::program::{
    ACK, FIN, Hook, PSH, RST, Segment, Shape, Talk, URG, Verdict, no_limits,
};

use crate::support::{SCOPE, get, limited, ok, opened};

#[test]
fn urgent_data_does_not_pass() {
    // The receiver takes the urgent byte out of the stream, and would then read a different request
    // than the programs.
    let (mut programs, mut talk) = opened();
    let request = talk.client(get("/").as_bytes()).with_flags(ACK | PSH | URG);
    let ran = talk.run(&mut programs, true, &request);
    assert_eq!(ran.verdict, Verdict::Drop);
    assert_eq!(programs.state(SCOPE).admitted, 0);
}

#[test]
fn syn_ack_retransmitted_after_a_request_does_not_charge_it_twice() {
    let (mut programs, mut talk) = opened();
    talk.asks(&mut programs, get("/"));
    // The server retransmits its SYN-ACK because its listener had no room for the connection, and
    // the server has dropped both the last segment of the handshake and the request.
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
fn reset_takes_effect_only_if_the_server_will_accept_it() {
    // The server may not process these resets: one has a wrong checksum, and the time to live of
    // the other may expire before the server.
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
fn reset_with_an_old_number_changes_nothing() {
    let (mut programs, mut talk) = opened();
    talk.asks(&mut programs, get("/"));
    // The server has received the request but has not acknowledged it yet. To the server, the
    // sequence number of this reset is therefore old.
    let reset = talk.client_at(0, b"").with_flags(RST | ACK);
    talk.run(&mut programs, true, &reset);
    let flow = programs.flow(&talk.key()).expect("a flow");
    assert_ne!(flow.phase, phase::RESET);
    assert_eq!(programs.state(SCOPE).in_flight, 1);
}

#[test]
fn server_that_sends_after_a_client_reset_is_reset_again() {
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
fn reset_connection_passes_nothing() {
    let (mut programs, mut talk) = opened();
    let reset = talk.client(b"").with_flags(RST | ACK);
    talk.run(&mut programs, true, &reset);
    let ran = talk.ask(&mut programs, get("/"));
    assert_ne!(ran.verdict, Verdict::Pass);
    programs.sweep([0; Idle::COUNT]);
    let ran = talk.ask(&mut programs, get("/"));
    assert_ne!(ran.verdict, Verdict::Pass, "after a sweep");
    assert_eq!(programs.counter(counter::UNTRACKED_SEGMENTS), 0);
}

#[test]
fn partly_acknowledged_segment_cannot_be_completed_with_other_bytes() {
    // Some receivers accept only the part of a segment that fits in their window. Such a receiver
    // could combine the first bytes of one request with the last bytes of the other.
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
fn server_reset_in_a_handshake_keeps_the_connection_tracked() {
    // The server answers a SYN-ACK with a wrong acknowledgement number with a reset, but still
    // waits for the last segment of the handshake. If a sweep removed the flow in the meantime, the
    // connection would become untracked.
    let mut programs = limited(no_limits());
    let mut talk = Talk::new(Shape::v4());
    talk.begin(&mut programs);
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
    // Only the timeout for closed connections is short, and it must not apply to this flow.
    let swept = programs.sweep([u64::MAX, u64::MAX, u64::MAX, 1_000_000, u64::MAX]);
    assert_eq!(swept.removed, 0);
}

#[test]
fn unacknowledged_fin_does_not_shorten_the_idle_timeout() {
    // The checksum of the FIN may have been wrong. In that case, the connection is still open.
    let (mut programs, mut talk) = opened();
    let fin = talk.client(b"").with_flags(FIN | ACK);
    talk.run(&mut programs, true, &fin);
    std::thread::sleep(std::time::Duration::from_millis(20));
    let swept = programs.sweep([u64::MAX, u64::MAX, 1_000_000, 1_000_000, u64::MAX]);
    assert_eq!(swept.removed, 0);
    // After the acknowledgement, it is certain that the server has received the FIN.
    let ack = talk
        .server(b"")
        .with_flags(ACK)
        .with_ack(talk.client_start + 1);
    talk.run(&mut programs, false, &ack);
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(
        programs
            .sweep([u64::MAX, u64::MAX, 1_000_000, 1_000_000, u64::MAX])
            .removed,
        1
    );
}
