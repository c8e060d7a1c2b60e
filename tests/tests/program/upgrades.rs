// SPDX-License-Identifier: MIT OR Apache-2.0

//! Requests that could make it impossible to inspect a connection: CONNECT requests and requests
//! with `Upgrade`.

use limiter_common::abi::{counter, phase, policy};
use limiter_tests::program::{Programs, RST, RunResult, Talk, Verdict};

use crate::support::{KEY, SCOPE, assert_counters, assert_nothing_held, get, ok, opened};

/// Returns a request with `KEY` and the additional field lines `fields`.
pub fn with(fields: &str) -> String {
    get("/").replace("\r\n\r\n", &format!("\r\n{fields}\r\n\r\n"))
}

/// Returns a response that switches to a protocol.
pub fn switch(protocol: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n"
    )
}

/// The offer that Java's HttpClient, curl and nghttp make.
pub const H2C: &str =
    "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA";

const WEBSOCKET: &str = "Connection: Upgrade\r\nUpgrade: websocket";

#[track_caller]
pub fn in_phase(programs: &Programs, talk: &Talk) -> u32 {
    programs.flow(&talk.key()).expect("a flow").phase
}

/// Asserts that the request was answered with this status.
#[track_caller]
fn assert_refused(ran: &RunResult, status: &str) {
    let text = ran.answer().text();
    assert_eq!(text.split(' ').nth(1), Some(status), "{text}");
}

/// Asserts that both sides were reset.
#[track_caller]
pub fn assert_reset(ran: &RunResult) {
    assert_eq!(ran.verdict, Verdict::Pass);
    assert_eq!(
        (ran.decoded().flags & RST, ran.answer().flags & RST),
        (RST, RST)
    );
}

#[test]
fn connect_is_refused_in_every_form() {
    let key = format!("X-Api-Key: {KEY}\r\n\r\n");
    for request in [
        format!("CONNECT a:443 HTTP/1.1\r\n{key}"),
        format!("CONNECT http://a/ HTTP/1.1\r\n{key}"),
        format!("CONNECT / HTTP/1.0\r\n{key}"),
        format!("connect a:443 HTTP/1.1\r\n{key}"),
        format!("Connect a:443 HTTP/1.1\r\n{WEBSOCKET}\r\n{key}"),
        format!("CONNECT a:443 HTTP/1.1\r\n{H2C}\r\n{key}"),
        "CONNECT a:443 HTTP/1.1\r\n\r\n".to_owned(),
        "CONNECT a:443 HTTP/1.1\r\nX-Api-Key: nobody's\r\n\r\n".to_owned(),
    ] {
        let (mut programs, mut talk) = opened();
        programs.configure(|config| {
            config.missing_key = policy::REJECT;
            config.unknown_key = policy::REJECT;
        });
        assert_refused(&talk.ask(&mut programs, &request), "405");
        assert_counters(
            &programs,
            &[(counter::CONNECT_REFUSED, 1), (counter::RESPONSES_SENT, 1)],
        );
        assert_eq!(programs.state(SCOPE).admitted, 0, "{request:?}");
        drop(programs);

        // The CONNECT request is sent in two segments. The server has already received the first
        // one, and therefore gets a reset.
        for cut in [1, 7, 8, 20, request.len() - 1] {
            let (mut programs, mut talk) = opened();
            talk.ask(&mut programs, &request[..cut]);
            talk.acknowledged(&mut programs);
            let ran = talk.ask(&mut programs, &request[cut..]);
            assert_refused(&ran, "405");
            assert_eq!(ran.decoded().flags & RST, RST, "{request:?}");
        }
        // The CONNECT request follows another request in the same segment. Only the other request
        // passes, and the CONNECT request is refused after the response to it.
        let (mut programs, mut talk) = opened();
        let ran = talk.ask(&mut programs, get("/") + &request);
        assert_eq!(ran.decoded().payload, get("/").as_bytes(), "{request:?}");
        let ran = talk.ask(&mut programs, &request);
        assert_eq!(ran.verdict, Verdict::Drop, "{request:?}");
        talk.answers(&mut programs, ok("hello"));
        assert_refused(&talk.ask(&mut programs, &request), "405");
        assert_eq!(programs.state(SCOPE).admitted, 1, "{request:?}");
        assert_nothing_held(&programs);
    }
    let (mut programs, mut talk) = opened();
    let body = format!("connect a:443 HTTP/1.1\r\nContent-Length: 3\r\n{key}abc");
    assert_refused(&talk.ask(&mut programs, &body), "400");
}

