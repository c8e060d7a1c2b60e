// SPDX-License-Identifier: MIT OR Apache-2.0

//! A compiler that is installed on the system, with a prebuilt `core` for BPF.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{TARGET, find_program, output_of};

/// The system's rustc and the linker on the PATH.
#[derive(Debug, Clone)]
pub struct System {
    pub rustc: PathBuf,
    pub linker: PathBuf,
    /// The output of `rustc --version`.
    version: String,
}

impl System {
    /// Looks for the compiler and the linker.
    ///
    /// # Errors
    /// Returns an error that names the missing part.
    pub fn find() -> Result<Self, String> {
        // /usr/bin/rustc is tried first, because rustup's rustc often comes before it on the PATH.
        let rustc = [Some(PathBuf::from("/usr/bin/rustc")), find_program("rustc")]
            .into_iter()
            .flatten()
            .find(|rustc| has_bpf_core(rustc))
            .ok_or_else(|| format!("no rustc with a core library for {TARGET}"))?;
        let linker = find_program("bpf-linker").ok_or_else(|| {
            format!(
                "{} has a core library for BPF, but bpf-linker is not on the PATH",
                rustc.display()
            )
        })?;
        let version = output_of(Command::new(&rustc).arg("--version"))
            .ok_or_else(|| format!("`{} --version` fails", rustc.display()))?;
        Ok(Self {
            rustc,
            linker,
            version,
        })
    }

    pub(crate) fn describe(&self) -> String {
        format!(
            "{} ({}) and {}",
            self.version,
            self.rustc.display(),
            self.linker.display()
        )
    }
}

fn has_bpf_core(rustc: &Path) -> bool {
    rustc.exists()
        && output_of(Command::new(rustc).args(["--print", "sysroot"])).is_some_and(|sysroot| {
            PathBuf::from(sysroot)
                .join("lib/rustlib")
                .join(TARGET)
                .join("lib")
                .is_dir()
        })
}
