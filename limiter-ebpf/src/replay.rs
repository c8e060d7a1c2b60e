//! What the client's last segments were, so that a retransmission cannot smuggle other content past
//! the parser.
//!
//! What a server has not acknowledged it may not have, and then it takes the bytes of whichever
//! copy reaches it first. So bytes that were parsed before pass again only if the server has
//! acknowledged them (then it has them, and ignores the copy), if they are body, whose content does
//! not matter, or if they come to the same. Of all that is more than body records are kept, in one
//! of two ways:
//!
//! - Nearly always a segment is one packet and holds whole requests from its first byte on (bodies
//!   may go on behind it). Receivers take such a segment whole or not at all, so it comes to the
//!   same if its requests have the same keys, framing and end: its [`Identity`], which costs nothing
//!   while the requests are decided over.
//! - Of a part of a head, of the framing of chunks, and of what may be taken apart on its way (GSO), a
//!   receiver may have one part of one copy and the rest of another. It must be the same to the
//!   byte: fingerprints of its pieces, which lie in one packet each.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use limiter_common::{
    abi::{Flow, RECORDS, Record},
    fingerprint,
    http::{self, State},
    seq::Seq,
};

use crate::{
    global, maps,
    print::sample,
    refuse::{PART, room},
    scan::{self, Segment},
    skb::Skb,
    work::Work,
};

/// What the requests of a segment come to, as far as the program is concerned.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Identity {
    pub value: u64,
    /// 1: the segment at hand is one packet and begins with a request.
    pub whole: u32,
    pub reserved: u32,
}

/// The lowest bit of `Record::print` says which kind it is.
const IS_IDENTITY: u64 = 1;

impl Identity {
    /// Of a segment that is about to be scanned from `state` on.
    #[inline(always)]
    pub fn begin(skb: Skb, state: &State) -> Self {
        Self {
            value: 0,
            whole: u32::from(state.is_idle() && skb.gso_size() == 0),
            reserved: 0,
        }
    }

    /// Takes in a request whose head is complete.
    #[inline(always)]
    pub fn add(&mut self, state: &State, secret: &[u64; 2]) {
        let mut value = self.value ^ secret[0] ^ state.length;
        value ^= u64::from(http::request_body(state)) << 62 | u64::from(state.method) << 60;
        if let Some(digest) = http::key(state) {
            value = (value ^ digest[0]).wrapping_mul(FACTOR) ^ digest[1];
        }
        self.value = value.wrapping_mul(FACTOR).rotate_left(32);
    }

    /// What is kept of it, once the segment has come to `state`, the last `body` bytes of it being
    /// body; `None` if that is in the middle of a head or of the framing of chunks.
    #[inline(always)]
    pub fn end(&self, state: &State, body: u32) -> Option<u64> {
        if self.whole == 0 || !(state.is_idle() || state.is_length_body()) {
            return None;
        }
        Some(mix(self.value ^ (state.skippable() + u64::from(body))) | IS_IDENTITY)
    }
}

/// Mixes the bits. What goes in depends on secrets (of the installation and of the key), so nobody
/// can choose what comes out.
#[inline(always)]
fn mix(value: u64) -> u64 {
    let value = (value ^ value >> 33).wrapping_mul(FACTOR);
    value ^ value >> 29
}

/// The first factor of MurmurHash3's finalizer (Austin Appleby).
const FACTOR: u64 = 0xff51_afd7_ed55_8ccd;

/// Keeps a record of what was scanned and let by: the payload up to `done`, which has come to
/// `Work::scan.state`. It holds the framing alone, from the first to the last byte that is not body.
///
/// # Safety
/// All point to live map values; the flow is locked.
#[inline(always)]
pub unsafe fn keep(skb: Skb, work: *mut Work, flow: *mut Flow, done: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        let packet = &(*work).packet;
        let scan = &raw const (*work).scan;
        let from = (*scan).framing_from;
        let to = if (*scan).framing_to < done {
            (*scan).framing_to
        } else {
            done
        };
        if to <= from {
            return;
        }
        if done < packet.len && done > room(skb.gso_size(), packet.payload) {
            // Will be cut before `done`.
            (*work).identity.whole = 0;
        }
        match (*work).identity.end(&(*scan).state, done - to) {
            Some(identity) => push(
                flow,
                Record {
                    start: packet.seq.plus(from),
                    end: packet.seq.plus(to),
                    print: identity,
                },
            ),
            None => {
                global::limiter_keep(skb.0, from, to);
            }
        }
    }
}

