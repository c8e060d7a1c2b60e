// SPDX-License-Identifier: MIT OR Apache-2.0

//! The OpenAPI document of the control interface, `docs/openapi.json`, which is made from the
//! routes.

use axum::http::Method;
use schemars::{SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::{
    access,
    describe::{Description, RequestBody, SchemaOf, of},
    route::Route,
    routes::routes,
};
use crate::{domain::scope::ScopeName, protocol::error::ProblemBody};

/// The generators of the schemas of requests and of responses. There are two, because requests and
/// responses differ in which fields may be missing.
struct Schemas {
    requests: SchemaGenerator,
    responses: SchemaGenerator,
}

impl Schemas {
    fn new() -> Self {
        let settings = SchemaSettings::draft2020_12()
            .with(|settings| settings.definitions_path = "/components/schemas".into());
        Self {
            requests: settings.clone().for_deserialize().into_generator(),
            responses: settings.for_serialize().into_generator(),
        }
    }

    /// Returns the schemas of all types, by name.
    fn components(&mut self) -> Map<String, Value> {
        let mut components = self.requests.take_definitions(true);
        for (name, schema) in self.responses.take_definitions(true) {
            let same = components.insert(name.clone(), schema.clone());
            assert!(
                same.is_none_or(|same| same == schema),
                "{name} is different in requests and in responses"
            );
        }
        components
    }
}

/// Makes the OpenAPI document.
fn document() -> Value {
    let mut schemas = Schemas::new();
    let mut paths = Map::new();
    for route in routes() {
        let method = route.method.as_str().to_ascii_lowercase();
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[method] = operation(&route, &mut schemas);
    }
    let problem = of::<ProblemBody>(&mut schemas.responses);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "limiter",
            "version": "1",
            "description": "The control interface of `limiter run`: HTTP/1.1 with JSON over a Unix \
                socket, see docs/API.md. Fields may be added, and are never renamed. The rights of a \
                client follow from the credentials of its process: operations with the tag `read` \
                require the group that may read, and those with the tag `change` the group that may \
                make changes.",
        },
        "servers": [{"url": "/", "description": "/run/limiter/limiter.sock"}],
        "tags": [
            {"name": "read", "description": "Requires `[control] group`, `admin_group` or root."},
            {"name": "change", "description": "Requires `[control] admin_group` or root."},
        ],
        "paths": paths,
        "components": {
            "schemas": schemas.components(),
            "responses": {"Problem": {
                "description": "An error, with the fault and what would be valid.",
                "content": {"application/problem+json": {"schema": problem}},
            }},
        },
    })
}

/// Returns the Operation Object of a route.
fn operation(route: &Route, schemas: &mut Schemas) -> Value {
    let Description {
        query,
        body,
        response,
    } = (route.describe)();
    let (status, response) = response.expect("each handler has a result");
    let reads = access::reads(&route.method, route.path);
    let mut parameters = path_parameters(route.path, schemas);
    parameters.extend(query_parameters(query, schemas));
    let mut operation = json!({
        "operationId": route.id,
        "summary": route.summary,
        "tags": [if reads { "read" } else { "change" }],
        "parameters": parameters,
        "responses": {
            status.to_string(): {
                "description": "The request was successful.",
                "content": {"application/json": {"schema": response(&mut schemas.responses)}},
            },
            "default": {"$ref": "#/components/responses/Problem"},
        },
    });
    if let Some(body) = body {
        let content = content(&body, schemas);
        operation["requestBody"] = json!({"required": true, "content": content});
    }
    operation
}

fn path_parameters(path: &str, schemas: &mut Schemas) -> Vec<Value> {
    let parts = path.split('/');
    let names = parts.filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    names.map(|name| path_parameter(name, schemas)).collect()
}

/// Returns one parameter for each property of the schema `query`.
fn query_parameters(query: Option<SchemaOf>, schemas: &mut Schemas) -> Vec<Value> {
    let Some(query) = query else {
        return Vec::new();
    };
    let query = query(&mut schemas.requests).to_value();
    let properties = query["properties"].as_object().expect("an object");
    let parameter = |(name, schema): (&String, &Value)| {
        let mut schema = schema.clone();
        let fields = schema.as_object_mut().expect("an object");
        let description = fields.remove("description");
        // A default of `null` is left out, because a parameter that is missing from a query has no
        // JSON value.
        if fields.get("default") == Some(&Value::Null) {
            fields.remove("default");
        }
        json!({"in": "query", "name": name, "description": description, "schema": schema})
    };
    properties.iter().map(parameter).collect()
}

fn path_parameter(name: &str, schemas: &mut Schemas) -> Value {
    let id = json!({"type": "string", "minLength": 1});
    let (schema, description) = match name {
        "scope" => (
            json!(of::<ScopeName>(&mut schemas.requests)),
            "The name of a scope, with its `/` as `%2F`.",
        ),
        "object" => (
            id,
            "The name of a scope, with its `/` as `%2F`, or the id of a key.",
        ),
        _ => (id, "The id of a key."),
    };
    json!({
        "in": "path",
        "name": name,
        "required": true,
        "description": description,
        "schema": schema,
    })
}

/// Returns the `content` of a request's body: its schema under its media type.
fn content(body: &RequestBody, schemas: &mut Schemas) -> Value {
    match body {
        RequestBody::Json(schema) => {
            json!({"application/json": {"schema": schema(&mut schemas.requests)}})
        }
        RequestBody::Csv => json!({"text/csv": {
            "schema": {"type": "string"},
            "example": "scope,key,label\nacme/web,a-key-of-theirs,old\n",
        }}),
    }
}

#[test]
fn the_document_in_the_repository_is_that_of_this_code() {
    crate::documents::assert_committed("openapi.json", &document());
}

#[test]
fn only_safe_methods_and_the_check_of_a_key_are_reads() {
    for route in routes() {
        let reads = access::reads(&route.method, route.path);
        let wanted = route.method == Method::GET || route.path == "/v1/keys/check";
        assert_eq!(reads, wanted, "{} {}", route.method, route.path);
    }
}

#[test]
fn each_operation_has_an_id_of_its_own() {
    let mut ids: Vec<&str> = routes().iter().map(|route| route.id).collect();
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all);
}
