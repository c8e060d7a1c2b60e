//! The control interface as an OpenAPI document, `docs/openapi.json`: one entry for each route.

use axum::http::Method;
use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::{
    AddScope, AuditView, CheckKey, CreateKey, CreatedKey, EventView, ExplainView, ImportKey,
    ImportView, Imported, KeyCheck, KeyView, Noted, ProblemBody, Report, ScopeDetail, ScopeView,
    SetLimits, SetMode, StatusView, TierView, TopColumn, TopView, UsageView, access,
};
use crate::scope::ScopeName;

/// What is sent and what is answered, in one go: their schemas differ in what may be left out.
struct Schemas {
    sent: SchemaGenerator,
    answered: SchemaGenerator,
}

type Schema = fn(&mut SchemaGenerator) -> schemars::Schema;

fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> schemars::Schema {
    generator.subschema_for::<T>()
}

struct Operation {
    method: Method,
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    query: Vec<(&'static str, &'static str, Value)>,
    sends: Option<Sent>,
    answers: (u16, Schema),
}

enum Sent {
    Json(Schema),
    Csv,
}

fn operation(
    method: Method,
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    answer: Schema,
) -> Operation {
    Operation {
        method,
        path,
        id,
        summary,
        query: Vec::new(),
        sends: None,
        answers: (200, answer),
    }
}

impl Operation {
    fn query(mut self, name: &'static str, description: &'static str, schema: Value) -> Self {
        self.query.push((name, description, schema));
        self
    }

    fn sends(mut self, schema: Schema) -> Self {
        self.sends = Some(Sent::Json(schema));
        self
    }

    fn sends_csv(mut self) -> Self {
        self.sends = Some(Sent::Csv);
        self
    }

    /// Answered with 201.
    fn makes(mut self) -> Self {
        self.answers.0 = 201;
        self
    }
}

fn get(path: &'static str, id: &'static str, summary: &'static str, answer: Schema) -> Operation {
    operation(Method::GET, path, id, summary, answer)
}

fn post(path: &'static str, id: &'static str, summary: &'static str, answer: Schema) -> Operation {
    operation(Method::POST, path, id, summary, answer)
}

fn put(path: &'static str, id: &'static str, summary: &'static str, answer: Schema) -> Operation {
    operation(Method::PUT, path, id, summary, answer)
}

fn delete(
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    answer: Schema,
) -> Operation {
    operation(Method::DELETE, path, id, summary, answer)
}

