// SPDX-License-Identifier: MIT OR Apache-2.0

//! The parser of the key files that `limiter key import --csv` sends.

use limiter_daemon::fuzzing::{self, KeyFile};

/// Reads a key file.
///
/// # Panics
/// Panics if there are more rows than lines, if a problem names a line that the file does not have,
/// or if the result depends on whether lines end with LF or CRLF.
pub fn check(input: &[u8]) {
    let result = fuzzing::key_file(input);
    if let Ok(KeyFile { keys, problems }) = &result {
        let lines = 1 + input.iter().filter(|byte| b"\r\n".contains(byte)).count();
        assert!(
            keys + problems.len() < lines,
            "the file has more rows than lines"
        );
        for line in problems {
            let line = usize::try_from(*line).unwrap_or(usize::MAX);
            assert!(
                (1..=lines).contains(&line),
                "a problem is on line {line} of {lines}"
            );
        }
    }
    // Files with quotation marks are skipped, because a line end within quotation marks is a part
    // of the cell, and then the result may depend on the kind of line end. Files with a NUL byte
    // are skipped as well, because the reader assumes UTF-16 if there is a NUL byte near the
    // beginning.
    if !input.iter().any(|byte| b"\r\"\0".contains(byte)) {
        let lines: Vec<&[u8]> = input.split(|byte| *byte == b'\n').collect();
        assert_eq!(fuzzing::key_file(&lines.join(&b"\r\n"[..])), result);
    }
}
