//! Schemas of what has a way of its own to be written.

use std::borrow::Cow;

use limiter_common::abi::MAX_KEY;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::OverrideView;
use crate::{
    daemon::{MAX_LABEL, MAX_NOTE},
    limits::{BURST, Bound, CONCURRENCY, CONNECTIONS, DAILY_QUOTA, Range},
    rate::Rate,
    scope::ScopeName,
};

/// A rate; [`Rate`] reads a little more than that (blanks).
const RATE: &str = "^[0-9]+/[0-9]*(?:ms|s|min)$";

impl JsonSchema for ScopeName {
    fn schema_name() -> Cow<'static, str> {
        "ScopeName".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "An account, or a profile in one.",
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
            "description": "Requests in a time.",
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
            "description": "Requests in a time, or `unlimited`.",
            "type": "string",
            "pattern": format!("{RATE}|^unlimited$"),
            "examples": ["1/ms", "unlimited"],
        })
    }
}

/// What a limit may be set to: a number (of digits in a string, too), or `unlimited`.
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

/// No control characters.
const PLAIN: &str = r"^[^\u0000-\u001f\u007f-\u009f]*$";

/// A reason that says something (`daemon::audit::check_note`).
pub(crate) fn note(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "pattern": PLAIN,
        "allOf": [{"pattern": r"\S"}],
        "maxLength": MAX_NOTE,
    })
}

/// What a key is called (`daemon::keys::check_label`).
pub(crate) fn label(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": ["string", "null"],
        "pattern": PLAIN,
        "maxLength": MAX_LABEL,
    })
}

/// What a key may be (`key::validate`).
pub(crate) fn raw_key(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "pattern": format!("^[!-~]{{1,{MAX_KEY}}}$")})
}

impl JsonSchema for OverrideView {
    fn schema_name() -> Cow<'static, str> {
        "OverrideView".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let number = json_schema!({"type": ["integer", "null"], "minimum": 0});
        json_schema!({
            "description": "A scope's own limits: those that it names, `null` for unlimited.",
            "type": "object",
            "properties": {
                "daily_quota": number,
                "rate": {"type": ["string", "null"], "pattern": RATE},
                "burst": number,
                "concurrency": number,
                "connections": number,
                "until": {
                    "description": "When it ends by itself.",
                    "type": ["string", "null"],
                    "format": "date-time",
                },
                "note": {"description": "Why.", "type": "string"},
            },
            "required": ["until", "note"],
        })
    }
}
