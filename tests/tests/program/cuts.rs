// SPDX-License-Identifier: MIT OR Apache-2.0

//! Segments are cut after the last admitted request. To the client, it is as if the network had
//! lost the remaining bytes.

use limiter_common::abi::{FLOW_CLIENT_FIN, Limits, ScopeState, counter, policy};
use limiter_tests::program::{
    ACK, DecodedSegment, FIN, PSH, Programs, Shape, Talk, Verdict, no_limits,
};

use crate::{
    shapes::shapes,
    support::{KEY, SCOPE, assert_counters, get, get_as, limited, ok},
};

/// Returns limits that consist only of a daily quota.
fn quota(daily_quota: u64) -> Limits {
    Limits {
        daily_quota,
        ..no_limits()
    }
}

/// Sends a segment with more requests than the limit allows, and returns the part that passed.
/// [`DecodedSegment::of`] checks the lengths and checksums of this part.
#[track_caller]
fn send_cut(programs: &mut Programs, talk: &mut Talk, payload: &str) -> DecodedSegment {
    let ran = talk.ask(programs, payload);
    assert_eq!(ran.verdict, Verdict::Pass);
    assert_eq!(ran.sent, [] as [Vec<u8>; 0]);
    ran.decoded()
}

#[test]
fn the_second_of_two_requests_is_cut_in_every_shape() {
    for (what, shape) in shapes() {
        // Both the part that passes and the part that is cut off have odd and even lengths in these
        // cases, because a checksum is calculated over words of two bytes.
        for (first, second) in [("/", "/"), ("/", "/1"), ("/1", "/"), ("/1", "/1")] {
            for timestamps in [false, true] {
                let mut programs = limited(quota(1));
                let mut talk = Talk::new(shape.clone());
                talk.timestamps = timestamps;
                let mut talk = talk.opened(&mut programs);
                let (first, second) = (get(first), get(second));
                let segment = talk.client((first.clone() + &second).as_bytes());
                let ran = talk.run(&mut programs, true, &segment);
                assert_eq!(ran.verdict, Verdict::Pass, "{what}");
                let passed = ran.decoded();
                assert_eq!(
                    passed.payload,
                    first.as_bytes(),
                    "{what}: {}",
                    passed.text()
                );
                assert_eq!(
                    (passed.seq, passed.ack),
                    (segment.seq, segment.ack),
                    "{what}"
                );
                assert_eq!(passed.flags, ACK | PSH, "{what}");
                assert_eq!(passed.options, segment.options, "{what}");
                assert_eq!(
                    (passed.from, passed.to),
                    (talk.ends.client, talk.ends.server),
                    "{what}"
                );
                assert_counters(&programs, &[(counter::ADMITTED, 1), (counter::TRIMMED, 1)]);
            }
        }
    }
}

#[test]
fn fin_behind_the_cut_is_removed_too() {
    let mut programs = limited(quota(1));
    let mut talk = Talk::open(&mut programs, Shape::v4());
    let both = talk
        .client((get("/a") + &get("/b")).as_bytes())
        .with_flags(ACK | PSH | FIN);
    let ran = talk.run(&mut programs, true, &both);
    assert_eq!(ran.decoded().flags, ACK | PSH);
    assert_eq!(ran.decoded().payload, get("/a").as_bytes());
    let flags = programs.flow(&talk.key()).expect("a flow").flags;
    assert_eq!(flags & FLOW_CLIENT_FIN, 0);
}

#[test]
fn cut_request_is_decided_when_retransmitted() {
    let mut programs = limited(quota(1));
    let mut talk = Talk::open(&mut programs, Shape::v4());
    let passed = send_cut(&mut programs, &mut talk, &(get("/a") + &get("/b")));
    assert_eq!(passed.payload, get("/a").as_bytes());
    // The programs decide about the second request only after the server has answered the first one
    // and the client has received that response.
    for _ in 0..2 {
        assert_eq!(talk.ask(&mut programs, get("/b")).verdict, Verdict::Drop);
    }
    talk.answers(&mut programs, ok("a"));
    assert_counters(
        &programs,
        &[
            (counter::ADMITTED, 1),
            (counter::TRIMMED, 1),
            (counter::NOT_QUIET_DROPPED, 2),
        ],
    );
    let ran = talk.ask(&mut programs, get("/b"));
    assert!(
        ran.answer().text().starts_with("HTTP/1.1 429 "),
        "{}",
        ran.answer().text()
    );
    let state = programs.state(SCOPE);
    assert_eq!((state.admitted, state.refused), (1, [0, 0, 0, 1]));
}

