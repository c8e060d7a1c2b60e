// SPDX-License-Identifier: MIT OR Apache-2.0

//! ICMP errors about packets of connections that went on after a refusal.

use std::net::IpAddr;

use limiter_tests::{
    packet::checksum,
    program::{Hook, NetworkHeader, RunResult, Shape, Verdict},
};

use crate::{
    kept::{Kept, spent},
    shapes::shapes,
    support::{get, ok},
};

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Returns the length of the IP header that an error quotes, in bytes.
fn quoted_header_len(shape: &Shape) -> usize {
    match shape.net {
        NetworkHeader::V4 { .. } => 20,
        NetworkHeader::V6 { .. } => 40,
    }
}

/// Returns whether packets of this shape have no IPv6 extension headers, behind which the programs
/// do not look for ICMP messages.
fn has_no_extensions(shape: &Shape) -> bool {
    !matches!(&shape.net, NetworkHeader::V6 { extensions } if !extensions.is_empty())
}

/// Returns the shape of the packet that an error quotes, which has no link header and no options.
fn quoted_shape(shape: &Shape) -> Shape {
    match shape.net {
        NetworkHeader::V4 { .. } => Shape::v4().bare(),
        NetworkHeader::V6 { .. } => Shape::v6().bare(),
    }
}

/// The error with which a router reports that a packet is too big.
struct TooBig {
    shape: Shape,
    router: IpAddr,
    to_server: bool,
    message: Vec<u8>,
}

impl TooBig {
    /// Makes an error that quotes the first `quoted` bytes of the IP packet `packet`. It goes to
    /// the server if `to_server` is set, and otherwise to the client.
    fn about(kept: &Kept, to_server: bool, packet: &[u8], quoted: usize) -> Self {
        let shape = kept.talk.shape.clone();
        let (router, kind, code): (IpAddr, u8, u8) = match shape.net {
            NetworkHeader::V4 { .. } => ("8.0.0.254".parse().expect("an address"), 3, 4),
            NetworkHeader::V6 { .. } => ("2001:db8:86dd::fe".parse().expect("an address"), 2, 0),
        };
        let mtu = [0, 0, 0x05, 0x14];
        let message = [&[kind, code, 0, 0], &mtu[..], &packet[..quoted]].concat();
        Self {
            shape,
            router,
            to_server,
            message,
        }
    }

    /// Returns a packet to `to` that carries the message with its checksum.
    fn frame(&self, to: IpAddr) -> Vec<u8> {
        let mut message = self.message.clone();
        let check = !checksum::sum(&[&self.pseudo_header(to), &message]);
        message[2..4].copy_from_slice(&check.to_be_bytes());
        let protocol = if to.is_ipv4() { ICMP } else { ICMPV6 };
        self.shape
            .around(self.router, to, protocol, self.to_server, &message)
    }

    /// Returns the pseudo-header, which only ICMPv6 has (RFC 4443, section 2.3). For IPv4 it is
    /// empty.
    fn pseudo_header(&self, to: IpAddr) -> Vec<u8> {
        if to.is_ipv4() {
            return Vec::new();
        }
        let mut header = checksum::pseudo_header(self.router, to, self.message.len());
        *header.last_mut().expect("the protocol") = ICMPV6;
        header
    }

    /// Runs the program on the error, and returns the sequence number that the error quotes
    /// afterwards. Asserts that nothing else but the checksum has changed.
    #[track_caller]
    fn quotes(&self, kept: &mut Kept) -> u32 {
        let to = match self.to_server {
            true => kept.talk.ends.server,
            false => kept.talk.ends.client,
        };
        let frame = self.frame(to);
        let hook = Hook::of(self.to_server, self.shape.ethernet);
        let ran: RunResult = kept.programs.run(hook, &frame);
        assert_eq!(ran.verdict, Verdict::Pass);
        assert_eq!(ran.sent, [] as [Vec<u8>; 0]);
        let at = frame.len() - self.message.len();
        let (head, message) = ran.packet.split_at(at);
        assert_eq!(head, &frame[..at]);
        let sum = checksum::sum(&[&self.pseudo_header(to), message]);
        assert_eq!(sum, 0xffff, "the checksum");
        let seq_at = 8 + quoted_header_len(&self.shape) + 4;
        let mut restored = message.to_vec();
        restored[2..4].copy_from_slice(&self.message[2..4]);
        restored[seq_at..seq_at + 4].copy_from_slice(&self.message[seq_at..seq_at + 4]);
        assert_eq!(restored, self.message);
        let seq = message[seq_at..seq_at + 4].first_chunk().expect("a number");
        u32::from_be_bytes(*seq)
    }
}

