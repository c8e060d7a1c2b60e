// SPDX-License-Identifier: MIT OR Apache-2.0

//! Configuration files for tests, written as an operator would write them.

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Formatter},
};

use crate::{GUARDED, Lab};

/// The limits of a tier. They are too high to be reached in tests that are not about these limits.
const ROOMY: &str = r#"daily_quota = "unlimited"
rate = "1000/ms"
burst = 1000
concurrency = 1000
"#;

/// The sizes of the tables. The tables are small because the kernel allocates their memory when
/// they are created, and because many tests run at the same time.
const TABLES: &str = "flows = 8192\nscopes = 1024\nkeys = 4096\nunknown_keys = 256\n";

/// A configuration file. Its tiers have high limits unless a test changes them.
#[derive(Debug, Clone)]
pub struct Config {
    interfaces: Vec<String>,
    ports: Vec<u16>,
    /// The lines of `[attach]`. If they are set, they replace the lines with `interfaces` and
    /// `ports`.
    attach: Option<String>,
    sections: BTreeMap<String, String>,
}

impl Config {
    /// Returns a configuration with the lab's interface, the guarded port, tiers with high limits,
    /// and small tables.
    pub fn new(lab: &Lab) -> Self {
        Self::on(&[lab.interface()])
            .section("tiers.profile", ROOMY)
            .section("tiers.master", ROOMY)
            .small_tables()
    }

    /// Returns a configuration with the lab's interface, the guarded port, and the built-in tiers
    /// at their published limits.
    pub fn published(lab: &Lab) -> Self {
        Self::on(&[lab.interface()])
    }

    fn on(interfaces: &[&str]) -> Self {
        Self {
            interfaces: interfaces.iter().map(|&name| name.to_owned()).collect(),
            ports: vec![GUARDED],
            attach: None,
            sections: BTreeMap::new(),
        }
    }

    /// Sets the table sizes that [`Config::new`] uses.
    pub fn small_tables(self) -> Self {
        self.section("tables", TABLES)
    }

    /// Replaces the interfaces.
    pub fn interfaces(mut self, interfaces: &[&str]) -> Self {
        self.interfaces = interfaces.iter().map(|&name| name.to_owned()).collect();
        self
    }

    /// Replaces the guarded ports.
    pub fn ports(mut self, ports: &[u16]) -> Self {
        self.ports = ports.to_vec();
        self
    }

    /// Sets the lines of `[attach]`.
    pub fn attach_lines(mut self, lines: &str) -> Self {
        self.attach = Some(lines.to_owned());
        self
    }

    /// Adds a line to `[policy]`.
    pub fn policy(self, line: &str) -> Self {
        self.add("policy", line)
    }

    /// Adds a line to `[fleet]`.
    pub fn fleet(self, line: &str) -> Self {
        self.add("fleet", line)
    }

    /// Sets the sources of `[identify]`, as TOML.
    pub fn sources(self, sources: &str) -> Self {
        self.section("identify", &format!("sources = {sources}\n"))
    }

    /// Adds a tier with `lines`. A limit that `lines` does not set is too high to be reached.
    pub fn tier(mut self, name: &str, lines: &str) -> Self {
        let named = |line: &str| line.split('=').next().map(|name| name.trim().to_owned());
        let own: Vec<_> = lines.lines().filter_map(named).collect();
        let rest = ROOMY
            .lines()
            .filter(|line| !named(line).is_some_and(|name| own.contains(&name)));
        let text = rest
            .chain(lines.lines())
            .fold(String::new(), |text, line| text + line + "\n");
        self.sections.insert(format!("tiers.{name}"), text);
        self
    }

    /// Adds a section, or replaces the section with the same name.
    pub fn section(mut self, name: &str, lines: &str) -> Self {
        self.sections.insert(name.to_owned(), lines.to_owned());
        self
    }

    fn add(mut self, name: &str, line: &str) -> Self {
        let section = self.sections.entry(name.to_owned()).or_default();
        section.push_str(line);
        section.push('\n');
        self
    }
}

impl Display for Config {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let Self {
            interfaces, ports, ..
        } = self;
        match &self.attach {
            Some(lines) => write!(out, "[attach]\n{lines}")?,
            None => writeln!(
                out,
                "[attach]\ninterfaces = {interfaces:?}\nports = {ports:?}"
            )?,
        }
        for (name, lines) in &self.sections {
            write!(out, "\n[{name}]\n{lines}")?;
        }
        Ok(())
    }
}
