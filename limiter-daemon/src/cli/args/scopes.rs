// SPDX-License-Identifier: MIT OR Apache-2.0

//! The arguments of `limiter scope`.

use clap::Subcommand;

use super::note;
use crate::{cli::examples, domain::scope::ScopeName, protocol::requests::ScopeMode};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum ScopeCommand {
    /// Add an account (`acme`) or a profile (`acme/web`), which does not need an account
    #[command(after_help = examples::SCOPE_ADD)]
    Add {
        /// The name of the scope
        #[arg(value_name = "SCOPE")]
        scope: ScopeName,
        /// The tier [default: master for an account, profile for a profile]
        #[arg(long, value_name = "TIER")]
        tier: Option<String>,
    },
    /// List all scopes
    #[command(after_help = examples::SCOPE_LIST)]
    List,
    /// Show one scope with its tier, limits, override and keys
    #[command(after_help = examples::SCOPE_SHOW)]
    Show {
        /// The name of the scope
        #[arg(value_name = "SCOPE")]
        scope: ScopeName,
    },
    /// Move a scope to another tier; its counts, keys and own limits stay
    #[command(after_help = examples::SCOPE_SET)]
    Set {
        /// The name of the scope
        #[arg(value_name = "SCOPE")]
        scope: ScopeName,
        /// The new tier, whose limits apply from the scope's next request on
        #[arg(long, value_name = "TIER")]
        tier: String,
        /// The reason, for the audit trail
        #[arg(long, value_name = "TEXT", value_parser = note)]
        note: String,
    },
    /// Enforce a scope's limits, or only count the requests that they would refuse
    #[command(after_help = examples::SCOPE_MODE)]
    Mode {
        /// The name of the scope
        #[arg(value_name = "SCOPE")]
        scope: ScopeName,
        /// The mode from the scope's next request on
        #[arg(value_name = "MODE")]
        mode: ScopeMode,
        /// The reason, for the audit trail
        #[arg(long, value_name = "TEXT", value_parser = note)]
        note: String,
    },
    /// Remove a scope and revoke its keys for good; its usage is kept
    #[command(after_help = examples::SCOPE_REMOVE)]
    Remove {
        /// The name of the scope
        #[arg(value_name = "SCOPE")]
        scope: ScopeName,
        /// Remove the scope even if it has active keys, which get 401 from then on and cannot be
        /// registered again
        #[arg(long)]
        with_keys: bool,
    },
}
