// SPDX-License-Identifier: MIT OR Apache-2.0

//! Offers of HTTP/2 and TLS in the field `Upgrade`. The programs overwrite them before the server
//! sees them.

use limiter_common::abi::{counter, phase, policy};
use limiter_tests::program::{
    Extension, Extras, Hook, Programs, RST, RunResult, Shape, Talk, Verdict, no_limits,
};

use crate::{
    support::{SCOPE, assert_counters, assert_nothing_held, get, limited, ok, opened},
    upgrades::{H2C, assert_reset, in_phase, switch, with},
};

/// Asserts that the packet has passed, that one byte of each offer differs from `sent` and all
/// other bytes of the payload are the same, and that the checksum is correct.
#[track_caller]
fn assert_declined(ran: &RunResult, sent: &str, offers: &[&str]) {
    assert_eq!(ran.verdict, Verdict::Pass);
    let mut expected = sent.to_owned();
    for offer in offers {
        assert!(expected.contains(offer), "{offer}");
        expected = expected.replacen(offer, &format!("-{}", &offer[1..]), 1);
    }
    assert_eq!(ran.decoded().text(), expected);
}

#[test]
fn http_upgrade_offer_is_removed_in_every_shape() {
    let shapes = [
        Shape::v4(),
        Shape::v6(),
        Shape::v4().bare(),
        Shape::v6().bare(),
        Shape::v4().tagged(1),
        Shape::v4_with(vec![1, 1, 1, 0]),
        Shape::v6_with(vec![Extension::options(60, 2)]),
    ];
    // The value of the field `A` shifts the offer between even and odd offsets, because a checksum
    // is calculated over words of two bytes.
    for (shape, fill) in shapes.iter().flat_map(|shape| [(shape, ""), (shape, "x")]) {
        for complete in [false, true] {
            if complete && (!shape.ethernet || shape.tags > 0) {
                continue;
            }
            let mut programs = limited(no_limits());
            let mut talk = Talk::open(&mut programs, shape.clone());
            talk.timestamps = false;
            let request = with(&format!("A: {fill}\r\n{H2C}"));
            let segment = talk.client(request.as_bytes());
            let frame = talk.shape.wrap(&talk.ends, true, &segment);
            let extras = Extras {
                checksum_complete: complete,
                ..Extras::default()
            };
            let hook = Hook::of(true, shape.ethernet);
            let ran = programs.run_with(hook, &frame, extras);
            assert_declined(&ran, &request, &["h2c"]);
            talk.asked += u32::try_from(request.len()).expect("short");
            assert_counters(
                &programs,
                &[(counter::ADMITTED, 1), (counter::OFFERS_DECLINED, 1)],
            );
            // A retransmission of the request is changed in the same way.
            let ran = programs.run_with(hook, &frame, extras);
            assert_declined(&ran, &request, &["h2c"]);
            // The offer has not reached the server, so a response that accepts it does not turn the
            // connection into a tunnel.
            talk.answers(&mut programs, switch("h2c"));
            assert_eq!(in_phase(&programs, &talk), phase::HTTP);
            talk.answers(&mut programs, ok("hello"));
            assert_nothing_in_flight(&programs);
            talk.asks(&mut programs, get("/"));
        }
    }
}

#[track_caller]
fn assert_nothing_in_flight(programs: &Programs) {
    assert_eq!(programs.state(SCOPE).in_flight, 0);
}

#[test]
fn only_http_and_tls_offers_are_removed_from_each_request() {
    let (mut programs, mut talk) = opened();
    let two = with("Upgrade: HTTP/2.0") + &with("upgrade:TLS/1.0");
    assert_declined(
        &talk.ask(&mut programs, &two),
        &two,
        &["HTTP/2.0", "TLS/1.0"],
    );
    talk.answers(&mut programs, ok("a") + &ok("b"));
    // This request also offers another protocol. That offer is not changed, and the server may
    // accept it.
    let both = with("Upgrade: h2c\r\nUpgrade: websocket");
    assert_declined(&talk.ask(&mut programs, &both), &both, &["h2c"]);
    talk.answers(&mut programs, switch("websocket"));
    assert_eq!(in_phase(&programs, &talk), phase::TUNNEL);
    assert_eq!(programs.counter(counter::OFFERS_DECLINED), 3);
}

#[test]
fn offer_is_removed_again_from_every_retransmission() {
    let request = with(H2C);
    let at = request.find("h2c").expect("the offer");
    // The request is sent in one segment, in two and in three.
    for cuts in [vec![], vec![10], vec![10, at + 20]] {
        let (mut programs, mut talk) = opened();
        let mut from = 0;
        for to in cuts.iter().copied().chain([request.len()]) {
            let part = &request[from..to];
            let offers: &[&str] = if (from..to).contains(&at) {
                &["h2c"]
            } else {
                &[]
            };
            assert_declined(&talk.ask(&mut programs, part), part, offers);
            from = to;
        }
        assert_eq!(programs.counter(counter::OFFERS_DECLINED), 1, "{cuts:?}");
        // The whole request is retransmitted, alone and with more bytes after it.
        let more = request.clone() + &get("/");
        for again in [&request, &more] {
            let segment = talk.client_at(0, again.as_bytes());
            let ran = talk.run(&mut programs, true, &segment);
            assert_declined(&ran, again, &["h2c"]);
        }
        // Other bytes in the place of the offer do not pass as a retransmission.
        let other = request
            .replace("h2c", "H2C")
            .replace("AAEAAEAA", "AAEAAEAB");
        let segment = talk.client_at(0, other.as_bytes());
        let ran = talk.run(&mut programs, true, &segment);
        if ran.verdict == Verdict::Pass {
            assert_declined(&ran, &other, &["H2C"]);
        }
        // This retransmission begins in the middle of the offer.
        let rest = &request[at + 1..];
        let segment = talk.client_at(u32::try_from(at + 1).expect("short"), rest.as_bytes());
        let ran = talk.run(&mut programs, true, &segment);
        if ran.verdict == Verdict::Pass {
            assert_eq!(ran.decoded().text(), rest);
        }
        assert_eq!(programs.state(SCOPE).admitted, 2, "{cuts:?}");
    }
}

