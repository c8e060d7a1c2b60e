// SPDX-License-Identifier: MIT OR Apache-2.0

//! The section `[fleet]`, which names the engine that this host shares daily quotas through.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use limiter_fleet::{
    EngineLost,
    client::{Address, Kind},
};

use super::{
    accounting::Accounting,
    document::{Document, Section},
    interval::Interval,
};

/// The maximum length of a host's name in bytes (hostname(7) allows 64).
const MAX_NAME: usize = 64;
/// The maximum number of replicas that may have to confirm a grant.
const MAX_CONFIRM: u64 = 10;
/// The time for which a lease should last, unless the file names another one.
const LEASE: Interval = Interval(Duration::from_secs(60));

/// The section `[fleet]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fleet {
    /// The kind of the engine.
    pub kind: Kind,
    /// The addresses of the engine's servers, or of the Sentinels that watch them. There is at
    /// least one.
    pub engine: Vec<Address>,
    /// The user at the engine, or `None` for its default user.
    pub user: Option<String>,
    /// The file with the user's password.
    pub password_file: Option<PathBuf>,
    /// The file with the certificates of the authorities that sign the engine's certificate, or
    /// `None` for the authorities that the operating system trusts.
    pub ca_file: Option<PathBuf>,
    /// The files with the client certificate and its private key, if the engine requires them.
    pub client: Option<(PathBuf, PathBuf)>,
    /// The name under which the other hosts know this host, or `None` for the host's name.
    pub host: Option<String>,
    /// The rule while the engine is away.
    pub engine_lost: EngineLost,
    /// The number of replicas that have to confirm a grant, or `None` for the default of the kind.
    pub confirm: Option<u32>,
    /// The time for which a lease should last.
    pub lease: Interval,
    /// Whether the hosts share the rates of scopes.
    pub rate: FleetRate,
}

/// The rule for the rates of scopes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FleetRate {
    /// Each host enforces the whole rate.
    #[default]
    Host,
    /// While the demand of all hosts exceeds the rate of a scope, and for 30 seconds afterwards,
    /// each host enforces a share of it.
    Shared,
}

/// Returns the word for a rule in the configuration.
pub fn engine_lost_as_str(rule: EngineLost) -> &'static str {
    RULES
        .iter()
        .find(|(_, other)| *other == rule)
        .map_or("lease", |(word, _)| word)
}

const RULES: [(&str, EngineLost); 4] = [
    ("lease", EngineLost::Lease),
    ("share", EngineLost::Share),
    ("open", EngineLost::Open),
    ("closed", EngineLost::Closed),
];

impl Fleet {
    /// Returns the word for the kind of the engine.
    pub fn kind_as_str(&self) -> &'static str {
        match self.kind {
            Kind::Single => "single",
            Kind::Sentinel { .. } => "sentinel",
            Kind::Cluster => "cluster",
        }
    }

    pub(super) fn read<'a>(
        document: &mut Document<'a>,
        root: &Section<'a>,
        accounting: &mut Accounting,
    ) -> Option<Self> {
        let section = document.section(root, "fleet")?;
        document.known(
            &section,
            &[
                "engine",
                "kind",
                "master",
                "user",
                "password_file",
                "ca_file",
                "certificate_file",
                "key_file",
                "allow_plain",
                "host",
                "engine_lost",
                "confirm",
                "lease",
                "rate",
            ],
        );
        let kind = read_kind(document, &section);
        let engine = read_addresses(document, &section);
        let rule = document.choice(&section, "engine_lost", &RULES);
        let engine_lost = rule.unwrap_or_default();
        accounting.join_fleet(document, root, engine_lost);
        let confirm = document.integer(&section, "confirm", 0, MAX_CONFIRM);
        let rates = [("host", FleetRate::Host), ("shared", FleetRate::Shared)];
        let rate = document.choice(&section, "rate", &rates);
        Some(Self {
            kind,
            engine,
            user: read_user(document, &section),
            password_file: read_path(document, &section, "password_file"),
            ca_file: read_path(document, &section, "ca_file"),
            client: read_client(document, &section),
            host: read_host(document, &section),
            engine_lost,
            confirm: confirm.and_then(|number| u32::try_from(number).ok()),
            lease: Interval::read(document, &section, "lease", LEASE),
            rate: rate.unwrap_or_default(),
        })
    }
}

/// The kinds, with the words for them in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Single,
    Sentinel,
    Cluster,
}

