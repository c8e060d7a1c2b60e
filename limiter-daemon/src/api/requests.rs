//! What is sent.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{optional_time, schema};
use crate::{config::Mode, limits::Changes, scope::ScopeName};

/// Body of `POST /v1/scopes`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AddScope {
    /// Its name.
    pub scope: ScopeName,
    /// Its tier; `master` or `profile` by default.
    #[serde(default)]
    pub tier: Option<String>,
}

/// Body of `POST /v1/keys`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateKey {
    /// The scope.
    pub scope: ScopeName,
    /// What to call it.
    #[serde(default)]
    #[schemars(schema_with = "schema::label")]
    pub label: Option<String>,
}

/// Body of `POST /v1/keys/import`.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportKey {
    /// The scope.
    pub scope: ScopeName,
    /// What to call it.
    #[serde(default)]
    #[schemars(schema_with = "schema::label")]
    pub label: Option<String>,
    /// The raw key.
    #[schemars(schema_with = "schema::raw_key")]
    pub key: String,
}

/// Body of `POST /v1/keys/check`.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckKey {
    /// The raw key.
    pub key: String,
}

/// Body of `PUT /v1/scopes/{scope}/limits`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetLimits {
    /// What to change.
    pub limits: Changes,
    /// When it ends by itself.
    #[serde(default, serialize_with = "optional_time")]
    #[schemars(with = "Option<DateTime<Utc>>")]
    pub until: Option<DateTime<Utc>>,
    /// Why.
    #[schemars(schema_with = "schema::note")]
    pub note: String,
}

/// What a scope's mode is to be.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum ScopeMode {
    /// Refuse what is over a limit
    Enforce,
    /// Count what would be refused, refuse nothing
    Observe,
    /// What its tier says
    Tier,
}

impl ScopeMode {
    /// A mode of the scope's own, if it is to have one.
    pub fn own(self) -> Option<Mode> {
        match self {
            Self::Enforce => Some(Mode::Enforce),
            Self::Observe => Some(Mode::Observe),
            Self::Tier => None,
        }
    }
}

/// Body of `PUT /v1/scopes/{scope}/mode`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetMode {
    /// What it is to be.
    pub mode: ScopeMode,
    /// Why.
    #[schemars(schema_with = "schema::note")]
    pub note: String,
}

/// Body of what only wants a reason.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Noted {
    /// Why.
    #[schemars(schema_with = "schema::note")]
    pub note: String,
}
