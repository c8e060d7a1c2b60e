// SPDX-License-Identifier: MIT OR Apache-2.0

//! The packets of both sides after a refusal are translated.

use limiter_common::abi::{counter, policy};
use limiter_tests::program::{ACK, FIN, PSH, RST, Shape, Talk, Verdict, timestamp};

use super::{Kept, len, programs, spent};
use crate::support::{KEY, SCOPE, assert_counters, get, ok};

#[test]
fn bytes_from_before_a_refusal_are_translated_as_they_were() {
    let mut kept = Kept::opened();
    kept.admitted(get("/"));
    kept.answers(ok("one"));
    kept.refused(spent());
    kept.admitted(get("/"));
    kept.answers(ok("two"));
    let before = kept.injected;
    kept.refused(spent());
    // The server sends its second response again, because the acknowledgement was lost.
    let again = kept.server_at(kept.talk.answered - len(ok("two")), ok("two"));
    let seen = kept.reaches_client(&again);
    assert_eq!(seen.seq, again.seq.wrapping_add(before));
    // It also adds new bytes, which have another place.
    let at = kept.talk.answered - 3;
    let both = kept.server_at(at, b"twoHTTP/1.1 408 Request Timeout\r\n\r\n");
    let ran = kept.talk.run(&mut kept.programs, false, &both);
    assert_eq!(ran.verdict, Verdict::Drop);
    // A packet of the client from before the refusal is late.
    let old = kept.client_at(0, get("/"));
    let answer = kept.answered(&old);
    assert_eq!(kept.client_position(answer.ack), kept.next());
    let old = kept.client_at(0, b"").with_flags(ACK);
    assert_eq!(kept.run(&old).verdict, Verdict::Drop);
    // A keep-alive probe begins one byte before the client's next byte.
    let probe = kept.client_at(kept.next() - 1, b"").with_flags(ACK);
    kept.passes(&probe);
}

/// Returns a SACK option with these blocks, after two NOPs.
fn sack(blocks: &[(u32, u32)]) -> Vec<u8> {
    let mut option = vec![
        1,
        1,
        5,
        u8::try_from(2 + 8 * blocks.len()).expect("a length"),
    ];
    for (left, right) in blocks {
        option.extend(left.to_be_bytes());
        option.extend(right.to_be_bytes());
    }
    option
}

#[test]
fn blocks_of_selective_acknowledgements_are_translated() {
    let mut kept = Kept::opened();
    kept.admitted(get("/"));
    kept.answers(ok("one"));
    let answer = kept.refused(spent());
    let (withheld, injected) = (kept.withheld, kept.injected);
    kept.admitted(get("/2"));
    let next = answer.seq.wrapping_add(len(&answer.payload));
    for blocks in [
        vec![(10, 20)],
        vec![(10, 20), (30, 50), (70, 99)],
        vec![(10, 20), (30, 50), (70, 99), (100, 101)],
    ] {
        let at = |base: u32| -> Vec<(u32, u32)> {
            let edge = |edge: u32| base.wrapping_add(edge);
            blocks
                .iter()
                .map(|(left, right)| (edge(*left), edge(*right)))
                .collect()
        };
        let segment = kept.client_at(kept.next(), b"").with_flags(ACK);
        let segment = segment.with_options(sack(&at(next)));
        let seen = kept.passes(&segment);
        assert_eq!(seen.options, sack(&at(next.wrapping_sub(injected))));
        let base = kept.talk.client_start.wrapping_add(kept.talk.asked);
        let segment = kept.server_at(kept.talk.answered, b"").with_flags(ACK);
        let segment = segment.with_options(sack(&at(base)));
        let seen = kept.reaches_client(&segment);
        assert_eq!(seen.options, sack(&at(base.wrapping_add(withheld))));
    }
    // The blocks follow other options.
    let stamp = timestamp(5, 6);
    let option = [stamp.clone(), sack(&[(next, next.wrapping_add(9))])].concat();
    let segment = kept.client_at(kept.next(), b"").with_flags(ACK);
    let seen = kept.passes(&segment.with_options(option));
    let at = next.wrapping_sub(injected);
    assert_eq!(
        seen.options,
        [stamp, sack(&[(at, at.wrapping_add(9))])].concat()
    );
}

