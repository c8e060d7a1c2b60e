//! `cargo xtask package`: the Debian package, or one binary that needs nothing of the system.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};

use crate::{build, context::Context, process, tools};

/// Shells that complete what is typed, and the file names by which they find out how.
const COMPLETIONS: [[&str; 2]; 3] = [
    ["bash", "limiter"],
    ["zsh", "_limiter"],
    ["fish", "limiter.fish"],
];

/// The package's, of one version of limiter: raised when only the packaging has changed.
const REVISION: &str = "1";

/// Who answers for the package.
const MAINTAINER: &str = "The maintainers of limiter <maintainers@limiter.invalid>";

pub fn run(context: &Context, args: &[String]) -> anyhow::Result<()> {
    let made = match args {
        [] => debian(context, &build::release(context)?)?,
        [only] if only == "--static" => static_binary(context)?,
        _ => bail!("`cargo xtask package` takes --static or nothing"),
    };
    println!("{}", made.display());
    Ok(())
}

/// Makes the Debian package around the release binary, and says where it is.
pub fn debian(context: &Context, binary: &Path) -> anyhow::Result<PathBuf> {
    let directory = context.target_dir().join("release/package");
    if directory.exists() {
        fs::remove_dir_all(&directory)
            .with_context(|| format!("remove {}", directory.display()))?;
    }
    let source = Source::of(context)?;
    generate(binary, &directory)?;
    let changelog = directory.join("changelog");
    fs::write(&changelog, source.changelog(binary)?).context("write the package's changelog")?;
    compress(&[changelog])?;
    let made = process::output(
        context
            .cargo()
            .arg("deb")
            .env("PATH", tools::path_with(&tools::cargo_deb()?)?)
            .env("SOURCE_DATE_EPOCH", &source.epoch)
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
        .context("cargo-deb does not say what it made")?;
    Ok(PathBuf::from(made))
}

/// What the binary itself can tell: manual pages and completions.
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

/// As Debian has it (policy, 12.1 and 12.7): as small as can be, and without a time.
fn compress(files: &[PathBuf]) -> anyhow::Result<()> {
    process::run(
        Command::new("gzip")
            .args(["--best", "--no-name"])
            .args(files),
    )
}

/// What the package is made of: its time is that of the last commit, so that it comes out the same
/// whenever it is made.
struct Source {
    /// Seconds since 1970.
    epoch: String,
    /// As RFC 5322 writes it.
    date: String,
}

impl Source {
    fn of(context: &Context) -> anyhow::Result<Self> {
        let epoch = match env::var("SOURCE_DATE_EPOCH") {
            Ok(epoch) => epoch,
            Err(_) => process::output(Command::new("git").current_dir(context.root()).args([
                "log",
                "-1",
                "--format=%ct",
            ]))
            .context("without git say SOURCE_DATE_EPOCH, the time of this version")?,
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

    /// deb-changelog(5), with the version that the binary says it is.
    fn changelog(&self, binary: &Path) -> anyhow::Result<String> {
        let said = process::output(Command::new(binary).arg("--version"))?;
        let version = said
            .trim()
            .strip_prefix("limiter ")
            .context("`limiter --version` says something else")?;
        Ok(format!(
            "limiter ({version}-{REVISION}) unstable; urgency=medium\n\n  \
             * What is new: /usr/share/doc/limiter/changelog.gz\n\n \
             -- {MAINTAINER}  {date}\n",
            date = self.date,
        ))
    }
}

/// Builds the binary with the C library in it. Of glibc, not musl: the packages that the compiler comes
/// from have its standard library for the former alone.
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
            // A target that is named is built apart from what runs while building, which is not static.
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
