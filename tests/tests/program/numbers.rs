// SPDX-License-Identifier: MIT OR Apache-2.0

//! Sequence numbers decide whether a packet belongs to a connection, and whether a FIN or a reset
//! ends it.

use limiter_common::{
    abi::{FLOW_CONFIRMED, FLOW_RESET_PASSED, Limits, counter, phase},
    flow::Idle,
};
use limiter_tests::program::{
    ACK, FIN, PSH, Programs, RST, SYN, Segment, Shape, Talk, Verdict, no_limits,
};

use crate::support::{SCOPE, assert_nothing_held, get, limited, ok, opened};

/// Runs a segment, which must not reach the server unchanged.
#[track_caller]
fn assert_stopped(programs: &mut Programs, talk: &Talk, segment: &Segment, what: &str) {
    let verdict = talk.run(programs, true, segment).verdict;
    assert_ne!(verdict, Verdict::Pass, "{what}");
}

#[test]
fn only_the_last_of_two_syn_cookies_is_usable() {
    for distance in [1 << 30, 1, 1 << 20, 1 << 31, 3 << 30, u32::MAX] {
        let mut programs = limited(Limits {
            daily_quota: 1,
            ..no_limits()
        });
        let mut first = Talk::new(Shape::v4());
        first.begin(&mut programs);
        // The server keeps no state for the first SYN, so it answers the second SYN with another
        // cookie.
        let mut second = first.clone();
        second.client_start = first.client_start.wrapping_add(distance);
        second.server_start = first.server_start.wrapping_add(0x0123_4567);
        second.begin(&mut programs);
        // The server would still open the first connection if it received an acknowledgement of the
        // first cookie.
        let end = first.client(b"").with_flags(ACK);
        let ran = first.run(&mut programs, true, &end);
        assert_eq!(ran.verdict, Verdict::Redirect, "{distance}");
        assert_eq!(
            (ran.decoded().flags & RST, ran.decoded().seq),
            (RST, end.ack)
        );
        for flags in [ACK | PSH, ACK | FIN] {
            let request = first.client(get("/").as_bytes()).with_flags(flags);
            assert_stopped(&mut programs, &first, &request, "a request of the first");
        }
        // This segment has a sequence number of the first connection and acknowledges the SYN-ACK
        // of the second. In the second connection, the sequence number is before the first byte, if
        // the distance is less than half of the number space.
        let mixed = first
            .client(get("/").as_bytes())
            .with_ack(second.server_start);
        if distance < 1 << 31 {
            assert_stopped(&mut programs, &first, &mixed, "before the first byte");
        }
        // The second connection continues, even though the last segment of the first handshake is
        // retransmitted.
        second.asks(&mut programs, get("/"));
        assert_stopped(
            &mut programs,
            &first,
            &end,
            "the end of the first handshake, retransmitted",
        );
        let request = first.client(get("/").as_bytes());
        assert_stopped(&mut programs, &first, &request, "the first again");
        second.answers(&mut programs, ok(""));
        assert_eq!(programs.state(SCOPE).admitted, 1, "{distance}");
    }
}

#[test]
fn bytes_before_the_stream_pass_only_as_probes() {
    let (mut programs, mut talk) = opened();
    talk.asks(&mut programs, get("/"));
    talk.answers(&mut programs, ok(""));
    for (before, payload, passes) in [
        (1, &b""[..], true),
        (1, b"x", true),
        (1, b"xx", false),
        (2, b"", false),
        (2, b"x", false),
        (40, b"GET /hidden HTTP/1.1\r\nX: y\r\n\r\n", false),
    ] {
        let at = 0_u32.wrapping_sub(before);
        let segment = talk.client_at(at, payload);
        let passed = talk.run(&mut programs, true, &segment).verdict == Verdict::Pass;
        assert_eq!(passed, passes, "{before} before: {payload:?}");
    }
}

#[test]
fn acknowledgement_outside_the_bytes_of_the_server_is_dropped() {
    let (mut programs, mut talk) = opened();
    talk.asks(&mut programs, get("/"));
    talk.answers(&mut programs, ok("hello"));
    let (first, next) = (
        talk.server_start,
        talk.server_start.wrapping_add(talk.answered),
    );
    for (ack, passes) in [
        (first, true),
        (next, true),
        (first.wrapping_sub(1), false),
        (next.wrapping_add(1), false),
        (next.wrapping_add(1 << 31), false),
    ] {
        let segment = talk.client(b"").with_flags(ACK).with_ack(ack);
        let passed = talk.run(&mut programs, true, &segment).verdict == Verdict::Pass;
        assert_eq!(passed, passes, "{}", ack.wrapping_sub(first));
    }
}

