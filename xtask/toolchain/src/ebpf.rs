// SPDX-License-Identifier: MIT OR Apache-2.0

//! Commands that run cargo with a toolchain for the kernel programs.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::Command,
};

use crate::{TARGET, Toolchain};

/// The package of limiter's kernel programs. Its binary has the same name.
pub const PACKAGE: &str = "limiter-ebpf";
/// The package of the kernel programs that disturb the traffic of tests. Its binary has the same
/// name.
pub const DISORDER: &str = "limiter-disorder";
/// The packages that can be built only for the kernel.
pub const PACKAGES: [&str; 2] = [PACKAGE, DISORDER];
/// The profile for kernel programs in the workspace's Cargo.toml.
pub const PROFILE: &str = "bpf";

/// The environment variables that an outer cargo, rustup or clippy may have set, and that would
/// change the build of the kernel programs. They name another compiler, its wrappers and flags, and
/// the target of the host.
const OUTER: [&str; 13] = [
    "CARGO_BUILD_RUSTC",
    "CARGO_BUILD_RUSTC_WRAPPER",
    "CARGO_BUILD_RUSTC_WORKSPACE_WRAPPER",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_TARGET_DIR",
    "CLIPPY_ARGS",
    "RUSTC",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTDOC",
    "RUSTFLAGS",
];

/// Returns the path of the object that [`build`] makes in a target directory.
#[must_use]
pub fn object(target_dir: &Path, package: &str) -> PathBuf {
    target_dir.join(TARGET).join(PROFILE).join(package)
}

/// Returns the command `cargo build` for a package of kernel programs. With `deny_warnings`, a
/// warning fails the build.
#[must_use]
pub fn build(
    toolchain: &Toolchain,
    workspace: &Path,
    package: &str,
    target_dir: &Path,
    deny_warnings: bool,
) -> Command {
    let mut command = Command::new(cargo());
    if let Toolchain::Nightly(nightly) = toolchain {
        command = Command::new(&nightly.rustup);
        command.args(["run", "nightly", "cargo"]);
    }
    command.arg("build");
    prepare(
        &mut command,
        toolchain,
        workspace,
        package,
        target_dir,
        deny_warnings,
    );
    command
}

/// Returns the command `cargo clippy` for a package of kernel programs, or `None` if the toolchain
/// has no clippy. The clippy of another release cannot be used, because it could not read the
/// `core` of this toolchain.
#[must_use]
pub fn clippy(
    toolchain: &Toolchain,
    workspace: &Path,
    package: &str,
    target_dir: &Path,
) -> Option<Command> {
    let mut command = match toolchain {
        Toolchain::Private(private) => {
            let mut command = Command::new(private.cargo_clippy()?);
            command.arg("clippy").env("CARGO", cargo());
            command
        }
        Toolchain::System(system) => {
            let clippy = system.rustc.with_file_name("cargo-clippy");
            if !clippy.exists() {
                return None;
            }
            let mut command = Command::new(clippy);
            command.arg("clippy").env("CARGO", cargo());
            command
        }
        Toolchain::Nightly(nightly) => {
            let mut probe = Command::new(&nightly.rustup);
            crate::output_of(probe.args(["which", "--toolchain", "nightly", "cargo-clippy"]))?;
            let mut command = Command::new(&nightly.rustup);
            command.args(["run", "nightly", "cargo", "clippy"]);
            command
        }
    };
    prepare(
        &mut command,
        toolchain,
        workspace,
        package,
        target_dir,
        false,
    );
    command.args(["--", "-D", "warnings"]);
    Some(command)
}

fn prepare(
    command: &mut Command,
    toolchain: &Toolchain,
    workspace: &Path,
    package: &str,
    target_dir: &Path,
    deny_warnings: bool,
) {
    command
        .current_dir(workspace)
        .args([
            "--package",
            package,
            "--bin",
            package,
            "--profile",
            PROFILE,
            "--target",
            TARGET,
        ])
        .arg("--target-dir")
        .arg(target_dir);
    for name in OUTER {
        command.env_remove(name);
    }
    let linker = match toolchain {
        Toolchain::Private(private) => {
            command
                .env("RUSTC", private.rustc())
                .env("LD_LIBRARY_PATH", private.library_path());
            private.linker()
        }
        Toolchain::System(system) => {
            command.env("RUSTC", &system.rustc);
            system.linker.clone()
        }
        Toolchain::Nightly(nightly) => {
            command
                .env_remove("RUSTUP_TOOLCHAIN")
                .env_remove("CARGO")
                .args(["-Z", "build-std=core"]);
            nightly.linker.clone()
        }
    };
    if !matches!(toolchain, Toolchain::Nightly(_)) {
        // aya-ebpf and the atomics use unstable features. A stable release of Rust accepts them
        // only with this variable.
        command.env("RUSTC_BOOTSTRAP", "1");
    }
    command.env("CARGO_ENCODED_RUSTFLAGS", rustflags(&linker, deny_warnings));
}

/// Returns the flags in the format of CARGO_ENCODED_RUSTFLAGS, in which paths may contain spaces.
fn rustflags(linker: &Path, deny_warnings: bool) -> OsString {
    let mut linker_flag = OsString::from("-Clinker=");
    linker_flag.push(linker);
    let mut flags = vec![
        linker_flag,
        // The linker emits BTF for the maps and functions. Without BTF, the kernel does not load
        // programs with a callback of bpf_loop.
        "-Clink-arg=--btf".into(),
        "-Cdebuginfo=2".into(),
        // This CPU version has 32-bit jumps, and atomic operations that return the old value (Linux
        // 5.12).
        "-Ctarget-cpu=v3".into(),
        // aya-ebpf selects the layout of pt_regs by this setting.
        format!(
            "--cfg=bpf_target_arch=\"{}\"",
            bpf_target_arch(env::consts::ARCH)
        )
        .into(),
    ];
    if deny_warnings {
        flags.push("-Dwarnings".into());
    }
    flags.join(OsStr::new("\x1f"))
}

/// Returns the name that aya-ebpf uses for an architecture of Rust.
fn bpf_target_arch(arch: &str) -> &str {
    if arch.starts_with("riscv64") {
        "riscv64"
    } else {
        arch
    }
}

/// Returns the path of the cargo that started this program. If the program was started without
/// cargo, returns `cargo`, which is then looked for on the PATH.
fn cargo() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_spaces_stays_one_flag() {
        let flags = rustflags(Path::new("/a b/bpf-linker"), false)
            .into_string()
            .unwrap();
        let flags: Vec<&str> = flags.split('\x1f').collect();
        assert_eq!(flags[0], "-Clinker=/a b/bpf-linker");
        assert!(flags.contains(&"-Clink-arg=--btf"));
        assert!(!flags.contains(&"-Dwarnings"));
    }

    #[test]
    fn the_path_of_the_object_names_the_target_and_the_profile() {
        assert_eq!(
            object(Path::new("/t"), PACKAGE),
            Path::new("/t/bpfel-unknown-none/bpf/limiter-ebpf")
        );
    }
}
