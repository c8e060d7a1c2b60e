//! Running cargo for the kernel program with the toolchain that was found.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::Command,
};

use crate::{TARGET, Toolchain};

/// The package of the product's programs, and its binary.
pub const PACKAGE: &str = "limiter-ebpf";
/// The same of the programs that disturb the traffic of tests.
pub const DISORDER: &str = "limiter-disorder";
/// All packages that build for the kernel, and for nothing else.
pub const PACKAGES: [&str; 2] = [PACKAGE, DISORDER];
/// The profile in the workspace's Cargo.toml.
pub const PROFILE: &str = "bpf";

/// Variables of an outer cargo, rustup or clippy that would reach into this build: another
/// compiler, its wrappers and flags, and the target of the host's build.
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

/// Where the object of [`build`] is, below the target directory that it was given.
#[must_use]
pub fn object(target_dir: &Path, package: &str) -> PathBuf {
    target_dir.join(TARGET).join(PROFILE).join(package)
}

/// `cargo build` for a package of kernel programs, to be run. `deny_warnings` is for lint.
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

/// Clippy for a package of kernel programs, where the toolchain has one: another release's clippy
/// cannot read this one's `core`.
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
        // aya-ebpf and the atomics use unstable features; Debian's compilers are releases.
        command.env("RUSTC_BOOTSTRAP", "1");
    }
    command.env("CARGO_ENCODED_RUSTFLAGS", rustflags(&linker, deny_warnings));
}

/// Separated as cargo's CARGO_ENCODED_RUSTFLAGS wants it, so that paths may hold spaces.
fn rustflags(linker: &Path, deny_warnings: bool) -> OsString {
    let mut linker_flag = OsString::from("-Clinker=");
    linker_flag.push(linker);
    let mut flags = vec![
        linker_flag,
        // BTF of the maps and functions, which bpf_loop's callbacks need to load.
        "-Clink-arg=--btf".into(),
        "-Cdebuginfo=2".into(),
        // 32-bit jumps and atomics that return the old value; kernels from 5.12 on.
        "-Ctarget-cpu=v3".into(),
        // aya-ebpf picks the layout of pt_regs and the like by it.
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

/// The host's architecture in aya-ebpf's words.
fn bpf_target_arch(arch: &str) -> &str {
    if arch.starts_with("riscv64") {
        "riscv64"
    } else {
        arch
    }
}

/// The cargo that runs us, or the one on the PATH.
fn cargo() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_keep_a_path_with_spaces_in_one_piece() {
        let flags = rustflags(Path::new("/a b/bpf-linker"), false)
            .into_string()
            .unwrap();
        let flags: Vec<&str> = flags.split('\x1f').collect();
        assert_eq!(flags[0], "-Clinker=/a b/bpf-linker");
        assert!(flags.contains(&"-Clink-arg=--btf"));
        assert!(!flags.contains(&"-Dwarnings"));
    }

    #[test]
    fn the_object_is_found_where_cargo_puts_a_custom_profile() {
        assert_eq!(
            object(Path::new("/t"), PACKAGE),
            Path::new("/t/bpfel-unknown-none/bpf/limiter-ebpf")
        );
    }
}
