// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Refusals after which the connection goes on: the bytes of the request are withheld from the
//! server, and the response is sent in the server's name
//! ([`Splice`](limiter_common::abi::Splice)).

use core::mem::MaybeUninit;

use limiter_common::{
    abi::{
        Config, FLOW_CLIENT_FIN, FLOW_DEFERRED, FLOW_DROP_COUNTED, FLOW_HELD, FLOW_SERVER_FIN,
        FLOW_SIGNED, FLOW_SPLICED, FLOW_WITHHOLDING, Flow, MAX_WITHHELD, MAX_WITHHELD_BODY,
        NO_SCOPE, REQUESTS, Splice, TOMB_HEAD, TOMB_KEPT, Tomb, counter, policy, reason,
    },
    http::{self, Persistence},
};

use crate::{
    follow::{clients::may_complete_handshake, flow::Action, splice},
    identify::unfinished,
    kernel::{
        global::global,
        maps, scanner,
        skb::{DROP, NEXT, Skb, coarse_ns, redirect},
        verifier::{reread, write_through, zeros},
        work::{Kept, Work},
    },
    packet::header::{ACK, Direction, FIN, PSH, RST},
    refuse::{
        client::tsval,
        ending::bury,
        report::limiter_count_refusal,
        segment::{self, OwnSegment, packet_end},
        text,
        tomb::MIN_WINDOW,
    },
};

/// The maximum number of times that a response is sent again because the client had room for only a
/// part of it. A client that never makes room would otherwise be answered forever.
const MAX_REPEATS: u32 = 8;

/// The result of [`limiter_answer_early`] for a packet that is handled like any other.
const CONTINUES: u32 = 0;
/// The result if the packet is answered as `Work::kept` states.
const ANSWERED: u32 = 1;
/// The result if the connection ends, and `Work::tomb` is its tombstone.
const ENDED: u32 = 2;
/// The result if the packet is dropped.
const DROPPED: u32 = 3;

global! {
    /// Handles a client's packet that begins before the end of the last refused request, or that
    /// shows that the client had room for only a part of the last response.
    fn limiter_answer_early(work, flow;) -> u32 = answer_early, or DROPPED;

    /// Withholds the bytes of a refused request from the server. The bytes end before byte `done`
    /// of the segment, and those before `from` were seen earlier.
    fn limiter_withhold(work, flow; done: u32, from: u32) -> u32 = withhold_bytes, or DROPPED;

    /// Ends the scan of a refused request, and sets `Work::keep` to the number of bytes that belong
    /// to it.
    fn limiter_end_scan(work, flow; from: u32) -> () = end_scan, or ();

    /// Closes a connection whose refused request has been withheld in part.
    fn limiter_close(work, flow;) -> u32 = close, or DROPPED;

    /// Returns whether the client keeps the connection open after the response to its request.
    /// (This is a function of its own because its buffer would be on the stack of the scan.)
    fn limiter_keeps_connection(skb, work;) -> bool = keeps_connection, or false;

    /// Acknowledges the client's bytes so far, in answer to a packet that is ahead of them.
    fn limiter_repeat(work, flow;) -> u32 = repeat_answer, or DROPPED;

    /// Sends the segment in `Work::kept` to the client, and passes the client's acknowledgement on
    /// to the server if `Kept::informs` is set.
    pub fn limiter_answer_kept(skb, work;) -> i32 = send, or DROP;
}

/// Returns whether the connection goes on after the refusal in `Work::refusal`. The head of the
/// refused request is complete, and the request begins at the first new byte of the segment.
#[inline(always)]
pub fn goes_on(skb: Skb, work: &mut Work, flow: &Flow, config: &Config) -> bool {
    const NEVER: u32 = FLOW_CLIENT_FIN | FLOW_SERVER_FIN | FLOW_SIGNED | FLOW_WITHHOLDING;
    let (packet, state) = (&work.packet, &work.scan.state);
    let reason = work.refusal.text.reason;
    if config.on_limit != policy::ON_LIMIT_KEEPALIVE
        || reason >= reason::MALFORMED
        || work.scan.message_at != work.kept.from as i32
        || flow.flags & NEVER != 0
        || packet.has(FIN)
        || packet.window == 0
        || state.length > u64::from(MAX_WITHHELD_BODY)
    {
        return false;
    }
    // As with other refusals, no earlier response may arrive after this one. In addition, the
    // numbers of both directions may change only where nothing is in transit.
    flow.asked == flow.answered
        && packet.ack == flow.server_next
        && flow.response_next == flow.server_next
        && flow.server_ack == flow.next
        && text::len(&work.refusal.text, state.method == http::METHOD_HEAD).is_some()
        && limiter_keeps_connection(skb, work)
        && may_complete_handshake(work, flow, config)
}

