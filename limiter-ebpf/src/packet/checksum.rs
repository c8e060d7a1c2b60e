// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The TCP checksum (RFC 1071): its computation and verification.

use crate::{
    kernel::{
        global::global,
        repeat::repeat,
        skb::{Skb, sum},
        work::{PIECE, Packet, Scratch, Work},
    },
    packet::header::{ETH_LEN, IPPROTO_TCP, IPV4_LEN, IPV6_LEN},
};

/// The offset of the checksum in the TCP header.
pub const CHECKSUM_AT: u32 = 16;

/// The number of pieces in the longest segment whose checksum is not left to the device. That is a
/// segment on loopback with checksum offload switched off.
const MAX_PIECES: u32 = 65_536 / PIECE as u32 + 1;

global! {
    /// Returns whether the receiver will accept the TCP checksum of the packet.
    ///
    /// Usually the device has verified the checksum, or the checksum is never filled in because the
    /// packet has not left the host (CHECKSUM_UNNECESSARY, CHECKSUM_PARTIAL;
    /// include/linux/skbuff.h). In all other cases, this function computes the checksum in the same
    /// way as the receiver will.
    pub fn limiter_checksum_is_right(skb, work;) -> bool = is_right, or false;
}

/// The body of [`limiter_checksum_is_right`].
#[inline(always)]
fn is_right(skb: Skb, work: &mut Work) -> bool {
    if skb.is_checked() {
        return true;
    }
    let packet = &work.packet;
    match is_partial(skb, packet) {
        None => return false,
        Some(true) => return true,
        Some(false) => {}
    }
    let total = packet.payload - packet.l4 + packet.len;
    if let Some(sum) = sum_of_device(skb, packet, total) {
        return fold(sum) == 0xffff;
    }
    let l4 = packet.l4;
    let whole = sum_from(skb, work, l4);
    fold(pseudo_sum(&work.packet, total) + u64::from(whole)) == 0xffff
}

/// Returns the sum of the segment and the pseudo-header. It is derived from the sum that the device
/// has computed over everything after the link header (CHECKSUM_COMPLETE). Returns `None` if the
/// device has computed none, or if its sum covers more than a plain IP header and the segment.
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
    // The sum of the device also contains the IPv6 header. The addresses in that header are part of
    // the pseudo-header too, so they are kept. The first two words of the header are subtracted by
    // adding their complements, and the rest of the pseudo-header is added.
    let [one, two] = skb.load::<[u32; 2]>(packet.l3)?;
    Some(sum + u64::from(!one) + u64::from(!two) + u64::from((IPPROTO_TCP + total).to_be()))
}

/// Returns whether the device will fill in the checksum. In that case, the checksum field contains
/// only the sum of the pseudo-header until then. Returns `None` if the packet cannot be read or
/// written.
#[inline(always)]
pub fn is_partial(skb: Skb, packet: &Packet) -> Option<bool> {
    let at = packet.l4 + CHECKSUM_AT;
    let before = skb.load::<u16>(at)?;
    // The kernel is asked to adjust the checksum to a change that was not made. It leaves a partial
    // checksum as it is, because the flags do not contain BPF_F_PSEUDO_HDR and the change therefore
    // does not concern the pseudo-header (inet_proto_csum_replace4, net/core/utils.c). It changes
    // any other checksum.
    if !skb.replace_checksum(at, 0, 0x0101, 2) {
        return None;
    }
    let after = skb.load::<u16>(at)?;
    if before == after {
        return Some(true);
    }
    // The checksum is restored. Otherwise the checksum would be wrong, and any sum that the device
    // has computed over the whole packet would be wrong too.
    skb.store(at, &before).then_some(false)
}

/// Returns the sum of the pseudo-header (RFC 9293, section 3.1; RFC 8200, section 8.1), which is
/// the same for both directions. `total` is the number of bytes in TCP header and payload.
#[inline(always)]
pub fn pseudo_sum(packet: &Packet, total: u32) -> u64 {
    let key = &packet.key;
    let ends = u64::from((IPPROTO_TCP + total).to_be());
    if packet.v6 == 0 {
        // The IPv4 addresses are the last words of the IPv4-mapped addresses in the key.
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

/// The state of the loop over the pieces of a segment.
struct Pieces<'a> {
    skb: Skb,
    scratch: &'a mut Scratch,
    at: u32,
    end: u32,
    /// 1 if the first byte of the first piece is not part of the sum.
    odd: u32,
    sum: u32,
}

/// Returns the one's complement sum of the segment's bytes from the offset `from` in the packet on.
/// Each byte has the same weight (high or low byte of a word) as in the sum of the whole segment.
#[inline(never)]
pub fn sum_from(skb: Skb, work: &mut Work, from: u32) -> u32 {
    let packet = &work.packet;
    // Pieces begin at even bytes of the segment, because a checksum adds up pairs of bytes.
    let odd = (from - packet.l4) & 1;
    let mut pieces = Pieces {
        skb,
        scratch: &mut work.scratch,
        at: from - odd,
        end: packet.payload + packet.len,
        odd,
        sum: 0,
    };
    repeat(MAX_PIECES, &mut pieces, Pieces::add);
    pieces.sum
}

impl Pieces<'_> {
    #[inline(always)]
    fn add(&mut self, _: u32) -> bool {
        let at = self.at;
        let left = self.end.wrapping_sub(at);
        if left == 0 || left > 1 << 20 {
            return true;
        }
        let len = if left < PIECE as u32 {
            left
        } else {
            PIECE as u32
        };
        let words = &mut self.scratch.words;
        if !self.skb.load_part::<{ PIECE as u64 }, _>(at, words, len) {
            // The sum will be wrong, and no receiver would accept such a segment.
            return true;
        }
        if self.odd != 0 {
            let [first, ..] = words;
            *first &= !0xff;
            self.odd = 0;
        }
        self.sum = sum::<{ PIECE as u32 }, _>(words, self.sum);
        self.scratch.wipe();
        self.at = at + len;
        false
    }
}
