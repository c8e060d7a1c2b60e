//! `limiter`: limits of API keys, kept in the kernel.

use std::process::ExitCode;

fn main() -> ExitCode {
    limiter_daemon::cli::main()
}