/// The size of the buffer for the value of `Connection`, in bytes.
const ROOM: u64 = http::CONNECTION_WORDS as u64 * 8;

/// The body of [`limiter_keeps_connection`].
#[inline(always)]
fn keeps_connection(skb: Skb, work: &mut Work) -> bool {
    match http::persistence(&work.scan.state) {
        Persistence::Keeps => true,
        Persistence::Asks => {
            let at = work.scan.connection;
            let left = work.packet.len.wrapping_sub(at);
            let len = if left < ROOM as u32 {
                left
            } else {
                ROOM as u32
            };
            let mut value = MaybeUninit::<[u64; http::CONNECTION_WORDS]>::uninit();
            let value = zeros(&mut value);
            skb.load_part::<ROOM, _>(work.packet.payload + at, value, len)
                && http::keeps_open(value, work.scan.state.minor)
        }
        Persistence::Unknown => false,
    }
}

/// Counts the refusal in `Work::refusal`, after which the connection is to go on, and begins to
/// withhold the request from the server. The state of the scan is still that of the request's head.
#[inline(always)]
pub fn begin(work: &mut Work) {
    limiter_count_refusal(work);
    work.kept.withholds = 1;
    work.kept.head = u32::from(work.scan.state.method == http::METHOD_HEAD);
}

/// Returns the action for a result of the global functions above, or `None` for [`CONTINUES`].
#[inline(always)]
fn action_of(result: u32) -> Option<Action> {
    match result {
        CONTINUES => None,
        ANSWERED => Some(Action::Answer),
        ENDED => Some(Action::Bury),
        _ => Some(Action::Drop(counter::INVALID_DROPPED)),
    }
}

/// Returns the action for a client's packet that is answered without being followed any further, or
/// `None` for any other packet.
#[inline(always)]
pub fn early(work: &mut Work, flow: &mut Flow) -> Option<Action> {
    let result = if flow.flags & FLOW_SPLICED != 0 {
        limiter_answer_early(work, flow)
    } else {
        CONTINUES
    };
    // The result is passed through memory, where the verifier loses track of it. Otherwise the
    // verifier would check everything that follows once for each kind of flow.
    write_through(&mut work.kept.early, result);
    action_of(reread(&work.kept.early))
}

/// Withholds the bytes of a refused request as [`limiter_withhold`] does, and returns the action.
#[inline(always)]
pub fn withhold(work: &mut Work, flow: &mut Flow, done: u32, from: u32) -> Action {
    action_of(limiter_withhold(work, flow, done, from)).unwrap_or(Action::Answer)
}

/// Withholds the scanned bytes of a refused request, and returns the action. Any bytes after the
/// request are not acknowledged, and the client retransmits them. `is_malformed` states whether the
/// scan has met malformed bytes. `from` is the payload offset of the first new byte.
#[inline(always)]
pub fn withhold_scanned(work: &mut Work, flow: &mut Flow, is_malformed: bool, from: u32) -> Action {
    if is_malformed && work.scan.state.in_body() {
        // The end of the request cannot be found. The refusal has been counted already, and its
        // response may have been sent.
        if flow.flags & FLOW_WITHHOLDING == 0 {
            return bury(work, flow, false, false);
        }
        return action_of(limiter_close(work, flow)).unwrap_or(Action::Bury);
    }
    limiter_end_scan(work, flow, from);
    let done = reread(&work.keep);
    withhold(work, flow, done, from)
}

/// Answers a packet that is ahead of the client's next byte, and returns the action.
#[inline(always)]
pub fn repeat(work: &mut Work, flow: &mut Flow) -> Action {
    action_of(limiter_repeat(work, flow)).unwrap_or(Action::Answer)
}

/// The body of [`limiter_end_scan`].
#[inline(always)]
fn end_scan(work: &mut Work, flow: &mut Flow, from: u32) {
    let state = &work.scan.state;
    if work.scan.message_at > from as i32 && !state.in_body() && !state.is_idle() {
        // The next request has begun.
        scanner::rewind(&mut work.scan);
    }
    work.keep = work.scan.at;
    unfinished::end(work, flow, REQUESTS);
}

