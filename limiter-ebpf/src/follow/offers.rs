// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Offers of a client to continue in another kind of HTTP (`Upgrade: h2c`). Requests in that kind
//! of HTTP could not be limited. The programs remove such offers from requests before the server
//! sees the requests, just as they remove Multipath TCP from a SYN.
//!
//! The first letter of the offer is replaced by a `-`. The result is an offer that no server knows
//! and that every server ignores (RFC 9110, section 7.8). All other bytes stay in place. The letter
//! is also replaced in each retransmission until the server has acknowledged it, so that all copies
//! that the server may read are the same.
//!
//! The replacement is not possible if the letter has already passed (in a head that arrives in
//! pieces), or if too many offers have not been acknowledged yet. In these cases the request
//! continues unchanged, and the connection is reset if the server accepts the offer.

use limiter_common::{
    abi::{Flow, OFFERS, counter, policy},
    http::{ASKS_HTTP, TAKEN_OUT},
    seq::Seq,
};

use crate::{
    follow::ring::demands_of,
    kernel::{
        global::global,
        maps,
        skb::Skb,
        verifier::place,
        work::{Packet, Work},
    },
    packet::checksum::CHECKSUM_AT,
};

/// The mask that keeps the index of an offer below the length of `Flow::offers`.
const MASK: u64 = OFFERS as u64 - 1;

global! {
    /// Removes the offer of another kind of HTTP from the packet with the request in `Work::scan`,
    /// if the policy requires the removal and the removal is possible. `admitted` is 1 if the
    /// request has just been admitted, and 0 if its head is not complete.
    pub fn limiter_decline(skb, work, flow; admitted: u32) -> () = decline, or ();

    /// Removes from a retransmission the offers that were removed from the original packet. Returns
    /// false if that is not possible.
    pub fn limiter_decline_again(skb, work, flow;) -> bool = decline_again, or false;
}

/// The body of [`limiter_decline`].
#[inline(always)]
fn decline(skb: Skb, work: &mut Work, flow: &mut Flow, admitted: u32) {
    let Some(config) = maps::config() else { return };
    let admitted = admitted != 0;
    let at = work.scan.offer;
    let observed = config.http2 != policy::REJECT || config.observe != 0;
    if observed || at >= work.packet.len || !(admitted || work.scan.state.in_head()) {
        return;
    }
    let seq = work.packet.seq.plus(at);
    let number = flow.offers_next;
    let oldest = *place::<MASK, _, _>(&mut flow.offers, number);
    let taken = number >= OFFERS as u32 && !oldest.before(flow.server_ack);
    // If the first letter of the offer was seen before, the server may already have it, so the
    // offer stays unchanged.
    if taken || seq.before(flow.next) || !overwrite(skb, &work.packet, at) {
        return;
    }
    *place::<MASK, Seq, _>(&mut flow.offers, number) = seq;
    flow.offers_next = number.saturating_add(1);
    work.scan.state.withdraw_offer();
    if admitted {
        let last = flow.asked.wrapping_sub(1);
        *demands_of(flow, last) &= !(ASKS_HTTP as u8);
    }
    maps::count(counter::OFFERS_DECLINED);
}

/// The body of [`limiter_decline_again`].
#[inline(always)]
fn decline_again(skb: Skb, work: &mut Work, flow: &mut Flow) -> bool {
    let packet = &work.packet;
    let mut number = 0;
    while number < OFFERS as u32 {
        if number >= flow.offers_next {
            break;
        }
        let seq = *place::<MASK, _, _>(&mut flow.offers, number);
        let at = seq.since(packet.seq) as u32;
        if at < packet.len && !overwrite(skb, packet, at) {
            return false;
        }
        number += 1;
    }
    true
}

/// Overwrites byte `at` of the payload, and adjusts the TCP checksum. Returns false if that is not
/// possible. If the device has computed a sum over the whole packet, this sum remains right,
/// because the change of the checksum cancels the change of the payload.
#[inline(always)]
fn overwrite(skb: Skb, packet: &Packet, at: u32) -> bool {
    let offset = packet.payload + at;
    let Some(before) = skb.load::<u8>(offset) else {
        return false;
    };
    if !skb.store(offset, &TAKEN_OUT) {
        return false;
    }
    // The byte is the high or the low half of a 16-bit word of the segment, in network byte order.
    let shift = (1 - ((offset - packet.l4) & 1)) * 8;
    let half = |byte: u8| u64::from((u16::from(byte) << shift).to_be());
    skb.replace_checksum(packet.l4 + CHECKSUM_AT, half(before), half(TAKEN_OUT), 2)
}
