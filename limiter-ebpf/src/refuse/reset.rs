// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The resets that the programs send to one or both sides of a connection.

use limiter_common::{abi::counter, seq::Seq};

use crate::{
    kernel::{
        global::global,
        maps,
        skb::{DROP, NEXT, Skb, redirect},
        work::{Packet, Work},
    },
    packet::header::{ACK, Direction, RST},
    refuse::segment::{self, OwnSegment, packet_end, to_server},
};

global! {
    /// Sends a reset in answer to a client's packet that does not complete the handshake.
    pub fn limiter_refuse_handshake(skb, work;) -> i32 = refuse_handshake, or DROP;

    /// Lets a reset in the server's name through, and resets the server too, with the sequence
    /// numbers in `Work::tomb`. If a firewall has sent the first reset, the server does not know
    /// about that reset. (If the server has sent the first reset itself, it ignores the second
    /// one.)
    pub fn limiter_pass_reset_on(skb, work;) -> i32 = pass_reset_on, or DROP;

    /// Turns a server's packet into a reset for the client, and resets the server too, with the
    /// sequence numbers in `Work::tomb`, which are those of each side. Later packets of the
    /// connection cannot be translated.
    pub fn limiter_reset_removed(skb, work;) -> i32 = reset_removed, or DROP;

    /// Resets both sides of an unknown connection. The client's packet becomes the reset for the
    /// server.
    pub fn limiter_reset_both(skb, work;) -> i32 = reset_both, or DROP;

    /// Turns a server's packet, which is the SYN-ACK that would open a connection or a later
    /// packet, into a reset for the client, and resets the server too.
    pub fn limiter_reset_from_server(skb, work;) -> i32 = reset_from_server, or DROP;
}

/// Returns the reset that answers a packet.
#[inline(always)]
fn backward(packet: &Packet) -> OwnSegment {
    OwnSegment {
        seq: packet.ack,
        ack: packet_end(packet),
        flags: RST | ACK,
        window: 0,
        tsval: packet.tsecr,
        tsecr: packet.tsval,
        text: 0,
    }
}

/// Returns the reset that is forwarded in place of a packet.
#[inline(always)]
fn onward(packet: &Packet) -> OwnSegment {
    OwnSegment {
        seq: packet.seq,
        ack: packet.ack,
        flags: RST | (packet.flags & ACK),
        window: 0,
        tsval: packet.tsval,
        tsecr: packet.tsecr,
        text: 0,
    }
}

/// The body of [`limiter_reset_both`].
#[inline(always)]
fn reset_both(skb: Skb, work: &mut Work) -> i32 {
    let packet = &work.packet;
    if packet.has(RST) {
        return NEXT;
    }
    // The sequence numbers follow RFC 9293, section 3.10.7.1. If the packet is next in order, both
    // receivers accept the resets, because their sequence numbers are exact (RFC 5961, section
    // 3.2). If the packet is not next in order, a receiver answers its reset with a challenge ACK,
    // and the side that has already been reset answers the challenge ACK with another reset.
    let to_client = OwnSegment {
        seq: if packet.has(ACK) { packet.ack } else { Seq(0) },
        ..backward(packet)
    };
    let to_server = onward(packet);
    both(skb, work, Direction::ToServer, &to_client, &to_server)
}

/// The body of [`limiter_refuse_handshake`]. The reset is the one with which a server would answer
/// (RFC 9293, section 3.10.7.4, SYN-RECEIVED).
#[inline(always)]
fn refuse_handshake(skb: Skb, work: &mut Work) -> i32 {
    let answer = backward(&work.packet);
    skb.set_mark(maps::own_mark());
    if !segment::begin(skb, work, Direction::ToServer)
        || !segment::write(skb, work, Direction::ToClient, &answer)
    {
        maps::count(counter::SEND_FAILED);
        return DROP;
    }
    maps::count(counter::HANDSHAKES_REFUSED);
    maps::count(counter::RESETS_SENT);
    redirect(skb.ifindex(), 0)
}

/// The body of [`limiter_pass_reset_on`].
#[inline(always)]
fn pass_reset_on(skb: Skb, work: &mut Work) -> i32 {
    let (packet, tomb) = (&work.packet, &work.tomb);
    let to_client = onward(packet);
    let to_server = OwnSegment {
        seq: tomb.server_expects,
        ack: tomb.server_next,
        ..backward(packet)
    };
    both(skb, work, Direction::ToClient, &to_server, &to_client)
}

/// The body of [`limiter_reset_removed`].
#[inline(always)]
fn reset_removed(skb: Skb, work: &mut Work) -> i32 {
    let (packet, tomb) = (&work.packet, &work.tomb);
    let to_client = OwnSegment {
        seq: tomb.response_start,
        ack: tomb.client_next,
        flags: RST | ACK,
        ..onward(packet)
    };
    let to_server = backward(packet);
    both(skb, work, Direction::ToClient, &to_server, &to_client)
}

/// The body of [`limiter_reset_from_server`].
#[inline(always)]
fn reset_from_server(skb: Skb, work: &mut Work) -> i32 {
    let packet = &work.packet;
    // A client in SYN-SENT accepts a reset that acknowledges its SYN (RFC 9293, section 3.10.7.3).
    // In later states it accepts a reset with the sequence number that it expects.
    let to_client = OwnSegment {
        flags: RST | ACK,
        ..onward(packet)
    };
    let to_server = backward(packet);
    both(skb, work, Direction::ToClient, &to_server, &to_client)
}

/// Sends `back` to the side from which the packet came, and turns the packet into `on`, which
/// continues in the packet's direction.
#[inline(always)]
fn both(skb: Skb, work: &mut Work, going: Direction, back: &OwnSegment, on: &OwnSegment) -> i32 {
    let (backward, way) = match going {
        Direction::ToServer => (Direction::ToClient, 0),
        Direction::ToClient => (Direction::ToServer, to_server(skb)),
    };
    let mark = skb.mark();
    if !segment::begin(skb, work, going) {
        maps::count(counter::SEND_FAILED);
        return DROP;
    }
    skb.set_mark(maps::own_mark());
    if segment::write(skb, work, backward, back) && skb.clone_redirect(skb.ifindex(), way) {
        maps::count(counter::RESETS_SENT);
    } else {
        maps::count(counter::SEND_FAILED);
    }
    skb.set_mark(mark);
    if !segment::write(skb, work, going, on) {
        maps::count(counter::SEND_FAILED);
        return DROP;
    }
    maps::count(counter::RESETS_SENT);
    NEXT
}
