//! Packets from servers: opens flows, follows the stream of responses and frees the slots of the
//! requests that they answer.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use limiter_common::{
    abi::{
        Config, FLOW_LOCAL, FLOW_RESPONSE_LOST, FLOW_SERVER_FIN, FLOW_SIGNED, FLOW_TIMESTAMPS,
        Flow, NO_SCOPE, OWN_MARK, Stranger, counter, phase, policy,
    },
    http,
};

use crate::{
    decide,
    flow::{self, Action},
    global, maps,
    packet::{ACK, Direction, FIN, Parsed, RST, SYN, parse},
    scan::{self, Segment},
    skb::{DROP, NEXT, Skb, coarse_ns},
    work::Work,
};

#[inline(always)]
pub fn run<const L2: bool>(skb: Skb) -> i32 {
    if skb.mark() == OWN_MARK {
        return NEXT;
    }
    let (Parsed::Segment, Some(work)) = parse::<L2>(skb, Direction::ToClient) else {
        // Nothing is enforced on this side: what cannot be read frees no slot.
        return NEXT;
    };
    let Some(config) = maps::config() else {
        return NEXT;
    };
    // SAFETY: both are live map values, and `work` is this CPU's.
    unsafe {
        let packet = &(*work).packet;
        let key = &raw const packet.key;
        if packet.has(SYN) {
            return if packet.has(ACK) {
                opens(skb, work, config)
            } else {
                NEXT
            };
        }
        let Some(found) = maps::flow(key) else {
            return match maps::tomb(key) {
                Some(_) => global::limiter_server_of_tomb(skb.0),
                None => NEXT,
            };
        };
        if !flow::lock(found, key) {
            return DROP;
        }
        (*found).last_seen_ns = coarse_ns();
        let action = segment(skb, work, found, config);
        if action == Action::PassLast {
            flow::leave(found, key);
        } else {
            flow::unlock(found);
        }
        if let Action::Drop(counter) = action {
            maps::count(counter);
            return DROP;
        }
        NEXT
    }
}

/// A server's SYN-ACK: the connection is followed from here.
///
/// # Safety
/// Both point to live map values, and `work` is this CPU's.
#[inline(always)]
unsafe fn opens(skb: Skb, work: *mut Work, config: *const Config) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        let packet = &(*work).packet;
        let key = &raw const packet.key;
        let server_next = packet.seq.plus(packet.len + 1);
        if let Some(tomb) = maps::tomb(key) {
            if (*tomb).response_start == server_next {
                // Sent again, on the connection that was refused.
                return global::limiter_server_of_tomb(skb.0);
            }
            maps::remove_tomb(key);
        }
        if maps::stranger(key).is_some() {
            maps::remove_stranger(key);
        }
        if let Some(old) = maps::flow(key) {
            if !flow::lock(old, key) {
                return DROP;
            }
            (*old).last_seen_ns = coarse_ns();
            if (*old).server_next == server_next && (*old).server_ack == packet.ack {
                // Sent again. The client may have gone on already: what it sent has not reached
                // the server then (the queue of its listener is full, or the network lost it).
                flow::unlock(old);
                return NEXT;
            }
            // A new connection between the same ports: the server knows the old one is over.
            flow::release_slots(old);
            flow::release_connections(old);
            (*old).phase = phase::RESET;
            flow::unlock(old);
            maps::count(counter::FLOWS_CLOSED);
        }
        // All that is not set here stays zero.
        let new = &raw mut (*work).flow;
        (*new).key = packet.key;
        (*new).phase = phase::HANDSHAKE;
        (*new).last_seen_ns = coarse_ns();
        (*new).next = packet.ack;
        (*new).server_ack = packet.ack;
        (*new).records_floor = packet.ack;
        (*new).server_next = server_next;
        (*new).response_next = server_next;
        (*new).server_start = server_next;
        (*new).client_ack = packet.seq;
        (*new).server_window = packet.window;
        // A SYN's window is not scaled (RFC 7323, section 2.2).
        (*new).window_end = packet.ack.plus(packet.window);
        (*new).window_shift = packet.window_shift;
        (*new).client_tsval = packet.tsecr * packet.has_timestamp;
        (*new).flags = (FLOW_TIMESTAMPS * packet.has_timestamp)
            | (FLOW_SIGNED * packet.signed)
            | (FLOW_LOCAL * u32::from(skb.is_of_socket(&packet.key, packet.v6 != 0)));
        (*new).recount = maps::recount();
        (*new).server_tsval = packet.tsval * packet.has_timestamp;
        (*new).counted = [NO_SCOPE; 4];
        if maps::insert_flow(key, new) {
            maps::count(counter::FLOWS_OPENED);
            return NEXT;
        }
        maps::count(counter::TABLE_FULL);
        if (*config).table_full == policy::REJECT && (*config).observe == 0 {
            return global::limiter_reset_syn_ack(skb.0);
        }
        maps::insert_stranger(key, &Stranger { table_full: 1 });
        NEXT
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
            return reset(flow);
        }
        if (*flow).phase == phase::RESET {
            return Action::Drop(counter::AFTER_END_DROPPED);
        }
        if packet.has(ACK) {
            (*flow).server_ack = (*flow).server_ack.latest(packet.ack);
            let window = packet.window << ((*flow).window_shift & 15);
            (*flow).window_end = (*flow).window_end.latest(packet.ack.plus(window));
        }
        (*flow).server_window = packet.window;
        if packet.has_timestamp != 0 {
            (*flow).server_tsval = packet.tsval;
        }
        if packet.len > 0 {
            let action = payload(skb, work, flow, config);
            if action != Action::Pass {
                return action;
            }
        }
        let mut end = packet.seq.plus(packet.len);
        if packet.has(FIN) {
            end = end.plus(1);
            flow::fin(flow, FLOW_SERVER_FIN, end);
            // What has no answer by now gets none.
            flow::release_slots(flow);
        }
        (*flow).server_next = (*flow).server_next.latest(end);
        if flow::has_ended(flow) {
            Action::PassLast
        } else {
            Action::Pass
        }
    }
}

