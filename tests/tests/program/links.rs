// SPDX-License-Identifier: MIT OR Apache-2.0

//! Connections with the same addresses and ports on several interfaces, and packets that must leave
//! through the interface on which they arrived.

use limiter_common::abi::{Limits, Link, counter, untracked_kind};
use limiter_tests::program::{
    ACK, Extras, Hook, Programs, RST, SYN, Segment, Shape, Talk, Verdict, no_limits,
};

use crate::support::{OTHER_INTERFACE, SCOPE, get, limited, ok, opened, run_elsewhere};

/// Runs a segment on the other interface.
#[track_caller]
fn elsewhere(programs: &mut Programs, talk: &Talk, to_server: bool, segment: &Segment) -> Verdict {
    run_elsewhere(programs, talk, to_server, segment).verdict
}

/// Opens a connection on the other interface.
fn opened_elsewhere(programs: &mut Programs, mut talk: Talk) -> Talk {
    for (to_server, segment) in [(true, talk.syn()), (false, talk.syn_ack())] {
        assert_eq!(
            elsewhere(programs, &talk, to_server, &segment),
            Verdict::Pass
        );
    }
    let ack = talk.client(b"").with_flags(ACK);
    assert_eq!(elsewhere(programs, &talk, true, &ack), Verdict::Pass);
    talk
}

#[test]
fn the_same_addresses_on_two_links_are_two_connections() {
    let mut programs = limited(Limits {
        daily_quota: 3,
        ..no_limits()
    });
    let mut here = Talk::open(&mut programs, Shape::v4());
    here.asks(&mut programs, get("/"));
    // A connection with the same addresses on the other interface passes. Its sequence numbers are
    // not compared with those of the first connection.
    let mut there = opened_elsewhere(&mut programs, Talk::new(Shape::v4()));
    let request = there.client(get("/").as_bytes());
    assert_eq!(
        elsewhere(&mut programs, &there, true, &request),
        Verdict::Pass
    );
    there.asked += u32::try_from(request.payload.len()).expect("a length");
    assert_eq!(programs.state(SCOPE).admitted, 2);
    here.answers(&mut programs, ok(""));
    here.asks(&mut programs, get("/"));
    assert_eq!(programs.state(SCOPE).admitted, 3);
    // The quota is the same for both interfaces. A request over the quota is refused on the
    // interface on which the request arrived.
    there.server_acked = there.asked;
    let answer = there.server(ok("").as_bytes());
    assert_eq!(
        elsewhere(&mut programs, &there, false, &answer),
        Verdict::Pass
    );
    there.answered += u32::try_from(answer.payload.len()).expect("a length");
    let request = there.client(get("/").as_bytes());
    let packet = there.shape.wrap(&there.ends, true, &request);
    let ran = programs.run_with(Hook::Ingress, &packet, OTHER_INTERFACE);
    assert_ne!(ran.packet, packet, "refused");
    assert!(programs.flow(&here.key()).is_some());
    here.answers(&mut programs, ok(""));
    assert_eq!(programs.state(SCOPE).in_flight, 0);
}

#[test]
fn vlans_of_one_interface_are_separate_links() {
    let mut programs = limited(no_limits());
    let (mut one, mut other) = (Talk::new(Shape::v4().tagged(1)), Talk::new(Shape::v4()));
    other.server_start = one.server_start.wrapping_add(77);
    one = one.opened(&mut programs);
    other = other.opened(&mut programs);
    assert_eq!(programs.flows().len(), 2);
    for talk in [&mut one, &mut other] {
        talk.asks(&mut programs, get("/"));
        talk.answers(&mut programs, ok(""));
    }
    assert_eq!(programs.state(SCOPE).admitted, 2);
    assert_eq!(programs.state(SCOPE).in_flight, 0);
}

#[test]
fn a_connection_may_use_two_links() {
    // With equal-cost routes or a bond, each packet of a connection may use either interface.
    let (mut programs, mut talk) = opened();
    let syn_ack = talk.syn_ack();
    assert_eq!(
        elsewhere(&mut programs, &talk, false, &syn_ack),
        Verdict::Pass
    );
    assert_eq!(
        programs.flows().len(),
        1,
        "the SYN-ACK once more, on the other link"
    );
    for other in [true, false, true] {
        let request = talk.client(get("/").as_bytes());
        if other {
            assert_eq!(
                elsewhere(&mut programs, &talk, true, &request),
                Verdict::Pass
            );
            talk.asked += u32::try_from(request.payload.len()).expect("a length");
            talk.server_acked = talk.asked;
            let answer = talk.server(ok("").as_bytes());
            assert_eq!(
                elsewhere(&mut programs, &talk, false, &answer),
                Verdict::Pass
            );
            talk.answered += u32::try_from(answer.payload.len()).expect("a length");
        } else {
            talk.asks(&mut programs, get("/"));
            talk.answers(&mut programs, ok(""));
        }
        assert_eq!(programs.state(SCOPE).in_flight, 0);
    }
    assert_eq!(programs.state(SCOPE).admitted, 3);
    assert_eq!(programs.flows().len(), 1);
}

