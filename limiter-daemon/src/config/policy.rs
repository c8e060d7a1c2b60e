// SPDX-License-Identifier: MIT OR Apache-2.0

//! The section `[policy]`, which states the action for each special case.

use std::time::Duration;

use super::{
    document::{Document, Section},
    interval::Interval,
    tiers::{TierName, Tiers},
};
use crate::{
    domain::mode::{MODES, Mode},
    suggest::did_you_mean,
};

/// The action for a request without a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissingKey {
    /// The request is admitted without a limit, and counted.
    Pass,
    /// The request gets 401.
    Reject,
}

/// The action for a request whose key is not registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnknownKey {
    /// The request is admitted without a limit, and counted.
    Pass,
    /// The request gets 401.
    Reject,
    /// Each unknown key gets a scope of its own, with this tier.
    Tier(TierName),
}

/// The action for a request that servers could interpret in different ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// The request gets 400, and the connection is closed.
    Reject,
    /// The connection continues without inspection, and is counted.
    Pass,
}

/// The action for a request that exceeds a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnLimit {
    /// The request gets 429, and the connection goes on if that is possible. Otherwise both sides
    /// are closed.
    Keepalive,
    /// The request gets 429, and both sides of the connection are closed.
    Close,
    /// Both sides of the connection get a RST.
    Reset,
    /// The request is dropped, and the client waits.
    Drop,
}

/// The action for untracked connections, whose beginning limiter has not seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Untracked {
    /// Connections that are older than limiter continue without inspection, and are counted. All
    /// other untracked connections are refused.
    Pass,
    /// All untracked connections are refused.
    Reject,
    /// All untracked connections continue without inspection, and are counted.
    Any,
}

/// The action for new connections while the table of flows is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableFull {
    /// The connections are refused.
    Reject,
    /// The connections continue without inspection, and are counted.
    Pass,
}

/// The action for connections that use HTTP/2 in clear text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Http2 {
    /// The connections continue without inspection, and are counted.
    Pass,
    /// Both sides of the connection get a RST. Offers of HTTP/2 in requests are overwritten.
    Reject,
}

/// The action for CONNECT requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connect {
    /// The request gets 405.
    Reject,
    /// The request is treated like any other, and the connection becomes a tunnel after a 2xx
    /// response.
    Pass,
}

/// The action for CORS preflight requests, which carry no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preflight {
    /// Preflight requests are admitted without a limit, and counted.
    Pass,
    /// Preflight requests are treated like other requests without a key.
    AsMissingKey,
}

/// The time at which the server sees a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handshake {
    /// The server sees the connection when the client completes the handshake.
    Pass,
    /// The server sees the connection when its first request is admitted, but after a second at the
    /// latest.
    Defer,
    /// Like [`Handshake::Defer`] for the connections of client addresses that were refused lately
    /// ([`Policy::defer_for`]), and like [`Handshake::Pass`] for all others. A connection whose
    /// handshake was deferred may go on after its first request is refused, and the server sees it
    /// then.
    Auto,
}

/// The section `[policy]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// See [`Mode`].
    pub mode: Mode,
    /// See [`MissingKey`].
    pub missing_key: MissingKey,
    /// See [`Preflight`].
    pub preflight: Preflight,
    /// See [`UnknownKey`].
    pub unknown_key: UnknownKey,
    /// See [`Malformed`].
    pub malformed: Malformed,
    /// See [`OnLimit`].
    pub on_limit: OnLimit,
    /// See [`Untracked`].
    pub untracked: Untracked,
    /// See [`TableFull`].
    pub table_full: TableFull,
    /// See [`Connect`].
    pub connect: Connect,
    /// See [`Http2`].
    pub http2: Http2,
    /// See [`Handshake`].
    pub handshake: Handshake,
    /// The time for which [`Handshake::Auto`] defers the handshakes of a client address after one
    /// of its requests was refused.
    pub defer_for: Interval,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            missing_key: MissingKey::Pass,
            preflight: Preflight::Pass,
            unknown_key: UnknownKey::Pass,
            malformed: Malformed::Reject,
            on_limit: OnLimit::Keepalive,
            untracked: Untracked::Pass,
            table_full: TableFull::Reject,
            connect: Connect::Reject,
            http2: Http2::Reject,
            handshake: Handshake::Auto,
            defer_for: Interval(Duration::from_secs(60)),
        }
    }
}

const ENTRIES: [&str; 12] = [
    "mode",
    "missing_key",
    "preflight",
    "unknown_key",
    "malformed",
    "on_limit",
    "untracked",
    "table_full",
    "connect",
    "http2",
    "handshake",
    "defer_for",
];

/// A policy that the file names with a single word.
trait Word: Copy + PartialEq + 'static {
    /// All words, each with the value that it stands for.
    const WORDS: &'static [(&'static str, Self)];

    /// Returns the word for this policy.
    fn as_str(self) -> &'static str {
        let found = Self::WORDS.iter().find(|(_, policy)| *policy == self);
        found.map_or("", |(word, _)| word)
    }
}

impl Word for MissingKey {
    const WORDS: &'static [(&'static str, Self)] =
        &[("pass", Self::Pass), ("reject", Self::Reject)];
}

impl Word for Preflight {
    const WORDS: &'static [(&'static str, Self)] =
        &[("pass", Self::Pass), ("as missing_key", Self::AsMissingKey)];
}

