//! Which kernel the tests run on, where that makes a difference.

use std::fs;

/// Its major and minor version.
///
/// # Panics
/// When it has none that can be read.
pub fn version() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel's release");
    let mut numbers = release.split(['.', '-', '+']).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
        _ => panic!("{release:?} is no release of a kernel"),
    }
}

/// Whether it has TCX, which came with 6.6.
pub fn has_tcx() -> bool {
    version() >= (6, 6)
}

/// The hooks that it has, by their names in the configuration.
pub fn hooks() -> &'static [&'static str] {
    if has_tcx() {
        &["tcx", "clsact"]
    } else {
        &["clsact"]
    }
}
