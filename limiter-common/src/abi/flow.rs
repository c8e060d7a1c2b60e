// SPDX-License-Identifier: MIT OR Apache-2.0

//! The types for connections that are followed.

use core::marker::PhantomPinned;

use super::Splice;
use crate::{http::Progress, seq::Seq};

/// The link on which a packet was seen.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// The index of the interface.
    pub ifindex: u32,
    /// The VLAN identifiers other than 0 (IEEE 802.1Q), twelve bits each, with the innermost in the
    /// lowest bits; 0 if the link is untagged.
    pub vlan: u32,
}

impl Link {
    /// The value that stands for no link.
    pub const NONE: Self = Self {
        ifindex: 0,
        vlan: 0,
    };

    /// Returns whether the two links are the same. (A derived comparison would have a branch for
    /// each field.)
    #[inline(always)]
    #[must_use]
    pub const fn is(self, other: Self) -> bool {
        (self.ifindex ^ other.ifindex) | (self.vlan ^ other.vlan) == 0
    }
}

/// A TCP connection. The client's side is first, and addresses and ports are in network byte order.
/// IPv4 addresses are stored as IPv4-mapped IPv6 addresses (RFC 4291, section 2.5.5.2).
///
/// Two guarded links can carry connections between the same addresses and ports. The first of these
/// connections has a key without a link, and its link is in [`Flow::link`]. Each further connection
/// has its link in the key. Therefore one lookup finds the flow of nearly every packet, and
/// [`Flow::link`] shows whether that flow belongs to another link.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowKey {
    /// The client's address.
    pub client: [u32; 4],
    /// The server's address.
    pub server: [u32; 4],
    /// The client's port.
    pub client_port: u16,
    /// The server's port.
    pub server_port: u16,
    /// [`Link::NONE`], or the link of a connection whose addresses and ports were already in use on
    /// another link.
    pub link: Link,
}

/// The maximum number of requests that await their responses on one connection. A segment with more
/// requests is cut.
pub const MAX_OUTSTANDING: u32 = 32;
/// The maximum number of scopes for which one connection can be counted at the same time. A further
/// scope replaces the one that was added earliest.
pub const CONNECTION_SCOPES: usize = 4;
/// The maximum number of pieces of the stream whose fingerprints a flow keeps for comparison with
/// retransmissions. These are the pieces that contain request heads or chunk framing. While this
/// many pieces are unacknowledged, further pieces of this kind have to wait.
pub const RECORDS: usize = 32;

/// The fingerprint of a piece of the stream that has been parsed and does not consist only of body
/// bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The sequence number of the first byte.
    pub start: Seq,
    /// The sequence number after the last byte. If it equals `start`, the entry is unused.
    pub end: Seq,
    /// The [`crate::fingerprint`] of the bytes if the number is even, or a hash of the requests in
    /// the bytes if the number is odd.
    pub fingerprint: u64,
}

/// The maximum number of bytes by which a sequence number may be below the highest acknowledgement.
/// The programs do not accept lower numbers. The limit is large enough for every packet that can
/// still be in transit (the largest window is 2^30 bytes; RFC 7323, section 2.3). It is less than
/// 2^31, because sequence numbers that are 2^31 or more apart cannot be compared.
pub const FLOOR: u32 = 1 << 30;

/// The phases of a [`Flow`].
pub mod phase {
    /// The server has answered the SYN, and the client has sent nothing else yet.
    pub const HANDSHAKE: u32 = 0;
    /// The client has completed the handshake, and the program follows HTTP/1.x.
    pub const HTTP: u32 = 1;
    /// The connection no longer carries HTTP/1.x (Upgrade, CONNECT, HTTP/2). Its payload passes,
    /// and is counted as tunnel payload.
    pub const TUNNEL: u32 = 2;
    /// The stream is malformed, and `malformed` is `"pass"`. Its bytes pass without being parsed,
    /// and are counted as malformed.
    pub const OPAQUE: u32 = 3;
    /// One side has reset the connection, and only resets pass.
    pub const RESET: u32 = 4;
}

