// SPDX-License-Identifier: MIT OR Apache-2.0

//! Retransmissions that have the same bytes as the original, and retransmissions with different
//! bytes.

use limiter_common::abi::counter;
use limiter_tests::program::{Programs, RST, Talk, Verdict};

use crate::support::{KEY, SCOPE, assert_counters, get, get_as, ok, opened};

/// Sends bytes from the client that begin at position `at` in the client's bytes.
#[track_caller]
pub fn sends(programs: &mut Programs, talk: &mut Talk, at: usize, payload: &str) -> Verdict {
    let at = u32::try_from(at).expect("a short way");
    let segment = talk.client_at(at, payload.as_bytes());
    let ran = talk.run(programs, true, &segment);
    if ran.verdict == Verdict::Pass {
        assert_eq!(ran.decoded().payload, payload.as_bytes(), "what passed");
    }
    ran.verdict
}

#[test]
fn a_retransmission_passes_and_is_not_charged() {
    let (mut programs, mut talk) = opened();
    let request = get("/");
    talk.asks(&mut programs, &request);
    for _ in 0..3 {
        assert_eq!(sends(&mut programs, &mut talk, 0, &request), Verdict::Pass);
    }
    assert_counters(
        &programs,
        &[(counter::ADMITTED, 1), (counter::RETRANSMITTED, 3)],
    );
    assert_eq!(programs.state(SCOPE).in_flight, 1);
}

#[test]
fn a_retransmission_after_the_response_passes_and_is_not_charged() {
    let (mut programs, mut talk) = opened();
    let request = get("/");
    talk.asks(&mut programs, &request);
    talk.answers(&mut programs, ok("hello"));
    assert_eq!(sends(&mut programs, &mut talk, 0, &request), Verdict::Pass);
    assert_counters(
        &programs,
        &[(counter::ADMITTED, 1), (counter::RETRANSMITTED, 1)],
    );
    assert_eq!(programs.state(SCOPE).in_flight, 0);
}

/// Returns a request with a body of `len` bytes.
pub fn post(key: &str, len: usize) -> String {
    let body = "b".repeat(len);
    format!("POST / HTTP/1.1\r\nX-Api-Key: {key}\r\nContent-Length: {len}\r\n\r\n{body}")
}

#[test]
fn other_request_in_place_of_an_unacknowledged_one_is_dropped() {
    let chunks = "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let two = 2 * get("/").len() - get("").len();
    for (what, first, other) in [
        ("another key", get("/aaaa"), get_as("key-two", "/aaaa")),
        ("no key", get("/aaaa"), get("/aaaa").replace("Api", "Bpi")),
        (
            "another method",
            get("/aaaa"),
            get("/aaa").replace("GET", "HEAD"),
        ),
        (
            "an end that is not one",
            get("/aaaa"),
            get("/aaaaaa").replace("\r\n\r\n", "\r\n"),
        ),
        ("nonsense", get("/aaaa"), "x".repeat(get("/aaaa").len())),
        (
            "a longer body",
            post(KEY, 11),
            post(KEY, 11).replace("11", "99"),
        ),
        ("chunks", get(&"a".repeat(chunks.len())), {
            get("/aa").replace("\r\n\r\n", &format!("\r\n{chunks}"))
        }),
        ("two for one", get(&"a".repeat(two)), get("/") + &get("/")),
    ] {
        let (mut programs, mut talk) = opened();
        talk.asks(&mut programs, &first);
        let other = &other[..first.len().min(other.len())];
        assert_eq!(
            sends(&mut programs, &mut talk, 0, other),
            Verdict::Drop,
            "{what}"
        );
        assert_counters(
            &programs,
            &[(counter::ADMITTED, 1), (counter::CONFLICT_DROPPED, 1)],
        );
        // After the different request, a retransmission of the original request still passes.
        assert_eq!(
            sends(&mut programs, &mut talk, 0, &first),
            Verdict::Pass,
            "{what}"
        );
    }
}

#[test]
fn equivalent_request_passes_in_place_of_another() {
    // To the programs, both requests are the same: the key, the framing and the length are equal.
    // It does not matter which of the two the server receives, so the second one may pass in place
    // of the first.
    let (mut programs, mut talk) = opened();
    talk.asks(&mut programs, get("/aaaa"));
    assert_eq!(
        sends(&mut programs, &mut talk, 0, &get("/bbbb")),
        Verdict::Pass
    );
    assert_counters(
        &programs,
        &[(counter::ADMITTED, 1), (counter::RETRANSMITTED, 1)],
    );
}

#[test]
fn retransmitted_part_of_a_head_must_match_to_the_byte() {
    let request = get("/aaaa");
    for (what, other) in [
        ("another path", request.replace("aaaa", "aaab")),
        ("another key", request.replace("key-one", "key-two")),
        (
            "the last byte",
            request[..request.len() - 1].to_owned() + "x",
        ),
    ] {
        let (mut programs, mut talk) = opened();
        talk.asks(&mut programs, &request[..12]);
        talk.asks(&mut programs, &request[12..]);
        assert_eq!(
            sends(&mut programs, &mut talk, 0, &other),
            Verdict::Drop,
            "{what}"
        );
        assert_eq!(
            sends(&mut programs, &mut talk, 0, &request),
            Verdict::Pass,
            "{what}"
        );
    }
}

#[test]
fn acknowledged_bytes_pass_with_any_content() {
    let (mut programs, mut talk) = opened();
    let request = get("/aaaa");
    talk.asks(&mut programs, &request);
    talk.acknowledged(&mut programs);
    let other = request.replace("aaaa", "bbbb");
    assert_eq!(sends(&mut programs, &mut talk, 0, &other), Verdict::Pass);
    assert_counters(
        &programs,
        &[(counter::ADMITTED, 1), (counter::RETRANSMITTED, 1)],
    );
}