/// The body of [`limiter_withhold`].
#[inline(always)]
fn withhold_bytes(work: &mut Work, flow: &mut Flow, done: u32, from: u32) -> u32 {
    let is_new = flow.flags & FLOW_WITHHOLDING == 0;
    let informs = flow.splice.heard.before(work.packet.ack);
    if is_new {
        if !insert_response(work, flow) {
            bury(work, flow, true, true);
            return ENDED;
        }
        maps::count(counter::KEPT);
    }
    let count = done.wrapping_sub(from);
    flow.next = flow.next.plus(count);
    let splice = &mut flow.splice;
    splice.withheld = splice.withheld.wrapping_add(count);
    splice.request_end = flow.next;
    // The server has acknowledged everything before these bytes.
    flow.server_ack = flow.next;
    flow.window_end = flow.window_end.plus(count);
    flow.conflicts = 0;
    if flow.request.is_idle() {
        flow.flags &= !FLOW_WITHHOLDING;
    } else {
        flow.flags |= FLOW_WITHHOLDING;
    }
    if flow.next.since(flow.splice.request_start) > MAX_WITHHELD as i32 {
        return close(work, flow);
    }
    let result = answer(work, flow, informs, is_new);
    // Otherwise the whole packet is counted where it is dropped, or where the connection ends.
    if result == ANSWERED {
        let len = work.packet.len;
        maps::count_by(counter::REFUSED_BYTES, u64::from(count));
        maps::count_by(counter::DROPPED_BYTES, u64::from(len - count));
    }
    result
}

/// The body of [`limiter_repeat`].
#[inline(always)]
fn repeat_answer(work: &mut Work, flow: &mut Flow) -> u32 {
    let result = answer(work, flow, false, false);
    if result == ANSWERED {
        maps::count_by(counter::DROPPED_BYTES, u64::from(work.packet.len));
    }
    result
}

/// Inserts the response to the refused request into the server's stream. Returns false if the
/// daemon has just removed the text.
#[inline(always)]
fn insert_response(work: &Work, flow: &mut Flow) -> bool {
    let (refusal, head) = (&work.refusal, work.kept.head);
    let Some(len) = text::len(&refusal.text, head != 0) else {
        return false;
    };
    let (start, end) = (flow.server_next, flow.server_next.plus(len));
    let splice = &mut flow.splice;
    *splice = Splice {
        withheld: splice.withheld,
        injected: splice.injected.wrapping_add(len),
        request_start: flow.next,
        request_end: flow.next,
        response_start: start,
        response_end: end,
        text: refusal.text,
        retry_after: refusal.retry_after,
        reset_after: refusal.reset_after,
        head,
        heard: end,
        repeats: 0,
        first_asked: splice.first_asked,
    };
    flow.server_next = end;
    flow.response_next = end;
    // If the handshake was deferred, the acknowledgement that is passed on to the server completes
    // it.
    flow.flags = flow.flags & !(FLOW_DROP_COUNTED | FLOW_DEFERRED | FLOW_HELD) | FLOW_SPLICED;
    // The server may be silent for as long as the client's requests are refused.
    flow.last_seen_ns = coarse_ns();
    true
}

/// The body of [`limiter_answer_early`].
#[inline(always)]
fn answer_early(work: &mut Work, flow: &mut Flow) -> u32 {
    splice::keep_comparable(flow);
    let packet = &work.packet;
    let splice = &flow.splice;
    if !packet.seq.before(splice.request_end) {
        return partly_received(work, flow);
    }
    let end = packet_end(packet);
    if end == packet.seq {
        // A probe begins one byte before the client's next byte (RFC 9293, section 3.8.4).
        if packet.seq.plus(1) == splice.request_end {
            return CONTINUES;
        }
        return DROPPED;
    }
    let result = answer(work, flow, false, false);
    if result == ANSWERED {
        maps::count_by(counter::REFUSED_BYTES, u64::from(work.packet.len));
    }
    result
}

/// Handles a client's packet without payload. If it does not acknowledge the whole last response,
/// the client may have had no room for it, and is sent the response again.
#[inline(always)]
fn partly_received(work: &mut Work, flow: &mut Flow) -> u32 {
    let (packet, splice) = (&work.packet, &mut flow.splice);
    let ack = packet.ack;
    if packet.len > 0
        || packet.has(FIN)
        || packet.window == 0
        || !ack.before(splice.response_end)
        || ack.before(splice.response_start)
        || splice.repeats >= MAX_REPEATS
    {
        return CONTINUES;
    }
    splice.repeats += 1;
    answer(work, flow, false, false)
}

