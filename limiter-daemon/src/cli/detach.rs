// SPDX-License-Identifier: MIT OR Apache-2.0

//! `limiter detach`: removes the programs, their maps and the pins. A running daemon does this
//! itself. If no daemon is running, this process does it.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use tokio::{net::UnixStream, runtime::Builder};

use super::{args::DetachArgs, client::Client, exit::Failure, render, socket::SocketSettings};
use crate::{
    api::user_name,
    protocol::views::Report,
    run::{
        lock::{DirectoryLock, LockError},
        offline::{self, Pinned},
    },
};

/// The maximum time for which this process waits until a stopping daemon releases its locks.
const END: Duration = Duration::from_secs(5);
/// The time between two attempts to take the locks.
const LOOK: Duration = Duration::from_millis(20);

pub(super) fn detach(
    args: &DetachArgs,
    settings: &SocketSettings,
    json: bool,
) -> Result<(), Failure> {
    let socket = settings.to_ask();
    let pinned = args.pinned(settings.runtime.as_deref());
    // If the command line names only directories, the daemon at the default socket may use other
    // directories, and the limits of that daemon have to stay in force. That daemon is therefore
    // asked to detach only if it holds the lock of the named directories.
    let ask_daemon = !args.names_directories()
        || settings.is_typed()
        || DirectoryLock::holder(&pinned.pins).is_some_and(|pid| listener(&socket) == Some(pid));
    let report = if ask_daemon {
        ask(&socket, &pinned, json)?
    } else {
        without_daemon(&pinned, Duration::ZERO)?
    };
    render::report(&report, "nothing was attached or pinned", json)
}

/// Asks the daemon at a socket to detach itself. If no daemon is running, this process detaches the
/// programs.
fn ask(socket: &Path, pinned: &Pinned, json: bool) -> Result<Report, Failure> {
    match Client::new(socket, json).post("/v1/detach") {
        Ok(report) => Ok(report),
        Err(Failure::Unreachable(_no_daemon)) => without_daemon(pinned, Duration::ZERO),
        // The daemon stopped before it sent a response. Some programs, maps or pins may still
        // exist, and this process removes them.
        Err(failure) if failure.is_hang_up() => without_daemon(pinned, END),
        Err(failure) => Err(failure),
    }
}

/// Returns the id of the process that listens on a socket.
fn listener(socket: &Path) -> Option<u32> {
    let runtime = Builder::new_current_thread().enable_io().build().ok()?;
    let stream = runtime.block_on(UnixStream::connect(socket)).ok()?;
    stream.peer_cred().ok()?.pid()?.try_into().ok()
}

fn without_daemon(pinned: &Pinned, timeout: Duration) -> Result<Report, Failure> {
    let who = format!(
        "{} (no daemon)",
        user_name(nix::unistd::Uid::current().as_raw())
    );
    let start = Instant::now();
    let detached = loop {
        match offline::detach(pinned, who.clone()) {
            Err(error) if is_held(&error) && start.elapsed() < timeout => thread::sleep(LOOK),
            detached => break detached,
        }
    };
    detached.map_err(|error| match error.downcast::<LockError>() {
        Ok(LockError::Held { path, holder }) => Failure::failed(format!(
            "a daemon{} is using {}: name its socket with --socket so that it detaches itself, or name other directories (--state-dir, --runtime-dir, --pin-dir)",
            holder.map_or_else(String::new, |pid| format!(" (pid {pid})")),
            path.display()
        )),
        Ok(other) => Failure::Failed(other.into()),
        Err(error) => Failure::from(error),
    })
}

fn is_held(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(LockError::Held { .. }))
}
