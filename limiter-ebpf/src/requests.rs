// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Handles the requests in a client's segment: scans them, decides whether each may pass, and lets
//! the admitted bytes through.

use limiter_common::{
    abi::{
        Config, FLOW_DEFERRED, FLOW_DROP_COUNTED, FLOW_HELD, FLOW_SWITCHING, FLOW_WITHHOLDING,
        Flow, MAX_OUTSTANDING, REQUESTS, counter, phase, policy,
    },
    http,
};

use crate::{
    decide,
    follow::{
        flow::{Action, passed},
        offers::limiter_decline,
        records,
    },
    identify::{scan, unfinished},
    kernel::{
        maps,
        repeat::repeat,
        scanner,
        skb::Skb,
        verifier::{reread, write_through},
        work::{Identity, Room, Work},
    },
    packet::trim::room,
    refuse::{
        ending::{bury, malformed, refused},
        kept,
    },
};

/// The values of `Work::outcome`, which states how the scan of a segment ended. The outcome is
/// passed through memory, where the verifier loses track of the value. If the outcome were on the
/// stack, the verifier would check the code after the scan once for each outcome and for each path
/// to it.
mod outcome {
    use crate::decide;

    /// The segment contains more than can be scanned at once, and the rest has to be retransmitted.
    pub const UNFINISHED: u32 = 0;
    /// All of the segment was parsed, and its requests were admitted.
    pub const ADMITTED: u32 = decide::ADMITS;
    /// The payload could not be read.
    pub const FAILED: u32 = 2;
    /// The request at `message_at` has to be retransmitted, for example because other requests have
    /// to be answered first.
    pub const WAITS: u32 = decide::WAITS;
    /// The request at `message_at` is refused, for the reason in `Work::refusal`.
    pub const REFUSED: u32 = decide::REFUSES;
    /// The bytes at `message_at`, or in the body of the preceding request, are not HTTP.
    pub const MALFORMED: u32 = 5;
    /// The client has sent the HTTP/2 preface.
    pub const HTTP2: u32 = 6;
    /// The request at `message_at` asks for a tunnel, but its response could not be recognized, so
    /// the connection is reset.
    pub const RESET: u32 = decide::RESETS;
}

/// The state of a scan of the requests in a packet.
struct Requests<'a> {
    skb: Skb,
    work: &'a mut Work,
    flow: &'a mut Flow,
    config: &'static Config,
}

/// Scans the new payload, which begins at byte `from`.
#[inline(always)]
pub fn requests(
    skb: Skb,
    work: &mut Work,
    flow: &mut Flow,
    config: &'static Config,
    from: u32,
) -> Action {
    write_through(&mut work.kept.from, from);
    let from = reread(&work.kept.from);
    unfinished::begin(work, &flow.request, REQUESTS, from);
    if flow.asked == flow.answered && !flow.request.in_head() {
        flow.splice.first_asked = flow.next;
    }
    work.kept.withholds = flow.flags & FLOW_WITHHOLDING;
    records::memory(skb, work, flow);
    work.identity = Identity::begin(skb, &flow.request);
    // This outcome remains if the loop ends before it sets another.
    work.outcome = outcome::UNFINISHED;
    work.room = Room {
        bytes: room(skb.gso_size(), work.packet.payload),
        chunked: 0,
        body_left: 0,
    };
    note_body(work);
    let mut requests = Requests {
        skb,
        work: &mut *work,
        flow: &mut *flow,
        config,
    };
    repeat(http::UNITS, &mut requests, unit);
    let outcome = reread(&work.outcome);
    if work.kept.withholds != 0 {
        if outcome == outcome::FAILED {
            return Action::Drop(counter::UNREADABLE_DROPPED);
        }
        return kept::withhold_scanned(work, flow, outcome == outcome::MALFORMED, from);
    }
    match action_for_all(skb, work, flow, config, outcome, from) {
        Some(action) => action,
        None => action_for_part(skb, work, flow, config, outcome, from),
    }
}

