//! `deny.toml`: whose code we take, under which licences, from where.

use std::fs;

use anyhow::{Context as _, bail};
use limiter_toolchain::find_program;

use crate::{context::Context, process};

/// Not `advisories`: their database is fetched from the network, and a lint that fails because
/// of what somebody else published today says nothing about the change at hand.
const CHECKS: [&str; 3] = ["bans", "licenses", "sources"];

/// Runs cargo-deny where it is installed. Where it is not, only the file is looked at, and that
/// is said.
pub fn check(context: &Context) -> anyhow::Result<()> {
    if find_program("cargo-deny").is_some() {
        return process::run(context.cargo().args(["deny", "check"]).args(CHECKS));
    }
    let path = context.root().join("deny.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let policy: toml::Table = text
        .parse()
        .with_context(|| format!("parse {}", path.display()))?;
    for section in CHECKS {
        if !policy.contains_key(section) {
            bail!(
                "{} has no [{section}]: every check needs its rules",
                path.display()
            );
        }
    }
    eprintln!(
        "lint: deny.toml was parsed but NOT enforced, cargo-deny is not installed: \
         `cargo install --locked cargo-deny`"
    );
    Ok(())
}