/// The server's reset: it has no such connection any more.
///
/// # Safety
/// As [`segment`].
#[inline(always)]
unsafe fn reset(flow: *mut Flow) -> Action {
    // SAFETY: the caller's promise.
    unsafe {
        if (*flow).phase == phase::HANDSHAKE {
            // It may have answered something else than the handshake, which can still be completed.
            return Action::Pass;
        }
        flow::release_slots(flow);
        flow::release_connections(flow);
        (*flow).phase = phase::RESET;
    }
    Action::PassLast
}

struct Responses {
    segment: Segment,
    flow: *mut Flow,
}

/// Payload from the server.
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
        if (*flow).phase == phase::TUNNEL
            || (*flow).phase == phase::OPAQUE
            || (*flow).flags & FLOW_RESPONSE_LOST != 0
            || (*flow).asked == (*flow).answered
        {
            (*flow).response_next = (*flow).response_next.latest(end);
            return Action::Pass;
        }
        let response = &mut (*flow).response.state;
        let ahead = seq.since((*flow).response_next);
        let mut from = 0;
        if ahead > 0 {
            if response.skippable() < ahead as u64 {
                // Only traffic that is forwarded comes in disorder: TCP brings it in order.
                return Action::Drop(counter::OUT_OF_ORDER_DROPPED);
            }
            if response.skip(ahead as u32) {
                flow::answered(flow);
            }
        } else if ahead < 0 {
            from = (ahead as u32).wrapping_neg();
            if from >= len {
                return Action::Pass;
            }
        }
        (*flow).response_next = end;
        let new = len - from;
        let response = &mut (*flow).response.state;
        if response.skippable() >= u64::from(new) {
            if response.skip(new) {
                flow::answered(flow);
            }
            return Action::Pass;
        }
        let scan = &raw mut (*work).scan;
        http::begin(scan, &raw const (*flow).response, from, len);
        let rules = &raw const (*config).response_rules;
        let mut context = Responses {
            segment: Segment {
                skb,
                payload: packet.payload,
                scan,
                rules,
            },
            flow,
        };
        let units = bpf_loop(
            http::UNITS,
            one_unit as *mut c_void,
            (&raw mut context).cast(),
            0,
        );
        if units >= i64::from(http::UNITS) {
            lost(flow);
        }
        http::end(scan, &raw mut (*flow).response);
    }
    Action::Pass
}

unsafe extern "C" fn one_unit(_: u32, context: *mut Responses) -> i64 {
    // SAFETY: `payload` passes its own context.
    unsafe {
        if !scan::unit::<false>(&raw mut (*context).segment) {
            return 0;
        }
        let flow = (*context).flow;
        let scan = (*context).segment.scan;
        match (*scan).event {
            http::EVENT_HEAD => {
                let method = (*decide::slot(flow, (*flow).answered)).method;
                let body = http::response_body(&(*scan).state, method);
                http::go_on(scan, body);
                if body == http::BODY_TUNNEL {
                    // The slot is held until the connection ends.
                    (*flow).phase = phase::TUNNEL;
                    maps::count(counter::TUNNELS);
                    return 1;
                }
                if http::ends_segment(scan) {
                    flow::answered(flow);
                    return 1;
                }
                0
            }
            http::EVENT_END => {
                flow::answered(flow);
                // What follows without a request is nobody's response.
                i64::from((*flow).asked == (*flow).answered)
            }
            http::EVENT_MALFORMED => {
                lost(flow);
                1
            }
            _ => 1,
        }
    }
}

#[inline(always)]
unsafe fn lost(flow: *mut Flow) {
    // SAFETY: the callers' flow is a live map value, locked.
    unsafe {
        (*flow).flags |= FLOW_RESPONSE_LOST;
    }
    maps::count(counter::RESPONSE_LOST);
}
