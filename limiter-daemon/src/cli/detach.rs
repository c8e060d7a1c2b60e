//! `limiter detach`: by the daemon if one runs, by ourselves if not.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use super::{
    args::{DetachArgs, default_socket},
    client::Client,
    exit::Failure,
    render,
};
use crate::{
    api::{Report, user_name},
    daemon::{Directories, LockError, detach_offline},
};

/// How long a daemon that ends may take to let go of its locks.
const END: Duration = Duration::from_secs(5);
/// Between two looks for that.
const LOOK: Duration = Duration::from_millis(20);

pub(super) fn detach(
    args: &DetachArgs,
    runtime: Option<&Path>,
    socket: Option<&Path>,
    json: bool,
) -> Result<(), Failure> {
    let socket = socket.map_or_else(default_socket, Path::to_path_buf);
    let report = match Client::new(&socket).post("/v1/detach") {
        Ok(report) => report,
        Err(Failure::Unreachable(_no_daemon)) => {
            without_daemon(&args.directories(runtime), Duration::ZERO)?
        }
        // It ended as it was asked. What it had done of it need not be done again.
        Err(failure) if failure.is_hang_up() => without_daemon(&args.directories(runtime), END)?,
        Err(failure) => return Err(failure),
    };
    render::report(&report, "nothing was attached and nothing pinned", json)
}

fn without_daemon(directories: &Directories, patience: Duration) -> Result<Report, Failure> {
    let who = format!(
        "{} (no daemon)",
        user_name(nix::unistd::Uid::current().as_raw())
    );
    let start = Instant::now();
    let detached = loop {
        match detach_offline(directories, who.clone()) {
            Err(error) if is_held(&error) && start.elapsed() < patience => thread::sleep(LOOK),
            detached => break detached,
        }
    };
    detached.map_err(|error| match error.downcast::<LockError>() {
        Ok(LockError::Held { path, holder }) => Failure::failed(format!(
            "a daemon{} is using {}: name its socket with --socket, so that it detaches itself, or other directories (--state-dir, --runtime-dir, --pin-dir)",
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
