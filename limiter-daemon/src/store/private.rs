// SPDX-License-Identifier: MIT OR Apache-2.0

//! Checks that the files of the store belong to the right user, and restricts their permissions,
//! independently of the umask.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use super::StoreError;
use crate::files::{self, Rights, TrustError};

/// The mode of a new file. SQLite creates its other files with the same mode (`findCreateFileMode`
/// in `os_unix.c`).
const MODE: u32 = 0o600;
/// The maximum permissions of an existing file. The group of the file is allowed to read it, for
/// example for backups.
const MAX_MODE: u32 = 0o640;
/// The suffixes of the other files that SQLite opens, which are the log, the index of the log and
/// the rollback journal (<https://www.sqlite.org/tempfiles.html>).
const COMPANIONS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Checks the files before SQLite opens them, and creates the main file if it is missing.
///
/// This function opens no existing file. If SQLite already had the file open in this process,
/// opening and closing it here would release SQLite's locks
/// (<https://www.sqlite.org/howtocorrupt.html>).
pub(super) fn prepare(path: &Path, rights: &Rights) -> Result<(), StoreError> {
    let companions = COMPANIONS.map(|end| {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        name.into()
    });
    for file in [&[path.to_path_buf()][..], &companions].concat() {
        match files::check_file(&file, rights)? {
            // With the rights of another user, this process cannot change the mode of a file that
            // belongs to root. Such a file keeps its mode.
            Some(metadata) if metadata.uid() == rights.uid() => {
                files::restrict(&file, &metadata, MAX_MODE)?;
            }
            None if file == path => make(path)?,
            Some(_) | None => {}
        }
    }
    Ok(())
}

fn make(path: &Path) -> Result<(), TrustError> {
    let made = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(MODE)
        .open(path)
        .and_then(|file| file.set_permissions(fs::Permissions::from_mode(MODE)));
    made.map_err(|why| TrustError::Io {
        path: path.to_path_buf(),
        why,
    })
}
