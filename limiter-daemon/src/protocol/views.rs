// SPDX-License-Identifier: MIT OR Apache-2.0

//! The bodies of responses.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, SecondsFormat, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

use super::overrides::{OverrideView, Replaced};
use crate::domain::{
    hook::{Hook, Mechanism, Missing, Standing},
    key::Form,
    key_state::KeyState,
    limits::Limits,
    rate::Rate,
    refusals::Refusals,
    scope::ScopeName,
};

/// Returns a time in the form that JSON uses, like `2026-11-24T00:00:00Z`.
pub fn rfc3339(at: &DateTime<Utc>) -> String {
    let format = if at.timestamp_subsec_millis() == 0 {
        SecondsFormat::Secs
    } else {
        SecondsFormat::Millis
    };
    at.to_rfc3339_opts(format, true)
}

pub(crate) fn time<S: Serializer>(at: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&rfc3339(at))
}

pub(crate) fn optional_time<S: Serializer>(
    at: &Option<DateTime<Utc>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => time(at, serializer),
        None => serializer.serialize_none(),
    }
}

/// `usage`: the usage of one scope on one day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UsageView {
    /// The scope.
    pub scope: ScopeName,
    /// The tier of the scope; `null` if the scope has been removed.
    pub tier: Option<String>,
    /// Whether the scope has been removed.
    #[serde(default)]
    pub removed: bool,
    /// The UTC day.
    pub day: NaiveDate,
    /// The number of requests that were charged. In a fleet, this is the sum over all hosts, as far
    /// as they have reported to the engine, for a past day and for a single scope.
    pub used: u64,
    /// The part of `used` that this host has admitted, if `used` is a sum over all hosts of a
    /// fleet; otherwise `null`.
    #[serde(default)]
    pub host_used: Option<u64>,
    /// The number of requests that all hosts of a fleet together may have admitted or may still
    /// admit without asking the engine; `null` for a past day, and if `used` is not a sum over all
    /// hosts.
    #[serde(default)]
    pub leased: Option<u64>,
    /// The part of `used` that is counted only because the host crashed and the exact count was
    /// lost.
    #[serde(default)]
    pub lost: u64,
    /// The daily quota in force.
    pub daily_quota: Option<u64>,
    /// The rest of the daily quota; `null` if it is unlimited.
    pub remaining: Option<u64>,
    /// The rate in force.
    pub rate: Option<Rate>,
    /// The number of requests in flight now; `null` for a past day.
    pub in_flight: Option<u64>,
    /// The number of open connections now; `null` for a past day.
    pub connections: Option<u64>,
    /// The numbers of refused requests, by reason.
    pub refused: Refusals,
    /// The numbers of requests that would have been refused if limits were enforced, by reason.
    pub would_refuse: Refusals,
    /// The time at which the count starts again at 0.
    #[serde(serialize_with = "time")]
    #[schemars(with = "DateTime<Utc>")]
    pub resets_at: DateTime<Utc>,
}

/// `key list`: one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyView {
    /// The id of the key.
    pub id: String,
    /// The scope to which the key belongs or belonged.
    pub scope: ScopeName,
    /// Whether the key's scope has been removed. If it has, the key is revoked for good, even if a
    /// scope with the same name has been added since.
    #[serde(default)]
    pub scope_removed: bool,
    /// The label of the key.
    pub label: Option<String>,
    /// The state of the key.
    pub state: KeyState,
    /// The time at which the key was registered.
    #[serde(serialize_with = "time")]
    #[schemars(with = "DateTime<Utc>")]
    pub created_at: DateTime<Utc>,
    /// The time of the last request that carried the key.
    #[serde(serialize_with = "optional_time")]
    #[schemars(with = "Option<DateTime<Utc>>")]
    pub last_used_at: Option<DateTime<Utc>>,
    /// The time at which the key is revoked automatically.
    #[serde(default, serialize_with = "optional_time")]
    #[schemars(with = "Option<DateTime<Utc>>")]
    pub until: Option<DateTime<Utc>>,
    /// The time at which the key was revoked; `null` if the key is not revoked, or was revoked
    /// before this time was recorded.
    #[serde(default, serialize_with = "optional_time")]
    #[schemars(with = "Option<DateTime<Utc>>")]
    pub revoked_at: Option<DateTime<Utc>>,
}

