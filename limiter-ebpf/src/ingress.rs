//! Packets from clients: follows the stream of requests, decides over each, and acts.

use limiter_common::abi::{
    Config, FLOW_CLIENT_FIN, FLOW_DEFERRED, FLOW_SERVER_FIN, Flow, OWN_MARK, counter, phase, policy,
};

use crate::{
    doubt::{NONE, doubt, impostor, note_timestamp},
    ending::{bury, conflict, malformed},
    flow::{self, Action},
    global, maps,
    packet::{ACK, Direction, FIN, Packet, Parsed, RST, SYN, URG, parse},
    requests::requests,
    skb::{DROP, NEXT, Skb},
    stranger::stranger,
    work::Work,
};

#[inline(always)]
pub fn run<const L2: bool>(skb: Skb) -> i32 {
    if skb.mark() == OWN_MARK {
        skb.set_mark(0);
        return NEXT;
    }
    let work = match parse::<L2>(skb, Direction::ToServer) {
        (Parsed::Segment, Some(work)) => work,
        (Parsed::Fragment, _) => return dropped(counter::FRAGMENT_DROPPED),
        (Parsed::Unreadable, _) => return dropped(counter::UNREADABLE_DROPPED),
        (Parsed::BadChecksum, _) => return dropped(counter::BAD_CHECKSUM_DROPPED),
        (Parsed::Expired, _) => return dropped(counter::INVALID_DROPPED),
        _ => return NEXT,
    };
    let Some(config) = maps::config() else {
        return NEXT;
    };
    // SAFETY: both are live map values, and `work` is this CPU's.
    unsafe {
        let packet = &(*work).packet;
        if packet.has(SYN) {
            if packet.has(ACK) {
                // No server expects one; but it would answer with a reset.
                maps::count_by(counter::DROPPED_BYTES, u64::from(packet.len));
                return dropped(counter::INVALID_DROPPED);
            }
            if packet.len > 0 {
                // Data in a SYN (TCP Fast Open) would reach the server before there is a flow. The
                // client sends it again after the handshake (RFC 7413, section 4.2.2).
                maps::count_by(counter::DROPPED_BYTES, u64::from(packet.len));
                return dropped(counter::SYN_DATA_DROPPED);
            }
            if is_of_tomb(packet) {
                // It would open a connection at the server, whose answers would end the one that the
                // client still reads the refusal on.
                return dropped(counter::AFTER_END_DROPPED);
            }
            if packet.multipath != 0 {
                if global::limiter_single_path(skb.0) == 0 {
                    return dropped(counter::UNREADABLE_DROPPED);
                }
                maps::count(counter::MULTIPATH_DECLINED);
            }
            return NEXT;
        }
        let key = &raw const packet.key;
        let Some(found) = maps::flow(key) else {
            return stranger(skb, work, config);
        };
        if !flow::lock(found, key) {
            maps::count_by(counter::DROPPED_BYTES, u64::from(packet.len));
            return DROP;
        }
        let action = segment(skb, work, found, config);
        match action {
            Action::PassLast => {
                flow::leave(found, key);
            }
            Action::Bury | Action::Reset => {
                // First the tomb: a packet that finds neither is a stranger's.
                maps::insert_tomb(key, &raw const (*work).tomb);
                flow::leave(found, key);
            }
            _ => flow::unlock(found),
        }
        act(skb, packet.len, action)
    }
}

/// How far behind the end of a refused connection a SYN lies that is still of that one, in bytes. Another
/// one between the same ports begins elsewhere (RFC 6528), whatever clock or chance has chosen its number.
const OLD_SYN: i32 = 1 << 20;

/// Whether a SYN has opened a connection that has been refused since, and comes again.
#[inline(always)]
fn is_of_tomb(packet: &Packet) -> bool {
    let Some(tomb) = maps::tomb(&raw const packet.key) else {
        return false;
    };
    // SAFETY: a live map value; one word.
    let behind = unsafe { (*tomb).client_next }.since(packet.seq);
    behind > 0 && behind < OLD_SYN
}

#[inline(always)]
fn dropped(counter: u32) -> i32 {
    maps::count(counter);
    DROP
}

/// Carries out what was decided under the lock over a packet with `len` bytes of payload; what else
/// it takes lies in `Work`.
#[inline(always)]
fn act(skb: Skb, len: u32, action: Action) -> i32 {
    match action {
        Action::Pass | Action::PassLast => NEXT,
        Action::Drop(counter) => {
            if len > 0 {
                maps::count_by(counter::DROPPED_BYTES, u64::from(len));
            }
            dropped(counter)
        }
        Action::Cut if global::limiter_cut(skb.0) != 0 => NEXT,
        Action::Cut => DROP,
        Action::Bury => {
            maps::count_by(counter::REFUSED_BYTES, u64::from(len));
            global::limiter_refuse(skb.0)
        }
        Action::Reset => {
            maps::count_by(counter::REFUSED_BYTES, u64::from(len));
            global::limiter_tell_server(skb.0)
        }
    }
}

