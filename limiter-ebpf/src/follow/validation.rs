// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The validation of segments, which finds out whether the server will accept a segment.
//!
//! A segment that the server drops must not change any state here. Otherwise the server and the
//! parser would no longer read the same stream. Therefore a segment that brings anything new is
//! validated, unless all of its new bytes are part of a body, because the content of a body does
//! not matter.

use limiter_common::abi::{FLOW_SIGNED, FLOW_TIMESTAMPS, Flow, counter};

use crate::{
    kernel::{
        skb::{Skb, coarse_ns},
        work::Work,
    },
    packet::checksum::limiter_checksum_is_right,
};

/// The result of a validation that found no fault.
pub const VALID: u32 = u32::MAX;

/// Validates a segment whose flags and acknowledgement have been checked. Returns [`VALID`], or the
/// counter under which the segment is dropped.
#[inline(always)]
pub fn validate(skb: Skb, work: &mut Work, flow: &mut Flow) -> u32 {
    let packet = &work.packet;
    // Linux rejects an acknowledgement that is older than the latest one by more than the largest
    // window, or by more than the number of bytes that have been acknowledged so far (RFC 5961,
    // section 5.2). The window here is not scaled, which makes this check stricter.
    let old = flow.client_ack.since(packet.ack) as u32;
    let known = flow.client_ack.since(flow.server_start) as u32;
    if old > flow.client_window || old > known {
        return counter::INVALID_DROPPED;
    }
    if flow.flags & FLOW_TIMESTAMPS != 0 {
        if packet.has_timestamp == 0 {
            // Each segment must have a timestamp (RFC 7323, section 3.2).
            return counter::INVALID_DROPPED;
        }
        if (packet.tsval.wrapping_sub(flow.client_tsval) as i32) < 0 {
            return counter::STALE_DROPPED;
        }
    }
    let fault = validate_origin(skb, work, flow);
    if fault == VALID && work.packet.window > flow.client_window {
        flow.client_window = work.packet.window;
    }
    fault
}

/// Validates everything about a segment except its sequence numbers and its timestamp. Returns
/// [`VALID`], or the counter under which the segment is dropped. The segment is dropped if its
/// packet type is not that of the flow, if it has a signature on a connection without signatures,
/// if it has none on a connection with signatures, or if its checksum is wrong.
#[inline(always)]
pub fn validate_origin(skb: Skb, work: &mut Work, flow: &Flow) -> u32 {
    let signed = flow.flags & FLOW_SIGNED != 0;
    if skb.packet_type() != flow.packet_type || (work.packet.signed != 0) != signed {
        return counter::INVALID_DROPPED;
    }
    if !skb.is_checked() && !limiter_checksum_is_right(skb, work) {
        return counter::BAD_CHECKSUM_DROPPED;
    }
    VALID
}

/// The maximum step of a timestamp, in ticks of the client's timestamp clock, that is accepted
/// without verification of the checksum. If a tick is at most a millisecond, as is usual, this is
/// at most a second, and a wrong timestamp has an effect for no longer than that. (RFC 7323,
/// section 5.4, also allows longer ticks.)
const UNPROVEN_STEP: u32 = 1000;

/// The time without a packet after which a server accepts any timestamp, in ns. Timestamp clocks
/// may count microseconds, and after this time a newer timestamp can no longer be distinguished
/// from an older one (RFC 7323, section 5.5, and `TCP_PAWS_WRAP` of include/net/tcp.h). Before
/// Linux 6.7 this time was 24 days.
const OUTDATED_NS: i64 = 2147 * 1_000_000_000;

/// Returns whether the flow has been silent for so long that an older timestamp can no longer be
/// distinguished from a newer one.
#[inline(always)]
fn is_outdated(flow: &Flow) -> bool {
    let silent_ns = coarse_ns().wrapping_sub(flow.last_seen_ns);
    silent_ns as i64 > OUTDATED_NS
}

/// Records the timestamp of a segment if the two sides use timestamps and the server may record it
/// too (RFC 7323, section 4.3). Returns false if the timestamp makes a large step and the checksum
/// of the segment is wrong.
#[inline(always)]
pub fn note_timestamp(skb: Skb, work: &mut Work, flow: &mut Flow) -> bool {
    let packet = &work.packet;
    if flow.flags & FLOW_TIMESTAMPS == 0
        || packet.has_timestamp == 0
        || flow.next.before(packet.seq)
        || packet.seq.plus(packet.len).before(flow.server_ack)
    {
        return true;
    }
    let step = packet.tsval.wrapping_sub(flow.client_tsval) as i32;
    if step == 0 || (step < 0 && !is_outdated(flow)) {
        return true;
    }
    if step as u32 > UNPROVEN_STEP && !limiter_checksum_is_right(skb, work) {
        return false;
    }
    flow.client_tsval = work.packet.tsval;
    true
}
