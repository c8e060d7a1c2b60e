// SPDX-License-Identifier: MIT OR Apache-2.0

//! The interface between the kernel programs and the daemon: the names, sizes and layouts of the
//! BPF maps.
//!
//! Every type here is `repr(C)` and has explicit padding, which is zero. `const` assertions check
//! the layout. A change to any of these types requires a new [`ABI_VERSION`], which is part of the
//! name of the pin directory.

use crate::gcra;

/// The version of the map layout.
pub const ABI_VERSION: u32 = 8;

/// The maximum length of a key in bytes.
pub const MAX_KEY: usize = 128;

/// The scope id that stands for no scope, for example if a request is not charged to any.
pub const NO_SCOPE: u32 = u32::MAX;

mod config;
pub mod counter;
mod flow;
mod limits;
pub mod map;
pub mod reason;
mod refused;

pub use config::{Config, Ports, policy};
pub use flow::*;
pub use limits::{
    ENDS, Ended, LIMITS_IN_USE, LIMITS_LEASED, LIMITS_OBSERVE, Lease, Limits, REFUSED_ALL_DAY,
    UNLIMITED,
};
pub use refused::*;

/// The value of the map `CLOCK` (array, one entry).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// The number of nanoseconds to add to `CLOCK_BOOTTIME` to get `CLOCK_REALTIME` (UTC).
    pub utc_offset_ns: u64,
    /// The time on `CLOCK_BOOTTIME`, in ns, until which an untracked connection may be older than
    /// the programs. Until then, `policy::PASS` in `Config::untracked` admits untracked
    /// connections. The programs need this time on a gateway, which has no list of the connections
    /// that were open when the programs were attached.
    pub older_until_ns: u64,
    /// The time on `CLOCK_BOOTTIME`, in ns, until which untracked connections are refused
    /// regardless of `Config::untracked`. The daemon sets this time when half-open connections have
    /// been removed early to make room. Otherwise such a connection could be mistaken for one that
    /// is older than the programs.
    pub refuse_untracked_until_ns: u64,
    /// The maximum number of flows of one client address; 0 for no limit. There is a limit only
    /// while the table of flows is nearly full.
    pub client_share: u64,
    /// The time on `CLOCK_BOOTTIME`, in ns, until which the daemon's last complete write to the
    /// store is recent enough. Until then, [`Limits::allowed`] is enforced. A time in the past
    /// means that the daemon is not running or cannot write.
    pub attended_until_ns: u64,
}

/// Entry 0 of the map `UNUSED` (array of u64, `BPF_F_MMAPABLE`). The map is a stack of the scope
/// ids that can be given to unknown keys. The lower 32 bits of entry 0 are the number of ids on the
/// stack, and entry n is the n-th id.
///
/// The programs take ids off the stack, and the daemon adds ids. The upper 32 bits of entry 0 count
/// these changes. Therefore a compare-and-swap of entry 0 fails if an id has been taken or added
/// since the entry was read.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unused(pub u64);

impl Unused {
    /// Returns the number of ids on the stack.
    #[inline(always)]
    #[must_use]
    pub const fn left(self) -> u32 {
        self.0 as u32
    }

    /// Returns the value that replaces this value when an id is taken or added. `left` is the new
    /// number of ids on the stack.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, left: u32) -> Self {
        let changes = ((self.0 >> 32) as u32).wrapping_add(1);
        Self(((changes as u64) << 32) | left as u64)
    }
}

/// The key of the map `KEYS` (hash): the two halves of the SipHash-2-4-128 of the raw key.
pub type Digest = [u64; 2];

/// The value of the map `KEYS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyEntry {
    /// The scope that the key belongs to.
    pub scope: u32,
    /// `KEY_*` flags, and above [`KEY_END_SHIFT`] bits the end of the key in minutes since the Unix
    /// epoch (UTC), rounded up; 0 for no end. From then on, the key counts as disabled.
    pub flags: u32,
    /// The time of the last request with this key on `CLOCK_BOOTTIME`, in ns; 0 before the first
    /// request. The kernel programs write this field.
    pub last_used_ns: u64,
}

