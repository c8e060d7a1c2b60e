//! The table, the targets, and both for programs to read.

use std::fmt;

use limiter_tests::program::Programs;
use serde_json::{Value, json};

use crate::measure::{Case, Cost};

/// Programs whose instructions are counted.
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
    /// Without what `off` costs by itself.
    net: i64,
    head: Option<usize>,
}

struct Target {
    what: &'static str,
    most: f64,
    seen: f64,
}

impl Target {
    fn reached(&self) -> bool {
        self.seen <= self.most
    }
}

pub struct Report {
    rows: Vec<Row>,
    targets: Vec<Target>,
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
                let off = case.besides.map_or(empty, best);
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

    pub fn json(&self) -> String {
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
        let targets: Vec<Value> = self
            .targets
            .iter()
            .map(|target| {
                json!({
                    "name": target.what, "at_most": target.most, "seen": target.seen,
                    "reached": target.reached(),
                })
            })
            .collect();
        let instructions: serde_json::Map<String, Value> = self
            .instructions
            .iter()
            .map(|(name, count)| ((*name).to_owned(), (*count).into()))
            .collect();
        let all = json!({
            "cases": rows, "targets": targets, "verified_instructions": instructions,
        });
        format!("{all:#}\n")
    }
}

fn targets(rows: &[Row]) -> Vec<Target> {
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
    vec![
        Target {
            what: "UDP, ns",
            most: 15.0,
            seen: net("UDP"),
        },
        Target {
            what: "TCP of another port, ns",
            most: 15.0,
            seen: net("TCP of another port"),
        },
        Target {
            what: "request of 400 bytes, ns",
            most: 400.0,
            seen: request(short),
        },
        Target {
            what: "the same with a million keys, ns",
            most: 1000.0,
            seen: net("400 bytes, a million keys"),
        },
        Target {
            what: "each further byte up to 1500, ns",
            most: 0.3,
            seen: (request(long) - request(short)) / (long - short) as f64,
        },
    ]
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
        writeln!(f, "\n{:36} {:>7} {:>7}", "target (net)", "at most", "seen")?;
        for target in &self.targets {
            let Target { what, most, seen } = target;
            let reached = if target.reached() {
                "reached"
            } else {
                "not reached"
            };
            writeln!(f, "{what:36} {most:7.2} {seen:7.2} {reached}")?;
        }
        writeln!(f, "\n{:36} {:>7}", "instructions verified", "")?;
        for (name, count) in &self.instructions {
            writeln!(f, "{name:36} {count:7}")?;
        }
        Ok(())
    }
}
