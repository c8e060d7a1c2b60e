// SPDX-License-Identifier: MIT OR Apache-2.0

//! Requests are admitted and charged, however they are split into segments.

use limiter_common::abi::{KeyEntry, Limits, MAX_OUTSTANDING, counter};
use limiter_tests::program::{Shape, Talk, Verdict, no_limits};

use crate::support::{KEY, SCOPE, assert_counters, get, get_as, limited, ok, opened};

#[test]
fn a_request_is_admitted_and_charged_once() {
    let (mut programs, mut talk) = opened();
    talk.asks(&mut programs, get("/"));
    assert_counters(&programs, &[(counter::ADMITTED, 1)]);
    let bytes = u64::try_from(get("/").len()).expect("a length");
    assert_eq!(programs.counter(counter::INSPECTED_BYTES), bytes);
    let state = programs.state(SCOPE);
    assert_eq!(
        (state.admitted, state.in_flight, state.connections),
        (1, 1, 1)
    );
    assert_ne!(programs.entry(KEY).expect("the key").last_used_ns, 0);
}

#[test]
fn requests_of_a_connection_are_charged_one_by_one() {
    let (mut programs, mut talk) = opened();
    for number in 1..=40 {
        talk.asks(&mut programs, get(&format!("/{number}")));
        let state = programs.state(SCOPE);
        assert_eq!(
            (state.admitted, state.in_flight, state.connections),
            (number, 1, 1)
        );
        talk.answers(&mut programs, ok("hello"));
        assert_eq!(programs.state(SCOPE).in_flight, 0);
    }
    assert_counters(&programs, &[(counter::ADMITTED, 40)]);
}

#[test]
fn a_request_in_two_segments_is_charged_when_it_is_whole() {
    let request = get("/accounts/17");
    for split in 1..request.len() {
        let (mut programs, mut talk) = opened();
        let (first, second) = request.split_at(split);
        talk.asks(&mut programs, first);
        let state = programs.state(SCOPE);
        assert_eq!(
            (state.admitted, state.in_flight),
            (0, 0),
            "split at {split}"
        );
        talk.asks(&mut programs, second);
        let state = programs.state(SCOPE);
        assert_eq!(
            (state.admitted, state.in_flight),
            (1, 1),
            "split at {split}"
        );
        assert_counters(&programs, &[(counter::ADMITTED, 1)]);
    }
}

#[test]
fn a_request_in_segments_of_one_byte_is_charged_once() {
    let (mut programs, mut talk) = opened();
    for byte in get("/").as_bytes() {
        assert_eq!(programs.state(SCOPE).admitted, 0);
        talk.asks(&mut programs, [*byte]);
    }
    assert_counters(&programs, &[(counter::ADMITTED, 1)]);
}

#[test]
fn two_requests_in_one_segment_are_charged_twice() {
    let (mut programs, mut talk) = opened();
    talk.asks(&mut programs, get("/a") + &get("/b"));
    assert_counters(&programs, &[(counter::ADMITTED, 2)]);
    assert_eq!(programs.state(SCOPE).in_flight, 2);
    talk.answers(&mut programs, ok("one"));
    assert_eq!(programs.state(SCOPE).in_flight, 1);
    talk.answers(&mut programs, ok("two"));
    assert_eq!(programs.state(SCOPE).in_flight, 0);
}

#[test]
fn requests_of_two_keys_on_one_connection_are_charged_to_their_scopes() {
    let (mut programs, mut talk) = opened();
    programs.scope(2, "key-two", no_limits());
    talk.asks(
        &mut programs,
        get("/") + &get_as("key-two", "/") + &get("/"),
    );
    for (scope, admitted) in [(SCOPE, 2), (2, 1)] {
        let state = programs.state(scope);
        assert_eq!(
            (state.admitted, state.in_flight, state.connections),
            (admitted, admitted, 1)
        );
    }
    talk.answers(&mut programs, ok("one") + &ok("two"));
    assert_eq!(
        (programs.state(SCOPE).in_flight, programs.state(2).in_flight),
        (1, 0)
    );
}

#[test]
fn keys_of_one_scope_share_its_count() {
    let (mut programs, mut talk) = opened();
    programs.key(
        "second",
        KeyEntry {
            scope: SCOPE,
            flags: 0,
            last_used_ns: 0,
        },
    );
    talk.asks(&mut programs, get("/") + &get_as("second", "/"));
    let state = programs.state(SCOPE);
    assert_eq!((state.admitted, state.connections), (2, 1));
}

#[test]
fn sequence_numbers_wrap_anywhere() {
    let request = get("/");
    let response = ok("hello");
    let (asked, answered) = (request.len(), response.len());
    for (client, server) in [
        (0, 0),
        (1, 1),
        (asked / 2, answered / 2),
        (asked - 1, answered - 1),
    ] {
        let what = format!("{client} and {server} bytes before the wrap");
        let before = |bytes: usize| 0u32.wrapping_sub(u32::try_from(bytes).expect("a length"));
        let mut programs = limited(Limits {
            daily_quota: 2,
            ..no_limits()
        });
        let mut talk = Talk::new(Shape::v4());
        (talk.client_start, talk.server_start) = (before(client), before(server));
        let mut talk = talk.opened(&mut programs);
        for _ in 0..2 {
            let at = talk.asked;
            talk.asks(&mut programs, &request);
            let again = talk.client_at(at, request.as_bytes());
            assert_eq!(
                talk.run(&mut programs, true, &again).verdict,
                Verdict::Pass,
                "{what}"
            );
            let other = get_as("key-two", "/");
            let other = talk.client_at(at, other.as_bytes());
            assert_eq!(
                talk.run(&mut programs, true, &other).verdict,
                Verdict::Drop,
                "{what}"
            );
            talk.answers(&mut programs, &response);
            let future = talk.server_start.wrapping_add(talk.answered + 1);
            let future = talk.client(b"").with_ack(future);
            assert_eq!(
                talk.run(&mut programs, true, &future).verdict,
                Verdict::Drop,
                "{what}"
            );
        }
        let next = talk.client(request.as_bytes());
        let refused = talk.run(&mut programs, true, &next);
        assert_eq!(refused.decoded().seq, next.seq, "{what}");
        assert_eq!(refused.answer().seq, next.ack, "{what}");
        assert_eq!(programs.state(SCOPE).admitted, 2, "{what}");
    }
}

