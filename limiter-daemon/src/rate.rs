//! Rates as operators write them: `1/ms`, `1000/s`, `30/min`, `3/10ms`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use thiserror::Error;

/// Most requests a rate may name in one window.
///
/// One request a nanosecond is the finest that the nanosecond clock can tell apart, and a
/// window is at least a millisecond.
const MAX_REQUESTS: u32 = 1_000_000;

/// Longest window, in nanoseconds: one day. Longer budgets are what the daily quota is for.
const MAX_WINDOW_NS: u64 = 86_400 * NS_PER_SECOND;

const NS_PER_MS: u64 = 1_000_000;
const NS_PER_SECOND: u64 = 1_000_000_000;

/// So many requests in each window; never faster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    requests: u32,
    window_ns: u64,
}

/// Why a rate was not understood.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum RateError {
    /// Not of the form `N/UNIT`.
    #[error(
        "`{0}` is not a rate: write requests a window as N/ms, N/s, N/min or N/10ms, like \"1/ms\" or \"300/min\", or \"unlimited\""
    )]
    Form(String),
    /// The number of requests is out of range.
    #[error("the rate `{0}` names {1} requests: a window holds 1 to {MAX_REQUESTS}")]
    Requests(String, u64),
    /// The window is out of range.
    #[error("the window of the rate `{0}` is out of range: from 1ms to 1440min")]
    Window(String),
}

/// A rate as draft-ietf-httpapi-ratelimit-headers can say it (section 3: `q` and `w`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advertised {
    /// `q`, requests.
    pub quota: u64,
    /// `w`, seconds, at least 1.
    pub window_s: u64,
}

impl Rate {
    /// Nanoseconds between two admitted requests at burst 1 (GCRA's emission interval), at
    /// least 1. Rounded up, so that the rate is never exceeded.
    pub fn interval_ns(self) -> u64 {
        self.window_ns.div_ceil(u64::from(self.requests))
    }

    /// The same rate in whole requests and whole seconds.
    ///
    /// A window of whole seconds stays as the operator wrote it (`5/min` is `q=5;w=60`). A
    /// shorter one becomes the fewest whole seconds that hold a whole number of requests, so
    /// nothing is rounded: `1/ms` is `q=1000;w=1`, `3/10ms` is `q=300;w=1`, and `1/7ms`, which
    /// is 142.857… a second, is `q=1000;w=7`.
    pub fn advertised(self) -> Advertised {
        let requests = u64::from(self.requests);
        if self.window_ns.is_multiple_of(NS_PER_SECOND) {
            return Advertised {
                quota: requests,
                window_s: self.window_ns / NS_PER_SECOND,
            };
        }
        // requests/window = (requests * 1000) / window_ms in requests a second; reduced, the
        // denominator is the number of seconds. Windows are whole milliseconds by construction.
        let window_ms = self.window_ns / NS_PER_MS;
        let per_window_s = requests * 1000;
        let divisor = gcd(per_window_s, window_ms);
        Advertised {
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

/// ASCII digits only: `u64::from_str` would take a plus sign too.
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
        // Windows are whole milliseconds, so the last unit always divides.
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
    fn rates_are_read_and_written_alike() {
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
    fn bad_rates_say_what_would_be_right() {
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
                Advertised { quota, window_s },
                "{text}"
            );
        }
    }
}
