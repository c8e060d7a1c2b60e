//! The command line.

mod advice;
mod args;
mod check;
mod client;
mod commands;
mod detach;
mod events;
mod examples;
mod exit;
mod explain;
mod import;
mod moment;
mod render;
#[cfg(test)]
mod schemas;
mod socket;
mod status;
mod table;
mod terminal;
mod top;

use std::{os::unix::net::UnixStream, path::PathBuf, process::ExitCode};

use clap::Parser as _;

use args::{Cli, Command};
use exit::Failure;
use socket::Said;

use crate::{config::Config, daemon, logging};

/// The control socket's name in the runtime directory.
pub const SOCKET_NAME: &str = "limiter.sock";

/// Parses the command line, does what it says, and decides the exit status.
pub fn main() -> ExitCode {
    // clap itself exits with 2 for usage errors and 0 for --help, as DESIGN.md has it.
    let cli = Cli::parse();
    // A core dump would hold the hash secret, and keys that are just being made or imported.
    let hidden = nix::sys::prctl::set_dumpable(false);
    let wants_log = matches!(cli.command, Command::Run(_));
    logging::init(wants_log);
    if let Err(error) = hidden {
        log::warn!("core dumps stay possible: {error}");
    }
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.tell(wants_log);
            failure.exit_code()
        }
    }
}

fn dispatch(cli: Cli) -> Result<(), Failure> {
    let said = Said {
        socket: cli.socket,
        runtime: cli.runtime_dir,
        environment: std::env::var_os("LIMITER_SOCKET")
            .filter(|path| !path.is_empty())
            .map(PathBuf::from),
    };
    match cli.command {
        Command::Run(args) => {
            let overlay = args.overlay();
            let config = Config::load(&overlay)?;
            // Names that do not exist are an invalid configuration, before anything is touched.
            daemon::resolve_or_refuse(&config).map_err(Failure::from)?;
            let socket = said.to_listen(|path| UnixStream::connect(path).is_ok());
            Ok(daemon::run(config, &args.options(said.runtime, socket))?)
        }
        Command::Check(args) => check::check(&args, cli.json),
        Command::Completions { shell } => {
            args::print_completions(shell);
            Ok(())
        }
        Command::ManPages { directory } => args::write_man_pages(&directory).map_err(|error| {
            Failure::failed(format!(
                "cannot write manual pages to {}: {error}",
                directory.display()
            ))
        }),
        Command::Detach(args) => {
            let runtime = said.runtime.as_deref();
            detach::detach(&args, runtime, Some(&said.to_ask()), cli.json)
        }
        command => commands::run(command, Some(&said.to_ask()), cli.json),
    }
}
