//! Builds the kernel programs for the tests that run them by themselves (`src/program.rs`), and those
//! that disturb traffic (`src/disorder.rs`).

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
