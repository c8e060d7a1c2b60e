// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests that the scanner finds the end of each response. The slot of a request is released at the
//! end of its response.

use limiter_common::http::{
    ASKS_HTTP, ASKS_TUNNEL, BODY_CHUNKED, BODY_EMPTY, BODY_INTERIM, BODY_LENGTH, BODY_OTHER_HTTP,
    BODY_TUNNEL, BODY_UNTIL_CLOSE, METHOD_CONNECT, METHOD_HEAD, METHOD_OTHER,
};

use crate::drive::{Direction, Event};

/// Scans `bytes` as the responses to requests with the demands in `demands`, and returns the
/// events. Asserts that the events do not depend on how the bytes are split.
fn responses(demands: &[u32], bytes: &[u8]) -> Vec<Event> {
    let mut whole = Direction::responses(demands);
    whole.segment(bytes);
    for cut in 1..bytes.len() {
        assert_eq!(
            Direction::responses(demands).cut(bytes, &[cut]),
            whole.seen,
            "cut at {cut}"
        );
    }
    let cuts: Vec<usize> = (0..bytes.len()).collect();
    assert_eq!(Direction::responses(demands).cut(bytes, &cuts), whole.seen);
    whole.seen
}

/// Returns the status and the kind of body of each head, and the offset at which each message ends.
fn outline(seen: &[Event]) -> (Vec<(u32, u32)>, Vec<u64>) {
    let heads = seen.iter().filter_map(|seen| match *seen {
        Event::Head { status, body, .. } => Some((status, body)),
        _ => None,
    });
    let ends = seen.iter().filter_map(|seen| match *seen {
        Event::End(at) => Some(at),
        _ => None,
    });
    (heads.collect(), ends.collect())
}

/// Returns the status of `response`, the kind of its body, and whether the scanner finds the end of
/// the message at the last byte. `method` is the method of the request.
fn one(method: u32, response: &str) -> (u32, u32, bool) {
    let seen = responses(&[method], response.as_bytes());
    let (heads, ends) = outline(&seen);
    assert_eq!(heads.len(), 1, "{response:?}: {seen:?}");
    assert!(
        ends.is_empty() || ends == [response.len() as u64],
        "{response:?}: {seen:?}"
    );
    (heads[0].0, heads[0].1, !ends.is_empty())
}

#[test]
fn a_response_ends_where_its_head_declares() {
    let other = METHOD_OTHER;
    for (method, response, expected) in [
        (
            other,
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab",
            (200, BODY_LENGTH, true),
        ),
        (
            other,
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab",
            (200, BODY_LENGTH, false),
        ),
        (
            other,
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            (200, BODY_EMPTY, true),
        ),
        (
            other,
            "HTTP/1.1 200\r\ncontent-length:2\n\nab",
            (200, BODY_LENGTH, true),
        ),
        (
            other,
            "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
            (204, BODY_EMPTY, true),
        ),
        (
            other,
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
            (304, BODY_EMPTY, true),
        ),
        (
            METHOD_HEAD,
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            (200, BODY_EMPTY, true),
        ),
        (
            METHOD_HEAD,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            (200, BODY_EMPTY, true),
        ),
        (
            METHOD_CONNECT,
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcde",
            (200, BODY_TUNNEL, false),
        ),
        (
            METHOD_CONNECT,
            "HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nab",
            (403, BODY_LENGTH, true),
        ),
        (
            other | ASKS_TUNNEL,
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: foo\r\n\r\n\x01\x02\x03",
            (101, BODY_TUNNEL, false),
        ),
        (
            other | ASKS_TUNNEL,
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n\x01\x02\x03",
            (101, BODY_OTHER_HTTP, false),
        ),
        (
            METHOD_HEAD | ASKS_HTTP,
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n\x01\x02\x03",
            (101, BODY_OTHER_HTTP, false),
        ),
        (
            other | ASKS_TUNNEL,
            "HTTP/1.1 200 OK\r\nUpgrade: h2,h2c\r\nContent-Length: 2\r\n\r\nab",
            (200, BODY_LENGTH, true),
        ),
        (
            other,
            "HTTP/1.1 200 OK\r\n\r\nuntil the end",
            (200, BODY_UNTIL_CLOSE, false),
        ),
        (
            other,
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            (200, BODY_UNTIL_CLOSE, false),
        ),
        (
            other,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc",
            (200, BODY_UNTIL_CLOSE, false),
        ),
        (
            other,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\nabc",
            (200, BODY_UNTIL_CLOSE, false),
        ),
        (
            other,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\nabc",
            (200, BODY_UNTIL_CLOSE, false),
        ),
        (
            other,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip,chunked\r\n\r\n0\r\n\r\n",
            (200, BODY_CHUNKED, true),
        ),
        (
            other,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            (200, BODY_CHUNKED, true),
        ),
        (
            other,
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
            (200, BODY_CHUNKED, true),
        ),
        (
            other,
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nab",
            (200, BODY_LENGTH, true),
        ),
        (
            other,
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nab",
            (200, BODY_UNTIL_CLOSE, false),
        ),
        (
            other,
            "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nab",
            (200, BODY_UNTIL_CLOSE, false),
        ),
        (
            other,
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nab",
            (200, BODY_UNTIL_CLOSE, false),
        ),
        (
            other,
            "HTTP/1.1 200 OK\r\nContent_Length: 1\r\nContent-Length: 2\r\n\r\nab",
            (200, BODY_LENGTH, true),
        ),
    ] {
        assert_eq!(one(method, response), expected, "{response:?}");
    }
}