impl Word for Malformed {
    const WORDS: &'static [(&'static str, Self)] =
        &[("reject", Self::Reject), ("pass", Self::Pass)];
}

impl Word for OnLimit {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("keepalive", Self::Keepalive),
        ("close", Self::Close),
        ("reset", Self::Reset),
        ("drop", Self::Drop),
    ];
}

impl Word for Untracked {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("pass", Self::Pass),
        ("reject", Self::Reject),
        ("any", Self::Any),
    ];
}

impl Word for TableFull {
    const WORDS: &'static [(&'static str, Self)] =
        &[("reject", Self::Reject), ("pass", Self::Pass)];
}

impl Word for Connect {
    const WORDS: &'static [(&'static str, Self)] =
        &[("reject", Self::Reject), ("pass", Self::Pass)];
}

impl Word for Http2 {
    const WORDS: &'static [(&'static str, Self)] =
        &[("reject", Self::Reject), ("pass", Self::Pass)];
}

impl Word for Handshake {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("auto", Self::Auto),
        ("pass", Self::Pass),
        ("defer", Self::Defer),
    ];
}

impl Policy {
    pub(super) fn read<'a>(document: &mut Document<'a>, root: &Section<'a>, tiers: &Tiers) -> Self {
        let base = Self::default();
        let Some(section) = document.section(root, "policy") else {
            return base;
        };
        document.known(&section, &ENTRIES);
        Self {
            mode: document
                .choice(&section, "mode", &MODES)
                .unwrap_or(base.mode),
            missing_key: word(document, &section, "missing_key", base.missing_key),
            preflight: word(document, &section, "preflight", base.preflight),
            unknown_key: read_unknown_key(document, &section, tiers).unwrap_or(base.unknown_key),
            malformed: word(document, &section, "malformed", base.malformed),
            on_limit: word(document, &section, "on_limit", base.on_limit),
            untracked: word(document, &section, "untracked", base.untracked),
            table_full: word(document, &section, "table_full", base.table_full),
            connect: word(document, &section, "connect", base.connect),
            http2: read_http2(document, &section, base.http2),
            handshake: word(document, &section, "handshake", base.handshake),
            defer_for: Interval::read(document, &section, "defer_for", base.defer_for),
        }
    }

    /// Returns the name and the value of each entry in the section.
    pub fn entries(&self) -> Vec<(&'static str, String)> {
        let Self {
            mode,
            missing_key,
            preflight,
            unknown_key,
            malformed,
            on_limit,
            untracked,
            table_full,
            connect,
            http2,
            handshake,
            defer_for,
        } = self;
        let unknown_key = match unknown_key {
            UnknownKey::Pass => "pass".to_owned(),
            UnknownKey::Reject => "reject".to_owned(),
            UnknownKey::Tier(tier) => format!("tier:{tier}"),
        };
        vec![
            ("mode", mode.as_str().to_owned()),
            ("missing_key", missing_key.as_str().to_owned()),
            ("preflight", preflight.as_str().to_owned()),
            ("unknown_key", unknown_key),
            ("malformed", malformed.as_str().to_owned()),
            ("on_limit", on_limit.as_str().to_owned()),
            ("untracked", untracked.as_str().to_owned()),
            ("table_full", table_full.as_str().to_owned()),
            ("connect", connect.as_str().to_owned()),
            ("http2", http2.as_str().to_owned()),
            ("handshake", handshake.as_str().to_owned()),
            ("defer_for", defer_for.to_string()),
        ]
    }
}

/// Reads a policy that is a single word. Returns `default` if the entry is missing or invalid.
fn word<'a, T: Word>(
    document: &mut Document<'a>,
    section: &Section<'a>,
    name: &str,
    default: T,
) -> T {
    document.choice(section, name, T::WORDS).unwrap_or(default)
}

fn read_unknown_key<'a>(
    document: &mut Document<'a>,
    section: &Section<'a>,
    tiers: &Tiers,
) -> Option<UnknownKey> {
    let (text, entry) = document.string(section, "unknown_key")?;
    match text.as_str() {
        "pass" => return Some(UnknownKey::Pass),
        "reject" => return Some(UnknownKey::Reject),
        _ => {}
    }
    let Some(name) = text.strip_prefix("tier:") else {
        let message = format!(
            "`policy.unknown_key = \"{text}\"` is not one of \"pass\", \"reject\", \"tier:NAME\""
        );
        document.problem(&entry.span, message);
        return None;
    };
    if let Some(name) = tiers.names().find(|known| known.as_str() == name) {
        return Some(UnknownKey::Tier(name.clone()));
    }
    let hint = did_you_mean(name, tiers.names().map(TierName::as_str));
    let message = format!(
        "`policy.unknown_key`: there is no tier `{name}`{hint}; the tiers are {}",
        tiers.listed()
    );
    document.problem(&entry.span, message);
    None
}

/// Reads `http2`. Also accepts `reset`, the former word for `reject`.
fn read_http2<'a>(document: &mut Document<'a>, section: &Section<'a>, default: Http2) -> Http2 {
    match document.string(section, "http2") {
        Some((text, _)) if text == "reset" => Http2::Reject,
        Some(_) => word(document, section, "http2", default),
        None => default,
    }
}
