// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The handling of SYN segments from clients. A SYN opens no flow, because the server's answer
//! opens it.

use limiter_common::abi::counter;

use crate::{
    follow::flow,
    kernel::{
        global::global,
        maps::{self, dropped},
        skb::{NEXT, Skb, coarse_ns},
        work::Work,
    },
    packet::{header::ACK, options, trim::trim},
    refuse::client::without_flow,
};

/// The maximum time, in ns, for which a SYN may be on its way. No network is known to keep a packet
/// for longer, although RFC 9293, section 3.4.1, assumes a maximum segment lifetime of two minutes.
const SYN_LIFETIME_NS: u64 = 60_000_000_000;

global! {
    /// Turns a client's SYN into a plain TCP SYN without data. Returns false if that is not
    /// possible.
    fn limiter_plain_syn(skb, work;) -> bool = plain, or false;

    /// Returns whether a client's SYN is a late copy of the SYN of a connection that has ended.
    /// Such a copy has the same sequence number as the first SYN, and no newer timestamp.
    fn limiter_is_old_syn(work;) -> bool = is_old, or false;
}

/// Handles a client's segment with the SYN flag.
#[inline(always)]
pub fn syn(skb: Skb, work: &mut Work) -> i32 {
    if work.packet.has(ACK) {
        return without_flow(skb, work);
    }
    if limiter_is_old_syn(work) {
        // The SYN would open a connection at the server, and the server's answers would end the
        // connection on which the client is still reading the refusal.
        maps::count_by(counter::DROPPED_BYTES, u64::from(work.packet.len));
        return dropped(counter::AFTER_END_DROPPED);
    }
    let (len, packet) = (u64::from(work.packet.len), &work.packet);
    if packet.multipath | packet.fast_open | packet.len != 0 && !limiter_plain_syn(skb, work) {
        maps::count_by(counter::DROPPED_BYTES, len);
        return dropped(counter::UNREADABLE_DROPPED);
    }
    NEXT
}

/// The body of [`limiter_is_old_syn`].
#[inline(always)]
fn is_old(work: &mut Work) -> bool {
    if !flow::find_tomb(&mut work.packet) {
        return false;
    }
    let packet = &work.packet;
    let Some(tomb) = maps::tomb(&packet.key) else {
        return false;
    };
    let known = tomb.client_tsval();
    let step = packet.tsval.wrapping_sub(known) as i32;
    let is_newer = packet.has_timestamp != 0 && known != 0 && step > 0;
    tomb.link().is(packet.link)
        && packet.seq.plus(1) == tomb.client_start()
        && !is_newer
        && coarse_ns().saturating_sub(tomb.ended_ns()) < SYN_LIFETIME_NS
}

/// The body of [`limiter_plain_syn`].
#[inline(always)]
fn plain(skb: Skb, work: &mut Work) -> bool {
    let packet = &work.packet;
    if packet.multipath | packet.fast_open != 0 {
        if !options::plain_syn(skb, packet) {
            return false;
        }
        maps::count_by(counter::MULTIPATH_DECLINED, u64::from(packet.multipath));
        maps::count_by(counter::FAST_OPEN_DECLINED, u64::from(packet.fast_open));
    }
    if packet.len == 0 {
        return true;
    }
    // The data would reach the server before there is a flow. The client sends it again after the
    // handshake (RFC 7413, section 4.2.2; RFC 9293, section 3.4).
    let len = u64::from(packet.len);
    if !trim(skb, work, 0) {
        return false;
    }
    maps::count_by(counter::DROPPED_BYTES, len);
    maps::count(counter::SYN_DATA_DROPPED);
    true
}
