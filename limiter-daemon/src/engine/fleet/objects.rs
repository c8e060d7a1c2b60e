// SPDX-License-Identifier: MIT OR Apache-2.0

//! The objects of the registry that the hosts of a fleet share: scopes and keys, as JSON.
//!
//! A field that this version does not know is ignored, so that hosts can be upgraded one after the
//! other.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use limiter_common::abi::Digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    domain::{
        key_state::KeyState,
        limits::{Changes, LimitName, Override, Terms},
        mode::Mode,
        scope::ScopeName,
    },
    engine::caller::Caller,
    store::{KeyRecord, ScopeRecord},
};

/// The change that gave an object its present value, for the audit trails of the other hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    /// The time of the change, in milliseconds since 1970.
    pub(crate) at: i64,
    /// The author and the host, like `root on web-17`.
    pub(crate) who: String,
    /// The reason that the author gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<String>,
}

impl Origin {
    pub(crate) fn of(caller: &Caller, note: Option<&str>) -> Self {
        Self {
            at: caller.now.timestamp_millis(),
            who: caller.who.clone(),
            note: note.map(ToOwned::to_owned),
        }
    }
}

/// A scope in the registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ScopeObject {
    /// Whether the scope has been removed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) removed: bool,
    pub(crate) tier: String,
    /// The time at which the scope was added, in milliseconds since 1970.
    pub(crate) created: i64,
    /// The limits of the scope's own, by their names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) limits: BTreeMap<String, LimitObject>,
    /// The scope's own mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mode: Option<String>,
    /// The generation of the counts, which each reset raises.
    #[serde(default)]
    pub(crate) generation: u64,
    pub(crate) origin: Origin,
}

/// A limit of a scope's own in the registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LimitObject {
    pub(crate) value: Value,
    /// The time at which the limit ends, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<i64>,
    pub(crate) note: String,
}

/// A key in the registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeyObject {
    pub(crate) id: String,
    pub(crate) scope: ScopeName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) label: Option<String>,
    pub(crate) state: KeyState,
    /// The time at which the key is revoked automatically, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<i64>,
    /// The time at which the key was registered, in milliseconds since 1970.
    pub(crate) created: i64,
    pub(crate) origin: Origin,
}

/// The name of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ObjectName {
    Scope(ScopeName),
    Key(Digest),
}

impl ObjectName {
    /// Reads the name of an object. Returns `None` for an object of another kind, which a newer
    /// version may have made.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text.split_once(':')? {
            ("s", name) => Some(Self::Scope(name.parse().ok()?)),
            ("k", digits) if digits.len() == 32 => {
                let half = |digits| u64::from_str_radix(digits, 16).ok();
                let (first, second) = digits.split_at_checked(16)?;
                Some(Self::Key([half(first)?, half(second)?]))
            }
            _ => None,
        }
    }
}

impl std::fmt::Display for ObjectName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Scope(name) => write!(f, "s:{name}"),
            Self::Key([first, second]) => write!(f, "k:{first:016x}{second:016x}"),
        }
    }
}

/// The new value of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewValue {
    pub(crate) name: ObjectName,
    pub(crate) value: String,
}

impl ScopeObject {
    pub(crate) fn of(record: &ScopeRecord, origin: Origin) -> Self {
        let limits = record.limits_override.iter().flat_map(|own| {
            own.terms().iter().map(|(limit, terms)| {
                let object = LimitObject {
                    value: own.changes().value(*limit),
                    until: terms.until.map(|until| until.timestamp_millis()),
                    note: terms.note.clone(),
                };
                (limit.to_string(), object)
            })
        });
        Self {
            removed: false,
            tier: record.tier.clone(),
            created: record.created_at.timestamp_millis(),
            limits: limits.collect(),
            mode: record.mode.map(|mode| mode.as_str().to_owned()),
            generation: record.generation,
            origin,
        }
    }

    /// Returns the limits of the scope's own, if it has any. A limit that this version does not
    /// know, or whose value it does not accept, is left out.
    pub(crate) fn limits_override(&self) -> Option<Override> {
        let mut own = Override::default();
        for (name, object) in &self.limits {
            let Some(limit) = LimitName::named(name) else {
                continue;
            };
            if let Ok(changes) = Changes::of(limit, object.value.clone()) {
                let until = object.until.and_then(DateTime::from_timestamp_millis);
                let note = object.note.clone();
                own.set(limit, &changes, Terms { until, note });
            }
        }
        own.non_empty()
    }

