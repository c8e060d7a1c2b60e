// SPDX-License-Identifier: MIT OR Apache-2.0

//! Requests over a limit: the packets that the client and the server get, and the state that the
//! programs keep.

use limiter_common::abi::{
    Limits, TOMB_HEAD, TOMB_RESET_CLIENT, TOMB_RESET_SERVER, counter, policy, reason,
};
use limiter_tests::program::{ACK, FIN, PSH, RST, RunResult, Shape, Talk, Verdict, no_limits};

use crate::{
    shapes::shapes,
    support::{SCOPE, assert_counters, get, limited},
};

/// Returns limits with which every request is refused.
fn nothing() -> Limits {
    Limits {
        daily_quota: 0,
        ..no_limits()
    }
}

fn text_of(why: u32) -> String {
    let text = limiter_tests::program::text(why);
    let len = usize::try_from(text.len).expect("a length");
    String::from_utf8(text.bytes[..len].to_vec()).expect("ASCII")
}

/// Sends a request, which must be refused with a response.
#[track_caller]
fn refused(programs: &mut limiter_tests::program::Programs, talk: &mut Talk) -> RunResult {
    let segment = talk.client(get("/").as_bytes());
    let ran = talk.run(programs, true, &segment);
    assert_eq!(
        ran.verdict,
        Verdict::Pass,
        "the packet goes on as the server's: {:?}",
        programs.counters()
    );
    ran
}

#[test]
fn client_gets_a_response_and_server_gets_a_fin_in_every_shape() {
    for (what, shape) in shapes().into_iter().filter(|(_, shape)| shape.is_usual()) {
        for timestamps in [false, true] {
            let mut programs = limited(nothing());
            let mut talk = Talk::new(shape.clone());
            talk.timestamps = timestamps;
            let mut talk = talk.opened(&mut programs);
            let ran = refused(&mut programs, &mut talk);
            let request = talk.client(get("/").as_bytes());

            assert_eq!(ran.sent.len(), 1, "{what}, {:?}", programs.counters());
            let to_client = ran.answer();
            assert_eq!(
                (to_client.from, to_client.to),
                (talk.ends.server, talk.ends.client),
                "{what}"
            );
            assert_eq!(
                to_client.ports,
                (talk.ends.server_port, talk.ends.client_port),
                "{what}"
            );
            assert_eq!(to_client.seq, talk.server_start, "{what}");
            let end = request
                .seq
                .wrapping_add(u32::try_from(get("/").len()).expect("a length"));
            assert_eq!(to_client.ack, end, "{what}");
            assert_eq!(to_client.flags, ACK | PSH | FIN, "{what}");
            assert!(to_client.window >= 500, "{what}: {}", to_client.window);
            assert!(to_client.text().starts_with("HTTP/1.1 429 "), "{what}");
            assert!(to_client.text().ends_with("enough for today"), "{what}");
            assert_eq!(
                to_client.text().len(),
                text_of(reason::DAILY_QUOTA).len(),
                "{what}"
            );

            let to_server = ran.decoded();
            assert_eq!(
                (to_server.from, to_server.to),
                (talk.ends.client, talk.ends.server),
                "{what}"
            );
            assert_eq!(
                (to_server.seq, to_server.ack),
                (talk.client_start, talk.server_start),
                "{what}"
            );
            assert_eq!(
                (to_server.flags, to_server.payload.len()),
                (ACK | FIN, 0),
                "{what}"
            );
            assert_eq!(to_server.tags, talk.shape.tags, "{what}");
            assert_eq!(to_client.tags, talk.shape.tags, "{what}");
            let swapped = to_server.macs.map(|(from, to)| (to, from));
            assert_eq!(to_client.macs, swapped, "{what}");
            for packet in [&to_client, &to_server] {
                let plain = if talk.ends.client.is_ipv4() { 20 } else { 40 };
                assert_eq!(packet.ip_header, plain, "{what}: options are left out");
                let options = if timestamps { 12 } else { 0 };
                assert_eq!(packet.options.len(), options, "{what}");
            }
            assert_eq!(ran.mark, 0, "{what}: the packet that goes on has no mark");

            assert!(programs.flow(&talk.key()).is_none(), "{what}");
            let tomb = programs.tomb(&talk.key()).expect(what);
            assert_eq!(
                (tomb.text.reason, tomb.flags & 0xff),
                (reason::DAILY_QUOTA, 0),
                "{what}"
            );
            let state = programs.state(SCOPE);
            assert_eq!(
                (state.admitted, state.in_flight, state.connections),
                (0, 0, 0),
                "{what}"
            );
            assert_eq!(
                (state.day_count, state.refused),
                (0, [0, 0, 0, 1]),
                "{what}"
            );
            assert_counters(
                &programs,
                &[
                    (counter::REFUSED_DAILY_QUOTA, 1),
                    (counter::RESPONSES_SENT, 1),
                ],
            );
        }
    }
}

