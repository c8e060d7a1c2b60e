// SPDX-License-Identifier: MIT OR Apache-2.0

//! The limits of a scope. They are the limits of its tier, except those that an override changes.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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

    /// Returns the changes in `self`, except those to limits that `others` also changes.
    pub fn without(&self, others: &Self) -> Self {
        Self {
            daily_quota: self.daily_quota.filter(|_| others.daily_quota.is_none()),
            rate: self.rate.filter(|_| others.rate.is_none()),
            burst: self.burst.filter(|_| others.burst.is_none()),
            concurrency: self.concurrency.filter(|_| others.concurrency.is_none()),
            connections: self.connections.filter(|_| others.connections.is_none()),
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

/// The limits of a scope that replace limits of its tier, the time at which they end, and the
/// reason for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// The limits that differ from those of the tier.
    pub changes: Changes,
    /// The time at which the override ends by itself, if any.
    pub until: Option<DateTime<Utc>>,
    /// The reason that the operator gave.
    pub note: String,
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
