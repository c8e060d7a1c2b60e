//! Who may connect may read, and can do nothing else.

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

use super::page::{Format, Page};
use crate::{
    daemon::{Figures, Shared},
    http::{self, Bounds, Place},
};

/// Connections at a time: more than anybody has Prometheus servers.
const CONNECTIONS: usize = 32;

/// What the handler has.
struct Metrics {
    shared: Arc<Shared>,
    /// One page at a time: many readers must not take the engine's time from everyone else.
    turn: Mutex<()>,
}

/// Listens.
///
/// # Errors
/// The system's, like an address that is taken or not this host's.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen for metrics on {address} (`metrics.listen`): use another port, or leave it out")
    })
}

/// Answers for as long as it is let; where there is no listener, it has nothing to do.
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
        // Prometheus asks once a minute, or more often.
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
    place.works();
    let response = metrics.page(&headers).await;
    place.waits();
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
        log::error!("metrics: {problem}");
        (StatusCode::INTERNAL_SERVER_ERROR, problem).into_response()
    }
}
