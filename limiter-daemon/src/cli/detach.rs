//! `limiter detach`: by the daemon if one runs, by ourselves if not.

use std::path::Path;

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

pub(super) fn detach(
    args: &DetachArgs,
    runtime: Option<&Path>,
    socket: Option<&Path>,
    json: bool,
) -> Result<(), Failure> {
    let socket = socket.map_or_else(default_socket, Path::to_path_buf);
    let report = match Client::new(&socket).post("/v1/detach") {
        Ok(report) => report,
        Err(Failure::Unreachable(_no_daemon)) => without_daemon(&args.directories(runtime))?,
        Err(failure) => return Err(failure),
    };
    render::report(&report, "nothing was attached and nothing pinned", json)
}

fn without_daemon(directories: &Directories) -> Result<Report, Failure> {
    let who = format!(
        "{} (no daemon)",
        user_name(nix::unistd::Uid::current().as_raw())
    );
    detach_offline(directories, who).map_err(|error| match error.downcast::<LockError>() {
        Ok(LockError::Held { path, holder }) => Failure::failed(format!(
            "a daemon{} is using {}: name its socket with --socket, so that it detaches itself, or other directories (--state-dir, --runtime-dir, --pin-dir)",
            holder.map_or_else(String::new, |pid| format!(" (pid {pid})")),
            path.display()
        )),
        Ok(other) => Failure::Failed(other.into()),
        Err(error) => Failure::from(error),
    })
}
