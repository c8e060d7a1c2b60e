//! What packaging and its tests need and no package of the system is: made once, kept in the cache.

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;

use crate::{cache, context, privilege::Privilege, process};

const CARGO_DEB_VERSION: &str = "3.8.0";

/// Raised whenever something else is to be in the root.
const ROOT_LAYOUT: u32 = 1;

/// What is in the Debian root besides the essential packages: what the package depends on, and what
/// makes use of it.
const ROOT_PACKAGES: [&str; 7] = [
    "bash-completion",
    "fish",
    "iproute2",
    "man-db",
    "systemd",
    "systemd-sysv",
    "zsh",
];

/// Held while something is made, by one process at a time.
fn lock(cache: &Path) -> anyhow::Result<File> {
    let path = cache.join("lock");
    let lock = File::create(&path).with_context(|| format!("open {}", path.display()))?;
    lock.lock()
        .with_context(|| format!("lock {}", path.display()))?;
    Ok(lock)
}

/// The directory of cargo-deb, which is installed if it is not there.
pub fn cargo_deb() -> anyhow::Result<PathBuf> {
    let cache = cache::directory()?;
    let root = cache.join(format!("cargo-deb-{CARGO_DEB_VERSION}"));
    let bin = root.join("bin");
    let _held = lock(&cache)?;
    // cargo puts it there when it is built.
    if !bin.join("cargo-deb").exists() {
        eprintln!("package: building cargo-deb {CARGO_DEB_VERSION}, once (a minute or two)");
        let build = cache.join("build");
        process::output(
            Command::new(context::cargo())
                .current_dir(&cache)
                .args(["install", "--quiet", "--locked", "--no-default-features"])
                .args(["--features", "lzma", "--version", CARGO_DEB_VERSION])
                .arg("--root")
                .arg(&root)
                .arg("cargo-deb")
                .env("CARGO_TARGET_DIR", &build),
        )?;
        fs::remove_dir_all(&build).with_context(|| format!("remove {}", build.display()))?;
    }
    Ok(bin)
}

/// `PATH` with `directory` before all others.
pub fn path_with(directory: &Path) -> anyhow::Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let all = std::iter::once(directory.to_owned()).chain(env::split_paths(&path));
    env::join_paths(all).context("a directory's name for the PATH")
}

/// The directory with a clean Debian of this machine's release, for tests to put theirs over.
pub fn debian_root(privilege: Privilege) -> anyhow::Result<PathBuf> {
    let cache = cache::directory()?;
    let release = release()?;
    let root = cache.join(format!("{release}-{ROOT_LAYOUT}"));
    let _held = lock(&cache)?;
    if !root.exists() {
        eprintln!("package: fetching a clean {release}, once (half a minute)");
        // There as a whole or not at all.
        let draft = cache.join("draft");
        process::output(privilege.command("rm").arg("-rf").arg(&draft))?;
        process::output(
            privilege
                .command("mmdebstrap")
                .args(["--quiet", "--variant=minbase"])
                .arg(format!("--include={}", ROOT_PACKAGES.join(",")))
                .arg(&release)
                .arg(&draft),
        )?;
        process::output(privilege.command("mv").args([&draft, &root]))?;
    }
    Ok(root)
}

/// The code name of the release that runs here, on whose libraries the binary depends (os-release(5)).
pub fn release() -> anyhow::Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
    text.lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(|name| name.trim_matches('"').to_owned())
        .context("/etc/os-release names no release to make a root of")
}
