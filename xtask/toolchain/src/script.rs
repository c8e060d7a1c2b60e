// SPDX-License-Identifier: MIT OR Apache-2.0

//! Functions for build scripts that build kernel programs and put the object into OUT_DIR.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use crate::{DIR_VARIABLE, Toolchain, ebpf};

/// The files and folders that determine limiter's kernel programs, relative to the root of the
/// workspace.
const INPUTS: [&str; 4] = ["Cargo.lock", "Cargo.toml", "limiter-common", "limiter-ebpf"];
/// The files and folders that determine `limiter-disorder`, relative to the root of the workspace.
const DISORDER_INPUTS: [&str; 3] = ["Cargo.lock", "Cargo.toml", "tests/disorder"];

/// Builds limiter's kernel programs, and copies the object to OUT_DIR for
/// `aya::include_bytes_aligned!`. The file has the name of the package, `limiter-ebpf`. Cargo runs
/// the build script again if the sources or the toolchain change. The folder of the calling package
/// must be in the root of the workspace.
///
/// # Errors
/// Returns an error if there is no toolchain, or if the programs do not build. The message about a
/// missing toolchain explains how to get one. For programs that do not build, the compiler has
/// printed the reasons.
pub fn build_kernel_program() -> Result<(), String> {
    build(ebpf::PACKAGE, &INPUTS)
}

/// Does the same as [`build_kernel_program`] for `limiter-disorder`, the kernel programs that
/// disturb the traffic of tests.
///
/// # Errors
/// Returns an error under the same conditions as [`build_kernel_program`].
pub fn build_disorder() -> Result<(), String> {
    build(ebpf::DISORDER, &DISORDER_INPUTS)
}

fn build(package: &str, inputs: &[&str]) -> Result<(), String> {
    let out_dir = variable("OUT_DIR")?;
    let manifest_dir = variable("CARGO_MANIFEST_DIR")?;
    let workspace = manifest_dir
        .parent()
        .ok_or("the directory of this package has no parent")?;
    for input in inputs {
        println!(
            "cargo::rerun-if-changed={}",
            workspace.join(input).display()
        );
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={DIR_VARIABLE}");

    let toolchain = Toolchain::detect().map_err(|missing| missing.to_string())?;
    if let Toolchain::Private(private) = &toolchain {
        println!("cargo::rerun-if-changed={}", private.marker().display());
    }
    let target_dir = target_dir(&out_dir)?;
    let mut command = ebpf::build(&toolchain, workspace, package, &target_dir, false);
    // Cargo shows the output of a build script only if the script fails. In that output, lines
    // about the progress of the build would hide the errors.
    let status = command
        .arg("--quiet")
        .status()
        .map_err(|error| format!("cannot run {command:?}: {error}"))?;
    if !status.success() {
        return Err(format!(
            "{package} did not build ({status}) with {}",
            toolchain.describe()
        ));
    }
    let object = ebpf::object(&target_dir, package);
    let copy = out_dir.join(package);
    fs::copy(&object, &copy).map_err(|error| {
        format!(
            "cannot copy {} to {}: {error}",
            object.display(),
            copy.display()
        )
    })?;
    Ok(())
}

fn variable(name: &str) -> Result<PathBuf, String> {
    env::var_os(name)
        .map(PathBuf::from)
        .ok_or_else(|| format!("{name} is not set; run this program through cargo"))
}

/// Returns the target directory `TARGET/ebpf`. The kernel programs cannot be built in TARGET,
/// because the outer cargo holds the lock of TARGET/PROFILE while it waits for the build script.
/// The object does not depend on the profile or the package of the host. All builds therefore share
/// the directory `TARGET/ebpf` and its lock, and only the first build compiles the programs.
fn target_dir(out_dir: &Path) -> Result<PathBuf, String> {
    // OUT_DIR is TARGET/PROFILE/build/PACKAGE-HASH/out.
    let target = out_dir
        .ancestors()
        .nth(4)
        .ok_or_else(|| format!("OUT_DIR has too few directories: {}", out_dir.display()))?;
    Ok(target.join("ebpf"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_profiles_share_one_target_directory() {
        for profile in ["debug", "release"] {
            let out_dir = format!("/w/target/{profile}/build/limiter-daemon-0123/out");
            assert_eq!(
                target_dir(Path::new(&out_dir)).unwrap(),
                Path::new("/w/target/ebpf")
            );
        }
    }
}
