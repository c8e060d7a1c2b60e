// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests the demands of requests: whether a request asks for a tunnel or for another kind of HTTP,
//! or is a CORS preflight.

use limiter_common::http::{
    ASKS_HTTP, ASKS_TUNNEL, METHOD_CONNECT, METHOD_CONNECT_LIKE, METHOD_HEAD, METHOD_OPTIONS,
    METHOD_OTHER, TAKEN_OUT,
};

use crate::drive::{Direction, rules};

/// The bit that [`limiter_common::http::demands`] sets for a preflight. It is private in the
/// library.
const PREFLIGHT: u32 = 32;

/// Returns the demands of each request in `input`, and asserts that they are the same in one
/// segment, in segments of one byte, and in two segments that are cut at any place.
#[track_caller]
fn demands(input: &str) -> Vec<u32> {
    let all = |cuts: &[usize]| -> Vec<u32> {
        let mut direction = Direction::requests(rules().with_preflights());
        direction.cut(input.as_bytes(), cuts);
        direction
            .head_demands
            .iter()
            .map(|(demands, _)| *demands)
            .collect()
    };
    let whole = all(&[]);
    for cut in 1..input.len() {
        assert_eq!(all(&[cut]), whole, "{input:?} cut at {cut}");
    }
    let each: Vec<usize> = (0..input.len()).collect();
    assert_eq!(all(&each), whole, "{input:?} by byte");
    whole
}

fn with(start: &str, fields: &str) -> String {
    format!("{start} HTTP/1.1\r\n{fields}\r\nX-Api-Key: k\r\n\r\n")
}

#[test]
fn upgrades_are_classified_by_their_protocols() {
    for (field, expected) in [
        ("Upgrade: websocket", ASKS_TUNNEL),
        ("uPGRADE:WebSocket", ASKS_TUNNEL),
        ("Upgrade: \t websocket \t", ASKS_TUNNEL),
        ("Upgrade: foo/1, bar", ASKS_TUNNEL),
        ("Upgrade:", 0),
        ("Upgrade: ,, ,", 0),
        ("Upgrade: h2c", ASKS_HTTP),
        ("Upgrade:H2C", ASKS_HTTP),
        ("Upgrade: h2c-16", ASKS_HTTP),
        ("Upgrade: h2", ASKS_HTTP),
        ("Upgrade: HTTP/2.0", ASKS_HTTP),
        ("Upgrade: hTTp/3", ASKS_HTTP),
        ("Upgrade: TLS/1.0", ASKS_HTTP),
        ("Upgrade:  ,h2c ,", ASKS_HTTP),
        ("Upgrade: TLS/1.2, HTTP/1.1", ASKS_HTTP),
        ("Upgrade: h2c, websocket", ASKS_HTTP | ASKS_TUNNEL),
        ("Upgrade: websocket,h2c", ASKS_HTTP | ASKS_TUNNEL),
        ("Upgrade: xh2c", ASKS_HTTP | ASKS_TUNNEL),
        (
            "Upgrade: websocket\r\nUpgrade: h2c",
            ASKS_HTTP | ASKS_TUNNEL,
        ),
        ("Upgrade: h2c\r\nUpgrade: h2c", ASKS_HTTP),
        // The name `-2c` remains after the offer of `h2c` has been removed, and is no longer
        // recognised as an offer.
        ("Upgrade: -2c", 0),
        ("Upgrade: -2c, websocket", ASKS_TUNNEL),
        ("Upgrade-Insecure-Requests: 1", 0),
        ("Upgrad: websocket", 0),
        ("Connection: upgrade", 0),
    ] {
        assert_eq!(
            demands(&with("GET /", field)),
            [METHOD_OTHER | expected],
            "{field:?}"
        );
        let head = METHOD_HEAD | expected & ASKS_HTTP;
        assert_eq!(demands(&with("HEAD /", field)), [head], "HEAD: {field:?}");
    }
    // HTTP/1.0 does not allow a change of protocol, but some servers may change to another kind of
    // HTTP nevertheless.
    let old = with("GET /", "Upgrade: websocket, h2c").replace("1.1", "1.0");
    assert_eq!(demands(&old), [ASKS_HTTP]);
    // The demands of a request do not carry over to the next request, and a trailer makes no
    // demands.
    let post =
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nUpgrade: websocket\r\n\r\n";
    let all =
        with("GET /", "Upgrade: h2c") + &with("GET /", "A: b") + post + &with("GET /", "A: b");
    assert_eq!(demands(&all), [ASKS_HTTP, 0, 0, 0]);
}

