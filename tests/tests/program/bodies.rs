// SPDX-License-Identifier: MIT OR Apache-2.0

//! The bytes of a body are skipped, and none of them is taken for a request.

use limiter_common::abi::counter;
use limiter_tests::program::Verdict;

use crate::support::{KEY, SCOPE, assert_counters, get, ok, opened};

/// Returns a request with an additional field line.
fn post(field: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\nX-Api-Key: {KEY}\r\n{field}\r\n\r\n")
}

fn with_length(len: usize) -> String {
    post(&format!("Content-Length: {len}"))
}

fn chunked() -> String {
    post("Transfer-Encoding: chunked")
}

#[test]
fn request_inside_a_body_is_not_charged() {
    for (what, head, body) in [
        ("of known length", with_length(get("/").len()), get("/")),
        (
            "in chunks",
            chunked(),
            format!("{:x}\r\n{}\r\n0\r\n\r\n", get("/").len(), get("/")),
        ),
    ] {
        for split in [0, 1, 10, body.len() - 1] {
            let (mut programs, mut talk) = opened();
            talk.asks(&mut programs, head.clone() + &body[..split]);
            talk.asks(&mut programs, &body[split..]);
            assert_eq!(
                programs.state(SCOPE).admitted,
                1,
                "{what}, split at {split}"
            );
            talk.asks(&mut programs, get("/"));
            assert_eq!(
                programs.state(SCOPE).admitted,
                2,
                "{what}, the next request"
            );
            assert_counters(&programs, &[(counter::ADMITTED, 2)]);
        }
    }
}

#[test]
fn request_behind_a_body_is_charged() {
    let (mut programs, mut talk) = opened();
    let body = "b".repeat(100);
    let chunks = "5\r\nhello\r\n6;name=value\r\n world\r\n0\r\nTrailer: x\r\n\r\n";
    talk.asks(
        &mut programs,
        with_length(100) + &body + &chunked() + chunks + &get("/"),
    );
    assert_counters(&programs, &[(counter::ADMITTED, 3)]);
}

#[test]
fn a_long_body_passes_in_many_segments() {
    let (mut programs, mut talk) = opened();
    let len = 100 * 1448;
    talk.asks(&mut programs, with_length(len));
    for _ in 0..100 {
        talk.asks(&mut programs, vec![b'\n'; 1448]);
        talk.acknowledged(&mut programs);
    }
    talk.asks(&mut programs, get("/"));
    assert_counters(&programs, &[(counter::ADMITTED, 2)]);
}

#[test]
fn a_gap_in_a_body_may_be_filled_later() {
    let (mut programs, mut talk) = opened();
    let head = with_length(300);
    talk.asks(&mut programs, &head);
    let at = talk.asked;
    let late = talk.client_at(at, &[b'1'; 100]);
    let early = talk.client_at(at + 100, &[b'2'; 200]);
    assert_eq!(talk.run(&mut programs, true, &early).verdict, Verdict::Pass);
    assert_eq!(talk.run(&mut programs, true, &late).verdict, Verdict::Pass);
    talk.asked += 300;
    talk.asks(&mut programs, get("/"));
    assert_counters(
        &programs,
        &[(counter::ADMITTED, 2), (counter::RETRANSMITTED, 1)],
    );
}

#[test]
fn a_gap_that_reaches_beyond_a_body_is_dropped() {
    let (mut programs, mut talk) = opened();
    talk.asks(&mut programs, with_length(100));
    let beyond = talk.client_at(talk.asked + 101, get("/").as_bytes());
    assert_eq!(
        talk.run(&mut programs, true, &beyond).verdict,
        Verdict::Drop
    );
    assert_counters(
        &programs,
        &[(counter::ADMITTED, 1), (counter::OUT_OF_ORDER_DROPPED, 1)],
    );
    // Even if all the missing bytes of a gap belong to the body, a head after the gap does not
    // pass, because the programs cannot compare retransmissions of such a head until the gap is
    // filled.
    let behind = talk.client_at(talk.asked + 100, get("/").as_bytes());
    assert_eq!(
        talk.run(&mut programs, true, &behind).verdict,
        Verdict::Drop
    );
    talk.asks(&mut programs, "b".repeat(100) + &get("/"));
    assert_eq!(programs.state(SCOPE).admitted, 2);
}

