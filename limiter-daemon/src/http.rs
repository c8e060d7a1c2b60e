// SPDX-License-Identifier: MIT OR Apache-2.0

//! The HTTP server that the control socket and the page of metrics share. The server limits the
//! resources that its clients can use.

use std::{
    collections::HashMap,
    io,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Request},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{Notify, watch},
    task::JoinSet,
};
use tokio_io_timeout::TimeoutStream;
use tower_service::Service as _;

/// The maximum size of a request's head in bytes. It is more than enough for the longest name of a
/// scope, percent-encoded.
const MAX_HEAD: usize = 16 * 1024;
/// The pause before the next attempt after a connection could not be accepted, for example because
/// all file descriptors were in use.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Limits on the resources that clients can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The maximum number of connections at a time. A further connection replaces the one on whose
    /// client the daemon has waited longest, so a client that sends its request at once keeps its
    /// connection.
    pub connections: usize,
    /// The maximum time until the head of the next request is complete.
    pub head: Duration,
    /// The maximum time between two pieces of a body.
    pub piece: Duration,
    /// The maximum time until a body is complete.
    pub body: Duration,
    /// The maximum time that the client may take to read the next piece of the response.
    pub answer: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            // This is far below the 1024 descriptors that a process may have open by default, and
            // below the 512 threads that tokio has for blocking work.
            connections: 256,
            head: Duration::from_secs(30),
            piece: Duration::from_secs(10),
            // This is the time for which the command line waits for a response. It is long because
            // the upload of a file with a million keys can take a while.
            body: Duration::from_secs(600),
            answer: Duration::from_secs(30),
        }
    }
}

/// A source of connections.
pub(crate) trait Listener: Sync {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Send + 'static;

    /// Accepts the next connection.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        let (stream, _address) = Self::accept(self).await?;
        Ok(stream)
    }
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        let (stream, _address) = Self::accept(self).await?;
        Ok(stream)
    }
}

/// Serves requests until `stop` resolves, and then finishes the requests that have begun. Each
/// request carries two extensions for its handler: [`ConnectInfo`] with the result of `peer`, and
/// the [`Place`] of the connection.
pub(crate) async fn serve<L: Listener, P: Clone + Send + Sync + 'static>(
    what: &'static str,
    listener: L,
    router: Router,
    peer: fn(&L::Stream) -> P,
    bounds: Bounds,
    stop: impl Future<Output = ()> + Send,
) {
    let places = Arc::new(Places::new(bounds.connections));
    let (stopping, stopped) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut stop = pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
            Some(_ended) = connections.join_next() => continue,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                log::warn!("{what}: cannot accept a connection: {error}");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let place = tokio::select! {
            place = places.take() => place,
            () = &mut stop => break,
        };
        let connection = Connection {
            what,
            peer: peer(&stream),
            place: Arc::new(place),
            bounds,
        };
        connections.spawn(connection.answer(stream, router.clone(), stopped.clone()));
    }
    drop(listener);
    drop(stopping);
    while connections.join_next().await.is_some() {}
}

/// A connection that is served.
struct Connection<P> {
    what: &'static str,
    peer: P,
    place: Arc<Place>,
    bounds: Bounds,
}

