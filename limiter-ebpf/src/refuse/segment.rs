// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Turns the current packet into a segment that the programs send, in either direction.

use limiter_common::{abi::MAX_TEXT, seq::Seq};

use crate::{
    kernel::{
        skb::{INGRESS, Skb, random, sum},
        work::{PIECE, Packet, Reply, Work},
    },
    packet::{
        checksum::{fold, is_partial, pseudo_sum},
        header::{Direction, FIN, IPPROTO_TCP, IPV4_LEN, IPV6_LEN, TCP_LEN},
        trim::plain,
    },
};

/// The length in bytes of the options NOP, NOP and timestamp, which are the only options that the
/// programs send.
const TIMESTAMP_LEN: u32 = 12;
/// The length of two MAC addresses, in bytes. The rest of the link header does not change.
const MACS_LEN: u32 = 12;
/// The hop limit of the segments, which is the value that most servers use.
const HOP_LIMIT: u32 = 64;

/// A segment that the programs send. All fields are in host byte order.
pub struct OwnSegment {
    pub seq: Seq,
    pub ack: Seq,
    pub flags: u32,
    pub window: u32,
    /// The timestamp value. It and `tsecr` are sent only if the current packet has a timestamp.
    pub tsval: u32,
    pub tsecr: u32,
    /// The number of bytes of `Reply::text` that are the payload of the segment.
    pub text: u32,
}

/// Gathers the properties of the packet that [`write`] needs to know. `going` is the direction of
/// the packet. Returns false if the packet cannot be read or written.
#[inline(never)]
pub fn begin(skb: Skb, work: &mut Work, going: Direction) -> bool {
    work.reply.to_client = u32::from(going == Direction::ToClient);
    match is_partial(skb, &work.packet) {
        Some(partial) => {
            work.reply.partial = u32::from(partial);
            true
        }
        None => false,
    }
}

/// Turns the packet into `segment`, which goes in the direction `to`. [`begin`] must have been
/// called before. The offsets in `Work::packet` are updated, so the function can be called again
/// with the same packet. Returns false if the packet could not be written.
#[inline(never)]
pub fn write(skb: Skb, work: &mut Work, to: Direction, segment: &OwnSegment) -> bool {
    let Work { packet, reply, .. } = work;
    let timestamp = packet.has_timestamp != 0;
    let tcp_len = if timestamp {
        TCP_LEN + TIMESTAMP_LEN
    } else {
        TCP_LEN
    };
    let total = tcp_len + segment.text;
    // The change of the length also makes the packet linear, unshares its data, and ends GSO for
    // it.
    if !skb.change_tail(packet.l4 + total) || !plain(skb, packet) {
        return false;
    }
    packet.payload = packet.l4 + tcp_len;
    let to_client = u32::from(to == Direction::ToClient);
    if reply.to_client != to_client {
        if packet.l3 >= MACS_LEN && !swap_macs(skb) {
            return false;
        }
        reply.to_client = to_client;
    }
    tcp(packet, reply, to, segment, tcp_len);
    let pseudo = pseudo_sum(packet, total);
    let check = if reply.partial != 0 {
        fold(pseudo)
    } else {
        !fold(pseudo + payload_sum(reply, segment))
    };
    reply.tcp[4] = u32::from(check);
    let ip_written = if packet.v6 != 0 {
        ipv6(reply, packet, to, total);
        skb.write_first::<IPV6_LEN, _>(packet.l3, &reply.ip)
    } else {
        ipv4(reply, packet, to, total);
        skb.write_first::<IPV4_LEN, _>(packet.l3, &reply.ip)
    };
    if !ip_written {
        return false;
    }
    let written = if timestamp {
        skb.write_first::<{ TCP_LEN + TIMESTAMP_LEN }, _>(packet.l4, &reply.tcp)
    } else {
        skb.write_first::<TCP_LEN, _>(packet.l4, &reply.tcp)
    };
    if segment.text == 0 {
        return written;
    }
    written && skb.write_part::<{ MAX_TEXT as u64 }, _>(packet.payload, &reply.text, segment.text)
}

#[inline(always)]
fn swap_macs(skb: Skb) -> bool {
    // The addresses are loaded as 32-bit words. If they were loaded as 16-bit halves, rustc would
    // emit a call to memset, which works byte by byte.
    let Some([a, b, c]) = skb.load::<[u32; MACS_LEN as usize / 4]>(0) else {
        return false;
    };
    // Each address has the length of one and a half 32-bit words.
    let swapped = [b >> 16 | c << 16, c >> 16 | a << 16, a >> 16 | b << 16];
    // The addresses are not part of the sum that the device may have computed over the packet. Even
    // if they were, the swap would not change that sum.
    skb.store(0, &swapped)
}