#[test]
fn upgrades_that_are_too_long_are_refused() {
    let long = with("GET /", &format!("Upgrade: {}h2c", "a,".repeat(150)));
    assert_eq!(demands(&long), [] as [u32; 0]);
}

#[test]
fn methods_are_distinguished() {
    for (start, expected) in [
        ("CONNECT a:1", METHOD_CONNECT | ASKS_TUNNEL),
        ("CONNECT http://a/", METHOD_CONNECT | ASKS_TUNNEL),
        ("connect a:1", METHOD_CONNECT_LIKE),
        ("ConnecT a:1", METHOD_CONNECT_LIKE),
        ("CONNECTS a:1", METHOD_OTHER),
        ("XCONNECT a:1", METHOD_OTHER),
        ("OPTIONS /", METHOD_OPTIONS),
        ("options /", METHOD_OTHER),
        ("get /", METHOD_OTHER),
    ] {
        assert_eq!(demands(&with(start, "A: b")), [expected], "{start}");
    }
    for method in ["CONNECT", "connect", "Connect"] {
        let body = with(&format!("{method} a:1"), "Content-Length: 5");
        assert_eq!(demands(&body), [] as [u32; 0], "{method} with a body");
    }
}

#[test]
fn preflights_are_options_with_both_fields_and_nothing_else() {
    let both = "Origin: https://a\r\nAccess-Control-Request-Method: PUT";
    for (start, fields, expected) in [
        ("OPTIONS /", both.to_owned(), true),
        ("OPTIONS *", both.to_lowercase(), true),
        ("OPTIONS /", format!("{both}\r\nContent-Length: 0"), true),
        ("GET /", both.to_owned(), false),
        ("options /", both.to_owned(), false),
        ("OPTIONSX /", both.to_owned(), false),
        ("OPTIONS /", "Origin: https://a".to_owned(), false),
        (
            "OPTIONS /",
            "Access-Control-Request-Method: PUT".to_owned(),
            false,
        ),
        ("OPTIONS /", both.replace('-', "_"), false),
        ("OPTIONS /", both.replace("Method", "Methods"), false),
        ("OPTIONS /", format!("{both}\r\nContent-Length: 1"), false),
        (
            "OPTIONS /",
            format!("{both}\r\nTransfer-Encoding: chunked"),
            false,
        ),
        ("OPTIONS /", format!("{both}\r\nUpgrade: websocket"), false),
        ("OPTIONS /", format!("{both}\r\nUpgrade: h2c"), false),
    ] {
        let seen = demands(&with(start, &fields));
        assert_eq!(seen.len(), 1, "{start} {fields:?}");
        assert_eq!(seen[0] & PREFLIGHT != 0, expected, "{start} {fields:?}");
    }
}

#[test]
fn an_offer_is_reported_where_it_can_be_removed() {
    for (fields, offer) in [
        ("Upgrade: h2c", Some("h2c")),
        ("Upgrade: websocket, HTTP/2.0", Some("HTTP")),
        ("Upgrade: websocket\r\nUpgrade: h2c", Some("h2c")),
        ("Upgrade: xh2c", Some("h2c")),
        ("Upgrade: h2c, h2c", None),
        ("Upgrade: websocket", None),
    ] {
        let input = with("GET /", fields);
        let expected = offer.map(|offer| input.rfind(offer).expect("it is there"));
        for cut in 0..input.len() {
            let mut direction = Direction::requests(rules());
            direction.cut(input.as_bytes(), &[cut]);
            let here = expected.filter(|at| *at >= cut);
            let seen = direction.head_demands[0].1;
            assert_eq!(seen, here.map(|at| at as u64), "{fields:?} cut at {cut}");
        }
        let Some(at) = expected else { continue };
        // Once the offer has been removed, the request demands no other kind of HTTP.
        let mut taken = input.into_bytes();
        taken[at] = TAKEN_OUT;
        let mut direction = Direction::requests(rules());
        direction.cut(&taken, &[]);
        assert_eq!(direction.head_demands[0].0 & ASKS_HTTP, 0, "{fields:?}");
        assert_eq!(direction.head_demands[0].1, None, "{fields:?}");
    }
}
