// SPDX-License-Identifier: MIT OR Apache-2.0

//! `cargo xtask lint`: runs every check that works without running the code.

use limiter_toolchain::ebpf;

use crate::{context::Context, layers, msrv, policy, process, sources, unsafety};

pub fn run(context: &Context) -> anyhow::Result<()> {
    eprintln!("lint: formatting");
    process::run(context.cargo().args(["fmt", "--all", "--check"]))?;

    eprintln!("lint: licences, long lines, and names of files");
    let sources = sources::read(context.root())?;
    sources::check(&sources)?;

    eprintln!("lint: files with `unsafe`");
    unsafety::check(&sources)?;

    eprintln!("lint: imports between modules");
    layers::check(&sources)?;

    eprintln!("lint: minimum Rust version");
    msrv::check(context)?;

    eprintln!("lint: dependency policy");
    policy::check(context)?;

    eprintln!("lint: clippy, host");
    let mut clippy = context.cargo();
    clippy.args(["clippy", "--workspace", "--all-targets"]);
    // `--all-targets` does not include this test, because the manifest excludes it from `cargo
    // test`.
    clippy.args(["--test", "vm"]);
    for package in ebpf::PACKAGES {
        clippy.args(["--exclude", package]);
    }
    process::run(clippy.args(["--", "-D", "warnings"]))?;

    for package in ebpf::PACKAGES {
        kernel(context, package)?;
    }
    Ok(())
}

fn kernel(context: &Context, package: &str) -> anyhow::Result<()> {
    let (toolchain, root) = (context.toolchain(), context.root());
    let target_dir = context.ebpf_target_dir();
    if let Some(mut clippy) = ebpf::clippy(toolchain, root, package, &target_dir) {
        eprintln!("lint: clippy, {package}");
        return process::run(&mut clippy);
    }
    eprintln!("lint: warnings of {package} (its compiler comes without clippy)");
    // The flags differ from those of the build script. If both used the same directory, each would
    // replace the artifacts of the other.
    process::run(&mut ebpf::build(
        toolchain,
        root,
        package,
        &target_dir.join("lint"),
        true,
    ))
}
