// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Translates the header of a packet to the sequence numbers of the side to which the packet goes.

use crate::{
    kernel::{global::global, skb::Skb, work::Work},
    packet::{checksum::CHECKSUM_AT, header::ACK, options::translate_blocks},
};

/// The offset, in bytes, of the sequence number in the TCP header. The acknowledgement number
/// follows it.
const SEQ_AT: u32 = 4;

global! {
    /// Translates the packet as `Work::translation` states. Returns false if that is not possible.
    pub fn limiter_translate(skb, work;) -> bool = translate, or false;
}

/// The body of [`limiter_translate`].
#[inline(always)]
fn translate(skb: Skb, work: &mut Work) -> bool {
    let (packet, translation) = (&work.packet, &work.translation);
    let (old_seq, new_seq) = (translation.old_seq.0.to_be(), translation.new_seq.0.to_be());
    let old_ack = translation.old_ack.0.to_be();
    // Without the flag ACK, the acknowledgement number has no meaning.
    let new_ack = if packet.has(ACK) {
        translation.new_ack.0.to_be()
    } else {
        old_ack
    };
    // This is equation 3 of RFC 1624, without the old checksum.
    let sum = u64::from(!old_seq) + u64::from(new_seq) + u64::from(!old_ack) + u64::from(new_ack);
    let change = (sum >> 32) + (sum & 0xffff_ffff);
    let change = (change >> 32) + (change & 0xffff_ffff);
    // If the device has computed a sum over the whole packet, that sum remains right, because the
    // change of the checksum cancels the change of the numbers. A partial checksum does not contain
    // the numbers.
    skb.store(packet.l4 + SEQ_AT, &[new_seq, new_ack])
        && skb.replace_checksum(packet.l4 + CHECKSUM_AT, 0, change, 0)
        && (packet.has_blocks == 0 || translate_blocks(skb, packet, translation))
}
