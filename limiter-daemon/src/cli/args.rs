//! What can be typed.

use std::{
    io,
    path::{Path, PathBuf},
};

use chrono::NaiveDate;
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;

use super::{
    SOCKET_NAME, examples,
    moment::{Since, Until},
};
use crate::{
    api::{ScopeMode, TopColumn},
    config::Overlay,
    daemon::{Directories, RunOptions},
    limits::{Bound, Changes},
    rate::Rate,
    scope::ScopeName,
};

/// Where a daemon's control socket is by default.
pub(super) const DEFAULT_RUNTIME: &str = "/run/limiter";
const DEFAULT_STATE: &str = "/var/lib/limiter";
/// Where maps and links are pinned by default.
const DEFAULT_PINS: &str = "/sys/fs/bpf/limiter";

/// The default control socket.
pub(super) fn default_socket() -> PathBuf {
    PathBuf::from(DEFAULT_RUNTIME).join(SOCKET_NAME)
}

/// Limits of API keys, kept in the kernel
#[derive(Debug, Parser)]
#[command(name = "limiter", version, arg_required_else_help = true, after_help = examples::LIMITER)]
pub(super) struct Cli {
    /// The daemon's control socket [default: in the runtime directory; env: LIMITER_SOCKET]
    #[arg(long, global = true, value_name = "PATH")]
    pub(super) socket: Option<PathBuf>,
    /// The directory that the control socket is in [default: /run/limiter]
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
    /// Put limits into force and keep them up to date
    #[command(after_help = examples::RUN)]
    Run(RunArgs),
    /// Is the configuration valid, and what does it come to
    #[command(after_help = examples::CHECK)]
    Check(CheckArgs),
    /// Attached where, since when, totals, coverage, health
    #[command(after_help = examples::STATUS)]
    Status,
    /// Accounts and profiles
    #[command(subcommand, after_help = examples::SCOPE)]
    Scope(ScopeCommand),
    /// API keys
    #[command(subcommand, after_help = examples::KEY)]
    Key(KeyCommand),
    /// Limits of a scope's own
    #[command(subcommand, after_help = examples::LIMITS)]
    Limits(LimitsCommand),
    /// Used, left, in flight, refused by reason, and when it starts again
    #[command(after_help = examples::USAGE)]
    Usage {
        /// Only this scope
        #[arg(value_name = "SCOPE")]
        scope: Option<ScopeName>,
        /// A past UTC day, like 2026-11-24
        #[arg(long, value_name = "DATE")]
        date: Option<NaiveDate>,
    },
    /// Set today's count of a scope back to zero
    #[command(after_help = examples::RESET)]
    Reset {
        /// The scope
        #[arg(value_name = "SCOPE")]
        scope: ScopeName,
        /// Why, for the audit trail
        #[arg(long, value_name = "TEXT", value_parser = note)]
        note: String,
    },
    /// Named limits
    #[command(subcommand, after_help = examples::TIER)]
    Tier(TierCommand),
    /// Who changed what, when and why; the oldest first
    #[command(after_help = examples::AUDIT)]
    Audit(AuditArgs),
    /// Would a request pass now; if not, which limit is it, since when, until when
    #[command(after_help = examples::EXPLAIN)]
    Explain {
        /// A scope, or a key by its id
        #[arg(value_name = "SCOPE|KEY-ID")]
        object: String,
    },
    /// Refusals, changes and troubles: the latest, or as they come
    #[command(after_help = examples::EVENTS)]
    Events(EventsArgs),
    /// The busiest scopes, live
    #[command(after_help = examples::TOP)]
    Top(TopArgs),
    /// Read the configuration again; a bad one changes nothing
    #[command(after_help = examples::RELOAD)]
    Reload,
    /// Take everything down: attachments, maps and pins; with a daemon or without
    #[command(after_help = examples::DETACH)]
    Detach(DetachArgs),
    /// Completions for a shell
    #[command(after_help = examples::COMPLETIONS)]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write the manual pages, of limiter and of each command
    #[command(hide = true)]
    ManPages {
        /// Where to
        directory: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    /// The configuration [default: /etc/limiter/limiter.toml]
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    file: Option<PathBuf>,
    /// Attach to this interface (name or glob) instead of the file's; may be repeated
    #[arg(long = "interface", value_name = "IF")]
    interfaces: Vec<String>,
    /// Guard this server port instead of the file's; may be repeated
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
    /// Where the store and the hash secret are
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE)]
    state_dir: PathBuf,
    /// Where maps and links are pinned, on a BPF file system
    #[arg(long, value_name = "DIR", default_value = DEFAULT_PINS)]
    pin_dir: PathBuf,
    /// Take everything down at the end, instead of leaving limits in force
    #[arg(long)]
    detach_on_exit: bool,
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
    /// Where the store is that the last counts are written to, for when no daemon answers
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE)]
    state_dir: PathBuf,
    /// Where maps and links are pinned, for when no daemon answers
    #[arg(long, value_name = "DIR", default_value = DEFAULT_PINS)]
    pin_dir: PathBuf,
}

