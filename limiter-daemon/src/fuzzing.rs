// SPDX-License-Identifier: MIT OR Apache-2.0

//! The parsers of untrusted bytes, for the fuzz targets. This module is not part of the crate's
//! public interface.

pub use crate::api::fuzzing::control;

use crate::engine::keys::csv_import;

/// The result of reading a file of keys.
#[derive(Debug, PartialEq, Eq)]
pub struct KeyFile {
    /// The number of keys that would be imported.
    pub keys: usize,
    /// The numbers of the lines with problems, counted from 1.
    pub problems: Vec<u64>,
}

/// Reads a file of keys.
///
/// # Errors
/// Returns the message of an error that concerns the file as a whole.
pub fn key_file(text: &[u8]) -> Result<KeyFile, String> {
    let file = csv_import::read(text, [0; 2], &|_, _, _| {}).map_err(|error| error.message)?;
    Ok(KeyFile {
        keys: file.lines.len(),
        problems: file.problems.lines().collect(),
    })
}
