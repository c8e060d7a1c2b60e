// SPDX-License-Identifier: MIT OR Apache-2.0

//! The bodies of requests.

use std::fmt;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::Value;

use super::schema;
use crate::{
    domain::{
        limits::{Changes, LimitName},
        mode::Mode,
        plain::Shown,
        scope::ScopeName,
    },
    protocol::{fields, views::rfc3339},
};

/// The body of `POST /v1/scopes`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AddScope {
    /// The name of the scope.
    pub scope: ScopeName,
    /// The tier of the scope. The default is `master` for an account and `profile` for a profile.
    #[serde(default)]
    pub tier: Option<String>,
}

/// The body of `POST /v1/keys`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateKey {
    /// The scope.
    pub scope: ScopeName,
    /// A label for the key.
    #[serde(default)]
    #[schemars(schema_with = "schema::label")]
    pub label: Option<String>,
    /// The time at which the key is revoked automatically, or `never`, which is the default.
    #[serde(default)]
    #[schemars(schema_with = "schema::end")]
    pub until: Option<End>,
    /// The reason, for the audit trail.
    #[serde(default, deserialize_with = "fields::optional_text")]
    #[schemars(schema_with = "schema::optional_note")]
    pub note: Option<String>,
}

/// The query of requests that change a key.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyChange {
    /// The reason, for the audit trail.
    #[serde(default, deserialize_with = "fields::optional_text")]
    #[schemars(schema_with = "schema::optional_note")]
    pub note: Option<String>,
}

/// The query of a request that revokes a key.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RevokeKey {
    /// The time at which the key is revoked automatically, or `never`, which removes an earlier
    /// such time. Without it, the key is revoked at once.
    #[serde(default)]
    #[schemars(schema_with = "schema::end")]
    pub at: Option<End>,
    /// The reason, for the audit trail.
    #[serde(default, deserialize_with = "fields::optional_text")]
    #[schemars(schema_with = "schema::optional_note")]
    pub note: Option<String>,
}

/// The body of `POST /v1/keys/import`.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportKey {
    /// The scope.
    pub scope: ScopeName,
    /// A label for the key.
    #[serde(default)]
    #[schemars(schema_with = "schema::label")]
    pub label: Option<String>,
    /// The raw key.
    #[serde(deserialize_with = "fields::raw_key")]
    #[schemars(schema_with = "schema::raw_key")]
    pub key: String,
    /// The reason, for the audit trail.
    #[serde(default, deserialize_with = "fields::optional_text")]
    #[schemars(schema_with = "schema::optional_note")]
    pub note: Option<String>,
}

/// The body of `POST /v1/keys/check`.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckKey {
    /// The raw key.
    #[serde(deserialize_with = "fields::raw_key")]
    pub key: String,
}

/// The end of limits or of a key in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// There is no end.
    Never,
    /// The end is at this time.
    At(DateTime<Utc>),
}

impl End {
    /// Returns the time of the end, if there is one.
    pub fn at(self) -> Option<DateTime<Utc>> {
        match self {
            Self::Never => None,
            Self::At(at) => Some(at),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never => f.write_str("never"),
            Self::At(at) => f.write_str(&rfc3339(at)),
        }
    }
}

impl Serialize for End {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for End {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let given = Value::deserialize(deserializer)?;
        let end = match given.as_str() {
            Some("never") => Some(Self::Never),
            text => text.and_then(fields::moment).map(Self::At),
        };
        end.ok_or_else(|| {
            let given = given.as_str().map_or_else(|| given.to_string(), str::to_owned);
            D::Error::custom(format!(
                "`{}` is not a valid end: write a time in the form of RFC 3339, like \"2026-12-31T18:00:00Z\", up to the year 9999, or \"never\"",
                Shown(&given)
            ))
        })
    }
}

/// The body of `PUT /v1/scopes/{scope}/limits`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetLimits {
    /// The limits to change.
    pub limits: Changes,
    /// The end of these limits: a time, or `never`. By default, each limit keeps its end, and a new
    /// one has none.
    #[serde(default)]
    #[schemars(schema_with = "schema::end")]
    pub until: Option<End>,
    /// The reason, which becomes the note of these limits.
    #[serde(deserialize_with = "fields::text")]
    #[schemars(schema_with = "schema::note")]
    pub note: String,
}

/// The body of `DELETE /v1/scopes/{scope}/limits`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClearLimits {
    /// The limits to end. By default, all limits of the scope's own end.
    #[serde(default)]
    pub limits: Vec<LimitName>,
    /// The reason.
    #[serde(deserialize_with = "fields::text")]
    #[schemars(schema_with = "schema::note")]
    pub note: String,
}

/// The body of `PUT /v1/scopes/{scope}/tier`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetTier {
    /// The new tier.
    pub tier: String,
    /// The reason.
    #[serde(deserialize_with = "fields::text")]
    #[schemars(schema_with = "schema::note")]
    pub note: String,
}

/// The new mode of a scope.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum ScopeMode {
    /// Refuse requests that are over a limit
    Enforce,
    /// Count the requests that would be refused, and refuse none
    Observe,
    /// Use the mode of the scope's tier
    Tier,
}

impl ScopeMode {
    /// Returns the scope's own mode, or `None` if the scope uses the mode of its tier.
    pub fn own(self) -> Option<Mode> {
        match self {
            Self::Enforce => Some(Mode::Enforce),
            Self::Observe => Some(Mode::Observe),
            Self::Tier => None,
        }
    }
}

/// The body of `PUT /v1/scopes/{scope}/mode`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetMode {
    /// The new mode.
    pub mode: ScopeMode,
    /// The reason.
    #[serde(deserialize_with = "fields::text")]
    #[schemars(schema_with = "schema::note")]
    pub note: String,
}

/// The body of requests that contain only a reason.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Noted {
    /// The reason.
    #[serde(deserialize_with = "fields::text")]
    #[schemars(schema_with = "schema::note")]
    pub note: String,
}
