//! `cargo xtask lint`: what can be said about the code without running it.

use limiter_toolchain::ebpf;

use crate::{context::Context, policy, process};

pub fn run(context: &Context) -> anyhow::Result<()> {
    eprintln!("lint: formatting");
    process::run(context.cargo().args(["fmt", "--all", "--check"]))?;

    eprintln!("lint: clippy, host");
    let mut clippy = context.cargo();
    clippy.args(["clippy", "--workspace", "--all-targets"]);
    // Not among all targets, since `cargo test` is not to run it.
    clippy.args(["--test", "vm"]);
    for package in ebpf::PACKAGES {
        clippy.args(["--exclude", package]);
    }
    process::run(clippy.args(["--", "-D", "warnings"]))?;

    for package in ebpf::PACKAGES {
        kernel(context, package)?;
    }

    eprintln!("lint: dependency policy");
    policy::check(context)
}

fn kernel(context: &Context, package: &str) -> anyhow::Result<()> {
    let (toolchain, root) = (context.toolchain(), context.root());
    let target_dir = context.ebpf_target_dir();
    if let Some(mut clippy) = ebpf::clippy(toolchain, root, package, &target_dir) {
        eprintln!("lint: clippy, {package}");
        return process::run(&mut clippy);
    }
    eprintln!("lint: warnings of {package} (its compiler comes without clippy)");
    // Another directory: other flags would have the build script's build start anew each time.
    process::run(&mut ebpf::build(
        toolchain,
        root,
        package,
        &target_dir.join("lint"),
        true,
    ))
}
