//! Builds the kernel program for the tests that run it by themselves (`src/program.rs`).

use std::process::ExitCode;

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "program")]
    if let Err(message) = object::build() {
        eprintln!("{message}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

#[cfg(feature = "program")]
mod object {
    use std::{
        env, fs,
        path::{Path, PathBuf},
    };

    use limiter_toolchain::{DIR_VARIABLE, Toolchain, ebpf};

    /// What the object is made of, from the workspace's root.
    const INPUTS: [&str; 4] = ["Cargo.lock", "Cargo.toml", "limiter-common", "limiter-ebpf"];

    /// Leaves the object in OUT_DIR, under the name of its package.
    pub fn build() -> Result<(), String> {
        let variable = |name: &str| {
            let missing = format!("run this through cargo: {name} is not set");
            env::var_os(name).map(PathBuf::from).ok_or(missing)
        };
        let (out_dir, manifest_dir) = (variable("OUT_DIR")?, variable("CARGO_MANIFEST_DIR")?);
        let workspace = manifest_dir
            .parent()
            .ok_or("this package has no directory above it")?;
        for input in INPUTS {
            println!(
                "cargo::rerun-if-changed={}",
                workspace.join(input).display()
            );
        }
        println!("cargo::rerun-if-env-changed={DIR_VARIABLE}");
        let toolchain = Toolchain::detect().map_err(|missing| missing.to_string())?;
        let target_dir = target_dir(&out_dir)?;
        let mut command = ebpf::build(&toolchain, workspace, &target_dir, false);
        // Quiet: cargo shows what a build script printed only when it failed, and then the errors
        // are what matters.
        let status = command
            .arg("--quiet")
            .status()
            .map_err(|error| format!("cannot run {command:?}: {error}"))?;
        if !status.success() {
            let toolchain = toolchain.describe();
            return Err(format!(
                "the kernel program did not build ({status})\nthe toolchain was {toolchain}"
            ));
        }
        let object = ebpf::object(&target_dir);
        fs::copy(&object, out_dir.join(ebpf::PACKAGE))
            .map_err(|error| format!("copy {}: {error}", object.display()))?;
        Ok(())
    }

    /// `TARGET/ebpf`, where the build script of limiter-daemon builds the same object: whoever
    /// comes second finds it there.
    fn target_dir(out_dir: &Path) -> Result<PathBuf, String> {
        // OUT_DIR is TARGET/PROFILE/build/PACKAGE-HASH/out.
        let target = out_dir.ancestors().nth(4);
        let target =
            target.ok_or_else(|| format!("OUT_DIR is too short: {}", out_dir.display()))?;
        Ok(target.join("ebpf"))
    }
}
