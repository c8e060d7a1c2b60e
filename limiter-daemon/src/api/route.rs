// SPDX-License-Identifier: MIT OR Apache-2.0

//! A route of the control interface: one method of one path, with its handler and its description.
//!
//! The router and the OpenAPI document are made from the same routes, so every route has a
//! description.

use std::sync::Arc;

use axum::{
    Router,
    handler::Handler,
    http::Method,
    routing::{MethodFilter, MethodRouter, on},
};

use super::describe::{Described, Description};
use crate::engine::shared::Shared;

/// One method of one path.
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "a test makes the OpenAPI document of them")
)]
pub(super) struct Route {
    pub(super) method: Method,
    pub(super) path: &'static str,
    /// The name of the operation for generated clients.
    pub(super) id: &'static str,
    pub(super) summary: &'static str,
    pub(super) describe: fn() -> Description,
    handler: MethodRouter<Arc<Shared>>,
}

impl Route {
    fn new<H, T, A>(
        (method, filter): (Method, MethodFilter),
        path: &'static str,
        handler: H,
        id: &'static str,
        summary: &'static str,
    ) -> Self
    where
        H: Handler<T, Arc<Shared>> + Described<A>,
        T: 'static,
    {
        Self {
            method,
            path,
            id,
            summary,
            describe: H::describe,
            handler: on(filter, handler),
        }
    }

    /// Adds the route to a router. The router may already have routes for other methods of the
    /// path.
    pub(super) fn add_to(self, router: Router<Arc<Shared>>) -> Router<Arc<Shared>> {
        router.route(self.path, self.handler)
    }
}

/// Defines one function for each HTTP method. The function makes a [`Route`] from the path, the
/// handler, the id of the operation and its summary.
macro_rules! methods {
    ($($name:ident: $method:ident;)*) => {$(
        pub(super) fn $name<H, T, A>(
            path: &'static str,
            handler: H,
            id: &'static str,
            summary: &'static str,
        ) -> Route
        where
            H: Handler<T, Arc<Shared>> + Described<A>,
            T: 'static,
        {
            let method = (Method::$method, MethodFilter::$method);
            Route::new(method, path, handler, id, summary)
        }
    )*};
}

methods! {
    get: GET;
    post: POST;
    put: PUT;
    delete: DELETE;
}
