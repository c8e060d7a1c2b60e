// SPDX-License-Identifier: MIT OR Apache-2.0

//! Measures the costs with many keys and many connections, as a part of `cargo xtask bench`.

mod daemon;
mod tables;

use std::{fmt, process::ExitCode};

use limiter_tests::bench::{self, Args, Targets};
use serde_json::{Value, json};

fn main() -> ExitCode {
    bench::main("scale", run)
}

fn run(args: &Args) -> Report {
    // The tables are measured first, and their maps are freed before the daemon creates its own
    // maps.
    let tables = args.wants("tables").then(|| tables::measure(args.quick));
    let daemon = args.wants("daemon").then(|| daemon::measure(args.quick));
    Report {
        tables,
        daemon: daemon.unwrap_or_default(),
    }
}

struct Report {
    tables: Option<tables::Measured>,
    daemon: Vec<daemon::Row>,
}

impl Report {
    fn targets(&self) -> Targets {
        let tables = self.tables.iter().flat_map(tables::Measured::targets);
        Targets(tables.chain(daemon::targets(&self.daemon)).collect())
    }
}

impl bench::Report for Report {
    fn json(&self) -> Value {
        json!({
            "tables": self.tables.as_ref().map(tables::Measured::json),
            "daemon": self.daemon.iter().map(daemon::Row::json).collect::<Value>(),
            "targets": self.targets().json(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(tables) = &self.tables {
            write!(f, "{tables}")?;
        }
        daemon::print(f, &self.daemon)?;
        write!(f, "{}", self.targets())
    }
}
