// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Packets of connections that are not followed.

use limiter_common::abi::{
    Config, Link, UNTRACKED_COUNTED, UNTRACKED_ENDING, UntrackedConnection, counter, policy,
    untracked_kind::{OLDER, OUTBOUND, TABLE_FULL},
};

use crate::{
    follow::flow,
    kernel::{
        clock,
        global::global,
        maps,
        skb::{DROP, NEXT, coarse_ns},
        work::{Packet, Work},
    },
    packet::header::{FIN, RST, SYN},
};

/// The result of [`limiter_untracked`], in place of a verdict, if the packet belongs to a refused
/// connection. The caller passes the packet to `limiter_client_of_tomb`.
pub const REFUSED_BEFORE: i32 = 1 << 8;
/// The result of [`limiter_untracked`], in place of a verdict, if the connection has to be reset.
/// The caller passes the packet to `limiter_reset_both`.
pub const RESET: i32 = 1 << 9;

global! {
    /// Handles a client's packet that belongs to no flow. The packet's connection has ended, is
    /// older than the programs, found no room in the table, was opened by the server's side, or is
    /// unknown to limiter. Returns [`REFUSED_BEFORE`], [`RESET`], or a verdict. This function does
    /// not answer the packet itself, because the calls would be nested too deeply (MAX_CALL_FRAMES,
    /// include/linux/bpf_verifier.h).
    pub fn limiter_untracked(work;) -> i32 = from_client, or DROP;
}

/// The body of [`limiter_untracked`].
#[inline(always)]
fn from_client(work: &mut Work) -> i32 {
    let Some(config) = maps::config() else {
        return DROP;
    };
    let packet = &mut work.packet;
    if flow::find_tomb(packet) && !packet.has(SYN) {
        maps::count_by(counter::REFUSED_BYTES, u64::from(packet.len));
        return REFUSED_BEFORE;
    }
    packet.key.link = Link::NONE;
    let Some(known) = maps::untracked(&packet.key) else {
        return unknown(packet, config);
    };
    known.set_last_seen_ns(coarse_ns());
    if packet.has(FIN) {
        known.add_flag(UNTRACKED_ENDING);
    }
    let kind = known.kind();
    if packet.has(SYN) && kind != OUTBOUND {
        return syn_ack(packet);
    }
    if packet.has(RST) {
        maps::remove_untracked(&packet.key);
        return NEXT;
    }
    if packet.len == 0 {
        return NEXT;
    }
    match kind {
        OUTBOUND => {
            maps::count_by(counter::OUTBOUND_BYTES, u64::from(packet.len));
            return NEXT;
        }
        TABLE_FULL => {
            maps::count_by(counter::TABLE_FULL_BYTES, u64::from(packet.len));
            return NEXT;
        }
        _ => {}
    }
    if config.untracked == policy::REJECT && config.observe == 0 {
        return refuse(packet);
    }
    if known.flags() & UNTRACKED_COUNTED == 0 {
        known.add_flag(UNTRACKED_COUNTED);
        maps::count(counter::UNTRACKED_CONNECTIONS);
    }
    pass(packet)
}

/// Handles a client's packet of a connection that is neither followed nor known as untracked.
#[inline(always)]
fn unknown(packet: &Packet, config: &Config) -> i32 {
    if packet.has(SYN) {
        return syn_ack(packet);
    }
    let is_older = config.observe != 0 || clock::may_predate_programs(config.untracked);
    if packet.has(RST) || (packet.len == 0 && !is_older) {
        // The packet may be the last one of a connection that has just ended. It may pass, because
        // it contains no bytes that a server would read.
        return NEXT;
    }
    if !is_older {
        return refuse(packet);
    }
    let mut flags = 0;
    if packet.len > 0 {
        flags |= UNTRACKED_COUNTED;
        maps::count(counter::UNTRACKED_CONNECTIONS);
    }
    if packet.has(FIN) {
        flags |= UNTRACKED_ENDING;
    }
    let entry = UntrackedConnection {
        kind: OLDER,
        flags,
        last_seen_ns: coarse_ns(),
    };
    // If there is no room for the entry, the connection may be refused later, because after the
    // grace period only the entry shows that the connection is older than the programs.
    maps::insert_untracked(&packet.key, &entry);
    if packet.len > 0 { pass(packet) } else { NEXT }
}

/// Drops a client's SYN-ACK for which no SYN of the server is recorded ([`OUTBOUND`]). A server
/// that has not sent a SYN would answer it with a reset.
#[inline(always)]
fn syn_ack(packet: &Packet) -> i32 {
    maps::count_by(counter::DROPPED_BYTES, u64::from(packet.len));
    maps::count(counter::INVALID_DROPPED);
    DROP
}

#[inline(always)]
fn pass(packet: &Packet) -> i32 {
    maps::count(counter::UNTRACKED_SEGMENTS);
    maps::count_by(counter::UNTRACKED_BYTES, u64::from(packet.len));
    NEXT
}

#[inline(always)]
fn refuse(packet: &Packet) -> i32 {
    maps::count(counter::UNTRACKED_REFUSED);
    maps::count_by(counter::REFUSED_BYTES, u64::from(packet.len));
    RESET
}

/// Handles a server's packet of an untracked connection. A reset removes the connection, and a FIN
/// marks it as ending.
#[inline(always)]
pub fn from_server(packet: &Packet) -> i32 {
    if packet.has(RST) {
        maps::remove_untracked(&packet.key);
    } else if packet.has(FIN)
        && let Some(known) = maps::untracked(&packet.key)
    {
        known.add_flag(UNTRACKED_ENDING);
    }
    NEXT
}
