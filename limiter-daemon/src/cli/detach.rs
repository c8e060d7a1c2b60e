//! `limiter detach`: by the daemon if one runs, by ourselves if not.

use std::path::Path;

use super::{
    args::{DetachArgs, default_socket},
    client::Client,
    exit::Failure,
    render,
};
use crate::{
    api::Report,
    daemon::{DirectoryLock, LockError},
    kernel::{PinDirectory, remove_all},
};

pub(super) fn detach(args: &DetachArgs, socket: Option<&Path>, json: bool) -> Result<(), Failure> {
    let socket = socket.map_or_else(default_socket, Path::to_path_buf);
    let report = match Client::new(&socket).post("/v1/detach") {
        Ok(report) => report,
        Err(Failure::Unreachable(_no_daemon)) => without_daemon(&args.pin_dir)?,
        Err(failure) => return Err(failure),
    };
    render::report(&report, "nothing was attached and nothing pinned", json)
}

fn without_daemon(pins: &Path) -> Result<Report, Failure> {
    if !pins.exists() {
        return Ok(Report::default());
    }
    // A daemon behind another socket must not lose its maps under its feet.
    let lock = DirectoryLock::take(pins).map_err(|error| match error {
        LockError::Held(path) => Failure::failed(format!(
            "a daemon is using {}: name its socket with --socket, so that it detaches itself",
            path.display()
        )),
        other => Failure::Failed(other.into()),
    })?;
    let done =
        remove_all(&PinDirectory::new(pins)).map_err(|error| Failure::Failed(error.into()))?;
    drop(lock);
    Ok(Report {
        done,
        warnings: Vec::new(),
    })
}
