//! `[tiers.NAME]`: named limits.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

use super::{
    document::{Document, Section},
    policy::{MODES, Mode},
};
use crate::limits::{BURST, CONCURRENCY, CONNECTIONS, DAILY_QUOTA, Limits, Range};

/// Longest tier name, in bytes.
const MAX_NAME: usize = 32;

/// A tier's name: 1 to 32 of `a-z 0-9 _ -`, not `unlimited`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct TierName(String);

impl TierName {
    /// The name as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TierName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Named limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tier {
    /// What its scopes may do.
    pub limits: Limits,
    /// `None` follows `policy.mode`.
    pub mode: Option<Mode>,
}

/// All tiers by name; `master` and `profile` are always there.
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

/// The burst of a tier that names none, requests: no two admitted requests closer than the
/// rate's interval.
const DEFAULT_BURST: u32 = 1;
/// The concurrency of a tier that names none, requests in flight: that of the built-in tiers.
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
    /// The tier of that name.
    pub fn get(&self, name: &str) -> Option<&Tier> {
        self.0.get(&TierName(name.to_owned()))
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &TierName> {
        self.0.keys()
    }

    /// All tiers, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&TierName, &Tier)> {
        self.0.iter()
    }

    /// The names in a sentence.
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
                let message = format!(
                    "`{name}` is not a tier's name: 1 to {MAX_NAME} lower-case letters, digits, underscores or hyphens"
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

/// A tier over `base`, its built-in values. A tier of the operator's own has none: what it does not
/// name is not limited.
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

/// A number within `range` or `"unlimited"`; the outer `None` when it is not there or wrong.
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
            "`{} = \"{text}\"` is not a limit: a whole number from {} to {} without quotes, or \"unlimited\"",
            entry.path, range.min, range.max
        );
        document.problem(&entry.span, message);
        return None;
    }
    document
        .integer(table, range.name, range.min, range.max)
        .map(Some)
}

fn rate<'a>(document: &mut Document<'a>, table: &Section<'a>) -> Option<Option<crate::rate::Rate>> {
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