#[test]
fn observe_mode_passes_connect_and_changes_nothing() {
    let (mut programs, mut talk) = opened();
    programs.configure(|config| config.observe = 1);
    talk.asks(&mut programs, with(H2C));
    talk.answers(&mut programs, ok("hello"));
    // In this mode, a request passes even while an earlier request for an upgrade has no response.
    talk.asks(&mut programs, with(WEBSOCKET));
    talk.asks(&mut programs, get("/"));
    talk.answers(&mut programs, ok("a") + &ok("b"));
    let connect = format!("CONNECT a:1 HTTP/1.1\r\nX-Api-Key: {KEY}\r\n\r\n");
    talk.asks(&mut programs, connect);
    talk.answers(&mut programs, "HTTP/1.1 200 OK\r\n\r\n");
    assert_eq!(in_phase(&programs, &talk), phase::TUNNEL);
    assert_counters(&programs, &[(counter::ADMITTED, 4), (counter::TUNNELS, 1)]);
    drop(programs);

    let (mut programs, mut talk) = opened();
    programs.configure(|config| config.observe = 1);
    talk.asks(&mut programs, with(H2C));
    talk.answers(&mut programs, switch("h2c"));
    assert_eq!(in_phase(&programs, &talk), phase::TUNNEL);
    assert_counters(
        &programs,
        &[
            (counter::ADMITTED, 1),
            (counter::HTTP2, 1),
            (counter::TUNNELS, 1),
        ],
    );
}

#[test]
fn lower_case_connect_is_never_a_tunnel() {
    let (mut programs, mut talk) = opened();
    programs.configure(|config| config.connect = policy::PASS);
    talk.asks(
        &mut programs,
        format!("connect a:1 HTTP/1.1\r\nX-Api-Key: {KEY}\r\n\r\n"),
    );
    talk.answers(&mut programs, ok(""));
    assert_eq!(in_phase(&programs, &talk), phase::HTTP);
    talk.asks(&mut programs, get("/"));
    assert_counters(&programs, &[(counter::ADMITTED, 2)]);
}

#[test]
fn status_101_begins_no_tunnel_without_an_upgrade_request() {
    let head = |fields: &str| with(fields).replace("GET", "HEAD");
    for (request, answer) in [
        (get("/"), switch("websocket")),
        (get("/"), switch("h2c")),
        (with("Connection: Upgrade"), switch("websocket")),
        (with("Upgrade:"), switch("websocket")),
        (head(WEBSOCKET), switch("websocket")),
        (
            with(WEBSOCKET).replace("HTTP/1.1", "HTTP/1.0"),
            switch("websocket"),
        ),
        (
            with(WEBSOCKET),
            "HTTP/1.1 101 Switching Protocols\r\n\r\n".to_owned(),
        ),
        (
            with(WEBSOCKET),
            "HTTP/1.1 101 X\r\nConnection: Upgrade\r\n\r\n".to_owned(),
        ),
    ] {
        let (mut programs, mut talk) = opened();
        talk.asks(&mut programs, &request);
        talk.answers(&mut programs, &answer);
        assert_eq!(
            in_phase(&programs, &talk),
            phase::HTTP,
            "{request:?} {answer:?}"
        );
        assert_eq!(programs.state(SCOPE).in_flight, 1);
        let last = if request.starts_with("HEAD") {
            ""
        } else {
            "hello"
        };
        talk.answers(&mut programs, ok(last));
        assert_eq!(programs.state(SCOPE).in_flight, 0, "{request:?} {answer:?}");
        talk.asks(&mut programs, get("/"));
        assert_eq!(programs.state(SCOPE).admitted, 2);
        assert_eq!(programs.counter(counter::TUNNELS), 0);
    }
}

