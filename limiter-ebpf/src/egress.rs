// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Handles packets from servers: follows the stream of responses, and frees the slot of each
//! request when its response has ended.

use limiter_common::{
    abi::{
        Config, FLOOR, FLOW_CONFIRMED, FLOW_LOCAL, FLOW_RESET_PASSED, FLOW_RESPONSE_LOST,
        FLOW_SERVER_FIN, FLOW_SPLICED, FLOW_UNSURE, Flow, RESPONSES, counter, phase, policy,
    },
    http::{self, Scan},
};

use crate::{
    follow::{
        flow::{self, Action},
        ring::demands_of,
        slots::{self, limiter_end},
        splice::{self, Place},
    },
    identify::{scan, unfinished},
    kernel::{
        maps,
        repeat::repeat,
        scanner,
        skb::{DROP, NEXT, Skb, coarse_ns},
        verifier::reread,
        work::{Packet, Work},
    },
    open::syn_ack::limiter_opens,
    packet::{
        header::{ACK, Direction, FIN, Kind, RST, SYN},
        parse,
        translate::limiter_translate,
    },
    refuse::{
        reset::{limiter_pass_reset_on, limiter_reset_from_server},
        server::limiter_server_without_flow,
        tomb::{limiter_mark_ended, remove_ended},
    },
};

#[inline(always)]
pub fn run<const L2: bool>(skb: Skb) -> i32 {
    if maps::is_own(skb) {
        return NEXT;
    }
    let (Kind::Segment, Some(work)) = parse::<L2>(skb, Direction::ToClient) else {
        // A packet that cannot be read is let through, because nothing is enforced in this
        // direction. Such a packet frees no slot.
        return NEXT;
    };
    if skb.ingress_ifindex() == skb.ifindex() {
        // The packets of a server come from this host, or arrive by an interface other than that of
        // the server's clients. A packet that leaves by the interface by which it arrived comes
        // from a client that pretends to be the server.
        maps::count(counter::HAIRPIN_DISBELIEVED);
        return NEXT;
    }
    let Some(config) = maps::config() else {
        return NEXT;
    };
    if work.packet.has(SYN) {
        return limiter_opens(skb, work);
    }
    let Some(found) = flow::find(work) else {
        return limiter_server_without_flow(skb, work);
    };
    let Some(mut flow) = found.lock_for_packet(&work.packet.key) else {
        return DROP;
    };
    let place = splice::to_client(work, &mut flow);
    if place != Place::Current && !is_of_server(&work.packet, &flow) {
        maps::count(counter::SERVER_DISBELIEVED);
        return NEXT;
    }
    match place {
        Place::Current => {}
        Place::Old => {
            flow.last_seen_ns = coarse_ns();
            confirm(skb, &work.packet, &mut flow);
            drop(flow);
            return pass(skb, work);
        }
        // The server sends the two kinds separately once it has heard from the client.
        Place::Both => return DROP,
    }
    let action = segment(skb, work, &mut flow, config);
    match action {
        Action::PassLast => remove_ended(work, flow),
        Action::Bury | Action::Reset => {
            // The tombstone of the flow has been inserted already.
            flow.remove_for_packet(work);
            return if action == Action::Reset || work.translation.is_needed != 0 {
                limiter_pass_reset_on(skb, work)
            } else {
                limiter_reset_from_server(skb, work)
            };
        }
        _ => drop(flow),
    }
    if let Action::Drop(counter) = action {
        maps::count(counter);
        return DROP;
    }
    pass(skb, work)
}

/// Lets the packet through, and translates its header first if that is necessary.
#[inline(always)]
fn pass(skb: Skb, work: &mut Work) -> i32 {
    if work.translation.is_needed != 0 && !limiter_translate(skb, work) {
        maps::count(counter::SEND_FAILED);
        return DROP;
    }
    NEXT
}

/// Processes one segment of a followed connection, and returns the action for it.
#[inline(always)]
fn segment(skb: Skb, work: &mut Work, flow: &mut Flow, config: &'static Config) -> Action {
    if work.packet.has(RST) {
        return reset(work, flow);
    }
    if flow.phase == phase::RESET {
        return Action::Drop(counter::AFTER_END_DROPPED);
    }
    if !is_of_server(&work.packet, flow) {
        maps::count(counter::SERVER_DISBELIEVED);
        work.translation.is_needed = 0;
        return Action::Pass;
    }
    flow.last_seen_ns = coarse_ns();
    confirm(skb, &work.packet, flow);
    note_headers(&work.packet, flow);
    if work.packet.len > 0 {
        let action = payload(skb, work, flow, config);
        if action != Action::Pass {
            return action;
        }
    }
    let packet = &work.packet;
    let mut end = packet.seq.plus(packet.len);
    if packet.has(FIN) && flow.flags & FLOW_SPLICED != 0 && flow.response_next.before(end) {
        // Bytes that come after the FIN could not be told from bytes that are no response.
        return Action::Drop(counter::OUT_OF_ORDER_DROPPED);
    }
    if packet.has(FIN) {
        end = end.plus(1);
        flow::fin(flow, FLOW_SERVER_FIN, end);
        // A request that has no response yet will not get one.
        slots::release_slots(flow);
    }
    flow.server_next = flow.server_next.latest(end);
    if slots::has_ended(flow) {
        Action::PassLast
    } else {
        Action::Pass
    }
}

