//! IPv4 (RFC 791).

use super::{
    Attempt, Direction, IPPROTO_TCP, IPV4_LEN, Linear, Parsed, TCP_LEN, ends, first_fragment,
    guarded, segment,
};
use crate::{
    checksum::fold,
    maps,
    skb::{Skb, bounded_to, sum},
};

/// The bytes of the longest header, and some, to be a power of two.
const ROOM: usize = 64;

#[inline(always)]
pub fn ipv4(skb: Skb, linear: Linear, l3: u32, direction: Direction) -> Attempt {
    let ip = linear.header(l3, IPV4_LEN).ok_or(())?;
    // SAFETY: the header has 20 bytes.
    let (protocol, first, fragment, total, time_to_live) = unsafe {
        (
            ip.byte::<9>(),
            ip.byte::<0>(),
            u16::from_be(ip.half::<6>()),
            u16::from_be(ip.half::<2>()),
            ip.byte::<8>(),
        )
    };
    let ihl = (first & 0x0f) * 4;
    // Of another version, or too short: nobody takes it.
    if protocol != IPPROTO_TCP || first >> 4 != 4 || ihl < IPV4_LEN || fragment & 0x1fff != 0 {
        return Ok((Parsed::Other, None));
    }
    let l4 = l3 + ihl;
    if fragment & 0x2000 != 0 {
        return first_fragment(skb, linear, l4, direction);
    }
    let tcp = linear.header(l4, TCP_LEN).ok_or(())?;
    if !guarded(tcp, direction) {
        return Ok((Parsed::Other, None));
    }
    if direction == Direction::ToServer {
        if time_to_live == 0 {
            return Ok((Parsed::Expired, None));
        }
        // SAFETY: the header has 20 bytes.
        let words = unsafe {
            u64::from(ip.word::<0>())
                + u64::from(ip.word::<4>())
                + u64::from(ip.word::<8>())
                + u64::from(ip.word::<12>())
                + u64::from(ip.word::<16>())
        };
        let options = ihl - IPV4_LEN;
        if fold(words + sum_of_options(skb, l3 + IPV4_LEN, options)) != 0xffff {
            return Ok((Parsed::BadChecksum, None));
        }
    }
    let Some(work) = maps::work() else {
        return Ok((Parsed::Unreadable, None));
    };
    // SAFETY: `work` is a live map value, of this CPU alone; the header has 20 bytes.
    unsafe {
        let packet = &raw mut (*work).packet;
        const MAPPED: u32 = u32::from_be(0x0000_ffff);
        (*packet).v6 = 0;
        (*packet).key.client = [0, 0, MAPPED, 0];
        (*packet).key.server = [0, 0, MAPPED, 0];
        let (source, destination) = ends(packet, direction);
        *source.add(3) = ip.word::<12>();
        *destination.add(3) = ip.word::<16>();
    }
    // A total length of 0 stands for what is too long for the field (BIG TCP).
    let end = if total == 0 {
        if skb.gso_size() == 0 {
            return Ok((Parsed::Unreadable, None));
        }
        skb.len()
    } else {
        l3 + u32::from(total)
    };
    Ok(segment(skb, linear, tcp, work, l3, l4, end, direction))
}

/// The one's complement sum of `len` bytes of options (0 to 40) at `at`.
#[inline(always)]
fn sum_of_options(skb: Skb, at: u32, len: u32) -> u64 {
    if len == 0 {
        return 0;
    }
    let mut options = [0u64; ROOM / 8];
    let bytes = options.as_mut_ptr().cast::<u8>();
    // SAFETY: the array has as many bytes as `bounded_to` allows, zero beyond the options.
    unsafe {
        if !skb.load(at, bytes, bounded_to::<{ ROOM as u64 }>(len)) {
            return 0;
        }
        u64::from(sum(bytes, ROOM as u32, 0))
    }
}
