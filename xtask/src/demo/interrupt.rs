//! Cleaning up when the demo is interrupted: destructors do not run then.

use std::{process, thread};

use anyhow::Context as _;
use limiter_tests::cleanup;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

/// A shell's exit status for a program that a signal ended (bash(1), "EXIT STATUS").
const SIGNALLED: i32 = 128;

/// From now on, SIGINT, SIGTERM and SIGHUP remove all that the demo has made, and end it.
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

#[expect(
    clippy::exit,
    reason = "the main thread is in the middle of the demo and would go on"
)]
fn end(status: i32) -> ! {
    process::exit(status)
}