#[test]
fn sent_timestamps_are_acceptable_to_the_receiver() {
    let mut programs = limited(nothing());
    let mut talk = Talk::new(Shape::v4());
    talk.timestamps = true;
    let mut talk = talk.opened(&mut programs);
    let segment = talk.client(get("/").as_bytes());
    let ran = talk.run(&mut programs, true, &segment);
    let value = |options: &[u8], at: usize| {
        u32::from_be_bytes(options[at..at + 4].try_into().expect("four bytes"))
    };
    let (of_client, seen) = (value(&segment.options, 4), value(&segment.options, 8));
    let to_client = ran.answer().options;
    assert!(
        value(&to_client, 4) >= seen,
        "not older than the last one that the client received"
    );
    assert_eq!(value(&to_client, 8), of_client);
    let to_server = ran.decoded().options;
    assert_eq!(
        (value(&to_server, 4), value(&to_server, 8)),
        (of_client, seen)
    );
    // The client retransmits the request with a newer timestamp. Then a delayed copy of the request
    // arrives, with an older timestamp.
    let mut answered = |ticks| {
        talk.set_ticks(ticks);
        let again = talk.client_at(0, get("/").as_bytes());
        value(&talk.run(&mut programs, true, &again).decoded().options, 4)
    };
    let newer = answered(of_client + 100);
    assert!(newer >= of_client + 100);
    assert_eq!(answered(of_client + 50), newer, "no step back");
}

#[test]
fn every_limit_has_its_own_response() {
    for (limits, why, total) in [
        (nothing(), reason::DAILY_QUOTA, counter::REFUSED_DAILY_QUOTA),
        (
            Limits {
                concurrency: 0,
                ..no_limits()
            },
            reason::CONCURRENCY,
            counter::REFUSED_CONCURRENCY,
        ),
        (
            Limits {
                connections: 0,
                ..no_limits()
            },
            reason::CONNECTIONS,
            counter::REFUSED_CONNECTIONS,
        ),
    ] {
        let mut programs = limited(limits);
        let mut talk = Talk::open(&mut programs, Shape::v4());
        let ran = refused(&mut programs, &mut talk);
        let body = text_of(why)
            .split("\r\n\r\n")
            .nth(1)
            .expect("a body")
            .to_owned();
        assert!(
            ran.answer().text().ends_with(&body),
            "{}",
            ran.answer().text()
        );
        assert_counters(&programs, &[(total, 1), (counter::RESPONSES_SENT, 1)]);
        let index = usize::try_from(why).expect("an index");
        assert_eq!(programs.state(SCOPE).refused[index], 1);
    }
}

#[test]
fn head_gets_no_body() {
    let mut programs = limited(nothing());
    let mut talk = Talk::open(&mut programs, Shape::v4());
    let ran = talk.ask(&mut programs, get("/").replace("GET", "HEAD"));
    let text = ran.answer().text();
    assert!(
        text.starts_with("HTTP/1.1 429 ") && text.ends_with("\r\n\r\n"),
        "{text}"
    );
    assert!(text.contains("\r\nContent-Length: 16\r\n"), "{text}");
    assert_eq!(
        programs.tomb(&talk.key()).expect("a tomb").flags & 0xff,
        TOMB_HEAD
    );
}

#[test]
fn a_request_in_two_segments_is_refused_and_its_server_reset() {
    let request = get("/");
    for split in [1, 10, request.len() - 1] {
        let mut programs = limited(nothing());
        let mut talk = Talk::open(&mut programs, Shape::v4());
        talk.asks(&mut programs, &request[..split]);
        let ran = talk.ask(&mut programs, &request[split..]);
        assert!(
            ran.answer().text().starts_with("HTTP/1.1 429 "),
            "split at {split}"
        );
        let to_server = ran.decoded();
        assert_eq!(to_server.flags & (RST | FIN), RST, "split at {split}");
        let at = u32::try_from(split).expect("a length");
        assert_eq!(to_server.seq, talk.client_start + at, "split at {split}");
        let flags = programs.tomb(&talk.key()).expect("a tomb").flags & 0xff;
        assert_eq!(flags, TOMB_RESET_SERVER, "split at {split}");
    }
}