#[test]
fn what_the_server_sends_without_a_request_never_reaches_the_client() {
    let timeout = "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n";
    for asks in [false, true] {
        let mut kept = Kept::opened();
        kept.admitted(get("/1"));
        kept.answers(ok("one"));
        let acked = kept.talk.asked;
        kept.refused(spent());
        if asks {
            // The client's next request is on its way when the server gives up waiting.
            kept.admitted(get("/2"));
        }
        let server_start = kept.talk.server_start;
        let segment = kept.server_at(kept.talk.answered, timeout);
        let segment = segment.with_ack(kept.talk.client_start.wrapping_add(acked));
        let ran = kept.talk.run(&mut kept.programs, false, &segment);
        assert_eq!(ran.verdict, Verdict::Pass);
        let to_client = ran.decoded();
        assert_eq!((to_client.flags, to_client.payload.len()), (RST | ACK, 0));
        let at = kept.talk.answered + kept.injected;
        assert_eq!(to_client.seq, server_start.wrapping_add(at));
        let to_server = ran.answer();
        assert_eq!(to_server.flags & RST, RST);
        assert_eq!(to_server.seq, segment.ack);
        assert!(kept.programs.flow(&kept.talk.key()).is_none());
        assert_eq!(kept.programs.state(SCOPE).in_flight, 0);
        drop(kept);
    }
    // A response to the request is no such thing.
    let mut kept = Kept::opened();
    kept.refused(spent());
    kept.admitted(get("/2"));
    kept.answers(timeout);
}

#[test]
fn both_sides_may_close_a_connection_that_went_on() {
    for client_first in [true, false] {
        let mut kept = Kept::opened();
        kept.admitted(get("/1"));
        kept.answers(ok("one"));
        kept.refused(spent());
        let from_client = kept.client_at(kept.next(), b"").with_flags(FIN | ACK);
        let from_server = kept
            .server_at(kept.talk.answered, b"")
            .with_flags(FIN | ACK);
        if client_first {
            kept.passes(&from_client);
            let acked = from_server.with_ack(kept.talk.client_start + kept.talk.asked + 1);
            let seen = kept.reaches_client(&acked);
            assert_eq!(seen.ack, from_client.seq.wrapping_add(1));
            let seq = kept.client_at(kept.next() + 1, b"");
            let last = seq.clone().with_ack(seq.ack + 1).with_flags(ACK);
            kept.passes(&last);
        } else {
            kept.reaches_client(&from_server);
            let both = from_client.clone().with_ack(from_client.ack + 1);
            kept.passes(&both);
            let last = kept.server_at(kept.talk.answered + 1, b"").with_flags(ACK);
            let last = last.with_ack(kept.talk.client_start + kept.talk.asked + 1);
            kept.reaches_client(&last);
        }
        // Later packets cannot be translated, and neither side gets any.
        assert!(kept.programs.flow(&kept.talk.key()).is_none());
        assert!(kept.programs.tomb(&kept.talk.key()).is_some());
    }
}

#[test]
fn resets_are_translated() {
    let mut kept = Kept::opened();
    kept.admitted(get("/1"));
    kept.answers(ok("one"));
    kept.refused(spent());
    let reset = kept
        .server_at(kept.talk.answered, b"")
        .with_flags(RST | ACK);
    let ran = kept.talk.run(&mut kept.programs, false, &reset);
    assert_eq!(ran.verdict, Verdict::Pass);
    let seen = ran.decoded();
    assert_eq!(seen.flags & RST, RST);
    assert_eq!(seen.seq, reset.seq.wrapping_add(kept.injected));
    drop(kept);

    let mut kept = Kept::opened();
    kept.admitted(get("/1"));
    kept.answers(ok("one"));
    kept.refused(spent());
    let reset = kept.client_at(kept.next(), b"").with_flags(RST | ACK);
    let ran = kept.run(&reset);
    assert_eq!(ran.verdict, Verdict::Pass);
    let seen = ran.decoded();
    assert_eq!(seen.flags & RST, RST);
    assert_eq!(seen.seq, reset.seq.wrapping_sub(kept.withheld));
    drop(kept);

    // A later refusal that closes the connection ends both sides at their own positions.
    let mut kept = Kept::opened();
    kept.refused(spent());
    kept.admitted(get("/1"));
    kept.answers(ok("one"));
    let close = spent().replace("Host: a", "Connection: close");
    let segment = kept.client_at(kept.next(), close);
    let ran = kept.run(&segment);
    let (to_server, to_client) = (ran.decoded(), ran.answer());
    assert_eq!(to_server.flags, FIN | ACK);
    assert_eq!(kept.client_position(to_server.seq), kept.talk.asked);
    assert_eq!(kept.server_position(to_server.ack), kept.talk.answered);
    assert_eq!(to_client.flags, FIN | ACK | PSH);
    let at = kept.talk.answered + kept.injected;
    assert_eq!(kept.server_position(to_client.seq), at);
}

