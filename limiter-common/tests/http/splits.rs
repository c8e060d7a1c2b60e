// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests that the events do not depend on how the bytes are split.

use proptest::collection::vec;
use proptest::prelude::*;

use crate::drive::{Direction, Event, requests, rules};
use crate::model::{cuts, cutting, mutated, request, write};

proptest! {
    #[test]
    fn well_formed_requests_are_seen_as_they_are(
        list in vec(request(), 1..5),
        cutting in cutting(),
    ) {
        let (bytes, expected) = write(&list);
        prop_assert_eq!(&requests(&bytes), &expected);
        let mut direction = Direction::requests(rules());
        prop_assert_eq!(direction.cut(&bytes, &cuts(bytes.len(), &cutting)), &expected);
        prop_assert!(direction.progress.is_idle());
    }

    #[test]
    fn mutated_requests_are_seen_alike_however_they_are_split(
        bytes in mutated(),
        first in cutting(),
        second in cutting(),
    ) {
        let whole = requests(&bytes);
        for cutting in [first, second] {
            let mut direction = Direction::requests(rules());
            prop_assert_eq!(direction.cut(&bytes, &cuts(bytes.len(), &cutting)), &whole);
        }
    }

    #[test]
    fn responses_are_seen_alike_however_they_are_split(
        bytes in vec(response_piece(), 1..12),
        demands in vec(0u32..3, 0..4),
        cutting in cutting(),
    ) {
        let bytes = bytes.concat();
        let mut whole = Direction::responses(&demands);
        whole.segment(&bytes);
        let mut direction = Direction::responses(&demands);
        prop_assert_eq!(direction.cut(&bytes, &cuts(bytes.len(), &cutting)), &whole.seen);
    }

    #[test]
    fn random_bytes_come_to_an_end(
        bytes in vec(prop_oneof![any::<u8>(), proptest::sample::select(b"\r\n: 0A".to_vec())], 0..6000),
        cutting in cutting(),
        response: bool,
    ) {
        let direction =
            || if response { Direction::responses(&[]) } else { Direction::requests(rules()) };
        let mut whole = direction();
        whole.segment(&bytes);
        let mut split = direction();
        prop_assert_eq!(split.cut(&bytes, &cuts(bytes.len(), &cutting)), &whole.seen);
    }
}

/// Generates a piece of a response.
fn response_piece() -> impl Strategy<Value = Vec<u8>> {
    let long = format!("X: {}\r\n", "y".repeat(400));
    let pieces = [
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.0 200\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 204 No\r\n\r\n",
        "HTTP/1.1 304 \r\nContent-Length: 5\r\n\r\n",
        "Content-Length: 3\r\n",
        "Content-Length: 3, 3\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "\r\n\r\nabc",
        "\r\n",
        "abc",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
        " folded\r\n",
        "no colon\r\n",
        "a\0b: c\r\n",
        "3\r\nabc\r\n",
        "0\r\n\r\n",
        "\u{e4}: \u{ff}\r\n",
        long.as_str(),
    ];
    proptest::sample::select(pieces.map(|piece| piece.as_bytes().to_vec()).to_vec())
}

#[test]
fn every_cut_in_two_of_a_request_with_everything_is_seen_alike() {
    let bytes = format!(
        "\r\nPOST /a HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer token\r\nX-Api-Key: \t key \t\r\n\
         Cookie: {}\r\n{}: x\r\nTransfer-Encoding: chunked\r\n\r\n\
         5;ext=1\r\nhello\r\n00a\r\n0123456789\r\n0\r\nTrailer: a\r\n\r\n\
         HEAD /{} HTTP/1.0\nApi_Token: t\nAuthorization: Basic YTpiYWM=\nContent-Length: 12\n\n\
         hello, world",
        "c".repeat(600),
        "N".repeat(90),
        "t".repeat(300),
    );
    let whole = requests(bytes.as_bytes());
    assert_eq!(whole.len(), 2);
    assert!(
        whole.iter().all(|seen| matches!(seen, Event::Head { .. })),
        "{whole:?}"
    );
    for first in 1..bytes.len() {
        for second in [first + 1, first + 2, first + 16, first + 256, first + 257] {
            let second = second.min(bytes.len());
            let mut direction = Direction::requests(rules());
            assert_eq!(
                direction.cut(bytes.as_bytes(), &[first, second]),
                whole,
                "{first}, {second}"
            );
        }
    }
}
