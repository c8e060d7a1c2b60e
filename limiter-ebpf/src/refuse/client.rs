// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The client's side of a refused connection: the response, and the answers to later packets of the
//! client.

use limiter_common::{
    abi::{TOMB_KEPT, TOMB_RESET_CLIENT, TOMB_RESET_SERVER, counter},
    seq::Seq,
};

use crate::{
    follow::untracked::{self, limiter_untracked},
    kernel::{
        global::global,
        maps,
        shared::SharedTomb,
        skb::{DROP, NEXT, Skb, redirect},
        work::{Packet, Work},
    },
    packet::header::{ACK, Direction, FIN, PSH, RST, SYN},
    refuse::{
        reset::limiter_reset_both,
        segment::{self, OwnSegment, packet_end},
        server::{end_server, limiter_end_server, uninformed},
        text,
        tomb::{CLIENT_FULL, CLIENT_UNINFORMED, SERVER_KNOWS, SERVER_UNINFORMED},
    },
};

/// The maximum number of bytes by which an acknowledgement may advance. A client's packet is
/// acknowledged as a whole even if bytes before it have not arrived, because these bytes are not
/// needed. The advance is limited, because a client ignores a segment that acknowledges bytes that
/// the client has never sent.
const MAX_AHEAD: i32 = 1 << 20;

/// The result of [`limiter_answer`] if the packet could not be answered.
const UNANSWERED: u32 = 0;
/// The result of [`limiter_answer`] if the answer is an acknowledgement.
const ANSWERED: u32 = 1;
/// The result of [`limiter_answer`] if the answer is the response.
const ANSWERED_RESPONSE: u32 = 2;
/// The result of [`limiter_answer`] if the answer is a reset.
const ANSWERED_RESET: u32 = 3;

global! {
    /// Carries out the new refusal in `Work::tomb`: answers the client's packet with the response,
    /// and turns the packet itself into the FIN or the reset for the server.
    pub fn limiter_refuse(skb, work;) -> i32 = refuse, or DROP;

    /// Turns a client's packet into the answer that the tombstone in `Work::tomb` requires. Returns
    /// the kind of the answer (`ANSWERED_*`), or [`UNANSWERED`].
    fn limiter_answer(skb, work;) -> u32 = answer, or UNANSWERED;

    /// Handles a client's packet on a connection that was refused.
    fn limiter_client_of_tomb(skb, work;) -> i32 = from_client, or DROP;
}

/// Handles a client's packet that belongs to no flow.
#[inline(always)]
pub fn without_flow(skb: Skb, work: &mut Work) -> i32 {
    match limiter_untracked(work) {
        untracked::REFUSED_BEFORE => limiter_client_of_tomb(skb, work),
        untracked::RESET => limiter_reset_both(skb, work),
        verdict => verdict,
    }
}

/// The body of [`limiter_refuse`].
#[inline(always)]
fn refuse(skb: Skb, work: &mut Work) -> i32 {
    let mark = skb.mark();
    skb.set_mark(maps::own_mark());
    let answer = limiter_answer(skb, work);
    if answer == UNANSWERED {
        return uninformed(work);
    }
    if !skb.clone_redirect(skb.ifindex(), 0) {
        // The client will retransmit its request, and will be answered then.
        maps::count(counter::SEND_FAILED);
    } else if answer == ANSWERED_RESET {
        maps::count(counter::RESETS_SENT);
    } else if answer == ANSWERED_RESPONSE && work.tomb.flags & TOMB_KEPT != 0 {
        maps::count(counter::RESPONSES_RESENT);
    } else if answer == ANSWERED_RESPONSE {
        maps::count(counter::RESPONSES_SENT);
    }
    skb.set_mark(mark);
    end_server(skb, work)
}

/// The body of [`limiter_client_of_tomb`]. The connection has ended for the server, but later bytes
/// of the client have to be acknowledged, and the response is sent until the client has received
/// it.
#[inline(always)]
fn from_client(skb: Skb, work: &mut Work) -> i32 {
    // The tombstone may have been evicted from the LRU map. The client will retransmit the packet.
    let Some(tomb) = maps::tomb(&work.packet.key) else {
        return DROP;
    };
    maps::count(counter::TOMB_PACKETS);
    let packet = &work.packet;
    if packet.has(SYN) {
        return NEXT;
    }
    let mut inform = tomb.has(SERVER_UNINFORMED);
    if packet.has(RST) && inform {
        tomb.remove_flag(SERVER_UNINFORMED | CLIENT_UNINFORMED);
        tomb.copy_to(&mut work.tomb);
        return limiter_end_server(skb, work);
    }
    // Any other reset is dropped, because the server has already been sent a FIN or a reset.
    if packet.has(RST) || !packet.has(ACK) {
        return DROP;
    }
    tomb.remove_flag(SERVER_UNINFORMED | CLIENT_UNINFORMED);
    if !tomb.has(TOMB_RESET_CLIENT) {
        let end = packet_end(packet);
        let seen = tomb.client_next();
        let has_response = !packet.ack.before(tomb.response_end());
        inform |= has_response && must_repeat(tomb);
        if end == packet.seq && !packet.seq.before(seen) {
            // The packet is only an acknowledgement or an update of the client's window.
            if has_response {
                if !inform {
                    return DROP;
                }
                tomb.copy_to(&mut work.tomb);
                return limiter_end_server(skb, work);
            }
            if !made_room(packet, tomb) {
                return DROP;
            }
        } else {
            note_bytes(packet, tomb, end, has_response);
        }
    }
    if inform {
        tomb.copy_to(&mut work.tomb);
        return limiter_refuse(skb, work);
    }
    if packet.has_timestamp != 0 {
        tomb.set_tsval(tsval(packet, tomb.tsval()));
    }
    tomb.copy_to(&mut work.tomb);
    answer_again(skb, work)
}

