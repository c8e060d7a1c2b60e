// SPDX-License-Identifier: MIT OR Apache-2.0

//! Checks who owns the directories and files that the daemon and `limiter detach` open. Without
//! these checks, a user who can replace a file with a link could make limiter open another file
//! with the rights of root, and a user who can replace a file with a pipe could make limiter wait.
//!
//! A path is followed only if no users except root and the user of this process can change the
//! directories in it. A file or a directory of another user is opened with the rights of that user
//! ([`Rights`]), or not at all.

mod rights;

use std::{
    fs::{self, Metadata},
    io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Component, Path, PathBuf},
};

use nix::unistd::{Uid, User};
use thiserror::Error;

pub use rights::{AssumedRights, Rights};

/// The maximum number of links that the kernel follows in one path (path_resolution(7)).
const MAX_LINKS: u32 = 40;
/// The permission bits that let the group and others write.
const WRITABLE: u32 = 0o022;
/// The permission bit of a directory that lets only the owner of an entry replace the entry.
const STICKY: u32 = 0o1000;

/// The reason why a path is not opened.
#[derive(Debug, Error)]
pub enum TrustError {
    /// The path contains a symbolic link that belongs to neither root nor the user of this process.
    #[error(
        "{} is a symbolic link that belongs to {}, and is not followed: remove it, or name the directory itself",
        path.display(),
        user(*owner)
    )]
    ForeignLink {
        /// The link.
        path: PathBuf,
        /// The user id of the link's owner.
        owner: u32,
    },
    /// The directory belongs to another user.
    #[error(
        "the directory {} belongs to {}, who could replace the files that {} opens in it: run limiter as that user, or give limiter a directory of its own",
        path.display(),
        user(*owner),
        user(Uid::effective().as_raw())
    )]
    ForeignDirectory {
        /// The directory.
        path: PathBuf,
        /// The user id of the directory's owner.
        owner: u32,
    },
    /// Other users can change the directory.
    #[error(
        "the directory {} has mode {mode:o}, so other users could replace the files that are opened in it: run `chmod go-w` on it",
        path.display()
    )]
    Writable {
        /// The directory.
        path: PathBuf,
        /// The permission bits of the directory.
        mode: u32,
    },
    /// The path exists, but is not a directory.
    #[error("{} is not a directory: remove it, or name another", .0.display())]
    NotDirectory(PathBuf),
    /// The path exists, but is not a regular file.
    #[error("{} is {kind} and not a regular file, so it is not opened: move it away", path.display())]
    NotFile {
        path: PathBuf,
        /// The kind of the file with an article, for example `a pipe`.
        kind: &'static str,
    },
    /// The file has more than one name.
    #[error(
        "{} is a file with {links} names (hard links), and another user may have it under one of the others: replace it with a copy",
        path.display()
    )]
    HardLinked {
        path: PathBuf,
        /// The number of the file's names.
        links: u64,
    },
    /// The file belongs to another user.
    #[error("{} belongs to {}, so it is not opened: run `chown` on it, or move it away", path.display(), user(*owner))]
    ForeignFile {
        path: PathBuf,
        /// The user id of the file's owner.
        owner: u32,
    },
    /// A system call failed.
    #[error("{}: {why}", path.display())]
    Io {
        path: PathBuf,
        /// The error of the system call. It is not a `source`, because the message already contains
        /// it, and code that prints the sources would print it twice.
        why: io::Error,
    },
}

impl TrustError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |why| Self::Io { path, why }
    }
}

/// Returns a user in the form for messages, for example `the user alice (uid 1000)`. If the user
/// has no name, only the id is given.
fn user(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => format!("the user {} (uid {uid})", user.name),
        _ => format!("the user with uid {uid}"),
    }
}

/// Returns whether `uid` is the user id of root or of this process.
fn is_trusted_owner(uid: u32) -> bool {
    uid == 0 || uid == Uid::effective().as_raw()
}

/// Checks a directory that contains the next part of a path. The directory is accepted if no other
/// user can replace that part.
///
/// # Errors
/// Returns [`TrustError::ForeignDirectory`] if the directory belongs to another user, and
/// [`TrustError::Writable`] if other users can change it.
pub fn check_above(path: &Path, metadata: &Metadata) -> Result<(), TrustError> {
    if metadata.mode() & STICKY != 0 && is_trusted_owner(metadata.uid()) {
        return Ok(());
    }
    check_private(path, metadata)
}

/// Checks a directory in which files are opened. It is accepted if no other user can replace these
/// files.
fn check_private(path: &Path, metadata: &Metadata) -> Result<(), TrustError> {
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    let path = path.to_path_buf();
    if !metadata.is_dir() {
        return Err(TrustError::NotDirectory(path));
    }
    if !is_trusted_owner(owner) {
        return Err(TrustError::ForeignDirectory { path, owner });
    }
    if mode & WRITABLE != 0 {
        return Err(TrustError::Writable { path, mode });
    }
    Ok(())
}

