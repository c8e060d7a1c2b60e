//! Connections: those that are followed, and those that were refused.

use super::TextKey;
use crate::{http::Parser, seq::Seq};

/// A TCP connection, client's side first; addresses and ports in network byte order. IPv4 addresses
/// stand as IPv4-mapped IPv6 addresses (RFC 4291, section 2.5.5.2).
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
}

/// Requests that may await their response on one connection; a segment with more is cut.
pub const MAX_OUTSTANDING: u32 = 32;
/// Scopes that one connection is counted for at once; the one unused longest gives way.
pub const CONNECTION_SCOPES: usize = 4;
/// Pieces of the stream with request heads or chunk framing whose fingerprints are kept to compare
/// retransmissions with: as many as a client has under way and not acknowledged, and some.
pub const RECORDS: usize = 32;

/// A piece of the stream that was parsed and is not body, and its fingerprint.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Its first byte.
    pub start: Seq,
    /// Behind its last byte; the same as `start`: no record.
    pub end: Seq,
    /// [`crate::fingerprint`] of its bytes.
    pub print: u64,
}

/// Phases of a [`Flow`].
pub mod phase {
    /// The server has answered the SYN; nothing else has come from the client.
    pub const HANDSHAKE: u32 = 0;
    /// The client has completed the handshake; HTTP/1.x is followed.
    pub const HTTP: u32 = 1;
    /// No longer HTTP/1.x (Upgrade, CONNECT, HTTP/2): passed, counted as tunnel.
    pub const TUNNEL: u32 = 2;
    /// Stopped to parse under `malformed = "pass"`: passed, counted as malformed.
    pub const OPAQUE: u32 = 3;
    /// Reset by one side: nothing passes but resets.
    pub const RESET: u32 = 4;
}

/// The client's FIN was seen.
pub const FLOW_CLIENT_FIN: u32 = 1;
/// The server's FIN was seen.
pub const FLOW_SERVER_FIN: u32 = 2;
/// The response side cannot be followed any more; slots are freed when the connection ends.
pub const FLOW_RESPONSE_LOST: u32 = 4;
/// A refusal by `drop` has been counted for the request that starts at `next`.
pub const FLOW_DROP_COUNTED: u32 = 8;
/// Both sides send timestamps (RFC 7323).
pub const FLOW_TIMESTAMPS: u32 = 16;
/// Both sides sign their segments (RFC 2385, RFC 5925).
pub const FLOW_SIGNED: u32 = 32;
/// The server's socket is on this host, in the daemon's network namespace, and knows the client by the
/// address that the flow has.
pub const FLOW_LOCAL: u32 = 64;
/// The acknowledgement that completes the handshake was kept from the server, which waits for it; nothing
/// that the client sent has been let by since.
pub const FLOW_DEFERRED: u32 = 128;

/// An entry of the ring of outstanding requests: a scope id or `NO_SCOPE`, and a method.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outstanding {
    /// The scope whose slot the request holds, or `NO_SCOPE`.
    pub scope: u32,
    /// The method as far as it matters to the framing of the response: `http::METHOD_*`.
    pub method: u32,
}

