//! What the kernel programs and the daemon share: names, sizes and layouts of the BPF maps.
//!
//! Every type here is `repr(C)` with explicit, zeroed padding; `const` assertions pin the layout.
//! Any change to one of them is a change of [`ABI_VERSION`], which the pin directory carries.

use crate::{fingerprint, gcra, http::Rules};

/// The version of the map layout.
pub const ABI_VERSION: u32 = 5;

/// The largest number of bytes of a key.
pub const MAX_KEY: usize = 128;

/// No scope: a request that no scope is charged for.
pub const NO_SCOPE: u32 = u32::MAX;

/// `skb->mark` of packets that the ingress program itself sends, so that the egress program (and
/// the ingress program, for those it hands up) lets them by. ASCII "lmtr".
pub const OWN_MARK: u32 = 0x6c6d_7472;

pub mod counter;
mod flow;

pub use flow::*;

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
    /// `handshake` only: the server does not hear of a connection before it brings something.
    pub const DEFER: u32 = 3;

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
    /// What happens to requests beyond [`Limits::allowed`] when nobody has extended it until
    /// [`Clock::attended_until_ns`]: `policy::PASS` (up to the daily quota) or `policy::REJECT`.
    pub unattended: u32,
    /// `policy::PASS` or `policy::DEFER`.
    pub handshake: u32,
    /// `policy::ADOPT`: [`crate::day::DayCount`] that an adopted scope begins with.
    pub adopt_count: u64,
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
    /// `CLOCK_BOOTTIME` until which the daemon answers for its store: it has written what it had to
    /// write not long ago. Until then [`Limits::allowed`] is held against requests; later the daemon
    /// is away, or cannot write.
    pub attended_until_ns: u64,
}

/// Entry 0 of the map `UNUSED` (array of u64, `BPF_F_MMAPABLE`), a stack of the scope ids that
/// unknown keys can get: how many there are. Entry n is the n-th of them.
///
/// The programs take ids away, the daemon adds them. Each changes the number of changes too, so that
/// a compare-and-swap of the word fails whenever anything was taken or added since it was read.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unused(pub u64);

impl Unused {
    /// How many ids there are.
    #[inline(always)]
    #[must_use]
    pub const fn left(self) -> u32 {
        self.0 as u32
    }

    /// After a change: so many ids.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, left: u32) -> Self {
        let changes = ((self.0 >> 32) as u32).wrapping_add(1);
        Self(((changes as u64) << 32) | left as u64)
    }
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

/// The value of the map `LIMITS` (array by scope id, `BPF_F_MMAPABLE`): written by the daemon, word by
/// word. Likewise of the map `ENDED` (hash by scope id): what holds from `until_s` on.
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
    /// [`crate::day::DayCount`]: up to which count of which day the store knows. A request beyond it
    /// is held, dropped until it comes again, so that no crash makes a count forgotten.
    pub allowed: u64,
    /// What is allowed on a day of which the store knows nothing yet; 0: `allowed` is not held against
    /// requests.
    pub ahead: u32,
    /// UTC from which the entry in `ENDED` holds instead, s since the epoch; 0: never.
    pub until_s: u32,
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

/// What the programs tell the daemon through the map `EVENTS` (ring buffer).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// One of [`event`].
    pub kind: u32,
    /// The scope it is about.
    pub scope: u32,
    /// [`event::ADOPTED`]: the key; else zero.
    pub key: Digest,
}

/// Kinds of [`Event`].
pub mod event {
    /// The scope has used up much of what [`super::Limits::allowed`] allows it, or all, or has made
    /// its first request of the day.
    pub const ALLOWANCE: u32 = 1;
    /// The scope is that of an unknown key from now on.
    pub const ADOPTED: u32 = 2;
}

/// Bytes of the map `EVENTS`.
pub const EVENT_BYTES: u32 = 256 * 1024;

/// The map `SWITCH` (array of u64, one entry, `BPF_F_MMAPABLE`): which of two sets of maps is in force
/// while one takes the place of the other. It has a place in no layout: it is there for that time only,
/// and means the same for every version.
pub mod switch {
    /// The set that was there before.
    pub const OLD: u64 = 0;
    /// The new one.
    pub const NEW: u64 = 1;
    // Anything else is the `CLOCK_BOOTTIME` in ns until which neither is, while one is copied to the
    // other; from then on it is the old one again, which the first program that finds so says here.