/// The distance in bytes between two segments of a long stream. It is smaller than a window.
const JUMP: u32 = 900_000_000;

#[test]
fn long_streams_after_a_refusal_are_translated() {
    let mut programs = programs();
    let mut talk = Talk::new(Shape::v4());
    let syn = talk.syn();
    // The server's window is the largest possible one (RFC 7323, section 2.3).
    let syn_ack = talk.syn_ack().with_options(vec![1, 3, 3, 14]);
    let ack = talk.client(b"").with_flags(ACK);
    for (to_server, segment) in [(true, syn), (false, syn_ack), (true, ack)] {
        let ran = talk.run(&mut programs, to_server, &segment);
        assert_eq!(ran.verdict, Verdict::Pass);
    }
    talk.acknowledged(&mut programs);
    let mut kept = Kept {
        programs,
        talk,
        withheld: 0,
        injected: 0,
    };
    kept.refused(spent());
    let upload = get("/").replace("GET", "PUT");
    let length = "\r\nContent-Length: 20000000000\r\n\r\n";
    kept.admitted(upload.replace("\r\n\r\n", length));
    kept.answers(b"");
    // The sequence numbers repeat after the fourth segment.
    for _ in 0..6 {
        kept.talk.asked = kept.talk.asked.wrapping_add(JUMP);
        let segment = kept.client_at(kept.next(), "body");
        kept.passes(&segment);
        kept.answers(b"");
    }
    drop(kept);

    let mut kept = Kept::opened();
    kept.refused(spent());
    kept.admitted(get("/"));
    kept.answers("HTTP/1.1 200 OK\r\nContent-Length: 20000000000\r\n\r\n");
    for _ in 0..6 {
        kept.talk.answered = kept.talk.answered.wrapping_add(JUMP);
        kept.answers("body");
        let acknowledged = kept.client_at(kept.next(), b"").with_flags(ACK);
        let seen = kept.passes(&acknowledged);
        let answered = kept.talk.server_start.wrapping_add(kept.talk.answered);
        assert_eq!(seen.ack, answered);
    }
}

#[test]
fn a_syn_ack_that_comes_again_belongs_to_the_connection() {
    let mut programs = programs();
    let mut talk = Talk::new(Shape::v4());
    let (syn, syn_ack) = (talk.syn(), talk.syn_ack());
    for (to_server, segment) in [(true, &syn), (false, &syn_ack)] {
        talk.run(&mut programs, to_server, segment);
    }
    let mut kept = Kept {
        programs,
        talk,
        withheld: 0,
        injected: 0,
    };
    // The server does not take the acknowledgement that is passed on (TCP_DEFER_ACCEPT).
    kept.refused(spent());
    let ran = kept.talk.run(&mut kept.programs, false, &syn_ack);
    assert_eq!(ran.verdict, Verdict::Pass);
    assert_eq!(ran.decoded().seq, syn_ack.seq);
    kept.admitted(get("/1"));
    kept.answers(ok("one"));
    assert_counters(
        &kept.programs,
        &[
            (counter::ADMITTED, 1),
            (counter::REFUSED_DAILY_QUOTA, 1),
            (counter::RESPONSES_SENT, 1),
            (counter::KEPT, 1),
        ],
    );
}

