//! Refusing: answers the client in the server's name, closes the connection to the server in the
//! client's, and then stands in for each before the other until both have let go.
//!
//! A refused connection has a [`Tomb`]. Two CPUs may work on one tomb at once, without a lock: its
//! fields are words of their own. Those that change are `client_next` and `server_next`, the
//! highest byte seen (a lost update is made good by the next packet, which is due, because an
//! acknowledgement that is too low is one that the sender asks for again), `tsval` (a stale one
//! is replaced by the client's own echo) and notes among the flags, whose loss costs a segment more
//! or less.
//!
//! Tombs are never removed here, only by a new connection or by the LRU: a client whose last
//! acknowledgement was lost sends its FIN again, and finds somebody.

mod reset;
mod segment;
mod text;
mod trim;

use limiter_common::{
    abi::{OWN_MARK, TOMB_HEAD, TOMB_RESET_CLIENT, TOMB_RESET_SERVER, Tomb, counter},
    seq::Seq,
};

pub use reset::{reset_both, reset_syn_ack};
pub use segment::Reply;
pub use trim::{PART, room, trim};

use crate::{
    global, maps,
    packet::{ACK, Direction, FIN, PSH, Packet, RST, SYN},
    skb::{DROP, INGRESS, NEXT, Skb, redirect},
    work::Work,
};
use segment::Segment;

/// In `Tomb::flags`: the server has not been told yet, for want of memory.
const SERVER_UNTOLD: u32 = 1 << 16;
/// In `Tomb::flags`: the client had no room, so a response that it was sent is lost.
const CLIENT_FULL: u32 = 1 << 17;

/// In `Tomb::flags`: the server has acknowledged its FIN, was told twice, or asks if it does not know.
pub const SERVER_KNOWS: u32 = 1 << 18;

/// The least window (not scaled) that a refused client is told. A window of 0 would keep back its
/// FIN, and its body, which many clients must send before they read a response.
const MIN_WINDOW: u32 = 1024;

/// What the server is told as the client's window: whatever it still sends is welcome.
const WIDE_WINDOW: u32 = 0xffff;

/// How far ahead of the bytes seen a client's may be to be acknowledged. What lies between never
/// comes, and is not missed; but an acknowledgement of what the client never sent would make it
/// disregard all that we say.
const MAX_AHEAD: i32 = 1 << 20;

/// `LOOPBACK_IFINDEX` (include/net/flow.h): in every network namespace.
const LOOPBACK: u32 = 1;

/// Fills `Work::tomb` for a refused connection, from the client's packet and `Work::refusal`.
///
/// - `start`: the first byte of the client that is withheld from the server.
/// - `server_next`: the server's next byte.
/// - `window`, `server_tsval`: the server's last window (not scaled) and timestamp value (or 0).
/// - `server`: how the server is told, by flags of the tomb: `TOMB_RESET_SERVER`, `SERVER_KNOWS`.
/// - `head`: the method is HEAD.
/// - `reset`: no response, both sides are reset.
#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "what the flow knows, which is gone by then"
)]
pub fn bury(
    work: *mut Work,
    start: Seq,
    server_next: Seq,
    window: u32,
    server_tsval: u32,
    server: u32,
    head: bool,
    reset: bool,
) {
    // SAFETY: a live map value, of this CPU alone.
    let (packet, refusal, tomb) = unsafe { (&(*work).packet, &(*work).refusal, &mut (*work).tomb) };
    let mut flags = server | if head { TOMB_HEAD } else { 0 };
    if packet.window == 0 {
        flags |= CLIENT_FULL;
    }
    let mut response_end = server_next;
    match text::len(&refusal.text, head) {
        Some(len) if !reset => response_end = server_next.plus(len + 1),
        _ => flags |= TOMB_RESET_CLIENT | TOMB_RESET_SERVER,
    }
    // The FIN that the server gets takes a number of its own.
    let told = 1 - ((flags / TOMB_RESET_SERVER) & 1);
    *tomb = Tomb {
        response_start: server_next,
        response_end,
        client_next: start.latest(packet_end(packet)),
        server_next,
        server_expects: start.plus(told),
        window: if window < MIN_WINDOW {
            MIN_WINDOW
        } else {
            window
        },
        tsval: server_tsval,
        text: refusal.text,
        retry_after: refusal.retry_after,
        reset_after: refusal.reset_after,
        flags,
    };
}