/// The key is disabled or revoked, and requests with it are answered with 401.
pub const KEY_DISABLED: u32 = 1;
/// The key was unknown, and the programs adopted it.
pub const KEY_ADOPTED: u32 = 2;

/// The number of bits of [`KeyEntry::flags`] below the end of the key.
pub const KEY_END_SHIFT: u32 = 4;
const MINUTE_S: u64 = 60;

impl KeyEntry {
    /// Returns the bits of [`Self::flags`] for an end in seconds since the Unix epoch. An end that
    /// they cannot hold (after the year 2480) is left to the daemon.
    #[must_use]
    pub const fn end_bits(end_s: u64) -> u32 {
        let minutes = end_s.div_ceil(MINUTE_S);
        if minutes >> (u32::BITS - KEY_END_SHIFT) == 0 {
            (minutes as u32) << KEY_END_SHIFT
        } else {
            0
        }
    }

    /// Returns whether a key with these `flags` is disabled or has ended at `utc_ns`, a time in ns
    /// since the Unix epoch.
    #[inline(always)]
    #[must_use]
    pub const fn is_disabled(flags: u32, utc_ns: u64) -> bool {
        let end = (flags >> KEY_END_SHIFT) as u64;
        flags & KEY_DISABLED != 0 || (end != 0 && utc_ns >= end * MINUTE_S * 1_000_000_000)
    }
}

/// The value of the map `STATE` (array by scope id, `BPF_F_MMAPABLE`).
///
/// The kernel programs change this value only with atomic operations, and the daemon must do the
/// same through its mapping. The decision on a request uses only the first 64 bytes.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScopeState {
    /// The theoretical arrival time of the next request ([`crate::gcra`]), in ns on the boot clock.
    pub tat_ns: u64,
    /// The current day and its count, as a [`crate::day::DayCount`].
    pub day_count: u64,
    /// The number of admitted requests whose responses have not been sent completely.
    pub in_flight: u64,
    /// The number of open connections that have used a key of the scope.
    pub connections: u64,
    /// The number of requests that have been admitted since the map was created.
    pub admitted: u64,
    /// The id of the recount ([`Sweep::recount`]) to which the next two fields belong; 0 if there
    /// is none.
    pub recount: u64,
    /// The value that `in_flight` should have, counting only the flows that the recount has
    /// visited.
    pub recounted_in_flight: u64,
    /// The value that `connections` should have, counting only the flows that the recount has
    /// visited.
    pub recounted_connections: u64,
    /// The number of requests that have been refused since the map was created, by [`reason`].
    pub refused: [u64; reason::LIMITS as usize],
    /// The number of requests since the map was created that would have been refused without
    /// observe mode, by [`reason`].
    pub would_refuse: [u64; reason::LIMITS as usize],
}

/// The maximum size of a response in bytes. A response of this size fits into one segment on every
/// IPv6 path (RFC 8200, section 5).
pub const MAX_TEXT: usize = 1024;

/// The key of the map `TEXTS` (hash).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TextKey {
    /// The id of the text set. There is one text set for each distinct set of limits.
    pub set: u32,
    /// One of [`reason`].
    pub reason: u32,
}

/// The value of the map `TEXTS`: a complete response that the daemon has prepared.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Text {
    /// The size of the status line and the fields in bytes, including the empty line.
    pub head_len: u32,
    /// The size of the head and the body in bytes, at most `MAX_TEXT`.
    pub len: u32,
    /// The offset, in bytes, of the number of seconds in `Retry-After` (eight bytes: digits, then
    /// spaces); 0 if the response does not state it.
    pub retry_after_at: u32,
    /// The offset, in bytes, of the number of seconds in the parameter `t` of `RateLimit` (also
    /// eight bytes); 0 if the response does not state it.
    pub reset_after_at: u32,
    /// The offset, in bytes, of the value of `Connection`, which is `keep-alive`. If the connection
    /// is closed after the response, the value is replaced by `close` after five spaces. The offset
    /// is 0 if every connection is closed after this response.
    pub connection_at: u32,
    /// Padding, 0.
    pub reserved: u32,
    /// The response, followed by zeros from `len` on. The array is eight bytes longer than
    /// `MAX_TEXT`, so that an 8-byte store at any offset up to `MAX_TEXT` stays within it.
    pub bytes: [u8; MAX_TEXT + 8],
}

