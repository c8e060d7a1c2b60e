//! One daemon for each set of directories.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use thiserror::Error;

/// Why a directory cannot be had.
#[derive(Debug, Error)]
pub enum LockError {
    /// Another process holds it.
    #[error(
        "another limiter{} uses {}: stop it first, or give this one directories of its own (--state-dir, --runtime-dir, --pin-dir)",
        holder.map_or_else(String::new, |pid| format!(" (pid {pid})")),
        path.display()
    )]
    Held {
        /// The path.
        path: PathBuf,
        /// Which one, if the kernel says so.
        holder: Option<u32>,
    },
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
            Err(fs::TryLockError::WouldBlock) => Err(LockError::Held {
                path: path.to_path_buf(),
                holder: holder(&directory),
            }),
            Err(fs::TryLockError::Error(source)) => Err(io_error(source)),
        }
    }
}

/// Looks for the holder of a lock.
const LOOKS: u32 = 8;

/// The process that holds a lock on the file, as `/proc/locks` (proc_locks(5)) has it. That tells
/// nothing of processes that this one may not see, nor where stat(2) has another device than the file system.
fn holder(file: &File) -> Option<u32> {
    let metadata = file.metadata().ok()?;
    let device = metadata.dev();
    let (major, minor) = (libc::major(device), libc::minor(device));
    let wanted = format!("{major:02x}:{minor:02x}:{}", metadata.ino());
    // The list is read in pieces, and others come and go meanwhile.
    (0..LOOKS).find_map(|_| listed_holder(&wanted))
}

/// The process that `/proc/locks` has for `wanted`.
fn listed_holder(wanted: &str) -> Option<u32> {
    let locks = fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        // Number, kind, whether it binds, for what, process, file.
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
        let error = DirectoryLock::take(directory.path()).unwrap_err();
        let LockError::Held { path, holder } = &error else {
            panic!("{error}");
        };
        assert_eq!(path, directory.path());
        assert_eq!(*holder, Some(std::process::id()));
        let told = format!(
            "limiter (pid {}) uses {}",
            std::process::id(),
            path.display()
        );
        assert!(error.to_string().contains(&told), "{error}");
        drop(first);
        DirectoryLock::take(directory.path()).unwrap();
    }
}
