// SPDX-License-Identifier: MIT OR Apache-2.0

//! The configuration file. [`Config::load`] parses it once, into a type that cannot represent an
//! invalid configuration.

mod accounting;
mod attach;
mod control;
mod document;
mod error;
mod fleet;
mod healing;
mod history;
mod identify;
mod interval;
mod metrics;
mod policy;
mod tiers;

use std::path::{Path, PathBuf};

pub use accounting::{Accounting, Unattended};
pub use attach::{Attach, AttachHook, InterfacePattern, Order, Origin};
pub use control::Control;
pub use error::{ConfigError, Problem};
pub use fleet::{Fleet, FleetRate, engine_lost_as_str, is_name};
pub use healing::Healing;
pub use history::{Days, History};
pub use identify::{HeaderName, MAX_HEADER_SOURCES, Source};
pub use interval::Interval;
pub use metrics::Metrics;
pub use policy::{
    Connect, Handshake, Http2, Malformed, MissingKey, OnLimit, Policy, Preflight, TableFull,
    UnknownKey, Untracked,
};
pub use tiers::{Tier, TierName, Tiers};

use document::Document;

/// The path of the file that is read if the command line does not name one.
pub const DEFAULT_PATH: &str = "/etc/limiter/limiter.toml";

/// The configuration in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The file from which the configuration was read, if any.
    pub file: Option<PathBuf>,
    /// The interfaces and ports whose traffic is limited.
    pub attach: Attach,
    /// The places in which requests carry their keys, in the order in which they are tried. There
    /// is at least one.
    pub sources: Vec<Source>,
    /// The actions for special cases.
    pub policy: Policy,
    /// All tiers, including the built-in ones.
    pub tiers: Tiers,
    /// The sizes of the kernel's tables.
    pub tables: Tables,
    /// The intervals at which the counts are checked and corrected.
    pub healing: Healing,
    /// The number of requests by which counts may run ahead of the store.
    pub accounting: Accounting,
    /// The time for which the usage of past days is kept.
    pub history: History,
    /// The groups that may use the control socket.
    pub control: Control,
    /// The page of metrics.
    pub metrics: Metrics,
    /// The fleet to which this host belongs, if any.
    pub fleet: Option<Fleet>,
}

/// The sizes of the kernel's tables, in entries. The memory of a table is allocated when the table
/// is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tables {
    /// The maximum number of TCP connections that are tracked at a time.
    pub flows: u32,
    /// The maximum number of registered scopes.
    pub scopes: u32,
    /// The maximum number of registered keys.
    pub keys: u32,
    /// The maximum number of unknown keys that may become scopes of their own (`policy.unknown_key
    /// = "tier:NAME"`).
    pub unknown_keys: u32,
    /// Whether there is a table of leases, which only a host of a fleet needs.
    pub leases: bool,
}

impl Tables {
    /// Returns the number of scope ids that registered scopes and the scopes of unknown keys need
    /// together.
    pub fn scope_ids(&self) -> u32 {
        self.scopes.saturating_add(self.unknown_keys)
    }

    /// Returns, for each table, the larger of its sizes in `self` and `wanted`.
    pub fn at_least(&self, wanted: &Self) -> Self {
        Self {
            flows: self.flows.max(wanted.flows),
            scopes: self.scopes.max(wanted.scopes),
            keys: self.keys.max(wanted.keys),
            unknown_keys: self.unknown_keys.max(wanted.unknown_keys),
            leases: self.leases || wanted.leases,
        }
    }
}

impl Default for Tables {
    fn default() -> Self {
        Self {
            flows: 262_144,
            scopes: 131_072,
            keys: 1_048_576,
            unknown_keys: 65_536,
            leases: false,
        }
    }
}

/// The command-line options that affect the configuration.
#[derive(Debug, Clone, Default)]
pub struct Overlay {
    /// The option `-c FILE`. The file must exist.
    pub file: Option<PathBuf>,
    /// The options `--interface`. If there are any, they replace the interfaces in the file.
    pub interfaces: Vec<String>,
    /// The options `--port`. If there are any, they replace the ports in the file.
    pub ports: Vec<u16>,
}

