// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The records of pieces of the stream, with which retransmissions are compared. Each flow has a
//! ring of records.
//!
//! A piece for which the ring has no room does not pass until the server acknowledges earlier
//! pieces. Therefore all bytes that the server has not acknowledged can be compared, except those
//! of bodies.

use limiter_common::{
    abi::{Flow, RECORDS, Record},
    fingerprint,
    http::WINDOW,
};

use crate::{
    follow::identity::IS_IDENTITY,
    kernel::{
        fingerprint::sample,
        global::global,
        repeat::repeat,
        scanner,
        skb::Skb,
        verifier::{place, reread},
        work::{Packet, Work},
    },
    packet::trim::{PART, room},
};

/// The mask that keeps the index of a record below the length of the ring.
const MASK: u64 = RECORDS as u64 - 1;

/// The number of records that stay free: two because the framing of a segment may begin and end
/// within a packet, and one because a record may have to be split in two (`part.rs`).
const SPARED: u32 = 3;

/// The distance, in bytes, from the newest record to a new segment above which acknowledged records
/// are forgotten first. Up to this distance, they may stay, because [`RECORDS`] records that are
/// 2^23 bytes apart span only 2^28 bytes. Together with the largest window of 2^30 bytes (RFC 7323,
/// section 2.3), this is less than half the range of sequence numbers.
const FAR: u32 = 1 << 23;

global! {
    /// Forgets the records of the packet's flow whose bytes the server has acknowledged.
    fn limiter_retire(work, flow;) -> () = retire, or ();

    /// Keeps fingerprints of the payload bytes [`from`, `to`) of a client's packet.
    fn limiter_keep(skb, work, flow; from: u32, to: u32) -> () = keep_pieces, or ();
}

/// Forgets all records if the server has acknowledged the newest of them. (The function has no
/// branch, because after a branch the verifier would check the rest of the program twice.) The
/// function runs for each segment with payload, and therefore a record is forgotten before its
/// distance from the segment reaches half the range of sequence numbers.
#[inline(always)]
pub fn forget_all_acknowledged(flow: &mut Flow) {
    let ahead = flow.server_ack.since(flow.records_end);
    flow.records_kept &= (ahead >> 31) as u32;
}

/// Limits the scan of the current segment, which has just begun, to what the free records can keep.
///
/// If the packets of the segment are very short, this function makes the scan end early. Otherwise
/// it sets `Work::memory` to the number of bytes of framing that the free records can keep, minus
/// one window of the scanner, or minus the payload if that is smaller. The scan ends once the
/// framing exceeds `Work::memory`. If `Work::memory` is negative, even the first window might not
/// fit until the server acknowledges some bytes. (Both limits go through memory, where the verifier
/// loses track of how they were computed. Otherwise the verifier would check the scan once for each
/// path through this function.)
#[inline(always)]
pub fn memory(skb: Skb, work: &mut Work, flow: &mut Flow) {
    let behind = work.packet.seq.since(flow.records_end) as u32;
    let kept = flow.records_kept;
    if kept > RECORDS as u32 / 2 || (kept > 0 && behind > FAR) {
        limiter_retire(work, flow);
    }
    let kept = reread(&flow.records_kept);
    let free = (RECORDS as u32 - SPARED).saturating_sub(kept);
    let size = skb.gso_size();
    if size != 0 && size < SMALL {
        scanner::end_early(&mut work.scan, free * size);
        work.memory = if free > 0 { i32::MAX } else { -1 };
        return;
    }
    // The number of free records that will be used for small pieces (`keep_pieces`). They are not
    // included in `bytes`, because one packet may need several of them.
    let small = PLENTY.saturating_sub(kept);
    let bytes = (free as i32 - small as i32) * piece(size) as i32;
    work.memory = bytes - WINDOW.min(work.packet.len as usize) as i32;
}

/// The GSO size, in bytes, below which the packets are so short that a window of the scanner may
/// need more records than the ring has.
const SMALL: u32 = 256;

/// Returns a lower bound of the average number of bytes of framing in a record. Each packet of the
/// segment has `gso_size` payload bytes; 0 if the segment is a single packet.
#[inline(always)]
fn piece(gso_size: u32) -> u32 {
    if gso_size == 0 || gso_size > fingerprint::MAX as u32 {
        return fingerprint::MAX as u32 / 4;
    }
    gso_size
}