#[test]
fn retransmission_with_a_new_request_is_charged_for_the_new_one() {
    for acknowledged in [false, true] {
        let (mut programs, mut talk) = opened();
        talk.asks(&mut programs, get("/a"));
        if acknowledged {
            talk.acknowledged(&mut programs);
        }
        let both = get("/a") + &get("/b");
        assert_eq!(sends(&mut programs, &mut talk, 0, &both), Verdict::Pass);
        assert_counters(&programs, &[(counter::ADMITTED, 2)]);
    }
}

#[test]
fn other_content_with_a_new_request_is_dropped_and_not_charged() {
    let (mut programs, mut talk) = opened();
    talk.asks(&mut programs, get("/a"));
    let both = get_as("key-two", "/a") + &get("/b");
    assert_eq!(sends(&mut programs, &mut talk, 0, &both), Verdict::Drop);
    assert_counters(
        &programs,
        &[(counter::ADMITTED, 1), (counter::CONFLICT_DROPPED, 1)],
    );
    assert_eq!(
        sends(&mut programs, &mut talk, get("/a").len(), &get("/b")),
        Verdict::Pass
    );
    assert_eq!(programs.state(SCOPE).admitted, 2);
}

#[test]
fn retransmitted_beginning_of_a_request_must_match() {
    let request = get("/aaaa");
    let (mut programs, mut talk) = opened();
    talk.asks(&mut programs, &request[..12]);
    let other = request.replace("aaaa", "aaab");
    assert_eq!(sends(&mut programs, &mut talk, 0, &other), Verdict::Drop);
    assert_counters(&programs, &[(counter::CONFLICT_DROPPED, 1)]);
    assert_eq!(sends(&mut programs, &mut talk, 0, &request), Verdict::Pass);
    assert_eq!(programs.state(SCOPE).admitted, 1);
}

#[test]
fn segments_retransmitted_as_one_pass() {
    let request = get("/");
    for split in [1, 7, request.len() - 1] {
        let (mut programs, mut talk) = opened();
        talk.asks(&mut programs, &request[..split]);
        talk.asks(&mut programs, &request[split..]);
        assert_eq!(
            sends(&mut programs, &mut talk, 0, &request),
            Verdict::Pass,
            "{split}"
        );
        assert_counters(
            &programs,
            &[(counter::ADMITTED, 1), (counter::RETRANSMITTED, 1)],
        );
        let other = get_as("key-two", "/");
        assert_eq!(
            sends(&mut programs, &mut talk, 0, &other),
            Verdict::Drop,
            "{split}"
        );
    }
}

#[test]
fn conflicts_do_not_end_an_upload_that_makes_progress() {
    let (mut programs, mut talk) = opened();
    // Only the head is sent here. The body follows in pieces.
    let whole = post(KEY, 400);
    let head = &whole[..whole.len() - 400];
    talk.asks(&mut programs, head);
    for _ in 0..20 {
        let other = "x".repeat(head.len());
        assert_eq!(sends(&mut programs, &mut talk, 0, &other), Verdict::Drop);
        talk.asks(&mut programs, "0123456789");
    }
    assert_eq!(programs.counter(counter::CONFLICT_DROPPED), 20);
    assert_eq!(programs.counter(counter::RESETS_SENT), 0);
}

#[test]
fn incomparable_retransmissions_reset_the_connection_after_some_attempts() {
    // The head is so short that it fits in one packet on every network path, so no client has a
    // reason to retransmit only a part of it. After several attempts, the connection is reset.
    let request = get("/");
    let (mut programs, mut talk) = opened();
    talk.asks(&mut programs, &request);
    let piece = talk.client_at(0, &request.as_bytes()[..20]);
    let mut tries = 0;
    let ran = loop {
        let ran = talk.run(&mut programs, true, &piece);
        tries += 1;
        if ran.verdict != Verdict::Drop {
            break ran;
        }
        assert!(tries < 10, "it would go on for ever");
    };
    assert!(tries > 3, "{tries} tries");
    assert_eq!(programs.counter(counter::PART_DROPPED), tries);
    assert_eq!(programs.counter(counter::CONFLICT_DROPPED), 0);
    assert_eq!(ran.decoded().flags & RST, RST);
    assert_eq!(ran.answer().flags & RST, RST);
    assert_eq!(programs.state(SCOPE).in_flight, 0);
}

#[test]
fn unacknowledged_requests_pass_again() {
    let (mut programs, mut talk) = opened();
    let requests: Vec<String> = (1..=8).map(|number| get(&format!("/{number}"))).collect();
    for request in &requests {
        talk.asks(&mut programs, request);
    }
    let mut at = 0;
    for request in &requests {
        assert_eq!(
            sends(&mut programs, &mut talk, at, request),
            Verdict::Pass,
            "{request}"
        );
        at += request.len();
    }
    assert_counters(
        &programs,
        &[(counter::ADMITTED, 8), (counter::RETRANSMITTED, 8)],
    );
}

#[test]
fn retransmitted_body_passes_with_any_content() {
    let (mut programs, mut talk) = opened();
    let head = get("/").replace("\r\n\r\n", "\r\nContent-Length: 400\r\n\r\n");
    talk.asks(&mut programs, &head);
    talk.asks(&mut programs, "a".repeat(400));
    let body = "b".repeat(400);
    assert_eq!(
        sends(&mut programs, &mut talk, head.len(), &body),
        Verdict::Pass
    );
    assert_counters(
        &programs,
        &[(counter::ADMITTED, 1), (counter::RETRANSMITTED, 1)],
    );
}
