// SPDX-License-Identifier: MIT OR Apache-2.0

//! Rates as operators write them, for example `1/ms`, `1000/s`, `30/min` or `3/10ms`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use thiserror::Error;

use crate::domain::plain::Shown;

/// The maximum number of requests in a window.
///
/// The shortest window is a millisecond, and the clock has a resolution of a nanosecond. At a
/// higher rate, the time between two requests would be less than a nanosecond.
const MAX_REQUESTS: u32 = 1_000_000;

/// The maximum length of a window in nanoseconds, which is one day. Longer windows are not needed,
/// because the daily quota limits the requests of a whole day.
const MAX_WINDOW_NS: u64 = 86_400 * NS_PER_SECOND;

const NS_PER_MS: u64 = 1_000_000;
const NS_PER_SECOND: u64 = 1_000_000_000;

/// A rate, which is a number of requests in each window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    requests: u32,
    window_ns: u64,
}

/// The reason why a rate is invalid.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum RateError {
    /// The string does not have the form `N/UNIT`.
    #[error(
        "`{}` is not a valid rate: write requests per window as N/ms, N/s, N/min or N/10ms, like \"1/ms\" or \"300/min\", or write \"unlimited\"",
        Shown(.0)
    )]
    Form(String),
    /// The number of requests is out of range.
    #[error("the rate `{0}` has {1} requests in a window: give a number from 1 to {MAX_REQUESTS}")]
    Requests(String, u64),
    /// The window is out of range.
    #[error("the window of the rate `{0}` is out of range: give one from 1ms to 1440min")]
    Window(String),
}

/// A rate in the form of draft-ietf-httpapi-ratelimit-headers (section 3, parameters `q` and `w`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdvertisedRate {
    /// The parameter `q`, in requests.
    pub quota: u64,
    /// The parameter `w`, in seconds. It is at least 1.
    pub window_s: u64,
}

impl Rate {
    /// Returns the emission interval of GCRA in nanoseconds, which is the time between two admitted
    /// requests at burst 1. It is at least 1, and is rounded up so that the rate is never exceeded.
    pub fn interval_ns(self) -> u64 {
        self.window_ns.div_ceil(u64::from(self.requests))
    }

    /// Returns the same rate in whole requests and whole seconds.
    ///
    /// If the window is a number of whole seconds, it stays as the operator wrote it (`5/min` is
    /// `q=5;w=60`). Any other window is replaced by the smallest number of whole seconds with a
    /// whole number of requests, so nothing is rounded. `1/ms` is `q=1000;w=1` and `3/10ms` is
    /// `q=300;w=1`. `1/7ms`, which is 142.857… requests a second, is `q=1000;w=7`.
    pub fn advertised(self) -> AdvertisedRate {
        let requests = u64::from(self.requests);
        if self.window_ns.is_multiple_of(NS_PER_SECOND) {
            return AdvertisedRate {
                quota: requests,
                window_s: self.window_ns / NS_PER_SECOND,
            };
        }
        // The rate is (requests * 1000) / window_ms in requests a second. When this fraction is
        // reduced to its lowest terms, the denominator is the number of seconds, and the numerator
        // is the number of requests. Windows are always whole milliseconds.
        let window_ms = self.window_ns / NS_PER_MS;
        let per_window_s = requests * 1000;
        let divisor = gcd(per_window_s, window_ms);
        AdvertisedRate {
            quota: per_window_s / divisor,
            window_s: window_ms / divisor,
        }
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let form = || RateError::Form(text.to_owned());
        let (requests, window) = text.split_once('/').ok_or_else(form)?;
        let requests: u64 = digits(requests.trim()).ok_or_else(form)?;
        let window = window.trim();
        let split = window
            .find(|c: char| !c.is_ascii_digit())
            .ok_or_else(form)?;
        let (multiple, unit) = window.split_at(split);
        let multiple = if multiple.is_empty() {
            1
        } else {
            digits(multiple).ok_or_else(form)?
        };
        let unit_ns = match unit.trim_start() {
            "ms" => NS_PER_MS,
            "s" => NS_PER_SECOND,
            "min" => 60 * NS_PER_SECOND,
            _ => return Err(form()),
        };
        let requests = u32::try_from(requests)
            .ok()
            .filter(|count| (1..=MAX_REQUESTS).contains(count))
            .ok_or_else(|| RateError::Requests(text.to_owned(), requests))?;
        let window_ns = multiple
            .checked_mul(unit_ns)
            .filter(|ns| (1..=MAX_WINDOW_NS).contains(ns))
            .ok_or_else(|| RateError::Window(text.to_owned()))?;
        Ok(Self {
            requests,
            window_ns,
        })
    }
}

