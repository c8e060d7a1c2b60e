// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The two sides' views of a connection on which requests were refused and which went on
//! ([`Splice`](limiter_common::abi::Splice)).

use limiter_common::abi::{FLOOR, FLOW_DEFERRED, FLOW_SPLICED, Flow};

use crate::{
    kernel::{
        global::global,
        work::{Translation, Work},
    },
    packet::header::{ACK, FIN, RST},
};

global! {
    /// Computes the translation of the client's packet on a connection that has one.
    fn limiter_translation_to_server(work, flow;) -> () = translate_to_server, or ();

    /// Converts `Work::packet` and computes its translation, as [`to_client`] does on a connection
    /// that has one. Returns a number of [`Place`].
    fn limiter_translation_to_client(work, flow;) -> u32 = translate_to_client, or 2;
}

/// Records that the client's packet passes, and computes its translation.
#[inline(always)]
pub fn to_server(work: &mut Work, flow: &mut Flow) {
    let packet = &work.packet;
    if packet.flags & (ACK | RST) == ACK {
        flow.splice.heard = flow.splice.heard.latest(packet.ack);
        // The server no longer waits for the end of the handshake.
        flow.flags &= !FLOW_DEFERRED;
    }
    let is_needed = flow.flags & FLOW_SPLICED;
    work.translation.is_needed = is_needed;
    if is_needed != 0 {
        limiter_translation_to_server(work, flow);
    }
}

/// The body of [`limiter_translation_to_server`].
#[inline(always)]
fn translate_to_server(work: &mut Work, flow: &mut Flow) {
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

/// Moves the recorded positions up, so that they can still be compared with those of new packets
/// ([`FLOOR`]). Everything before the new positions has been acknowledged for long.
#[inline(always)]
pub fn keep_comparable(flow: &mut Flow) {
    let splice = &mut flow.splice;
    let floor = flow.server_ack.minus(FLOOR);
    splice.request_start = splice.request_start.latest(floor);
    splice.request_end = splice.request_end.latest(floor);
    splice.first_asked = splice.first_asked.latest(floor);
    let floor = flow.client_ack.minus(FLOOR);
    splice.response_start = splice.response_start.latest(floor);
    splice.response_end = splice.response_end.latest(floor);
}

/// The place of a server's packet on a translated connection.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Place {
    /// The packet has nothing from before the last response.
    Current = 0,
    /// The packet has only bytes that the client acknowledged before the last request was refused.
    Old = 1,
    /// The packet has bytes of both kinds, which cannot be translated together.
    Both = 2,
}

/// Converts `Work::packet`, a packet of the server, to the client's numbers, and computes its
/// translation.
#[inline(always)]
pub fn to_client(work: &mut Work, flow: &mut Flow) -> Place {
    let is_needed = flow.flags & FLOW_SPLICED;
    work.translation.is_needed = is_needed;
    if is_needed == 0 {
        return Place::Current;
    }
    match limiter_translation_to_client(work, flow) {
        0 => Place::Current,
        1 => Place::Old,
        _ => Place::Both,
    }
}

/// The body of [`limiter_translation_to_client`].
#[inline(always)]
fn translate_to_client(work: &mut Work, flow: &mut Flow) -> u32 {
    let Work {
        packet,
        translation,
        ..
    } = work;
    keep_comparable(flow);
    let splice = &flow.splice;
    let (old_seq, old_ack) = (packet.seq, packet.ack);
    packet.seq = old_seq.plus(splice.injected);
    packet.ack = old_ack.plus(splice.withheld);
    let mut place = Place::Current;
    if packet.seq.before(splice.response_end) {
        packet.seq = packet
            .seq
            .minus(splice.response_end.since(splice.response_start) as u32);
        let end = packet.seq.plus(packet.len + (packet.flags & FIN));
        place = if splice.response_start.before(end) {
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
    place as u32
}
