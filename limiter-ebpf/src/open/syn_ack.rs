// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The server's part of the handshake. A SYN-ACK from a guarded port opens a flow. A SYN from a
//! guarded port begins a connection whose client is the host with this port.

use limiter_common::{
    abi::{
        Client, FLOW_LOCAL, FLOW_SIGNED, FLOW_TIMESTAMPS, Link, NO_SCOPE, Splice,
        UntrackedConnection, counter, phase, policy, untracked_kind,
    },
    seq::Seq,
};

use crate::{
    follow::{clients::client_key, slots},
    kernel::{
        clock,
        flow::{FoundFlow, remove_unfinished},
        global::global,
        maps,
        shared::SharedTomb,
        skb::{DROP, NEXT, Skb, coarse_ns},
        verifier::write_through,
        work::{Packet, Work},
    },
    packet::header::ACK,
    refuse::{reset::limiter_reset_from_server, server},
};

global! {
    /// Handles a server's segment with the SYN flag.
    pub fn limiter_opens(skb, work;) -> i32 = opens, or DROP;
}

/// The body of [`limiter_opens`].
#[inline(always)]
fn opens(skb: Skb, work: &mut Work) -> i32 {
    let Some(config) = maps::config() else {
        return DROP;
    };
    let packet = &mut work.packet;
    let server_next = packet.seq.plus(packet.len + 1);
    let place = place(packet, server_next);
    if place == PLACE_REFUSED
        && let Some(tomb) = maps::tomb(&work.packet.key)
    {
        return server::from_server(skb, work, tomb);
    }
    match place {
        PLACE_FREE => {}
        PLACE_CONTENDED => return DROP,
        _ => return NEXT,
    }
    if !work.packet.has(ACK) {
        return outbound(&work.packet);
    }
    remove_untracked(&work.packet);
    let share = clock::client_share();
    let is_over_share = share != 0 && is_over(&work.packet, share);
    if !is_over_share {
        fill_flow(skb, work, server_next);
        if maps::insert_flow(&work.packet.key, &work.new_flow) {
            maps::count(counter::FLOWS_OPENED);
            return NEXT;
        }
    }
    maps::count(counter::TABLE_FULL);
    maps::count_by(counter::OVER_SHARE, u64::from(is_over_share));
    let passes = config.table_full != policy::REJECT || config.observe != 0;
    if passes && note(&work.packet, untracked_kind::TABLE_FULL) {
        return NEXT;
    }
    limiter_reset_from_server(skb, work)
}

/// The result of [`place`] if `Packet::key` is the key of the new connection, and no other
/// connection has it.
const PLACE_FREE: u32 = 0;
/// The result of [`place`] if the SYN-ACK is a retransmission on a followed connection.
const PLACE_FOLLOWED: u32 = 1;
/// The result of [`place`] if the SYN-ACK is a retransmission on a connection that has been
/// refused.
const PLACE_REFUSED: u32 = 2;
/// The result of [`place`] if the lock of the old flow could not be acquired.
const PLACE_CONTENDED: u32 = 3;

/// Finds the key for a new connection, ends the connection that had this key before, and returns
/// one of `PLACE_*`.
///
/// If a connection on another link has the key without a link, the new connection gets the key with
/// its own link. A connection with a link in its key keeps that key until the connection ends, so
/// the key with the link is looked up first.
#[inline(always)]
fn place(packet: &mut Packet, server_next: Seq) -> u32 {
    let link = packet.link;
    packet.key.link = link;
    if FoundFlow::find(&packet.key).is_some() || maps::tomb(&packet.key).is_some() {
        return vacate(packet, server_next);
    }
    packet.key.link = Link::NONE;
    if let Some(flow) = FoundFlow::find(&packet.key)
        && !flow.link().is(link)
    {
        let is_same = flow.server_next().minus(flow.injected()) == server_next
            && flow.server_ack().minus(flow.withheld()) == packet.ack;
        if is_same {
            // The SYN-ACK is a retransmission that has taken another path than the first copy.
            return PLACE_FOLLOWED;
        }
        packet.key.link = link;
        return PLACE_FREE;
    }
    if let Some(tomb) = maps::tomb(&packet.key)
        && !tomb.link().is(link)
        && !is_of_tomb(tomb, server_next)
    {
        packet.key.link = link;
        return PLACE_FREE;
    }
    vacate(packet, server_next)
}

/// Returns whether a SYN-ACK belongs to the connection of a tombstone. If the server has sent
/// nothing after it, it is the server's last packet. If the connection has no differences between
/// the two sides' numbers, the response begins after it as well.
#[inline(always)]
fn is_of_tomb(tomb: SharedTomb, server_next: Seq) -> bool {
    tomb.server_next() == server_next || tomb.response_start() == server_next
}

