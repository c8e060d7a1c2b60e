// SPDX-License-Identifier: MIT OR Apache-2.0

//! The answers to refused requests after which the connection goes on, and the bytes that are
//! withheld from the server.

use limiter_common::abi::{MAX_WITHHELD_BODY, counter, policy, reason};
use limiter_tests::program::{ACK, FIN, PSH, Shape, Talk, Verdict};

use super::{Kept, SPENT, SPENT_SCOPE, len, only_answer, programs, spent};
use crate::{
    shapes::shapes,
    support::{SCOPE, assert_counters, get, ok},
};

#[test]
fn a_refused_request_is_answered_and_the_connection_goes_on_in_every_shape() {
    for (what, shape) in shapes().into_iter().filter(|(_, shape)| shape.is_usual()) {
        for timestamps in [false, true] {
            let mut kept = Kept::new(shape.clone(), timestamps);
            kept.admitted(get("/1"));
            kept.answers(ok("one"));
            let (next, before) = (kept.next(), kept.talk.answered);
            let answer = kept.refused(spent());
            assert_eq!(kept.server_position(answer.seq), before, "{what}");
            assert_eq!(
                kept.client_position(answer.ack),
                next + len(spent()),
                "{what}"
            );
            assert_eq!(answer.flags, ACK | PSH, "{what}");
            assert!(answer.text().starts_with("HTTP/1.1 429 "), "{what}");
            assert!(
                answer.text().contains("\r\nConnection: keep-alive\r\n"),
                "{what}"
            );
            let options = if timestamps { 12 } else { 0 };
            assert_eq!(answer.options.len(), options, "{what}");
            kept.admitted(get("/2"));
            kept.answers(ok("two"));
            kept.refused(spent());
            kept.refused(spent());
            kept.admitted(get("/3"));
            kept.answers(ok("three"));
            let state = kept.programs.state(SCOPE);
            assert_eq!((state.admitted, state.in_flight), (3, 0), "{what}");
            assert_eq!(
                kept.programs.state(SPENT_SCOPE).refused,
                [0, 0, 0, 3],
                "{what}"
            );
            assert_counters(
                &kept.programs,
                &[
                    (counter::ADMITTED, 3),
                    (counter::REFUSED_DAILY_QUOTA, 3),
                    (counter::RESPONSES_SENT, 3),
                    (counter::KEPT, 3),
                ],
            );
        }
    }
}

#[test]
fn the_server_hears_of_a_refused_request_only_what_it_has_to() {
    let mut kept = Kept::opened();
    kept.admitted(get("/"));
    kept.answers(ok("one"));
    // The refused request carries the acknowledgement of the response, which is passed on.
    let segment = kept.client_at(kept.next(), spent());
    assert_eq!(kept.run(&segment).verdict, Verdict::Pass);
    kept.withheld += len(spent());
    let text = limiter_tests::program::text(reason::DAILY_QUOTA);
    kept.injected += text.len;
    // The next one acknowledges only our response.
    let segment = kept.client_at(kept.next(), spent());
    let ran = kept.run(&segment);
    assert!(only_answer(&ran).is_some());
}

#[test]
fn a_first_request_that_is_refused_completes_the_handshake() {
    let mut programs = programs();
    let mut talk = Talk::new(Shape::v4());
    for (to_server, segment) in [(true, talk.syn()), (false, talk.syn_ack())] {
        talk.run(&mut programs, to_server, &segment);
    }
    let mut kept = Kept {
        programs,
        talk,
        withheld: 0,
        injected: 0,
    };
    let segment = kept.client_at(0, spent());
    let ran = kept.run(&segment);
    assert_eq!(ran.verdict, Verdict::Pass);
    let to_server = ran.decoded();
    assert_eq!((to_server.flags, to_server.payload.len()), (ACK, 0));
    assert_eq!(
        (to_server.seq, to_server.ack),
        (kept.talk.client_start, kept.talk.server_start)
    );
}