impl<P: Clone + Send + Sync + 'static> Connection<P> {
    /// Serves the requests of the connection until it ends or its place is given to another
    /// connection.
    async fn answer(
        self,
        stream: impl AsyncRead + AsyncWrite + Send,
        router: Router,
        mut stopped: watch::Receiver<()>,
    ) {
        let what = self.what;
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(self.bounds.answer));
        let service = service_fn(|request: Request<Incoming>| {
            let mut request = request.map(Body::new);
            let extensions = request.extensions_mut();
            extensions.insert(ConnectInfo(self.peer.clone()));
            extensions.insert(Arc::clone(&self.place));
            let mut router = router.clone();
            async move { router.call(request).await }
        });
        let mut connection = pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(self.bounds.head)
                .max_buf_size(MAX_HEAD)
                .serve_connection(TokioIo::new(Box::pin(stream)), service)
        );
        let mut is_stopping = false;
        loop {
            tokio::select! {
                ended = &mut connection => {
                    if let Err(error) = ended {
                        log::debug!("a connection to {what} failed: {error}");
                    }
                    return;
                }
                () = self.place.taken() => {
                    log::debug!("a connection to {what} was closed to make room for a newer one");
                    return;
                }
                _ = stopped.changed(), if !is_stopping => {
                    is_stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

/// The places for connections. A connection is served only while it has a place, so the number of
/// places is the maximum number of connections.
#[derive(Debug)]
struct Places {
    max_places: usize,
    held: Mutex<HashMap<u64, Occupant>>,
    /// The next sequence number. A connection gets a number as its id when it is accepted, and
    /// another number each time the daemon starts to wait for its client again. The daemon has
    /// waited longest on the connection with the lowest `waits_since`.
    next: AtomicU64,
    /// Wakes `take` when a place has become free, or when a connection can lose its place because
    /// the daemon waits for its client again.
    change: Notify,
}

/// The state of a connection that has a place.
#[derive(Debug)]
struct Occupant {
    /// The sequence number that the connection got when the daemon began to wait for its client, or
    /// `None` while the client waits for the daemon.
    waits_since: Option<u64>,
    taken: Arc<Notify>,
}

impl Places {
    fn new(max_places: usize) -> Self {
        Self {
            max_places,
            held: Mutex::default(),
            next: AtomicU64::new(0),
            change: Notify::new(),
        }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<u64, Occupant>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        self.next.fetch_add(1, Relaxed)
    }

    /// Waits for a place and returns it. If no place is free, the connection on whose client the
    /// daemon has waited longest loses its place. If every client waits for the daemon, this
    /// function waits until a place becomes free or the daemon waits for a client again.
    async fn take(self: &Arc<Self>) -> Place {
        loop {
            if let Some(place) = self.try_take() {
                return place;
            }
            self.change.notified().await;
        }
    }

    fn try_take(self: &Arc<Self>) -> Option<Place> {
        let mut held = self.held();
        if held.len() >= self.max_places {
            let waiting = held
                .iter()
                .filter_map(|(id, held)| Some((held.waits_since?, *id)));
            let (_, longest) = waiting.min()?;
            if let Some(gone) = held.remove(&longest) {
                gone.taken.notify_one();
            }
        }
        let id = self.now();
        let taken = Arc::new(Notify::new());
        let place = Occupant {
            waits_since: Some(id),
            taken: Arc::clone(&taken),
        };
        held.insert(id, place);
        Some(Place {
            id,
            taken,
            places: Arc::clone(self),
        })
    }
}

/// The place of a connection, which becomes free when this value is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    id: u64,
    taken: Arc<Notify>,
    places: Arc<Places>,
}

impl Place {
    /// Records that a complete request has arrived. The connection keeps its place until the
    /// request has been answered.
    pub(crate) fn begin_request(&self) {
        self.set(None);
    }

    /// Records that the response is ready, so that the daemon waits for the client again.
    pub(crate) fn end_request(&self) {
        self.set(Some(self.places.now()));
        self.places.change.notify_one();
    }

    fn set(&self, waits_since: Option<u64>) {
        if let Some(held) = self.places.held().get_mut(&self.id) {
            held.waits_since = waits_since;
        }
    }

    async fn taken(&self) {
        self.taken.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.held().remove(&self.id);
        self.places.change.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use axum::{Extension, routing::get};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        sync::Semaphore,
    };

    use super::*;

    #[tokio::test]
    async fn a_connection_that_arrives_while_all_places_are_busy_is_served_next() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let [began, may_end] = [(); 2].map(|()| Arc::new(Semaphore::new(0)));
        let (begins, ends) = (Arc::clone(&began), Arc::clone(&may_end));
        let work = get(async move |Extension(place): Extension<Arc<Place>>| {
            place.begin_request();
            begins.add_permits(1);
            ends.acquire().await.unwrap().forget();
            place.end_request();
        });
        let router = Router::new().route("/", work);
        let bounds = Bounds {
            connections: 1,
            ..Bounds::default()
        };
        tokio::spawn(serve("s", listener, router, |_| (), bounds, pending()));
        let ask = async || {
            let mut stream = UnixStream::connect(&socket).await.unwrap();
            let request = b"GET / HTTP/1.1\r\nHost: l\r\nConnection: close\r\n\r\n";
            stream.write_all(request).await.unwrap();
            stream
        };
        for _ in 0..50 {
            let first = ask().await;
            began.acquire().await.unwrap().forget();
            let second = ask().await;
            may_end.add_permits(2);
            for mut stream in [first, second] {
                let mut answer = String::new();
                stream.read_to_string(&mut answer).await.unwrap();
                assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            }
            began.acquire().await.unwrap().forget();
        }
    }

    /// Returns whether the place has been given to another connection.
    async fn is_taken(place: &Place) -> bool {
        tokio::select! {
            biased;
            () = place.taken() => true,
            () = std::future::ready(()) => false,
        }
    }

    #[tokio::test]
    async fn a_new_connection_replaces_the_longest_idle_one() {
        let places = Arc::new(Places::new(3));
        let [first, second, third] = [(); 3].map(|()| places.try_take().unwrap());
        first.begin_request();
        second.begin_request();
        second.end_request();
        let fourth = places.try_take().unwrap();
        assert!(
            is_taken(&third).await,
            "the daemon has waited for it longer than for the second"
        );
        assert!(!is_taken(&first).await && !is_taken(&second).await);
        drop(third);
        for place in [&second, &fourth] {
            place.begin_request();
        }
        assert!(
            places.try_take().is_none(),
            "all clients wait for the daemon"
        );
        let (fifth, ()) = tokio::join!(places.take(), async { fourth.end_request() });
        assert!(is_taken(&fourth).await);
        drop(first);
        assert!(places.try_take().is_some());
        assert!(!is_taken(&fifth).await, "there was a free place");
    }
}
