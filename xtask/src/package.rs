// SPDX-License-Identifier: MIT OR Apache-2.0

//! `cargo xtask package`: builds the Debian package or a static binary.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;

use crate::{build, context::Context, process, tools};

/// The shells for which there are completions, each with the file name under which the shell looks
/// for the completions of limiter.
const COMPLETIONS: [[&str; 2]; 3] = [
    ["bash", "limiter"],
    ["zsh", "_limiter"],
    ["fish", "limiter.fish"],
];

/// The revision of the Debian package. It is raised when the packaging changes but the version of
/// limiter does not.
const REVISION: &str = "1";

const MAINTAINER: &str = "The maintainers of limiter <maintainers@limiter.invalid>";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Makes a binary that needs no library, instead of the package
    #[arg(long = "static")]
    is_static: bool,
}

pub fn run(context: &Context, args: &Args) -> anyhow::Result<()> {
    let made = if args.is_static {
        static_binary(context)?
    } else {
        debian(context, &build::release(context)?)?
    };
    println!("{}", made.display());
    Ok(())
}

/// Builds the Debian package from the release binary, and returns the path of the package.
pub fn debian(context: &Context, binary: &Path) -> anyhow::Result<PathBuf> {
    let directory = context.target_dir().join("release/package");
    if directory.exists() {
        fs::remove_dir_all(&directory)
            .with_context(|| format!("remove {}", directory.display()))?;
    }
    let time = Timestamp::of(context)?;
    generate(binary, &directory)?;
    let changelog = directory.join("changelog");
    fs::write(&changelog, time.changelog(binary)?).context("write the package's changelog")?;
    compress(&[changelog])?;
    let made = process::output(
        context
            .cargo()
            .arg("deb")
            .env("PATH", tools::path_with(&tools::cargo_deb()?)?)
            .env("SOURCE_DATE_EPOCH", &time.epoch)
            .args([
                "--package",
                "limiter-daemon",
                "--no-build",
                "--strip",
                "--quiet",
            ])
            .args(["--deb-revision", REVISION, "--maintainer", MAINTAINER])
            .arg("--output")
            .arg(context.target_dir().join("debian")),
    )?;
    let made = made
        .lines()
        .last()
        .context("cargo-deb did not print the path of the package")?;
    Ok(PathBuf::from(made))
}

/// Runs the binary to write its manual pages and completions.
fn generate(binary: &Path, directory: &Path) -> anyhow::Result<()> {
    let (pages, completions) = (directory.join("man"), directory.join("completions"));
    for directory in [&pages, &completions] {
        fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    }
    process::run(Command::new(binary).arg("man-pages").arg(&pages))?;
    compress(&files(&pages)?)?;
    for [shell, name] in COMPLETIONS {
        let script = process::output(Command::new(binary).args(["completions", shell]))?;
        let path = completions.join(name);
        fs::write(&path, script).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

fn files(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))?;
    entries
        .map(|entry| Ok(entry?.path()))
        .collect::<anyhow::Result<_>>()
}

/// Compresses files as Debian's policy requires (12.1 and 12.7), with the best ratio and without a
/// timestamp.
fn compress(files: &[PathBuf]) -> anyhow::Result<()> {
    process::run(
        Command::new("gzip")
            .args(["--best", "--no-name"])
            .args(files),
    )
}

/// The time of the last commit, which becomes the time of the package. The build of the package is
/// therefore reproducible.
struct Timestamp {
    /// The number of seconds since 1970.
    epoch: String,
    /// The same time in the form of RFC 5322.
    date: String,
}

impl Timestamp {
    fn of(context: &Context) -> anyhow::Result<Self> {
        let epoch = match env::var("SOURCE_DATE_EPOCH") {
            Ok(epoch) => epoch,
            Err(_) => process::output(Command::new("git").current_dir(context.root()).args([
                "log",
                "-1",
                "--format=%ct",
            ]))
            .context("without git, set SOURCE_DATE_EPOCH to the time of this version")?,
        };
        let epoch = epoch.trim().to_owned();
        let date = process::output(Command::new("date").env("LC_ALL", "C").args([
            "--utc",
            "--rfc-email",
            &format!("--date=@{epoch}"),
        ]))?;
        Ok(Self {
            epoch,
            date: date.trim().to_owned(),
        })
    }

    /// Returns the changelog (deb-changelog(5)). It contains the version that the binary prints.
    fn changelog(&self, binary: &Path) -> anyhow::Result<String> {
        let output = process::output(Command::new(binary).arg("--version"))?;
        let version = output
            .trim()
            .strip_prefix("limiter ")
            .context("`limiter --version` does not print `limiter VERSION`")?;
        Ok(format!(
            "limiter ({version}-{REVISION}) unstable; urgency=medium\n\n  \
             * What is new: /usr/share/doc/limiter/changelog.gz\n\n \
             -- {MAINTAINER}  {date}\n",
            date = self.date,
        ))
    }
}

/// Builds the binary with a statically linked C library, and returns its path. The library is
/// glibc, because Debian's compiler has no standard library for musl.
pub fn static_binary(context: &Context) -> anyhow::Result<PathBuf> {
    let target = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    let flags = format!(
        "CARGO_TARGET_{}_RUSTFLAGS",
        target.replace('-', "_").to_uppercase()
    );
    process::run(
        context
            .cargo()
            .env(flags, "-C target-feature=+crt-static")
            // With an explicit target, cargo does not apply the flags to build scripts.
            .args(["build", "--release", "--package", "limiter-daemon"])
            .args(["--target", &target]),
    )?;
    let built = context.target_dir().join(&target).join("release/limiter");
    let directory = context.target_dir().join("static");
    fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
    let binary = directory.join("limiter");
    process::output(Command::new("strip").arg("-o").arg(&binary).arg(&built))?;
    Ok(binary)
}
