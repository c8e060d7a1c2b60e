// SPDX-License-Identifier: MIT OR Apache-2.0

//! The reasons for which a request is refused. All other lists of reasons are generated from the
//! table in this file.
//!
//! A reason is an index into arrays in the maps. Some of these arrays have entries only for the
//! reasons that are limits of a scope. Therefore the limits come first. Each row of the table has
//! the name of the reason and the counter of the requests that were refused for it. If there is
//! also a counter of all requests to which the reason applies, refused or not, that counter follows
//! `of`.

use super::counter;

macro_rules! reasons {
    ($(
        $(#[doc = $doc:literal])*
        $name:ident = $text:literal, $counter:ident $(of $case:ident)?;
    )*) => {
        reasons!(@ 0u32; $($(#[doc = $doc])* $name,)*);
        /// The names of all reasons, in the order of their numbers.
        pub const NAMES: [&str; COUNT as usize] = [$($text),*];
        /// For each reason, in the same order, the counter of the requests that were refused for
        /// it.
        pub const COUNTERS: [u32; COUNT as usize] = [$(counter::$counter),*];

        /// Returns the counter of the requests that were refused for `reason`.
        #[inline(always)]
        #[must_use]
        pub const fn counter(reason: u32) -> u32 {
            match reason {
                $($name => counter::$counter,)*
                _ => counter::MALFORMED_REFUSED,
            }
        }

        /// Returns the counter of all requests to which `reason` applies, refused or not, or `None`
        /// if there is no such counter.
        #[inline(always)]
        #[must_use]
        pub const fn case_counter(reason: u32) -> Option<u32> {
            match reason {
                $($($name => Some(counter::$case),)?)*
                _ => None,
            }
        }
    };
    (@ $at:expr; $(#[doc = $doc:literal])* $name:ident, $($rest:tt)*) => {
        $(#[doc = $doc])* pub const $name: u32 = $at;
        reasons!(@ $at + 1; $($rest)*);
    };
    (@ $at:expr;) => {
        /// The number of reasons.
        pub const COUNT: u32 = $at;
    };
}

reasons! {
    /// The requests come faster than the rate allows (429).
    RATE = "rate", REFUSED_RATE;
    /// Too many requests are in flight (429).
    CONCURRENCY = "concurrency", REFUSED_CONCURRENCY;
    /// Too many connections are open (429).
    CONNECTIONS = "connections", REFUSED_CONNECTIONS;
    /// The daily quota is used up (429).
    DAILY_QUOTA = "daily_quota", REFUSED_DAILY_QUOTA;
    /// The request has no key (401).
    MISSING_KEY = "missing_key", MISSING_KEY_REFUSED of MISSING_KEY;
    /// The key is not registered (401).
    UNKNOWN_KEY = "unknown_key", UNKNOWN_KEY_REFUSED of UNKNOWN_KEY;
    /// The key is disabled or revoked (401).
    DISABLED_KEY = "disabled_key", DISABLED_KEY_REFUSED;
    /// The stream is not HTTP/1.x, or is HTTP that servers parse differently (400).
    MALFORMED = "malformed", MALFORMED_REFUSED of MALFORMED;
    /// The method is CONNECT (405).
    CONNECT = "connect", CONNECT_REFUSED;
}

/// The number of reasons that are limits of a scope.
pub const LIMITS: u32 = DAILY_QUOTA + 1;

const _: () = assert!(
    LIMITS == 4,
    "the arrays of a scope's refusals have four places"
);
