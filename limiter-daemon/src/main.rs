//! `limiter`: limits of API keys, kept in the kernel.

use std::process::ExitCode;

use limiter_daemon::wipe::{self, Wiping};

#[global_allocator]
static ALLOCATOR: Wiping = Wiping;

fn main() -> ExitCode {
    wipe::keep_little();
    limiter_daemon::cli::main()
}