fn read_kind<'a>(document: &mut Document<'a>, section: &Section<'a>) -> Kind {
    let words = [
        ("single", Word::Single),
        ("sentinel", Word::Sentinel),
        ("cluster", Word::Cluster),
    ];
    let word = document.choice(section, "kind", &words);
    let master = document.string(section, "master");
    match (word, master) {
        (Some(Word::Sentinel), Some((primary, _))) => Kind::Sentinel { primary },
        (Some(Word::Sentinel), None) => {
            let message = "`fleet.kind = \"sentinel\"` needs `fleet.master`, the name under which the Sentinels know the primary".to_owned();
            document.problem(&section.span, message);
            Kind::Single
        }
        (word, Some((_, entry))) => {
            let message =
                "`fleet.master` belongs to `kind = \"sentinel\"`: remove one of them, or change the kind"
                    .to_owned();
            document.problem(&entry.span, message);
            kind_without_primary(word)
        }
        (word, None) => kind_without_primary(word),
    }
}

fn kind_without_primary(word: Option<Word>) -> Kind {
    match word {
        Some(Word::Cluster) => Kind::Cluster,
        _ => Kind::Single,
    }
}

fn read_addresses<'a>(document: &mut Document<'a>, section: &Section<'a>) -> Vec<Address> {
    let allow_plain = document.boolean(section, "allow_plain").unwrap_or(false);
    let Some(entries) = document.array(section, "engine") else {
        if section.entry("engine").is_none() {
            let message =
                "`fleet.engine` is missing: name the engine, like [\"rediss://engine-1:6379\"]";
            document.problem(&section.span, message.to_owned());
        }
        return Vec::new();
    };
    if entries.is_empty()
        && let Some(entry) = section.entry("engine")
    {
        let message = "`fleet.engine` is empty: name the engine, like [\"rediss://engine-1:6379\"]";
        document.problem(&entry.span, message.to_owned());
    }
    let mut addresses = Vec::new();
    for entry in entries {
        let Some(text) = document.text_of(&entry) else {
            continue;
        };
        match text.parse::<Address>() {
            Ok(address) if !address.tls && !allow_plain && !address.is_loopback() => {
                let message = format!(
                    "`{} = \"{text}\"` is a connection without TLS to another host, which can be read and changed on its way: write rediss://, or add `allow_plain = true`",
                    entry.path
                );
                document.problem(&entry.span, message);
            }
            Ok(address) => addresses.push(address),
            Err(error) => document.problem(&entry.span, format!("`{}`: {error}", entry.path)),
        }
    }
    addresses
}

fn read_user<'a>(document: &mut Document<'a>, section: &Section<'a>) -> Option<String> {
    let (text, entry) = document.string(section, "user")?;
    // A space would end the name in the engine's own configuration.
    if text.is_empty() || text.contains(char::is_whitespace) {
        let message = format!(
            "`{} = \"{text}\"` is not the name of a user: it must not be empty or contain spaces",
            entry.path
        );
        document.problem(&entry.span, message);
        return None;
    }
    Some(text)
}

fn read_path<'a>(
    document: &mut Document<'a>,
    section: &Section<'a>,
    name: &str,
) -> Option<PathBuf> {
    let (text, entry) = document.string(section, name)?;
    // The daemon's working directory depends on how it is started.
    if !Path::new(&text).is_absolute() {
        let message = format!(
            "`{} = \"{text}\"` is not an absolute path: begin it with /",
            entry.path
        );
        document.problem(&entry.span, message);
        return None;
    }
    Some(text.into())
}

fn read_client<'a>(
    document: &mut Document<'a>,
    section: &Section<'a>,
) -> Option<(PathBuf, PathBuf)> {
    let certificate = read_path(document, section, "certificate_file");
    let key = read_path(document, section, "key_file");
    let names = ["certificate_file", "key_file"];
    let [has_certificate, has_key] = names.map(|name| section.entry(name));
    match (has_certificate, has_key) {
        (Some(entry), None) | (None, Some(entry)) => {
            let message =
                "`fleet.certificate_file` and `fleet.key_file` belong together: name both"
                    .to_owned();
            document.problem(&entry.span, message);
            None
        }
        _ => certificate.zip(key),
    }
}

fn read_host<'a>(document: &mut Document<'a>, section: &Section<'a>) -> Option<String> {
    let (text, entry) = document.string(section, "host")?;
    if !is_name(&text) {
        let message = format!(
            "`{} = \"{text}\"` is not the name of a host: write 1 to {MAX_NAME} letters, digits, dots, underscores or hyphens",
            entry.path
        );
        document.problem(&entry.span, message);
        return None;
    }
    Some(text)
}

/// Returns whether `text` can be the name of a host in a fleet.
pub fn is_name(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}
