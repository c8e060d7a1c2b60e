// SPDX-License-Identifier: MIT OR Apache-2.0

//! `cargo xtask build`: builds the binary, which embeds the kernel programs.

use std::path::PathBuf;

use crate::{context::Context, process};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Optimizes the binary as for a release; this takes minutes
    #[arg(long)]
    release: bool,
    /// Arguments for `cargo build`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    cargo_args: Vec<String>,
}

pub fn run(context: &Context, args: &Args) -> anyhow::Result<()> {
    let mut command = context.cargo();
    command.args(["build", "--package", "limiter-daemon"]);
    if args.release {
        command.arg("--release");
    }
    process::run(command.args(&args.cargo_args))
}

/// Builds the release binary and returns its path.
pub fn release(context: &Context) -> anyhow::Result<PathBuf> {
    let args = Args {
        release: true,
        cargo_args: Vec::new(),
    };
    run(context, &args)?;
    Ok(context.release_binary())
}
