// SPDX-License-Identifier: MIT OR Apache-2.0

//! `cargo xtask setup`: installs a toolchain for the kernel programs if there is none.

use std::{
    fs::{self, File, TryLockError},
    process::Command,
};

use anyhow::{Context as _, anyhow, bail};
use limiter_toolchain::{Private, Toolchain, find_program};

use crate::{context::Context, debian, process};

/// Returns the toolchain for the kernel programs. If there is none, installs it first.
pub fn toolchain() -> anyhow::Result<Toolchain> {
    let mut missing = match Toolchain::detect() {
        Ok(toolchain) => return Ok(toolchain),
        Err(missing) => missing,
    };
    if debian::is_host_debian() {
        match private() {
            Ok(()) => return Ok(Toolchain::detect()?),
            Err(error) => missing.add_reason(&format!("from Debian's packages: {error:#}")),
        }
    }
    if find_program("rustup").is_some() {
        match nightly() {
            Ok(()) => return Ok(Toolchain::detect()?),
            Err(error) => missing.add_reason(&format!("from rustup: {error:#}")),
        }
    }
    Err(missing.into())
}

/// Runs the command `setup`, which prints a description of the toolchain.
pub fn report(context: &Context) -> anyhow::Result<()> {
    println!("kernel toolchain: {}", context.toolchain().describe());
    Ok(())
}

/// Makes the private toolchain, or waits until another process has made it.
fn private() -> anyhow::Result<()> {
    let private = Private::locate().map_err(|error| anyhow!(error))?;
    let lock_path = private.lock_file();
    if let Some(parent) = lock_path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
    }
    // The lock is held until this function returns or the process ends.
    let lock = File::create(&lock_path).with_context(|| format!("open {}", lock_path.display()))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            eprintln!(
                "setup: waiting for another setup that holds {}",
                lock_path.display()
            );
            lock.lock()
                .with_context(|| format!("lock {}", lock_path.display()))?;
        }
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("lock {}", lock_path.display()));
        }
    }
    if private.is_complete() {
        return Ok(());
    }
    claim(&private)?;
    debian::install(&private)
}

/// Reserves the directory for the toolchain. Empties the directory if it contains another
/// toolchain, which is incomplete or outdated. Returns an error, and leaves the directory
/// unchanged, if it contains other files.
fn claim(private: &Private) -> anyhow::Result<()> {
    let dir = private.dir();
    if private.tag().exists() {
        eprintln!(
            "setup: {} is incomplete or of another version, making it again",
            dir.display()
        );
        fs::remove_dir_all(dir).with_context(|| format!("remove {}", dir.display()))?;
    } else if dir.exists() {
        let empty = fs::read_dir(dir)
            .with_context(|| format!("read {}", dir.display()))?
            .next()
            .is_none();
        if !empty {
            bail!(
                "{} is not empty, and not a toolchain: name an empty or a new directory",
                dir.display()
            );
        }
    }
    fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    fs::write(
        private.tag(),
        "made by `cargo xtask setup`, which may also empty it\n",
    )
    .with_context(|| format!("write {}", private.tag().display()))
}

/// Makes rustup install nightly Rust with the source of `core`.
fn nightly() -> anyhow::Result<()> {
    if find_program("bpf-linker").is_none() {
        bail!("bpf-linker is not on the PATH, and the compiler needs it");
    }
    eprintln!("setup: installing rustup's nightly with rust-src");
    process::run(Command::new("rustup").args([
        "toolchain",
        "install",
        "nightly",
        "--profile",
        "minimal",
        "--component",
        "rust-src",
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_with_other_files_is_not_touched() {
        let dir = std::env::temp_dir().join(format!("limiter-setup-test-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("thesis.txt"), "years of work").unwrap();
        let private = Private::at(dir.clone());
        assert!(claim(&private).is_err());
        assert!(dir.join("thesis.txt").exists());
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn an_incomplete_toolchain_is_emptied() {
        let dir = std::env::temp_dir().join(format!("limiter-setup-half-{}", std::process::id()));
        let private = Private::at(dir.clone());
        claim(&private).unwrap();
        fs::write(dir.join("half"), "").unwrap();
        claim(&private).unwrap();
        assert!(!dir.join("half").exists());
        assert!(private.tag().exists());
        fs::remove_dir_all(dir).unwrap();
    }
}
