// SPDX-License-Identifier: MIT OR Apache-2.0

//! The server of the page. Every client that can connect may read the page, but cannot do anything
//! else.

use std::{future::pending, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use axum::{
    Extension, Router,
    extract::State,
    http::{
        HeaderMap, StatusCode,
        header::{ACCEPT, CONTENT_TYPE},
    },
    response::{IntoResponse as _, Response},
    routing::get,
};
use chrono::Utc;
use tokio::{net::TcpListener, sync::Mutex};

use super::format::{Format, Page};
use crate::{
    engine::{counts::figures::Figures, shared::Shared},
    http::{self, Bounds, Place},
};

/// The maximum number of simultaneous connections. It is greater than the usual number of
/// Prometheus servers that read the page.
const CONNECTIONS: usize = 32;

/// The state of the handler.
struct Metrics {
    shared: Arc<Shared>,
    /// A lock that is held while a page is made. Only one page is made at a time. If many readers
    /// could make pages at the same time, commands could wait long for the engine.
    turn: Mutex<()>,
}

/// Opens the listening socket.
///
/// # Errors
/// Returns the error of a system call, for example if the address is in use or does not belong to
/// this host.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen for metrics on {address} (`metrics.listen`): use another port, or remove the entry")
    })
}

/// Serves the page forever. Without a listener, only waits forever.
pub async fn serve(listener: Option<TcpListener>, shared: Arc<Shared>) {
    let Some(listener) = listener else {
        return pending().await;
    };
    let metrics = Metrics {
        shared,
        turn: Mutex::new(()),
    };
    let router = Router::new()
        .route("/metrics", get(page))
        .with_state(Arc::new(metrics));
    let bounds = Bounds {
        connections: CONNECTIONS,
        // Prometheus usually requests the page at least once a minute, over the same connection.
        // The connection therefore has to stay open for more than a minute.
        head: Duration::from_secs(90),
        ..Bounds::default()
    };
    http::serve("metrics", listener, router, |_| (), bounds, pending()).await;
}

async fn page(
    State(metrics): State<Arc<Metrics>>,
    Extension(place): Extension<Arc<Place>>,
    headers: HeaderMap,
) -> Response {
    place.begin_request();
    let response = metrics.page(&headers).await;
    place.end_request();
    response
}

impl Metrics {
    async fn page(&self, headers: &HeaderMap) -> Response {
        let accepted = headers.get_all(ACCEPT).iter();
        let format = Format::accepted(accepted.filter_map(|value| value.to_str().ok()));
        let _turn = self.turn.lock().await;
        let shared = Arc::clone(&self.shared);
        let written = tokio::task::spawn_blocking(move || {
            let figures = Figures::take(&shared, Utc::now())?;
            anyhow::Ok(Page::of(&figures).write(format)?)
        });
        let problem = match written.await {
            Ok(Ok(text)) => return ([(CONTENT_TYPE, format.content_type())], text).into_response(),
            Ok(Err(error)) => format!("{error:#}"),
            Err(error) => error.to_string(),
        };
        log::error!("cannot make the page of metrics: {problem}");
        (StatusCode::INTERNAL_SERVER_ERROR, problem).into_response()
    }
}
