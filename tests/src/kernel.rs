// SPDX-License-Identifier: MIT OR Apache-2.0

//! The version and the features of the kernel under test, for tests that depend on them.

use std::fs;

/// Returns the major and minor version of the kernel.
///
/// # Panics
/// Panics if the kernel's release is not a version.
pub fn version() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel's release");
    let mut numbers = release.split(['.', '-', '+']).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
        _ => panic!("{release:?} is not a kernel release"),
    }
}

/// Returns whether the kernel has TCX, which appeared in Linux 6.6.
pub fn has_tcx() -> bool {
    version() >= (6, 6)
}

/// Returns the hooks that the kernel supports, by their names in the configuration.
pub fn hooks() -> &'static [&'static str] {
    if has_tcx() {
        &["tcx", "clsact"]
    } else {
        &["clsact"]
    }
}
