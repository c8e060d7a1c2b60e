// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The TCP header, and the connection that it identifies.

use limiter_common::{abi::Link, seq::Seq};

use crate::{
    kernel::{
        linear::{Header, Linear},
        maps,
        skb::Skb,
        verifier::write_through,
        work::{Packet, Work},
    },
    packet::{
        header::{Attempt, Direction, ETH_LEN, Kind, Parse, TCP_LEN},
        options,
    },
};

/// The headers of a segment of a guarded port. The IP header has at least `LEN` bytes.
#[derive(Clone, Copy)]
pub struct Headers<const LEN: u32> {
    pub linear: Linear,
    pub ip: Header<LEN>,
    pub tcp: Header<TCP_LEN>,
    l3: u32,
    l4: u32,
}

/// Returns the memory for a segment whose IP header is at the offset `l3` and whose TCP header is
/// at the offset `l4`, together with these headers.
///
/// The headers are looked up once more. If the pointers to them were kept during the map lookups,
/// they would be spilled to the stack. The verifier would then continue to compare these stack
/// slots, long after the last use of the pointers, to find out whether two paths differ.
#[inline(always)]
pub fn begin<const LEN: u32>(
    skb: Skb,
    l3: u32,
    l4: u32,
) -> Option<(&'static mut Work, Headers<LEN>)> {
    let work = maps::work()?;
    let linear = Linear::of(skb);
    let headers = Headers {
        linear,
        ip: linear.header::<LEN>(l3)?,
        tcp: linear.header::<TCP_LEN>(l4)?,
        l3,
        l4,
    };
    Some((work, headers))
}

/// Handles a first fragment. Its TCP header may be incomplete (RFC 1858), but contains at least the
/// ports, because a fragment has at least eight bytes. A packet that ends before them is truncated.
#[inline(always)]
pub fn first_fragment(skb: Skb, linear: Linear, l4: u32, direction: Direction) -> Attempt {
    const PORTS_LEN: u32 = 4;
    match linear.header::<PORTS_LEN>(l4) {
        Some(ports) if guarded(ports, direction) => Ok((Kind::Fragment, None)),
        Some(_) => Ok((Kind::Other, None)),
        None if skb.len() >= l4 + PORTS_LEN => Err(()),
        None => Ok((Kind::Unreadable, None)),
    }
}

/// Sets the addresses of the flow key to those of the packet.
#[inline(always)]
pub fn set_addresses(
    packet: &mut Packet,
    source: [u32; 4],
    destination: [u32; 4],
    direction: Direction,
) {
    let (client, server) = match direction {
        Direction::ToServer => (source, destination),
        Direction::ToClient => (destination, source),
    };
    packet.key.client = client;
    packet.key.server = server;
}

#[inline(always)]
pub fn guarded<const LEN: u32>(tcp: Header<LEN>, direction: Direction) -> bool {
    let port = match direction {
        Direction::ToServer => tcp.half::<2>(),
        Direction::ToClient => tcp.half::<0>(),
    };
    maps::guarded(u16::from_be(port))
}

/// Returns the `Link::vlan` of a packet whose network header begins at `l3`. A tag of VLAN 0
/// contains only a priority (IEEE 802.1Q, section 6.9).
///
/// The value is computed without a branch, because the verifier would check everything after a
/// branch twice.
#[inline(always)]
fn vlan(skb: Skb, linear: Linear, l3: u32) -> u32 {
    const ID: u32 = 0x0fff;
    let mut vlan = skb.vlan();
    let mut at = ETH_LEN;
    while at < l3 {
        let Some(tag) = linear.header::<4>(at) else {
            return vlan;
        };
        let id = u32::from(u16::from_be(tag.half::<0>())) & ID;
        vlan = vlan << 12 | id;
        at += 4;
    }
    vlan
}

/// Reads the TCP header. `end` is the offset after the last byte of the IP packet.
#[inline(always)]
pub fn segment<const LEN: u32>(
    skb: Skb,
    work: &'static mut Work,
    headers: Headers<LEN>,
    end: u32,
    direction: Direction,
) -> Parse {
    let Headers {
        linear,
        tcp,
        l3,
        l4,
        ..
    } = headers;
    let data_offset = (tcp.byte::<12>() >> 4) * 4;
    let payload = l4 + data_offset;
    if data_offset < TCP_LEN || payload > end || end > skb.len() {
        // No receiver accepts such a segment.
        return (Kind::Unreadable, None);
    }
    let packet = &mut work.packet;
    let (source, destination) = (tcp.half::<0>(), tcp.half::<2>());
    let (client, server) = match direction {
        Direction::ToServer => (source, destination),
        Direction::ToClient => (destination, source),
    };
    packet.key.client_port = client;
    packet.key.server_port = server;
    packet.key.link = Link::NONE;
    packet.link = Link {
        ifindex: skb.ifindex(),
        vlan: vlan(skb, linear, l3),
    };
    packet.l3 = l3;
    packet.l4 = l4;
    packet.payload = payload;
    packet.len = end - payload;
    packet.seq = Seq(u32::from_be(tcp.word::<4>()));
    packet.ack = Seq(u32::from_be(tcp.word::<8>()));
    packet.flags = tcp.byte::<13>();
    packet.window = u32::from(u16::from_be(tcp.half::<14>()));
    // LLVM would merge ordinary stores into a call that works byte by byte.
    for field in [
        &mut packet.has_timestamp,
        &mut packet.signed,
        &mut packet.window_shift,
        &mut packet.has_blocks,
        &mut packet.multipath,
        &mut packet.fast_open,
    ] {
        write_through(field, 0);
    }
    if data_offset > TCP_LEN {
        options::read(skb, linear, packet, l4 + TCP_LEN, payload);
    }
    (Kind::Segment, Some(work))
}
