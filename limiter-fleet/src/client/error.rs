// SPDX-License-Identifier: MIT OR Apache-2.0

//! The errors of the connection to the engine.

use redis::RedisError;

use super::address::Address;

/// An error of the connection to the engine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A server could not be reached, or refused the user.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// The server.
        address: Address,
        /// The cause.
        source: RedisError,
    },
    /// A server did not answer a command, or refused it.
    #[error("{address}: {source}")]
    Command {
        /// The server.
        address: Address,
        /// The cause.
        source: RedisError,
    },
    /// The answer of a server is not of the form that is expected.
    #[error("{address} sent an unexpected reply instead of {expected}")]
    Reply {
        /// The server.
        address: Address,
        /// The expected answer.
        expected: &'static str,
    },
    /// A server is a replica.
    #[error("{0} is a replica, and only a primary can grant leases")]
    Replica(Address),
    /// A server is too old.
    #[error("{address} is {version}; limiter needs Redis 6.2 or Valkey 7.2, or later")]
    TooOld {
        /// The server.
        address: Address,
        /// The name and the version of the server's program.
        version: String,
    },
    /// A server may drop counts when it is short of memory.
    #[error(
        "{address} has `maxmemory-policy {policy}`, which may drop counts; set it to noeviction"
    )]
    Evicts {
        /// The server.
        address: Address,
        /// The policy.
        policy: String,
    },
    /// A Sentinel knows no primary of this name.
    #[error("the Sentinel {address} knows no primary with the name {primary:?}")]
    UnknownPrimary {
        /// The Sentinel.
        address: Address,
        /// The name.
        primary: String,
    },
    /// No server serves a slot of the cluster.
    #[error("no server of the cluster serves slot {0}")]
    NoServer(u16),
    /// The engine has no fleet.
    #[error(
        "the engine has no fleet; `limiter fleet init` creates a new one, and `limiter fleet seed` \
             restores the fleet of this host"
    )]
    NoFleet,
    /// The engine has another fleet than that of the host.
    #[error("the engine has the fleet {0}, to which this host does not belong")]
    OtherFleet(String),
    /// The engine has a fleet already.
    #[error("the engine has a fleet already; `limiter fleet join` makes this host a part of it")]
    FleetExists,
    /// Another machine has the identity of this host.
    #[error("another machine uses the identity of this host; its disk may have been cloned")]
    Duplicate,
    /// The server has executed calls, but too few replicas confirmed them in time, so they may be
    /// lost.
    #[error("too few replicas of {0} have confirmed the change, so it may be lost")]
    Unconfirmed(Address),
    /// The certificates cannot be used.
    #[error("cannot use the certificates: {0}")]
    Certificates(RedisError),
    /// None of the addresses led to a server that can be used.
    #[error("{}", list(.0))]
    NoUsableServer(Vec<Error>),
}

impl Error {
    /// Returns whether another server or another connection may not have this error.
    pub(super) fn may_differ_elsewhere(&self) -> bool {
        !matches!(
            self,
            Self::NoFleet
                | Self::OtherFleet(_)
                | Self::FleetExists
                | Self::Duplicate
                | Self::Unconfirmed(_)
        )
    }

    /// Returns the error for an error reply of a script.
    pub(super) fn of_reply(address: &Address, source: RedisError) -> Self {
        match source.code() {
            Some("NOFLEET") => Self::NoFleet,
            Some("OTHERFLEET") => Self::OtherFleet(source.detail().unwrap_or_default().to_owned()),
            Some("EXISTS") => Self::FleetExists,
            Some("DUPLICATE") => Self::Duplicate,
            _ => Self::Command {
                address: address.clone(),
                source,
            },
        }
    }
}

/// Returns the messages of several errors as one.
fn list(errors: &[Error]) -> String {
    if errors.is_empty() {
        return "no address of the engine is configured".to_owned();
    }
    let messages: Vec<String> = errors.iter().map(ToString::to_string).collect();
    messages.join("; ")
}