/// Answers the client's packet as the tomb in `Work::tomb` says, with the response if the tomb is
/// fresh, and makes the packet itself the end of the connection to the server.
#[inline(never)]
pub fn send(skb: Skb, work: *mut Work) -> i32 {
    // SAFETY: a live map value, of this CPU alone.
    let (packet, tomb) = unsafe { (&(*work).packet, &(*work).tomb) };
    let mark = skb.mark();
    skb.set_mark(OWN_MARK);
    let answer = global::limiter_answer(skb.0);
    if answer == UNANSWERED {
        return untold(work);
    }
    if !skb.clone_redirect(skb.ifindex(), 0) {
        // The client will send its request again, and be answered then.
        maps::count(counter::SEND_FAILED);
    } else if answer == ANSWERED_RESET {
        maps::count(counter::RESETS_SENT);
    } else if answer == ANSWERED_RESPONSE {
        maps::count(counter::RESPONSES_SENT);
    }
    skb.set_mark(mark);
    end_server(skb, work, packet, tomb)
}

/// As [`send`], with nothing for the client.
///
/// A client's own reset is written anew too, so that the server does not disregard what has ended the
/// flow here (a wrong checksum, a TTL too short).
#[inline(always)]
pub fn tell_server(skb: Skb, work: *mut Work) -> i32 {
    if !segment::begin(skb, work, Direction::ToServer) {
        return untold(work);
    }
    // SAFETY: a live map value, of this CPU alone.
    let (packet, tomb) = unsafe { (&(*work).packet, &(*work).tomb) };
    end_server(skb, work, packet, tomb)
}

/// Makes the packet the end of the connection to the server.
#[inline(always)]
fn end_server(skb: Skb, work: *mut Work, packet: &Packet, tomb: &Tomb) -> i32 {
    let reset = tomb.flags & TOMB_RESET_SERVER != 0;
    let end = Segment {
        seq: tomb.server_expects.minus(if reset { 0 } else { 1 }),
        ack: tomb.server_next,
        flags: if reset { RST | ACK } else { FIN | ACK },
        window: packet.window,
        tsval: packet.tsval,
        tsecr: packet.tsecr,
        text: 0,
    };
    if !segment::write(skb, work, Direction::ToServer, &end) {
        return untold(work);
    }
    if reset {
        maps::count(counter::RESETS_SENT);
    }
    NEXT
}

/// Notes that the server has not heard of the connection's end: the client's next packet tries again.
#[cold]
#[inline(always)]
fn untold(work: *mut Work) -> i32 {
    maps::count(counter::SEND_FAILED);
    // SAFETY: a live map value, of this CPU alone.
    if let Some(tomb) = maps::tomb(unsafe { &raw const (*work).packet.key }) {
        // SAFETY: a live map value; see the head of this file for races.
        unsafe { (*tomb).flags |= SERVER_UNTOLD };
    }
    DROP
}

