// SPDX-License-Identifier: MIT OR Apache-2.0

//! The counters of the kernel programs, by their index in the map `COUNTERS`. For each counter, the
//! map has one value per CPU, and the daemon adds these values up.
//!
//! The counters `*_BYTES` count bytes of TCP payload. The comment on each of the other counters
//! states what the counter counts. New counters are added at the end, because an upgrade copies the
//! counts by index.

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal,)*) => {
        counters!(@ 0u32; $($(#[doc = $doc])* $name,)*);
        /// The names of all counters, in the order of their indices.
        pub const NAMES: &[&str] = &[$($text),*];
        /// The meanings of all counters, in the same order. Each string begins with a space.
        pub const MEANINGS: &[&str] = &[$(concat!($($doc),*)),*];
    };
    (@ $at:expr; $(#[doc = $doc:literal])* $name:ident, $($rest:tt)*) => {
        $(#[doc = $doc])* pub const $name: u32 = $at;
        counters!(@ $at + 1; $($rest)*);
    };
    (@ $at:expr;) => {
        /// The number of counters.
        pub const COUNT: u32 = $at;
    };
}

counters! {
    /// Requests that were admitted and charged to a scope.
    ADMITTED = "admitted",
    /// Requests refused because of their scope's rate (429, reset or dropped).
    REFUSED_RATE = "refused_rate",
    /// Requests refused because of their scope's limit of requests in flight.
    REFUSED_CONCURRENCY = "refused_concurrency",
    /// Requests refused because of their scope's limit of open connections.
    REFUSED_CONNECTIONS = "refused_connections",
    /// Requests refused because of their scope's daily quota.
    REFUSED_DAILY_QUOTA = "refused_daily_quota",
    /// Requests without a key, admitted or refused.
    MISSING_KEY = "missing_key",
    /// Requests without a key that were refused (401).
    MISSING_KEY_REFUSED = "missing_key_refused",
    /// Requests with an unknown key, admitted or refused.
    UNKNOWN_KEY = "unknown_key",
    /// Requests with an unknown key that were refused (401).
    UNKNOWN_KEY_REFUSED = "unknown_key_refused",
    /// Unknown keys that got a scope of their own.
    UNKNOWN_KEY_ADOPTED = "unknown_key_adopted",
    /// Requests with an unknown key whose scope did not fit into the tables. `table_full` decided
    /// whether they were admitted.
    UNKNOWN_KEY_OVERFLOW = "unknown_key_overflow",
    /// Requests with a disabled or revoked key that were refused (401).
    DISABLED_KEY_REFUSED = "disabled_key_refused",
    /// Malformed requests, admitted or refused.
    MALFORMED = "malformed",
    /// Malformed requests that were refused (400).
    MALFORMED_REFUSED = "malformed_refused",
    /// Connections that could not be parsed any further, and continued without inspection under
    /// `malformed = "pass"`.
    MALFORMED_CONNECTIONS = "malformed_connections",
    /// Connections that became tunnels (Upgrade, CONNECT).
    TUNNELS = "tunnels",
    /// Connections that began with the HTTP/2 preface, or would have switched to HTTP/2 or TLS
    /// after a 101 response.
    HTTP2 = "http2",
    /// Connections that have been tracked since their first packet.
    FLOWS_OPENED = "flows_opened",
    /// Tracked connections that have ended.
    FLOWS_CLOSED = "flows_closed",
    /// Connections for which the table of flows had no room, and segments whose unfinished head or
    /// line could not be kept because there was no memory.
    TABLE_FULL = "table_full",
    /// Segments with payload that were let through on untracked connections.
    UNTRACKED_SEGMENTS = "untracked_segments",
    /// Untracked connections that were let through, since they are older than the limiter or
    /// `untracked` is `any`.
    UNTRACKED_CONNECTIONS = "untracked_connections",
    /// Payload that was let through on untracked connections.
    UNTRACKED_BYTES = "untracked_bytes",
    /// Segments of untracked connections that were refused.
    UNTRACKED_REFUSED = "untracked_refused",
    /// Payload that was let through, under `table_full = "pass"`, on connections for which the
    /// table of flows had no room.
    TABLE_FULL_BYTES = "table_full_bytes",
    /// Payload that was parsed as HTTP, in order, and let through.
    INSPECTED_BYTES = "inspected_bytes",
    /// Payload let through on connections that no longer use HTTP/1.x (Upgrade, CONNECT, HTTP/2).
    TUNNEL_BYTES = "tunnel_bytes",
    /// Payload let through, under `malformed = "pass"`, on connections that could not be parsed any
    /// further.
    MALFORMED_BYTES = "malformed_bytes",
    /// Segments dropped because they were ahead of the next expected byte.
    OUT_OF_ORDER_DROPPED = "out_of_order_dropped",
    /// Segments that were let through and had only bytes that had been seen before.
    RETRANSMITTED = "retransmitted",
    /// Payload that was let through and had been seen before, or filled a gap in a body.
    RETRANSMITTED_BYTES = "retransmitted_bytes",
    /// Payload dropped for any reason. The client sends most of it again later.
    DROPPED_BYTES = "dropped_bytes",
    /// Payload of refused requests, and payload that came after a refusal.
    REFUSED_BYTES = "refused_bytes",
    /// Segments dropped because they had different content for bytes that had been seen before.
    CONFLICT_DROPPED = "conflict_dropped",
    /// Segments dropped because a refusal has to wait until the connection is idle, or because a
    /// request has to wait for other responses or for the store.
    NOT_QUIET_DROPPED = "not_quiet_dropped",
    /// Segments dropped under `on_limit = "drop"`, including each retransmission.
    LIMIT_DROPPED = "limit_dropped",
    /// Segments that were cut after the last admitted request.
    TRIMMED = "trimmed",
    /// Segments dropped on connections that have ended or were reset.
    AFTER_END_DROPPED = "after_end_dropped",
    /// Segments dropped because no server accepts them: without ACK, with an acknowledgement of
    /// bytes that were never sent or were acknowledged long ago, with urgent data, without the
    /// timestamp or signature of their connection, for another link-layer address, or with a time
    /// to live of 0.
    INVALID_DROPPED = "invalid_dropped",
    /// Segments dropped because their IP or TCP checksum was wrong.
    BAD_CHECKSUM_DROPPED = "bad_checksum_dropped",
    /// Segments dropped because their timestamp was older than one that the server has seen (PAWS,
    /// RFC 7323, section 5).
    STALE_DROPPED = "stale_dropped",
    /// Segments dropped because they went beyond the server's window.
    OUT_OF_WINDOW_DROPPED = "out_of_window_dropped",
    /// SYN segments whose payload was cut off. The client retransmits it after the handshake.
    SYN_DATA_DROPPED = "syn_data_dropped",
    /// SYN segments whose Multipath TCP option (RFC 8684) was removed, so that all bytes take one
    /// path and arrive in order.
    MULTIPATH_DECLINED = "multipath_declined",
    /// IP fragments for a guarded port that were dropped.
    FRAGMENT_DROPPED = "fragment_dropped",
    /// Packets dropped because their headers could not be read (truncated, or too many IPv6
    /// extension headers).
    UNREADABLE_DROPPED = "unreadable_dropped",
    /// Packets dropped because another CPU held the lock of their flow for too long, or because the
    /// daemon held all flows while it enlarged a table.
    CONTENDED_DROPPED = "contended_dropped",
    /// Responses sent by the kernel programs (429, 401, 400, 405).
    RESPONSES_SENT = "responses_sent",
    /// Responses retransmitted because the client had not acknowledged them.
    RESPONSES_RESENT = "responses_resent",
    /// Resets sent by the kernel programs.
    RESETS_SENT = "resets_sent",
    /// Packets that the kernel programs could not send, for example because there was no memory or
    /// a queue was full.
    SEND_FAILED = "send_failed",
    /// Packets of refused connections that were answered or dropped.
    TOMB_PACKETS = "tomb_packets",
    /// Responses whose end could not be found. Their requests count as in flight until the
    /// connection ends.
    RESPONSE_LOST = "response_lost",
    /// Flows removed by the sweep.
    SWEPT_FLOWS = "swept_flows",
    /// Requests in flight released by the sweep.
    SWEPT_SLOTS = "swept_slots",
    /// Half-open connections removed early because the table of flows was filling up.
    HURRIED_HANDSHAKES = "hurried_handshakes",
    /// Flows removed because their socket was gone.
    ORPHANED_FLOWS = "orphaned_flows",
    /// Requests in flight released with flows whose socket was gone.
    ORPHANED_SLOTS = "orphaned_slots",
    /// Requests that were dropped, and that the client retransmits, because their scope had used up
    /// its allowance in the store.
    HELD = "held",
    /// Requests admitted beyond the allowance in the store while no daemon extended it.
    UNATTENDED = "unattended",
    /// Messages to the daemon for which the ring buffer had no room, because the daemon was away or
    /// too slow. No other information is lost, because the daemon also finds the same facts by
    /// itself, or another counter counts them.
    EVENTS_LOST = "events_lost",
    /// Acknowledgements without payload dropped under `handshake = "auto"` or `"defer"`. The
    /// first request completes the handshake, or the client's answer to a second SYN-ACK.
    HANDSHAKES_DEFERRED = "handshakes_deferred",
    /// SYN segments whose TCP Fast Open option (RFC 7413) was removed.
    FAST_OPEN_DECLINED = "fast_open_declined",
    /// Connections that were opened from a guarded port, which makes this side their client.
    OUTBOUND_CONNECTIONS = "outbound_connections",
    /// Payload received on connections that were opened from a guarded port.
    OUTBOUND_BYTES = "outbound_bytes",
    /// Packets with a server's address that arrived on the link on which they would leave, and did
    /// not come from the server.
    HAIRPIN_DISBELIEVED = "hairpin_disbelieved",
    /// Packets with a server's address whose sequence numbers are not those of the tracked
    /// connection.
    SERVER_DISBELIEVED = "server_disbelieved",
    /// Handshakes whose acknowledgement belongs to another connection. They were answered with a
    /// reset, as their server would have answered them.
    HANDSHAKES_REFUSED = "handshakes_refused",
    /// Connections refused, and flows removed, because the table of flows was nearly full and their
    /// client's address had more than its share.
    OVER_SHARE = "over_share",
    /// Segments dropped because they had only a part of an earlier, unacknowledged segment. They
    /// are let through once the rest has been retransmitted too and is the same.
    PART_DROPPED = "part_dropped",
    /// Segments dropped or cut because too many pieces of heads and chunk framing wait for the
    /// server's acknowledgement.
    UNACKNOWLEDGED_DROPPED = "unacknowledged_dropped",
    /// CONNECT requests that were refused (405).
    CONNECT_REFUSED = "connect_refused",
    /// CORS preflights without a key that were admitted although a key is required.
    PREFLIGHTS = "preflights",
    /// Requests whose offer to switch to HTTP/2 or TLS (`Upgrade: h2c`) was removed.
    OFFERS_DECLINED = "offers_declined",
    /// Connections reset because a request asked for an upgrade while the server's response to it
    /// could not be distinguished from other bytes of the server. The request was not charged.
    UPGRADES_RESET = "upgrades_reset",
    /// Refused requests after which the connection went on (`on_limit = "keepalive"`).
    KEPT = "kept",
    /// Connections closed by a refusal under `on_limit = "keepalive"` because the server already
    /// had a part of the request's head.
    SPLIT_CLOSED = "split_closed",
    /// Connections reset because the server sent bytes that were no response to a request, after
    /// requests had been withheld from it.
    UNSOLICITED_RESET = "unsolicited_reset",
}
