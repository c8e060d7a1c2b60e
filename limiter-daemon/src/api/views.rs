//! What is answered.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, SecondsFormat, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

use crate::{
    kernel::{Hook, Mechanism},
    key::Form,
    limits::{Bound, Changes, Limits, Override},
    rate::Rate,
    scope::ScopeName,
    store::{KeyState, Refusals},
};

/// A moment, as JSON has it: `2026-11-24T00:00:00Z`.
pub fn rfc3339(at: &DateTime<Utc>) -> String {
    let format = if at.timestamp_subsec_millis() == 0 {
        SecondsFormat::Secs
    } else {
        SecondsFormat::Millis
    };
    at.to_rfc3339_opts(format, true)
}

pub(super) fn time<S: Serializer>(at: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&rfc3339(at))
}

pub(super) fn optional_time<S: Serializer>(
    at: &Option<DateTime<Utc>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => time(at, serializer),
        None => serializer.serialize_none(),
    }
}

/// `usage`: a scope's day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UsageView {
    /// The scope.
    pub scope: ScopeName,
    /// Its tier; `null` for a scope that has been removed.
    pub tier: Option<String>,
    /// Whether the scope has been removed since.
    #[serde(default)]
    pub removed: bool,
    /// The UTC day.
    pub day: NaiveDate,
    /// Requests charged.
    pub used: u64,
    /// How much of `used` is counted only since a crash of the host hid whether it was used.
    #[serde(default)]
    pub lost: u64,
    /// The quota in force.
    pub daily_quota: Option<u64>,
    /// What is left of it; `null` when unlimited.
    pub remaining: Option<u64>,
    /// The rate in force.
    pub rate: Option<Rate>,
    /// Requests in flight now; `null` for a past day.
    pub in_flight: Option<u64>,
    /// Connections counted now; `null` for a past day.
    pub connections: Option<u64>,
    /// Requests refused.
    pub refused: Refusals,
    /// Requests that enforcement would have refused.
    pub would_refuse: Refusals,
    /// When the count starts again.
    #[serde(serialize_with = "time")]
    #[schemars(with = "DateTime<Utc>")]
    pub resets_at: DateTime<Utc>,
}

/// `key list`: one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyView {
    /// Its id.
    pub id: String,
    /// The scope it is of.
    pub scope: ScopeName,
    /// What the operator calls it.
    pub label: Option<String>,
    /// What it may do.
    pub state: KeyState,
    /// When it was made.
    #[serde(serialize_with = "time")]
    #[schemars(with = "DateTime<Utc>")]
    pub created_at: DateTime<Utc>,
    /// When a request last carried it.
    #[serde(serialize_with = "optional_time")]
    #[schemars(with = "Option<DateTime<Utc>>")]
    pub last_used_at: Option<DateTime<Utc>>,
}

/// `key create`: the only time that the raw key is shown.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct CreatedKey {
    /// Its id.
    pub id: String,
    /// The scope it is of.
    pub scope: ScopeName,
    /// What the operator calls it.
    pub label: Option<String>,
    /// The raw key.
    pub key: String,
}

/// `key check`: what is known of a key; never the key itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyCheck {
    /// Whether a request could carry it, and its checksum is right if it is one of ours.
    pub well_formed: bool,
    /// Where it has its form from; `null` when it is not well-formed.
    pub form: Option<Form>,
    /// Why it is not well-formed.
    pub problem: Option<String>,
    /// Whether it is registered.
    pub known: bool,
    /// As what.
    pub registered: Option<KeyView>,
    /// The scope that the kernel has made of it, since it is not registered.
    #[serde(default)]
    pub unknown_scope: Option<ScopeName>,
}

/// A scope's own limits: those that it names, `null` for unlimited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverrideView {
    /// The limits that differ from the tier's.
    #[serde(flatten)]
    pub limits: serde_json::Map<String, serde_json::Value>,
    /// When it ends by itself.
    #[serde(serialize_with = "optional_time")]
    pub until: Option<DateTime<Utc>>,
    /// Why.
    pub note: String,
}

impl From<&Override> for OverrideView {
    fn from(own: &Override) -> Self {
        let mut limits = serde_json::Map::new();
        let Changes {
            daily_quota,
            rate,
            burst,
            concurrency,
            connections,
        } = own.changes.clone();
        let mut number = |name: &str, bound: Option<Bound<u64>>| {
            if let Some(bound) = bound {
                limits.insert(name.to_owned(), bound.limit().into());
            }
        };
        number("daily_quota", daily_quota);
        number("burst", burst.map(Bound::At));
        number("concurrency", concurrency);
        number("connections", connections);
        if let Some(rate) = rate {
            limits.insert(
                "rate".to_owned(),
                rate.limit().map(|rate| rate.to_string()).into(),
            );
        }
        Self {
            limits,
            until: own.until,
            note: own.note.clone(),
        }
    }
}

