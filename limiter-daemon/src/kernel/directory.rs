// SPDX-License-Identifier: MIT OR Apache-2.0

//! Reads and removes directories of pins.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{KernelError, error::io_error};

/// Returns the paths of a directory's entries, or an empty list if the directory does not exist.
pub(super) fn list(directory: &Path) -> Result<Vec<PathBuf>, KernelError> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.and_then(|entries| {
            entries
                .map(|entry| entry.map(|entry| entry.path()))
                .collect()
        }),
    };
    entries.map_err(io_error("list", directory))
}

/// Removes a directory and everything in it, if it exists.
pub(super) fn remove(directory: &Path) -> Result<(), KernelError> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(io_error("remove", directory)),
    }
}
