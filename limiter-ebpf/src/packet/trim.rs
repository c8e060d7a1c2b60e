// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Cuts a segment, as if the rest of it had been lost.

use limiter_common::abi::counter;

use crate::{
    kernel::{
        global::global,
        maps,
        skb::Skb,
        work::{Packet, Work},
    },
    packet::{
        checksum::{CHECKSUM_AT, fold, is_partial, pseudo_sum, sum_from},
        header::{FIN, IPV4_LEN, IPV6_LEN},
    },
};

/// The maximum length to which a packet can be cut, in bytes: `bpf_skb_change_tail` refuses more
/// than SKB_MAX_ALLOC (net/core/filter.c), which is 16 KiB minus the kernel's own part of the
/// buffer.
const MAX_CUT: u32 = 15 * 1024;

/// The maximum number of payload bytes to which a segment of one packet is cut, and the size of the
/// parts in which it is compared. It leaves room for the longest headers before the payload.
pub const PART: u32 = 12 * 1024;

/// Returns the maximum number of payload bytes to which a segment can be cut. `size` is its GSO
/// size (0 for a single packet), and `payload` the offset of its payload. The result is a multiple
/// of `size` if at least one packet fits, because the rest will be retransmitted in such packets.
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

/// The offset, in bytes, of the data offset and the flags in the TCP header.
const FLAGS_AT: u32 = 12;
/// The offsets, in bytes, of the length in the IPv4 and the IPv6 header, and of the checksum in the
/// IPv4 header.
const IPV4_TOTAL_AT: u32 = 2;
const IPV4_CHECKSUM_AT: u32 = 10;
const IPV6_PAYLOAD_AT: u32 = 4;
/// The next-header number of TCP, at its position in the 32-bit word that begins with the IPv6
/// payload length.
const IPV6_NEXT_TCP: u32 = 6 << 8;

global! {
    /// Cuts the packet to `Work::keep` bytes of payload. Returns false if that is not possible.
    pub fn limiter_cut(skb, work;) -> bool = cut, or false;
}

/// The body of [`limiter_cut`].
#[inline(always)]
fn cut(skb: Skb, work: &mut Work) -> bool {
    let keep = work.keep;
    let cut = keep > 0 && trim(skb, work, keep);
    maps::count_by(counter::TRIMMED, u64::from(cut));
    cut
}

/// Cuts a segment to its first `keep` bytes of payload or fewer, and removes its FIN. The client
/// will retransmit everything that is missing. Returns false if the segment could not be cut. In
/// that case, the packet must not be used any more.
#[inline(never)]
pub fn trim(skb: Skb, work: &mut Work, keep: u32) -> bool {
    let packet = &work.packet;
    let room = room(skb.gso_size(), packet.payload);
    if keep > packet.len || room == 0 {
        return false;
    }
    let keep = if keep < room { keep } else { room };
    let Some(partial) = is_partial(skb, packet) else {
        return false;
    };
    // The checksum is adjusted by the sum of the removed bytes rather than computed anew, so that
    // the cut does not turn a wrong checksum into a right one.
    let cut = if partial {
        0
    } else {
        let from = packet.payload + keep;
        sum_from(skb, work, from)
    };
    let packet = &mut work.packet;
    let tcp_len = packet.payload - packet.l4;
    let total = tcp_len + keep;
    let was = tcp_len + packet.len;
    if !skb.change_tail(packet.payload + keep) || !shorten_ip(skb, packet, total) {
        return false;
    }
    let Some(mut flags) = skb.load::<[u8; 2]>(packet.l4 + FLAGS_AT) else {
        return false;
    };
    let Some(check) = skb.load::<u16>(packet.l4 + CHECKSUM_AT) else {
        return false;
    };
    let old = u16::from_ne_bytes(flags);
    flags[1] &= !(FIN as u8);
    let new = u16::from_ne_bytes(flags);
    let check = if partial {
        fold(pseudo_sum(packet, total))
    } else {
        // By equation 3 of RFC 1624, the complements of the removed bytes are added.
        let sum = u64::from(!check)
            + u64::from(!fold(u64::from(cut)))
            + u64::from(!fold(u64::from(was.to_be())))
            + u64::from(total.to_be())
            + u64::from(!old)
            + u64::from(new);
        !fold(sum)
    };
    if !skb.write(packet.l4 + FLAGS_AT, &flags) || !skb.write(packet.l4 + CHECKSUM_AT, &check) {
        return false;
    }
    packet.payload = packet.l4 + tcp_len;
    packet.len = keep;
    packet.flags &= !FIN;
    true
}

/// Writes the new length to the IP header. `total` is the number of bytes in TCP header and
/// payload.
#[inline(always)]
fn shorten_ip(skb: Skb, packet: &mut Packet, total: u32) -> bool {
    let len = packet.l4 - packet.l3 + total;
    if packet.v6 == 0 {
        let new = (len as u16).to_be();
        let at = packet.l3 + IPV4_TOTAL_AT;
        return match skb.load::<u16>(at) {
            Some(old) => {
                skb.replace_ip_checksum(packet.l3 + IPV4_CHECKSUM_AT, old, new)
                    && skb.write(at, &new)
            }
            None => false,
        };
    }
    let at = packet.l3 + IPV6_PAYLOAD_AT;
    let Some(word) = skb.load::<u32>(at) else {
        return false;
    };
    let mut word = u32::from_be(word);
    let mut payload = len - IPV6_LEN;
    if word >> 16 == 0 {
        // The length was in a jumbo payload option, whose value must be at least 65,536 (RFC 2675,
        // section 3).
        if !plain(skb, packet) {
            return false;
        }
        payload = total;
        word = word & 0xff | IPV6_NEXT_TCP;
    }
    let word = (payload << 16 | word & 0xffff).to_be();
    skb.write(at, &word)
}

/// Removes IPv4 options or IPv6 extension headers.
#[inline(always)]
pub fn plain(skb: Skb, packet: &mut Packet) -> bool {
    let plain = packet.l3 + if packet.v6 != 0 { IPV6_LEN } else { IPV4_LEN };
    if packet.l4 == plain {
        return true;
    }
    // The TCP header is not simply copied to the place of the removed bytes, because the stack has
    // recorded the position of the header, and fills in a partial checksum at that position.
    if !skb.cut_network_header(packet.l4 - plain) {
        return false;
    }
    packet.l4 = plain;
    true
}
