//! The paths of the control interface.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{
        ConnectInfo, DefaultBodyLimit, FromRequest, FromRequestParts, Path, Query, State,
        rejection::{BytesRejection, JsonRejection, PathRejection, QueryRejection},
    },
    http::{HeaderMap, HeaderValue, StatusCode, header::CONTENT_TYPE},
    middleware::from_fn_with_state,
    response::{IntoResponse as _, Response},
    routing::{MethodRouter, get, post, put},
};
use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use tokio::task::JoinError;

use super::{
    AddScope, ApiError, CheckKey, CreateKey, ImportKey, ImportView, Noted, SetLimits, SetMode,
    access::{self, Access},
    body::{self, CSV_PATH},
    events, insight,
    peer::Peer,
};
use crate::{
    daemon::{Caller, Engine, Shared},
    http::Bounds,
    scope::ScopeName,
    store::{AuditFilter, KeyState},
};

pub(super) type App = State<Arc<Shared>>;
type Sender = ConnectInfo<Peer>;

pub(super) fn router(shared: Arc<Shared>, access: Access, bounds: Bounds) -> Router {
    routes()
        .router
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        // `body::whole` has seen to it, with a limit for each path.
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(bounds, body::whole))
        .layer(from_fn_with_state(
            (Arc::new(access), bounds),
            access::check,
        ))
        .with_state(shared)
}

/// A router that knows its paths, so that the document can be held against them.
#[derive(Default)]
pub(super) struct Routes {
    router: Router<Arc<Shared>>,
    pub(super) paths: Vec<&'static str>,
}

impl Routes {
    fn route(mut self, path: &'static str, methods: MethodRouter<Arc<Shared>>) -> Self {
        self.paths.push(path);
        self.router = self.router.route(path, methods);
        self
    }
}

/// All paths, each with its methods; `openapi` describes them.
pub(super) fn routes() -> Routes {
    Routes::default()
        .route("/v1/status", get(status))
        .route("/v1/tiers", get(list_tiers))
        .route("/v1/scopes", get(list_scopes).post(add_scope))
        .route("/v1/scopes/{scope}", get(show_scope).delete(remove_scope))
        .route(
            "/v1/scopes/{scope}/limits",
            put(set_limits).delete(clear_limits),
        )
        .route("/v1/scopes/{scope}/mode", put(set_mode))
        .route("/v1/scopes/{scope}/usage", get(usage_of))
        .route("/v1/scopes/{scope}/reset", post(reset))
        .route("/v1/usage", get(usage))
        .route("/v1/audit", get(audit))
        .route("/v1/events", get(events::events))
        .route("/v1/explain/{object}", get(insight::explain))
        .route("/v1/top", get(insight::top))
        .route("/v1/keys", get(list_keys).post(create_key))
        .route("/v1/keys/import", post(import_key))
        .route("/v1/keys/check", post(check_key))
        .route("/v1/keys/{id}/disable", post(disable_key))
        .route("/v1/keys/{id}/enable", post(enable_key))
        .route("/v1/keys/{id}/revoke", post(revoke_key))
        .route("/v1/reload", post(reload))
        .route("/v1/detach", post(detach))
        .route(CSV_PATH, post(import_csv).get(import_progress))
}

/// A JSON body; what is wrong with it is told as everything else is.
#[derive(FromRequest)]
#[from_request(via(Json), rejection(ApiError))]
struct Body<T>(T);

/// A part of the path, percent-decoded.
#[derive(FromRequestParts)]
#[from_request(via(Path), rejection(ApiError))]
pub(super) struct Part<T>(pub(super) T);

/// The query.
#[derive(FromRequestParts)]
#[from_request(via(Query), rejection(ApiError))]
pub(super) struct Asked<T>(pub(super) T);

impl From<JsonRejection> for ApiError {
    fn from(error: JsonRejection) -> Self {
        if let JsonRejection::MissingJsonContentType(_) = error {
            return Self::unsupported_media_type(
                "the body is to be JSON: say so with `Content-Type: application/json`",
            );
        }
        // The text names a field and a place, never a value that could be a key.
        Self::invalid(format!(
            "the body is not what is expected: {}",
            error.body_text()
        ))
    }
}

impl From<PathRejection> for ApiError {
    fn from(error: PathRejection) -> Self {
        Self::invalid(error.body_text())
    }
}

