// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests the results of a segment other than its events, for example the ranges of its framing and
//! the number of bytes that may be skipped.

use crate::drive::{Direction, Event, base64, keys, rules};

#[test]
fn a_position_of_zeros_is_before_the_first_message() {
    // A position in a map consists of zeros before it is used.
    let direction = Direction::requests(rules());
    assert!(direction.progress.is_idle() && !direction.progress.is_unfinished());
    assert!(!direction.progress.has_begun());
}

#[test]
fn bodies_are_not_framing() {
    let head = b"POST / HTTP/1.1\r\nContent-Length: 9000\r\n\r\n";
    let mut direction = Direction::requests(rules());
    direction.segment(head);
    direction.segment(&[b'x'; 5000]);
    direction.segment(&[b'x'; 4000]);
    direction.segment(b"GET / HTTP/1.1\r\n\r\n");
    let end = head.len() as u64;
    assert_eq!(direction.framing, [(0, end), (end + 9000, end + 9018)]);
}

#[test]
fn a_body_behind_a_head_is_not_framing() {
    let head = b"POST / HTTP/1.1\r\nContent-Length: 9000\r\n\r\n";
    let mut bytes = head.to_vec();
    bytes.resize(head.len() + 5000, b'x');
    let mut direction = Direction::requests(rules());
    direction.segment(&bytes);
    assert_eq!(direction.framing, [(0, head.len() as u64)]);
}