/// Records the acknowledgement, the window and the timestamp of a server's packet.
#[inline(always)]
fn note_headers(packet: &Packet, flow: &mut Flow) {
    if packet.has(ACK) {
        flow.server_ack = flow.server_ack.latest(packet.ack);
        let floor = flow.server_ack.minus(FLOOR);
        flow.client_start = flow.client_start.latest(floor);
        let window = packet.window << (flow.window_shift & 15);
        flow.window_end = flow.window_end.latest(packet.ack.plus(window));
    }
    flow.server_window = packet.window;
    if packet.has_timestamp != 0 {
        flow.server_tsval = packet.tsval;
    }
}

/// Returns whether a packet that claims to come from the server really does. A genuine packet
/// acknowledges nothing beyond the bytes that were let through and the client's FIN. It begins at
/// most one byte before `Flow::server_start` (a keep-alive probe), and at most [`FLOOR`] bytes
/// after `Flow::server_next`.
#[inline(always)]
fn is_of_server(packet: &Packet, flow: &Flow) -> bool {
    let acknowledges = flow.next.plus(1).since(packet.ack);
    let acknowledged = packet.ack.since(flow.client_start);
    let begins = packet.seq.since(flow.server_start).wrapping_add(1);
    let reaches = flow.server_next.plus(FLOOR).since(packet.seq);
    let ack = if packet.has(ACK) {
        acknowledges | acknowledged
    } else {
        0
    };
    (ack | begins | reaches) >= 0
}

/// Clears `FLOW_RESET_PASSED`, because the server still sends packets. At the first packet after
/// the client completed the handshake, also records that the connection exists on the server, and
/// whether the server's socket is on this host.
#[inline(always)]
fn confirm(skb: Skb, packet: &Packet, flow: &mut Flow) {
    let flags = flow.flags & !FLOW_RESET_PASSED;
    if flags & FLOW_CONFIRMED == 0 && flow.phase != phase::HANDSHAKE {
        // The socket exists by now, if the server is on this host.
        let v6 = reread(&packet.v6);
        let local = u32::from(skb.is_of_socket(&packet.key, v6 != 0, false));
        flow.flags = flags & !FLOW_LOCAL | FLOW_CONFIRMED | (FLOW_LOCAL * local);
    } else {
        flow.flags = flags;
    }
}

/// Handles a reset from the server. If the client accepts the reset (RFC 5961, section 3.2), the
/// connection is over. The client accepts only the sequence number that it expects next. Because
/// bytes that the client has not acknowledged may have been lost, this may be any number from the
/// client's last acknowledgement to the server's next byte.
#[inline(always)]
fn reset(work: &mut Work, flow: &mut Flow) -> Action {
    let seq = work.packet.seq;
    let begins = seq.since(flow.client_ack);
    let outstanding = flow.server_next.since(seq);
    if matches!(flow.phase, phase::HANDSHAKE | phase::RESET) || (begins | outstanding) < 0 {
        // The client does not accept a reset outside this range. During the handshake, the reset
        // may be an answer to another packet, in which case the handshake can still be completed.
        // A connection that has been reset already is about to be removed.
        return Action::Pass;
    }
    // Not every reset in the server's name comes from the server. If a firewall has sent the reset,
    // the server still has the connection. The tombstone makes the programs reset each side that
    // continues to send.
    limiter_mark_ended(work, flow);
    limiter_end(work, flow);
    Action::Reset
}

/// Handles the payload of a segment from the server.
#[inline(always)]
fn payload(skb: Skb, work: &mut Work, flow: &mut Flow, config: &'static Config) -> Action {
    let (seq, len) = (work.packet.seq, work.packet.len);
    let end = seq.plus(len);
    if flow.flags & FLOW_SPLICED != 0 && is_unsolicited(&work.packet, flow) {
        // The server has not seen the refused requests, and may for example report that it has
        // waited too long for a request. The client would take that for the response to its next
        // request, so the connection ends instead.
        maps::count(counter::UNSOLICITED_RESET);
        limiter_mark_ended(work, flow);
        limiter_end(work, flow);
        return Action::Bury;
    }
    if flow.phase == phase::TUNNEL
        || flow.phase == phase::OPAQUE
        || flow.flags & FLOW_RESPONSE_LOST != 0
        || flow.asked == flow.answered
    {
        if flow.response_next.before(end) {
            flow.response_next = end;
            // These bytes do not belong to the response to any known request.
            flow.flags |= FLOW_UNSURE;
        }
        return Action::Pass;
    }
    let ahead = seq.since(flow.response_next);
    let mut from = 0;
    if ahead > 0 {
        let response = &mut flow.response;
        if response.skippable() < ahead as u64 {
            // The server will retransmit the segment. This happens only to forwarded traffic,
            // because a local TCP sends in order.
            return Action::Drop(counter::OUT_OF_ORDER_DROPPED);
        }
        if response.skip(ahead as u32) {
            slots::answered(flow);
        }
    } else if ahead < 0 {
        from = (ahead as u32).wrapping_neg();
        if from >= len {
            return Action::Pass;
        }
    }
    flow.response_next = end;
    let new = len - from;
    let response = &mut flow.response;
    if response.skippable() >= u64::from(new) {
        if response.skip(new) {
            slots::answered(flow);
        }
        return Action::Pass;
    }
    scan_responses(skb, work, flow, config, from)
}

