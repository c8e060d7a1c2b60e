// SPDX-License-Identifier: MIT OR Apache-2.0

//! The toolchain that `cargo xtask setup` makes from Debian's packages, in its own directory.
//!
//! ```text
//! DIR/limiter-toolchain   the tag, which allows setup to empty this directory
//! DIR/complete            the marker, which setup writes last, by rename
//! DIR/root                the unpacked packages
//! DIR/llvm/lib/           libLLVM.so, for bpf-linker
//! DIR/linker/bin/         bpf-linker
//! DIR.lock                the lock, which setup holds while it writes; it outlives the directory
//! ```

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

/// The environment variable that names the directory to use instead of the one in the user's cache.
pub const DIR_VARIABLE: &str = "LIMITER_TOOLCHAIN_DIR";

/// The newest version of bpf-linker that supports rustc 1.96 and LLVM 21 to 23.
pub const BPF_LINKER_VERSION: &str = "0.13.0";

/// The version of the directory's contents. It is raised when the contents change. Directories with
/// an older version stay in the cache, but are no longer used.
const LAYOUT: u32 = 1;

/// The directory of the private toolchain. The toolchain may be incomplete.
#[derive(Debug, Clone)]
pub struct Private {
    dir: PathBuf,
}

impl Private {
    /// Returns the private toolchain in the directory that the environment determines, even if the
    /// directory does not exist.
    ///
    /// # Errors
    /// Returns an error if the environment does not determine a directory, or if [`DIR_VARIABLE`]
    /// is a relative path. The message names that variable.
    pub fn locate() -> Result<Self, String> {
        let path = |name: &str| {
            env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        if let Some(dir) = path(DIR_VARIABLE) {
            // A relative path is not allowed, because it would name different directories in the
            // shell and in a build script, which has another working directory.
            return if dir.is_absolute() {
                Ok(Self { dir })
            } else {
                Err(format!(
                    "{DIR_VARIABLE} is {}, which is not an absolute path",
                    dir.display()
                ))
            };
        }
        let cache = path("XDG_CACHE_HOME")
            .filter(|dir| dir.is_absolute())
            .or_else(|| path("HOME").map(|home| home.join(".cache")))
            .ok_or_else(|| format!("neither HOME nor XDG_CACHE_HOME is set: set {DIR_VARIABLE}"))?;
        Ok(Self {
            dir: cache
                .join("limiter")
                .join(format!("toolchain-{}", version())),
        })
    }

    /// Returns the toolchain in a directory, regardless of the environment.
    #[must_use]
    pub fn at(dir: PathBuf) -> Self {
        Self { dir }
    }

    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    #[must_use]
    pub fn lock_file(&self) -> PathBuf {
        let mut name = self.dir.clone().into_os_string();
        name.push(".lock");
        name.into()
    }

    #[must_use]
    pub fn tag(&self) -> PathBuf {
        self.dir.join("limiter-toolchain")
    }

    #[must_use]
    pub fn marker(&self) -> PathBuf {
        self.dir.join("complete")
    }

    /// Returns the first line of the marker file. The other lines of that file name the installed
    /// versions.
    #[must_use]
    pub fn marker_line() -> String {
        format!("toolchain {}", version())
    }

    /// Returns the root directory of the unpacked packages.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// Returns the installation prefix of the LLVM that bpf-linker is built against.
    #[must_use]
    pub fn llvm(&self) -> PathBuf {
        self.dir.join("llvm")
    }

    /// Returns the directory that is passed to `cargo install --root` when bpf-linker is installed.
    #[must_use]
    pub fn linker_root(&self) -> PathBuf {
        self.dir.join("linker")
    }

    #[must_use]
    pub fn linker(&self) -> PathBuf {
        self.linker_root().join("bin/bpf-linker")
    }

    #[must_use]
    pub fn rustc(&self) -> PathBuf {
        self.root().join("usr/bin/rustc")
    }

    /// Returns the path of a `cargo-clippy` of the same release as the compiler, or `None` if it is
    /// not installed.
    #[must_use]
    pub fn cargo_clippy(&self) -> Option<PathBuf> {
        let clippy = self.root().join("usr/bin/cargo-clippy");
        clippy.exists().then_some(clippy)
    }

    /// Returns the directory of the unpacked shared libraries.
    #[must_use]
    pub fn libraries(&self) -> PathBuf {
        // Some architectures have different names in Debian and in Rust.
        let arch = match env::consts::ARCH {
            "x86" => "i386",
            "powerpc64" if cfg!(target_endian = "little") => "powerpc64le",
            arch => arch,
        };
        self.root().join(format!("usr/lib/{arch}-linux-gnu"))
    }

    /// Returns the value of LD_LIBRARY_PATH for the unpacked programs: the directory of their
    /// libraries, followed by the directories that the variable already contains.
    #[must_use]
    pub fn library_path(&self) -> OsString {
        let mut path = self.libraries().into_os_string();
        if let Some(set) = env::var_os("LD_LIBRARY_PATH").filter(|set| !set.is_empty()) {
            path.push(":");
            path.push(set);
        }
        path
    }

    /// Returns whether setup has finished in this directory, and the compiler and the linker still
    /// exist.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        fs::read_to_string(self.marker())
            .is_ok_and(|marker| marker.lines().next() == Some(&Self::marker_line()))
            && self.rustc().exists()
            && self.linker().exists()
    }

    pub(crate) fn describe(&self) -> String {
        let marker = fs::read_to_string(self.marker()).unwrap_or_default();
        let rustc = marker
            .lines()
            .find(|line| line.starts_with("rustc "))
            .unwrap_or("rustc");
        format!(
            "{rustc} and bpf-linker {BPF_LINKER_VERSION} in {}",
            self.dir.display()
        )
    }
}

fn version() -> String {
    format!("{BPF_LINKER_VERSION}-{LAYOUT}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(name: &str) -> Private {
        let dir = env::temp_dir().join(format!(
            "limiter-toolchain-test-{}-{name}",
            std::process::id()
        ));
        fs::create_dir_all(dir.join("root/usr/bin")).unwrap();
        fs::create_dir_all(dir.join("linker/bin")).unwrap();
        fs::write(dir.join("root/usr/bin/rustc"), "").unwrap();
        fs::write(dir.join("linker/bin/bpf-linker"), "").unwrap();
        Private { dir }
    }

    #[test]
    fn a_directory_without_marker_is_not_complete() {
        let private = at("without");
        assert!(!private.is_complete());
        fs::remove_dir_all(private.dir()).unwrap();
    }

    #[test]
    fn the_marker_of_another_layout_does_not_count() {
        let private = at("other");
        fs::write(private.marker(), "toolchain 0.1.0-0\n").unwrap();
        assert!(!private.is_complete());
        fs::remove_dir_all(private.dir()).unwrap();
    }

    #[test]
    fn a_marked_directory_is_complete_until_its_compiler_is_gone() {
        let private = at("marked");
        fs::write(
            private.marker(),
            format!("{}\nrustc 1.96.0\n", Private::marker_line()),
        )
        .unwrap();
        assert!(private.is_complete());
        assert!(
            private
                .describe()
                .starts_with("rustc 1.96.0 and bpf-linker")
        );
        fs::remove_file(private.rustc()).unwrap();
        assert!(!private.is_complete());
        fs::remove_dir_all(private.dir()).unwrap();
    }

    #[test]
    fn the_lock_stands_beside_the_directory() {
        let private = Private { dir: "/a/b".into() };
        assert_eq!(private.lock_file(), Path::new("/a/b.lock"));
    }
}
