//! Packets from clients: follows the stream of requests, decides over each, and acts.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use limiter_common::{
    abi::{
        Config, FLOW_CLIENT_FIN, FLOW_DROP_COUNTED, FLOW_SERVER_FIN, Flow, MAX_OUTSTANDING,
        NO_SCOPE, OWN_MARK, counter, phase, policy, reason,
    },
    fingerprint,
    http::{self, CARRY, Parser},
};

use crate::{
    decide,
    flow::{self, Action},
    global, maps,
    packet::{ACK, Direction, FIN, Parsed, RST, SYN, URG, parse},
    refuse,
    replay::{self, Identity},
    scan::{self, Segment},
    skb::{DROP, NEXT, Skb},
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
                return dropped(counter::INVALID_DROPPED);
            }
            if packet.len > 0 {
                // Data in a SYN (TCP Fast Open) would reach the server before there is a flow. The
                // client sends it again after the handshake (RFC 7413, section 4.2.2).
                return dropped(counter::SYN_DATA_DROPPED);
            }
            return NEXT;
        }
        let key = &raw const packet.key;
        let Some(found) = maps::flow(key) else {
            return stranger(skb, work, config);
        };
        if !flow::lock(found, key) {
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
        act(skb, action)
    }
}

#[inline(always)]
fn dropped(counter: u32) -> i32 {
    maps::count(counter);
    DROP
}

/// Carries out what was decided under the lock; what it takes lies in `Work`.
#[inline(always)]
fn act(skb: Skb, action: Action) -> i32 {
    match action {
        Action::Pass | Action::PassLast => NEXT,
        Action::Drop(counter) => dropped(counter),
        Action::Cut if global::limiter_cut(skb.0) != 0 => NEXT,
        Action::Cut => DROP,
        Action::Bury => global::limiter_refuse(skb.0),
        Action::Reset => global::limiter_hand_on_reset(skb.0),
    }
}

