// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The IPv6 header and its extension headers (RFC 8200).

use crate::{
    kernel::{
        linear::{Header, Linear},
        repeat::repeat,
        skb::Skb,
    },
    packet::{
        errors,
        header::{Attempt, Direction, IPPROTO_TCP, IPV6_LEN, Kind, MAPPED, TCP_LEN},
        tcp::{begin, first_fragment, guarded, segment, set_addresses},
    },
};

/// The maximum number of extension headers that are followed. Each kind should occur once (RFC
/// 8200, section 4.1), and six kinds may come before TCP. No real traffic has more.
const MAX_EXTENSIONS: u32 = 8;
/// The maximum length of a TCP header with options, in bytes.
const MAX_TCP_LEN: u32 = 60;
/// The maximum offset of a TCP header in a packet, in bytes. No real traffic has longer extension
/// headers, and the verifier requires a bound.
const MAX_L4: u32 = 2048;

#[inline(always)]
pub fn ipv6(skb: Skb, linear: Linear, l3: u32, direction: Direction) -> Attempt {
    let mut linear = linear;
    let mut ip = linear.header::<IPV6_LEN>(l3).ok_or(())?;
    let (protocol, hop_limit) = (ip.byte::<6>(), ip.byte::<7>());
    if ip.byte::<0>() >> 4 != 6 {
        return Ok((Kind::Other, None));
    }
    let mut l4 = l3 + IPV6_LEN;
    if protocol != IPPROTO_TCP {
        if !is_extension(protocol) {
            errors::other(skb, l3, protocol, direction);
            return Ok((Kind::Other, None));
        }
        let walk = match walk(skb, protocol, l4) {
            Ok(walk) => walk,
            Err(kind) => return Ok((kind, None)),
        };
        l4 = walk.at;
        // After long extension headers, the TCP header may be outside the linear part even if the
        // other headers are in it.
        if linear.header::<TCP_LEN>(l4).is_none() {
            let (len, wanted) = (skb.len(), l4 + MAX_TCP_LEN);
            if !skb.pull(if len < wanted { len } else { wanted }) {
                return Ok((Kind::Unreadable, None));
            }
            linear = Linear::of(skb);
            ip = linear.header::<IPV6_LEN>(l3).ok_or(())?;
        }
        if walk.first_fragment {
            return first_fragment(skb, linear, l4, direction);
        }
    }
    let tcp = linear.header::<TCP_LEN>(l4).ok_or(())?;
    if !guarded(tcp, direction) {
        return Ok((Kind::Other, None));
    }
    if direction == Direction::ToServer && hop_limit == 0 {
        return Ok((Kind::Expired, None));
    }
    if has_mapped_address(ip) {
        return Ok((Kind::Unreadable, None));
    }
    let Some((work, headers)) = begin(skb, l3, l4) else {
        return Ok((Kind::Unreadable, None));
    };
    let ip: Header<IPV6_LEN> = headers.ip;
    work.packet.v6 = 1;
    let source = [
        ip.word::<8>(),
        ip.word::<12>(),
        ip.word::<16>(),
        ip.word::<20>(),
    ];
    let destination = [
        ip.word::<24>(),
        ip.word::<28>(),
        ip.word::<32>(),
        ip.word::<36>(),
    ];
    set_addresses(&mut work.packet, source, destination, direction);
    let payload = u32::from(u16::from_be(ip.half::<4>()));
    // A payload length of 0 means that the packet is too long for this field (RFC 2675, BIG TCP).
    let end = if payload == 0 {
        if skb.gso_size() == 0 {
            return Ok((Kind::Unreadable, None));
        }
        skb.len()
    } else {
        l3 + IPV6_LEN + payload
    };
    Ok(segment(skb, work, headers, end, direction))
}

/// Returns whether one of the addresses is an IPv4-mapped address. Such addresses must not appear
/// on a wire (RFC 4291, section 2.5.5.2), and in a flow key they would stand for an IPv4
/// connection.
#[inline(always)]
fn has_mapped_address(ip: Header<IPV6_LEN>) -> bool {
    let source = ip.word::<8>() | ip.word::<12>() | (ip.word::<16>() ^ MAPPED);
    let destination = ip.word::<24>() | ip.word::<28>() | (ip.word::<32>() ^ MAPPED);
    source == 0 || destination == 0
}

const HOP_BY_HOP: u32 = 0;
const ROUTING: u32 = 43;
const FRAGMENT: u32 = 44;
const AUTHENTICATION: u32 = 51;
const DESTINATION: u32 = 60;
const MOBILITY: u32 = 135;
const HIP: u32 = 139;
const SHIM6: u32 = 140;

/// Returns whether a next-header number is that of an extension header that may come before TCP.
#[inline(always)]
pub fn is_extension(protocol: u32) -> bool {
    matches!(
        protocol,
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION | MOBILITY | HIP | SHIM6
    )
}

/// A walk along IPv6 extension headers (RFC 8200, section 4).
struct Walk {
    skb: Skb,
    /// The next-header number of the header at `at`.
    protocol: u32,
    at: u32,
    /// Whether a fragment header has stated that the packet is the first of several fragments.
    first_fragment: bool,
    /// Whether the headers are incomplete, or there are too many of them.
    stranded: bool,
}

/// Walks along the extension headers that begin at offset `at`, up to a TCP header. `protocol` is
/// the next-header number of the first extension header. If there is no TCP header, returns the
/// kind of the packet as `Err`.
#[inline(always)]
fn walk(skb: Skb, protocol: u32, at: u32) -> Result<Walk, Kind> {
    let mut walk = Walk {
        skb,
        protocol,
        at,
        first_fragment: false,
        stranded: false,
    };
    walk_extensions(&mut walk);
    if walk.stranded {
        return Err(Kind::Unreadable);
    }
    if walk.protocol != IPPROTO_TCP {
        return Err(Kind::Other);
    }
    if walk.at > MAX_L4 {
        return Err(Kind::Unreadable);
    }
    Ok(walk)
}

#[inline(never)]
fn walk_extensions(walk: &mut Walk) {
    repeat(MAX_EXTENSIONS, walk, Walk::step);
    if is_extension(walk.protocol) {
        walk.stranded = true;
    }
}

impl Walk {
    #[inline(always)]
    fn step(&mut self, _: u32) -> bool {
        let protocol = self.protocol;
        if !is_extension(protocol) {
            return true;
        }
        let Some(header) = self.skb.load::<[u8; 8]>(self.at) else {
            self.stranded = true;
            return true;
        };
        let units = u32::from(header[1]);
        let len = match protocol {
            FRAGMENT => {
                let offset = u16::from_be_bytes([header[2], header[3]]);
                if offset & 0xfff8 != 0 {
                    // This is not the first fragment, so it has no ports.
                    self.protocol = NO_NEXT;
                    return true;
                }
                // Other fragments follow only if the M flag is set. An atomic fragment (RFC 6946)
                // is a whole packet.
                self.first_fragment |= offset & 1 != 0;
                8
            }
            AUTHENTICATION => (units + 2) * 4,
            _ => (units + 1) * 8,
        };
        self.protocol = u32::from(header[0]);
        self.at += len;
        false
    }
}

/// The next-header number for "no next header" (RFC 8200, section 4.7).
const NO_NEXT: u32 = 59;