/// `scope list`: one scope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ScopeView {
    /// Its name.
    pub scope: ScopeName,
    /// Its tier.
    pub tier: String,
    /// The limits in force.
    pub limits: Limits,
    /// What of them is its own.
    #[serde(rename = "override")]
    pub own: Option<OverrideView>,
    /// `enforce` or `observe`, as it comes to with its tier's and `policy.mode`.
    pub mode: String,
    /// A mode of its own.
    #[serde(default)]
    pub own_mode: Option<String>,
    /// Whether the kernel has made it of a key that is not registered.
    #[serde(default)]
    pub unknown_key: bool,
    /// When it was made.
    #[serde(serialize_with = "time")]
    #[schemars(with = "DateTime<Utc>")]
    pub created_at: DateTime<Utc>,
}

/// `scope show`: a scope with its keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ScopeDetail {
    /// As in the list.
    #[serde(flatten)]
    pub scope: ScopeView,
    /// Its keys.
    pub keys: Vec<KeyView>,
}

/// `tier list`: one tier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TierView {
    /// Its name.
    pub tier: String,
    /// Its limits.
    pub limits: Limits,
    /// `enforce` or `observe`, as it comes to with `policy.mode`.
    pub mode: String,
    /// How many scopes have it.
    pub scopes: u64,
}

/// Where a program is attached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AttachedView {
    /// The interface.
    pub interface: String,
    /// Which way.
    pub hook: Hook,
    /// How.
    pub mechanism: Mechanism,
}

/// Sums since the maps were made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Totals {
    /// Requests charged and passed.
    pub admitted: u64,
    /// Requests refused for a limit.
    pub refused: Refusals,
    /// Malformed requests, passed or refused.
    pub malformed: u64,
    /// Requests without a key, passed or refused.
    pub missing_key: u64,
    /// Requests with an unknown key, passed or refused.
    pub unknown_key: u64,
}

/// The table of connections, as of the last sweep (at most some seconds ago).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FlowsView {
    /// Connections followed.
    pub open: u64,
    /// Of these, half open.
    pub half_open: u64,
    /// Most that there is room for (`tables.flows`).
    pub capacity: u64,
}

/// What has been put right since this daemon began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HealedView {
    /// Checks whether silent connections still have a socket.
    pub checks: u64,
    /// Recounts.
    pub recounts: u64,
    /// Requests in flight by which counts were wrong.
    pub slots: u64,
    /// Connections by which counts were wrong.
    pub connections: u64,
    /// Connections forgotten since their socket was gone.
    pub orphaned_flows: u64,
    /// Requests in flight given back with those.
    pub orphaned_slots: u64,
}

/// `audit`: one change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditView {
    /// When.
    #[serde(serialize_with = "time")]
    #[schemars(with = "DateTime<Utc>")]
    pub at: DateTime<Utc>,
    /// Who, by the credentials of the control socket's other end.
    pub who: String,
    /// What kind of change, like `limits set`.
    pub action: String,
    /// The scope or key id it concerns; empty for the daemon as a whole.
    pub object: String,
    /// What changed.
    pub detail: String,
    /// The operator's reason.
    pub note: Option<String>,
}

/// Something that an operator should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Health {
    /// What part of the daemon it is about.
    pub part: String,
    /// What is wrong.
    pub message: String,
}

/// `status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StatusView {
    /// The daemon's version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Attachments.
    pub attached: Vec<AttachedView>,
    /// Since when limits have been in force without a break.
    #[serde(serialize_with = "time")]
    #[schemars(with = "DateTime<Utc>")]
    pub since: DateTime<Utc>,
    /// Since when this daemon runs.
    #[serde(serialize_with = "time")]
    #[schemars(with = "DateTime<Utc>")]
    pub started_at: DateTime<Utc>,
    /// Server ports whose traffic is limited.
    pub guarded_ports: Vec<u16>,
    /// `enforce` or `observe`.
    pub mode: String,
    /// Scopes registered.
    pub scopes: u64,
    /// Keys registered.
    pub keys: u64,
    /// Scopes that the kernel has made of unknown keys.
    #[serde(default)]
    pub unknown_scopes: u64,
    /// Sums since the maps were made.
    pub totals: Totals,
    /// Every other counter of the kernel program, by name.
    #[schemars(with = "BTreeMap<String, u64>")]
    pub coverage: serde_json::Map<String, serde_json::Value>,
    /// Connections followed now.
    #[serde(default)]
    pub flows: FlowsView,
    /// What has been put right.
    #[serde(default)]
    pub healed: HealedView,
    /// What is wrong; empty when all is well.
    pub health: Vec<Health>,
}

/// What a change did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// What was done, line by line.
    pub done: Vec<String>,
    /// What the operator should know about it.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// What an import made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Imported {
    /// Keys added.
    pub keys: u64,
    /// Scopes made for them.
    pub scopes: u64,
}

/// What an import is at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImportPhase {
    /// The file is read and checked; counted in bytes.
    #[default]
    Reading,
    /// Keys go to the store.
    Storing,
    /// Keys go to the kernel.
    Entering,
    /// The store makes it lasting; counted in nothing.
    Committing,
}

/// How far an import is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImportView {
    /// What it is at.
    pub phase: ImportPhase,
    /// How much of that is done.
    pub done: u64,
    /// Of how much.
    pub total: u64,
}
