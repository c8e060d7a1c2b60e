// SPDX-License-Identifier: MIT OR Apache-2.0

//! Makes the descriptions of handlers from the types of their arguments and results.
//!
//! `aide` does the same for axum, but its stable version needs a different version of schemars. It
//! also describes the fields of responses as optional, which is right only for the fields of
//! requests. `utoipa-axum` would need a second set of schemas in addition to those of `--json`.

use axum::Json;
use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::{
    events::Events,
    extract::{App, Body, Created, Csv, Part, QueryOf, Sender},
};
use crate::protocol::{error::ApiError, events::EventView};

/// A function that returns a schema, and adds to the generator all schemas that the returned schema
/// references.
pub(super) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// The description of a handler.
#[derive(Default)]
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "a test makes the OpenAPI document of it")
)]
pub(super) struct Description {
    /// The schema of an object that has a property for each parameter of the query.
    pub(super) query: Option<SchemaOf>,
    pub(super) body: Option<RequestBody>,
    /// The status code of a successful response, and the schema of its body.
    pub(super) response: Option<(u16, SchemaOf)>,
}

/// The body of a request.
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "a test makes the OpenAPI document of it")
)]
pub(super) enum RequestBody {
    Json(SchemaOf),
    Csv,
}

/// Returns a reference to the schema of a type.
pub(super) fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// An argument of a handler. If it is a part of the request, `describe` adds it to the description.
pub(super) trait Argument {
    fn describe(_: &mut Description) {}
}

impl Argument for App {}

impl Argument for Sender {}

/// Adds nothing, because the OpenAPI document takes these parameters from the path itself.
impl<T> Argument for Part<T> {}

impl<T: JsonSchema> Argument for QueryOf<T> {
    fn describe(description: &mut Description) {
        description.query = Some(T::json_schema);
    }
}

impl<T: JsonSchema> Argument for Body<T> {
    fn describe(description: &mut Description) {
        description.body = Some(RequestBody::Json(of::<T>));
    }
}

impl Argument for Csv {
    fn describe(description: &mut Description) {
        description.body = Some(RequestBody::Csv);
    }
}

/// The result of a handler. Only a successful response is described, because all handlers have the
/// same errors.
pub(super) trait Outcome {
    fn response() -> (u16, SchemaOf);
}

impl<T: JsonSchema> Outcome for Json<T> {
    fn response() -> (u16, SchemaOf) {
        (200, of::<T>)
    }
}

impl<T: JsonSchema> Outcome for Created<T> {
    fn response() -> (u16, SchemaOf) {
        (201, of::<T>)
    }
}

impl Outcome for Events {
    fn response() -> (u16, SchemaOf) {
        (200, of::<Vec<EventView>>)
    }
}

impl<T: Outcome> Outcome for Result<T, ApiError> {
    fn response() -> (u16, SchemaOf) {
        T::response()
    }
}

/// A handler whose arguments `A` and result can be described.
pub(super) trait Described<A> {
    fn describe() -> Description;
}

macro_rules! described {
    ($($argument:ident),*) => {
        impl<F, R, $($argument),*> Described<($($argument,)*)> for F
        where
            F: AsyncFnOnce($($argument),*) -> R,
            R: Outcome,
            $($argument: Argument,)*
        {
            fn describe() -> Description {
                let mut description = Description {
                    response: Some(R::response()),
                    ..Description::default()
                };
                $($argument::describe(&mut description);)*
                description
            }
        }
    };
}

described!(A);
described!(A, B);
described!(A, B, C);
described!(A, B, C, D);
