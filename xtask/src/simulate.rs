// SPDX-License-Identifier: MIT OR Apache-2.0

//! `cargo xtask simulate`: simulates what cannot be tried on one machine.

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
    /// Hosts that share one daily quota: admitted beyond the quota, left of it, refused too early
    Fleet {
        /// Parts of the names of the cases to run, all by default
        cases: Vec<String>,
    },
}

pub fn run(context: &Context, args: &Args) -> anyhow::Result<()> {
    let Subject::Fleet { cases } = &args.subject;
    let mut command = context.cargo();
    command.args(["run", "--quiet", "--release", "--package", FLEET, "--"]);
    process::run(command.args(cases))
}