#[test]
fn status_101_in_the_body_of_a_bodiless_response_begins_no_tunnel() {
    let head = get("/").replace("GET", "HEAD");
    let long = switch("websocket");
    let declared = format!("Content-Length: {}\r\n\r\n", long.len());
    // These responses have no body, whatever their heads declare. The server sends a body
    // nevertheless.
    for (request, answer) in [
        (head.clone(), format!("HTTP/1.1 200 OK\r\n{declared}")),
        (
            head,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
        ),
        (get("/"), format!("HTTP/1.1 204 No\r\n{declared}")),
        (get("/"), "HTTP/1.1 304 No\r\n\r\n".to_owned()),
    ] {
        // The body arrives together with the head, or after the head, or after the next request has
        // passed.
        for (together, asked_before) in [(true, false), (false, false), (false, true)] {
            let (mut programs, mut talk) = opened();
            talk.asks(&mut programs, &request);
            if together {
                talk.answers(&mut programs, answer.clone() + &long);
            } else {
                talk.answers(&mut programs, &answer);
                if asked_before {
                    talk.asks(&mut programs, get("/"));
                }
                talk.answers(&mut programs, &long);
            }
            assert_eq!(in_phase(&programs, &talk), phase::HTTP, "{answer:?}");
            // From here on, the programs must not allow an upgrade, because more bytes of that body
            // could be mistaken for the response to the upgrade request.
            if asked_before {
                talk.answers(&mut programs, ok("a"));
            }
            assert_reset(&talk.ask(&mut programs, with(WEBSOCKET)));
            let admitted = 1 + u64::from(asked_before);
            assert_eq!(programs.state(SCOPE).admitted, admitted, "{answer:?}");
            assert_eq!(programs.counter(counter::UPGRADES_RESET), 1);
            assert_eq!(programs.counter(counter::TUNNELS), 0);
            assert_nothing_held(&programs);
        }
    }
    // Nor do the programs allow an upgrade after a response that arrives before any request, or
    // after a response that is longer than its declared length.
    for beyond in [false, true] {
        let (mut programs, mut talk) = opened();
        if beyond {
            talk.asks(&mut programs, get("/"));
            talk.answers(&mut programs, ok("hello") + "more");
        } else {
            talk.answers(&mut programs, ok("hello"));
        }
        assert_reset(&talk.ask(&mut programs, with(WEBSOCKET)));
    }
    // A connection on which no such response has arrived can become a tunnel.
    let (mut programs, mut talk) = opened();
    talk.asks(&mut programs, get("/"));
    talk.answers(&mut programs, ok("hello"));
    talk.asks(&mut programs, with(WEBSOCKET));
    talk.answers(&mut programs, switch("websocket"));
    assert_eq!(in_phase(&programs, &talk), phase::TUNNEL);
}