/// The client has sent its FIN.
pub const FLOW_CLIENT_FIN: u32 = 1;
/// The server has sent its FIN.
pub const FLOW_SERVER_FIN: u32 = 2;
/// The responses can no longer be followed. The slots are released when the connection ends.
pub const FLOW_RESPONSE_LOST: u32 = 4;
/// The request that starts at `next` is dropped under `on_limit = "drop"`, and has already been
/// counted as refused.
pub const FLOW_DROP_COUNTED: u32 = 8;
/// Both sides send timestamps (RFC 7323).
pub const FLOW_TIMESTAMPS: u32 = 16;
/// Both sides sign their segments (RFC 2385, RFC 5925).
pub const FLOW_SIGNED: u32 = 32;
/// The server's socket is on this host, in the daemon's network namespace, and the peer address of
/// the socket is the client's address. Before the flow is confirmed, the flag is also set if no
/// socket is known yet (SYN cookies) and the server's SYN-ACK was sent from this host.
pub const FLOW_LOCAL: u32 = 64;
/// The server is still waiting for the acknowledgement that completes the handshake, because the
/// program dropped it or the client sent it only with its first payload. Nothing from the client
/// has been let through since.
pub const FLOW_DEFERRED: u32 = 128;
/// The server has sent a packet since the client completed the handshake, which shows that the
/// connection exists on the server.
pub const FLOW_CONFIRMED: u32 = 256;
/// A reset has been let through whose sequence number is below the client's next byte, and the
/// server has sent nothing since. The server accepts such a reset only if some of the client's
/// bytes never reached it.
pub const FLOW_RESET_PASSED: u32 = 512;
/// At least one request was refused and the connection went on ([`Splice`]).
pub const FLOW_SPLICED: u32 = 1024;
/// The client is sending the body of a refused request, which is withheld from the server.
pub const FLOW_WITHHOLDING: u32 = 2048;
/// The newest request that awaits its response asks for a tunnel. Nothing after this request passes
/// until the request is answered.
pub const FLOW_SWITCHING: u32 = 1 << 16;
/// The server may have sent bytes that do not belong to a response. Therefore bytes that look like
/// a response may be something else, and the programs let no further tunnel begin on this
/// connection.
pub const FLOW_UNSURE: u32 = 1 << 17;

/// The request that starts at `next` has been waiting for a longer lease since
/// [`Flow::held_since`].
pub const FLOW_HELD: u32 = 1 << 18;

/// The time after which a request that still waits for a longer lease is refused, in ns. A client's
/// TCP retransmits at growing intervals, so the refusal comes with the first retransmission after
/// this time.
pub const MAX_HELD_NS: u64 = 1_500_000_000;
/// The unit of [`Flow::held_since`] is `1 << HELD_SHIFT` ns, about a millisecond.
pub const HELD_SHIFT: u32 = 20;

/// The maximum number of offers of another kind of HTTP that a flow remembers until the server has
/// acknowledged them. If the client retransmits such an offer, the programs remove it again.
pub const OFFERS: usize = 4;

/// The value of the map `FLOWS` (hash by [`FlowKey`]): a connection that is followed.
///
/// The ingress and egress programs on any CPU, and the sweep, change `flow` only while they hold
/// `lock`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FlowEntry {
    /// 0 if the lock is free, and another value while it is held. The lock is taken with
    /// compare-and-swap.
    pub lock: u64,
    /// The connection.
    pub flow: Flow,
}

