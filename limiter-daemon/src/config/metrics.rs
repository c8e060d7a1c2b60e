//! `[metrics]`: a page of numbers for Prometheus.

use std::net::SocketAddr;

use super::{
    Attach,
    document::{Document, Entry, Section},
};

/// Most scopes that the page may name in one ranking: each is a time series or three in whatever keeps
/// them.
const MOST_SCOPES: u64 = 1000;

/// The whole section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metrics {
    /// Where the page is; `None`: nowhere.
    pub listen: Option<SocketAddr>,
    /// How many scopes it names in each ranking.
    pub top_scopes: usize,
    /// Whether the kernel measures what the programs take.
    pub program_time: bool,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            listen: None,
            top_scopes: 10,
            program_time: false,
        }
    }
}

impl Metrics {
    pub(super) fn read<'a>(
        document: &mut Document<'a>,
        root: &Section<'a>,
        attach: &Attach,
    ) -> Self {
        let base = Self::default();
        let Some(section) = document.section(root, "metrics") else {
            return base;
        };
        let known = ["listen", "allow_remote", "top_scopes", "program_time"];
        document.known(&section, &known);
        let allow_remote = document.boolean(&section, "allow_remote").unwrap_or(false);
        let listen = document
            .string(&section, "listen")
            .and_then(|(text, entry)| address(document, &text, &entry, allow_remote, attach));
        let top_scopes = document
            .integer(&section, "top_scopes", 0, MOST_SCOPES)
            .and_then(|number| usize::try_from(number).ok());
        let program_time = document.boolean(&section, "program_time");
        Self {
            listen,
            top_scopes: top_scopes.unwrap_or(base.top_scopes),
            program_time: program_time.unwrap_or(base.program_time),
        }
    }
}

fn address(
    document: &mut Document<'_>,
    text: &str,
    entry: &Entry<'_>,
    allow_remote: bool,
    attach: &Attach,
) -> Option<SocketAddr> {
    let shown = format!("`{} = \"{text}\"`", entry.path);
    let message = match text.parse::<SocketAddr>() {
        Err(_) => format!(
            "{shown} is not an address and a port: write it like \"127.0.0.1:9191\" or \"[::1]:9191\""
        ),
        Ok(address) if address.port() == 0 => {
            format!("{shown} has port 0, which nobody would find: name one from 1 to 65535")
        }
        Ok(address) if !allow_remote && !address.ip().to_canonical().is_loopback() => format!(
            "{shown} is open to other hosts, and whoever can connect reads it: use 127.0.0.1, or say `allow_remote = true` beside it"
        ),
        // Who reads it would be taken for a client of the API.
        Ok(address) if attach.ports.contains(&address.port()) => {
            format!("{shown} has a port that is guarded (`attach.ports`): use another one")
        }
        Ok(address) => return Some(address),
    };
    document.problem(&entry.span, message);
    None
}