impl DetachArgs {
    /// Those of the daemon that is gone.
    pub(super) fn directories(&self, runtime: Option<&Path>) -> Directories {
        Directories {
            state: self.state_dir.clone(),
            runtime: runtime.map_or_else(|| PathBuf::from(DEFAULT_RUNTIME), Path::to_path_buf),
            pins: self.pin_dir.clone(),
            socket: None,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum ScopeCommand {
    /// Add an account (`acme`) or a profile (`acme/web`); a profile needs no account
    #[command(after_help = examples::SCOPE_ADD)]
    Add {
        /// Its name
        #[arg(value_name = "SCOPE")]
        scope: ScopeName,
        /// Its tier [default: master for an account, profile for a profile]
        #[arg(long, value_name = "TIER")]
        tier: Option<String>,
    },
    /// All scopes
    #[command(after_help = examples::SCOPE_LIST)]
    List,
    /// One scope: tier, limits, override, keys
    #[command(after_help = examples::SCOPE_SHOW)]
    Show {
        /// Its name
        #[arg(value_name = "SCOPE")]
        scope: ScopeName,
    },
    /// Enforce a scope's limits, or only count what they would refuse
    #[command(after_help = examples::SCOPE_MODE)]
    Mode {
        /// Its name
        #[arg(value_name = "SCOPE")]
        scope: ScopeName,
        /// From its next request on
        #[arg(value_name = "MODE")]
        mode: ScopeMode,
        /// Why, for the audit trail
        #[arg(long, value_name = "TEXT", value_parser = note)]
        note: String,
    },
    /// Remove a scope; its usage stays on record
    #[command(after_help = examples::SCOPE_REMOVE)]
    Remove {
        /// Its name
        #[arg(value_name = "SCOPE")]
        scope: ScopeName,
        /// Also when keys of it are active
        #[arg(long)]
        with_keys: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Make a key and show it, this once
    #[command(after_help = examples::KEY_CREATE)]
    Create {
        /// The scope it is of
        #[arg(value_name = "SCOPE")]
        scope: ScopeName,
        /// What to call it
        #[arg(long, value_name = "LABEL")]
        label: Option<String>,
    },
    /// Register an existing key from standard input, or many from a file
    #[command(after_help = examples::KEY_IMPORT)]
    #[command(group(clap::ArgGroup::new("what").required(true).args(["scope", "csv"])))]
    Import {
        /// The scope it is of
        #[arg(value_name = "SCOPE")]
        scope: Option<ScopeName>,
        /// What to call it
        #[arg(long, value_name = "LABEL", conflicts_with = "csv")]
        label: Option<String>,
        /// Many keys: a header line `scope,key`, with `label` and `tier` if wanted
        #[arg(long, value_name = "FILE")]
        csv: Option<PathBuf>,
    },
    /// What is known of a key from standard input: well-formed, registered, its scope and state
    #[command(after_help = examples::KEY_CHECK)]
    Check,
    /// All keys, or a scope's; never the keys themselves
    #[command(after_help = examples::KEY_LIST)]
    List {
        /// Only of this scope
        #[arg(value_name = "SCOPE")]
        scope: Option<ScopeName>,
    },
    /// Answer a key's requests with 401 until it is enabled again
    #[command(after_help = examples::KEY_DISABLE)]
    Disable {
        /// The key's id
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Admit a disabled key's requests again
    #[command(after_help = examples::KEY_ENABLE)]
    Enable {
        /// The key's id
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Answer a key's requests with 401 for ever
    #[command(after_help = examples::KEY_REVOKE)]
    Revoke {
        /// The key's id
        #[arg(value_name = "ID")]
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum LimitsCommand {
    /// Give a scope limits of its own; those not named stay as they are
    #[command(after_help = examples::LIMITS_SET)]
    Set(SetArgs),
    /// Back to the limits of the scope's tier
    #[command(after_help = examples::LIMITS_CLEAR)]
    Clear {
        /// The scope
        #[arg(value_name = "SCOPE")]
        scope: ScopeName,
        /// Why, for the audit trail
        #[arg(long, value_name = "TEXT", value_parser = note)]
        note: String,
    },
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("limit").required(true).multiple(true)
    .args(["daily_quota", "rate", "burst", "concurrency", "connections"])))]
pub(super) struct SetArgs {
    /// The scope
    #[arg(value_name = "SCOPE")]
    pub(super) scope: ScopeName,
    /// Requests a UTC day
    #[arg(long, value_name = "N|unlimited")]
    daily_quota: Option<Bound<u64>>,
    /// Requests in a time, like 1/ms, 100/s, 30/min
    #[arg(long, value_name = "R|unlimited")]
    rate: Option<Bound<Rate>>,
    /// Requests that may come at once after a pause
    #[arg(long, value_name = "N")]
    burst: Option<u64>,
    /// Requests in flight
    #[arg(long, value_name = "N|unlimited")]
    concurrency: Option<Bound<u64>>,
    /// Open connections
    #[arg(long, value_name = "N|unlimited")]
    connections: Option<Bound<u64>>,
    /// When it ends by itself: 2026-12-31, 2026-12-31T18:00:00Z, or from now on 90m, 36h, 7d
    #[arg(long, value_name = "T")]
    pub(super) until: Option<Until>,
    /// Why, for the audit trail
    #[arg(long, value_name = "TEXT", value_parser = note)]
    pub(super) note: String,
}

impl SetArgs {
    pub(super) fn changes(&self) -> Changes {
        Changes {
            daily_quota: self.daily_quota,
            rate: self.rate,
            burst: self.burst,
            concurrency: self.concurrency,
            connections: self.connections,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum TierCommand {
    /// All tiers
    #[command(after_help = examples::TIER_LIST)]
    List,
}

#[derive(Debug, Args)]
pub(super) struct AuditArgs {
    /// Only what concerns this scope, or this key by its id
    #[arg(value_name = "SCOPE|ID")]
    pub(super) object: Option<String>,
    /// Only from then on: 2026-11-24, 2026-11-24T18:00:00Z, or the last 90m, 36h, 7d
    #[arg(long, value_name = "T")]
    pub(super) since: Option<Since>,
    /// The last so many of them
    #[arg(long, value_name = "N", default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) limit: u32,
}

#[derive(Debug, Args)]
pub(super) struct EventsArgs {
    /// Go on with what happens from now on, over restarts of the daemon too
    #[arg(short, long)]
    pub(super) follow: bool,
    /// The last so many of what the daemon remembers
    #[arg(long, value_name = "N", default_value_t = 20,
        value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub(super) limit: u32,
}

#[derive(Debug, Args)]
pub(super) struct TopArgs {
    /// What to sort by first
    #[arg(long, value_name = "COLUMN", default_value = "rate")]
    pub(super) by: TopColumn,
    /// Only scopes with this in their names
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(super) filter: String,
}

/// A reason that says something.
fn note(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("the note is empty: say why, for the audit trail".to_owned());
    }
    Ok(text.to_owned())
}

pub(super) fn print_completions(shell: Shell) {
    clap_complete::generate(shell, &mut Cli::command(), "limiter", &mut io::stdout());
}

/// Writes `limiter.1`, `limiter-run.1` and so on.
pub(super) fn write_man_pages(directory: &Path) -> io::Result<()> {
    clap_mangen::generate_to(Cli::command(), directory)
}

#[cfg(test)]
mod tests;
