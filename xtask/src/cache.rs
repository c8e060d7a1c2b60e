// SPDX-License-Identifier: MIT OR Apache-2.0

//! The cache of tools. It is a directory next to the kernel toolchain, and each entry is made only
//! once.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow};
use limiter_toolchain::Private;

use crate::{privilege::Privilege, process};

/// Returns the directory of the cache, which is created if it does not exist.
pub fn directory() -> anyhow::Result<PathBuf> {
    let directory = beside_the_toolchain("-tools")?;
    fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
    Ok(directory)
}

/// Returns the path of the kernel toolchain, followed by a suffix.
pub fn beside_the_toolchain(suffix: &str) -> anyhow::Result<PathBuf> {
    let private = Private::locate().map_err(|error| anyhow!(error))?;
    let mut path = private.dir().as_os_str().to_owned();
    path.push(suffix);
    Ok(PathBuf::from(path))
}

/// Waits until this process holds the lock of a file. The lock is released when the returned value
/// is dropped.
pub fn lock(path: &Path) -> anyhow::Result<File> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
    }
    let lock = File::create(path).with_context(|| format!("open {}", path.display()))?;
    lock.lock()
        .with_context(|| format!("lock {}", path.display()))?;
    Ok(lock)
}

/// Returns the path of `file` in an entry of the cache. If the entry does not exist, calls `make`
/// with the directory of the cache and the directory of the new entry. An entry is either complete
/// or absent, and only one process at a time makes entries.
pub fn entry(
    name: &str,
    version: &str,
    file: &str,
    make: impl FnOnce(&Path, &Path) -> anyhow::Result<()>,
) -> anyhow::Result<PathBuf> {
    let remove = |draft: &Path| {
        fs::remove_dir_all(draft).with_context(|| format!("remove {}", draft.display()))
    };
    entry_with(name, version, file, remove, make)
}

/// Does the same as [`entry`] for an entry whose files belong to root.
pub fn entry_of_root(
    privilege: Privilege,
    name: &str,
    version: &str,
    file: &str,
    make: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<PathBuf> {
    let remove =
        |draft: &Path| process::output(privilege.command("rm").arg("-rf").arg(draft)).map(drop);
    entry_with(name, version, file, remove, |_, draft| make(draft))
}

fn entry_with(
    name: &str,
    version: &str,
    file: &str,
    remove: impl FnOnce(&Path) -> anyhow::Result<()>,
    make: impl FnOnce(&Path, &Path) -> anyhow::Result<()>,
) -> anyhow::Result<PathBuf> {
    let cache = directory()?;
    let _lock = lock(&cache.join("lock"))?;
    let root = cache.join(format!("{name}-{version}"));
    if !root.exists() {
        eprintln!("setup: getting {name} {version}, once (it may take a minute or two)");
        let draft = cache.join(format!("{name}-draft"));
        if draft.exists() {
            remove(&draft)?;
        }
        make(&cache, &draft)?;
        fs::rename(&draft, &root).with_context(|| format!("make {}", root.display()))?;
    }
    Ok(root.join(file))
}
