//! What a scope may do: a tier's limits, and what an override changes in them.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use thiserror::Error;

use crate::rate::{Rate, RateError};

/// Most requests a day that a quota can name (the kernel's day-and-count word leaves 40 bits
/// for the count; 31 bits keep every sum of scopes far from that).
pub const MAX_DAILY_QUOTA: u64 = (1 << 31) - 1;
/// Most requests in flight, or connections, that a limit can name.
pub const MAX_CONCURRENT: u32 = 1_000_000;
/// Largest burst, in requests.
pub const MAX_BURST: u32 = 1_000_000;

/// The limits in force for a scope; `None` is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Limits {
    /// Requests in a UTC day.
    pub daily_quota: Option<u64>,
    /// Requests in a time; see [`Rate`].
    pub rate: Option<Rate>,
    /// Requests that may come at once after a pause, at least 1.
    pub burst: u32,
    /// Requests in flight.
    pub concurrency: Option<u32>,
    /// Open connections on which the scope's keys were used.
    pub connections: Option<u32>,
}

/// A limit as it is typed: a number (or rate), or `unlimited`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound<T> {
    /// At most this.
    At(T),
    /// No limit.
    Unlimited,
}

impl<T> Bound<T> {
    /// `None` for unlimited, as [`Limits`] has it.
    pub fn limit(self) -> Option<T> {
        match self {
            Self::At(value) => Some(value),
            Self::Unlimited => None,
        }
    }
}

impl<T> From<Option<T>> for Bound<T> {
    fn from(limit: Option<T>) -> Self {
        limit.map_or(Self::Unlimited, Self::At)
    }
}

impl<T: fmt::Display> fmt::Display for Bound<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(value) => value.fmt(f),
            Self::Unlimited => f.write_str("unlimited"),
        }
    }
}

/// Why a limit was not understood.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum LimitError {
    /// Neither a whole number nor `unlimited`.
    #[error("`{0}` is not a limit: give a whole number or \"unlimited\"")]
    Form(String),
    /// Not a rate.
    #[error(transparent)]
    Rate(#[from] RateError),
    /// Out of range.
    #[error("{name} = {value} is out of range: from {min} to {max}")]
    Range {
        /// The limit's name.
        name: &'static str,
        /// What was given.
        value: u64,
        /// Least allowed.
        min: u64,
        /// Most allowed.
        max: u64,
    },
}

/// The range of one numeric limit.
#[derive(Debug, Clone, Copy)]
pub struct Range {
    /// The limit's name in the configuration.
    pub name: &'static str,
    /// Least allowed.
    pub min: u64,
    /// Most allowed.
    pub max: u64,
}

/// A quota of 0 is allowed: it shuts a scope without touching its keys.
pub const DAILY_QUOTA: Range = Range {
    name: "daily_quota",
    min: 0,
    max: MAX_DAILY_QUOTA,
};
/// A burst of 0 would admit nothing, ever.
pub const BURST: Range = Range {
    name: "burst",
    min: 1,
    max: MAX_BURST as u64,
};
/// A concurrency of 0 would admit nothing, ever.
pub const CONCURRENCY: Range = Range {
    name: "concurrency",
    min: 1,
    max: MAX_CONCURRENT as u64,
};
/// Connections of 0 would admit nothing, ever.
pub const CONNECTIONS: Range = Range {
    name: "connections",
    min: 1,
    max: MAX_CONCURRENT as u64,
};

impl Range {
    /// `value` when it is within the range.
    ///
    /// # Errors
    /// [`LimitError::Range`] names both ends.
    pub fn check(self, value: u64) -> Result<u64, LimitError> {
        if (self.min..=self.max).contains(&value) {
            return Ok(value);
        }
        Err(LimitError::Range {
            name: self.name,
            value,
            min: self.min,
            max: self.max,
        })
    }

    /// As [`Range::check`], for the limits whose maximum fits 32 bits.
    ///
    /// # Errors
    /// [`LimitError::Range`] names both ends.
    pub fn check_u32(self, value: u64) -> Result<u32, LimitError> {
        let out = LimitError::Range {
            name: self.name,
            value,
            min: self.min,
            max: self.max,
        };
        u32::try_from(self.check(value)?).map_err(|_| out)
    }
}

impl FromStr for Bound<u64> {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        if text == "unlimited" {
            return Ok(Self::Unlimited);
        }
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(LimitError::Form(text.to_owned()));
        }
        text.parse()
            .map(Self::At)
            .map_err(|_| LimitError::Form(text.to_owned()))
    }
}

impl FromStr for Bound<Rate> {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        if text == "unlimited" {
            return Ok(Self::Unlimited);
        }
        Ok(Self::At(text.parse()?))
    }
}

impl<T: Serialize> Serialize for Bound<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::At(value) => value.serialize(serializer),
            Self::Unlimited => serializer.serialize_str("unlimited"),
        }
    }
}

/// What JSON may hold where a bound is expected.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Number(u64),
    Text(String),
}

impl<'de> Deserialize<'de> for Bound<u64> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Written::deserialize(deserializer)? {
            Written::Number(value) => Ok(Self::At(value)),
            Written::Text(text) => text.parse().map_err(D::Error::custom),
        }
    }
}

impl<'de> Deserialize<'de> for Bound<Rate> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

/// What an override changes; a limit that it does not name stays the tier's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
pub struct Changes {
    /// Requests a UTC day.
    #[serde(
        default,
        deserialize_with = "named",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(schema_with = "crate::api::schema::daily_quota")]
    pub daily_quota: Option<Bound<u64>>,
    /// Requests in a time.
    #[serde(
        default,
        deserialize_with = "named",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Bound<Rate>")]
    pub rate: Option<Bound<Rate>>,
    /// Requests that may come at once after a pause.
    #[serde(
        default,
        deserialize_with = "named",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(schema_with = "crate::api::schema::burst")]
    pub burst: Option<u64>,
    /// Requests in flight.
    #[serde(
        default,
        deserialize_with = "named",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(schema_with = "crate::api::schema::concurrency")]
    pub concurrency: Option<Bound<u64>>,
    /// Open connections.
    #[serde(
        default,
        deserialize_with = "named",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(schema_with = "crate::api::schema::connections")]
    pub connections: Option<Bound<u64>>,
}

/// What is named is given: `null` says "unlimited" elsewhere, and must not be taken for "as it is".
fn named<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl Changes {
    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// These changes, with those of `earlier` where these name none.
    pub fn over(&self, earlier: &Self) -> Self {
        Self {
            daily_quota: self.daily_quota.or(earlier.daily_quota),
            rate: self.rate.or(earlier.rate),
            burst: self.burst.or(earlier.burst),
            concurrency: self.concurrency.or(earlier.concurrency),
            connections: self.connections.or(earlier.connections),
        }
    }

    /// `base` with these changes made.
    ///
    /// # Errors
    /// A changed limit that is out of its range.
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

/// A scope's own limits, with their reason and their end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// What differs from the tier.
    pub changes: Changes,
    /// When it ends by itself.
    pub until: Option<DateTime<Utc>>,
    /// Why it was made.
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
            "concurrency = 0 is out of range: from 1 to 1000000"
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
        assert!("+5".parse::<Bound<u64>>().is_err());
        assert!("none".parse::<Bound<u64>>().is_err());
    }
}
