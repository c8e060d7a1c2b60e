//! `cargo xtask lint`: what can be said about the code without running it.

use limiter_toolchain::ebpf;

use crate::{context::Context, policy, process};

pub fn run(context: &Context) -> anyhow::Result<()> {
    eprintln!("lint: formatting");
    process::run(context.cargo().args(["fmt", "--all", "--check"]))?;

    eprintln!("lint: clippy, host");
    process::run(
        context
            .cargo()
            .args([
                "clippy",
                "--workspace",
                "--exclude",
                ebpf::PACKAGE,
                "--all-targets",
            ])
            .args(["--", "-D", "warnings"]),
    )?;

    kernel(context)?;

    eprintln!("lint: dependency policy");
    policy::check(context)
}

fn kernel(context: &Context) -> anyhow::Result<()> {
    let (toolchain, root) = (context.toolchain(), context.root());
    let target_dir = context.ebpf_target_dir();
    if let Some(mut clippy) = ebpf::clippy(toolchain, root, &target_dir) {
        eprintln!("lint: clippy, kernel program");
        return process::run(&mut clippy);
    }
    eprintln!("lint: warnings of the kernel program (its compiler comes without clippy)");
    // Another directory: other flags would have the build script's build start anew each time.
    process::run(&mut ebpf::build(
        toolchain,
        root,
        &target_dir.join("lint"),
        true,
    ))
}