/// A client's packet of a refused connection. All that it still sends is junk, but it wants to be
/// acknowledged; and the response is sent until the client has it.
#[inline(never)]
pub fn from_client(skb: Skb, work: *mut Work, tomb: *mut Tomb) -> i32 {
    maps::count(counter::TOMB_PACKETS);
    // SAFETY: live map values; `work` is of this CPU alone, the tomb's races are harmless.
    let (packet, tomb) = unsafe { (&(*work).packet, &mut *tomb) };
    if packet.has(SYN) {
        return NEXT;
    }
    // A reset is dropped as well: the server has its FIN or its reset.
    if packet.has(RST) || !packet.has(ACK) {
        return DROP;
    }
    let mut tell = tomb.flags & SERVER_UNTOLD != 0;
    tomb.flags &= !SERVER_UNTOLD;
    if tomb.flags & TOMB_RESET_CLIENT == 0 {
        let end = packet_end(packet);
        let seen = tomb.client_next;
        let has_response = !packet.ack.before(tomb.response_end);
        tell |= has_response && to_remind(tomb);
        if end == packet.seq && !packet.seq.before(seen) {
            // A mere acknowledgement, or news of the client's window.
            if has_response {
                if !tell {
                    return DROP;
                }
                take(work, tomb);
                return global::limiter_tell_server(skb.0);
            }
            if !made_room(packet, tomb) {
                return DROP;
            }
        } else {
            if !has_response && packet.window == 0 {
                tomb.flags |= CLIENT_FULL;
            }
            let ahead = end.since(seen);
            if ahead > 0 && ahead <= MAX_AHEAD {
                tomb.client_next = end;
            }
        }
    }
    if tell {
        take(work, tomb);
        return global::limiter_refuse(skb.0);
    }
    if packet.has_timestamp != 0 {
        tomb.tsval = tsval(packet, tomb);
    }
    take(work, tomb);
    skb.set_mark(OWN_MARK);
    let answer = global::limiter_answer(skb.0);
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

/// Copies a tomb to `Work::tomb`, word by word: an assignment becomes a call that goes by bytes.
#[inline(always)]
fn take(work: *mut Work, tomb: &Tomb) {
    let from = (&raw const *tomb).cast::<u32>();
    // SAFETY: a live map value, of this CPU alone; tombs are made of words.
    unsafe {
        let to = (&raw mut (*work).tomb).cast::<u32>();
        for word in 0..size_of::<Tomb>() / 4 {
            to.add(word).write_volatile(from.add(word).read_volatile());
        }
    }
}

/// Whether the server is to be told again that the connection is over: it has not shown yet that it
/// knows, and on another host it may not have heard.
#[inline(always)]
fn to_remind(tomb: &mut Tomb) -> bool {
    let due = tomb.flags & SERVER_KNOWS == 0;
    if tomb.flags & TOMB_RESET_SERVER != 0 {
        // A reset is not acknowledged.
        tomb.flags |= SERVER_KNOWS;
    }
    due
}

/// Whether a client that had no room for the response has some now.
///
/// A receiver without room takes in the acknowledgement of a segment but not its payload, so the
/// client would not send again; and there is no clock here that would.
#[inline(always)]
fn made_room(packet: &Packet, tomb: &mut Tomb) -> bool {
    if packet.window == 0 {
        tomb.flags |= CLIENT_FULL;
        return false;
    }
    let was_full = tomb.flags & CLIENT_FULL != 0;
    tomb.flags &= !CLIENT_FULL;
    was_full
}

/// [`answer_client`]: it could not be done.
const UNANSWERED: u32 = 0;
/// [`answer_client`]: by an acknowledgement.
const ANSWERED: u32 = 1;
/// [`answer_client`]: by the response.
const ANSWERED_RESPONSE: u32 = 2;
/// [`answer_client`]: by a reset.
const ANSWERED_RESET: u32 = 3;

/// Makes the client's packet the answer to it that the tomb in `Work::tomb` calls for: `ANSWERED_*`.
#[inline(always)]
pub fn answer_client(skb: Skb, work: *mut Work) -> u32 {
    // SAFETY: a live map value, of this CPU alone.
    let (packet, tomb) = unsafe { (&(*work).packet, &(*work).tomb) };
    if !segment::begin(skb, work, Direction::ToServer) {
        return UNANSWERED;
    }
    let answer = answer(work, packet, tomb);
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

/// The timestamp value of an answer to a client's packet.
#[inline(always)]
fn tsval(packet: &Packet, tomb: &Tomb) -> u32 {
    if tomb.tsval == 0 {
        return packet.tsecr;
    }
    // Older than what the client has seen already it would be dropped (RFC 7323, section 5.3).
    Seq(packet.tsecr).latest(Seq(tomb.tsval)).0
}

/// What a client's packet of a refused connection is answered.
#[inline(always)]
fn answer(work: *mut Work, packet: &Packet, tomb: &Tomb) -> Segment {
    let mut answer = Segment {
        seq: tomb.response_end,
        ack: tomb.client_next,
        flags: ACK,
        window: tomb.window,
        tsval: tsval(packet, tomb),
        tsecr: packet.tsval,
        text: 0,
    };
    let reset = tomb.flags & TOMB_RESET_CLIENT != 0;
    if !reset && !packet.ack.before(tomb.response_end) {
        return answer;
    }
    match text::compose(work, tomb) {
        Some(len) if !reset => {
            answer.seq = tomb.response_start;
            answer.flags = ACK | PSH | FIN;
            answer.text = len;
        }
        _ => {
            // Exactly what the client expects (RFC 5961, section 3.2).
            answer.seq = packet.ack;
            answer.flags = ACK | RST;
            answer.ack = tomb.client_next.latest(packet_end(packet));
        }
    }
    answer
}

/// A server's packet of a refused connection: acknowledged in the client's name, and dropped.
#[inline(never)]
pub fn from_server(skb: Skb, work: *mut Work, tomb: *mut Tomb) -> i32 {
    maps::count(counter::TOMB_PACKETS);
    // SAFETY: live map values; `work` is of this CPU alone, the tomb's races are harmless.
    let (packet, tomb) = unsafe { (&(*work).packet, &mut *tomb) };
    if packet.has(RST) || !packet.has(ACK) {
        return DROP;
    }
    if packet.has(SYN) && tomb.flags & TOMB_RESET_SERVER == 0 {
        return DROP;
    }
    let end = packet_end(packet);
    let seen = tomb.server_next;
    tomb.server_next = seen.latest(end);
    let knows = !packet.ack.before(tomb.server_expects);
    if knows && tomb.flags & TOMB_RESET_SERVER == 0 {
        tomb.flags |= SERVER_KNOWS;
    }
    let mut answer = Segment {
        seq: tomb.server_expects,
        ack: tomb.server_next,
        flags: ACK,
        window: WIDE_WINDOW,
        // What the server saw last, and so nothing older (RFC 7323, section 5.3).
        tsval: packet.tsecr,
        tsecr: packet.tsval,
        text: 0,
    };
    if tomb.flags & TOMB_RESET_SERVER != 0 {
        answer.seq = packet.ack;
        answer.flags = RST | ACK;
    } else if end == packet.seq && !packet.seq.before(seen) {
        // A mere acknowledgement. Never answered: two that answer each other's never stop.
        return DROP;
    } else if !knows {
        // Our FIN was lost on the way.
        answer.seq = tomb.server_expects.minus(1);
        answer.flags = FIN | ACK;
    }
    skb.set_mark(OWN_MARK);
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

/// How a packet that comes from the server gets back to it.
#[inline(always)]
fn to_server(skb: Skb) -> u64 {
    // On loopback what is sent comes in, with its route; what is put in without one is from an
    // address of this host, and IPv4 calls that martian (__fib_validate_source, net/ipv4).
    if skb.ifindex() == LOOPBACK {
        0
    } else {
        INGRESS
    }
}

/// The sequence number after all that a packet takes (RFC 9293, section 3.4).
#[inline(always)]
fn packet_end(packet: &Packet) -> Seq {
    // SYN and FIN take one each.
    packet
        .seq
        .plus(packet.len + (packet.flags & FIN) + (packet.flags >> 1 & 1))
}
