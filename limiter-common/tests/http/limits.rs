// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests the limits with values on both sides of each limit.

use limiter_common::http::{CARRY, LINES, Rules, UNITS};

use crate::drive::{
    Direction, Event, MAX_HEAD, MAX_LINES, SECRET, SOURCES, base64, key, keys, requests,
};

/// Returns whether `bytes` are refused, and asserts that the events are the same in one segment and
/// in segments of several other sizes.
fn is_refused(bytes: &[u8]) -> bool {
    let whole = requests(bytes);
    for size in [1, 2, 7, 255, 256, 257, 1000, 4096, 4097] {
        let cuts: Vec<usize> = (0..bytes.len()).step_by(size).collect();
        let mut direction = Direction::requests(crate::drive::rules());
        assert_eq!(direction.cut(bytes, &cuts), whole, "segments of {size}");
    }
    match whole[..] {
        [Event::Head { .. }] => false,
        [Event::Malformed] => true,
        _ => panic!("{whole:?}"),
    }
}

/// Returns a request that has a head of `len` bytes in lines of at most `line` bytes.
fn head_of(len: usize, line: usize) -> Vec<u8> {
    let mut head = b"GET / HTTP/1.1\r\n".to_vec();
    while head.len() + 2 < len {
        let line = (len - 2 - head.len()).min(line);
        let line = if len - 2 - head.len() - line < 6 {
            len - 2 - head.len()
        } else {
            line
        };
        head.extend_from_slice(format!("A:{}\r\n", "x".repeat(line - 4)).as_bytes());
    }
    head.extend_from_slice(b"\r\n");
    assert_eq!(head.len(), len);
    head
}

#[test]
fn a_head_may_have_16384_bytes() {
    for line in [160, 1000, 5000, 20_000] {
        assert!(!is_refused(&head_of(MAX_HEAD as usize, line)), "{line}");
        assert!(is_refused(&head_of(MAX_HEAD as usize + 1, line)), "{line}");
        assert!(is_refused(&head_of(100_000, 16_000)));
    }
}

#[test]
fn a_body_does_not_count_as_head() {
    let mut bytes = b"POST / HTTP/1.1\r\nContent-Length: 60000\r\n\r\n".to_vec();
    bytes.resize(bytes.len() + 60_000, b'x');
    bytes.extend(head_of(MAX_HEAD as usize, 900));
    assert_eq!(keys(&requests(&bytes)), [None, None]);
}

#[test]
fn a_head_may_have_128_lines() {
    let head = |lines: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "a:b\r\n".repeat(lines - 1));
    assert!(!is_refused(head(MAX_LINES as usize).as_bytes()));
    assert!(is_refused(head(MAX_LINES as usize + 1).as_bytes()));
    assert!(is_refused(head(1000).as_bytes()));
}

#[test]
fn empty_lines_before_a_request_count_as_lines() {
    let head = |lines: usize| format!("{}GET / HTTP/1.1\r\n\r\n", "\r\n".repeat(lines - 1));
    assert!(!is_refused(head(MAX_LINES as usize).as_bytes()));
    assert!(is_refused(head(MAX_LINES as usize + 1).as_bytes()));
    assert!(is_refused(&vec![b'\n'; 65_000]));
}

#[test]
fn a_value_of_any_length_is_hashed_whole() {
    // These lengths are close to the maximum sizes of a key, the carry, a window and a head.
    let lengths = [
        127, 128, 129, 130, 136, 240, 244, 245, 246, 247, 250, 256, 257, 300, 2000, 4060, 4096,
        4097, 5000, 16_300,
    ];
    for (rank, source) in [
        (1, "X-Api-Key: "),
        (4, "Api-Token:"),
        (2, "Authorization: Bearer "),
    ] {
        for len in lengths {
            let value: String = ('!'..='~').cycle().take(len).collect();
            let head = format!("GET / HTTP/1.1\r\n{source}{value}\r\n\r\n");
            assert!(!is_refused(head.as_bytes()), "{source}{len}");
            assert_eq!(
                keys(&requests(head.as_bytes())),
                [key(rank, &value)],
                "{source}{len}"
            );
        }
        let head = format!("GET / HTTP/1.1\r\n{source}{}\r\n\r\n", "k".repeat(16_400));
        assert!(is_refused(head.as_bytes()), "{source}");
    }
}

