//! Configurations for tests, written as an operator would write them.

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Formatter},
};

use crate::{GUARDED, Lab};

/// Tiers that stay out of the way of tests about something else.
const ROOMY: &str = r#"daily_quota = "unlimited"
rate = "1000/ms"
burst = 1000
concurrency = 1000
"#;

/// Tables for a test: memory is taken when they are made, and tests run side by
/// side.
const TABLES: &str = "flows = 8192\nscopes = 1024\nkeys = 4096\nunknown_keys = 256\n";

/// A configuration file. Its tiers are roomy unless a test says otherwise.
#[derive(Debug, Clone)]
pub struct Config {
    interfaces: Vec<String>,
    ports: Vec<u16>,
    /// In place of interfaces and ports.
    attach: Option<String>,
    sections: BTreeMap<String, String>,
}

impl Config {
    /// The lab's interface, the guarded port, roomy tiers.
    pub fn new(lab: &Lab) -> Self {
        Self::on(&[lab.interface()])
            .section("tiers.profile", ROOMY)
            .section("tiers.master", ROOMY)
            .small_tables()
    }

    /// The same with the tiers that are built in, at the published limits.
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

    /// Tables that suit a test; [`Config::new`] has them already.
    pub fn small_tables(self) -> Self {
        self.section("tables", TABLES)
    }

    /// Other interfaces than the lab's.
    pub fn interfaces(mut self, interfaces: &[&str]) -> Self {
        self.interfaces = interfaces.iter().map(|&name| name.to_owned()).collect();
        self
    }

    /// Other guarded ports.
    pub fn ports(mut self, ports: &[u16]) -> Self {
        self.ports = ports.to_vec();
        self
    }

    /// `[attach]` as written here.
    pub fn attach_lines(mut self, lines: &str) -> Self {
        self.attach = Some(lines.to_owned());
        self
    }

    /// A line of `[policy]`.
    pub fn policy(self, line: &str) -> Self {
        self.add("policy", line)
    }

    /// The sources of `[identify]`, as TOML.
    pub fn sources(self, sources: &str) -> Self {
        self.section("identify", &format!("sources = {sources}\n"))
    }

    /// A roomy tier but for these lines.
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

    /// A whole section, in place of an earlier one of that name.
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
