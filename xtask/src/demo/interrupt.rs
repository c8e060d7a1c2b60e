// SPDX-License-Identifier: MIT OR Apache-2.0

//! Cleans up when the demo is interrupted, because a signal ends the process without running
//! destructors.

use std::{process, thread};

use anyhow::Context as _;
use limiter_tests::cleanup;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

/// If a signal ends a program, its exit status is this number plus the number of the signal
/// (bash(1), "EXIT STATUS").
const SIGNALLED: i32 = 128;

/// Makes SIGINT, SIGTERM and SIGHUP remove everything that the demo has created, and then end the
/// demo.
pub fn clean_up_on_signals() -> anyhow::Result<()> {
    let mut signals =
        Signals::new([SIGHUP, SIGINT, SIGTERM]).context("cannot watch for signals")?;
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            if let Some(signal) = signals.forever().next() {
                eprintln!("interrupted: cleaning up");
                cleanup::everything_of_this_process();
                end(SIGNALLED + signal);
            }
        })
        .context("cannot start a thread")?;
    Ok(())
}

#[expect(clippy::exit, reason = "the main thread would go on with the demo")]
fn end(status: i32) -> ! {
    process::exit(status)
}
