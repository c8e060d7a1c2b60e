//! One daemon for each set of directories.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
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
    /// There is something else of that name.
    #[error("{} is not a directory: remove it, or name another", .0.display())]
    NotDirectory(PathBuf),
    /// It cannot be made or opened.
    #[error("{}: {why}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// What the system said; not as a source, which would be told twice.
        why: io::Error,
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
/// [`LockError::NotDirectory`], [`LockError::Io`].
pub fn make_directory(path: &Path, mode: u32) -> Result<(), LockError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|why| {
            // Perhaps it is not the last part, but one on the way.
            let file = path
                .ancestors()
                .find(|part| part.exists())
                .filter(|part| !part.is_dir());
            match file {
                Some(file) => LockError::NotDirectory(file.to_path_buf()),
                None => LockError::Io {
                    path: path.to_path_buf(),
                    why,
                },
            }
        })
}

/// The same for a directory that everybody may pass through, whatever the umask of who starts the
/// daemon; one that is there already stays as its owner has it.
///
/// # Errors
/// [`LockError::NotDirectory`], [`LockError::Io`].
pub fn make_open_directory(path: &Path) -> Result<(), LockError> {
    const MODE: u32 = 0o755;
    let is_new = !path.exists();
    make_directory(path, MODE)?;
    if is_new {
        fs::set_permissions(path, fs::Permissions::from_mode(MODE)).map_err(|why| {
            LockError::Io {
                path: path.to_path_buf(),
                why,
            }
        })?;
    }
    Ok(())
}

impl DirectoryLock {
    /// Takes the directory, by a lock on itself: that works on a BPF file system too, which
    /// holds no ordinary files.
    ///
    /// # Errors
    /// [`LockError::Held`], [`LockError::Io`].
    pub fn take(path: &Path) -> Result<Self, LockError> {
        let io_error = |why| LockError::Io {
            path: path.to_path_buf(),
            why,
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
    fn a_file_is_told_once_and_not_as_existing() {
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
        assert!(matches!(
            DirectoryLock::take(directory.path()),
            Err(LockError::Held(_))
        ));
        drop(first);
        DirectoryLock::take(directory.path()).unwrap();
    }
}