/// Keeps a record of what the scan has come through so far, if behind it there is so much of a chunk
/// that it pays to leave that out.
///
/// # Safety
/// As [`keep`].
#[inline(always)]
pub unsafe fn keep_before_chunk(skb: Skb, work: *mut Work) {
    // SAFETY: the caller's promise.
    unsafe {
        let scan = &raw mut (*work).scan;
        if (*scan).state.is_long_chunk() && (*scan).framing_from != (*scan).framing_to {
            global::limiter_keep(skb.0, (*scan).framing_from, (*scan).framing_to);
            (*scan).framing_from = (*scan).framing_to;
            (*work).identity.whole = 0;
        }
    }
}

struct Keeping {
    skb: Skb,
    work: *mut Work,
    flow: *mut Flow,
    from: u32,
    to: u32,
    /// The bytes of each packet of a segment that is several, or of the parts of one.
    size: u32,
}

/// Keeps fingerprints of the payload bytes [`from`, `to`), of which there are some: of the pieces that
/// lie in one packet each.
///
/// # Safety
/// As [`keep`].
#[inline(always)]
pub unsafe fn keep_pieces(skb: Skb, work: *mut Work, flow: *mut Flow, from: u32, to: u32) {
    let mut context = Keeping {
        skb,
        work,
        flow,
        from,
        to,
        size: match skb.gso_size() {
            0 => PART,
            size => size,
        },
    };
    // SAFETY: the context outlives the loop.
    unsafe {
        bpf_loop(
            RECORDS as u32,
            keep_piece as *mut c_void,
            (&raw mut context).cast(),
            0,
        );
        if context.from != to {
            // More pieces than there are records.
            (*flow).records_floor = (*work).packet.seq.plus(to);
        }
    }
}

unsafe extern "C" fn keep_piece(_: u32, context: *mut Keeping) -> i64 {
    // SAFETY: `keep_pieces` passes its own context.
    unsafe {
        let Keeping {
            skb,
            work,
            flow,
            from,
            to,
            size,
        } = *context;
        if from >= to {
            return 1;
        }
        let mut end = to;
        let packet_end = match from.checked_div(size) {
            Some(packets) => (packets + 1) * size,
            None => end,
        };
        if packet_end < end {
            end = packet_end;
        }
        if end - from > fingerprint::MAX as u32 {
            end = from + fingerprint::MAX as u32;
        }
        let mut print = 0;
        if !sample(skb, work, from, end - from, &raw mut print) {
            return 1;
        }
        let seq = (*work).packet.seq;
        push(
            flow,
            Record {
                start: seq.plus(from),
                end: seq.plus(end),
                print: print & !IS_IDENTITY,
            },
        );
        (*context).from = end;
    }
    0
}

/// Puts a record into the ring, in place of the oldest.
#[inline(always)]
unsafe fn push(flow: *mut Flow, new: Record) {
    // SAFETY: the callers' flow is a live map value, locked.
    unsafe {
        let record = record((&raw mut (*flow).records).cast(), (*flow).records_next);
        (*flow).records_next = (*flow).records_next.wrapping_add(1);
        if (*record).start != (*record).end {
            (*flow).records_floor = (*record).end;
        }
        *record = new;
    }
}

/// The place of a record in the ring.
#[inline(always)]
unsafe fn record(records: *mut Record, number: u32) -> *mut Record {
    let mut at = u64::from(number);
    #[cfg(target_arch = "bpf")]
    // SAFETY: arithmetic on a register.
    unsafe {
        core::arch::asm!("{0} &= 31", inout(reg) at, options(nomem, nostack, preserves_flags));
    }
    // SAFETY: below RECORDS.
    unsafe { records.add(at as usize) }
}

const _: () = assert!(RECORDS == 32, "the mask in `record`");

/// The loops of a comparison share it: below them the scanner runs, and frames of the stack are scarce
/// there. (512 bytes for all, each frame being counted in steps of 32 before 6.8: `check_max_stack_depth`
/// of kernel/bpf/verifier.c.)
struct Comparison {
    skb: Skb,
    work: *mut Work,
    flow: *mut Flow,
    /// The first byte that the server has not acknowledged.
    first: Seq,
    /// Behind the last byte that may pass; `first`, once something differs.
    last: Seq,
}

