// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Handles packets from clients: follows the stream of requests, decides whether each request may
//! pass, and acts on the decision.

use limiter_common::abi::{
    Config, FLOOR, FLOW_CLIENT_FIN, FLOW_RESET_PASSED, FLOW_SERVER_FIN, FLOW_SPLICED,
    FLOW_WITHHOLDING, Flow, counter, phase, policy,
};

use crate::{
    follow::{
        flow::{self, Action, passed},
        offers::limiter_decline_again,
        records,
        retransmission::{self, limiter_may_pass},
        slots, splice,
        validation::{VALID, note_timestamp, validate, validate_origin},
    },
    kernel::{
        flow::LockedFlow,
        maps::{self, dropped},
        skb::{DROP, NEXT, Skb},
        verifier::reread,
        work::{Packet, Work},
    },
    open::{handshake::handshake, syn},
    packet::{
        header::{ACK, Direction, FIN, Kind, RST, SYN, URG},
        parse,
        translate::limiter_translate,
        trim::limiter_cut,
    },
    refuse::{
        client::{limiter_refuse, without_flow},
        ending::{bury, conflict, malformed},
        kept::{self, limiter_answer_kept},
        reset::limiter_refuse_handshake,
        server::limiter_end_server,
        tomb::remove_ended,
    },
    requests::requests,
};

#[inline(always)]
pub fn run<const L2: bool>(skb: Skb) -> i32 {
    let work = match parse::<L2>(skb, Direction::ToServer) {
        (Kind::Segment, Some(work)) => work,
        (Kind::Fragment, _) => return dropped(counter::FRAGMENT_DROPPED),
        (Kind::Unreadable, _) => return dropped(counter::UNREADABLE_DROPPED),
        (Kind::BadChecksum, _) => return dropped(counter::BAD_CHECKSUM_DROPPED),
        (Kind::Expired, _) => return dropped(counter::INVALID_DROPPED),
        _ => return NEXT,
    };
    let Some(config) = maps::config() else {
        return NEXT;
    };
    if work.packet.len == 0 && maps::is_own(skb) {
        // The programs never send a payload to a server, so a packet with a payload is not theirs,
        // whatever its mark is.
        skb.set_mark(0);
        return NEXT;
    }
    if work.packet.has(SYN) {
        return syn::syn(skb, work);
    }
    let Some(found) = flow::find(work) else {
        return without_flow(skb, work);
    };
    let Some(mut flow) = found.lock_for_packet(&work.packet.key) else {
        maps::count_by(counter::DROPPED_BYTES, u64::from(work.packet.len));
        return DROP;
    };
    let action = segment(skb, work, &mut flow, config);
    act(skb, work, flow, action)
}

/// Carries out the action that was chosen for a packet of `flow`. Everything else that the action
/// depends on is in `Work`.
#[inline(always)]
fn act(skb: Skb, work: &mut Work, mut flow: LockedFlow, action: Action) -> i32 {
    match action {
        Action::Pass => {
            splice::to_server(work, &mut flow);
            drop(flow);
            pass(skb, work)
        }
        Action::PassLast => {
            splice::to_server(work, &mut flow);
            remove_ended(work, flow);
            pass(skb, work)
        }
        Action::Cut => {
            splice::to_server(work, &mut flow);
            drop(flow);
            if limiter_cut(skb, work) {
                pass(skb, work)
            } else {
                DROP
            }
        }
        Action::Drop(counter) => {
            drop(flow);
            let len = work.packet.len;
            if len > 0 {
                maps::count_by(counter::DROPPED_BYTES, u64::from(len));
            }
            dropped(counter)
        }
        Action::Bury => {
            replace_by_tomb(work, flow);
            maps::count_by(counter::REFUSED_BYTES, u64::from(work.packet.len));
            limiter_refuse(skb, work)
        }
        Action::Reset => {
            replace_by_tomb(work, flow);
            maps::count_by(counter::REFUSED_BYTES, u64::from(work.packet.len));
            limiter_end_server(skb, work)
        }
        Action::Answer => {
            drop(flow);
            limiter_answer_kept(skb, work)
        }
        Action::Untracked => {
            drop(flow);
            without_flow(skb, work)
        }
        Action::RefuseHandshake => {
            drop(flow);
            limiter_refuse_handshake(skb, work)
        }
    }
}