/// Ends the connection that has `Packet::key`, unless the SYN-ACK belongs to it, and returns one of
/// `PLACE_*`.
#[inline(always)]
fn vacate(packet: &Packet, server_next: Seq) -> u32 {
    if let Some(tomb) = maps::tomb(&packet.key) {
        if is_of_tomb(tomb, server_next) {
            return PLACE_REFUSED;
        }
        maps::remove_tomb(&packet.key);
    }
    let Some(old) = FoundFlow::find(&packet.key) else {
        return PLACE_FREE;
    };
    let Some(mut old) = old.lock_for_packet(&packet.key) else {
        return PLACE_CONTENDED;
    };
    old.last_seen_ns = coarse_ns();
    let Splice {
        injected, withheld, ..
    } = old.splice;
    if old.server_next.minus(injected) == server_next
        && old.server_ack.minus(withheld) == packet.ack
    {
        // The SYN-ACK is a retransmission. If the client has already sent segments, they have not
        // reached the server (the queue of its listener is full, or the network lost them).
        return PLACE_FOLLOWED;
    }
    // This is a new connection between the same ports, so the server knows that the old one is
    // over.
    slots::end(&mut old);
    remove_unfinished(&packet.key);
    drop(old);
    maps::count(counter::FLOWS_CLOSED);
    PLACE_FREE
}

/// Fills `Work::new_flow` with the state of a new connection.
#[inline(always)]
fn fill_flow(skb: Skb, work: &mut Work, server_next: Seq) {
    let (packet, flow) = (&work.packet, &mut work.new_flow.flow);
    // All fields that are not set here stay zero.
    flow.key = packet.key;
    flow.link = packet.link;
    flow.phase = phase::HANDSHAKE;
    flow.last_seen_ns = coarse_ns();
    flow.next = packet.ack;
    flow.client_start = packet.ack;
    flow.server_ack = packet.ack;
    flow.records_end = packet.ack;
    flow.server_next = server_next;
    flow.response_next = server_next;
    flow.server_start = server_next;
    flow.client_ack = packet.seq;
    // The window of a SYN is not scaled (RFC 7323, section 2.2), unlike all later ones.
    flow.server_window = packet.window >> (packet.window_shift & 15);
    flow.window_end = packet.ack.plus(packet.window);
    flow.window_shift = packet.window_shift;
    flow.client_tsval = packet.tsecr * packet.has_timestamp;
    let local = skb.is_of_socket(&packet.key, packet.v6 != 0, true);
    flow.flags = (FLOW_TIMESTAMPS * packet.has_timestamp)
        | (FLOW_SIGNED * packet.signed)
        | (FLOW_LOCAL * u32::from(local));
    flow.recount = maps::recount();
    flow.server_tsval = packet.tsval * packet.has_timestamp;
    for counted in &mut flow.counted {
        // LLVM would merge ordinary stores into a call that works byte by byte.
        write_through(counted, NO_SCOPE);
    }
    // The server has not seen the acknowledgement of its SYN yet.
    flow.splice.heard = packet.seq;
}

/// Returns whether the client's address already holds its share of the table. If not, adds the new
/// flow to the count of the address.
#[inline(always)]
fn is_over(packet: &Packet, share: u64) -> bool {
    let key = client_key(&packet.key.client);
    let Some(client) = maps::client(&key) else {
        maps::insert_client(
            &key,
            &Client {
                census: 0,
                flows: 1,
            },
        );
        return false;
    };
    if client.flows().load() >= share {
        return true;
    }
    client.flows().increment();
    false
}

/// Handles a SYN from a guarded port. The host with this port is the client of the new connection.
#[inline(always)]
fn outbound(packet: &Packet) -> i32 {
    // There may be a flow of an earlier connection between the same ports.
    maps::remove_flow(&packet.key);
    // If there is no room, the SYN-ACK that answers this SYN will be dropped.
    if note(packet, untracked_kind::OUTBOUND) {
        maps::count(counter::OUTBOUND_CONNECTIONS);
    }
    NEXT
}

/// Records an untracked connection. Returns false if there is no room.
#[inline(always)]
fn note(packet: &Packet, kind: u32) -> bool {
    let mut key = packet.key;
    key.link = Link::NONE;
    maps::insert_untracked(
        &key,
        &UntrackedConnection {
            kind,
            flags: 0,
            last_seen_ns: coarse_ns(),
        },
    )
}

/// Removes the untracked connection that had the same addresses and ports, and is over.
#[inline(always)]
fn remove_untracked(packet: &Packet) {
    let mut key = packet.key;
    key.link = Link::NONE;
    maps::remove_untracked(&key);
}
