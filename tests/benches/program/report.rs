// SPDX-License-Identifier: MIT OR Apache-2.0

//! Reports the costs in a table and compares them with the targets, as text and as JSON.

use std::fmt;

use limiter_tests::{
    bench::{self, Target, Targets},
    program::Programs,
};
use serde_json::{Value, json};

use crate::measure::{Case, Cost};

/// The programs for which the report states the number of verified instructions.
const PROGRAMS: [&str; 5] = [
    "limiter_ingress",
    "limiter_ingress_l3",
    "limiter_egress",
    "limiter_egress_l3",
    "limiter_sweep",
];

struct Row {
    name: String,
    cost: Cost,
    /// The cost of the case minus the cost of its preparation. If the case has no preparation, the
    /// cost of an empty program is subtracted.
    net: i64,
    head: Option<usize>,
}

pub struct Report {
    rows: Vec<Row>,
    targets: Targets,
    instructions: Vec<(&'static str, u32)>,
}

impl Report {
    pub fn new(programs: &Programs, cases: &[Case], costs: &[Cost]) -> Self {
        let best = |name: &str| {
            let found = cases
                .iter()
                .zip(costs)
                .find(|(case, _)| case.program == name);
            found.map_or(0, |(_, cost)| cost.best.cast_signed())
        };
        let empty = best("bench_empty");
        let rows: Vec<Row> = cases
            .iter()
            .zip(costs)
            .map(|(case, cost)| {
                let off = case.baseline.map_or(empty, best);
                let net = cost.best.cast_signed() - off;
                Row {
                    name: case.name.clone(),
                    cost: *cost,
                    net,
                    head: case.head,
                }
            })
            .collect();
        let targets = targets(&rows);
        let instructions = PROGRAMS
            .map(|name| (name, programs.object().verified_instructions(name)))
            .to_vec();
        Self {
            rows,
            targets,
            instructions,
        }
    }
}

impl bench::Report for Report {
    fn json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                json!({
                    "name": row.name, "head_bytes": row.head,
                    "best_ns": row.cost.best, "median_ns": row.cost.median, "net_ns": row.net,
                })
            })
            .collect();
        let instructions: serde_json::Map<String, Value> = self
            .instructions
            .iter()
            .map(|(name, count)| ((*name).to_owned(), (*count).into()))
            .collect();
        json!({
            "cases": rows, "targets": self.targets.json(), "verified_instructions": instructions,
        })
    }
}

fn targets(rows: &[Row]) -> Targets {
    let net = |name: &str| {
        rows.iter()
            .find(|row| row.name == name)
            .map_or(f64::NAN, |row| row.net as f64)
    };
    let request = |len: usize| {
        rows.iter()
            .find(|row| row.head == Some(len))
            .map_or(f64::NAN, |row| row.net as f64)
    };
    let (short, long) = (400, 1500);
    Targets(vec![
        Target::at_most("UDP, ns", 15.0, net("UDP")),
        Target::at_most("TCP of another port, ns", 15.0, net("TCP of another port")),
        Target::at_most("request of 400 bytes, ns", 400.0, request(short)),
        Target::at_most(
            "the same with a million keys, ns",
            1000.0,
            net("400 bytes, a million keys"),
        ),
        Target::at_most(
            "each further byte up to 1500, ns",
            0.3,
            (request(long) - request(short)) / (long - short) as f64,
        ),
    ])
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:36} {:>7} {:>7} {:>7}",
            "ns a packet", "best", "median", "net"
        )?;
        for row in &self.rows {
            let Row {
                name, cost, net, ..
            } = row;
            writeln!(f, "{name:36} {:7} {:7} {net:7}", cost.best, cost.median)?;
        }
        write!(f, "{}", self.targets)?;
        writeln!(f, "\n{:36} {:>7}", "instructions verified", "")?;
        for (name, count) in &self.instructions {
            writeln!(f, "{name:36} {count:7}")?;
        }
        Ok(())
    }
}