impl From<QueryRejection> for ApiError {
    fn from(error: QueryRejection) -> Self {
        Self::invalid(error.body_text())
    }
}

impl From<BytesRejection> for ApiError {
    fn from(error: BytesRejection) -> Self {
        // Only a file of keys comes as bytes.
        Self::invalid_key(error.body_text())
    }
}

/// Runs a piece of work on the engine, off the threads that answer: it may wait for the disk.
async fn with_engine<T: Send + 'static>(
    shared: &Arc<Shared>,
    work: impl FnOnce(&mut Engine) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let shared = Arc::clone(shared);
    tokio::task::spawn_blocking(move || work(&mut shared.engine()))
        .await
        .map_err(|error| no_end(&error))?
}

fn no_end(error: &JoinError) -> ApiError {
    ApiError::failed(format!("the daemon failed at this: {error}"))
}

fn caller(ConnectInfo(peer): &Sender) -> Caller {
    Caller {
        who: peer.name(),
        now: Utc::now(),
    }
}

type Answer<T> = Result<Json<T>, ApiError>;

pub(super) async fn answer<T: Serialize + Send + 'static>(
    shared: &Arc<Shared>,
    work: impl FnOnce(&mut Engine) -> Result<T, ApiError> + Send + 'static,
) -> Answer<T> {
    with_engine(shared, work).await.map(Json)
}

async fn status(State(shared): App) -> Response {
    answer(&shared, |engine| engine.status())
        .await
        .into_response()
}

async fn list_tiers(State(shared): App) -> Response {
    answer(&shared, |engine| Ok(engine.list_tiers()))
        .await
        .into_response()
}

async fn list_scopes(State(shared): App) -> Response {
    answer(&shared, |engine| Ok(engine.list_scopes()))
        .await
        .into_response()
}

async fn add_scope(State(shared): App, from: Sender, Body(body): Body<AddScope>) -> Response {
    let caller = caller(&from);
    created(answer(&shared, move |engine| engine.add_scope(body, &caller)).await)
}

