// SPDX-License-Identifier: MIT OR Apache-2.0

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
mod fleet;
mod forwarding;
mod import;
mod keys;
mod listed;
mod moment;
mod redirects;
mod render;
#[cfg(test)]
mod schemas;
mod socket;
mod status;
mod table;
mod terminal;
mod top;
mod trial;
mod typed;

use std::{os::unix::net::UnixStream, path::PathBuf, process::ExitCode};

use args::{Cli, Command, fleet::FleetCommand};
use exit::Failure;
use socket::SocketSettings;

use crate::{config::Config, logging, run};

/// Parses the command line, runs the command, and returns its exit status.
pub fn main() -> ExitCode {
    let cli = match typed::parse() {
        Ok(cli) => cli,
        Err(status) => return status,
    };
    // A core dump would contain the hash secret, and keys that are being generated or imported.
    let hidden = nix::sys::prctl::set_dumpable(false);
    let wants_log = matches!(cli.command, Command::Run(_));
    logging::init(wants_log);
    if let Err(error) = hidden {
        log::warn!("cannot turn off core dumps of this process: {error}");
    }
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report(wants_log);
            failure.exit_code()
        }
    }
}

fn dispatch(cli: Cli) -> Result<(), Failure> {
    let socket_settings = SocketSettings {
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
            let socket = socket_settings.to_listen(|path| UnixStream::connect(path).is_ok());
            Ok(run::run(
                config,
                &args.options(socket_settings.runtime, socket),
            )?)
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
        Command::Fleet(FleetCommand::Acl { user }) => fleet::acl(&user, cli.json),
        Command::Detach(args) => detach::detach(&args, &socket_settings, cli.json),
        command => commands::run(command, Some(&socket_settings.to_ask()), cli.json),
    }
}
