// SPDX-License-Identifier: MIT OR Apache-2.0

//! rustup's nightly toolchain, which builds `core` from its source.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{find_program, output_of};

/// rustup's nightly toolchain, and the linker on the PATH.
#[derive(Debug, Clone)]
pub struct Nightly {
    pub rustup: PathBuf,
    pub linker: PathBuf,
    rustc: PathBuf,
}

impl Nightly {
    /// Looks for the toolchain and the linker.
    ///
    /// # Errors
    /// Returns an error that names the missing part.
    pub fn find() -> Result<Self, String> {
        let rustup = find_program("rustup").ok_or("rustup is not on the PATH")?;
        let rustc =
            output_of(Command::new(&rustup).args(["which", "--toolchain", "nightly", "rustc"]))
                .map(PathBuf::from)
                .ok_or("rustup has no nightly toolchain")?;
        if !has_core_source(&rustc) {
            return Err("rustup's nightly has no rust-src".to_owned());
        }
        let linker = find_program("bpf-linker")
            .ok_or("rustup has a nightly toolchain, but bpf-linker is not on the PATH")?;
        Ok(Self {
            rustup,
            linker,
            rustc,
        })
    }

    pub(crate) fn describe(&self) -> String {
        let version = output_of(Command::new(&self.rustc).arg("--version"));
        format!(
            "{} with rust-src and {}",
            version.as_deref().unwrap_or("rustup's nightly"),
            self.linker.display()
        )
    }
}

/// Returns whether a toolchain has rust-src. `rustc` is the path of its compiler,
/// `TOOLCHAIN/bin/rustc`.
fn has_core_source(rustc: &Path) -> bool {
    rustc
        .ancestors()
        .nth(2)
        .is_some_and(|toolchain| toolchain.join("lib/rustlib/src/rust/library/core").is_dir())
}