/// Replaces the flow by the tombstone in `Work::tomb`. The tombstone is inserted first, because a
/// packet that finds neither a tombstone nor a flow is treated as part of an unknown connection.
#[inline(always)]
fn replace_by_tomb(work: &mut Work, flow: LockedFlow) {
    maps::insert_tomb(&work.packet.key, &work.tomb);
    flow.remove_for_packet(work);
}

/// Lets the packet through, and translates its header first if that is necessary.
#[inline(always)]
fn pass(skb: Skb, work: &mut Work) -> i32 {
    if work.translation.is_needed != 0 && !limiter_translate(skb, work) {
        return dropped(counter::SEND_FAILED);
    }
    NEXT
}

/// Processes one segment of a followed connection, and returns the action for it.
#[inline(always)]
fn segment(skb: Skb, work: &mut Work, flow: &mut Flow, config: &'static Config) -> Action {
    if work.packet.has(RST) {
        return reset(skb, work, flow);
    }
    if flow.phase == phase::RESET {
        return Action::Drop(counter::AFTER_END_DROPPED);
    }
    // A server drops a segment without an acknowledgement (RFC 9293, section 3.10.7.4). A server
    // removes urgent data from the stream, and would therefore read another request than the parser
    // has read.
    if !work.packet.has(ACK) || work.packet.has(URG) {
        return Action::Drop(counter::INVALID_DROPPED);
    }
    if !fits(&work.packet, flow) {
        return misfit(&work.packet, flow);
    }
    if let Some(action) = kept::early(work, flow) {
        return action;
    }
    if !note_timestamp(skb, work, flow) {
        return Action::Drop(counter::BAD_CHECKSUM_DROPPED);
    }
    flow.client_ack = flow.client_ack.latest(work.packet.ack);
    let floor = flow.client_ack.minus(FLOOR);
    flow.server_start = flow.server_start.latest(floor);
    if flow.phase == phase::HANDSHAKE {
        let action = handshake(skb, work, flow, config);
        if action != Action::Pass {
            return action;
        }
    }
    if work.packet.len > 0 {
        let action = payload(skb, work, flow, config);
        if action != Action::Pass {
            return action;
        }
    }
    if work.packet.has(FIN) {
        let refused = fin(skb, work, flow, config);
        if refused != Action::Pass {
            if work.packet.len > 0 && matches!(refused, Action::Drop(_)) {
                // The payload is let through without the FIN, because the server may be waiting for
                // the payload, and the client may be waiting for the server's acknowledgement.
                work.keep = work.packet.len;
                return Action::Cut;
            }
            return refused;
        }
    }
    if slots::has_ended(flow) {
        Action::PassLast
    } else {
        Action::Pass
    }
}

/// Handles a reset from the client.
#[inline(always)]
fn reset(skb: Skb, work: &mut Work, flow: &mut Flow) -> Action {
    let seq = work.packet.seq;
    let end = if flow.flags & FLOW_CLIENT_FIN != 0 {
        flow.client_fin
    } else {
        flow.next
    };
    // A receiver accepts only a reset with exactly the next sequence number. It answers any other
    // reset in its window with a challenge ACK (RFC 5961, section 3.2). Such a reset therefore
    // passes without ending the flow.
    // A client that has lost its state takes the number from the acknowledgement in a packet of the
    // server. That number is lower until the response to a refused request has arrived.
    let is_answer = flow.flags & FLOW_SPLICED != 0
        && seq == flow.splice.request_start
        && flow.client_ack.before(flow.splice.response_end);
    if (seq != end && !is_answer) || flow.phase == phase::RESET {
        // A server that has not received some of the bytes that were let through may expect exactly
        // this sequence number, and would then accept the reset.
        if !seq.before(flow.server_ack) && seq.before(end) {
            flow.flags |= FLOW_RESET_PASSED;
        }
        return Action::Pass;
    }
    if flow.phase == phase::HANDSHAKE {
        flow.packet_type = skb.packet_type();
    }
    let fault = validate_origin(skb, work, flow);
    if fault != VALID {
        return Action::Drop(fault);
    }
    bury(work, flow, true, true);
    Action::Reset
}