#[test]
fn upgrade_request_passes_only_without_other_outstanding_requests() {
    // In the first case, the request for a tunnel follows another request.
    let (mut programs, mut talk) = opened();
    let ran = talk.ask(&mut programs, get("/") + &with(WEBSOCKET));
    assert_eq!(ran.decoded().payload, get("/").as_bytes());
    assert_eq!(
        talk.ask(&mut programs, with(WEBSOCKET)).verdict,
        Verdict::Drop
    );
    talk.answers(&mut programs, ok("HTTP/1.1 101 no\r\n\r\n"));
    // In the second case, the request for a tunnel precedes another request.
    let ran = talk.ask(&mut programs, with(WEBSOCKET) + &get("/"));
    assert_eq!(ran.decoded().payload, with(WEBSOCKET).as_bytes());
    for behind in [get("/"), "\u{1}\u{2}\r\n\r\n".to_owned()] {
        assert_eq!(talk.ask(&mut programs, behind).verdict, Verdict::Drop);
    }
    assert_eq!(programs.state(SCOPE).admitted, 2);
    let refused = programs.counter(counter::MALFORMED_REFUSED);
    assert_eq!(refused, 0, "what may be no HTTP is not judged as such");
    talk.answers(&mut programs, switch("websocket"));
    talk.asks(&mut programs, "\u{1}\u{2}\r\n\r\n");
    assert_eq!(programs.counter(counter::TUNNEL_BYTES), 6);
    drop(programs);

    // If the server does not switch, the bytes that follow the request for a tunnel are treated as
    // a normal request.
    let (mut programs, mut talk) = opened();
    let ran = talk.ask(&mut programs, with(WEBSOCKET) + &get("/"));
    assert_eq!(ran.decoded().payload, with(WEBSOCKET).as_bytes());
    talk.answers(&mut programs, ok("no"));
    talk.asks(&mut programs, get("/") + &get("/"));
    talk.answers(&mut programs, ok("a") + &ok("b"));
    assert_refused(&talk.ask(&mut programs, "\u{1}\u{2}\r\n\r\n"), "400");
    assert_nothing_held(&programs);
}

#[test]
fn preflights_need_no_key_and_are_not_charged() {
    let preflight = "OPTIONS /a HTTP/1.1\r\nHost: a\r\nOrigin: https://b\r\n\
                     Access-Control-Request-Method: PUT\r\n\
                     Access-Control-Request-Headers: x-api-key\r\n\r\n";
    let look = |programs: &mut Programs| {
        programs.configure(|config| {
            config.missing_key = policy::REJECT;
            config.request_rules = config.request_rules.with_preflights();
        });
    };
    let (mut programs, mut talk) = opened();
    look(&mut programs);
    talk.asks(&mut programs, preflight);
    talk.answers(&mut programs, "HTTP/1.1 204 No Content\r\n\r\n");
    assert_counters(&programs, &[(counter::PREFLIGHTS, 1)]);
    // A preflight with a key is a normal request. A request that only resembles a preflight is
    // treated as a request without a key.
    let keyed = preflight.replace("\r\n\r\n", &format!("\r\nX-Api-Key: {KEY}\r\n\r\n"));
    talk.asks(&mut programs, &keyed);
    talk.answers(&mut programs, "HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(programs.state(SCOPE).admitted, 1);
    let upgrade = preflight.replace("\r\n\r\n", &format!("\r\n{WEBSOCKET}\r\n\r\n"));
    for other in [
        preflight.replace("Origin", "Origim"),
        preflight.replace("Request-Method", "Request_Method"),
        preflight.replace("OPTIONS", "GET"),
        preflight.replace("\r\n\r\n", "\r\nContent-Length: 1\r\n\r\nx"),
        upgrade,
    ] {
        let mut talk = crate::support::another(&mut programs, 50_000);
        assert_refused(&talk.ask(&mut programs, &other), "401");
    }
    assert_eq!(programs.counter(counter::PREFLIGHTS), 1);
    drop(programs);

    // A request that would be refused does not pass in place of the preflight.
    let (mut programs, mut talk) = opened();
    look(&mut programs);
    talk.asks(&mut programs, preflight);
    let other = preflight.replace("OPTIONS", "GETTING");
    let segment = talk.client_at(0, other.as_bytes());
    assert_eq!(
        talk.run(&mut programs, true, &segment).verdict,
        Verdict::Drop
    );
    assert_counters(
        &programs,
        &[(counter::PREFLIGHTS, 1), (counter::CONFLICT_DROPPED, 1)],
    );
    drop(programs);

    // Without the rule for preflights, a preflight is treated as a request without a key.
    let (mut programs, mut talk) = opened();
    programs.configure(|config| config.missing_key = policy::REJECT);
    assert_refused(&talk.ask(&mut programs, preflight), "401");
}