#[test]
fn sequence_numbers_are_checked_beyond_four_gigabytes() {
    let (mut programs, mut talk) = opened();
    let length = 5_u64 << 30;
    let head = format!("\r\nContent-Length: {length}\r\n\r\n");
    talk.asks(&mut programs, get("/").replace("\r\n\r\n", &head));
    talk.acknowledged(&mut programs);
    // The body is longer than the sequence number space. It is sent as single bytes that are far
    // apart, but each within the window.
    let mut left = length;
    while left > 0 {
        let step = left.min(1 << 29);
        left -= step;
        let mut flow = programs.flow(&talk.key()).expect("a flow");
        flow.window_end = flow.next.plus(1 << 30);
        programs.set_flow(flow);
        let at = talk
            .asked
            .wrapping_add(u32::try_from(step).expect("a step") - 1);
        let last = talk.client_at(at, b"b");
        assert_eq!(talk.run(&mut programs, true, &last).verdict, Verdict::Pass);
        talk.asked = at.wrapping_add(1);
        talk.acknowledged(&mut programs);
        talk.answers(&mut programs, b"");
    }
    talk.answers(&mut programs, ok(""));
    talk.asks(&mut programs, get("/"));
    assert_eq!(programs.state(SCOPE).admitted, 2);
}

#[test]
fn a_servers_reset_with_another_number_ends_nothing() {
    let (mut programs, mut talk) = opened();
    talk.asks(&mut programs, get("/"));
    talk.answers(&mut programs, &ok("hello")[..20]);
    let unacknowledged = talk.answered;
    for seq in [
        talk.server_start.wrapping_sub(1),
        talk.server_start.wrapping_add(unacknowledged + 1),
        talk.server_start.wrapping_add(1 << 31),
    ] {
        let forged = talk.server_at(0, b"").with_flags(RST);
        let forged = Segment { seq, ..forged };
        assert_eq!(
            talk.run(&mut programs, false, &forged).verdict,
            Verdict::Pass
        );
        let flow = programs.flow(&talk.key()).expect("the connection goes on");
        assert_eq!(flow.phase, phase::HTTP);
    }
    assert_eq!(programs.state(SCOPE).in_flight, 1);
}

#[test]
fn after_a_servers_reset_both_sides_stay_reset() {
    let (mut programs, mut talk) = opened();
    talk.asks(&mut programs, get("/"));
    // A firewall has sent the reset in the server's name, so the server does not know that the
    // connection has ended.
    let reset = talk.server(b"").with_flags(RST);
    assert_eq!(
        talk.run(&mut programs, false, &reset).verdict,
        Verdict::Pass
    );
    assert_nothing_held(&programs);
    let more = talk.client(get("/more").as_bytes());
    let ran = talk.run(&mut programs, true, &more);
    assert_eq!(ran.verdict, Verdict::Redirect);
    assert_eq!(ran.decoded().flags & RST, RST);
    let answer = talk.server(ok("").as_bytes());
    let ran = talk.run(&mut programs, false, &answer);
    assert_eq!(ran.verdict, Verdict::Redirect);
    assert_eq!(ran.decoded().flags & RST, RST);
    // The client's next connection is followed as usual.
    let mut next = Talk::new(Shape::v4()).opened(&mut programs);
    next.asks(&mut programs, get("/"));
    assert_eq!(programs.state(SCOPE).admitted, 2);
}

#[test]
fn forged_server_segments_change_nothing() {
    let (mut programs, mut talk) = opened();
    talk.asks(&mut programs, get("/"));
    let asked = talk.client_start.wrapping_add(talk.asked);
    let here = talk.server(ok("").as_bytes());
    for (what, forged) in [
        (
            "acknowledges bytes that were not sent",
            here.clone().with_ack(asked.wrapping_add(2)),
        ),
        (
            "of another connection",
            here.clone().with_ack(asked ^ 1 << 31),
        ),
        (
            "far away",
            Segment {
                seq: here.seq.wrapping_add((1 << 30) + 1),
                ..here.clone()
            },
        ),
        (
            "ends it before its first byte",
            Segment {
                seq: here.seq.wrapping_sub(2),
                flags: FIN | ACK,
                ..here
            },
        ),
    ] {
        let before = programs.counter(counter::SERVER_DISBELIEVED);
        assert_eq!(
            talk.run(&mut programs, false, &forged).verdict,
            Verdict::Pass
        );
        assert_eq!(
            programs.counter(counter::SERVER_DISBELIEVED),
            before + 1,
            "{what}"
        );
        assert_eq!(programs.state(SCOPE).in_flight, 1, "{what}");
    }
    talk.answers(&mut programs, ok(""));
    assert_eq!(programs.state(SCOPE).in_flight, 0);
}