async fn show_scope(State(shared): App, Part(name): Part<ScopeName>) -> Response {
    answer(&shared, move |engine| engine.show_scope(&name))
        .await
        .into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RemoveQuery {
    #[serde(default)]
    with_keys: bool,
}

async fn remove_scope(
    State(shared): App,
    from: Sender,
    Part(name): Part<ScopeName>,
    Asked(query): Asked<RemoveQuery>,
) -> Response {
    let caller = caller(&from);
    answer(&shared, move |engine| {
        engine.remove_scope(&name, query.with_keys, &caller)
    })
    .await
    .into_response()
}

async fn set_limits(
    State(shared): App,
    from: Sender,
    Part(name): Part<ScopeName>,
    Body(body): Body<SetLimits>,
) -> Response {
    let caller = caller(&from);
    answer(&shared, move |engine| {
        engine.set_limits(&name, body, &caller)
    })
    .await
    .into_response()
}

async fn clear_limits(
    State(shared): App,
    from: Sender,
    Part(name): Part<ScopeName>,
    Body(body): Body<Noted>,
) -> Response {
    let caller = caller(&from);
    answer(&shared, move |engine| {
        engine.clear_limits(&name, &body.note, &caller)
    })
    .await
    .into_response()
}

async fn set_mode(
    State(shared): App,
    from: Sender,
    Part(name): Part<ScopeName>,
    Body(body): Body<SetMode>,
) -> Response {
    let caller = caller(&from);
    answer(&shared, move |engine| {
        engine.set_mode(&name, &body, &caller)
    })
    .await
    .into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UsageQuery {
    #[serde(default)]
    date: Option<NaiveDate>,
}

async fn usage(State(shared): App, Asked(query): Asked<UsageQuery>) -> Response {
    answer(&shared, move |engine| engine.usage(query.date, Utc::now()))
        .await
        .into_response()
}

async fn usage_of(
    State(shared): App,
    Part(name): Part<ScopeName>,
    Asked(query): Asked<UsageQuery>,
) -> Response {
    answer(&shared, move |engine| {
        engine.usage_of(&name, query.date, Utc::now())
    })
    .await
    .into_response()
}

/// Most entries of the audit trail in one answer.
const MAX_AUDIT: u32 = 1_000_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AuditQuery {
    #[serde(default)]
    object: Option<String>,
    #[serde(default)]
    since: Option<DateTime<Utc>>,
    #[serde(default)]
    limit: Option<u32>,
}

async fn audit(State(shared): App, Asked(query): Asked<AuditQuery>) -> Response {
    let filter = AuditFilter {
        object: query.object,
        since: query.since,
        limit: query.limit.unwrap_or(MAX_AUDIT).min(MAX_AUDIT),
    };
    answer(&shared, move |engine| engine.audit_trail(&filter))
        .await
        .into_response()
}

async fn reset(
    State(shared): App,
    from: Sender,
    Part(name): Part<ScopeName>,
    Body(body): Body<Noted>,
) -> Response {
    let caller = caller(&from);
    answer(&shared, move |engine| {
        engine.reset(&name, &body.note, &caller)
    })
    .await
    .into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeysQuery {
    #[serde(default)]
    scope: Option<ScopeName>,
}

async fn list_keys(State(shared): App, Asked(query): Asked<KeysQuery>) -> Response {
    answer(&shared, move |engine| {
        engine.list_keys(query.scope.as_ref())
    })
    .await
    .into_response()
}

async fn create_key(State(shared): App, from: Sender, Body(body): Body<CreateKey>) -> Response {
    let caller = caller(&from);
    created(answer(&shared, move |engine| engine.create_key(body, &caller)).await)
}

async fn import_key(State(shared): App, from: Sender, Body(body): Body<ImportKey>) -> Response {
    let caller = caller(&from);
    created(answer(&shared, move |engine| engine.import_key(body, &caller)).await)
}

async fn check_key(State(shared): App, Body(body): Body<CheckKey>) -> Response {
    answer(&shared, move |engine| engine.check_key(body))
        .await
        .into_response()
}

async fn import_csv(
    State(shared): App,
    from: Sender,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let caller = caller(&from);
    if !is_csv(&headers) {
        let text = "the body is to be a file of keys: say so with `Content-Type: text/csv`";
        return ApiError::unsupported_media_type(text).into_response();
    }
    let body = match body {
        Ok(body) => body,
        Err(error) => return ApiError::from(error).into_response(),
    };
    let done = tokio::task::spawn_blocking(move || shared.import_csv(&body, &caller)).await;
    created(done.unwrap_or_else(|error| Err(no_end(&error))).map(Json))
}

fn is_csv(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let essence = value.and_then(|value| value.split(|byte| *byte == b';').next());
    essence.is_some_and(|essence| essence.trim_ascii().eq_ignore_ascii_case(b"text/csv"))
}

/// How far the import is that is at work, or `null`: asked while its own answer is awaited.
async fn import_progress(State(shared): App) -> Json<Option<ImportView>> {
    Json(shared.import_view())
}

async fn disable_key(State(shared): App, from: Sender, Part(id): Part<String>) -> Response {
    change_key(&shared, &from, id, KeyState::Disabled).await
}

async fn enable_key(State(shared): App, from: Sender, Part(id): Part<String>) -> Response {
    change_key(&shared, &from, id, KeyState::Active).await
}

async fn revoke_key(State(shared): App, from: Sender, Part(id): Part<String>) -> Response {
    change_key(&shared, &from, id, KeyState::Revoked).await
}

async fn change_key(shared: &Arc<Shared>, from: &Sender, id: String, state: KeyState) -> Response {
    let caller = caller(from);
    answer(shared, move |engine| {
        engine.set_key_state(&id, state, &caller)
    })
    .await
    .into_response()
}

async fn reload(State(shared): App, from: Sender) -> Response {
    let caller = caller(&from);
    answer(&shared, move |engine| engine.reload(&caller))
        .await
        .into_response()
}

async fn detach(State(shared): App, from: Sender) -> Response {
    let caller = caller(&from);
    let done = answer(&shared, move |engine| engine.detach(&caller)).await;
    if done.is_ok() {
        shared.stop_detached();
    }
    done.into_response()
}

async fn unknown_path() -> ApiError {
    ApiError::not_found("there is no such path in the control interface, /v1")
}

async fn unknown_method() -> ApiError {
    ApiError::method_not_allowed(
        "there is no such method for this path of the control interface: `Allow` has those that there are",
    )
}

fn created<T: Serialize>(done: Answer<T>) -> Response {
    match done {
        Ok(body) => (StatusCode::CREATED, body).into_response(),
        Err(error) => error.into_response(),
    }
}
