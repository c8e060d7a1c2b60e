// SPDX-License-Identifier: MIT OR Apache-2.0

//! The limits of a scope. They are the limits of its tier, except those that an override changes.

use std::{collections::BTreeMap, fmt};

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::bound::{
    BURST, Bound, CONCURRENCY, CONNECTIONS, DAILY_QUOTA, LimitError, Range, burst, concurrency,
    connections, daily_quota, rate,
};
use crate::domain::rate::Rate;

/// The limits in force for a scope. `null` means that there is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Limits {
    /// The maximum number of requests in a day (UTC).
    pub daily_quota: Option<u64>,
    /// The maximum number of requests in a window; see [`Rate`].
    pub rate: Option<Rate>,
    /// The maximum number of requests that may arrive at once after a pause. It is at least 1.
    pub burst: u32,
    /// The maximum number of requests in flight.
    pub concurrency: Option<u32>,
    /// The maximum number of open connections on which keys of the scope have been used.
    pub connections: Option<u32>,
}

/// The changes that an override makes to the limits of a tier. A limit that is not named stays
/// unchanged. `null` is not accepted, because it means "unlimited" in responses, but could be meant
/// as "unchanged" here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
pub struct Changes {
    /// The maximum number of requests in a day (UTC).
    #[serde(
        default,
        deserialize_with = "daily_quota",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(schema_with = "crate::domain::schema::daily_quota")]
    pub daily_quota: Option<Bound<u64>>,
    /// The maximum number of requests in a window.
    #[serde(
        default,
        deserialize_with = "rate",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Bound<Rate>")]
    pub rate: Option<Bound<Rate>>,
    /// The maximum number of requests that may arrive at once after a pause.
    #[serde(
        default,
        deserialize_with = "burst",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(schema_with = "crate::domain::schema::burst")]
    pub burst: Option<u64>,
    /// The maximum number of requests in flight.
    #[serde(
        default,
        deserialize_with = "concurrency",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(schema_with = "crate::domain::schema::concurrency")]
    pub concurrency: Option<Bound<u64>>,
    /// The maximum number of open connections.
    #[serde(
        default,
        deserialize_with = "connections",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(schema_with = "crate::domain::schema::connections")]
    pub connections: Option<Bound<u64>>,
}

impl Changes {
    /// Returns whether no limit is changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns whether `limit` is changed.
    pub fn has(&self, limit: LimitName) -> bool {
        !self.only(limit).is_empty()
    }

    /// Returns the change of `limit` alone.
    pub fn only(&self, limit: LimitName) -> Self {
        let mut only = Self::default();
        match limit {
            LimitName::DailyQuota => only.daily_quota = self.daily_quota,
            LimitName::Rate => only.rate = self.rate,
            LimitName::Burst => only.burst = self.burst,
            LimitName::Concurrency => only.concurrency = self.concurrency,
            LimitName::Connections => only.connections = self.connections,
        }
        only
    }

    /// Returns the change of `limit` to a value as it is written in JSON.
    ///
    /// # Errors
    /// Returns an error if the value is not valid for the limit.
    pub fn of(limit: LimitName, value: Value) -> Result<Self, serde_json::Error> {
        let fields = serde_json::Map::from_iter([(limit.as_str().to_owned(), value)]);
        serde_json::from_value(Value::Object(fields))
    }

    /// Returns the value of `limit` as it is written in JSON, or `null` if it is not changed.
    pub fn value(&self, limit: LimitName) -> Value {
        // Numbers and short texts can always be written as JSON.
        let value = serde_json::to_value(self).unwrap_or_default();
        value.get(limit.as_str()).cloned().unwrap_or_default()
    }

    /// Returns the changes in `self`, together with the changes in `earlier` to limits that `self`
    /// does not change.
    pub fn over(&self, earlier: &Self) -> Self {
        Self {
            daily_quota: self.daily_quota.or(earlier.daily_quota),
            rate: self.rate.or(earlier.rate),
            burst: self.burst.or(earlier.burst),
            concurrency: self.concurrency.or(earlier.concurrency),
            connections: self.connections.or(earlier.connections),
        }
    }

    /// Returns `base` with the changes in `self` applied.
    ///
    /// # Errors
    /// Returns an error if a changed limit is out of its range.
    pub fn apply(&self, base: Limits) -> Result<Limits, LimitError> {
        let bounded = |change: Option<Bound<u64>>, kept: Option<u32>, range: Range| match change {
            None => Ok(kept),
            Some(Bound::Unlimited) => Ok(None),
            Some(Bound::At(value)) => range.check_u32(value).map(Some),
        };
        Ok(Limits {
            daily_quota: match self.daily_quota {
                None => base.daily_quota,
                Some(Bound::Unlimited) => None,
                Some(Bound::At(value)) => Some(DAILY_QUOTA.check(value)?),
            },
            rate: self.rate.map_or(base.rate, Bound::limit),
            burst: self
                .burst
                .map_or(Ok(base.burst), |value| BURST.check_u32(value))?,
            concurrency: bounded(self.concurrency, base.concurrency, CONCURRENCY)?,
            connections: bounded(self.connections, base.connections, CONNECTIONS)?,
        })
    }
}