/// Returns an IP packet of the server or the client with the sequence number `seq`, for a
/// quotation.
fn packet(kept: &mut Kept, from_server: bool, seq: u32) -> Vec<u8> {
    let mut segment = if from_server {
        kept.talk.server_at(0, b"some bytes")
    } else {
        kept.talk.client_at(0, b"some bytes")
    };
    segment.seq = seq;
    quoted_shape(&kept.talk.shape).wrap(&kept.talk.ends, !from_server, &segment)
}

/// Returns a connection on which two requests were refused and one was served in between.
fn kept(shape: Shape) -> Kept {
    let mut kept = Kept::new(shape, false);
    kept.refused(spent());
    kept.admitted(get("/"));
    kept.answers(ok("one"));
    kept.refused(spent());
    kept
}

#[test]
fn error_about_a_packet_of_the_server_quotes_the_servers_number() {
    for (what, shape) in shapes()
        .into_iter()
        .filter(|(_, shape)| has_no_extensions(shape))
    {
        let mut kept = kept(shape);
        let next = kept.talk.server_start.wrapping_add(kept.talk.answered);
        let each = kept.injected / 2;
        let len = quoted_header_len(&kept.talk.shape);
        for (client_sees, wanted) in [
            // The server's next byte, and one of the response before the last refusal.
            (next.wrapping_add(kept.injected), next),
            (
                next.wrapping_sub(3).wrapping_add(each),
                next.wrapping_sub(3),
            ),
            // The refusal itself, of which the server knows nothing.
            (next.wrapping_add(each + 1), next.wrapping_add(each + 1)),
        ] {
            let packet = packet(&mut kept, true, client_sees);
            for quoted in [len + 8, packet.len()] {
                let error = TooBig::about(&kept, true, &packet, quoted);
                assert_eq!(error.quotes(&mut kept), wanted, "{what}");
            }
        }
    }
}

#[test]
fn error_about_a_packet_of_the_client_quotes_the_clients_number() {
    for (what, shape) in shapes()
        .into_iter()
        .filter(|(_, shape)| has_no_extensions(shape))
    {
        let mut kept = kept(shape);
        let next = kept.talk.client_start.wrapping_add(kept.talk.asked);
        let (each, all) = (kept.withheld / 2, kept.withheld);
        for (server_sees, wanted) in [
            (next, next.wrapping_add(all)),
            (
                next.wrapping_sub(5),
                next.wrapping_sub(5).wrapping_add(each),
            ),
        ] {
            let packet = packet(&mut kept, false, server_sees);
            let error = TooBig::about(&kept, false, &packet, packet.len());
            assert_eq!(error.quotes(&mut kept), wanted, "{what}");
        }
    }
}

#[test]
fn other_messages_pass_unchanged() {
    for shape in [Shape::v4(), Shape::v6()] {
        let mut kept = kept(shape.clone());
        let seq = kept.talk.server_start.wrapping_add(kept.injected + 9);
        let quoted = packet(&mut kept, true, seq);
        let len = quoted_header_len(&shape);
        let mut unusual: Vec<TooBig> = Vec::new();
        // An echo request.
        let mut echo = TooBig::about(&kept, true, &quoted, quoted.len());
        echo.message[0] = if matches!(shape.net, NetworkHeader::V4 { .. }) {
            8
        } else {
            128
        };
        unusual.push(echo);
        // Another protocol, and another version of IP.
        for (at, value) in [(8 + if len == 20 { 9 } else { 6 }, 17), (8, 0x75)] {
            let mut other = TooBig::about(&kept, true, &quoted, quoted.len());
            other.message[at] = value;
            unusual.push(other);
        }
        // The port of another service.
        let mut other = TooBig::about(&kept, true, &quoted, quoted.len());
        other.message[8 + len + 1] ^= 1;
        unusual.push(other);
        for message in unusual {
            assert_eq!(message.quotes(&mut kept), seq, "{:x?}", message.message);
        }
        // An error that ends before or within the number.
        for short in 0..len + 8 {
            let cut = TooBig::about(&kept, true, &quoted, short);
            let to = kept.talk.ends.server;
            let frame = cut.frame(to);
            let ran = kept.programs.run(Hook::Ingress, &frame);
            assert_eq!(
                (ran.verdict, &ran.packet),
                (Verdict::Pass, &frame),
                "{short}"
            );
        }
    }
}

#[test]
fn errors_about_connections_without_refusals_pass_unchanged() {
    let mut kept = Kept::opened();
    kept.admitted(get("/"));
    kept.answers(ok("one"));
    let seq = kept.talk.server_start.wrapping_add(1);
    let quoted = packet(&mut kept, true, seq);
    let error = TooBig::about(&kept, true, &quoted, quoted.len());
    assert_eq!(error.quotes(&mut kept), seq);
}