#[test]
fn gap_may_skip_chunk_data_but_not_framing() {
    let (mut programs, mut talk) = opened();
    talk.asks(&mut programs, chunked() + "64\r\n");
    let at = talk.asked;
    let framing = talk.client_at(at + 101, b"\n0\r\n\r\n");
    assert_eq!(
        talk.run(&mut programs, true, &framing).verdict,
        Verdict::Drop
    );
    let data = talk.client_at(at + 50, &[b'd'; 50]);
    assert_eq!(talk.run(&mut programs, true, &data).verdict, Verdict::Pass);
    talk.asked += 100;
    talk.asks(&mut programs, "\r\n0\r\n\r\n".to_owned() + &get("/"));
    assert_counters(
        &programs,
        &[(counter::ADMITTED, 2), (counter::OUT_OF_ORDER_DROPPED, 1)],
    );
}

#[test]
fn chunks_may_be_split_anywhere() {
    let body = "a\r\n0123456789\r\n00002;x=\"y\"\r\nab\r\n0\r\nA: b\r\n\r\n";
    for split in 1..body.len() {
        let (mut programs, mut talk) = opened();
        talk.asks(&mut programs, chunked() + &body[..split]);
        talk.asks(&mut programs, body[split..].to_owned() + &get("/"));
        assert_counters(&programs, &[(counter::ADMITTED, 2)]);
    }
}

#[test]
fn invalid_chunk_framing_resets_both_sides() {
    for (what, body) in [
        ("no digit", "x\r\n"),
        ("no line end behind the data", "1\r\nabc\r\n"),
        ("too many digits", "00000000000000001\r\na\r\n"),
        ("a bare line feed behind the size", "1\na\r\n"),
    ] {
        let (mut programs, mut talk) = opened();
        talk.asks(&mut programs, chunked());
        let ran = talk.ask(&mut programs, body);
        // The programs send no response to the client, because the server is already processing the
        // request.
        let to_server = ran.decoded();
        assert_eq!(
            (ran.verdict, to_server.flags & 4),
            (Verdict::Pass, 4),
            "{what}"
        );
        assert_eq!(ran.answer().flags & 4, 4, "{what}");
        assert!(programs.flow(&talk.key()).is_none(), "{what}");
        assert_eq!(programs.state(SCOPE).in_flight, 0, "{what}");
        assert_eq!(programs.counter(counter::MALFORMED_REFUSED), 1, "{what}");
    }
}

#[test]
fn the_slot_is_held_while_the_body_goes_on() {
    let (mut programs, mut talk) = opened();
    talk.asks(&mut programs, with_length(10));
    talk.asks(&mut programs, "01234");
    assert_eq!(programs.state(SCOPE).in_flight, 1);
    talk.asks(&mut programs, "56789");
    assert_eq!(programs.state(SCOPE).in_flight, 1);
    talk.answers(&mut programs, ok("done"));
    assert_eq!(programs.state(SCOPE).in_flight, 0);
}

#[test]
fn an_expected_100_continue_frees_nothing() {
    let (mut programs, mut talk) = opened();
    talk.asks(
        &mut programs,
        post("Content-Length: 4\r\nExpect: 100-continue"),
    );
    talk.answers(&mut programs, "HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(programs.state(SCOPE).in_flight, 1);
    talk.asks(&mut programs, "body");
    talk.answers(&mut programs, ok("done"));
    assert_eq!(programs.state(SCOPE).in_flight, 0);
}
