//! Whether the server will take a segment: what it drops must change nothing here.

use limiter_common::abi::{FLOW_SIGNED, FLOW_TIMESTAMPS, Flow, counter};

use crate::{global, packet::Packet, skb::Skb};

/// Why the server may not take a segment, although its flags and its acknowledgement are good: what
/// is told to drop it under; or [`NONE`].
///
/// What the server does not take must change nothing here, or the two would no longer read the same
/// stream. It is asked for wherever a segment says something new, but not of bodies, whose content
/// does not matter.
///
/// # Safety
/// The flow is a live map value, locked; the packet is in `Work`.
#[inline(always)]
pub unsafe fn doubt(skb: Skb, packet: &Packet, flow: *mut Flow) -> u32 {
    // SAFETY: the caller's promise.
    unsafe {
        // Linux takes no acknowledgement that is older than the largest window, or than what was
        // acknowledged so far (RFC 5961, section 5.2). This window is unscaled, so it is stricter.
        let old = (*flow).client_ack.since(packet.ack) as u32;
        let known = (*flow).client_ack.since((*flow).server_start) as u32;
        if old > (*flow).client_window || old > known {
            return counter::INVALID_DROPPED;
        }
        if (*flow).flags & FLOW_TIMESTAMPS != 0 {
            if packet.has_timestamp == 0 {
                // Must be there (RFC 7323, section 3.2).
                return counter::INVALID_DROPPED;
            }
            if (packet.tsval.wrapping_sub((*flow).client_tsval) as i32) < 0 {
                return counter::STALE_DROPPED;
            }
        }
        let doubt = impostor(skb, packet, flow);
        if doubt == NONE && packet.window > (*flow).client_window {
            (*flow).client_window = packet.window;
        }
        doubt
    }
}

/// Why the receiver may not take a segment, whatever it says: it is for another station, it is signed
/// and should not be or the other way, or its checksum is wrong.
///
/// # Safety
/// As [`doubt`].
#[inline(always)]
pub unsafe fn impostor(skb: Skb, packet: &Packet, flow: *const Flow) -> u32 {
    // SAFETY: the caller's promise.
    unsafe {
        let signed = (*flow).flags & FLOW_SIGNED != 0;
        if skb.packet_type() != (*flow).packet_type || (packet.signed != 0) != signed {
            return counter::INVALID_DROPPED;
        }
    }
    if !skb.is_checked() && global::limiter_checksum_is_right(skb.0) == 0 {
        return counter::BAD_CHECKSUM_DROPPED;
    }
    NONE
}

/// No counter.
pub const NONE: u32 = u32::MAX;

/// Timestamp units that a clock may have gone on by without the checksum being looked at: a second
/// or less (RFC 7323, section 5.4), which is as long as a mistake would last.
const UNPROVEN_STEP: i32 = 1000;

/// Notes the timestamp of a segment of which the server may note it (RFC 7323, section 4.3), where the
/// parties have agreed on timestamps. False: it makes a great step, and its checksum is wrong.
///
/// # Safety
/// As [`doubt`].
#[inline(always)]
pub unsafe fn note_timestamp(skb: Skb, packet: &Packet, flow: *mut Flow) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        if (*flow).flags & FLOW_TIMESTAMPS == 0
            || packet.has_timestamp == 0
            || (*flow).next.before(packet.seq)
            || packet.seq.plus(packet.len).before((*flow).server_ack)
        {
            return true;
        }
        let step = packet.tsval.wrapping_sub((*flow).client_tsval) as i32;
        if step <= 0 {
            return true;
        }
        if step > UNPROVEN_STEP && global::limiter_checksum_is_right(skb.0) == 0 {
            return false;
        }
        (*flow).client_tsval = packet.tsval;
    }
    true
}
