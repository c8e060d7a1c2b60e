//! Which compiler and which linker build the kernel program.
//!
//! Three ways lead to a BPF object, tried in this order:
//! 1. [`Private`]: Debian's packages, unpacked into a cache directory of this project by
//!    `cargo xtask setup`. No root, and nothing of the system changes.
//! 2. [`System`]: the same packages installed, and bpf-linker on the PATH.
//! 3. [`Nightly`]: rustup's nightly with `rust-src`, and bpf-linker on the PATH.
//!
//! [`Toolchain::detect`] decides, [`Toolchain::describe`] says what it took, [`Missing`] says how
//! to get one, and [`ebpf`] runs it. xtask and limiter-daemon's build script share all of it, so
//! that both always take the same.

pub mod ebpf;
mod nightly;
mod path;
mod private;
pub mod script;
mod system;

use std::{fmt, io};

pub use nightly::Nightly;
pub use path::find_program;
pub use private::{BPF_LINKER_VERSION, DIR_VARIABLE, Private};
pub use system::System;

/// The target of the kernel program. Only little-endian hosts are supported.
pub const TARGET: &str = "bpfel-unknown-none";

/// A compiler and a linker that were found.
#[derive(Debug, Clone)]
pub enum Toolchain {
    Private(Private),
    System(System),
    Nightly(Nightly),
}

impl Toolchain {
    /// Looks for a toolchain. Cheap where the private one is there: two files are looked at and
    /// no process is started.
    ///
    /// # Errors
    /// [`Missing`] says what was looked for and how to get it.
    pub fn detect() -> Result<Self, Missing> {
        let private = Private::locate();
        if let Ok(private) = &private
            && private.is_complete()
        {
            return Ok(Self::Private(private.clone()));
        }
        let reasons = vec![
            match private {
                Ok(private) => format!("private: nothing complete in {}", private.dir().display()),
                Err(error) => format!("private: {error}"),
            },
            match System::find() {
                Ok(system) => return Ok(Self::System(system)),
                Err(reason) => format!("system: {reason}"),
            },
            match Nightly::find() {
                Ok(nightly) => return Ok(Self::Nightly(nightly)),
                Err(reason) => format!("nightly: {reason}"),
            },
        ];
        Err(Missing { reasons })
    }

    /// One line for people: what was taken, and where it is.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Private(private) => private.describe(),
            Self::System(system) => system.describe(),
            Self::Nightly(nightly) => nightly.describe(),
        }
    }
}

/// There is no toolchain for the kernel program.
#[derive(Debug)]
pub struct Missing {
    /// Why each of the ways was not taken.
    reasons: Vec<String>,
}

impl Missing {
    /// Adds what was tried since, and what came of it.
    pub fn tried(&mut self, what: &str) {
        self.reasons.push(what.to_owned());
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "no toolchain for the kernel program (target {TARGET}) was found:"
        )?;
        for reason in &self.reasons {
            writeln!(f, "  - {reason}")?;
        }
        write!(f, "{HOW_TO}")
    }
}

impl std::error::Error for Missing {}

/// Both ways to a toolchain.
const HOW_TO: &str = "\
`cargo xtask setup` gets one where it can, in one of two ways:
  - on Debian or Ubuntu, with a release whose apt knows libstd-rust-web-dev-bpf (Debian 12 with
    its security updates does): packages are unpacked into a cache directory and bpf-linker is
    built there; no root, no change to the system. If the package lists are the trouble, type
    `apt-get update` as root and try again
  - elsewhere, with rustup: type `rustup toolchain install nightly --component rust-src`, and put
    a bpf-linker on the PATH that knows that nightly's LLVM (`cargo binstall bpf-linker`, or
    `cargo install bpf-linker` where LLVM's development files are)";

/// Runs a program and returns what it printed, trimmed; `None` where it fails or is not there.
fn output_of(command: &mut std::process::Command) -> Option<String> {
    let output: io::Result<std::process::Output> = command
        .stdin(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .output();
    let output = output.ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
