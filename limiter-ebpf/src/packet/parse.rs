// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The parser, which goes through the link and network headers to the TCP header.

use crate::{
    kernel::{linear::Linear, skb::Skb},
    packet::{
        header::{Attempt, Direction, ETH_LEN, ETH_P_IP, ETH_P_IPV6, Kind, Parse, is_vlan},
        ipv4::ipv4,
        ipv6::ipv6,
        tags,
    },
};

/// The maximum number of VLAN tags in the frame itself. The device usually moves the outer tag from
/// the frame to the socket buffer.
const MAX_VLAN_TAGS: u32 = 2;

/// The maximum length of the headers that are read in place, in bytes: Ethernet, two tags, and IP
/// and TCP with options.
const MAX_HEADERS: u32 = ETH_LEN + 8 + 60 + 60;

/// Parses a packet into `Work::packet`. `L2` states whether the device has Ethernet headers.
#[inline(always)]
pub fn parse<const L2: bool>(skb: Skb, direction: Direction) -> Parse {
    match attempt::<L2>(skb, direction) {
        Ok(done) => done,
        // Headers may be outside the linear part (GRO, some drivers).
        Err(()) => {
            let len = skb.len();
            let wanted = if len < MAX_HEADERS { len } else { MAX_HEADERS };
            if !skb.pull(wanted) {
                return (Kind::Unreadable, None);
            }
            // A segment whose TCP header is still incomplete reaches no server.
            attempt::<L2>(skb, direction).unwrap_or((Kind::Other, None))
        }
    }
}

#[inline(always)]
fn attempt<const L2: bool>(skb: Skb, direction: Direction) -> Attempt {
    let linear = Linear::of(skb);
    let mut l3 = 0;
    let mut ethertype = u16::from_be(skb.protocol() as u16);
    if L2 {
        l3 = ETH_LEN;
        let ethernet = linear.header::<ETH_LEN>(0).ok_or(())?;
        ethertype = u16::from_be(ethernet.half::<12>());
        for _ in 0..MAX_VLAN_TAGS {
            if !is_vlan(ethertype) {
                break;
            }
            let tag = linear.header::<4>(l3).ok_or(())?;
            ethertype = u16::from_be(tag.half::<2>());
            l3 += 4;
        }
        if is_vlan(ethertype) && direction == Direction::ToServer {
            // The stack removes any number of tags whose VLAN is 0, so the packet may still reach a
            // server.
            if tags::leads_to_guarded(skb, l3) {
                return Ok((Kind::Unreadable, None));
            }
            return Ok((Kind::Other, None));
        }
    }
    // `ipv4` and `ipv6` also check the IP version, because a packet whose IP version does not match
    // the EtherType reaches no server.
    match ethertype {
        ETH_P_IP => ipv4(skb, linear, l3, direction),
        ETH_P_IPV6 => ipv6(skb, linear, l3, direction),
        _ => Ok((Kind::Other, None)),
    }
}