fn operations() -> Vec<Operation> {
    let date = json!({"type": "string", "format": "date"});
    let moment = json!({"type": "string", "format": "date-time"});
    let day = "A UTC day; today by default.";
    let number = json!({"type": "integer", "format": "uint32", "minimum": 0, "maximum": u32::MAX});
    vec![
        get(
            "/v1/status",
            "status",
            "Attached where, totals, coverage, health",
            of::<StatusView>,
        ),
        get("/v1/tiers", "listTiers", "All tiers", of::<Vec<TierView>>),
        get(
            "/v1/scopes",
            "listScopes",
            "All scopes",
            of::<Vec<ScopeView>>,
        ),
        post("/v1/scopes", "addScope", "Add a scope", of::<ScopeView>)
            .sends(of::<AddScope>)
            .makes(),
        get(
            "/v1/scopes/{scope}",
            "showScope",
            "A scope with its keys",
            of::<ScopeDetail>,
        ),
        delete(
            "/v1/scopes/{scope}",
            "removeScope",
            "Remove a scope",
            of::<Report>,
        )
        .query(
            "with_keys",
            "Also when keys of it are active.",
            json!({"type": "boolean", "default": false}),
        ),
        put(
            "/v1/scopes/{scope}/limits",
            "setLimits",
            "Give a scope limits of its own",
            of::<ScopeView>,
        )
        .sends(of::<SetLimits>),
        delete(
            "/v1/scopes/{scope}/limits",
            "clearLimits",
            "Back to the limits of its tier",
            of::<ScopeView>,
        )
        .sends(of::<Noted>),
        put(
            "/v1/scopes/{scope}/mode",
            "setMode",
            "Enforce its limits, or only count",
            of::<ScopeView>,
        )
        .sends(of::<SetMode>),
        get(
            "/v1/scopes/{scope}/usage",
            "usageOf",
            "A scope's day",
            of::<UsageView>,
        )
        .query("date", day, date.clone()),
        post(
            "/v1/scopes/{scope}/reset",
            "reset",
            "Today's count back to zero",
            of::<UsageView>,
        )
        .sends(of::<Noted>),
        get(
            "/v1/usage",
            "usage",
            "The day of all scopes",
            of::<Vec<UsageView>>,
        )
        .query("date", day, date),
        get(
            "/v1/audit",
            "audit",
            "Who changed what, the oldest first",
            of::<Vec<AuditView>>,
        )
        .query(
            "object",
            "Only what concerns this scope or key id.",
            json!({"type": "string"}),
        )
        .query("since", "Only from then on.", moment)
        .query(
            "limit",
            "The last so many of them.",
            number.clone(),
        ),
        get(
            "/v1/events",
            "events",
            "What happened of late, the oldest first; followed, what happens",
            of::<Vec<EventView>>,
        )
        .query(
            "follow",
            "Go on with what comes, one object a line (`application/x-ndjson`), until the daemon ends.",
            json!({"type": "boolean", "default": false}),
        )
        .query(
            "limit",
            "The last so many of those that the daemon remembers.",
            number.clone(),
        )
        .query(
            "after",
            "Only those with a greater number.",
            json!({"type": "integer", "format": "uint64", "minimum": 0, "maximum": u64::MAX, "default": 0}),
        ),
        get(
            "/v1/explain/{object}",
            "explain",
            "Would a request pass now; if not, which limit is it",
            of::<ExplainView>,
        ),
        get("/v1/top", "top", "The busiest scopes", of::<TopView>)
            .query("by", "Ranked by.", json!({"$ref": "#/components/schemas/TopColumn"}))
            .query("limit", "At most so many scopes; 50 by default, 1,000 at most.", number)
            .query(
                "filter",
                "Only scopes with this in their names.",
                json!({"type": "string", "default": ""}),
            ),
        get(
            "/v1/keys",
            "listKeys",
            "All keys, or a scope's; never the keys themselves",
            of::<Vec<KeyView>>,
        )
        .query(
            "scope",
            "Only of this scope.",
            json!({"$ref": "#/components/schemas/ScopeName"}),
        ),
        post(
            "/v1/keys",
            "createKey",
            "Make a key and show it, this once",
            of::<CreatedKey>,
        )
        .sends(of::<CreateKey>)
        .makes(),
        post(
            "/v1/keys/import",
            "importKey",
            "Register an existing key",
            of::<KeyView>,
        )
        .sends(of::<ImportKey>)
        .makes(),
        post(
            "/v1/keys/check",
            "checkKey",
            "What is known of a key",
            of::<KeyCheck>,
        )
        .sends(of::<CheckKey>),
        post(
            "/v1/keys/import-csv",
            "importKeys",
            "Register a file of keys, all or none",
            of::<Imported>,
        )
        .sends_csv()
        .makes(),
        get(
            "/v1/keys/import-csv",
            "importProgress",
            "How far the import at work is",
            of::<Option<ImportView>>,
        ),
        post(
            "/v1/keys/{id}/disable",
            "disableKey",
            "401 until it is enabled again",
            of::<KeyView>,
        ),
        post(
            "/v1/keys/{id}/enable",
            "enableKey",
            "Admit a disabled key again",
            of::<KeyView>,
        ),
        post(
            "/v1/keys/{id}/revoke",
            "revokeKey",
            "401 for ever",
            of::<KeyView>,
        ),
        post(
            "/v1/reload",
            "reload",
            "Read the configuration again",
            of::<Report>,
        ),
        post(
            "/v1/detach",
            "detach",
            "Take everything down, and end the daemon",
            of::<Report>,
        ),
    ]
}

fn parameters(operation: &Operation, schemas: &mut Schemas) -> Vec<Value> {
    let of_path = operation.path.split('/').filter_map(|part| {
        let name = part.strip_prefix('{')?.strip_suffix('}')?;
        let (schema, description) = match name {
            "scope" => (json!(of::<ScopeName>(&mut schemas.sent)), "A scope's name, its `/` as `%2F`."),
            "object" => (
                json!({"type": "string", "minLength": 1}),
                "A scope's name, its `/` as `%2F`, or a key's id.",
            ),
            _ => (json!({"type": "string", "minLength": 1}), "A key's id."),
        };
        Some(json!({"in": "path", "name": name, "required": true, "description": description, "schema": schema}))
    });
    let of_path: Vec<Value> = of_path.collect();
    let of_query = operation.query.iter().map(|(name, description, schema)| {
        json!({"in": "query", "name": name, "description": description, "schema": schema})
    });
    of_path.into_iter().chain(of_query).collect()
}