#[test]
fn request_with_a_body_before_the_cut_stays_complete() {
    let mut programs = limited(quota(1));
    let mut talk = Talk::open(&mut programs, Shape::v4());
    let post = format!("POST / HTTP/1.1\r\nX-Api-Key: {KEY}\r\nContent-Length: 5\r\n\r\nhello");
    let passed = send_cut(&mut programs, &mut talk, &(post.clone() + &get("/b")));
    assert_eq!(passed.text(), post);
}

#[test]
fn requests_of_other_scopes_behind_the_cut_are_not_charged() {
    let mut programs = limited(quota(1));
    programs.scope(2, "key-two", no_limits());
    let mut talk = Talk::open(&mut programs, Shape::v4());
    let all = get("/a") + &get("/b") + &get_as("key-two", "/c");
    let passed = send_cut(&mut programs, &mut talk, &all);
    assert_eq!(passed.text(), get("/a"));
    assert_eq!(programs.state(2), ScopeState::default());
}

#[test]
fn a_malformed_request_behind_others_is_cut() {
    let mut programs = limited(no_limits());
    let mut talk = Talk::open(&mut programs, Shape::v4());
    let passed = send_cut(&mut programs, &mut talk, &(get("/a") + "nonsense\r\n\r\n"));
    assert_eq!(passed.text(), get("/a"));
    assert_counters(&programs, &[(counter::ADMITTED, 1), (counter::TRIMMED, 1)]);
    talk.answers(&mut programs, ok("a"));
    let ran = talk.ask(&mut programs, "nonsense\r\n\r\n");
    assert!(ran.answer().text().starts_with("HTTP/1.1 400 "));
}

#[test]
fn refused_request_split_over_two_segments_is_answered() {
    // The head of the second request is split into two segments.
    let mut programs = limited(quota(1));
    let mut talk = Talk::open(&mut programs, Shape::v4());
    let second = get("/b");
    let (begin, end) = second.split_at(20);
    talk.asks(&mut programs, get("/a") + begin);
    assert_counters(&programs, &[(counter::ADMITTED, 1)]);
    assert_eq!(talk.ask(&mut programs, end).verdict, Verdict::Drop);
    talk.answers(&mut programs, ok("a"));
    let ran = talk.ask(&mut programs, end);
    assert!(ran.answer().text().starts_with("HTTP/1.1 429 "));
    // The server has received the first part of a request that can never be completed, so the
    // programs send it a reset.
    assert_eq!(ran.decoded().flags & 4, 4, "a reset for the server");
}

#[test]
fn retransmitted_bytes_before_a_refused_request_pass() {
    let mut programs = limited(quota(1));
    let mut talk = Talk::open(&mut programs, Shape::v4());
    talk.asks(&mut programs, get("/a"));
    let both = talk.client_at(0, (get("/a") + &get("/b")).as_bytes());
    let ran = talk.run(&mut programs, true, &both);
    assert_eq!(ran.verdict, Verdict::Pass);
    assert_eq!(ran.decoded().text(), get("/a"));
    let state = programs.state(SCOPE);
    assert_eq!((state.admitted, state.in_flight), (1, 1));
}

#[test]
fn request_held_by_drop_is_cut_too() {
    let mut programs = limited(quota(1));
    programs.configure(|config| config.on_limit = policy::ON_LIMIT_DROP);
    let mut talk = Talk::open(&mut programs, Shape::v4());
    let passed = send_cut(&mut programs, &mut talk, &(get("/a") + &get("/b")));
    assert_eq!(passed.text(), get("/a"));
    for _ in 0..3 {
        assert_eq!(talk.ask(&mut programs, get("/b")).verdict, Verdict::Drop);
    }
    assert_eq!(programs.counter(counter::LIMIT_DROPPED), 3);
    assert_eq!(programs.state(SCOPE).refused, [0, 0, 0, 1]);
}
