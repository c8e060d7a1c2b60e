// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Retransmissions of a client. They must not make the server read a request that differs from the
//! one that the parser has read.
//!
//! A server takes bytes that it has not received yet from the first copy that reaches it, and any
//! byte that the server has not acknowledged may be such a byte. Therefore bytes that were parsed
//! before pass again only in three cases: the server has acknowledged them (it has them, and
//! ignores the copy), they are body (whose content does not matter), or they are equivalent to the
//! first copy. To compare copies, records are kept of everything in the stream except bodies, in
//! one of two forms:
//!
//! - Nearly every segment is one packet, begins with a request, and contains whole requests (the
//!   body of the last one may continue in later segments). Receivers take such a segment as a whole
//!   or not at all, so a copy is equivalent if its requests have the same keys, framing and end.
//!   The keys, the framing and the end are combined in the [`Identity`] of the segment, which costs
//!   nothing extra while the requests are judged.
//! - The other cases are parts of a head, the framing of chunks, and segments that may be split on
//!   their way (GSO, or a head that exceeds the path MTU). In these cases a receiver may take one
//!   part from one copy and the rest from another copy. Therefore the copies must be the same byte
//!   for byte, which is checked with the fingerprints of pieces. Each piece is in one packet.
//!
//! A record is kept until the server has acknowledged its bytes. When there is no room for more
//! records, a segment that would need one waits (`records::memory`). `part.rs` describes how a part
//! of a record is compared.

use limiter_common::{abi::Flow, http};

use crate::{
    follow::{
        identity::{IS_IDENTITY, Identity},
        part::{self, Comparison},
        records::record,
    },
    identify::scan,
    kernel::{
        global::global,
        maps,
        repeat::repeat,
        scanner,
        skb::Skb,
        verifier::reread,
        work::{Outcome, Work},
    },
};

/// The result of [`limiter_may_pass`] for bytes that differ from those seen before.
pub const CONFLICT: i32 = -1;
/// The result of [`limiter_may_pass`] for a part of a record that was already retransmitted and
/// dropped. A further copy of that part adds nothing to the comparison.
pub const NO_NEWS: i32 = -2;

global! {
    /// Returns how many of the first `len` payload bytes of a client's packet may pass again. All
    /// of these `len` bytes were seen before. The result is 0 if none of them may pass until more
    /// bytes have arrived, and negative ([`CONFLICT`] or [`NO_NEWS`]) if they may not pass.
    pub fn limiter_may_pass(skb, work, flow; len: u32) -> i32 = may_pass, or 0;
}

/// The body of [`limiter_may_pass`].
#[inline(always)]
fn may_pass(skb: Skb, work: &mut Work, flow: &mut Flow, len: u32) -> i32 {
    let seq = work.packet.seq;
    let first = seq.latest(flow.server_ack);
    let last = seq.plus(len);
    if !first.before(last) {
        return len as i32;
    }
    work.comparison = Outcome {
        first,
        last,
        ..Outcome::default()
    };
    let records = flow.records_kept;
    let mut comparison = Comparison {
        skb,
        work: &mut *work,
        flow: &mut *flow,
    };
    repeat(records, &mut comparison, compare);
    let last = reread(&work.comparison.last);
    if work.comparison.differs != 0 {
        return CONFLICT;
    }
    if first.before(last) {
        flow.conflicts = 0;
        return last.since(work.packet.seq);
    }
    if work.comparison.is_news != 0 {
        0
    } else {
        NO_NEWS
    }
}

/// Compares the packet with one record, and returns whether the comparison ends. `number` is the
/// index of the record, counted from the oldest one. Records that are added during the comparison
/// come last, so they do not change the indexes of the others.
#[inline(always)]
fn compare(comparison: &mut Comparison<'_>, number: u32) -> bool {
    let flow = &mut *comparison.flow;
    let oldest = flow.records_next.wrapping_sub(flow.records_kept);
    let number = oldest.wrapping_add(number);
    let kept = record(flow, number);
    let (start, end) = (kept.start, kept.end);
    let Outcome { first, last, .. } = comparison.work.comparison;
    if !start.before(last) || !first.before(end) {
        return false;
    }
    if kept.fingerprint & IS_IDENTITY == 0 {
        part::compare(comparison, number);
        return false;
    }
    let from = start.since(comparison.work.packet.seq);
    if from < 0 || start.before(first) || last.before(end) {
        // The segment contains only a part of the record, or the server has acknowledged only a
        // part of the record, which shows that the server accepts segments in parts. An identity
        // can only be compared as a whole, and therefore at most the bytes before the record may
        // pass.
        comparison.work.comparison.last = start.latest(first);
        return false;
    }
    let (from, to) = (from as u32, end.since(start) as u32 + from as u32);
    if identify(comparison, from, to) != Some(record(comparison.flow, number).fingerprint) {
        comparison.work.comparison.differs = 1;
        return true;
    }
    let size = comparison.skb.gso_size();
    if from.checked_div(size) != (to - 1).checked_div(size) {
        // The bytes are in several packets, and the server might receive only some of these
        // packets. Therefore at most the bytes before the record may pass.
        comparison.work.comparison.last = start;
    }
    false
}

/// Returns the identity of the payload bytes [`from`, `to`), or `None` if they are not whole
/// requests.
#[inline(always)]
fn identify(comparison: &mut Comparison<'_>, from: u32, to: u32) -> Option<u64> {
    let work = &mut *comparison.work;
    work.identity = Identity {
        value: 0,
        whole: 1,
        reserved: 0,
    };
    // The position in `Work::new_flow` is never changed, so it is always before the first message.
    let idle = &work.new_flow.flow.request;
    scanner::begin(&mut work.scan, idle, from, to);
    repeat(http::UNITS, comparison, identify_unit);
    let work = &comparison.work;
    if work.scan.event != http::EVENT_MORE {
        return None;
    }
    work.identity.end(&work.scan.state, 0)
}

#[inline(always)]
fn identify_unit(comparison: &mut Comparison<'_>, _: u32) -> bool {
    let Some(config) = maps::config() else {
        return true;
    };
    let Comparison { skb, work, .. } = comparison;
    let rules = &config.request_rules;
    if !scan::request_unit(*skb, work, rules) {
        return false;
    }
    if work.scan.event != http::EVENT_HEAD {
        return true;
    }
    let demands = scan::demands(&mut work.scan);
    let state = &work.scan.state;
    work.identity.add(state, demands, rules.secret());
    let body = http::request_body(state);
    scanner::go_on(&mut work.scan, body);
    false
}