/// Returns whether the new payload of a packet cannot belong to the response to a request that was
/// let through.
#[inline(always)]
fn is_unsolicited(packet: &Packet, flow: &Flow) -> bool {
    flow.phase == phase::HTTP
        && flow.flags & FLOW_RESPONSE_LOST == 0
        && flow.response_next.before(packet.seq.plus(packet.len))
        // While a head is incomplete, the server may already answer it with an error.
        && ((flow.asked == flow.answered && !flow.request.in_head())
            || !flow.splice.first_asked.before(packet.ack))
}

/// The state of a scan of the responses in a packet.
struct Responses<'a> {
    skb: Skb,
    work: &'a mut Work,
    flow: &'a mut Flow,
    config: &'static Config,
}

/// Scans the new payload, which begins at byte `from`.
#[inline(always)]
fn scan_responses(
    skb: Skb,
    work: &mut Work,
    flow: &mut Flow,
    config: &'static Config,
    from: u32,
) -> Action {
    unfinished::begin(work, &flow.response, RESPONSES, from);
    let mut responses = Responses {
        skb,
        work: &mut *work,
        flow: &mut *flow,
        config,
    };
    let units = repeat(http::UNITS, &mut responses, unit);
    if units >= i64::from(http::UNITS) {
        lost(flow);
    }
    if work.scan.at < work.packet.len {
        // The remaining bytes do not belong to the response to any request, or are not a response
        // at all.
        flow.flags |= FLOW_UNSURE;
    }
    unfinished::end(work, flow, RESPONSES);
    if flow.phase == phase::RESET {
        // The server has accepted an offer to continue in another kind of HTTP. Neither side
        // receives any more of the stream.
        limiter_mark_ended(work, flow);
        limiter_end(work, flow);
        return Action::Bury;
    }
    Action::Pass
}

/// Scans one unit of the packet's payload, handles the event that the scan reports, and returns
/// whether the scan ends.
#[inline(always)]
fn unit(responses: &mut Responses<'_>, _: u32) -> bool {
    let (skb, config) = (responses.skb, responses.config);
    let (work, flow) = (&mut *responses.work, &mut *responses.flow);
    if !scan::response_unit(skb, work, &config.response_rules) {
        return false;
    }
    match work.scan.event {
        http::EVENT_HEAD => head(&mut work.scan, flow, config),
        http::EVENT_END => {
            slots::answered(flow);
            // Without an outstanding request, the scan ends, because the bytes that follow are not
            // a response.
            flow.asked == flow.answered
        }
        http::EVENT_MALFORMED => {
            lost(flow);
            true
        }
        _ => true,
    }
}

/// Handles a complete head, and returns whether the scan ends with it.
#[inline(always)]
fn head(scan: &mut Scan, flow: &mut Flow, config: &Config) -> bool {
    let number = flow.answered;
    let demands = u32::from(*demands_of(flow, number));
    let body = http::response_body(&scan.state, demands);
    if http::is_bodiless(&scan.state, demands) {
        flow.flags |= FLOW_UNSURE;
    }
    scanner::go_on(scan, body);
    if body == http::BODY_TUNNEL || body == http::BODY_OTHER_HTTP {
        begin_tunnel(flow, config, body);
        return true;
    }
    if scanner::ends_segment(scan) {
        slots::answered(flow);
        return true;
    }
    false
}

/// Handles a response after which the connection is no longer HTTP/1.x. If the policy rejects the
/// kind of HTTP that follows, marks the flow to be reset. Otherwise, the connection becomes a
/// tunnel, which holds its slot until the connection ends.
#[inline(always)]
fn begin_tunnel(flow: &mut Flow, config: &Config, body: u32) {
    if body == http::BODY_OTHER_HTTP {
        maps::count(counter::HTTP2);
        if config.http2 == policy::REJECT && config.observe == 0 {
            flow.phase = phase::RESET;
            return;
        }
    }
    flow.phase = phase::TUNNEL;
    maps::count(counter::TUNNELS);
}

#[inline(always)]
fn lost(flow: &mut Flow) {
    flow.flags |= FLOW_RESPONSE_LOST;
    maps::count(counter::RESPONSE_LOST);
}
