// SPDX-License-Identifier: MIT OR Apache-2.0

//! The compiler and the linker of the kernel programs.
//!
//! Three toolchains can build a BPF object. They are tried in this order:
//! 1. [`Private`] consists of Debian's packages, which `cargo xtask setup` unpacks into a cache
//!    directory of this project. This needs no root and leaves the system unchanged.
//! 2. [`System`] consists of the same packages, installed on the system, and bpf-linker.
//! 3. [`Nightly`] consists of rustup's nightly toolchain with `rust-src`, and bpf-linker.
//!
//! [`Toolchain::detect`] finds a toolchain, [`Toolchain::describe`] names it, and [`ebpf`] runs it.
//! The error [`MissingToolchain`] explains how to get one. xtask and limiter-daemon's build script
//! share this crate, so that both use the same toolchain.

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

/// The target of the kernel programs. Only little-endian hosts are supported.
pub const TARGET: &str = "bpfel-unknown-none";

/// A compiler and a linker that have been found.
#[derive(Debug, Clone)]
pub enum Toolchain {
    Private(Private),
    System(System),
    Nightly(Nightly),
}

impl Toolchain {
    /// Looks for a toolchain. The search for the private toolchain only reads files, and starts no
    /// process.
    ///
    /// # Errors
    /// Returns [`MissingToolchain`] if there is no toolchain. It lists the attempts, and explains
    /// how to get a toolchain.
    pub fn detect() -> Result<Self, MissingToolchain> {
        let private = Private::locate();
        if let Ok(private) = &private
            && private.is_complete()
        {
            return Ok(Self::Private(private.clone()));
        }
        let reasons = vec![
            match private {
                Ok(private) => format!("private: {} is not complete", private.dir().display()),
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
        Err(MissingToolchain { reasons })
    }

    /// Returns a description of the toolchain with its versions and paths, on one line.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Private(private) => private.describe(),
            Self::System(system) => system.describe(),
            Self::Nightly(nightly) => nightly.describe(),
        }
    }
}

/// The error for a missing toolchain for the kernel programs.
#[derive(Debug)]
pub struct MissingToolchain {
    /// The reasons why no toolchain can be used, one for each toolchain that was tried.
    reasons: Vec<String>,
}

impl MissingToolchain {
    /// Adds the reason why the installation of a toolchain failed.
    pub fn add_reason(&mut self, reason: &str) {
        self.reasons.push(reason.to_owned());
    }
}

impl fmt::Display for MissingToolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "there is no toolchain for the kernel programs (target {TARGET}):"
        )?;
        for reason in &self.reasons {
            writeln!(f, "  - {reason}")?;
        }
        write!(f, "{HOW_TO}")
    }
}

impl std::error::Error for MissingToolchain {}

/// A description of the two ways to get a toolchain.
const HOW_TO: &str = "\
`cargo xtask setup` can make one in two ways:
  - on Debian or Ubuntu, if apt has the package libstd-rust-web-dev-bpf, as on Debian 12 with its
    security updates: it unpacks packages into a cache directory and builds bpf-linker there,
    without root and without changes to the system. If the package lists are too old, run
    `apt-get update` as root and try again
  - elsewhere with rustup: run `rustup toolchain install nightly --component rust-src`, and put a
    bpf-linker on the PATH that supports the LLVM of that nightly (`cargo binstall bpf-linker`,
    or `cargo install bpf-linker` if LLVM's development files are installed)";

/// Runs a program, and returns its output without leading and trailing white space. Returns `None`
/// if the program fails or does not exist.
fn output_of(command: &mut std::process::Command) -> Option<String> {
    let output: io::Result<std::process::Output> = command
        .stdin(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .output();
    let output = output.ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