#[test]
fn credentials_of_any_length_are_hashed_whole_and_so_are_user_names() {
    // Each pair has the length of the user name in bytes, and the number of times that the password
    // repeats its four bytes. The base64 value is a third longer than the credentials.
    for (user, password) in [
        (0, 0),
        (0, 1),
        (0, 7),
        (1, 0),
        (1, 1),
        (4, 1),
        (5, 0),
        (5, 1),
        (5, 2),
        (6, 6),
        (7, 1),
        (8, 0),
        (8, 9),
        (11, 300),
        (20, 5000),
        (95, 0),
        (127, 9),
        (128, 2),
        (129, 3),
        (200, 0),
        (3000, 1),
        (1, 12_000),
    ] {
        let user: String = ('!'..='~')
            .filter(|&c| c != ':')
            .cycle()
            .take(user)
            .collect();
        let text = format!("{user}:{}", ":\u{0}\u{e4}".repeat(password));
        let value = base64(text.as_bytes());
        let head = format!("GET / HTTP/1.1\r\nAuthorization: Basic {value}\r\n\r\n");
        if value.len() > 16_000 {
            assert!(is_refused(head.as_bytes()));
            continue;
        }
        assert!(!is_refused(head.as_bytes()), "{text}");
        let [Event::Head { keys, .. }] = requests(head.as_bytes())[..] else {
            panic!("{text}: not one request");
        };
        let digest = |rank, value: &str| key(rank, value).map(|(_, digest)| digest);
        assert_eq!(keys[2], digest(3, &value), "{text}");
        let name = digest(5, &user).filter(|_| !user.is_empty());
        assert_eq!(keys[4], name, "{text}");
    }
}

#[test]
fn keys_of_every_length_are_hashed_whole() {
    for len in 1..=128 {
        let value: String = ('!'..='~').cycle().take(len).collect();
        let head = format!("GET / HTTP/1.1\r\nX-Api-Key: {value}\r\n\r\n");
        assert_eq!(keys(&requests(head.as_bytes())), [key(1, &value)], "{len}");
    }
}

#[test]
fn a_line_that_matters_may_have_256_bytes_before_it_ends_or_a_key_begins() {
    // The length `len` excludes the line feed.
    for (name, value, is_key) in [
        ("X-Api-Key:", "k", true),
        ("Content-Length:", "0", false),
        ("Authorization:", "Bearer k", true),
    ] {
        let head = |len: usize, end: &str| {
            let space = " ".repeat(len - name.len() - value.len() - end.len() + 1);
            format!("GET / HTTP/1.1\r\n{name}{space}{value}{end}\r\n")
        };
        for end in ["\r\n", "\n"] {
            assert!(!is_refused(head(CARRY, end).as_bytes()), "{name}");
            // The first byte of a key must be within the limit, but the end of its line need not
            // be.
            let most = CARRY + if is_key { end.len() - 1 } else { 0 };
            assert!(!is_refused(head(most, end).as_bytes()), "{name}");
            assert!(is_refused(head(most + 1, end).as_bytes()), "{name}");
        }
    }
}

