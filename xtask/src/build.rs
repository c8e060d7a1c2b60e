//! `cargo xtask build`: the binary, with the kernel program embedded.

use std::path::PathBuf;

use crate::{context::Context, process};

pub fn run(context: &Context, args: &[String]) -> anyhow::Result<()> {
    process::run(
        context
            .cargo()
            .args(["build", "--package", "limiter-daemon"])
            .args(args),
    )
}

/// Builds the release binary and says where it is.
pub fn release(context: &Context) -> anyhow::Result<PathBuf> {
    run(context, &["--release".to_owned()])?;
    Ok(context.release_binary())
}
