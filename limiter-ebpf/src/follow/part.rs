// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Retransmissions of parts of a record. They occur if the client has learned that its packets
//! exceed the path MTU (RFC 1191, RFC 8201, RFC 4821), or if the client splits its retransmissions
//! at other positions.
//!
//! The fingerprints of two adjacent parts add up to the fingerprint of both together. Once all
//! parts of a record have been retransmitted, in ascending or descending order, the sum shows
//! whether they contain the same bytes as the record. The parts may pass only then, because the
//! server might combine one of the new parts with the rest of the first copy. Each part except the
//! last one is recorded in `Flow::part` and dropped. The last one passes, and the record is split
//! into two records. When the client retransmits the other parts, they match these records.
//!
//! A client that sends one segment at a time, and the next one only after an acknowledgement (as
//! after a timeout, RFC 5681, section 3.1), would never send the last part. Therefore the bytes of
//! a packet are kept in several records (`records.rs`), and a retransmission passes up to the end
//! of the last record that it contains as a whole.

use limiter_common::abi::{Flow, RECORDS, Record};

use crate::{
    follow::records::record,
    kernel::{fingerprint::sample, skb::Skb, work::Work},
};

/// Compares the packet, which contains all or some bytes of record `number`, with that record,
/// which must contain a fingerprint. Stores the result in `Work::comparison` and
/// `Outcome::last`.
#[inline(never)]
pub fn compare(comparison: &mut Comparison<'_>, number: u32) {
    let first = comparison.work.comparison.first;
    let whole = *record(comparison.flow, number);
    let mut new = Record {
        start: whole.start.latest(comparison.work.packet.seq),
        end: whole.end.earliest(comparison.work.comparison.last),
        fingerprint: 0,
    };
    if !take_fingerprint(comparison, &mut new) {
        comparison.work.comparison.differs = 1;
        return;
    }
    if new.start == whole.start && new.end == whole.end {
        if new.fingerprint != whole.fingerprint {
            comparison.work.comparison.differs = 1;
        }
        return;
    }
    let known = comparison.flow.part;
    let mut both = joined(&known, &new, &whole);
    if both.start == whole.start && both.end == whole.end {
        if both.fingerprint == whole.fingerprint {
            let before = if new.start == whole.start { new } else { known };
            split(comparison.flow, number, before);
            comparison.flow.part = Record::default();
            return;
        }
        comparison.work.comparison.differs = 1;
        both = new;
    }
    if known != both {
        comparison.flow.part = both;
        comparison.work.comparison.is_news = 1;
    }
    comparison.work.comparison.last = new.start.latest(first);
}

/// Returns the part `new` of the record `whole`. If `known` is an adjacent part of the same record,
/// returns both parts joined.
#[inline(always)]
fn joined(known: &Record, new: &Record, whole: &Record) -> Record {
    let mut both = *new;
    let is_of_it = known.start != known.end
        && !known.start.before(whole.start)
        && !whole.end.before(known.end);
    if is_of_it && known.end == new.start {
        both.start = known.start;
        both.fingerprint = known.fingerprint.wrapping_add(new.fingerprint);
    } else if is_of_it && known.start == new.end {
        both.end = known.end;
        both.fingerprint = known.fingerprint.wrapping_add(new.fingerprint);
    }
    both
}

/// Computes the fingerprint of a piece of the packet, and stores it in `piece`. Returns false if
/// the piece cannot be read.
#[inline(always)]
fn take_fingerprint(comparison: &mut Comparison<'_>, piece: &mut Record) -> bool {
    let Comparison { skb, work, .. } = comparison;
    let from = piece.start.since(work.packet.seq) as u32;
    let len = piece.end.since(piece.start) as u32;
    sample(*skb, work, from, len, &mut piece.fingerprint)
}

/// Splits record `number` at the end of `before`, which becomes the first of the two records. Does
/// nothing if the ring has no room for another record.
#[inline(always)]
fn split(flow: &mut Flow, number: u32, before: Record) {
    if flow.records_kept >= RECORDS as u32 {
        return;
    }
    let whole = *record(flow, number);
    let next = flow.records_next;
    *record(flow, next) = Record {
        start: before.end,
        end: whole.end,
        fingerprint: whole.fingerprint.wrapping_sub(before.fingerprint),
    };
    *record(flow, number) = before;
    // The second record is the newest in the ring, but not in the stream, so `records_end` does not
    // change.
    flow.records_next = flow.records_next.wrapping_add(1);
    flow.records_kept += 1;
}

/// The state of the comparison of a segment with the records. All loops of the comparison share
/// this structure, to leave enough stack space for the scanner, which the loops call. (The frames
/// of all functions that are active at once may have 512 bytes in total, and before Linux 6.9 the
/// size of each frame is rounded up to a multiple of 32; `check_max_stack_depth` of
/// kernel/bpf/verifier.c.) The rest of the state and the result are in `Work::comparison`.
pub struct Comparison<'a> {
    pub skb: Skb,
    pub work: &'a mut Work,
    pub flow: &'a mut Flow,
}

const _: () = assert!(
    size_of::<Comparison<'_>>() == 24,
    "less than a frame of the stack"
);