/// A packet of a connection that is not followed: refused before, or older than the program.
///
/// # Safety
/// Both point to live map values, and `work` is this CPU's.
#[inline(always)]
unsafe fn stranger(skb: Skb, work: *mut Work, config: *const Config) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        let packet = &(*work).packet;
        if maps::tomb(&raw const packet.key).is_some() {
            return global::limiter_client_of_tomb(skb.0);
        }
        if packet.len == 0 {
            return NEXT;
        }
        if (*config).untracked == policy::REJECT && (*config).observe == 0 {
            maps::count(counter::UNTRACKED_REFUSED);
            return global::limiter_reset_both(skb.0);
        }
        maps::count(counter::UNTRACKED_SEGMENTS);
        maps::count_by(counter::UNTRACKED_BYTES, u64::from(packet.len));
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
            let end = if (*flow).flags & FLOW_CLIENT_FIN != 0 {
                (*flow).client_fin
            } else {
                (*flow).next
            };
            // Only what a receiver believes (RFC 5961, section 3.2); of others it asks for another.
            if packet.seq != end || (*flow).phase == phase::RESET {
                return Action::Pass;
            }
            bury(work, flow, true, true);
            return Action::Reset;
        }
        if (*flow).phase == phase::RESET {
            return Action::Drop(counter::AFTER_END_DROPPED);
        }
        // Urgent data is taken out of the stream by the receiver, so it would read another request
        // than the parser.
        if !packet.has(ACK) || packet.has(URG) || (*flow).server_next.before(packet.ack) {
            return Action::Drop(counter::INVALID_DROPPED);
        }
        (*flow).client_ack = (*flow).client_ack.latest(packet.ack);
        if (*flow).phase == phase::HANDSHAKE {
            if packet.ack != (*flow).server_next {
                return Action::Drop(counter::INVALID_DROPPED);
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
            let refused = fin(work, flow, config);
            if refused != Action::Pass {
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

/// The client's FIN, behind payload that passes.
///
/// # Safety
/// As [`segment`].
#[inline(always)]
unsafe fn fin(work: *mut Work, flow: *mut Flow, config: *const Config) -> Action {
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
        if (*flow).phase == phase::HTTP && (*flow).request.state.in_head() {
            // There are servers that take the end of the stream for the end of the head, and
            // answer a request that was never decided over.
            (*work).scan.state.method = (*flow).request.state.method;
            return malformed(work, flow, config, true, false);
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
                return Action::Pass;
            }
        }
        let new = len - from;
        let request = &mut (*flow).request.state;
        if request.skippable() >= u64::from(new) {
            request.skip(new);
            (*flow).next = end;
            (*flow).conflicts = 0;
            maps::count_by(counter::INSPECTED_BYTES, u64::from(new));
            return Action::Pass;
        }
        if (*flow).flags & FLOW_SERVER_FIN != 0 && (request.is_idle() || request.in_head()) {
            // The server has closed, as after an idle time, and the request crossed that on its
            // way. It is not charged; the client gets the reset that the server would answer with.
            maps::count(counter::AFTER_END_DROPPED);
            return bury(work, flow, true, true);
        }
        requests(skb, work, flow, config, from)
    }
}

/// Segments in a row that conflict with what was seen before, after which the connection is reset:
/// at the pace of retransmissions, which doubles each time, that is some ten seconds.
const MAX_CONFLICTS: u32 = 6;

/// Bytes seen before that may not pass again.
///
/// # Safety
/// As [`segment`].
#[inline(always)]
unsafe fn conflict(work: *mut Work, flow: *mut Flow) -> Action {
    // SAFETY: the caller's promise.
    unsafe {
        (*flow).conflicts += 1;
        if (*flow).conflicts < MAX_CONFLICTS {
            return Action::Drop(counter::CONFLICT_DROPPED);
        }
        maps::count(counter::CONFLICT_DROPPED);
        bury(work, flow, true, true)
    }
}

/// How the scan of a segment ended: `Work::outcome`. It goes through memory, where the verifier
/// forgets it; on the stack it would follow what comes after the scan once for each outcome and for
/// each way to it.
mod outcome {
    /// So far, and there is more in it than can be scanned at once: the rest has to come again.
    pub const UNFINISHED: u32 = 0;
    /// All of it was parsed, and what it asks for was admitted.
    pub const ADMITTED: u32 = 1;
    /// The payload could not be read.
    pub const FAILED: u32 = 2;
    /// The request at `message_at` has to wait until others have been answered.
    pub const WAITS: u32 = 3;
    /// `Work::refusal` says why the request at `message_at` is refused.
    pub const REFUSED: u32 = 4;
    /// What stands at `message_at`, or in the body of the request before, is not HTTP.
    pub const MALFORMED: u32 = 5;
    /// The HTTP/2 preface.
    pub const HTTP2: u32 = 6;
}

struct Requests {
    segment: Segment,
    work: *mut Work,
    flow: *mut Flow,
    config: *const Config,
}

/// Scans the payload from byte `from` on, which is new.
///
/// # Safety
/// As [`segment`].
#[inline(always)]
unsafe fn requests(
    skb: Skb,
    work: *mut Work,
    flow: *mut Flow,
    config: *const Config,
    from: u32,
) -> Action {
    // SAFETY: the caller's promise.
    unsafe {
        let packet = &(*work).packet;
        let len = packet.len;
        let scan = &raw mut (*work).scan;
        let parser = &raw mut (*flow).request;
        if (*parser).has_carry() {
            mask(parser, config);
            http::begin(scan, parser, from, len);
            mask(parser, config);
        } else {
            http::begin(scan, parser, from, len);
        }
        let mut context = Requests {
            segment: Segment {
                skb,
                payload: packet.payload,
                scan,
                rules: &raw const (*config).request_rules,
            },
            work,
            flow,
            config,
        };
        (*work).identity = Identity::begin(skb, &(*flow).request.state);
        // What is left when the loop ends without an answer.
        (*work).outcome = outcome::UNFINISHED;
        bpf_loop(
            http::UNITS,
            one_unit as *mut c_void,
            (&raw mut context).cast(),
            0,
        );

        let observe = (*config).observe != 0;
        let outcome = (&raw const (*work).outcome).read_volatile();
        match outcome {
            outcome::ADMITTED | outcome::UNFINISHED => {
                return admit(skb, work, flow, config, (*scan).at, from);
            }
            outcome::FAILED => return Action::Drop(counter::UNREADABLE_DROPPED),
            outcome::HTTP2 if (*config).http2 == policy::PASS || observe => {
                maps::count(counter::HTTP2);
                return opaque(work, flow, phase::TUNNEL, counter::TUNNEL_BYTES);
            }
            outcome::MALFORMED if (*config).malformed == policy::PASS || observe => {
                maps::count(counter::MALFORMED);
                return opaque(work, flow, phase::OPAQUE, counter::MALFORMED_BYTES);
            }
            _ => {}
        }
        let in_body = outcome == outcome::MALFORMED && (*scan).state.in_body();
        let begins = (*scan).message_at;
        if begins > from as i32 && !in_body {
            // What comes before was admitted and passes; the client sends the rest again, and then
            // it is judged by itself.
            http::rewind(scan);
            return admit(skb, work, flow, config, begins as u32, from);
        }
        let split = begins < from as i32;
        let action = match outcome {
            outcome::REFUSED => refused(work, flow, config, split),
            outcome::MALFORMED => malformed(work, flow, config, split, in_body),
            outcome::HTTP2 => {
                maps::count(counter::HTTP2);
                bury(work, flow, split, true)
            }
            _ => Action::Drop(counter::NOT_QUIET_DROPPED),
        };
        if from == 0 || action == Action::Bury {
            return action;
        }
        // The bytes before may be missing at the server: they pass once more.
        (*work).keep = from;
        Action::Cut
    }
}

/// The payload up to byte `done` was admitted: remembers how far the stream was parsed, and lets
/// that much by.
///
/// # Safety
/// As [`segment`].
#[inline(always)]
unsafe fn admit(
    skb: Skb,
    work: *mut Work,
    flow: *mut Flow,
    config: *const Config,
    done: u32,
    from: u32,
) -> Action {
    // SAFETY: the caller's promise.
    unsafe {
        let scan = &raw mut (*work).scan;
        let parser = &raw mut (*flow).request;
        http::end(scan, parser);
        if (*parser).has_carry() {
            mask(parser, config);
        }
        replay::keep(skb, work, flow, done);
        (*flow).next = (*work).packet.seq.plus(done);
        (*flow).flags &= !FLOW_DROP_COUNTED;
        (*flow).conflicts = 0;
        maps::count_by(counter::INSPECTED_BYTES, u64::from(done - from));
        if done == (*work).packet.len {
            return Action::Pass;
        }
        (*work).keep = done;
        Action::Cut
    }
}

/// Covers or uncovers the unfinished line that is kept: it may hold a key, and keys are in no map.
///
/// # Safety
/// Both point to live map values; the flow of the parser is locked.
#[inline(never)]
unsafe fn mask(parser: *mut Parser, config: *const Config) {
    // SAFETY: the caller's promise; the fingerprint's key is longer than the pad.
    unsafe {
        let pad = (&raw const (*config).fingerprint_key).cast::<[u64; CARRY / 8]>();
        (*parser).mask(&*pad);
    }
}

const _: () = assert!(CARRY / 8 <= fingerprint::KEY_WORDS);

/// One unit of work on a segment, and the decision over a request whose head it completes.
unsafe extern "C" fn one_unit(_: u32, context: *mut Requests) -> i64 {
    // SAFETY: `requests` passes its own context.
    unsafe {
        let Requests {
            work, flow, config, ..
        } = *context;
        if !scan::unit(&raw mut (*context).segment) {
            return 0;
        }
        let scan = &raw mut (*work).scan;
        (*work).outcome = match (*scan).event {
            http::EVENT_HEAD => {
                if (*flow).asked.wrapping_sub((*flow).answered) >= MAX_OUTSTANDING {
                    outcome::WAITS
                } else if decide::request(work, flow, config) {
                    let secret = (*config).request_rules.secret();
                    (*work).identity.add(&(*scan).state, secret);
                    let body = http::request_body(&(*scan).state);
                    http::go_on(scan, body);
                    if !http::was_last(scan) {
                        return 0;
                    }
                    outcome::ADMITTED
                } else {
                    outcome::REFUSED
                }
            }
            http::EVENT_HTTP2 => outcome::HTTP2,
            http::EVENT_MALFORMED => outcome::MALFORMED,
            http::EVENT_FAILED => outcome::FAILED,
            _ => outcome::ADMITTED,
        };
    }
    1
}

/// The connection is no longer followed as HTTP/1.x; its bytes pass and are counted.
///
/// # Safety
/// As [`segment`].
#[inline(always)]
unsafe fn opaque(work: *mut Work, flow: *mut Flow, new_phase: u32, counter: u32) -> Action {
    // SAFETY: the caller's promise.
    unsafe {
        let packet = &(*work).packet;
        (*flow).phase = new_phase;
        (*flow).next = packet.seq.plus(packet.len);
        maps::count_by(counter, u64::from(packet.len));
    }
    Action::Pass
}

/// The stream is not HTTP/1.x from here on, or servers disagree on it. `split`: the server has a
/// part of it already; `in_body`: it is the body of a request that was admitted.
///
/// # Safety
/// As [`segment`].
#[inline(always)]
unsafe fn malformed(
    work: *mut Work,
    flow: *mut Flow,
    config: *const Config,
    split: bool,
    in_body: bool,
) -> Action {
    // SAFETY: the caller's promise.
    unsafe {
        decide::refuse(
            work,
            (*config).common_texts,
            reason::MALFORMED,
            NO_SCOPE,
            0,
            0,
        );
        if in_body {
            // The server is at work on it, so no response can tell, and it can never be complete.
            decide::count_refusal(work);
            return bury(work, flow, true, true);
        }
        refused(work, flow, config, split)
    }
}

/// Carries out the refusal in `Work::refusal` of the request that the next byte begins or, if it is
/// `split`, goes on with.
///
/// # Safety
/// As [`segment`].
#[inline(always)]
unsafe fn refused(work: *mut Work, flow: *mut Flow, config: *const Config, split: bool) -> Action {
    // SAFETY: the caller's promise.
    unsafe {
        let packet = &(*work).packet;
        let is_limit = (*work).refusal.text.reason < reason::LIMITS;
        let way = if is_limit {
            (*config).on_limit
        } else {
            policy::ON_LIMIT_CLOSE
        };
        if way == policy::ON_LIMIT_DROP {
            if (*flow).flags & FLOW_DROP_COUNTED == 0 {
                (*flow).flags |= FLOW_DROP_COUNTED;
                decide::count_refusal(work);
            }
            return Action::Drop(counter::LIMIT_DROPPED);
        }
        if (*flow).flags & FLOW_SERVER_FIN != 0 {
            // The server has closed: it will not answer, and nor can we after its FIN.
            decide::count_refusal(work);
            return bury(work, flow, split, true);
        }
        // Only in a quiet moment, lest an earlier response arrive after ours: nothing awaits an
        // answer, the client has all that the server sent, and the server all that was let by.
        let quiet = (*flow).asked == (*flow).answered
            && packet.ack == (*flow).server_next
            && (split || (*flow).server_ack == (*flow).next);
        if !quiet {
            return Action::Drop(counter::NOT_QUIET_DROPPED);
        }
        decide::count_refusal(work);
        bury(work, flow, split, way == policy::ON_LIMIT_RESET)
    }
}

/// Ends a flow as refused.
///
/// # Safety
/// As [`segment`].
#[inline(always)]
unsafe fn bury(work: *mut Work, flow: *mut Flow, split: bool, reset: bool) -> Action {
    // SAFETY: the caller's promise.
    unsafe {
        let head = (*work).scan.state.method == http::METHOD_HEAD;
        refuse::bury(
            work,
            (*flow).next,
            (*flow).server_next,
            (*flow).server_window,
            (*flow).server_tsval,
            split,
            head,
            reset,
        );
        flow::release_slots(flow);
        flow::release_connections(flow);
        // Whoever waits for the lock finds it so.
        (*flow).phase = phase::RESET;
    }
    Action::Bury
}
