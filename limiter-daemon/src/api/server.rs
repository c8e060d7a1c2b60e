// SPDX-License-Identifier: MIT OR Apache-2.0

//! Opens and serves the control socket.

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
    engine::shared::Shared,
    http::{self, Bounds},
};

/// The mode of the socket file. Root and members of the socket's group may connect. The module
/// `access` then checks each request.
const MODE: u32 = 0o660;

/// Listens on `path`, so that root and members of `group` can connect. A socket file without a
/// listener is replaced.
///
/// # Errors
/// Returns the error of a system call, or `AddrInUse` if another daemon listens on the socket.
pub fn bind(path: &Path, group: Option<u32>) -> io::Result<UnixListener> {
    match StdUnixStream::connect(path) {
        Ok(_someone) => {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another daemon listens there",
            ));
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)?,
        Err(_nothing_there) => {}
    }
    let listener = UnixListener::bind(path)?;
    // The group is set before the mode. In the opposite order, members of another group could
    // connect in between.
    chown(path, None, group)?;
    fs::set_permissions(path, fs::Permissions::from_mode(MODE))?;
    Ok(listener)
}

/// Serves requests until `stop` resolves, and then completes the requests that are in progress.
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
