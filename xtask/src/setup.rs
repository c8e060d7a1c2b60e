//! `cargo xtask setup`: a toolchain for the kernel program, if there is none.

use std::{
    fs::{self, File, TryLockError},
    process::Command,
};

use anyhow::{Context as _, anyhow, bail};
use limiter_toolchain::{Private, Toolchain, find_program};

use crate::{context::Context, debian, process};

/// The toolchain that is there, or else one that is made now.
pub fn toolchain() -> anyhow::Result<Toolchain> {
    let mut missing = match Toolchain::detect() {
        Ok(toolchain) => return Ok(toolchain),
        Err(missing) => missing,
    };
    if debian::is_here() {
        match private() {
            Ok(()) => return Ok(Toolchain::detect()?),
            Err(error) => missing.tried(&format!("from Debian's packages: {error:#}")),
        }
    }
    if find_program("rustup").is_some() {
        match nightly() {
            Ok(()) => return Ok(Toolchain::detect()?),
            Err(error) => missing.tried(&format!("from rustup: {error:#}")),
        }
    }
    Err(missing.into())
}

/// `setup` as a command of its own: says what is there.
pub fn report(context: &Context) -> anyhow::Result<()> {
    println!("kernel toolchain: {}", context.toolchain().describe());
    Ok(())
}

/// Makes the private toolchain, or waits for another process that is making it.
fn private() -> anyhow::Result<()> {
    let private = Private::locate().map_err(|error| anyhow!(error))?;
    let lock_path = private.lock_file();
    if let Some(parent) = lock_path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
    }
    // Held until the end of this function, or of this process, however it ends.
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

/// Takes the directory for the toolchain, and empties it if it holds a half-finished one. A
/// directory that holds something else is not touched.
fn claim(private: &Private) -> anyhow::Result<()> {
    let dir = private.dir();
    if private.tag().exists() {
        eprintln!(
            "setup: {} is not complete or of another version, starting anew",
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
                "{} holds something else: name an empty or a new directory",
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

/// Asks rustup for nightly with the source of `core`.
fn nightly() -> anyhow::Result<()> {
    if find_program("bpf-linker").is_none() {
        bail!("bpf-linker is not on the PATH, and without it a compiler is of no use");
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
    fn a_directory_that_holds_something_else_is_left_alone() {
        let dir = std::env::temp_dir().join(format!("limiter-setup-test-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("thesis.txt"), "years of work").unwrap();
        let private = Private::at(dir.clone());
        assert!(claim(&private).is_err());
        assert!(dir.join("thesis.txt").exists());
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_half_finished_toolchain_is_emptied() {
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
