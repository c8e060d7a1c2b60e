// SPDX-License-Identifier: MIT OR Apache-2.0

//! `cargo xtask simulate` simulates situations that one machine cannot reproduce.

use crate::{context::Context, process};

/// The package with the simulation of a fleet.
const FLEET: &str = "limiter-simulation";

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    subject: Subject,
}

#[derive(Debug, clap::Subcommand)]
enum Subject {
    /// Simulates hosts that share a daily quota, and prints how far they exceed it, how much of it
    /// they leave, and how many requests they refuse too early
    Fleet {
        /// Parts of the names of the cases to run; without any, all cases are run
        cases: Vec<String>,
    },
}

pub fn run(context: &Context, args: &Args) -> anyhow::Result<()> {
    let Subject::Fleet { cases } = &args.subject;
    let mut command = context.cargo();
    command.args(["run", "--quiet", "--release", "--package", FLEET, "--"]);
    process::run(command.args(cases))
}
