// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! ICMP errors (RFC 792, RFC 4443) about packets whose sequence numbers were translated
//! ([`Splice`]). An error quotes the beginning of the packet. The programs put the number that the
//! sender had used into the quotation. Otherwise the sender would ignore the error, because the
//! quoted number is not one of its own (tcp_v4_err in net/ipv4/tcp_ipv4.c), and would not learn,
//! for example, that a link of the path has a smaller MTU.
//!
//! [`Splice`]: limiter_common::abi::Splice

use limiter_common::{
    abi::{FLOW_SPLICED, FlowKey, Link},
    seq::Seq,
};

use crate::{
    kernel::{flow::FoundFlow, global::global, maps, skb::Skb},
    packet::header::{Direction, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPV6_LEN, MAPPED},
};

/// The length of the header of an ICMP error, in bytes.
const ICMP_LEN: u32 = 8;
/// The offset of the checksum in this header, in bytes.
const CHECKSUM_AT: u32 = 2;

/// The ICMP messages that quote a packet: destination unreachable, redirect, time exceeded and
/// parameter problem.
const V4_ERRORS: [u8; 4] = [3, 5, 11, 12];
/// The first ICMPv6 type that is not an error (RFC 4443, section 2.1). The type 0 is reserved.
const V6_INFORMATION: u8 = 128;

/// The offset of the sequence number in the TCP header, in bytes.
const SEQ_AT: u32 = 4;

/// The offset of the addresses in the IPv4 header and in the IPv6 header, in bytes.
const V4_ADDRESSES_AT: u32 = 12;
const V6_ADDRESSES_AT: u32 = 8;

global! {
    /// Translates the sequence number that an ICMP message quotes. The message is in the IP packet
    /// at the offset `l3`. If `to_client` is not 0, the message goes to a client and quotes a
    /// packet of that client. Otherwise it goes to a server and quotes a packet of that server.
    fn limiter_translate_error(skb; l3: u32, to_client: u32) -> () = translate;
}

/// Handles a packet that is not read as TCP. `protocol` is its IP protocol number.
#[inline(always)]
pub fn other(skb: Skb, l3: u32, protocol: u32, direction: Direction) {
    if protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6 {
        limiter_translate_error(skb, l3, u32::from(direction == Direction::ToClient));
    }
}

/// An ICMP message.
struct Message {
    /// The offset of its header.
    at: u32,
    /// Whether it is an ICMPv6 message.
    v6: bool,
}

/// The packet that an error quotes.
struct Quoted {
    source: [u32; 4],
    destination: [u32; 4],
    /// The offset of the TCP header.
    tcp: u32,
}

/// The body of [`limiter_translate_error`]. A message that cannot be translated passes as it is.
#[inline(always)]
fn translate(skb: Skb, l3: u32, to_client: u32) {
    let Some(message) = message(skb, l3) else {
        return;
    };
    let Some(quoted) = quoted(skb, &message) else {
        return;
    };
    let Some([source_port, destination_port]) = skb.load::<[u16; 2]>(quoted.tcp) else {
        return;
    };
    let Some(seq) = skb.load::<u32>(quoted.tcp + SEQ_AT) else {
        return;
    };
    let (from, to) = (
        (quoted.source, source_port),
        (quoted.destination, destination_port),
    );
    let (client, server) = if to_client != 0 {
        (from, to)
    } else {
        (to, from)
    };
    let key = FlowKey {
        client: client.0,
        server: server.0,
        client_port: client.1,
        server_port: server.1,
        link: Link::NONE,
    };
    if !maps::guarded(u16::from_be(key.server_port)) {
        return;
    }
    let Some(flow) = FoundFlow::find(&key).and_then(|found| found.lock(&key)) else {
        return;
    };
    if flow.flags & FLOW_SPLICED == 0 {
        return;
    }
    let old = Seq(u32::from_be(seq));
    let new = if to_client != 0 {
        Some(flow.splice.client_number(old))
    } else {
        flow.splice.server_number(old)
    };
    drop(flow);
    let Some(new) = new else { return };
    let new = new.0.to_be();
    if skb.store(quoted.tcp + SEQ_AT, &new) {
        // The size of the number in bytes.
        const SIZE: u64 = 4;
        let _done = skb.replace_checksum(message.at + CHECKSUM_AT, seq.into(), new.into(), SIZE);
    }
}

/// Returns the ICMP message in the packet, if the packet is not a fragment. An ICMPv6 message is
/// expected directly after the IPv6 header.
#[inline(always)]
fn message(skb: Skb, l3: u32) -> Option<Message> {
    let first = skb.load::<u8>(l3)?;
    match first >> 4 {
        4 => {
            let protocol = skb.load::<u8>(l3 + 9)?;
            let fragment = u16::from_be(skb.load::<u16>(l3 + 6)?);
            let is_whole = fragment & 0x3fff == 0 && u32::from(protocol) == IPPROTO_ICMP;
            is_whole.then(|| Message {
                at: l3 + u32::from(first & 0x0f) * 4,
                v6: false,
            })
        }
        6 => Some(Message {
            at: l3 + IPV6_LEN,
            v6: true,
        }),
        _ => None,
    }
}

/// Returns the packet that the ICMP message quotes, or `None` if the message is not an error, or
/// quotes no TCP packet.
#[inline(always)]
fn quoted(skb: Skb, message: &Message) -> Option<Quoted> {
    let (kind, quoted) = (skb.load::<u8>(message.at)?, message.at + ICMP_LEN);
    if message.v6 {
        if kind == 0 || kind >= V6_INFORMATION {
            return None;
        }
        return quoted_v6(skb, quoted);
    }
    if !V4_ERRORS.contains(&kind) {
        return None;
    }
    quoted_v4(skb, quoted)
}

/// Reads the quoted IPv4 header at the offset `at`. Returns `None` if no TCP header follows it.
#[inline(always)]
fn quoted_v4(skb: Skb, at: u32) -> Option<Quoted> {
    let head = skb.load::<[u8; 12]>(at)?;
    let [source, destination] = skb.load::<[u32; 2]>(at + V4_ADDRESSES_AT)?;
    let fragment = u16::from_be_bytes([head[6], head[7]]);
    if head[0] >> 4 != 4 || u32::from(head[9]) != IPPROTO_TCP || fragment & 0x1fff != 0 {
        return None;
    }
    Some(Quoted {
        source: [0, 0, MAPPED, source],
        destination: [0, 0, MAPPED, destination],
        tcp: at + u32::from(head[0] & 0x0f) * 4,
    })
}

/// Reads the quoted IPv6 header at the offset `at`. Returns `None` if no TCP header follows it.
#[inline(always)]
fn quoted_v6(skb: Skb, at: u32) -> Option<Quoted> {
    let head = skb.load::<[u8; 8]>(at)?;
    if head[0] >> 4 != 6 || u32::from(head[6]) != IPPROTO_TCP {
        return None;
    }
    let [source, destination] = skb.load::<[[u32; 4]; 2]>(at + V6_ADDRESSES_AT)?;
    Some(Quoted {
        source,
        destination,
        tcp: at + IPV6_LEN,
    })
}
