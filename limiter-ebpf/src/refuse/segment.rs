//! Turns the packet at hand into a segment of ours, either way.

use limiter_common::{abi::MAX_TEXT, seq::Seq};

use crate::{
    checksum::{PIECE, fold, is_partial, pseudo_sum},
    packet::{Direction, IPPROTO_TCP, IPV4_LEN, IPV6_LEN, Packet, TCP_LEN},
    skb::{Skb, bounded_to, random, sum},
    work::Work,
};

/// NOP, NOP, timestamp: the only options of ours.
const TIMESTAMP_LEN: u32 = 12;
/// Two MAC addresses; what follows them in the link header stays.
const MACS_LEN: u32 = 12;
/// What most servers start with.
const HOP_LIMIT: u32 = 64;

const WORDS: usize = MAX_TEXT / 8 + 1;

/// What a segment says. Host byte order.
pub struct Segment {
    pub seq: Seq,
    pub ack: Seq,
    pub flags: u32,
    pub window: u32,
    /// Used if the packet at hand has timestamps.
    pub tsval: u32,
    pub tsecr: u32,
    /// Bytes of `Reply::text` that are its payload.
    pub text: u32,
}

/// What is written into the packet: in `Work`, since the stack is short.
#[repr(C)]
pub struct Reply {
    ip: [u32; 10],
    tcp: [u32; 8],
    /// 1: the device is to fill in the checksum (CHECKSUM_PARTIAL).
    partial: u32,
    /// 1: the packet's MAC addresses are those of the way to the client.
    to_client: u32,
    /// The response, zero beyond its end.
    pub text: [u64; WORDS],
}

/// Finds out what [`write`] has to know about the packet, which goes `going`.
#[inline(never)]
pub fn begin(skb: Skb, work: *mut Work, going: Direction) -> bool {
    // SAFETY: a live map value, of this CPU alone.
    let (packet, reply) = unsafe { (&(*work).packet, &mut (*work).reply) };
    reply.to_client = u32::from(going == Direction::ToClient);
    match is_partial(skb, packet) {
        Some(partial) => {
            reply.partial = u32::from(partial);
            true
        }
        None => false,
    }
}

/// Makes the packet a segment that goes `to`; [`begin`] came first. The packet's own offsets are
/// kept up to date, so this can be done again with the same packet.
#[inline(never)]
pub fn write(skb: Skb, work: *mut Work, to: Direction, segment: &Segment) -> bool {
    // SAFETY: a live map value, of this CPU alone.
    let (packet, reply) = unsafe { (&mut (*work).packet, &mut (*work).reply) };
    let timestamp = packet.has_timestamp != 0;
    let tcp_len = if timestamp {
        TCP_LEN + TIMESTAMP_LEN
    } else {
        TCP_LEN
    };
    let total = tcp_len + segment.text;
    // Also makes the packet linear, private and no longer GSO.
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
    let ip = reply.ip.as_mut_ptr();
    // SAFETY: constant lengths that the arrays have; `text` has MAX_TEXT bytes and more.
    unsafe {
        if packet.v6 != 0 {
            ipv6(ip, packet, to, total);
            if !skb.write(packet.l3, ip.cast(), IPV6_LEN) {
                return false;
            }
        } else {
            ipv4(ip, packet, to, total);
            if !skb.write(packet.l3, ip.cast(), IPV4_LEN) {
                return false;
            }
        }
        let tcp = reply.tcp.as_ptr().cast();
        let written = if timestamp {
            skb.write(packet.l4, tcp, TCP_LEN + TIMESTAMP_LEN)
        } else {
            skb.write(packet.l4, tcp, TCP_LEN)
        };
        if segment.text == 0 {
            return written;
        }
        let len = bounded_to::<{ MAX_TEXT as u64 }>(segment.text);
        written && skb.write(packet.payload, reply.text.as_ptr().cast(), len)
    }
}

/// Takes IPv4 options or IPv6 extension headers out.
#[inline(always)]
pub fn plain(skb: Skb, packet: &mut Packet) -> bool {
    let plain = packet.l3 + if packet.v6 != 0 { IPV6_LEN } else { IPV4_LEN };
    if packet.l4 == plain {
        return true;
    }
    // Not by writing the TCP header further up: a partial checksum is filled in where the stack
    // said that the header begins.
    if !skb.cut_network_header(packet.l4 - plain) {
        return false;
    }
    packet.l4 = plain;
    true
}

#[inline(always)]
fn swap_macs(skb: Skb) -> bool {
    // Words: of halves, rustc makes a call of memset, which goes by bytes.
    let mut macs = [0u32; MACS_LEN as usize / 4];
    // SAFETY: the arrays have twelve bytes.
    unsafe {
        if !skb.load(0, macs.as_mut_ptr().cast(), MACS_LEN) {
            return false;
        }
        let [a, b, c] = macs;
        // Each address is a word and a half.
        let swapped = [b >> 16 | c << 16, c >> 16 | a << 16, a >> 16 | b << 16];
        // Not part of a sum that the device took; and it is the same sum.
        skb.store(0, swapped.as_ptr().cast(), MACS_LEN)
    }
}

/// The TCP header, without its checksum (RFC 9293, section 3.1; RFC 7323, section 3.2).
#[inline(always)]
fn tcp(packet: &Packet, reply: &mut Reply, to: Direction, segment: &Segment, len: u32) {
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
        // Added up all the same.
        reply.tcp[5] = 0;
        reply.tcp[6] = 0;
        reply.tcp[7] = 0;
    }
}

/// The IPv4 header (RFC 791, section 3.1).
///
/// May be fragmented, since nobody here hears of a path that is narrower than a response; hence the
/// identification.
///
/// # Safety
/// `ip` has room for twenty bytes.
#[inline(always)]
unsafe fn ipv4(ip: *mut u32, packet: &Packet, to: Direction, total: u32) {
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
    // SAFETY: the caller's promise.
    unsafe {
        *ip = first;
        *ip.add(1) = second;
        *ip.add(2) = third | u32::from(!fold(sum)) << 16;
        *ip.add(3) = from;
        *ip.add(4) = to;
    }
}

/// The IPv6 header (RFC 8200, section 3).
///
/// # Safety
/// `ip` has room for forty bytes.
#[inline(always)]
unsafe fn ipv6(ip: *mut u32, packet: &Packet, to: Direction, total: u32) {
    let key = &packet.key;
    let (from, to) = match to {
        Direction::ToClient => (key.server, key.client),
        Direction::ToServer => (key.client, key.server),
    };
    // SAFETY: the caller's promise.
    unsafe {
        *ip = 0x6000_0000_u32.to_be();
        *ip.add(1) = (total << 16 | IPPROTO_TCP << 8 | HOP_LIMIT).to_be();
        for word in 0..4 {
            *ip.add(2 + word) = from[word];
            *ip.add(6 + word) = to[word];
        }
    }
}

/// The sum of header and payload.
#[inline(always)]
fn payload_sum(reply: &Reply, segment: &Segment) -> u64 {
    let mut total = 0;
    for word in reply.tcp {
        total += u64::from(word);
    }
    if segment.text == 0 {
        return total;
    }
    let text = reply.text.as_ptr().cast::<u8>();
    // SAFETY: two pieces are MAX_TEXT bytes, zero beyond the payload.
    unsafe {
        let first = sum(text, PIECE as u32, 0);
        total + u64::from(sum(text.add(PIECE), PIECE as u32, first))
    }
}

const _: () = assert!(MAX_TEXT == 2 * PIECE && MAX_TEXT.is_power_of_two());
