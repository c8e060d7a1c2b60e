// SPDX-License-Identifier: MIT OR Apache-2.0

//! The settings of the connection to the engine, with the password and the certificates that the
//! configuration names.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use limiter_fleet::client::{Access, Certificates, Settings};
use nix::unistd::Uid;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::config::Fleet;

/// The reason why a file that the section `[fleet]` names cannot be used.
#[derive(Debug, Error)]
pub enum AccessError {
    /// The file cannot be read.
    #[error("`fleet.{entry}`: {}: {source}", path.display())]
    Io {
        /// The entry of the section.
        entry: &'static str,
        /// The file.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
    /// Other users can read the file.
    #[error("`fleet.{entry}`: {} has mode {mode:o}, with which other users may read it: run `chmod 600` on it", path.display())]
    Exposed {
        /// The entry of the section.
        entry: &'static str,
        /// The file.
        path: PathBuf,
        /// The permission bits of the file.
        mode: u32,
    },
    /// The file belongs to another user.
    #[error("`fleet.{entry}`: {} belongs to the user with uid {owner}, who may read it: run `chown root` on it", path.display())]
    Foreign {
        /// The entry of the section.
        entry: &'static str,
        /// The file.
        path: PathBuf,
        /// The user id of the file's owner.
        owner: u32,
    },
    /// The password file does not contain one line of text.
    #[error("`fleet.password_file`: {} must contain the password as one line of text", path.display())]
    Password {
        /// The file.
        path: PathBuf,
    },
}

/// Returns the settings of a connection to the engine, and reads the files that they need.
///
/// # Errors
/// Returns an error if a file cannot be read, or if other users can read a secret.
pub fn settings(fleet: &Fleet) -> Result<Settings, AccessError> {
    let password = fleet.password_file.as_deref().map(read_password);
    let authorities = fleet.ca_file.as_deref().map(|path| read("ca_file", path));
    let client = match &fleet.client {
        Some((certificate, key)) => {
            let certificate = read("certificate_file", certificate)?;
            Some((certificate, read_secret("key_file", key)?))
        }
        None => None,
    };
    Ok(Settings {
        kind: fleet.kind.clone(),
        addresses: fleet.engine.clone(),
        access: Access {
            user: fleet.user.clone(),
            password: password.transpose()?,
            certificates: Certificates {
                authorities: authorities.transpose()?,
                client,
            },
        },
        confirmations: fleet.confirm,
    })
}

fn read_password(path: &Path) -> Result<Zeroizing<String>, AccessError> {
    let bytes = read_secret("password_file", path)?;
    let text = std::str::from_utf8(&bytes).unwrap_or_default();
    let line = text.strip_suffix('\n').unwrap_or(text);
    if line.is_empty() || line.contains(char::is_control) {
        let path = path.to_path_buf();
        return Err(AccessError::Password { path });
    }
    Ok(Zeroizing::new(line.to_owned()))
}

fn read(entry: &'static str, path: &Path) -> Result<Vec<u8>, AccessError> {
    fs::read(path).map_err(|source| AccessError::Io {
        entry,
        path: path.to_path_buf(),
        source,
    })
}

/// Reads a file that only root or this process's own user may read.
fn read_secret(entry: &'static str, path: &Path) -> Result<Zeroizing<Vec<u8>>, AccessError> {
    let metadata = fs::metadata(path).map_err(|source| AccessError::Io {
        entry,
        path: path.to_path_buf(),
        source,
    })?;
    let (mode, owner) = (metadata.mode() & 0o777, metadata.uid());
    let path = path.to_path_buf();
    if owner != 0 && owner != Uid::effective().as_raw() {
        return Err(AccessError::Foreign { entry, path, owner });
    }
    if mode & 0o077 != 0 {
        return Err(AccessError::Exposed { entry, path, mode });
    }
    read(entry, &path).map(Zeroizing::new)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn file(directory: &Path, text: &str, mode: u32) -> PathBuf {
        let path = directory.join("password");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn the_password_is_one_line_of_a_private_file() {
        let directory = tempfile::tempdir().unwrap();
        let read = |text: &str, mode| {
            let path = file(directory.path(), text, mode);
            let password = read_password(&path);
            password.map(|password| password.to_string())
        };
        assert_eq!(read("secret\n", 0o600).unwrap(), "secret");
        assert_eq!(read("se cret", 0o400).unwrap(), "se cret");
        for text in ["", "\n", "a\nb\n", "a\r\n"] {
            let error = read(text, 0o600).unwrap_err();
            assert!(matches!(error, AccessError::Password { .. }), "{error}");
        }
        let error = read("secret\n", 0o640).unwrap_err().to_string();
        assert!(error.contains("chmod 600") && !error.contains("secret\n"));
    }

    #[test]
    fn a_missing_file_is_named_with_its_entry() {
        let error = read("ca_file", Path::new("/nonexistent/ca.pem")).unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("`fleet.ca_file`: /nonexistent/ca.pem"),
            "{text}"
        );
    }
}
