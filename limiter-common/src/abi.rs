//! What the kernel programs and the daemon share: names, sizes and layouts of the BPF maps.
//!
//! Every type here is `repr(C)` with explicit, zeroed padding; `const` assertions pin the layout.
//! Any change to one of them is a change of [`ABI_VERSION`], which the pin directory carries.

use crate::{
    fingerprint,
    http::{Parser, Rules},
    seq::Seq,
};

/// The version of the map layout.
pub const ABI_VERSION: u32 = 2;

/// The largest number of bytes of a key.
pub const MAX_KEY: usize = 128;

/// No scope: a request that no scope is charged for.
pub const NO_SCOPE: u32 = u32::MAX;

/// `skb->mark` of packets that the ingress program itself sends, so that the egress program (and
/// the ingress program, for those it hands up) lets them by. ASCII "lmtr".
pub const OWN_MARK: u32 = 0x6c6d_7472;

pub mod counter;

/// Why a request is refused.
pub mod reason {
    /// Rate (429).
    pub const RATE: u32 = 0;
    /// Requests in flight (429).
    pub const CONCURRENCY: u32 = 1;
    /// Open connections (429).
    pub const CONNECTIONS: u32 = 2;
    /// Daily quota (429).
    pub const DAILY_QUOTA: u32 = 3;
    /// How many reasons are limits of a scope; they come first.
    pub const LIMITS: u32 = 4;
    /// No key (401).
    pub const MISSING_KEY: u32 = 4;
    /// A key that is not known (401).
    pub const UNKNOWN_KEY: u32 = 5;
    /// A key that is disabled or revoked (401).
    pub const DISABLED_KEY: u32 = 6;
    /// Not HTTP/1.x, or HTTP that servers disagree on (400).
    pub const MALFORMED: u32 = 7;
    /// How many reasons there are.
    pub const COUNT: u32 = 8;
}

/// Values of the policies in [`Config`].
pub mod policy {
    /// Let it by, and count it.
    pub const PASS: u32 = 0;
    /// Refuse it with a response (or, where HTTP is not spoken yet, a reset).
    pub const REJECT: u32 = 1;
    /// `unknown_key` only: each unknown key is a scope of its own.
    pub const ADOPT: u32 = 2;

    /// `on_limit`: answer and close.
    pub const ON_LIMIT_CLOSE: u32 = 0;
    /// `on_limit`: reset both sides.
    pub const ON_LIMIT_RESET: u32 = 1;
    /// `on_limit`: drop the request.
    pub const ON_LIMIT_DROP: u32 = 2;
}

/// The map `CONFIG` (array, one entry): what the daemon tells the programs.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Config {
    /// What to look for in requests.
    pub request_rules: Rules,
    /// What to look for in responses.
    pub response_rules: Rules,
    /// `policy::PASS` or `policy::REJECT`.
    pub missing_key: u32,
    /// `policy::PASS`, `policy::REJECT` or `policy::ADOPT`.
    pub unknown_key: u32,
    /// `policy::PASS` or `policy::REJECT`.
    pub malformed: u32,
    /// `policy::PASS` or `policy::REJECT`.
    pub untracked: u32,
    /// `policy::PASS` or `policy::REJECT`.
    pub table_full: u32,
    /// `policy::PASS` or `policy::REJECT` (a reset).
    pub http2: u32,
    /// `policy::ON_LIMIT_*`.
    pub on_limit: u32,
    /// 1: refuse nothing of what concerns no scope (scopes have `LIMITS_OBSERVE`).
    pub observe: u32,
    /// The text set (see [`TextKey`]) of refusals that concern no scope (401, 400).
    pub common_texts: u32,
    /// `policy::ADOPT`: the first scope id of those that the program gives to unknown keys.
    pub adopt_first: u32,
    /// `policy::ADOPT`: how many there are.
    pub adopt_count: u32,
    /// Zero.
    pub reserved: u32,
    /// `policy::ADOPT`: the limits that an adopted scope gets.
    pub adopt_limits: Limits,
    /// The key of [`crate::fingerprint`], made of `request_rules.hash_key`.
    pub fingerprint_key: [u64; fingerprint::KEY_WORDS],
}

/// The map `PORTS` (array, one entry): a bit for each guarded TCP port, bit `port % 64` of word
/// `port / 64`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ports(pub [u64; 1024]);

/// The map `CLOCK` (array, one entry).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// Nanoseconds to add to `CLOCK_BOOTTIME` for `CLOCK_REALTIME` (UTC).
    pub utc_offset_ns: u64,
    /// `CLOCK_BOOTTIME` until which connections that are not known are refused whatever
    /// `Config::untracked` says, ns: half-open ones have been given up before their time, to make
    /// room, and one of those must not pass for an older one.
    pub refuse_strangers_until_ns: u64,
}