    /// Returns the record of the scope, without an id.
    pub(crate) fn record(&self, name: &ScopeName) -> ScopeRecord {
        ScopeRecord {
            limits_override: self.limits_override(),
            mode: self.mode.as_deref().and_then(Mode::named),
            generation: self.generation,
            ..ScopeRecord::new(0, name.clone(), self.tier.clone(), time(self.created))
        }
    }

    pub(crate) fn value(&self, name: &ScopeName) -> NewValue {
        new_value(ObjectName::Scope(name.clone()), self)
    }
}

impl KeyObject {
    pub(crate) fn of(record: &KeyRecord, origin: Origin) -> Self {
        Self {
            id: record.id.clone(),
            scope: record.scope.clone(),
            label: record.label.clone(),
            state: record.state,
            until: record.until.map(|until| until.timestamp_millis()),
            created: record.created_at.timestamp_millis(),
            origin,
        }
    }

    /// Returns the state of the key at `now`. At its end, each host revokes it by itself.
    pub(crate) fn state_at(&self, now: DateTime<Utc>) -> KeyState {
        let has_ended = self
            .until
            .is_some_and(|until| until <= now.timestamp_millis());
        if has_ended {
            KeyState::Revoked
        } else {
            self.state
        }
    }

    pub(crate) fn value(&self, digest: Digest) -> NewValue {
        new_value(ObjectName::Key(digest), self)
    }

    /// Returns the record of the key. `scope_id` is the id of its scope on this host.
    pub(crate) fn record(&self, digest: Digest, scope_id: Option<u32>) -> KeyRecord {
        KeyRecord {
            id: self.id.clone(),
            scope: self.scope.clone(),
            scope_id,
            digest,
            label: self.label.clone(),
            state: self.state,
            created_at: time(self.created),
            last_used_at: None,
            until: self.until.and_then(DateTime::from_timestamp_millis),
            revoked_at: None,
        }
    }
}

fn new_value(name: ObjectName, object: &impl Serialize) -> NewValue {
    NewValue {
        name,
        // Names and numbers can always be written as JSON.
        value: serde_json::to_string(object).unwrap_or_default(),
    }
}

fn time(millis: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(millis).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::bound::Bound;

    fn origin() -> Origin {
        Origin {
            at: 1,
            who: "root on web-1".to_owned(),
            note: None,
        }
    }

    #[test]
    fn a_scope_is_read_as_it_is_written() {
        let name: ScopeName = "acme/web".parse().unwrap();
        let changes = Changes {
            daily_quota: Some(Bound::Unlimited),
            burst: Some(3),
            rate: Some("5/s".parse().unwrap()),
            ..Changes::default()
        };
        let mut limits = Override::new(
            &changes,
            &Terms {
                until: DateTime::from_timestamp_millis(5_000),
                note: "sync".to_owned(),
            },
        );
        let for_good = Terms {
            until: None,
            note: "for good".to_owned(),
        };
        limits.set(LimitName::Burst, &changes, for_good);
        let record = ScopeRecord {
            limits_override: Some(limits),
            mode: Some(Mode::Observe),
            generation: 4,
            ..ScopeRecord::new(0, name.clone(), "gold".to_owned(), time(7))
        };
        let written = ScopeObject::of(&record, origin()).value(&name);
        assert_eq!(written.name.to_string(), "s:acme/web");
        let read: ScopeObject = serde_json::from_str(&written.value).unwrap();
        assert_eq!(read.record(&name), record);
        let later = r#"{"tier":"gold","created":7,"colour":"red","origin":{"at":1,"who":"x"}}"#;
        let read: ScopeObject = serde_json::from_str(later).unwrap();
        assert!(!read.removed && read.generation == 0);
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for name in [
            ObjectName::Scope("acme".parse().unwrap()),
            ObjectName::Key([1, u64::MAX]),
        ] {
            assert_eq!(ObjectName::parse(&name.to_string()), Some(name));
        }
        for text in ["", "s:", "s:A B", "k:12", "t:gold", "acme"] {
            assert_eq!(ObjectName::parse(text), None, "{text}");
        }
    }
}
