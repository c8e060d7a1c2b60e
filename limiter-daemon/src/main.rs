//! `limiter`: limits of API keys, kept in the kernel.

use std::process::ExitCode;

use limiter_daemon::wipe::Wiping;

#[global_allocator]
static ALLOCATOR: Wiping = Wiping;

fn main() -> ExitCode {
    limiter_daemon::cli::main()
}
