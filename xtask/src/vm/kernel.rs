// SPDX-License-Identifier: MIT OR Apache-2.0

//! The kernels that the machines boot. They come from Debian or from a given package.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};

use super::image;
use crate::{cache, debian, process};

/// The kernel series that are tested: the oldest supported series, which has no TCX, and a series
/// with TCX.
pub const SERIES: [&str; 2] = ["6.1", "6.12"];

/// The version of the files in the cache. It is raised when this program begins to make different
/// files from a kernel package.
const LAYOUT: u32 = 2;

/// The name of the file that contains the release of the kernel, as `uname -r` prints it.
const RELEASE: &str = "release";

/// The modules that are needed to mount the root disk. Some kernels have some of these modules
/// built in.
const DISK_MODULES: [&str; 3] = ["virtio_pci", "virtio_blk", "ext4"];

/// A kernel that has been unpacked from its package.
#[derive(Debug)]
pub struct Kernel {
    /// The name of the package for messages.
    pub name: String,
    /// The output of `uname -r`.
    pub release: String,
    directory: PathBuf,
}

impl Kernel {
    /// Returns the newest kernel of a series in apt's package lists. Downloads it if it is not in
    /// the cache.
    pub fn of_series(series: &str) -> anyhow::Result<Self> {
        // This directory, which may contain package lists, is removed at the end. Therefore the
        // next run does not use outdated lists.
        let state = cache::directory()?.join("apt");
        let found = debian::with_apt(&state, |apt| {
            // The name of the package does not contain the series if the series is the one of the
            // Debian release itself.
            let named = format!("linux-image-{series}-cloud-amd64");
            let newest = [named.as_str(), "linux-image-cloud-amd64"]
                .into_iter()
                .filter_map(|name| apt.simulate(&[name]).ok())
                .flatten()
                .find(|package| is_kernel(&package.name, series))
                .with_context(|| format!("apt has no cloud kernel of Linux {series}"))?;
            let version = format!("{}-{LAYOUT}", newest.version);
            let directory = cache::entry(&newest.name, &version, "", |_, directory| {
                fs::create_dir(directory)
                    .with_context(|| format!("make {}", directory.display()))?;
                apt.download(std::slice::from_ref(&newest), directory)?;
                let deb = the_one(directory, "")?;
                extract_package(&deb, directory)?;
                fs::remove_file(&deb).with_context(|| format!("remove {}", deb.display()))
            })?;
            Ok(Self {
                name: format!("{} {}", newest.name, newest.version),
                release: release(&directory)?,
                directory,
            })
        });
        if state.exists() {
            fs::remove_dir_all(&state).with_context(|| format!("remove {}", state.display()))?;
        }
        found
    }

    /// Returns the kernel of a package file. The files of the kernel are written to `directory`,
    /// which is emptied first.
    pub fn of_file(deb: &Path, directory: &Path) -> anyhow::Result<Self> {
        if directory.exists() {
            fs::remove_dir_all(directory)
                .with_context(|| format!("remove {}", directory.display()))?;
        }
        fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
        extract_package(deb, directory)?;
        let name = deb.file_name().unwrap_or_default();
        Ok(Self {
            name: name.to_string_lossy().into_owned(),
            release: release(directory)?,
            directory: directory.to_owned(),
        })
    }

    pub fn image(&self) -> PathBuf {
        self.directory.join("vmlinuz")
    }

    /// Returns the path of the disk with all modules.
    pub fn modules(&self) -> PathBuf {
        self.directory.join("modules.ext4")
    }

    /// Returns the directory of the modules that are needed to mount the root disk. The machine
    /// loads them in alphabetical order, in which each module comes after its dependencies.
    pub fn first_modules(&self) -> PathBuf {
        self.directory.join("first")
    }
}

/// Returns whether a package name is that of a kernel, like `linux-image-6.1.0-56-cloud-amd64`.
fn is_kernel(package: &str, series: &str) -> bool {
    package
        .strip_prefix("linux-image-")
        .and_then(|rest| rest.strip_prefix(series))
        .is_some_and(|rest| rest.starts_with('.') && rest.ends_with("-cloud-amd64"))
}

