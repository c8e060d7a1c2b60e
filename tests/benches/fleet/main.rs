// SPDX-License-Identifier: MIT OR Apache-2.0

//! Measures fleets, as a part of `cargo xtask bench`: the leases that an engine bears, and three
//! hosts with daemons and an engine.

mod admissions;
mod engines;
mod rates;
mod recalls;
mod revocations;
mod times;

use std::{fmt, process::ExitCode};

use limiter_tests::bench::{self, Args, Targets};
use serde_json::{Value, json};

use self::{
    admissions::Admissions, engines::Rows, rates::Rates, recalls::Recalls, revocations::Revocations,
};

fn main() -> ExitCode {
    bench::main("fleet", run)
}

fn run(args: &Args) -> Report {
    Report {
        engines: engines::measure_all(args),
        recalls: args
            .wants(recalls::NAME)
            .then(|| recalls::measure(args.quick)),
        revocations: args
            .wants(revocations::NAME)
            .then(|| revocations::measure(args.quick)),
        admissions: args
            .wants(admissions::NAME)
            .then(|| admissions::measure(args.quick)),
        rates: args.wants(rates::NAME).then(|| rates::measure(args.quick)),
    }
}

struct Report {
    engines: Rows,
    recalls: Option<Recalls>,
    revocations: Option<Revocations>,
    admissions: Option<Admissions>,
    rates: Option<Rates>,
}

impl Report {
    fn targets(&self) -> Targets {
        let recalls = self.recalls.iter().flat_map(Recalls::targets);
        let revocations = self.revocations.iter().flat_map(Revocations::targets);
        let admissions = self.admissions.iter().flat_map(Admissions::targets);
        let rates = self.rates.iter().flat_map(Rates::targets);
        let hosts = recalls.chain(revocations).chain(admissions).chain(rates);
        Targets(self.engines.targets().chain(hosts).collect())
    }
}

impl bench::Report for Report {
    fn json(&self) -> Value {
        json!({
            "engines": self.engines.json(),
            "recalls": self.recalls.as_ref().map(Recalls::json),
            "revocations": self.revocations.as_ref().map(Revocations::json),
            "admissions": self.admissions.as_ref().map(Admissions::json),
            "rates": self.rates.as_ref().map(Rates::json),
            "targets": self.targets().json(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.engines.fmt(f)?;
        for part in [
            self.recalls.as_ref().map(ToString::to_string),
            self.revocations.as_ref().map(ToString::to_string),
            self.admissions.as_ref().map(ToString::to_string),
            self.rates.as_ref().map(ToString::to_string),
        ] {
            f.write_str(&part.unwrap_or_default())?;
        }
        write!(f, "{}", self.targets())
    }
}
