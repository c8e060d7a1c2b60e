// SPDX-License-Identifier: MIT OR Apache-2.0

//! Command-line options of a daemon.

use std::path::PathBuf;

use crate::config::Overlay;

/// The directories of a daemon.
#[derive(Debug, Clone)]
pub struct Directories {
    /// The directory of the store and the hash secret. It survives reboots.
    pub state: PathBuf,
    /// The runtime directory, which contains the control socket.
    pub runtime: PathBuf,
    /// The pin directory, which contains the maps and links.
    pub pins: PathBuf,
    /// The path of the control socket, if it is not in `runtime`.
    pub socket: Option<PathBuf>,
}

/// The options of `limiter run`.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// The directories of the daemon.
    pub directories: Directories,
    /// The options that override the configuration.
    pub overlay: Overlay,
    /// Whether to remove programs and maps when the daemon ends.
    pub detach_on_exit: bool,
    /// Whether to run even if the pins disappear when this process ends.
    pub private_mounts: bool,
}