#[test]
fn offer_of_a_refused_request_is_forgotten() {
    let mut limits = no_limits();
    limits.concurrency = 1;
    let (mut programs, mut talk) = opened();
    programs.limit(SCOPE, limits);
    programs.configure(|config| config.on_limit = policy::ON_LIMIT_DROP);
    talk.asks(&mut programs, get("/"));
    let offering = with(H2C);
    assert_eq!(talk.ask(&mut programs, &offering).verdict, Verdict::Drop);
    talk.answers(&mut programs, ok("hello"));
    // A later request has other bytes at the position of the refused offer. They are not changed.
    let other = get(&"/".repeat(offering.len() - get("").len()));
    assert_eq!(other.len(), offering.len());
    talk.asks(&mut programs, &other);
    let segment = talk.client_at(
        u32::try_from(get("/").len()).expect("short"),
        other.as_bytes(),
    );
    let ran = talk.run(&mut programs, true, &segment);
    assert_eq!(ran.decoded().text(), other);
    assert_eq!(programs.counter(counter::OFFERS_DECLINED), 0);
}

#[test]
fn unremovable_offer_ends_the_connection_when_accepted() {
    let request = with(H2C);
    let at = request.find("h2c").expect("the offer");
    let twice = with("Upgrade: h2c, TLS/1.0");
    // In the fourth case, the request contains more than one offer. In the other cases, at least a
    // part of the offer passes before the programs can recognize it.
    for (request, cut) in [
        (&request, at + 1),
        (&request, at + 3),
        (&request, at + 4),
        (&twice, 0),
        (&request.replace("GET", "HEAD"), at + 3),
    ] {
        for split_answer in [false, true] {
            let (mut programs, mut talk) = opened();
            if cut > 0 {
                talk.asks(&mut programs, &request[..cut]);
            }
            talk.asks(&mut programs, &request[cut..]);
            let answer = switch("h2c") + "\0\0\0\u{4}\0\0\0\0\0";
            if split_answer {
                talk.answers(&mut programs, &answer[..20]);
            }
            talk.server_acked = talk.asked;
            let rest = &answer[if split_answer { 20 } else { 0 }..];
            let segment = talk.server(rest.as_bytes());
            let ran = talk.run(&mut programs, false, &segment);
            assert_reset(&ran);
            // Both resets have exactly the sequence numbers that their receivers expect.
            assert_eq!(ran.decoded().seq, segment.seq);
            assert_eq!(ran.answer().seq, segment.ack);
            assert_counters(
                &programs,
                &[
                    (counter::ADMITTED, 1),
                    (counter::HTTP2, 1),
                    (counter::RESETS_SENT, 2),
                ],
            );
            assert_nothing_held(&programs);
            assert!(programs.flow(&talk.key()).is_none());
            // A side that has missed its reset gets another one.
            let ran = talk.ask(&mut programs, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
            assert_eq!(ran.verdict, Verdict::Redirect);
            assert_eq!(ran.decoded().flags & RST, RST);
            let ran = talk.run(&mut programs, false, &segment);
            assert_eq!(
                (ran.verdict, ran.decoded().flags & RST),
                (Verdict::Redirect, RST)
            );
        }
        // The connection continues if the server does not accept the offer.
        let (mut programs, mut talk) = opened();
        if cut > 0 {
            talk.asks(&mut programs, &request[..cut]);
        }
        talk.asks(&mut programs, &request[cut..]);
        talk.answers(
            &mut programs,
            ok(if request.starts_with("HEAD") { "" } else { "x" }),
        );
        talk.asks(&mut programs, get("/"));
        assert_eq!(programs.state(SCOPE).admitted, 2);
    }
}

#[test]
fn offers_beyond_the_bound_pass_unchanged() {
    let (mut programs, mut talk) = opened();
    let request = with(H2C);
    for _ in 0..4 {
        assert_declined(&talk.ask(&mut programs, &request), &request, &["h2c"]);
    }
    talk.asks(&mut programs, &request);
    for number in 0..4 {
        let at = u32::try_from(number * request.len()).expect("short");
        let segment = talk.client_at(at, request.as_bytes());
        assert_declined(&talk.run(&mut programs, true, &segment), &request, &["h2c"]);
    }
    talk.answers(&mut programs, ok("x").repeat(4));
    talk.server_acked = talk.asked;
    let segment = talk.server(switch("h2c").as_bytes());
    assert_reset(&talk.run(&mut programs, false, &segment));
}

#[test]
fn http2_pass_policy_keeps_offers_and_counts_the_tunnel() {
    let (mut programs, mut talk) = opened();
    programs.configure(|config| config.http2 = policy::PASS);
    talk.asks(&mut programs, with(H2C));
    talk.answers(&mut programs, switch("h2c"));
    talk.asks(&mut programs, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    assert_counters(
        &programs,
        &[
            (counter::ADMITTED, 1),
            (counter::HTTP2, 1),
            (counter::TUNNELS, 1),
            (counter::TUNNEL_BYTES, 24),
        ],
    );
    assert_eq!(programs.state(SCOPE).in_flight, 1);
}
