// SPDX-License-Identifier: MIT OR Apache-2.0

//! The command-line arguments.

pub(super) mod fleet;
pub(super) mod keys;
pub(super) mod limits;
pub(super) mod scopes;

use std::{
    io,
    path::{Path, PathBuf},
};

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;

use self::{fleet::FleetCommand, keys::KeyCommand, limits::LimitsCommand, scopes::ScopeCommand};
use super::{
    examples,
    moment::{Date, Since},
};
use crate::{
    config::Overlay,
    domain::{
        plain::{self, InvisibleError},
        scope::ScopeName,
    },
    protocol::insight::TopColumn,
    run::{Directories, RunOptions, SOCKET_NAME, offline::Pinned},
};

/// The default directory of the control socket.
pub(super) const DEFAULT_RUNTIME: &str = "/run/limiter";
const DEFAULT_STATE: &str = "/var/lib/limiter";
/// The default directory in which maps and links are pinned.
const DEFAULT_PINS: &str = "/sys/fs/bpf/limiter";

/// Returns the path of the default control socket.
pub(super) fn default_socket() -> PathBuf {
    PathBuf::from(DEFAULT_RUNTIME).join(SOCKET_NAME)
}

/// API-key rate limits, enforced in the kernel
#[derive(Debug, Parser)]
#[command(name = "limiter", version, arg_required_else_help = true, after_help = examples::LIMITER)]
pub(super) struct Cli {
    /// The daemon's control socket [default: in the runtime directory; env: LIMITER_SOCKET]
    #[arg(long, global = true, value_name = "PATH")]
    pub(super) socket: Option<PathBuf>,
    /// The directory of the control socket [default: /run/limiter]
    #[arg(long, global = true, value_name = "DIR")]
    pub(super) runtime_dir: Option<PathBuf>,
    /// Print one JSON object or array instead of a table
    #[arg(long, global = true)]
    pub(super) json: bool,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the daemon, which puts limits into force and keeps them up to date
    #[command(after_help = examples::RUN)]
    Run(RunArgs),
    /// Check the configuration, and show the settings that result from it
    #[command(after_help = examples::CHECK)]
    Check(CheckArgs),
    /// Show attachments, totals, coverage and health
    #[command(after_help = examples::STATUS)]
    Status,
    /// Manage scopes, which are accounts and profiles
    #[command(subcommand, after_help = examples::SCOPE)]
    Scope(ScopeCommand),
    /// Manage API keys
    #[command(subcommand, after_help = examples::KEY)]
    Key(KeyCommand),
    /// Set or clear the override of a scope
    #[command(subcommand, after_help = examples::LIMITS)]
    Limits(LimitsCommand),
    /// Show the requests of scopes: used, left, in flight and refused
    #[command(after_help = examples::USAGE)]
    Usage {
        /// Only this scope
        #[arg(value_name = "SCOPE")]
        scope: Option<ScopeName>,
        /// A UTC day: 2026-11-24, yesterday, today
        #[arg(long, value_name = "DATE")]
        date: Option<Date>,
    },
    /// Reset today's count of a scope to zero
    #[command(after_help = examples::RESET)]
    Reset {
        /// The scope
        #[arg(value_name = "SCOPE")]
        scope: ScopeName,
        /// The reason, for the audit trail
        #[arg(long, value_name = "TEXT", value_parser = note)]
        note: String,
    },
    /// Show tiers, which are named sets of limits
    #[command(subcommand, after_help = examples::TIER)]
    Tier(TierCommand),
    /// Show the audit trail of changes, with the oldest first
    #[command(after_help = examples::AUDIT)]
    Audit(AuditArgs),
    /// Explain whether a request would be admitted now, and if not, why and until when
    #[command(after_help = examples::EXPLAIN)]
    Explain {
        /// A scope, or the id of a key
        #[arg(value_name = "SCOPE|KEY-ID")]
        object: String,
    },
    /// Show events: refusals, changes and faults, either the latest or as they happen
    #[command(after_help = examples::EVENTS)]
    Events(EventsArgs),
    /// Show the busiest scopes, live
    #[command(after_help = examples::TOP)]
    Top(TopArgs),
    /// Share daily quotas, scopes and keys with other hosts
    #[command(subcommand, after_help = examples::FLEET)]
    Fleet(FleetCommand),
    /// Read the configuration again; an invalid one changes nothing
    #[command(after_help = examples::RELOAD)]
    Reload,
    /// Remove everything: attachments, maps and pins, whether or not a daemon is running
    #[command(after_help = examples::DETACH)]
    Detach(DetachArgs),
    /// Print completions for a shell
    #[command(after_help = examples::COMPLETIONS)]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write the manual pages of limiter and of each command
    #[command(hide = true)]
    ManPages {
        /// The directory for the pages
        directory: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    /// The configuration file [default: /etc/limiter/limiter.toml]
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    file: Option<PathBuf>,
    /// Attach to this interface (name, alternative name or glob) instead of those of the file; may
    /// be repeated
    #[arg(long = "interface", value_name = "IF")]
    interfaces: Vec<String>,
    /// Guard this server port instead of those of the file; may be repeated
    #[arg(long = "port", value_name = "P")]
    ports: Vec<u16>,
}

impl ConfigArgs {
    pub(super) fn overlay(&self) -> Overlay {
        Overlay {
            file: self.file.clone(),
            interfaces: self.interfaces.clone(),
            ports: self.ports.clone(),
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The directory of the store and the hash secret
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE)]
    state_dir: PathBuf,
    /// The directory in which maps and links are pinned, on a BPF file system
    #[arg(long, value_name = "DIR", default_value = DEFAULT_PINS)]
    pin_dir: PathBuf,
    /// Remove everything when the daemon stops, instead of leaving limits in force
    #[arg(long)]
    detach_on_exit: bool,
    /// Run even if the pins vanish with this process, as they do in a separate mount namespace
    #[arg(long)]
    private_mounts: bool,
}

impl RunArgs {
    pub(super) fn overlay(&self) -> Overlay {
        self.config.overlay()
    }