#[test]
fn a_101_without_a_demand_is_an_interim_response() {
    for (demand, field) in [
        (METHOD_OTHER, "Upgrade: foo\r\n"),
        (METHOD_OTHER, "Upgrade: h2c\r\n"),
        (METHOD_HEAD, "Upgrade: foo\r\n"),
        (METHOD_CONNECT | ASKS_TUNNEL, "Upgrade: foo\r\n"),
        // A 101 response that names no protocol may come from an application that has chosen this
        // status freely.
        (METHOD_OTHER | ASKS_TUNNEL, ""),
        (METHOD_OTHER | ASKS_TUNNEL, "Upgrade:\r\n"),
    ] {
        let response = format!("HTTP/1.1 101 Switching Protocols\r\n{field}\r\n");
        let seen = responses(&[demand], response.as_bytes());
        let [Event::Head { body, .. }] = seen[..] else {
            panic!("{demand} {field:?}: {seen:?}")
        };
        assert_eq!(body, BODY_INTERIM, "{demand} {field:?}");
    }
}

#[test]
fn chunks_of_a_response_may_be_sloppy() {
    for chunks in [
        "3\r\nabc\r\n0\r\n\r\n",
        "3  \r\nabc\r\n0 \r\n\r\n",
        "3 ;a\r\nabc\r\n0\r\nT: x\r\n\r\n",
        "3\nabc\n0\n\n",
        "3\r\nabc\r\n0\r\nno field\r\n folded\r\n\r\n",
    ] {
        let response = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
        assert_eq!(
            one(METHOD_OTHER, &response),
            (200, BODY_CHUNKED, true),
            "{chunks:?}"
        );
    }
}

#[test]
fn fields_of_a_response_may_be_sloppy() {
    let long = format!(
        "A: {}\r\n{}: b\r\nContent-Length: 2\r\n\r\nab",
        "x".repeat(600),
        "n".repeat(300)
    );
    for fields in [
        "no field\r\nContent-Length: 2\r\n\r\nab",
        "A: b\r\n folded\r\nContent-Length: 2\r\n\r\nab",
        "A: \0\x01\x7f\rb\r\nContent-Length: 2\r\n\r\nab",
        "A : b\r\n: c\r\nContent-Length: 2\r\n\r\nab",
        "\u{e4}: \u{ff}\r\nContent-Length: 2\r\n\r\nab",
        long.as_str(),
    ] {
        let response = format!("HTTP/1.1 200 OK\r\n{fields}");
        assert_eq!(
            one(METHOD_OTHER, &response),
            (200, BODY_LENGTH, true),
            "{fields:?}"
        );
    }
}

#[test]
fn a_long_status_line_is_read() {
    let response = format!(
        "HTTP/1.1 404 {}\r\nContent-Length: 2\r\n\r\nab",
        "x".repeat(500)
    );
    assert_eq!(one(METHOD_OTHER, &response), (404, BODY_LENGTH, true));
}

#[test]
fn interim_responses_come_before_the_real_one() {
    let bytes = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\nContent-Length: 9\r\n\r\n\
        HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab";
    let seen = responses(&[METHOD_OTHER], bytes);
    let (heads, ends) = outline(&seen);
    assert_eq!(
        heads,
        [(100, BODY_INTERIM), (103, BODY_INTERIM), (200, BODY_LENGTH)]
    );
    assert_eq!(ends, [bytes.len() as u64]);
}

#[test]
fn pipelined_responses_end_one_by_one() {
    let first = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab";
    let second = "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n";
    let third = "HTTP/1.1 304 \r\n\r\n";
    let fourth = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n";
    let bytes = [first, second, third, fourth].concat();
    let demands = [METHOD_OTHER, METHOD_HEAD, METHOD_OTHER, METHOD_OTHER];
    let (heads, ends) = outline(&responses(&demands, bytes.as_bytes()));
    assert_eq!(heads.len(), 4);
    let lengths = [first, second, third, fourth].map(|part| part.len() as u64);
    let mut end = 0;
    assert_eq!(
        ends,
        lengths.map(|length| {
            end += length;
            end
        })
    );
}

#[test]
fn a_stream_that_is_not_a_response_is_malformed() {
    for bytes in [
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.2 200 OK\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n".get(..9).unwrap(),
        "HTTP/1.1  200 OK\r\n\r\n",
        "HTTP/1.1 099 x\r\n\r\n",
        "HTTP/1.1 2x0 OK\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
        "<html>\r\n",
        "GET / HTTP/1.1\r\n\r\n",
    ] {
        let bytes = format!("{bytes}\r\n");
        assert_eq!(
            responses(&[], bytes.as_bytes()),
            [Event::Malformed],
            "{bytes:?}"
        );
    }
}
