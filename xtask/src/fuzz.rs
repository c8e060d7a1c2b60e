// SPDX-License-Identifier: MIT OR Apache-2.0

//! `cargo xtask fuzz`: runs the fuzz targets of `fuzz/` with the installed toolchain.
//!
//! `cargo fuzz` needs nightly Rust for its sanitizers, which would find little, because most of the
//! code under test is safe Rust. The fuzzer depends more on coverage, for which stable Rust can
//! instrument code too.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, ensure};
use clap::ValueEnum as _;

use crate::{
    context::Context,
    privilege, process,
    summary::{Summary, TestFailure},
};

const PACKAGE: &str = "limiter-fuzz";

/// The script that adds the instrumentation to the crates of the workspace.
const INSTRUMENT: &str = "fuzz/instrument.sh";

/// The directory of the committed inputs, with a folder for each target.
const CORPUS: &str = "fuzz/corpus";

/// The seed of a bounded run. The seed is fixed, and therefore every bounded run tries the same
/// inputs.
const SEED: u32 = 1;

/// The time limit for one input, in seconds. Even the slowest input takes only milliseconds.
const INPUT_SECONDS: u32 = 20;

/// The maximum length of an input in bytes. It is enough for a few segments.
const MAX_LEN: u32 = 4096;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The targets to run; all targets by default
    targets: Vec<Target>,
    /// Runs each target for this number of seconds, and keeps the new inputs in the target
    /// directory
    #[arg(long, value_name = "N", conflicts_with_all = ["minimize", "input"])]
    seconds: Option<u32>,
    /// Replaces the committed corpus by the smallest subset of all inputs with the same coverage
    #[arg(long, conflicts_with = "input")]
    minimize: bool,
    /// Runs one input, such as one that has caused a crash
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
enum Target {
    /// The HTTP scanner on requests
    Requests,
    /// The HTTP scanner on responses
    Responses,
    /// The parser of limiter.toml
    Configuration,
    /// The reader of files of keys
    KeyFile,
    /// The parsers of the control interface
    Control,
    /// The kernel programs; needs root
    Packets,
}

impl Target {
    fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Returns the number of executions in a bounded run, which takes at most a few seconds.
    fn runs(self) -> u32 {
        match self {
            Self::Requests | Self::Responses => 4_000,
            Self::Configuration | Self::KeyFile | Self::Control => 6_000,
            // This number is small, because each execution empties the maps of the kernel programs.
            Self::Packets => 2_000,
        }
    }
}

/// The way in which the targets run.
#[derive(Debug, Clone, Copy)]
enum Mode<'a> {
    /// Runs the committed corpus and a fixed number of mutations of it.
    Bounded,
    Seconds(u32),
    Minimize,
    Input(&'a Path),
}

pub fn run(context: &Context, args: &Args) -> anyhow::Result<()> {
    let targets = match args.targets.as_slice() {
        [] => Target::value_variants(),
        some => some,
    };
    ensure!(
        args.input.is_none() || args.targets.len() == 1,
        "--input is for one target: name it"
    );
    let mode = match (args.seconds, args.minimize, &args.input) {
        (Some(seconds), ..) => Mode::Seconds(seconds),
        (None, true, _) => Mode::Minimize,
        (None, false, Some(file)) => Mode::Input(file),
        (None, false, None) => Mode::Bounded,
    };
    let summary = run_all(context, targets, mode)?;
    println!("{summary}");
    if summary.failed > 0 {
        return Err(TestFailure.into());
    }
    Ok(())
}

/// Runs all targets with a bounded number of executions. Each target counts as one test.
pub fn bounded(context: &Context) -> anyhow::Result<Summary> {
    run_all(context, Target::value_variants(), Mode::Bounded)
}

fn run_all(context: &Context, targets: &[Target], mode: Mode<'_>) -> anyhow::Result<Summary> {
    build(context)?;
    let mut summary = Summary::default();
    for target in targets {
        if *target == Target::Packets && !privilege::is_root() {
            println!("fuzz: {}: skipped, it needs root", target.name());
            summary.skipped += 1;
        } else if run_one(context, *target, mode)? {
            summary.passed += 1;
        } else {
            summary.failed += 1;
        }
    }
    Ok(summary)
}

