// SPDX-License-Identifier: MIT OR Apache-2.0

//! Checks the dependency policy, `deny.toml`: which crates may be used, with which licences and
//! from which sources.

use std::process::Command;

use crate::{context::Context, process, tools};

/// The checks that cargo-deny runs. `advisories` is left out, because its database comes from the
/// network, and a new advisory is not a fault of the change that is being checked.
const CHECKS: [&str; 3] = ["bans", "licenses", "sources"];

/// Runs cargo-deny.
///
/// # Errors
/// Returns an error if a dependency violates the policy. Also returns an error if cargo-deny cannot
/// be installed, because a check that did not run must not count as passed.
pub fn check(context: &Context) -> anyhow::Result<()> {
    process::run(
        Command::new(tools::cargo_deny()?)
            .current_dir(context.root())
            .args(["--workspace", "check", "--hide-inclusion-graph"])
            .args(CHECKS),
    )
}
