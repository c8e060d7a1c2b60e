// SPDX-License-Identifier: MIT OR Apache-2.0

//! The slot of a request is released at the last byte of the response, and no earlier.

use limiter_common::abi::{FLOW_RESPONSE_LOST, counter, phase, policy};
use limiter_tests::program::{ACK, FIN, Verdict};

use crate::support::{KEY, SCOPE, assert_counters, get, ok, opened};

fn head(path: &str) -> String {
    get(path).replace("GET", "HEAD")
}

#[test]
fn a_slot_is_freed_by_the_last_byte_of_its_response() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (what, request, response) in [
        ("a length", get("/"), ok("hello")),
        ("no body", get("/"), ok("")),
        (
            "chunks",
            get("/"),
            chunked.to_owned() + "5\r\nhello\r\n1;a=b\r\n!\r\n0\r\n\r\n",
        ),
        (
            "chunks and trailers",
            get("/"),
            chunked.to_owned() + "1\r\na\r\n0\r\nA: b\r\nC: d\r\n\r\n",
        ),
        (
            "204",
            get("/"),
            "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
        ),
        (
            "304",
            get("/"),
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n".to_owned(),
        ),
        (
            "HEAD",
            head("/"),
            "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n".to_owned(),
        ),
        ("HEAD, chunked", head("/"), chunked.to_owned()),
        (
            "100 and 200",
            get("/"),
            "HTTP/1.1 100 Continue\r\n\r\n".to_owned() + &ok("hello"),
        ),
        (
            "103 twice and 200",
            get("/"),
            "HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n".repeat(2) + &ok("hello"),
        ),
        (
            "HTTP/1.0",
            get("/"),
            "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi".to_owned(),
        ),
        (
            "bare line feeds",
            get("/"),
            "HTTP/1.1 200 OK\nContent-Length: 2\n\nhi".to_owned(),
        ),
        (
            "an error",
            get("/"),
            "HTTP/1.1 500 No\r\nContent-Length: 3\r\n\r\nno!".to_owned(),
        ),
    ] {
        for split in 0..response.len() {
            let (mut programs, mut talk) = opened();
            talk.asks(&mut programs, &request);
            if split > 0 {
                talk.answers(&mut programs, &response[..split]);
                assert_eq!(programs.state(SCOPE).in_flight, 1, "{what}, {split} bytes");
            }
            talk.answers(&mut programs, &response[split..]);
            assert_eq!(
                programs.state(SCOPE).in_flight,
                0,
                "{what}, split at {split}"
            );
            assert_counters(&programs, &[(counter::ADMITTED, 1)]);
        }
    }
}

#[test]
fn responses_in_one_segment_free_their_slots_one_by_one() {
    let (mut programs, mut talk) = opened();
    talk.asks(&mut programs, get("/") + &head("/") + &get("/"));
    assert_eq!(programs.state(SCOPE).in_flight, 3);
    let to_head = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n";
    talk.answers(
        &mut programs,
        ok("hello") + to_head + "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n12",
    );
    assert_eq!(programs.state(SCOPE).in_flight, 1);
    talk.answers(&mut programs, "3");
    assert_eq!(programs.state(SCOPE).in_flight, 0);
}

#[test]
fn retransmitted_response_frees_nothing_twice() {
    let (mut programs, mut talk) = opened();
    talk.asks(&mut programs, get("/") + &get("/"));
    let response = ok("hello");
    talk.answers(&mut programs, &response);
    let again = talk.server_at(0, response.as_bytes());
    assert_eq!(
        talk.run(&mut programs, false, &again).verdict,
        Verdict::Pass
    );
    assert_eq!(programs.state(SCOPE).in_flight, 1);
    // This segment contains the first response, which is retransmitted, and the second response.
    let both = talk.server_at(0, (response.clone() + &response).as_bytes());
    assert_eq!(talk.run(&mut programs, false, &both).verdict, Verdict::Pass);
    assert_eq!(programs.state(SCOPE).in_flight, 0);
}

#[test]
fn response_delimited_by_close_frees_its_slot_at_the_end() {
    let (mut programs, mut talk) = opened();
    talk.asks(&mut programs, get("/"));
    talk.answers(&mut programs, "HTTP/1.1 200 OK\r\n\r\nuntil");
    talk.answers(
        &mut programs,
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    );
    assert_eq!(programs.state(SCOPE).in_flight, 1);
    let end = talk.server(b"the end").with_flags(FIN | ACK);
    assert_eq!(talk.run(&mut programs, false, &end).verdict, Verdict::Pass);
    assert_eq!(programs.state(SCOPE).in_flight, 0);
}