#[test]
fn reset_resets_both_sides() {
    let mut programs = limited(nothing());
    programs.configure(|config| config.on_limit = policy::ON_LIMIT_RESET);
    let mut talk = Talk::open(&mut programs, Shape::v4());
    let ran = refused(&mut programs, &mut talk);
    let (to_server, to_client) = (ran.decoded(), ran.answer());
    assert_eq!(
        (to_server.flags & RST, to_server.seq),
        (RST, talk.client_start)
    );
    assert_eq!(
        (to_client.flags & RST, to_client.seq),
        (RST, talk.server_start)
    );
    let flags = programs.tomb(&talk.key()).expect("a tomb").flags & 0xff;
    assert_eq!(flags, TOMB_RESET_SERVER | TOMB_RESET_CLIENT);
    assert_counters(
        &programs,
        &[(counter::REFUSED_DAILY_QUOTA, 1), (counter::RESETS_SENT, 2)],
    );
}

#[test]
fn drop_drops_and_counts_the_request_once() {
    let mut programs = limited(nothing());
    programs.configure(|config| config.on_limit = policy::ON_LIMIT_DROP);
    let mut talk = Talk::open(&mut programs, Shape::v4());
    for _ in 0..3 {
        assert_eq!(talk.ask(&mut programs, get("/")).verdict, Verdict::Drop);
    }
    assert_counters(
        &programs,
        &[
            (counter::REFUSED_DAILY_QUOTA, 1),
            (counter::LIMIT_DROPPED, 3),
        ],
    );
    assert!(programs.flow(&talk.key()).is_some());
    // The request passes when the limit permits it again.
    programs.limit(SCOPE, no_limits());
    talk.asks(&mut programs, get("/"));
    // The next refused request is counted as another refusal.
    programs.limit(SCOPE, nothing());
    talk.ask(&mut programs, get("/"));
    assert_eq!(programs.counter(counter::REFUSED_DAILY_QUOTA), 2);
}

#[test]
fn a_refusal_waits_until_the_server_is_quiet() {
    let mut programs = limited(Limits {
        concurrency: 1,
        ..no_limits()
    });
    let mut talk = Talk::open(&mut programs, Shape::v4());
    talk.asks(&mut programs, get("/"));
    assert_eq!(talk.ask(&mut programs, get("/2")).verdict, Verdict::Drop);
    assert_counters(
        &programs,
        &[(counter::ADMITTED, 1), (counter::NOT_QUIET_DROPPED, 1)],
    );
    // The request is over the limit only while the client's own previous request is in flight. It
    // is therefore not refused at once, and is admitted after the response to the previous request.
    talk.answers(
        &mut programs,
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    );
    talk.asks(&mut programs, get("/2"));
    assert_eq!(programs.state(SCOPE).refused, [0; 4]);
}

#[test]
fn refusal_waits_until_the_client_has_acknowledged_the_server() {
    let mut programs = limited(Limits {
        daily_quota: 1,
        ..no_limits()
    });
    let mut talk = Talk::open(&mut programs, Shape::v4());
    talk.asks(&mut programs, get("/"));
    let before = talk.answered;
    talk.answers(
        &mut programs,
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    );
    let early = talk
        .client(get("/2").as_bytes())
        .with_ack(talk.server_start + before);
    assert_eq!(talk.run(&mut programs, true, &early).verdict, Verdict::Drop);
    assert_counters(
        &programs,
        &[(counter::ADMITTED, 1), (counter::NOT_QUIET_DROPPED, 1)],
    );
    assert_eq!(programs.state(SCOPE).refused, [0; 4]);
    let ran = talk.ask(&mut programs, get("/2"));
    assert!(ran.answer().text().starts_with("HTTP/1.1 429 "));
}

#[test]
fn refusal_without_a_text_resets_both_sides() {
    let mut programs = limited(nothing());
    programs.forget_text(reason::DAILY_QUOTA);
    let mut talk = Talk::open(&mut programs, Shape::v4());
    let ran = refused(&mut programs, &mut talk);
    assert_eq!(
        (ran.decoded().flags & RST, ran.answer().flags & RST),
        (RST, RST)
    );
}
