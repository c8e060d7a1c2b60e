//! Finding programs.

use std::{env, fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

/// Where root's programs are, which an ordinary user's PATH leaves out.
const SBIN: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// The first executable file of that name on the PATH, then in the sbin directories.
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
    fn a_shell_is_found_and_a_name_that_nobody_uses_is_not() {
        assert!(find_program("sh").is_some());
        assert_eq!(find_program("limiter-no-such-program"), None);
    }

    #[test]
    fn a_directory_is_not_a_program() {
        assert!(!is_executable(std::path::Path::new("/usr")));
    }
}
