//! Cuts a segment, as if the rest of it had been lost.

use limiter_common::abi::counter;

use super::segment::plain;
use crate::{
    checksum::{CHECKSUM_AT, fold, is_partial, pseudo_sum, sum_from},
    maps,
    packet::{FIN, Packet},
    skb::Skb,
    work::Work,
};

/// The longest packet that can be had by cutting: `bpf_skb_change_tail` refuses what is longer than
/// SKB_MAX_ALLOC (net/core/filter.c), 16 KiB less what the kernel keeps beside the data.
const MAX_CUT: u32 = 15 * 1024;

/// Where a segment that is one packet is cut at the latest, and taken apart for comparison: a multiple
/// of this, with room for the longest headers before it.
pub const PART: u32 = 12 * 1024;

/// How many bytes of a segment's payload can be let by alone, when all of it must not: whole packets,
/// where it is several, since in those the rest will come again.
#[inline(always)]
pub fn room(size: u32, payload: u32) -> u32 {
    let room = MAX_CUT.saturating_sub(payload);
    let packets = match room.checked_div(size) {
        Some(packets) => packets * size,
        None => 0,
    };
    if packets > 0 {
        packets
    } else if room < PART {
        room
    } else {
        PART
    }
}

/// Where the data offset and the flags stand in the TCP header.
const FLAGS_AT: u32 = 12;
/// Where the length stands in the IPv4 and in the IPv6 header.
const IPV4_TOTAL_AT: u32 = 2;
const IPV4_CHECKSUM_AT: u32 = 10;
const IPV6_PAYLOAD_AT: u32 = 4;
/// Next header TCP, in the word that begins with the IPv6 payload length.
const IPV6_NEXT_TCP: u32 = 6 << 8;

/// Cuts a segment to its first `keep` bytes (at least one), without its FIN, or to fewer still: whatever
/// is gone the client sends again. False: it could not be done, and the packet is of no use any more.
#[inline(never)]
pub fn trim(skb: Skb, work: *mut Work, keep: u32) -> bool {
    // SAFETY: a live map value, of this CPU alone.
    let packet = unsafe { &mut (*work).packet };
    let room = room(skb.gso_size(), packet.payload);
    if keep == 0 || keep > packet.len || room == 0 {
        return false;
    }
    let keep = if keep < room { keep } else { room };
    let Some(partial) = is_partial(skb, packet) else {
        return false;
    };
    // A checksum that is not right must not become right by this.
    let cut = if partial {
        0
    } else {
        sum_from(skb, work, packet.payload + keep)
    };
    let tcp_len = packet.payload - packet.l4;
    let total = tcp_len + keep;
    let was = tcp_len + packet.len;
    if !skb.change_tail(packet.payload + keep) || !shorten_ip(skb, packet, total) {
        return false;
    }
    let (mut flags, mut check) = ([0u8; 2], [0u8; 2]);
    // SAFETY: the buffers have two bytes.
    unsafe {
        if !skb.load(packet.l4 + FLAGS_AT, flags.as_mut_ptr(), 2)
            || !skb.load(packet.l4 + CHECKSUM_AT, check.as_mut_ptr(), 2)
        {
            return false;
        }
        let old = u16::from_ne_bytes(flags);
        flags[1] &= !(FIN as u8);
        let new = u16::from_ne_bytes(flags);
        let check = if partial {
            fold(pseudo_sum(packet, total))
        } else {
            // RFC 1624, equation 3: what is gone is added as its complement.
            let sum = u64::from(!u16::from_ne_bytes(check))
                + u64::from(!fold(u64::from(cut)))
                + u64::from(!fold(u64::from(was.to_be())))
                + u64::from(total.to_be())
                + u64::from(!old)
                + u64::from(new);
            !fold(sum)
        };
        if !skb.write(packet.l4 + FLAGS_AT, flags.as_ptr(), 2)
            || !skb.write(packet.l4 + CHECKSUM_AT, (&raw const check).cast(), 2)
        {
            return false;
        }
    }
    packet.payload = packet.l4 + tcp_len;
    packet.len = keep;
    packet.flags &= !FIN;
    maps::count(counter::TRIMMED);
    true
}

/// Writes the new length into the IP header. `total`: bytes of TCP header and payload.
#[inline(always)]
fn shorten_ip(skb: Skb, packet: &mut Packet, total: u32) -> bool {
    let len = packet.l4 - packet.l3 + total;
    // SAFETY: constant lengths that the values have.
    unsafe {
        if packet.v6 == 0 {
            let (mut old, new) = (0u16, (len as u16).to_be());
            let at = packet.l3 + IPV4_TOTAL_AT;
            return skb.load(at, (&raw mut old).cast(), 2)
                && skb.replace_ip_checksum(packet.l3 + IPV4_CHECKSUM_AT, old, new)
                && skb.write(at, (&raw const new).cast(), 2);
        }
        let at = packet.l3 + IPV6_PAYLOAD_AT;
        let mut word = 0u32;
        if !skb.load(at, (&raw mut word).cast(), 4) {
            return false;
        }
        let mut word = u32::from_be(word);
        let mut payload = len - 40;
        if word >> 16 == 0 {
            // Its length stood in a jumbo payload option, which may not say less than 65,536
            // (RFC 2675, section 3).
            if !plain(skb, packet) {
                return false;
            }
            payload = total;
            word = word & 0xff | IPV6_NEXT_TCP;
        }
        let word = (payload << 16 | word & 0xffff).to_be();
        skb.write(at, (&raw const word).cast(), 4)
    }
}
