// SPDX-License-Identifier: MIT OR Apache-2.0

//! The arguments of `limiter key`.

use std::path::PathBuf;

use clap::Subcommand;

use super::{label, note};
use crate::{
    cli::{examples, moment::Until},
    domain::scope::ScopeName,
};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum KeyCommand {
    /// Generate a key and print it; it is not shown again
    #[command(after_help = examples::KEY_CREATE)]
    Create {
        /// The scope of the key
        #[arg(value_name = "SCOPE")]
        scope: ScopeName,
        /// A label for the key
        #[arg(long, value_name = "LABEL", value_parser = label)]
        label: Option<String>,
        /// The time at which the key is revoked automatically: 2026-12-31, 2026-12-31T18:00:00Z,
        /// or after 90m, 36h or 7d
        #[arg(long, value_name = "T")]
        until: Option<Until>,
        /// The reason, for the audit trail
        #[arg(long, value_name = "TEXT", value_parser = note)]
        note: Option<String>,
    },
    /// Register an existing key from standard input, or many from a file
    #[command(after_help = examples::KEY_IMPORT)]
    #[command(group(clap::ArgGroup::new("what").required(true).args(["scope", "csv"])))]
    Import {
        /// The scope of the key
        #[arg(value_name = "SCOPE")]
        scope: Option<ScopeName>,
        /// A label for the key
        #[arg(long, value_name = "LABEL", value_parser = label,
            conflicts_with = "csv")]
        label: Option<String>,
        /// A file of keys with the header line `scope,key` and optional columns `label` and `tier`;
        /// `-` is standard input
        ///
        /// The columns are separated by commas. The file is imported as a whole or not at all. A
        /// key that is registered for the same scope already is not changed.
        #[arg(long, value_name = "FILE|-")]
        csv: Option<PathBuf>,
        /// The reason, for the audit trail
        #[arg(long, value_name = "TEXT", value_parser = note, conflicts_with = "csv")]
        note: Option<String>,
    },
    /// Check a key from standard input: whether it is well-formed and registered, and its scope and
    /// state
    #[command(after_help = examples::KEY_CHECK)]
    Check,
    /// List all keys or those of a scope, by their ids
    #[command(after_help = examples::KEY_LIST)]
    List {
        /// Only keys of this scope
        #[arg(value_name = "SCOPE")]
        scope: Option<ScopeName>,
        /// List the keys of removed scopes instead; all of them are revoked
        #[arg(long)]
        removed: bool,
    },
    /// Answer a key's requests with 401 until it is enabled again
    #[command(after_help = examples::KEY_DISABLE)]
    Disable {
        /// The id of the key
        #[arg(value_name = "ID")]
        id: String,
        /// The reason, for the audit trail
        #[arg(long, value_name = "TEXT", value_parser = note)]
        note: Option<String>,
    },
    /// Admit a disabled key's requests again
    #[command(after_help = examples::KEY_ENABLE)]
    Enable {
        /// The id of the key
        #[arg(value_name = "ID")]
        id: String,
        /// The reason, for the audit trail
        #[arg(long, value_name = "TEXT", value_parser = note)]
        note: Option<String>,
    },
    /// Answer a key's requests with 401 for good, even after its scope is removed
    #[command(after_help = examples::KEY_REVOKE)]
    Revoke {
        /// The id of the key
        #[arg(value_name = "ID")]
        id: String,
        /// Revoke the key at this time instead of now: 2026-12-31, 2026-12-31T18:00:00Z, or after
        /// 90m, 36h or 7d; `never` removes an earlier such time
        #[arg(long, value_name = "T|never")]
        at: Option<Until>,
        /// The reason, for the audit trail
        #[arg(long, value_name = "TEXT", value_parser = note)]
        note: Option<String>,
    },
}