#[test]
fn a_retransmitted_request_is_answered_again_until_its_response_has_arrived() {
    let mut kept = Kept::opened();
    kept.admitted(get("/"));
    kept.answers(ok("one"));
    let segment = kept.client_at(kept.next(), spent());
    let first = kept.answered(&segment);
    for _ in 0..3 {
        let again = kept.answered(&segment);
        assert_eq!(again.text(), first.text());
        assert_eq!((again.seq, again.ack), (first.seq, first.ack));
    }
    kept.withheld += len(spent());
    kept.injected += len(&first.payload);
    // The client sends more with the part that it sends again. Only the part is acknowledged.
    let more = kept.client_at(kept.next() - len(spent()), spent() + &get("/2"));
    let more = more.with_ack(first.seq);
    let again = kept.answered(&more);
    assert_eq!((again.seq, again.ack), (first.seq, first.ack));
    assert_eq!(again.text(), first.text());
    // The response has arrived, and the request comes once more, late.
    let acknowledged = kept.client_at(kept.next(), b"").with_flags(ACK);
    kept.passes(&acknowledged);
    let late = kept.answered(&segment);
    assert_eq!((late.seq, late.ack), (acknowledged.ack, first.ack));
    assert_eq!(late.payload, b"");
    kept.admitted(get("/2"));
    assert_eq!(kept.programs.state(SPENT_SCOPE).refused, [0, 0, 0, 1]);
}

#[test]
fn nothing_acknowledges_a_refused_request_before_its_response_has_arrived() {
    let mut kept = Kept::opened();
    kept.admitted(get("/"));
    kept.answers(ok("one"));
    let request_at = kept.next();
    let answer = kept.refused(spent());
    // The response is lost. The server probes, or announces a window.
    let probe = kept.server_at(kept.talk.answered, b"").with_flags(ACK);
    let seen = kept.reaches_client(&probe);
    assert_eq!(kept.client_position(seen.ack), request_at);
    assert_eq!(seen.seq, answer.seq.wrapping_add(len(&answer.payload)));
    let fin = kept
        .server_at(kept.talk.answered, b"")
        .with_flags(ACK | FIN);
    let seen = kept.reaches_client(&fin);
    assert_eq!(kept.client_position(seen.ack), request_at);
    // The response arrives.
    let acknowledged = kept.client_at(kept.next(), b"").with_flags(ACK);
    kept.passes(&acknowledged);
    let seen = kept.reaches_client(&probe);
    assert_eq!(kept.client_position(seen.ack), kept.next());
}

#[test]
fn bodies_are_withheld_up_to_a_bound() {
    let head = |length: u32| {
        format!("PUT / HTTP/1.1\r\nX-Api-Key: {SPENT}\r\nContent-Length: {length}\r\n\r\n")
    };
    for cut in [0, 1, 10, 300] {
        let mut kept = Kept::opened();
        kept.admitted(get("/1"));
        kept.answers(ok("one"));
        let body = "b".repeat(300);
        let first = kept.client_at(kept.next(), head(300) + &body[..cut]);
        let answer = kept.answered(&first);
        assert!(answer.text().starts_with("HTTP/1.1 429 "));
        assert!(answer.text().contains("keep-alive"));
        kept.withheld += len(&first.payload);
        kept.injected += len(&answer.payload);
        assert_eq!(kept.client_position(answer.ack), kept.next());
        for part in body.as_bytes()[cut..].chunks(100) {
            let segment = kept.client_at(kept.next(), part);
            let answer = kept.answered(&segment);
            assert_eq!(answer.payload, b"", "the client has the response");
            kept.withheld += len(part);
            assert_eq!(kept.client_position(answer.ack), kept.next());
        }
        kept.admitted(get("/2"));
        kept.answers(ok("two"));
        assert_counters(
            &kept.programs,
            &[
                (counter::ADMITTED, 2),
                (counter::REFUSED_DAILY_QUOTA, 1),
                (counter::RESPONSES_SENT, 1),
                (counter::KEPT, 1),
            ],
        );
    }
    for (length, keeps) in [(MAX_WITHHELD_BODY, true), (MAX_WITHHELD_BODY + 1, false)] {
        let mut kept = Kept::opened();
        let segment = kept.client_at(0, head(length));
        let answer = kept.first_answer(&segment);
        assert_eq!(answer.flags & FIN == 0, keeps, "{length}");
        assert_eq!(answer.text().contains("Connection: keep-alive"), keeps);
        assert_eq!(answer.text().contains("Connection:      close"), !keeps);
    }
}