/// A connection that is followed, in a [`FlowEntry`].
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Flow {
    /// The key of the connection. If it differs from the key that was looked up, the map slot has
    /// been reused for another connection.
    pub key: FlowKey,
    /// One of [`phase`].
    pub phase: u32,
    /// The time of the server's last packet on `CLOCK_MONOTONIC_COARSE`, in ns. The client's
    /// packets do not change this time, because reading the clock costs as much as a map lookup.
    /// The server's packets are enough, because on a live connection the server acknowledges the
    /// client's data.
    pub last_seen_ns: u64,
    /// The link on which the server's SYN-ACK left.
    pub link: Link,
    /// `FLOW_*` flags.
    pub flags: u32,
    /// The sequence number of the client's next byte in order. All bytes before it have been
    /// parsed.
    pub next: Seq,
    /// The client's highest acknowledgement number.
    pub client_ack: Seq,
    /// The sequence number of the server's next byte in order. Responses have been followed up to
    /// this byte.
    pub response_next: Seq,
    /// The sequence number after the highest byte that the server has sent.
    pub server_next: Seq,
    /// The server's highest acknowledgement number.
    pub server_ack: Seq,
    /// The server's last timestamp value (RFC 7323); 0 if the server has sent none.
    pub server_tsval: u32,
    /// The last window that the server has announced, in units of `1 << window_shift` bytes. This
    /// is the number in the TCP header, except after a SYN-ACK, whose window is not scaled.
    pub server_window: u32,
    /// The sequence number after the client's FIN, if the client has sent it.
    pub client_fin: Seq,
    /// The sequence number after the server's FIN, if the server has sent it.
    pub server_fin: Seq,
    /// The highest sequence number that the server's windows have allowed so far.
    pub window_end: Seq,
    /// The shift count of the server's window scale option (RFC 7323, section 2.3).
    pub window_shift: u32,
    /// The largest window that the client has announced: the number in the TCP header, not shifted,
    /// in host byte order.
    pub client_window: u32,
    /// The client's newest timestamp value that the server may have recorded (RFC 7323).
    pub client_tsval: u32,
    /// The `skb->pkt_type` of the packet that completed the handshake. Later packets of the client
    /// must have the same type.
    pub packet_type: u32,
    /// The id of the last recount that visited this flow; see [`Sweep::recount`].
    pub recount: u32,
    /// The id of the last check that listed this flow; see [`Sweep::check`].
    pub check: u32,
    /// The number of requests that have been added to the rings `scopes` and `demands` (wraps).
    pub asked: u32,
    /// The number of requests that have been removed from these rings (wraps).
    pub answered: u32,
    /// The scopes of the requests that await their responses, as a ring: the scope whose slot the
    /// request holds, or `NO_SCOPE`. The newest request is at `(asked - 1) % MAX_OUTSTANDING`.
    pub scopes: [u32; MAX_OUTSTANDING as usize],
    /// The properties of these requests that decide how their responses are framed
    /// ([`crate::http::demands`]), as a ring.
    pub demands: [u8; MAX_OUTSTANDING as usize],
    /// The scopes whose `connections` include this flow. Unused entries are `NO_SCOPE`.
    pub counted: [u32; CONNECTION_SCOPES],
    /// The number of scopes that have been written to `counted` (wraps). The next scope is written
    /// at the index `counted_next % CONNECTION_SCOPES`.
    pub counted_next: u32,
    /// The number of entries that have been written to `records` (wraps). The next entry is written
    /// at the index `records_next % RECORDS`.
    pub records_next: u32,
    /// The sequence number at which the newest entry of `records` ends. Unacknowledged bytes that
    /// no entry covers belong to bodies.
    pub records_end: Seq,
    /// The number of consecutive segments that have been dropped because they differed from earlier
    /// data.
    pub conflicts: u32,
    /// The lowest acknowledgement number that is accepted from the client. It is the sequence
    /// number of the server's first byte or, once the client has acknowledged more than [`FLOOR`]
    /// bytes, the number that is [`FLOOR`] below the client's highest acknowledgement number.
    pub server_start: Seq,
    /// The lowest sequence number that is accepted from the client. It is the sequence number of
    /// the client's first byte or, once the server has acknowledged more than [`FLOOR`] bytes, the
    /// number that is [`FLOOR`] below the server's highest acknowledgement number.
    pub client_start: Seq,
    /// The number of entries of `records` that are in use. These are the last entries before
    /// `records_next`. Older entries are no longer needed, because the server has acknowledged
    /// their bytes.
    pub records_kept: u32,
    /// The number of entries that have been added to `offers`. The number does not wrap, but stays
    /// at `u32::MAX`.
    pub offers_next: u32,
    /// The time at which the request that starts at `next` was first held, if `FLOW_HELD` is set:
    /// `CLOCK_BOOTTIME` in units of `1 << HELD_SHIFT` ns (wraps).
    pub held_since: u32,
    /// The fingerprint of a segment that was dropped because it retransmitted only a part of one of
    /// the `records`. If the client also retransmits the rest, both fingerprints together are
    /// compared with the record.
    pub part: Record,
    /// The fingerprints of the last pieces of the client's stream that do not consist only of body
    /// bytes.
    pub records: [Record; RECORDS],
    /// The position in the client's stream.
    pub request: Progress,
    /// The position in the server's stream.
    pub response: Progress,
    /// The sequence numbers of the bytes that were overwritten to remove offers of another kind of
    /// HTTP, as a ring. These bytes are the first letters of the offers. The newest number is at
    /// `(offers_next - 1) % OFFERS`.
    pub offers: [Seq; OFFERS],
    /// The requests that were refused while the connection went on.
    pub splice: Splice,
    /// A marker of size zero that keeps LLVM from assuming that a mutable reference is the only
    /// access to a flow. It is needed because some functions of the kernel programs look up a flow
    /// again while their callers borrow it.
    pub lent: PhantomPinned,
}

/// The key of the map `UNFINISHED`: a direction of a connection. The value is the
/// [`Unfinished`](crate::http::Unfinished) of the direction, whose line is masked with the key of
/// the fingerprints. An entry exists only while [`Progress::is_unfinished`] is true for the
/// direction, and may be missing if there was no memory for it. An entry changes, and is removed,
/// only while the lock of the flow is held.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnfinishedKey {
    /// The key of the flow.
    pub flow: FlowKey,
    /// [`REQUESTS`] or [`RESPONSES`].
    pub direction: u32,
}

/// The direction from the client to the server.
pub const REQUESTS: u32 = 0;
/// The direction from the server to the client.
pub const RESPONSES: u32 = 1;