/// Fills `Work::kept` with the answer to the client's packet, and returns [`ANSWERED`] or
/// [`ENDED`]. `informs` states whether the client's acknowledgement is passed on to the server, and
/// `is_new` whether the response is sent for the first time. Returns [`DROPPED`] if the client has
/// no room for the response, because it would take the acknowledgement without the response.
#[inline(always)]
fn answer(work: &mut Work, flow: &mut Flow, informs: bool, is_new: bool) -> u32 {
    let (packet, splice) = (&work.packet, &flow.splice);
    let acknowledges =
        !packet.ack.before(splice.response_end) && !flow.server_next.before(packet.ack);
    let has_response = acknowledges || !flow.client_ack.before(splice.response_end);
    if !has_response && packet.window == 0 {
        return DROPPED;
    }
    let length = splice.response_end.since(splice.response_start) as u32;
    if !has_response && text::len(&splice.text, splice.head != 0) != Some(length) {
        // The daemon has replaced the text, and the client may already have a part of the old one.
        bury(work, flow, true, true);
        return ENDED;
    }
    // The server's window is not used up by bytes that are withheld. It may be smaller than the
    // rest of the body, which many clients send before they read a response.
    let mut window = flow.server_window;
    if flow.flags & FLOW_WITHHOLDING != 0 && window < MIN_WINDOW {
        window = MIN_WINDOW;
    }
    work.kept = Kept {
        withholds: 0,
        from: 0,
        early: 0,
        head: 0,
        has_text: u32::from(!has_response),
        is_new: u32::from(is_new),
        seq: if has_response {
            flow.server_next
        } else {
            splice.response_start
        },
        ack: flow.server_ack,
        window,
        tsval: flow.server_tsval,
        informs: u32::from(informs),
        server_seq: splice.request_end.minus(splice.withheld),
        server_ack: splice.response_end.minus(splice.injected),
    };
    work.tomb.flags = 0;
    fill_text(&mut work.tomb, splice);
    ANSWERED
}

/// Sets the fields of a tombstone that describe the last response.
#[inline(always)]
fn fill_text(tomb: &mut Tomb, splice: &Splice) {
    tomb.response_start = splice.response_start;
    // The number after the FIN with which the response would end if the connection were closed.
    tomb.response_end = splice.response_end.plus(1);
    tomb.text = splice.text;
    tomb.retry_after = splice.retry_after;
    tomb.reset_after = splice.reset_after;
    // The method of the last scan may be that of another request.
    tomb.flags = tomb.flags & !TOMB_HEAD | TOMB_KEPT;
    if splice.head != 0 {
        tomb.flags |= TOMB_HEAD;
    }
}

/// Closes a connection because the body of the refused request is too long or malformed. The
/// response has been sent already.
#[inline(always)]
fn close(work: &mut Work, flow: &mut Flow) -> u32 {
    let splice = &flow.splice;
    work.refuse(
        splice.text,
        NO_SCOPE,
        splice.retry_after,
        splice.reset_after,
    );
    bury(work, flow, false, false);
    fill_text(&mut work.tomb, &flow.splice);
    ENDED
}

/// The body of [`limiter_answer_kept`].
#[inline(always)]
fn send(skb: Skb, work: &mut Work) -> i32 {
    if !segment::begin(skb, work, Direction::ToServer) {
        maps::count(counter::SEND_FAILED);
        return DROP;
    }
    let mark = skb.mark();
    skb.set_mark(maps::own_mark());
    let to_client = to_client(work);
    if !segment::write(skb, work, Direction::ToClient, &to_client) {
        maps::count(counter::SEND_FAILED);
        return DROP;
    }
    if work.kept.informs == 0 && to_client.text == 0 {
        return redirect(skb.ifindex(), 0);
    }
    // A client on this host cannot send its segment again while the response is waiting in the
    // client's queue, if both are the same socket buffer (skb_still_in_host_queue,
    // net/ipv4/tcp_output.c). Therefore the response is sent as a copy.
    if !skb.clone_redirect(skb.ifindex(), 0) {
        // The client will send its request again, and will be answered then.
        maps::count(counter::SEND_FAILED);
    } else if to_client.text == 0 {
        maps::count_by(counter::RESETS_SENT, u64::from(to_client.flags & RST != 0));
    } else if work.kept.is_new != 0 {
        maps::count(counter::RESPONSES_SENT);
    } else {
        maps::count(counter::RESPONSES_RESENT);
    }
    if work.kept.informs == 0 {
        return DROP;
    }
    skb.set_mark(mark);
    let (packet, kept) = (&work.packet, &work.kept);
    let to_server = OwnSegment {
        seq: kept.server_seq,
        ack: kept.server_ack,
        flags: ACK,
        window: packet.window,
        tsval: packet.tsval,
        tsecr: packet.tsecr,
        text: 0,
    };
    if !segment::write(skb, work, Direction::ToServer, &to_server) {
        maps::count(counter::SEND_FAILED);
        return DROP;
    }
    NEXT
}

/// Returns the segment to the client.
#[inline(always)]
fn to_client(work: &mut Work) -> OwnSegment {
    let text = match work.kept.has_text {
        0 => Some(0),
        _ => text::compose(work),
    };
    let (packet, kept) = (&work.packet, &work.kept);
    let (seq, flags, text) = match text {
        Some(0) => (kept.seq, ACK, 0),
        Some(text) => (kept.seq, ACK | PSH, text),
        // The daemon has replaced the text since the flow was locked.
        None => (packet.ack, ACK | RST, 0),
    };
    OwnSegment {
        seq,
        ack: kept.ack,
        flags,
        window: kept.window,
        tsval: tsval(packet, kept.tsval),
        tsecr: packet.tsval,
        text,
    }
}
