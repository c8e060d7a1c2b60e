// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The IPv4 header (RFC 791).

use core::mem::MaybeUninit;

use crate::{
    kernel::{
        linear::{Header, Linear},
        skb::{Skb, sum},
        verifier::zeros,
    },
    packet::{
        checksum::fold,
        errors,
        header::{Attempt, Direction, IPPROTO_TCP, IPV4_LEN, Kind, MAPPED, TCP_LEN},
        tcp::{begin, first_fragment, guarded, segment, set_addresses},
    },
};

/// The size in bytes of a buffer for the longest options of a header (40 bytes), rounded up to a
/// power of two.
const ROOM: usize = 64;

#[inline(always)]
pub fn ipv4(skb: Skb, linear: Linear, l3: u32, direction: Direction) -> Attempt {
    let ip = linear.header::<IPV4_LEN>(l3).ok_or(())?;
    let first = ip.byte::<0>();
    let fragment = u16::from_be(ip.half::<6>());
    let ihl = (first & 0x0f) * 4;
    // Later fragments and other protocols have no TCP header. No receiver accepts a packet of
    // another IP version, or one whose header is too short.
    if ip.byte::<9>() != IPPROTO_TCP || first >> 4 != 4 || ihl < IPV4_LEN || fragment & 0x1fff != 0
    {
        errors::other(skb, l3, ip.byte::<9>(), direction);
        return Ok((Kind::Other, None));
    }
    let l4 = l3 + ihl;
    if fragment & 0x2000 != 0 {
        return first_fragment(skb, linear, l4, direction);
    }
    let tcp = linear.header::<TCP_LEN>(l4).ok_or(())?;
    if !guarded(tcp, direction) {
        return Ok((Kind::Other, None));
    }
    if direction == Direction::ToServer {
        if ip.byte::<8>() == 0 {
            return Ok((Kind::Expired, None));
        }
        if header_sum(skb, ip, l3, ihl) != 0xffff {
            return Ok((Kind::BadChecksum, None));
        }
    }
    let Some((work, headers)) = begin(skb, l3, l4) else {
        return Ok((Kind::Unreadable, None));
    };
    let ip: Header<IPV4_LEN> = headers.ip;
    work.packet.v6 = 0;
    let source = [0, 0, MAPPED, ip.word::<12>()];
    let destination = [0, 0, MAPPED, ip.word::<16>()];
    set_addresses(&mut work.packet, source, destination, direction);
    let total = u32::from(u16::from_be(ip.half::<2>()));
    // A total length of 0 means that the packet is too long for this field (BIG TCP).
    let end = if total == 0 {
        if skb.gso_size() == 0 {
            return Ok((Kind::Unreadable, None));
        }
        skb.len()
    } else {
        l3 + total
    };
    Ok(segment(skb, work, headers, end, direction))
}

/// Returns the folded sum of a header of `ihl` bytes, which is 0xffff if the header's checksum is
/// right.
#[inline(always)]
fn header_sum(skb: Skb, ip: Header<IPV4_LEN>, l3: u32, ihl: u32) -> u16 {
    let words = u64::from(ip.word::<0>())
        + u64::from(ip.word::<4>())
        + u64::from(ip.word::<8>())
        + u64::from(ip.word::<12>())
        + u64::from(ip.word::<16>());
    fold(words + sum_of_options(skb, l3 + IPV4_LEN, ihl - IPV4_LEN))
}

/// Returns the one's complement sum of the `len` bytes of options (0 to 40) at offset `at`, or 0 if
/// they cannot be read.
#[inline(always)]
fn sum_of_options(skb: Skb, at: u32, len: u32) -> u64 {
    if len == 0 {
        return 0;
    }
    // The buffer is zero after the options.
    let mut options = MaybeUninit::<[u64; ROOM / 8]>::uninit();
    let options = zeros(&mut options);
    if !skb.load_part::<{ ROOM as u64 }, _>(at, options, len) {
        return 0;
    }
    u64::from(sum::<{ ROOM as u32 }, _>(options, 0))
}
