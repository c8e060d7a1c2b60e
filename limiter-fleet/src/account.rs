// SPDX-License-Identifier: MIT OR Apache-2.0

//! The names of the engine's keys for accounts and rates.

use std::fmt;

use limiter_common::day::Day;

/// The number of buckets.
const BUCKETS: u32 = 256;

/// A bucket: a set of scopes whose keys are in one slot of a cluster, so that one call can concern
/// several of them. The number is a hash tag in the names of the keys, for example `{017}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bucket(u8);

impl Bucket {
    /// Returns the bucket of the scope with the name `scope`, which is the 32-bit FNV-1a of the
    /// name modulo 256. All hosts must agree, so this function must not change.
    #[must_use]
    pub fn of(scope: &str) -> Self {
        let hash = scope.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
        Self((hash % BUCKETS) as u8)
    }

    /// Returns all buckets.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..=u8::MAX).map(Self)
    }

    /// Returns the name of the key with the state of this bucket.
    #[must_use]
    pub fn state_key(self) -> String {
        format!("limiter:{self}:e")
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{:03}}}", self.0)
    }
}

/// The account of a scope on a day, as the engine knows it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Account {
    /// The sum of all leases, in requests.
    pub leased: u64,
    /// The sum of the requests that the hosts have reported.
    pub used: u64,
    /// The number of hosts that have asked for a lease.
    pub hosts: u64,
}

/// Returns the name of the key with the account of the scope `scope` on `day`.
#[must_use]
pub fn account_key(scope: &str, day: Day) -> String {
    format!("limiter:{}:d:{}:{scope}", Bucket::of(scope), day.0)
}

/// Returns the name of the key with the demands for the rate of the scope `scope`.
#[cfg(feature = "client")]
#[must_use]
pub(crate) fn rate_key(scope: &str) -> String {
    format!("limiter:{}:r:{scope}", Bucket::of(scope))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_one_bucket_have_the_same_hash_tag() {
        let bucket = Bucket::of("acme/web");
        assert_eq!(bucket.state_key(), format!("limiter:{bucket}:e"));
        assert_eq!(
            account_key("acme/web", Day(20_000)),
            format!("limiter:{bucket}:d:20000:acme/web")
        );
    }

    #[test]
    fn the_bucket_of_a_scope_is_fixed() {
        // These values were computed from the definition of FNV-1a.
        assert_eq!(Bucket::of(""), Bucket(0xc5));
        assert_eq!(Bucket::of("a"), Bucket(0x2c));
        assert_eq!(Bucket::all().count(), BUCKETS as usize);
    }
}
