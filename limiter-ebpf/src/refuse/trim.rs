//! Cuts a segment, as if the rest of it had been lost.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use limiter_common::abi::counter;

use super::segment::{CHECKSUM_AT, PIECE, fold, is_partial, plain, pseudo_sum};
use crate::{
    maps,
    packet::{FIN, Packet},
    skb::{Skb, bounded_to, sum},
    work::Work,
};

/// The longest packet that can be had by cutting: `bpf_skb_change_tail` refuses what is longer than
/// SKB_MAX_ALLOC (net/core/filter.c), 16 KiB less what the kernel keeps beside the data.
const MAX_CUT: u32 = 15 * 1024;

/// The pieces of the longest segment whose checksum is not the device's to fill in: one of
/// loopback, with that switched off.
const MAX_PIECES: u32 = 65_536 / PIECE as u32 + 1;

/// Where the data offset and the flags stand in the TCP header.
const FLAGS_AT: u32 = 12;
/// Where the length stands in the IPv4 and in the IPv6 header.
const IPV4_TOTAL_AT: u32 = 2;
const IPV4_CHECKSUM_AT: u32 = 10;
const IPV6_PAYLOAD_AT: u32 = 4;
/// Next header TCP, in the word that begins with the IPv6 payload length.
const IPV6_NEXT_TCP: u32 = 6 << 8;

/// Cuts a segment to its first `keep` bytes (at least one, fewer than it has), or to fewer still:
/// whatever is gone the client sends again. False: it could not be done, and the packet is of no
/// use any more.
#[inline(never)]
pub fn trim(skb: Skb, work: *mut Work, keep: u32) -> bool {
    // SAFETY: a live map value, of this CPU alone.
    let packet = unsafe { &mut (*work).packet };
    if keep == 0 || keep >= packet.len || packet.payload >= MAX_CUT {
        return false;
    }
    let room = MAX_CUT - packet.payload;
    let keep = if keep < room { keep } else { room };
    let Some(partial) = is_partial(skb, packet) else {
        return false;
    };
    // A checksum that is not right must not become right by this.
    let cut = if partial {
        0
    } else {
        tail_sum(skb, work, keep)
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

struct Tail {
    skb: Skb,
    buffer: *mut u64,
    at: u32,
    end: u32,
    /// 1: the first byte of the first piece stays.
    odd: u32,
    sum: u32,
}

/// The one's complement sum of the payload from byte `keep` on, as part of the segment.
#[inline(always)]
fn tail_sum(skb: Skb, work: *mut Work, keep: u32) -> u32 {
    // SAFETY: a live map value, of this CPU alone.
    let (packet, reply) = unsafe { (&(*work).packet, &mut (*work).reply) };
    // Pieces begin at even bytes of the segment, as a checksum counts (headers are even).
    let odd = keep & 1;
    let mut tail = Tail {
        skb,
        buffer: reply.text.as_mut_ptr(),
        at: packet.payload + keep - odd,
        end: packet.payload + packet.len,
        odd,
        sum: 0,
    };
    // SAFETY: the context outlives the call.
    unsafe {
        bpf_loop(
            MAX_PIECES,
            add_piece as *mut c_void,
            (&raw mut tail).cast(),
            0,
        );
    }
    tail.sum
}

unsafe extern "C" fn add_piece(_: u32, tail: *mut Tail) -> i64 {
    // SAFETY: `tail_sum` passes its own context; its buffer has MAX_TEXT bytes, two pieces.
    unsafe {
        let at = (*tail).at;
        let left = (*tail).end.wrapping_sub(at);
        if left == 0 || left > 1 << 20 {
            return 1;
        }
        let buffer = (*tail).buffer;
        for word in 0..PIECE / 8 {
            core::ptr::write_volatile(buffer.add(word), 0);
        }
        let len = bounded_to::<{ PIECE as u64 }>(if left < PIECE as u32 {
            left
        } else {
            PIECE as u32
        });
        if !(*tail).skb.load(at, buffer.cast(), len) {
            // The checksum will not be right, and the segment is dropped by its receiver.
            return 1;
        }
        if (*tail).odd != 0 {
            *buffer.cast::<u8>() = 0;
            (*tail).odd = 0;
        }
        (*tail).sum = sum(buffer.cast(), PIECE as u32, (*tail).sum);
        (*tail).at = at + len;
    }
    0
}