/// The name of a limit in the configuration and in JSON.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum LimitName {
    /// `daily_quota`
    DailyQuota,
    /// `rate`
    Rate,
    /// `burst`
    Burst,
    /// `concurrency`
    Concurrency,
    /// `connections`
    Connections,
}

impl LimitName {
    /// All limits, in the order in which they are shown.
    pub const ALL: [Self; 5] = [
        Self::DailyQuota,
        Self::Rate,
        Self::Burst,
        Self::Concurrency,
        Self::Connections,
    ];

    /// Returns the name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DailyQuota => "daily_quota",
            Self::Rate => "rate",
            Self::Burst => "burst",
            Self::Concurrency => "concurrency",
            Self::Connections => "connections",
        }
    }

    /// Returns the limit with this name, if there is one.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|limit| limit.as_str() == name)
    }
}

impl fmt::Display for LimitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The end of a limit of a scope's own, and the reason for the limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// The time at which the limit of the tier applies again, if there is one.
    pub until: Option<DateTime<Utc>>,
    /// The reason that the operator gave.
    pub note: String,
}

impl Terms {
    /// Returns whether the end has passed at `now`.
    fn has_ended(&self, now: DateTime<Utc>) -> bool {
        self.until.is_some_and(|until| until <= now)
    }
}

/// The limits of a scope that replace limits of its tier. Each of them has an end and a note of its
/// own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Override {
    changes: Changes,
    terms: BTreeMap<LimitName, Terms>,
}

impl Override {
    /// Returns the limits in `changes`, all with the same end and note.
    pub fn new(changes: &Changes, terms: &Terms) -> Self {
        let mut own = Self::default();
        for limit in LimitName::ALL {
            own.set(limit, changes, terms.clone());
        }
        own
    }

    /// Returns the limits that differ from those of the tier.
    pub fn changes(&self) -> &Changes {
        &self.changes
    }

    /// Returns the end and the note of each limit.
    pub fn terms(&self) -> &BTreeMap<LimitName, Terms> {
        &self.terms
    }

    /// Returns whether there are no limits.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// Sets `limit` to its value in `changes`. Does nothing if `changes` does not have the limit.
    pub fn set(&mut self, limit: LimitName, changes: &Changes, terms: Terms) {
        let only = changes.only(limit);
        if !only.is_empty() {
            self.changes = only.over(&self.changes);
            self.terms.insert(limit, terms);
        }
    }

    /// Returns the limits without those in `names`.
    #[must_use]
    pub fn without(&self, names: &[LimitName]) -> Self {
        self.filtered(|limit, _| !names.contains(&limit))
    }

    /// Returns the earliest end of the limits, if one of them has an end.
    pub fn next_end(&self) -> Option<DateTime<Utc>> {
        self.terms.values().filter_map(|terms| terms.until).min()
    }

    /// Returns the limits that have not ended at `now`.
    #[must_use]
    pub fn at(&self, now: DateTime<Utc>) -> Self {
        self.filtered(|_, terms| !terms.has_ended(now))
    }

    fn filtered(&self, keeps: impl Fn(LimitName, &Terms) -> bool) -> Self {
        let mut kept = Self::default();
        for (&limit, terms) in &self.terms {
            if keeps(limit, terms) {
                kept.set(limit, &self.changes, terms.clone());
            }
        }
        kept
    }