/// The number of classes in [`crate::flow::Idle`].
pub const IDLE_CLASSES: usize = 5;

/// The map `SWEEP` (array, one entry) holds the parameters and the results of the program
/// `limiter_sweep`. The daemon runs that program with `BPF_PROG_TEST_RUN`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sweep {
    /// In: the duration of silence after which a flow counts as dead, in ns, by class of
    /// [`crate::flow::Idle`].
    pub idle_ns: [u64; IDLE_CLASSES],
    /// In: the id of the current recount, at least 1. A flow that was last visited by an earlier
    /// recount is added to the `recounted_*` fields of its scopes. From then on, each change that
    /// the flow makes to `in_flight` and `connections` is also made to the `recounted_*` fields.
    /// New flows begin with the id of the current recount.
    pub recount: u32,
    /// In: the id of the current check; 0 if no flow is to be listed. The sweep lists in `SUSPECTS`
    /// the silent local flows that the check has not listed before, as many as fit.
    pub check: u32,
    /// In: the duration of silence after which a flow is listed, in ns.
    pub suspect_ns: u64,
    /// In: the id of the current census, which counts the flows of each client address in
    /// `CLIENTS`; 0 if there is no census.
    pub census: u64,
    /// Out: the number of flows that were visited.
    pub flows: u64,
    /// Out: the number of half-open flows among the visited flows.
    pub handshakes: u64,
    /// Out: the number of flows that were removed.
    pub removed: u64,
    /// Out: the number of slots of requests in flight that were released.
    pub slots: u64,
    /// Out: how many times a removed flow was subtracted from the `connections` of a scope.
    pub connections: u64,
    /// Out: the number of flows that were added to the recount.
    pub recounted: u64,
    /// Out: the number of flows that could not be visited because another CPU held their lock.
    pub missed: u64,
    /// Out: the number of flows that were listed in `SUSPECTS`.
    pub suspects: u64,
    /// Out: the number of flows whose connection the server has not confirmed, excluding half-open
    /// flows.
    pub unconfirmed: u64,
    /// Out: the number of flows that were removed because their client address held more than its
    /// share.
    pub over_share: u64,
    /// Out: the number of untracked connections in the map `UNTRACKED`.
    pub untracked: u64,
}

/// The maximum number of flows that a sweep can list in the map `SUSPECTS`.
pub const MAX_SUSPECTS: u32 = 4096;

/// An entry of the map `SUSPECTS` (array): a silent flow whose socket the daemon looks for. The
/// only entry of the map `FORGET` also has this type, and names the flow that the program
/// `limiter_forget` removes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Suspect {
    /// The key of the flow.
    pub key: FlowKey,
    /// Padding, zero.
    pub reserved: u32,
    /// The value of [`Flow::last_seen_ns`] when the flow was listed. The flow is removed only if
    /// this time has not changed.
    pub last_seen_ns: u64,
    /// Out, in `FORGET`: the number of slots of requests in flight that were released.
    pub slots: u64,
    /// Out, in `FORGET`: the number of scopes from whose `connections` the flow was subtracted.
    pub connections: u64,
    /// Out, in `FORGET`: 1 if the flow was removed.
    pub removed: u64,
}

/// The value of the map `UNTRACKED` (hash by [`FlowKey`] with [`Link::NONE`]): a connection that is
/// let through without being followed, and the reason.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UntrackedConnection {
    /// One of [`untracked_kind`].
    pub kind: u32,
    /// `UNTRACKED_*` flags.
    pub flags: u32,
    /// The time of the client's last packet on `CLOCK_MONOTONIC_COARSE`, in ns.
    pub last_seen_ns: u64,
}

/// The reasons for which a connection is not followed.
pub mod untracked_kind {
    /// The connection is, or may be, older than the programs.
    pub const OLDER: u32 = 0;
    /// `FLOWS` was full when the connection was opened.
    pub const TABLE_FULL: u32 = 1;
    /// The connection was opened from a guarded port. The guarded side is its client, and therefore
    /// the incoming bytes are not requests.
    pub const OUTBOUND: u32 = 2;
}

/// The connection has been counted.
pub const UNTRACKED_COUNTED: u32 = 1;
/// One side has ended the connection.
pub const UNTRACKED_ENDING: u32 = 2;