#[test]
fn http2_is_recognised_after_requests_that_the_server_has_not_seen() {
    let mut kept = Kept::opened();
    kept.programs.configure(|config| {
        config.on_limit = policy::ON_LIMIT_KEEPALIVE;
        config.malformed = policy::PASS;
    });
    kept.refused(spent());
    let segment = kept.client_at(kept.next(), "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    let ran = kept.run(&segment);
    assert_eq!(ran.decoded().flags & RST, RST);
    assert_eq!(kept.programs.counter(counter::HTTP2), 1);
    drop(kept);
    // Once the server has seen a request, the preface is only malformed.
    let mut kept = Kept::opened();
    kept.admitted(get("/"));
    kept.answers(ok("one"));
    kept.refused(spent());
    let segment = kept.client_at(kept.next(), "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    assert_eq!(kept.run(&segment).answer().flags & FIN, FIN);
    assert_eq!(kept.programs.counter(counter::HTTP2), 0);
}

#[test]
fn a_fin_of_the_server_waits_for_the_bytes_before_it() {
    let mut kept = Kept::opened();
    kept.refused(spent());
    kept.admitted(get("/"));
    let response = ok("late");
    let fin = kept.server_at(len(&response), b"").with_flags(FIN | ACK);
    let ran = kept.talk.run(&mut kept.programs, false, &fin);
    assert_eq!(ran.verdict, Verdict::Drop);
    kept.answers(&response);
    kept.reaches_client(&fin);
    assert_eq!(kept.programs.state(SCOPE).in_flight, 0);
    drop(kept);
    // A FIN that the server sends together with its last bytes from before a refusal comes after
    // the response to that refusal.
    let mut kept = Kept::opened();
    kept.admitted(get("/"));
    kept.answers(ok("one"));
    kept.refused(spent());
    let both = kept.server_at(0, ok("one")).with_flags(FIN | ACK | PSH);
    let ran = kept.talk.run(&mut kept.programs, false, &both);
    assert_eq!(ran.verdict, Verdict::Drop);
}

#[test]
fn an_error_for_an_incomplete_head_reaches_the_client() {
    let mut kept = Kept::opened();
    kept.refused(spent());
    kept.admitted("GET / HTTP/1.1\r\nX-Lo");
    let error = "HTTP/1.1 431 Too Large\r\nContent-Length: 0\r\n\r\n";
    // The rest of the head is on its way when the server answers.
    let acked = kept.talk.client_start + kept.talk.asked;
    kept.admitted(format!("ng: 1\r\nX-Api-Key: {KEY}\r\n\r\n"));
    let segment = kept.server_at(0, error).with_ack(acked);
    kept.reaches_client(&segment);
    drop(kept);
    let mut kept = Kept::opened();
    kept.refused(spent());
    kept.admitted("GET / HTTP/1.1\r\nX-Lo");
    kept.answers(error);
    drop(kept);
    // The server gives up waiting before it sees the beginning of the head.
    let mut kept = Kept::opened();
    kept.refused(spent());
    let acked = kept.talk.client_start + kept.talk.asked;
    kept.admitted("GET / HTTP/1.1\r\nX-Lo");
    let timeout = "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n";
    let segment = kept.server_at(0, timeout).with_ack(acked);
    let ran = kept.talk.run(&mut kept.programs, false, &segment);
    assert_eq!(ran.decoded().flags & RST, RST);
}

#[test]
fn a_client_that_has_lost_its_state_resets_the_connection() {
    let mut kept = Kept::opened();
    kept.admitted(get("/"));
    kept.answers(ok("one"));
    let request_at = kept.next();
    kept.refused(spent());
    // The client answers a packet whose acknowledgement does not include the request yet.
    let reset = kept.client_at(request_at, b"").with_flags(RST);
    let ran = kept.run(&reset);
    assert_eq!(ran.decoded().flags & RST, RST);
    assert_eq!(kept.client_position(ran.decoded().seq), kept.talk.asked);
    assert!(kept.programs.flow(&kept.talk.key()).is_none());
}
