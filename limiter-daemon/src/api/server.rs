//! Listening on the control socket.

use std::{
    fs, io,
    os::unix::{fs::PermissionsExt as _, net::UnixStream as StdUnixStream},
    path::Path,
    sync::Arc,
};

use axum::{Router, extract::connect_info::Connected, serve::IncomingStream};
use nix::unistd::{Uid, User};
use tokio::net::{UnixListener, unix::UCred};

use super::routes;
use crate::daemon::Shared;

/// Who may connect: root and the socket's group.
const MODE: u32 = 0o660;

/// Who is at the other end, by the kernel's word.
#[derive(Debug, Clone)]
pub(super) struct Peer(Option<UCred>);

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self(stream.io().peer_cred().ok())
    }
}

impl Peer {
    /// For the audit trail.
    pub(super) fn name(&self) -> String {
        match &self.0 {
            Some(peer) => user(peer.uid()),
            None => "unknown".to_owned(),
        }
    }
}

/// A user by name, as far as it has one, and number: names change hands.
fn user(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => format!("{} (uid {uid})", user.name),
        Ok(None) | Err(_) => format!("uid {uid}"),
    }
}

/// Listens on `path`. A socket file that nobody listens on any more is replaced.
///
/// # Errors
/// The system's, or somebody else listening there.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
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
    fs::set_permissions(path, fs::Permissions::from_mode(MODE))?;
    Ok(listener)
}

/// Answers until `stop` resolves, and then until what is under way is answered.
///
/// # Errors
/// The listener's.
pub async fn serve(
    listener: UnixListener,
    shared: Arc<Shared>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let router: Router = routes::router(shared);
    axum::serve(
        listener,
        router.into_make_service_with_connect_info::<Peer>(),
    )
    .with_graceful_shutdown(stop)
    .await
}
