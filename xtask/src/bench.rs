//! `cargo xtask bench`.

use anyhow::bail;

use crate::{context::Context, privilege};

pub fn run(_context: &Context, _args: &[String]) -> anyhow::Result<()> {
    privilege::require_root("bench")?;
    bail!("the bench is being built");
}