#[test]
fn chunks_are_withheld_wherever_they_are_cut() {
    let head =
        format!("PUT / HTTP/1.1\r\nX-Api-Key: {SPENT}\r\nTransfer-Encoding: chunked\r\n\r\n");
    let request = head.clone() + "5\r\nhello\r\n1;a=b\r\n!\r\n0\r\nA: b\r\n\r\n";
    for cut in head.len()..=request.len() {
        let mut kept = Kept::opened();
        let answer = kept.refused(&request[..cut]);
        assert_eq!(kept.client_position(answer.ack), len(&request[..cut]));
        if cut < request.len() {
            let rest = &request[cut..];
            let segment = kept.client_at(kept.next(), rest);
            let answer = kept.answered(&segment);
            assert_eq!(answer.payload, b"", "cut at {cut}");
            kept.withheld += len(rest);
            assert_eq!(
                kept.client_position(answer.ack),
                kept.next(),
                "cut at {cut}"
            );
        }
        kept.admitted(get("/2"));
        kept.answers(ok("two"));
    }
}

#[test]
fn chunks_beyond_the_bound_close_the_connection() {
    let mut kept = Kept::opened();
    let head =
        format!("PUT / HTTP/1.1\r\nX-Api-Key: {SPENT}\r\nTransfer-Encoding: chunked\r\n\r\n");
    let response = kept.refused(head);
    let chunk = format!("400\r\n{}\r\n", "c".repeat(1024));
    let end = kept.sends_until_closed(&chunk);
    assert!(kept.withheld > MAX_WITHHELD_BODY);
    let to_server = end.decoded();
    assert_eq!(to_server.flags, ACK | FIN);
    assert_eq!(
        (to_server.seq, to_server.ack),
        (kept.talk.client_start, kept.talk.server_start)
    );
    // The client gets the end of the stream after the response that it has.
    let to_client = end.answer();
    assert_eq!(to_client.seq, response.seq);
    assert_eq!(to_client.flags, ACK | PSH | FIN);
    assert_eq!(to_client.text(), response.text());
}

#[test]
fn a_pipeline_is_answered_in_its_order() {
    let mut kept = Kept::opened();
    let (first, second, third) = (get("/1"), spent(), get("/3"));
    let all = [first.clone(), second.clone(), third.clone()].concat();
    // The first request passes alone.
    let segment = kept.client_at(0, &all);
    let ran = kept.run(&segment);
    assert_eq!(ran.verdict, Verdict::Pass);
    assert_eq!(ran.decoded().payload, first.as_bytes());
    kept.talk.asked += len(&first);
    // The second one has to wait for the response to the first.
    let rest = kept.client_at(kept.next(), second.clone() + &third);
    assert_eq!(kept.run(&rest).verdict, Verdict::Drop);
    kept.answers(ok("one"));
    let rest = kept.client_at(kept.next(), second.clone() + &third);
    let answer = kept.answered(&rest);
    assert_eq!(kept.client_position(answer.ack), len(&first) + len(&second));
    kept.withheld += len(&second);
    kept.injected += len(&answer.payload);
    kept.admitted(third);
    kept.answers(ok("three"));
}