impl Config {
    /// Reads the file that `overlay` names, or the default file, and applies the command-line
    /// options. The default file is not required if these options name interfaces and ports.
    ///
    /// # Errors
    /// Returns [`ConfigError::Read`] if the file cannot be read, and [`ConfigError::Invalid`] with
    /// all problems in the file and in the options, if there are any.
    pub fn load(overlay: &Overlay) -> Result<Self, ConfigError> {
        let path = overlay
            .file
            .clone()
            .unwrap_or_else(|| PathBuf::from(DEFAULT_PATH));
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text, Some(&path), overlay),
            Err(error)
                if error.kind() == std::io::ErrorKind::NotFound
                    && overlay.file.is_none()
                    && !overlay.interfaces.is_empty()
                    && !overlay.ports.is_empty() =>
            {
                Self::parse("", None, overlay)
            }
            Err(source) => {
                let missing =
                    overlay.file.is_none() && source.kind() == std::io::ErrorKind::NotFound;
                // The file may be missing only if both options are given.
                let hint = match (overlay.interfaces.is_empty(), overlay.ports.is_empty()) {
                    _ if !missing => "",
                    (false, _) => "; add --port, or name a file with -c FILE",
                    (true, false) => "; add --interface, or name a file with -c FILE",
                    (true, true) => "; name a file with -c FILE, or give --interface and --port",
                };
                Err(ConfigError::Read { path, source, hint })
            }
        }
    }

    /// Parses `text`, which was read from `path`, and applies the command-line options.
    ///
    /// # Errors
    /// Returns [`ConfigError::Invalid`] with all problems that were found, if there are any.
    pub fn parse(text: &str, path: Option<&Path>, overlay: &Overlay) -> Result<Self, ConfigError> {
        let mut document = Document::new(text, path)?;
        let config = Self::read(&mut document, path, overlay);
        document.finish()?;
        Ok(config)
    }

    /// Returns the configuration of a daemon that attaches to no interface and guards no port.
    /// `limiter detach` uses it to remove what another daemon has left behind, whatever the
    /// configuration file of that daemon contains now.
    ///
    /// # Errors
    /// Never returns an error, because an empty file is valid TOML.
    pub fn without_interfaces() -> Result<Self, ConfigError> {
        let mut document = Document::new("", None)?;
        // The problems are ignored, because they only concern the missing interfaces and ports.
        Ok(Self::read(&mut document, None, &Overlay::default()))
    }

    fn read(document: &mut Document<'_>, path: Option<&Path>, overlay: &Overlay) -> Self {
        let root = document.root();
        document.known(
            &root,
            &[
                "attach",
                "identify",
                "policy",
                "tiers",
                "tables",
                "healing",
                "accounting",
                "history",
                "control",
                "metrics",
                "fleet",
            ],
        );
        let tiers = Tiers::read(document, &root);
        let attach = Attach::read(document, &root, overlay);
        let sources = identify::read(document, &root);
        let policy = Policy::read(document, &root, &tiers);
        let mut tables = read_tables(document, &root);
        let healing = Healing::read(document, &root);
        let mut accounting = Accounting::read(document, &root);
        let history = History::read(document, &root);
        let control = Control::read(document, &root);
        let metrics = Metrics::read(document, &root, &attach);
        let fleet = Fleet::read(document, &root, &mut accounting);
        tables.leases = fleet.is_some();
        Self {
            file: path.map(Path::to_path_buf),
            attach,
            sources,
            policy,
            tiers,
            tables,
            healing,
            accounting,
            history,
            control,
            metrics,
            fleet,
        }
    }
}

/// The maximum number of entries in a table. The kernel supports hash maps of this size on a large
/// host.
const MAX_ENTRIES: u64 = 1 << 24;

fn read_tables<'a>(document: &mut Document<'a>, root: &document::Section<'a>) -> Tables {
    let defaults = Tables::default();
    let Some(section) = document.section(root, "tables") else {
        return defaults;
    };
    document.known(&section, &["flows", "scopes", "keys", "unknown_keys"]);
    let mut size = |name: &str, default: u32| {
        document
            .integer(&section, name, 64, MAX_ENTRIES)
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(default)
    };
    Tables {
        flows: size("flows", defaults.flows),
        scopes: size("scopes", defaults.scopes),
        keys: size("keys", defaults.keys),
        unknown_keys: size("unknown_keys", defaults.unknown_keys),
        leases: defaults.leases,
    }
}

#[cfg(test)]
mod tests;
