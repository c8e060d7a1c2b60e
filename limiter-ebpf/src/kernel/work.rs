// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The memory in which a packet is processed. It is the value of a per-CPU map, because the stack
//! has only 512 bytes.

use core::marker::PhantomPinned;

use limiter_common::{
    abi::{FlowEntry, FlowKey, KeyEntry, Link, TextKey, Tomb},
    fingerprint::{self, BLOCK},
    http::{Scan, Unfinished},
    seq::Seq,
};

use crate::kernel::{bytes::WORDS, verifier::write_through};

#[repr(C)]
pub struct Work {
    pub packet: Packet,
    pub refusal: Refusal,
    /// The number of payload bytes to let through (`Action::Cut`).
    pub keep: u32,
    /// The number of bytes of framing for which there are free records, in addition to the framing
    /// of the next window (`records::memory`).
    pub memory: i32,
    /// The result of the scan of the segment (`requests::outcome`).
    pub outcome: u32,
    pub room: Room,
    pub tomb: Tomb,
    pub reply: Reply,
    pub scan: Scan,
    /// The copy of an entry of the map of unfinished heads and lines.
    pub unfinished: Unfinished,
    pub identity: Identity,
    pub comparison: Outcome,
    pub translation: Translation,
    pub kept: Kept,
    pub sample: Sample,
    pub scratch: Scratch,
    /// The theoretical arrival time of the next refusal that is reported to the daemon
    /// ([`limiter_common::gcra`]), in ns of the coarse clock.
    pub reported_ns: u64,
    /// A new entry of the map of keys.
    pub key_entry: KeyEntry,
    /// A new flow, before it is copied into the map.
    pub new_flow: FlowEntry,
    /// Prevents this type from being `Unpin`, because global functions access the same memory (see
    /// `kernel/global.rs`).
    pub lent: PhantomPinned,
}

/// The part of a segment that can be let through if the whole segment must not pass.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Room {
    /// The length of the part in bytes.
    pub bytes: u32,
    /// 1 if the part ends in the data of a chunk.
    pub chunked: u32,
    /// The number of bytes of a body that follow the part; 0 if the part ends in something else.
    pub body_left: u64,
}

/// A refusal of a request.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Refusal {
    pub text: TextKey,
    /// The scope that is over its limit, or `NO_SCOPE`.
    pub scope: u32,
    /// The value of `Retry-After`, in seconds.
    pub retry_after: u32,
    /// The time until the exceeded limit admits requests again, in seconds (`t` in the `RateLimit`
    /// field).
    pub reset_after: u32,
    pub reserved: u32,
}

const _: () = {
    use core::mem::size_of;
    // The kernel's limit for a value of a per-CPU map (PCPU_MIN_UNIT_SIZE).
    assert!(size_of::<Work>() <= 32 * 1024);
};

/// A TCP segment of a guarded port.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Packet {
    /// The key of the packet's connection. The client's side comes first in either direction. The
    /// key has no link until the flow is found (`follow/flow.rs`).
    pub key: FlowKey,
    /// The link on which the packet was seen.
    pub link: Link,
    /// The offset of the IP header in the packet, in bytes.
    pub l3: u32,
    /// The offset of the TCP header in the packet, in bytes.
    pub l4: u32,
    /// The offset of the payload in the packet, in bytes.
    pub payload: u32,
    /// The number of payload bytes.
    pub len: u32,
    /// 1 for IPv6, 0 for IPv4.
    pub v6: u32,
    pub seq: Seq,
    pub ack: Seq,
    /// The byte of the TCP header that contains the flags.
    pub flags: u32,
    /// The window, not scaled.
    pub window: u32,
    /// 1 if there is a timestamp option (RFC 7323).
    pub has_timestamp: u32,
    pub tsval: u32,
    pub tsecr: u32,
    /// 1 if there is a signature option (RFC 2385, RFC 5925).
    pub signed: u32,
    /// The value of a SYN's window scale option; 0 if there is none (RFC 7323, section 2.2).
    pub window_shift: u32,
    /// 1 if there is a SACK option (RFC 2018).
    pub has_blocks: u32,
    /// 1 if there is a Multipath TCP option (RFC 8684).
    pub multipath: u32,
    /// 1 if there is a TCP Fast Open option (RFC 7413).
    pub fast_open: u32,
}

