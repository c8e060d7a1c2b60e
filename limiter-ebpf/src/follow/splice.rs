// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The two sides' views of a connection on which requests were refused and which went on
//! ([`Splice`](limiter_common::abi::Splice)).

use limiter_common::abi::{FLOW_SPLICED, Flow};

use crate::{
    kernel::work::{Translation, Work},
    packet::header::{ACK, RST},
};

/// Records that the client's packet passes, and computes its translation.
#[inline(always)]
pub fn to_server(work: &mut Work, flow: &mut Flow) {
    let packet = &work.packet;
    if packet.flags & (ACK | RST) == ACK {
        flow.splice.heard = flow.splice.heard.latest(packet.ack);
    }
    let is_needed = flow.flags & FLOW_SPLICED;
    work.translation.is_needed = is_needed;
    if is_needed != 0 {
        translate_to_server(work, flow);
    }
}

/// Computes the translation of the client's packet.
#[inline(never)]
fn translate_to_server(work: &mut Work, flow: &Flow) {
    let Work {
        packet,
        translation,
        ..
    } = work;
    let splice = &flow.splice;
    // The server has sent nothing after the end of the last response but before the number that the
    // client saw there.
    *translation = Translation {
        is_needed: 1,
        old_seq: packet.seq,
        old_ack: packet.ack,
        new_seq: packet.seq.minus(splice.withheld),
        new_ack: packet
            .ack
            .latest(splice.response_end)
            .minus(splice.injected),
        lowest_edge: splice.response_end,
        edge_shift: splice.injected.wrapping_neg(),
    };
}

/// The place of a server's packet on a translated connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The packet has nothing from before the last response.
    Current,
    /// The packet has only bytes that the client acknowledged before the last request was refused.
    Old,
    /// The packet has bytes of both kinds, which cannot be translated together.
    Both,
}

/// Converts `Work::packet`, a packet of the server, to the client's numbers, and computes its
/// translation.
#[inline(always)]
pub fn to_client(work: &mut Work, flow: &Flow) -> Place {
    let is_needed = flow.flags & FLOW_SPLICED;
    work.translation.is_needed = is_needed;
    if is_needed == 0 {
        return Place::Current;
    }
    translate_to_client(work, flow)
}

/// The body of [`to_client`] for a translated connection.
#[inline(never)]
fn translate_to_client(work: &mut Work, flow: &Flow) -> Place {
    let Work {
        packet,
        translation,
        ..
    } = work;
    let splice = &flow.splice;
    let (old_seq, old_ack) = (packet.seq, packet.ack);
    packet.seq = old_seq.plus(splice.injected);
    packet.ack = old_ack.plus(splice.withheld);
    let mut place = Place::Current;
    if packet.seq.before(splice.response_end) {
        packet.seq = packet
            .seq
            .minus(splice.response_end.since(splice.response_start) as u32);
        place = if splice.response_start.before(packet.seq.plus(packet.len)) {
            Place::Both
        } else {
            Place::Old
        };
    }
    // The client sends a request again until the request is acknowledged, and each time it is sent
    // the response again. Therefore nothing may acknowledge the request before the response has
    // arrived.
    let has_response = !flow.client_ack.before(splice.response_end);
    *translation = Translation {
        is_needed: 1,
        old_seq,
        old_ack,
        new_seq: packet.seq,
        new_ack: if has_response {
            packet.ack
        } else {
            packet.ack.earliest(splice.request_start)
        },
        lowest_edge: old_ack,
        edge_shift: splice.withheld,
    };
    place
}