#[test]
fn framing_of_chunks_is_reported_without_the_data_around_it() {
    let mut direction = Direction::requests(rules());
    direction.segment(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
    let start = 47;
    assert_eq!(direction.framing, [(0, start)]);
    // This segment has the size of a chunk and the first part of its data.
    direction.segment(format!("1f40\r\n{}", "x".repeat(3000)).as_bytes());
    assert_eq!(direction.framing[1..], [(start, start + 6)]);
    // This segment has only data.
    direction.segment(&[b'x'; 3000]);
    assert_eq!(direction.framing.len(), 2);
    // This segment has the rest of the data, the size of the next chunk, and some data.
    direction.segment(format!("{}\r\n2\r\na", "x".repeat(2000)).as_bytes());
    assert_eq!(direction.framing[2..], [(start + 8006, start + 8011)]);
    direction.segment(b"b\r\n0\r\n\r\n");
    // The last byte of the data is not framing, but all later bytes are.
    assert_eq!(direction.framing[3..], [(start + 8013, start + 8020)]);
    assert!(direction.progress.is_idle());
}

#[test]
fn the_beginning_of_a_message_is_reported_however_it_is_split() {
    let request = b"\r\nGET / HTTP/1.1\r\nX-Api-Key: k\r\n\r\n";
    let bytes = [b"GET /first HTTP/1.1\r\n\r\n", &request[..]].concat();
    for cut in 1..bytes.len() {
        let mut direction = Direction::requests(rules());
        let seen = direction.cut(&bytes, &[cut]);
        assert!(
            matches!(seen, [_, Event::Head { from: 23, .. }]),
            "{cut}: {seen:?}"
        );
    }
}

#[test]
fn a_head_that_has_begun_is_reported() {
    let mut direction = Direction::requests(rules());
    assert!(direction.progress.is_idle() && !direction.progress.in_head());
    for part in [
        "\r",
        "\nG",
        "ET / HTTP/1.1\r\n",
        "Transfer-Encoding",
        ": chunked\r\n",
        "\r",
    ] {
        direction.segment(part.as_bytes());
        assert!(direction.progress.in_head(), "{part:?}");
        assert_eq!(direction.progress.skippable(), 0);
    }
    for part in ["\n", "2", "\r\nab", "\r\n0\r\n", "Trailer: a\r\n", "\r"] {
        direction.segment(part.as_bytes());
        assert!(
            !direction.progress.in_head() && !direction.progress.is_idle(),
            "{part:?}"
        );
    }
    direction.segment(b"\n");
    assert!(direction.progress.is_idle());
}

#[test]
fn a_head_that_ends_in_a_long_value_is_reported() {
    let mut direction = Direction::requests(rules());
    direction.segment(b"GET / HTTP/1.1\r\nX-Api-Key: ");
    for part in [&*"k".repeat(300), "k", &*"k".repeat(9), " ", "\t", "\r"] {
        direction.segment(part.as_bytes());
        assert!(direction.progress.in_head(), "{part:?}");
        assert!(
            direction.progress.is_unfinished() || part.trim().is_empty(),
            "{part:?}"
        );
    }
    direction.segment(b"\n\r\n");
    assert!(direction.progress.is_idle() && !direction.progress.is_unfinished());
    assert_eq!(
        keys(&direction.seen),
        [crate::drive::key(1, &"k".repeat(310))]
    );
}

#[test]
fn bodies_may_be_skipped_by_the_caller() {
    let mut direction = Direction::requests(rules());
    direction.segment(b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc");
    assert_eq!(direction.progress.skippable(), 7);
    assert!(!direction.progress.skip(6));
    assert_eq!(direction.progress.skippable(), 1);
    assert!(direction.progress.skip(1));
    assert!(direction.progress.is_idle());
    direction.segment(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n");
    assert_eq!(direction.progress.skippable(), 5);
    assert!(!direction.progress.skip(5));
    assert_eq!(direction.progress.skippable(), 0);
    direction.segment(b"\r\n0\r\n\r\nGET / HTTP/1.1\r\nX-Api-Key: k\r\n\r\n");
    assert_eq!(
        keys(&direction.seen),
        [None, None, crate::drive::key(1, "k")]
    );
}

#[test]
fn a_response_until_the_close_may_be_skipped_for_ever() {
    let mut direction = Direction::responses(&[]);
    direction.segment(b"HTTP/1.1 200 OK\r\n\r\nabc");
    assert_eq!(direction.progress.skippable(), u64::MAX);
    assert!(!direction.progress.skip(u32::MAX));
    assert_eq!(direction.progress.skippable(), u64::MAX);
}

/// A key in which no three consecutive bytes occur anywhere else.
const KEY: &str = "0q9w8e7r6t5y4u3i2o1p0#9k8j7h6g5f4d3!s2a";

/// Returns whether the scanner or the parser still contains a part of [`KEY`].
fn is_left(direction: &Direction) -> bool {
    is_part_left(direction, KEY)
}

fn is_part_left(direction: &Direction, text: &str) -> bool {
    let memory = direction.memory();
    text.as_bytes()
        .windows(3)
        .any(|part| memory.windows(3).any(|bytes| bytes == part))
}

#[test]
fn no_part_of_a_key_is_left_once_its_line_is_complete() {
    for field in ["X-Api-Key: ", "Authorization: Bearer "] {
        let lines = format!("GET / HTTP/1.1\r\n{field}{KEY}\r\nA: b");
        for cut in 1..lines.len() {
            let mut direction = Direction::requests(rules());
            direction.cut(lines.as_bytes(), &[cut]);
            assert!(!is_left(&direction), "cut at {cut}");
            direction.segment(b"\r\n\r\n");
            assert_eq!(
                keys(&direction.seen),
                [crate::drive::key(if field.len() < 12 { 1 } else { 2 }, KEY)]
            );
            assert!(!is_left(&direction), "cut at {cut}");
        }
        // Here, the line is the last one of the head, and the next byte begins another message.
        let head = format!("GET / HTTP/1.1\r\n{field}{KEY}\r\n\r\n");
        for cut in 1..head.len() {
            let mut direction = Direction::requests(rules());
            direction.cut(head.as_bytes(), &[cut]);
            assert!(!is_left(&direction), "cut at {cut}");
        }
    }
}

#[test]
fn nothing_is_left_of_a_value_that_is_read_word_by_word() {
    let credentials = base64(format!("{KEY}:{KEY}").as_bytes());
    for (field, value) in [
        ("X-Api-Key: ", KEY.repeat(9)),
        ("Authorization: Bearer ", KEY.repeat(120)),
        ("Authorization: Basic ", credentials.clone()),
        (
            "Authorization: Basic ",
            base64(format!("{KEY}:{}", KEY.repeat(9)).as_bytes()),
        ),
    ] {
        let lines = format!("GET / HTTP/1.1\r\n{field}{value}\r\nA: b");
        for cut in (1..lines.len()).step_by(1 + lines.len() / 40) {
            let mut direction = Direction::requests(rules());
            let cuts = [cut, cut + 3, cut + 280].map(|cut| cut.min(lines.len()));
            direction.cut(lines.as_bytes(), &cuts);
            assert_eq!(direction.seen, [], "{field}{value} cut at {cut}");
            assert!(!is_left(&direction), "{field}{value} cut at {cut}");
            assert!(!is_part_left(&direction, &credentials), "cut at {cut}");
        }
    }
}

#[test]
fn no_part_of_a_key_in_two_windows_is_left() {
    for before in 3990..4100 {
        let cookie = "c".repeat(before);
        let bytes = format!("GET / HTTP/1.1\r\nA: {cookie}\r\nX-Api-Key: {KEY}\r\nA: b\r\n\r\n");
        let mut direction = Direction::requests(rules());
        direction.segment(bytes.as_bytes());
        assert_eq!(keys(&direction.seen), [crate::drive::key(1, KEY)]);
        assert!(!is_left(&direction), "{before}");
    }
}

#[test]
fn a_request_is_seen_again_after_a_rewind() {
    let first = "POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nab";
    let good = "\r\nGET / HTTP/1.1\r\nX-Api-Key: k\r\n\r\n";
    let bad = "GET / HTTP/1.1\r\nX-Api-Key: k\r\nBad\r\n\r\n";
    for (second, seen) in [(good, 2), (bad, 1)] {
        let mut direction = Direction::requests(rules());
        direction.heads = 1;
        direction.segment([first, second, second].concat().as_bytes());
        assert_eq!(direction.seen.len(), 2);
        assert!(matches!(direction.seen[seen - 1], Event::Head { .. }));
        assert_eq!(direction.rewind() as usize, first.len());
        // The kernel programs do the same: they keep the state at this offset, and the client
        // retransmits the rest.
        direction.store_state();
        assert!(direction.progress.is_idle());
        direction.heads = usize::MAX;
        direction.segment(good.as_bytes());
        assert_eq!(keys(&direction.seen[2..]), [crate::drive::key(1, "k")]);
    }
}

#[test]
fn bodies_are_not_loaded() {
    let head = b"POST / HTTP/1.1\r\nContent-Length: 120000\r\n\r\n";
    let mut direction = Direction::requests(rules());
    direction.segment(&[&head[..], &[b'x'; 60_000]].concat());
    direction.segment(&[b'x'; 60_000]);
    assert!(direction.progress.is_idle());
    assert_eq!(direction.loaded.get(), 4096);
}

#[test]
fn long_chunks_are_not_loaded() {
    let mut bytes = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..7 {
        bytes.extend(format!("2000\r\n{}\r\n", "x".repeat(8192)).bytes());
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    let mut direction = Direction::requests(rules());
    direction.segment(&bytes);
    assert!(direction.progress.is_idle());
    assert!(
        direction.loaded.get() <= 4096 + 7 * 64,
        "{}",
        direction.loaded.get()
    );
}

#[test]
fn malformed_chunks_are_distinguished_from_a_malformed_head() {
    for (bytes, in_body) in [
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
            true,
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nx\r\n",
            true,
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nx\r\n",
            false,
        ),
        (
            "POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\nabc\r\n\r\n",
            false,
        ),
        ("POST / HTTP/1.1\r\nx\r\n", false),
    ] {
        for cut in 1..bytes.len() {
            let mut direction = Direction::requests(rules());
            direction.cut(bytes.as_bytes(), &[cut]);
            assert_eq!(direction.seen.last(), Some(&Event::Malformed), "{bytes:?}");
            assert_eq!(
                direction.progress.in_body(),
                in_body,
                "{bytes:?} cut at {cut}"
            );
        }
    }
}

#[test]
fn after_a_rewind_into_a_body_the_stream_continues_in_the_body() {
    // The scan has read a malformed line after the body, and goes back into the body. The client
    // then sends other bytes after the body.
    let sized = "POST / HTTP/1.1\r\nX-Api-Key: k\r\nContent-Length: 600\r\n\r\n";
    let chunked = "POST / HTTP/1.1\r\nX-Api-Key: k\r\nTransfer-Encoding: chunked\r\n\r\n258\r\n";
    let body = "c".repeat(600);
    let long = format!(
        "GET / HTTP/1.1\r\n{}a b: c\r\n",
        "X: yyyyyyyyyyyyyy\r\n".repeat(20)
    );
    for (head, end) in [(sized, ""), (chunked, "\r\n0\r\n\r\n")] {
        for line in [
            "\r\n3FFFFFFFFFFFFFFF\r\n",
            &*long,
            "GET / HTTP/1.1\r\n a\r\n",
        ] {
            for at in [1, 300, 599] {
                let mut direction = Direction::requests(rules());
                direction.segment(format!("{head}{body}{end}{line}").as_bytes());
                assert_eq!(direction.seen.pop(), Some(Event::Malformed));
                let before = direction.seen.clone();
                let left = body.len() - at;
                let cut = u32::try_from(head.len() + at).expect("a length");
                direction.rewind_into_body(cut, !end.is_empty(), left as u64);
                direction.store_state();
                assert_eq!(direction.progress.skippable(), left as u64);
                assert!(!direction.progress.is_unfinished(), "{line:?}");
                // As much of the body as a packet has is skipped without a scan.
                direction.progress.skip(left as u32);
                let next = "GET /2 HTTP/1.1\r\nX-Api-Key: other\r\n\r\n";
                direction.segment(format!("{end}{next}").as_bytes());
                assert_eq!(
                    direction.seen.len(),
                    before.len() + 1,
                    "{end:?} {line:?} {at}"
                );
                assert_eq!(
                    keys(&direction.seen),
                    [crate::drive::key(1, "k"), crate::drive::key(1, "other")]
                );
                assert!(direction.progress.is_idle());
            }
        }
    }
}
