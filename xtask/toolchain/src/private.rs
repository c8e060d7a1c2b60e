//! The toolchain that `cargo xtask setup` makes: Debian's packages, unpacked into a directory.
//!
//! ```text
//! DIR/limiter-toolchain   the tag: this directory is ours, setup may empty it
//! DIR/complete            the marker: written last, by rename
//! DIR/root                the unpacked packages
//! DIR/llvm/lib/           libLLVM.so, what bpf-linker is linked against
//! DIR/linker/bin/         bpf-linker
//! DIR.lock                held while setup writes (beside the directory, so that it outlives it)
//! ```

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

/// Names the directory to use in place of the one in the user's cache.
pub const DIR_VARIABLE: &str = "LIMITER_TOOLCHAIN_DIR";

/// The linker's version: the newest that links what rustc 1.96 and LLVM 21 to 23 emit.
pub const BPF_LINKER_VERSION: &str = "0.13.0";

/// Raised whenever setup puts something else into the directory; older directories are left
/// alone in the cache and no longer looked at.
const LAYOUT: u32 = 1;

/// The private toolchain's directory, complete or not.
#[derive(Debug, Clone)]
pub struct Private {
    dir: PathBuf,
}

impl Private {
    /// Where the private toolchain is or would be.
    ///
    /// # Errors
    /// Says what to set where no variable of the environment names a place.
    pub fn locate() -> Result<Self, String> {
        let absolute = |name: &str| {
            env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        if let Some(dir) = absolute(DIR_VARIABLE) {
            // A build script has another working directory than the shell that set the variable.
            return if dir.is_absolute() {
                Ok(Self { dir })
            } else {
                Err(format!(
                    "{DIR_VARIABLE} is {}: give an absolute path",
                    dir.display()
                ))
            };
        }
        let cache = absolute("XDG_CACHE_HOME")
            .filter(|dir| dir.is_absolute())
            .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
            .ok_or_else(|| format!("neither HOME nor XDG_CACHE_HOME is set: set {DIR_VARIABLE}"))?;
        Ok(Self {
            dir: cache
                .join("limiter")
                .join(format!("toolchain-{}", version())),
        })
    }

    /// The toolchain in that directory, whatever the environment says.
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

    /// The first line of the marker; the lines after it say what was installed.
    #[must_use]
    pub fn marker_line() -> String {
        format!("toolchain {}", version())
    }

    /// The unpacked packages' root directory.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// The prefix that bpf-linker's build is given as LLVM's.
    #[must_use]
    pub fn llvm(&self) -> PathBuf {
        self.dir.join("llvm")
    }

    /// What `cargo install --root` is given.
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

    /// `cargo-clippy` of the same release, where the packages had one.
    #[must_use]
    pub fn cargo_clippy(&self) -> Option<PathBuf> {
        let clippy = self.root().join("usr/bin/cargo-clippy");
        clippy.exists().then_some(clippy)
    }

    /// Where the unpacked shared libraries are.
    #[must_use]
    pub fn libraries(&self) -> PathBuf {
        // Debian's multiarch name; it differs from Rust's where Debian's does.
        let arch = match env::consts::ARCH {
            "x86" => "i386",
            "powerpc64" if cfg!(target_endian = "little") => "powerpc64le",
            arch => arch,
        };
        self.root().join(format!("usr/lib/{arch}-linux-gnu"))
    }

    /// LD_LIBRARY_PATH for the unpacked programs: these libraries first, then whatever was set.
    #[must_use]
    pub fn library_path(&self) -> OsString {
        let mut path = self.libraries().into_os_string();
        if let Some(set) = env::var_os("LD_LIBRARY_PATH").filter(|set| !set.is_empty()) {
            path.push(":");
            path.push(set);
        }
        path
    }

    /// Whether setup finished here, and what it made is still there.
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
    fn another_layouts_marker_does_not_count() {
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
