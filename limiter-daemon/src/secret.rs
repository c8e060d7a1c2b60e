// SPDX-License-Identifier: MIT OR Apache-2.0

//! The secret of this installation, which is the key of the hash that turns raw keys into digests.

use std::{
    fs, io,
    io::{Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use nix::unistd::Uid;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::{
    domain::plain::counted,
    files::{self, TrustError},
};

/// The name of the file in the state directory.
const FILE: &str = "hash.key";
/// The size of the secret in bytes. SipHash takes a key of 128 bits.
const BYTES: usize = 16;

/// The reason why the secret cannot be used.
#[derive(Debug, Error)]
pub enum SecretError {
    /// A file operation failed.
    #[error("the hash secret {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
    /// The size of the file is not 16 bytes.
    #[error("the hash secret {} has {len} bytes instead of {BYTES}: restore it from a backup", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The size of the file in bytes.
        len: usize,
    },
    /// The path is not a regular file, or the file has more than one name.
    #[error("the hash secret: {0}")]
    Untrusted(#[from] TrustError),
    /// Other users can read the file.
    #[error("the hash secret {} has mode {mode:o}, with which other users may read it: run `chmod 600` on it", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// The permission bits of the file.
        mode: u32,
    },
    /// The file belongs to another user.
    #[error("the hash secret {} belongs to the user with uid {owner}, who may read it: run `chown root` on it", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The user id of the file's owner.
        owner: u32,
    },
    /// The file is missing, although the store has keys that were hashed with its secret.
    #[error(
        "the hash secret {} is missing, but the store has {} that would not work with a new secret: restore the file from a backup, or move the store away and import the keys again",
        path.display(),
        counted(keys, "key")
    )]
    Lost {
        /// The file.
        path: PathBuf,
        /// The number of keys in the store.
        keys: u64,
    },
    /// The system returned no random bytes.
    #[error("cannot make the hash secret: {0}")]
    Randomness(#[from] getrandom::Error),
}

/// The two halves of the SipHash key.
pub type Secret = Zeroizing<[u64; 2]>;

/// Returns the secret in `directory`. If the file is missing and `keys` is 0, a new secret is
/// created.
///
/// # Errors
/// Returns an error if the secret cannot be read, trusted or created.
pub fn load_or_create(directory: &Path, keys: u64) -> Result<Secret, SecretError> {
    let path = directory.join(FILE);
    let io_error = |source| SecretError::Io {
        path: path.clone(),
        source,
    };
    let (bytes, metadata) = match read(&path) {
        Ok(read) => read,
        // With O_NOFOLLOW, open(2) fails with ELOOP if the last part of the path is a symbolic
        // link.
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
            let (path, kind) = (path, "a symbolic link");
            return Err(TrustError::NotFile { path, kind }.into());
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && keys == 0 => {
            return create(directory, &path);
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(SecretError::Lost { path, keys });
        }
        Err(error) => return Err(io_error(error)),
    };
    files::check_metadata(&path, &metadata)?;
    let (mode, owner) = (metadata.mode() & 0o777, metadata.uid());
    if owner != 0 && owner != Uid::effective().as_raw() {
        return Err(SecretError::Foreign { path, owner });
    }
    if mode & 0o077 != 0 {
        return Err(SecretError::Exposed { path, mode });
    }
    halves(&bytes).ok_or(SecretError::Damaged {
        path,
        len: bytes.len(),
    })
}

/// Reads the file without following a symbolic link, and without waiting for the writer of a pipe.
fn read(path: &Path) -> io::Result<(Zeroizing<Vec<u8>>, fs::Metadata)> {
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    let metadata = file.metadata()?;
    let mut bytes = Zeroizing::new(Vec::new());
    if metadata.is_file() {
        // One byte more than the size of the secret is read, so that a longer file is detected.
        let most = BYTES as u64 + 1;
        file.take(most).read_to_end(&mut bytes)?;
    }
    Ok((bytes, metadata))
}

fn halves(bytes: &[u8]) -> Option<Secret> {
    let bytes: &[u8; BYTES] = bytes.try_into().ok()?;
    let (first, second) = bytes.split_at(BYTES / 2);
    Some(Zeroizing::new([
        u64::from_le_bytes(first.try_into().ok()?),
        u64::from_le_bytes(second.try_into().ok()?),
    ]))
}

/// Returns the secret that `input` contains: 16 bytes, or 32 hexadecimal digits, perhaps with a
/// line end.
pub fn from_input(input: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    if input.len() == BYTES {
        return Some(Zeroizing::new(input.to_vec()));
    }
    let digits = input.trim_ascii_end();
    if digits.len() != 2 * BYTES || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let digits = std::str::from_utf8(digits).ok()?;
    let number = u128::from_str_radix(digits, 16).ok()?;
    Some(Zeroizing::new(number.to_be_bytes().to_vec()))
}

/// Returns the bytes of a secret as hexadecimal digits.
pub fn to_hex(bytes: &[u8]) -> Zeroizing<String> {
    let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
    Zeroizing::new(digits.collect())
}

