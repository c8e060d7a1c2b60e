// SPDX-License-Identifier: MIT OR Apache-2.0

//! Protects root from the owner of the pin directory if the previous daemon did not run as root.
//!
//! The owner of a directory can put links into it, and can replace a file after root has checked
//! it. The owner could thereby make root open or remove a file elsewhere. Therefore root takes
//! ownership of another user's pin directory and all directories in it, beginning with the
//! outermost, before it reads their contents. At the end root gives the directory, if it still
//! exists, back to its former owner.

use std::{
    fs::{self, Metadata},
    io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown},
    path::{Path, PathBuf},
};

use nix::unistd::Uid;

use super::{
    KernelError,
    detach::is_layout,
    directory::list,
    error::io_error,
    growth::IDENTITY,
    pins::{LINKS, PinDirectory, is_bpffs},
};
use crate::files::{self, TrustError};

/// The mode of a directory while root owns it.
const MODE: u32 = 0o700;

/// Holds root's ownership of a pin directory. Dropping this guard gives the directory back to its
/// former owner.
#[derive(Debug, Default)]
pub struct OwnershipGuard {
    /// The directories that belonged to another user, with the outermost first, each with its
    /// former metadata.
    taken: Vec<(PathBuf, Metadata)>,
}

impl PinDirectory {
    /// Takes ownership of the directory if this process is root, and removes links that other users
    /// have put into it. Call this function after the directory is locked, and before anything in
    /// the directory is read.
    ///
    /// # Errors
    /// Returns [`KernelError::Untrusted`] if a part of the path is neither safe nor on a BPF file
    /// system, and [`KernelError::Io`] if a file operation fails.
    pub fn seize(&self) -> Result<OwnershipGuard, KernelError> {
        let mut guard = OwnershipGuard::default();
        if !Uid::effective().is_root() {
            return Ok(guard);
        }
        let root = files::resolve(
            self.root(),
            &mut |directory, metadata| match files::check_above(directory, metadata) {
                Err(_) if matches!(is_bpffs(directory), Ok(true)) => {
                    guard.take(directory, metadata)
                }
                checked => checked,
            },
        )?;
        for directory in list(&root)? {
            let name = directory.file_name().and_then(|name| name.to_str());
            let Some(name) = name.filter(|name| is_layout(name) || *name == LINKS) else {
                continue;
            };
            let metadata =
                fs::symlink_metadata(&directory).map_err(io_error("read", &directory))?;
            if !metadata.is_dir() {
                remove(&directory)?;
                continue;
            }
            if files::check_above(&directory, &metadata).is_err() {
                guard.take(&directory, &metadata)?;
            }
            for pin in list(&directory)? {
                let metadata = fs::symlink_metadata(&pin).map_err(io_error("read", &pin))?;
                let is_identity = name != LINKS && pin.ends_with(IDENTITY);
                if metadata.is_symlink() && !is_identity {
                    remove(&pin)?;
                }
            }
        }
        Ok(guard)
    }
}

impl OwnershipGuard {
    fn take(&mut self, directory: &Path, metadata: &Metadata) -> Result<(), TrustError> {
        let taken = lchown(directory, Some(0), Some(0))
            .and_then(|()| fs::set_permissions(directory, fs::Permissions::from_mode(MODE)));
        taken.map_err(|why| TrustError::Io {
            path: directory.to_path_buf(),
            why,
        })?;
        self.taken.push((directory.to_path_buf(), metadata.clone()));
        Ok(())
    }

    /// Leaves root as the owner of the directories.
    pub fn commit(mut self) {
        self.taken.clear();
    }
}

impl Drop for OwnershipGuard {
    fn drop(&mut self) {
        // The outermost directory is given back last, because until then other users have no access
        // to the directories inside it.
        for (directory, was) in self.taken.iter().rev() {
            if let Err(error) = give_back(directory, was) {
                log::error!(
                    "cannot return {} to its owner, so it still belongs to root: {error}",
                    directory.display()
                );
            }
        }
    }
}

/// Gives a directory back to its former owner, together with everything that root has created in
/// it.
fn give_back(directory: &Path, was: &Metadata) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        let metadata = fs::symlink_metadata(&path)?;
        if metadata.uid() != 0 {
            continue;
        }
        if metadata.is_dir() {
            give_back(&path, was)?;
        } else {
            lchown(&path, Some(was.uid()), Some(was.gid()))?;
        }
    }
    fs::set_permissions(directory, fs::Permissions::from_mode(was.mode() & 0o7777))?;
    lchown(directory, Some(was.uid()), Some(was.gid()))
}

/// Removes a file that is in the place of a pin. If it is a link, its target is not touched.
fn remove(path: &Path) -> Result<(), KernelError> {
    log::warn!("removed {}, which is not a pin of limiter", path.display());
    fs::remove_file(path).map_err(io_error("remove", path))
}