/// The map `ADOPTED` (array, one entry): how many scope ids have been given to unknown keys.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    /// Ids given out so far; may run past `Config::adopt_count` when there were none left.
    pub given: u64,
}

/// The key of the map `KEYS` (hash): SipHash-2-4-128 of the raw key, first and second half.
pub type Digest = [u64; 2];

/// The value of the map `KEYS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyEntry {
    /// The scope that the key belongs to.
    pub scope: u32,
    /// `KEY_*` flags.
    pub flags: u32,
    /// `CLOCK_BOOTTIME` of the last request with this key, ns; 0: none yet. Written by the kernel.
    pub last_used_ns: u64,
}

/// The key is disabled or revoked: 401.
pub const KEY_DISABLED: u32 = 1;
/// The key was unknown and was adopted by the program.
pub const KEY_ADOPTED: u32 = 2;

/// The value of the map `LIMITS` (array by scope id): written by the daemon.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Requests a UTC day; `UNLIMITED` is no limit.
    pub daily_quota: u64,
    /// Nanoseconds between two requests at the full rate; 0 is no limit.
    pub interval_ns: u64,
    /// `(burst - 1) * interval_ns`.
    pub tolerance_ns: u64,
    /// Requests in flight; `UNLIMITED` is no limit.
    pub concurrency: u64,
    /// Open connections; `UNLIMITED` is no limit.
    pub connections: u64,
    /// `LIMITS_*` flags.
    pub flags: u32,
    /// The text set for refusals (see [`TextKey`]).
    pub text_set: u32,
}

/// No limit, in the fields of [`Limits`] that say so.
pub const UNLIMITED: u64 = u64::MAX;
/// The entry belongs to a scope.
pub const LIMITS_IN_USE: u32 = 1;
/// Refuse nothing for this scope, count what would be refused.
pub const LIMITS_OBSERVE: u32 = 2;

/// The value of the map `STATE` (array by scope id, `BPF_F_MMAPABLE`).
///
/// The kernel programs change it with atomic operations only, and so must the daemon, through its
/// mapping. The first 64 bytes are what a decision touches.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScopeState {
    /// Theoretical arrival time of the next request ([`crate::gcra`]), ns of the boot clock.
    pub tat_ns: u64,
    /// [`crate::day::DayCount`].
    pub day_count: u64,
    /// Requests admitted whose response has not left yet.
    pub in_flight: u64,
    /// Open connections on which keys of the scope were used.
    pub connections: u64,
    /// Requests admitted since the map was made.
    pub admitted: u64,
    /// The recount that the next two belong to (`Sweep::recount`); 0: none.
    pub recount: u64,
    /// What `in_flight` should be: a sum over the flows that this recount has been at.
    pub recounted_in_flight: u64,
    /// What `connections` should be, likewise.
    pub recounted_connections: u64,
    /// Requests refused since the map was made, by [`reason`].
    pub refused: [u64; reason::LIMITS as usize],
    /// Requests that observe mode would have refused since the map was made, by [`reason`].
    pub would_refuse: [u64; reason::LIMITS as usize],
}

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

/// The largest response in bytes: fits in one segment of every IPv6 path (RFC 8200, section 5).
pub const MAX_TEXT: usize = 1024;

/// The key of the map `TEXTS` (hash).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TextKey {
    /// The text set: one for each distinct set of limits.
    pub set: u32,
    /// One of [`reason`].
    pub reason: u32,
}

/// The value of the map `TEXTS`: a whole response, prepared by the daemon.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Text {
    /// Bytes of status line and fields, with the blank line.
    pub head_len: u32,
    /// Bytes of head and body; at most `MAX_TEXT`.
    pub len: u32,
    /// Where the seconds of `Retry-After` go (eight bytes: digits, then spaces); 0: nowhere.
    pub retry_after_at: u32,
    /// Where the seconds until the window ends go (eight bytes likewise); 0: nowhere.
    pub reset_after_at: u32,
    /// The response, zero beyond `len`. Room for 8-byte stores at the end.
    pub bytes: [u8; MAX_TEXT + 8],
}

