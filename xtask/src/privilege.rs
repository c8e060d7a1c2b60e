//! Root, for what needs it: by being root, or by sudo for single programs. What cargo builds is
//! never built as another user than the one who called.

use std::{
    fs,
    io::{self, IsTerminal as _},
    os::unix::fs::MetadataExt as _,
    process::{Command, Stdio},
};

use anyhow::bail;
use limiter_toolchain::find_program;

/// How a program gets to be run as root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// We are root.
    Root,
    /// sudo answers without, or has just been given, a password.
    Sudo,
}

impl Privilege {
    /// Sees to it that root's rights are to be had, asking for a password only at a terminal.
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

    /// A command that runs as root.
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

/// For what cannot go through sudo by the program: an error that says how to call it.
pub fn require_root(command: &str) -> anyhow::Result<()> {
    if is_root() {
        return Ok(());
    }
    bail!(
        "`cargo xtask {command}` needs root: run it as root, or `sudo -E env PATH=\"$PATH\" cargo xtask {command}`"
    )
}

/// Whether the effective user is root: proc(5), "/proc/pid ... owned by the effective user".
pub fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}