    /// Returns the override, or `None` if it has no limits.
    pub fn non_empty(self) -> Option<Self> {
        (!self.is_empty()).then_some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Limits = Limits {
        daily_quota: Some(1000),
        rate: None,
        burst: 1,
        concurrency: Some(20),
        connections: None,
    };

    #[test]
    fn an_override_changes_only_what_it_names() {
        let changes = Changes {
            daily_quota: Some(Bound::Unlimited),
            connections: Some(Bound::At(5)),
            ..Changes::default()
        };
        let limits = changes.apply(BASE).expect("in range");
        assert_eq!(
            limits,
            Limits {
                daily_quota: None,
                connections: Some(5),
                ..BASE
            }
        );
    }

    #[test]
    fn a_second_override_keeps_what_it_does_not_name() {
        let first = Changes {
            burst: Some(4),
            daily_quota: Some(Bound::At(7)),
            ..Changes::default()
        };
        let second = Changes {
            daily_quota: Some(Bound::At(9)),
            ..Changes::default()
        };
        let both = second.over(&first);
        assert_eq!(both.burst, Some(4));
        assert_eq!(both.daily_quota, Some(Bound::At(9)));
    }

    #[test]
    fn each_limit_of_an_override_has_its_own_end() {
        let at = |seconds| DateTime::from_timestamp(seconds, 0).expect("a time");
        let terms = |until: Option<i64>, note: &str| Terms {
            until: until.map(at),
            note: note.to_owned(),
        };
        let quota = Changes {
            daily_quota: Some(Bound::At(7)),
            burst: Some(3),
            ..Changes::default()
        };
        let mut own = Override::new(&quota, &terms(Some(20), "a week"));
        let other = Changes {
            burst: Some(4),
            connections: Some(Bound::Unlimited),
            ..Changes::default()
        };
        own.set(LimitName::Burst, &other, terms(Some(10), "a day"));
        own.set(LimitName::Rate, &other, terms(None, "not in the changes"));
        own.set(LimitName::Connections, &other, terms(None, "for good"));
        assert_eq!(own.next_end(), Some(at(10)));
        let left = |seconds| -> Vec<&'static str> {
            let left = own.at(at(seconds));
            assert_eq!(left.is_empty(), left.changes().is_empty());
            let names = left.terms().keys();
            names.map(|limit| limit.as_str()).collect()
        };
        assert_eq!(left(9), ["daily_quota", "burst", "connections"]);
        assert_eq!(left(10), ["daily_quota", "connections"]);
        assert_eq!(left(20), ["connections"]);
        assert_eq!(own.changes().burst, Some(4));
        assert_eq!(own.terms()[&LimitName::DailyQuota].note, "a week");
        let names = [
            LimitName::Connections,
            LimitName::DailyQuota,
            LimitName::Rate,
        ];
        let without = own.without(&names);
        assert_eq!(without.terms().len(), 1);
        assert_eq!(without.without(&LimitName::ALL).non_empty(), None);
    }

    #[test]
    fn limits_out_of_range_are_refused_with_the_range() {
        let none = Changes {
            concurrency: Some(Bound::At(0)),
            ..Changes::default()
        };
        let error = none.apply(BASE).expect_err("zero would admit nothing");
        assert_eq!(
            error.to_string(),
            "concurrency = 0 is out of range: give a number from 1 to 1000000"
        );
        let burst = Changes {
            burst: Some(0),
            ..Changes::default()
        };
        assert!(burst.apply(BASE).is_err());
        let quota = Changes {
            daily_quota: Some(Bound::At(1 << 40)),
            ..Changes::default()
        };
        assert!(quota.apply(BASE).is_err());
    }

    #[test]
    fn bounds_travel_as_numbers_or_the_word_unlimited() {
        let changes: Changes =
            serde_json::from_str(r#"{"daily_quota":"unlimited","rate":"2/s","concurrency":3}"#)
                .expect("valid");
        assert_eq!(changes.daily_quota, Some(Bound::Unlimited));
        let json = serde_json::to_string(&changes).expect("serializes");
        assert_eq!(
            json,
            r#"{"daily_quota":"unlimited","rate":"2/s","concurrency":3}"#
        );
        assert!(serde_json::from_str::<Changes>(r#"{"daily_quota":null}"#).is_err());
    }

    #[test]
    fn an_invalid_limit_is_answered_with_the_field_the_value_and_the_range() {
        let right =
            "is not a valid daily_quota: give a whole number from 0 to 2147483647, or `unlimited`";
        for text in ["+5", "-1", "1.5", "", "none", "99999999999999999999", "1e3"] {
            let error = DAILY_QUOTA.parse(text).unwrap_err().to_string();
            assert_eq!(error, format!("`{text}` {right}"));
        }
        for (json, given) in [
            ("-1", "-1"),
            ("1.5", "1.5"),
            ("1e30", "1000000000000000000000000000000"),
            ("null", "null"),
            ("true", "true"),
            ("\"many\"", "many"),
        ] {
            let text = format!(r#"{{"daily_quota":{json}}}"#);
            let error = serde_json::from_str::<Changes>(&text).unwrap_err();
            let message = error.to_string();
            assert!(
                message.starts_with(&format!("`{given}` {right}")),
                "{message}"
            );
        }
        let number = "give a whole number from 1 to 1000000 at";
        for json in ["-1", "0.5", "null", "\"5\"", "\"unlimited\""] {
            let text = format!(r#"{{"burst":{json}}}"#);
            let error = serde_json::from_str::<Changes>(&text).unwrap_err();
            let message = error.to_string();
            assert!(
                message.contains("is not a valid burst") && message.contains(number),
                "{message}"
            );
        }
        for json in ["5", "-1", "1.5", "null", "false", "\"0/s\"", "\"1/0ms\""] {
            let text = format!(r#"{{"rate":{json}}}"#);
            let error = serde_json::from_str::<Changes>(&text).unwrap_err();
            assert!(error.to_string().contains("rate"), "{error}");
            assert!(
                error.to_string().contains(json.trim_matches('"')),
                "{error}"
            );
        }
        for json in ["[]", "{}"] {
            let text = format!(r#"{{"connections":{json}}}"#);
            let message = serde_json::from_str::<Changes>(&text)
                .unwrap_err()
                .to_string();
            assert!(
                message.contains("expected a whole number from 1 to"),
                "{message}"
            );
        }
    }
}
