//! One packet, one verdict: a table.

use limiter_common::abi::{OWN_MARK, counter};
use limiter_tests::program::{
    ACK, Ends, Extension, Fragment, Hook, Programs, SYN, Segment, Shape, Talk, Verdict, no_limits,
};

use crate::support::{KEY, SCOPE, counted, get};

const UDP: u8 = 17;
const TCP: u8 = 6;
const HOP_BY_HOP: u8 = 0;
const DESTINATION: u8 = 60;

struct Row {
    what: &'static str,
    hook: Hook,
    packet: Vec<u8>,
    verdict: Verdict,
    counters: &'static [(u32, u64)],
}

fn row(
    what: &'static str,
    hook: Hook,
    packet: Vec<u8>,
    verdict: Verdict,
    counters: &'static [(u32, u64)],
) -> Row {
    Row {
        what,
        hook,
        packet,
        verdict,
        counters,
    }
}

/// What passes without a trace.
fn other(what: &'static str, hook: Hook, packet: Vec<u8>) -> Row {
    row(what, hook, packet, Verdict::Pass, &[])
}

/// Runs each row on programs that know a scope and no connection; what passes must be untouched.
#[track_caller]
fn check(rows: Vec<Row>) {
    for Row {
        what,
        hook,
        packet,
        verdict,
        counters,
    } in rows
    {
        let mut programs = Programs::fresh();
        programs.scope(SCOPE, KEY, no_limits());
        let ran = programs.run(hook, &packet);
        println!("{what}: {:?}, {:?}", ran.verdict, programs.counters());
        assert_eq!(ran.verdict, verdict, "{what}");
        if verdict == Verdict::Pass {
            assert_eq!(ran.packet, packet, "{what}: changed");
        }
        assert_eq!(ran.sent, [] as [Vec<u8>; 0], "{what}: sent besides");
        counted(&programs, counters);
    }
}

/// A request to the guarded port in a shape, on a connection that is not followed.
fn request(shape: &Shape) -> Vec<u8> {
    request_of(shape, shape.ends())
}

fn request_of(shape: &Shape, ends: Ends) -> Vec<u8> {
    let segment = Talk::new(shape.clone()).client(get("/").as_bytes());
    shape.wrap(&ends, true, &segment)
}

/// An IP packet of another protocol.
fn of_protocol(shape: &Shape, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let ends = shape.ends();
    shape.around(ends.client, ends.server, protocol, true, payload)
}

