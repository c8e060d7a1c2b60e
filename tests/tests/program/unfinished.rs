// SPDX-License-Identifier: MIT OR Apache-2.0

//! The map of heads and lines that a segment has left unfinished.

use limiter_common::{
    abi::{REQUESTS, RESPONSES, counter},
    flow::Idle,
};
use limiter_tests::program::{ACK, Programs, RST, Shape, Talk, Verdict, no_limits};

use crate::support::{SCOPE, another, assert_nothing_held, get, limited, ok, opened};

/// Returns the directions that have an entry, in ascending order.
fn directions(programs: &Programs) -> Vec<u32> {
    let mut directions: Vec<u32> = programs
        .unfinished()
        .iter()
        .map(|key| key.direction)
        .collect();
    directions.sort_unstable();
    directions
}

#[test]
fn an_entry_exists_while_a_head_or_a_line_is_unfinished() {
    let (mut programs, mut talk) = opened();
    let chunked = get("/").replace("\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n");
    let (head, rest) = chunked.split_at(30);
    for (part, expected) in [
        (head, &[REQUESTS][..]),
        (rest, &[]),
        ("1", &[REQUESTS]),
        ("0\r\n", &[]),
        ("0123456789abcdef\r", &[REQUESTS]),
        ("\n0\r\n", &[]),
        ("Trailer: 1\r\n", &[]),
        ("\r\nGET", &[REQUESTS]),
    ] {
        talk.asks(&mut programs, part);
        assert_eq!(directions(&programs), expected, "{part:?}");
    }
    let response = ok("hello");
    let (head, rest) = response.split_at(20);
    talk.answers(&mut programs, head);
    assert_eq!(directions(&programs), [REQUESTS, RESPONSES]);
    talk.answers(&mut programs, rest);
    assert_eq!(directions(&programs), [REQUESTS]);
    talk.asks(&mut programs, &get("/")[3..]);
    assert_eq!(directions(&programs), [] as [u32; 0]);
    assert_eq!(programs.state(SCOPE).admitted, 2);
}

#[test]
fn a_retransmission_leaves_the_entry_as_it_is() {
    let (mut programs, mut talk) = opened();
    let request = get("/");
    let (head, rest) = request.split_at(request.len() / 2);
    talk.asks(&mut programs, head);
    let first = talk.asked - u32::try_from(head.len()).expect("a length");
    for _ in 0..3 {
        let segment = talk.client_at(first, head.as_bytes());
        assert_eq!(
            talk.run(&mut programs, true, &segment).verdict,
            Verdict::Pass
        );
    }
    // The second half, in one segment with a retransmission of the first half.
    let segment = talk.client_at(first, request.as_bytes());
    assert_eq!(
        talk.run(&mut programs, true, &segment).verdict,
        Verdict::Pass
    );
    assert!(!rest.is_empty() && programs.unfinished().is_empty());
    assert_eq!(programs.state(SCOPE).admitted, 1);
}

#[test]
fn the_end_of_a_connection_removes_its_entries() {
    type End = fn(&mut Programs, &mut Talk);
    let ends: [(&str, End); 5] = [
        ("a reset of the client", |programs, talk| {
            let reset = talk.client(b"").with_flags(RST | ACK);
            assert_eq!(talk.run(programs, true, &reset).verdict, Verdict::Pass);
        }),
        ("a reset of the server", |programs, talk| {
            let reset = talk.server(b"").with_flags(RST | ACK);
            assert_eq!(talk.run(programs, false, &reset).verdict, Verdict::Pass);
        }),
        ("malformed bytes", |programs, talk| {
            talk.answers(programs, &ok("hello")[20..]);
            talk.acknowledged(programs);
            talk.ask(programs, "a b\r\n");
            assert_eq!(programs.flow(&talk.key()).map(|flow| flow.phase), None);
        }),
        ("a sweep", |programs, _| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert_eq!(programs.sweep([1_000_000; Idle::COUNT]).removed, 1);
        }),
        (
            "a new connection between the same ports",
            |programs, talk| {
                *talk = Talk::new(Shape::v4());
                talk.client_start ^= 1 << 30;
                talk.server_start ^= 1 << 30;
                talk.begin(programs);
            },
        ),
    ];
    for (what, end) in ends {
        let (mut programs, mut talk) = opened();
        talk.asks(&mut programs, get("/"));
        talk.answers(&mut programs, &ok("hello")[..20]);
        talk.asks(&mut programs, "GET / HTTP/1.1\r\nHost");
        assert_eq!(directions(&programs), [REQUESTS, RESPONSES], "{what}");
        end(&mut programs, &mut talk);
        assert_eq!(directions(&programs), [] as [u32; 0], "{what}");
        assert_nothing_held(&programs);
    }
}

#[test]
fn without_room_a_request_ends_its_own_connection_only() {
    let mut programs = limited(no_limits());
    let request = get("/");
    let (head, rest) = request.split_at(20);
    // The table has room for eight entries. Each connection has one more in the other direction.
    let mut talks: Vec<Talk> = (0..8)
        .map(|number| another(&mut programs, 2000 + number))
        .collect();
    let (last, others) = talks.split_last_mut().expect("connections");
    for talk in &mut *others {
        talk.asks(&mut programs, head);
    }
    let (first, _) = others.split_first_mut().expect("connections");
    first.asks(&mut programs, format!("{rest}{head}"));
    first.answers(&mut programs, &ok("hello")[..20]);
    assert_eq!(programs.unfinished().len(), 8);
    last.asks(&mut programs, head);
    assert_eq!(programs.counter(counter::TABLE_FULL), 1);
    assert_eq!(programs.unfinished().len(), 8);
    // The rest of the request cannot be parsed.
    last.ask(&mut programs, rest);
    assert!(programs.flow(&last.key()).is_none());
    assert_eq!(programs.counter(counter::MALFORMED), 1);
    for talk in others {
        talk.asks(&mut programs, rest);
    }
    assert_eq!(programs.state(SCOPE).admitted, 8);
    assert_eq!(programs.unfinished().len(), 1);
}