    pub(super) fn options(&self, runtime: Option<PathBuf>, socket: Option<PathBuf>) -> RunOptions {
        RunOptions {
            directories: Directories {
                state: self.state_dir.clone(),
                runtime: runtime.unwrap_or_else(|| PathBuf::from(DEFAULT_RUNTIME)),
                pins: self.pin_dir.clone(),
                socket,
            },
            overlay: self.overlay(),
            detach_on_exit: self.detach_on_exit,
            private_mounts: self.private_mounts,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    pub(super) config: ConfigArgs,
}

#[derive(Debug, Args)]
pub(super) struct DetachArgs {
    /// The directory of the store, to which the last counts are written if no daemon is running
    /// [default: /var/lib/limiter]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// The directory in which maps and links are pinned [default: /sys/fs/bpf/limiter]
    #[arg(long, value_name = "DIR")]
    pin_dir: Option<PathBuf>,
}

impl DetachArgs {
    /// Returns the directories that this process uses if no daemon is running.
    pub(super) fn pinned(&self, runtime: Option<&Path>) -> Pinned {
        let or_default = |path: &Option<PathBuf>, default: &str| {
            path.clone().unwrap_or_else(|| PathBuf::from(default))
        };
        Pinned {
            state: or_default(&self.state_dir, DEFAULT_STATE),
            pins: or_default(&self.pin_dir, DEFAULT_PINS),
            runtime: runtime.map(Path::to_path_buf),
        }
    }

    /// Returns whether the command line contains `--state-dir` or `--pin-dir`.
    pub(super) fn names_directories(&self) -> bool {
        self.state_dir.is_some() || self.pin_dir.is_some()
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum TierCommand {
    /// List all tiers
    #[command(after_help = examples::TIER_LIST)]
    List,
}

#[derive(Debug, Args)]
pub(super) struct AuditArgs {
    /// Only changes of this scope, or of the key with this id
    #[arg(value_name = "SCOPE|ID")]
    pub(super) object: Option<String>,
    /// Only changes since this time: 2026-11-24, 2026-11-24T18:00:00Z, or within the last 90m, 36h
    /// or 7d
    #[arg(long, value_name = "T")]
    pub(super) since: Option<Since>,
    /// The maximum number of changes; if there are more, the latest are shown
    #[arg(long, value_name = "N", default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) limit: u32,
}

#[derive(Debug, Args)]
pub(super) struct EventsArgs {
    /// Continue with events as they happen, also across restarts of the daemon
    #[arg(short, long)]
    pub(super) follow: bool,
    /// The maximum number of past events; if there are more, the latest are shown
    #[arg(long, value_name = "N", default_value_t = 20,
        value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub(super) limit: u32,
}

#[derive(Debug, Args)]
pub(super) struct TopArgs {
    /// The initial sort column
    #[arg(long, value_name = "COLUMN", default_value = "rate")]
    pub(super) by: TopColumn,
    /// Only scopes whose names contain this text
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(super) filter: String,
}

/// Parses a reason, which must not be empty.
fn note(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("the note is empty: give the reason for the audit trail".to_owned());
    }
    plain(text).map_err(|why| format!("the note {why}"))
}

/// Parses the label of a key.
fn label(text: &str) -> Result<String, String> {
    plain(text).map_err(|why| format!("the label {why}"))
}

fn plain(text: &str) -> Result<String, InvisibleError> {
    plain::check(text).map(|()| text.to_owned())
}

pub(super) fn print_completions(shell: Shell) {
    clap_complete::generate(shell, &mut Cli::command(), "limiter", &mut io::stdout());
}

/// Writes `limiter.1`, `limiter-run.1` and the other manual pages.
pub(super) fn write_man_pages(directory: &Path) -> io::Result<()> {
    clap_mangen::generate_to(Cli::command(), directory)
}

#[cfg(test)]
mod tests;