#[test]
fn refusal_is_delivered_on_whichever_link_the_client_uses() {
    let mut programs = limited(Limits {
        daily_quota: 0,
        ..no_limits()
    });
    let mut talk = Talk::open(&mut programs, Shape::v4());
    let request = talk.client(get("/").as_bytes());
    let packet = talk.shape.wrap(&talk.ends, true, &request);
    programs.run_with(Hook::Ingress, &packet, OTHER_INTERFACE);
    assert!(programs.tomb(&talk.key()).is_some());
    let ran = programs.run_with(Hook::Ingress, &packet, OTHER_INTERFACE);
    assert_eq!(ran.verdict, Verdict::Redirect, "the response once more");
    assert!(!ran.decoded().payload.is_empty());
}

#[test]
fn segment_on_another_link_with_other_numbers_is_untracked() {
    let (mut programs, mut talk) = opened();
    talk.asks(&mut programs, get("/"));
    let stray = talk
        .client(get("/").as_bytes())
        .with_ack(talk.server_start ^ 1 << 31);
    let verdict = elsewhere(&mut programs, &talk, true, &stray);
    assert_eq!(verdict, Verdict::Pass, "as a reset");
    assert_eq!(programs.counter(counter::UNTRACKED_REFUSED), 1);
    talk.answers(&mut programs, ok(""));
    talk.asks(&mut programs, get("/"));
}

#[test]
fn client_segment_looped_back_is_not_a_server_segment() {
    let (mut programs, mut talk) = opened();
    talk.asks(&mut programs, get("/"));
    let ifindex = programs.ifindex();
    let round = Extras {
        ingress_ifindex: ifindex,
        ..Extras::default()
    };
    let mut forged = Talk::new(Shape::v4());
    forged.ends.client_port = 41_000;
    let reset = talk.server(b"").with_flags(RST);
    let answer = talk.server(ok("").as_bytes());
    let syn_ack = forged.syn_ack();
    for (talk, segment) in [(&talk, reset), (&talk, answer), (&forged, syn_ack)] {
        let packet = talk.shape.wrap(&talk.ends, false, &segment);
        let ran = programs.run_with(Hook::Egress, &packet, round);
        assert_eq!((ran.verdict, ran.packet), (Verdict::Pass, packet));
    }
    assert_eq!(programs.counter(counter::HAIRPIN_DISBELIEVED), 3);
    assert_eq!(
        (programs.flows().len(), programs.state(SCOPE).in_flight),
        (1, 1)
    );
    // A packet that arrived on another interface and is forwarded by this host, as by a gateway,
    // counts as a packet from the server.
    let routed = Extras {
        ingress_ifindex: ifindex + 1,
        ..Extras::default()
    };
    let packet = talk
        .shape
        .wrap(&talk.ends, false, &talk.clone().server(ok("").as_bytes()));
    programs.run_with(Hook::Egress, &packet, routed);
    assert_eq!(programs.state(SCOPE).in_flight, 0);
}

#[test]
fn responses_to_an_outgoing_connection_are_not_requests() {
    let mut programs = limited(no_limits());
    // On this connection, the remote host is the server. Its responses must not be taken for
    // requests.
    let mut talk = Talk::new(Shape::v4());
    let syn = Segment {
        seq: talk.server_start.wrapping_sub(1),
        flags: SYN,
        window: 500,
        ..Segment::default()
    };
    assert_eq!(talk.run(&mut programs, false, &syn).verdict, Verdict::Pass);
    let syn_ack = Segment {
        seq: talk.client_start.wrapping_sub(1),
        ack: talk.server_start,
        flags: SYN | ACK,
        window: 500,
        ..Segment::default()
    };
    assert_eq!(
        talk.run(&mut programs, true, &syn_ack).verdict,
        Verdict::Pass
    );
    talk.asks(&mut programs, ok("not a request at all"));
    let known = programs.untracked(&talk.key()).expect("it is known");
    assert_eq!(known.kind, untracked_kind::OUTBOUND);
    assert_eq!(programs.counter(counter::OUTBOUND_CONNECTIONS), 1);
    let bytes = u64::try_from(ok("not a request at all").len()).expect("a length");
    assert_eq!(programs.counter(counter::OUTBOUND_BYTES), bytes);
    // A SYN-ACK that answers no SYN is still dropped, and a connection from a client of the guarded
    // port is still followed.
    let mut other = Talk::new(Shape::v4());
    other.ends.client_port = 41_000;
    assert_eq!(
        other.run(&mut programs, true, &syn_ack).verdict,
        Verdict::Drop
    );
    let mut client = Talk::new(Shape::v4()).opened(&mut programs);
    assert!(programs.untracked(&client.key()).is_none());
    client.asks(&mut programs, get("/"));
    assert_eq!(programs.state(SCOPE).admitted, 1);
}

#[test]
fn flow_records_its_link() {
    let (programs, talk) = opened();
    let flow = programs.flow(&talk.key()).expect("a flow");
    let link = Link {
        ifindex: programs.ifindex(),
        vlan: 0,
    };
    assert_eq!((flow.link, flow.key.link), (link, Link::NONE));
}
