// SPDX-License-Identifier: MIT OR Apache-2.0

//! The parts of responses about limits of a scope's own.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::views::optional_time;
use crate::domain::limits::{Changes, LimitName, Override, Terms};

/// The override of a scope: its own limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverrideView {
    /// The limits that differ from those of the tier, with `null` for unlimited.
    #[serde(flatten)]
    pub limits: Map<String, Value>,
    /// The earliest end of these limits.
    #[serde(serialize_with = "optional_time")]
    pub until: Option<DateTime<Utc>>,
    /// The notes of these limits. Different notes are separated by semicolons.
    pub note: String,
    /// The end and the note of each limit.
    #[serde(default)]
    pub terms: BTreeMap<LimitName, TermsView>,
}

/// The end and the note of one limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TermsView {
    /// The time at which the limit of the tier applies again.
    #[serde(serialize_with = "optional_time")]
    #[schemars(with = "Option<DateTime<Utc>>")]
    pub until: Option<DateTime<Utc>>,
    /// The reason for the limit.
    pub note: String,
}

impl From<&Terms> for TermsView {
    fn from(terms: &Terms) -> Self {
        Self {
            until: terms.until,
            note: terms.note.clone(),
        }
    }
}

impl From<&Override> for OverrideView {
    fn from(own: &Override) -> Self {
        let mut notes: Vec<&str> = Vec::new();
        for terms in own.terms().values() {
            if !notes.contains(&terms.note.as_str()) {
                notes.push(&terms.note);
            }
        }
        Self {
            limits: limits_of(own.changes()),
            until: own.next_end(),
            note: notes.join("; "),
            terms: own
                .terms()
                .iter()
                .map(|(limit, terms)| (*limit, terms.into()))
                .collect(),
        }
    }
}

/// Returns the limits that `changes` contains, with `null` for unlimited.
fn limits_of(changes: &Changes) -> Map<String, Value> {
    let limits = LimitName::ALL
        .into_iter()
        .filter(|limit| changes.has(*limit));
    let values = limits.map(|limit| {
        let value = match changes.value(limit) {
            Value::String(text) if text == "unlimited" => Value::Null,
            other => other,
        };
        (limit.to_string(), value)
    });
    values.collect()
}

/// A setting of a scope that was replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Replaced {
    /// The name of a limit that is in force, or `tier`, or a limit with `.until` or `.note` for its
    /// end or note.
    pub what: String,
    /// The earlier value. For a limit, `null` means unlimited. For an end, it means that there was
    /// none.
    pub from: Value,
    /// The new value.
    pub to: Value,
}