/// While fewer than this number of records are in use, packets are kept in pieces of
/// [`SMALL_PIECE`] bytes.
const PLENTY: u32 = RECORDS as u32 / 4;

/// The body of [`limiter_retire`]. It begins at the oldest record, and stops at the first record
/// whose bytes the server has not acknowledged.
#[inline(always)]
fn retire(_: &mut Work, flow: &mut Flow) {
    repeat(RECORDS as u32, &mut Oldest { flow }, Oldest::retire);
}

/// The state of the loop over the records of a flow, from the oldest on.
struct Oldest<'a> {
    flow: &'a mut Flow,
}

impl Oldest<'_> {
    #[inline(always)]
    fn retire(&mut self, _: u32) -> bool {
        let kept = self.flow.records_kept;
        if kept == 0 {
            return true;
        }
        let oldest = self.flow.records_next.wrapping_sub(kept);
        let end = record(self.flow, oldest).end;
        if self.flow.server_ack.before(end) {
            return true;
        }
        self.flow.records_kept = kept - 1;
        false
    }
}

/// Keeps a record of the first `done` bytes of the payload, which have been scanned and are let
/// through. `Work::scan.state` is the state of the scan after these bytes. The record contains only
/// the framing, from the first to the last byte that is not body.
#[inline(always)]
pub fn keep(skb: Skb, work: &mut Work, flow: &mut Flow, done: u32) {
    let packet = &work.packet;
    let from = work.scan.framing_from;
    let to = if work.scan.framing_to < done {
        work.scan.framing_to
    } else {
        done
    };
    if to <= from {
        return;
    }
    if to > any_link(packet) || (done < packet.len && done > room(skb.gso_size(), packet.payload)) {
        // The server may receive only a part of the framing, because it may be split on its way, or
        // because the segment will be cut before byte `done`. Then an identity cannot be used,
        // because it can only be compared as a whole.
        work.identity.whole = 0;
    }
    let seq = work.packet.seq;
    match work.identity.end(&work.scan.state, done - to) {
        Some(identity) => push(
            flow,
            Record {
                start: seq.plus(from),
                end: seq.plus(to),
                fingerprint: identity,
            },
        ),
        None => limiter_keep(skb, work, flow, from, to),
    }
}

/// Keeps a record of the bytes that have been scanned so far if the following chunk is so long that
/// leaving the chunk out of the records is worth an additional record.
#[inline(always)]
pub fn keep_before_chunk(skb: Skb, work: &mut Work, flow: &mut Flow) {
    let (from, to) = (work.scan.framing_from, work.scan.framing_to);
    if !work.scan.state.is_long_chunk() || from == to {
        return;
    }
    limiter_keep(skb, work, flow, from, to);
    work.scan.framing_from = to;
    work.identity.whole = 0;
    work.memory -= (to - from + 2 * piece(skb.gso_size())) as i32;
}

/// The state of the loop over the pieces of a segment.
struct Pieces<'a> {
    skb: Skb,
    work: &'a mut Work,
    flow: &'a mut Flow,
    from: u32,
    to: u32,
    /// The size in bytes of each packet if the segment consists of several packets, or else the
    /// size of the parts in which the packet is compared.
    size: u32,
}

/// The body of [`limiter_keep`]. It keeps a fingerprint of each piece. No piece spans two packets,
/// because losses affect whole packets. While the ring has plenty of room, the pieces have
/// [`SMALL_PIECE`] bytes, which allows at least a part of any retransmission to pass (`part.rs`).
#[inline(always)]
fn keep_pieces(skb: Skb, work: &mut Work, flow: &mut Flow, from: u32, to: u32) {
    let size = match skb.gso_size() {
        0 => PART,
        size => size,
    };
    let mut pieces = Pieces {
        skb,
        work,
        flow,
        from,
        to,
        size,
    };
    repeat(RECORDS as u32, &mut pieces, Pieces::keep_next);
}

