//! What every command needs to know about where it runs.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;
use limiter_toolchain::Toolchain;

/// The workspace, its target directory and the toolchain of the kernel program.
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
        // This program is TARGET/PROFILE/xtask, whatever named TARGET: a variable, a
        // configuration file or nothing.
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

    /// The workspace's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn toolchain(&self) -> &Toolchain {
        &self.toolchain
    }

    /// cargo's target directory.
    pub fn target_dir(&self) -> &Path {
        &self.target_dir
    }

    /// Where the kernel program is built; the build script of limiter-daemon uses the same.
    pub fn ebpf_target_dir(&self) -> PathBuf {
        self.target_dir.join("ebpf")
    }

    /// The binary that `cargo build --release` leaves.
    pub fn release_binary(&self) -> PathBuf {
        self.target_dir.join("release/limiter")
    }

    /// The cargo that runs us, to be run in the workspace.
    pub fn cargo(&self) -> Command {
        let mut command = Command::new(cargo());
        command.current_dir(&self.root);
        command
    }
}

/// The cargo that runs us.
pub fn cargo() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}