/// `key create`: a new key. The raw key is not shown again.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct CreatedKey {
    /// The id of the key.
    pub id: String,
    /// The scope to which the key belongs.
    pub scope: ScopeName,
    /// The label of the key.
    pub label: Option<String>,
    /// The time at which the key is revoked automatically.
    #[serde(default, serialize_with = "optional_time")]
    #[schemars(with = "Option<DateTime<Utc>>")]
    pub until: Option<DateTime<Utc>>,
    /// The raw key.
    pub key: String,
}

/// `key check`: the known facts about a key, without the key itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyCheck {
    /// Whether a request could carry the key and, for a generated key, whether its checksum is
    /// correct.
    pub well_formed: bool,
    /// The form of the key; `null` if the key is not well-formed.
    pub form: Option<Form>,
    /// The reason why the key is not well-formed.
    pub problem: Option<String>,
    /// Whether the key is registered.
    pub known: bool,
    /// The registered key.
    pub registered: Option<KeyView>,
    /// The scope that the kernel has created for the key, if the key is not registered.
    #[serde(default)]
    pub unknown_scope: Option<ScopeName>,
}

/// `scope list`: one scope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ScopeView {
    /// The name of the scope.
    pub scope: ScopeName,
    /// The tier of the scope.
    pub tier: String,
    /// The limits in force.
    pub limits: Limits,
    /// The override of the scope.
    #[serde(rename = "override")]
    pub limits_override: Option<OverrideView>,
    /// The mode in force, `enforce` or `observe`. It is the scope's own mode, or else that of the
    /// tier, or else `policy.mode`.
    pub mode: String,
    /// The scope's own mode, if it has one.
    #[serde(default)]
    pub own_mode: Option<String>,
    /// Whether the kernel has created the scope for a key that is not registered.
    #[serde(default)]
    pub unknown_key: bool,
    /// The time at which the scope was added.
    #[serde(serialize_with = "time")]
    #[schemars(with = "DateTime<Utc>")]
    pub created_at: DateTime<Utc>,
}

/// `scope add`, `scope mode`, `limits set` and `limits clear`: the scope after the change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChangedScope {
    /// The scope, in the form of `scope list`.
    #[serde(flatten)]
    pub scope: ScopeView,
    /// The limits in force, ends and notes that the change has replaced.
    #[serde(default)]
    pub changed: Vec<Replaced>,
    /// Warnings for the operator.
    #[serde(default)]
    pub warnings: Vec<String>,
}

impl From<ScopeView> for ChangedScope {
    fn from(scope: ScopeView) -> Self {
        Self {
            scope,
            changed: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

/// `scope show`: a scope with its keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ScopeDetail {
    /// The scope, in the form of `scope list`.
    #[serde(flatten)]
    pub scope: ScopeView,
    /// The keys of the scope.
    pub keys: Vec<KeyView>,
}

/// `tier list`: one tier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TierView {
    /// The name of the tier.
    pub tier: String,
    /// The limits of the tier.
    pub limits: Limits,
    /// The mode in force, `enforce` or `observe`. It is the tier's own mode, or else `policy.mode`.
    pub mode: String,
    /// The number of scopes that have this tier.
    pub scopes: u64,
}

/// An attached program of limiter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AttachedView {
    /// The interface.
    pub interface: String,
    /// The direction of the inspected packets.
    pub hook: Hook,
    /// The kernel mechanism by which the program is attached.
    pub mechanism: Mechanism,
    /// Other programs and filters that packets reach before this program, in order. Packets that
    /// one of them drops or accepts do not reach limiter, and are not limited.
    #[serde(default)]
    pub before: Vec<Standing>,
}

/// Totals since the maps were created.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Totals {
    /// The number of requests that were admitted and charged.
    pub admitted: u64,
    /// The numbers of requests that were refused because of a limit, by limit.
    pub refused: Refusals,
    /// The number of malformed requests, admitted or refused.
    pub malformed: u64,
    /// The number of requests without a key, admitted or refused.
    pub missing_key: u64,
    /// The number of requests with an unknown key, admitted or refused.
    pub unknown_key: u64,
}

