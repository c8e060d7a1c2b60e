// SPDX-License-Identifier: MIT OR Apache-2.0

//! The requests and responses of `limiter fleet`.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::views::{optional_time, time};

/// The body of `POST /v1/fleet/join`.
#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinFleet {
    /// The hash secret of the fleet, as 32 hexadecimal digits. Without it, this host must have the
    /// secret already.
    #[serde(default)]
    #[schemars(regex(pattern = r"^[0-9a-f]{32}$"))]
    pub secret: Option<String>,
    /// Replace the scopes and keys of this host by those of the fleet.
    #[serde(default)]
    pub replace: bool,
}

/// The result of a change of scopes or keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Changed<T> {
    /// The object after the change.
    #[serde(flatten)]
    pub value: T,
    /// In a fleet, the hosts that do not have the change yet, each with a sentence about it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub behind: Vec<String>,
}

/// `fleet status`: the engine, and the hosts of the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FleetView {
    /// The id of the fleet; `null` if this host belongs to none.
    pub fleet: Option<String>,
    /// The id of this host.
    pub host: String,
    /// The name of this host.
    pub name: String,
    /// The engine.
    pub engine: EngineView,
    /// The version of the registry of scopes and keys that this host has.
    pub version: u64,
    /// The leases of this host.
    pub leases: LeasesView,
    /// The number of scopes whose rate is divided, so that this host enforces only a share of it
    /// (`fleet.rate = "shared"`).
    pub divided_rates: u64,
    /// The hosts of the fleet, sorted by name.
    pub hosts: Vec<HostView>,
    /// Problems; empty if everything works.
    pub problems: Vec<String>,
}

/// The engine of a fleet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EngineView {
    /// Whether the engine has answered within the last five seconds.
    pub up: bool,
    /// The kind of the engine: `single`, `sentinel` or `cluster`.
    pub kind: String,
    /// The servers that grant leases.
    pub servers: Vec<ServerView>,
    /// The number of replicas that have to confirm a grant.
    pub confirm: u32,
    /// The time of the last answer; `null` if there was none since the daemon started.
    #[serde(serialize_with = "optional_time")]
    #[schemars(with = "Option<DateTime<Utc>>")]
    pub answered_at: Option<DateTime<Utc>>,
    /// The version of the registry that the engine has.
    pub version: u64,
    /// The last error; `null` if the last heartbeat was answered.
    pub problem: Option<String>,
}

/// A server of the engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServerView {
    /// The address.
    pub address: String,
    /// The name and the version of the server's program, like `Valkey 9.1.2`; `null` if the server
    /// cannot be used.
    pub version: Option<String>,
    /// The number of connected replicas.
    pub replicas: u32,
    /// Whether the server writes each change to an append-only file.
    pub append_only_file: bool,
    /// The reason why the server cannot be used; `null` if it can.
    pub problem: Option<String>,
}

/// The sums over the leases of this host, and its calls since the daemon started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LeasesView {
    /// The number of scopes that share their quotas.
    pub scopes: u64,
    /// The requests that this host may still admit today.
    pub left: u64,
    /// The calls that granted a lease.
    pub granted: u64,
    /// The calls for which nothing was free, because other hosts had leased the rest.
    pub leased_out: u64,
    /// The calls for which the quota was used up.
    pub used_up: u64,
    /// The calls to a server that was learning which leases there are.
    pub learning: u64,
    /// The calls that the engine did not accept.
    pub refused: u64,
    /// The calls without an answer, or without enough confirmations.
    pub failed: u64,
    /// The recalls that this host has followed.
    pub recalls: u64,
}

/// A host of a fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HostView {
    /// The id of the host.
    pub id: String,
    /// The name of the host.
    pub name: String,
    /// The time at which the engine last received a heartbeat of the host, by the engine's clock.
    #[serde(serialize_with = "time")]
    #[schemars(with = "DateTime<Utc>")]
    pub seen_at: DateTime<Utc>,
    /// Whether the host has been silent for more than five seconds.
    pub silent: bool,
    /// The version of the registry that the host has.
    pub version: u64,
    /// Whether the registry has changes that the host does not have yet.
    pub behind: bool,
    /// Whether the configuration of the host (tiers, policies, ports and sources of keys) differs
    /// from that of the host that was asked.
    pub differs: bool,
    /// The time by which the clock of the host is ahead of that of the engine, in milliseconds.
    pub clock_ms: i64,
    /// The version of limiter on the host.
    pub limiter: String,
}
