//! The secret of this installation: the key of the hash under which raw keys are known.

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use nix::unistd::Uid;
use thiserror::Error;
use zeroize::Zeroizing;

/// The file in the state directory.
const FILE: &str = "hash.key";
/// SipHash takes 128 bits.
const BYTES: usize = 16;

/// Why there is no secret.
#[derive(Debug, Error)]
pub enum SecretError {
    /// The file cannot be read or written.
    #[error("the hash secret {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not 16 bytes.
    #[error("the hash secret {} has {len} bytes instead of {BYTES}: restore it from a backup", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Its length.
        len: usize,
    },
    /// Others can read it.
    #[error("the hash secret {} has mode {mode:o}: others may read it; chmod 600 it", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is another user's.
    #[error("the hash secret {} belongs to the user {owner}, who may read it: chown it to root", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// There are keys that only the lost secret could match.
    #[error(
        "the hash secret {} is missing, but the store holds {keys} keys that were hashed with it and none of them can work with a new one: restore the file from a backup, or move the store away and import the keys again",
        path.display()
    )]
    Lost {
        /// The file.
        path: PathBuf,
        /// How many keys.
        keys: u64,
    },
    /// The system has no randomness to give.
    #[error("cannot make the hash secret: {0}")]
    Randomness(#[from] getrandom::Error),
}

/// The two halves of the SipHash key.
pub type Secret = Zeroizing<[u64; 2]>;

/// The secret in `directory`; made when it is not there and `keys` is 0.
///
/// # Errors
/// [`SecretError`].
pub fn load_or_create(directory: &Path, keys: u64) -> Result<Secret, SecretError> {
    let path = directory.join(FILE);
    let io_error = |source| SecretError::Io {
        path: path.clone(),
        source,
    };
    let bytes = match fs::read(&path) {
        Ok(bytes) => Zeroizing::new(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound && keys == 0 => {
            return create(directory, &path);
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(SecretError::Lost { path, keys });
        }
        Err(error) => return Err(io_error(error)),
    };
    let metadata = fs::metadata(&path).map_err(io_error)?;
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

fn halves(bytes: &[u8]) -> Option<Secret> {
    let bytes: &[u8; BYTES] = bytes.try_into().ok()?;
    let (first, second) = bytes.split_at(BYTES / 2);
    Some(Zeroizing::new([
        u64::from_le_bytes(first.try_into().ok()?),
        u64::from_le_bytes(second.try_into().ok()?),
    ]))
}

/// Writes the file whole or not at all: a half-written secret would be a lost one.
fn create(directory: &Path, path: &Path) -> Result<Secret, SecretError> {
    let io_error = |source| SecretError::Io {
        path: path.to_path_buf(),
        source,
    };
    let mut bytes = Zeroizing::new([0u8; BYTES]);
    getrandom::fill(bytes.as_mut_slice())?;
    let temporary = directory.join("hash.key.new");
    // One that a start before this left half-written has who knows what owner and mode.
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
    file.write_all(bytes.as_slice()).map_err(io_error)?;
    file.sync_all().map_err(io_error)?;
    fs::rename(&temporary, path).map_err(io_error)?;
    fs::File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(io_error)?;
    halves(bytes.as_slice()).ok_or(SecretError::Damaged {
        path: path.to_path_buf(),
        len: BYTES,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

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
    fn a_lost_secret_is_told_and_not_replaced() {
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
    fn a_half_written_secret_of_before_is_not_gone_on_with() {
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
            println!("skipped: only root gives files away: {error}");
            return;
        }
        let error = load_or_create(directory.path(), 0).unwrap_err();
        assert!(
            matches!(error, SecretError::Foreign { owner: 1, .. }),
            "{error}"
        );
    }
}
