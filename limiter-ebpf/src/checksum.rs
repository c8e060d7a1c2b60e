//! The checksum of TCP: who has to look at it, and what it comes to (RFC 1071).

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;

use crate::{
    packet::{ETH_LEN, IPPROTO_TCP, IPV4_LEN, IPV6_LEN, Packet},
    skb::{Skb, bounded_to, sum},
    work::Work,
};

/// Where the checksum stands in the TCP header.
pub const CHECKSUM_AT: u32 = 16;

/// The most that `bpf_csum_diff` adds up in one go (its scratch space, `MAX_BPF_STACK`).
pub const PIECE: usize = 512;

/// The pieces of the longest segment whose checksum is not the device's to fill in: one of
/// loopback, with that switched off.
const MAX_PIECES: u32 = 65_536 / PIECE as u32 + 1;

/// Room for the bytes that are added up; zero whenever nothing is, since keys may be among them.
#[repr(C)]
pub struct Scratch {
    words: [u64; PIECE / 8],
}

/// Whether the receiver will take the packet's TCP checksum for right.
///
/// Mostly the device has looked at it, or it is never filled in, since the packet has not left the
/// host (CHECKSUM_UNNECESSARY, CHECKSUM_PARTIAL; include/linux/skbuff.h). What is left is added up
/// here as it will be there.
#[inline(always)]
pub fn is_right(skb: Skb, work: *mut Work) -> bool {
    if skb.is_checked() {
        return true;
    }
    // SAFETY: a live map value, of this CPU alone.
    let packet = unsafe { &(*work).packet };
    match is_partial(skb, packet) {
        None => return false,
        Some(true) => return true,
        Some(false) => {}
    }
    let total = packet.payload - packet.l4 + packet.len;
    if let Some(sum) = sum_of_device(skb, packet, total) {
        return fold(sum) == 0xffff;
    }
    let whole = sum_from(skb, work, packet.l4);
    fold(pseudo_sum(packet, total) + u64::from(whole)) == 0xffff
}

/// The sum of segment and pseudo-header, if the device took one of all that is behind the link
/// header (CHECKSUM_COMPLETE), and if that is a plain IP header and the segment.
#[inline(always)]
fn sum_of_device(skb: Skb, packet: &Packet, total: u32) -> Option<u64> {
    let headers = if packet.v6 != 0 { IPV6_LEN } else { IPV4_LEN };
    let tagged = packet.l3 > ETH_LEN;
    if tagged || packet.l4 != packet.l3 + headers || packet.l4 + total != skb.len() {
        return None;
    }
    let sum = u64::from(skb.device_sum()?);
    if packet.v6 == 0 {
        // The sum of a whole IPv4 header is zero.
        return Some(sum + pseudo_sum(packet, total));
    }
    let mut first = [0u32; 2];
    // SAFETY: the array has eight bytes.
    if !unsafe { skb.load(packet.l3, first.as_mut_ptr().cast(), 8) } {
        return None;
    }
    // The addresses are in the header as in the pseudo-header; of the rest, what is taken away is
    // added as its complement.
    let [one, two] = first;
    Some(sum + u64::from(!one) + u64::from(!two) + u64::from((IPPROTO_TCP + total).to_be()))
}

/// Whether the device is to fill in the checksum, of which there is only the pseudo-header's sum.
#[inline(always)]
pub fn is_partial(skb: Skb, packet: &Packet) -> Option<bool> {
    let at = packet.l4 + CHECKSUM_AT;
    let (mut before, mut after) = ([0u8; 2], [0u8; 2]);
    // SAFETY: the buffers have two bytes.
    unsafe {
        // No flags: not part of the pseudo-header, so a partial checksum stays as it is
        // (inet_proto_csum_replace4, net/core/utils.c).
        if !skb.load(at, before.as_mut_ptr(), 2)
            || !skb.replace_checksum(at, 0, 0x0101, 2)
            || !skb.load(at, after.as_mut_ptr(), 2)
        {
            return None;
        }
        if before == after {
            return Some(true);
        }
        // As it was, lest a sum that the device took of the whole packet no longer hold.
        skb.store(at, before.as_ptr(), 2).then_some(false)
    }
}

/// The sum of the pseudo-header (RFC 9293, section 3.1; RFC 8200, section 8.1), the same both ways.
/// `total`: bytes of TCP header and payload.
#[inline(always)]
pub fn pseudo_sum(packet: &Packet, total: u32) -> u64 {
    let key = &packet.key;
    let ends = u64::from((IPPROTO_TCP + total).to_be());
    if packet.v6 == 0 {
        // Not the whole of the mapped addresses.
        return ends + u64::from(key.client[3]) + u64::from(key.server[3]);
    }
    let mut sum = ends;
    for word in 0..4 {
        sum += u64::from(key.client[word]) + u64::from(key.server[word]);
    }
    sum
}

/// Folds a one's complement sum of 32-bit words into 16 bits (RFC 1071, section 2).
#[inline(always)]
pub fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    sum as u16
}

struct Summing {
    skb: Skb,
    scratch: *mut u64,
    at: u32,
    end: u32,
    /// 1: the first byte of the first piece does not count.
    odd: u32,
    sum: u32,
}

/// The one's complement sum of the segment's bytes from byte `from` of the packet to its end, as part
/// of the segment.
#[inline(never)]
pub fn sum_from(skb: Skb, work: *mut Work, from: u32) -> u32 {
    // SAFETY: a live map value, of this CPU alone.
    let (packet, scratch) = unsafe { (&(*work).packet, &raw mut (*work).scratch) };
    // Pieces begin at even bytes of the segment, as a checksum counts.
    let odd = (from - packet.l4) & 1;
    let mut summing = Summing {
        skb,
        scratch: scratch.cast(),
        at: from - odd,
        end: packet.payload + packet.len,
        odd,
        sum: 0,
    };
    // SAFETY: the context outlives the call.
    unsafe {
        bpf_loop(
            MAX_PIECES,
            add_piece as *mut c_void,
            (&raw mut summing).cast(),
            0,
        );
    }
    summing.sum
}

unsafe extern "C" fn add_piece(_: u32, summing: *mut Summing) -> i64 {
    // SAFETY: `sum_from` passes its own context, whose scratch has PIECE bytes.
    unsafe {
        let at = (*summing).at;
        let left = (*summing).end.wrapping_sub(at);
        if left == 0 || left > 1 << 20 {
            return 1;
        }
        let scratch = (*summing).scratch;
        let len = bounded_to::<{ PIECE as u64 }>(if left < PIECE as u32 {
            left
        } else {
            PIECE as u32
        });
        if !(*summing).skb.load(at, scratch.cast(), len) {
            // The sum will not be right, and nobody takes the segment.
            return 1;
        }
        if (*summing).odd != 0 {
            *scratch.cast::<u8>() = 0;
            (*summing).odd = 0;
        }
        (*summing).sum = sum(scratch.cast(), PIECE as u32, (*summing).sum);
        for word in 0..PIECE / 8 {
            core::ptr::write_volatile(scratch.add(word), 0);
        }
        (*summing).at = at + len;
    }
    0
}