/// The value of the map `FLOWS` (hash by [`FlowKey`]): a connection that is followed.
///
/// Ingress and egress programs, on any CPU, and the sweep change it only while they hold `lock`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Flow {
    /// 0: free; else held. Taken with compare-and-swap.
    pub lock: u64,
    /// The connection, to notice that a map slot was given to another one.
    pub key: FlowKey,
    /// One of [`phase`].
    pub phase: u32,
    /// `CLOCK_MONOTONIC_COARSE` of the server's last packet, ns: it acknowledges what a client sends,
    /// so on a connection that lives there is always one. (A clock costs as much as a lookup, and
    /// ingress can do without.)
    pub last_seen_ns: u64,
    /// `FLOW_*` flags.
    pub flags: u32,
    /// The client's next byte in order: all before it was parsed.
    pub next: Seq,
    /// The highest acknowledgement that the client sent.
    pub client_ack: Seq,
    /// The server's next byte in order, as far as responses were followed.
    pub response_next: Seq,
    /// The end of the highest byte that the server sent.
    pub server_next: Seq,
    /// The highest acknowledgement that the server sent.
    pub server_ack: Seq,
    /// The server's last timestamp value (RFC 7323); 0 if it sent none.
    pub server_tsval: u32,
    /// The server's last window, not scaled, host byte order.
    pub server_window: u32,
    /// Where the client's FIN ends, if it was seen.
    pub client_fin: Seq,
    /// Where the server's FIN ends, if it was seen.
    pub server_fin: Seq,
    /// The end of what the server's windows have allowed so far.
    pub window_end: Seq,
    /// How far the server's windows are shifted (RFC 7323, section 2.3).
    pub window_shift: u32,
    /// The largest window that the client has announced, not scaled.
    pub client_window: u32,
    /// The client's newest timestamp value that the server may have taken note of (RFC 7323).
    pub client_tsval: u32,
    /// `skb->pkt_type` of the packet that completed the handshake.
    pub packet_type: u32,
    /// The recount that has been at this flow last; see [`Sweep::recount`].
    pub recount: u32,
    /// The check in which this flow was named last; see [`Sweep::check`].
    pub check: u32,
    /// Requests put into `outstanding` so far (wraps).
    pub asked: u32,
    /// Requests taken out of it so far (wraps).
    pub answered: u32,
    /// Requests that await their response, at `asked % MAX_OUTSTANDING` and before.
    pub outstanding: [Outstanding; MAX_OUTSTANDING as usize],
    /// Scopes whose `connections` count this flow, or `NO_SCOPE`.
    pub counted: [u32; CONNECTION_SCOPES],
    /// Which of `counted` gives way next.
    pub counted_next: u32,
    /// Which of `records` is written next (wraps).
    pub records_next: u32,
    /// What is not acknowledged and lies before this number cannot be compared; what lies behind
    /// it in no record is body.
    pub records_floor: Seq,
    /// Segments dropped in a row because they conflicted with what was seen before.
    pub conflicts: u32,
    /// The server's first byte.
    pub server_start: Seq,
    /// The last pieces of what the client sent that were more than body.
    pub records: [Record; RECORDS],
    /// The client's half of the parser.
    pub request: Parser,
    /// The server's half of the parser.
    pub response: Parser,
}

/// The value of the map `TOMBS` (LRU hash by [`FlowKey`]): a connection that was refused and is
/// being closed. Holds no slot and no count, so losing one costs the client a reset at worst.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tomb {
    /// Where our response starts, in the server's numbers as the client sees them.
    pub response_start: Seq,
    /// Where our response (with its FIN) ends.
    pub response_end: Seq,
    /// The end of the highest byte seen from the client.
    pub client_next: Seq,
    /// The server's next sequence number expected by the client before our response.
    pub server_next: Seq,
    /// What the server may see next from the client: after the FIN that we sent for it.
    pub server_expects: Seq,
    /// The window that the client is told, not scaled, host byte order.
    pub window: u32,
    /// The last timestamp value told to the client.
    pub tsval: u32,
    /// Whose text: see [`TextKey`].
    pub text: TextKey,
    /// What was filled in: seconds of `Retry-After`.
    pub retry_after: u32,
    /// What was filled in: seconds until the policy's window ends.
    pub reset_after: u32,
    /// `TOMB_*` flags.
    pub flags: u32,
}

/// No body: the request's method was HEAD.
pub const TOMB_HEAD: u32 = 1;
/// The server had a part of the request, or was reset by policy: it gets resets, not FIN.
pub const TOMB_RESET_SERVER: u32 = 2;
/// No response: both sides were reset.
pub const TOMB_RESET_CLIENT: u32 = 4;