/// A frame that is not of IP.
fn frame(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = request(&Shape::v4())[..12].to_vec();
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

#[test]
fn what_is_not_tcp_of_a_guarded_port_is_left_alone() {
    let to_80 = [&[0x9c, 0x40, 0, 80, 0, 20, 0, 0][..], &[7; 12]].concat();
    let elsewhere = Ends {
        server_port: 8080,
        ..Ends::v4()
    };
    // The client's own port is no server's.
    let outgoing = Ends {
        client_port: 80,
        server_port: 8080,
        ..Ends::v4()
    };
    let elsewhere_v6 = Ends {
        server_port: 8080,
        ..Ends::v6()
    };
    let options = Extension::options(DESTINATION, 2);
    let authentication = Extension::authentication();
    check(vec![
        other("ARP", Hook::Ingress, frame(0x0806, &[0; 46])),
        other(
            "ARP behind a tag",
            Hook::Ingress,
            frame(0x8100, &[0, 5, 8, 6, 0, 1, 8, 0, 6, 4]),
        ),
        other("a bridge's (802.3)", Hook::Ingress, frame(38, &[0x42; 46])),
        other(
            "a frame that ends in a tag",
            Hook::Ingress,
            frame(0x8100, &[0]),
        ),
        other(
            "UDP, IPv4",
            Hook::Ingress,
            of_protocol(&Shape::v4(), UDP, &to_80),
        ),
        other(
            "UDP, IPv4, egress",
            Hook::Egress,
            of_protocol(&Shape::v4(), UDP, &to_80),
        ),
        other(
            "UDP, IPv6",
            Hook::Ingress,
            of_protocol(&Shape::v6(), UDP, &to_80),
        ),
        other("UDP without a link header", Hook::IngressBare, {
            of_protocol(&Shape::v4().bare(), UDP, &to_80)
        }),
        other(
            "ICMP",
            Hook::Ingress,
            of_protocol(&Shape::v4(), 1, &[8; 16]),
        ),
        other(
            "ICMPv6",
            Hook::Ingress,
            of_protocol(&Shape::v6(), 58, &[128; 16]),
        ),
        other(
            "ESP, IPv6",
            Hook::Ingress,
            of_protocol(&Shape::v6(), 50, &to_80),
        ),
        other(
            "no next header, IPv6",
            Hook::Ingress,
            of_protocol(&Shape::v6(), 59, &[]),
        ),
        other("UDP behind options, IPv6", Hook::Ingress, {
            of_protocol(&Shape::v6_with(vec![options.clone()]), UDP, &to_80)
        }),
        other(
            "another port",
            Hook::Ingress,
            request_of(&Shape::v4(), elsewhere),
        ),
        other(
            "another port, egress",
            Hook::Egress,
            request_of(&Shape::v4(), elsewhere),
        ),
        other(
            "another port, IPv6",
            Hook::Ingress,
            request_of(&Shape::v6(), elsewhere_v6),
        ),
        other("another port behind extensions", Hook::Ingress, {
            let shape = Shape::v6_with(vec![options, authentication]);
            request_of(&shape, elsewhere_v6)
        }),
        other(
            "a request from port 80",
            Hook::Ingress,
            request_of(&Shape::v4(), outgoing),
        ),
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
        let seen = programs.counter(counter::UNTRACKED_SEGMENTS);
        assert_eq!(seen, inspected, "port {port} with {guarded:?} guarded");
    }
}

#[test]
fn a_request_is_found_in_every_shape() {
    let options = |kind, units| Extension::options(kind, units);
    let whole = Fragment {
        offset: 0,
        more: false,
    };
    for (what, shape) in shapes() {
        let mut programs = Programs::fresh();
        programs.scope(SCOPE, KEY, no_limits());
        let mut talk = Talk::open(&mut programs, shape);
        talk.asks(&mut programs, get("/"));
        assert_eq!(programs.state(SCOPE).admitted, 1, "{what}");
        assert!(
            programs.flow(&talk.key()).is_some(),
            "{what}: the flow's key"
        );
        counted(&programs, &[(counter::ADMITTED, 1)]);
    }
    // The same, where it would be found if nothing were in the way.
    let far = vec![options(HOP_BY_HOP, 200), options(DESTINATION, 100)];
    let many = vec![options(DESTINATION, 1); 9];
    let mixed = vec![
        options(HOP_BY_HOP, 1),
        Extension::fragment(whole),
        options(DESTINATION, 3),
    ];
    for (what, extensions, verdict, counters) in [
        (
            "2400 bytes of extensions",
            far,
            Verdict::Drop,
            &[(counter::UNREADABLE_DROPPED, 1)][..],
        ),
        (
            "nine extensions",
            many,
            Verdict::Drop,
            &[(counter::UNREADABLE_DROPPED, 1)],
        ),
        (
            "an atomic fragment",
            mixed,
            Verdict::Pass,
            &[
                (counter::UNTRACKED_SEGMENTS, 1),
                (counter::UNTRACKED_BYTES, 47),
            ],
        ),
    ] {
        let shape = Shape::v6_with(extensions);
        check(vec![row(
            what,
            Hook::Ingress,
            request(&shape),
            verdict,
            counters,
        )]);
    }
}

/// Every way to wrap a segment that is followed.
pub fn shapes() -> Vec<(&'static str, Shape)> {
    let options = |kind, units| Extension::options(kind, units);
    let timestamp = vec![68, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let whole = Fragment {
        offset: 0,
        more: false,
    };
    vec![
        ("IPv4", Shape::v4()),
        ("IPv6", Shape::v6()),
        ("IPv4 with one tag", Shape::v4().tagged(1)),
        ("IPv4 with two tags", Shape::v4().tagged(2)),
        ("IPv6 with two tags", Shape::v6().tagged(2)),
        ("IPv4 with no-ops", Shape::v4_with(vec![1; 4])),
        ("IPv4 with a timestamp", Shape::v4_with(timestamp)),
        ("IPv4 with all its options", Shape::v4_with(vec![1; 40])),
        (
            "IPv6 with hop-by-hop options",
            Shape::v6_with(vec![options(HOP_BY_HOP, 1)]),
        ),
        (
            "IPv6 with destination options",
            Shape::v6_with(vec![options(DESTINATION, 32)]),
        ),
        (
            "IPv6 with authentication",
            Shape::v6_with(vec![Extension::authentication()]),
        ),
        (
            "IPv6 with eight extensions",
            Shape::v6_with(vec![options(DESTINATION, 1); 8]),
        ),
        (
            "IPv6, whole in a fragment header",
            Shape::v6_with(vec![Extension::fragment(whole)]),
        ),
        (
            "IPv6 with tags and options",
            Shape::v6_with(vec![options(HOP_BY_HOP, 2)]).tagged(1),
        ),
        ("IPv4 without a link header", Shape::v4().bare()),
        ("IPv6 without a link header", Shape::v6().bare()),
        ("IPv4 with options, bare", Shape::v4_with(vec![1; 8]).bare()),
        (
            "IPv6 with options, bare",
            Shape::v6_with(vec![options(DESTINATION, 1)]).bare(),
        ),
    ]
}

#[test]
fn first_fragments_are_dropped_and_others_pass() {
    let fragment = |offset, more| Fragment { offset, more };
    let v6 = |at| Shape::v6_with(vec![Extension::fragment(at)]);
    let dropped = &[(counter::FRAGMENT_DROPPED, 1)];
    let elsewhere = Ends {
        server_port: 8080,
        ..Ends::v4()
    };
    check(vec![
        row(
            "first, IPv4",
            Hook::Ingress,
            request(&Shape::v4_fragment(0, true)),
            Verdict::Drop,
            dropped,
        ),
        row(
            "first, IPv6",
            Hook::Ingress,
            request(&v6(fragment(0, true))),
            Verdict::Drop,
            dropped,
        ),
        row(
            "first, behind options, IPv6",
            Hook::Ingress,
            request(&Shape::v6_with(vec![
                Extension::options(HOP_BY_HOP, 1),
                Extension::fragment(fragment(0, true)),
                Extension::options(DESTINATION, 1),
            ])),
            Verdict::Drop,
            dropped,
        ),
        row(
            "first, with a tag",
            Hook::Ingress,
            request(&Shape::v4_fragment(0, true).tagged(1)),
            Verdict::Drop,
            dropped,
        ),
        row(
            "first, without a link header",
            Hook::IngressBare,
            request(&Shape::v4_fragment(0, true).bare()),
            Verdict::Drop,
            dropped,
        ),
        other(
            "second, IPv4",
            Hook::Ingress,
            request(&Shape::v4_fragment(3, true)),
        ),
        other(
            "last, IPv4",
            Hook::Ingress,
            request(&Shape::v4_fragment(100, false)),
        ),
        other(
            "last, IPv6",
            Hook::Ingress,
            request(&v6(fragment(100, false))),
        ),
        other(
            "first of another port",
            Hook::Ingress,
            request_of(&Shape::v4_fragment(0, true), elsewhere),
        ),
    ]);
}

#[test]
fn a_segment_whose_headers_are_not_whole_does_not_pass_as_one() {
    let dropped = &[(counter::UNREADABLE_DROPPED, 1)];
    let packet = request(&Shape::v4());
    let cut = |len: usize| packet[..len].to_vec();
    let changed = |at: usize, byte: u8| {
        let mut packet = packet.clone();
        packet[at] = byte;
        packet
    };
    // Ethernet 14, IPv4 20, TCP 20.
    check(vec![
        // Nobody takes these for TCP.
        other("no TCP header", Hook::Ingress, cut(14 + 20)),
        other("half a TCP header", Hook::Ingress, cut(14 + 20 + 10)),
        other("an IP header of 16 bytes", Hook::Ingress, changed(14, 0x44)),
        row(
            "less than the IP header says",
            Hook::Ingress,
            cut(60),
            Verdict::Drop,
            dropped,
        ),
        row(
            "a TCP header of 16 bytes",
            Hook::Ingress,
            changed(46, 0x40),
            Verdict::Drop,
            dropped,
        ),
        row(
            "no room for TCP options",
            Hook::Ingress,
            {
                let mut short = changed(46, 0xf0);
                // The packet ends behind the header without options.
                short.truncate(54);
                short[16..18].copy_from_slice(&40_u16.to_be_bytes());
                short
            },
            Verdict::Drop,
            dropped,
        ),
    ]);
}

#[test]
fn bytes_behind_the_ip_packet_are_no_payload() {
    let mut programs = Programs::fresh();
    programs.scope(SCOPE, KEY, no_limits());
    let mut talk = Talk::open(&mut programs, Shape::v4());
    let ack = talk.client(b"").with_flags(ACK);
    let mut packet = talk.shape.wrap(&talk.ends, true, &ack);
    // Ethernet pads to 60 bytes.
    packet.resize(60, b'P');
    let ran = programs.run(Hook::Ingress, &packet);
    assert_eq!((ran.verdict, &ran.packet), (Verdict::Pass, &packet));
    let flow = programs.flow(&talk.key()).expect("a flow");
    assert_eq!(flow.next.0, talk.client_start);
    counted(&programs, &[]);
}

#[test]
fn packets_of_our_own_pass_by_their_mark() {
    for (hook, mark) in [(Hook::Ingress, 0), (Hook::Egress, OWN_MARK)] {
        let mut programs = Programs::fresh();
        let packet = request(&Shape::v4());
        let ran = programs.run_marked(hook, &packet, OWN_MARK);
        assert_eq!((ran.verdict, ran.mark), (Verdict::Pass, mark), "{hook:?}");
        assert_eq!(ran.packet, packet);
        counted(&programs, &[]);
    }
}

#[test]
fn marks_of_others_stay() {
    let mut programs = Programs::fresh();
    let packet = request(&Shape::v4());
    for hook in [Hook::Ingress, Hook::Egress] {
        assert_eq!(programs.run_marked(hook, &packet, 77).mark, 77, "{hook:?}");
    }
    assert_eq!(programs.counter(counter::UNTRACKED_SEGMENTS), 1);
}

#[test]
fn a_syn_opens_nothing_by_itself() {
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
    counted(&programs, &[]);
}
