//! `cargo xtask bench`: what a packet costs in the kernel programs.
//!
//! The programs are built once more, with those that are there to be measured only; what runs them
//! and prints the table is a bench of limiter-tests.

use std::path::Path;

use limiter_toolchain::ebpf;

use crate::{context::Context, privilege::Privilege, process};

const PACKAGE: &str = "limiter-tests";
const BENCH: &str = "program";

/// The feature of limiter-ebpf that adds programs to be measured.
const FEATURE: &str = "bench";

/// Names the kernel object that limiter-tests is to load.
const OBJECT_VARIABLE: &str = "LIMITER_OBJECT";

/// `args` go to the bench.
pub fn run(context: &Context, args: &[String]) -> anyhow::Result<()> {
    let privilege = Privilege::acquire("the bench")?;
    // Its own directory: the daemon embeds what lies in the other.
    let target_dir = context.target_dir().join("ebpf-bench");
    process::run(
        ebpf::build(
            context.toolchain(),
            context.root(),
            ebpf::PACKAGE,
            &target_dir,
            false,
        )
        .args(["--features", FEATURE]),
    )?;
    let object = ebpf::object(&target_dir, ebpf::PACKAGE);

    let mut command = context.cargo();
    command
        .args(["bench", "--package", PACKAGE, "--bench", BENCH])
        .env(OBJECT_VARIABLE, &object);
    if privilege == Privilege::Sudo {
        command.arg("--config").arg(sudo_runner(&object));
    }
    command
        .args(["--", "--json"])
        .arg(context.target_dir().join("bench/program.json"))
        .args(args);
    process::run(&mut command)
}

/// cargo builds as the user and runs the bench through sudo, which by itself passes no variables
/// on.
fn sudo_runner(object: &Path) -> String {
    let runner = [
        "sudo".to_owned(),
        "env".to_owned(),
        format!("{OBJECT_VARIABLE}={}", object.display()),
    ];
    // Debug's quoting of a string is TOML's for everything that a path of sense holds.
    format!("target.'cfg(all())'.runner = {runner:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sudos_runner_is_a_setting_that_cargo_takes() {
        assert_eq!(
            sudo_runner(Path::new("/t/object")),
            "target.'cfg(all())'.runner = [\"sudo\", \"env\", \"LIMITER_OBJECT=/t/object\"]"
        );
    }
}