/// Scans one unit of a segment. If this completes the head of a request, decides whether the
/// request may pass. Returns whether the scan ends.
#[inline(always)]
fn unit(requests: &mut Requests<'_>, _: u32) -> bool {
    let (skb, config) = (requests.skb, requests.config);
    let (work, flow) = (&mut *requests.work, &mut *requests.flow);
    let framing = work.scan.framing_to.wrapping_sub(work.scan.framing_from);
    if framing as i32 > work.memory && work.kept.withholds == 0 {
        // The scan ends, because there might be no room for records of the framing in the next
        // window.
        return true;
    }
    if !scan::request_unit(skb, work, &config.request_rules) {
        if work.kept.withholds == 0 {
            note_body(work);
            records::keep_before_chunk(skb, work, flow);
        }
        return false;
    }
    work.outcome = match work.scan.event {
        // The refused request is complete, and this is the next one.
        http::EVENT_HEAD if work.kept.withholds != 0 => outcome::WAITS,
        http::EVENT_HEAD => {
            let decision = decide(work, flow, config);
            if decision == decide::ADMITS && !go_on(skb, work, flow, config) {
                return false;
            }
            if decision == decide::REFUSES && kept::goes_on(skb, work, flow, config) {
                kept::begin(work);
                let body = http::request_body(&work.scan.state);
                scanner::go_on_withheld(&mut work.scan, body);
                return scanner::was_last(&mut work.scan);
            }
            decision
        }
        http::EVENT_HTTP2 => outcome::HTTP2,
        http::EVENT_MALFORMED if switches(flow, config) && !work.scan.state.in_body() => {
            outcome::WAITS
        }
        http::EVENT_MALFORMED => outcome::MALFORMED,
        http::EVENT_FAILED => outcome::FAILED,
        _ => outcome::ADMITTED,
    };
    true
}

/// Decides whether the request whose head is complete may pass.
#[inline(always)]
fn decide(work: &mut Work, flow: &mut Flow, config: &Config) -> u32 {
    let many = flow.asked.wrapping_sub(flow.answered) >= MAX_OUTSTANDING;
    // `far` means that other requests come before this one in the segment, and that the head of
    // this one ends after the last byte at which the segment can be cut. Then the request has to
    // wait, because if it were admitted and a later request were not, the segment could not be cut
    // between the two.
    let far = work.scan.at > work.room.bytes && work.scan.message_at > 0;
    if many || far {
        decide::WAITS
    } else {
        decide::request(work, flow, config)
    }
}

/// Continues after the head of an admitted request, and returns whether that request was the last
/// of the segment.
#[inline(always)]
fn go_on(skb: Skb, work: &mut Work, flow: &mut Flow, config: &Config) -> bool {
    if work.scan.state.offers_http() {
        limiter_decline(skb, work, flow, 1);
    }
    let demands = scan::demands(&mut work.scan);
    let secret = config.request_rules.secret();
    work.identity.add(&work.scan.state, demands, secret);
    let body = http::request_body(&work.scan.state);
    scanner::go_on(&mut work.scan, body);
    note_body(work);
    scanner::was_last(&mut work.scan)
}

/// Returns whether the awaited response may begin a tunnel. In that case, it is not known yet
/// whether the following bytes are a request. In observe mode, always returns false.
#[inline(always)]
fn switches(flow: &Flow, config: &Config) -> bool {
    flow.flags & FLOW_SWITCHING != 0 && flow.asked != flow.answered && config.observe == 0
}

/// Sets `Room::body_left` and `Room::chunked` if the part of the segment that `Work::room`
/// describes ends inside the body that the scan has reached. `Room::body_left` is then the number
/// of bytes of the body, or of its current chunk, that follow this part.
#[inline(always)]
fn note_body(work: &mut Work) {
    let (scan, room) = (&work.scan, &mut work.room);
    let left = scan.state.skippable();
    let to_end = room.bytes.wrapping_sub(scan.at);
    if left > u64::from(to_end) && scan.at <= room.bytes {
        room.body_left = left - u64::from(to_end);
        room.chunked = u32::from(!scan.state.is_length_body());
    }
}

/// Returns the action if everything that was scanned can pass, if the payload could not be read, or
/// if the rest of the stream does not have to be parsed. Otherwise, returns `None`.
#[inline(always)]
fn action_for_all(
    skb: Skb,
    work: &mut Work,
    flow: &mut Flow,
    config: &Config,
    outcome: u32,
    from: u32,
) -> Option<Action> {
    let observe = config.observe != 0;
    let action = match outcome {
        outcome::ADMITTED | outcome::UNFINISHED if work.scan.at != from => {
            work.keep = work.scan.at;
            admit(skb, work, flow, from)
        }
        outcome::FAILED => Action::Drop(counter::UNREADABLE_DROPPED),
        outcome::HTTP2 if config.http2 == policy::PASS || observe => {
            maps::count(counter::HTTP2);
            opaque(work, flow, phase::TUNNEL, counter::TUNNEL_BYTES)
        }
        outcome::MALFORMED if config.malformed == policy::PASS || observe => {
            maps::count(counter::MALFORMED);
            maps::count(counter::MALFORMED_CONNECTIONS);
            opaque(work, flow, phase::OPAQUE, counter::MALFORMED_BYTES)
        }
        _ => return None,
    };
    Some(action)
}

