// SPDX-License-Identifier: MIT OR Apache-2.0

//! Makes disks and initial file systems from directories, without mounting anything.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};
use limiter_toolchain::find_program;

use super::kernel::Kernel;
use crate::{cache, packages, privilege::Privilege, process, tools};

/// The version of the root disk in the cache. It is raised when the list of packages changes.
const ROOT_LAYOUT: u32 = 1;

/// The packages of a machine in addition to those of the lab.
const ROOT_PACKAGES: [&str; 6] = [
    "iputils-ping",
    "kmod",
    "libfaketime",
    "nftables",
    "procps",
    "sqlite3",
];

/// The space on a disk, in MiB, that is added to the size of the files. The file system itself and
/// new files use it.
const ROOM: u64 = 32;

const INITRD: &str = include_str!("initrd.sh");

/// Returns the path of a disk with a Debian system of the same release as the host. The binaries
/// need the libraries of that release.
pub fn root(privilege: Privilege) -> anyhow::Result<PathBuf> {
    let release = tools::release()?;
    let version = format!("{release}-{ROOT_LAYOUT}");
    cache::entry_of_root(privilege, "machine", &version, "root.ext4", |draft| {
        fs::create_dir(draft).with_context(|| format!("make {}", draft.display()))?;
        let tree = draft.join("tree");
        let mut names: Vec<&str> = packages::of_lab().chain(ROOT_PACKAGES).collect();
        names.sort_unstable();
        names.dedup();
        process::output(
            privilege
                .command("mmdebstrap")
                .args(["--quiet", "--variant=minbase"])
                .arg("--aptopt=APT::Install-Recommends \"false\"")
                .arg(format!("--include={}", names.join(",")))
                .arg(&release)
                .arg(&tree),
        )?;
        let disk = draft.join("root.ext4");
        make(
            privilege.command("mke2fs").args(["-O", "^has_journal"]),
            "limiter-root",
            &disk,
            Some((&tree, megabytes(&mut privilege.command("du"), &tree)?)),
        )?;
        process::output(privilege.command("rm").arg("-rf").arg(&tree)).map(drop)
    })
}

/// Makes a disk with the files of a directory.
pub fn ext4(directory: &Path, label: &str, disk: &Path) -> anyhow::Result<()> {
    make(
        mke2fs()?.args(["-O", "^has_journal"]),
        label,
        disk,
        Some((directory, megabytes(&mut Command::new("du"), directory)?)),
    )
}

/// Makes an empty disk with a journal, to which a machine can write.
pub fn empty(label: &str, disk: &Path) -> anyhow::Result<()> {
    make(&mut mke2fs()?, label, disk, None)
}

fn make(
    mke2fs: &mut Command,
    label: &str,
    disk: &Path,
    filled: Option<(&Path, u64)>,
) -> anyhow::Result<()> {
    if disk.exists() {
        fs::remove_file(disk).with_context(|| format!("remove {}", disk.display()))?;
    }
    mke2fs.args(["-q", "-t", "ext4", "-m", "0", "-L", label]);
    let size = filled.map_or(0, |(directory, size)| {
        mke2fs.arg("-d").arg(directory);
        // The inodes and the directories take another twentieth of the size.
        size + size / 20
    });
    process::output(mke2fs.arg(disk).arg(format!("{}M", size + ROOM))).map(drop)
}

/// Returns a command for mke2fs. Ordinary users usually do not have the directory of mke2fs on
/// their PATH, and therefore the sbin directories are searched as well.
fn mke2fs() -> anyhow::Result<Command> {
    Ok(Command::new(
        find_program("mke2fs").context("mke2fs is not installed")?,
    ))
}

fn megabytes(du: &mut Command, directory: &Path) -> anyhow::Result<u64> {
    let output = process::output(du.args(["-s", "--block-size=1M"]).arg(directory))?;
    let number = output.split_whitespace().next();
    number
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("du printed {output:?}"))
}

/// Makes the initial file system of a kernel.
pub fn initrd(kernel: &Kernel, directory: &Path, file: &Path) -> anyhow::Result<()> {
    let modules = directory.join("modules");
    fs::create_dir_all(&modules).with_context(|| format!("make {}", modules.display()))?;
    let mut names = vec![
        "init".to_owned(),
        "busybox".to_owned(),
        "modules".to_owned(),
    ];
    let first = kernel.first_modules();
    for entry in fs::read_dir(&first).with_context(|| format!("read {}", first.display()))? {
        let entry = entry.with_context(|| format!("read {}", first.display()))?;
        let name = format!("modules/{}", entry.file_name().to_string_lossy());
        copy(&entry.path(), &directory.join(&name))?;
        names.push(name);
    }
    executable(&directory.join("init"), INITRD)?;
    let busybox = busybox()?;
    copy(&busybox, &directory.join("busybox"))?;
    let listing = directory.with_extension("list");
    fs::write(&listing, names.join("\n") + "\n")
        .with_context(|| format!("write {}", listing.display()))?;
    let open = |path: &Path| File::open(path).with_context(|| format!("open {}", path.display()));
    let made = File::create(file).with_context(|| format!("make {}", file.display()))?;
    let archived = Command::new(&busybox)
        .args(["cpio", "-o", "-H", "newc"])
        .current_dir(directory)
        .stdin(open(&listing)?)
        .stdout(made)
        // The standard error of cpio is not needed, because it contains only the number of blocks.
        .stderr(Stdio::null())
        .status()
        .context("run busybox")?;
    if !archived.success() {
        bail!("busybox cpio failed ({archived})");
    }
    Ok(())
}

/// Returns the path of the static busybox, which runs without libraries.
pub fn busybox() -> anyhow::Result<PathBuf> {
    find_program("busybox").context("busybox is not installed")
}

pub fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::copy(from, to)
        .map(drop)
        .with_context(|| format!("copy {} to {}", from.display(), to.display()))
}

/// Writes a script, and makes it executable.
pub fn executable(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(path, text)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("write {}", path.display()))
}
