// SPDX-License-Identifier: MIT OR Apache-2.0

//! Builds the kernel programs, which the daemon embeds.

use std::process::ExitCode;

fn main() -> ExitCode {
    match limiter_toolchain::script::build_kernel_program() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}