/// Returns the action if the scan has stopped at the request at `message_at`, or in the body before
/// that request.
#[inline(always)]
fn action_for_part(
    skb: Skb,
    work: &mut Work,
    flow: &mut Flow,
    config: &Config,
    outcome: u32,
    from: u32,
) -> Action {
    let in_body = outcome == outcome::MALFORMED && work.scan.state.in_body();
    let begins = work.scan.message_at;
    // If `reachable` is false, the segment can be cut neither after `from` nor at `begins`. In that
    // case, only the bytes that were seen before pass for now.
    let room = work.room.bytes;
    let reachable = room > from || begins <= room as i32;
    if begins > from as i32 && !in_body && reachable {
        work.keep = rewind(work, begins as u32);
        return admit(skb, work, flow, from);
    }
    let split = begins < from as i32;
    let action = match outcome {
        _ if begins > from as i32 && !in_body => Action::Drop(counter::NOT_QUIET_DROPPED),
        outcome::REFUSED => refused(work, flow, config, split),
        outcome::MALFORMED => malformed(work, flow, config, split, in_body),
        outcome::HTTP2 | outcome::RESET => {
            maps::count(if outcome == outcome::HTTP2 {
                counter::HTTP2
            } else {
                counter::UPGRADES_RESET
            });
            bury(work, flow, split, true)
        }
        outcome::UNFINISHED => Action::Drop(counter::UNACKNOWLEDGED_DROPPED),
        _ => Action::Drop(counter::NOT_QUIET_DROPPED),
    };
    if from == 0 || action == Action::Bury {
        return action;
    }
    // The server may not have received the bytes that were seen before, so they pass once more.
    let len = work.packet.len;
    maps::count_by(counter::RETRANSMITTED_BYTES, u64::from(from));
    maps::count_by(counter::DROPPED_BYTES, u64::from(len - from));
    work.keep = from;
    Action::Cut
}

/// Goes back to the request at byte `begins`, which cannot pass, and returns the number of bytes
/// before that request that can pass. The client will retransmit the rest, and the request is then
/// judged alone.
#[inline(always)]
fn rewind(work: &mut Work, begins: u32) -> u32 {
    let (scan, room) = (&mut work.scan, &work.room);
    if begins > room.bytes && room.body_left > 0 {
        // The scan goes back to the last byte that can be let through, so that no records are
        // needed for bytes that the server cannot have received.
        scanner::rewind_into_body(scan, room.bytes, room.chunked != 0, room.body_left);
        return room.bytes;
    }
    scanner::rewind(scan);
    begins
}

/// Handles the admitted part of the payload, whose length is in `Work::keep`: saves the position
/// after the part, keeps a record of the part, and lets the part through.
#[inline(always)]
fn admit(skb: Skb, work: &mut Work, flow: &mut Flow, from: u32) -> Action {
    let done = reread(&work.keep);
    if work.scan.state.offers_http() {
        // The offer has to be removed now, because its bytes are in this packet. The request is
        // judged later, when its head is complete.
        limiter_decline(skb, work, flow, 0);
    }
    unfinished::end(work, flow, REQUESTS);
    records::keep(skb, work, flow, done);
    flow.next = work.packet.seq.plus(done);
    flow.flags &= !(FLOW_DROP_COUNTED | FLOW_DEFERRED | FLOW_HELD);
    flow.conflicts = 0;
    passed(done - from, from);
    let len = work.packet.len;
    if done == len {
        return Action::Pass;
    }
    maps::count_by(counter::DROPPED_BYTES, u64::from(len - done));
    Action::Cut
}

/// Stops parsing the connection as HTTP/1.x. All bytes of the segment pass, and are counted.
#[inline(always)]
fn opaque(work: &Work, flow: &mut Flow, new_phase: u32, counter: u32) -> Action {
    let packet = &work.packet;
    flow.phase = new_phase;
    flow.next = packet.seq.plus(packet.len);
    maps::count_by(counter, u64::from(packet.len));
    Action::Pass
}
