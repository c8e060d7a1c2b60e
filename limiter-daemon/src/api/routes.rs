// SPDX-License-Identifier: MIT OR Apache-2.0

//! The routes of the control interface, and the router that is made from them.

use std::sync::Arc;

use axum::{Router, extract::DefaultBodyLimit, middleware::from_fn_with_state};

use super::{
    access::{self, Access},
    body::{self, CSV_PATH},
    events, fleet, handlers, insight,
    route::{Route, delete, get, post, put},
};
use crate::{engine::shared::Shared, http::Bounds};

/// Makes the router of all routes, with the checks that run before every handler.
pub(super) fn router(shared: Arc<Shared>, access: Access, bounds: Bounds) -> Router {
    routes()
        .into_iter()
        .fold(Router::new(), |router, route| route.add_to(router))
        .fallback(handlers::unknown_path)
        .method_not_allowed_fallback(handlers::unknown_method)
        // axum's limit is disabled, because `body::whole` has a limit for each path.
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(bounds, body::whole))
        .layer(from_fn_with_state(
            (Arc::new(access), bounds),
            access::check,
        ))
        .with_state(shared)
}

/// Returns all routes, each with the id and the summary of its operation.
pub(super) fn routes() -> Vec<Route> {
    let parts = [
        of_daemon(),
        of_scopes(),
        of_usage(),
        of_keys(),
        of_imports(),
        of_fleet(),
    ];
    parts.into_iter().flatten().collect()
}

fn of_daemon() -> Vec<Route> {
    vec![
        get(
            "/v1/status",
            handlers::status,
            "status",
            "Report attachments, totals, coverage and health",
        ),
        get(
            "/v1/tiers",
            handlers::list_tiers,
            "listTiers",
            "List all tiers",
        ),
        get(
            "/v1/audit",
            handlers::audit,
            "audit",
            "List changes, with the oldest first",
        ),
        get(
            "/v1/events",
            events::events,
            "events",
            "List the latest events, with the oldest first, or follow new ones",
        ),
        post(
            "/v1/reload",
            handlers::reload,
            "reload",
            "Read the configuration again",
        ),
        post(
            "/v1/detach",
            handlers::detach,
            "detach",
            "Remove attachments, maps and pins, and stop the daemon",
        ),
    ]
}

fn of_scopes() -> Vec<Route> {
    vec![
        get(
            "/v1/scopes",
            handlers::list_scopes,
            "listScopes",
            "List all scopes",
        ),
        post("/v1/scopes", handlers::add_scope, "addScope", "Add a scope"),
        get(
            "/v1/scopes/{scope}",
            handlers::show_scope,
            "showScope",
            "Show a scope with its keys",
        ),
        delete(
            "/v1/scopes/{scope}",
            handlers::remove_scope,
            "removeScope",
            "Remove a scope",
        ),
        put(
            "/v1/scopes/{scope}/limits",
            handlers::set_limits,
            "setLimits",
            "Override limits of a scope",
        ),
        delete(
            "/v1/scopes/{scope}/limits",
            handlers::clear_limits,
            "clearLimits",
            "Remove a scope's own limits",
        ),
        put(
            "/v1/scopes/{scope}/tier",
            handlers::set_tier,
            "setTier",
            "Move a scope to another tier",
        ),
        put(
            "/v1/scopes/{scope}/mode",
            handlers::set_mode,
            "setMode",
            "Enforce the limits of a scope, or only count",
        ),
    ]
}

fn of_usage() -> Vec<Route> {
    vec![
        get(
            "/v1/scopes/{scope}/usage",
            handlers::usage_of,
            "usageOf",
            "Show the usage of a scope on one day",
        ),
        post(
            "/v1/scopes/{scope}/reset",
            handlers::reset,
            "reset",
            "Reset today's count of a scope to zero",
        ),
        get(
            "/v1/usage",
            handlers::usage,
            "usage",
            "List the usage of all scopes on one day",
        ),
        get(
            "/v1/trial",
            insight::trial,
            "tryLimits",
            "Compare the usage of past days with another daily quota",
        ),
        get(
            "/v1/explain/{object}",
            insight::explain,
            "explain",
            "Explain whether a request would be admitted now, and if not, which limit it would exceed",
        ),
        get("/v1/top", insight::top, "top", "List the busiest scopes"),
    ]
}

fn of_keys() -> Vec<Route> {
    vec![
        get(
            "/v1/keys",
            handlers::list_keys,
            "listKeys",
            "List all keys or those of a scope, by their ids",
        ),
        post(
            "/v1/keys",
            handlers::create_key,
            "createKey",
            "Generate a key, which is not shown again",
        ),
        post(
            "/v1/keys/check",
            handlers::check_key,
            "checkKey",
            "Report what is known about a key",
        ),
        post(
            "/v1/keys/{id}/disable",
            handlers::disable_key,
            "disableKey",
            "Answer a key's requests with 401 until it is enabled again",
        ),
        post(
            "/v1/keys/{id}/enable",
            handlers::enable_key,
            "enableKey",
            "Admit a disabled key's requests again",
        ),
        post(
            "/v1/keys/{id}/revoke",
            handlers::revoke_key,
            "revokeKey",
            "Answer a key's requests with 401 for good",
        ),
    ]
}

fn of_imports() -> Vec<Route> {
    vec![
        post(
            "/v1/keys/import",
            handlers::import_key,
            "importKey",
            "Register an existing key",
        ),
        post(
            CSV_PATH,
            handlers::import_csv,
            "importKeys",
            "Register a file of keys as a whole or not at all",
        ),
        get(
            CSV_PATH,
            handlers::import_progress,
            "importProgress",
            "Report the progress of the import that is running",
        ),
    ]
}

fn of_fleet() -> Vec<Route> {
    vec![
        get(
            "/v1/fleet",
            fleet::status,
            "fleetStatus",
            "Report the engine, the leases of this host, and all hosts of the fleet",
        ),
        post(
            "/v1/fleet/init",
            fleet::init,
            "initFleet",
            "Create a fleet on the engine, with this host as its first one",
        ),
        post(
            "/v1/fleet/join",
            fleet::join,
            "joinFleet",
            "Make this host a part of the fleet that the engine has",
        ),
        post(
            "/v1/fleet/leave",
            fleet::leave,
            "leaveFleet",
            "Give back the leases of this host, and make it independent again",
        ),
        post(
            "/v1/fleet/seed",
            fleet::seed,
            "seedFleet",
            "Give an engine that has lost its registry the scopes and keys of this host",
        ),
        post(
            "/v1/fleet/hosts/{host}/forget",
            fleet::forget,
            "forgetHost",
            "Remove a host that will not come back from the list of hosts",
        ),
    ]
}
