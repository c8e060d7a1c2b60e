//! The configuration file: read once, raw to resolved. What is invalid cannot be represented
//! after [`Config::load`].

mod accounting;
mod attach;
mod control;
mod document;
mod error;
mod healing;
mod history;
mod identify;
mod interfaces;
mod metrics;
mod policy;
mod tiers;

use std::path::{Path, PathBuf};

pub use accounting::{Accounting, Unattended};
pub use attach::{Attach, AttachHook, InterfacePattern, Origin};
pub use control::Control;
pub use error::{ConfigError, Problem};
pub use healing::{Healing, Interval};
pub use history::{Days, History};
pub use identify::{HeaderName, MAX_HEADER_SOURCES, Source};
pub use interfaces::{Resolution, resolve};
pub use metrics::Metrics;
pub use policy::{
    Handshake, Http2, Malformed, MissingKey, Mode, OnLimit, Policy, TableFull, UnknownKey,
    Untracked,
};
pub use tiers::{Tier, TierName, Tiers};

use document::Document;

/// Where the configuration is looked for when nothing else is said.
pub const DEFAULT_PATH: &str = "/etc/limiter/limiter.toml";

/// The configuration in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The file it came from, if there was one.
    pub file: Option<PathBuf>,
    /// Where traffic is limited.
    pub attach: Attach,
    /// Where requests carry their key, in order; never empty.
    pub sources: Vec<Source>,
    /// What happens in each case.
    pub policy: Policy,
    /// All tiers, the built-in ones too.
    pub tiers: Tiers,
    /// Sizes of the kernel's tables.
    pub tables: Tables,
    /// How often counts are checked.
    pub healing: Healing,
    /// How far counts may run ahead of the store.
    pub accounting: Accounting,
    /// How long the usage of past days is kept.
    pub history: History,
    /// Who may use the control socket.
    pub control: Control,
    /// The page of metrics.
    pub metrics: Metrics,
}

/// Sizes of the kernel's tables, in entries. Memory is taken when they are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tables {
    /// TCP connections followed at a time.
    pub flows: u32,
    /// Scopes.
    pub scopes: u32,
    /// Keys.
    pub keys: u32,
    /// Unknown keys that may become scopes of their own (`policy.unknown_key = "tier:NAME"`).
    pub unknown_keys: u32,
}

impl Tables {
    /// Scope ids: for as many scopes as can be registered, and for those of unknown keys.
    pub fn scope_ids(&self) -> u32 {
        self.scopes.saturating_add(self.unknown_keys)
    }

    /// These, and where `wanted` has more, as many as that.
    pub fn at_least(&self, wanted: &Self) -> Self {
        Self {
            flows: self.flows.max(wanted.flows),
            scopes: self.scopes.max(wanted.scopes),
            keys: self.keys.max(wanted.keys),
            unknown_keys: self.unknown_keys.max(wanted.unknown_keys),
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
        }
    }
}

/// What the command line says about the configuration.
#[derive(Debug, Clone, Default)]
pub struct Overlay {
    /// `-c FILE`; its absence from the disk is then an error.
    pub file: Option<PathBuf>,
    /// `--interface`, instead of the file's when any is given.
    pub interfaces: Vec<String>,
    /// `--port`, instead of the file's when any is given.
    pub ports: Vec<u16>,
}

impl Config {
    /// Reads the file that `overlay` names, or the default one, and lays the command line over
    /// it. The default file may be missing when the command line names interfaces and ports.
    ///
    /// # Errors
    /// [`ConfigError::Read`] when the file cannot be read, [`ConfigError::Invalid`] with every
    /// problem found in it.
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
                // Both at once need no file, and do not come here.
                let hint = match (overlay.interfaces.is_empty(), overlay.ports.is_empty()) {
                    _ if !missing => "",
                    (false, _) => "; --port is missing: give it, or name a file with -c FILE",
                    (true, false) => {
                        "; --interface is missing: give it, or name a file with -c FILE"
                    }
                    (true, true) => "; name another with -c FILE, or give --interface and --port",
                };
                Err(ConfigError::Read { path, source, hint })
            }
        }
    }

    /// Resolves `text`, which came from `path`, with the command line's additions.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with every problem found.
    pub fn parse(text: &str, path: Option<&Path>, overlay: &Overlay) -> Result<Self, ConfigError> {
        let mut document = Document::new(text, path)?;
        let config = Self::read(&mut document, path, overlay);
        document.finish()?;
        Ok(config)
    }

    /// What holds where nothing is configured, nothing attached and no port guarded: for taking down what
    /// a daemon left, whatever its file says by now.
    ///
    /// # Errors
    /// None that an empty file could have.
    pub fn nowhere() -> Result<Self, ConfigError> {
        let mut document = Document::new("", None)?;
        // Not finished: it lacks what a daemon needs.
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
            ],
        );
        let tiers = Tiers::read(document, &root);
        let attach = Attach::read(document, &root, overlay);
        let sources = identify::read(document, &root);
        let policy = Policy::read(document, &root, &tiers);
        let tables = read_tables(document, &root);
        let healing = Healing::read(document, &root);
        let accounting = Accounting::read(document, &root);
        let history = History::read(document, &root);
        let control = Control::read(document, &root);
        let metrics = Metrics::read(document, &root, &attach);
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
        }
    }
}

/// Largest table: what a hash map of the kernel takes on a large host without surprises.
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
    }
}

#[cfg(test)]
mod tests;