/// The key of the map `CLIENTS` (LRU hash): a client's address as in [`FlowKey`]. Only the first 64
/// bits of an IPv6 address are used, because all addresses that share them are assigned to one
/// client (RFC 6177).
pub type ClientKey = [u32; 4];

/// The value of the map `CLIENTS`: the number of flows that a client address holds. If an entry is
/// evicted, its address can exceed its share until the next census.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// The id of the census that counted the flows ([`Sweep::census`]).
    pub census: u64,
    /// The number of flows, including the flows that have been opened since the census.
    pub flows: u64,
}

/// The value of the map `REFUSED` (LRU hash by [`ClientKey`]): a client address whose requests were
/// refused. If an entry is evicted, the address counts as one that was never refused.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RefusedClient {
    /// The time of the last refusal on `CLOCK_MONOTONIC_COARSE`, in ns.
    pub refused_ns: u64,
    /// The theoretical arrival time ([`crate::gcra`]) of the next connection that goes on although
    /// its first request was refused, in ns on the same clock.
    pub kept_ns: u64,
}

/// The rate of connections of one client address that go on although their handshake was deferred
/// and their first request was refused: 20 per second, and 50 at once after a pause. The server's
/// application does not see connections beyond this rate. A client that keeps its connections
/// therefore gets all of them within seconds, and a client that reconnects for each request costs
/// its server no more than this.
pub const KEPT_HANDSHAKE_RATE: gcra::Rate = gcra::Rate {
    interval_ns: 50_000_000,
    tolerance_ns: 49 * 50_000_000,
};

/// A message from the programs to the daemon in the map `EVENTS` (ring buffer).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// One of [`event`].
    pub kind: u32,
    /// The scope that the event is about.
    pub scope: u32,
    /// The digest of the key for [`event::ADOPTED`]; otherwise zero.
    pub key: Digest,
}

/// The kinds of [`Event`].
pub mod event {
    /// The scope has made its first request of the day, has used up a large part of its allowance
    /// ([`super::Limits::allowed`]), or has a request that must wait until the daemon extends the
    /// allowance.
    pub const ALLOWANCE: u32 = 1;
    /// The scope has been given to an unknown key.
    pub const ADOPTED: u32 = 2;
}

/// The size of the map `EVENTS` in bytes.
pub const EVENT_BYTES: u32 = 256 * 1024;

/// The map `SWITCH` (array of u64, one entry, `BPF_F_MMAPABLE`) states which of two sets of maps is
/// in force while a new set replaces an old one. It exists only during that time. It belongs to no
/// layout version, and has the same meaning in all versions.
pub mod switch {
    /// The old set is in force.
    pub const OLD: u64 = 0;
    /// The new set is in force.
    pub const NEW: u64 = 1;
    // Any other value is a time on `CLOCK_BOOTTIME` in ns. Before this time, neither set is in
    // force, because the daemon is copying one set to the other. After this time, the old set is in
    // force again, and the first program that runs then stores `OLD` here.

    /// The map `PROGRAMS` (program array) contains this number of programs of the old set, followed
    /// by the same number of programs of the new set. Both groups are in the order of the constants
    /// `INGRESS` to `EGRESS_L3`.
    pub const PROGRAMS: u32 = 4;
    /// The program for packets that arrive on devices with Ethernet headers.
    pub const INGRESS: u32 = 0;
    /// The program for packets that leave by devices with Ethernet headers.
    pub const EGRESS: u32 = 1;
    /// The program for packets that arrive on devices without Ethernet headers.
    pub const INGRESS_L3: u32 = 2;
    /// The program for packets that leave by devices without Ethernet headers.
    pub const EGRESS_L3: u32 = 3;
}

