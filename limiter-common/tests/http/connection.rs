// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests whether a connection can go on after a refused request, which depends on the version and
//! on the fields `Connection` and `Expect`.

use limiter_common::http::{KEEP_ALIVE_LEN, Persistence, is_keep_alive};

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
            let value: &[u8; KEEP_ALIVE_LEN] = value.first_chunk().expect("a field");
            let (words, _) = value.as_chunks::<4>();
            is_keep_alive([0, 1, 2].map(|word| u32::from_le_bytes(words[word])))
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
        // Any other value may contain the option `close`.
        ("1.1", "Connection:", false),
        ("1.1", "Connection: TE", false),
        ("1.1", "Connection:  keep-alive", false),
        ("1.1", "Connection: keep-aliver", false),
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
