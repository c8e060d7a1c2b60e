//! Builds the kernel program for the tests that run it by themselves (`src/program.rs`).

use std::process::ExitCode;

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "program")]
    if let Err(message) = limiter_toolchain::script::build_kernel_program() {
        eprintln!("{message}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
