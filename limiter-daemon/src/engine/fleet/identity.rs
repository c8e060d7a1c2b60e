// SPDX-License-Identifier: MIT OR Apache-2.0

//! The identity of this host in a fleet.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use thiserror::Error;

use crate::config::is_name;

/// The id of the present boot (random(4)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The identity of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostIdentity {
    /// The id of the host, which is in its store.
    pub id: String,
    /// The name of the host, for operators.
    pub name: String,
    /// The id of this run of the daemon.
    pub session: String,
    /// The id of the machine. It differs between machines that were cloned from one disk, because
    /// it contains the boot and the place of the state directory.
    pub machine: String,
}

/// The reason why the identity cannot be determined.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// A file cannot be read.
    #[error("cannot determine the identity of this host: {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
    /// The name of the host cannot be used.
    #[error("the name of this host, {0:?}, cannot be used in a fleet: set `fleet.host`")]
    Name(String),
}

/// Returns the id of the machine with the state directory `state`.
///
/// # Errors
/// Returns an error if a file cannot be read.
pub fn machine_id(state: &Path) -> Result<String, IdentityError> {
    let error = |path: &Path| {
        let path = path.to_path_buf();
        move |source| IdentityError::Io { path, source }
    };
    let boot_id = Path::new(BOOT_ID);
    let boot = fs::read_to_string(boot_id).map_err(error(boot_id))?;
    let place = fs::metadata(state).map_err(error(state))?;
    Ok(format!("{}:{}:{}", boot.trim(), place.dev(), place.ino()))
}

/// Returns the name of this host, which is `configured` or the name of the system.
///
/// # Errors
/// Returns an error if the name of the system cannot be used.
pub fn host_name(configured: Option<&str>) -> Result<String, IdentityError> {
    if let Some(name) = configured {
        return Ok(name.to_owned());
    }
    let path = Path::new("/proc/sys/kernel/hostname");
    let name = fs::read_to_string(path).map_err(|source| IdentityError::Io {
        path: path.to_path_buf(),
        source,
    })?;
    let name = name.trim().to_owned();
    if is_name(&name) {
        Ok(name)
    } else {
        Err(IdentityError::Name(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_the_state_directory_is_another_machine() {
        let (one, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let machine = machine_id(one.path()).unwrap();
        assert_eq!(machine, machine_id(one.path()).unwrap());
        assert_ne!(machine, machine_id(copy.path()).unwrap());
        assert!(!machine.contains(char::is_whitespace), "{machine}");
    }

    #[test]
    fn the_name_in_the_configuration_comes_first() {
        assert_eq!(host_name(Some("web-17")).unwrap(), "web-17");
    }
}
