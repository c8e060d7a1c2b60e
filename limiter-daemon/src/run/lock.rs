// SPDX-License-Identifier: MIT OR Apache-2.0

//! Locks on directories. Only one daemon at a time can use a directory.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
    },
    path::{Path, PathBuf},
};

use thiserror::Error;

use crate::files::{self, TrustError};

/// The reason why a directory cannot be used.
#[derive(Debug, Error)]
pub enum LockError {
    /// Another process holds the lock on the directory.
    #[error(
        "another limiter{} uses {}: stop it first, or give this one directories of its own (--state-dir, --runtime-dir, --pin-dir)",
        holder.map_or_else(String::new, |pid| format!(" (pid {pid})")),
        path.display()
    )]
    Held {
        /// The path of the directory.
        path: PathBuf,
        /// The id of the process, if the kernel reports it.
        holder: Option<u32>,
    },
    /// Another user could change files in the directory, or the path is not a directory.
    #[error(transparent)]
    Untrusted(#[from] TrustError),
    /// The directory cannot be created or opened.
    #[error("{}: {why}", path.display())]
    Io {
        /// The path of the directory.
        path: PathBuf,
        /// The error of the system call. It is not a `source`, because the message already contains
        /// it, and code that prints the sources would print it twice.
        why: io::Error,
    },
}

/// The lock on a directory. The lock is released when this value is dropped or the process ends.
#[derive(Debug)]
pub struct DirectoryLock {
    /// The open directory. The flock(2) lock lasts as long as this descriptor.
    _directory: File,
}

/// Creates `path` and its missing parents with the mode `mode`, and returns the path with all
/// symbolic links resolved.
///
/// # Errors
/// Returns [`LockError::Untrusted`] if another user can change files in the directory or above it,
/// and [`LockError::Io`] if the directory cannot be created.
pub fn make_directory(path: &Path, mode: u32) -> Result<PathBuf, LockError> {
    let path = files::private_directory(path)?;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(&path)
        .map_err(|why| LockError::Io {
            path: path.clone(),
            why,
        })?;
    // The check is repeated, because `mode` and the umask may let other users write to the new
    // directory.
    Ok(files::private_directory(&path)?)
}

/// Creates a directory that all users may pass through, whatever the umask is, and returns its path
/// as [`make_directory`] does. An existing directory keeps its mode.
///
/// # Errors
/// Returns the errors of [`make_directory`], and [`LockError::Io`] if the mode cannot be set.
pub fn make_open_directory(path: &Path) -> Result<PathBuf, LockError> {
    const MODE: u32 = 0o755;
    let is_new = !path.exists();
    let path = make_directory(path, MODE)?;
    if is_new {
        fs::set_permissions(&path, fs::Permissions::from_mode(MODE)).map_err(|why| {
            LockError::Io {
                path: path.clone(),
                why,
            }
        })?;
    }
    Ok(path)
}

/// Returns the path of a socket with the symbolic links of its directory resolved. Creates the
/// directory if it is missing, and checks that no other user can replace the socket in it.
///
/// # Errors
/// Returns [`LockError::Untrusted`] if another user can change the directory or one above it, and
/// [`LockError::Io`] if the directory cannot be created.
pub fn place_of_socket(socket: &Path) -> Result<PathBuf, LockError> {
    let (Some(parent), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Ok(socket.to_path_buf());
    };
    // The parent of a path like `limiter.sock` is empty.
    let parent = if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    };
    let parent = if parent.exists() {
        files::resolve(parent, &mut files::check_above)?
    } else {
        make_open_directory(parent)?
    };
    Ok(parent.join(name))
}

impl DirectoryLock {
    /// Locks the directory `path` itself rather than a file in it, because a BPF file system holds
    /// no ordinary files.
    ///
    /// # Errors
    /// Returns [`LockError::Held`] if another process holds the lock, and [`LockError::Io`] if the
    /// directory cannot be opened or locked.
    pub fn take(path: &Path) -> Result<Self, LockError> {
        let io_error = |why| LockError::Io {
            path: path.to_path_buf(),
            why,
        };
        // The path is opened only if it is a directory, because opening a pipe would wait for a
        // writer.
        let opened = File::options()
            .read(true)
            .custom_flags(libc::O_DIRECTORY)
            .open(path);
        let directory = opened.map_err(io_error)?;
        match directory.try_lock() {
            Ok(()) => Ok(Self {
                _directory: directory,
            }),
            Err(fs::TryLockError::WouldBlock) => Err(LockError::Held {
                path: path.to_path_buf(),
                holder: holder(&directory),
            }),
            Err(fs::TryLockError::Error(source)) => Err(io_error(source)),
        }
    }
}

impl DirectoryLock {
    /// Returns the id of the process that holds the lock, if there is one and the kernel reports
    /// it.
    pub fn holder(path: &Path) -> Option<u32> {
        match Self::take(path) {
            Err(LockError::Held { holder, .. }) => holder,
            Ok(_) | Err(_) => None,
        }
    }
}

/// The maximum number of times that the list of locks is read.
const READS: u32 = 8;

/// Returns the id of the process that holds a lock on the file, as listed in `/proc/locks`
/// (proc_locks(5)). Returns `None` if the process is not visible to this process, or if the device
/// that stat(2) reports for the file is not the device of the file system.
fn holder(file: &File) -> Option<u32> {
    let metadata = file.metadata().ok()?;
    let device = metadata.dev();
    let (major, minor) = (libc::major(device), libc::minor(device));
    let wanted = format!("{major:02x}:{minor:02x}:{}", metadata.ino());
    // The list is read several times, because the kernel returns it in pieces, and a lock can be
    // missing if other locks are taken or released between two pieces.
    (0..READS).find_map(|_| listed_holder(&wanted))
}

/// Returns the id of the process that `/proc/locks` lists for the file `wanted`.
fn listed_holder(wanted: &str) -> Option<u32> {
    let locks = fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        // A line consists of the number, the kind, `ADVISORY` or `MANDATORY`, the access, the
        // process and the file.
        let mut words = line.split_ascii_whitespace().skip(1);
        let kind = words.next()?;
        let (pid, file) = (words.nth(2)?, words.next()?);
        let pid = pid.parse().ok().filter(|pid| *pid > 0)?;
        (kind == "FLOCK" && file == wanted).then_some(pid)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_in_place_of_a_directory_is_reported_once() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("f");
        fs::write(&file, "").unwrap();
        for path in [file.clone(), file.join("below")] {
            let error = anyhow::Error::from(make_directory(&path, 0o700).unwrap_err());
            let wanted = format!(
                "{} is not a directory: remove it, or name another",
                file.display()
            );
            assert_eq!(format!("{error:#}"), wanted);
        }
        let missing = directory.path().join("missing");
        let error = anyhow::Error::from(DirectoryLock::take(&missing).unwrap_err());
        assert_eq!(format!("{error:#}").matches("os error").count(), 1);
    }

    #[test]
    fn a_directory_is_held_once_and_free_afterwards() {
        let directory = tempfile::tempdir().unwrap();
        let first = DirectoryLock::take(directory.path()).unwrap();
        let error = DirectoryLock::take(directory.path()).unwrap_err();
        let LockError::Held { path, holder } = &error else {
            panic!("{error}");
        };
        assert_eq!(path, directory.path());
        assert_eq!(*holder, Some(std::process::id()));
        let message = format!(
            "limiter (pid {}) uses {}",
            std::process::id(),
            path.display()
        );
        assert!(error.to_string().contains(&message), "{error}");
        drop(first);
        DirectoryLock::take(directory.path()).unwrap();
    }
}
