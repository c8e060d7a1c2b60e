// SPDX-License-Identifier: MIT OR Apache-2.0

//! The value of a single limit, with its range, and how it is parsed and printed.

use std::{fmt, str::FromStr};

use serde::{
    Deserializer, Serialize, Serializer,
    de::{self, Visitor},
};
use thiserror::Error;

use crate::domain::{
    plain::Shown,
    rate::{Rate, RateError},
};

/// The maximum daily quota, in requests. It has 31 bits, and the kernel's day-and-count word has 40
/// bits for the count, so sums of quotas, counts and allowances fit into the word.
pub const MAX_DAILY_QUOTA: u64 = (1 << 31) - 1;
/// The maximum for the limits of requests in flight and of connections.
pub const MAX_CONCURRENT: u32 = 1_000_000;
/// The maximum burst, in requests.
pub const MAX_BURST: u32 = 1_000_000;

/// A limit as an operator writes it, which is a number, a rate, or `unlimited`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound<T> {
    /// The value that must not be exceeded.
    At(T),
    /// No limit.
    Unlimited,
}

impl<T> Bound<T> {
    /// Returns the limit in the form that [`Limits`](super::limits::Limits) uses, in which `None`
    /// means unlimited.
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

/// The reason why a limit is invalid.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum LimitError {
    /// The string is not a valid value. Valid values are whole numbers, and `unlimited` if
    /// `or_unlimited` is true.
    #[error(
        "`{}` is not a valid {name}: give a whole number from {min} to {max}{}",
        Shown(given),
        if *.or_unlimited { ", or `unlimited`" } else { "" }
    )]
    Form {
        /// The value that was given.
        given: String,
        /// The name of the limit.
        name: &'static str,
        /// The smallest allowed value.
        min: u64,
        /// The largest allowed value.
        max: u64,
        /// Whether `unlimited` is allowed.
        or_unlimited: bool,
    },
    /// The string is not a valid rate.
    #[error(transparent)]
    Rate(#[from] RateError),
    /// The value is out of range.
    #[error("{name} = {value} is out of range: give a number from {min} to {max}")]
    Range {
        /// The name of the limit.
        name: &'static str,
        /// The value that was given.
        value: u64,
        /// The smallest allowed value.
        min: u64,
        /// The largest allowed value.
        max: u64,
    },
}

/// The range of one numeric limit.
#[derive(Debug, Clone, Copy)]
pub struct Range {
    /// The name of the limit in the configuration.
    pub name: &'static str,
    /// The smallest allowed value.
    pub min: u64,
    /// The largest allowed value.
    pub max: u64,
}

/// The range of a daily quota. A quota of 0 is allowed, and blocks a scope without a change to its
/// keys.
pub const DAILY_QUOTA: Range = Range {
    name: "daily_quota",
    min: 0,
    max: MAX_DAILY_QUOTA,
};
/// The range of a burst. A burst of 0 would never admit a request.
pub const BURST: Range = Range {
    name: "burst",
    min: 1,
    max: MAX_BURST as u64,
};
/// The range of a concurrency limit. A limit of 0 would never admit a request.
pub const CONCURRENCY: Range = Range {
    name: "concurrency",
    min: 1,
    max: MAX_CONCURRENT as u64,
};
/// The range of a connection limit. A limit of 0 would never admit a request.
pub const CONNECTIONS: Range = Range {
    name: "connections",
    min: 1,
    max: MAX_CONCURRENT as u64,
};

impl Range {
    /// Returns `value` if it is within the range.
    ///
    /// # Errors
    /// Returns [`LimitError::Range`], which states the range, if the value is not within it.
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

    /// Parses a number.
    ///
    /// # Errors
    /// Returns [`LimitError::Form`], which states what would be valid, if the text is not a number.
    pub fn parse_number(self, text: &str) -> Result<u64, LimitError> {
        digits(text).ok_or_else(|| self.form(text, false))
    }

    /// Parses a number or `unlimited`.
    ///
    /// # Errors
    /// Returns [`LimitError::Form`], which states what would be valid, if the text is neither a
    /// number nor `unlimited`.
    pub fn parse(self, text: &str) -> Result<Bound<u64>, LimitError> {
        if text == "unlimited" {
            return Ok(Bound::Unlimited);
        }
        let number = digits(text).ok_or_else(|| self.form(text, true))?;
        Ok(Bound::At(number))
    }

    fn form(self, given: &str, or_unlimited: bool) -> LimitError {
        LimitError::Form {
            given: given.to_owned(),
            name: self.name,
            min: self.min,
            max: self.max,
            or_unlimited,
        }
    }

    /// Returns `value` as a `u32` if it is within the range. The maximum of the range must fit into
    /// 32 bits.
    ///
    /// # Errors
    /// Returns [`LimitError::Range`], which states the range, if the value is not within it.
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

/// Returns the number that `text` states in ASCII digits, or `None` if `text` has any other
/// character or the number has more than 64 bits. (`u64::from_str` would also accept a plus sign.)
fn digits(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
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

/// Reads a limit from JSON. The error for a value of another type states what would be valid.
struct LimitVisitor {
    range: Range,
    or_unlimited: bool,
}

impl LimitVisitor {
    fn refuse<E: de::Error>(&self, given: impl fmt::Display) -> E {
        E::custom(self.range.form(&given.to_string(), self.or_unlimited))
    }
}

impl<'de> Visitor<'de> for LimitVisitor {
    type Value = Bound<u64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Range { min, max, .. } = self.range;
        write!(f, "a whole number from {min} to {max}")?;
        if self.or_unlimited {
            f.write_str(", or `unlimited`")?;
        }
        Ok(())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Bound::At(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Self::Value, E> {
        u64::try_from(value)
            .map(Bound::At)
            .map_err(|_| self.refuse(value))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Self::Value, E> {
        Err(self.refuse(value))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        if self.or_unlimited {
            self.range.parse(text).map_err(E::custom)
        } else {
            Err(self.refuse(text))
        }
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Err(self.refuse("null"))
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Self::Value, E> {
        Err(self.refuse(value))
    }
}

/// Reads a limit for which `unlimited` is allowed.
fn bound<'de, D: Deserializer<'de>>(
    range: Range,
    deserializer: D,
) -> Result<Option<Bound<u64>>, D::Error> {
    let or_unlimited = true;
    deserializer
        .deserialize_any(LimitVisitor {
            range,
            or_unlimited,
        })
        .map(Some)
}

pub(crate) fn daily_quota<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Bound<u64>>, D::Error> {
    bound(DAILY_QUOTA, d)
}

pub(super) fn concurrency<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Bound<u64>>, D::Error> {
    bound(CONCURRENCY, d)
}

pub(super) fn connections<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Bound<u64>>, D::Error> {
    bound(CONNECTIONS, d)
}

pub(super) fn burst<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let visitor = LimitVisitor {
        range: BURST,
        or_unlimited: false,
    };
    deserializer.deserialize_any(visitor).map(Bound::limit)
}

/// Reads a rate from JSON. The error for a value of another type states what would be valid.
struct RateVisitor;

impl<'de> Visitor<'de> for RateVisitor {
    type Value = Bound<Rate>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a rate like \"1/ms\" or \"300/min\", or \"unlimited\"")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Self::Value, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Self::Value, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Self::Value, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        self.visit_str("null")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Self::Value, E> {
        self.visit_str(&value.to_string())
    }
}

pub(super) fn rate<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Bound<Rate>>, D::Error> {
    deserializer.deserialize_any(RateVisitor).map(Some)
}
