//! Listening on the control socket.

use std::{
    fs, io,
    os::unix::{
        fs::{PermissionsExt as _, chown},
        net::UnixStream as StdUnixStream,
    },
    path::Path,
    sync::Arc,
};

use tokio::net::UnixListener;

use super::{access::Access, peer::Peer, routes};
use crate::{
    daemon::Shared,
    http::{self, Bounds},
};

/// Who may connect: root and the socket's group. Who may do what, each request is asked.
const MODE: u32 = 0o660;

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
    http::serve(
        "the control socket",
        listener,
        router,
        Peer::of,
        bounds,
        stop,
    )
    .await;
}