/// Returns whether a client's packet belongs to this connection. The acknowledgement number must be
/// between the server's first and next byte, and the packet must not begin before the client's
/// first byte. (A keep-alive probe begins one byte earlier, and has one byte of garbage or none;
/// RFC 9293, section 3.8.4.)
///
/// A server that uses SYN cookies keeps no state for the SYNs that it has answered, and opens a
/// connection for each acknowledgement that contains a valid cookie. Therefore, an acknowledgement
/// that fits a connection other than the followed one must not reach the server.
#[inline(always)]
fn fits(packet: &Packet, flow: &Flow) -> bool {
    let probe = i32::from(packet.len < 2);
    let acknowledged = packet.ack.since(flow.server_start);
    let outstanding = flow.server_next.since(packet.ack);
    let begins = packet.seq.since(flow.client_start).wrapping_add(probe);
    (acknowledged | outstanding | begins) >= 0
}

/// Returns the action for a client's packet that has the addresses and ports of the flow, but does
/// not belong to its connection.
#[inline(always)]
fn misfit(packet: &Packet, flow: &Flow) -> Action {
    if !flow.link.is(packet.link) {
        return Action::Untracked;
    }
    if flow.phase == phase::HANDSHAKE && packet.len == 0 && !packet.has(FIN) {
        // The packet belongs to an older connection of the client, and the server's SYN-ACK does
        // not fit that connection. A server would answer the packet with a reset, so that both
        // sides notice the mismatch (RFC 9293, section 3.5.2).
        return Action::RefuseHandshake;
    }
    Action::Drop(counter::INVALID_DROPPED)
}

/// Handles the client's FIN. Any payload of the same segment has been checked before, and may pass.
#[inline(always)]
fn fin(skb: Skb, work: &mut Work, flow: &mut Flow, config: &Config) -> Action {
    let at = work.packet.seq.plus(work.packet.len);
    if flow.flags & FLOW_CLIENT_FIN != 0 {
        return Action::Pass;
    }
    if flow.next.before(at) {
        return Action::Drop(counter::OUT_OF_ORDER_DROPPED);
    }
    if at != flow.next {
        return Action::Pass;
    }
    let fault = validate(skb, work, flow);
    if fault != VALID {
        return Action::Drop(fault);
    }
    if flow.phase == phase::HTTP && flow.request.in_head() {
        // Some servers treat the end of the stream as the end of the head, and would answer a
        // request that was neither admitted nor refused.
        if config.malformed == policy::REJECT && config.observe == 0 {
            work.scan.state.method = flow.request.method;
            return malformed(work, flow, config, true, false);
        }
        maps::count(counter::MALFORMED);
        maps::count(counter::MALFORMED_CONNECTIONS);
        flow.phase = phase::OPAQUE;
    }
    flow::fin(flow, FLOW_CLIENT_FIN, at.plus(1));
    Action::Pass
}

/// Handles the payload of a segment of a followed connection.
#[inline(always)]
fn payload(skb: Skb, work: &mut Work, flow: &mut Flow, config: &'static Config) -> Action {
    let (seq, len) = (work.packet.seq, work.packet.len);
    let end = seq.plus(len);
    match flow.phase {
        phase::TUNNEL => return pass_unparsed(flow, &work.packet, counter::TUNNEL_BYTES),
        phase::OPAQUE => return pass_unparsed(flow, &work.packet, counter::MALFORMED_BYTES),
        _ => {}
    }
    if flow.flags & FLOW_CLIENT_FIN != 0 && flow.client_fin.minus(1).before(end) {
        return Action::Drop(counter::AFTER_END_DROPPED);
    }
    let beyond = end.since(flow.window_end);
    // Some clients probe a closed window with a single byte beyond its end (RFC 9293, section
    // 3.8.6.1). If the server does not accept that byte, the client retransmits it, and the
    // retransmitted byte has to be the same.
    let withholds = flow.flags & FLOW_WITHHOLDING != 0;
    if beyond > 0 && (beyond > 1 || len > 1) && !withholds {
        return Action::Drop(counter::OUT_OF_WINDOW_DROPPED);
    }
    if withholds && seq != flow.next {
        return kept::repeat(work, flow);
    }
    records::forget_all_acknowledged(flow);
    let ahead = seq.since(flow.next);
    let mut from = 0;
    if ahead > 0 {
        // The segment passes if its own bytes and the missing bytes before it are all part of a
        // body, because the content of a body does not matter. A head after a gap has to wait,
        // because until the gap is filled, no retransmission could be compared with the bytes of
        // that head.
        let request = &mut flow.request;
        if request.skippable() < ahead as u64 + u64::from(len) {
            return Action::Drop(counter::OUT_OF_ORDER_DROPPED);
        }
        request.skip(ahead as u32);
        flow.next = seq;
    } else if ahead < 0 {
        let seen = (ahead as u32).wrapping_neg();
        from = if seen < len { seen } else { len };
        let action = seen_before(skb, work, flow, from);
        if action != Action::Pass || from == len {
            return action;
        }
    }
    new_payload(skb, work, flow, config, from)
}