#[test]
fn a_gap_in_a_response_is_skipped_in_its_body_only() {
    let (mut programs, mut talk) = opened();
    talk.asks(&mut programs, get("/"));
    talk.answers(
        &mut programs,
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n",
    );
    let at = talk.answered;
    let last = talk.server_at(at + 50, &[b'b'; 50]);
    assert_eq!(talk.run(&mut programs, false, &last).verdict, Verdict::Pass);
    assert_eq!(programs.state(SCOPE).in_flight, 0);
    let first = talk.server_at(at, &[b'a'; 50]);
    assert_eq!(
        talk.run(&mut programs, false, &first).verdict,
        Verdict::Pass
    );
    assert_counters(&programs, &[(counter::ADMITTED, 1)]);

    talk.answered = at + 100;
    talk.asks(&mut programs, get("/"));
    let ahead = talk.server_at(talk.answered + 10, &[b'a'; 50]);
    assert_eq!(
        talk.run(&mut programs, false, &ahead).verdict,
        Verdict::Drop
    );
    assert_counters(
        &programs,
        &[(counter::ADMITTED, 2), (counter::OUT_OF_ORDER_DROPPED, 1)],
    );
    talk.answers(&mut programs, ok("hello"));
    assert_eq!(programs.state(SCOPE).in_flight, 0);
}

#[test]
fn a_response_before_the_end_of_its_request_frees_the_slot() {
    let (mut programs, mut talk) = opened();
    let request = format!("PUT / HTTP/1.1\r\nX-Api-Key: {KEY}\r\nContent-Length: 1000\r\n\r\nabc");
    talk.asks(&mut programs, request);
    talk.answers(
        &mut programs,
        "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n",
    );
    assert_eq!(programs.state(SCOPE).in_flight, 0);
}

#[test]
fn response_without_a_request_frees_nothing() {
    let (mut programs, mut talk) = opened();
    talk.answers(
        &mut programs,
        "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n",
    );
    talk.asks(&mut programs, get("/"));
    assert_eq!(programs.state(SCOPE).in_flight, 1);
    talk.answers(&mut programs, ok("hello"));
    assert_eq!(programs.state(SCOPE).in_flight, 0);
}

#[test]
fn upgraded_connection_is_a_tunnel_and_holds_its_slot() {
    let (mut programs, mut talk) = opened();
    let upgrade = "\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    talk.asks(&mut programs, get("/").replace("\r\n\r\n", upgrade));
    talk.answers(
        &mut programs,
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x01",
    );
    assert_eq!(
        programs.flow(&talk.key()).expect("a flow").phase,
        phase::TUNNEL
    );
    talk.asks(&mut programs, "\u{1}\u{2}\u{3}");
    talk.answers(&mut programs, "\u{1}");
    assert_counters(
        &programs,
        &[
            (counter::ADMITTED, 1),
            (counter::TUNNELS, 1),
            (counter::TUNNEL_BYTES, 3),
        ],
    );
    assert_eq!(programs.state(SCOPE).in_flight, 1);
}

#[test]
fn a_refused_upgrade_is_an_ordinary_response() {
    let (mut programs, mut talk) = opened();
    talk.asks(
        &mut programs,
        get("/").replace("\r\n\r\n", "\r\nUpgrade: websocket\r\n\r\n"),
    );
    talk.answers(&mut programs, ok("no"));
    assert_eq!(programs.state(SCOPE).in_flight, 0);
    talk.asks(&mut programs, get("/"));
    assert_counters(&programs, &[(counter::ADMITTED, 2)]);
}

#[test]
fn connect_is_a_tunnel_when_it_succeeds() {
    let connect = format!("CONNECT a:443 HTTP/1.1\r\nX-Api-Key: {KEY}\r\n\r\n");
    let (mut programs, mut talk) = opened();
    programs.configure(|config| config.connect = policy::PASS);
    talk.asks(&mut programs, &connect);
    talk.answers(&mut programs, "HTTP/1.1 200 OK\r\n\r\n");
    assert_eq!(
        programs.flow(&talk.key()).expect("a flow").phase,
        phase::TUNNEL
    );
    drop(programs);

    let (mut programs, mut talk) = opened();
    programs.configure(|config| config.connect = policy::PASS);
    talk.asks(&mut programs, &connect);
    talk.answers(
        &mut programs,
        "HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\n",
    );
    assert_eq!(programs.state(SCOPE).in_flight, 0);
    talk.asks(&mut programs, get("/"));
    assert_counters(&programs, &[(counter::ADMITTED, 2)]);
}

#[test]
fn a_response_that_cannot_be_followed_holds_its_slot_until_the_end() {
    for response in [
        "SSH-2.0-OpenSSH_9.2\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
    ] {
        let (mut programs, mut talk) = opened();
        talk.asks(&mut programs, get("/"));
        talk.answers(&mut programs, response);
        talk.answers(&mut programs, ok("hello"));
        assert_eq!(programs.state(SCOPE).in_flight, 1, "{response:?}");
        let flow = programs.flow(&talk.key()).expect("a flow");
        if flow.flags & FLOW_RESPONSE_LOST != 0 {
            assert_eq!(programs.counter(counter::RESPONSE_LOST), 1, "{response:?}");
        }
        let end = talk.server(b"").with_flags(FIN | ACK);
        talk.run(&mut programs, false, &end);
        assert_eq!(programs.state(SCOPE).in_flight, 0, "{response:?}");
    }
}