impl Packet {
    #[inline(always)]
    pub fn has(&self, flags: u32) -> bool {
        self.flags & flags != 0
    }
}

impl Work {
    /// Records that the current request is refused. `retry_after` and `reset_after` are in seconds,
    /// as in [`Refusal`].
    #[inline(always)]
    pub fn refuse(&mut self, text: TextKey, scope: u32, retry_after: u32, reset_after: u32) {
        self.refusal = Refusal {
            text,
            scope,
            retry_after,
            reset_after,
            reserved: 0,
        };
    }
}

/// The headers and the payload that are written into the packet.
#[repr(C)]
pub struct Reply {
    pub ip: [u32; 10],
    pub tcp: [u32; 8],
    /// 1 if the device fills in the checksum (CHECKSUM_PARTIAL).
    pub partial: u32,
    /// 1 if the packet currently has the MAC addresses of a packet to the client.
    pub to_client: u32,
    /// The response, followed by zeros.
    pub text: [u64; WORDS],
}

/// The translation of a packet's header to the sequence numbers of the side to which the packet
/// goes (`abi::Splice`).
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Translation {
    /// Not 0 if the header has to be translated.
    pub is_needed: u32,
    /// The numbers in the packet.
    pub old_seq: Seq,
    pub old_ack: Seq,
    /// The numbers that replace them.
    pub new_seq: Seq,
    pub new_ack: Seq,
    /// The lowest number to which the edge of a SACK block is translated, as in the packet.
    pub lowest_edge: Seq,
    /// The number that is added to the edges of SACK blocks (wraps).
    pub edge_shift: u32,
}

/// The segments that are sent for a refused request if the connection goes on.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Kept {
    /// 1 if the refused request is withheld from the server, whose body is being scanned.
    pub withholds: u32,
    /// The payload offset of the first byte that is new. (It is kept here because the stack is
    /// short.)
    pub from: u32,
    /// The result of `limiter_answer_early`.
    pub early: u32,
    /// 1 if the method of that request is HEAD.
    pub head: u32,
    /// 1 if the segment to the client contains the response in `Work::tomb`.
    pub has_text: u32,
    /// 1 if the response has not been sent before.
    pub is_new: u32,
    /// The sequence number, the acknowledgement number and the window of the segment to the client.
    pub seq: Seq,
    pub ack: Seq,
    pub window: u32,
    /// The lowest timestamp value of the segment to the client.
    pub tsval: u32,
    /// 1 if the client's acknowledgement is passed on to the server.
    pub informs: u32,
    /// The sequence number and the acknowledgement number of the segment to the server.
    pub server_seq: Seq,
    pub server_ack: Seq,
}

/// A number that is the same for segments with the same requests (`follow/identity.rs`).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Identity {
    pub value: u64,
    /// 1 if the current segment is one packet and begins with a request.
    pub whole: u32,
    pub reserved: u32,
}

/// The state and the result of a comparison of a segment with the bytes seen before.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Outcome {
    /// The sequence number of the first byte of the packet that the server has not acknowledged.
    pub first: Seq,
    /// The sequence number after the last byte that may pass.
    pub last: Seq,
    /// 1 if some bytes of the segment differ from the bytes seen before.
    pub differs: u32,
    /// 1 if the segment contains a part of a record that was not known yet.
    pub is_news: u32,
}

/// The buffer for the bytes whose fingerprint is computed. Each byte has the same position in a
/// 32-bit word of the buffer as in the stream. The other bytes of the buffer are zero.
#[repr(C)]
pub struct Sample {
    pub bytes: [u64; (fingerprint::PERIOD + 8 + BLOCK) / 8],
}

/// The maximum number of bytes that one call to `bpf_csum_diff` adds up (`MAX_BPF_STACK`, the size
/// of the helper's scratch space).
pub const PIECE: usize = 512;

/// The buffer for the bytes that are added up for a checksum. They may contain keys, so the buffer
/// is filled with zeros after each use.
#[repr(C)]
pub struct Scratch {
    pub words: [u64; PIECE / 8],
}

impl Scratch {
    /// Fills the buffer with zeros, word by word. An assignment would become a call that works byte
    /// by byte.
    #[inline(always)]
    pub fn wipe(&mut self) {
        for word in &mut self.words {
            write_through(word, 0);
        }
    }
}
