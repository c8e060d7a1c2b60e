// SPDX-License-Identifier: MIT OR Apache-2.0

//! The command `limiter`, which enforces limits on API keys in the kernel.

use std::process::ExitCode;

use limiter_daemon::wipe::{self, WipingAllocator};

#[global_allocator]
static ALLOCATOR: WipingAllocator = WipingAllocator;

fn main() -> ExitCode {
    wipe::return_free_memory();
    limiter_daemon::cli::main()
}
