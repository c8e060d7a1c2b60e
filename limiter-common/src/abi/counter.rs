//! What happened, by index into the map `COUNTERS` (per CPU; the daemon adds up).
//!
//! `*_BYTES` count bytes of TCP payload, all else counts requests or packets as said. New ones are
//! appended: counts are carried over by index to a later layout.

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal,)*) => {
        counters!(@ 0u32; $($(#[doc = $doc])* $name,)*);
        /// The names of all counters, in the order of their index.
        pub const NAMES: &[&str] = &[$($text),*];
        /// What each of them counts, in the same order: a sentence or two, after a space.
        pub const MEANINGS: &[&str] = &[$(concat!($($doc),*)),*];
    };
    (@ $at:expr; $(#[doc = $doc:literal])* $name:ident, $($rest:tt)*) => {
        $(#[doc = $doc])* pub const $name: u32 = $at;
        counters!(@ $at + 1; $($rest)*);
    };
    (@ $at:expr;) => {
        /// How many counters there are.
        pub const COUNT: u32 = $at;
    };
}

counters! {
    /// Requests charged to a scope and passed.
    ADMITTED = "admitted",
    /// Requests refused for their rate (429, reset or dropped).
    REFUSED_RATE = "refused_rate",
    /// Requests refused for their scope's requests in flight.
    REFUSED_CONCURRENCY = "refused_concurrency",
    /// Requests refused for their scope's open connections.
    REFUSED_CONNECTIONS = "refused_connections",
    /// Requests refused for their scope's daily quota.
    REFUSED_DAILY_QUOTA = "refused_daily_quota",
    /// Requests without a key, passed or refused.
    MISSING_KEY = "missing_key",
    /// Requests without a key, refused (401).
    MISSING_KEY_REFUSED = "missing_key_refused",
    /// Requests with a key that is not known, passed or refused.
    UNKNOWN_KEY = "unknown_key",
    /// Requests with a key that is not known, refused (401).
    UNKNOWN_KEY_REFUSED = "unknown_key_refused",
    /// Unknown keys that were made scopes of their own.
    UNKNOWN_KEY_ADOPTED = "unknown_key_adopted",
    /// Unknown keys that found no room for a scope of their own, and went by `table_full`.
    UNKNOWN_KEY_OVERFLOW = "unknown_key_overflow",
    /// Requests with a disabled key, refused (401).
    DISABLED_KEY_REFUSED = "disabled_key_refused",
    /// Malformed requests (or what stood in their place), passed or refused.
    MALFORMED = "malformed",
    /// Malformed requests refused (400).
    MALFORMED_REFUSED = "malformed_refused",
    /// Connections that stopped to parse, passed under `malformed = "pass"`.
    MALFORMED_CONNECTIONS = "malformed_connections",
    /// Connections that became tunnels (Upgrade, CONNECT).
    TUNNELS = "tunnels",
    /// Connections that began with the HTTP/2 preface.
    HTTP2 = "http2",
    /// Connections followed since their first packet.
    FLOWS_OPENED = "flows_opened",
    /// Followed connections that ended.
    FLOWS_CLOSED = "flows_closed",
    /// Connections that found no room in the table of flows.
    TABLE_FULL = "table_full",
    /// Segments with payload of connections that are not followed, passed.
    UNTRACKED_SEGMENTS = "untracked_segments",
    /// Connections that are older than the program, passed.
    UNTRACKED_CONNECTIONS = "untracked_connections",
    /// Payload of connections that are not followed, passed.
    UNTRACKED_BYTES = "untracked_bytes",
    /// Segments of connections that are not followed, refused.
    UNTRACKED_REFUSED = "untracked_refused",
    /// Payload of connections that found no room in the table of flows, passed under
    /// `table_full = "pass"`.
    TABLE_FULL_BYTES = "table_full_bytes",
    /// Payload parsed as HTTP, in order, and passed.
    INSPECTED_BYTES = "inspected_bytes",
    /// Payload passed on connections that are no longer HTTP/1.x (Upgrade, CONNECT, HTTP/2).
    TUNNEL_BYTES = "tunnel_bytes",
    /// Payload passed on connections that stopped to parse, under `malformed = "pass"`.
    MALFORMED_BYTES = "malformed_bytes",
    /// Segments dropped because they were ahead of the byte that was next.
    OUT_OF_ORDER_DROPPED = "out_of_order_dropped",
    /// Segments passed that held only bytes seen before.
    RETRANSMITTED = "retransmitted",
    /// Payload passed that had been seen before, or that filled a gap in a body.
    RETRANSMITTED_BYTES = "retransmitted_bytes",
    /// Payload dropped, for whatever reason; most of it comes again.
    DROPPED_BYTES = "dropped_bytes",
    /// Payload that was answered with a refusal, or came after one.
    REFUSED_BYTES = "refused_bytes",
    /// Segments dropped that held, for bytes seen before, other content or content that could
    /// not be compared.
    CONFLICT_DROPPED = "conflict_dropped",
    /// Segments dropped because a refusal has to wait for a quiet moment, or a request until others are
    /// answered or it is allowed.
    NOT_QUIET_DROPPED = "not_quiet_dropped",
    /// Segments dropped under `on_limit = "drop"`, each time they come.
    LIMIT_DROPPED = "limit_dropped",
    /// Segments cut after the last request that was admitted.
    TRIMMED = "trimmed",
    /// Segments dropped on connections that have ended or were reset.
    AFTER_END_DROPPED = "after_end_dropped",
    /// Segments dropped that no server takes: without ACK, acknowledging what was never sent or what
    /// was acknowledged long ago, with urgent data, without the timestamp or signature that the
    /// connection has, to another station, or with a time to live of 0.
    INVALID_DROPPED = "invalid_dropped",
    /// Segments dropped whose checksum, of IP or TCP, is wrong.
    BAD_CHECKSUM_DROPPED = "bad_checksum_dropped",
    /// Segments dropped whose timestamp is older than one that the server has seen (PAWS, RFC 7323,
    /// section 5).
    STALE_DROPPED = "stale_dropped",
    /// Segments dropped that go beyond the server's window.
    OUT_OF_WINDOW_DROPPED = "out_of_window_dropped",
    /// SYN segments with payload, dropped.
    SYN_DATA_DROPPED = "syn_data_dropped",
    /// SYN segments whose offer of Multipath TCP (RFC 8684) was taken out: connections of one path,
    /// whose bytes come in order.
    MULTIPATH_DECLINED = "multipath_declined",
    /// IP fragments for a guarded port, dropped.
    FRAGMENT_DROPPED = "fragment_dropped",
    /// Packets dropped whose headers could not be read (truncated, or too many IPv6 extensions).
    UNREADABLE_DROPPED = "unreadable_dropped",
    /// Packets dropped because another CPU held their flow for too long, or the daemon held all of them
    /// while it made a table larger.
    CONTENDED_DROPPED = "contended_dropped",
    /// Responses sent by the program (429, 401, 400).
    RESPONSES_SENT = "responses_sent",
    /// Responses sent again because the client had not acknowledged them.
    RESPONSES_RESENT = "responses_resent",
    /// Resets sent by the program.
    RESETS_SENT = "resets_sent",
    /// Packets that the program wanted to send and could not (no memory).
    SEND_FAILED = "send_failed",
    /// Packets of refused connections that were answered or dropped.
    TOMB_PACKETS = "tomb_packets",
    /// Responses that could not be followed to their end; their slot is freed when the
    /// connection ends.
    RESPONSE_LOST = "response_lost",
    /// Flows removed by the sweep.
    SWEPT_FLOWS = "swept_flows",
    /// Slots of requests in flight given back by the sweep.
    SWEPT_SLOTS = "swept_slots",
    /// Half-open connections given up before their time, since the table of flows was filling up.
    HURRIED_HANDSHAKES = "hurried_handshakes",
    /// Flows removed because their socket was gone.
    ORPHANED_FLOWS = "orphaned_flows",
    /// Slots of requests in flight given back with those.
    ORPHANED_SLOTS = "orphaned_slots",
    /// Times that a request was held, dropped until it came again, since its scope had used up what
    /// the store allowed it so far.
    HELD = "held",
    /// Requests admitted beyond what the store allowed, while nobody extended that.
    UNATTENDED = "unattended",
    /// Words to the daemon that found no room in their ring buffer: it is away, or does not keep up. What
    /// they were about it finds out, or is counted elsewhere.
    EVENTS_LOST = "events_lost",
    /// Acknowledgements without payload dropped under `handshake = "defer"`: the connection's first request
    /// completes its handshake.
    HANDSHAKES_DEFERRED = "handshakes_deferred",
}
