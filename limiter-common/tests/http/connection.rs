// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests whether a connection can go on after a refused request, which depends on the version and
//! on the fields `Connection` and `Expect`.

use limiter_common::http::{CONNECTION_WORDS, Persistence, keeps_open};

use crate::drive::{Direction, rules};

/// Returns whether each request in `input` keeps its connection. Asserts that the client's
/// intention is the same, or unknown, if the input comes in segments of one byte, or in two
/// segments that are cut at any place. (The kernel programs close the connection after such a
/// request anyway.)
#[track_caller]
fn kept(input: &str) -> Vec<bool> {
    let all = |cuts: &[usize]| -> Vec<(Persistence, u64)> {
        let mut direction = Direction::requests(rules());
        direction.cut(input.as_bytes(), cuts);
        direction.persistence
    };
    let intentions = |cuts: &[usize]| -> Vec<Persistence> {
        let seen = all(cuts).into_iter();
        seen.map(|(persistence, _)| persistence).collect()
    };
    let whole = intentions(&[]);
    let each: Vec<usize> = (0..input.len()).collect();
    for cuts in (1..input.len()).map(|cut| vec![cut]).chain([each]) {
        for (split, whole) in intentions(&cuts).into_iter().zip(&whole) {
            assert!(
                split == *whole || split == Persistence::Unknown,
                "{input:?} cut at {cuts:?}"
            );
        }
    }
    let seen = all(&[]).into_iter();
    seen.map(|(persistence, at)| match persistence {
        Persistence::Keeps => true,
        Persistence::Unknown => false,
        Persistence::Asks => {
            let value = &input.as_bytes()[usize::try_from(at).expect("an offset")..];
            let mut bytes = [0; CONNECTION_WORDS * 8];
            let len = value.len().min(bytes.len());
            bytes[..len].copy_from_slice(&value[..len]);
            let (words, _) = bytes.as_chunks::<8>();
            let words = std::array::from_fn(|word| u64::from_le_bytes(words[word]));
            let minor = u32::from(input.contains("HTTP/1.1"));
            keeps_open(&words, minor)
        }
    })
    .collect()
}

#[test]
fn a_connection_is_kept_unless_the_request_forbids_it() {
    let long = "a, ".repeat(100);
    for (version, fields, expected) in [
        ("1.1", "Accept: */*", true),
        ("1.1", "Connection: keep-alive", true),
        ("1.1", "connection:Keep-Alive", true),
        ("1.1", "CONNECTION: KEEP-ALIVE", true),
        ("1.1", "X-Connection: close", true),
        ("1.1", "Connections: close", true),
        ("1.1", "Connection: close", false),
        ("1.1", "Connection: TE, close", false),
        ("1.1", "Connection: keep-alive, close", false),
        ("1.1", "Connection: keep-alive\r\nConnection: close", false),
        ("1.1", "Connection: close\r\nConnection: keep-alive", false),
        (
            "1.1",
            "Connection: keep-alive\r\nX: y\r\nConnection: keep-alive",
            false,
        ),
        ("1.1", "Connection:", true),
        ("1.1", "Connection: TE", true),
        ("1.1", "Connection: Upgrade, HTTP2-Settings", true),
        ("1.1", "Connection: keep-alive, Upgrade", true),
        ("1.1", "Connection:  CLOSE", false),
        ("1.1", "Connection: Upgrade, HTTP2-Settings, Close", false),
        // If in doubt, the connection is closed.
        ("1.1", "Connection: disclose", false),
        ("1.1", "Connection: TE\r\nX: close", false),
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
