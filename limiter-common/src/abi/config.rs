// SPDX-License-Identifier: MIT OR Apache-2.0

//! The configuration that the daemon publishes to the kernel programs.

use super::Limits;
use crate::{fingerprint, http::Rules};

/// The values of the policies in [`Config`].
pub mod policy {
    /// Forward the request and count it.
    pub const PASS: u32 = 0;
    /// Refuse the request with a response, or with a reset if the connection does not carry HTTP
    /// yet.
    pub const REJECT: u32 = 1;
    /// `unknown_key` only: adopt each unknown key, which means that the key gets a scope of its
    /// own.
    pub const ADOPT: u32 = 2;
    /// `handshake` only: drop the acknowledgement that completes the handshake, so that the server
    /// receives it only with the client's first data.
    pub const DEFER: u32 = 3;
    /// `untracked` only: also forward untracked connections that cannot be older than the programs.
    pub const ANY: u32 = 4;
    /// `handshake` only: like `DEFER` for client addresses that were refused lately
    /// ([`super::Config::defer_for_ns`]), and like `PASS` for all others. A connection whose
    /// handshake was deferred may go on after its first request is refused
    /// ([`crate::abi::KEPT_HANDSHAKE_RATE`]).
    pub const AUTO: u32 = 5;

    /// `on_limit`: send the response and close the connection.
    pub const ON_LIMIT_CLOSE: u32 = 0;
    /// `on_limit`: reset the connection on both sides.
    pub const ON_LIMIT_RESET: u32 = 1;
    /// `on_limit`: drop the request.
    pub const ON_LIMIT_DROP: u32 = 2;
    /// `on_limit`: send the response and keep the connection open, if that is possible.
    pub const ON_LIMIT_KEEPALIVE: u32 = 3;
}

/// The value of the map `CONFIG` (array, one entry), which the daemon writes and the programs read.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Config {
    /// The rules for scanning requests.
    pub request_rules: Rules,
    /// The rules for scanning responses.
    pub response_rules: Rules,
    /// The policy for requests without a key: `policy::PASS` or `policy::REJECT`.
    pub missing_key: u32,
    /// The policy for requests with an unknown key: `policy::PASS`, `policy::REJECT` or
    /// `policy::ADOPT`.
    pub unknown_key: u32,
    /// The policy for malformed streams: `policy::PASS` or `policy::REJECT`.
    pub malformed: u32,
    /// The policy for untracked connections: `policy::PASS`, `policy::REJECT` or `policy::ANY`.
    pub untracked: u32,
    /// The policy for cases in which a table has no room: `policy::PASS` or `policy::REJECT`.
    pub table_full: u32,
    /// The policy for HTTP/2: `policy::PASS` or `policy::REJECT`. `REJECT` resets connections that
    /// begin with HTTP/2, and removes offers of HTTP/2 and TLS from the `Upgrade` fields of
    /// requests.
    pub http2: u32,
    /// The action for requests over a limit: `policy::ON_LIMIT_*`.
    pub on_limit: u32,
    /// 1 if requests that belong to no scope are never refused. (The requests of a scope are never
    /// refused if the limits of the scope have the flag `LIMITS_OBSERVE`.)
    pub observe: u32,
    /// The text set (see [`super::TextKey`]) for refusals that concern no scope (400, 401 and 405).
    pub common_texts: u32,
    /// The action for requests beyond [`Limits::allowed`] once [`super::Clock::attended_until_ns`]
    /// has passed. `policy::PASS` admits them up to the daily quota, and `policy::REJECT` refuses
    /// them.
    pub unattended: u32,
    /// The policy for TCP handshakes: `policy::PASS`, `policy::DEFER` or `policy::AUTO`.
    pub handshake: u32,
    /// The `skb->mark` of the packets that the programs send. The programs recognise their own
    /// packets by this mark, and let them through. It is not 0. It is random for each installation,
    /// because other processes that can set marks must not know it.
    pub own_mark: u32,
    /// The policy for CONNECT requests: `policy::PASS` or `policy::REJECT`.
    pub connect: u32,
    /// With `policy::AUTO`: the time for which handshakes of a client address are deferred after
    /// one of its requests was refused, in ns.
    pub defer_for_ns: u64,
    /// The initial [`crate::day::DayCount`] of an adopted scope (`policy::ADOPT`).
    pub adopt_count: u64,
    /// The limits of an adopted scope (`policy::ADOPT`).
    pub adopt_limits: Limits,
    /// The key of the fingerprints ([`crate::fingerprint`]), which is derived from
    /// `request_rules.hash_key`.
    pub fingerprint_key: [u64; fingerprint::KEY_WORDS],
}

/// The value of the map `PORTS` (array, one entry). Bit `port % 64` of the word `port / 64` is set
/// if the TCP port is guarded.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ports(pub [u64; 1024]);