fn described(operation: &Operation, schemas: &mut Schemas) -> Value {
    let (status, answer) = operation.answers;
    let reads = access::reads(&operation.method, operation.path);
    let mut described = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "tags": [if reads { "read" } else { "change" }],
        "parameters": parameters(operation, schemas),
        "responses": {
            status.to_string(): {
                "description": "Done.",
                "content": {"application/json": {"schema": answer(&mut schemas.answered)}},
            },
            "default": {"$ref": "#/components/responses/Problem"},
        },
    });
    let content = match operation.sends {
        None => return described,
        Some(Sent::Json(schema)) => {
            json!({"application/json": {"schema": schema(&mut schemas.sent)}})
        }
        Some(Sent::Csv) => json!({"text/csv": {
            "schema": {"type": "string"},
            "example": "scope,key,label\nacme/web,a-key-of-theirs,old\n",
        }}),
    };
    described["requestBody"] = json!({"required": true, "content": content});
    described
}

fn document() -> Value {
    let settings = SchemaSettings::draft2020_12()
        .with(|settings| settings.definitions_path = "/components/schemas".into());
    let mut schemas = Schemas {
        sent: settings.clone().for_deserialize().into_generator(),
        answered: settings.for_serialize().into_generator(),
    };
    let mut paths = Map::new();
    for operation in operations() {
        let described = described(&operation, &mut schemas);
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method.as_str().to_ascii_lowercase()] = described;
    }
    let problem = of::<ProblemBody>(&mut schemas.answered);
    // Of a query, which is described by hand.
    of::<TopColumn>(&mut schemas.sent);
    let mut components = schemas.sent.take_definitions(true);
    for (name, schema) in schemas.answered.take_definitions(true) {
        let same = components.insert(name.clone(), schema.clone());
        assert!(
            same.is_none_or(|same| same == schema),
            "{name} is sent in another form"
        );
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "limiter",
            "version": "1",
            "description": "The control interface of `limiter run`: HTTP/1.1 with JSON over a unix \
                socket, see docs/API.md. Fields may be added, never renamed. Who may do what follows \
                from the credentials of the process that connects: operations tagged `read` take the \
                group that reads, those tagged `change` the group that makes changes.",
        },
        "servers": [{"url": "/", "description": "/run/limiter/limiter.sock"}],
        "tags": [
            {"name": "read", "description": "Takes `[control] group`, `admin_group` or root."},
            {"name": "change", "description": "Takes `[control] admin_group` or root."},
        ],
        "paths": paths,
        "components": {
            "schemas": components,
            "responses": {"Problem": {
                "description": "What is wrong, and what would be right.",
                "content": {"application/problem+json": {"schema": problem}},
            }},
        },
    })
}

#[test]
fn the_document_in_the_repository_is_that_of_this_code() {
    crate::documents::assert_committed("openapi.json", &document());
}

#[test]
fn only_safe_methods_and_the_check_of_a_key_are_reads() {
    for operation in operations() {
        let reads = access::reads(&operation.method, operation.path);
        let wanted = operation.method == Method::GET || operation.path == "/v1/keys/check";
        assert_eq!(reads, wanted, "{} {}", operation.method, operation.path);
    }
}

#[test]
fn each_route_is_described_with_its_methods() {
    let server = super::tests::server();
    let document = document();
    let paths = super::routes::routes().paths;
    let described = document["paths"].as_object().unwrap();
    for path in described.keys() {
        assert!(paths.contains(&path.as_str()), "there is no route {path}");
    }
    for path in paths {
        let asked = path.replace(['{', '}'], "");
        let request = format!("OPTIONS {asked} HTTP/1.1\r\nHost: l\r\n\r\n");
        let answer = super::tests::raw(&server, request.as_bytes()).to_ascii_lowercase();
        let allowed = answer.lines().find_map(|line| line.strip_prefix("allow: "));
        let mut allowed: Vec<&str> = allowed.unwrap().split(',').collect();
        // Comes with get.
        allowed.retain(|method| *method != "head");
        allowed.sort_unstable();
        let methods = described.get(path).and_then(Value::as_object);
        let methods = methods.unwrap_or_else(|| panic!("{path} is not described"));
        let mut methods: Vec<&str> = methods.keys().map(String::as_str).collect();
        methods.sort_unstable();
        assert_eq!(methods, allowed, "{path}");
    }
}
