//! Builds the kernel program, which the daemon embeds.

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
