// SPDX-License-Identifier: MIT OR Apache-2.0

//! Searches for a program by its name.

use std::{env, fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

/// The directories of root's programs, which are not on the PATH of an ordinary user.
const SBIN: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Returns the first executable file with the name `name` in the directories of the PATH, or
/// otherwise in the sbin directories.
#[must_use]
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(SBIN.iter().map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|candidate| is_executable(candidate))
}

fn is_executable(candidate: &std::path::Path) -> bool {
    fs::metadata(candidate)
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_is_found_and_an_unused_name_is_not() {
        assert!(find_program("sh").is_some());
        assert_eq!(find_program("limiter-no-such-program"), None);
    }

    #[test]
    fn a_directory_is_not_a_program() {
        assert!(!is_executable(std::path::Path::new("/usr")));
    }
}