#[test]
fn other_lines_may_be_as_long_as_the_head() {
    for len in [250, 255, 256, 257, 300, 4090, 4100, 16_000] {
        let bytes = format!(
            "GET / HTTP/1.1\r\nCookie: {}\r\nX-Api-Key: k\r\n\r\n",
            "c".repeat(len)
        );
        assert!(!is_refused(bytes.as_bytes()), "{len}");
        let bytes = format!("GET /{} HTTP/1.1\r\nX-Api-Key: k\r\n\r\n", "c".repeat(len));
        assert!(!is_refused(bytes.as_bytes()), "{len}");
        let bytes = format!("GET /{} HTTP/1.3\r\nX-Api-Key: k\r\n\r\n", "c".repeat(len));
        assert!(is_refused(bytes.as_bytes()), "{len}");
        let bytes = format!("GET /{}\r\nX-Api-Key: k\r\n\r\n", "c".repeat(len));
        assert!(is_refused(bytes.as_bytes()), "{len}");
    }
}

#[test]
fn the_method_of_a_long_request_line_is_kept() {
    let bytes = format!("HEAD /{} HTTP/1.0\r\n\r\n", "c".repeat(5000));
    for size in [1, 100, 5000, 10_000] {
        let mut direction = Direction::requests(crate::drive::rules());
        let cuts: Vec<usize> = (0..bytes.len()).step_by(size).collect();
        let seen = direction.cut(bytes.as_bytes(), &cuts);
        assert!(
            matches!(seen, [Event::Head { method: 1, .. }]),
            "{size}: {seen:?}"
        );
    }
}

#[test]
fn limits_of_their_own_are_kept() {
    let rules = Rules::request(&SOURCES, SECRET, 60, 3).unwrap();
    let seen = |bytes: &str| {
        Direction::requests(rules)
            .cut(bytes.as_bytes(), &[])
            .to_vec()
    };
    assert!(matches!(
        seen("GET / HTTP/1.1\r\nA: b\r\nC: d\r\n\r\n")[..],
        [Event::Head { .. }]
    ));
    assert_eq!(
        seen("GET / HTTP/1.1\r\nA: b\r\nC: d\r\nE: f\r\n\r\n"),
        [Event::Malformed]
    );
    assert_eq!(
        seen(&format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "b".repeat(60))),
        [Event::Malformed]
    );
}

#[test]
fn the_worst_segments_stay_within_the_bounds() {
    // The test driver panics if it reaches the bound of lines. If it reaches the bound of units, it
    // continues with the rest of the segment.
    assert!(LINES as usize >= 3 * (4096 + CARRY) && UNITS >= 2 * (17 + 113 + 100));
    let key = |spaces: usize| format!("X-Api-Key:{0}k{0}\r\n", " ".repeat(spaces));
    let request = |fields: &str| format!("GET / HTTP/1.1\r\n{fields}\r\n");
    for (name, bytes, heads) in [
        ("blanks to trim", request(&key(120).repeat(60)).repeat(4), 4),
        (
            "blanks behind a key",
            request(&format!("X-Api-Key:k{}\r\n", "\t ".repeat(125)).repeat(60)).repeat(4),
            4,
        ),
        (
            "credentials",
            request(&"Authorization:Basic YTpi\n".repeat(127)).repeat(20),
            20,
        ),
        (
            "a long key",
            request(&format!("X-Api-Key:{}\r\n", "k".repeat(16_000))).repeat(4),
            4,
        ),
        (
            "tabs",
            request(&format!("A:{}\r\n", "\t".repeat(16_000))).repeat(4),
            4,
        ),
        (
            "bytes above 0x9f",
            request(&format!("A:{}\r\n", "\u{ff}".repeat(8000))).repeat(4),
            4,
        ),
        ("short lines", request(&"a:\n".repeat(127)).repeat(150), 150),
        (
            "digits",
            request(&format!("Content-Length:{}\n", "0".repeat(241))).repeat(230),
            230,
        ),
        ("requests", "A / HTTP/1.1\n\n".repeat(4600), 4600),
        (
            "long names",
            request(&format!("{}:\r\n", "n".repeat(16_000))).repeat(4),
            4,
        ),
    ] {
        assert!(bytes.len() < 65_536, "{name}");
        assert_eq!(keys(&requests(bytes.as_bytes())).len(), heads, "{name}");
    }
}