/// The table of connections, as of the last sweep, which took place at most a few seconds ago.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FlowsView {
    /// The number of tracked connections.
    pub open: u64,
    /// The number of tracked connections that are half open.
    pub half_open: u64,
    /// The number of open tracked connections whose server has sent nothing since the client
    /// completed the handshake.
    pub unconfirmed: u64,
    /// The number of connections that are in the table without being tracked (`policy.untracked`,
    /// `policy.table_full`), plus those that were opened from a guarded port.
    pub untracked: u64,
    /// The maximum number of connections in the table (`tables.flows`).
    pub capacity: u64,
}

/// Corrections of counts since this daemon started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HealedView {
    /// The number of searches for silent connections that no longer have a socket.
    pub checks: u64,
    /// The number of recounts.
    pub recounts: u64,
    /// The sum of the errors that have been corrected in counts of requests in flight.
    pub slots: u64,
    /// The sum of the errors that have been corrected in counts of connections.
    pub connections: u64,
    /// The number of tracked connections that were removed because they no longer had a socket.
    pub orphaned_flows: u64,
    /// The number of requests in flight that were released with those connections.
    pub orphaned_slots: u64,
}

/// `audit`: one change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditView {
    /// The time of the change.
    #[serde(serialize_with = "time")]
    #[schemars(with = "DateTime<Utc>")]
    pub at: DateTime<Utc>,
    /// The user, according to the credentials of the process that used the control socket.
    pub who: String,
    /// The kind of change, like `limits set`.
    pub action: String,
    /// The scope or the id of the key that the change concerns; empty for the daemon as a whole.
    pub object: String,
    /// The details of the change.
    pub detail: String,
    /// The operator's reason.
    pub note: Option<String>,
}

/// A fault that an operator should know about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Health {
    /// The part of the daemon that the fault concerns.
    pub part: String,
    /// A description of the fault.
    pub message: String,
}

/// `status`: the state of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StatusView {
    /// The version of the daemon.
    pub version: String,
    /// The process id of the daemon.
    pub pid: u32,
    /// The attached programs.
    pub attached: Vec<AttachedView>,
    /// The hooks at which a program should be attached but cannot be.
    #[serde(default)]
    pub missing: Vec<Missing>,
    /// The time since which limits have been in force without interruption.
    #[serde(serialize_with = "time")]
    #[schemars(with = "DateTime<Utc>")]
    pub since: DateTime<Utc>,
    /// The time at which this daemon started.
    #[serde(serialize_with = "time")]
    #[schemars(with = "DateTime<Utc>")]
    pub started_at: DateTime<Utc>,
    /// The server ports whose traffic is limited.
    pub guarded_ports: Vec<u16>,
    /// The general mode, `enforce` or `observe`.
    pub mode: String,
    /// The number of registered scopes.
    pub scopes: u64,
    /// The number of registered keys.
    pub keys: u64,
    /// The number of scopes that the kernel has created for unknown keys.
    #[serde(default)]
    pub unknown_scopes: u64,
    /// Totals since the maps were created.
    pub totals: Totals,
    /// All other counters of the kernel programs, by name.
    #[schemars(with = "BTreeMap<String, u64>")]
    pub coverage: serde_json::Map<String, serde_json::Value>,
    /// The table of connections.
    #[serde(default)]
    pub flows: FlowsView,
    /// Corrections of counts.
    #[serde(default)]
    pub healed: HealedView,
    /// Faults; empty if everything works.
    pub health: Vec<Health>,
}

/// The result of a change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// The steps that were carried out, one per line.
    pub done: Vec<String>,
    /// Warnings for the operator.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// The result of an import.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Imported {
    /// The number of keys that were added.
    pub keys: u64,
    /// The number of scopes that were added for those keys.
    pub scopes: u64,
    /// The number of keys that were already registered for the same scope, and were not changed.
    #[serde(default)]
    pub already_there: u64,
    /// Warnings for the operator.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// The phase of an import.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImportPhase {
    /// The daemon reads and checks the file. Progress is counted in bytes.
    #[default]
    Reading,
    /// The daemon writes the keys to the store.
    Storing,
    /// The daemon enters the keys into the kernel's table.
    Entering,
    /// The store commits the import. Progress is not counted.
    Committing,
}

/// The progress of an import.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImportView {
    /// The current phase.
    pub phase: ImportPhase,
    /// The completed amount of work in the phase.
    pub done: u64,
    /// The total amount of work in the phase.
    pub total: u64,
}