#[test]
fn sequence_numbers_wrap_between_the_halves_of_a_request() {
    let request = get("/");
    for split in [1, 20, request.len() - 1] {
        let mut programs = limited(no_limits());
        let mut talk = Talk::new(Shape::v4());
        talk.client_start = 0u32.wrapping_sub(u32::try_from(split).expect("a length"));
        let mut talk = talk.opened(&mut programs);
        let (first, second) = request.split_at(split);
        talk.asks(&mut programs, first);
        talk.asks(&mut programs, second);
        assert_counters(&programs, &[(counter::ADMITTED, 1)]);
    }
}

#[test]
fn out_of_order_segment_is_dropped_and_passes_in_order() {
    let (mut programs, mut talk) = opened();
    let request = get("/");
    let (first, second) = request.split_at(10);
    let ahead = talk.client_at(10, second.as_bytes());
    assert_eq!(talk.run(&mut programs, true, &ahead).verdict, Verdict::Drop);
    assert_counters(&programs, &[(counter::OUT_OF_ORDER_DROPPED, 1)]);
    talk.asks(&mut programs, first);
    talk.asks(&mut programs, second);
    assert_counters(
        &programs,
        &[(counter::OUT_OF_ORDER_DROPPED, 1), (counter::ADMITTED, 1)],
    );
}

#[test]
fn acknowledgements_keepalives_and_probes_pass() {
    let (mut programs, mut talk) = opened();
    talk.asks(&mut programs, get("/"));
    talk.answers(&mut programs, ok("hello"));
    talk.asks(&mut programs, "");
    // These segments are keep-alive probes. The first has no data, and the second has one byte that
    // was already acknowledged.
    for payload in [&b""[..], b"\n"] {
        let probe = talk.client_at(talk.asked - 1, payload);
        assert_eq!(talk.run(&mut programs, true, &probe).verdict, Verdict::Pass);
        let probe = talk.server_at(talk.answered - 1, payload);
        assert_eq!(
            talk.run(&mut programs, false, &probe).verdict,
            Verdict::Pass
        );
    }
    assert_counters(
        &programs,
        &[(counter::ADMITTED, 1), (counter::RETRANSMITTED, 1)],
    );
}

#[test]
fn outstanding_requests_are_bounded() {
    let (mut programs, mut talk) = opened();
    let small = "GET / HTTP/1.1\r\nX-Api-Key: key-one\r\n\r\n";
    let ran = talk.ask(&mut programs, small.repeat(40));
    assert_eq!(ran.verdict, Verdict::Pass);
    let most = u64::from(MAX_OUTSTANDING);
    assert_eq!(ran.decoded().payload, small.repeat(32).as_bytes());
    assert_counters(
        &programs,
        &[(counter::ADMITTED, most), (counter::TRIMMED, 1)],
    );
    // All further requests are dropped until a response arrives.
    let rest = talk.client(small.repeat(8).as_bytes());
    assert_eq!(talk.run(&mut programs, true, &rest).verdict, Verdict::Drop);
    talk.answers(&mut programs, ok(""));
    let ran = talk.ask(&mut programs, small.repeat(8));
    assert_eq!(ran.decoded().payload, small.as_bytes());
    assert_eq!(programs.state(SCOPE).in_flight, most);
}

#[test]
fn segment_without_ack_or_with_an_ack_of_unsent_bytes_is_dropped() {
    let (mut programs, mut talk) = opened();
    let request = get("/");
    let without = talk.client(request.as_bytes()).with_flags(0);
    assert_eq!(
        talk.run(&mut programs, true, &without).verdict,
        Verdict::Drop
    );
    let future = talk.server_start.wrapping_add(1);
    let future = talk.client(request.as_bytes()).with_ack(future);
    assert_eq!(
        talk.run(&mut programs, true, &future).verdict,
        Verdict::Drop
    );
    assert_counters(&programs, &[(counter::INVALID_DROPPED, 2)]);
    talk.asks(&mut programs, request);
}

#[test]
fn largest_head_passes_in_several_segments() {
    let (mut programs, mut talk) = opened();
    let mut head = get("/").replace("\r\n\r\n", "\r\n");
    for line in 0..120 {
        head.push_str(&format!("X-Line-{line}: {}\r\n", "v".repeat(100)));
    }
    head.push_str("\r\n");
    for piece in head.as_bytes().chunks(1448) {
        assert_eq!(programs.state(SCOPE).admitted, 0);
        talk.asks(&mut programs, piece);
    }
    assert_counters(&programs, &[(counter::ADMITTED, 1)]);
}

#[test]
fn no_map_holds_an_unfinished_line_with_a_key() {
    let (mut programs, mut talk) = opened();
    let request = get("/");
    let (begin, end) = request.split_at(request.find(KEY).expect("the key") + KEY.len() - 1);
    talk.asks(&mut programs, begin);
    assert!(!programs.flows_hold(b"key-on"), "a part of the key");
    talk.asks(&mut programs, end);
    assert_counters(&programs, &[(counter::ADMITTED, 1)]);
}
