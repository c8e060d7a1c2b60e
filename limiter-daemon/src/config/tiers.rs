// SPDX-License-Identifier: MIT OR Apache-2.0

//! The sections `[tiers.NAME]`, which are named sets of limits.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

use super::document::{Document, Section};
use crate::domain::{
    bound::{BURST, CONCURRENCY, CONNECTIONS, DAILY_QUOTA, Range},
    limits::Limits,
    mode::{MODES, Mode},
    plain::{self, Shown},
};

/// The maximum length of a tier's name in bytes.
const MAX_NAME: usize = 32;

/// The name of a tier, which has 1 to 32 characters of `a-z 0-9 _ -`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct TierName(String);

impl TierName {
    /// Returns the name as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TierName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A named set of limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tier {
    /// The limits of scopes with this tier.
    pub limits: Limits,
    /// The mode of scopes with this tier, or `None` if `policy.mode` applies.
    pub mode: Option<Mode>,
}

/// All tiers by name. The tiers `master` and `profile` always exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tiers(BTreeMap<TierName, Tier>);

impl Default for Tiers {
    fn default() -> Self {
        let built_in = |name: &str, daily_quota: u64| {
            let limits = Limits {
                daily_quota: Some(daily_quota),
                rate: "1/ms".parse().ok(),
                burst: DEFAULT_BURST,
                concurrency: Some(DEFAULT_CONCURRENCY),
                connections: None,
            };
            (TierName(name.to_owned()), Tier { limits, mode: None })
        };
        Self(BTreeMap::from([
            built_in("master", 10_000),
            built_in("profile", 1_000),
        ]))
    }
}

/// The burst, in requests, of a tier whose section sets no burst. With this burst, two admitted
/// requests are never closer together than the interval of the rate.
const DEFAULT_BURST: u32 = 1;
/// The maximum number of requests in flight in the built-in tiers.
const DEFAULT_CONCURRENCY: u32 = 20;

const ENTRIES: [&str; 6] = [
    "daily_quota",
    "rate",
    "burst",
    "concurrency",
    "connections",
    "mode",
];

impl Tiers {
    /// Returns the tier with the name `name`.
    pub fn get(&self, name: &str) -> Option<&Tier> {
        self.0.get(&TierName(name.to_owned()))
    }

    /// Returns the names of all tiers, sorted.
    pub fn names(&self) -> impl Iterator<Item = &TierName> {
        self.0.keys()
    }

    /// Returns all tiers, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&TierName, &Tier)> {
        self.0.iter()
    }

    /// Returns the names of all tiers as one string, for a message.
    pub fn listed(&self) -> String {
        let names: Vec<&str> = self.names().map(TierName::as_str).collect();
        names.join(", ")
    }

    pub(super) fn read<'a>(document: &mut Document<'a>, root: &Section<'a>) -> Self {
        let mut tiers = Self::default();
        let Some(section) = document.section(root, "tiers") else {
            return tiers;
        };
        for (name, span) in section.names() {
            let well_formed = (1..=MAX_NAME).contains(&name.len())
                && name
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b));
            if !well_formed {
                let unseen = plain::check(&name).err();
                let unseen = unseen.map_or_else(String::new, |unseen| format!("{unseen}, and "));
                let message = format!(
                    "`{}` {unseen}is not the name of a tier: write 1 to {MAX_NAME} lower-case letters, digits, underscores or hyphens",
                    Shown(&name)
                );
                document.problem(&span, message);
                continue;
            }
            let Some(table) = document.section(&section, &name) else {
                continue;
            };
            let base = tiers.get(&name).copied();
            let tier = read_tier(document, &table, base);
            tiers.0.insert(TierName(name), tier);
        }
        tiers
    }
}

/// Reads a tier. A limit that the section does not set is taken from `base`, the built-in tier with
/// the same name. If there is no such tier, the limit is unlimited.
fn read_tier<'a>(document: &mut Document<'a>, table: &Section<'a>, base: Option<Tier>) -> Tier {
    document.known(table, &ENTRIES);
    let daily_quota = bound(document, table, DAILY_QUOTA);
    let rate = rate(document, table);
    let burst = document
        .integer(table, BURST.name, BURST.min, BURST.max)
        .and_then(|burst| u32::try_from(burst).ok());
    let concurrency = bound(document, table, CONCURRENCY);
    let connections = bound(document, table, CONNECTIONS);
    let mode = document.choice(table, "mode", &MODES);
    let narrow = |limit: Option<u64>| limit.and_then(|limit| u32::try_from(limit).ok());
    let base_limits = base.map(|tier| tier.limits);
    Tier {
        limits: Limits {
            daily_quota: daily_quota
                .or(base_limits.map(|l| l.daily_quota))
                .unwrap_or(None),
            rate: rate.or(base_limits.map(|l| l.rate)).unwrap_or(None),
            burst: burst
                .or(base_limits.map(|l| l.burst))
                .unwrap_or(DEFAULT_BURST),
            concurrency: concurrency
                .map(narrow)
                .or(base_limits.map(|l| l.concurrency))
                .unwrap_or(None),
            connections: connections
                .map(narrow)
                .or(base_limits.map(|l| l.connections))
                .unwrap_or(None),
        },
        mode: mode.or(base.and_then(|tier| tier.mode)),
    }
}

/// Reads a limit within `range`. Returns `Some(None)` for the word `"unlimited"`, and `None` if the
/// entry is missing or invalid.
fn bound<'a>(
    document: &mut Document<'a>,
    table: &Section<'a>,
    range: Range,
) -> Option<Option<u64>> {
    let entry = table.entry(range.name)?;
    if entry.is_string() {
        let text = document.text_of(&entry)?;
        if text == "unlimited" {
            return Some(None);
        }
        let message = format!(
            "`{} = \"{text}\"` is not a limit: give a whole number from {} to {} without quotes, or \"unlimited\"",
            entry.path, range.min, range.max
        );
        document.problem(&entry.span, message);
        return None;
    }
    document
        .integer(table, range.name, range.min, range.max)
        .map(Some)
}

fn rate<'a>(
    document: &mut Document<'a>,
    table: &Section<'a>,
) -> Option<Option<crate::domain::rate::Rate>> {
    let (text, entry) = document.string(table, "rate")?;
    if text == "unlimited" {
        return Some(None);
    }
    match text.parse() {
        Ok(rate) => Some(Some(rate)),
        Err(why) => {
            document.problem(&entry.span, format!("`{}`: {why}", entry.path));
            None
        }
    }
}
