//! `[policy]`: what happens in each case.

use super::{
    document::{Document, Section},
    tiers::{TierName, Tiers},
};
use crate::suggest::did_you_mean;

/// Whether limits are enforced or only counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Refuse what is over a limit.
    Enforce,
    /// Count what would be refused, refuse nothing.
    Observe,
}

impl Mode {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
        }
    }

    /// The mode of that name.
    pub fn named(name: &str) -> Option<Self> {
        MODES
            .into_iter()
            .find_map(|(word, mode)| (word == name).then_some(mode))
    }
}

/// A request without a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissingKey {
    /// Let it go on, unlimited and counted.
    Pass,
    /// 401.
    Reject,
}

/// A request with a key that is not registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnknownKey {
    /// Let it go on, unlimited and counted.
    Pass,
    /// 401.
    Reject,
    /// Each such key is a scope of its own, of this tier.
    Tier(TierName),
}

/// A request that servers disagree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// 400 and close.
    Reject,
    /// Let the connection go on, uninspected and counted.
    Pass,
}

/// How a request over a limit is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnLimit {
    /// 429, then both sides are closed.
    Close,
    /// RST to both sides.
    Reset,
    /// Nothing: the client waits.
    Drop,
}

/// Connections older than the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Untracked {
    /// Let them go on, uninspected and counted.
    Pass,
    /// Refuse them.
    Reject,
}

/// Connections that the full flow table has no room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableFull {
    /// Refuse them.
    Reject,
    /// Let them go on, uninspected and counted.
    Pass,
}

/// Connections that speak HTTP/2 in clear text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Http2 {
    /// Let them go on, uninspected and counted.
    Pass,
    /// RST to both sides.
    Reset,
}

/// When a server hears of a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handshake {
    /// As its client completes the handshake.
    Pass,
    /// With the first request, unless that is refused; after a second in any case.
    Defer,
}

/// The whole section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// See [`Mode`].
    pub mode: Mode,
    /// See [`MissingKey`].
    pub missing_key: MissingKey,
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
    /// See [`Http2`].
    pub http2: Http2,
    /// See [`Handshake`].
    pub handshake: Handshake,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            missing_key: MissingKey::Pass,
            unknown_key: UnknownKey::Pass,
            malformed: Malformed::Reject,
            on_limit: OnLimit::Close,
            untracked: Untracked::Pass,
            table_full: TableFull::Reject,
            http2: Http2::Pass,
            handshake: Handshake::Pass,
        }
    }
}

pub(super) const MODES: [(&str, Mode); 2] =
    [("enforce", Mode::Enforce), ("observe", Mode::Observe)];

const ENTRIES: [&str; 9] = [
    "mode",
    "missing_key",
    "unknown_key",
    "malformed",
    "on_limit",
    "untracked",
    "table_full",
    "http2",
    "handshake",
];

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
            missing_key: document
                .choice(
                    &section,
                    "missing_key",
                    &[("pass", MissingKey::Pass), ("reject", MissingKey::Reject)],
                )
                .unwrap_or(base.missing_key),
            unknown_key: read_unknown_key(document, &section, tiers).unwrap_or(base.unknown_key),
            malformed: document
                .choice(
                    &section,
                    "malformed",
                    &[("reject", Malformed::Reject), ("pass", Malformed::Pass)],
                )
                .unwrap_or(base.malformed),
            on_limit: read_on_limit(document, &section).unwrap_or(base.on_limit),
            untracked: document
                .choice(
                    &section,
                    "untracked",
                    &[("pass", Untracked::Pass), ("reject", Untracked::Reject)],
                )
                .unwrap_or(base.untracked),
            table_full: document
                .choice(
                    &section,
                    "table_full",
                    &[("reject", TableFull::Reject), ("pass", TableFull::Pass)],
                )
                .unwrap_or(base.table_full),
            http2: document
                .choice(
                    &section,
                    "http2",
                    &[("pass", Http2::Pass), ("reset", Http2::Reset)],
                )
                .unwrap_or(base.http2),
            handshake: document
                .choice(
                    &section,
                    "handshake",
                    &[("pass", Handshake::Pass), ("defer", Handshake::Defer)],
                )
                .unwrap_or(base.handshake),
        }
    }
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
        "`policy.unknown_key`: there is no tier `{name}`{hint}; tiers are {}",
        tiers.listed()
    );
    document.problem(&entry.span, message);
    None
}

fn read_on_limit<'a>(document: &mut Document<'a>, section: &Section<'a>) -> Option<OnLimit> {
    const CHOICES: [(&str, OnLimit); 3] = [
        ("close", OnLimit::Close),
        ("reset", OnLimit::Reset),
        ("drop", OnLimit::Drop),
    ];
    let (text, entry) = document.string(section, "on_limit")?;
    if text == "keepalive" {
        let message = "`policy.on_limit = \"keepalive\"` is not available yet: use \"close\"";
        document.problem(&entry.span, message);
        return None;
    }
    document.choice(section, "on_limit", &CHOICES)
}
