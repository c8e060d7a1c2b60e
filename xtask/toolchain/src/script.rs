//! For build scripts: the kernel program's object, in OUT_DIR.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use crate::{DIR_VARIABLE, Toolchain, ebpf};

/// What the objects are made of, from the workspace's root.
const INPUTS: [&str; 4] = ["Cargo.lock", "Cargo.toml", "limiter-common", "limiter-ebpf"];
const DISORDER_INPUTS: [&str; 3] = ["Cargo.lock", "Cargo.toml", "tests/disorder"];

/// Builds the kernel program and leaves it in OUT_DIR under its package's name, `limiter-ebpf`,
/// where `aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/limiter-ebpf"))` takes it. Tells
/// cargo when to do so again. The calling package lies directly in the workspace's root.
///
/// # Errors
/// Says what is missing and how to get it, or that the program does not build; why not, its
/// compiler has printed.
pub fn build_kernel_program() -> Result<(), String> {
    build(ebpf::PACKAGE, &INPUTS)
}

/// The same for the programs that disturb the traffic of tests, `limiter-disorder`.
///
/// # Errors
/// As [`build_kernel_program`].
pub fn build_disorder() -> Result<(), String> {
    build(ebpf::DISORDER, &DISORDER_INPUTS)
}

fn build(package: &str, inputs: &[&str]) -> Result<(), String> {
    let out_dir = variable("OUT_DIR")?;
    let manifest_dir = variable("CARGO_MANIFEST_DIR")?;
    let workspace = manifest_dir
        .parent()
        .ok_or("this package has no directory above it")?;
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
    // Quiet: cargo shows what a build script printed only when it failed, and then the errors
    // are what matters.
    let status = command
        .arg("--quiet")
        .status()
        .map_err(|error| format!("cannot run {command:?}: {error}"))?;
    if !status.success() {
        return Err(format!(
            "{package} did not build ({status}); the toolchain was {}",
            toolchain.describe()
        ));
    }
    let object = ebpf::object(&target_dir, package);
    let copy = out_dir.join(package);
    fs::copy(&object, &copy)
        .map_err(|error| format!("copy {} to {}: {error}", object.display(), copy.display()))?;
    Ok(())
}

fn variable(name: &str) -> Result<PathBuf, String> {
    env::var_os(name)
        .map(PathBuf::from)
        .ok_or_else(|| format!("run this through cargo: {name} is not set"))
}

/// `TARGET/ebpf`, a directory of its own: the outer cargo holds the lock of TARGET/PROFILE while
/// it waits for us. Every profile and package of the host shares it, since the object is the
/// same; cargo's own lock there lets one of them build and the others find it built.
fn target_dir(out_dir: &Path) -> Result<PathBuf, String> {
    // OUT_DIR is TARGET/PROFILE/build/PACKAGE-HASH/out.
    let target = out_dir
        .ancestors()
        .nth(4)
        .ok_or_else(|| format!("OUT_DIR is too short: {}", out_dir.display()))?;
    Ok(target.join("ebpf"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_shares_one_target_directory() {
        for profile in ["debug", "release"] {
            let out_dir = format!("/w/target/{profile}/build/limiter-daemon-0123/out");
            assert_eq!(
                target_dir(Path::new(&out_dir)).unwrap(),
                Path::new("/w/target/ebpf")
            );
        }
    }
}
