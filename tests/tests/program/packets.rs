// SPDX-License-Identifier: MIT OR Apache-2.0

//! A table of packets that belong to no connection.

use limiter_common::abi::counter;
use limiter_tests::program::{
    ACK, Ends, Extension, Extras, FIN, Hook, OWN_MARK, Programs, SYN, Segment, Shape, Talk,
    Verdict, mend_ip_checksum,
};

use crate::{
    support::{assert_counters, opened},
    table::{DESTINATION, Row, check, request, request_of},
};

const UDP: u8 = 17;

/// Returns an IP packet of another protocol.
fn of_protocol(shape: &Shape, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let ends = shape.ends();
    shape.around(ends.client, ends.server, protocol, true, payload)
}

/// Returns a frame that does not carry IP.
fn frame(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = request(&Shape::v4())[..12].to_vec();
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Returns a packet like the one from [`request`], but for a port that is not guarded.
fn elsewhere(shape: &Shape) -> Vec<u8> {
    request_of(
        shape,
        Ends {
            server_port: 8080,
            ..shape.ends()
        },
    )
}

#[test]
fn other_packets_than_tcp_of_a_guarded_port_pass_unchanged() {
    let to_80 = [&[0x9c, 0x40, 0, 80, 0, 20, 0, 0][..], &[7; 12]].concat();
    // In this packet, port 80 is the client's port.
    let from_80 = Ends {
        client_port: 80,
        server_port: 8080,
        ..Ends::v4()
    };
    let behind = Shape::v6_with(vec![
        Extension::options(DESTINATION, 2),
        Extension::authentication(),
    ]);
    let (v4, v6, bare) = (Shape::v4(), Shape::v6(), Shape::v4().bare());
    let into = |what, packet| Row::new(what, Hook::Ingress, packet);
    check(vec![
        into("ARP", frame(0x0806, &[0; 46])),
        into(
            "ARP behind a tag",
            frame(0x8100, &[0, 5, 8, 6, 0, 1, 8, 0, 6, 4]),
        ),
        into("a bridge's (802.3)", frame(38, &[0x42; 46])),
        into("a frame that ends in a tag", frame(0x8100, &[0])),
        into("UDP, IPv4", of_protocol(&v4, UDP, &to_80)),
        into("UDP, IPv6", of_protocol(&v6, UDP, &to_80)),
        into("UDP behind extensions", of_protocol(&behind, UDP, &to_80)),
        into("ICMP", of_protocol(&v4, 1, &[8; 16])),
        into("ICMPv6", of_protocol(&v6, 58, &[128; 16])),
        into("ESP, IPv6", of_protocol(&v6, 50, &to_80)),
        into("no next header, IPv6", of_protocol(&v6, 59, &[])),
        into("another port", elsewhere(&v4)),
        into("another port, IPv6", elsewhere(&v6)),
        into("another port behind extensions", elsewhere(&behind)),
        into("a request from port 80", request_of(&v4, from_80)),
        Row::new("UDP, egress", Hook::Egress, of_protocol(&v4, UDP, &to_80)),
        Row::new("another port, egress", Hook::Egress, elsewhere(&v4)),
        Row::new(
            "UDP, bare",
            Hook::IngressBare,
            of_protocol(&bare, UDP, &to_80),
        ),
        Row::new("another port, bare", Hook::IngressBare, elsewhere(&bare)),
    ]);
}

#[test]
fn every_guarded_port_is_guarded_and_no_other() {
    for (guarded, port, inspected) in [
        (&[80_u16, 8080][..], 80, 1),
        (&[80, 8080], 8080, 1),
        (&[80, 8080], 81, 0),
        (&[1], 1, 1),
        (&[65_535], 65_535, 1),
        (&[65_535], 0, 0),
        (&[64], 0, 0),
        (&[], 80, 0),
    ] {
        let mut programs = Programs::fresh();
        programs.guard(guarded);
        let ends = Ends {
            server_port: port,
            ..Ends::v4()
        };
        programs.run(Hook::Ingress, &request_of(&Shape::v4(), ends));
        let seen = programs.counter(counter::UNTRACKED_REFUSED);
        assert_eq!(seen, inspected, "port {port} with {guarded:?} guarded");
    }
}

#[test]
fn segment_with_truncated_headers_never_passes_as_valid() {
    let packet = request(&Shape::v4());
    let cut = |len: usize| packet[..len].to_vec();
    let changed = |at: usize, byte: u8| {
        let mut packet = packet.clone();
        packet[at] = byte;
        packet
    };
    // The data offset of this packet states a TCP header of 60 bytes, but the packet ends after 20
    // bytes of the header.
    let mut short = changed(46, 0xf0);
    short.truncate(54);
    short[16..18].copy_from_slice(&40_u16.to_be_bytes());
    mend_ip_checksum(&mut short);
    let into = |what, packet| Row::new(what, Hook::Ingress, packet);
    let dropped = counter::UNREADABLE_DROPPED;
    // The headers are Ethernet (14 bytes), IPv4 (20 bytes) and TCP (20 bytes).
    check(vec![
        // The first three packets pass, because every receiver drops them before TCP processes
        // them.
        into("no TCP header", cut(14 + 20)),
        into("half a TCP header", cut(14 + 20 + 10)),
        into("an IP header of 16 bytes", changed(14, 0x44)),
        into("less than the IP header says", cut(60)).dropped(dropped),
        into("a TCP header of 16 bytes", changed(46, 0x40)).dropped(dropped),
        into("no room for TCP options", short).dropped(dropped),
    ]);
}

#[test]
fn bytes_behind_the_ip_packet_are_no_payload() {
    let (mut programs, mut talk) = opened();
    let ack = talk.client(b"").with_flags(ACK);
    let mut packet = talk.shape.wrap(&talk.ends, true, &ack);
    // An Ethernet frame is padded to 60 bytes. The padding is not part of the TCP payload.
    packet.resize(60, b'P');
    let ran = programs.run(Hook::Ingress, &packet);
    assert_eq!((ran.verdict, &ran.packet), (Verdict::Pass, &packet));
    let flow = programs.flow(&talk.key()).expect("a flow");
    assert_eq!(flow.next.0, talk.client_start);
    assert_counters(&programs, &[]);
}

fn marked(mark: u32) -> Extras {
    Extras {
        mark,
        ..Extras::default()
    }
}

#[test]
fn own_packets_pass_by_their_mark() {
    for (hook, mark) in [(Hook::Ingress, 0), (Hook::Egress, OWN_MARK)] {
        let mut programs = Programs::fresh();
        let mut packet = request(&Shape::v4());
        if hook == Hook::Ingress {
            let mut talk = Talk::new(Shape::v4());
            let end = talk.client(b"").with_flags(FIN | ACK);
            packet = talk.shape.wrap(&talk.ends, true, &end);
        }
        let ran = programs.run_with(hook, &packet, marked(OWN_MARK));
        assert_eq!((ran.verdict, ran.mark), (Verdict::Pass, mark), "{hook:?}");
        assert_eq!(ran.packet, packet);
        assert_counters(&programs, &[]);
    }
}

#[test]
fn request_with_the_mark_is_not_treated_as_own_packet() {
    // The mark is of no use to an attacker who knows it. The programs never send a payload to a
    // server, so they do not treat a request with the mark as their own.
    let mut programs = Programs::fresh();
    let packet = request(&Shape::v4());
    let ran = programs.run_with(Hook::Ingress, &packet, marked(OWN_MARK));
    assert_eq!(programs.counter(counter::UNTRACKED_REFUSED), 1);
    assert_ne!(ran.packet, packet);
}

#[test]
fn foreign_marks_are_kept() {
    let mut programs = Programs::fresh();
    let packet = request(&Shape::v4());
    programs.older_until(u64::MAX);
    for hook in [Hook::Ingress, Hook::Egress] {
        assert_eq!(
            programs.run_with(hook, &packet, marked(77)).mark,
            77,
            "{hook:?}"
        );
    }
    assert_eq!(programs.counter(counter::UNTRACKED_SEGMENTS), 1);
}

#[test]
fn syn_alone_creates_no_flow() {
    let syn = Segment {
        seq: 7,
        flags: SYN,
        window: 500,
        ..Segment::default()
    };
    let packet = Shape::v4().wrap(&Ends::v4(), true, &syn);
    let mut programs = Programs::fresh();
    assert_eq!(programs.run(Hook::Ingress, &packet).verdict, Verdict::Pass);
    assert_eq!(programs.flows(), []);
    assert_counters(&programs, &[]);
}