/// Returns `path` with all links resolved. Calls `accept` for each directory in the path, beginning
/// with the root, and stops at the first directory that is not accepted. If `accept` accepts only
/// directories that no other user can change, then no other user can make the returned path lead
/// elsewhere later. Missing parts at the end of the path are kept.
///
/// # Errors
/// Returns [`TrustError::ForeignLink`] for a link of another user, [`TrustError::NotDirectory`] if
/// a part of the path is another kind of file, the error of `accept`, or the error of a system
/// call.
pub fn resolve(
    path: &Path,
    accept: &mut dyn FnMut(&Path, &Metadata) -> Result<(), TrustError>,
) -> Result<PathBuf, TrustError> {
    let absolute = std::path::absolute(path).map_err(TrustError::io(path))?;
    let mut real = PathBuf::from("/");
    let root = fs::symlink_metadata(&real).map_err(TrustError::io(&real))?;
    accept(&real, &root)?;
    let mut rest = parts(&absolute);
    let mut links = 0;
    while let Some(part) = rest.pop() {
        if part == ".." {
            real.pop();
            continue;
        }
        let next = real.join(&part);
        let metadata = match fs::symlink_metadata(&next) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                real = next;
                continue;
            }
            Err(error) => return Err(TrustError::io(&next)(error)),
        };
        if metadata.is_symlink() {
            links += 1;
            if links > MAX_LINKS {
                let why = io::Error::from_raw_os_error(libc::ELOOP);
                return Err(TrustError::io(path)(why));
            }
            let owner = metadata.uid();
            if !is_trusted_owner(owner) {
                return Err(TrustError::ForeignLink { path: next, owner });
            }
            let target = fs::read_link(&next).map_err(TrustError::io(&next))?;
            if target.is_absolute() {
                real = PathBuf::from("/");
            }
            rest.extend(parts(&target));
        } else if metadata.is_dir() {
            accept(&next, &metadata)?;
            real = next;
        } else {
            return Err(TrustError::NotDirectory(next));
        }
    }
    Ok(real)
}

/// Returns the parts of a path in reverse order.
fn parts(path: &Path) -> Vec<std::ffi::OsString> {
    path.components()
        .rev()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir))
        .map(|part| part.as_os_str().to_owned())
        .collect()
}

/// Returns an error if `path` is a symbolic link that belongs to neither root nor the user of this
/// process.
///
/// # Errors
/// Returns [`TrustError::ForeignLink`] if `path` is such a link.
pub fn refuse_foreign_link(path: &Path) -> Result<(), TrustError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_symlink() && !is_trusted_owner(metadata.uid()) => {
            Err(TrustError::ForeignLink {
                path: path.to_path_buf(),
                owner: metadata.uid(),
            })
        }
        // Any other error is reported by the code that opens the path.
        _ => Ok(()),
    }
}

/// Returns the path of a directory with all links resolved, after checking that no other user can
/// create files in the directory. The directory may be missing.
///
/// # Errors
/// Returns an error if another user could redirect the path or create files in the directory.
pub fn private_directory(path: &Path) -> Result<PathBuf, TrustError> {
    let real = resolve(path, &mut check_above)?;
    match fs::symlink_metadata(&real) {
        Ok(metadata) => check_private(&real, &metadata)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(TrustError::io(&real)(error)),
    }
    Ok(real)
}

/// Checks a file before it is opened. Returns `None` if there is no such file. The caller must
/// ensure that only the owner of the directory can change it, because the file could otherwise be
/// replaced after the check.
///
/// # Errors
/// Returns [`TrustError::NotFile`] if the file is not a regular file, [`TrustError::HardLinked`] if
/// it has several names, [`TrustError::ForeignFile`] if it belongs to another user, or the error of
/// a system call.
pub fn check_file(path: &Path, rights: &Rights) -> Result<Option<Metadata>, TrustError> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(TrustError::io(path)(error)),
    };
    check_metadata(path, &metadata)?;
    let owner = metadata.uid();
    if owner != 0 && owner != rights.uid() {
        let path = path.to_path_buf();
        return Err(TrustError::ForeignFile { path, owner });
    }
    Ok(Some(metadata))
}

/// Checks that the file `path`, to which `metadata` belongs, is a regular file and does not have
/// more than one name.
///
/// # Errors
/// Returns [`TrustError::NotFile`] if the file is not a regular file, and
/// [`TrustError::HardLinked`] if it has more than one name.
pub fn check_metadata(path: &Path, metadata: &Metadata) -> Result<(), TrustError> {
    let path = path.to_path_buf();
    let kind = metadata.file_type();
    if !kind.is_file() {
        let kind = match kind {
            kind if kind.is_symlink() => "a symbolic link",
            kind if kind.is_dir() => "a directory",
            kind if kind.is_fifo() => "a pipe",
            kind if kind.is_socket() => "a socket",
            _ => "a device",
        };
        return Err(TrustError::NotFile { path, kind });
    }
    match metadata.nlink() {
        0 | 1 => Ok(()),
        links => Err(TrustError::HardLinked { path, links }),
    }
}

/// Removes all permissions of a file except those in `allowed`, and logs a warning if there were
/// any others.
///
/// # Errors
/// Returns the error of the system call.
pub fn restrict(path: &Path, metadata: &Metadata, allowed: u32) -> Result<(), TrustError> {
    let mode = metadata.mode() & 0o7777;
    if mode & !allowed == 0 {
        return Ok(());
    }
    log::warn!(
        "{} had mode {mode:o}, with which other users could open it; its mode is {:o} now",
        path.display(),
        mode & allowed
    );
    fs::set_permissions(path, fs::Permissions::from_mode(mode & allowed))
        .map_err(TrustError::io(path))
}

#[cfg(test)]
mod tests;