impl Pieces<'_> {
    #[inline(always)]
    fn keep_next(&mut self, _: u32) -> bool {
        let from = self.from;
        if from >= self.to {
            return true;
        }
        let end = self.end(from);
        let mut print = 0;
        if !sample(self.skb, self.work, from, end - from, &mut print) {
            // This cannot happen, because these bytes have been read before. The value that is used
            // in this case is not equal to any fingerprint.
            print = IS_IDENTITY;
        }
        let seq = self.work.packet.seq;
        let new = Record {
            start: seq.plus(from),
            end: seq.plus(end),
            fingerprint: print,
        };
        if self.work.packet.len > TINY || !join_newest(self.flow, &new) {
            push(self.flow, new);
        }
        self.from = end;
        false
    }

    /// Returns the offset after the last byte of the piece that begins at `from`.
    #[inline(always)]
    fn end(&self, from: u32) -> u32 {
        let mut end = self.to;
        let packet = match from.checked_div(self.size) {
            Some(packets) => packets * self.size,
            None => 0,
        };
        if packet + self.size < end {
            end = packet + self.size;
        }
        let carried = from + SMALL_PIECE;
        if self.flow.records_kept < PLENTY && carried < end {
            end = carried;
        }
        if end - from > fingerprint::MAX as u32 {
            end = from + fingerprint::MAX as u32;
        }
        end
    }
}

/// The size of a small piece in bytes. A sender that splits its retransmissions joins the bytes
/// after the last whole piece with the next packet if both fit into one packet
/// (tcp_retrans_try_collapse(), net/ipv4/tcp_output.c).
const SMALL_PIECE: u32 = 500;

/// The maximum size in bytes of a packet that can share a record with other packets when half of
/// the records are in use. Some clients write byte by byte, and servers delay the acknowledgement
/// of these bytes.
const TINY: u32 = 8;

/// The maximum size in bytes of a record that several packets share.
const JOINED: i32 = 128;

/// Joins a new record with the newest one in the ring if half of the records are in use and the two
/// are adjacent. Returns whether the two have been joined. (If one of the packets is lost, the
/// client has to retransmit all packets of the record.)
#[inline(always)]
fn join_newest(flow: &mut Flow, new: &Record) -> bool {
    let (kept, number) = (flow.records_kept, flow.records_next.wrapping_sub(1));
    let newest = record(flow, number);
    if kept < RECORDS as u32 / 2
        || newest.end != new.start
        || new.end.since(newest.start) > JOINED
        || (newest.fingerprint | new.fingerprint) & IS_IDENTITY != 0
    {
        return false;
    }
    newest.end = new.end;
    newest.fingerprint = newest.fingerprint.wrapping_add(new.fingerprint);
    flow.records_end = new.end;
    true
}

/// Adds a record to the ring. The caller has made sure that there is room (see [`memory`]).
#[inline(always)]
fn push(flow: &mut Flow, new: Record) {
    let number = flow.records_next;
    *record(flow, number) = new;
    flow.records_next = flow.records_next.wrapping_add(1);
    flow.records_kept += 1;
    flow.records_end = new.end;
}

/// Returns the ring's entry for record `number`.
#[inline(always)]
pub fn record(flow: &mut Flow, number: u32) -> &mut Record {
    place::<MASK, _, _>(&mut flow.records, number)
}

/// The number of payload bytes that every path is assumed to carry in one IPv4 packet, even with
/// the longest headers. If the framing of a segment ends after this number of bytes, the identity
/// of the segment cannot be its only record, because a part of the segment may have to be
/// retransmitted separately. The minimum MTU of IPv4 would be too small to be useful. A packet of
/// 1000 bytes is smaller than those with which hosts begin to search for the path MTU after packets
/// have disappeared (`tcp_base_mss`, by default TCP_BASE_MSS of include/net/tcp.h, which is 1024).
const ANY_LINK_V4: u32 = 1000 - 20 - 60;

/// The same number for IPv6, which requires an MTU of at least 1280 bytes (RFC 8200, section 5).
const ANY_LINK_V6: u32 = 1280 - 40 - 60;

/// Returns the number of payload bytes that every path carries in one packet of this IP version.
#[inline(always)]
fn any_link(packet: &Packet) -> u32 {
    if packet.v6 == 0 {
        ANY_LINK_V4
    } else {
        ANY_LINK_V6
    }
}
