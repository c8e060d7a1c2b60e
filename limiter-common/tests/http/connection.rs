// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests whether a connection can go on after a refused request, which depends on the version and
//! on the fields `Connection` and `Expect`.

use crate::drive::{Direction, rules};

/// Returns whether each request in `input` keeps its connection, and asserts that the results are
/// the same in one segment, in segments of one byte, and in two segments that are cut at any place.
#[track_caller]
fn kept(input: &str) -> Vec<bool> {
    let all = |cuts: &[usize]| -> Vec<bool> {
        let mut direction = Direction::requests(rules());
        direction.cut(input.as_bytes(), cuts);
        direction.kept
    };
    let whole = all(&[]);
    for cut in 1..input.len() {
        assert_eq!(all(&[cut]), whole, "{input:?} cut at {cut}");
    }
    let each: Vec<usize> = (0..input.len()).collect();
    assert_eq!(all(&each), whole, "{input:?} by byte");
    whole
}

#[test]
fn a_connection_is_kept_unless_the_request_forbids_it() {
    let long = "a, ".repeat(100);
    for (version, fields, expected) in [
        ("1.1", "Accept: */*", true),
        ("1.1", "Connection: keep-alive", true),
        ("1.1", "connection:Keep-Alive  ", true),
        ("1.1", "Connection:", true),
        ("1.1", "Connection: TE", true),
        ("1.1", "Connection: Upgrade, HTTP2-Settings", true),
        ("1.1", "Connection: disclose, unclosed, in-close", true),
        ("1.1", "X-Connection: close", true),
        ("1.1", "Connection: close", false),
        ("1.1", "CONNECTION:CLOSE", false),
        ("1.1", "Connection: \t close \t", false),
        ("1.1", "Connection: TE, close", false),
        ("1.1", "Connection: TE,Close,x", false),
        ("1.1", "Connection: keep-alive, close", false),
        ("1.1", "Connection: keep-alive\r\nConnection: close", false),
        ("1.1", "Connection: close\r\nConnection: keep-alive", false),
        // The options that are not read might be anything.
        ("1.1", &format!("Connection: {long}"), false),
        ("1.1", "Expect: 100-continue", false),
        ("1.1", "expect: something", false),
        ("1.0", "Accept: */*", false),
        ("1.0", "Connection: keep-alive", true),
        ("1.0", "Connection: Keep-Alive", true),
        ("1.0", "Connection: keep-alive, close", false),
        ("1.0", "Connection: TE, keep-alive", false),
        (
            "1.0",
            "Connection: keep-alive\r\nExpect: 100-continue",
            false,
        ),
    ] {
        let input = format!("GET / HTTP/{version}\r\n{fields}\r\nX-Api-Key: k\r\n\r\n");
        assert_eq!(kept(&input), [expected], "HTTP/{version} {fields:?}");
    }
}

#[test]
fn each_request_is_seen_alone() {
    let close = "GET / HTTP/1.1\r\nConnection: close\r\n\r\n";
    let keep = "GET / HTTP/1.1\r\n\r\n";
    assert_eq!(kept(&[keep, close, keep].concat()), [true, false, true]);
}
