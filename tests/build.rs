// SPDX-License-Identifier: MIT OR Apache-2.0

//! Builds the kernel programs for the tests that run them without a network (`src/program.rs`), and
//! the kernel programs that disturb the traffic of other tests (`src/disorder.rs`).

use std::process::ExitCode;

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "program")]
    if let Err(message) = limiter_toolchain::script::build_kernel_program()
        .and_then(|()| limiter_toolchain::script::build_disorder())
    {
        eprintln!("{message}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
