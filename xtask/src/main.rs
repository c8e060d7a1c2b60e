// SPDX-License-Identifier: MIT OR Apache-2.0

//! `cargo xtask`: the commands for all work in this repository.
//!
//! Every command first makes sure that a toolchain for the kernel programs is installed.

mod bench;
mod build;
mod cache;
mod columns;
mod context;
mod debian;
mod demo;
mod docs;
mod fuzz;
mod layers;
mod links;
mod lint;
mod mentions;
mod msrv;
mod package;
mod packages;
mod policy;
mod privilege;
mod process;
mod python;
mod resolve;
mod rust_source;
mod setup;
mod simulate;
mod sources;
mod summary;
mod test;
mod tools;
mod unsafety;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use context::Context;

/// Builds, checks and packages this repository
#[derive(Debug, Parser)]
#[command(
    name = "xtask",
    bin_name = "cargo xtask",
    after_help = "LIMITER_TOOLCHAIN_DIR names the directory of the kernel toolchain, in place of \
                  the one in the user's cache.",
    disable_help_subcommand = true
)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Installs the toolchain for the kernel programs, if it is missing
    Setup,
    /// Builds the binary `limiter`
    Build(build::Args),
    /// Checks the sources, the dependencies and the minimum Rust version; warnings are errors
    Lint,
    /// Runs the tests; those that need root use sudo
    Test(test::Args),
    /// Runs the fuzz targets from the committed corpus
    Fuzz(fuzz::Args),
    /// Shows real clients being limited in front of a real server; needs root
    Demo(demo::Args),
    /// Measures the cost of a packet, and compares traffic through the limiter with traffic through
    /// its alternatives; needs root
    Bench(bench::Args),
    /// Simulates the hosts of a fleet
    Simulate(simulate::Args),
    /// Makes the Debian package, and prints its path
    Package(package::Args),
    /// Builds the book of docs/ into the target directory, and checks its links
    Docs,
}

impl Command {
    fn run(&self, context: &Context) -> anyhow::Result<()> {
        match self {
            Self::Setup => setup::report(context),
            Self::Build(args) => build::run(context, args),
            Self::Lint => lint::run(context),
            Self::Test(args) => test::run(context, args),
            Self::Fuzz(args) => fuzz::run(context, args),
            Self::Demo(args) => demo::run(context, args),
            Self::Bench(args) => bench::run(context, args),
            Self::Simulate(args) => simulate::run(context, args),
            Self::Package(args) => package::run(context, args),
            Self::Docs => docs::run(context),
        }
    }
}

fn main() -> ExitCode {
    let CommandLine { command } = CommandLine::parse();
    match setup::toolchain()
        .and_then(Context::new)
        .and_then(|context| command.run(&context))
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<summary::TestFailure>() => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn a_misspelt_command_is_answered_with_the_right_one() {
        let error = CommandLine::try_parse_from(["xtask", "lnit"]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("'lint'"), "{error}");
    }

    #[test]
    fn a_misspelt_option_is_answered_with_the_right_one() {
        let error = CommandLine::try_parse_from(["xtask", "package", "--statc"]).unwrap_err();
        assert!(error.to_string().contains("'--static'"), "{error}");
    }
}