/// Follows one segment of a followed connection.
///
/// # Safety
/// All point to live map values, `work` is this CPU's, the flow is locked.
#[inline(always)]
unsafe fn segment(skb: Skb, work: *mut Work, flow: *mut Flow, config: *const Config) -> Action {
    // SAFETY: the caller's promise.
    unsafe {
        let packet = &(*work).packet;
        if packet.has(RST) {
            let end = if (*flow).flags & FLOW_CLIENT_FIN != 0 {
                (*flow).client_fin
            } else {
                (*flow).next
            };
            // Only what a receiver believes (RFC 5961, section 3.2); of others it asks for another.
            if packet.seq != end || (*flow).phase == phase::RESET {
                return Action::Pass;
            }
            if (*flow).phase == phase::HANDSHAKE {
                (*flow).packet_type = skb.packet_type();
            }
            let doubt = impostor(skb, packet, flow);
            if doubt != NONE {
                return Action::Drop(doubt);
            }
            bury(work, flow, true, true);
            return Action::Reset;
        }
        if (*flow).phase == phase::RESET {
            return Action::Drop(counter::AFTER_END_DROPPED);
        }
        if (*flow).phase == phase::HANDSHAKE
            && packet.ack != (*flow).server_next
            && packet.has(ACK)
            && packet.len == 0
            && !packet.has(FIN)
        {
            // Of an older connection of the client, to which the server's SYN-ACK made no sense. The
            // server resets that, and so both find out (RFC 9293, section 3.5.2).
            return Action::Pass;
        }
        // Urgent data is taken out of the stream by the receiver, so it would read another request
        // than the parser.
        if !packet.has(ACK) || packet.has(URG) || (*flow).server_next.before(packet.ack) {
            return Action::Drop(counter::INVALID_DROPPED);
        }
        if !note_timestamp(skb, packet, flow) {
            return Action::Drop(counter::BAD_CHECKSUM_DROPPED);
        }
        (*flow).client_ack = (*flow).client_ack.latest(packet.ack);
        if (*flow).phase == phase::HANDSHAKE {
            if packet.ack != (*flow).server_next {
                return Action::Drop(counter::INVALID_DROPPED);
            }
            (*flow).packet_type = skb.packet_type();
            (*flow).client_window = packet.window;
            let doubt = doubt(skb, packet, flow);
            if doubt != NONE {
                return Action::Drop(doubt);
            }
            if packet.len == 0 && !packet.has(FIN) && is_deferred(flow, config) {
                return Action::Drop(counter::HANDSHAKES_DEFERRED);
            }
            (*flow).phase = phase::HTTP;
        }
        let action = if packet.len == 0 {
            Action::Pass
        } else {
            payload(skb, work, flow, config)
        };
        if action != Action::Pass {
            return action;
        }
        if packet.has(FIN) {
            let refused = fin(skb, work, flow, config);
            if refused != Action::Pass {
                if packet.len > 0 && matches!(refused, Action::Drop(_)) {
                    // What comes before the FIN may be what everyone waits for.
                    (*work).keep = packet.len;
                    return Action::Cut;
                }
                return refused;
            }
        }
        if flow::has_ended(flow) {
            Action::PassLast
        } else {
            Action::Pass
        }
    }
}

/// Whether the acknowledgement that completes the handshake is kept from the server (as with
/// TCP_DEFER_ACCEPT, tcp(7)): the connection's first request completes it as well, and if that is refused
/// no application has heard of the connection.
///
/// The server sends its SYN-ACK again after a second, and what the client answers then passes, so that a
/// server which waits for a connection, or speaks first, does not wait for ever.
///
/// # Safety
/// As [`segment`].
#[inline(always)]
unsafe fn is_deferred(flow: *mut Flow, config: *const Config) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        if (*flow).flags & FLOW_DEFERRED != 0 {
            (*flow).flags &= !FLOW_DEFERRED;
            return false;
        }
        if (*config).handshake != policy::DEFER || (*config).observe != 0 {
            return false;
        }
        (*flow).flags |= FLOW_DEFERRED;
        true
    }
}

