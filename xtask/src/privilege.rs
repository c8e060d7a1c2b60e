// SPDX-License-Identifier: MIT OR Apache-2.0

//! Root privileges. Either xtask runs as root, or it runs single programs through sudo. Cargo
//! always builds as the calling user.

use std::{
    fs,
    io::{self, IsTerminal as _},
    os::unix::fs::MetadataExt as _,
    process::{Command, Stdio},
};

use anyhow::bail;
use limiter_toolchain::find_program;

/// The way in which programs are run as root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// xtask runs as root.
    Root,
    /// sudo needs no password, or the user has just entered it.
    Sudo,
}

impl Privilege {
    /// Makes sure that programs can be run as root. sudo asks for a password only if there is a
    /// terminal. `what` is the subject of the messages.
    pub fn acquire(what: &str) -> anyhow::Result<Self> {
        if is_root() {
            return Ok(Self::Root);
        }
        if find_program("sudo").is_none() {
            bail!("{what} needs root, and there is no sudo: run this command as root");
        }
        let mut ask = Command::new("sudo");
        if io::stdin().is_terminal() {
            eprintln!("{what} needs root: asking sudo");
            ask.arg("--validate");
        } else {
            ask.args(["--non-interactive", "true"])
                .stderr(Stdio::null());
        }
        if !ask.status().is_ok_and(|status| status.success()) {
            bail!("{what} needs root, and sudo wants a password: run this command as root");
        }
        Ok(Self::Sudo)
    }

    /// Returns a command that runs a program as root.
    pub fn command(self, program: &str) -> Command {
        match self {
            Self::Root => Command::new(program),
            Self::Sudo => {
                let mut command = Command::new("sudo");
                command.arg(program);
                command
            }
        }
    }
}

/// Checks that xtask itself runs as root. Some commands need this, because they cannot run single
/// programs through sudo.
///
/// # Errors
/// Returns an error that states how to run the command as root.
pub fn require_root(command: &str) -> anyhow::Result<()> {
    if is_root() {
        return Ok(());
    }
    bail!(
        "`cargo xtask {command}` needs root: run it as root, or `sudo -E env PATH=\"$PATH\" cargo xtask {command}`"
    )
}

/// Returns whether the effective user is root. The directory of a process in `/proc` belongs to the
/// effective user of the process (proc(5)).
pub fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}
