//! `cargo xtask`: everything that is done with this repository, from one place.
//!
//! Every command first sees to it that a toolchain for the kernel program is there.

mod bench;
mod build;
mod cache;
mod context;
mod debian;
mod demo;
mod docs;
mod links;
mod lint;
mod package;
mod packages;
mod policy;
mod privilege;
mod process;
mod python;
mod resolve;
mod setup;
mod summary;
mod test;
mod tools;
mod vm;

use std::{env, process::ExitCode};

use context::Context;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  setup                      get the toolchain of the kernel program, if it is not there
  build [--release] [ARGS]   build the binary `limiter`; ARGS go to cargo build
  lint                       formatting, clippy, dependency policy; warnings are errors
  test [--unit|--integration|--vm] [--kernel DEB]... [--long] [ARGS] [-- ARGS]
                             all tests, or the unit tests, those on this kernel, or those on others
                             in emulated machines (Debian's, or those of the packages DEB); --long:
                             with more cases each, for an hour or so; ARGS go to cargo test; needs root
  demo [ARGS]                real clients limited in front of a real server; needs root
  bench [PART...] [--quick]  what a packet costs, and the same traffic before the limiter and before
                             what is used otherwise; PART: program, traffic, precision,
                             scale; needs root
  package [--static]         the Debian package; or one binary that needs no library
  docs                       build the book of docs/ into the target directory, check its links

LIMITER_TOOLCHAIN_DIR names the toolchain's directory in place of the one in the user's cache.";

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let Some((command, args)) = args.split_first() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let run: fn(&Context, &[String]) -> anyhow::Result<()> = match command.as_str() {
        "setup" => |context, _| setup::report(context),
        "build" => build::run,
        "lint" => |context, _| lint::run(context),
        "test" => test::run,
        "demo" => demo::run,
        "bench" => bench::run,
        "package" => package::run,
        "docs" => docs::run,
        "help" | "--help" | "-h" => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        unknown => {
            eprintln!("there is no command {unknown:?}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match setup::toolchain()
        .and_then(Context::new)
        .and_then(|context| run(&context, args))
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<summary::TestsFailed>() => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
