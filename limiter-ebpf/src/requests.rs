//! The requests in a client's segment: scans them, decides over each, and lets by what was admitted.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use limiter_common::{
    abi::{
        Config, FLOW_DEFERRED, FLOW_DROP_COUNTED, Flow, MAX_OUTSTANDING, counter, phase, policy,
    },
    fingerprint,
    http::{self, CARRY, Parser},
};

use crate::{
    decide,
    ending::{bury, malformed, refused},
    flow::Action,
    ingress::passed,
    maps,
    refuse::room,
    replay::{self, Identity},
    scan::{self, Segment},
    skb::Skb,
    work::Work,
};

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
    /// How many bytes can be let by alone.
    room: u32,
    /// How many bytes of a body follow those; 0: they end in something else.
    body_left: u64,
    /// It is the data of a chunk.
    chunked: bool,
    work: *mut Work,
    flow: *mut Flow,
    config: *const Config,
}

/// Scans the payload from byte `from` on, which is new.
///
/// # Safety
/// All point to live map values, `work` is this CPU's, the flow is locked.
#[inline(always)]
pub unsafe fn requests(
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
            room: room(skb.gso_size(), packet.payload),
            body_left: 0,
            chunked: false,
            work,
            flow,
            config,
        };
        (*work).identity = Identity::begin(skb, &(*flow).request.state);
        note_body(&raw mut context);
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
                maps::count(counter::MALFORMED_CONNECTIONS);
                return opaque(work, flow, phase::OPAQUE, counter::MALFORMED_BYTES);
            }
            _ => {}
        }
        let in_body = outcome == outcome::MALFORMED && (*scan).state.in_body();
        let begins = (*scan).message_at;
        // Else not even what was seen before can be let by at once: first that.
        let reachable = context.room > from || begins <= context.room as i32;
        if begins > from as i32 && !in_body && reachable {
            // What comes before was admitted and passes; the client sends the rest again, and then
            // it is judged by itself.
            let mut done = begins as u32;
            if done > context.room && context.body_left > 0 {
                // No further than what can be let by: of what the server cannot have, nothing need be
                // remembered.
                done = context.room;
                http::rewind_into_body(scan, done, context.chunked, context.body_left);
            } else {
                http::rewind(scan);
            }
            return admit(skb, work, flow, config, done, from);
        }
        let split = begins < from as i32;
        let action = match outcome {
            _ if begins > from as i32 && !in_body => Action::Drop(counter::NOT_QUIET_DROPPED),
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
        maps::count_by(counter::RETRANSMITTED_BYTES, u64::from(from));
        maps::count_by(counter::DROPPED_BYTES, u64::from(len - from));
        (*work).keep = from;
        Action::Cut
    }
}

/// Notes whether `Requests::room` ends in the body that the scan has come to.
///
/// # Safety
/// The context is that of [`requests`].
#[inline(always)]
unsafe fn note_body(context: *mut Requests) {
    // SAFETY: the caller's promise.
    unsafe {
        let scan = &raw const (*(*context).work).scan;
        let left = (*scan).state.skippable();
        let to_room = (*context).room.wrapping_sub((*scan).at);
        if left > u64::from(to_room) && (*scan).at <= (*context).room {
            (*context).body_left = left - u64::from(to_room);
            (*context).chunked = !(*scan).state.is_length_body();
        }
    }
}

/// The payload up to byte `done` was admitted: remembers how far the stream was parsed, and lets
/// that much by.
///
/// # Safety
/// As [`requests`].
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
        (*flow).flags &= !(FLOW_DROP_COUNTED | FLOW_DEFERRED);
        (*flow).conflicts = 0;
        passed(done - from, from);
        let len = (*work).packet.len;
        if done == len {
            return Action::Pass;
        }
        maps::count_by(counter::DROPPED_BYTES, u64::from(len - done));
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
        if !scan::unit::<true>(&raw mut (*context).segment) {
            note_body(context);
            replay::keep_before_chunk((*context).segment.skb, work);
            return 0;
        }
        let scan = &raw mut (*work).scan;
        (*work).outcome = match (*scan).event {
            http::EVENT_HEAD => {
                let many = (*flow).asked.wrapping_sub((*flow).answered) >= MAX_OUTSTANDING;
                // Behind others, and further than they could be let by without what may follow.
                let far = (*scan).at > (*context).room && (*scan).message_at > 0;
                let decision = if many || far {
                    decide::HOLDS
                } else {
                    decide::request(work, flow, config)
                };
                if decision == decide::HOLDS {
                    outcome::WAITS
                } else if decision == decide::ADMITS {
                    let secret = (*config).request_rules.secret();
                    (*work).identity.add(&(*scan).state, secret);
                    let body = http::request_body(&(*scan).state);
                    http::go_on(scan, body);
                    note_body(context);
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
/// As [`requests`].
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