#[test]
fn a_request_that_ends_the_connection_is_answered_and_closed() {
    let head = "GET / HTTP/1.1\r\nX-Api-Key: key-spent\r\n";
    let old = "GET / HTTP/1.0\r\nX-Api-Key: key-spent\r\n";
    for (request, keeps) in [
        (format!("{head}Connection: close\r\n\r\n"), false),
        (
            format!("{head}Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"),
            false,
        ),
        (format!("{old}\r\n"), false),
        (format!("{old}Connection: keep-alive\r\n\r\n"), true),
        (format!("{head}Connection: keep-alive\r\n\r\n"), true),
    ] {
        let mut kept = Kept::opened();
        let segment = kept.client_at(0, &request);
        let answer = kept.first_answer(&segment);
        assert_eq!(answer.flags & FIN == 0, keeps, "{request}");
    }
    // The client closes its side after the request.
    let mut kept = Kept::opened();
    let segment = kept.client_at(0, spent()).with_flags(ACK | PSH | FIN);
    assert_eq!(kept.first_answer(&segment).flags, ACK | PSH | FIN);
    drop(kept);
    // The server already has a part of the head.
    let mut kept = Kept::opened();
    let (one, two) = (spent()[..20].to_owned(), spent()[20..].to_owned());
    kept.admitted(one);
    kept.talk.server_acked = kept.talk.asked;
    let segment = kept.client_at(kept.next(), two);
    assert_eq!(kept.run(&segment).answer().flags, ACK | PSH | FIN);
    assert_counters(
        &kept.programs,
        &[
            (counter::REFUSED_DAILY_QUOTA, 1),
            (counter::RESPONSES_SENT, 1),
            (counter::RESETS_SENT, 1),
            (counter::SPLIT_CLOSED, 1),
        ],
    );
}

#[test]
fn a_head_request_gets_no_body_and_a_missing_key_a_401() {
    let mut kept = Kept::opened();
    let answer = kept.refused(spent().replace("GET", "HEAD"));
    assert!(answer.text().ends_with("\r\n\r\n"));
    kept.programs.configure(|config| {
        config.on_limit = policy::ON_LIMIT_KEEPALIVE;
        config.missing_key = policy::REJECT;
    });
    let answer = kept.refused("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(answer.text().starts_with("HTTP/1.1 401 "));
    kept.admitted(get("/"));
    // The end of a malformed request is unknown.
    kept.answers(ok("one"));
    let segment = kept.client_at(kept.next(), "GET / HTTP/1.1\r\nno field\r\n\r\n");
    assert_eq!(kept.run(&segment).answer().flags & FIN, FIN);
}

#[test]
fn a_client_without_room_gets_the_response_when_it_has_room() {
    let mut kept = Kept::opened();
    kept.admitted(get("/"));
    kept.answers(ok("one"));
    let segment = kept.client_at(kept.next(), spent());
    let response = kept.answered(&segment);
    // The client had no room, and has taken only the acknowledgement.
    let again = segment.clone().with_window(0);
    assert_eq!(kept.run(&again).verdict, Verdict::Drop);
    kept.withheld += len(spent());
    for (window, answers) in [(0, false), (100, true)] {
        let update = kept.client_at(kept.next(), b"").with_flags(ACK);
        let ran = kept.run(&update.with_window(window));
        assert_eq!(ran.verdict == Verdict::Drop, answers, "{window}");
        if answers {
            assert_eq!(ran.answer().text(), response.text());
        }
    }
    // The number of repetitions is limited if the client never acknowledges the whole response.
    let update = kept.client_at(kept.next(), b"").with_flags(ACK);
    let answers = (0..20).filter(|_| kept.run(&update).verdict == Verdict::Drop);
    assert!(answers.count() < 10);
}

#[test]
fn the_window_of_an_answer_is_that_of_the_server() {
    let mut programs = programs();
    let mut talk = Talk::new(Shape::v4());
    let syn = talk.syn();
    // The window of a SYN-ACK is not scaled (RFC 7323, section 2.2).
    let syn_ack = talk.syn_ack().with_options(vec![1, 3, 3, 7]);
    for (to_server, segment) in [(true, syn), (false, syn_ack)] {
        talk.run(&mut programs, to_server, &segment);
    }
    let mut kept = Kept {
        programs,
        talk,
        withheld: 0,
        injected: 0,
    };
    let answer = kept.refused(spent());
    assert_eq!(answer.window, kept.talk.window >> 7);
    let flow = kept.programs.flow(&kept.talk.key()).expect("a flow");
    let beyond = flow.window_end.since(flow.next);
    assert_eq!(
        beyond,
        i32::from(kept.talk.window),
        "what the server offered"
    );
}
