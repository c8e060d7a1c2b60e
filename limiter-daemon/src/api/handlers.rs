// SPDX-License-Identifier: MIT OR Apache-2.0

//! The handlers of most routes. Each handler passes a request to the engine, and makes a response
//! from the engine's result.

use std::sync::Arc;

use axum::{Json, extract::State};
use chrono::{DateTime, NaiveDate, Utc};
use schemars::JsonSchema;
use serde::Deserialize;

use super::extract::{Answer, App, Body, Created, Csv, Part, QueryOf, Sender, answer, caller};
use crate::{
    domain::{key_state::KeyState, scope::ScopeName},
    engine::{shared::Shared, state::Engine},
    protocol::{
        error::ApiError,
        fields,
        fleet::Changed,
        requests::{
            AddScope, CheckKey, ClearLimits, CreateKey, ImportKey, KeyChange, Noted, RevokeKey,
            SetLimits, SetMode, SetTier,
        },
        schema,
        views::{
            AuditView, ChangedScope, CreatedKey, ImportView, Imported, KeyCheck, KeyView, Report,
            ScopeDetail, ScopeView, StatusView, TierView, UsageView,
        },
    },
    store::AuditFilter,
};

pub(super) async fn status(State(shared): App) -> Answer<StatusView> {
    answer(&shared, |engine| engine.status()).await
}

pub(super) async fn list_tiers(State(shared): App) -> Answer<Vec<TierView>> {
    answer(&shared, |engine| Ok(engine.list_tiers())).await
}

pub(super) async fn list_scopes(State(shared): App) -> Answer<Vec<ScopeView>> {
    answer(&shared, |engine| Ok(engine.list_scopes())).await
}

pub(super) async fn add_scope(
    State(shared): App,
    from: Sender,
    Body(body): Body<AddScope>,
) -> Result<Created<Changed<ChangedScope>>, ApiError> {
    let changed = shared.change(
        caller(&from),
        move |engine, caller| engine.prepare_add_scope(body, caller),
        Engine::commit_add_scope,
    );
    changed.await.map(Created)
}

