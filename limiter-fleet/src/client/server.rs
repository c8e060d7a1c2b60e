// SPDX-License-Identifier: MIT OR Apache-2.0

//! A server, as its command INFO describes it.

use std::collections::HashMap;

use super::{address::Address, error::Error};

/// A server, as its command INFO describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// The incarnation of the server, as a bucket records it: `run_id` and `master_replid`,
    /// separated by a colon. A restart changes `run_id`, and a promotion changes `master_replid`.
    /// `run_id` alone does not suffice, because it stays the same if a primary is demoted and
    /// promoted again.
    pub incarnation: String,
    /// The name and the version of the server's program, for example `Valkey 9.1.2`.
    pub version: String,
    /// Whether the server is a primary.
    pub is_primary: bool,
    /// The number of connected replicas.
    pub replicas: u32,
    /// The policy for full memory (`maxmemory-policy`).
    pub eviction: String,
    /// Whether the server writes each change to an append-only file.
    pub has_append_only_file: bool,
}

/// The lowest versions that can be used, as major and minor number.
const REDIS_SINCE: (u32, u32) = (6, 2);
const VALKEY_SINCE: (u32, u32) = (7, 2);

impl Server {
    /// Reads the reply of INFO. Returns `None` if a field is missing.
    pub(super) fn of(info: &str) -> Option<Self> {
        let fields: HashMap<&str, &str> = info
            .lines()
            .filter_map(|line| line.trim_end().split_once(':'))
            .collect();
        let field = |name: &str| fields.get(name).copied();
        // Valkey also reports `redis_version`, the version of Redis with which it is compatible.
        let version = match field("valkey_version") {
            Some(version) => format!("Valkey {version}"),
            None => format!("Redis {}", field("redis_version")?),
        };
        Some(Self {
            incarnation: format!("{}:{}", field("run_id")?, field("master_replid")?),
            version,
            is_primary: field("role")? == "master",
            replicas: field("connected_slaves")?.parse().ok()?,
            eviction: field("maxmemory_policy").unwrap_or("noeviction").to_owned(),
            has_append_only_file: field("aof_enabled") == Some("1"),
        })
    }

    /// Checks that the server can be used.
    ///
    /// # Errors
    /// Returns the reason why it cannot.
    pub(super) fn check(&self, address: &Address) -> Result<(), Error> {
        let address = address.clone();
        if !self.is_primary {
            return Err(Error::Replica(address));
        }
        let since = match self.version.starts_with("Valkey") {
            true => VALKEY_SINCE,
            false => REDIS_SINCE,
        };
        if self.number() < since {
            let version = self.version.clone();
            return Err(Error::TooOld { address, version });
        }
        if self.eviction != "noeviction" {
            let policy = self.eviction.clone();
            return Err(Error::Evicts { address, policy });
        }
        Ok(())
    }

    /// Returns the major and the minor number of the version.
    fn number(&self) -> (u32, u32) {
        let number = self.version.split(' ').nth(1).unwrap_or_default();
        let mut parts = number.split('.').map(|part| part.parse().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(lines: &[&str]) -> String {
        let usual = [
            "run_id:aa",
            "master_replid:bb",
            "role:master",
            "connected_slaves:2",
        ];
        [&usual, lines].concat().join("\r\n")
    }

    fn address() -> Address {
        "redis://engine-1:6379".parse().unwrap()
    }

    #[test]
    fn the_incarnation_consists_of_the_run_and_the_replication_id() {
        let server = Server::of(&info(&["# Server", "redis_version:7.0.15"])).unwrap();
        assert_eq!(server.incarnation, "aa:bb");
        assert_eq!(
            (server.version.as_str(), server.replicas),
            ("Redis 7.0.15", 2)
        );
        assert_eq!(Server::of("redis_version:7.0.15"), None);
    }

    #[test]
    fn only_a_recent_primary_that_evicts_nothing_is_accepted() {
        let check = |lines: &[&str]| {
            let server = Server::of(&info(lines)).unwrap();
            server.check(&address()).map_err(|error| error.to_string())
        };
        assert_eq!(check(&["redis_version:6.2.5"]), Ok(()));
        assert_eq!(
            check(&["redis_version:7.2.4", "valkey_version:7.2.5"]),
            Ok(())
        );
        for (lines, words) in [
            (["redis_version:6.0.9", ""], "engine-1:6379 is Redis 6.0.9"),
            (
                ["redis_version:7.2.4", "valkey_version:7.0.1"],
                "is Valkey 7.0.1",
            ),
            (
                ["redis_version:7.0.15", "role:slave"],
                "engine-1:6379 is a replica",
            ),
            (
                ["redis_version:7.0.15", "maxmemory_policy:allkeys-lru"],
                "allkeys-lru",
            ),
        ] {
            let error = check(&lines).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