/// Returns the secret that consists of `bytes`.
pub fn of_bytes(bytes: &[u8]) -> Option<Secret> {
    halves(bytes)
}

/// Puts a secret in the place of that of `directory`. The caller makes sure that no key was hashed
/// with the previous one.
///
/// # Errors
/// Returns an error if the file cannot be written.
pub fn install(directory: &Path, bytes: &[u8]) -> Result<Secret, SecretError> {
    let path = directory.join(FILE);
    let secret = write(directory, &path, bytes)?;
    // Root may do this for a daemon that runs as another user, who owns the directory.
    let io_error = |source| SecretError::Io {
        path: path.clone(),
        source,
    };
    let owner = fs::metadata(directory).map_err(io_error)?;
    if owner.uid() != Uid::effective().as_raw() {
        std::os::unix::fs::lchown(&path, Some(owner.uid()), Some(owner.gid())).map_err(io_error)?;
    }
    Ok(secret)
}

/// Creates the file with a new secret.
fn create(directory: &Path, path: &Path) -> Result<Secret, SecretError> {
    let mut bytes = Zeroizing::new([0u8; BYTES]);
    getrandom::fill(bytes.as_mut_slice())?;
    write(directory, path, bytes.as_slice())
}

/// Writes the file. It appears completely or not at all, because a file with only a part of the
/// secret could not be used at the next start.
fn write(directory: &Path, path: &Path, bytes: &[u8]) -> Result<Secret, SecretError> {
    let io_error = |source| SecretError::Io {
        path: path.to_path_buf(),
        source,
    };
    let temporary = directory.join("hash.key.new");
    // A file that an earlier start has left behind is removed, because it may be incomplete and may
    // have any owner and mode.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error(error)),
        _ => {}
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(io_error)?;
    // The umask may have removed some of the permissions.
    let private = fs::Permissions::from_mode(0o600);
    file.set_permissions(private).map_err(io_error)?;
    file.write_all(bytes).map_err(io_error)?;
    file.sync_all().map_err(io_error)?;
    fs::rename(&temporary, path).map_err(io_error)?;
    fs::File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(io_error)?;
    halves(bytes).ok_or(SecretError::Damaged {
        path: path.to_path_buf(),
        len: bytes.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_as_bytes_or_as_digits() {
        let bytes: Vec<u8> = (0..16).collect();
        let digits = to_hex(&bytes);
        assert_eq!(digits.as_str(), "000102030405060708090a0b0c0d0e0f");
        assert_eq!(*from_input(&bytes).unwrap(), bytes);
        assert_eq!(*from_input(digits.as_bytes()).unwrap(), bytes);
        assert_eq!(
            *from_input(format!("{}\n", *digits).as_bytes()).unwrap(),
            bytes
        );
        for other in [&bytes[..15], b"000102030405060708090a0b0c0d0e0g", b""] {
            assert!(from_input(other).is_none());
        }
        let directory = tempfile::tempdir().unwrap();
        load_or_create(directory.path(), 0).unwrap();
        install(directory.path(), &bytes).unwrap();
        let loaded = load_or_create(directory.path(), 1).unwrap();
        assert_eq!(*loaded, *of_bytes(&bytes).unwrap());
    }

    #[test]
    fn the_secret_is_made_once_and_private() {
        let directory = tempfile::tempdir().unwrap();
        let made = load_or_create(directory.path(), 0).unwrap();
        let again = load_or_create(directory.path(), 7).unwrap();
        assert_eq!(*made, *again);
        let mode = fs::metadata(directory.path().join(FILE))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_lost_secret_is_reported_and_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let error = load_or_create(directory.path(), 3).unwrap_err();
        assert!(
            matches!(error, SecretError::Lost { keys: 3, .. }),
            "{error}"
        );
        assert!(!directory.path().join(FILE).exists());
    }

    #[test]
    fn a_damaged_or_readable_secret_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        fs::write(&path, [0; 15]).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(
            load_or_create(directory.path(), 0),
            Err(SecretError::Damaged { len: 15, .. })
        ));
        fs::write(&path, [0; 16]).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(
            load_or_create(directory.path(), 0),
            Err(SecretError::Exposed { .. })
        ));
    }

    #[test]
    fn a_secret_that_an_earlier_start_left_half_written_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let left = directory.path().join("hash.key.new");
        fs::write(&left, [1; 3]).unwrap();
        fs::set_permissions(&left, fs::Permissions::from_mode(0o666)).unwrap();
        load_or_create(directory.path(), 0).unwrap();
        let made = fs::metadata(directory.path().join(FILE)).unwrap();
        assert_eq!((made.len(), made.mode() & 0o777), (16, 0o600));
        assert!(!left.exists());
    }

    #[test]
    fn a_secret_of_another_user_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        load_or_create(directory.path(), 0).unwrap();
        let path = directory.path().join(FILE);
        if let Err(error) = std::os::unix::fs::chown(&path, Some(1), None) {
            println!("skipped: only root can change the owner of files: {error}");
            return;
        }
        let error = load_or_create(directory.path(), 0).unwrap_err();
        assert!(
            matches!(error, SecretError::Foreign { owner: 1, .. }),
            "{error}"
        );
    }
}
