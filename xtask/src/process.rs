// SPDX-License-Identifier: MIT OR Apache-2.0

//! Runs programs. Each error contains the command line of the program.

use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

/// Runs a command, and shows its output. An exit status other than 0 is an error.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot run {}", shown(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", shown(command));
    }
    Ok(())
}

/// Runs a command, and returns its standard output. If the command fails, the error contains the
/// text that the command wrote to standard error.
pub fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", shown(command)))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{} failed ({}): {}",
            shown(command),
            output.status,
            errors.trim()
        );
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("{} did not print UTF-8", shown(command)))
}

/// Returns the name of the program and its arguments in the form of a command line.
fn shown(command: &Command) -> String {
    let mut shown = format!("`{}", command.get_program().display());
    for arg in command.get_args() {
        shown.push(' ');
        shown.push_str(&arg.to_string_lossy());
    }
    shown.push('`');
    shown
}
