//! Kernels to boot: Debian's own, or any package that holds one.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};

use super::image;
use crate::{cache, debian, process};

/// The series that everything has to run on: the oldest that is supported, which knows no TCX, and
/// one that does.
pub const SERIES: [&str; 2] = ["6.1", "6.12"];

/// Raised whenever something else is made of a kernel's package.
const LAYOUT: u32 = 2;

/// The file with a kernel's release.
const RELEASE: &str = "release";

/// What it takes to reach the root disk. Those that a kernel has built in are no modules of it.
const TO_THE_DISK: [&str; 3] = ["virtio_pci", "virtio_blk", "ext4"];

/// A kernel, taken out of its package.
#[derive(Debug)]
pub struct Kernel {
    /// The package, for people.
    pub name: String,
    /// What `uname -r` says of it.
    pub release: String,
    directory: PathBuf,
}

impl Kernel {
    /// The newest of a series that apt has, fetched if it is not in the cache.
    pub fn of_series(series: &str) -> anyhow::Result<Self> {
        // Its state is of no use to the next run: then other lists may be there.
        let state = cache::directory()?.join("apt");
        let found = debian::with_apt(&state, |apt| {
            // The series of the release has no package of its own that leads to the newest.
            let named = format!("linux-image-{series}-cloud-amd64");
            let newest = [named.as_str(), "linux-image-cloud-amd64"]
                .into_iter()
                .filter_map(|name| apt.simulate(&[name]).ok())
                .flatten()
                .find(|package| is_kernel(&package.name, series))
                .with_context(|| format!("apt has no cloud kernel of Linux {series}"))?;
            let version = format!("{}-{LAYOUT}", newest.version);
            let directory =
                cache::installed(&newest.name, &version, Path::new(""), |_, directory| {
                    fs::create_dir(directory)
                        .with_context(|| format!("make {}", directory.display()))?;
                    apt.download(std::slice::from_ref(&newest), directory)?;
                    let deb = the_one(directory, "")?;
                    take_apart(&deb, directory)?;
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

    /// That of a package in a file; made anew in `directory`.
    pub fn of_file(deb: &Path, directory: &Path) -> anyhow::Result<Self> {
        if directory.exists() {
            fs::remove_dir_all(directory)
                .with_context(|| format!("remove {}", directory.display()))?;
        }
        fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
        take_apart(deb, directory)?;
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

    /// A disk with all of its modules.
    pub fn modules(&self) -> PathBuf {
        self.directory.join("modules.ext4")
    }

    /// A directory with the modules that it takes to reach a disk, in the order of their names.
    pub fn first_modules(&self) -> PathBuf {
        self.directory.join("first")
    }
}

/// `linux-image-6.1.0-56-cloud-amd64`
fn is_kernel(package: &str, series: &str) -> bool {
    package
        .strip_prefix("linux-image-")
        .and_then(|rest| rest.strip_prefix(series))
        .is_some_and(|rest| rest.starts_with('.') && rest.ends_with("-cloud-amd64"))
}

fn take_apart(deb: &Path, directory: &Path) -> anyhow::Result<()> {
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
    for (number, path) in in_order(&listing, &TO_THE_DISK).into_iter().enumerate() {
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

/// The only file of a directory whose name begins so.
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

/// Paths of modules and of what they depend on, each after its own dependencies, out of depmod's list
/// (modules.dep(5)): `PATH: NEEDED...`, the deepest last.
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

/// Leaves a module at `to` as the kernel takes it by itself.
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
    fn a_kernel_is_told_from_others_and_from_what_is_no_kernel() {
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
    fn modules_come_after_what_they_need_and_once() {
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
