// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The end of a handshake, which comes from the client.

use limiter_common::abi::{Config, FLOW_DEFERRED, Flow, counter, phase, policy};

use crate::{
    follow::{
        clients::limiter_was_refused,
        flow::Action,
        validation::{VALID, validate},
    },
    kernel::{skb::Skb, work::Work},
    packet::header::FIN,
};

/// Handles the first segment of the client that fits the connection. This segment completes the
/// handshake.
#[inline(always)]
pub fn handshake(skb: Skb, work: &mut Work, flow: &mut Flow, config: &Config) -> Action {
    flow.packet_type = skb.packet_type();
    flow.client_window = work.packet.window;
    let fault = validate(skb, work, flow);
    if fault != VALID {
        return Action::Drop(fault);
    }
    if work.packet.len == 0 && !work.packet.has(FIN) && is_deferred(work, flow, config) {
        return Action::Drop(counter::HANDSHAKES_DEFERRED);
    }
    if work.packet.len > 0 && defers(work, config) {
        // The client has sent no acknowledgement without payload.
        flow.flags |= FLOW_DEFERRED;
    }
    flow.phase = phase::HTTP;
    Action::Pass
}

/// Returns whether the acknowledgement that completes the handshake is withheld from the server (as
/// with TCP_DEFER_ACCEPT, tcp(7)). In that case, the first request completes the handshake instead.
/// If that request is refused and its connection ends, no application has learned of the
/// connection.
///
/// The server retransmits its SYN-ACK after a second, and the client's answer to the retransmission
/// is let through. Therefore a server that waits for the connection, for example to send the first
/// bytes itself, does not wait forever.
#[inline(always)]
fn is_deferred(work: &mut Work, flow: &mut Flow, config: &Config) -> bool {
    if flow.flags & FLOW_DEFERRED != 0 {
        flow.flags &= !FLOW_DEFERRED;
        return false;
    }
    if !defers(work, config) {
        return false;
    }
    flow.flags |= FLOW_DEFERRED;
    true
}

/// Returns whether the handshakes of the packet's client are deferred.
#[inline(always)]
fn defers(work: &mut Work, config: &Config) -> bool {
    if config.observe != 0 {
        return false;
    }
    match config.handshake {
        policy::DEFER => true,
        policy::AUTO => limiter_was_refused(work),
        _ => false,
    }
}