/// Writes the TCP header without its checksum (RFC 9293, section 3.1; RFC 7323, section 3.2).
#[inline(always)]
fn tcp(packet: &Packet, reply: &mut Reply, to: Direction, segment: &OwnSegment, len: u32) {
    let key = &packet.key;
    let (from_port, to_port) = match to {
        Direction::ToClient => (key.server_port, key.client_port),
        Direction::ToServer => (key.client_port, key.server_port),
    };
    reply.tcp[0] = u32::from(from_port) | u32::from(to_port) << 16;
    reply.tcp[1] = segment.seq.0.to_be();
    reply.tcp[2] = segment.ack.0.to_be();
    reply.tcp[3] = ((len / 4) << 28 | segment.flags << 16 | segment.window & 0xffff).to_be();
    reply.tcp[4] = 0;
    if len > TCP_LEN {
        reply.tcp[5] = 0x0101_080a_u32.to_be();
        reply.tcp[6] = segment.tsval.to_be();
        reply.tcp[7] = segment.tsecr.to_be();
    } else {
        // These words are part of the sum even if they are not sent.
        reply.tcp[5] = 0;
        reply.tcp[6] = 0;
        reply.tcp[7] = 0;
    }
}

/// Writes the IPv4 header (RFC 791, section 3.1).
///
/// The DF flag is not set, because the programs do not receive the ICMP message that reports that a
/// response exceeds the path MTU. The packet may therefore be fragmented on its way, and has a
/// random identification for that case.
#[inline(always)]
fn ipv4(reply: &mut Reply, packet: &Packet, to: Direction, total: u32) {
    let key = &packet.key;
    let (from, to) = match to {
        Direction::ToClient => (key.server[3], key.client[3]),
        Direction::ToServer => (key.client[3], key.server[3]),
    };
    let first = (0x4500_0000 | (IPV4_LEN + total)).to_be();
    let second = (random() << 16).to_be();
    let third = (HOP_LIMIT << 24 | IPPROTO_TCP << 16).to_be();
    let sum =
        u64::from(first) + u64::from(second) + u64::from(third) + u64::from(from) + u64::from(to);
    reply.ip[0] = first;
    reply.ip[1] = second;
    reply.ip[2] = third | u32::from(!fold(sum)) << 16;
    reply.ip[3] = from;
    reply.ip[4] = to;
}

/// Writes the IPv6 header (RFC 8200, section 3).
#[inline(always)]
fn ipv6(reply: &mut Reply, packet: &Packet, to: Direction, total: u32) {
    let key = &packet.key;
    let (from, to) = match to {
        Direction::ToClient => (key.server, key.client),
        Direction::ToServer => (key.client, key.server),
    };
    let first = 0x6000_0000_u32.to_be();
    let second = (total << 16 | IPPROTO_TCP << 8 | HOP_LIMIT).to_be();
    let ([a, b, c, d], [e, f, g, h]) = (from, to);
    reply.ip = [first, second, a, b, c, d, e, f, g, h];
}

/// Returns the sum of the TCP header and the payload.
#[inline(always)]
fn payload_sum(reply: &Reply, segment: &OwnSegment) -> u64 {
    let mut total = 0;
    for word in reply.tcp {
        total += u64::from(word);
    }
    if segment.text == 0 {
        return total;
    }
    // The buffer is zero after the payload, so all of it can be added.
    let (pieces, _) = reply.text.as_chunks::<{ PIECE / 8 }>();
    let mut sum_of_text = 0;
    for piece in pieces {
        sum_of_text = sum::<{ PIECE as u32 }, _>(piece, sum_of_text);
    }
    total + u64::from(sum_of_text)
}

const _: () = assert!(MAX_TEXT == 2 * PIECE && MAX_TEXT.is_power_of_two());

/// Returns the sequence number after a packet (RFC 9293, section 3.4).
#[inline(always)]
pub fn packet_end(packet: &Packet) -> Seq {
    // SYN and FIN take one sequence number each.
    packet
        .seq
        .plus(packet.len + (packet.flags & FIN) + (packet.flags >> 1 & 1))
}

/// Returns the flags of the redirection that sends a packet from the server back to the server.
#[inline(always)]
pub fn to_server(skb: Skb) -> u64 {
    // On loopback, a packet that is sent still has its route when it arrives. A packet that is
    // injected has no route, and because its source is an address of this host, IPv4 would drop it
    // as martian (__fib_validate_source, net/ipv4).
    if skb.ifindex() == LOOPBACK {
        0
    } else {
        INGRESS
    }
}

/// `LOOPBACK_IFINDEX` (include/net/flow.h), which is the same in every network namespace.
const LOOPBACK: u32 = 1;