/// Returns the number that `text` states in ASCII digits, or `None` if `text` has any other
/// character or the number has more than 64 bits. (`u64::from_str` would also accept a plus sign.)
fn digits(text: &str) -> Option<u64> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()))
        .then(|| text.parse().ok())
        .flatten()
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 3] = [
            (60 * NS_PER_SECOND, "min"),
            (NS_PER_SECOND, "s"),
            (NS_PER_MS, "ms"),
        ];
        // Windows are whole milliseconds, so at least the last unit divides them evenly.
        let (ns, unit) = UNITS
            .into_iter()
            .find(|(ns, _)| self.window_ns.is_multiple_of(*ns))
            .unwrap_or((NS_PER_MS, "ms"));
        match self.window_ns / ns {
            1 => write!(f, "{}/{unit}", self.requests),
            multiple => write!(f, "{}/{multiple}{unit}", self.requests),
        }
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(text: &str) -> Rate {
        text.parse().expect(text)
    }

    #[test]
    fn a_rate_that_was_read_is_written_in_its_shortest_form() {
        for (text, written, interval) in [
            ("1/ms", "1/ms", 1_000_000),
            ("1000/s", "1000/s", 1_000_000),
            ("3/10ms", "3/10ms", 3_333_334),
            ("30/min", "30/min", 2_000_000_000),
            ("1/60s", "1/min", 60_000_000_000),
            (" 5 / s", "5/s", 200_000_000),
            ("1000000/ms", "1000000/ms", 1),
        ] {
            let parsed = text.trim().parse::<Rate>().expect(text);
            assert_eq!(parsed.to_string(), written, "{text}");
            assert_eq!(parsed.interval_ns(), interval, "{text}");
        }
    }

    #[test]
    fn the_error_of_an_invalid_rate_states_what_would_be_valid() {
        for text in [
            "", "1", "1/", "/ms", "1/h", "x/ms", "-1/ms", "+1/s", "1/+2s", "1.5/s", "1/ms/s",
        ] {
            let error = text.parse::<Rate>().expect_err(text);
            assert!(matches!(error, RateError::Form(_)), "{text}: {error}");
            assert!(error.to_string().contains("1/ms"), "{error}");
        }
        assert!(matches!(
            "0/s".parse::<Rate>(),
            Err(RateError::Requests(_, 0))
        ));
        assert!(matches!(
            "5000000000/s".parse::<Rate>(),
            Err(RateError::Requests(..))
        ));
        assert!(matches!("1/0ms".parse::<Rate>(), Err(RateError::Window(_))));
        assert!(matches!(
            "1/1441min".parse::<Rate>(),
            Err(RateError::Window(_))
        ));
        assert!(matches!(
            "1/99999999999999999min".parse::<Rate>(),
            Err(RateError::Window(_))
        ));
    }

    #[test]
    fn advertised_rates_are_whole_and_exact() {
        for (text, quota, window_s) in [
            ("1/ms", 1000, 1),
            ("1000/s", 1000, 1),
            ("3/10ms", 300, 1),
            ("5/min", 5, 60),
            ("7/3s", 7, 3),
            ("1/7ms", 1000, 7),
            ("1/1500ms", 2, 3),
        ] {
            assert_eq!(
                rate(text).advertised(),
                AdvertisedRate { quota, window_s },
                "{text}"
            );
        }
    }
}
