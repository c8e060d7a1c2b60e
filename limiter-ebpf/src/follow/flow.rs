// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Functions for followed connections that the ingress and the egress program share.

use limiter_common::{
    abi::{FLOW_CLIENT_FIN, Flow, Link, counter},
    seq::Seq,
};

use crate::kernel::{
    flow::FoundFlow,
    global::global,
    maps,
    verifier::reread,
    work::{Packet, Work},
};

/// The action for a packet. It is chosen while the flow is locked, and carried out afterwards.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Let it through.
    Pass,
    /// Drop it, and count it under this counter.
    Drop(u32),
    /// Let it through. The connection has ended.
    PassLast,
    /// Let only the first `Work::keep` bytes of its payload through.
    Cut,
    /// End the connection, because it is refused. `Work::tomb` is its tombstone.
    Bury,
    /// End the connection, because one side has reset it. `Work::tomb` is its tombstone.
    Reset,
    /// The packet belongs to another connection, which is not followed.
    Untracked,
    /// Answer the client's packet with a reset, because it does not complete the handshake.
    RefuseHandshake,
    /// Withhold it from the server, and answer the client as `Work::kept` states.
    Answer,
}

global! {
    /// Finds the packet's flow after the lookup by the key without a link has found no flow, or has
    /// found a flow on another link. Sets `Packet::key` to the key of the packet's flow, and
    /// returns whether that flow exists.
    fn limiter_find_flow(work;) -> bool = find_elsewhere, or false;
}

/// Returns the packet's flow, which is found by addresses, ports and link, and sets `Packet::key`
/// to the key of that flow. If no flow on the packet's own link has these addresses and ports,
/// returns the flow on another link, because the packets of a connection may use several links
/// (equal-cost routes, the ports of a bond). The sequence numbers then show whether the packet
/// belongs to the connection.
#[inline(always)]
pub fn find(work: &mut Work) -> Option<FoundFlow> {
    let mut found = FoundFlow::find(&work.packet.key);
    let link = reread(&work.packet.link);
    let elsewhere = match found {
        // The link can be read without the lock, because the link of a flow never changes.
        Some(flow) => !flow.link().is(link),
        None => true,
    };
    if elsewhere {
        if !limiter_find_flow(work) {
            return None;
        }
        found = FoundFlow::find(&work.packet.key);
    }
    found
}

/// The body of [`limiter_find_flow`].
#[inline(always)]
fn find_elsewhere(work: &mut Work) -> bool {
    let packet = &mut work.packet;
    packet.key.link = packet.link;
    if FoundFlow::find(&packet.key).is_some() {
        return true;
    }
    packet.key.link = Link::NONE;
    FoundFlow::find(&packet.key).is_some()
}

/// Sets `Packet::key` to the key of the tombstone of the packet's connection, and returns whether
/// that tombstone exists. As with flows, a tombstone on the packet's own link takes precedence.
#[inline(always)]
pub fn find_tomb(packet: &mut Packet) -> bool {
    packet.key.link = packet.link;
    if maps::tomb(&packet.key).is_some() {
        return true;
    }
    packet.key.link = Link::NONE;
    maps::tomb(&packet.key).is_some()
}

/// Records a FIN. `end` is the sequence number of the FIN plus one. `flag` states whether the
/// client or the server has sent the FIN.
#[inline(always)]
pub fn fin(flow: &mut Flow, flag: u32, end: Seq) {
    if flag == FLOW_CLIENT_FIN {
        flow.client_fin = end;
    } else {
        flow.server_fin = end;
    }
    flow.flags |= flag;
}

/// Counts payload that passes: `new` bytes, and `old` bytes that were seen before.
#[inline(always)]
pub fn passed(new: u32, old: u32) {
    maps::count_by(counter::INSPECTED_BYTES, u64::from(new));
    if old > 0 {
        maps::count_by(counter::RETRANSMITTED_BYTES, u64::from(old));
    }
}
