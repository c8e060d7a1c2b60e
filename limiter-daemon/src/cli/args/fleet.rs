// SPDX-License-Identifier: MIT OR Apache-2.0

//! The arguments of `limiter fleet`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::DEFAULT_STATE;
use crate::cli::examples;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum FleetCommand {
    /// Create a fleet on the engine, with this host as its first one
    #[command(after_help = examples::FLEET_INIT)]
    Init,
    /// Make this host a part of the fleet that the engine has
    #[command(after_help = examples::FLEET_JOIN)]
    Join(JoinArgs),
    /// Give back the leases of this host, and make it independent again
    #[command(after_help = examples::FLEET_LEAVE)]
    Leave,
    /// Show the engine, the leases of this host, and all hosts
    #[command(after_help = examples::FLEET_STATUS)]
    Status,
    /// Remove a host that will not come back from the list of hosts
    #[command(after_help = examples::FLEET_FORGET)]
    Forget {
        /// The name or the id of the host
        #[arg(value_name = "HOST")]
        host: String,
    },
    /// Give an engine that has lost its registry the scopes and keys of this host
    #[command(after_help = examples::FLEET_SEED)]
    Seed,
    /// Print the line for the engine's list of users that gives limiter the rights that it needs
    #[command(after_help = examples::FLEET_ACL)]
    Acl {
        /// The name of the user
        #[arg(long, value_name = "NAME", default_value = "limiter")]
        user: String,
    },
}

#[derive(Debug, Args)]
pub(in crate::cli) struct JoinArgs {
    /// Replace the scopes and keys of this host by those of the fleet
    #[arg(long)]
    pub(in crate::cli) replace: bool,
    /// The directory for the hash secret, if no daemon is running [default: /var/lib/limiter]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

impl JoinArgs {
    pub(in crate::cli) fn state_dir(&self) -> PathBuf {
        let default = || PathBuf::from(DEFAULT_STATE);
        self.state_dir.clone().unwrap_or_else(default)
    }
}
