// SPDX-License-Identifier: MIT OR Apache-2.0

//! The JSON Schemas of names and limits.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::domain::{
    bound::{BURST, Bound, CONCURRENCY, CONNECTIONS, DAILY_QUOTA, Range},
    rate::Rate,
    scope::ScopeName,
};

/// The pattern of a rate. It is stricter than the parser of [`Rate`], which also accepts spaces.
pub(crate) const RATE: &str = "^[0-9]+/[0-9]*(?:ms|s|min)$";

impl JsonSchema for ScopeName {
    fn schema_name() -> Cow<'static, str> {
        "ScopeName".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "An account, or a profile in an account.",
            "type": "string",
            "pattern": "^[A-Za-z0-9._-]{1,64}(?:/[A-Za-z0-9._-]{1,64})?$",
            "not": {"pattern": r"(?:^|/)\.{1,2}(?:/|$)"},
            "examples": ["acme", "acme/web"],
        })
    }
}

impl JsonSchema for Rate {
    fn schema_name() -> Cow<'static, str> {
        "Rate".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Requests in a window.",
            "type": "string",
            "pattern": RATE,
            "examples": ["1/ms", "300/min"],
        })
    }
}

impl JsonSchema for Bound<Rate> {
    fn schema_name() -> Cow<'static, str> {
        "RateBound".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Requests in a window, or `unlimited`.",
            "type": "string",
            "pattern": format!("{RATE}|^unlimited$"),
            "examples": ["1/ms", "unlimited"],
        })
    }
}

/// Returns the schema of a new value for a limit: a number, its digits in a string, or `unlimited`.
pub(crate) fn bound(range: Range) -> Schema {
    json_schema!({
        "anyOf": [
            {"type": "integer", "minimum": range.min, "maximum": range.max},
            {"type": "string", "pattern": "^(?:unlimited|[0-9]+)$"},
        ],
    })
}

pub(crate) fn daily_quota(_: &mut SchemaGenerator) -> Schema {
    bound(DAILY_QUOTA)
}

pub(crate) fn concurrency(_: &mut SchemaGenerator) -> Schema {
    bound(CONCURRENCY)
}

pub(crate) fn connections(_: &mut SchemaGenerator) -> Schema {
    bound(CONNECTIONS)
}

pub(crate) fn burst(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "minimum": BURST.min, "maximum": BURST.max})
}