fn build(context: &Context) -> anyhow::Result<()> {
    process::run(
        context
            .cargo()
            .args(["build", "--quiet", "--package", PACKAGE, "--bins"])
            .env("RUSTC_WORKSPACE_WRAPPER", context.root().join(INSTRUMENT)),
    )
}

/// Runs a target, and returns whether no fault was found.
fn run_one(context: &Context, target: Target, mode: Mode<'_>) -> anyhow::Result<bool> {
    let name = target.name();
    let Directories {
        committed,
        found,
        scratch,
        crashes,
    } = &Directories::make(context, &name)?;
    let mut command = Command::new(context.target_dir().join("debug").join(&name));
    command
        .current_dir(context.root())
        .arg(format!("-timeout={INPUT_SECONDS}"))
        .arg(format!("-artifact_prefix={}/", crashes.display()));
    match mode {
        Mode::Bounded => {
            empty(scratch)?;
            command
                .arg(format!("-runs={}", target.runs()))
                .arg(format!("-seed={SEED}"))
                .arg(format!("-max_len={MAX_LEN}"))
                .args([scratch, committed]);
        }
        Mode::Seconds(seconds) => {
            command
                .arg(format!("-max_total_time={seconds}"))
                .arg(format!("-max_len={MAX_LEN}"))
                .args([found, committed]);
        }
        Mode::Minimize => {
            empty(scratch)?;
            command
                .arg("-set_cover_merge=1")
                .args([scratch, committed, found]);
        }
        Mode::Input(file) => {
            let file = fs::canonicalize(file)
                .with_context(|| format!("find the input {}", file.display()))?;
            command.arg(file);
        }
    }
    let start = Instant::now();
    let has_passed = if matches!(mode, Mode::Seconds(_) | Mode::Input(_)) {
        command.status().context("run the fuzz target")?.success()
    } else {
        runs_quietly(&mut command)?
    };
    if has_passed && matches!(mode, Mode::Minimize) {
        replace(committed, scratch)?;
    }
    let verdict = if has_passed { "ok" } else { "FAILED" };
    println!("fuzz: {name}: {verdict}, {} s", start.elapsed().as_secs());
    if !has_passed {
        println!(
            "fuzz: the input is in {}: `cargo xtask fuzz {name} --input FILE` runs it again",
            crashes.display()
        );
    }
    Ok(has_passed)
}

/// Runs a command, and returns whether it succeeded. The output is shown only if the command fails.
fn runs_quietly(command: &mut Command) -> anyhow::Result<bool> {
    let output = command.output().context("run the fuzz target")?;
    if !output.status.success() {
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(output.status.success())
}

/// The directories of one target.
struct Directories {
    committed: PathBuf,
    /// The directory of the inputs that earlier runs have found.
    found: PathBuf,
    /// The directory for the inputs that a bounded run finds, which are discarded, and for the
    /// result of `--minimize` until it replaces the corpus.
    scratch: PathBuf,
    crashes: PathBuf,
}

impl Directories {
    fn make(context: &Context, name: &str) -> anyhow::Result<Self> {
        let base = context.target_dir().join("fuzz");
        let directories = Self {
            committed: context.root().join(CORPUS).join(name),
            found: base.join("found").join(name),
            scratch: base.join("scratch").join(name),
            crashes: base.join("crashes").join(name),
        };
        for directory in [&directories.found, &directories.crashes] {
            fs::create_dir_all(directory)
                .with_context(|| format!("make {}", directory.display()))?;
        }
        Ok(directories)
    }
}

/// Creates a directory, or empties it if it exists.
fn empty(directory: &Path) -> anyhow::Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory).with_context(|| format!("empty {}", directory.display()))?;
    }
    fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))
}

/// Replaces the files of a directory by those of another directory.
fn replace(directory: &Path, other: &Path) -> anyhow::Result<()> {
    empty(directory)?;
    for entry in fs::read_dir(other).with_context(|| format!("read {}", other.display()))? {
        let from = entry
            .with_context(|| format!("read {}", other.display()))?
            .path();
        let to = directory.join(from.file_name().unwrap_or_default());
        fs::copy(&from, &to).with_context(|| format!("write {}", to.display()))?;
    }
    Ok(())
}
