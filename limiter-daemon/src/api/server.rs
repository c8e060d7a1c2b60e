//! Listening on the control socket, and what those who connect may take of the daemon.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::{
        fs::{PermissionsExt as _, chown},
        net::UnixStream as StdUnixStream,
    },
    path::Path,
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
    net::{UnixListener, UnixStream},
    sync::{Notify, watch},
    task::JoinSet,
};
use tokio_io_timeout::TimeoutStream;
use tower_service::Service as _;

use super::{access::Access, peer::Peer, routes};
use crate::daemon::Shared;

/// Who may connect: root and the socket's group. Who may do what, each request is asked.
const MODE: u32 = 0o660;
/// Largest head of a request, in bytes: the longest scope name, escaped, and some room.
const MAX_HEAD: usize = 16 * 1024;
/// After a connection could not be taken (no descriptors left, say): before the next attempt.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// What those who connect may take of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Connections at a time. One more takes the place of the one that the daemon has waited for
    /// longest: whoever connects and asks at once gets in.
    pub connections: usize,
    /// Until the head of a (next) request is complete.
    pub head: Duration,
    /// From one piece of a body to the next.
    pub piece: Duration,
    /// Until a body is complete.
    pub body: Duration,
    /// Until a piece of an answer is taken.
    pub answer: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            // Far below the 1024 descriptors that a process may have open, and the 512 threads
            // that tokio has for work that blocks.
            connections: 256,
            head: Duration::from_secs(30),
            piece: Duration::from_secs(10),
            // What the command line waits for an answer: a file of a million keys may take a while.
            body: Duration::from_secs(600),
            answer: Duration::from_secs(30),
        }
    }
}

/// Listens on `path`, for members of `group` too. A socket file that nobody listens on any more is replaced.
///
/// # Errors
/// The system's, or somebody else listening there.
pub fn bind(path: &Path, group: Option<u32>) -> io::Result<UnixListener> {
    match StdUnixStream::connect(path) {
        Ok(_someone) => {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another daemon answers there",
            ));
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)?,
        Err(_nothing_there) => {}
    }
    let listener = UnixListener::bind(path)?;
    // The group first: nobody is let in for a moment who is not meant.
    chown(path, None, group)?;
    fs::set_permissions(path, fs::Permissions::from_mode(MODE))?;
    Ok(listener)
}

/// Answers until `stop` resolves, and then until what is under way is answered.
pub async fn serve(
    listener: UnixListener,
    shared: Arc<Shared>,
    access: Access,
    bounds: Bounds,
    stop: impl Future<Output = ()> + Send + 'static,
) {
    let router = routes::router(shared, access, bounds);
    let places = Arc::new(Places::new(bounds.connections));
    let (stopping, stopped) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut stop = pin!(stop);
    loop {
        let next = async {
            let (stream, _address) = listener.accept().await?;
            io::Result::Ok((stream, places.take().await))
        };
        tokio::select! {
            taken = next => match taken {
                Ok((stream, place)) => {
                    let (router, stopped) = (router.clone(), stopped.clone());
                    connections.spawn(connection(stream, router, place, bounds, stopped));
                }
                Err(error) => {
                    log::warn!("the control socket: {error}");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            },
            () = &mut stop => break,
            Some(_ended) = connections.join_next() => {}
        }
    }
    drop(listener);
    drop(stopping);
    while connections.join_next().await.is_some() {}
}

/// Answers what comes on one connection, until its end or until its place is taken.
async fn connection(
    stream: UnixStream,
    router: Router,
    place: Place,
    bounds: Bounds,
    mut stopped: watch::Receiver<()>,
) {
    let peer = Peer::of(&stream);
    let place = Arc::new(place);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(bounds.answer));
    let service = service_fn(|request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer.clone()));
        request.extensions_mut().insert(Arc::clone(&place));
        let mut router = router.clone();
        async move { router.call(request).await }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(bounds.head)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(Box::pin(stream)), service)
    );
    let mut is_stopping = false;
    loop {
        tokio::select! {
            ended = &mut connection => {
                if let Err(error) = ended {
                    log::debug!("a connection to the control socket: {error}");
                }
                return;
            }
            () = place.taken() => {
                log::debug!("a connection to the control socket makes room for another one");
                return;
            }
            _ = stopped.changed(), if !is_stopping => {
                is_stopping = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// The places that connections may have.
#[derive(Debug)]
struct Places {
    most: usize,
    held: Mutex<HashMap<u64, Held>>,
    /// Numbers of connections, and of the moments from which the daemon waits for them.
    next: AtomicU64,
    /// Told when a place may have become free.
    change: Notify,
}

#[derive(Debug)]
struct Held {
    /// From when on the daemon waits for the other end; `None` while it is the other end that waits.
    waits_since: Option<u64>,
    taken: Arc<Notify>,
}

impl Places {
    fn new(most: usize) -> Self {
        Self {
            most,
            held: Mutex::default(),
            next: AtomicU64::new(0),
            change: Notify::new(),
        }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<u64, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        self.next.fetch_add(1, Relaxed)
    }

    /// A place: a free one, else that of the connection that the daemon has waited for longest, else
    /// the first that is given back.
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
        if held.len() >= self.most {
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
        let place = Held {
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

/// The place of a connection, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    id: u64,
    taken: Arc<Notify>,
    places: Arc<Places>,
}

impl Place {
    /// A whole request is there: the connection keeps its place until it is answered.
    pub(super) fn works(&self) {
        self.set(None);
    }

    /// The answer is there: what comes next is the other end's.
    pub(super) fn waits(&self) {
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
    use super::*;

    /// Whether the place was given to another connection.
    async fn is_taken(place: &Place) -> bool {
        tokio::select! {
            biased;
            () = place.taken() => true,
            () = std::future::ready(()) => false,
        }
    }

    #[tokio::test]
    async fn one_more_takes_the_place_of_the_one_that_has_been_waited_for_longest() {
        let places = Arc::new(Places::new(3));
        let [first, second, third] = [(); 3].map(|()| places.try_take().unwrap());
        first.works();
        second.works();
        second.waits();
        let fourth = places.try_take().unwrap();
        assert!(is_taken(&third).await, "waited for since before the second");
        assert!(!is_taken(&first).await && !is_taken(&second).await);
        drop(third);
        for place in [&second, &fourth] {
            place.works();
        }
        assert!(places.try_take().is_none(), "all wait for the daemon");
        let (fifth, ()) = tokio::join!(places.take(), async { fourth.waits() });
        assert!(is_taken(&fourth).await);
        drop(first);
        assert!(places.try_take().is_some());
        assert!(!is_taken(&fifth).await, "there was a free place");
    }
}
