// SPDX-License-Identifier: MIT OR Apache-2.0

//! The control interface without an engine. Each handler only parses the request, and then returns.

use axum::{
    Router,
    body::{Body as HttpBody, Bytes},
    http::{Request, header::CONTENT_TYPE},
    routing::{get, post, put},
};
use http_body_util::BodyExt as _;
use tokio::runtime::{Builder, Runtime};
use tower_service::Service as _;

use super::{
    events::EventsQuery,
    extract::{Body, Part, QueryOf},
    handlers::{AuditQuery, KeysQuery, RemoveQuery, UsageQuery},
};
use crate::{
    domain::scope::ScopeName,
    protocol::{
        insight::TopQuery,
        requests::{AddScope, CheckKey, CreateKey, ImportKey, Noted, SetLimits, SetMode},
    },
};

/// Makes a router for those paths of [`super::routes`] whose handlers have arguments. It uses the
/// same extractors.
fn router() -> Router {
    async fn body<T>(_: Body<T>) {}
    async fn query<T>(_: QueryOf<T>) {}
    async fn part<T>(_: Part<T>) {}
    async fn part_and_query<T, U>(_: Part<T>, _: QueryOf<U>) {}
    async fn part_and_body<T, U>(_: Part<T>, _: Body<U>) {}

    let scope = get(part::<ScopeName>).delete(part_and_query::<ScopeName, RemoveQuery>);
    let limits =
        put(part_and_body::<ScopeName, SetLimits>).delete(part_and_body::<ScopeName, Noted>);
    Router::new()
        .route("/v1/scopes", post(body::<AddScope>))
        .route("/v1/scopes/{scope}", scope)
        .route("/v1/scopes/{scope}/limits", limits)
        .route(
            "/v1/scopes/{scope}/mode",
            put(part_and_body::<ScopeName, SetMode>),
        )
        .route(
            "/v1/scopes/{scope}/usage",
            get(part_and_query::<ScopeName, UsageQuery>),
        )
        .route(
            "/v1/scopes/{scope}/reset",
            post(part_and_body::<ScopeName, Noted>),
        )
        .route("/v1/usage", get(query::<UsageQuery>))
        .route("/v1/audit", get(query::<AuditQuery>))
        .route("/v1/events", get(query::<EventsQuery>))
        .route("/v1/explain/{object}", get(part::<String>))
        .route("/v1/top", get(query::<TopQuery>))
        .route("/v1/keys", get(query::<KeysQuery>).post(body::<CreateKey>))
        .route("/v1/keys/import", post(body::<ImportKey>))
        .route("/v1/keys/check", post(body::<CheckKey>))
        .route("/v1/keys/{id}/revoke", post(part::<String>))
}

/// Returns the status and the body of the response to a request with a JSON body. Returns `None` if
/// `method` or `path` is not valid in HTTP. A path that does not exist, or that does not support
/// the method, gets status 200, because those error messages are not tested here.
///
/// # Panics
/// Panics if no runtime can be built, or if the body of the response cannot be read.
pub fn control(method: &str, path: &str, body: &[u8]) -> Option<(u16, Vec<u8>)> {
    thread_local! {
        static SERVER: (Router, Runtime) = (
            router().fallback(async || {}).method_not_allowed_fallback(async || {}),
            Builder::new_current_thread().build().expect("a runtime"),
        );
    }
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(CONTENT_TYPE, "application/json")
        .body(HttpBody::from(Bytes::copy_from_slice(body)))
        .ok()?;
    SERVER.with(|(router, runtime)| {
        runtime.block_on(async {
            let Ok(response) = router.clone().call(request).await;
            let status = response.status().as_u16();
            let body = response.into_body().collect().await;
            Some((status, body.expect("a body in memory").to_bytes().to_vec()))
        })
    })
}
