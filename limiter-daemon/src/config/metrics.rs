// SPDX-License-Identifier: MIT OR Apache-2.0

//! The section `[metrics]`, for the page of metrics that Prometheus reads.

use std::net::SocketAddr;

use super::{
    Attach,
    document::{Document, Entry, Section},
};

/// The maximum number of scopes in each ranking of the page. Each scope is a separate time series
/// in each of the three rankings.
const MAX_SCOPES: u64 = 1000;

/// The section `[metrics]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metrics {
    /// The address of the page, or `None` if the page is disabled.
    pub listen: Option<SocketAddr>,
    /// The number of scopes in each ranking.
    pub top_scopes: usize,
    /// Whether the kernel measures the run time of the programs.
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
            .integer(&section, "top_scopes", 0, MAX_SCOPES)
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
            format!(
                "{shown} has port 0, which stands for any free port: give a port from 1 to 65535"
            )
        }
        Ok(address) if !allow_remote && !address.ip().to_canonical().is_loopback() => format!(
            "{shown} is reachable from other hosts, and anyone who can connect can read the page: use 127.0.0.1, or add `allow_remote = true`"
        ),
        // On a guarded port, the readers of the page would be treated as clients of the API.
        Ok(address) if attach.ports.contains(&address.port()) => {
            format!("{shown} has a port that is guarded (`attach.ports`): use another port")
        }
        Ok(address) => return Some(address),
    };
    document.problem(&entry.span, message);
    None
}