/// The map `SWEEP` (array, one entry): what the daemon asks of the program `limiter_sweep` and what
/// that answers. The program is run by the daemon with `BPF_PROG_TEST_RUN`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sweep {
    /// In: how long a flow may be silent before it is taken for dead, ns, by class of
    /// [`crate::flow::Idle`].
    pub idle_ns: [u64; 4],
    /// In: the recount at work. A flow that an earlier one was at last is added to the
    /// `recounted_*` of its scopes, and from then on adds to and takes from them what it adds to and
    /// takes from the counts themselves. New flows begin with this recount. At least 1.
    pub recount: u32,
    /// In: the check at work: local flows that no check of this number has named yet are named in
    /// `SUSPECTS`, as many as fit; 0: none are.
    pub check: u32,
    /// In: how long a flow must have been silent to be named, ns.
    pub suspect_ns: u64,
    /// Out: flows looked at.
    pub flows: u64,
    /// Out: of these, half open.
    pub handshakes: u64,
    /// Out: flows removed.
    pub removed: u64,
    /// Out: slots of requests in flight given back.
    pub slots: u64,
    /// Out: connection counts given back.
    pub connections: u64,
    /// Out: flows added to the recount.
    pub recounted: u64,
    /// Out: flows that could not be looked at, since a CPU held them.
    pub missed: u64,
    /// Out: flows named in `SUSPECTS`.
    pub suspects: u64,
}

/// How many flows a sweep can name in the map `SUSPECTS`.
pub const MAX_SUSPECTS: u32 = 4096;

/// An entry of the map `SUSPECTS` (array): a flow that has been silent, for the daemon to look
/// whether its socket is still there. Likewise the one entry of the map `FORGET`: what the program
/// `limiter_forget` is to remove.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Suspect {
    /// The flow.
    pub key: FlowKey,
    /// Zero, aligns.
    pub reserved: u32,
    /// Its `Flow::last_seen_ns`: it is removed only if that has not changed.
    pub last_seen_ns: u64,
    /// Out, in `FORGET`: slots of requests in flight given back.
    pub slots: u64,
    /// Out, in `FORGET`: connection counts given back.
    pub connections: u64,
    /// Out, in `FORGET`: 1, it was removed.
    pub removed: u64,
}

/// The value of the map `STRANGERS` (LRU hash by [`FlowKey`]): why a connection that is not followed
/// passes. Losing one costs nothing but that it is counted again.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stranger {
    /// 1: there was no room in `FLOWS` when it was opened; 0: it is older than the program.
    pub table_full: u32,
}

/// Names of the maps.
pub mod map {
    /// [`super::Config`].
    pub const CONFIG: &str = "CONFIG";
    /// [`super::Ports`].
    pub const PORTS: &str = "PORTS";
    /// [`super::Clock`].
    pub const CLOCK: &str = "CLOCK";
    /// [`super::KeyEntry`] by [`super::Digest`].
    pub const KEYS: &str = "KEYS";
    /// [`super::Limits`] by scope id.
    pub const LIMITS: &str = "LIMITS";
    /// [`super::ScopeState`] by scope id.
    pub const STATE: &str = "STATE";
    /// [`super::Flow`] by [`super::FlowKey`].
    pub const FLOWS: &str = "FLOWS";
    /// [`super::Tomb`] by [`super::FlowKey`].
    pub const TOMBS: &str = "TOMBS";
    /// [`super::Text`] by [`super::TextKey`].
    pub const TEXTS: &str = "TEXTS";
    /// u64 by [`super::counter`], per CPU.
    pub const COUNTERS: &str = "COUNTERS";
    /// [`super::Adopted`].
    pub const ADOPTED: &str = "ADOPTED";
    /// [`super::Sweep`].
    pub const SWEEP: &str = "SWEEP";
    /// [`super::Suspect`] by number.
    pub const SUSPECTS: &str = "SUSPECTS";
    /// [`super::Suspect`].
    pub const FORGET: &str = "FORGET";
    /// [`super::Stranger`] by [`super::FlowKey`].
    pub const STRANGERS: &str = "STRANGERS";
}

const _: () = {
    use core::mem::{align_of, offset_of, size_of};
    assert!(size_of::<FlowKey>() == 36);
    assert!(size_of::<KeyEntry>() == 16);
    assert!(size_of::<Limits>() == 48);
    assert!(size_of::<ScopeState>() == 128 && align_of::<ScopeState>() == 64);
    assert!(offset_of!(ScopeState, refused) == 64);
    assert!(size_of::<Outstanding>() == 8);
    assert!(size_of::<Tomb>() == 48);
    assert!(size_of::<Text>() == 16 + MAX_TEXT + 8);
    assert!(offset_of!(Flow, key) == 8 && offset_of!(Flow, last_seen_ns) == 48);
    assert!(offset_of!(Flow, records).is_multiple_of(8) && size_of::<Record>() == 16);
    assert!(size_of::<Flow>().is_multiple_of(8));
    assert!(size_of::<Suspect>() == 72 && offset_of!(Suspect, last_seen_ns) == 40);
    assert!(size_of::<Sweep>() == 112 && size_of::<Clock>() == 16);
    assert!(counter::NAMES.len() == counter::COUNT as usize);
};
