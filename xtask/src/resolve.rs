// SPDX-License-Identifier: MIT OR Apache-2.0

//! Parses the output of `apt-get --simulate install`.

use std::collections::BTreeSet;

/// A package in the version that apt would install.
#[derive(Debug, PartialEq, Eq)]
pub struct Package {
    pub name: String,
    pub version: String,
}

impl Package {
    /// Returns `NAME=VERSION`, the argument of `apt-get download`.
    pub fn pinned(&self) -> String {
        format!("{}={}", self.name, self.version)
    }
}

/// Returns the packages in the lines `Inst NAME [OLD] (VERSION ORIGIN [ARCH])`.
pub fn simulated(output: &str) -> Vec<Package> {
    output.lines().filter_map(inst_line).collect()
}

fn inst_line(line: &str) -> Option<Package> {
    let rest = line.strip_prefix("Inst ")?;
    let name = rest.split_whitespace().next()?;
    let version = rest.split_once('(')?.1.split_whitespace().next()?;
    Some(Package {
        name: name.to_owned(),
        version: version.to_owned(),
    })
}

/// Returns whether a package is a part of the compiler. Such a package is unpacked even if it is
/// installed on the system, because rustc looks for its libraries only in its own installation.
pub fn is_compiler(name: &str) -> bool {
    ["rustc", "rust-", "libstd-rust-", "libllvm"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// Returns whether a package is a shared library that the compiler needs and the system lacks. The
/// C library is excluded, because it works only with the loader of the same release.
pub fn is_missing_library(name: &str, installed: &BTreeSet<String>) -> bool {
    name.starts_with("lib")
        && !name.ends_with("-dev")
        && !name.starts_with("libc6")
        && !installed.contains(name)
}

/// Returns the major version of LLVM, which is in the name of its library's package.
pub fn llvm_major(packages: &[Package]) -> Option<u32> {
    packages
        .iter()
        .find_map(|package| package.name.strip_prefix("libllvm")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
Reading package lists...
The following NEW packages will be installed:
  libllvm22 rustc-web
Inst libgcc-s1 (12.2.0-14+deb12u1 Debian:12.15/oldstable [amd64]) []
Inst libllvm22 (1:22.1.8-1~deb12u1 Debian-Security:12/oldstable-security [amd64])
Inst rustc-web [1.85.0] (1.96.0+dfsg1-1~deb12u2 Debian-Security:12/oldstable-security [amd64])
Conf libllvm22 (1:22.1.8-1~deb12u1 Debian-Security:12/oldstable-security [amd64])
";

    #[test]
    fn each_package_is_named_once_in_its_new_version() {
        let pinned: Vec<String> = simulated(OUTPUT).iter().map(Package::pinned).collect();
        assert_eq!(
            pinned,
            [
                "libgcc-s1=12.2.0-14+deb12u1",
                "libllvm22=1:22.1.8-1~deb12u1",
                "rustc-web=1.96.0+dfsg1-1~deb12u2"
            ]
        );
    }

    #[test]
    fn the_name_of_the_library_has_the_major_version_of_llvm() {
        assert_eq!(llvm_major(&simulated(OUTPUT)), Some(22));
        assert_eq!(llvm_major(&simulated("")), None);
    }

    #[test]
    fn the_systems_c_library_is_never_replaced() {
        let nothing = BTreeSet::new();
        assert!(!is_missing_library("libc6", &nothing));
        assert!(!is_missing_library("libc6-dev", &nothing));
        assert!(is_missing_library("libxml2", &nothing));
        assert!(!is_missing_library(
            "libxml2",
            &BTreeSet::from(["libxml2".to_owned()])
        ));
    }

    #[test]
    fn compilers_and_their_libraries_are_recognized() {
        for name in [
            "rustc-web",
            "libstd-rust-web-dev-bpf",
            "libllvm22",
            "rust-web-clippy",
        ] {
            assert!(is_compiler(name), "{name}");
        }
        for name in ["gcc", "libc6", "libxml2"] {
            assert!(!is_compiler(name), "{name}");
        }
    }
}