const _: () = assert!(size_of::<Comparison>() == 32, "a frame of the stack");

/// Whether the first `len` payload bytes of the packet, all seen before, may pass again.
///
/// # Safety
/// All point to live map values; the flow is locked.
#[inline(always)]
pub unsafe fn may_pass(skb: Skb, work: *mut Work, flow: *mut Flow, len: u32) -> bool {
    // SAFETY: the caller's promise; the context outlives the loop.
    unsafe {
        let packet = &(*work).packet;
        let first = packet.seq.latest((*flow).server_ack);
        let last = packet.seq.plus(len);
        if !first.before(last) {
            return true;
        }
        if first.before((*flow).records_floor) {
            return false;
        }
        let mut context = Comparison {
            skb,
            work,
            flow,
            first,
            last,
        };
        bpf_loop(
            RECORDS as u32,
            compare as *mut c_void,
            (&raw mut context).cast(),
            0,
        );
        context.first.before(context.last)
    }
}

unsafe extern "C" fn compare(number: u32, context: *mut Comparison) -> i64 {
    // SAFETY: `may_pass` passes its own context.
    unsafe {
        let Comparison {
            skb,
            work,
            flow,
            first,
            last,
            ..
        } = *context;
        let kept = *record((&raw mut (*flow).records).cast(), number);
        if kept.start == kept.end || !kept.start.before(last) || !first.before(kept.end) {
            return 0;
        }
        let packet = &(*work).packet;
        let from = kept.start.since(packet.seq);
        // Only a whole record can be compared.
        if from < 0 || last.before(kept.end) {
            (*context).last = first;
            return 1;
        }
        let (from, len) = (from as u32, kept.end.since(kept.start) as u32);
        let same = if kept.print & IS_IDENTITY != 0 {
            // A server that has acknowledged a part does take segments in parts.
            !kept.start.before(first) && identify(context, from, from + len) == Some(kept.print)
        } else {
            let mut print = 0;
            sample(skb, work, from, len, &raw mut print) && print & !IS_IDENTITY == kept.print
        };
        if !same {
            (*context).last = first;
            return 1;
        }
    }
    0
}

/// The identity of the payload bytes [`from`, `to`), if they are whole requests.
///
/// # Safety
/// `context` is whole, and its `work` this CPU's.
#[inline(always)]
unsafe fn identify(context: *mut Comparison, from: u32, to: u32) -> Option<u64> {
    // SAFETY: the caller's promise; the context outlives the loop. The flow in `Work` is a new one,
    // so its parser is before the first message.
    unsafe {
        let Comparison { skb, work, .. } = *context;
        let idle = &raw const (*work).flow.request;
        (*work).identity = Identity::begin(skb, &(*idle).state);
        if let (Some(first), Some(last)) = (
            from.checked_div(skb.gso_size()),
            (to - 1).checked_div(skb.gso_size()),
        ) {
            // Receivers take it whole if it lies in one of several packets.
            (*work).identity.whole = u32::from(first == last);
        }
        let scan = &raw mut (*work).scan;
        http::begin(scan, idle, from, to);
        bpf_loop(http::UNITS, identify_unit as *mut c_void, context.cast(), 0);
        if (*scan).event != http::EVENT_MORE {
            return None;
        }
        (*work).identity.end(&(*scan).state, 0)
    }
}

unsafe extern "C" fn identify_unit(_: u32, context: *mut Comparison) -> i64 {
    let Some(config) = maps::config() else {
        return 1;
    };
    // SAFETY: `identify` passes the context of `may_pass`.
    unsafe {
        let Comparison { skb, work, .. } = *context;
        let scan = &raw mut (*work).scan;
        let rules = &raw const (*config).request_rules;
        let mut segment = Segment {
            skb,
            payload: (*work).packet.payload,
            scan,
            rules,
        };
        if !scan::unit::<true>(&raw mut segment) {
            return 0;
        }
        if (*scan).event != http::EVENT_HEAD {
            return 1;
        }
        (*work).identity.add(&(*scan).state, (*rules).secret());
        http::go_on(scan, http::request_body(&(*scan).state));
    }
    0
}