/// The record of a refused request in the map `REFUSALS` (ring buffer). The daemon uses these
/// records to report the keys and the clients whose requests were refused. It takes the number of
/// refusals from the counters, because not every refusal has a record (see
/// [`REFUSAL_RECORD_RATE`]). A program writes the record of a refusal before it increments the
/// counter. Therefore a reader that reads the counters before the ring buffer misses no record of a
/// counted refusal.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RefusalRecord {
    /// The time of the refusal on `CLOCK_BOOTTIME`, in ns.
    pub at_ns: u64,
    /// The digest of the key that counts; zero if the request has no key or is not HTTP.
    pub key: Digest,
    /// The client's address, as in [`FlowKey`].
    pub client: [u32; 4],
    /// The scope that is over its limit, or [`NO_SCOPE`].
    pub scope: u32,
    /// One of [`reason`].
    pub reason: u32,
    /// The client's port, in network byte order.
    pub client_port: u16,
    /// Padding, zero.
    pub reserved: [u16; 3],
}

/// The size of the map `REFUSALS` in bytes, which is enough for four thousand records.
pub const REFUSAL_BYTES: u32 = 256 * 1024;

/// The maximum rate at which each CPU writes refusal records: 1000 records per second, and up to
/// 256 records at once after a pause. Because of this limit, most refusals during a flood cost the
/// programs only a read of the clock. Refusals without a record are still counted.
pub const REFUSAL_RECORD_RATE: gcra::Rate = gcra::Rate {
    interval_ns: 1_000_000,
    tolerance_ns: 255 * 1_000_000,
};

const _: () = {
    use core::mem::{align_of, offset_of, size_of};
    assert!(size_of::<FlowKey>() == 44 && size_of::<Link>() == 8);
    assert!(size_of::<KeyEntry>() == 16);
    assert!(size_of::<Event>() == 24);
    assert!(size_of::<RefusalRecord>() == 56 && offset_of!(RefusalRecord, client_port) == 48);
    assert!(size_of::<ScopeState>() == 128 && align_of::<ScopeState>() == 64);
    assert!(offset_of!(ScopeState, refused) == 64);
    assert!(size_of::<UnfinishedKey>() == 48 && size_of::<crate::http::Unfinished>() == 384);
    // With its key and the kernel's descriptions of the entry and of its memory (104 bytes), an
    // entry fits into an object of 2 KiB, which is what the kernel allocates for it.
    assert!(size_of::<FlowEntry>() <= 2048 - 104);
    assert!(
        size_of::<Tomb>() == 72
            && size_of::<UntrackedConnection>() == 16
            && size_of::<Client>() == 16
            && size_of::<RefusedClient>() == 16
    );
    assert!(size_of::<Text>() == 24 + MAX_TEXT + 8);
    assert!(offset_of!(FlowEntry, flow) == 8);
    assert!(offset_of!(Flow, key) == 0 && offset_of!(Flow, last_seen_ns) == 48);
    assert!(offset_of!(Flow, held_since) == 348 && offset_of!(Flow, part) == 352);
    assert!(offset_of!(Flow, records).is_multiple_of(8) && size_of::<Record>() == 16);
    assert!(size_of::<Flow>().is_multiple_of(8) && OFFERS.is_power_of_two());
    assert!(size_of::<Suspect>() == 80 && offset_of!(Suspect, last_seen_ns) == 48);
    assert!(size_of::<Sweep>() == 152 && size_of::<Clock>() == 40);
    assert!(counter::NAMES.len() == counter::COUNT as usize);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_ends_with_the_minute_of_its_end() {
        const SECOND_NS: u64 = 1_000_000_000;
        for (end_s, last_s) in [
            (60, 59),
            (61, 119),
            (120, 119),
            (1_800_000_001, 1_800_000_059),
        ] {
            let flags = KeyEntry::end_bits(end_s) | KEY_ADOPTED;
            assert!(!KeyEntry::is_disabled(
                flags,
                last_s * SECOND_NS + SECOND_NS - 1
            ));
            assert!(
                KeyEntry::is_disabled(flags, (last_s + 1) * SECOND_NS),
                "{end_s}"
            );
        }
        let last_s = ((1 << (u32::BITS - KEY_END_SHIFT)) - 1) * MINUTE_S;
        assert!(KeyEntry::is_disabled(
            KeyEntry::end_bits(last_s),
            last_s * SECOND_NS
        ));
        assert_eq!(KeyEntry::end_bits(last_s + 1), 0);
        assert!(KeyEntry::is_disabled(KEY_DISABLED, 0));
        assert!(!KeyEntry::is_disabled(0, u64::MAX));
    }
}
