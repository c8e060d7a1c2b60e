//! One daemon for each set of directories.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use thiserror::Error;

/// Why a directory cannot be had.
#[derive(Debug, Error)]
pub enum LockError {
    /// Another process holds it.
    #[error(
        "another limiter uses {}: stop it first, or give this one directories of its own (--state-dir, --runtime-dir, --pin-dir)",
        .0.display()
    )]
    Held(PathBuf),
    /// It cannot be made or opened.
    #[error("{}: {source}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A directory that is ours until this is dropped, or the process ends however.
#[derive(Debug)]
pub struct DirectoryLock {
    /// flock(2) holds as long as the descriptor lives.
    _held: File,
}

/// Makes `path` and its parents where they are missing, readable by others only by `mode`.
///
/// # Errors
/// [`LockError::Io`].
pub fn make_directory(path: &Path, mode: u32) -> Result<(), LockError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|source| LockError::Io {
            path: path.to_path_buf(),
            source,
        })
}

impl DirectoryLock {
    /// Takes the directory, by a lock on itself: that works on a BPF file system too, which
    /// holds no ordinary files.
    ///
    /// # Errors
    /// [`LockError::Held`], [`LockError::Io`].
    pub fn take(path: &Path) -> Result<Self, LockError> {
        let io_error = |source| LockError::Io {
            path: path.to_path_buf(),
            source,
        };
        let directory = File::open(path).map_err(io_error)?;
        match directory.try_lock() {
            Ok(()) => Ok(Self { _held: directory }),
            Err(fs::TryLockError::WouldBlock) => Err(LockError::Held(path.to_path_buf())),
            Err(fs::TryLockError::Error(source)) => Err(io_error(source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_held_once_and_free_afterwards() {
        let directory = tempfile::tempdir().unwrap();
        let first = DirectoryLock::take(directory.path()).unwrap();
        assert!(matches!(
            DirectoryLock::take(directory.path()),
            Err(LockError::Held(_))
        ));
        drop(first);
        DirectoryLock::take(directory.path()).unwrap();
    }
}
