// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The server's side of a refused connection: the packet that ends the connection, and the answers
//! to later packets of the server.

use limiter_common::abi::{TOMB_RESET_SERVER, counter};

use crate::{
    follow::{flow::find_tomb, untracked},
    kernel::{
        global::global,
        maps,
        shared::SharedTomb,
        skb::{DROP, NEXT, Skb, redirect},
        work::Work,
    },
    packet::header::{ACK, Direction, FIN, RST, SYN},
    refuse::{
        reset::limiter_reset_removed,
        segment::{self, OwnSegment, packet_end, to_server},
        tomb::{CLIENT_UNINFORMED, SERVER_KNOWS, SERVER_UNINFORMED},
    },
};

/// The window that is announced to the server in the client's name. It is wide, so that the server
/// can send all remaining data.
const WIDE_WINDOW: u32 = 0xffff;

global! {
    /// Turns a client's packet into the FIN or the reset with which the connection in `Work::tomb`
    /// ends for the server.
    ///
    /// Even a reset that comes from the client is rewritten. Otherwise a reset that ends the flow
    /// here might not end the connection on the server, which does not accept a wrong checksum, and
    /// does not receive a packet whose TTL is too short.
    pub fn limiter_end_server(skb, work;) -> i32 = end_without_answer, or DROP;

    /// Handles a server's packet on a connection that is not followed.
    pub fn limiter_server_without_flow(skb, work;) -> i32 = without_flow, or DROP;
}

/// The body of [`limiter_end_server`].
#[inline(always)]
fn end_without_answer(skb: Skb, work: &mut Work) -> i32 {
    if !segment::begin(skb, work, Direction::ToServer) {
        return uninformed(work);
    }
    end_server(skb, work)
}

/// Turns the packet into the FIN or the reset with which the connection ends for the server.
#[inline(always)]
pub fn end_server(skb: Skb, work: &mut Work) -> i32 {
    let (packet, tomb) = (&work.packet, &work.tomb);
    let reset = tomb.flags & TOMB_RESET_SERVER != 0;
    let end = OwnSegment {
        seq: tomb.server_expects.minus(if reset { 0 } else { 1 }),
        ack: tomb.server_next,
        flags: if reset { RST | ACK } else { FIN | ACK },
        window: packet.window,
        tsval: packet.tsval,
        tsecr: packet.tsecr,
        text: 0,
    };
    if !segment::write(skb, work, Direction::ToServer, &end) {
        return uninformed(work);
    }
    if reset {
        maps::count(counter::RESETS_SENT);
    }
    NEXT
}

/// Records that the FIN or the reset could not be sent to the server, and drops the packet. The
/// client's next packet triggers another attempt.
#[cold]
#[inline(always)]
pub fn uninformed(work: &mut Work) -> i32 {
    maps::count(counter::SEND_FAILED);
    if let Some(tomb) = maps::tomb(&work.packet.key) {
        tomb.add_flag(SERVER_UNINFORMED);
    }
    DROP
}

/// The body of [`limiter_server_without_flow`].
#[inline(always)]
fn without_flow(skb: Skb, work: &mut Work) -> i32 {
    if find_tomb(&mut work.packet)
        && let Some(tomb) = maps::tomb(&work.packet.key)
    {
        return from_server(skb, work, tomb);
    }
    untracked::from_server(&work.packet)
}

/// Handles a server's packet on a refused connection: turns it into an answer in the client's name,
/// or drops it.
#[inline(never)]
pub fn from_server(skb: Skb, work: &mut Work, tomb: SharedTomb) -> i32 {
    maps::count(counter::TOMB_PACKETS);
    let packet = &work.packet;
    if tomb.has(CLIENT_UNINFORMED) && packet.flags & (ACK | RST) != 0 {
        tomb.remove_flag(SERVER_UNINFORMED | CLIENT_UNINFORMED);
        tomb.copy_to(&mut work.tomb);
        return limiter_reset_removed(skb, work);
    }
    if packet.has(RST) || !packet.has(ACK) {
        return DROP;
    }
    if packet.has(SYN) && !tomb.has(TOMB_RESET_SERVER) {
        return DROP;
    }
    let end = packet_end(packet);
    let seen = tomb.server_next();
    let server_next = seen.latest(end);
    tomb.set_server_next(server_next);
    let expects = tomb.server_expects();
    let knows = !packet.ack.before(expects);
    if knows && !tomb.has(TOMB_RESET_SERVER) {
        tomb.add_flag(SERVER_KNOWS);
    }
    let mut answer = OwnSegment {
        seq: expects,
        ack: server_next,
        flags: ACK,
        window: WIDE_WINDOW,
        // This is the last timestamp value that the server has seen. The server would drop a
        // segment with an older one (RFC 7323, section 5.3).
        tsval: packet.tsecr,
        tsecr: packet.tsval,
        text: 0,
    };
    if tomb.has(TOMB_RESET_SERVER) {
        answer.seq = packet.ack;
        answer.flags = RST | ACK;
    } else if end == packet.seq && !packet.seq.before(seen) {
        // A packet that is only an acknowledgement is never answered. Otherwise, two sides could
        // answer each other forever.
        return DROP;
    } else if !knows {
        // The FIN was lost on its way to the server, so it is sent again.
        answer.seq = expects.minus(1);
        answer.flags = FIN | ACK;
    }
    skb.set_mark(maps::own_mark());
    if !segment::begin(skb, work, Direction::ToClient)
        || !segment::write(skb, work, Direction::ToServer, &answer)
    {
        maps::count(counter::SEND_FAILED);
        return DROP;
    }
    if answer.flags & RST != 0 {
        maps::count(counter::RESETS_SENT);
    }
    redirect(skb.ifindex(), to_server(skb))
}