    /// The map `PROGRAMS` (program array): this many programs of the old set, then those of the new one,
    /// in the order of the next four.
    pub const PROGRAMS: u32 = 4;
    /// Packets that arrive, on devices with Ethernet headers.
    pub const INGRESS: u32 = 0;
    /// Packets that leave, on devices with Ethernet headers.
    pub const EGRESS: u32 = 1;
    /// Packets that arrive, on devices without.
    pub const INGRESS_L3: u32 = 2;
    /// Packets that leave, on devices without.
    pub const EGRESS_L3: u32 = 3;
}

/// A refused request, in the map `REFUSALS` (ring buffer): so that the daemon can say whose it was. How
/// many there are the counters say, which count a refusal after it has been told here: whoever reads them
/// first and the ring then knows of each refusal that was told.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// `CLOCK_BOOTTIME`, ns.
    pub at_ns: u64,
    /// The key that the request carries; zero if there is none, or if it is not HTTP.
    pub key: Digest,
    /// The client's address, as in [`FlowKey`].
    pub client: [u32; 4],
    /// The scope that is over its limit, or [`NO_SCOPE`].
    pub scope: u32,
    /// One of [`reason`].
    pub reason: u32,
    /// The client's port, network byte order.
    pub client_port: u16,
    /// Zero, aligns.
    pub reserved: [u16; 3],
}

/// Bytes of the map `REFUSALS`: room for four thousand of them.
pub const REFUSAL_BYTES: u32 = 256 * 1024;

/// How often each CPU tells of refusals in the long run, and how many it may tell at once after a pause.
/// A flood costs the programs no more than a look at the clock for each request then; what is not told is
/// still counted.
pub const REFUSALS_TOLD: gcra::Rate = gcra::Rate {
    interval_ns: 1_000_000,
    tolerance_ns: 255 * 1_000_000,
};

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
    /// [`super::Limits`] by scope id.
    pub const ENDED: &str = "ENDED";
    /// [`super::ScopeState`] by scope id.
    pub const STATE: &str = "STATE";
    /// [`super::Event`]s.
    pub const EVENTS: &str = "EVENTS";
    /// [`super::Refused`] requests.
    pub const REFUSALS: &str = "REFUSALS";
    /// [`super::Flow`] by [`super::FlowKey`].
    pub const FLOWS: &str = "FLOWS";
    /// [`super::Tomb`] by [`super::FlowKey`].
    pub const TOMBS: &str = "TOMBS";
    /// [`super::Text`] by [`super::TextKey`].
    pub const TEXTS: &str = "TEXTS";
    /// u64 by [`super::counter`], per CPU.
    pub const COUNTERS: &str = "COUNTERS";
    /// [`super::Unused`], and ids.
    pub const UNUSED: &str = "UNUSED";
    /// [`super::Sweep`].
    pub const SWEEP: &str = "SWEEP";
    /// [`super::Suspect`] by number.
    pub const SUSPECTS: &str = "SUSPECTS";
    /// [`super::Suspect`].
    pub const FORGET: &str = "FORGET";
    /// [`super::Stranger`] by [`super::FlowKey`].
    pub const STRANGERS: &str = "STRANGERS";
    /// One of [`super::switch`].
    pub const SWITCH: &str = "SWITCH";
    /// Programs, see [`super::switch::PROGRAMS`].
    pub const PROGRAMS: &str = "PROGRAMS";
}

const _: () = {
    use core::mem::{align_of, offset_of, size_of};
    assert!(size_of::<FlowKey>() == 36);
    assert!(size_of::<KeyEntry>() == 16);
    assert!(size_of::<Limits>() == 64);
    assert!(size_of::<Event>() == 24);
    assert!(size_of::<Refused>() == 56 && offset_of!(Refused, client_port) == 48);
    assert!(size_of::<ScopeState>() == 128 && align_of::<ScopeState>() == 64);
    assert!(offset_of!(ScopeState, refused) == 64);
    assert!(size_of::<Outstanding>() == 8);
    assert!(size_of::<Tomb>() == 48);
    assert!(size_of::<Text>() == 16 + MAX_TEXT + 8);
    assert!(offset_of!(Flow, key) == 8 && offset_of!(Flow, last_seen_ns) == 48);
    assert!(offset_of!(Flow, records).is_multiple_of(8) && size_of::<Record>() == 16);
    assert!(size_of::<Flow>().is_multiple_of(8));
    assert!(size_of::<Suspect>() == 72 && offset_of!(Suspect, last_seen_ns) == 40);
    assert!(size_of::<Sweep>() == 112 && size_of::<Clock>() == 24);
    assert!(counter::NAMES.len() == counter::COUNT as usize);
};