/// Lets through payload that is no longer parsed.
#[inline(always)]
fn pass_unparsed(flow: &mut Flow, packet: &Packet, counter: u32) -> Action {
    maps::count_by(counter, u64::from(packet.len));
    flow.next = flow.next.latest(packet.seq.plus(packet.len));
    Action::Pass
}

/// Returns the action for the first `from` bytes of the payload, which were seen before. The action
/// is `Action::Pass` if all these bytes may pass again.
#[inline(always)]
fn seen_before(skb: Skb, work: &mut Work, flow: &mut Flow, from: u32) -> Action {
    if flow.offers_next != 0 && !limiter_decline_again(skb, work, flow) {
        return Action::Drop(counter::UNREADABLE_DROPPED);
    }
    let may_pass = limiter_may_pass(skb, work, flow, from);
    if may_pass != from as i32 {
        return pass_part(work, flow, may_pass);
    }
    let len = work.packet.len;
    if from == len {
        maps::count(counter::RETRANSMITTED);
        maps::count_by(counter::RETRANSMITTED_BYTES, u64::from(len));
    }
    Action::Pass
}

/// Returns the action for bytes that were seen before, if at most a part of them may pass again.
/// `may_pass` is the result of [`limiter_may_pass`].
#[inline(always)]
fn pass_part(work: &mut Work, flow: &mut Flow, may_pass: i32) -> Action {
    if may_pass < 0 {
        let differ = may_pass == retransmission::CONFLICT;
        return conflict(work, flow, differ);
    }
    if may_pass == 0 {
        return Action::Drop(counter::PART_DROPPED);
    }
    let (keep, len) = (may_pass as u32, work.packet.len);
    maps::count(counter::RETRANSMITTED);
    passed(0, keep);
    maps::count_by(counter::DROPPED_BYTES, u64::from(len - keep));
    work.keep = keep;
    Action::Cut
}

/// Handles the payload from byte `from` on, which is new and next in order.
#[inline(always)]
fn new_payload(
    skb: Skb,
    work: &mut Work,
    flow: &mut Flow,
    config: &'static Config,
    from: u32,
) -> Action {
    let len = work.packet.len;
    let new = len - from;
    let withholds = flow.flags & FLOW_WITHHOLDING != 0;
    let request = &mut flow.request;
    if !withholds && request.skippable() >= u64::from(new) {
        request.skip(new);
        flow.next = work.packet.seq.plus(len);
        flow.conflicts = 0;
        passed(new, from);
        return Action::Pass;
    }
    if flow.flags & FLOW_SERVER_FIN != 0 && (request.is_idle() || request.in_head()) {
        // The server has closed the connection, for example because the connection was idle, while
        // the request was on its way. The request is not charged, and the client gets the reset
        // with which the server would answer.
        maps::count(counter::AFTER_END_DROPPED);
        return bury(work, flow, true, true);
    }
    let fault = validate(skb, work, flow);
    if fault != VALID {
        return Action::Drop(fault);
    }
    let withholds = reread(&flow.flags) & FLOW_WITHHOLDING != 0;
    let request = &mut flow.request;
    let left = request.skippable();
    if withholds && (left >= u64::from(new) || request.is_length_body()) {
        // Anything after the body belongs to another request, and the client retransmits it.
        let done = if left < u64::from(new) {
            left as u32
        } else {
            new
        };
        request.skip(done);
        return kept::withhold(work, flow, done, 0);
    }
    requests(skb, work, flow, config, from)
}