/// The client's FIN, behind payload that passes.
///
/// # Safety
/// As [`segment`].
#[inline(always)]
unsafe fn fin(skb: Skb, work: *mut Work, flow: *mut Flow, config: *const Config) -> Action {
    // SAFETY: the caller's promise.
    unsafe {
        let packet = &(*work).packet;
        let at = packet.seq.plus(packet.len);
        if (*flow).flags & FLOW_CLIENT_FIN != 0 {
            return Action::Pass;
        }
        if (*flow).next.before(at) {
            return Action::Drop(counter::OUT_OF_ORDER_DROPPED);
        }
        if at != (*flow).next {
            return Action::Pass;
        }
        let doubt = doubt(skb, packet, flow);
        if doubt != NONE {
            return Action::Drop(doubt);
        }
        if (*flow).phase == phase::HTTP && (*flow).request.state.in_head() {
            // There are servers that take the end of the stream for the end of the head, and
            // answer a request that was never decided over.
            if (*config).malformed == policy::REJECT && (*config).observe == 0 {
                (*work).scan.state.method = (*flow).request.state.method;
                return malformed(work, flow, config, true, false);
            }
            maps::count(counter::MALFORMED);
            maps::count(counter::MALFORMED_CONNECTIONS);
            (*flow).phase = phase::OPAQUE;
        }
        flow::fin(flow, FLOW_CLIENT_FIN, at.plus(1));
        Action::Pass
    }
}

/// Payload of a followed connection.
///
/// # Safety
/// As [`segment`].
#[inline(always)]
unsafe fn payload(skb: Skb, work: *mut Work, flow: *mut Flow, config: *const Config) -> Action {
    // SAFETY: the caller's promise.
    unsafe {
        let packet = &(*work).packet;
        let (seq, len) = (packet.seq, packet.len);
        let end = seq.plus(len);
        match (*flow).phase {
            phase::TUNNEL => {
                maps::count_by(counter::TUNNEL_BYTES, u64::from(len));
                (*flow).next = (*flow).next.latest(end);
                return Action::Pass;
            }
            phase::OPAQUE => {
                maps::count_by(counter::MALFORMED_BYTES, u64::from(len));
                (*flow).next = (*flow).next.latest(end);
                return Action::Pass;
            }
            _ => {}
        }
        if (*flow).flags & FLOW_CLIENT_FIN != 0 && (*flow).client_fin.minus(1).before(end) {
            return Action::Drop(counter::AFTER_END_DROPPED);
        }
        let beyond = end.since((*flow).window_end);
        // A single byte beyond is how some probe a closed window (RFC 9293, section 3.8.6.1); if it
        // is not taken it comes again, and has to be the same.
        if beyond > 0 && (beyond > 1 || len > 1) {
            return Action::Drop(counter::OUT_OF_WINDOW_DROPPED);
        }
        let request = &mut (*flow).request.state;
        let ahead = seq.since((*flow).next);
        let mut from = 0;
        if ahead > 0 {
            // All of it, and what is missing before it, may be body, whose content does not
            // matter. A head behind a gap has to wait: until the gap is filled nothing in it could
            // be compared any more.
            if request.skippable() < ahead as u64 + u64::from(len) {
                return Action::Drop(counter::OUT_OF_ORDER_DROPPED);
            }
            request.skip(ahead as u32);
            (*flow).next = seq;
        } else if ahead < 0 {
            let seen = (ahead as u32).wrapping_neg();
            from = if seen < len { seen } else { len };
            if global::limiter_may_pass(skb.0, from) == 0 {
                return conflict(work, flow);
            }
            if from == len {
                maps::count(counter::RETRANSMITTED);
                maps::count_by(counter::RETRANSMITTED_BYTES, u64::from(len));
                return Action::Pass;
            }
        }
        let new = len - from;
        let request = &mut (*flow).request.state;
        if request.skippable() >= u64::from(new) {
            request.skip(new);
            (*flow).next = end;
            (*flow).conflicts = 0;
            passed(new, from);
            return Action::Pass;
        }
        if (*flow).flags & FLOW_SERVER_FIN != 0 && (request.is_idle() || request.in_head()) {
            // The server has closed, as after an idle time, and the request crossed that on its
            // way. It is not charged; the client gets the reset that the server would answer with.
            maps::count(counter::AFTER_END_DROPPED);
            return bury(work, flow, true, true);
        }
        let doubt = doubt(skb, packet, flow);
        if doubt != NONE {
            return Action::Drop(doubt);
        }
        requests(skb, work, flow, config, from)
    }
}

/// Counts payload that passes: `new` bytes, and `old` ones seen before.
#[inline(always)]
pub fn passed(new: u32, old: u32) {
    maps::count_by(counter::INSPECTED_BYTES, u64::from(new));
    if old > 0 {
        maps::count_by(counter::RETRANSMITTED_BYTES, u64::from(old));
    }
}
