// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The tombstone ([`Tomb`]) of a refused connection, which is the state that is needed to close the
//! connection.
//!
//! Two CPUs may work on one tombstone at the same time without a lock, because each field is a word
//! of its own. The fields that change are:
//!
//! - `client_next` and `server_next`, the sequence numbers after the last bytes that the client and
//!   the server have sent. The next packet makes up for a lost update, because a sender whose bytes
//!   are not acknowledged retransmits them.
//! - `tsval`. A stale value is replaced when the client echoes a newer one.
//! - Some of the flags. The loss of a flag costs at most an additional or a missing segment.
//!
//! This module never removes a tombstone. Only a new connection or the LRU map does. Therefore a
//! client that retransmits its FIN because the last acknowledgement was lost gets an answer.

use limiter_common::{
    abi::{
        FLOW_SPLICED, Flow, FlowKey, TOMB_HEAD, TOMB_RESET_CLIENT, TOMB_RESET_SERVER, TextKey, Tomb,
    },
    seq::Seq,
};

use crate::{
    kernel::{clock, flow::LockedFlow, global::global, maps, skb::coarse_ns, work::Work},
    refuse::{segment::packet_end, text},
};

/// The flag in `Tomb::flags` that is set if the end of the connection could not be sent to the
/// server yet, because memory was short or no packet was at hand.
pub const SERVER_UNINFORMED: u32 = 1 << 16;
/// The flag in `Tomb::flags` that is set while the client's window is closed. The client cannot
/// accept a response in that state, so a response that was sent has to be sent again.
pub const CLIENT_FULL: u32 = 1 << 17;
/// The flag in `Tomb::flags` that is set if the end of the connection does not have to be sent to
/// the server again. The server has acknowledged the FIN, it was sent two resets, or it will be
/// answered when it retransmits.
pub const SERVER_KNOWS: u32 = 1 << 18;
/// The flag in `Tomb::flags` that is set if the client could not be sent a reset yet, because no
/// packet was at hand.
pub const CLIENT_UNINFORMED: u32 = 1 << 19;

/// The minimum window (not scaled) that is announced to a refused client. A window of 0 would hold
/// back the client's FIN, and the body of the client's request, which many clients must send before
/// they read a response.
pub const MIN_WINDOW: u32 = 1024;

global! {
    /// Inserts a tombstone for the packet's flow, which has ended.
    pub fn limiter_mark_ended(work, flow;) -> () = mark_ended, or ();
}

/// The body of [`limiter_mark_ended`].
#[inline(always)]
fn mark_ended(work: &mut Work, flow: &mut Flow) {
    fill_reset(work, flow);
    maps::insert_tomb(&work.packet.key, &work.tomb);
}

/// Returns the number that the server sees in place of `seq`, a number of the client's stream.
#[inline(always)]
fn to_server(flow: &Flow, seq: Seq) -> Seq {
    seq.minus(flow.splice.withheld)
}

/// Removes from the table a flow that has ended normally. While unknown connections may be older
/// than the programs ([`clock::is_grace`]), also inserts a tombstone, so that later packets of this
/// connection are not mistaken for those of an older one. The same is done for a connection whose
/// packets were translated, because later packets cannot be translated any more.
#[inline(always)]
pub fn remove_ended(work: &mut Work, mut flow: LockedFlow) {
    if clock::is_grace() || flow.flags & FLOW_SPLICED != 0 {
        limiter_mark_ended(work, &mut flow);
    }
    flow.remove_for_packet(work);
}

/// Fills `Work::tomb` for a refused connection, from its flow, the client's packet and
/// `Work::refusal`.
///
/// - `server`: flags of the tombstone that state how the connection ends for the server
///   (`TOMB_RESET_SERVER`, `SERVER_KNOWS`).
/// - `head`: whether the method is HEAD.
/// - `reset`: whether both sides are reset and there is no response.
#[inline(always)]
pub fn fill(work: &mut Work, flow: &Flow, server: u32, head: bool, reset: bool) {
    let server_next = flow.server_next;
    let mut flags = server | if head { TOMB_HEAD } else { 0 };
    if work.packet.window == 0 {
        flags |= CLIENT_FULL;
    }
    let mut response_end = server_next;
    match text::len(&work.refusal.text, head) {
        Some(len) if !reset => response_end = server_next.plus(len + 1),
        _ => flags |= TOMB_RESET_CLIENT | TOMB_RESET_SERVER,
    }
    work.tomb = without_response(flow, flags);
    let Work {
        tomb,
        packet,
        refusal,
        ..
    } = work;
    tomb.response_end = response_end;
    // The client's bytes from `Flow::next` on are acknowledged, although they are withheld from the
    // server.
    tomb.client_next = flow.next.latest(packet_end(packet));
    // The FIN that is sent to the server takes one sequence number.
    tomb.server_expects = to_server(flow, flow.next).plus(1 - ((flags / TOMB_RESET_SERVER) & 1));
    tomb.text = refusal.text;
    tomb.retry_after = refusal.retry_after;
    tomb.reset_after = refusal.reset_after;
}

/// Fills `Work::tomb` for a connection that has ended, but was not refused.
#[inline(always)]
fn fill_reset(work: &mut Work, flow: &Flow) {
    work.tomb = resetting(flow);
}

/// Returns the tombstone of a connection that has ended, but was not refused. Each side that
/// continues to send is reset.
#[inline(always)]
fn resetting(flow: &Flow) -> Tomb {
    Tomb {
        server_expects: to_server(flow, flow.server_ack),
        ..without_response(flow, TOMB_RESET_CLIENT | TOMB_RESET_SERVER)
    }
}

/// Inserts a tombstone for a flow that is removed although its connection may still exist, if the
/// packets of the connection were translated. Later packets cannot be translated any more, so the
/// next packet of either side resets both.
#[inline(always)]
pub fn mark_untranslated(key: &FlowKey, flow: &Flow) {
    if flow.flags & FLOW_SPLICED != 0 {
        let mut tomb = resetting(flow);
        tomb.flags |= SERVER_UNINFORMED | CLIENT_UNINFORMED;
        maps::insert_tomb(key, &tomb);
    }
}

/// Returns the tombstone of a connection that ends without a response.
#[inline(always)]
fn without_response(flow: &Flow, flags: u32) -> Tomb {
    let window = flow.server_window;
    Tomb {
        response_start: flow.server_next,
        response_end: flow.server_next,
        client_next: flow.next,
        server_next: flow.server_next.minus(flow.splice.injected),
        server_expects: to_server(flow, flow.next),
        window: if window < MIN_WINDOW {
            MIN_WINDOW
        } else {
            window
        },
        tsval: flow.server_tsval,
        text: TextKey { set: 0, reason: 0 },
        retry_after: 0,
        reset_after: 0,
        flags,
        link: flow.link,
        client_start: flow.client_start,
        client_tsval: flow.client_tsval,
        ended_ns: coarse_ns(),
    }
}