fn extract_package(deb: &Path, directory: &Path) -> anyhow::Result<()> {
    let tree = directory.join("tree");
    process::output(Command::new("dpkg").arg("--extract").arg(deb).arg(&tree))?;
    let image = the_one(&tree.join("boot"), "vmlinuz-")?;
    let release = image
        .file_name()
        .and_then(OsStr::to_str)
        .and_then(|name| name.strip_prefix("vmlinuz-"))
        .context("the kernel's name")?;
    let base = [tree.clone(), tree.join("usr")]
        .into_iter()
        .find(|base| base.join("lib/modules").join(release).is_dir())
        .with_context(|| format!("{} holds no modules", deb.display()))?;
    process::output(
        Command::new("depmod")
            .arg("--basedir")
            .arg(&base)
            .arg(release),
    )?;
    let modules = base.join("lib/modules").join(release);
    let first = directory.join("first");
    fs::create_dir(&first).with_context(|| format!("make {}", first.display()))?;
    let listing = modules.join("modules.dep");
    let listing =
        fs::read_to_string(&listing).with_context(|| format!("read {}", listing.display()))?;
    for (number, path) in in_order(&listing, &DISK_MODULES).into_iter().enumerate() {
        unpack(&modules.join(path), &first.join(format!("{number:02}.ko")))?;
    }
    image::ext4(
        &base.join("lib/modules"),
        "limiter-modules",
        &directory.join("modules.ext4"),
    )?;
    let named = directory.join(RELEASE);
    fs::write(&named, release).with_context(|| format!("write {}", named.display()))?;
    let kept = directory.join("vmlinuz");
    fs::rename(&image, &kept).with_context(|| format!("make {}", kept.display()))?;
    fs::remove_dir_all(&tree).with_context(|| format!("remove {}", tree.display()))
}

fn release(directory: &Path) -> anyhow::Result<String> {
    let path = directory.join(RELEASE);
    fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

/// Returns the path of the only file in a directory whose name begins with the prefix.
fn the_one(directory: &Path, prefix: &str) -> anyhow::Result<PathBuf> {
    let shown = directory.display();
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| format!("read {shown}"))? {
        let path = entry.with_context(|| format!("read {shown}"))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_file() && name.starts_with(prefix) {
            found.push(path);
        }
    }
    match <[PathBuf; 1]>::try_from(found) {
        Ok([one]) => Ok(one),
        Err(found) => bail!("{shown} holds {} files {prefix}*, not one", found.len()),
    }
}

/// Returns the paths of the modules `wanted` and of their dependencies. Each module comes after its
/// dependencies. `listing` contains the modules.dep file that depmod has written (modules.dep(5)).
/// Each line of this file has the form `PATH: DEPENDENCY...`, with the deepest dependency last.
fn in_order<'a>(listing: &'a str, wanted: &[&str]) -> Vec<&'a str> {
    let mut order = Vec::new();
    for name in wanted {
        let line = listing.lines().find_map(|line| {
            let (path, needed) = line.split_once(':')?;
            (module_name(path) == *name).then_some((path, needed))
        });
        let Some((path, needed)) = line else {
            continue;
        };
        for path in needed.split_whitespace().rev().chain([path]) {
            if !order.contains(&path) {
                order.push(path);
            }
        }
    }
    order
}

fn module_name(path: &str) -> &str {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file)
}

/// Writes an uncompressed copy of a module to `to`, because the machine loads modules in that form.
fn unpack(from: &Path, to: &Path) -> anyhow::Result<()> {
    let program = match from.extension().and_then(OsStr::to_str) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => {
            return fs::copy(from, to)
                .map(drop)
                .with_context(|| format!("copy {}", from.display()));
        }
    };
    let file = fs::File::create(to).with_context(|| format!("make {}", to.display()))?;
    process::run(
        Command::new(program)
            .args(["--decompress", "--stdout"])
            .arg(from)
            .stdout(file),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_of_a_series_are_recognized_by_their_package() {
        for name in [
            "linux-image-6.1.0-56-cloud-amd64",
            "linux-image-6.1.192-cloud-amd64",
        ] {
            assert!(is_kernel(name, "6.1"), "{name}");
        }
        for name in [
            "linux-image-6.12.117+deb12-cloud-amd64",
            "linux-image-6.1.0-56-amd64",
            "linux-image-cloud-amd64",
            "linux-image-6.1-cloud-amd64",
        ] {
            assert!(!is_kernel(name, "6.1"), "{name}");
        }
    }

    #[test]
    fn each_module_comes_once_and_after_its_dependencies() {
        let listing = "kernel/a/virtio.ko:\n\
                       kernel/a/virtio_ring.ko.xz: kernel/a/virtio.ko\n\
                       kernel/b/virtio_blk.ko.xz: kernel/a/virtio_ring.ko.xz kernel/a/virtio.ko\n\
                       kernel/b/virtio_pci.ko: kernel/a/virtio_ring.ko.xz kernel/a/virtio.ko\n";
        assert_eq!(
            in_order(listing, &["virtio_pci", "virtio_blk", "ext4"]),
            [
                "kernel/a/virtio.ko",
                "kernel/a/virtio_ring.ko.xz",
                "kernel/b/virtio_pci.ko",
                "kernel/b/virtio_blk.ko.xz"
            ]
        );
    }
}