#[test]
fn reset_that_only_the_server_accepts_does_not_hold_a_slot_for_days() {
    let (mut programs, mut talk) = opened();
    talk.asks(&mut programs, get("/"));
    talk.acknowledged(&mut programs);
    let end = talk.asked;
    // This byte does not reach the server.
    talk.asks(&mut programs, "G");
    let reset = talk.client_at(end, b"").with_flags(RST);
    assert_eq!(talk.run(&mut programs, true, &reset).verdict, Verdict::Pass);
    let key = talk.key();
    let flags = |programs: &Programs| programs.flow(&key).expect("a flow").flags;
    assert_ne!(flags(&programs) & FLOW_RESET_PASSED, 0);
    let class = Idle::of(phase::HTTP, flags(&programs), false);
    assert_eq!(class, Idle::Handshake);
    // A segment from the server shows that the server has not accepted the reset.
    talk.server_acked = end;
    let ack = talk.server(b"");
    talk.run(&mut programs, false, &ack);
    assert_eq!(flags(&programs) & FLOW_RESET_PASSED, 0);
    // A reset is not accepted if its sequence number is before the bytes that the server has
    // acknowledged.
    let old = talk.client_at(0, b"").with_flags(RST);
    talk.run(&mut programs, true, &old);
    assert_eq!(flags(&programs) & FLOW_RESET_PASSED, 0);
}

#[test]
fn server_segment_after_the_handshake_confirms_the_connection() {
    let (mut programs, mut talk) = opened();
    let flags = |programs: &Programs, talk: &Talk| {
        programs.flow(&talk.key()).expect("a flow").flags & FLOW_CONFIRMED
    };
    // A retransmitted SYN-ACK does not confirm the connection.
    let again = talk.syn_ack();
    talk.run(&mut programs, false, &again);
    assert_eq!(flags(&programs, &talk), 0);
    talk.asks(&mut programs, get("/"));
    assert_eq!(flags(&programs, &talk), 0);
    talk.acknowledged(&mut programs);
    assert_eq!(flags(&programs, &talk), FLOW_CONFIRMED);
}

/// The options of TCP Fast Open: a request for a cookie, a cookie, the experimental option, and a
/// cookie between other options.
const FAST_OPEN: [&[u8]; 4] = [
    &[34, 2, 1, 1],
    &[1, 1, 34, 10, 1, 2, 3, 4, 5, 6, 7, 8],
    &[254, 4, 0xf9, 0x89],
    &[2, 4, 5, 180, 34, 6, 1, 2, 3, 4, 1, 1],
];

#[test]
fn fast_open_option_and_data_are_removed_from_a_syn() {
    for options in FAST_OPEN {
        for data in [&b""[..], get("/").as_bytes()] {
            let mut programs = limited(no_limits());
            let mut talk = Talk::new(Shape::v4());
            let mut syn = talk.syn().with_options(options.to_vec());
            syn.payload = data.to_vec();
            let ran = talk.run(&mut programs, true, &syn);
            assert_eq!(ran.verdict, Verdict::Pass);
            // The decoder checks the checksum.
            let passed = ran.decoded();
            assert_eq!((passed.flags, passed.payload.len()), (SYN, 0));
            assert!(!passed.options.contains(&34) && !passed.options.contains(&254));
            assert_eq!(programs.counter(counter::FAST_OPEN_DECLINED), 1);
            let cut = u64::from(!data.is_empty());
            assert_eq!(programs.counter(counter::SYN_DATA_DROPPED), cut);
        }
    }
    // The experimental option is not removed if it belongs to a different experiment.
    let mut programs = limited(no_limits());
    let mut talk = Talk::new(Shape::v4());
    let syn = talk.syn().with_options(vec![254, 4, 0xe2, 0xd4]);
    assert_eq!(
        talk.run(&mut programs, true, &syn).decoded().options,
        [254, 4, 0xe2, 0xd4]
    );
}
