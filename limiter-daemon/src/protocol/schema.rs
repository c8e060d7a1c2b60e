// SPDX-License-Identifier: MIT OR Apache-2.0

//! JSON Schemas for types whose JSON form differs from their fields.

use std::borrow::Cow;

use limiter_common::abi::MAX_KEY;

use crate::{
    domain::{
        plain::{self, MAX_LABEL, MAX_NOTE},
        schema::RATE,
    },
    protocol::overrides::{OverrideView, TermsView},
};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

/// Returns the pattern of a text in which all characters are visible ([`plain::check`]).
fn plain() -> String {
    format!("^[^{}]*$", plain::invisible_class())
}

/// Returns the schema of the end of an override ([`End`](super::requests::End)).
pub(crate) fn end(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "anyOf": [
            {"type": "string", "format": "date-time"},
            {"const": "never"},
            {"type": "null"},
        ],
    })
}

/// Returns the schema of a reason, which must be neither empty nor blank.
pub(crate) fn note(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "pattern": plain(),
        "allOf": [{"pattern": r"\S"}],
        "maxLength": MAX_NOTE,
    })
}

/// Returns the schema of a reason that may be missing.
pub(crate) fn optional_note(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": ["string", "null"],
        "pattern": plain(),
        "allOf": [{"pattern": r"\S"}],
        "maxLength": MAX_NOTE,
    })
}

/// Returns the schema of the label of a key.
pub(crate) fn label(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": ["string", "null"],
        "pattern": plain(),
        "maxLength": MAX_LABEL,
    })
}

/// Returns the schema of a raw key ([`recognize`](crate::domain::key::recognize)).
pub(crate) fn raw_key(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "pattern": format!("^[!-~]{{1,{MAX_KEY}}}$")})
}

/// Returns the schema of the maximum number of results in a query.
pub(crate) fn limit(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "format": "uint32", "minimum": 0, "maximum": u32::MAX})
}

/// Returns the schema of the number of an event in a query.
pub(crate) fn event_number(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "format": "uint64", "minimum": 0, "maximum": u64::MAX})
}

impl JsonSchema for OverrideView {
    fn schema_name() -> Cow<'static, str> {
        "OverrideView".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let number = json_schema!({"type": ["integer", "null"], "minimum": 0});
        json_schema!({
            "description": "The override of a scope. It has the limits that differ from the tier's, with `null` for unlimited.",
            "type": "object",
            "properties": {
                "daily_quota": number,
                "rate": {"type": ["string", "null"], "pattern": RATE},
                "burst": number,
                "concurrency": number,
                "connections": number,
                "until": {
                    "description": "The earliest end of these limits.",
                    "type": ["string", "null"],
                    "format": "date-time",
                },
                "note": {
                    "description":
                        "The notes of these limits. Different notes are separated by semicolons.",
                    "type": "string",
                },
                "terms": {
                    "description": "The end and the note of each limit.",
                    "type": "object",
                    "additionalProperties": generator.subschema_for::<TermsView>(),
                },
            },
            "required": ["until", "note", "terms"],
        })
    }
}
