// SPDX-License-Identifier: MIT OR Apache-2.0

//! The paths and the toolchain that every command needs.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;
use limiter_toolchain::Toolchain;

/// The workspace, its target directory and the toolchain for the kernel programs.
pub struct Context {
    root: PathBuf,
    target_dir: PathBuf,
    toolchain: Toolchain,
}

impl Context {
    pub fn new(toolchain: Toolchain) -> anyhow::Result<Self> {
        let manifest_dir = env::var_os("CARGO_MANIFEST_DIR")
            .context("run this as `cargo xtask`: CARGO_MANIFEST_DIR is not set")?;
        let root = Path::new(&manifest_dir)
            .parent()
            .context("xtask has no directory above it")?;
        // The path of this program is TARGET/PROFILE/xtask, even if an environment variable or a
        // configuration file determines TARGET.
        let exe = env::current_exe().context("find the running program")?;
        let target_dir = exe
            .ancestors()
            .nth(2)
            .context("find the target directory")?;
        Ok(Self {
            root: root.to_owned(),
            target_dir: target_dir.to_owned(),
            toolchain,
        })
    }

    /// Returns the directory of the workspace.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn toolchain(&self) -> &Toolchain {
        &self.toolchain
    }

    /// Returns cargo's target directory.
    pub fn target_dir(&self) -> &Path {
        &self.target_dir
    }

    /// Returns the target directory of the kernel programs. The build script of limiter-daemon uses
    /// the same directory.
    pub fn ebpf_target_dir(&self) -> PathBuf {
        self.target_dir.join("ebpf")
    }

    /// Returns the path of the binary that `cargo build --release` builds.
    pub fn release_binary(&self) -> PathBuf {
        self.target_dir.join("release/limiter")
    }

    /// Returns a command for the cargo that runs xtask, in the directory of the workspace.
    pub fn cargo(&self) -> Command {
        let mut command = Command::new(cargo());
        command.current_dir(&self.root);
        command
    }
}

/// Returns the path of the cargo that runs xtask.
pub fn cargo() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}