pub(super) async fn show_scope(
    State(shared): App,
    Part(name): Part<ScopeName>,
) -> Answer<ScopeDetail> {
    answer(&shared, move |engine| engine.show_scope(&name)).await
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RemoveQuery {
    /// Remove the scope even if it has active keys.
    #[serde(default)]
    with_keys: bool,
}

pub(super) async fn remove_scope(
    State(shared): App,
    from: Sender,
    Part(name): Part<ScopeName>,
    QueryOf(query): QueryOf<RemoveQuery>,
) -> Answer<Changed<Report>> {
    let changed = shared.change(
        caller(&from),
        move |engine, _| engine.prepare_remove_scope(&name, query.with_keys),
        Engine::commit_remove_scope,
    );
    changed.await.map(Json)
}

pub(super) async fn set_limits(
    State(shared): App,
    from: Sender,
    Part(name): Part<ScopeName>,
    Body(body): Body<SetLimits>,
) -> Answer<Changed<ChangedScope>> {
    let changed = shared.change(
        caller(&from),
        move |engine, caller| engine.prepare_set_limits(&name, body, caller),
        Engine::commit_limits,
    );
    changed.await.map(Json)
}

pub(super) async fn clear_limits(
    State(shared): App,
    from: Sender,
    Part(name): Part<ScopeName>,
    Body(body): Body<ClearLimits>,
) -> Answer<Changed<ChangedScope>> {
    let changed = shared.change(
        caller(&from),
        move |engine, _| engine.prepare_clear_limits(&name, &body),
        Engine::commit_limits,
    );
    changed.await.map(Json)
}

pub(super) async fn set_tier(
    State(shared): App,
    from: Sender,
    Part(name): Part<ScopeName>,
    Body(body): Body<SetTier>,
) -> Answer<Changed<ChangedScope>> {
    let changed = shared.change(
        caller(&from),
        move |engine, _| engine.prepare_set_tier(&name, &body),
        Engine::commit_set_tier,
    );
    changed.await.map(Json)
}

pub(super) async fn set_mode(
    State(shared): App,
    from: Sender,
    Part(name): Part<ScopeName>,
    Body(body): Body<SetMode>,
) -> Answer<Changed<ChangedScope>> {
    let changed = shared.change(
        caller(&from),
        move |engine, _| engine.prepare_set_mode(&name, &body),
        Engine::commit_set_mode,
    );
    changed.await.map(Json)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UsageQuery {
    /// A UTC day. The default is today.
    #[serde(default, deserialize_with = "fields::date")]
    #[schemars(with = "NaiveDate")]
    date: Option<NaiveDate>,
}

pub(super) async fn usage(
    State(shared): App,
    QueryOf(query): QueryOf<UsageQuery>,
) -> Answer<Vec<UsageView>> {
    answer(&shared, move |engine| engine.usage(query.date, Utc::now())).await
}

pub(super) async fn usage_of(
    State(shared): App,
    Part(name): Part<ScopeName>,
    QueryOf(query): QueryOf<UsageQuery>,
) -> Answer<UsageView> {
    shared
        .usage_of(name, query.date, Utc::now())
        .await
        .map(Json)
}

/// The maximum number of changes in one response to a request for the audit trail.
const MAX_AUDIT: u32 = 1_000_000;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AuditQuery {
    /// Only changes of this scope, or of the key with this id.
    #[serde(default)]
    #[schemars(with = "String")]
    object: Option<String>,
    /// Only changes since this time.
    #[serde(default, deserialize_with = "fields::since")]
    #[schemars(with = "DateTime<Utc>")]
    since: Option<DateTime<Utc>>,
    /// The maximum number of changes. If there are more, the latest ones are returned.
    #[serde(default, deserialize_with = "fields::limit")]
    #[schemars(schema_with = "schema::limit")]
    limit: Option<u32>,
}

pub(super) async fn audit(
    State(shared): App,
    QueryOf(query): QueryOf<AuditQuery>,
) -> Answer<Vec<AuditView>> {
    let filter = AuditFilter {
        object: query.object,
        since: query.since,
        limit: query.limit.unwrap_or(MAX_AUDIT).min(MAX_AUDIT),
    };
    answer(&shared, move |engine| engine.audit_trail(&filter)).await
}

pub(super) async fn reset(
    State(shared): App,
    from: Sender,
    Part(name): Part<ScopeName>,
    Body(body): Body<Noted>,
) -> Answer<Changed<UsageView>> {
    let changed = shared.change(
        caller(&from),
        move |engine, _| engine.prepare_reset(&name, &body.note),
        Engine::commit_reset,
    );
    changed.await.map(Json)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct KeysQuery {
    /// Only keys of this scope.
    #[serde(default)]
    #[schemars(with = "ScopeName")]
    scope: Option<ScopeName>,
    /// List the keys of removed scopes instead. All of them are revoked.
    #[serde(default)]
    removed: bool,
}

pub(super) async fn list_keys(
    State(shared): App,
    QueryOf(query): QueryOf<KeysQuery>,
) -> Answer<Vec<KeyView>> {
    answer(&shared, move |engine| {
        let scope = query.scope.as_ref();
        if query.removed {
            engine.list_removed_keys(scope)
        } else {
            engine.list_keys(scope)
        }
    })
    .await
}

pub(super) async fn create_key(
    State(shared): App,
    from: Sender,
    Body(body): Body<CreateKey>,
) -> Result<Created<Changed<CreatedKey>>, ApiError> {
    let changed = shared.change(
        caller(&from),
        move |engine, caller| engine.prepare_create_key(body, caller),
        Engine::commit_create_key,
    );
    changed.await.map(Created)
}

pub(super) async fn import_key(
    State(shared): App,
    from: Sender,
    Body(body): Body<ImportKey>,
) -> Result<Created<Changed<KeyView>>, ApiError> {
    let changed = shared.change(
        caller(&from),
        move |engine, caller| engine.prepare_import_key(body, caller),
        Engine::commit_import_key,
    );
    changed.await.map(Created)
}

pub(super) async fn check_key(State(shared): App, Body(body): Body<CheckKey>) -> Answer<KeyCheck> {
    answer(&shared, move |engine| engine.check_key(body)).await
}

pub(super) async fn import_csv(
    State(shared): App,
    from: Sender,
    Csv(body): Csv,
) -> Result<Created<Imported>, ApiError> {
    let caller = caller(&from);
    shared.import_keys(body, caller).await.map(Created)
}

/// Returns the progress of the running import, or `null` if no import runs. The client requests it
/// while its own import request waits for a response.
pub(super) async fn import_progress(State(shared): App) -> Json<Option<ImportView>> {
    Json(shared.import_view())
}

pub(super) async fn disable_key(
    State(shared): App,
    from: Sender,
    Part(id): Part<String>,
    QueryOf(query): QueryOf<KeyChange>,
) -> Answer<Changed<KeyView>> {
    change_key(&shared, &from, id, (KeyState::Disabled, query.note)).await
}

pub(super) async fn enable_key(
    State(shared): App,
    from: Sender,
    Part(id): Part<String>,
    QueryOf(query): QueryOf<KeyChange>,
) -> Answer<Changed<KeyView>> {
    change_key(&shared, &from, id, (KeyState::Active, query.note)).await
}

pub(super) async fn revoke_key(
    State(shared): App,
    from: Sender,
    Part(id): Part<String>,
    QueryOf(query): QueryOf<RevokeKey>,
) -> Answer<Changed<KeyView>> {
    let changed = shared.change(
        caller(&from),
        move |engine, caller| engine.prepare_revoke_key(&id, query, caller),
        Engine::commit_key_change,
    );
    changed.await.map(Json)
}

async fn change_key(
    shared: &Arc<Shared>,
    from: &Sender,
    id: String,
    state: (KeyState, Option<String>),
) -> Answer<Changed<KeyView>> {
    let changed = shared.change(
        caller(from),
        move |engine, caller| engine.prepare_set_key_state(&id, state, caller),
        Engine::commit_set_key_state,
    );
    changed.await.map(Json)
}

pub(super) async fn reload(State(shared): App, from: Sender) -> Answer<Report> {
    let caller = caller(&from);
    answer(&shared, move |engine| engine.reload(&caller)).await
}

pub(super) async fn detach(State(shared): App, from: Sender) -> Answer<Report> {
    let caller = caller(&from);
    let done = answer(&shared, move |engine| engine.detach(&caller)).await;
    if done.is_ok() {
        shared.stop_detached();
    }
    done
}

pub(super) async fn unknown_path() -> ApiError {
    ApiError::not_found("the control interface has no such path below /v1")
}

pub(super) async fn unknown_method() -> ApiError {
    ApiError::method_not_allowed(
        "this path of the control interface does not have this method: the header field `Allow` lists its methods",
    )
}