/// Answers a client's packet from the state of the tombstone in `Work::tomb`, and sends the answer.
#[inline(always)]
fn answer_again(skb: Skb, work: &mut Work) -> i32 {
    skb.set_mark(maps::own_mark());
    let answer = limiter_answer(skb, work);
    if answer == UNANSWERED {
        maps::count(counter::SEND_FAILED);
        return DROP;
    }
    if answer == ANSWERED_RESET {
        maps::count(counter::RESETS_SENT);
    } else if answer == ANSWERED_RESPONSE {
        maps::count(counter::RESPONSES_RESENT);
    }
    redirect(skb.ifindex(), 0)
}

/// Records that the answer has to acknowledge the client's bytes up to `end`. Also records whether
/// the client's window is closed while the client still lacks the response.
#[inline(always)]
fn note_bytes(packet: &Packet, tomb: SharedTomb, end: Seq, has_response: bool) {
    if !has_response && packet.window == 0 {
        tomb.add_flag(CLIENT_FULL);
    }
    let ahead = end.since(tomb.client_next());
    if ahead > 0 && ahead <= MAX_AHEAD {
        tomb.set_client_next(end);
    }
}

/// Returns whether the FIN or the reset that ends the connection has to be sent to the server once
/// more, because it may have been lost on its way to a server on another host. A FIN is sent again
/// until the server has acknowledged it.
#[inline(always)]
fn must_repeat(tomb: SharedTomb) -> bool {
    let due = !tomb.has(SERVER_KNOWS);
    if tomb.has(TOMB_RESET_SERVER) {
        // A reset is never acknowledged, so it is repeated only once.
        tomb.add_flag(SERVER_KNOWS);
    }
    due
}

/// Returns whether a client whose window was closed when the response was sent has room for the
/// response now.
///
/// A receiver without room accepts the acknowledgement in a segment but not the payload. Such a
/// client would not retransmit anything, and the programs have no timer with which they could send
/// the response again. Therefore they send it again when the client announces room.
#[inline(always)]
fn made_room(packet: &Packet, tomb: SharedTomb) -> bool {
    if packet.window == 0 {
        tomb.add_flag(CLIENT_FULL);
        return false;
    }
    let was_full = tomb.has(CLIENT_FULL);
    tomb.remove_flag(CLIENT_FULL);
    was_full
}

/// The body of [`limiter_answer`].
#[inline(always)]
fn answer(skb: Skb, work: &mut Work) -> u32 {
    if !segment::begin(skb, work, Direction::ToServer) {
        return UNANSWERED;
    }
    let answer = answer_of(work);
    if !segment::write(skb, work, Direction::ToClient, &answer) {
        UNANSWERED
    } else if answer.flags & RST != 0 {
        ANSWERED_RESET
    } else if answer.text > 0 {
        ANSWERED_RESPONSE
    } else {
        ANSWERED
    }
}

/// Returns the timestamp value for an answer to a client's packet. `last` is the value of the
/// previous answer.
#[inline(always)]
pub fn tsval(packet: &Packet, last: u32) -> u32 {
    if last == 0 {
        return packet.tsecr;
    }
    // The client would drop a segment with a value that is older than one it has seen (RFC 7323,
    // section 5.3).
    Seq(packet.tsecr).latest(Seq(last)).0
}

/// Returns the answer to a client's packet on the refused connection in `Work::tomb`.
#[inline(always)]
fn answer_of(work: &mut Work) -> OwnSegment {
    let (packet, tomb) = (&work.packet, &work.tomb);
    let mut answer = OwnSegment {
        seq: tomb.response_end,
        ack: tomb.client_next,
        flags: ACK,
        window: tomb.window,
        tsval: tsval(packet, tomb.tsval),
        tsecr: packet.tsval,
        text: 0,
    };
    let reset = tomb.flags & TOMB_RESET_CLIENT != 0;
    if !reset && !packet.ack.before(tomb.response_end) {
        return answer;
    }
    match text::compose(work) {
        Some(len) if !reset => {
            answer.seq = work.tomb.response_start;
            answer.flags = ACK | PSH | FIN;
            answer.text = len;
        }
        _ => {
            // This is exactly the sequence number that the client expects (RFC 5961, section 3.2).
            answer.seq = work.packet.ack;
            answer.flags = ACK | RST;
            answer.ack = work.tomb.client_next.latest(packet_end(&work.packet));
        }
    }
    answer
}
